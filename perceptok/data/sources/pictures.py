"""Image files as upright RGB pictures; what cannot be shown faithfully is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from perceptok.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "find_images", "read_picture"]

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
