"""How good a decoded map is: error in nearness, error in metres, order of points, use of the codes.

Maps are square, (S, S) or (B, S, S): nearness in [0, 1] with 1 = nearest, and a boolean mask of the pixels whose truth
is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perceptok.depth.codec import DepthCodec
from perceptok.depth.depth_records import MapFailure
from perceptok.depth.map_files import MapFile
from perceptok.depth.maps import DepthMap, Nearness
from perceptok.depth.preprocessing import MAP_SIZE, nearest_resize
from perceptok.errors import DepthMapError
from perceptok.tokens import DEPTH

__all__ = [
    "CodeUsage",
    "DepthReport",
    "DepthScore",
    "MarkerDraw",
    "MetricErrors",
    "area_ladder",
    "closest_marker_hits",
    "code_usage",
    "draw_marker_positions",
    "evaluate_depth_codec",
    "metric_errors",
    "pair_order_hits",
    "squared_errors",
]


MARKER_FRAME = 336
"""Side of the frame in which HardBLINK places its markers."""

MARKER_DISTANCE = 20
"""Least distance between two markers, in pixels of that frame."""

MARKER_CONTRAST = 20 / 255
"""Least difference in nearness between two markers (20 of 255 grey levels)."""


class CodeUsage(NamedTuple):
    """How the codes of a whole set are spread: how many occur, and the exponential of their entropy."""

    used: int
    perplexity: float


class MetricErrors(NamedTuple):
    """Errors of one map in metres: mean |d - d*| / d*, and the share of pixels with max(d/d*, d*/d) < 1.25."""

    abs_rel: float
    delta_125: float


@dataclass(frozen=True)
class MarkerDraw:
    """Markers on one map: pixel rows and columns, (draws, markers) each."""

    rows: np.ndarray
    columns: np.ndarray


def squared_errors(decoded: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of each map over its valid pixels; (B, S, S) -> (B,) float64."""
    error = (decoded.double() - target.double()).square() * valid
    return error.sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)


def code_usage(counts: Tensor) -> CodeUsage:
    """Usage of the codes from their counts (K,) over a whole set.

    The perplexity of a single batch says little: it cannot exceed the number of tokens in it.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    return CodeUsage(int((counts > 0).sum()), float(entropy.exp()))


def metric_errors(decoded: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> MetricErrors:
    """Errors in metres of one map over its valid pixels, arrays of any one shape."""
    got, expected = decoded[valid].astype(np.float64), truth[valid].astype(np.float64)
    ratio = np.maximum(got / expected, expected / got)
    return MetricErrors(float(np.mean(np.abs(got - expected) / expected)), float(np.mean(ratio < 1.25)))


def area_ladder(target: Tensor, valid: Tensor, side: int) -> Tensor:
    """The yardstick: an *unquantised* side x side grid of area averages, upsampled bilinearly; (B, S, S) in and out.

    Averages run over valid pixels only; a cell without any takes the average of its filled pixels.
    """
    size = target.shape[-1]
    weight = valid.float()[:, None]
    filled = F.adaptive_avg_pool2d(target[:, None], side)
    total = F.adaptive_avg_pool2d(target[:, None] * weight, side)
    known = F.adaptive_avg_pool2d(weight, side)
    grid = torch.where(known > 0, total / known.clamp(min=1e-12), filled)
    return F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)[:, 0]


def draw_marker_positions(
    nearness: np.ndarray, valid: np.ndarray, markers: int, draws: int, rng: np.random.Generator
) -> MarkerDraw:
    """Place markers by the HardBLINK protocol: at mid height, apart in place and in grey level.

    Args:
        nearness: (S, S) truth in [0, 1].
        valid: (S, S) boolean.
        markers: Markers per draw.
        draws: How many draws to try for; a map with too little relief gives fewer, or none.
        rng: Source of the positions.

    Returns:
        Pixel positions, at most `draws` rows of `markers` each.
    """
    size = nearness.shape[0]
    row = size // 2
    columns = np.flatnonzero(valid[row])
    apart = MARKER_DISTANCE * size / MARKER_FRAME
    kept: list[np.ndarray] = []
    if len(columns) >= markers:
        for _ in range(20):
            tried = rng.choice(columns, size=(4 * draws, markers))
            levels = np.sort(nearness[row, tried], axis=1)
            places = np.sort(tried, axis=1)
            good = (np.diff(levels, axis=1) >= MARKER_CONTRAST).all(1) & (np.diff(places, axis=1) >= apart).all(1)
            kept.extend(tried[good])
            if len(kept) >= draws:
                break
    chosen = np.array(kept[:draws], dtype=np.int64).reshape(-1, markers)
    return MarkerDraw(np.full_like(chosen, row), chosen)


def closest_marker_hits(decoded: np.ndarray, target: np.ndarray, draw: MarkerDraw) -> np.ndarray:
    """Whether maps (H, W) of nearness, decoded and target, show the same closest marker: one boolean per draw."""
    got = decoded[draw.rows, draw.columns].argmax(1)
    expected = target[draw.rows, draw.columns].argmax(1)
    return np.asarray(got == expected)


def pair_order_hits(
    decoded: np.ndarray, target: np.ndarray, valid: np.ndarray, pairs: int, rng: np.random.Generator
) -> np.ndarray:
    """Whether pairs of points anywhere, at least 20 grey levels apart, keep their order; one boolean each."""
    rows, columns = np.nonzero(valid)
    if len(rows) < 2:
        return np.empty(0, dtype=bool)
    first, second = rng.integers(len(rows), size=(2, 4 * pairs))
    truth = target[rows[first], columns[first]] - target[rows[second], columns[second]]
    told = decoded[rows[first], columns[first]] - decoded[rows[second], columns[second]]
    apart = np.abs(truth) >= MARKER_CONTRAST
    return np.asarray((np.sign(truth) == np.sign(told))[apart][:pairs])


LADDER = (10, 14, 20)
"""Sides of the unquantised grids beside which a codec is reported."""

_MARKERS = (3, 4, 5)
_DRAWS = 16
_PAIRS = 500


@dataclass(frozen=True)
class DepthScore:
    """Means over maps; NaN where no map allows the measure.

    Attributes:
        maps: How many.
        rmse: Root mean squared error in nearness of a map's valid pixels.
        mae: Mean absolute error in nearness.
        abs_rel: Mean |d - d*| / d* in metres, of metric maps whose scale is known.
        delta_125: Share of pixels with max(d/d*, d*/d) < 1.25, of the same maps.
        markers: Share of HardBLINK draws of 3, 4 and 5 markers whose closest one is named right, one figure each.
        pairs: Share of pairs of points, 20 grey levels apart, in the right order.
    """

    maps: int
    rmse: float
    mae: float
    abs_rel: float
    delta_125: float
    markers: tuple[float, float, float]
    pairs: float

    @property
    def closest(self) -> float:
        """Mean over 3, 4 and 5 markers."""
        return float(np.mean(self.markers))


@dataclass(frozen=True)
class DepthReport:
    """Scores of a codec and of the yardstick, by source and in all.

    Attributes:
        codec: The codec's scores: source -> score, and "all".
        ladder: Side of an unquantised grid -> the same.
        usage: Codes used by all maps together.
        failures: Maps that could not be read.
    """

    codec: dict[str, DepthScore]
    ladder: dict[int, dict[str, DepthScore]]
    usage: CodeUsage
    failures: list[MapFailure]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "codec": {source: asdict(score) for source, score in self.codec.items()},
            "ladder": {
                str(side): {source: asdict(score) for source, score in scores.items()}
                for side, scores in self.ladder.items()
            },
            "usage": self.usage._asdict(),
            "failures": [failure._asdict() for failure in self.failures],
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
    valid pixels count. Markers and pairs are drawn once per map and are the same for the codec and the yardstick.

    Args:
        codec: The codec.
        maps: What to score on; their `source` groups them.
        seed: Of markers and pairs.
        advance: Called after every map.
        warn: Called with a map's name and what is odd about its range (see `Nearness.few_pixels`).

    Raises:
        DepthMapError: There are no maps, or none can be read.
    """
    rows: dict[int, list[_Row]] = {side: [] for side in (0, *LADDER)}
    failures: list[MapFailure] = []
    counts = torch.zeros(DEPTH.size)
    for index, file in enumerate(maps):
        try:
            nearness = file.read_nearness()
        except DepthMapError as error:
            failures.append(MapFailure(file.name, str(error)))
            advance()
            continue
        if few := nearness.few_pixels():
            warn(file.name, str(few))
        codes = codec.encode(nearness)
        counts += torch.bincount(torch.from_numpy(codes).flatten(), minlength=DEPTH.size)
        truth = _square(nearness)
        decoded = {0: torch.from_numpy(codec.decode(codes))[0]}
        target, valid = torch.from_numpy(truth.values)[None], torch.from_numpy(truth.valid)[None]
        decoded |= {side: area_ladder(target, valid, side)[0] for side in LADDER}
        for side, one in decoded.items():
            # The same seed for every rung: the same markers.
            rows[side].append(_row(file, truth, one, np.random.default_rng([seed, index])))
        advance()
    if not maps:
        raise DepthMapError("no maps to score a codec on; name at least one")
    if not rows[0]:
        raise DepthMapError(f"none of the {len(maps)} maps can be read; the first: {failures[0].reason}")
    return DepthReport(
        _by_source(rows[0]), {side: _by_source(rows[side]) for side in LADDER}, code_usage(counts), failures
    )


@dataclass(frozen=True)
class _Row:
    source: str
    rmse: float
    mae: float
    abs_rel: float
    delta_125: float
    markers: tuple[float, ...]
    pairs: float


def _row(file: MapFile, truth: Nearness, decoded: Tensor, rng: np.random.Generator) -> _Row:
    told, valid = decoded.numpy(), truth.valid
    error = (told.astype(np.float64) - truth.values)[valid]
    abs_rel = delta = float("nan")
    if truth.kind == "metric" and file.in_metres:
        metres = DepthMap.from_nearness(
            Nearness(np.clip(told, 0, 1).astype(np.float32), valid, truth.near, truth.far, truth.kind)
        )
        known = DepthMap.from_nearness(truth)
        if known.valid.any():  # the sky has no metres
            abs_rel, delta = metric_errors(metres.values, known.values, known.valid)
    hits = [
        closest_marker_hits(told, truth.values, draw_marker_positions(truth.values, valid, markers, _DRAWS, rng))
        for markers in _MARKERS
    ]
    pairs = pair_order_hits(told, truth.values, valid, _PAIRS, rng)
    return _Row(
        file.source,
        float(np.sqrt(np.mean(error**2))),
        float(np.mean(np.abs(error))),
        abs_rel,
        delta,
        tuple(_mean(one) for one in hits),
        _mean(pairs),
    )


def _square(nearness: Nearness) -> Nearness:
    values, valid = (nearest_resize(one, MAP_SIZE, MAP_SIZE) for one in (nearness.values, nearness.valid))
    # A map whose only valid pixels fall between the picked ones still has a filled value everywhere.
    sky = None if nearness.sky is None else nearest_resize(nearness.sky, MAP_SIZE, MAP_SIZE)
    return replace(nearness, values=values, valid=valid if valid.any() else np.ones_like(valid), sky=sky)


def _by_source(rows: list[_Row]) -> dict[str, DepthScore]:
    groups = {"all": rows} | {
        name: [row for row in rows if row.source == name] for name in sorted({r.source for r in rows})
    }
    return {name: _score(group) for name, group in groups.items()}


def _score(rows: list[_Row]) -> DepthScore:
    three, four, five = (_mean([row.markers[i] for row in rows]) for i in range(3))
    means = {
        name: _mean([getattr(row, name) for row in rows]) for name in ("rmse", "mae", "abs_rel", "delta_125", "pairs")
    }
    return DepthScore(maps=len(rows), markers=(three, four, five), **means)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of what is known: a map without relief has no markers, one without a scale no metres."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")
