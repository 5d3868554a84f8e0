"""What a frame is made of, before any arithmetic on coordinates: the fields of its placement, and their checks."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from PIL import Image, ImageOps

from perceptok.errors import BoxError, ConfigError

__all__ = [
    "RESAMPLING",
    "Mode",
    "Picture",
    "Placement",
    "checked_image_size",
    "framed_picture",
    "patched_size",
    "upright",
    "whole_numbers",
]


Mode = Literal["squash", "letterbox", "center_crop"]


class Placement(Protocol):
    """Where the pixels of an image go; the fields are `ImageFrame`'s, which document them."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the original."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height of the frame in pixels."""
        ...

    @property
    def resized(self) -> tuple[int, int]:
        """Width and height of the (padded) image after resizing."""
        ...

    @property
    def offset(self) -> tuple[int, int]:
        """Where its top left corner lies in the frame, x and y."""
        ...

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Original pixels added at left, top, right, bottom before resizing."""
        ...

    @property
    def fill(self) -> tuple[int, ...]:
        """Colour of what the image does not cover."""
        ...

    @property
    def resample(self) -> str:
        """Pillow's filter in lower case."""
        ...

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels per original pixel, along x and y."""
        ...

    @property
    def window(self) -> tuple[float, float, float, float]:
        """The part of the frame that shows the image: x1, y1, x2, y2 in frame pixels."""
        ...


def checked_image_size(image_size: object) -> tuple[int, int]:
    """Width and height as two positive integers; raises BoxError for anything else."""
    try:
        width, height = whole_numbers("image_size", image_size, 2, least=1)
    except ConfigError as error:
        raise BoxError(f"an image has a width and a height of at least one pixel; got {image_size!r}") from error
    return width, height


def patched_size(image_size: tuple[int, int], factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Width and height that Qwen2-VL's `smart_resize` gives an image; raises BoxError, ConfigError."""
    whole_numbers("factor, min_pixels and max_pixels", [factor, min_pixels, max_pixels], 3, least=1)
    if max(image_size) / min(image_size) > 200:
        raise BoxError(f"an image is at most 200 times as long as it is wide here; got {image_size}")
    width, height = (round(side / factor) * factor for side in image_size)
    area = image_size[0] * image_size[1]
    if width * height > max_pixels:
        shrink = math.sqrt(area / max_pixels)
        width, height = (max(factor, math.floor(side / shrink / factor) * factor) for side in image_size)
    elif width * height < min_pixels:
        grow = math.sqrt(min_pixels / area)
        width, height = (math.ceil(side * grow / factor) * factor for side in image_size)
    return width, height


def whole_numbers(name: str, values: object, count: int, *, least: int | None = None, most: int | None = None) -> Any:
    """`count` integers in a range, as a tuple of int; raises ConfigError."""
    numbers = tuple(values) if isinstance(values, tuple | list | np.ndarray) else ()
    good = all(isinstance(number, int | np.integer) and not isinstance(number, bool) for number in numbers)
    good = good and len(numbers) == count
    good = good and all((least is None or number >= least) and (most is None or number <= most) for number in numbers)
    if not good:
        limits = f" from {least}" if least is not None else ""
        limits += f" to {most}" if most is not None else ""
        raise ConfigError(f"{name}: expected {count} integer{'s' if count > 1 else ''}{limits}; got {values!r}")
    return tuple(int(number) for number in numbers)


RESAMPLING = {filter_.name.lower(): filter_ for filter_ in Image.Resampling}
"""Name in lower case -> Pillow's filter."""

_ORIENTATION = 0x0112
"""The EXIF tag."""

_MOST_PIXELS = 1 << 27
"""Of a picture at any stage: 384 MiB in colour."""

Picture = TypeVar("Picture", Image.Image, np.ndarray)


def upright(image: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, bool]:
    """A picture as its EXIF orientation has it, as the loaders of transformers and torchvision turn it.

    Data sets give the size of either. Where only the stored size is the one expected, the picture stays as stored; one
    whose size fits both ways (a square, one upside down) is turned.

    Args:
        image: A picture with or without an orientation.
        size: Width and height that it should have.

    Returns:
        The picture, and whether it was turned.
    """
    turned = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    if turned.size != size and image.size == size:
        return image, False
    return turned, turned is not image


def framed_picture(image: Picture, frame: Placement) -> Picture:
    """The picture of an image in its frame, pixel for pixel what its coordinates refer to.

    Args:
        image: A Pillow image of mode RGB or L, turned as its EXIF orientation says (see `upright`), or an array (H, W)
            or (H, W, C) of uint8 or float32.
        frame: The frame of an image of this size.

    Returns:
        The same kind, in the frame's shape: a Pillow image of the same mode, or an array of the same type.

    Raises:
        BoxError: An image of another size, mode, shape or type, or with other channels than the frame's fill; a frame
            of which any stage has more than 2**27 pixels.
    """
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or image.dtype not in (np.uint8, np.float32):
            raise BoxError(
                f"a picture is an array (H, W) or (H, W, C) of uint8 or float32; got {image.dtype} of {image.shape}"
            )
        return _framed(image, frame)
    if image.mode not in ("RGB", "L"):
        raise BoxError(f'a picture has mode RGB or L; got {image.mode}: call image.convert("RGB") first')
    return Image.fromarray(_framed(np.asarray(upright(image, frame.image_size)[0]), frame))


def _framed(image: np.ndarray, frame: Placement) -> np.ndarray:
    height, width = image.shape[:2]
    if (width, height) != frame.image_size:
        raise BoxError(f"the frame is of an image of {frame.image_size} (width, height); got one of {(width, height)}")
    channels = image.shape[2] if image.ndim == 3 else 1
    if len(frame.fill) not in (1, channels):
        raise BoxError(f"the fill {frame.fill} has {len(frame.fill)} channels, the image {channels}; give one value")
    left, top, right, bottom = frame.padding
    canvas = (width + left + right, height + top + bottom)
    for columns, rows in (canvas, frame.resized, frame.shape):
        if columns * rows > _MOST_PIXELS:
            raise BoxError(
                f"a picture of {columns} x {rows} pixels is larger than the {_MOST_PIXELS} that are drawn; "
                "take a smaller frame, or its coordinates without a picture"
            )
    padded = _placed(image, (left, top), canvas, frame.fill)
    resized = _resized(padded, frame.resized, RESAMPLING[frame.resample])
    return _placed(resized, frame.offset, frame.shape, frame.fill)


def _resized(image: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    if (image.shape[1], image.shape[0]) == size:
        return image
    if image.ndim == 2 or (image.dtype == np.uint8 and image.shape[2] == 3):
        return np.asarray(Image.fromarray(image).resize(size, resample))
    # Pillow knows no other images of several channels.
    return np.stack([_resized(channel, size, resample) for channel in np.moveaxis(image, 2, 0)], axis=2)


def _placed(image: np.ndarray, offset: tuple[int, int], size: tuple[int, int], fill: tuple[int, ...]) -> np.ndarray:
    """The image with its top left corner at `offset` of a canvas of that size; what falls outside is cut off."""
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
