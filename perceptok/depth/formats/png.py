"""PNG: 8- and 16-bit gray, or 8-bit colour with equal channels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from perceptok.depth.stored_maps import StoredMap, extract_channel
from perceptok.errors import DepthMapError

__all__ = ["count_values_png", "decode_png", "encode_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY = 0
_UP = 2
"""The filter that subtracts the line above."""

_ROWS = 256
"""Lines that are filtered at once."""


def decode_png(data: bytes, *, colours: bool = False) -> StoredMap:
    """Decode a PNG as uint8 or uint16, whichever it stores; with `colours`, all its channels."""
    chunks = _read_chunks(data)
    bits, colour_type = chunks[b"IHDR"][8:10]
    if b"acTL" in chunks:
        raise DepthMapError("is an animated PNG; store one map per file")
    if b"tRNS" in chunks:
        raise DepthMapError(
            "declares a transparent colour; save without transparency, and name the value of holes (invalid=..., "
            "--invalid)"
        )
    if bits < 8:
        raise DepthMapError(f"stores {bits} bits per pixel, too few for depth; export 8- or 16-bit gray")
    if bits == 16 and colour_type != _GRAY:
        # Pillow would silently return the upper 8 bits of each channel.
        raise DepthMapError("stores 16-bit colour or alpha; save one channel of it as 16-bit gray")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.load()
        array = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    if bits == 16:
        return StoredMap(array.astype(np.uint16))
    return StoredMap(array if colours else extract_channel(array))


def encode_png(stored: StoredMap) -> bytes:
    """Encode uint8 or uint16 as gray PNG, by ISA-L's deflate where the extra `isal` is installed."""
    height, width = stored.array.shape
    bits = 8 * stored.array.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, bits, _GRAY, 0, 0, 0)
    compressor = _make_compressor()
    parts = [compressor.compress(rows) for rows in _filter_rows(stored.array)]
    chunks = (b"IHDR", header), (b"IDAT", b"".join([*parts, compressor.flush()])), (b"IEND", b"")
    return _SIGNATURE + b"".join(_make_chunk(*chunk) for chunk in chunks)


def _make_compressor() -> Any:
    try:
        from isal import isal_zlib
    except ImportError:
        # Runs only, no search for earlier strings: a decoded map has hardly any.
        return zlib.compressobj(1, strategy=zlib.Z_RLE)
    return isal_zlib.compressobj(1)


def _filter_rows(array: np.ndarray) -> Iterator[bytes]:
    """The scan lines, some at a time: big-endian bytes minus those of the line above.

    One filter for all lines: to try all five, as Pillow does, takes longer than the compression and saves nothing on
    decoded maps.
    """
    above = np.zeros((1, array.shape[1] * array.dtype.itemsize), np.uint8)
    for start in range(0, len(array), _ROWS):
        rows = np.ascontiguousarray(array[start : start + _ROWS]).astype(array.dtype.newbyteorder(">"), copy=False)
        lines = np.concatenate([above, rows.view(np.uint8)])
        filtered = np.full((len(rows), 1 + lines.shape[1]), _UP, np.uint8)
        np.subtract(lines[1:], lines[:-1], out=filtered[:, 1:])
        above = lines[-1:]
        yield filtered.tobytes()


def _make_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def count_values_png(data: bytes) -> int:
    """Values that the header declares."""
    width, height, _, colour_type = struct.unpack(">IIBB", data[16:26])
    return int(width * height * {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[colour_type])


def _read_chunks(data: bytes) -> dict[bytes, bytes]:
    """Start of the first chunk of each type, all checksums verified: Pillow reads cut and damaged files if it can."""
    if not data.startswith(_SIGNATURE):
        raise DepthMapError("does not begin like a PNG; give the file the extension of what it is")
    view, position = memoryview(data), len(_SIGNATURE)
    chunks: dict[bytes, bytes] = {}
    while b"IEND" not in chunks:
        length = int.from_bytes(view[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            raise DepthMapError(f"is cut off after {len(data)} bytes; fetch or export it again")
        body = view[position + 4 : end - 4]
        if zlib.crc32(body) != int.from_bytes(view[end - 4 : end], "big"):
            raise DepthMapError(f"is damaged: wrong checksum at byte {end - 4}; fetch or export it again")
        chunks.setdefault(bytes(body[:4]), bytes(body[4:20]))
        position = end
    return chunks
