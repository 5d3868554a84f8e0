"""Depth maps: metric depth or relative inverse depth, from files and arrays, to nearness and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from perceptok.depth.maps.formats import MOST_PIXELS, Format, Kind, StoredMap, format_of, read_mask, read_stored
from perceptok.depth.maps.nearness import Nearness, check_arrays, to_nearness, undo_nearness
from perceptok.depth.maps.packings import Packing, packed_in_colours, unpacked
from perceptok.depth.maps.ranges import NearnessRange
from perceptok.depth.maps.units import Sky, Unit, express, interpret
from perceptok.errors import ConfigError, DepthMapError
from perceptok.files import atomic_write

__all__ = ["DepthMap", "Kind", "Nearness", "NearnessRange", "Packing", "Sky", "Unit"]


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
