"""Images: the one way to open them, for data, specialists, training, inference, evaluation, drawing and serving.

An image that a model is trained on, asked about or evaluated on goes through `open_image`, so that it has the same
pixels everywhere. Depth maps are data and have readers of their own.
"""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageFont, ImageOps, UnidentifiedImageError

from perceptok.errors import ImageError, ImageSizeError, quote_error
from perceptok.files import open_input, walk_files

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_IMAGE_PIXELS",
    "ImageSource",
    "check_image_header",
    "colorize_nearness",
    "find_images",
    "load_font",
    "open_image",
    "read_image_format",
    "read_image_size",
    "read_orientation",
]

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
"""A file, its bytes, a Pillow image, or an array (H, W) or (H, W, 3) of uint8."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_UNREAD_SUFFIXES = (
    *(".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef", ".pgm", ".pnm"),
    *(".ppm", ".raf", ".svg", ".tga"),
)
"""Suffixes of other image formats, which `find_images` only counts."""

MAX_IMAGE_PIXELS = 89_478_485
"""Larger images are refused before they are decoded; from here on Pillow warns of decompression bombs."""

_MAX_FILE_BYTES = 2**30
"""Of an image file: more than the pixels of the largest image take, at 16 bits a channel."""

_ORIENTATION = 0x0112
"""The EXIF tag."""


def open_image(source: ImageSource, *, apply_orientation: bool = True) -> Image.Image:
    """Open an image in RGB, complete and upright: the pixels that a person sees.

    It is turned as its EXIF orientation says. Transparent pixels are composited over white, whatever the mode (RGBA,
    LA, PA, or a transparent colour of a palette, grey or RGB image). Grey images of 16 bits keep their upper eight
    bits. CMYK and other modes are converted by Pillow. An animation or a file of several images gives its first.

    Args:
        source: A file, its bytes, a Pillow image, or an array (H, W) or (H, W, 3) of uint8.
        apply_orientation: False leaves the image as it is stored, with its EXIF tag: for data sets whose coordinates
            are of the stored image.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ImageError: The file is missing, damaged, truncated or not an image, or its values are floating point numbers
            or exceed 16 bits.
        ImageSizeError: It has more than `MAX_IMAGE_PIXELS` pixels.
    """
    with _opened(source) as (image, name):
        image.load()
        oriented = ImageOps.exif_transpose(image) if apply_orientation else image
        converted = _convert_to_rgb(oriented, name)
        if "exif" in oriented.info:
            converted.info["exif"] = oriented.info["exif"]
        return converted


def read_orientation(source: ImageSource) -> int:
    """Read the EXIF orientation of an image from its header, 1..8; raises ImageError.

    An image without one, and an array (H, W) or (H, W, 3) uint8, has the orientation 1.
    """
    with _opened(source) as (image, _):
        orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def read_image_size(source: ImageSource, *, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """Read width and height in pixels of an upright image from its header, without decoding it.

    An array is (H, W) or (H, W, 3) uint8.

    Raises:
        ImageSizeError: It has more than `max_pixels` or `MAX_IMAGE_PIXELS` pixels.
        ImageError: It cannot be read.
    """
    with _opened(source, min(max_pixels, MAX_IMAGE_PIXELS)) as (image, _):
        width, height = image.size
        is_quarter_turn = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if is_quarter_turn else (width, height)


def read_image_format(source: ImageSource) -> str | None:
    """Read Pillow's name of an image's format, such as "JPEG", from its header; None for an array. Raises ImageError.

    An array is (H, W) or (H, W, 3) of uint8 in 0..255.
    """
    with _opened(source) as (image, _):
        return image.format


def check_image_header(source: ImageSource) -> None:
    """Read the header of an image, and nothing of its pixels; raises ImageError where it cannot be read.

    An array is (H, W) or (H, W, 3) uint8.
    """
    with _opened(source):
        pass


@contextmanager
def _opened(source: ImageSource, max_pixels: int = MAX_IMAGE_PIXELS) -> Iterator[tuple[Image.Image, str]]:
    """The undecoded image of allowed size, and its name for messages; Pillow's errors become ImageError."""
    is_path = isinstance(source, str | os.PathLike)
    name = str(os.fspath(source)) if is_path else "the image"  # type: ignore[arg-type]
    try:
        if isinstance(source, Image.Image):
            _check_size(source, name, max_pixels)
            yield source, name
        elif isinstance(source, np.ndarray):
            yield _array_to_image(source, max_pixels), name
        else:
            with warnings.catch_warnings():
                # Pillow's own limit is this one; the size is checked before anything is decoded.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                opened: BinaryIO = (
                    io.BytesIO(source) if isinstance(source, bytes) else open_input(source, max_bytes=_MAX_FILE_BYTES)
                )
                with opened as file, Image.open(file) as image:
                    _check_size(image, name, max_pixels)
                    yield image, name
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: image file not found") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a readable image (of no format that Pillow knows)") from error
    except Image.DecompressionBombError as error:
        raise ImageSizeError(f"{name}: {quote_error(error)}; {_describe_limit(max_pixels)}") from error
    except Exception as error:  # Pillow's decoders raise errors of any kind for damaged files
        if is_path and ("\0" in name or (isinstance(error, OSError) and error.errno is not None)):
            raise ImageError(f"{name!r}: cannot be read ({getattr(error, 'strerror', error)})") from error
        raise ImageError(f"{name}: not a readable image ({quote_error(error)})") from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageSizeError(f"{name} has {width} x {height} pixels; {_describe_limit(max_pixels)}")
    if width * height == 0:
        raise ImageError(f"{name} has no pixels: {width} x {height}")


def _describe_limit(max_pixels: int) -> str:
    return f"at most {max_pixels:,} pixels are allowed: scale it down first"


def _array_to_image(array: np.ndarray, max_pixels: int) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(f"an image is an array (H, W) or (H, W, 3) of uint8; got {array.dtype} of {array.shape}")
    if not array.size:
        raise ImageError(f"the image has no pixels: its array is {array.shape}")
    image = Image.fromarray(np.ascontiguousarray(array))
    _check_size(image, "the image", max_pixels)
    return image


def _convert_to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip: a 16-bit image would become almost white.
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(f"{name} has grey values {grey.min()}..{grey.max()}; grey images have at most 16 bits")
        upper = (grey >> 8).astype(np.uint8)
        upper[grey == image.info.get("transparency", -1)] = 255
        return Image.fromarray(upper).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"{name} has floating point values, which have no colours; convert it to 8 bits first")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def find_images(folder: Path, skipped: Counter[str] | None = None) -> list[str]:
    """Find the images in a folder and its subfolders, links to folders included.

    Args:
        folder: The folder.
        skipped: Counts, by suffix, the image files of formats that are not read.

    Returns:
        Sorted names relative to the folder, with `/`.

    Raises:
        ImageError: The folder is missing, cannot be read, or has no images.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: image folder not found")
    try:
        files = sorted(walk_files(folder))
    except OSError as error:
        raise ImageError(f"{error.filename or folder}: cannot be read ({error.strerror})") from error
    names = [name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if skipped is not None:
        suffixes = (Path(name).suffix.lower() for name in files)
        skipped.update(suffix for suffix in suffixes if suffix in _UNREAD_SUFFIXES)
    if not names:
        raise ImageError(f"{folder}: no images found ({', '.join(IMAGE_SUFFIXES)})")
    return names


_TURBO = np.array(
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
"""The Turbo colour map at nine evenly spaced values: 0 is blue, 1 is red."""


_FONT_FILES = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial.ttf", "segoeui.ttf",
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "wqy-zenhei.ttc",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "YuGothR.ttc", "malgun.ttf", "Arial Unicode.ttf",
)  # fmt: skip
"""Fonts of the usual systems: those of Latin, Greek and Cyrillic first, then those of Chinese, Japanese and Korean."""


def load_font(size: int, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Load a font that has the characters of a text: Pillow's own where it suffices, else one of the system.

    Args:
        size: Height in pixels.
        text: The text to draw; where no font has all of its characters, the one that lacks the fewest is taken.
    """
    characters = "".join(sorted({character for character in text if character.isprintable()}))
    if characters.isascii():
        return ImageFont.load_default(size)
    candidates = [ImageFont.load_default(size), *(_load_font_file(name, size) for name in _FONT_FILES)]
    fonts = [font for font in candidates if font is not None]
    return min(fonts, key=lambda font: _count_missing(font, characters))


@cache
def _load_font_file(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        pass
    try:  # matplotlib brings DejaVu Sans
        import matplotlib as mpl
    except ImportError:
        return None
    path = Path(mpl.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(str(path), size) if path.is_file() else None


def _count_missing(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, characters: str) -> int:
    """Number of characters that a font draws as it draws one that no font has."""
    unknown = bytes(font.getmask("\U0010fffd"))
    return sum(bytes(font.getmask(character)) == unknown for character in characters if not character.isspace())


def colorize_nearness(nearness: np.ndarray) -> np.ndarray:
    """Colour nearness values, 1 = nearest = red.

    Args:
        nearness: (...) of any shape, in [0, 1]; values outside are clipped to it.

    Returns:
        (..., 3) uint8.
    """
    position = np.clip(nearness, 0, 1) * (len(_TURBO) - 1)
    stops = np.arange(len(_TURBO))
    return np.stack([np.interp(position, stops, _TURBO[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)
