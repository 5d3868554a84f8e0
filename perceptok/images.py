"""Image files as upright RGB pictures; what cannot be shown faithfully is refused with the reason."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from perceptok.errors import DataError, InferenceError

__all__ = [
    "IMAGE_SUFFIXES",
    "MOST_PIXELS",
    "Picture",
    "PictureSource",
    "coloured_nearness",
    "find_images",
    "open_picture",
    "read_picture",
]


_STOPS = np.array(
    [
        [48, 18, 59],
        [70, 107, 227],
        [40, 187, 236],
        [49, 242, 153],
        [162, 252, 60],
        [237, 208, 58],
        [251, 128, 34],
        [210, 49, 5],
        [122, 4, 3],
    ]
)
"""The Turbo colour map at nine stops: far is blue, near is red."""


def coloured_nearness(nearness: np.ndarray) -> np.ndarray:
    """Nearness of any shape (...), 1 = nearest -> colours (..., 3) uint8; what lies beyond [0, 1] takes its end."""
    place = np.clip(nearness, 0, 1) * (len(_STOPS) - 1)
    return np.stack(
        [np.interp(place, np.arange(len(_STOPS)), _STOPS[:, channel]) for channel in range(3)], axis=-1
    ).astype(np.uint8)


Picture: TypeAlias = Image.Image
PictureSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

MOST_PIXELS = 89_478_485
"""An image of more is refused before it is decoded, where Pillow begins to warn of decompression bombs."""

_TOO_LARGE = (
    f"at most {MOST_PIXELS:,} pixels are taken: scale it down first, the model sees a few hundred a side anyway"
)

_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than 8 bits, which it would clip."""


def open_picture(source: PictureSource) -> Image.Image:
    """An image in RGB, whole, turned as its EXIF orientation says: the pixels that a person sees.

    Transparent pixels are laid over white; of an animation the first picture is taken.

    Args:
        source: A file, its bytes, a Pillow image, or an array (H, W) or (H, W, 3) of uint8.

    Raises:
        InferenceError: No such file, no image, a damaged one, one of more than 8 bits a channel, or of more than
            `MOST_PIXELS` pixels.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if isinstance(source, Image.Image):
        return _seen(source, "the image")
    if isinstance(source, bytes):
        return _decoded(io.BytesIO(source), "the image's bytes")
    try:
        with open(source, "rb") as file:  # noqa: PTH123 - a path of any kind
            return _decoded(file, os.fspath(source))
    except FileNotFoundError as error:
        raise InferenceError(f"{os.fspath(source)}: there is no such image") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        if isinstance(error, InferenceError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InferenceError(f"{os.fspath(source)!r}: cannot be read ({reason})") from error


def _decoded(file: BinaryIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                return _seen(opened, name)
    except InferenceError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InferenceError(f"{name}: {_reason(error)}; {_TOO_LARGE}") from error
    except Exception as error:  # Pillow's decoders raise anything at damaged files
        raise InferenceError(f"{name}: not a readable image ({_reason(error)})") from error


def _seen(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise InferenceError(f"{name} has {width} x {height} pixels; {_TOO_LARGE}")
    if width * height == 0:
        raise InferenceError(f"{name} has no pixels: {width} x {height}")
    if image.mode in _DEEP:
        raise InferenceError(
            f"{name} has more than 8 bits a pixel (mode {image.mode}), which has no colours to show; convert it to an "
            "8-bit image first (a depth map is no photo)"
        )
    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode == "RGB":
        return turned
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        layer = turned.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return turned.convert("RGB")


def _of_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise InferenceError(f"an image is an array (H, W) or (H, W, 3) of uint8; got {array.dtype} of {array.shape}")
    if not array.size:
        raise InferenceError(f"the image has no pixels: its array is {array.shape}")
    return _seen(Image.fromarray(np.ascontiguousarray(array)), "the image")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_SHALLOW = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV")
_WITH_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")


def read_picture(path: Path) -> Image.Image:
    """One image file, turned as its EXIF orientation says, in RGB.

    Grey pictures of 16 bits keep their upper eight; a transparent layer is left out where nothing is transparent.

    Raises:
        DataError: Missing, damaged, cut off, animated, partly transparent, or of floating point numbers.
    """
    try:
        with Image.open(path) as opened:
            frames = getattr(opened, "n_frames", 1)
            if frames > 1:
                raise DataError(f"an image of {frames} frames, where one picture was expected")
            opened.load()
            return _rgb(ImageOps.exif_transpose(opened))
    except FileNotFoundError as error:
        raise DataError("there is no such image file") from error
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"not a readable image ({error})") from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in _WITH_ALPHA:
        if picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise DataError("partly transparent; put it on a background first")
        return picture.convert("RGBA").convert("RGB")
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise DataError(f"grey values {grey.min()}..{grey.max()}, where 16 bits were expected")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode not in _SHALLOW:
        raise DataError(f"an image of mode {picture.mode}, which has no colours of eight bits; convert it first")
    return picture.convert("RGB")


def find_images(folder: Path) -> list[str]:
    """Names of the images in a folder and those below, relative with `/`, sorted; raises DataError where none is."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of images")
    found = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not found:
        raise DataError(f"{folder}: no images in it ({', '.join(IMAGE_SUFFIXES)})")
    return found
