"""Boxes of any dataset <-> four coordinate codes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args, overload

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import BOTH_SIDES, FOUR_FLAGS, box_array, compared_sides, four_flags, same_kind, upside_down
from perceptok.boxes.frames import ImageFrame, shown_share
from perceptok.errors import BoxError, ConfigError
from perceptok.tokens import PIXEL

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BinGrid",
    "BoxCodec",
    "BoxPolicies",
    "Convention",
    "EncodedBoxes",
    "checked_convention",
    "from_corners",
    "make_corners",
    "to_corners",
]


TOLERANCE = 1e-6
"""How far a box may reach out, as a share of what is shown, and still be inside for "raise": others' rounding."""


@dataclass(frozen=True)
class BoxPolicies:
    """See `perceptok.boxes.codec.BoxCodec`; `min_visible` is a share in 0..1."""

    outside: Literal["clip", "raise", "drop"]
    degenerate: Literal["keep", "drop", "raise"]
    min_visible: float

    def settle(
        self, corners: np.ndarray, given: np.ndarray, window: np.ndarray, slack: float, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the policies to some boxes.

        Args:
            corners: (N, 4) x1, y1, x2, y2 in bins.
            given: (N, 4) the same as they came, for messages.
            window: (4,) x1, y1, x2, y2 of what is shown, in bins.
            slack: Bins by which rounding may have moved a corner.
            indices: (N,) their indices among all boxes, for messages.

        Returns:
            The corners (M, 4) of the boxes kept, cut to the window, and which those are, (N,) bool.

        Raises:
            BoxError: A box that cannot be, or one that a policy refuses.
        """

        def refuse(which: ArrayLike, reason: str) -> None:
            if np.any(which):
                index = int(np.argmax(which))
                raise BoxError(f"box {indices[index]}, {given[index].tolist()}, {reason}")

        refuse(~np.isfinite(given).all(axis=1), "is not finite; remove it, or repair the annotation")
        low, high = corners[:, :2], corners[:, 2:]
        refuse(
            (high < low - slack).any(axis=1),
            "is upside down (x2 < x1, y2 < y1, or a negative length); name its convention: xyxy, xywh or cxcywh",
        )
        high = np.maximum(high, low)
        flat = high - low <= 0
        before, behind = low < window[:2] - slack, high > window[2:] + slack
        # Rounding alone brings no box in that ends where the window begins, and takes none out that lies on its edge.
        missed = ((before & (high <= window[:2] + slack)) | (behind & (low >= window[2:] - slack))).any(axis=1)
        if self.outside == "raise":
            slight = TOLERANCE * (window[2:] - window[:2])
            beyond = ((low < window[:2] - slight) | (high > window[2:] + slight)).any(axis=1) | missed
            refuse(beyond, 'reaches out of the image; cut such boxes with outside="clip"')
        if self.outside == "clip":
            refuse(missed, 'lies outside what is shown of the image; drop such boxes with outside="drop"')
        if self.degenerate == "raise":
            refuse(flat.any(axis=1), 'has no width or no height; allow it with degenerate="keep"')
        kept = ~missed
        if self.degenerate == "drop":
            kept &= ~flat.any(axis=1)
        corners = np.concatenate([low, high], axis=1)
        if self.min_visible > 0:
            kept &= shown_share(corners, window, slack) >= self.min_visible
        return np.clip(corners, np.tile(window[:2], 2), np.tile(window[2:], 2))[kept], kept


Convention = Literal["xyxy", "xywh", "cxcywh"]


def checked_convention(convention: str) -> None:
    """Raises ConfigError unless it is one of the three."""
    if convention not in get_args(Convention):
        raise ConfigError(f"convention is one of {', '.join(get_args(Convention))}; got {convention!r}")


def to_corners(boxes: np.ndarray, convention: Convention) -> np.ndarray:
    """Boxes (N, 4) in a convention -> x1, y1, x2, y2; "xyxy" comes back uncopied, the others as float64."""
    if convention == "xyxy":
        return boxes
    corners = np.array(boxes, dtype=np.float64, order="C")
    if convention == "cxcywh":
        corners[:, 2:] *= 0.5
    make_corners(corners, convention)
    return corners


def make_corners(boxes: np.ndarray, convention: Convention) -> None:
    """Turn contiguous float64 boxes (N, 4) into corners where they are; of "cxcywh" the lengths are half ones."""
    if convention == "xyxy":
        return
    # Pairs are taken as complex numbers: NumPy is ten times slower on inner loops of two.
    first, second = boxes.view(np.complex128).T
    if convention == "cxcywh":
        np.subtract(first, second, out=first)
        np.add(second, second, out=second)
    np.add(first, second, out=second)


def from_corners(corners: np.ndarray, convention: Convention) -> np.ndarray:
    """The inverse of `to_corners`, float64."""
    if convention == "xyxy":
        return corners
    boxes = np.empty(corners.shape, dtype=np.float64)
    np.subtract(corners[:, 2:], corners[:, :2], out=boxes[:, 2:])
    boxes[:, :2] = corners[:, :2] if convention == "xywh" else (corners[:, :2] + corners[:, 2:]) * 0.5
    return boxes


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


_CHOICES = {
    "rounding": ("floor", "round"),
    "decode": ("corner", "center"),
    "order": ("xyxy", "yxyx"),
    "outside": ("clip", "raise", "drop"),
    "degenerate": ("keep", "drop", "raise"),
}

_ARGUMENTS = {"position": "decode"}
_SWAPPED = [1, 0, 3, 2]


class EncodedBoxes(NamedTuple):
    """Codes (M, 4) int64 and the indices (M,) int64 of their boxes among the N given, ascending; arrays or tensors."""

    codes: Any
    kept: Any


@dataclass(frozen=True, init=False, repr=False)
class BoxCodec:
    """Boxes <-> codes: which of `size` bins along an axis each edge falls into. The defaults are AURORA's.

    With `decode="center"` an edge comes back within half a bin; with "corner", as the reference reads its tokens,
    within one bin, always towards the top left. Codes are stable in both: `encode(decode(codes))` gives them again.

    Args:
        size: Bins along each axis; codes are 0..size - 1. 336 for AURORA's tokens, 1000 or 1024 for other models'.
        rounding: "floor" takes the bin that holds the edge. "round" takes the code that decodes nearest to it: with
            `decode="corner"` the nearest bin edge, so that an error is half a bin at most but for the last half bin
            before the right and bottom edges, which has no code of its own; with "center" the same codes as "floor".
        decode: What a code stands for: the "corner" (lower edge) of its bin, or its "center".
        order: Order of the four codes; "yxyx" for models that write y first. Coordinates are x first always.
        inclusive: Corners x2, y2 name the last pixel inside the box, its edge lies one pixel behind (Pascal VOC).
            Widths and heights of "xywh" and "cxcywh" are lengths in either case.
        outside: What becomes of boxes that reach out of the image, or out of what the frame shows of it. "clip" cuts
            them and raises for one with no part inside; "drop" cuts them and drops such a one; "raise" raises for both,
            but for boxes that reach out by no more than a millionth of what is shown, which it cuts.
        degenerate: What becomes of boxes without width or height.

    Raises:
        ConfigError: A value that is none of these.
    """

    size: int
    rounding: Literal["floor", "round"]
    position: Literal["corner", "center"]
    order: Literal["xyxy", "yxyx"]
    inclusive: bool
    outside: Literal["clip", "raise", "drop"]
    degenerate: Literal["keep", "drop", "raise"]

    def __init__(
        self,
        size: int = PIXEL.size,
        *,
        rounding: Literal["floor", "round"] = "floor",
        decode: Literal["corner", "center"] = "corner",
        order: Literal["xyxy", "yxyx"] = "xyxy",
        inclusive: bool = False,
        outside: Literal["clip", "raise", "drop"] = "clip",
        degenerate: Literal["keep", "drop", "raise"] = "keep",
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size < 2**31:
            raise ConfigError(f"size is the number of bins, an integer from 1 to 2**31 - 1; got {size!r}")
        if not isinstance(inclusive, bool):
            raise ConfigError(f"inclusive is True or False; got {inclusive!r}")
        values: dict[str, object] = {
            "rounding": rounding,
            "decode": decode,
            "order": order,
            "outside": outside,
            "degenerate": degenerate,
        }
        for name, value in values.items():
            if value not in _CHOICES[name]:
                raise ConfigError(f"{name} is one of {', '.join(_CHOICES[name])}; got {value!r}")
        # `decode` is a method; its setting is kept as `position`.
        values["position"] = values.pop("decode")
        for name, value in {**values, "size": int(size), "inclusive": inclusive}.items():
            object.__setattr__(self, name, value)

    @overload
    def encode(
        self,
        boxes: Tensor,
        *,
        image_size: tuple[int, int] | None = ...,
        frame: ImageFrame | None = ...,
        convention: Convention = ...,
        normalized: bool = ...,
        min_visible: float = ...,
    ) -> Tensor: ...
    @overload
    def encode(
        self,
        boxes: ArrayLike,
        *,
        image_size: tuple[int, int] | None = ...,
        frame: ImageFrame | None = ...,
        convention: Convention = ...,
        normalized: bool = ...,
        min_visible: float = ...,
    ) -> np.ndarray: ...
    def encode(
        self,
        boxes: ArrayLike | Tensor,
        *,
        image_size: tuple[int, int] | None = None,
        frame: ImageFrame | None = None,
        convention: Convention = "xyxy",
        normalized: bool = False,
        min_visible: float = 0.0,
    ) -> np.ndarray | Tensor:
        """Boxes -> codes.

        Args:
            boxes: (N, 4) of the original image; an empty list is (0, 4). Array, nested list or tensor.
            image_size: Width and height of the original, squashed to the bins as AURORA does. Or:
            frame: The frame that the model sees. Normalised boxes may leave out both: squash needs no size then.
            convention: "xyxy" corners, "xywh" corner and lengths (COCO), "cxcywh" centre and lengths (YOLO).
            normalized: Coordinates are shares of the image's width and height, in [0, 1], not pixels.
            min_visible: Drop boxes of which the frame shows a smaller share than this, 0..1.

        Returns:
            (M, 4) int64 in 0..size - 1, in the codec's `order`; of a tensor, a tensor on its device. M < N only where
            the codec or `min_visible` asks for dropping; `encode_with_kept` tells which boxes are left.

        Raises:
            BoxError: NaN or infinity, x2 < x1 or a negative length, another shape, an image without area, or a box
                that the codec's policies refuse; the message names the first such box.
        """
        codes, _ = self._encoded(boxes, image_size, frame, convention, normalized, min_visible)
        return same_kind(codes, boxes)

    def encode_with_kept(
        self,
        boxes: ArrayLike | Tensor,
        *,
        image_size: tuple[int, int] | None = None,
        frame: ImageFrame | None = None,
        convention: Convention = "xyxy",
        normalized: bool = False,
        min_visible: float = 0.0,
    ) -> EncodedBoxes:
        """As `encode`, with the indices of the boxes that were kept, so that labels can follow them."""
        codes, kept = self._encoded(boxes, image_size, frame, convention, normalized, min_visible)
        return EncodedBoxes(same_kind(codes, boxes), same_kind(np.flatnonzero(kept), boxes))

    @overload
    def decode(
        self,
        codes: Tensor,
        *,
        image_size: tuple[int, int] | None = ...,
        frame: ImageFrame | None = ...,
        convention: Convention = ...,
        normalized: bool = ...,
    ) -> Tensor: ...
    @overload
    def decode(
        self,
        codes: ArrayLike,
        *,
        image_size: tuple[int, int] | None = ...,
        frame: ImageFrame | None = ...,
        convention: Convention = ...,
        normalized: bool = ...,
    ) -> np.ndarray: ...
    def decode(
        self,
        codes: ArrayLike | Tensor,
        *,
        image_size: tuple[int, int] | None = None,
        frame: ImageFrame | None = None,
        convention: Convention = "xyxy",
        normalized: bool = False,
    ) -> np.ndarray | Tensor:
        """Codes -> boxes of the original image.

        Args:
            codes: (N, 4) integers in 0..size - 1, in the codec's `order`; an empty list is (0, 4).
            image_size: As for `encode`.
            frame: As for `encode`.
            convention: As for `encode`.
            normalized: As for `encode`.

        Returns:
            (N, 4) float64. Edges in one bin give a box without width or height. Codes in the padding of a letterbox
            give coordinates outside the image, as the model wrote them.

        Raises:
            BoxError: Another shape, no integers, a code out of range, or x2 < x1 or y2 < y1.
        """
        array = self._checked_codes(codes)
        if self.order == "yxyx":
            array = array[:, _SWAPPED]
        checked_convention(convention)
        grid = self._grid(image_size, frame, convention, normalized)
        corners = grid.corners(array, center=self.position == "center", nearest=self._nearest)
        return same_kind(from_corners(corners, convention), codes)

    def to_text(self, codes: ArrayLike | Tensor, *, form: Literal["aurora", "compact", "numeral"] = "aurora") -> str:
        """Codes (N, 4) -> text, four tokens a box in the codec's order; see `text.forms.boxes_to_text`."""
        from perceptok.boxes.text import boxes_to_text

        return boxes_to_text(self._checked_codes(codes), form=form, size=self.size)

    def from_text(self, text: str, *, strict: bool = True) -> np.ndarray:
        """Text -> codes (N, 4) int64; see `text.forms.boxes_from_text`."""
        from perceptok.boxes.text import boxes_from_text

        return boxes_from_text(text, size=self.size, strict=strict)

    def to_dict(self) -> dict[str, Any]:
        """The arguments that make this codec, as JSON types."""
        return {_ARGUMENTS.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; what is missing takes its default. Raises ConfigError for unknown keys."""
        unknown = sorted(set(values) - set(cls().to_dict()))
        if unknown:
            raise ConfigError(f"a box codec has the keys {sorted(cls().to_dict())}; got {', '.join(unknown)}")
        return cls(**values)

    def __repr__(self) -> str:
        arguments = self.to_dict()
        return f"BoxCodec({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"

    def _encoded(
        self,
        boxes: ArrayLike | Tensor,
        image_size: tuple[int, int] | None,
        frame: ImageFrame | None,
        convention: Convention,
        normalized: bool,
        min_visible: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes (M, 4) and which of the boxes they belong to, (N,) bool."""
        array = box_array(boxes)
        if not 0 <= min_visible <= 1:
            raise BoxError(f"min_visible is a share, 0..1; got {min_visible}")
        checked_convention(convention)
        grid = self._grid(image_size, frame, convention, normalized)
        policies = BoxPolicies(self.outside, self.degenerate, float(min_visible))
        codes, kept = grid.codes(array, convention, policies, nearest=self._nearest)
        return (codes[:, _SWAPPED] if self.order == "yxyx" else codes), kept

    @property
    def _nearest(self) -> bool:
        return self.rounding == "round" and self.position == "corner"

    def _grid(
        self, image_size: tuple[int, int] | None, frame: ImageFrame | None, convention: Convention, normalized: bool
    ) -> BinGrid:
        inclusive = self.inclusive and convention == "xyxy"
        if frame is None and image_size is None and normalized and not inclusive:
            image_size = (1, 1)
        if (frame is None) == (image_size is None):
            got = "neither" if frame is None else "both"
            raise BoxError(f"say where the boxes lie, by image_size=(width, height) or by frame=, not both; got {got}")
        if frame is None:
            assert image_size is not None
            frame = ImageFrame.squash(image_size, self.size)
        return BinGrid.of(frame, self.size, normalized=normalized, inclusive=inclusive)

    def _checked_codes(self, codes: ArrayLike | Tensor) -> np.ndarray:
        """Codes (N, 4) int64 as they are; raises BoxError."""
        array = box_array(codes, "codes")
        if not array.size:
            return np.zeros((0, 4), dtype=np.int64)
        if array.dtype.kind not in "iu":
            raise BoxError(f"codes are integers; got {array.dtype}")
        if array.min() < 0 or array.max() >= self.size:
            index = int(((array < 0) | (array >= self.size)).any(axis=1).argmax())
            raise BoxError(f"codes are 0..{self.size - 1}; box {index} is {array[index].tolist()}")
        array = np.ascontiguousarray(array, dtype=np.int64)
        turned = upside_down(array)
        if turned is not None:
            raise BoxError(f"box {turned} is upside down: {array[turned].tolist()}; its first corner is the upper left")
        return array
