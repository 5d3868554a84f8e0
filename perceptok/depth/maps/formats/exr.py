"""OpenEXR, with the extra `exr`: one depth channel, half or float."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from perceptok.depth.maps.formats.stored import StoredMap, one_channel
from perceptok.errors import DepthMapError, MissingExtraError

__all__ = ["decode", "encode"]

_DEPTH_NAMES = {"z", "depth"}


def decode(data: bytes) -> StoredMap:
    """Read the only channel, the one named Z or depth (in any layer), or equal R, G and B."""
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
    return StoredMap(_depth({name: channel.pixels for name, channel in file.channels().items()}))


def encode(stored: StoredMap) -> bytes:
    """Write one float channel `Z`, compressed without loss."""
    openexr = _openexr("writing EXR")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    buffer = io.BytesIO()
    openexr.File(header, {"Z": stored.array}).write(buffer)
    return buffer.getvalue()


def _depth(channels: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if len(channels) == 1:
        return next(iter(channels.values()))
    named = [name for name in channels if _DEPTH_NAMES & set(name.lower().split("."))]
    if len(named) == 1:
        return channels[named[0]]
    colours = sorted(channels)
    if [name.split(".")[-1] for name in colours] == ["B", "G", "R"]:
        return one_channel(np.stack([channels[name] for name in colours], axis=-1))
    raise DepthMapError(f"has the channels {colours}; export depth as the only channel, or as one named Z")


def _openexr(purpose: str) -> ModuleType:
    try:
        import OpenEXR
    except ImportError as error:
        raise MissingExtraError("OpenEXR", "exr", purpose) from error
    return OpenEXR  # type: ignore[no-any-return]
