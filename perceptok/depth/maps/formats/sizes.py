"""How many values a file asks memory for, read off its header: a few bytes can declare many gigabytes."""

from __future__ import annotations

import io
import math
import struct
import zipfile

import numpy as np
import tifffile

from perceptok.errors import DepthMapError

__all__ = ["MOST_PIXELS", "check_size"]

MOST_PIXELS = 2**27
"""Of one file unless the caller says otherwise: 134 million, 0.5 GB as float32; 11,585 x 11,585."""


def check_size(form: str, data: bytes, max_pixels: int) -> None:
    """Refuse a file that declares more values than `max_pixels`, before any of them is unpacked.

    A header that cannot be understood passes: the decoder says what is wrong with it.

    Args:
        form: Name of the format, as in `Format.name`.
        data: The whole file.
        max_pixels: Values in all arrays or channels of the file together.

    Raises:
        DepthMapError: It declares more.
    """
    try:
        declared = _DECLARED[form](data) if form in _DECLARED else 0
    except Exception:  # noqa: BLE001 - whatever a damaged header raises, its decoder will name it
        return
    if declared > max_pixels:
        raise DepthMapError(
            f"declares {declared} values in {len(data)} bytes; at most {max_pixels} are read: allow more with "
            "max_pixels (--max-pixels) if you trust the file; where it is damaged, fetch or export it again"
        )


def _png(data: bytes) -> int:
    width, height, _, colour = struct.unpack(">IIBB", data[16:26])
    return int(width * height * {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[colour])


def _npy(data: bytes) -> int:
    return _array(io.BytesIO(data))


def _npz(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        total = 0
        for name in archive.namelist():
            with archive.open(name) as member:
                total += _array(io.BytesIO(member.read(4096)))
        return total


def _array(file: io.BytesIO) -> int:
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    return math.prod(read(file)[0])


def _tiff(data: bytes) -> int:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return max((math.prod(page.aspage().shape) for page in file.pages), default=0)


def _exr(data: bytes) -> int:
    at = data.index(b"dataWindow\0box2i\0\x10\0\0\0") + 21
    left, top, right, bottom = struct.unpack("<4i", data[at : at + 16])
    return int((right - left + 1) * (bottom - top + 1))


_DECLARED = {"PNG": _png, "NPY": _npy, "NPZ": _npz, "TIFF": _tiff, "EXR": _exr}
