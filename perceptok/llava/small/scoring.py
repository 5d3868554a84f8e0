"""The demonstration's figures: error of generated depth, valid blocks, and the order of points on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perceptok.depth.codec import DepthCodec
from perceptok.llava.small.answers import DepthAnswer, map_error, point_order
from perceptok.llava.small.training import CurvePoint
from perceptok.llava.small.views import Views

__all__ = ["DemoResult", "marked_points", "scored"]

_TRIES = 200


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Attributes:
        curve: The learning curve.
        rmse: Error on held-out scenes of "generated" depth, of the true map encoded and decoded ("codec"), and of the
            average training map ("mean map").
        valid: Share of valid blocks, "constrained" and "free".
        order: Number of points -> share of questions in which the nearest point on the generated map truly is.
        chance: Number of points -> the same, from the mean map.
        seconds: Processor seconds of each stage.
    """

    curve: tuple[CurvePoint, ...]
    rmse: dict[str, float]
    valid: dict[str, float]
    order: dict[str, float]
    chance: dict[str, float]
    seconds: dict[str, float]


def scored(
    codec: DepthCodec,
    known: Views,
    held_out: Views,
    answers: list[DepthAnswer],
    free: list[DepthAnswer],
    curve: list[CurvePoint],
    seconds: dict[str, float],
) -> DemoResult:
    """Set what was written about held-out scenes against the truth; `known` gives the mean map."""
    truth = held_out.nearness.astype(np.float32)
    mean = known.nearness.mean(axis=0, dtype=np.float32)
    decoded = codec.decode(held_out.codes.reshape(-1, 10, 10)).numpy()[:, ::2, ::2]
    written = np.stack([mean if one.depth is None else one.depth for one in answers])
    order, chance = {}, {}
    for count in (2, 3, 4, 5):
        right, by_mean, asked = 0, 0, 0
        for number, depth in enumerate(truth):
            points = marked_points(depth, count, np.random.default_rng([count, number]))
            if points is not None:
                asked += 1
                right += point_order(written[number], points, depth)
                by_mean += point_order(mean, points, depth)
        if asked:
            order[str(count)], chance[str(count)] = right / asked, by_mean / asked
    return DemoResult(
        tuple(curve),
        {
            "generated": map_error(written, truth),
            "codec": map_error(decoded, truth),
            "mean map": map_error(np.broadcast_to(mean, truth.shape), truth),
        },
        {
            "constrained": float(np.mean([one.codes is not None for one in answers])),
            "free": float(np.mean([one.codes is not None for one in free])),
        },
        order,
        chance,
        seconds,
    )


def marked_points(depth: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """Points as AURORA marks them, in the band of height of HardBLINK's.

    They lie 20 pixels of a 336-pixel frame and 20 grey levels of 255 apart, and never on grey level 0.

    Args:
        depth: (S, S) nearness.
        count: How many.
        rng: What is drawn from.

    Returns:
        (count, 2) int64, x and y in pixels of the map; None where none were found in 200 tries.
    """
    side = len(depth)
    grey = np.rint(depth * 255)
    for _ in range(_TRIES):
        across, down = rng.integers(0, side, count), rng.integers(side * 95 // 336, side * 228 // 336, count)
        points = np.stack([across, down], axis=1)
        levels = grey[points[:, 1], points[:, 0]]
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + side * np.eye(count)
        gaps = np.abs(levels[:, None] - levels[None]) + 255 * np.eye(count)
        if levels.min() > 0 and apart.min() >= 20 * side / 336 and gaps.min() >= 20:
            return points.astype(np.int64)
    return None
