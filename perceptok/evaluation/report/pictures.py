"""Pictures of a page, as small as they may be: data URIs of images and of maps of nearness."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from perceptok.errors import EvaluationError, MissingExtraError

__all__ = ["Embedded", "embed_image", "embed_map", "figure_svg", "svg_uri"]

IMAGE_SIDE = 512
"""Longer side of an embedded image; a larger one is made smaller."""

MAP_SIDE = 192
"""Longer side of an embedded map; a decoded map has 10x10 codes and nothing finer than this."""

_AS_IT_IS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_SMALL_ENOUGH = 48_000
_ORIENTATION = 0x0112


class Embedded(NamedTuple):
    """A data URI, and the width and height of the picture before it was made smaller."""

    uri: str
    width: int
    height: int


def embed_image(data: bytes, name: str) -> Embedded:
    """An image file as a data URI: as it is where it is small, else WebP with a longer side of 512.

    Args:
        data: The bytes of the file; a rotation in its EXIF is applied.
        name: Whose image it is, for the message.

    Raises:
        EvaluationError: Not a readable image.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            plain = opened.getexif().get(_ORIENTATION, 1) == 1
            if plain and opened.format in _AS_IT_IS and len(data) <= _SMALL_ENOUGH and max(opened.size) <= IMAGE_SIDE:
                opened.load()
                return Embedded(_uri(_AS_IT_IS[opened.format], data), *opened.size)
            upright = ImageOps.exif_transpose(opened)
            width, height = upright.size
            picture = _eight_bits(upright)
            picture.thumbnail((IMAGE_SIDE, IMAGE_SIDE), reducing_gap=2.0)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"the image of case {name!r} cannot be read: {error}") from error
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=80)
    return Embedded(_uri("image/webp", out.getvalue()), width, height)


def embed_map(nearness: np.ndarray) -> Embedded:
    """A map (H, W) in [0, 1] as a grey data URI, which the page colours; NaN is transparent.

    JPEG where all is known (a smooth map has 2 kB), PNG otherwise; values outside [0, 1] are shown as its ends.
    """
    height, width = nearness.shape
    known = np.isfinite(nearness)
    grey = np.where(known, np.rint(np.clip(np.where(known, nearness, 0), 0, 1) * 255), 0).astype(np.uint8)
    scale = min(1.0, MAP_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    out = io.BytesIO()
    if known.all():
        Image.fromarray(grey).resize(size, Image.Resampling.BOX).save(out, "JPEG", quality=90)
        return Embedded(_uri("image/jpeg", out.getvalue()), width, height)
    # The nearest pixel: an average with a hole would be a depth that nobody measured.
    both = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(known.astype(np.uint8) * 255)])
    both.resize(size, Image.Resampling.NEAREST).save(out, "PNG", optimize=True)
    return Embedded(_uri("image/png", out.getvalue()), width, height)


def figure_svg(figure: Any) -> bytes:
    """A matplotlib figure as an SVG file without a background, the same bytes each time.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "a figure") from error
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "perceptok", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    return out.getvalue()


def svg_uri(svg: bytes) -> str:
    """An SVG file as the data URI of an image: scripts in it do not run."""
    return _uri("image/svg+xml", svg)


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # Pillow's own conversion cuts 16 bits off at 255.
        values = np.asarray(picture, dtype=np.float64)
        top = values.max() or 1.0
        picture = Image.fromarray((values / top * 255).astype(np.uint8))
    return picture.convert("RGBA" if "transparency" in picture.info or "A" in picture.getbands() else "RGB")


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
