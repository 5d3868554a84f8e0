"""The bins of a frame, and the one pass over memory that finds the bins of many boxes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from perceptok.boxes.arrays import BOTH_SIDES, FOUR_FLAGS, compared_sides, four_flags
from perceptok.boxes.conventions import Convention, make_corners, to_corners
from perceptok.boxes.frames.geometry import ImageFrame
from perceptok.boxes.policies import BoxPolicies

__all__ = ["BinGrid"]

_CHUNK = 32768
"""Boxes at a time: the less of them, the more calls into NumPy (a microsecond each); the more, the farther from the
processor what they work on (1 MiB)."""


@dataclass(frozen=True)
class BinGrid:
    """Corners as a dataset has them <-> positions in bins: t = x scale + shift, and bin k spans [k, k + 1).

    Attributes:
        size: Bins along each axis.
        scale: Bins per unit of x1, y1, x2, y2, (4,).
        shift: Position of a coordinate 0, (4,).
        window: The part of the bins that shows the image, x1, y1, x2, y2, (4,).
        extent: The largest position of the image in bins, cropped parts included; rounding errors grow with it.
    """

    size: int
    scale: np.ndarray
    shift: np.ndarray
    window: np.ndarray
    extent: float

    @classmethod
    def of(cls, frame: ImageFrame, size: int, *, normalized: bool, inclusive: bool) -> Self:
        """The grid of `size` bins a side over a frame.

        Args:
            frame: Where the image lies.
            size: Bins a side.
            normalized: Coordinates are shares of the image's width and height, not pixels.
            inclusive: x2 and y2 name the last pixel inside: the edge lies one pixel behind them.
        """
        bins = np.tile(size / np.array(frame.shape), 2)
        pixel = np.tile(frame.scale, 2) * bins
        shift = np.tile(frame.origin, 2) * bins
        extent = float(max(size, np.abs(shift).max(), (shift[:2] + pixel[:2] * frame.image_size).max()))
        if inclusive:
            shift[2:] += pixel[2:]
        scale = pixel * np.tile(frame.image_size, 2) if normalized else pixel
        return cls(size, scale, shift, np.asarray(frame.window) * size / np.tile(frame.shape, 2), extent)

    def slack(self, dtype: np.dtype[Any]) -> float:
        """How far, in bins, rounding may have moved a coordinate of a type: what lies so near to an edge is on it.

        2e-12 for float64 and 336 bins. float32 keeps 24 bits: 8e-5, or decoding, storing as float32 and encoding again
        would lose corners to the bin before.
        """
        stored = float(np.finfo(dtype).eps) if dtype.kind == "f" and dtype.itemsize < 8 else 0.0
        return self.extent * (2 * stored + 32 * float(np.finfo(np.float64).eps))

    def codes(
        self, boxes: np.ndarray, convention: Convention, policies: BoxPolicies, *, nearest: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The bins of boxes.

        Args:
            boxes: (N, 4) numbers in a convention.
            convention: See `to_corners`.
            policies: Asked about boxes that are not plainly inside.
            nearest: Take the nearest lower edge of a bin instead of the bin that holds the corner.

        Returns:
            Codes (M, 4) int64 of the boxes kept, x1, y1, x2, y2, and which those are, (N,) bool.
        """
        rows = min(_CHUNK, len(boxes))
        slack = self.slack(boxes.dtype)
        bias = slack + (0.5 if nearest else 0.0)
        factor, addend = self._steps(convention, slack, bias, rows)
        inside = _Inside(self.window, bias if addend is not None else 0.0, 2 * slack, rows)
        flags = np.empty((rows, 4), dtype=bool)
        # NumPy casts to narrow integers four times as fast as to int64, and takes minima faster of them too.
        last = np.full((rows, 4), self.size - 1, dtype=np.min_scalar_type(-self.size - 1))
        whole = np.empty_like(last)
        codes, kept, filled = np.empty((len(boxes), 4), dtype=np.int64), np.ones(len(boxes), dtype=bool), 0
        for start in range(0, len(boxes), _CHUNK):
            part = boxes[start : start + _CHUNK]
            # Positions lie where their codes will: touching fresh memory costs more than the arithmetic.
            found = codes[filled : filled + len(part)].view(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):  # the policies name what is not finite
                np.multiply(part, factor[: len(part)], out=found)
                make_corners(found, convention)
                if addend is not None:
                    np.add(found, addend[: len(part)], out=found)
                sides = compared_sides(np.less, found, flags[: len(part)])
                if np.bitwise_and.reduce(sides) & BOTH_SIDES != BOTH_SIDES or not inside.all(found):
                    doubtful = np.flatnonzero((sides & BOTH_SIDES != BOTH_SIDES) | ~inside.rows(found))
                    corners = to_corners(part[doubtful], convention) * self.scale + self.shift
                    settled, stay = policies.settle(corners, part[doubtful], self.window, slack, doubtful + start)
                    found[doubtful[stay]] = settled + bias
                    if not stay.all():
                        kept[start + doubtful[~stay]] = False
                        found = found[kept[start : start + len(part)]]
            # No position is negative any more: the cast cuts as floor does.
            here = whole[: len(found)]
            np.copyto(here, found, casting="unsafe")
            np.minimum(here, last[: len(found)], out=here)
            codes[filled : filled + len(found)] = here
            filled += len(found)
        return codes[:filled], kept

    def corners(self, codes: np.ndarray, *, center: bool, nearest: bool) -> np.ndarray:
        """What codes (N, 4), x first, stand for: x1, y1, x2, y2 as a dataset has them, (N, 4) float64.

        The lower edge or the centre of a bin. Where the picture ends inside the bin (or, for `nearest`, within the half
        bin around its lower edge), a position beyond is brought back to the picture's edge.
        """
        rows = min(_CHUNK, len(codes))
        low, high = (np.tile(edge, (rows, 2)) for edge in (self.window[:2], self.window[2:]))
        scale, shift = np.tile(self.scale, (rows, 1)), np.tile(self.shift, (rows, 1))
        ends_within = bool(self.window[:2].any() or (self.window[2:] < self.size).any())
        corners = np.empty((len(codes), 4))
        for start in range(0, len(codes), _CHUNK):
            part = codes[start : start + _CHUNK]
            found, count = corners[start : start + _CHUNK], len(part)
            np.copyto(found, part)
            if center:
                found += 0.5
            if ends_within:
                # A bin reaches from its code to the next one, `nearest` from half a bin before its code.
                first = part - 0.5 if nearest else part
                touched = (first <= high[:count]) & (first + 1 >= low[:count])
                np.copyto(found, np.clip(found, low[:count], high[:count]), where=touched)
            if self.shift.any():
                found -= shift[:count]
            found /= scale[:count]
        return corners

    def _steps(
        self, convention: Convention, slack: float, bias: float, rows: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What to multiply boxes by and what to add to their corners then, once for every row.

        NumPy is ten times slower where it has to repeat four numbers itself.
        """
        factor = self.scale * (1.0, 1.0, 0.5, 0.5) if convention == "cxcywh" else self.scale
        if convention == "cxcywh" or bias > slack or self.shift.any():
            return np.tile(factor, (rows, 1)), np.tile(self.shift + bias, (rows, 1))
        # Squashed corners have nothing to add; their slack goes into the factor, which saves a pass.
        return np.tile(factor * (1 + slack / self.size), (rows, 1)), None


class _Inside:
    """Whether positions, a bias included, lie within a window, give or take a slack."""

    def __init__(self, window: np.ndarray, bias: float, slack: float, rows: int) -> None:
        self._square = bias == 0 and not window[:2].any() and window[2] == window[3]
        self._side = np.float64(window[2] + slack).view(np.uint64)
        self._edges = window[:2] + (bias - slack), window[2:] + (bias + slack)
        self._count = rows

    @cached_property
    def _limits(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self._edges
        return np.tile(low, (self._count, 2)), np.tile(high, (self._count, 2))

    def all(self, positions: np.ndarray) -> bool:
        """Whether all of them do."""
        if self._square:
            # Taken as whole numbers without sign, floats from 0 on keep their order, and negative ones and NaN lie
            # above all of them: one maximum does for two comparisons. What is within the slack below 0 is doubted.
            return bool(np.maximum.reduce(positions.view(np.uint64), axis=None) <= self._side)
        return bool(self.rows(positions).all())

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Which boxes do with all four."""
        low, high = (limits[: len(positions)] for limits in self._limits)
        return np.asarray(four_flags((positions >= low) & (positions <= high)) == FOUR_FLAGS)
