"""Image frames: how the pixels of an image relate to the image that a model sees, with the exact inverse.

Coordinates are continuous and measured from the top left corner of the top left pixel: pixel i spans [i, i + 1), and
the right edge of an image of width w is x = w.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args, overload

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from perceptok.boxes.arrays import check_coordinates, check_corners, convert_like
from perceptok.errors import BoxError, ConfigError
from perceptok.files import parse_json
from perceptok.tokens import DEPTH_GRID, PIXEL

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "RESAMPLING",
    "FrameMode",
    "ImageFrame",
    "check_image_size",
    "compute_visible_fraction",
    "orient_image",
]

FrameMode = Literal["squash", "letterbox", "center_crop"]

RESAMPLING = {filter_.name.lower(): filter_ for filter_ in Image.Resampling}
"""Name in lower case -> Pillow's filter."""

CLIP_GREY = (122, 116, 104)
"""The mean colour of CLIP's training images, with which LLaVA pads."""

DEPTH_MAP_SIZE = 320
"""Side of a decoded depth map."""

MAX_FRAME_PIXELS = 1 << 27
"""Larger images are not made at any stage: 384 MiB in colour."""

_ORIENTATION = 0x0112
"""The EXIF tag."""

ImageT = TypeVar("ImageT", Image.Image, np.ndarray)


@dataclass(frozen=True)
class ImageFrame:
    """Original pixels <-> a model's frame, mostly a square: pad, resize, place; every step is in whole pixels.

    Make one with `squash`, `letterbox`, `center_crop` or `smart_resize`; `perceptok.boxes.infer_frame` reads the frame
    of a Hugging Face image processor. Along an axis of n pixels with p pixels of padding before and q behind, resized
    to r pixels and placed at o, a coordinate x lies at (x + p) r / (n + p + q) + o.

    Attributes:
        mode: "squash" (the whole image, each axis scaled by itself), "letterbox" (the whole image, padded) or
            "center_crop".
        image_size: Width and height of the original.
        size: Side of the frame in pixels; its width where it is not square.
        resized: Width and height of the (padded) image after resizing.
        offset: Where its top left corner lies in the frame, x and y; negative where something is cropped.
        padding: Original pixels added at left, top, right, bottom *before* resizing.
        fill: Colour of what the image does not cover, one value for every channel or one for each, 0..255.
        resample: Pillow's filter in lower case.
        size_y: Height of a frame that is not square, None for a square.

    Raises:
        BoxError: An image without area.
        ConfigError: Any other value out of range.
    """

    mode: FrameMode
    image_size: tuple[int, int]
    size: int
    resized: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: tuple[int, ...] = (0,)
    resample: str = "bicubic"
    size_y: int | None = None

    def __post_init__(self) -> None:
        fill = self.fill if isinstance(self.fill, tuple | list) else (self.fill,)
        checked: dict[str, Any] = {
            "image_size": check_image_size(self.image_size),
            "size": _check_integers("size", [self.size], 1, minimum=1)[0],
            "resized": _check_integers("resized", self.resized, 2, minimum=1),
            "offset": _check_integers("offset", self.offset, 2),
            "padding": _check_integers("padding", self.padding, 4, minimum=0),
            "fill": _check_integers("fill", fill, max(len(fill), 1), minimum=0, maximum=255),
        }
        if self.size_y is not None:
            height = _check_integers("size_y", [self.size_y], 1, minimum=1)[0]
            checked["size_y"] = None if height == self.size else height
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.mode not in get_args(FrameMode):
            raise ConfigError(f"mode is one of {', '.join(get_args(FrameMode))}; got {self.mode!r}")
        if self.resample not in tuple(RESAMPLING):  # by comparison: a list has no hash
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
        """The longer edge resized to `size`, the rest of the square filled.

        The shorter edge is rounded to whole pixels and scaled by exactly what it was rounded to. `align="start"` puts
        the image at the top left (YOLOX), "center" in the middle, an odd pixel of fill behind it.

        Raises:
            BoxError: An image without area.
            ConfigError: An invalid size or alignment.
        """
        width, height = check_image_size(image_size)
        side = _check_integers("size", [size], 1, minimum=1)[0]
        longest = max(width, height)
        resized = (max(1, round(width * side / longest)), max(1, round(height * side / longest)))
        if align not in ("center", "start"):
            raise ConfigError(f'align is "center" or "start"; got {align!r}')
        offset = ((side - resized[0]) // 2, (side - resized[1]) // 2) if align == "center" else (0, 0)
        return cls(
            "letterbox",
            (width, height),
            side,
            resized,
            offset,
            fill=(fill,) if isinstance(fill, int) else fill,
            resample=resample,
        )

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
        """LLaVA-1.5's default: the shorter edge resized to `resize` (default: `size`), the middle square cropped."""
        width, height = check_image_size(image_size)
        side, shorter = _check_integers("size and resize", [size, size if resize is None else resize], 2, minimum=1)
        # As transformers computes it: the longer edge is truncated to whole pixels, not rounded.
        longer = int(shorter * max(width, height) / min(width, height))
        resized = (longer, shorter) if width > height else (shorter, longer)
        offset = (-((resized[0] - side) // 2), -((resized[1] - side) // 2))
        return cls(
            "center_crop",
            (width, height),
            side,
            resized,
            offset,
            fill=(fill,) if isinstance(fill, int) else fill,
            resample=resample,
        )

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

        Qwen2.5-VL writes boxes in pixels of it: convert with `image_size=frame.shape`, then `to_image`. Qwen2-VL and
        Qwen3-VL write thousandths of the image: convert with `image_size=(1000, 1000)`.

        Args:
            image_size: Width and height of the original.
            factor: Pixels of a patch that the language model sees: patch size times merge size, 28 for Qwen2-VL and
                Qwen2.5-VL, 32 for Qwen3-VL.
            min_pixels: Smaller images are enlarged to this area at least.
            max_pixels: Larger ones are reduced to this area at most.
            resample: Pillow's filter in lower case.

        Raises:
            BoxError: An image without area, or one that is more than 200 times as long as wide, which the model
                refuses.
            ConfigError: A limit that is not a positive integer.
        """
        size = check_image_size(image_size)
        _check_integers("factor, min_pixels and max_pixels", [factor, min_pixels, max_pixels], 3, minimum=1)
        if max(size) / min(size) > 200:
            raise BoxError(f"an image is at most 200 times as long as wide here; got {size}")
        width, height = (round(side / factor) * factor for side in size)
        area = size[0] * size[1]
        if width * height > max_pixels:
            shrink = math.sqrt(area / max_pixels)
            width, height = (max(factor, math.floor(side / shrink / factor) * factor) for side in size)
        elif width * height < min_pixels:
            grow = math.sqrt(min_pixels / area)
            width, height = (math.ceil(side * grow / factor) * factor for side in size)
        return cls("squash", size, width, (width, height), resample=resample, size_y=height)

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height of the frame."""
        return self.size, self.size if self.size_y is None else self.size_y

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels per original pixel, along x and y."""
        padded = self._size_with_padding
        return self.resized[0] / padded[0], self.resized[1] / padded[1]

    @property
    def origin(self) -> tuple[float, float]:
        """Where the original's (0, 0) lies in the frame, x and y; outside it where something is cropped."""
        return (
            self.padding[0] * self.resized[0] / self._size_with_padding[0] + self.offset[0],
            self.padding[1] * self.resized[1] / self._size_with_padding[1] + self.offset[1],
        )

    @property
    def window(self) -> tuple[float, float, float, float]:
        """The part of the frame that shows the image: x1, y1, x2, y2 in frame pixels."""
        (left, top), padded = self.origin, self._size_with_padding
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
        array = check_coordinates(coordinates, (2, 4))
        repeat = array.shape[-1] // 2
        return convert_like(array * np.tile(self.scale, repeat) + np.tile(self.origin, repeat), coordinates)

    @overload
    def to_image(self, coordinates: Tensor) -> Tensor: ...
    @overload
    def to_image(self, coordinates: ArrayLike) -> np.ndarray: ...
    def to_image(self, coordinates: ArrayLike | Tensor) -> np.ndarray | Tensor:
        """Frame pixels -> original pixels: the inverse of `to_frame`, but for the rounding of float64."""
        array = check_coordinates(coordinates, (2, 4))
        repeat = array.shape[-1] // 2
        return convert_like((array - np.tile(self.origin, repeat)) / np.tile(self.scale, repeat), coordinates)

    @overload
    def visible_fraction(self, xyxy: Tensor) -> Tensor: ...
    @overload
    def visible_fraction(self, xyxy: ArrayLike) -> np.ndarray: ...
    def visible_fraction(self, xyxy: ArrayLike | Tensor) -> np.ndarray | Tensor:
        """The fraction of each box's area that the frame shows.

        Args:
            xyxy: Boxes (N, 4) in original pixels.

        Returns:
            (N,) float64 in [0, 1]. What lies outside the image counts as hidden. A side without length counts as shown
            where it lies inside.

        Raises:
            BoxError: Another shape, NaN or infinity, or x2 < x1 or y2 < y1.
        """
        boxes = self.to_frame(check_corners(xyxy))
        slack = 32 * np.finfo(np.float64).eps * max(*self.shape, *self.resized, *map(abs, self.offset))
        return convert_like(compute_visible_fraction(boxes, np.asarray(self.window), slack), xyxy)

    def apply(self, image: ImageT) -> ImageT:
        """The image in its frame, pixel for pixel what the coordinates refer to.

        Args:
            image: A Pillow image of mode RGB or L, which is turned as its EXIF orientation says (see `orient_image`),
                or an array (H, W) or (H, W, C) of uint8 or float32.

        Returns:
            The same kind in the frame's shape: a Pillow image of the same mode, or an array of the same type.

        Raises:
            BoxError: An image of another size, mode, shape or type, or with other channels than the frame's fill; a
                frame of which any stage has more than 2**27 pixels.
        """
        if isinstance(image, np.ndarray):
            if image.ndim not in (2, 3) or image.dtype not in (np.uint8, np.float32):
                raise BoxError(
                    f"an image is an array (H, W) or (H, W, C) of uint8 or float32; got {image.dtype} of {image.shape}"
                )
            return self._apply_to_array(image)
        if image.mode not in ("RGB", "L"):
            raise BoxError(f'the image must have mode RGB or L; got {image.mode}: call image.convert("RGB") first')
        return Image.fromarray(self._apply_to_array(np.asarray(orient_image(image, self.image_size)[0])))

    def _apply_to_array(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if (width, height) != self.image_size:
            raise BoxError(f"the frame is for images of {self.image_size} (width, height); got {(width, height)}")
        channels = image.shape[2] if image.ndim == 3 else 1
        if len(self.fill) not in (1, channels):
            raise BoxError(f"the fill {self.fill} has {len(self.fill)} channels, the image {channels}; give one value")
        for columns, rows in (self._size_with_padding, self.resized, self.shape):
            if columns * rows > MAX_FRAME_PIXELS:
                raise BoxError(
                    f"an image of {columns} x {rows} pixels is larger than the limit of {MAX_FRAME_PIXELS}; "
                    "use a smaller frame, or its coordinates without an image"
                )
        padded = _paste(image, self.padding[:2], self._size_with_padding, self.fill)
        resized = _resize(padded, self.resized, RESAMPLING[self.resample])
        return _paste(resized, self.offset, self.shape, self.fill)

    @overload
    def to_depth_map(self, points: Tensor, map_size: int = ...) -> tuple[Tensor, Tensor]: ...
    @overload
    def to_depth_map(self, points: ArrayLike, map_size: int = ...) -> tuple[np.ndarray, np.ndarray]: ...
    def to_depth_map(
        self, points: ArrayLike | Tensor, map_size: int = DEPTH_MAP_SIZE
    ) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
        """Points of the frame -> rows and columns of their pixels in a decoded depth map of the same image.

        Args:
            points: (..., 2) as x, y in frame pixels.
            map_size: Side of the map.

        Returns:
            Rows and columns, (...) int64 each, so that `nearness[rows, columns]` looks the points up. A point on the
            right or bottom edge belongs to the last pixel.

        Raises:
            BoxError: Another shape, NaN or infinity, or a point outside the frame.
        """
        array = check_coordinates(points, (2,))
        outside = ((array < 0) | (array > self.shape)).any(axis=-1)
        if outside.any():
            index = tuple(int(position) for position in np.argwhere(outside)[0])
            width, height = self.shape
            limits = f"0..{width}" if width == height else f"0..{width} and 0..{height}"
            raise BoxError(f"points lie in the frame, {limits}; got {array[index].tolist()} at {index}")
        cells = np.minimum(np.floor(array * (map_size / np.array(self.shape))), map_size - 1).astype(np.int64)
        return convert_like(cells[..., 1], points), convert_like(cells[..., 0], points)

    @overload
    def to_grid_cell(self, points: Tensor, grid: int = ...) -> tuple[Tensor, Tensor]: ...
    @overload
    def to_grid_cell(self, points: ArrayLike, grid: int = ...) -> tuple[np.ndarray, np.ndarray]: ...
    def to_grid_cell(
        self, points: ArrayLike | Tensor, grid: int = DEPTH_GRID[0]
    ) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
        """Points of the frame -> rows and columns of their cells in the grid of depth codes.

        Args:
            points: (..., 2) as x, y in frame pixels.
            grid: Side of the grid.

        Returns:
            Rows and columns, (...) int64 each.

        Raises:
            BoxError: Another shape, NaN or infinity, or a point outside the frame.
        """
        return self.to_depth_map(points, grid)

    def to_dict(self) -> dict[str, Any]:
        """The frame as JSON types, for records."""
        # Not `asdict`, whose deep copies were a third of the time of writing a record.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.size_y is None:
            del values["size_y"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The exact inverse of `to_dict`; raises ConfigError for keys that are unknown or missing."""
        known = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or values.keys() | {"size_y"} != known:
            got = f"got {sorted(values)}" if isinstance(values, Mapping) else f"got {type(values).__name__}"
            raise ConfigError(
                f"an image frame has the keys {sorted(known - {'size_y'})}, and size_y if it is not square; {got}"
            )
        return cls(**values)

    def to_json(self) -> str:
        """The frame as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The exact inverse of `to_json`; raises ConfigError for invalid JSON and for unknown or missing keys."""
        return cls.from_dict(parse_json(text, "an image frame is a JSON object", ConfigError))

    @property
    def _size_with_padding(self) -> tuple[int, int]:
        left, top, right, bottom = self.padding
        return self.image_size[0] + left + right, self.image_size[1] + top + bottom


def check_image_size(image_size: object) -> tuple[int, int]:
    """Width and height as two positive integers; raises BoxError for anything else."""
    try:
        width, height = _check_integers("image_size", image_size, 2, minimum=1)
    except ConfigError as error:
        raise BoxError(f"an image has a width and a height of at least one pixel; got {image_size!r}") from error
    return width, height


def orient_image(image: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, bool]:
    """Turn an image as its EXIF orientation says, as the loaders of transformers and torchvision do.

    Data sets give the size of the stored or of the turned image. Where only the stored size is the expected one, the
    image stays as stored; one whose size fits both ways (a square, an image upside down) is turned.

    Args:
        image: An image with or without an orientation.
        size: Its expected width and height in pixels.

    Returns:
        The image, and whether it was turned.
    """
    turned = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    if turned.size != size and image.size == size:
        return image, False
    return turned, turned is not image


def compute_visible_fraction(boxes: np.ndarray, window: np.ndarray, slack: float) -> np.ndarray:
    """The fraction of the area of each box (N, 4) inside a window (4,), (N,) in [0, 1]; x1 <= x2 and y1 <= y2.

    What reaches out by no more than the slack, by which rounding may have moved it, is inside.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    side = high - low
    shown = np.minimum(high, window[2:]) - np.maximum(low, window[:2])
    inside = (low >= window[:2] - slack) & (high <= window[2:] + slack)
    fraction = np.divide(np.maximum(shown, 0), side, out=np.zeros_like(side), where=side > 0)
    return np.asarray(np.where(inside, 1.0, np.minimum(fraction, 1.0)).prod(axis=1))


def _check_integers(
    name: str, values: object, count: int, *, minimum: int | None = None, maximum: int | None = None
) -> Any:
    """`count` integers in a range, as a tuple of int; raises ConfigError."""
    numbers = tuple(values) if isinstance(values, tuple | list | np.ndarray) else ()
    valid = len(numbers) == count and all(
        isinstance(number, int | np.integer)
        and not isinstance(number, bool)
        and (minimum is None or number >= minimum)
        and (maximum is None or number <= maximum)
        for number in numbers
    )
    if not valid:
        limits = f" from {minimum}" if minimum is not None else ""
        limits += f" to {maximum}" if maximum is not None else ""
        raise ConfigError(f"{name}: expected {count} integer{'s' if count > 1 else ''}{limits}; got {values!r}")
    return tuple(int(number) for number in numbers)


def _resize(image: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    if (image.shape[1], image.shape[0]) == size:
        return image
    if image.ndim == 2 or (image.dtype == np.uint8 and image.shape[2] == 3):
        return np.asarray(Image.fromarray(image).resize(size, resample))
    # Pillow has no other images of several channels.
    return np.stack([_resize(channel, size, resample) for channel in np.moveaxis(image, 2, 0)], axis=2)


def _paste(image: np.ndarray, offset: tuple[int, int], size: tuple[int, int], fill: tuple[int, ...]) -> np.ndarray:
    """The image with its top left corner at `offset` of a canvas of that size; what falls outside is cropped."""
    (x, y), (width, height) = offset, size
    rows, columns = image.shape[:2]
    if offset == (0, 0) and size == (columns, rows):
        return image
    canvas = np.empty((height, width, *image.shape[2:]), dtype=image.dtype)
    canvas[...] = np.asarray(fill if image.ndim == 3 else fill[0], dtype=image.dtype)
    top, bottom = max(y, 0), min(y + rows, height)
    left, right = max(x, 0), min(x + columns, width)
    if top < bottom and left < right:
        canvas[top:bottom, left:right] = image[top - y : bottom - y, left - x : right - x]
    return canvas
