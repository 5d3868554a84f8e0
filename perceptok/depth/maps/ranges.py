"""Which depths become nearness 0 and 1: the one place where a range is chosen, for every command and every map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from perceptok.depth.maps.formats import Kind
from perceptok.errors import ConfigError, DepthMapError

__all__ = ["NearnessRange", "nearness_scale"]

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
