"""Image frames: how the pixels of an image relate to the picture that a model sees, with the exact inverse.

Coordinates are continuous and measured from the top left corner of the top left pixel: pixel i spans [i, i + 1), and
the right edge of an image of width w is x = w.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args, overload

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from perceptok.boxes.arrays import coordinate_array, corner_array, same_kind
from perceptok.boxes.placement import (
    RESAMPLING,
    Mode,
    Picture,
    Placement,
    checked_image_size,
    framed_picture,
    patched_size,
    whole_numbers,
)
from perceptok.errors import BoxError, ConfigError
from perceptok.files import parse_json
from perceptok.tokens import DEPTH_GRID, PIXEL

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ImageFrame", "frame_of_processor", "shown_share"]


# The frame of a Hugging Face image processor: read from its attributes, then checked on a test picture.
#
# The steps and their rounding are those of the Pillow and torchvision backends of transformers 5.23: pad to a square
# (LLaVA), resize, cut out or pad around the middle, pad at the bottom and right; or resize to whole patches (Qwen2-VL).


_TILING = ("image_grid_pinpoints", "do_image_splitting", "crop_to_patches", "do_pan_and_scan")
"""Attributes of processors that make several pictures, or patches, of an image."""

_ALLOWED_DEVIATION = 0.01
"""Mean deviation of a channel of the test picture, as a share of its range: a shift by one pixel gives 0.03."""

_WAVE = 32
"""Length of the test picture's waves, in pixels of the frame."""


Frame = TypeVar("Frame", bound=Placement)


def frame_of_processor(
    make: Callable[..., Frame], processor: Any, image_size: tuple[int, int], *, verify: bool = True
) -> Frame:
    """See `ImageFrame.from_image_processor`; `make` is `ImageFrame`."""
    processor = getattr(processor, "image_processor", processor)
    name = type(processor).__name__
    tiling = [attribute for attribute in _TILING if getattr(processor, attribute, None)]
    if tiling:
        raise BoxError(f"{name} makes several pieces of an image ({', '.join(tiling)}); a frame needs one picture")
    if getattr(processor, "merge_size", None):
        frame = _read_patches(make, processor, name, checked_image_size(image_size))
        if verify:
            _verify_patches(processor, name, frame)
        return frame
    frame = _read(make, processor, name, checked_image_size(image_size))
    if verify:
        _verify(processor, name, frame)
    return frame


def _read(make: Callable[..., Frame], processor: Any, name: str, image_size: tuple[int, int]) -> Frame:
    mode: Mode = "squash"
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: tuple[int, ...] = (0,)
    do_pad = bool(getattr(processor, "do_pad", False))
    if do_pad and hasattr(processor, "pad_to_square"):
        mode, do_pad = "letterbox", False
        padding = _to_square(image_size)
        fill = tuple(int(mean * 255) for mean in getattr(processor, "image_mean", None) or (0,))
    shape = (image_size[0] + padding[0] + padding[2], image_size[1] + padding[1] + padding[3])
    if getattr(processor, "do_resize", False):
        shape = _resized(_sizes(getattr(processor, "size", None)), shape, name)
    frame_shape, offset = shape, (0, 0)
    if getattr(processor, "do_center_crop", False):
        mode = "center_crop" if mode == "squash" else mode
        frame_shape = _width_height(getattr(processor, "crop_size", None), name)
        torchvision = getattr(processor, "backend", "pil") == "torchvision"
        offset = (_centred(shape[0], frame_shape[0], torchvision), _centred(shape[1], frame_shape[1], torchvision))
    if do_pad and getattr(processor, "pad_size", None):
        mode = "letterbox" if mode == "squash" else mode
        if getattr(processor, "do_normalize", False):  # the zeros are added to what is normalised already
            fill = tuple(round(mean * 255) for mean in processor.image_mean)
        frame_shape = _width_height(processor.pad_size, name)
    if frame_shape[0] != frame_shape[1]:
        raise BoxError(
            f"{name} makes a picture of {frame_shape} (width, height) of an image of {image_size}; a frame is square: "
            "set the processor's size to one height and width, or let it crop or pad to a square"
        )
    resample = _resample_name(getattr(processor, "resample", None))
    return make(mode, image_size, frame_shape[0], shape, offset, padding, fill, resample)


def _read_patches(make: Callable[..., Frame], processor: Any, name: str, image_size: tuple[int, int]) -> Frame:
    """Of a processor that resizes to whole patches, which it then takes apart, as Qwen2-VL's."""
    sizes, patch = _sizes(getattr(processor, "size", None)), getattr(processor, "patch_size", None)
    if sizes.keys() != {"shortest_edge", "longest_edge"} or not isinstance(patch, int):
        raise BoxError(
            f"{name} makes patches of an image by {sizes or 'no size'}; a frame can be read of patch_size, merge_size "
            "and a size with shortest_edge and longest_edge (areas in pixels, as Qwen2-VL has them)"
        )
    shape = image_size
    if getattr(processor, "do_resize", False):
        factor = patch * int(processor.merge_size)
        shape = patched_size(image_size, factor, sizes["shortest_edge"], sizes["longest_edge"])
    resample = _resample_name(getattr(processor, "resample", None))
    return make("squash", image_size, shape[0], shape, resample=resample, size_y=shape[1])


def _sizes(size: Any) -> dict[str, int]:
    """A size as transformers keeps it (a dict, its own SizeDict, or a number), without what is not set."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    pairs = size.items() if isinstance(size, Mapping) else iter(size)
    return {key: int(value) for key, value in pairs if value is not None}


def _width_height(size: Any, name: str) -> tuple[int, int]:
    sizes = _sizes(size)
    if sizes.keys() != {"height", "width"}:
        raise BoxError(f"{name} cuts or pads to {sizes or 'no size'}; a frame can be read of height and width")
    return sizes["width"], sizes["height"]


def _to_square(image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    side = max(image_size)
    left, top = (side - image_size[0]) // 2, (side - image_size[1]) // 2
    return left, top, side - image_size[0] - left, side - image_size[1] - top


def _resized(size: dict[str, int], shape: tuple[int, int], name: str) -> tuple[int, int]:
    width, height = shape
    short, long = min(shape), max(shape)
    match sorted(size):
        case ["height", "width"]:
            return size["width"], size["height"]
        case ["shortest_edge"]:
            edges = size["shortest_edge"], int(size["shortest_edge"] * long / short)
        case ["longest_edge", "shortest_edge"]:
            edges = _between(size["shortest_edge"], size["longest_edge"], short, long)
        case ["max_height", "max_width"]:
            factor = min(size["max_height"] / height, size["max_width"] / width)
            return int(width * factor), int(height * factor)
        case _:
            raise BoxError(
                f"{name} resizes by {size or 'no size'}; a frame can be read of height and width, or shortest_edge"
            )
    return edges if width <= height else (edges[1], edges[0])


def _between(shortest: int, longest: int, short: int, long: int) -> tuple[int, int]:
    """The shortest edge as asked for, unless the longest would grow beyond its limit."""
    if long / short * shortest <= longest:
        return shortest, int(shortest * long / short)
    exact = longest * short / long
    return round(exact), int(exact * long / short)


def _centred(length: int, frame: int, torchvision: bool) -> int:
    """Where the middle puts an edge: an odd pixel is cut off behind; of padding Pillow's backend puts it in front."""
    if torchvision and length < frame:
        return (frame - length) // 2
    return -((length - frame) // 2)


def _resample_name(resample: Any) -> str:
    if resample is None:
        return "bilinear"
    value = getattr(resample, "value", resample)
    name = value if isinstance(value, str) else Image.Resampling(value).name.lower()
    if name not in RESAMPLING:
        raise BoxError(f"the image processor resizes with {resample!r}; expected one of {', '.join(RESAMPLING)}")
    return name


def _verify(processor: Any, name: str, frame: Placement) -> None:
    """Compare what the processor makes of a test picture with what it makes of the frame's picture as it stands."""
    picture = _test_picture(frame)
    untouched = {"do_resize": False, "do_center_crop": False, "do_pad": False}
    try:
        got = np.asarray(processor(picture, return_tensors="np")["pixel_values"], np.float64)
        as_it_stands = processor(framed_picture(picture, frame), return_tensors="np", **untouched)
        expected = np.asarray(as_it_stands["pixel_values"], np.float64)
    except Exception as error:  # whatever a processor of any project raises
        raise BoxError(
            f"{name} makes no pixel_values of a picture of {frame.image_size} ({type(error).__name__}: {error}); "
            "build the frame by hand"
        ) from error
    if got.shape != expected.shape:
        raise BoxError(
            f"{name} makes {got.shape} of an image of {frame.image_size}, its attributes say {expected.shape}; "
            "a frame needs one picture"
        )
    left, top, right, bottom = frame.window  # padding has a colour, but no geometry
    shown = np.s_[
        ..., round(top) : max(round(bottom), round(top) + 1), round(left) : max(round(right), round(left) + 1)
    ]
    deviations = np.abs(got - expected)[shown].mean(axis=(-2, -1))
    deviation = float(deviations.max() / max(float(np.ptp(expected)), 1e-12))
    if deviation > _ALLOWED_DEVIATION:
        raise BoxError(
            f"{name} does not do what its attributes say: its picture of an image of {frame.image_size} deviates from "
            f"that of {frame} by {deviation:.1%}; build the frame by hand"
        )


def _verify_patches(processor: Any, name: str, frame: Placement) -> None:
    """The same for patches: their numbers tell the shape, and those of the frame's picture hold the same."""
    picture = _test_picture(frame)
    try:
        made = processor(picture, return_tensors="np")
        expected = processor(framed_picture(picture, frame), return_tensors="np", do_resize=False)
        grids = [np.asarray(one["image_grid_thw"]).reshape(-1).tolist() for one in (made, expected)]
        got, wanted = (np.asarray(one["pixel_values"], np.float64) for one in (made, expected))
    except Exception as error:  # whatever a processor of any project raises
        raise BoxError(
            f"{name} makes no patches of a picture of {frame.image_size} ({type(error).__name__}: {error}); build the "
            "frame by hand (ImageFrame.smart_resize)"
        ) from error
    rows, columns = (side // processor.patch_size for side in frame.shape[::-1])
    deviation = np.abs(got - wanted).mean() / max(float(np.ptp(wanted)), 1e-12) if got.shape == wanted.shape else 1.0
    if grids[0] != grids[1] or grids[0][-2:] != [rows, columns] or deviation > _ALLOWED_DEVIATION:
        raise BoxError(
            f"{name} does not do what its attributes say: it makes patches {grids[0]} of an image of "
            f"{frame.image_size}, its attributes say {[1, rows, columns]}; build the frame by hand"
        )


def _test_picture(frame: Placement) -> Image.Image:
    """Triangle waves on a ramp, along x in red and along y in green, on full blue."""
    width, height = frame.image_size
    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    picture[..., 0] = _waves(width, frame.scale[0])[None, :]
    picture[..., 1] = _waves(height, frame.scale[1])[:, None]
    return Image.fromarray(picture)


def _waves(length: int, scale: float) -> np.ndarray:
    phase = (np.arange(length) + 0.5) / max(_WAVE / scale, 4.0) % 1
    # The ramp tells the ends apart, and one wave from the next.
    return np.asarray(127 * np.abs(2 * phase - 1) + np.linspace(0, 127, length)).astype(np.uint8)


CLIP_GREY = (122, 116, 104)
"""The mean colour of CLIP's training pictures, with which LLaVA pads."""

DEPTH_MAP_SIZE = 320
"""Side of a decoded depth map."""


@dataclass(frozen=True)
class ImageFrame:
    """Original pixels <-> a model's frame, mostly a square: pad, resize, place; each step is kept as whole pixels.

    Make one with `squash`, `letterbox`, `center_crop`, `smart_resize` or `from_image_processor`. Along an axis of n
    pixels with p pixels of padding before and q behind, resized to r pixels and placed at o, a coordinate x lies at
    (x + p) r / (n + p + q) + o.

    Attributes:
        mode: "squash" (all of the image, each axis scaled by itself), "letterbox" (all of it, padded) or "center_crop".
        image_size: Width and height of the original.
        size: Side of the frame in pixels; the width of one that is no square.
        resized: Width and height of the (padded) image after resizing.
        offset: Where its top left corner lies in the frame, x and y; negative where something is cropped.
        padding: Original pixels added at left, top, right, bottom *before* resizing.
        fill: Colour of what the image does not cover, one value for every channel or one for each, 0..255.
        resample: Pillow's filter in lower case.
        size_y: Height of a frame that is no square, None for a square; see `shape`.

    Raises:
        BoxError: An image without area.
        ConfigError: Any other value out of range.
    """

    mode: Mode
    image_size: tuple[int, int]
    size: int
    resized: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: tuple[int, ...] = (0,)
    resample: str = "bicubic"
    size_y: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", checked_image_size(self.image_size))
        object.__setattr__(self, "size", whole_numbers("size", [self.size], 1, least=1)[0])
        if self.size_y is not None:
            height = whole_numbers("size_y", [self.size_y], 1, least=1)[0]
            object.__setattr__(self, "size_y", None if height == self.size else height)
        object.__setattr__(self, "resized", whole_numbers("resized", self.resized, 2, least=1))
        object.__setattr__(self, "offset", whole_numbers("offset", self.offset, 2))
        object.__setattr__(self, "padding", whole_numbers("padding", self.padding, 4, least=0))
        fill = self.fill if isinstance(self.fill, tuple | list) else (self.fill,)
        object.__setattr__(self, "fill", whole_numbers("fill", fill, max(len(fill), 1), least=0, most=255))
        if self.mode not in get_args(Mode):
            raise ConfigError(f"mode is one of {', '.join(get_args(Mode))}; got {self.mode!r}")
        if self.resample not in RESAMPLING:
            raise ConfigError(f"resample is one of {', '.join(RESAMPLING)}; got {self.resample!r}")

    @classmethod
    def squash(cls, image_size: tuple[int, int], size: int = PIXEL.size, *, resample: str = "bicubic") -> Self:
        """AURORA's frame: the whole image resized to size x size, whatever its aspect ratio."""
        return cls("squash", image_size, size, resized=(size, size), resample=resample)

    @classmethod
    def letterbox(
        cls,
        image_size: tuple[int, int],
        size: int = PIXEL.size,
        *,
        fill: int | tuple[int, ...] = CLIP_GREY,
        align: Literal["center", "start"] = "center",
        resample: str = "bicubic",
    ) -> Self:
        """The longest edge resized to `size`, the rest of the square filled.

        The shorter edge is rounded to whole pixels and scaled by exactly what it was rounded to. `align="start"` puts
        the image to the top left (YOLOX), "center" in the middle, an odd pixel of fill behind it.

        Raises:
            BoxError: An image without area.
            ConfigError: A size or an alignment that is none.
        """
        width, height = checked_image_size(image_size)
        side = whole_numbers("size", [size], 1, least=1)[0]
        longest = max(width, height)
        resized = (max(1, round(width * side / longest)), max(1, round(height * side / longest)))
        if align not in ("center", "start"):
            raise ConfigError(f'align is "center" or "start"; got {align!r}')
        offset = ((side - resized[0]) // 2, (side - resized[1]) // 2) if align == "center" else (0, 0)
        colour = fill if isinstance(fill, tuple) else (fill,)
        return cls("letterbox", (width, height), side, resized, offset, fill=colour, resample=resample)

    @classmethod
    def center_crop(
        cls,
        image_size: tuple[int, int],
        size: int = PIXEL.size,
        *,
        resize: int | None = None,
        fill: int | tuple[int, ...] = 0,
        resample: str = "bicubic",
    ) -> Self:
        """LLaVA-1.5's default: the shortest edge resized to `resize` (default: `size`), the middle square cut out."""
        width, height = checked_image_size(image_size)
        side, shortest = whole_numbers("size and resize", [size, size if resize is None else resize], 2, least=1)
        # As transformers computes it: the longer edge is cut to whole pixels, not rounded.
        short, long = min(width, height), max(width, height)
        resized = (shortest, int(shortest * long / short))
        if width > height:
            resized = (resized[1], resized[0])
        offset = (-((resized[0] - side) // 2), -((resized[1] - side) // 2))
        colour = fill if isinstance(fill, tuple) else (fill,)
        return cls("center_crop", (width, height), side, resized, offset, fill=colour, resample=resample)

    @classmethod
    def smart_resize(
        cls,
        image_size: tuple[int, int],
        *,
        factor: int = 28,
        min_pixels: int = 56 * 56,
        max_pixels: int = 28 * 28 * 1280,
        resample: str = "bicubic",
    ) -> Self:
        """Qwen2-VL's frame: about the image's own size and shape, each side rounded to whole patches; rarely a square.

        Qwen2-VL and Qwen2.5-VL write boxes in pixels of it: `convert(..., image_size=frame.shape)`, then `to_image`.

        Args:
            image_size: Width and height of the original.
            factor: Pixels of a patch that the language model sees: patch size times merge size, 28 for Qwen2-VL and
                Qwen2.5-VL, 32 for Qwen3-VL.
            min_pixels: Smaller images are enlarged to this area at least.
            max_pixels: Larger ones are reduced to this area at most.
            resample: Pillow's filter in lower case.

        Raises:
            BoxError: An image without area, or one that is 200 times as long as it is wide, which the model refuses.
            ConfigError: Limits that are none.
        """
        size = checked_image_size(image_size)
        resized = patched_size(size, factor, min_pixels, max_pixels)
        return cls("squash", size, resized[0], resized, resample=resample, size_y=resized[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height of the frame."""
        return self.size, self.size if self.size_y is None else self.size_y

    @classmethod
    def from_image_processor(cls, processor: Any, image_size: tuple[int, int], *, verify: bool = True) -> ImageFrame:
        """The frame of a Hugging Face image processor for images of one size.

        Args:
            processor: One that makes a single square picture of an image by resizing, cropping and padding, such as
                those of CLIP, SigLIP, ViT or LLaVA-1.5, or one that cuts it into patches after a resize, such as
                those of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, or a processor that holds one.
            image_size: Width and height of the original.
            verify: Send a test picture of this size through the processor and compare it with `apply`; some 10 ms for
                640x480. Processors that do what their attributes do not tell are found out only so.

        Raises:
            BoxError: Its pictures come in tiles, are not square (and no such patches), or are not what its attributes
                say.
        """
        return frame_of_processor(ImageFrame, processor, image_size, verify=verify)

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels per original pixel, along x and y."""
        padded = self._padded_size
        return self.resized[0] / padded[0], self.resized[1] / padded[1]

    @property
    def origin(self) -> tuple[float, float]:
        """Where the original's (0, 0) lies in the frame, x and y; outside it where something is cropped."""
        return (
            self.padding[0] * self.resized[0] / self._padded_size[0] + self.offset[0],
            self.padding[1] * self.resized[1] / self._padded_size[1] + self.offset[1],
        )

    @property
    def window(self) -> tuple[float, float, float, float]:
        """The part of the frame that shows the image: x1, y1, x2, y2 in frame pixels."""
        (left, top), padded = self.origin, self._padded_size
        # Multiplied before divided: without padding the edges are whole pixels.
        right = (self.padding[0] + self.image_size[0]) * self.resized[0] / padded[0] + self.offset[0]
        bottom = (self.padding[1] + self.image_size[1]) * self.resized[1] / padded[1] + self.offset[1]
        width, height = self.shape
        return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))

    @property
    def crops(self) -> bool:
        """Whether a part of the image lies outside the frame."""
        ends = (start + length for start, length in zip(self.offset, self.resized, strict=True))
        return min(self.offset) < 0 or any(end > side for end, side in zip(ends, self.shape, strict=True))

    @overload
    def to_frame(self, coordinates: Tensor) -> Tensor: ...
    @overload
    def to_frame(self, coordinates: ArrayLike) -> np.ndarray: ...
    def to_frame(self, coordinates: ArrayLike | Tensor) -> np.ndarray | Tensor:
        """Original pixels -> frame pixels; nothing is clipped.

        Args:
            coordinates: Points (..., 2) as x, y, or boxes (..., 4) as x1, y1, x2, y2.

        Returns:
            float64 of the same shape: an array, or for a tensor a tensor on its device (without gradient).

        Raises:
            BoxError: Another shape, NaN or infinity.
        """
        array = coordinate_array(coordinates, (2, 4))
        repeat = array.shape[-1] // 2
        return same_kind(array * np.tile(self.scale, repeat) + np.tile(self.origin, repeat), coordinates)

    @overload
    def to_image(self, coordinates: Tensor) -> Tensor: ...
    @overload
    def to_image(self, coordinates: ArrayLike) -> np.ndarray: ...
    def to_image(self, coordinates: ArrayLike | Tensor) -> np.ndarray | Tensor:
        """Frame pixels -> original pixels: the inverse of `to_frame`, but for the rounding of float64."""
        array = coordinate_array(coordinates, (2, 4))
        repeat = array.shape[-1] // 2
        return same_kind((array - np.tile(self.origin, repeat)) / np.tile(self.scale, repeat), coordinates)

    @overload
    def visible_fraction(self, xyxy: Tensor) -> Tensor: ...
    @overload
    def visible_fraction(self, xyxy: ArrayLike) -> np.ndarray: ...
    def visible_fraction(self, xyxy: ArrayLike | Tensor) -> np.ndarray | Tensor:
        """The share of each box's area that the frame shows.

        Args:
            xyxy: Boxes (N, 4) in original pixels.

        Returns:
            (N,) float64 in [0, 1]. What lies outside the image counts as lost. A side without length counts as shown
            where it lies inside.

        Raises:
            BoxError: Another shape, NaN or infinity, or x2 < x1 or y2 < y1.
        """
        boxes = self.to_frame(corner_array(xyxy))
        slack = 32 * np.finfo(np.float64).eps * max(*self.shape, *self.resized, *map(abs, self.offset))
        return same_kind(shown_share(boxes, np.asarray(self.window), slack), xyxy)

    def apply(self, image: Picture) -> Picture:
        """The very picture that the coordinates refer to; see `perceptok.boxes.placement.framed_picture`."""
        return framed_picture(image, self)

    @overload
    def to_depth_map(self, points: Tensor, map_size: int = ...) -> tuple[Tensor, Tensor]: ...
    @overload
    def to_depth_map(self, points: ArrayLike, map_size: int = ...) -> tuple[np.ndarray, np.ndarray]: ...
    def to_depth_map(
        self, points: ArrayLike | Tensor, map_size: int = DEPTH_MAP_SIZE
    ) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
        """Points of the frame -> rows and columns of the pixels that hold them in a decoded map of the same picture.

        Args:
            points: (..., 2) as x, y in frame pixels.
            map_size: Side of the map.

        Returns:
            Rows and columns, (...) int64 each, so that `nearness[rows, columns]` looks the points up. A point on the
            right or bottom edge belongs to the last pixel.

        Raises:
            BoxError: Another shape, NaN or infinity, or a point outside the frame.
        """
        array = coordinate_array(points, (2,))
        outside = ((array < 0) | (array > self.shape)).any(axis=-1)
        if outside.any():
            place = tuple(int(index) for index in np.argwhere(outside)[0])
            raise BoxError(f"points lie in the frame, {_limits(self.shape)}; got {array[place].tolist()} at {place}")
        cells = np.minimum(np.floor(array * (map_size / np.array(self.shape))), map_size - 1).astype(np.int64)
        return same_kind(cells[..., 1], points), same_kind(cells[..., 0], points)

    @overload
    def to_grid_cell(self, points: Tensor, grid: int = ...) -> tuple[Tensor, Tensor]: ...
    @overload
    def to_grid_cell(self, points: ArrayLike, grid: int = ...) -> tuple[np.ndarray, np.ndarray]: ...
    def to_grid_cell(
        self, points: ArrayLike | Tensor, grid: int = DEPTH_GRID[0]
    ) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
        """Points of the frame -> row and column of their cells in the grid of depth codes; as `to_depth_map`."""
        return self.to_depth_map(points, grid)

    def to_dict(self) -> dict[str, Any]:
        """The frame as JSON types, for records."""
        # Not `asdict`, whose deep copies were a third of the time of writing a record.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.size_y is None:  # squares are written as ever
            del values["size_y"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The exact inverse of `to_dict`; raises ConfigError for keys that are unknown or missing."""
        known = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or values.keys() | {"size_y"} != known:
            got = f"got {sorted(values)}" if isinstance(values, Mapping) else f"got {type(values).__name__}"
            raise ConfigError(
                f"an image frame has the keys {sorted(known - {'size_y'})}, and size_y if it is no square; {got}"
            )
        return cls(**values)

    def to_json(self) -> str:
        """The frame as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The exact inverse of `to_json`; raises ConfigError for what is no JSON, and as `from_dict`."""
        return cls.from_dict(parse_json(text, "an image frame is a JSON object", ConfigError))

    @property
    def _padded_size(self) -> tuple[int, int]:
        left, top, right, bottom = self.padding
        return self.image_size[0] + left + right, self.image_size[1] + top + bottom


def _limits(shape: tuple[int, int]) -> str:
    width, height = shape
    return f"0..{width}" if width == height else f"0..{width} and 0..{height}"


def shown_share(boxes: np.ndarray, window: np.ndarray, slack: float) -> np.ndarray:
    """The share of each box (N, 4) inside a window (4,), (N,) in [0, 1]; x1 <= x2 and y1 <= y2.

    What reaches out by no more than the slack, by which rounding may have moved it, is inside.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    side = high - low
    shown = np.minimum(high, window[2:]) - np.maximum(low, window[:2])
    inside = (low >= window[:2] - slack) & (high <= window[2:] + slack)
    share = np.divide(np.maximum(shown, 0), side, out=np.zeros_like(side), where=side > 0)
    return np.asarray(np.where(inside, 1.0, np.minimum(share, 1.0)).prod(axis=1))
