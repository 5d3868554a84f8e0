"""The picture that a frame's coordinates refer to: padded, resized, placed in the frame."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from perceptok.boxes.frames.placement import Placement
from perceptok.errors import BoxError

__all__ = ["RESAMPLING", "Picture", "framed_picture", "upright"]

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
