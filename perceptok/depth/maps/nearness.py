"""Nearness: relative inverse depth in [0, 1], 1 = nearest, the scale that the depth codec works in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from perceptok.depth.maps.formats import Kind, check_kind
from perceptok.errors import ConfigError, DepthMapError

__all__ = ["Nearness", "check_arrays", "to_nearness", "undo_nearness"]


@dataclass(frozen=True, eq=False)
class Nearness:
    """A map of nearness, and the two numbers that lead back to the units it came from.

    Attributes:
        values: (H, W) float32 in [0, 1], 1 = nearest, also at invalid pixels.
        valid: (H, W) bool, False where the value was filled in.
        near: What nearness 1 stands for: metres (metric), or relative inverse depth (inverse).
        far: What nearness 0 stands for, in the same units: `near <= far` if metric, `near >= far` if inverse.
        kind: `"metric"` or `"inverse"`.

    Raises:
        DepthMapError: Shapes, dtypes or ranges are not these.
    """

    values: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    near: float
    far: float
    kind: Kind

    def __post_init__(self) -> None:
        check_arrays("nearness", self.values, self.valid, self.kind)
        # A comparison with NaN is False, so this refuses NaN too.
        if not np.all((self.values >= 0) & (self.values <= 1)):
            raise DepthMapError("nearness must lie in [0, 1] everywhere; clamp or normalise it first")
        ordered = 0 < self.near <= self.far if self.kind == "metric" else self.far <= self.near
        if not (ordered and np.isfinite([self.near, self.far]).all()):
            expected = "0 < near <= far" if self.kind == "metric" else "far <= near"
            raise DepthMapError(f"near = {self.near}, far = {self.far}; a {self.kind} map has {expected}, both finite")


def to_nearness(
    values: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    kind: Kind,
    *,
    normalize: bool,
    percentiles: tuple[float, float] | None,
) -> Nearness:
    """The work behind `DepthMap.to_nearness`, which documents it."""
    holes = not valid.all()
    seen = values[valid] if holes else values
    if seen.size == 0:
        raise DepthMapError(
            f"nothing to encode: all {valid.size} pixels are invalid; check invalid=..., or skip this map"
        )
    near, far = _range(seen, kind, percentiles) if normalize else _whole_range(seen, kind, percentiles)
    low, high = _inverse_depth(far, kind), _inverse_depth(near, kind)
    known = np.where(valid, values, np.float32(near)) if holes else values
    inverse = _inverse_depth(known.astype(np.float64), kind)
    if high > low:
        np.clip(inverse, low, high, out=inverse)
        inverse -= low
        inverse /= high - low
    else:
        inverse = 0.5 + 0.5 * np.sign(inverse - low)
    nearness = inverse.astype(np.float32)
    if holes:
        nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
        nearness = nearness[tuple(nearest)]
    return Nearness(nearness, valid.copy(), near, far, kind)


def undo_nearness(nearness: Nearness) -> npt.NDArray[np.float32]:
    """The work behind `DepthMap.from_nearness`, which documents it."""
    low, high = _inverse_depth(nearness.far, nearness.kind), _inverse_depth(nearness.near, nearness.kind)
    inverse = low + nearness.values.astype(np.float64) * (high - low)
    return np.asarray(_inverse_depth(inverse, nearness.kind), dtype=np.float32)


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


def _range(seen: npt.NDArray[np.float32], kind: Kind, percentiles: tuple[float, float] | None) -> tuple[float, float]:
    if percentiles is None:
        smallest, largest = float(seen.min()), float(seen.max())
    else:
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ConfigError(f"percentiles are {percentiles}; expected 0 <= low < high <= 100, such as (2, 98)")
        if kind == "metric":
            low, high = 100 - high, 100 - low
        smallest, largest = (float(edge) for edge in np.percentile(seen.astype(np.float64), (low, high)))
    return (smallest, largest) if kind == "metric" else (largest, smallest)


def _whole_range(
    seen: npt.NDArray[np.float32], kind: Kind, percentiles: tuple[float, float] | None
) -> tuple[float, float]:
    if kind == "metric":
        raise DepthMapError("normalize=False is for maps that hold nearness; metric depth has no range of its own")
    if percentiles is not None:
        raise ConfigError("percentiles set the range to normalise by; they do not go with normalize=False")
    if seen.min() < 0 or seen.max() > 1:
        raise DepthMapError(
            f"normalize=False expects nearness in [0, 1]; the map goes from {seen.min()} to {seen.max()}; "
            "say the scale when reading it (such as scale=1/255), or let it be normalised"
        )
    return 1.0, 0.0


def _inverse_depth(values: Any, kind: Kind) -> Any:
    """Depth to inverse depth or back; inverse maps are that already."""
    return 1.0 / values if kind == "metric" else values
