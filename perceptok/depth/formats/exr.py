"""OpenEXR, with the extra `exr`: one depth channel, half or float."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from perceptok.depth.stored_maps import StoredMap, extract_channel
from perceptok.errors import DepthMapError, MissingExtraError

__all__ = ["count_values_exr", "decode_exr", "encode_exr"]

_MAX_HEADER = 2**20
"""Bytes at the beginning of a file in which headers are looked for."""

_DEPTH_NAME = re.compile(r"depth", re.IGNORECASE)
_OTHER_NAME = re.compile(
    r"normal|position|\bpoints?\b|vector|velocity|motion|speed|flow|\buv|crypto|mask|alpha|albedo|diffuse|spec|emission"
    r"|shadow|mist|\bfog|noise|variance|sample|weight|\bao\b|index|object|material|\bid\b",
    re.IGNORECASE,
)
"""Layers of a renderer that hold something else, even where one channel of them is the only one."""


def decode_exr(data: bytes, channel: str | None = None, part: str | None = None) -> StoredMap:
    """Decode the channel of a name, or the one that holds depth.

    Args:
        data: The file.
        channel: Name of the channel; by default the one that is depth by its name.
        part: Name or number, from 0, of the part; by default the only one that has a channel of depth.
    """
    openexr = _import_openexr("reading EXR")
    if not data.startswith(b"v/1\x01"):
        raise DepthMapError("does not begin like an EXR; give the file the extension of what it is")
    file = openexr.File(io.BytesIO(data), separate_channels=True)
    if not file.parts:  # OpenEXR prints a warning and drops what it cannot read
        raise DepthMapError("is damaged or cut off; fetch or export it again")
    chosen = _choose_part(file.parts, part, channel)
    header = chosen.header
    if not np.array_equal(header["dataWindow"], header["displayWindow"]):
        raise DepthMapError("stores only a window of its image; export the whole image")
    channels = {name: found.pixels for name, found in chosen.channels.items()}
    if channel is None:
        return StoredMap(_find_depth(channels))
    if channel not in channels:
        raise DepthMapError(f"has no channel {channel!r}; its channels are {sorted(channels)}")
    return StoredMap(channels[channel])


def _choose_part(parts: Sequence[Any], part: str | None, channel: str | None) -> Any:
    """The part of a name or number; else the only part that has the named channel, or one that is depth by its name."""
    if part is not None:
        found = [entry for entry in parts if entry.name() == part]
        if not found and part.isdecimal() and int(part) < len(parts):
            found = [parts[int(part)]]
    elif len(parts) == 1:
        return parts[0]
    else:
        found = [entry for entry in parts if channel in entry.channels or (not channel and _has_depth(entry))]
    if len(found) == 1:
        return found[0]
    listed = "; ".join(
        f"{number}: {entry.name() or 'without a name'} ({', '.join(entry.channels)})"
        for number, entry in enumerate(parts)
    )
    problem = f"has no part {part!r}" if part is not None else f"{len(found)} of its {len(parts)} parts may be depth"
    raise DepthMapError(f"{problem}; name the one that is (part=..., --part), by name or number. Its parts: {listed}")


def _has_depth(part: Any) -> bool:
    """Whether a part has a channel that is depth by its name or that of the part."""
    named = {f"{part.name()}.{name.rpartition('.')[2]}": None for name in part.channels}
    layers = _group_by_layer([*part.channels, *named])
    return any(_find_z(parts) for parts in layers.values()) or bool(_find_named_depth(layers))


def encode_exr(stored: StoredMap) -> bytes:
    """Encode one float channel `Z`, compressed without loss."""
    openexr = _import_openexr("writing EXR")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    buffer = io.BytesIO()
    openexr.File(header, {"Z": stored.array}).write(buffer)
    return buffer.getvalue()


def count_values_exr(data: bytes) -> int:
    """Pixels that the headers of all parts declare."""
    total = 0
    for match in re.finditer(rb"dataWindow\0box2i\0\x10\0\0\0", data[:_MAX_HEADER]):
        left, top, right, bottom = struct.unpack_from("<4i", data, match.end())
        total += int((right - left + 1) * (bottom - top + 1))
    return total


def _find_depth(channels: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """A `Z` without a layer; else a channel or layer called depth; else the only Z; else the only channel; else gray.

    A Z with an X beside it is the third component of a vector. Ambiguous files are refused.
    """
    layers = _group_by_layer(channels)
    any_z = [name for layer, parts in layers.items() if not _OTHER_NAME.search(layer) for name in _find_z(parts)]
    for candidates in (_find_z(layers.get("", {})), _find_named_depth(layers), any_z, _find_only_channel(channels)):
        if len(candidates) == 1:
            return channels[candidates[0]]
        if candidates:
            raise _make_channel_error(channels, f"{len(candidates)} of them may be depth: {sorted(candidates)}")
    if len(layers) == 1:
        ((layer, parts),) = layers.items()
        colours = {last.upper(): name for last, name in parts.items()}
        if colours.keys() in ({"R", "G", "B"}, {"R", "G", "B", "A"}) and not _OTHER_NAME.search(layer):
            array = np.stack([channels[colours[last]] for last in "RGBA" if last in colours], axis=-1)
            try:
                return extract_channel(array)
            except DepthMapError as error:
                if "transparent" in str(error):
                    raise
                filled = [colours[last] for last in "RGB" if np.any(channels[colours[last]] != 0)]
                if len(filled) == 1:
                    raise DepthMapError(
                        f"only its channel {filled[0]} has numbers other than 0; if they are depth, name it "
                        f"(channel='{filled[0]}', --channel {filled[0]})"
                    ) from error
                raise DepthMapError(
                    "its colour channels differ, as those of a rendered image do; if one of them is depth, name it "
                    "(channel='R', --channel R)"
                ) from error
    raise _make_channel_error(channels, "none of them is depth by its name")


def _group_by_layer(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Layer -> last part of a channel's name -> the whole name."""
    layers: dict[str, dict[str, str]] = {}
    for name in names:
        layer, _, last = name.rpartition(".")
        layers.setdefault(layer, {})[last] = name
    return layers


def _find_z(parts: dict[str, str]) -> list[str]:
    """The Z of a layer where it is not a component of a vector; at most one name."""
    return [] if {"X", "x"} & parts.keys() else [parts[last] for last in ("Z", "z") if last in parts][:1]


def _find_named_depth(layers: dict[str, dict[str, str]]) -> list[str]:
    """Channels called depth, and the Z, V, Y or only channel of a layer called depth."""
    found = []
    for layer, parts in layers.items():
        named = [name for last, name in parts.items() if _DEPTH_NAME.search(last) and not _OTHER_NAME.search(last)]
        if not named and _DEPTH_NAME.search(layer) and not _OTHER_NAME.search(layer):
            is_vector = bool({"X", "x"} & parts.keys())
            luminance = [] if is_vector else [parts[last] for last in ("V", "v", "Y", "y") if last in parts]
            named = _find_z(parts) or luminance[:1] or (list(parts.values()) if len(parts) == 1 else [])
        found += named
    return found


def _find_only_channel(channels: dict[str, npt.NDArray[Any]]) -> list[str]:
    if len(channels) != 1:
        return []
    (name,) = channels
    is_component = name.rpartition(".")[2] in ("A", "a", "X", "x")
    return [] if is_component or _OTHER_NAME.search(name) else [name]


def _make_channel_error(channels: dict[str, npt.NDArray[Any]], reason: str) -> DepthMapError:
    return DepthMapError(
        f"has the channels {sorted(channels)}; {reason}. Name the one that is depth (channel=..., --channel), "
        "or export depth as the only channel, or as one named Z"
    )


def _import_openexr(purpose: str) -> ModuleType:
    try:
        import OpenEXR
    except ImportError as error:
        raise MissingExtraError("OpenEXR", "exr", purpose) from error
    return OpenEXR  # type: ignore[no-any-return]
