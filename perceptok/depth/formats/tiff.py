"""TIFF: integers and floats of 8 to 64 bits, one image, either byte order, any lossless compression.

tifffile reads, because Pillow swaps the bytes of compressed big-endian floats twice. Compressions other than deflate
need its codecs, the extra `tiff`; without them Pillow reads the layouts that it reads correctly.
"""

from __future__ import annotations

import io
import logging
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from perceptok.depth.stored_maps import StoredMap, describe_stack, extract_channel
from perceptok.errors import DepthMapError, MissingExtraError

__all__ = ["count_values_tiff", "decode_tiff", "encode_tiff"]

_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_READABLE = {_UNSIGNED: (8, 16, 32, 64), _SIGNED: (8, 16, 32, 64), _FLOAT: (16, 32, 64)}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _DEPTH = 0, 1, 2, 3, 51177
_LOSSY = {6, 7, 33003, 33004, 33005, 33007, 34712, 34892, 34933, 50001, 50002, 52546}
"""JPEG, JPEG 2000, lossy WebP and similar ones, made for photos."""
_ORIENTATION, _NODATA = 274, 42113
_TURNS = {1: "", 2: "h", 3: "hv", 4: "v", 5: "t", 6: "th", 7: "thv", 8: "tv"}
"""TIFF orientation -> transpose, then flip rows' ends (h), then the rows' order (v)."""

_MAX_DIRECTORIES = 1000
_LOAD = "tifffile.imread(sys.argv[1])"

# tifffile logs what it also raises, and Python prints logs without a handler.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def decode_tiff(data: bytes, *, colours: bool = False) -> StoredMap:
    """Decode a TIFF in the dtype that it stores; the holes that GDAL declares become a mask.

    With `colours`, all its channels without such a mask.
    """
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise DepthMapError("does not begin like a TIFF; give the file the extension of what it is")
    _check_directories(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = [page.aspage() for page in file.pages if not page.aspage().is_reduced]  # overviews of GDAL
        if not pages:
            raise DepthMapError("is cut off before its first image; fetch or export it again")
        if len(pages) != 1:
            shape = (len(pages), *pages[0].shape[:2])
            raise DepthMapError(f"has several pages: {describe_stack(shape, _LOAD)}")
        page = pages[0]
        _check_samples(page)
        _check_not_truncated(page, len(data))
        array = _orient(_read_pixels(page, data), int(page.tags.valueof(_ORIENTATION, 1)))
        nodata = page.tags.valueof(_NODATA)
    if colours:
        return StoredMap(array)
    array = extract_channel(array)
    return StoredMap(array, valid=None if nodata is None else _find_valid(array, str(nodata)))


def encode_tiff(stored: StoredMap) -> bytes:
    """Encode uint8, uint16 or float32, not compressed."""
    buffer = io.BytesIO()
    Image.fromarray(stored.array).save(buffer, "TIFF")
    return buffer.getvalue()


def count_values_tiff(data: bytes) -> int:
    """Values that the header of the largest page declares."""
    _check_directories(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return max((math.prod(page.aspage().shape) for page in file.pages), default=0)


def _check_directories(data: bytes) -> None:
    """Raise DepthMapError where the chain of image directories does not end: tifffile would follow it for minutes."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]  # BigTIFF
    position, pointer, count, entry_size = (8, "Q", "Q", 20) if is_big else (4, "I", "H", 12)
    offsets: set[int] = set()
    try:
        while offset := struct.unpack_from(order + pointer, data, position)[0]:
            if offset in offsets or len(offsets) == _MAX_DIRECTORIES:
                raise DepthMapError("has a chain of images that does not end; fetch or export it again")
            offsets.add(offset)
            (entries,) = struct.unpack_from(order + count, data, offset)
            position = offset + struct.calcsize(order + count) + entry_size * entries
    except struct.error:  # cut off, which decoding reports
        return


def _check_samples(page: Any) -> None:
    bits, kind = page.bitspersample, page.sampleformat
    several = not isinstance(bits, int) or not isinstance(kind, int)
    if several or bits not in _READABLE.get(kind, ()):
        raise DepthMapError(
            f"stores samples of {bits} bits, sample format {kind}; "
            "export one channel of whole bytes: integers or floats, not fewer than 8 bits and not complex"
        )
    if page.compression in _LOSSY:
        raise DepthMapError(
            f"is compressed with loss or as a photo ({page.compression!r}); export with LZW, deflate or no compression"
        )
    if page.photometric == _WHITE_IS_ZERO:
        raise DepthMapError("declares that 0 is white, so its values may be negated; export with 0 as black")
    if page.photometric not in (_BLACK_IS_ZERO, _RGB, _PALETTE, _DEPTH):
        raise DepthMapError(f"holds colours of the type {page.photometric!r}; export one channel, 0 as black")
    if page.imagedepth != 1:
        raise DepthMapError(f"is a volume of {page.imagedepth} images; store one map per file")


def _check_not_truncated(page: Any, length: int) -> None:
    """Raise DepthMapError unless all pixel data lie in the file: tifffile would fill what is missing with zeros."""
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > length:
        raise DepthMapError(f"is cut off after {length} bytes; fetch or export it again")


def _read_pixels(page: Any, data: bytes) -> npt.NDArray[Any]:
    """(H, W) or (H, W, channels), native byte order."""
    try:
        array = page.asarray(maxworkers=1)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        if not _is_safe_in_pillow(page):
            raise MissingExtraError("imagecodecs", "tiff", f"TIFF compressed by {page.compression!r}") from error
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            image.load()
            return np.asarray(image).astype(page.dtype, copy=False)
    if array.ndim == 3 and page.axes == "SYX":
        array = np.moveaxis(array, 0, -1)
    if page.photometric == _PALETTE:
        array = (page.colormap[:, array] >> 8).astype(np.uint8).transpose(1, 2, 0)
    return np.asarray(array).astype(array.dtype.newbyteorder("="), copy=False)


def _is_safe_in_pillow(page: Any) -> bool:
    """Whether Pillow reads these samples correctly."""
    kind = (page.sampleformat, page.bitspersample)
    upright = page.tags.valueof(_ORIENTATION, 1) == 1  # Pillow turns it itself
    plain = page.samplesperpixel == 1 and page.photometric == _BLACK_IS_ZERO and upright
    little = page.parent.byteorder == "<"
    return plain and (kind in ((_UNSIGNED, 8), (_UNSIGNED, 16)) or (kind == (_FLOAT, 32) and little))


def _orient(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    turns = _TURNS.get(orientation)
    if turns is None:
        raise DepthMapError(f"declares the orientation {orientation}; expected 1 to 8, export it again")
    if "t" in turns:
        array = array.swapaxes(0, 1)
    if "h" in turns:
        array = array[:, ::-1]
    return array[::-1] if "v" in turns else array


def _find_valid(array: npt.NDArray[Any], nodata: str) -> npt.NDArray[np.bool_]:
    """True where a pixel is not the number that GDAL declares for holes."""
    try:
        number = float(nodata)
    except ValueError:
        raise DepthMapError(
            f"declares {nodata!r} as the value of holes, which is not a number; export it again"
        ) from None
    if array.dtype.kind != "f":
        if not number.is_integer():  # NaN, or 0.5, which no integer equals
            return np.ones(array.shape, np.bool_)
        # By its digits where possible: 2**63 - 1 is not a float.
        return np.asarray(array != (int(nodata) if nodata.strip("-").isdecimal() else int(number)))
    with np.errstate(over="ignore"):
        return np.asarray(array != array.dtype.type(number))
