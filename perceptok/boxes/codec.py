"""Boxes of any dataset <-> four coordinate codes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, overload

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import box_array, same_kind, upside_down
from perceptok.boxes.bins import BinGrid
from perceptok.boxes.conventions import Convention, checked_convention, from_corners
from perceptok.boxes.frames.geometry import ImageFrame
from perceptok.boxes.policies import BoxPolicies
from perceptok.errors import BoxError, ConfigError
from perceptok.tokens import PIXEL

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BoxCodec", "EncodedBoxes"]

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
        from perceptok.boxes.text.forms import boxes_to_text

        return boxes_to_text(self._checked_codes(codes), form=form, size=self.size)

    def from_text(self, text: str, *, strict: bool = True) -> np.ndarray:
        """Text -> codes (N, 4) int64; see `text.forms.boxes_from_text`."""
        from perceptok.boxes.text.forms import boxes_from_text

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
