"""NPY and NPZ. Pickles are never loaded.

An NPZ that perceptok writes holds `values` (float32, metres or relative inverse depth), `valid` (bool),
`kind`, `sky` (bool) where it has any, and the marker `perceptok_depth_map` with the version of this layout, 1.
"""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from perceptok.depth.formats.stored import Kind, StoredMap, squeezed
from perceptok.errors import DepthMapError

__all__ = ["decode_npy", "decode_npz", "encode_npy", "encode_npz"]


_CALLED = {"depth", "depth_map", "depthmap"}
"""What a depth map among other arrays is called without a doubt."""

_OF_RECORDS = {"codes", "codec", "near", "far"}
"""Arrays that a file of depth records has; its codes look like small maps."""

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


def decode_npz(data: bytes, key: str | None = None, mask_key: str | None = None) -> StoredMap:
    """Read our own layout with mask and kind; of a foreign file the named array, the only map, or `depth`.

    A mask that is named is True, or not 0, where the map is valid.
    """
    if not data.startswith(b"PK"):
        raise DepthMapError("does not begin like an NPZ (zip) file; store it with numpy.savez or DepthMap.write")
    with np.load(io.BytesIO(data), allow_pickle=False) as members:
        if _OF_RECORDS.issubset(members.files):
            raise DepthMapError("holds records of codes, no depth map; make maps of them with `perceptok depth decode`")
        arrays = {name: members[name] for name in members.files}
    if _MARKER not in arrays or key is not None:
        array = _named(arrays, key) if key is not None else _only_map(arrays)
        valid = None if mask_key is None else squeezed(_named(arrays, mask_key)) != 0
        return StoredMap(array, valid=valid)
    if arrays[_MARKER] != _VERSION:
        raise DepthMapError(f"has layout version {arrays[_MARKER]}, not {_VERSION}; update perceptok to read it")
    kind = cast("Kind", str(arrays["kind"]))
    return StoredMap(arrays["values"], valid=arrays["valid"], kind=kind, sky=arrays.get("sky"))


def _named(arrays: dict[str, npt.NDArray[Any]], key: str) -> npt.NDArray[Any]:
    if key not in arrays:
        raise DepthMapError(f"has no array {key!r}; it holds {_listed(arrays)}")
    return arrays[key]


def _only_map(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    maps = {name: one for name, one in arrays.items() if squeezed(one).ndim == 2}
    called = [name for name in maps if name.lower() in _CALLED]
    if len(maps) == 1:
        return next(iter(maps.values()))
    if len(called) == 1:
        return maps[called[0]]
    raise DepthMapError(
        f"holds {len(maps)} two-dimensional arrays among {sorted(arrays)} ({_listed(arrays)}); "
        "name the depth map (key=..., --key), or store it alone"
    )


def _listed(arrays: dict[str, npt.NDArray[Any]]) -> str:
    return ", ".join(f"{name} {one.dtype} {one.shape}" for name, one in sorted(arrays.items())) or "nothing"


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
