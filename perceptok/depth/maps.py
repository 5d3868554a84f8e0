"""Depth maps: metric depth or relative inverse depth, from files and arrays, to nearness and back."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from perceptok.depth.formats.registry import Format, find_format, read_mask, read_stored
from perceptok.depth.stored_maps import (
    MAX_PIXELS,
    Kind,
    Packing,
    Sky,
    StoredMap,
    Unit,
    check_kind,
    interpret_numbers,
    is_packed_in_colours,
    to_file_numbers,
    unpack,
)
from perceptok.errors import ConfigError, DepthMapError
from perceptok.files import atomic_write

__all__ = ["DepthMap", "Nearness", "NearnessRange", "RangeOutliers", "invert_scale"]

Mode = Literal["extremes", "percentiles", "fixed", "whole", "running"]

_SKY_FACTOR = 2.0
"""The sky of a metric map is put at this many times its farthest distance, where its own pixels decide the range."""

_SKY_OFFSET = 0.125
"""The sky of a relative map, which has no distances, is put beyond its far end by this fraction of its range."""

_OUTLIER_FRACTION = 0.001
_OUTLIER_INFLUENCE = 0.25
"""Fewer than this fraction of the pixels that decide more than this fraction of the range are reported."""

_MAX_CLAMPED = 0.05
"""A larger share of pixels beyond the range is reported."""


def invert_scale(values: Any, kind: Kind) -> Any:
    """Convert a map's values to a scale that nearness is linear in, larger = nearer, or back: it is its own inverse.

    Metric depth becomes inverse depth, relative depth changes its sign, inverse depth is unchanged.
    """
    if kind == "inverse":
        return values
    return 1.0 / values if kind == "metric" else -values


@dataclass(frozen=True)
class NearnessRange:
    """Which values of a map become nearness 0 and 1; values beyond the range are clamped.

    `NearnessRange()` is the map's own extremes: right for exact and estimated maps, but one stuck pixel of a sensor
    changes it.

    Attributes:
        mode: "extremes"; "percentiles" `low` and `high` of nearness, which a few wrong pixels cannot move; "fixed":
            `near` and `far` in the map's unit, the same for every map of a rig and comparable between them; "whole":
            the map holds nearness (inverse) or 1 - nearness (relative) already, such as AURORA's 8-bit maps; "running":
            each frame of a clip moves the range by `rate` of the way to its own percentiles `low` and `high`.
        low: Percentile of nearness, 0..100, that becomes 0.
        high: Percentile that becomes 1.
        near: What becomes 1: metres in metric maps, a value of the map in others.
        far: What becomes 0.
        rate: In (0, 1].

    Raises:
        ConfigError: Values that the mode needs are missing, out of order, or given without it.
    """

    mode: Mode = "extremes"
    low: float | None = None
    high: float | None = None
    near: float | None = None
    far: float | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"the range is one of {', '.join(get_args(Mode))}; got {self.mode!r}")
        percentiles, ends = (self.low, self.high), (self.near, self.far)
        for modes, values, names in (
            (("percentiles", "running"), percentiles, "low and high"),
            (("fixed",), ends, "near and far"),
            (("running",), (self.rate,), "a rate"),
        ):
            if None in values if self.mode in modes else any(value is not None for value in values):
                known = " and ".join(repr(mode) for mode in modes)
                raise ConfigError(f"{names} belong to the range {known}, all of them; got {values} with {self.mode!r}")
        if self.rate is not None and not 0 < self.rate <= 1:
            raise ConfigError(f"the rate of a running range is in (0, 1], such as 0.02; got {self.rate}")
        if self.low is not None and self.high is not None and not 0 <= self.low < self.high <= 100:
            raise ConfigError(f"percentiles are {percentiles}; expected 0 <= low < high <= 100, such as (2, 98)")
        if not all(math.isfinite(end) for end in ends if end is not None):
            raise ConfigError(f"near and far must be finite; got {ends}")

    @classmethod
    def of_percentiles(cls, low: float, high: float) -> NearnessRange:
        """Percentiles of nearness in 0..100, such as 2 and 98."""
        return cls("percentiles", low=low, high=high)

    @classmethod
    def fixed(cls, near: float, far: float) -> NearnessRange:
        """A near and a far end, in metres for metric maps."""
        return cls("fixed", near=near, far=far)

    @classmethod
    def running(cls, rate: float, low: float = 1.0, high: float = 99.0) -> NearnessRange:
        """Percentiles of nearness that slowly follow the frames of a clip, for `encode_sequence`."""
        return cls("running", low=low, high=high, rate=rate)

    @classmethod
    def whole(cls) -> NearnessRange:
        """For maps that hold nearness already."""
        return cls("whole")

    def __str__(self) -> str:
        numbers = (self.rate, self.low, self.high, self.near, self.far)
        return " ".join([self.mode, *(repr(float(number)) for number in numbers if number is not None)])

    @classmethod
    def parse(cls, text: str) -> NearnessRange:
        """The inverse of `str(range)`; raises ConfigError."""
        mode, *words = text.split() or [""]
        try:
            numbers = [float(word) for word in words]
            if mode == "percentiles":
                return cls.of_percentiles(*numbers)
            if mode == "running":
                return cls.running(*numbers)
            return cls.fixed(*numbers) if mode == "fixed" else cls(mode, *numbers)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{text!r} is not a valid range ({error})") from error

    def resolve(self, seen: npt.NDArray[np.float32], kind: Kind, *, sky: bool) -> tuple[float, float]:
        """What nearness 1 and nearness 0 stand for in a map, in its unit.

        Args:
            seen: (N,) values of its valid pixels.
            kind: Its kind.
            sky: Whether it has pixels that are infinitely far; where the map itself decides, they lie beyond it.

        Raises:
            DepthMapError: No pixel is valid, the range does not fit the kind, or the values are not in it ("whole").
        """
        if self.mode == "fixed":
            assert self.near is not None
            assert self.far is not None
            _check_ends(self.near, self.far, kind)
            return self.near, self.far
        if self.mode == "running":
            raise DepthMapError("a running range is for the frames of a clip (encode_sequence, --sequence)")
        if seen.size == 0:
            raise DepthMapError(
                "nothing but sky: no pixel has a distance; give a fixed range (near and far, --near and --far)"
            )
        if self.mode == "whole":
            return _resolve_whole(seen, kind)
        low, high = (0.0, 100.0) if self.low is None or self.high is None else (self.low, self.high)
        if (low, high) == (0.0, 100.0):
            smallest, largest = float(seen.min()), float(seen.max())
        else:
            percentiles = (low, high) if kind == "inverse" else (100 - high, 100 - low)
            smallest, largest = (float(end) for end in np.percentile(seen.astype(np.float64), percentiles))
        if kind == "inverse":
            return largest, smallest
        if not sky:
            return smallest, largest
        if kind == "metric":
            return smallest, _SKY_FACTOR * largest
        return smallest, largest + (_SKY_OFFSET * (largest - smallest) or 1.0)


def _check_ends(near: float, far: float, kind: Kind) -> None:
    if not {"metric": 0 < near < far, "relative": near < far, "inverse": far < near}[kind]:
        expected = {"metric": "0 < near < far, in metres", "relative": "near < far", "inverse": "far < near"}[kind]
        raise DepthMapError(f"the range is near = {near:g}, far = {far:g}; for a {kind} map it is {expected}")


def _resolve_whole(seen: npt.NDArray[np.float32], kind: Kind) -> tuple[float, float]:
    option = "the range 'whole' (normalize=False, --no-normalize)"
    if kind == "metric":
        raise DepthMapError(
            f"{option} is for maps that hold nearness; metric depth has no range of its own: leave it out"
        )
    if seen.min() < 0 or seen.max() > 1:
        raise DepthMapError(
            f"{option} expects nearness in [0, 1]; the map goes from {seen.min()} to {seen.max()}; give the scale when "
            "reading it (such as scale=1/255, --scale 0.003921569), or let it be normalised"
        )
    return (1.0, 0.0) if kind == "inverse" else (0.0, 1.0)


class RangeOutliers(NamedTuple):
    """Few pixels that decide much of a map's range: how many of how many, and which fraction of the range."""

    pixels: int
    total: int
    fraction: float

    def __str__(self) -> str:
        return (
            f"{self.pixels} of {self.total} pixels ({self.pixels / self.total:.2%}) decide {self.fraction:.0%} of the "
            "range; if they are wrong, mark them (--invalid) or choose the range (--percentiles, or --near and --far)"
        )


@dataclass(frozen=True, eq=False)
class Nearness:
    """A map of nearness, and the two numbers that lead back to the units it came from.

    Attributes:
        values: (H, W) float32 in [0, 1], 1 = nearest, also at invalid pixels.
        valid: (H, W) bool, False where the value was filled in.
        near: What nearness 1 stands for: metres (metric), or a value of the map.
        far: What nearness 0 stands for, in the same units: `near >= far` if inverse, else `near <= far`.
        kind: `"metric"`, `"inverse"` or `"relative"`.
        range: How near and far were chosen.
        sky: (H, W) bool, True where the map is infinitely far (nearness 0, valid); None where it has no such pixels.
        clamped: Share of the valid pixels, 0..1, that lie beyond the range and were clamped to it.
        warnings: What is odd about the map's numbers, in words.

    Raises:
        DepthMapError: Shapes, dtypes or ranges are not these.
    """

    values: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    near: float
    far: float
    kind: Kind
    range: NearnessRange = field(default_factory=NearnessRange)
    sky: npt.NDArray[np.bool_] | None = None
    clamped: float = 0.0
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_arrays("nearness", self.values, self.valid, self.kind)
        # A comparison with NaN is False, so this refuses NaN too.
        if not np.all((self.values >= 0) & (self.values <= 1)):
            raise DepthMapError("nearness must lie in [0, 1] everywhere; clamp or normalise it first")
        ordered = {
            "metric": 0 < self.near <= self.far,
            "inverse": self.far <= self.near,
            "relative": self.near <= self.far,
        }[self.kind]
        if not (ordered and np.isfinite([self.near, self.far]).all()):
            expected = {"metric": "0 < near <= far", "inverse": "far <= near", "relative": "near <= far"}[self.kind]
            raise DepthMapError(f"near = {self.near}, far = {self.far}; a {self.kind} map has {expected}, both finite")

    def find_warnings(self) -> list[str]:
        """List what is odd about the map and its range, in words.

        Numbers that seem to mark holes or sky, few pixels that decide much of the range (`find_outliers`), and more
        than a twentieth of the pixels clamped beyond what percentiles leave out.
        """
        found = list(self.warnings)
        if outliers := self.find_outliers():
            found.append(str(outliers))
        left_out = 0.0
        if self.range.mode == "percentiles" and self.range.low is not None and self.range.high is not None:
            left_out = (self.range.low + 100 - self.range.high) / 100
        if self.clamped > _MAX_CLAMPED + left_out:
            follow = "faster (a larger --running)" if self.range.mode == "running" else "(--running 0.02)"
            found.append(
                f"{self.clamped:.0%} of the pixels lie beyond the range ({self.near:.4g} to {self.far:.4g}) and are "
                f"clamped; give a wider range (--near and --far), or, in a clip, let it follow the frames {follow} or "
                "decide it by more of them (--frames)"
            )
        return found

    def find_outliers(self) -> RangeOutliers | None:
        """Whether under 0.1 % of the pixels decide more than a quarter of the range, as one stuck pixel does.

        Returns:
            How many pixels decide which fraction of the range; None where there are none, and for every range but the
            map's own extremes.
        """
        if self.range.mode != "extremes":
            return None
        seen = self.values[self.valid if self.sky is None else self.valid & ~self.sky]
        limit = int(np.ceil(_OUTLIER_FRACTION * seen.size)) - 1
        if limit < 1 or _has_full_ends(seen, limit):
            return None
        edges = np.partition(seen, (limit, seen.size - 1 - limit))
        low, high = np.sort(edges[: limit + 1]).astype(float), np.sort(edges[-limit - 1 :])[::-1].astype(float)
        whole = high[0] - low[0]

        def influence(count: int) -> float:
            """Fraction of the range that is gained by leaving out the best choice of `count` pixels."""
            at_low_end = np.arange(count + 1)
            return float(1 - (high[count - at_low_end] - low[at_low_end]).min() / whole) if whole > 0 else 0.0

        if influence(limit) <= _OUTLIER_INFLUENCE:
            return None
        counts = sorted({min(2**power, limit) for power in range(limit.bit_length() + 1)})
        pixels = next(count for count in counts if influence(count) > _OUTLIER_INFLUENCE)
        return RangeOutliers(pixels, seen.size, influence(pixels))


def _has_full_ends(values: np.ndarray, limit: int) -> bool:
    """Whether more than `limit` values lie near each end of the range, so that as few cannot decide enough of it.

    A cheap test before a partial sort, which takes 20 times as long. Near is a little less than half the influence that
    outliers have, because they may be divided between both ends.
    """
    low, high = float(values.min()), float(values.max())
    near = 0.49 * _OUTLIER_INFLUENCE * (high - low)
    return bool(np.count_nonzero(values < low + near) > limit < np.count_nonzero(values > high - near))


@dataclass(frozen=True, eq=False, repr=False)
class DepthMap:
    """One depth map with the mask of its valid pixels.

    `DepthMap.read` and `DepthMap.from_array` convert; the constructor only checks.

    Attributes:
        values: (H, W) float32, to which wider numbers are rounded. Metric: depth in metres, > 0. Inverse: relative
            inverse depth, any finite number, larger = nearer. Relative: depth without a unit, any finite number,
            larger = farther. Values at invalid pixels have no meaning.
        valid: (H, W) bool, False where nothing is known.
        kind: `"metric"`, `"inverse"` or `"relative"`.
        sky: (H, W) bool, True where the map is infinitely far (these pixels are not valid); None where it has no such
            pixels.
        warnings: What is odd about the numbers that the map was read from, in words.

    Raises:
        DepthMapError: Shapes, dtypes or ranges are not these.
    """

    values: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    kind: Kind
    sky: npt.NDArray[np.bool_] | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_arrays("depth map", self.values, self.valid, self.kind)
        if self.sky is not None:
            _check_arrays("depth map's sky", self.values, self.sky, self.kind)
            if np.any(self.sky & self.valid):
                raise DepthMapError("pixels of the sky are marked valid, but have no value; mark them invalid")
        usable = np.isfinite(self.values)
        if self.kind == "metric":
            usable &= self.values > 0
        wrong = np.count_nonzero(self.valid & ~usable)
        if wrong:
            expected = "positive and finite" if self.kind == "metric" else "finite"
            raise DepthMapError(
                f"{wrong} pixels marked valid are not {expected} as float32; "
                "mark them invalid, or choose another unit or scale"
            )

    def __repr__(self) -> str:
        height, width = self.values.shape
        return f"DepthMap({self.kind}, {width}x{height} pixels, {self.valid.mean():.1%} valid)"

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: Kind | None = None,
        unit: Unit | None = None,
        scale: float | None = None,
        invalid: Sequence[float] = (),
        sky: Sky = "far",
        sky_values: Sequence[float] = (),
        key: str | None = None,
        mask_key: str | None = None,
        channel: str | None = None,
        part: str | None = None,
        mask: str | os.PathLike[str] | None = None,
        packing: Packing | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> DepthMap:
        """Read a map from PNG, TIFF, NPY, NPZ, PFM or EXR, keeping every bit of its integers.

        Args:
            path: The file; its extension names the format.
            kind: `"metric"` (larger = farther), `"inverse"` (larger = nearer) or `"relative"` (larger = farther,
                without a unit, as diffusion estimators write it: 0 = near, 1 = far). Required unless the file states
                it, as an NPZ written by `DepthMap.write` does.
            unit: Unit of the numbers in a metric file. Metric maps need either `unit` or `scale`.
            scale: Factor from the file's numbers to metres or, for other kinds, to their own values. Without it,
                inverse and relative maps of uint8 and uint16 are divided by 255 and 65535, others kept.
            invalid: Numbers in the file that mark holes, such as 65535. NaN and -infinity are always holes, and
                +infinity in an inverse map; so is 0 in a metric map. In other maps 0 is a valid end, unless named here.
            sky: What +infinity in metric and relative depth means: "far" (nothing in sight, as renderers and outdoor
                data sets write it; it becomes nearness 0), or "hole".
            sky_values: Numbers in the file that mark the sky, such as 65535.
            key: Name of the array in an NPZ with several; by default the only map, or the one called depth.
            mask_key: Name of the array in an NPZ that is True, or not 0, where the map is valid.
            channel: Name of the channel in an EXR with several.
            part: Name or number, from 0, of the part of an EXR with several parts.
            mask: Another file that is not 0 where the map is valid.
            packing: How the file packs its numbers, where it does: "sunrgbd" (16 bits rotated left by 3, SUN RGB-D),
                "carla24" (24 bits in R, G, B of CARLA and other driving simulators: metres, so that kind and unit may
                be left out; 1000 m is its sky, `sky_values=[1000]`), "rgb24" (integers 65536 R + 256 G + B, RLBench),
                "bgr24" (integers R + 256 G + 65536 B), "rgba_float" (the bytes of a float32 in R, G, B, A), or
                "bgra_float" (in B, G, R, A: TartanAir V2). The other arguments refer to the unpacked numbers.
            max_pixels: A file that declares more values is refused before it is unpacked; the default is 0.5 GB.

        Raises:
            DepthMapError: The file is missing, damaged, of another format or ambiguous, or a metric map has
                negative values; the message names the file and the remedy.
            MissingExtraError: EXR without the extra `exr`.
        """
        try:
            colours = is_packed_in_colours(packing)
            stored = read_stored(
                Path(path),
                key=key,
                mask_key=mask_key,
                channel=channel,
                part=part,
                colours=colours,
                max_pixels=max_pixels,
            )
            if packing is not None:
                stored = unpack(stored, packing)
            if packing == "carla24":
                kind, unit = _require_metres(kind, unit, scale)
            if mask is not None:
                stored = _apply_mask(stored, Path(mask))
            return cls(
                *interpret_numbers(
                    stored, kind=kind, unit=unit, scale=scale, invalid=invalid, sky=sky, sky_values=sky_values
                )
            )
        except DepthMapError as error:
            raise DepthMapError(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike,
        *,
        kind: Kind,
        unit: Unit | None = None,
        scale: float | None = None,
        invalid: Sequence[float] = (),
        valid: npt.ArrayLike | None = None,
        sky: Sky = "far",
        sky_values: Sequence[float] = (),
    ) -> DepthMap:
        """Make a map of anything that `numpy.asarray` takes; the array is copied.

        Args:
            array: (H, W), integers or floats; masked pixels of a masked array are holes.
            kind: "metric", "inverse" or "relative".
            unit: Unit of metric numbers; an array of metres needs `unit="m"`.
            scale: Factor from the numbers to metres, instead of a unit, or to the values of other kinds.
            invalid: Numbers that mark holes, besides NaN, and 0 in a metric map.
            valid: (H, W) bool, False at further holes.
            sky: What +infinity in metric and relative depth means: "far" or "hole".
            sky_values: Numbers that mark the sky.

        Raises:
            DepthMapError: The array is not two-dimensional or not of real numbers, kind and unit do not fit each other,
                or a metric map has negative values.
        """
        try:
            numbers = np.asarray(array)
            mask = _combine_masks(numbers.shape, array, valid)
        except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that requires grad
            raise DepthMapError(
                f"not an array of numbers ({error}); pass a NumPy array or a detached CPU tensor"
            ) from error
        stored = StoredMap(numbers, mask)
        return cls(
            *interpret_numbers(
                stored, kind=kind, unit=unit, scale=scale, invalid=invalid, sky=sky, sky_values=sky_values
            )
        )

    def write(
        self,
        path: str | os.PathLike[str],
        *,
        unit: Unit | None = None,
        scale: float | None = None,
        bits: Literal[8, 16, 32] | None = None,
        force: bool = False,
    ) -> None:
        """Write the map in the format that the extension names; nothing is clipped.

        NPZ keeps everything: values, mask, kind and sky. NPY, PFM, EXR and TIFF keep float32 with NaN as holes and
        infinity as sky. PNG, and TIFF with `bits` 8 or 16, round to the nearest integer: metric maps to the nearest
        unit, with 0 as holes; inverse maps, which must lie in [0, 1] and have no holes (0 means farthest), to the
        nearest of 255 or 65535 steps.

        Args:
            path: The file to write; its folder must exist.
            unit: Unit of the numbers in a metric file; by default mm for integers and m for floats. Not for NPZ.
            scale: Metres per number in the file, instead of `unit`.
            bits: 16 or 8 for PNG (default 16), 32, 16 or 8 for TIFF (default 32), 32 for the others.
            force: Replace an existing file.

        Raises:
            DepthMapError: The map does not fit the format.
            OutputError: The file exists, or cannot be written; no partial file is left behind.
            MissingExtraError: EXR without the extra `exr`.
        """
        target = Path(path)
        try:
            form = find_format(target)
            with atomic_write(target, force=force) as file:
                file.write(form.encode(self._make_stored_map(form, unit, scale, bits)))
        except DepthMapError as error:
            raise DepthMapError(f"{target}: {error}") from error

    def _make_stored_map(self, form: Format, unit: Unit | None, scale: float | None, bits: int | None) -> StoredMap:
        bits = form.bits[0] if bits is None else bits
        if bits not in form.bits:
            raise DepthMapError(f"{form.name} is written with bits = {' or '.join(map(str, form.bits))}, not {bits}")
        if form.states_kind:
            if unit is not None or scale is not None:
                raise DepthMapError(f"{form.name} keeps metres; leave out unit and scale")
            return StoredMap(np.where(self.valid, self.values, np.float32(0)), self.valid, self.kind, self.sky)
        return StoredMap(
            to_file_numbers(self.values, self.valid, self.kind, unit=unit, scale=scale, bits=bits, sky=self.sky)
        )

    def to_nearness(
        self,
        range: NearnessRange | None = None,  # noqa: A002 - the name of the thing
        *,
        normalize: bool = True,
        percentiles: tuple[float, float] | None = None,
    ) -> Nearness:
        """Convert to nearness: inverse depth (of relative depth: its negative), brought to [0, 1] by a range.

        Holes take the nearness of the nearest known pixel, and the mask is kept. Sky is nearness 0; where the map's own
        pixels decide the range, 0 then stands for twice the farthest distance, so that the sky lies beyond it. A map
        whose valid pixels are all the same has nearness 0.5 everywhere, and `near == far` lead back to it exactly.

        Args:
            range: What becomes 0 and 1; by default the map's own nearest and farthest pixel. Values beyond it are
                clamped, and lost for `from_nearness`.
            normalize: False is short for `NearnessRange.whole()`: the map holds nearness already, such as the 8-bit
                maps of AURORA (arXiv 2412.03548); the values are kept, with near = 1 and far = 0.
            percentiles: Short for `NearnessRange.of_percentiles`.

        Raises:
            DepthMapError: No pixel is valid, or the range does not fit the map.
            ConfigError: The percentiles are out of order, or the range is given twice.
        """
        if sum((range is not None, not normalize, percentiles is not None)) > 1:
            raise ConfigError("the range is given twice; give only one of range, percentiles and normalize=False")
        chosen = range or NearnessRange()
        if not normalize:
            chosen = NearnessRange.whole()
        elif percentiles is not None:
            chosen = NearnessRange.of_percentiles(*percentiles)
        known = self.valid if self.sky is None else self.valid | self.sky
        if not known.any():
            raise DepthMapError(
                f"nothing to encode: all {known.size} pixels are invalid; check "
                "invalid=... (--invalid) and the mask, or skip this map"
            )
        all_valid = bool(self.valid.all())
        seen = self.values if all_valid else self.values[self.valid]
        near, far = chosen.resolve(seen, self.kind, sky=self.sky is not None)
        low, high = invert_scale(far, self.kind), invert_scale(near, self.kind)
        filled = self.values if all_valid else np.where(self.valid, self.values, np.float32(near))
        scaled = invert_scale(filled.astype(np.float64), self.kind)
        clamped = 0.0
        if chosen.mode not in ("extremes", "whole"):
            clamped = float(np.mean((scaled < low) | (scaled > high), where=self.valid)) if seen.size else 0.0
        if high > low:
            np.clip(scaled, low, high, out=scaled)
            scaled -= low
            scaled /= high - low
        else:
            scaled = 0.5 + 0.5 * np.sign(scaled - low)
        nearness = scaled.astype(np.float32)
        if self.sky is not None:
            nearness[self.sky] = 0
        if not known.all():
            nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
            nearness = nearness[tuple(nearest)]
        return Nearness(nearness, known.copy(), near, far, self.kind, chosen, self.sky, clamped, self.warnings)

    @classmethod
    def from_nearness(cls, nearness: Nearness) -> DepthMap:
        """Undo `to_nearness`: metres, or the original values; filled pixels stay invalid, sky stays sky.

        Metric depth is 1 / (1/far + nearness * (1/near - 1/far)), within a relative error of 2e-7 while far /
        near is below 1e30. Other maps come back within 2e-7 times the larger of |near| and |far|.
        """
        kind = nearness.kind
        low, high = invert_scale(nearness.far, kind), invert_scale(nearness.near, kind)
        scaled = low + nearness.values.astype(np.float64) * (high - low)
        values = np.asarray(invert_scale(scaled, kind), dtype=np.float32)
        valid = nearness.valid.copy() if nearness.sky is None else nearness.valid & ~nearness.sky
        return cls(values, valid, kind, nearness.sky)


def _check_arrays(what: str, values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], kind: Kind) -> None:
    """Raise DepthMapError unless values and mask are float32 and bool of one shape (H, W), not empty."""
    check_kind(kind)
    for name, array, dtype in (("values", values, np.float32), ("valid", valid, np.bool_)):
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            found = getattr(array, "dtype", type(array).__name__)
            raise DepthMapError(
                f"{name} of a {what} must be a NumPy array of {dtype.__name__}, not {found}; "
                "DepthMap.from_array converts"
            )
    if values.ndim != 2 or values.size == 0 or values.shape != valid.shape:
        raise DepthMapError(
            f"values {values.shape} and valid {valid.shape} of a {what} must have one shape (height, width), "
            "and at least one pixel"
        )


def _require_metres(kind: Kind | None, unit: Unit | None, scale: float | None) -> tuple[Kind, Unit | None]:
    """Kind and unit of a map whose packing implies metres."""
    if kind not in (None, "metric") or unit not in (None, "m"):
        raise DepthMapError("packing='carla24' holds metres; leave kind and unit out, or say kind='metric', unit='m'")
    return "metric", "m" if scale is None else unit


def _apply_mask(stored: StoredMap, path: Path) -> StoredMap:
    """A stored map with the mask of another file."""
    try:
        mask = read_mask(path)
    except DepthMapError as error:
        raise DepthMapError(f"its mask {path}: {error}") from error
    if mask.shape != stored.array.shape:
        raise DepthMapError(f"is {stored.array.shape}, but its mask {path} is {mask.shape}")
    return replace(
        stored,
        valid=mask if stored.valid is None else stored.valid & mask,
        sky=None if stored.sky is None else stored.sky & mask,
    )


def _combine_masks(
    shape: tuple[int, ...], array: npt.ArrayLike, valid: npt.ArrayLike | None
) -> npt.NDArray[Any] | None:
    """The mask of a masked array and `valid` in one; None where both are missing."""
    mask = None if valid is None else np.asarray(valid)
    if isinstance(valid, np.ma.MaskedArray):
        mask = np.asarray(valid.filled(False))
    if isinstance(array, np.ma.MaskedArray):
        unmasked = ~np.ma.getmaskarray(array)
        mask = unmasked if mask is None else mask & unmasked if mask.shape == shape else mask
    return mask
