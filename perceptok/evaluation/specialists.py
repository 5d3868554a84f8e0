"""The ceiling: how well a depth specialist itself answers, and what is left of it after 100 tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perceptok.depth import MAP_SIZE, DepthCodec, DepthMap, block_to_text, nearest_resize
from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks import Benchmark, Item
from perceptok.evaluation.scoring import Outcome, case_of
from perceptok.pages import Case

__all__ = ["Estimate", "answer_of", "estimate_case", "find_markers", "levels_at", "specialist_estimates"]


FRAME = 336
"""Side of the pictures that HardBLINK draws on: a circle of radius 4 and width 2, its letter 20 pixels above."""

_APART = 11
_LETTER_CENTRE = (3, -19)
_REACH = (10, 10)


def find_markers(picture: Image.Image, letters: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The centre of each lettered red circle, letter -> x, y in pixels.

    As many circles as letters are taken, by how much a ring of red stands out from its inside and its outside; then
    the letters above them are told apart all at once, by the assignment under which they look most alike.

    Args:
        picture: 336 x 336, marked as AURORA's HardBLINK is.
        letters: The letters on it, each once.

    Raises:
        EvaluationError: The picture has another size, or fewer circles than letters can be made out.
    """
    if picture.size != (FRAME, FRAME):
        raise EvaluationError(f"markers are found on pictures of {FRAME} x {FRAME} pixels; this one has {picture.size}")
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    centres = _circles(pixels, len(letters))
    from scipy.optimize import linear_sum_assignment

    likeness = np.array([[_likeness(pixels, centre, letter) for letter in letters] for centre in centres])
    rows, columns = linear_sum_assignment(-likeness)
    found = {letters[column]: centres[row] for row, column in zip(rows, columns, strict=True)}
    return {letter: found[letter] for letter in letters}


def _circles(pixels: np.ndarray, count: int) -> list[tuple[float, float]]:
    """Centres of the clearest rings, (x, y) with pixel centres at .5."""
    from scipy.ndimage import correlate, maximum_filter

    red = np.clip(pixels[..., 0] - np.maximum(pixels[..., 1], pixels[..., 2]), 0, 1)
    rows, columns = np.mgrid[-8:9, -8:9]
    radius = np.hypot(rows, columns)
    inside, ring, outside = radius < 1.6, (radius >= 2.4) & (radius <= 4.6), (radius > 5.8) & (radius < 8)
    kernel = ring / ring.sum() - 0.5 * inside / inside.sum() - 0.5 * outside / outside.sum()
    clear = correlate(red, kernel, mode="nearest")
    peaks = np.argwhere((clear == maximum_filter(clear, _APART)) & (clear > 0.15))
    if len(peaks) < count:
        raise EvaluationError(f"expected {count} red circles on the picture; {len(peaks)} can be made out")
    best = peaks[np.argsort(-clear[tuple(peaks.T)])[:count]]
    return [(float(x) + 0.5, float(y) + 0.5) for y, x in best]


def _likeness(pixels: np.ndarray, centre: tuple[float, float], letter: str) -> float:
    """The best correlation of a drawn letter with what stands above a circle, wherever it may have been moved to."""
    grey = pixels.mean(-1)
    x, y = int(centre[0]) + _LETTER_CENTRE[0], int(centre[1]) + _LETTER_CENTRE[1]
    reach_x, reach_y = _REACH
    top, left = max(0, y - reach_y), max(0, x - reach_x)
    window = grey[top : min(FRAME, y + reach_y + 1), left : min(FRAME, x + reach_x + 1)]
    best = -1.0
    for tile in _drawn(letter):
        height, width = tile.shape
        if window.shape[0] < height or window.shape[1] < width:
            continue
        patches = np.lib.stride_tricks.sliding_window_view(window, tile.shape)
        flat = patches.reshape(*patches.shape[:2], -1)
        centred = flat - flat.mean(-1, keepdims=True)
        norm = np.linalg.norm(centred, axis=-1)
        known = (tile - tile.mean()).ravel()
        score = centred @ known / np.maximum(norm * np.linalg.norm(known), 1.0)
        best = max(best, float(score.max()))
    return best


@cache
def _drawn(letter: str) -> list[np.ndarray]:
    """A white letter on black, at the sizes that occur."""
    tiles = []
    for size in (11, 12, 13):
        font = ImageFont.load_default(size)
        left, top, right, bottom = (int(edge) for edge in font.getbbox(letter))
        tile = Image.new("L", (right - left + 4, bottom - top + 4))
        ImageDraw.Draw(tile).text((2 - left, 2 - top), letter, fill=255, font=font)
        tiles.append(np.asarray(tile, dtype=np.float32) / 255)
    return tiles


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
