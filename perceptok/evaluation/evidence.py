"""Evidence checked: what a block shows at the markers, how near the truth it is, and whether the answer follows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes import score_boxes
from perceptok.decoding import read_evidence
from perceptok.depth import MAP_SIZE, DepthCodec, nearest_resize
from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks import Item
from perceptok.evaluation.scoring import Outcome, Scores, case_of
from perceptok.evaluation.specialists import Estimate, find_markers, levels_at
from perceptok.pages import Case, Fact, Table
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL

__all__ = [
    "BoxEvidence",
    "Calibration",
    "Checked",
    "DepthEvidence",
    "EvidenceReport",
    "calibration",
    "check_boxes",
    "check_depth",
    "check_evidence",
]


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
    written = read_evidence(text)
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
    written = read_evidence(text)
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


class Checked(NamedTuple):
    """The evidence of one answer.

    Attributes:
        depth: Of its block; None where depth is not asked about.
        boxes: Of its boxes; None where nothing is counted.
        teacher: (H, W) nearness that the block should show, None where it is not known.
        specialist: Whether the teacher's own map has the right point nearest; None where it is not known.
        codec: Whether it still has after 100 tokens.
    """

    depth: DepthEvidence | None
    boxes: BoxEvidence | None
    teacher: np.ndarray | None
    specialist: bool | None
    codec: bool | None


@dataclass(frozen=True)
class EvidenceReport:
    """What the evidence of all answers is worth.

    Attributes:
        items: Id -> its evidence.
        facts: Name -> (items that it is over, value); shares are 0..1.
        calibrations: Quality -> accuracy where it is low and where it is high.
    """

    items: Mapping[str, Checked]
    facts: Mapping[str, tuple[int, float]]
    calibrations: Mapping[str, Calibration]

    def to_json(self) -> dict[str, Any]:
        """As JSON types; NaN is None."""
        return {
            "facts": {name: {"items": count, "value": _known(value)} for name, (count, value) in self.facts.items()},
            "calibration": {
                name: {
                    "correlation": _known(one.correlation),
                    "bins": [
                        {"least": low, "greatest": high, "items": count, "accuracy": share}
                        for low, high, count, share in one.bins
                    ],
                }
                for name, one in self.calibrations.items()
            },
            "items": {name: dict(_facts(one)) for name, one in self.items.items()},
        }

    def tables(self) -> list[Table]:
        """For the page."""
        rows = [(name, str(count), _spelled(value)) for name, (count, value) in self.facts.items()]
        found = [Table("Evidence", ("what", "items", "value"), rows, "Shares and errors of nearness (0 to 1).")]
        for name, one in self.calibrations.items():
            lines = [
                (f"{low:.4g} to {high:.4g}", str(count), f"{100 * share:.1f}") for low, high, count, share in one.bins
            ]
            note = f"Correlation of quality and being right: {_spelled(one.correlation)}."
            title = f"Is the answer right more often where the evidence is good? By {name}"
            found.append(Table(title, (name, "items", "accuracy, %"), lines, note))
        return found

    def case(self, outcome: Outcome) -> Case:
        """An outcome on the page, with its evidence decoded."""
        one = self.items[outcome.item.id]
        more: dict[str, Any] = {"facts": dict(_facts(one))}
        if one.depth is not None and one.depth.codes is not None:
            more |= {"codes": one.depth.codes.ravel().tolist(), "depth": one.depth.decoded}
        if one.teacher is not None:
            more["teacher"] = one.teacher
        return case_of(outcome, **more)


def check_evidence(
    scores: Scores, codec: DepthCodec, estimates: Mapping[str, Estimate] | None = None
) -> EvidenceReport | None:
    """Check blocks and boxes of every answer; None where no answer holds a perception token.

    Markers that the items do not give are found on the picture. What a block should show is the specialist's estimate
    where there is one, else what the codec makes of the record's own codes; the order of points is that of the
    markers' own levels where the record knows them.

    Args:
        scores: What `evaluate` gives.
        codec: Whose codes the DEPTH tokens mean.
        estimates: Id -> what a specialist says, as the ceiling.

    Raises:
        EvaluationError: A picture that cannot be read, or that a marker lies outside of.
    """
    texts = [one.text or "" for one in scores.outcomes]
    if not any(f"<{DEPTH.name}_" in text or f"<{PIXEL.name}_" in text for text in texts):
        return None
    items = {one.item.id: _checked(one, codec, (estimates or {}).get(one.item.id)) for one in scores.outcomes}
    asked = {one.item.id: one.item for one in scores.outcomes}
    right = {one.item.id: one.right for one in scores.outcomes}
    qualities: dict[str, dict[str, float]] = {}
    for name, one in items.items():
        for what, value in _qualities(one, asked[name]):
            if math.isfinite(value):
                qualities.setdefault(what, {})[name] = value
    calibrations = {
        what: calibration(list(values.values()), [right[name] for name in values]) for what, values in qualities.items()
    }
    return EvidenceReport(items, dict(_summed(items.values(), qualities)), calibrations)


def _checked(outcome: Outcome, codec: DepthCodec, estimate: Estimate | None) -> Checked:
    item, text = outcome.item, outcome.text or ""
    known = item.evidence
    if not item.choices:
        truth = None if known is None or known.boxes is None else np.array(known.boxes).reshape(-1, 4)
        return Checked(None, check_boxes(text, answer=outcome.reading.value, truth=truth), None, None, None)
    size = item.size()
    if size is None:
        return Checked(check_depth(text, codec, {}, (1, 1)), None, None, None, None)
    _require_markers_inside(item, size)
    teacher: np.ndarray | None = None
    specialist: bool | None = None
    through: bool | None = None
    if estimate is not None:
        markers, teacher = dict(estimate.item.markers), estimate.nearness
        specialist, through = (letter == item.answer for letter in (estimate.own, estimate.through))
    else:
        markers = dict(item.markers)
        if not markers and f"<{DEPTH.name}_" in text and not any(item.choices.values()):
            # Of pictures that are not HardBLINK's nothing can be found; what rests on markers is then not known.
            with suppress(EvaluationError):
                markers = find_markers(item.opened(), list(item.choices))
        if known is not None and known.codes is not None:
            teacher = codec.decode(np.array(known.codes, dtype=np.int64).reshape(DEPTH_GRID))[0]
            told = levels_at(teacher, markers, size)
            through = max(told, key=lambda letter: told[letter]) == item.answer if told else None
    levels = {} if known is None else {one.letter: one.level for one in known.markers if one.level is not None}
    if levels and estimate is None:
        specialist = max(levels, key=lambda letter: levels[letter]) == item.answer
    found = check_depth(text, codec, markers, size, answer=outcome.reading.value, truth=teacher, levels=levels or None)
    return Checked(found, None, teacher, specialist, through)


def _require_markers_inside(item: Item, size: tuple[int, int]) -> None:
    for letter, (x, y) in item.markers.items():
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise EvaluationError(
                f"item {item.id}: its marker {letter} at {x:g}, {y:g} lies outside its picture of {size[0]} x {size[1]}"
                "; score with the pictures that the items were made of"
            )


def _qualities(one: Checked, item: Item) -> Iterator[tuple[str, float]]:
    if one.depth is not None and one.depth.codes is not None:
        yield "block's error, -RMSE", -one.depth.rmse
        yield "pairs of points in order", one.depth.ordered
        if one.depth.shows is not None:
            yield "block shows the right point", float(one.depth.shows == item.answer)
    if one.boxes is not None:
        yield "recall of boxes", one.boxes.recall
        yield "number of boxes is right", float(str(one.boxes.boxes) == item.answer)


def _summed(
    items: Iterable[Checked], qualities: Mapping[str, Mapping[str, float]]
) -> Iterator[tuple[str, tuple[int, float]]]:
    some = list(items)
    depth = [one.depth for one in some if one.depth is not None]
    boxes = [one.boxes for one in some if one.boxes is not None]
    if depth:
        yield "answers with one whole block", _mean([one.codes is not None for one in depth])
        yield "block shows the right point", _mean(list(qualities.get("block shows the right point", {}).values()))
        yield "answer is what the block shows", _mean([one.follows for one in depth])
        yield "pairs of points in order", _mean([one.ordered for one in depth])
        yield "RMSE of the block against the teacher", _mean([one.rmse for one in depth])
        yield "AbsRel of the block against the teacher", _mean([one.abs_rel for one in depth])
        yield "ceiling: the specialist's own map", _mean([one.specialist for one in some])
        yield "ceiling: the specialist through the codec", _mean([one.codec for one in some])
    if boxes:
        yield "answer is the number of boxes", _mean([one.follows for one in boxes])
        yield "number of boxes is right", _mean(list(qualities.get("number of boxes is right", {}).values()))
        yield "precision of boxes, IoU 0.5", _mean([one.precision for one in boxes])
        yield "recall of boxes, IoU 0.5", _mean([one.recall for one in boxes])


def _mean(values: Sequence[float | bool | None]) -> tuple[int, float]:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return len(known), float(np.mean(known)) if known else float("nan")


def _facts(one: Checked) -> Iterator[tuple[str, Fact]]:
    if one.depth is not None:
        yield "block shows", one.depth.shows
        yield "answer follows the block", one.depth.follows
        yield "pairs in order", _known(one.depth.ordered)
        yield "RMSE", _known(one.depth.rmse)
        yield "AbsRel", _known(one.depth.abs_rel)
    if one.boxes is not None:
        yield "boxes", one.boxes.boxes
        yield "answer is the number of boxes", one.boxes.follows
        yield "precision", _known(one.boxes.precision)
        yield "recall", _known(one.boxes.recall)
    if one.specialist is not None:
        yield "specialist is right", one.specialist
    if one.codec is not None:
        yield "specialist through the codec is right", one.codec


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _spelled(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "unknown"
