"""The numbers that a depth map file stores, and what they mean: packing, kind, unit, holes and sky."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from perceptok.errors import DepthMapError

__all__ = [
    "MAX_PIXELS",
    "Kind",
    "Packing",
    "Sky",
    "StoredMap",
    "Unit",
    "check_kind",
    "describe_stack",
    "extract_channel",
    "interpret_numbers",
    "is_packed_in_colours",
    "squeeze",
    "to_file_numbers",
    "unpack",
]

MAX_PIXELS = 2**27
"""Default limit of one file: 134 million, 0.5 GB as float32; 11,585 x 11,585."""

Kind = Literal["inverse", "metric", "relative"]
"""`"metric"`: depth with a unit, larger = farther. `"inverse"`: relative inverse depth, larger = nearer. `"relative"`:
depth without a unit, linear, larger = farther."""


def check_kind(kind: str) -> None:
    """Raise DepthMapError for anything but the three kinds."""
    if kind not in ("inverse", "metric", "relative"):
        raise DepthMapError(
            f"kind is {kind!r}; expected 'metric' (depth, larger = farther), 'inverse' (larger = nearer) or "
            "'relative' (without a unit, larger = farther)"
        )


@dataclass(frozen=True, eq=False)
class StoredMap:
    """The numbers of a file in the file's own dtype, and what the file states about them.

    Attributes:
        array: (H, W), any real dtype.
        valid: (H, W) bool where the file carries a mask, else None.
        kind: Where the file states it, else None. Such a file holds metres, relative depth or relative inverse depth.
        sky: (H, W) bool where the file marks what is infinitely far, else None.
        declared_scale: A factor that the file declares and that readers of the format disagree about (PFM).
        largest: The largest number that the file's packing can hold, where it has one.
        warnings: What is odd about the numbers, in words.
    """

    array: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None
    kind: Kind | None = None
    sky: npt.NDArray[np.bool_] | None = None
    declared_scale: float = 1.0
    largest: float | None = None
    warnings: tuple[str, ...] = ()


def extract_channel(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Reduce an image (H, W) or (H, W, 1..4) whose colour channels are equal and whose alpha is opaque to (H, W).

    Opaque is the largest number of an integer type, and 1 of floats.

    Raises:
        DepthMapError: The colour channels differ or a pixel is transparent.
    """
    if array.ndim == 2:
        return array
    channels = array.shape[2]
    if channels > 4:
        raise DepthMapError(f"has {channels} channels; a depth map has one: export it alone")
    opaque = 1.0 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    if channels in (2, 4) and not np.all(array[..., -1] == opaque):
        raise DepthMapError(
            "some pixels are transparent, which says nothing certain about their depth; "
            "save the map without alpha and mark holes by a value (invalid=..., --invalid), or, if the four channels "
            "are the bytes of a float, say so (packing='rgba_float' or 'bgra_float', --packing)"
        )
    if channels >= 3 and not all(
        np.array_equal(array[..., 0], array[..., channel], equal_nan=array.dtype.kind == "f") for channel in (1, 2)
    ):
        raise DepthMapError(
            "its colour channels differ: this is a colour-mapped image of depth, or a photo, and colours "
            "do not give depth values back; export the map itself (16-bit gray PNG, NPY, TIFF, PFM or EXR). "
            "Depth packed in colours is read when the packing is named (packing=..., --packing): carla24 is "
            "(R + 256 G + 65536 B) / 16777215 * 1000 metres, bgr24 the same integers without a unit, rgb24 65536 R + "
            "256 G + B (RLBench), rgba_float and bgra_float (TartanAir V2) the bytes of a float"
        )
    return np.ascontiguousarray(array[..., 0])


def describe_stack(shape: Sequence[int], load: str) -> str:
    """Say that an array is not one map; for a stack of maps (T, H, W) with the command that stores it as a clip.

    Args:
        shape: Of the array.
        load: Python that loads the array of the file `sys.argv[1]`. SOURCE and FOLDER of the command are filled in.
    """
    reason = f"holds an array of shape {tuple(shape)}; a depth map has two dimensions, (height, width)"
    if len(shape) != 3 or min(shape) == 0:
        return f"{reason}: store one map per file"
    if shape[2] <= 4:
        return f"{reason}: store one of its {shape[2]} channels alone"
    module = load.partition(".")[0]
    modules = "numpy, os, sys" if module == "numpy" else f"numpy, os, sys, {module}"
    return (
        f"{reason}: store its {shape[0]} maps in a folder, as frames of a clip if they are (--sequence): "
        f'python -c "import {modules}; os.makedirs(sys.argv[2]); '
        f"[numpy.save(f'{{sys.argv[2]}}/{{i:06d}}.npy', m) for i, m in enumerate({load})]\" SOURCE FOLDER"
    )


def squeeze(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Remove the axes of length 1 of an array if two others are left; any other array is returned as it is."""
    if array.ndim > 2 and sum(side != 1 for side in array.shape) == 2:
        return array.reshape([side for side in array.shape if side != 1])
    return array


Unit = Literal["mm", "cm", "m"]
Sky = Literal["far", "hole"]
"""What +infinity in metric and relative depth means: infinitely far, or nothing known."""

Packing = Literal["sunrgbd", "carla24", "rgb24", "bgr24", "rgba_float", "bgra_float"]
"""How a file packs its numbers.

"sunrgbd": 16-bit integers rotated to the left by 3 (SUN RGB-D). "carla24": metres as 1000 (R + 256 G + 65536 B) /
(2^24 - 1), 8 bits a channel (CARLA and other driving simulators). "rgb24": integers 65536 R + 256 G + B (RLBench, whose
metres are near + (far - near) / (2^24 - 1) times the integer). "bgr24": integers R + 256 G + 65536 B. "rgba_float": the
four bytes of a float32, R the lowest, as `array.view(numpy.uint8)` gives them on common machines. "bgra_float": the
same with B the lowest and R the third, as OpenCV writes them (TartanAir V2).
"""

_METRES_PER_UNIT = {"mm": 0.001, "cm": 0.01, "m": 1.0}
_FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
_CARLA_METRES = 1000.0


@dataclass(frozen=True)
class _PackingRule:
    """The arrays that a packing is for, in words and as a test, how it is undone, and the largest number it holds."""

    expected: str
    fits: Callable[[npt.NDArray[Any]], bool]
    unpack: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    largest: float | None = None


def _rotate_back(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    bits = array.astype(np.uint16)
    return np.asarray((bits >> np.uint16(3)) | (bits << np.uint16(13)))


def _unpack_24_bits(array: npt.NDArray[Any], *, highest: int) -> npt.NDArray[Any]:
    """Integers of three bytes as uint32; `highest` is the channel of the highest byte, 0 (R) or 2 (B)."""
    if array.shape[2] == 4 and np.any(array[..., 3] != 255):
        raise DepthMapError(
            "this packing has three channels and at most an opaque fourth; in this file the fourth varies: "
            "say packing='rgba_float' or 'bgra_float' (--packing rgba_float or bgra_float) if the four hold a float"
        )
    high, middle, low = (array[..., channel].astype(np.uint32) for channel in (highest, 1, 2 - highest))
    return np.asarray((high << np.uint32(16)) | (middle << np.uint32(8)) | low)


def _unpack_carla(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(_CARLA_METRES * _unpack_24_bits(array, highest=2).astype(np.float64) / (2**24 - 1))


def _unpack_float(array: npt.NDArray[Any], *, order: tuple[int, ...] = (0, 1, 2, 3)) -> npt.NDArray[Any]:
    """Floats of four bytes; `order` has the channels from the lowest byte to the highest."""
    return np.ascontiguousarray(array[..., list(order)]).view("<f4")[..., 0].astype(np.float32)


def _has_8_bit_channels(*counts: int) -> Callable[[npt.NDArray[Any]], bool]:
    return lambda array: array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in counts


_COLOURS, _COLOURS_AND_ALPHA = "8-bit colours (height, width, 3 or 4)", "8-bit colours with alpha (height, width, 4)"
_PACKINGS: dict[str, _PackingRule] = {
    "sunrgbd": _PackingRule(
        "16-bit integers (height, width)",
        lambda array: array.ndim == 2 and array.dtype.newbyteorder("=") == np.uint16,
        _rotate_back,
    ),
    "carla24": _PackingRule(_COLOURS, _has_8_bit_channels(3, 4), _unpack_carla, _CARLA_METRES),
    "rgb24": _PackingRule(_COLOURS, _has_8_bit_channels(3, 4), partial(_unpack_24_bits, highest=0), 2**24 - 1),
    "bgr24": _PackingRule(_COLOURS, _has_8_bit_channels(3, 4), partial(_unpack_24_bits, highest=2), 2**24 - 1),
    "rgba_float": _PackingRule(_COLOURS_AND_ALPHA, _has_8_bit_channels(4), _unpack_float),
    "bgra_float": _PackingRule(_COLOURS_AND_ALPHA, _has_8_bit_channels(4), partial(_unpack_float, order=(2, 1, 0, 3))),
}


def is_packed_in_colours(packing: Packing | None) -> bool:
    """Whether a map is read with all its channels; raises DepthMapError for an unknown packing."""
    if packing is not None and packing not in get_args(Packing):
        raise DepthMapError(f"packing is {packing!r}; expected one of {', '.join(get_args(Packing))}")
    return packing not in (None, "sunrgbd")


def unpack(stored: StoredMap, packing: Packing) -> StoredMap:
    """Unpack the numbers of a map, (H, W).

    uint16 (sunrgbd), float64 metres (carla24), uint32 (rgb24, bgr24) or float32 (rgba_float, bgra_float).

    Raises:
        DepthMapError: The array does not fit the packing.
    """
    rule, array = _PACKINGS[packing], stored.array
    if not rule.fits(array):
        raise DepthMapError(
            f"packing={packing!r} is for {rule.expected}; this is {array.dtype} {array.shape}: "
            "name another packing, or none"
        )
    numbers = rule.unpack(array)
    return replace(stored, array=numbers, largest=rule.largest, warnings=_compare_packings(array, numbers, packing))


_OTHER_ORDER: dict[str, Packing] = {
    "carla24": "rgb24",
    "bgr24": "rgb24",
    "rgb24": "bgr24",
    "rgba_float": "bgra_float",
    "bgra_float": "rgba_float",
}
_MIN_SMOOTHNESS = 3.0
"""Neighbours that differ so many times less by the packing of the other order show that the order is wrong."""


def _compare_packings(array: npt.NDArray[Any], numbers: npt.NDArray[Any], packing: Packing) -> tuple[str, ...]:
    """Warn where the packing of the other order of channels gives a far smoother map: a wrong order gives noise."""
    other = _OTHER_ORDER.get(packing)
    if other is None or min(array.shape[:2]) < 2:
        return ()
    roughness = _measure_roughness(numbers)
    if roughness <= _MIN_SMOOTHNESS * _measure_roughness(_PACKINGS[other].unpack(array)):
        return ()
    name = "bgr24 or carla24" if other == "bgr24" else other
    return (f"neighbouring pixels differ far less with another order of channels; is its packing {name} (--packing)?",)


def _measure_roughness(numbers: npt.NDArray[Any]) -> float:
    """Mean difference of pixels side by side in the middle nine tenths of the range, as a share of it, 0..1."""
    with np.errstate(all="ignore"):
        values = np.nan_to_num(numbers.astype(np.float64), posinf=float(np.finfo(np.float32).max), neginf=0)
        low, high = np.percentile(values, (5, 95))
        return float(np.abs(np.diff(np.clip(values, low, high), axis=1)).mean() / (high - low)) if high > low else 0.0


def interpret_numbers(
    stored: StoredMap,
    *,
    kind: Kind | None,
    unit: Unit | None,
    scale: float | None,
    invalid: Sequence[float],
    sky: Sky,
    sky_values: Sequence[float],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], Kind, npt.NDArray[np.bool_] | None, tuple[str, ...]]:
    """Compute the fields of a `DepthMap` from the numbers of a file, by the arguments of `DepthMap.read`."""
    if sky not in get_args(Sky):
        raise DepthMapError(f"sky is {sky!r}; expected one of {', '.join(get_args(Sky))}")
    stored = replace(stored, array=squeeze(stored.array), valid=None if stored.valid is None else squeeze(stored.valid))
    array = stored.array
    if array.ndim != 2 or array.dtype.kind not in "uif":
        raise DepthMapError(
            f"a depth map is a (height, width) array of integers or floats, not {array.dtype} {array.shape}; "
            "pass one map"
        )
    kind = _agree_on_kind(stored, kind, unit, scale)
    valid = _find_valid(stored, kind, invalid)
    far = _find_sky(stored, kind, valid, invalid, sky, sky_values)
    valid &= ~far
    warnings = (*stored.warnings, *_find_marks(array, valid, kind, stored.largest))
    with np.errstate(over="ignore"):  # DepthMap refuses what does not fit float32
        if stored.kind is not None:
            numbers = array
        elif kind == "metric":
            _refuse_negative(array, valid)
            numbers = array * np.float64(_find_metres_per_value(unit, scale))
        elif scale is not None:
            numbers = array * np.float64(_check_positive(scale))
        else:
            # Whatever the byte order of the array.
            numbers = array / np.float64(_FULL_SCALE.get(array.dtype.newbyteorder("="), 1.0))
        values = numbers.astype(np.float32)
    values[~valid] = 0
    return values, valid, kind, far if far.any() else None, warnings


_MARK_SHARE, _MARK_JUMP, _MARK_GAP, _MIN_MARKED_PIXELS = 0.001, 3.0, 0.05, 64
"""A number at the end of a map's numbers may mark holes or sky if at least the first share of the pixels hold it,
and it lies further from the others than the second times their range. Further than the third is enough for the only
negative number, and for the largest number of an integer type, which in metric maps may lie at any distance. Maps of
fewer pixels than the fourth are not searched."""


_FULL_SCALES = {float(2**bits - 1): f"the largest number of {bits} bits" for bits in (15, 16, 24, 31, 32)}
"""Largest numbers of integers, which mark holes in wider integers and floats that such files were converted to."""


def _find_marks(
    array: npt.NDArray[Any], valid: npt.NDArray[np.bool_], kind: Kind, packing_largest: float | None
) -> tuple[str, ...]:
    """Warn of frequent numbers at the ends of a map's numbers that seem to mark holes or sky, such as 65535 or 1e10."""
    seen = array if valid.all() else array[valid]
    if seen.size < _MIN_MARKED_PIXELS:
        return ()
    low, high = seen.min(), seen.max()
    found: list[str] = []
    for mark in (high, low) if low < 0 or kind == "metric" else (high,):
        others = seen[seen != mark]
        if not others.size or (share := 1 - others.size / seen.size) < _MARK_SHARE:
            continue
        nearest = float(others.max() if mark == high else others.min())
        extent = float(others.max()) - float(others.min())
        gap = abs(float(mark) - nearest)
        if mark == low > 0:  # of a small number, as 1 mm, the inverse is far from all others
            gap, extent = 1 / float(mark) - 1 / nearest, 1 / nearest - 1 / float(others.max())
        is_largest = False
        if array.dtype.kind in "ui" and mark == np.iinfo(array.dtype).max:
            is_largest, place = True, f"the largest number of {array.dtype}"
        elif mark == packing_largest:
            is_largest, place = True, "the largest number that the packing holds"
        elif mark == high and array.dtype.itemsize > 1 and (scale := _FULL_SCALES.get(float(mark))):
            is_largest, place = True, scale
        is_negative_alone = mark < 0 <= float(others.min()) and gap > _MARK_GAP * extent
        is_isolated = extent > 0 and (gap > _MARK_JUMP * extent or is_negative_alone)
        if is_isolated or (is_largest and (kind == "metric" or gap > _MARK_GAP * extent)):
            place = place if is_largest else f"while all others {'end' if mark == high else 'begin'} at {nearest:g}"
            number = f"{mark:.10g}"
            found.append(
                f"{share:.1%} of the pixels hold {number}, {place}; if it marks holes, say so (invalid=[{number}], "
                f"--invalid {number}), if sky, too (sky_values=[{number}], --sky-value {number})"
            )
    return tuple(found)


def _agree_on_kind(stored: StoredMap, kind: Kind | None, unit: Unit | None, scale: float | None) -> Kind:
    if kind is not None:
        check_kind(kind)
    if stored.kind is not None:
        check_kind(stored.kind)
        if kind not in (None, stored.kind):
            raise DepthMapError(f"says that it is {stored.kind}, but kind={kind!r} was asked for; leave kind out")
        if unit is not None or scale is not None:
            raise DepthMapError("says its own unit; leave out unit and scale")
        return stored.kind
    if kind is None:
        raise DepthMapError(
            "does not say its kind; say kind='metric' with unit or scale (larger = farther), "
            "kind='inverse' (larger = nearer), or kind='relative' (without a unit, larger = farther) (--kind)"
        )
    if kind != "metric" and unit is not None:
        raise DepthMapError(f"unit={unit!r} is for metric depth; {kind} depth is relative, leave unit out")
    if stored.declared_scale != 1 and scale is None:
        raise DepthMapError(
            f"declares the scale {stored.declared_scale}, by which some readers multiply, others divide, and "
            "most do neither; say scale=... (--scale: the factor from the stored numbers; 1.0 keeps them)"
        )
    return kind


def _find_valid(stored: StoredMap, kind: Kind, invalid: Sequence[float]) -> npt.NDArray[np.bool_]:
    array = stored.array
    valid: npt.NDArray[np.bool_] = np.isfinite(array)
    if kind == "metric":
        valid &= array != 0
    for value in invalid:
        valid &= ~_mark_equal(array, value)
    if stored.valid is not None:
        if stored.valid.shape != array.shape or stored.valid.dtype != np.bool_:
            raise DepthMapError(
                f"the mask is {stored.valid.dtype} {stored.valid.shape}; expected bool {array.shape}, False at holes"
            )
        valid &= stored.valid
    return valid


def _find_sky(
    stored: StoredMap,
    kind: Kind,
    valid: npt.NDArray[np.bool_],
    invalid: Sequence[float],
    sky: Sky,
    sky_values: Sequence[float],
) -> npt.NDArray[np.bool_]:
    """True where the map is infinitely far and not marked as a hole."""
    array = stored.array
    far = np.zeros(array.shape, np.bool_)
    if both := set(invalid) & set(sky_values):
        raise DepthMapError(f"{min(both):g} is declared to mark both holes and sky; name it once")
    for value in sky_values:
        far |= valid & _mark_equal(array, value)
    if sky == "hole":
        return np.zeros_like(far)
    if stored.sky is not None:
        if stored.sky.shape != array.shape or stored.sky.dtype != np.bool_:
            raise DepthMapError(f"the sky is {stored.sky.dtype} {stored.sky.shape}; expected bool {array.shape}")
        far |= stored.sky
    elif array.dtype.kind == "f" and kind != "inverse" and math.inf not in invalid:
        known = True if stored.valid is None else stored.valid
        far |= np.isposinf(array) & known
    return far


def _mark_equal(array: npt.NDArray[Any], value: float) -> npt.NDArray[np.bool_]:
    with np.errstate(over="ignore"):
        # -9999.99 in a float32 file is not the -9999.99 of Python, but its float32.
        return np.asarray(array == (array.dtype.type(value) if array.dtype.kind == "f" else value))


def _find_metres_per_value(unit: Unit | None, scale: float | None) -> float:
    if unit is not None and scale is not None:
        raise DepthMapError(f"unit={unit!r} and scale={scale} say the same thing twice; give one of them")
    if unit is not None:
        if unit not in _METRES_PER_UNIT:
            raise DepthMapError(f"unit is {unit!r}; expected one of {', '.join(_METRES_PER_UNIT)}")
        return _METRES_PER_UNIT[unit]
    if scale is None:
        raise DepthMapError(
            "metric depth without a unit; say unit='mm', 'cm' or 'm', or scale=... (metres per value) (--unit, --scale)"
        )
    return _check_positive(scale)


def _check_positive(scale: float) -> float:
    if not (scale > 0 and np.isfinite(scale)):
        raise DepthMapError(f"scale is {scale}; expected a positive number")
    return scale


def _refuse_negative(array: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
    if array.dtype.kind == "u":
        return
    negative = valid & (array < 0)
    if negative.any():
        raise DepthMapError(
            f"{np.count_nonzero(negative)} pixels of metric depth are negative, such as {array[negative][0]}; "
            "name the number that marks holes (invalid=..., --invalid), or say kind='inverse' (--kind inverse) if "
            "larger is nearer"
        )


def to_file_numbers(
    values: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    kind: Kind,
    *,
    unit: Unit | None,
    scale: float | None,
    bits: int,
    sky: npt.NDArray[np.bool_] | None,
) -> npt.NDArray[Any]:
    """The numbers that `DepthMap.write` stores: uint8, uint16, or float32 with NaN as holes and infinity as sky."""
    if sky is not None and (bits != 32 or kind == "inverse"):
        raise DepthMapError(
            f"{np.count_nonzero(sky)} pixels are sky, which these numbers cannot mark; write NPZ, or depth in a float "
            "format, or read the map with sky='hole'"
        )
    if kind == "metric":
        if unit is None and scale is None:
            unit = "m" if bits == 32 else "mm"
        numbers = values / np.float64(_find_metres_per_value(unit, scale))
    elif unit is not None or scale is not None:
        raise DepthMapError(f"unit and scale are for metric maps; leave them out for {kind} ones")
    else:
        numbers = values.astype(np.float64)
    if bits == 32:
        floats = _to_floats(numbers, valid, kind)
        if sky is not None:
            floats[sky] = np.inf
        return floats
    return _to_integers(numbers, valid, bits) if kind == "metric" else _to_levels(numbers, valid, kind, bits)


def _to_floats(numbers: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], kind: Kind) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        floats = np.where(valid, numbers, np.nan).astype(np.float32)
    lost = valid & ~np.isfinite(floats)
    if kind == "metric":
        lost |= valid & (floats <= 0)
    if lost.any():
        raise DepthMapError(f"{np.count_nonzero(lost)} values do not fit float32 in this unit; choose another one")
    return floats


def _to_levels(
    numbers: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], kind: Kind, bits: int
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Values in [0, 1] as all the levels of an integer type."""
    if not valid.all():
        end = "farthest" if kind == "inverse" else "nearest"
        raise DepthMapError(
            f"{np.count_nonzero(~valid)} pixels are holes, which integers cannot mark in {kind} maps, as 0 means "
            f"{end}; write NPZ or a float format, or fill them by to_nearness() first"
        )
    if numbers.min() < 0 or numbers.max() > 1:
        raise DepthMapError(
            f"integers hold {kind} maps in [0, 1]; this goes from {numbers.min()} to {numbers.max()}; "
            "write NPZ or a float format, or the values of to_nearness()"
        )
    return np.asarray(np.rint(numbers * (2**bits - 1)), dtype=f"u{bits // 8}")


def _to_integers(
    numbers: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], bits: int
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Metric depth as integers of its unit, 0 at holes."""
    largest = 2**bits - 1
    rounded = np.where(valid, np.rint(numbers), 0)
    if rounded.max() > largest:
        raise DepthMapError(
            f"the largest value is {rounded.max():.0f} in this unit, but {bits} bits hold at most {largest}; "
            "choose a coarser unit or scale, or a float format"
        )
    if np.any(valid & (rounded == 0)):
        raise DepthMapError(
            f"{np.count_nonzero(valid & (rounded == 0))} valid pixels would round to 0, which marks holes; "
            "choose a finer unit or scale, or a float format"
        )
    return np.asarray(rounded, dtype=f"u{bits // 8}")
