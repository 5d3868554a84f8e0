"""PFM, the portable float map: a text header, then float32 rows from the bottom up.

Format: Paul Debevec, https://www.pauldebevec.com/Research/HDR/PFM/
"""

from __future__ import annotations

import re

import numpy as np

from perceptok.depth.stored_maps import StoredMap, extract_channel
from perceptok.errors import DepthMapError

__all__ = ["decode_pfm", "encode_pfm"]

_HEADER = re.compile(rb"(P[fF])\s+(\d{1,9})\s+(\d{1,9})\s+([-+.0-9eE]{1,40})(?:\r?\n|[ \t])")


def decode_pfm(data: bytes) -> StoredMap:
    """Decode gray (`Pf`) or equal-channel colour (`PF`) as float32; the sign of the scale is the byte order."""
    header = _HEADER.match(data)
    if header is None:
        raise DepthMapError("does not begin like a PFM (`Pf`, width, height, scale); fetch or export it again")
    channels = 3 if header[1] == b"PF" else 1
    width, height, scale = int(header[2]), int(header[3]), float(header[4])
    expected, found = width * height * channels * 4, len(data) - header.end()
    if expected != found:
        raise DepthMapError(
            f"{width}x{height} pixels are {expected} bytes, but {found} follow the header; fetch or export it again"
        )
    if scale == 0:
        raise DepthMapError("declares scale 0, which gives neither byte order nor factor; export it again")
    rows = np.frombuffer(data, "<f4" if scale < 0 else ">f4", offset=header.end())
    array = rows.reshape(height, width, channels)[::-1].astype(np.float32)
    return StoredMap(extract_channel(array), declared_scale=abs(scale))


def encode_pfm(stored: StoredMap) -> bytes:
    """Encode gray, little-endian, scale 1."""
    height, width = stored.array.shape
    return b"Pf\n%d %d\n-1.0\n" % (width, height) + stored.array[::-1].astype("<f4").tobytes()
