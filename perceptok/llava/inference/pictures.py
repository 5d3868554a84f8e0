"""Images as people hand them over: files, bytes, arrays or Pillow's, brought to RGB as they are seen."""

from __future__ import annotations

import io
import os
import warnings
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from perceptok.errors import InferenceError

__all__ = ["MOST_PIXELS", "Picture", "PictureSource", "open_picture"]

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
