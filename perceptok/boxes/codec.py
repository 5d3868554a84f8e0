"""Boxes of any dataset <-> four coordinate codes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args, overload

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import Order, check_box_shape, check_codes, convert_like
from perceptok.boxes.frames import ImageFrame, compute_visible_fraction
from perceptok.errors import BoxError, ConfigError
from perceptok.tokens import PIXEL

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BoxCodec", "Convention", "EncodedBoxes", "from_corners", "to_corners"]

Convention = Literal["xyxy", "xywh", "cxcywh"]
"""Corners, corner and lengths (COCO), or centre and lengths (YOLO)."""

Rounding = Literal["floor", "round"]
DecodedPosition = Literal["corner", "center"]
OutsidePolicy = Literal["clip", "raise", "drop"]
DegeneratePolicy = Literal["keep", "drop", "raise"]

_SETTINGS: dict[str, Any] = {
    "rounding": Rounding,
    "decode": DecodedPosition,
    "order": Order,
    "outside": OutsidePolicy,
    "degenerate": DegeneratePolicy,
}
_SWAPPED = [1, 0, 3, 2]

_TOLERANCE = 1e-6
"""How far a box may reach out, as a fraction of what is shown, and still be inside for "raise": others' rounding."""

_CHUNK = 16384
"""Boxes at a time: what is computed for them (512 KiB an array) stays in the processor's cache. All of a million at
once take three times as long."""


class EncodedBoxes(NamedTuple):
    """Codes (M, 4) int64 and the indices (M,) int64 of their boxes among the N given, ascending; arrays or tensors."""

    codes: Any
    indices: Any


@dataclass(frozen=True, init=False, repr=False)
class BoxCodec:
    """Boxes <-> codes: which of `size` bins along an axis each edge falls into. The defaults are AURORA's.

    With `decode="center"` an edge comes back within half a bin; with "corner", as the reference reads its tokens,
    within one bin, always towards the top left. Codes are stable in both: `encode(decode(codes))` gives them again.

    Args:
        size: Bins along each axis; codes are 0..size - 1. 336 for AURORA's tokens, 1000 or 1024 for other models'.
        rounding: "floor" takes the bin that holds the edge. "round" takes the code that decodes nearest to it: with
            `decode="corner"` the nearest bin edge, so that an error is at most half a bin except for the last half bin
            before the right and bottom edges, which has no code of its own; with "center" the same codes as "floor".
        decode: What a code stands for: the "corner" (lower edge) of its bin, or its "center".
        order: Order of the four codes; "yxyx" for models that write y first. Coordinates are always x first.
        inclusive: Corners x2, y2 are the last pixel inside the box, whose edge lies one pixel further (Pascal VOC).
            Widths and heights of "xywh" and "cxcywh" are lengths in either case.
        outside: What to do with boxes that reach out of the image, or out of what the frame shows of it. "clip" clips
            them and raises for one with no part inside; "drop" clips them and drops such a one; "raise" raises for
            both, except for boxes that reach out by at most a millionth of what is shown, which it clips.
        degenerate: What to do with boxes without width or height.

    Raises:
        ConfigError: A value that is not one of these.
    """

    size: int
    rounding: Rounding
    position: DecodedPosition
    order: Order
    inclusive: bool
    outside: OutsidePolicy
    degenerate: DegeneratePolicy

    def __init__(
        self,
        size: int = PIXEL.size,
        *,
        rounding: Rounding = "floor",
        decode: DecodedPosition = "corner",
        order: Order = "xyxy",
        inclusive: bool = False,
        outside: OutsidePolicy = "clip",
        degenerate: DegeneratePolicy = "keep",
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size < 2**31:
            raise ConfigError(f"size is the number of bins, an integer from 1 to 2**31 - 1; got {size!r}")
        if not isinstance(inclusive, bool):
            raise ConfigError(f"inclusive is True or False; got {inclusive!r}")
        choices: dict[str, Any] = dict(zip(_SETTINGS, (rounding, decode, order, outside, degenerate), strict=True))
        for name, value in choices.items():
            if value not in get_args(_SETTINGS[name]):
                raise ConfigError(f"{name} is one of {', '.join(get_args(_SETTINGS[name]))}; got {value!r}")
        for name, setting in {"size": int(size), "inclusive": inclusive, **choices}.items():
            # `decode` is a method; its setting is stored as `position`.
            object.__setattr__(self, "position" if name == "decode" else name, setting)

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
            frame: The frame that the model sees. Normalized boxes need neither: squashing them takes no size.
            convention: "xyxy" corners, "xywh" corner and lengths (COCO), "cxcywh" centre and lengths (YOLO).
            normalized: Coordinates are fractions of the image's width and height, in [0, 1], not pixels.
            min_visible: Drop boxes of which the frame shows a smaller fraction than this, 0..1.

        Returns:
            (M, 4) int64 in 0..size - 1, in the codec's `order`; for a tensor, a tensor on its device. M < N only where
            the codec or `min_visible` drops boxes; `encode_with_indices` gives the indices of the rest.

        Raises:
            BoxError: NaN or infinity, x2 < x1 or a negative length, another shape, an image without area, or a box
                that the codec's policies refuse; the message names the first such box.
        """
        codes, _ = self._encode(boxes, image_size, frame, convention, normalized, min_visible)
        return convert_like(codes, boxes)

    def encode_with_indices(
        self,
        boxes: ArrayLike | Tensor,
        *,
        image_size: tuple[int, int] | None = None,
        frame: ImageFrame | None = None,
        convention: Convention = "xyxy",
        normalized: bool = False,
        min_visible: float = 0.0,
    ) -> EncodedBoxes:
        """Boxes (N, 4) -> codes (M, 4) int64, with the indices (M,) of the boxes that were kept, for their labels.

        Arguments and errors are those of `encode`.
        """
        codes, is_kept = self._encode(boxes, image_size, frame, convention, normalized, min_visible)
        return EncodedBoxes(convert_like(codes, boxes), convert_like(np.flatnonzero(is_kept), boxes))

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
            image_size: Width and height of the original in pixels, squashed to the bins. Or:
            frame: The frame that the model sees.
            convention: What to return: "xyxy", "xywh" or "cxcywh".
            normalized: Return fractions of the image's width and height instead of pixels.

        Returns:
            (N, 4) float64. Edges in one bin give a box without width or height. Codes in the padding of a letterbox
            give coordinates outside the image.

        Raises:
            BoxError: Another shape or type, a code out of range, or x2 < x1 or y2 < y1.
        """
        array = check_codes(codes, size=self.size, order=self.order)
        if self.order == "yxyx":
            array = array[:, _SWAPPED]
        grid = self._make_grid(image_size, frame, convention, normalized)
        corners = grid.decode(array, center=self.position == "center", nearest=self._nearest)
        return convert_like(from_corners(corners, convention), codes)

    def to_text(self, codes: ArrayLike | Tensor, *, form: Literal["aurora", "compact", "numeral"] = "aurora") -> str:
        """Codes (N, 4) int -> text, four tokens a box in the codec's order, boxes one after the other.

        Args:
            codes: Integers in 0..size - 1.
            form: "aurora": `(<PIXEL_x1>,<PIXEL_y1>,<PIXEL_x2>,<PIXEL_y2>)`; "compact": the four tokens in a row;
                "numeral": `(x1,y1,x2,y2)`.

        Raises:
            MalformedBoxError: Another shape or type, a code out of range, or an inverted box.
        """
        from perceptok.boxes.text import boxes_to_text

        return boxes_to_text(codes, form=form, order=self.order, size=self.size)

    def from_text(self, text: str, *, strict: bool = True) -> np.ndarray:
        """Text -> codes (N, 4) int64 in the codec's order, whatever the form.

        Args:
            text: Boxes and nothing else but white space between tokens.
            strict: False reads any text that a model wrote: the well-formed boxes in it are returned.

        Raises:
            MalformedBoxError: Strict reading of anything else; the message gives the position and what was found.
        """
        from perceptok.boxes.text import boxes_from_text

        return boxes_from_text(text, size=self.size, order=self.order, strict=strict)

    def to_dict(self) -> dict[str, Any]:
        """The arguments that make this codec, as JSON types."""
        names = {field.name: "decode" if field.name == "position" else field.name for field in fields(self)}
        return {argument: getattr(self, name) for name, argument in names.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; missing keys take their defaults. Raises ConfigError for unknown keys."""
        known = cls().to_dict()
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"a box codec has the keys {sorted(known)}; got {', '.join(unknown)}")
        return cls(**values)

    def __repr__(self) -> str:
        return f"BoxCodec({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    def _encode(
        self,
        boxes: ArrayLike | Tensor,
        image_size: tuple[int, int] | None,
        frame: ImageFrame | None,
        convention: Convention,
        normalized: bool,
        min_visible: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes (M, 4), and which of the boxes they belong to, (N,) bool."""
        array = check_box_shape(boxes)
        if not 0 <= min_visible <= 1:
            raise BoxError(f"min_visible is a fraction, 0..1; got {min_visible}")
        grid = self._make_grid(image_size, frame, convention, normalized)
        policies = _Policies(self.outside, self.degenerate, float(min_visible))
        codes, is_kept = grid.encode(array, convention, policies, nearest=self._nearest)
        return (codes[:, _SWAPPED] if self.order == "yxyx" else codes), is_kept

    @property
    def _nearest(self) -> bool:
        return self.rounding == "round" and self.position == "corner"

    def _make_grid(
        self, image_size: tuple[int, int] | None, frame: ImageFrame | None, convention: Convention, normalized: bool
    ) -> _BinGrid:
        if convention not in get_args(Convention):
            raise ConfigError(f"convention is one of {', '.join(get_args(Convention))}; got {convention!r}")
        inclusive = self.inclusive and convention == "xyxy"
        if frame is None and image_size is None and normalized and not inclusive:
            image_size = (1, 1)
        if (frame is None) == (image_size is None):
            got = "neither" if frame is None else "both"
            raise BoxError(f"give either image_size=(width, height) or frame=; got {got}")
        if frame is None:
            assert image_size is not None
            frame = ImageFrame.squash(image_size, self.size)
        return _BinGrid.from_frame(frame, self.size, normalized=normalized, inclusive=inclusive)


def to_corners(boxes: np.ndarray, convention: Convention) -> np.ndarray:
    """Boxes (N, 4) in a convention -> x1, y1, x2, y2, a float64 copy in column-major order.

    NumPy is about ten times faster on columns in one piece than on rows of four.
    """
    corners = np.array(boxes, dtype=np.float64, order="F")
    low, high = corners[:, :2], corners[:, 2:]
    if convention == "cxcywh":
        low -= high / 2
    if convention != "xyxy":
        high += low
    return corners


def from_corners(corners: np.ndarray, convention: Convention) -> np.ndarray:
    """The inverse of `to_corners`, (N, 4) float64 in row-major order; "xyxy" is not copied."""
    if convention == "xyxy":
        return corners
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate([low if convention == "xywh" else (low + high) / 2, high - low], axis=1)


@dataclass(frozen=True)
class _BinGrid:
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
    def from_frame(cls, frame: ImageFrame, size: int, *, normalized: bool, inclusive: bool) -> Self:
        """The grid of `size` bins a side over a frame; `BoxCodec` describes `normalized` and `inclusive`."""
        bins = np.tile(size / np.array(frame.shape), 2)
        pixel = np.tile(frame.scale, 2) * bins
        shift = np.tile(frame.origin, 2) * bins
        extent = float(max(size, np.abs(shift).max(), (shift[:2] + pixel[:2] * frame.image_size).max()))
        if inclusive:
            shift[2:] += pixel[2:]
        scale = pixel * np.tile(frame.image_size, 2) if normalized else pixel
        return cls(size, scale, shift, np.asarray(frame.window) * size / np.tile(frame.shape, 2), extent)

    def encode(
        self, boxes: np.ndarray, convention: Convention, policies: _Policies, *, nearest: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The bins of boxes (N, 4), or with `nearest` their nearest lower edges.

        Returns:
            Codes (M, 4) int64 of the boxes kept, x1, y1, x2, y2, and which those are, (N,) bool.
        """
        slack = self._compute_slack(boxes.dtype)
        codes, is_kept, count = np.empty((len(boxes), 4), dtype=np.int64), np.ones(len(boxes), dtype=bool), 0
        for start in range(0, len(boxes), _CHUNK):
            chunk = boxes[start : start + _CHUNK]
            with np.errstate(invalid="ignore", over="ignore"):  # the policies report what is not finite
                positions = to_corners(chunk, convention)
                positions *= self.scale
                if self.shift.any():
                    positions += self.shift
            low, high = positions[:, :2], positions[:, 2:]
            regular = (low >= self.window[:2] - slack) & (high <= self.window[2:] + slack) & (low < high)
            rows = np.flatnonzero(~regular.all(axis=1))
            if len(rows):
                clipped, stay = policies.apply(positions[rows], chunk[rows], self.window, slack, rows + start)
                positions[rows[stay]] = clipped
                is_kept[start + rows[~stay]] = False
                positions = positions[is_kept[start : start + len(chunk)]]
            positions += slack + (0.5 if nearest else 0.0)
            np.minimum(positions, self.size - 1, out=positions)
            # No position is negative any more: the cast truncates as floor does; to int32 it takes half the time.
            codes[count : count + len(positions)] = positions.astype(np.int32)
            count += len(positions)
        return codes[:count], is_kept

    def decode(self, codes: np.ndarray, *, center: bool, nearest: bool) -> np.ndarray:
        """What codes (N, 4), x first, stand for: x1, y1, x2, y2 as a dataset has them, (N, 4) float64.

        The lower edge or the centre of a bin. Where the image ends inside the bin (or, for `nearest`, within the half
        bin around its lower edge), a position beyond the image is moved to the image's edge.
        """
        corners = np.empty((len(codes), 4))
        edges = np.tile(self.window[:2], 2), np.tile(self.window[2:], 2)
        ends_within = bool(self.window[:2].any() or (self.window[2:] < self.size).any())
        # NumPy is several times slower where it repeats four numbers for every row itself.
        rows = min(_CHUNK, len(codes))
        low, high, scale, shift = (np.tile(numbers, (rows, 1)) for numbers in (*edges, self.scale, self.shift))
        for start in range(0, len(codes), _CHUNK):
            positions = corners[start : start + _CHUNK]
            count = len(positions)
            np.add(codes[start : start + count], 0.5 if center else 0.0, out=positions)
            if ends_within:
                # A bin starts half a bin before its centre, `nearest` half a bin before its code.
                first = positions - (0.5 if center or nearest else 0.0)
                touched = (first <= high[:count]) & (first + 1 >= low[:count])
                np.copyto(positions, np.clip(positions, low[:count], high[:count]), where=touched)
            if self.shift.any():
                positions -= shift[:count]
            positions /= scale[:count]
        return corners

    def _compute_slack(self, dtype: np.dtype[Any]) -> float:
        """How far, in bins, rounding may have moved a coordinate of a type: what lies so near to an edge is on it.

        2e-12 for float64 and 336 bins. float32 has 24 bits: 8e-5, or decoding, storing as float32 and encoding again
        would move corners to the bin before.
        """
        stored = float(np.finfo(dtype).eps) if dtype.kind == "f" and dtype.itemsize < 8 else 0.0
        return self.extent * (2 * stored + 32 * float(np.finfo(np.float64).eps))


@dataclass(frozen=True)
class _Policies:
    """What to do with boxes that are not plainly inside; `BoxCodec` describes them."""

    outside: OutsidePolicy
    degenerate: DegeneratePolicy
    min_visible: float

    def apply(
        self, corners: np.ndarray, given: np.ndarray, window: np.ndarray, slack: float, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the policies to boxes.

        Args:
            corners: (N, 4) x1, y1, x2, y2 in bins.
            given: (N, 4) the boxes as the caller gave them, for messages.
            window: (4,) x1, y1, x2, y2 of what is shown, in bins.
            slack: Bins by which rounding may have moved a corner.
            indices: (N,) their indices among all boxes, for messages.

        Returns:
            The corners (M, 4) of the boxes kept, clipped to the window, and which those are, (N,) bool.

        Raises:
            BoxError: A box that is invalid, or that a policy refuses.
        """

        def refuse(invalid: ArrayLike, reason: str) -> None:
            if np.any(invalid):
                row = int(np.argmax(invalid))
                raise BoxError(f"box {indices[row]}, {given[row].tolist()}, {reason}")

        refuse(~np.isfinite(given).all(axis=1), "is not finite; remove it, or repair the annotation")
        low, high = corners[:, :2], corners[:, 2:]
        refuse(
            (high < low - slack).any(axis=1),
            "is inverted (x2 < x1, y2 < y1, or a negative length); give its convention: xyxy, xywh or cxcywh",
        )
        high = np.maximum(high, low)
        flat = (high - low <= 0).any(axis=1)
        before, behind = low < window[:2] - slack, high > window[2:] + slack
        # Rounding alone neither brings in a box that ends where the window begins, nor puts out one on its edge.
        missed = ((before & (high <= window[:2] + slack)) | (behind & (low >= window[2:] - slack))).any(axis=1)
        if self.outside == "raise":
            tolerance = _TOLERANCE * (window[2:] - window[:2])
            beyond = ((low < window[:2] - tolerance) | (high > window[2:] + tolerance)).any(axis=1) | missed
            refuse(beyond, 'reaches out of the image; clip such boxes with outside="clip" (--outside clip)')
        if self.outside == "clip":
            refuse(
                missed,
                'lies outside what is shown of the image; drop such boxes with outside="drop" (--outside drop)',
            )
        if self.degenerate == "raise":
            refuse(flat, 'has no width or no height; allow it with degenerate="keep" (--degenerate keep)')
        is_kept = ~missed
        if self.degenerate == "drop":
            is_kept &= ~flat
        corners = np.concatenate([low, high], axis=1)
        if self.min_visible > 0:
            is_kept &= compute_visible_fraction(corners, window, slack) >= self.min_visible
        return np.clip(corners, np.tile(window[:2], 2), np.tile(window[2:], 2))[is_kept], is_kept
