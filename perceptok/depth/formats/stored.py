"""The map in a file before its numbers are interpreted, and what several formats share in decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from perceptok.errors import DepthMapError

__all__ = ["MAX_PIXELS", "Kind", "StoredMap", "check_kind", "extract_channel", "squeeze"]

MAX_PIXELS = 2**27
"""Default limit of one file: 134 million, 0.5 GB as float32; 11,585 x 11,585."""

Kind = Literal["inverse", "metric", "relative"]
"""`"metric"`: depth with a unit, larger = farther. `"inverse"`: relative inverse depth, larger = nearer. `"relative"`:
depth without a unit, linear, larger = farther."""


def check_kind(kind: str) -> None:
    """Raise DepthMapError for anything but the three kinds."""
    if kind not in ("inverse", "metric", "relative"):
        raise DepthMapError(
            f"kind is {kind!r}; expected 'metric' (depth, larger = farther), 'inverse' (larger = nearer) or "
            "'relative' (without a unit, larger = farther)"
        )


@dataclass(frozen=True, eq=False)
class StoredMap:
    """The numbers of a file in the file's own dtype, and what the file states about them.

    Attributes:
        array: (H, W), any real dtype.
        valid: (H, W) bool where the file carries a mask, else None.
        kind: Where the file states it, else None. Such a file holds metres, relative depth or relative inverse depth.
        sky: (H, W) bool where the file marks what is infinitely far, else None.
        declared_scale: A factor that the file declares and that readers of the format disagree about (PFM).
    """

    array: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None
    kind: Kind | None = None
    sky: npt.NDArray[np.bool_] | None = None
    declared_scale: float = 1.0


def extract_channel(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Reduce an image (H, W) or (H, W, 1..4) whose colour channels are equal and whose alpha is opaque to (H, W).

    Opaque is the largest number of an integer type, and 1 of floats.

    Raises:
        DepthMapError: The colour channels differ or a pixel is transparent.
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
    if channels >= 3 and not all(
        np.array_equal(array[..., 0], array[..., channel], equal_nan=array.dtype.kind == "f") for channel in (1, 2)
    ):
        raise DepthMapError(
            "its colour channels differ: this is a colour-mapped image of depth, or a photo, and colours "
            "do not give depth values back; export the map itself (16-bit gray PNG, NPY, TIFF, PFM or EXR). "
            "Depth packed in colours is read when the packing is named (packing=..., --packing): carla24 is "
            "(R + 256 G + 65536 B) / 16777215 * 1000 metres, rgba_float the bytes of a float"
        )
    return np.ascontiguousarray(array[..., 0])


def squeeze(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Remove the axes of length 1 of an array if two others are left; any other array is returned as it is."""
    if array.ndim > 2 and sum(side != 1 for side in array.shape) == 2:
        return array.reshape([side for side in array.shape if side != 1])
    return array
