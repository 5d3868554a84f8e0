"""How good a decoded map is: error in nearness, error in metres, order of points, use of the codes.

Maps are square, (S, S) or (B, S, S): nearness in [0, 1] with 1 = nearest, and a boolean mask of the pixels whose truth
is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "CodeUsage",
    "MarkerDraw",
    "MetricErrors",
    "area_ladder",
    "closest_marker_hits",
    "code_usage",
    "draw_markers",
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


def draw_markers(
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
    """Whether the decoded map names the same closest marker as the truth, one boolean per draw."""
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
