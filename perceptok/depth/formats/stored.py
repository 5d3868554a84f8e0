"""What a depth map file holds, before any unit or meaning is applied to its numbers."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile

from perceptok.errors import DepthMapError

__all__ = ["MOST_PIXELS", "Kind", "StoredMap", "check_kind", "check_size", "one_channel", "squeezed"]


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


Kind = Literal["inverse", "metric", "relative"]
"""`"metric"`: depth with a unit, larger = farther. `"inverse"`: relative inverse depth, larger = nearer. `"relative"`:
depth without a unit, linear, larger = farther."""


@dataclass(frozen=True, eq=False)
class StoredMap:
    """The numbers of a file in the file's own dtype, and what the file says about them.

    Attributes:
        array: (H, W), any real dtype.
        valid: (H, W) bool where the file carries a mask, else None.
        kind: Where the file says it, else None. A file that says its kind holds metres or relative inverse
            depth.
        sky: (H, W) bool where the file marks what is infinitely far, else None.
        declared_scale: A factor that the file declares and that readers of the format disagree about (PFM).
    """

    array: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None
    kind: Kind | None = None
    sky: npt.NDArray[np.bool_] | None = None
    declared_scale: float = 1.0


def one_channel(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The map in an image (H, W) or (H, W, 1..4) whose colour channels are equal and whose alpha is opaque.

    Opaque is the largest number of an integer type, and 1 of floats.

    Raises DepthMapError if the colour channels differ or a pixel is transparent.
    """
    if array.ndim == 2:
        return array
    channels = array.shape[2]
    if channels > 4:
        raise DepthMapError(f"has {channels} channels; a depth map has one: export it alone")
    opaque = 1.0 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    if channels in (2, 4) and not np.all(array[..., -1] == opaque):
        raise DepthMapError(
            "some pixels are transparent, which says nothing certain about their depth; "
            "save the map without alpha and mark holes by a value (invalid=...), or, if the four channels are the "
            "bytes of a float, say so (packing='rgba_float', --packing rgba_float)"
        )
    if channels >= 3 and not (
        np.array_equal(array[..., 0], array[..., 1], equal_nan=array.dtype.kind == "f")
        and np.array_equal(array[..., 0], array[..., 2], equal_nan=array.dtype.kind == "f")
    ):
        raise DepthMapError(
            "its colour channels differ: this is a colour-mapped picture of depth, or a photo, and colours "
            "do not give depth values back; export the map itself (16-bit gray PNG, NPY, TIFF, PFM or EXR). "
            "Depth packed in colours is read when the packing is named (packing=..., --packing): carla24 is "
            "(R + 256 G + 65536 B) / 16777215 * 1000 metres, rgba_float the bytes of a float"
        )
    return np.ascontiguousarray(array[..., 0])


def squeezed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array without its axes of length 1, where two are left; any other array as it is."""
    if array.ndim > 2 and sum(side != 1 for side in array.shape) == 2:
        return array.reshape([side for side in array.shape if side != 1])
    return array


def check_kind(kind: str) -> None:
    """Raise DepthMapError for anything but the two kinds."""
    if kind not in ("inverse", "metric", "relative"):
        raise DepthMapError(
            f"kind is {kind!r}; expected 'metric' (depth, larger = farther), 'inverse' (larger = nearer) or "
            "'relative' (without a unit, larger = farther)"
        )
