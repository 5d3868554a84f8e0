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

from perceptok.depth.formats.registry import Format, format_of, read_mask, read_stored
from perceptok.depth.formats.stored import MOST_PIXELS, Kind, StoredMap, check_kind
from perceptok.depth.units import Packing, Sky, Unit, express, interpret, packed_in_colours, unpacked
from perceptok.errors import ConfigError, DepthMapError
from perceptok.files import atomic_write

__all__ = [
    "DepthMap",
    "FewPixels",
    "Kind",
    "Nearness",
    "NearnessRange",
    "Packing",
    "Sky",
    "Unit",
    "check_arrays",
    "nearness_scale",
    "to_nearness",
    "undo_nearness",
]


Mode = Literal["extremes", "percentiles", "fixed", "whole", "running"]

_BEYOND = 2.0
"""The sky lies at this many times the farthest distance of a map whose own pixels decide the range."""

_BEYOND_RELATIVE = 0.125
"""Relative depth has no distances: the sky lies this share of the range beyond its far end."""


@dataclass(frozen=True)
class NearnessRange:
    """Which values of a map become nearness 0 and 1.

    `NearnessRange()` is the map's own extremes: right for exact and estimated maps, and at the mercy of one stuck pixel
    in a sensor's. Beyond any other range values are clamped.

    Attributes:
        mode: "extremes"; "percentiles" `low` and `high` of nearness, which a few wrong pixels cannot move; "fixed":
            `near` and `far` in the map's unit, the same for every map of a rig and comparable between them; "whole":
            the map holds nearness (inverse) or 1 - nearness (relative) already, such as AURORA's 8-bit maps; "running":
            of a clip's frames, each moves the range by `rate` of the way to its own percentiles `low` and `high`.
        low: Percentile of nearness, 0..100, that becomes 0.
        high: Percentile that becomes 1.
        near: What becomes 1: metres of metric maps, a value of the others.
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
        if (
            self.near is not None
            and self.far is not None
            and not (math.isfinite(self.near) and math.isfinite(self.far))
        ):
            raise ConfigError(f"near and far are finite; got {ends}")

    @classmethod
    def of_percentiles(cls, low: float, high: float) -> NearnessRange:
        """Percentiles of nearness, such as 2 and 98."""
        return cls("percentiles", low=low, high=high)

    @classmethod
    def fixed(cls, near: float, far: float) -> NearnessRange:
        """A near and a far end, in metres for metric maps."""
        return cls("fixed", near=near, far=far)

    @classmethod
    def running(cls, rate: float, low: float = 1.0, high: float = 99.0) -> NearnessRange:
        """Of a clip: percentiles of nearness that follow its frames slowly; see `DepthCodec.encode_sequence`."""
        return cls("running", low=low, high=high, rate=rate)

    @classmethod
    def whole(cls) -> NearnessRange:
        """The map holds nearness already."""
        return cls("whole")

    def __str__(self) -> str:
        numbers = [one for one in (self.rate, self.low, self.high, self.near, self.far) if one is not None]
        return " ".join([self.mode, *(repr(float(number)) for number in numbers)])

    @classmethod
    def parse(cls, text: str) -> NearnessRange:
        """The inverse of `str(range)`; raises ConfigError."""
        mode, *words = text.split()
        try:
            numbers = [float(word) for word in words]
            if mode == "percentiles":
                return cls.of_percentiles(*numbers)
            if mode == "running":
                return cls.running(*numbers)
            return cls.fixed(*numbers) if mode == "fixed" else cls(mode, *numbers)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{text!r} is no range ({error})") from error

    def ends(self, seen: npt.NDArray[np.float32], kind: Kind, *, sky: bool) -> tuple[float, float]:
        """What nearness 1 and 0 stand for, in the map's unit.

        Args:
            seen: (N,) the values of its valid pixels.
            kind: Its kind.
            sky: Whether it has pixels that are infinitely far; where the map itself decides, they lie beyond it.

        Raises:
            DepthMapError: Nothing is seen, the range does not fit the kind, or the values are not in it ("whole").
        """
        if self.mode == "fixed":
            assert self.near is not None
            assert self.far is not None
            return _ordered(self.near, self.far, kind)
        if self.mode == "running":
            raise DepthMapError("a running range is for the frames of a clip (encode_sequence, --sequence)")
        if seen.size == 0:
            raise DepthMapError("nothing but sky: no pixel says how far; give a fixed range (near and far)")
        if self.mode == "whole":
            return _whole(seen, kind)
        low, high = (0.0, 100.0) if self.low is None or self.high is None else (self.low, self.high)
        if (low, high) == (0.0, 100.0):
            smallest, largest = float(seen.min()), float(seen.max())
        else:
            turned = (low, high) if kind == "inverse" else (100 - high, 100 - low)
            smallest, largest = (float(edge) for edge in np.percentile(seen.astype(np.float64), turned))
        if kind == "inverse":
            return largest, smallest
        return smallest, _beyond(smallest, largest, kind) if sky else largest


def nearness_scale(values: Any, kind: Kind) -> Any:
    """A map's values on a scale that nearness is linear in, larger = nearer; the inverse of itself.

    Metric depth becomes inverse depth, relative depth changes its sign, inverse depth is that scale.
    """
    if kind == "inverse":
        return values
    return 1.0 / values if kind == "metric" else -values


def _ordered(near: float, far: float, kind: Kind) -> tuple[float, float]:
    fits = {"metric": 0 < near < far, "relative": near < far, "inverse": far < near}[kind]
    if not fits:
        expected = {"metric": "0 < near < far, in metres", "relative": "near < far", "inverse": "far < near"}[kind]
        raise DepthMapError(f"the range is near = {near:g}, far = {far:g}; for a {kind} map it is {expected}")
    return near, far


def _whole(seen: npt.NDArray[np.float32], kind: Kind) -> tuple[float, float]:
    if kind == "metric":
        raise DepthMapError("normalize=False is for maps that hold nearness; metric depth has no range of its own")
    if seen.min() < 0 or seen.max() > 1:
        raise DepthMapError(
            f"normalize=False expects nearness in [0, 1]; the map goes from {seen.min()} to {seen.max()}; "
            "say the scale when reading it (such as scale=1/255), or let it be normalised"
        )
    return (1.0, 0.0) if kind == "inverse" else (0.0, 1.0)


def _beyond(near: float, far: float, kind: Kind) -> float:
    if kind == "metric":
        return _BEYOND * far
    return far + (_BEYOND_RELATIVE * (far - near) or 1.0)


_FEW = 0.001
_MUCH = 0.25


class FewPixels(NamedTuple):
    """Pixels that decide much of a map's range: how many of how many, and the share of the range."""

    pixels: int
    of: int
    share: float

    def __str__(self) -> str:
        return (
            f"{self.pixels} of {self.of} pixels ({self.pixels / self.of:.2%}) decide {self.share:.0%} of the range; "
            "if they are wrong, mark them (--invalid) or choose the range (--percentiles, or --near and --far)"
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

    def __post_init__(self) -> None:
        check_arrays("nearness", self.values, self.valid, self.kind)
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

    def few_pixels(self) -> FewPixels | None:
        """Whether under 0.1 % of the pixels decide more than a quarter of the range, as one stuck pixel does.

        Looked for where the map's own extremes are its range; None elsewhere, and where there are none.
        """
        if self.range.mode != "extremes":
            return None
        seen = self.values[self.valid if self.sky is None else self.valid & ~self.sky]
        most = int(np.ceil(_FEW * seen.size)) - 1
        if most < 1:
            return None
        edges = np.partition(seen, (most, seen.size - 1 - most))
        low, high = np.sort(edges[: most + 1]).astype(float), np.sort(edges[-most - 1 :])[::-1].astype(float)
        whole = high[0] - low[0]

        def share(left_out: int) -> float:
            """Of the range, how much the best choice of so many pixels takes away."""
            taken = np.arange(left_out + 1)
            return float(1 - (high[left_out - taken] - low[taken]).min() / whole) if whole > 0 else 0.0

        if share(most) <= _MUCH:
            return None
        pixels = next(count for count in _doubling(most) if share(count) > _MUCH)
        return FewPixels(pixels, seen.size, share(pixels))


def _doubling(most: int) -> list[int]:
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


def to_nearness(
    values: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    kind: Kind,
    sky: npt.NDArray[np.bool_] | None,
    chosen: NearnessRange,
) -> Nearness:
    """The work behind `DepthMap.to_nearness`, which documents it."""
    known = valid if sky is None else valid | sky
    if not known.any():
        raise DepthMapError(
            f"nothing to encode: all {valid.size} pixels are invalid; check invalid=..., or skip this map"
        )
    all_seen = bool(valid.all())
    near, far = chosen.ends(values if all_seen else values[valid], kind, sky=sky is not None)
    low, high = nearness_scale(far, kind), nearness_scale(near, kind)
    scaled = nearness_scale(
        (values if all_seen else np.where(valid, values, np.float32(near))).astype(np.float64), kind
    )
    if high > low:
        np.clip(scaled, low, high, out=scaled)
        scaled -= low
        scaled /= high - low
    else:
        scaled = 0.5 + 0.5 * np.sign(scaled - low)
    nearness = scaled.astype(np.float32)
    if sky is not None:
        nearness[sky] = 0
    if not known.all():
        nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        nearness = nearness[tuple(nearest)]
    return Nearness(nearness, known.copy(), near, far, kind, chosen, sky)


def undo_nearness(nearness: Nearness) -> npt.NDArray[np.float32]:
    """The work behind `DepthMap.from_nearness`, which documents it."""
    low, high = nearness_scale(nearness.far, nearness.kind), nearness_scale(nearness.near, nearness.kind)
    scaled = low + nearness.values.astype(np.float64) * (high - low)
    return np.asarray(nearness_scale(scaled, nearness.kind), dtype=np.float32)


def check_arrays(what: str, values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], kind: Kind) -> None:
    """Raise DepthMapError unless values and mask are float32 and bool of one shape (H, W), not empty."""
    check_kind(kind)
    for name, array, dtype in (("values", values, np.float32), ("valid", valid, np.bool_)):
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            came = getattr(array, "dtype", type(array).__name__)
            raise DepthMapError(
                f"{name} of a {what} must be a NumPy array of {dtype.__name__}, not {came}; "
                "DepthMap.from_array converts"
            )
    if values.ndim != 2 or values.size == 0 or values.shape != valid.shape:
        raise DepthMapError(
            f"values {values.shape} and valid {valid.shape} of a {what} must have one shape (height, width), "
            "and at least one pixel"
        )


@dataclass(frozen=True, eq=False, repr=False)
class DepthMap:
    """One depth map with the mask of its valid pixels.

    `DepthMap.read` and `DepthMap.from_array` convert; the constructor only checks.

    Attributes:
        values: (H, W) float32, to which wider numbers are rounded. Metric: depth in metres, > 0. Inverse:
            relative inverse depth, any finite number, larger = nearer. What stands at invalid pixels means
            nothing.
        valid: (H, W) bool, False where nothing is known.
            Relative: depth without a unit, any finite number, larger = farther.
        kind: `"metric"`, `"inverse"` or `"relative"`.
        sky: (H, W) bool, True where the map is infinitely far, which no value says (these pixels are not valid); None
            where it has no such pixels.

    Raises:
        DepthMapError: Shapes, dtypes or ranges are not these.
    """

    values: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    kind: Kind
    sky: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        check_arrays("depth map", self.values, self.valid, self.kind)
        if self.sky is not None:
            check_arrays("depth map's sky", self.values, self.sky, self.kind)
            if np.any(self.sky & self.valid):
                raise DepthMapError("pixels of the sky are marked valid; their values say nothing, mark them invalid")
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
        mask: str | os.PathLike[str] | None = None,
        packing: Packing | None = None,
        max_pixels: int = MOST_PIXELS,
    ) -> DepthMap:
        """Read a map from PNG, TIFF, NPY, NPZ, PFM or EXR, keeping every bit of its integers.

        Args:
            path: The file; its extension says the format.
            kind: `"metric"` (larger = farther), `"inverse"` (larger = nearer) or `"relative"` (larger = farther,
                without a unit, as diffusion estimators write it: 0 = near, 1 = far). Required unless the file says it,
                as an NPZ written by `DepthMap.write` does.
            unit: Metric only: what 1 in the file means. Metric maps need either `unit` or `scale`.
            scale: The factor from the file's numbers to metres or, for other kinds, to their own values. Without it,
                inverse and relative maps of uint8 and uint16 are divided by 255 and 65535, others kept.
            invalid: The file's own numbers that mark holes, such as 65535. NaN and -infinity are always holes, and
                +infinity in an inverse map; so is 0 in a metric map. In other maps 0 is a legal end, unless named here.
            sky: What +infinity in metric and relative depth means: "far" (nothing is there as far as one sees, which
                is what renderers and outdoor sets write; it becomes nearness 0), or "hole".
            sky_values: The file's own numbers that mark the sky, such as 65535.
            key: Of an NPZ with several arrays, which one; without it the only map, or the one called depth.
            mask_key: Of an NPZ, the array that is True, or not 0, where the map is valid.
            channel: Of an EXR with several channels, which one.
            mask: Another file that is not 0 where the map is valid.
            packing: How the file packs its numbers, where it does: "sunrgbd" (16 bits rotated left by 3, SUN RGB-D),
                "carla24" (24 bits in R, G, B of CARLA and other driving simulators: metres, of which kind and unit
                need not be said; 1000 m is its sky, `sky_values=[1000]`), or "rgba_float" (the bytes of a float32 in
                R, G, B, A). Other arguments speak of the numbers unpacked.
            max_pixels: A file that declares more values is refused before it is unpacked; the default is 0.5 GB.

        Raises:
            DepthMapError: The file is missing, damaged, of another format or ambiguous, or a metric map has
                negative values; the message names the file and the remedy.
            MissingExtraError: EXR without the extra `exr`.
        """
        try:
            colours = packed_in_colours(packing)
            stored = read_stored(
                Path(path), key=key, mask_key=mask_key, channel=channel, colours=colours, max_pixels=max_pixels
            )
            if packing is not None:
                stored = replace(stored, array=unpacked(stored.array, packing))
            if packing == "carla24":
                kind, unit = _in_metres(kind, unit, scale)
            if mask is not None:
                stored = _masked(stored, Path(mask))
            return cls(
                *interpret(stored, kind=kind, unit=unit, scale=scale, invalid=invalid, sky=sky, sky_values=sky_values)
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
            array: (H, W), integers or floats; what a masked array masks is a hole.
            kind: As for `read`.
            unit: As for `read`; an array of metres needs `unit="m"`.
            scale: As for `read`.
            invalid: As for `read`.
            valid: (H, W) bool, False at further holes.
            sky: As for `read`.
            sky_values: As for `read`.

        Raises:
            DepthMapError: The array is not two-dimensional or not of real numbers, or as for `read`.
        """
        try:
            numbers = np.asarray(array)
            mask = _joined(numbers.shape, array, valid)
        except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that requires grad
            raise DepthMapError(
                f"not an array of numbers ({error}); pass a NumPy array or a detached CPU tensor"
            ) from error
        return cls(
            *interpret(
                StoredMap(numbers, mask),
                kind=kind,
                unit=unit,
                scale=scale,
                invalid=invalid,
                sky=sky,
                sky_values=sky_values,
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
        """Write the map in the format that the extension says; nothing is clipped.

        NPZ keeps everything: values, mask, kind and sky. NPY, PFM, EXR and TIFF keep float32 with NaN as holes and
        infinity as sky.
        PNG, and TIFF with `bits` 8 or 16, round to the nearest integer: metric maps to the nearest unit, with
        0 as holes; inverse maps, which must lie in [0, 1] and have no holes (0 means farthest), to the
        nearest of 255 or 65535 steps.

        Args:
            path: The file to write; its folder must exist.
            unit: Metric only: what 1 in the file means; by default mm for integers and m for floats.
                NPZ takes none.
            scale: Instead of `unit`: metres per 1 in the file.
            bits: 16 or 8 for PNG (default 16), 32, 16 or 8 for TIFF (default 32), 32 for the others.
            force: Replace an existing file.

        Raises:
            DepthMapError: The map does not fit the format.
            OutputError: The file exists, or cannot be written; no partial file is left behind.
            MissingExtraError: EXR without the extra `exr`.
        """
        target = Path(path)
        try:
            form = format_of(target)
            with atomic_write(target, force=force) as file:
                file.write(form.encode(self._to_stored(form, unit, scale, bits)))
        except DepthMapError as error:
            raise DepthMapError(f"{target}: {error}") from error

    def _to_stored(self, form: Format, unit: Unit | None, scale: float | None, bits: int | None) -> StoredMap:
        bits = form.bits[0] if bits is None else bits
        if bits not in form.bits:
            raise DepthMapError(f"{form.name} is written with bits = {' or '.join(map(str, form.bits))}, not {bits}")
        if form.says_kind:
            if unit is not None or scale is not None:
                raise DepthMapError(f"{form.name} keeps metres; leave out unit and scale")
            return StoredMap(np.where(self.valid, self.values, np.float32(0)), self.valid, self.kind, self.sky)
        return StoredMap(express(self.values, self.valid, self.kind, unit=unit, scale=scale, bits=bits, sky=self.sky))

    def to_nearness(
        self,
        range: NearnessRange | None = None,  # noqa: A002 - the name of the thing
        *,
        normalize: bool = True,
        percentiles: tuple[float, float] | None = None,
    ) -> Nearness:
        """Convert to nearness: inverse depth (relative depth: its opposite), brought to [0, 1] by a range.

        Holes take the nearness of the nearest known pixel; the mask travels along. Sky is nearness 0; where the map's
        own pixels decide the range, 0 then stands for twice the farthest distance, so that the sky lies beyond it. A
        map whose valid pixels are all the same has nearness 0.5 everywhere, and `near == far` lead back to it exactly.

        Args:
            range: What becomes 0 and 1; by default the map's own nearest and farthest pixel. What lies beyond is
                clamped, and lost for `from_nearness`.
            normalize: False is short for `NearnessRange.whole()`: the map holds nearness already, such as the 8-bit
                maps of AURORA (arXiv 2412.03548); the values are kept, with near = 1 and far = 0.
            percentiles: Short for `NearnessRange.of_percentiles`.

        Raises:
            DepthMapError: No pixel is valid, or the range does not fit the map.
            ConfigError: The percentiles are out of order, or the range is said twice.
        """
        if sum((range is not None, not normalize, percentiles is not None)) > 1:
            raise ConfigError(
                "the range is said twice: percentiles and range=... do not go with normalize=False or each other"
            )
        chosen = range or NearnessRange()
        if not normalize:
            chosen = NearnessRange.whole()
        elif percentiles is not None:
            chosen = NearnessRange.of_percentiles(*percentiles)
        return to_nearness(self.values, self.valid, self.kind, self.sky, chosen)

    @classmethod
    def from_nearness(cls, nearness: Nearness) -> DepthMap:
        """Undo `to_nearness`: metres, or the original values; filled pixels stay invalid, sky stays sky.

        Metric depth is 1 / (1/far + nearness * (1/near - 1/far)), within a relative error of 2e-7 while far /
        near is below 1e30. Other maps come back within 2e-7 times the larger of |near| and |far|.
        """
        valid = nearness.valid.copy() if nearness.sky is None else nearness.valid & ~nearness.sky
        return cls(undo_nearness(nearness), valid, nearness.kind, nearness.sky)


def _in_metres(kind: Kind | None, unit: Unit | None, scale: float | None) -> tuple[Kind, Unit | None]:
    """Kind and unit of a map whose packing says that it holds metres."""
    if kind not in (None, "metric") or unit not in (None, "m"):
        raise DepthMapError("packing='carla24' holds metres; leave kind and unit out, or say kind='metric', unit='m'")
    return "metric", "m" if scale is None else unit


def _masked(stored: StoredMap, path: Path) -> StoredMap:
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


def _joined(shape: tuple[int, ...], array: npt.ArrayLike, valid: npt.ArrayLike | None) -> npt.NDArray[Any] | None:
    """The mask of a masked array and the one given beside it, as one; None where there is neither."""
    known = None if valid is None else np.asarray(valid)
    if isinstance(valid, np.ma.MaskedArray):
        known = np.asarray(valid.filled(False))
    if isinstance(array, np.ma.MaskedArray):
        seen = ~np.ma.getmaskarray(array)
        known = seen if known is None else known & seen if known.shape == shape else known
    return known
