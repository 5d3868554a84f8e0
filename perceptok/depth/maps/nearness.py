"""Nearness: relative inverse depth in [0, 1], 1 = nearest, the scale that the depth codec works in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from perceptok.depth.maps.formats import Kind, check_kind
from perceptok.depth.maps.ranges import NearnessRange, nearness_scale
from perceptok.errors import DepthMapError

__all__ = ["FewPixels", "Nearness", "check_arrays", "to_nearness", "undo_nearness"]

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
