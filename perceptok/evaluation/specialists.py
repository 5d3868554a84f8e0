"""The ceiling: how well a depth specialist itself answers, and what is left of it after 100 tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from perceptok.depth.blocks import block_to_text
from perceptok.depth.codec import DepthCodec
from perceptok.depth.maps.depth_map import DepthMap
from perceptok.depth.preprocessing import MAP_SIZE, nearest_resize
from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks.items import Benchmark, Item
from perceptok.evaluation.benchmarks.markers import find_markers
from perceptok.evaluation.benchmarks.pages import case_of
from perceptok.evaluation.benchmarks.scoring import Outcome
from perceptok.evaluation.report.cases import Case

__all__ = ["Estimate", "answer_of", "estimate_case", "levels_at", "specialist_estimates"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a specialist says about one item.

    Attributes:
        item: The item, with its markers.
        nearness: (H, W) what was estimated, in [0, 1]; NaN where it says nothing.
        codes: (10, 10) the same as tokens.
        decoded: (320, 320) what the tokens say.
        own: The letter that the estimate answers with.
        through: The letter that the decoded tokens answer with.
    """

    item: Item
    nearness: np.ndarray
    codes: np.ndarray
    decoded: np.ndarray
    own: str
    through: str


def specialist_estimates(
    benchmark: Benchmark, estimate: Callable[[Image.Image], DepthMap], codec: DepthCodec
) -> Iterator[Estimate]:
    """Estimate depth on each picture and read it at the markers, before and after the codec.

    Markers that the items do not give are found on the picture (`find_markers`). The circles stay on it: the
    specialist sees what the model would see.

    Args:
        benchmark: Of markers: HardBLINK, or records of the depth task.
        estimate: The specialist, one picture at a time.
        codec: Whose tokens the estimate goes through.

    Raises:
        EvaluationError: Items without markers, or without pictures.
    """
    for item in benchmark.items:
        if len(item.choices) < 2:
            raise EvaluationError(
                f"{benchmark.name} asks for counts; depth is read at the markers of a depth benchmark"
            )
        picture = item.opened()
        markers = dict(item.markers) or find_markers(picture, list(item.choices))
        nearness = estimate(picture).to_nearness()
        codes = codec.encode(nearness)
        decoded = codec.decode(codes)[0]
        own, through = (
            max(levels, key=lambda letter: levels[letter])
            for levels in (levels_at(one, markers, picture.size) for one in (nearness.values, decoded))
        )
        known = np.where(nearness.valid, nearness.values, np.float32(np.nan))
        placed = replace(item, markers=markers)
        yield Estimate(placed, known, codes[0], decoded, own, through)


def answer_of(estimate: Estimate) -> str:
    """The answer that the decoded tokens give, in AURORA's words."""
    letter = estimate.through
    return (
        f"The depth map for the image is {block_to_text(estimate.codes)}. Since point {letter} has a higher pixel "
        f"value on the depth map, the answer is that point {letter} is closer to the camera."
    )


def estimate_case(estimate: Estimate, outcome: Outcome) -> Case:
    """An estimate on the page: what the tokens say beside what was estimated."""
    error = (estimate.decoded - nearest_resize(estimate.nearness, MAP_SIZE, MAP_SIZE)).astype(np.float64)
    return case_of(
        outcome,
        codes=estimate.codes.ravel().tolist(),
        depth=estimate.decoded,
        teacher=estimate.nearness,
        facts={"estimate says": estimate.own, "RMSE": float(np.sqrt(np.nanmean(error**2)))},
    )


def levels_at(
    nearness: np.ndarray, markers: Mapping[str, tuple[float, float]], size: tuple[float, float]
) -> dict[str, float]:
    """Nearness of the pixel under each marker.

    Args:
        nearness: (H, W), of the whole picture, whatever its own size.
        markers: Letter -> x, y.
        size: Width and height of what the markers are measured in.

    Raises:
        EvaluationError: A marker outside the picture.
    """
    height, width = nearness.shape
    levels = {}
    for letter, (x, y) in markers.items():
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise EvaluationError(f"marker {letter} at {x:g}, {y:g} lies outside a picture of {size[0]} x {size[1]}")
        row, column = min(int(y * height / size[1]), height - 1), min(int(x * width / size[0]), width - 1)
        levels[letter] = float(nearness[row, column])
    return levels
