"""Quality of decoded maps: error in nearness and in metres, order of points, use of the codes.

Maps are square, (S, S) or (B, S, S): nearness in [0, 1] with 1 = nearest, and a boolean mask of the pixels whose truth
is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perceptok.depth.codec import DepthCodec
from perceptok.depth.map_files import MapFailure, MapFile, try_reading
from perceptok.depth.maps import DepthMap, Nearness
from perceptok.depth.preprocessing import MAP_SIZE, resize_nearest
from perceptok.errors import DepthMapError
from perceptok.tokens import DEPTH

__all__ = [
    "BASELINE_SIDES",
    "CodeUsage",
    "DepthReport",
    "DepthScore",
    "MarkerPositions",
    "MetricErrors",
    "average_over_grid",
    "compute_code_usage",
    "compute_metric_errors",
    "compute_squared_errors",
    "evaluate_depth_codec",
    "find_closest_marker_hits",
    "find_pair_order_hits",
    "sample_marker_positions",
]

BASELINE_SIDES = (10, 14, 20)
"""Sides of the unquantised grids with which a codec is compared."""

MARKER_FRAME = 336
"""Side of the frame in which HardBLINK places its markers."""

MARKER_DISTANCE = 20
"""Least distance between two markers, in pixels of that frame."""

MARKER_CONTRAST = 20 / 255
"""Least difference in nearness between two markers (20 of 255 grey levels)."""

_MARKERS = (3, 4, 5)
_DRAWS = 16
_PAIRS = 500


class CodeUsage(NamedTuple):
    """How the codes of a whole set are distributed: how many occur, and the exponential of their entropy."""

    used: int
    perplexity: float


class MetricErrors(NamedTuple):
    """Errors of one map in metres: mean |d - d*| / d*, and the fraction of pixels with max(d/d*, d*/d) < 1.25."""

    abs_rel: float
    delta_125: float


@dataclass(frozen=True)
class MarkerPositions:
    """Sets of markers on one map: pixel rows and columns, (draws, markers) int64 each."""

    rows: np.ndarray
    columns: np.ndarray


def compute_squared_errors(decoded: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of each map over its valid pixels; (B, S, S) -> (B,) float64."""
    error = (decoded.double() - target.double()).square() * valid
    return error.sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)


def compute_code_usage(counts: Tensor) -> CodeUsage:
    """Usage of the codes from their counts (K,) over a whole set.

    The perplexity of a single batch says little: it cannot exceed the number of tokens in it.
    """
    probabilities = counts.double() / counts.sum().clamp(min=1)
    entropy = -(probabilities * probabilities.clamp(min=1e-300).log()).sum()
    return CodeUsage(int((counts > 0).sum()), float(entropy.exp()))


def compute_metric_errors(decoded: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> MetricErrors:
    """Errors in metres of one map over its valid pixels, arrays of any one shape."""
    values, expected = decoded[valid].astype(np.float64), truth[valid].astype(np.float64)
    ratio = np.maximum(values / expected, expected / values)
    return MetricErrors(float(np.mean(np.abs(values - expected) / expected)), float(np.mean(ratio < 1.25)))


def average_over_grid(target: Tensor, valid: Tensor, side: int) -> Tensor:
    """The baseline: an *unquantised* side x side grid of area averages, upsampled bilinearly; (B, S, S) in and out.

    Averages run over valid pixels only; a cell without any takes the average of its filled pixels.
    """
    size = target.shape[-1]
    weight = valid.float()[:, None]
    filled = F.adaptive_avg_pool2d(target[:, None], side)
    total = F.adaptive_avg_pool2d(target[:, None] * weight, side)
    known = F.adaptive_avg_pool2d(weight, side)
    grid = torch.where(known > 0, total / known.clamp(min=1e-12), filled)
    return F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)[:, 0]


def sample_marker_positions(
    nearness: np.ndarray, valid: np.ndarray, markers: int, draws: int, rng: np.random.Generator
) -> MarkerPositions:
    """Place markers by the HardBLINK protocol: at mid height, apart in position and in grey level.

    Args:
        nearness: (S, S) truth in [0, 1].
        valid: (S, S) bool.
        markers: Markers per draw.
        draws: Number of draws; a map with too little relief gives fewer, or none.
        rng: Source of the positions.

    Returns:
        Pixel positions, at most `draws` rows of `markers` each.
    """
    size = nearness.shape[0]
    row = size // 2
    columns = np.flatnonzero(valid[row])
    distance = MARKER_DISTANCE * size / MARKER_FRAME
    accepted: list[np.ndarray] = []
    if len(columns) >= markers:
        for _ in range(20):
            candidates = rng.choice(columns, size=(4 * draws, markers))
            levels, positions = np.sort(nearness[row, candidates], axis=1), np.sort(candidates, axis=1)
            apart = (np.diff(levels, axis=1) >= MARKER_CONTRAST) & (np.diff(positions, axis=1) >= distance)
            accepted.extend(candidates[apart.all(1)])
            if len(accepted) >= draws:
                break
    chosen = np.array(accepted[:draws], dtype=np.int64).reshape(-1, markers)
    return MarkerPositions(np.full_like(chosen, row), chosen)


def find_closest_marker_hits(decoded: np.ndarray, target: np.ndarray, positions: MarkerPositions) -> np.ndarray:
    """Whether a decoded map (S, S) has the same closest marker as the truth, one bool per draw."""
    found = decoded[positions.rows, positions.columns].argmax(1)
    expected = target[positions.rows, positions.columns].argmax(1)
    return np.asarray(found == expected)


def find_pair_order_hits(
    decoded: np.ndarray, target: np.ndarray, valid: np.ndarray, pairs: int, rng: np.random.Generator
) -> np.ndarray:
    """Whether pairs of points anywhere, at least 20 grey levels apart, keep their order; one bool each."""
    rows, columns = np.nonzero(valid)
    if len(rows) < 2:
        return np.empty(0, dtype=bool)
    first, second = rng.integers(len(rows), size=(2, 4 * pairs))
    expected, found = (
        values[rows[first], columns[first]] - values[rows[second], columns[second]] for values in (target, decoded)
    )
    apart = np.abs(expected) >= MARKER_CONTRAST
    return np.asarray((np.sign(expected) == np.sign(found))[apart][:pairs])


@dataclass(frozen=True)
class DepthScore:
    """Means over maps; NaN where the measure is not defined for any map.

    Attributes:
        maps: Number of maps.
        rmse: Root mean squared error in nearness of a map's valid pixels.
        mae: Mean absolute error in nearness.
        abs_rel: Mean |d - d*| / d* in metres, of metric maps whose scale is known.
        delta_125: Fraction of pixels with max(d/d*, d*/d) < 1.25, of the same maps.
        markers: Accuracy of the closest of 3, 4 and 5 HardBLINK markers.
        pairs: Fraction of pairs of points, 20 grey levels apart, in the right order.
    """

    maps: int
    rmse: float
    mae: float
    abs_rel: float
    delta_125: float
    markers: tuple[float, ...]
    pairs: float

    @property
    def closest(self) -> float:
        """Mean over 3, 4 and 5 markers."""
        return float(np.mean(self.markers))


@dataclass(frozen=True)
class DepthReport:
    """Scores of a codec and of the baselines, by source and in all.

    Attributes:
        codec: The codec's scores: source -> score, and "all".
        baselines: Side of an unquantised grid -> its scores.
        usage: Codes used by all maps together.
        failures: Maps that could not be read.
    """

    codec: dict[str, DepthScore]
    baselines: dict[int, dict[str, DepthScore]]
    usage: CodeUsage
    failures: list[MapFailure]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types; None for measures that are not defined for any map."""
        return {
            "codec": {source: _score_to_dict(score) for source, score in self.codec.items()},
            "baselines": {
                str(side): {source: _score_to_dict(score) for source, score in scores.items()}
                for side, scores in self.baselines.items()
            },
            "usage": self.usage._asdict(),
            "failures": [failure._asdict() for failure in self.failures],
        }


def _score_to_dict(score: DepthScore) -> dict[str, Any]:
    def replace_nan(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        name: [replace_nan(part) for part in value] if isinstance(value, tuple) else replace_nan(value)
        for name, value in asdict(score).items()
    }


def evaluate_depth_codec(
    codec: DepthCodec,
    maps: Sequence[MapFile],
    *,
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
    warn: Callable[[str, str], object] = lambda *_: None,
) -> DepthReport:
    """Encode and decode maps, and score the result against them.

    The truth is each map's nearness squashed to 320x320 by nearest pixels, whatever the codec's own preprocessing; only
    valid pixels count. Markers and pairs are sampled once per map and are the same for the codec and the baselines.

    Args:
        codec: The codec.
        maps: The maps; scores are grouped by their `source`.
        seed: Seed of markers and pairs.
        advance: Called after every map.
        warn: Called with a map's name and what is odd about it (`Nearness.find_warnings`).

    Raises:
        DepthMapError: No maps are given, or none can be read.
    """
    scores: dict[int, list[tuple[str, DepthScore]]] = {side: [] for side in (0, *BASELINE_SIDES)}
    failures: list[MapFailure] = []
    counts = torch.zeros(DEPTH.size)
    for index, file in enumerate(maps):
        nearness = try_reading(file, MapFile.read_nearness)
        if isinstance(nearness, MapFailure):
            failures.append(nearness)
            advance()
            continue
        for warning in nearness.find_warnings():
            warn(file.name, warning)
        codes = codec.encode(nearness)
        counts += torch.bincount(torch.from_numpy(codes).flatten(), minlength=DEPTH.size)
        truth = _squash(nearness)
        target, valid = torch.from_numpy(truth.values)[None], torch.from_numpy(truth.valid)[None]
        decoded = {0: codec.decode(codes)[0]}
        decoded |= {side: average_over_grid(target, valid, side)[0].numpy() for side in BASELINE_SIDES}
        for side, values in decoded.items():
            # The same seed, and so the same markers, for the codec and every baseline.
            score = _score(values, truth, file.in_metres, np.random.default_rng([seed, index]))
            scores[side].append((file.source, score))
        advance()
    if not maps:
        raise DepthMapError("no maps to score a codec on; name at least one")
    if not scores[0]:
        raise DepthMapError(f"none of the {len(maps)} maps can be read; the first: {failures[0].reason}")
    by_source = {side: _average_by_source(values) for side, values in scores.items()}
    return DepthReport(by_source.pop(0), by_source, compute_code_usage(counts), failures)


def _squash(nearness: Nearness) -> Nearness:
    values, valid = (resize_nearest(array, MAP_SIZE, MAP_SIZE) for array in (nearness.values, nearness.valid))
    sky = None if nearness.sky is None else resize_nearest(nearness.sky, MAP_SIZE, MAP_SIZE)
    # Where no valid pixel of a map is among the chosen ones, its filled values count.
    return replace(nearness, values=values, valid=valid if valid.any() else np.ones_like(valid), sky=sky)


def _score(decoded: np.ndarray, truth: Nearness, in_metres: bool, rng: np.random.Generator) -> DepthScore:
    """The score of one map."""
    valid = truth.valid
    error = (decoded.astype(np.float64) - truth.values)[valid]
    metres = MetricErrors(float("nan"), float("nan"))
    if truth.kind == "metric" and in_metres:
        clamped = np.clip(decoded, 0, 1).astype(np.float32)
        found = DepthMap.from_nearness(Nearness(clamped, valid, truth.near, truth.far, truth.kind))
        expected = DepthMap.from_nearness(truth)
        if expected.valid.any():  # the sky has no metres
            metres = compute_metric_errors(found.values, expected.values, expected.valid)
    hits = [
        find_closest_marker_hits(
            decoded, truth.values, sample_marker_positions(truth.values, valid, markers, _DRAWS, rng)
        )
        for markers in _MARKERS
    ]
    pairs = find_pair_order_hits(decoded, truth.values, valid, _PAIRS, rng)
    return DepthScore(
        maps=1,
        rmse=float(np.sqrt(np.mean(error**2))),
        mae=float(np.mean(np.abs(error))),
        abs_rel=metres.abs_rel,
        delta_125=metres.delta_125,
        markers=tuple(_average_defined(of_count) for of_count in hits),
        pairs=_average_defined(pairs),
    )


def _average_by_source(scores: list[tuple[str, DepthScore]]) -> dict[str, DepthScore]:
    groups = {"all": [score for _, score in scores]}
    groups |= {name: [score for source, score in scores if source == name] for name in sorted({s for s, _ in scores})}
    return {name: _average(group) for name, group in groups.items()}


def _average(scores: list[DepthScore]) -> DepthScore:
    names = ("rmse", "mae", "abs_rel", "delta_125", "pairs")
    means = {name: _average_defined([getattr(score, name) for score in scores]) for name in names}
    markers = tuple(_average_defined(values) for values in zip(*(score.markers for score in scores), strict=True))
    return DepthScore(maps=len(scores), markers=markers, **means)


def _average_defined(values: Sequence[float] | np.ndarray) -> float:
    """The mean of the values that are defined: a map without relief has no markers, one without a scale no metres."""
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if defined.size else float("nan")
