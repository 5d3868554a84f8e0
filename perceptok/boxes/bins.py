"""The bins of a frame, and the one pass over memory that finds the bins of many boxes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from perceptok.boxes.conventions import Convention, to_corners
from perceptok.boxes.geometry import ImageFrame
from perceptok.boxes.policies import BoxPolicies

__all__ = ["BinGrid"]

_CHUNK = 16384
"""Boxes binned at a time: their 512 KiB stay in the cache from the first operation to the last, and the cost of a call
into NumPy (some microseconds each) is spread over enough of them."""


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
        bins = size / frame.size
        pixel = np.tile(frame.scale, 2) * bins
        shift = np.tile(frame.origin, 2) * bins
        extent = float(max(size, np.abs(shift).max(), (shift[:2] + pixel[:2] * frame.image_size).max()))
        if inclusive:
            shift[2:] += pixel[2:]
        scale = pixel * np.tile(frame.image_size, 2) if normalized else pixel
        return cls(size, scale, shift, np.asarray(frame.window) * size / frame.size, extent)

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
            policies: Asked about chunks in which a box is not plainly inside.
            nearest: Take the nearest lower edge of a bin instead of the bin that holds the corner.

        Returns:
            Codes (M, 4) int64 of the boxes kept, x1, y1, x2, y2, and which those are, (N,) bool.
        """
        rows = min(_CHUNK, len(boxes))
        slack = self.slack(boxes.dtype)
        bias = slack + (0.5 if nearest else 0.0)
        # Squashed corners have nothing to add; their slack goes into the factor, which saves a pass.
        factor_only = convention == "xyxy" and not (self.shift.any() or nearest)
        scale = np.tile(self.scale * (1 + slack / self.size) if factor_only else self.scale, (rows, 1))
        shift = np.tile(self.shift + bias, (0 if factor_only else rows, 1))
        bounds = _Bounds(self.window, 0.0 if factor_only else bias, 2 * slack, rows)
        # Every buffer is used again: fresh memory costs more than the arithmetic.
        positions, sides = np.empty((rows, 4)), np.empty((rows, 2))
        codes, kept, filled = np.empty((len(boxes), 4), dtype=np.int64), np.ones(len(boxes), dtype=bool), 0
        for start in range(0, len(boxes), _CHUNK):
            part = boxes[start : start + _CHUNK]
            found = positions[: len(part)]
            with np.errstate(invalid="ignore", over="ignore"):  # the policies name what is not finite
                np.multiply(to_corners(part, convention), scale[: len(part)], out=found)
                if not factor_only:
                    np.add(found, shift[: len(part)], out=found)
                lengths = _sides(found, sides[: len(part)])
                if not (bounds.hold(found) and lengths.min() > 0):
                    doubtful = np.flatnonzero(~(bounds.rows(found) & _pairs_of(lengths > 0)))
                    corners = part[doubtful] * self.scale if factor_only else found[doubtful] - bias
                    settled, stay = policies.settle(corners, part[doubtful], self.window, slack, doubtful + start)
                    found[doubtful[stay]] = settled + bias
                    if not stay.all():
                        kept[start + doubtful[~stay]] = False
                        found = found[kept[start : start + len(part)]]
            # No position is negative any more: the cast cuts as floor does.
            np.minimum(found, self.size - 0.5, out=found)
            np.copyto(codes[filled : filled + len(found)], found, casting="unsafe")
            filled += len(found)
        return codes[:filled], kept

    def corners(self, codes: np.ndarray, *, center: bool, nearest: bool) -> np.ndarray:
        """What codes (N, 4), x first, stand for: x1, y1, x2, y2 as a dataset has them, (N, 4) float64.

        The lower edge or the centre of a bin. Where the picture ends inside the bin (or, for `nearest`, within the half
        bin around its lower edge), a position beyond is brought back to the picture's edge.
        """
        positions = codes + (0.5 if center else 0.0)
        low, high = np.tile(self.window[:2], 2), np.tile(self.window[2:], 2)
        if low.any() or (high < self.size).any():
            first = codes - (0.5 if nearest else 0.0)
            touched = (first <= high) & (first + 1 >= low)
            positions = np.where(touched, np.clip(positions, low, high), positions)
        return np.asarray((positions - self.shift) / self.scale)


class _Bounds:
    """Whether positions, a bias included, lie within a window, give or take a slack."""

    def __init__(self, window: np.ndarray, bias: float, slack: float, rows: int) -> None:
        self._square = bias == 0 and not window[:2].any() and window[2] == window[3]
        self._side = np.float64(window[2] + slack).view(np.uint64)
        self._limits = window[:2] + (bias - slack), window[2:] + (bias + slack)
        self._count = rows

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The limits once for every row: NumPy is ten times slower where it has to repeat four numbers itself."""
        low, high = self._limits
        return np.tile(low, (self._count, 2)), np.tile(high, (self._count, 2))

    def hold(self, positions: np.ndarray) -> bool:
        """Whether all of them do."""
        if self._square:
            # Taken as whole numbers without sign, floats from 0 on keep their order, and negative ones and NaN lie
            # above all of them: one maximum does for two comparisons. What is within the slack below 0 is doubted.
            return bool(positions.view(np.uint64).max() <= self._side)
        return bool(self.rows(positions).all())

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Which boxes do with all four."""
        low, high = (limits[: len(positions)] for limits in self._rows)
        return _pairs_of(_pairs_of((positions >= low) & (positions <= high)))


def _sides(corners: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Widths and heights, (N, 2)."""
    # Taken as complex numbers, (x2, y2) - (x1, y1) is one subtraction a box.
    points = corners.view(np.complex128)
    np.subtract(points[:, 1], points[:, 0], out=out.view(np.complex128)[:, 0])
    return out


def _pairs_of(flags: np.ndarray) -> np.ndarray:
    """Booleans (N, 2 M) -> whether both of each pair are set, (N, M), or (N,) where M is 1."""
    both = flags[:, 0::2] & flags[:, 1::2]
    return np.asarray(both[:, 0] if both.shape[1] == 1 else both)
