"""NPY and NPZ. Pickles are never loaded.

An NPZ that perceptok writes holds `values` (float32, metres or relative inverse depth), `valid` (bool),
`kind`, `sky` (bool) where it has any, and the marker `perceptok_depth_map` with the version of this layout, 1.
"""

from __future__ import annotations

import io
from typing import cast

import numpy as np

from perceptok.depth.maps.formats.stored import Kind, StoredMap
from perceptok.errors import DepthMapError

__all__ = ["decode_npy", "decode_npz", "encode_npy", "encode_npz"]

_MARKER, _VERSION = "perceptok_depth_map", 1


def decode_npy(data: bytes) -> StoredMap:
    """Read an array in its own dtype."""
    if not data.startswith(np.lib.format.MAGIC_PREFIX):
        raise DepthMapError("does not begin like an NPY file (pickles are never loaded); store it with numpy.save")
    return StoredMap(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))


def encode_npy(stored: StoredMap) -> bytes:
    """Write the array alone."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, stored.array, allow_pickle=False)
    return buffer.getvalue()


def decode_npz(data: bytes) -> StoredMap:
    """Read our own layout with mask and kind, or the only 2-D array of a foreign file."""
    if not data.startswith(b"PK"):
        raise DepthMapError("does not begin like an NPZ (zip) file; store it with numpy.savez or DepthMap.write")
    with np.load(io.BytesIO(data), allow_pickle=False) as members:
        arrays = {key: members[key] for key in members.files}
    if _MARKER not in arrays:
        maps = [array for array in arrays.values() if array.ndim == 2]
        if len(maps) != 1:
            raise DepthMapError(
                f"holds {len(maps)} two-dimensional arrays among {sorted(arrays)}; store the depth map alone"
            )
        return StoredMap(maps[0])
    if arrays[_MARKER] != _VERSION:
        raise DepthMapError(f"has layout version {arrays[_MARKER]}, not {_VERSION}; update perceptok to read it")
    kind = cast("Kind", str(arrays["kind"]))
    return StoredMap(arrays["values"], valid=arrays["valid"], kind=kind, sky=arrays.get("sky"))


def encode_npz(stored: StoredMap) -> bytes:
    """Write our own layout, not compressed."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        values=stored.array,
        valid=np.asarray(stored.valid),
        kind=np.array(stored.kind),
        **({} if stored.sky is None else {"sky": stored.sky}),
        **{_MARKER: np.array(_VERSION)},
    )
    return buffer.getvalue()
