"""OpenEXR, with the extra `exr`: one depth channel, half or float."""

from __future__ import annotations

import io
import re
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from perceptok.depth.formats.stored import StoredMap, one_channel
from perceptok.errors import DepthMapError, MissingExtraError

__all__ = ["decode_exr", "encode_exr"]


_DEPTH = re.compile(r"depth", re.IGNORECASE)
_OTHER = re.compile(
    r"normal|position|\bpoints?\b|vector|velocity|motion|speed|flow|\buv|crypto|mask|alpha|albedo|diffuse|spec|emission"
    r"|shadow|mist|\bfog|noise|variance|sample|weight|\bao\b|index|object|material|\bid\b",
    re.IGNORECASE,
)
"""Layers of a renderer that hold something else, also where one channel of them stands alone."""


def decode_exr(data: bytes, channel: str | None = None) -> StoredMap:
    """Read a channel, or the depth of a file; the order of preference is in `_depth`."""
    openexr = _openexr("reading EXR")
    if not data.startswith(b"v/1\x01"):
        raise DepthMapError("does not begin like an EXR; give the file the extension of what it is")
    file = openexr.File(io.BytesIO(data), separate_channels=True)
    if not file.parts:  # OpenEXR prints a warning and drops what it cannot read
        raise DepthMapError("is damaged or cut off; fetch or export it again")
    if len(file.parts) > 1:
        raise DepthMapError(f"has {len(file.parts)} parts; store one map per file")
    header = file.header()
    if not np.array_equal(header["dataWindow"], header["displayWindow"]):
        raise DepthMapError("stores only a window of its image; export the whole image")
    return StoredMap(_depth({name: one.pixels for name, one in file.channels().items()}, channel))


def encode_exr(stored: StoredMap) -> bytes:
    """Write one float channel `Z`, compressed without loss."""
    openexr = _openexr("writing EXR")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    buffer = io.BytesIO()
    openexr.File(header, {"Z": stored.array}).write(buffer)
    return buffer.getvalue()


def _depth(channels: dict[str, npt.NDArray[Any]], wanted: str | None = None) -> npt.NDArray[Any]:
    """The channel asked for; else `Z` by itself; else one of a layer called depth; else the only one there is.

    A Z with an X beside it is the third part of a vector. What is left open is refused.
    """
    if wanted is not None:
        if wanted not in channels:
            raise DepthMapError(f"has no channel {wanted!r}; its channels are {sorted(channels)}")
        return channels[wanted]
    layers = _layers(channels)
    for prefer in (_plain_z, _called_depth, _any_z, _alone):
        found = prefer(layers)
        if len(found) == 1:
            return channels[found[0]]
        if found:
            raise _ambiguous(channels, f"{len(found)} of them may be depth: {sorted(found)}")
    return _gray(channels, layers)


def _layers(channels: dict[str, npt.NDArray[Any]]) -> dict[str, dict[str, str]]:
    """Layer -> last part of a channel's name -> the whole name."""
    layers: dict[str, dict[str, str]] = {}
    for name in channels:
        layer, _, last = name.rpartition(".")
        layers.setdefault(layer, {})[last] = name
    return layers


def _z(parts: dict[str, str]) -> list[str]:
    """The Z of a layer where it is no part of a vector; at most one name."""
    return [] if {"X", "x"} & parts.keys() else [parts[last] for last in ("Z", "z") if last in parts][:1]


def _plain_z(layers: dict[str, dict[str, str]]) -> list[str]:
    return _z(layers.get("", {}))


def _called_depth(layers: dict[str, dict[str, str]]) -> list[str]:
    """Channels called depth, and Z, V, Y or the only channel of a layer called so."""
    found = []
    for layer, parts in layers.items():
        in_depth = bool(_DEPTH.search(layer)) and not _OTHER.search(layer)
        named = [name for last, name in parts.items() if _DEPTH.search(last) and not _OTHER.search(last)]
        level = [] if {"X", "x"} & parts.keys() else [parts[last] for last in ("V", "v", "Y", "y") if last in parts]
        alone = list(parts.values()) if len(parts) == 1 else []
        found += named or ((_z(parts) or level[:1] or alone) if in_depth else [])
    return found


def _any_z(layers: dict[str, dict[str, str]]) -> list[str]:
    return [name for layer, parts in layers.items() if not _OTHER.search(layer) for name in _z(parts)]


def _alone(layers: dict[str, dict[str, str]]) -> list[str]:
    names = [name for parts in layers.values() for name in parts.values()]
    part_of_a_vector = len(names) == 1 and names[0].rpartition(".")[2] in ("A", "a", "X", "x")
    return names if len(names) == 1 and not part_of_a_vector and not _OTHER.search(names[0]) else []


def _gray(channels: dict[str, npt.NDArray[Any]], layers: dict[str, dict[str, str]]) -> npt.NDArray[Any]:
    """R = G = B of the only layer, with A = 1 where there is one."""
    if len(layers) == 1:
        (parts,) = layers.values()
        colours = {last.upper(): name for last, name in parts.items()}
        if colours.keys() in ({"R", "G", "B"}, {"R", "G", "B", "A"}) and not _OTHER.search(next(iter(layers))):
            return one_channel(np.stack([channels[colours[last]] for last in "RGBA" if last in colours], axis=-1))
    raise _ambiguous(channels, "none of them is depth by its name")


def _ambiguous(channels: dict[str, npt.NDArray[Any]], why: str) -> DepthMapError:
    return DepthMapError(
        f"has the channels {sorted(channels)}; {why}. Name the one that is depth (channel=..., --channel), "
        "or export depth as the only channel, or as one named Z"
    )


def _openexr(purpose: str) -> ModuleType:
    try:
        import OpenEXR
    except ImportError as error:
        raise MissingExtraError("OpenEXR", "exr", purpose) from error
    return OpenEXR  # type: ignore[no-any-return]
