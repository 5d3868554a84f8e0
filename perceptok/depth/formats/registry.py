"""Depth maps on disk: which file formats are known, and the one door in and out of each."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from perceptok.depth.formats import arrays, exr, pfm, png, tiff
from perceptok.depth.formats.stored import MOST_PIXELS, Kind, StoredMap, check_kind, check_size, squeezed
from perceptok.errors import DepthMapError, PerceptokError

__all__ = [
    "FORMATS",
    "MOST_PIXELS",
    "Format",
    "Kind",
    "StoredMap",
    "check_kind",
    "format_of",
    "read_mask",
    "read_stored",
    "squeezed",
]


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        name: What people call it.
        decode: Bytes of a file -> the map as stored.
        encode: The map as stored (uint8, uint16 or float32) -> bytes of a file.
        bits: Bits per value that can be written; the first is the default. 8 and 16 are unsigned integers,
            32 is float32.
        says_kind: Whether the file itself says kind, unit and mask.
    """

    name: str
    decode: Callable[[bytes], StoredMap]
    encode: Callable[[StoredMap], bytes]
    bits: tuple[int, ...]
    says_kind: bool = False


_TIFF = Format("TIFF", tiff.decode_tiff, tiff.encode_tiff, bits=(32, 16, 8))

FORMATS = {
    ".exr": Format("EXR", exr.decode_exr, exr.encode_exr, bits=(32,)),
    ".npy": Format("NPY", arrays.decode_npy, arrays.encode_npy, bits=(32,)),
    ".npz": Format("NPZ", arrays.decode_npz, arrays.encode_npz, bits=(32,), says_kind=True),
    ".pfm": Format("PFM", pfm.decode_pfm, pfm.encode_pfm, bits=(32,)),
    ".png": Format("PNG", png.decode_png, png.encode_png, bits=(16, 8)),
    ".tif": _TIFF,
    ".tiff": _TIFF,
}
"""Lower-case file name extension -> format."""


def format_of(path: Path) -> Format:
    """The format that the extension of a path says; raises DepthMapError for any other extension."""
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        return FORMATS[suffix]
    if suffix in {".jpg", ".jpeg"}:
        raise DepthMapError("JPEG is lossy and 8-bit, made for photos; store depth as 16-bit PNG, NPY, TIFF or EXR")
    if suffix in {".jsonl", ".parquet"}:
        raise DepthMapError(
            f"{suffix} is of records, no depth map; make maps of what encode wrote with `perceptok depth decode`"
        )
    raise DepthMapError(
        f"the extension {suffix!r} is not one of a depth map; supported are {', '.join(sorted(FORMATS))}"
    )


def read_stored(
    path: Path,
    *,
    key: str | None = None,
    mask_key: str | None = None,
    channel: str | None = None,
    colours: bool = False,
    max_pixels: int = MOST_PIXELS,
) -> StoredMap:
    """Read a file in its own dtype and numbers; raises DepthMapError, to which the caller adds the path.

    Args:
        path: The file.
        key: Of an NPZ with several arrays, which one.
        mask_key: Of an NPZ, the array that is True, or not 0, where the map is valid.
        channel: Of an EXR with several channels, which one.
        colours: Keep all channels, as (H, W, channels), of what packs its numbers into colours.
        max_pixels: A file that declares more values is refused before it is unpacked.
    """
    form = format_of(path)
    if (key or mask_key) and form.name != "NPZ":
        raise DepthMapError(f"key names an array of an NPZ; {form.name} has none")
    if channel and form.name != "EXR":
        raise DepthMapError(f"channel names a channel of an EXR; {form.name} has none")
    data = _bytes(path)
    check_size(form.name, data, max_pixels)
    try:
        if key or mask_key:
            stored = arrays.decode_npz(data, key, mask_key)
        else:
            stored = exr.decode_exr(data, channel) if channel else _decoded(form, data, colours=colours)
    except PerceptokError:
        raise
    except MemoryError as error:
        raise DepthMapError("there is not enough memory for it; read it alone, or make it smaller") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise DepthMapError(f"not a {form.name} file, or a damaged one ({error}); fetch or export it again") from error
    stored = replace(stored, array=squeezed(stored.array))
    if colours and stored.array.ndim == 3:
        return stored
    if stored.array.ndim != 2:
        raise DepthMapError(
            f"holds an array of shape {stored.array.shape}; a depth map has two dimensions, (height, width): "
            "store one map per file"
        )
    return stored


def _decoded(form: Format, data: bytes, *, colours: bool) -> StoredMap:
    decode = {"PNG": png.decode_png, "TIFF": tiff.decode_tiff}.get(form.name)
    return decode(data, colours=True) if colours and decode else form.decode(data)


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """A mask file, True where it is not 0: an image of any depth, or a depth map format; (H, W) bool."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".bmp"):
        return np.asarray(read_stored(path).array != 0)
    data = _bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("L") if image.mode == "P" else image)
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise DepthMapError(f"not a mask image, or a damaged one ({error}); fetch or export it again") from error
    return np.asarray((pixels != 0) if pixels.ndim == 2 else (pixels[..., :3] != 0).any(-1))


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DepthMapError("there is no such file; check the path") from error
    except ValueError as error:  # a NUL, which a list may hold
        raise DepthMapError(f"is no name of a file ({error}); check the list that names it") from error
    except OSError as error:
        raise DepthMapError(f"cannot be read ({error.strerror}); check that it is a file you may read") from error
    if not data:
        raise DepthMapError("the file is empty (0 bytes); fetch or export it again")
    return data
