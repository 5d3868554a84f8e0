"""Depth that files pack into other numbers: rotated bits, three colours, four bytes of a float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from perceptok.errors import DepthMapError

__all__ = ["Packing", "packed_in_colours", "unpacked"]

Packing = Literal["sunrgbd", "carla24", "rgba_float"]
"""How a file packs its numbers.

"sunrgbd": 16-bit integers rotated to the left by 3 (SUN RGB-D). "carla24": metres as 1000 (R + 256 G + 65536 B) /
(2^24 - 1), 8 bits a channel (CARLA and other driving simulators). "rgba_float": the four bytes of a float32, R the
lowest, as `array.view(numpy.uint8)` gives them on common machines.
"""

_METRES_OF_CARLA = 1000.0


@dataclass(frozen=True)
class _Packing:
    """What a packing needs, in words, how many channels, and how it is undone."""

    needs: str
    fits: Callable[[npt.NDArray[Any]], bool]
    undo: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def _rotated(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    bits = array.astype(np.uint16)
    return np.asarray((bits >> np.uint16(3)) | (bits << np.uint16(13)))


def _carla(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.shape[2] == 4 and np.any(array[..., 3] != 255):
        raise DepthMapError(
            "packing='carla24' has three channels, and an opaque fourth one at most; this one varies: "
            "say packing='rgba_float' if the four hold a float"
        )
    red, green, blue = (array[..., channel].astype(np.float64) for channel in range(3))
    return np.asarray(_METRES_OF_CARLA * (red + 256 * green + 65536 * blue) / (2**24 - 1))


def _float(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array).view("<f4")[..., 0].astype(np.float32)


def _bytes_of(*channels: int) -> Callable[[npt.NDArray[Any]], bool]:
    return lambda array: array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in channels


_PACKINGS: dict[str, _Packing] = {
    "sunrgbd": _Packing(
        "16-bit integers (height, width)",
        lambda array: array.ndim == 2 and array.dtype.newbyteorder("=") == np.uint16,
        _rotated,
    ),
    "carla24": _Packing("8-bit colours (height, width, 3 or 4)", _bytes_of(3, 4), _carla),
    "rgba_float": _Packing("8-bit colours with alpha (height, width, 4)", _bytes_of(4), _float),
}


def packed_in_colours(packing: Packing | None) -> bool:
    """Whether a map is read with all its channels; raises DepthMapError for an unknown packing."""
    if packing is not None and packing not in get_args(Packing):
        raise DepthMapError(f"packing is {packing!r}; expected one of {', '.join(get_args(Packing))}")
    return packing in ("carla24", "rgba_float")


def unpacked(array: npt.NDArray[Any], packing: Packing) -> npt.NDArray[Any]:
    """The numbers that a map packs: uint16 (sunrgbd), float64 metres (carla24) or float32 (rgba_float), (H, W).

    Raises:
        DepthMapError: There is no such packing, or the array is not of its kind.
    """
    packed_in_colours(packing)
    chosen = _PACKINGS[packing]
    if not chosen.fits(array):
        raise DepthMapError(
            f"packing={packing!r} is for {chosen.needs}; this is {array.dtype} {array.shape}: "
            "name another packing, or none"
        )
    return chosen.undo(array)
