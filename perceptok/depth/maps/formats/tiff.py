"""TIFF: 8- and 16-bit unsigned integers and float32, one page."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.TiffTags import TAGS_V2

from perceptok.depth.maps.formats.stored import StoredMap, one_channel
from perceptok.errors import DepthMapError

__all__ = ["decode", "encode"]

_TAG = {info.name: tag for tag, info in TAGS_V2.items()}
_UNSIGNED, _FLOAT = 1, 3
_READABLE = {
    ((8,), _UNSIGNED): np.uint8,
    ((8, 8, 8), _UNSIGNED): np.uint8,
    ((8, 8, 8, 8), _UNSIGNED): np.uint8,
    ((16,), _UNSIGNED): np.uint16,
    ((32,), _FLOAT): np.float32,
}


def decode(data: bytes) -> StoredMap:
    """Read a TIFF as uint8, uint16 or float32, whichever it stores."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise DepthMapError("does not begin like a TIFF; give the file the extension of what it is")
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        if getattr(image, "n_frames", 1) != 1:
            raise DepthMapError("has several pages; store one map per file")
        bits = tuple(tags.get(_TAG["BitsPerSample"], (1,)))
        sample_format = tags.get(_TAG["SampleFormat"], (_UNSIGNED,))[0]
        if (bits, sample_format) not in _READABLE:
            raise DepthMapError(
                f"stores samples of {bits} bits, sample format {sample_format} (Pillow mode {image.mode}); "
                "export one channel of 8- or 16-bit unsigned integers or float32"
            )
        if tags.get(_TAG["PhotometricInterpretation"]) == 0:
            raise DepthMapError("declares that 0 is white, so that its values may be negated; export with 0 as black")
        image.load()
        plain = image.convert("RGB") if image.mode == "P" else image
        array = np.asarray(plain).astype(_READABLE[bits, sample_format], copy=False)
    return StoredMap(one_channel(array))


def encode(stored: StoredMap) -> bytes:
    """Write uint8, uint16 or float32, not compressed."""
    buffer = io.BytesIO()
    Image.fromarray(stored.array).save(buffer, "TIFF")
    return buffer.getvalue()
