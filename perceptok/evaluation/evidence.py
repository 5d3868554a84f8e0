"""Evidence checked: what a block shows at the markers, how near the truth it is, and whether the answer follows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.scores.metrics import score_boxes
from perceptok.depth.codec import DepthCodec
from perceptok.depth.preprocessing import MAP_SIZE, nearest_resize
from perceptok.errors import EvaluationError
from perceptok.evaluation.specialists import levels_at
from perceptok.evaluation.written import read_written

__all__ = ["BoxEvidence", "Calibration", "DepthEvidence", "calibration", "check_boxes", "check_depth"]


@dataclass(frozen=True, eq=False)
class DepthEvidence:
    """What one answer's depth block is worth.

    Attributes:
        codes: (10, 10), None where there is no whole block, or several; then the rest is None or NaN too.
        decoded: (320, 320) nearness.
        shows: The letter that the decoded map shows nearest at its marker.
        ordered: Share of pairs of markers that the decoded map puts in the truth's order; NaN without a truth.
        follows: Whether the answer is the letter that the block shows.
        rmse: In nearness, against the truth.
        abs_rel: Mean |d - d*| / d* of nearness above 0.05, against the truth.
        problems: What is malformed.
    """

    codes: np.ndarray | None
    decoded: np.ndarray | None
    shows: str | None
    ordered: float
    follows: bool | None
    rmse: float
    abs_rel: float
    problems: tuple[str, ...]


class BoxEvidence(NamedTuple):
    """What one answer's boxes are worth.

    Attributes:
        boxes: How many whole boxes were written.
        follows: Whether the answer is their number.
        precision: Share of boxes that match a true one with IoU of at least 0.5.
        recall: Share of true boxes that are matched.
        problems: What is malformed.
    """

    boxes: int
    follows: bool | None
    precision: float
    recall: float
    problems: tuple[str, ...]


class Calibration(NamedTuple):
    """Accuracy where the evidence is good, and where it is not.

    Attributes:
        bins: Each of as many items as possible alike: least and greatest quality, items, accuracy.
        correlation: Of quality and being right (point-biserial); NaN where either never varies.
    """

    bins: tuple[tuple[float, float, int, float], ...]
    correlation: float


def check_depth(
    text: str,
    codec: DepthCodec,
    markers: Mapping[str, tuple[float, float]],
    size: tuple[float, float],
    *,
    answer: str | None = None,
    truth: np.ndarray | None = None,
    levels: Mapping[str, float] | None = None,
) -> DepthEvidence:
    """Decode the block of one answer and check it.

    Args:
        text: What a model wrote.
        codec: Whose codes its DEPTH tokens mean.
        markers: Letter -> x, y.
        size: Width and height of what the markers are measured in.
        answer: What the text answers.
        truth: (H, W) nearness in [0, 1] of the whole picture, NaN where nothing is known.
        levels: Letter -> true nearness, where they are known better than from `truth`.

    Raises:
        EvaluationError: A marker outside the picture.
    """
    written = read_written(text)
    nothing = float("nan")
    if written.block is None:
        return DepthEvidence(None, None, None, nothing, None, nothing, nothing, written.problems)
    decoded = codec.decode(written.block)[0]
    told = levels_at(decoded, markers, size)
    shows = max(told, key=lambda letter: told[letter]) if told else None
    ordered = rmse = abs_rel = nothing
    if levels is not None:
        ordered = _ordered(told, {letter: level for letter, level in levels.items() if letter in told})
    if truth is not None:
        ordered = _ordered(told, levels_at(truth, markers, size)) if levels is None else ordered
        squared = nearest_resize(truth, MAP_SIZE, MAP_SIZE)
        known = np.isfinite(squared)
        if known.any():
            error = np.abs(decoded[known].astype(np.float64) - squared[known])
            rmse = float(np.sqrt(np.mean(error**2)))
            # Nearness 0 is the map's farthest point: a relative error there is none.
            far = squared[known] > 0.05
            abs_rel = float(np.mean(error[far] / squared[known][far])) if far.any() else nothing
    follows = None if shows is None or answer is None else answer == shows
    return DepthEvidence(written.block, decoded, shows, ordered, follows, rmse, abs_rel, written.problems)


def check_boxes(text: str, *, answer: str | None = None, truth: ArrayLike | None = None) -> BoxEvidence:
    """Check the boxes of one answer.

    Args:
        text: What a model wrote.
        answer: The count that the text answers.
        truth: Codes (N, 4) of the true boxes: x1, y1, x2, y2.
    """
    written = read_written(text)
    count = len(written.boxes)
    precision = recall = float("nan")
    if truth is not None:
        scores = score_boxes(_edges(written.boxes), _edges(truth), invalid=len(written.problems))
        precision, recall = scores.precision_50, scores.recall_50
    return BoxEvidence(count, None if answer is None else answer == str(count), precision, recall, written.problems)


def calibration(quality: Sequence[float], right: Sequence[bool], bins: int = 4) -> Calibration:
    """Is the answer right more often where the evidence is good?

    Args:
        quality: Of each item, larger = better, such as `ordered` or -rmse; NaN is left out.
        right: Whether each answer is right.
        bins: How many groups of as equal a size as equal qualities allow.

    Raises:
        EvaluationError: Lengths differ, or no quality is known.
    """
    if len(quality) != len(right):
        raise EvaluationError(f"{len(quality)} qualities and {len(right)} answers do not pair")
    values, hits = np.asarray(quality, dtype=np.float64), np.asarray(right, dtype=np.float64)
    values, hits = values[np.isfinite(values)], hits[np.isfinite(values)]
    if not len(values):
        raise EvaluationError("no item has evidence of a known quality; there is nothing to calibrate")
    parts = np.array_split(np.sort(values), min(bins, len(values)))
    # Equal qualities are never told apart: they all belong to the higher bin.
    place = np.searchsorted(np.unique([part[0] for part in parts[1:]]), values, side="right")
    groups = [np.flatnonzero(place == one) for one in np.unique(place)]
    told = tuple(
        (float(values[part].min()), float(values[part].max()), len(part), float(hits[part].mean())) for part in groups
    )
    varies = values.std() > 0 and hits.std() > 0
    return Calibration(told, float(np.corrcoef(values, hits)[0, 1]) if varies else float("nan"))


def _edges(codes: ArrayLike) -> np.ndarray:
    """Codes (N, 4) as edges: the bins of both ends belong to the box."""
    boxes = np.array(codes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += 1
    return boxes


def _ordered(told: Mapping[str, float], true: Mapping[str, float]) -> float:
    letters = [letter for letter in true if np.isfinite(true[letter])]
    pairs = [(a, b) for number, a in enumerate(letters) for b in letters[:number] if true[a] != true[b]]
    right = [(told[a] > told[b]) == (true[a] > true[b]) for a, b in pairs]
    return float(np.mean(right)) if right else float("nan")
