"""The ceiling of a depth benchmark: how well a depth specialist answers it, before and after the codec's 100 tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perceptok.depth import DepthCodec, DepthMap, block_to_text
from perceptok.errors import DepthMapError, EvaluationError
from perceptok.evaluation.benchmarks import Benchmark, BenchmarkItem
from perceptok.evaluation.scoring import Scores, evaluate

__all__ = [
    "Estimate",
    "SpecialistScores",
    "evaluate_specialist",
    "find_markers",
    "nearest_marker",
    "sample_nearness",
]

_FRAME = 336
"""Side of HardBLINK's images, in pixels; on them a circle of radius 4 and width 2, its letter 20 pixels above."""

_MIN_DISTANCE = 11
"""Between two circles, in pixels."""

_LETTER_OFFSET = (3, -19)
"""Of a letter's centre from its circle's, in pixels."""

_SEARCH_RADIUS = (10, 10)
"""Maximum distance of a letter from that place, in pixels."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A specialist's estimate for one item.

    Attributes:
        item: The item, with its markers.
        nearness: (H, W) the estimate, in [0, 1]; NaN where it is invalid.
        codes: (10, 10) its codes.
        decoded: (320, 320) what the codes decode to.
        letter: The marker that the estimate shows nearest.
        decoded_letter: The marker that the decoded codes show nearest.
    """

    item: BenchmarkItem
    nearness: np.ndarray
    codes: np.ndarray
    decoded: np.ndarray
    letter: str
    decoded_letter: str

    def answer(self) -> str:
        """The answer that the decoded codes give, in AURORA's words."""
        letter = self.decoded_letter
        return (
            f"The depth map for the image is {block_to_text(self.codes)}. Since point {letter} has a higher pixel "
            f"value on the depth map, the answer is that point {letter} is closer to the camera."
        )


@dataclass(frozen=True)
class SpecialistScores:
    """A specialist's scores on a benchmark.

    Attributes:
        estimates: Id of an item -> the estimate.
        direct: Scores of the estimates read at the markers.
        through_codec: Scores of the same estimates after encoding and decoding.
        unread: Id of an item -> why it has no estimate; in the scores it counts as unparsed.
    """

    estimates: Mapping[str, Estimate]
    direct: Scores
    through_codec: Scores
    unread: Mapping[str, str]


def evaluate_specialist(
    benchmark: Benchmark,
    estimate: Callable[[Image.Image], DepthMap],
    codec: DepthCodec,
    *,
    advance: Callable[[], object] = lambda: None,
) -> SpecialistScores:
    """Score a depth specialist on a benchmark of markers, before and after the codec.

    Markers that the items do not give are found on the image (`find_markers`). The circles stay on it: the specialist
    sees what the model would see. An item whose image cannot be read, or shows no markers, has no estimate.

    Args:
        benchmark: HardBLINK, or records of the depth task.
        estimate: The specialist: one RGB image -> its depth map.
        codec: The codec whose tokens the estimates go through.
        advance: Called after each item.

    Raises:
        EvaluationError: A benchmark without markers, or no item has an estimate.
        SpecialistError: The specialist cannot be used.
    """
    if any(len(item.choices) < 2 for item in benchmark.items):
        raise EvaluationError(
            f"{benchmark.name} asks for counts or tokens; depth is read at the markers of a depth benchmark"
        )
    estimates: dict[str, Estimate] = {}
    unread: dict[str, str] = {}
    for item in benchmark.items:
        try:
            estimates[item.id] = _estimate_item(item, estimate, codec)
        except (EvaluationError, DepthMapError) as error:
            unread[item.id] = str(error)
        advance()
    if not estimates:
        raise EvaluationError(f"no item of {benchmark.name} has an estimate: {next(iter(unread.values()))}")
    located = tuple(estimates[item.id].item if item.id in estimates else item for item in benchmark.items)
    answers = {name: found.answer() for name, found in estimates.items()}
    letters = {name: f"({found.letter})" for name, found in estimates.items()}
    direct, through_codec = (
        evaluate(texts, replace(benchmark, items=located), missing=True) for texts in (letters, answers)
    )
    return SpecialistScores(estimates, direct, through_codec, unread)


def _estimate_item(item: BenchmarkItem, estimate: Callable[[Image.Image], DepthMap], codec: DepthCodec) -> Estimate:
    """Estimate the depth of an item's image and read it at the markers, before and after the codec."""
    image = item.open_image()
    markers = dict(item.markers) or find_markers(image, list(item.choices))
    nearness = estimate(image).to_nearness()
    codes = codec.encode(nearness)
    decoded = codec.decode(codes)[0]
    letter, decoded_letter = (
        nearest_marker(sample_nearness(values, markers, image.size)) for values in (nearness.values, decoded)
    )
    valid = np.where(nearness.valid, nearness.values, np.float32(np.nan))
    return Estimate(replace(item, markers=markers), valid, codes[0], decoded, letter, decoded_letter)


def nearest_marker(levels: Mapping[str, float]) -> str:
    """The letter with the highest nearness; the first of equal ones."""
    return max(levels, key=lambda letter: levels[letter])


def sample_nearness(
    nearness: np.ndarray, markers: Mapping[str, tuple[float, float]], size: tuple[float, float]
) -> dict[str, float]:
    """The nearness of the pixel under each marker, letter -> value.

    Args:
        nearness: (H, W), of the whole image, at any resolution.
        markers: Letter -> x, y.
        size: Width and height of the frame that the markers are measured in.

    Raises:
        EvaluationError: A marker outside the image.
    """
    height, width = nearness.shape
    levels = {}
    for letter, (x, y) in markers.items():
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise EvaluationError(f"marker {letter} at {x:g}, {y:g} lies outside an image of {size[0]} x {size[1]}")
        row, column = min(int(y * height / size[1]), height - 1), min(int(x * width / size[0]), width - 1)
        levels[letter] = float(nearness[row, column])
    return levels


def find_markers(image: Image.Image, letters: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Find the centre of each lettered red circle: letter -> x, y in pixels.

    The clearest rings of red, as many as there are letters, are the circles; the letters above them are matched all at
    once, by the assignment of highest correlation.

    Args:
        image: 336 x 336 pixels, marked as HardBLINK is.
        letters: The letters on it, each once.

    Raises:
        EvaluationError: The image has another size, or shows fewer circles than letters.
    """
    if image.size != (_FRAME, _FRAME):
        raise EvaluationError(f"markers are found on images of {_FRAME} x {_FRAME} pixels; this one has {image.size}")
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    centres = _find_circles(pixels, len(letters))
    from scipy.optimize import linear_sum_assignment

    similarity = np.array([[_letter_similarity(pixels, centre, letter) for letter in letters] for centre in centres])
    rows, columns = linear_sum_assignment(-similarity)
    found = {letters[column]: centres[row] for row, column in zip(rows, columns, strict=True)}
    return {letter: found[letter] for letter in letters}


def _find_circles(pixels: np.ndarray, count: int) -> list[tuple[float, float]]:
    """Centres of the clearest rings, (x, y) with pixel centres at .5."""
    from scipy.ndimage import correlate, maximum_filter

    red = np.clip(pixels[..., 0] - np.maximum(pixels[..., 1], pixels[..., 2]), 0, 1)
    rows, columns = np.mgrid[-8:9, -8:9]
    radius = np.hypot(rows, columns)
    inside, ring, outside = radius < 1.6, (radius >= 2.4) & (radius <= 4.6), (radius > 5.8) & (radius < 8)
    kernel = ring / ring.sum() - 0.5 * inside / inside.sum() - 0.5 * outside / outside.sum()
    ring_strength = correlate(red, kernel, mode="nearest")
    peaks = np.argwhere((ring_strength == maximum_filter(ring_strength, _MIN_DISTANCE)) & (ring_strength > 0.15))
    if len(peaks) < count:
        raise EvaluationError(f"expected {count} red circles on the image; found {len(peaks)}")
    strongest = peaks[np.argsort(-ring_strength[tuple(peaks.T)])[:count]]
    return [(float(x) + 0.5, float(y) + 0.5) for y, x in strongest]


def _letter_similarity(pixels: np.ndarray, centre: tuple[float, float], letter: str) -> float:
    """The highest correlation of a drawn letter with what stands above a circle."""
    grey = pixels.mean(-1)
    x, y = int(centre[0]) + _LETTER_OFFSET[0], int(centre[1]) + _LETTER_OFFSET[1]
    reach_x, reach_y = _SEARCH_RADIUS
    top, left = max(0, y - reach_y), max(0, x - reach_x)
    window = grey[top : min(_FRAME, y + reach_y + 1), left : min(_FRAME, x + reach_x + 1)]
    best = -1.0
    for template in _draw_letter(letter):
        height, width = template.shape
        if window.shape[0] < height or window.shape[1] < width:
            continue
        patches = np.lib.stride_tricks.sliding_window_view(window, template.shape)
        flat = patches.reshape(*patches.shape[:2], -1)
        centred = flat - flat.mean(-1, keepdims=True)
        norm = np.linalg.norm(centred, axis=-1)
        centred_template = (template - template.mean()).ravel()
        score = centred @ centred_template / np.maximum(norm * np.linalg.norm(centred_template), 1.0)
        best = max(best, float(score.max()))
    return best


@cache
def _draw_letter(letter: str) -> list[np.ndarray]:
    """The letter in white on black, at the font sizes that occur."""
    templates = []
    for size in (11, 12, 13):
        font = ImageFont.load_default(size)
        left, top, right, bottom = (int(edge) for edge in font.getbbox(letter))
        template = Image.new("L", (right - left + 4, bottom - top + 4))
        ImageDraw.Draw(template).text((2 - left, 2 - top), letter, fill=255, font=font)
        templates.append(np.asarray(template, dtype=np.float32) / 255)
    return templates
