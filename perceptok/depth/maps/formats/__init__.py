"""Depth maps on disk: which file formats are known, and the one door in and out of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perceptok.depth.maps.formats import arrays, exr, pfm, png, tiff
from perceptok.depth.maps.formats.stored import Kind, StoredMap, check_kind
from perceptok.errors import DepthMapError, PerceptokError

__all__ = ["FORMATS", "Format", "Kind", "StoredMap", "check_kind", "format_of", "read_stored"]


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


_TIFF = Format("TIFF", tiff.decode, tiff.encode, bits=(32, 16, 8))

FORMATS = {
    ".exr": Format("EXR", exr.decode, exr.encode, bits=(32,)),
    ".npy": Format("NPY", arrays.decode_npy, arrays.encode_npy, bits=(32,)),
    ".npz": Format("NPZ", arrays.decode_npz, arrays.encode_npz, bits=(32,), says_kind=True),
    ".pfm": Format("PFM", pfm.decode, pfm.encode, bits=(32,)),
    ".png": Format("PNG", png.decode, png.encode, bits=(16, 8)),
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
    raise DepthMapError(
        f"the extension {suffix!r} is not one of a depth map; supported are {', '.join(sorted(FORMATS))}"
    )


def read_stored(path: Path) -> StoredMap:
    """Read a file in its own dtype and numbers; raises DepthMapError, to which the caller adds the path."""
    form = format_of(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DepthMapError("there is no such file; check the path") from error
    except OSError as error:
        raise DepthMapError(f"cannot be read ({error.strerror}); check that it is a file you may read") from error
    if not data:
        raise DepthMapError("the file is empty (0 bytes); fetch or export it again")
    try:
        stored = form.decode(data)
    except PerceptokError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise DepthMapError(f"not a {form.name} file, or a damaged one ({error}); fetch or export it again") from error
    if stored.array.ndim != 2:
        raise DepthMapError(
            f"holds an array of shape {stored.array.shape}; a depth map has two dimensions, (height, width): "
            "store one map per file, without axes of length 1"
        )
    return stored
