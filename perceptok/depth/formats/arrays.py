"""NPY and NPZ. Pickles are never loaded.

An NPZ that perceptok writes holds `values` (float32: metres, relative depth or relative inverse depth), `valid` (bool),
`kind`, `sky` (bool) where it has any, and the marker `perceptok_depth_map` with the version of this layout, 1.
"""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from perceptok.depth.stored_maps import Kind, StoredMap, describe_stack, squeeze
from perceptok.errors import DepthMapError

__all__ = ["count_values_npy", "count_values_npz", "decode_npy", "decode_npz", "encode_npy", "encode_npz"]

_DEPTH_NAMES = {"depth", "depth_map", "depthmap"}
"""Unambiguous names of a depth map among other arrays."""

_RECORD_NAMES = {"codes", "codec", "near", "far"}
"""Arrays of a file of depth records, whose codes look like small maps."""

_MARKER, _VERSION = "perceptok_depth_map", 1


def decode_npy(data: bytes) -> StoredMap:
    """Decode an array in its own dtype."""
    if not data.startswith(np.lib.format.MAGIC_PREFIX):
        raise DepthMapError("does not begin like an NPY file (pickles are never loaded); store it with numpy.save")
    return StoredMap(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))


def encode_npy(stored: StoredMap) -> bytes:
    """Encode the array alone."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, stored.array, allow_pickle=False)
    return buffer.getvalue()


def count_values_npy(data: bytes) -> int:
    """Values that the header declares; one of more than 8 bytes counts as several."""
    file = io.BytesIO(data)
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return math.prod(shape) * max(1, math.ceil(dtype.itemsize / 8))


def decode_npz(data: bytes, key: str | None = None, mask_key: str | None = None) -> StoredMap:
    """Decode our own layout with mask and kind, or from a foreign file the named array, the only map, or `depth`.

    Args:
        data: The file.
        key: Name of the array.
        mask_key: Name of the array that is True, or not 0, where the map is valid.
    """
    if not data.startswith(b"PK"):
        raise DepthMapError("does not begin like an NPZ (zip) file; store it with numpy.savez or DepthMap.write")
    with np.load(io.BytesIO(data), allow_pickle=False) as members:
        if _RECORD_NAMES.issubset(members.files):
            raise DepthMapError(
                "holds depth records, not a depth map; convert them to maps with `perceptok depth decode`"
            )
        arrays = {name: members[name] for name in members.files}
    if _MARKER not in arrays or key is not None:
        array = _find_map(arrays) if key is None else _find_named(arrays, key)
        mask = None if mask_key is None else squeeze(_find_named(arrays, mask_key))
        # NaN, which is not 0 either, is not a mark of a valid pixel.
        return StoredMap(array, valid=None if mask is None else (mask != 0) & (mask == mask))
    if arrays[_MARKER] != _VERSION:
        raise DepthMapError(f"has layout version {arrays[_MARKER]}, not {_VERSION}; update perceptok to read it")
    kind = cast("Kind", str(arrays["kind"]))
    return StoredMap(arrays["values"], valid=arrays["valid"], kind=kind, sky=arrays.get("sky"))


def _find_named(arrays: dict[str, npt.NDArray[Any]], key: str) -> npt.NDArray[Any]:
    if key not in arrays:
        raise DepthMapError(f"has no array {key!r}; it holds {_describe(arrays)}")
    return arrays[key]


def _find_map(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if {"indices", "indptr", "shape", "data"} <= arrays.keys() or {"row", "col", "shape", "data"} <= arrays.keys():
        raise DepthMapError(
            'holds a sparse matrix of SciPy; store it as an array, with 0 where it has no entry: python -c "import '
            'numpy, scipy.sparse, sys; numpy.save(sys.argv[2], scipy.sparse.load_npz(sys.argv[1]).toarray())" SOURCE '
            "TARGET"
        )
    maps = {name: array for name, array in arrays.items() if squeeze(array).ndim == 2}
    named_depth = [name for name in maps if name.lower() in _DEPTH_NAMES]
    if len(maps) == 1:
        return next(iter(maps.values()))
    if len(named_depth) == 1:
        return maps[named_depth[0]]
    stacks = {name: array for name, array in arrays.items() if squeeze(array).ndim == 3}
    if not maps and (len(stacks) == 1 or (stacks := {k: v for k, v in stacks.items() if k.lower() in _DEPTH_NAMES})):
        name, stack = next(iter(stacks.items()))
        raise DepthMapError(describe_stack(stack.shape, f"numpy.load(sys.argv[1])[{name!r}]"))
    if not maps:
        raise DepthMapError(f"holds no array of two dimensions ({_describe(arrays)}); store the depth map alone")
    raise DepthMapError(
        f"holds {len(maps)} two-dimensional arrays among {sorted(arrays)} ({_describe(arrays)}); "
        "name the depth map (key=..., --key), or store it alone"
    )


def _describe(arrays: dict[str, npt.NDArray[Any]]) -> str:
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in sorted(arrays.items())) or "nothing"


def encode_npz(stored: StoredMap) -> bytes:
    """Encode our own layout, not compressed."""
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


def count_values_npz(data: bytes) -> int:
    """Values that the headers of all arrays declare."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        total = 0
        for name in archive.namelist():
            with archive.open(name) as member:
                total += count_values_npy(member.read(4096))
        return total
