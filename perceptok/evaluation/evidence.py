"""Checks of evidence: what a block shows at the markers, its error, and whether the answer follows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes import score_boxes
from perceptok.data import Evidence
from perceptok.decoding import read_evidence
from perceptok.depth import MAP_SIZE, DepthCodec, resize_nearest
from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks import BenchmarkItem, is_of_codec
from perceptok.evaluation.scoring import Outcome, Scores, compute_interval
from perceptok.evaluation.specialists import Estimate, find_markers, nearest_marker, sample_nearness
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL

__all__ = [
    "BoxEvidence",
    "Calibration",
    "DepthEvidence",
    "EvidenceReport",
    "ItemEvidence",
    "calibrate",
    "check_boxes",
    "check_depth",
    "check_evidence",
]


@dataclass(frozen=True, eq=False)
class DepthEvidence:
    """The depth block of one answer, checked.

    Attributes:
        codes: (10, 10), None without exactly one whole block; then the other figures are None or NaN too.
        decoded: (320, 320) nearness.
        shows: The marker that the decoded map shows nearest.
        ordered: Share of marker pairs that the decoded map puts in the true order; NaN without ground truth.
        follows: Whether the answer is the marker that the block shows nearest.
        rmse: Root mean squared error in nearness, against the ground truth.
        abs_rel: Mean |d - d*| / d* of nearness above 0.05, against the ground truth.
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
    """The boxes of one answer, checked.

    Attributes:
        boxes: Number of whole boxes.
        follows: Whether the answer is that number.
        precision: Share of boxes that match a true box with an IoU of at least 0.5.
        recall: Share of true boxes that are matched.
        iou: Mean over true boxes of the IoU of their match, 0 for one without.
        problems: What is malformed.
    """

    boxes: int
    follows: bool | None
    precision: float
    recall: float
    iou: float
    problems: tuple[str, ...]


class Calibration(NamedTuple):
    """Accuracy where the evidence is good, and where it is not.

    Attributes:
        bins: Of about equal size: lowest and highest quality, number of items, accuracy.
        correlation: Point-biserial correlation of quality and correctness; NaN where either is constant.
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
    """Decode the depth block of one answer and check it.

    Args:
        text: What a model wrote.
        codec: The codec of its DEPTH tokens.
        markers: Letter -> x, y.
        size: Width and height of the frame that the markers are measured in.
        answer: The answer that was read from the text.
        truth: (H, W) nearness in [0, 1] of the whole image, NaN where invalid.
        levels: Letter -> true nearness, where it is known more exactly than from `truth`.

    Raises:
        EvaluationError: A marker outside the image.
    """
    written = read_evidence(text)
    nan = float("nan")
    if written.block is None:
        return DepthEvidence(None, None, None, nan, None, nan, nan, written.problems)
    decoded = codec.decode(written.block)[0]
    shown = sample_nearness(decoded, markers, size)
    shows = nearest_marker(shown) if shown else None
    ordered = rmse = abs_rel = nan
    if levels is not None:
        ordered = _share_in_order(shown, {letter: level for letter, level in levels.items() if letter in shown})
    elif truth is not None:
        ordered = _share_in_order(shown, sample_nearness(truth, markers, size))
    if truth is not None:
        rmse, abs_rel = _map_errors(decoded, resize_nearest(truth, MAP_SIZE, MAP_SIZE))
    follows = None if shows is None or answer is None else answer == shows
    return DepthEvidence(written.block, decoded, shows, ordered, follows, rmse, abs_rel, written.problems)


def _map_errors(decoded: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """RMSE and AbsRel of a map against a ground truth of the same size; NaN where nothing is valid."""
    valid = np.isfinite(truth)
    if not valid.any():
        return float("nan"), float("nan")
    error = np.abs(decoded[valid].astype(np.float64) - truth[valid])
    # Nearness 0 is the map's farthest point, where no relative error is defined.
    near = truth[valid] > 0.05
    abs_rel = float(np.mean(error[near] / truth[valid][near])) if near.any() else float("nan")
    return float(np.sqrt(np.mean(error**2))), abs_rel


def check_boxes(text: str, *, answer: str | None = None, truth: ArrayLike | None = None) -> BoxEvidence:
    """Check the boxes of one answer.

    Args:
        text: What a model wrote.
        answer: The count that was read from the text.
        truth: (N, 4) int codes of the true boxes: x1, y1, x2, y2.
    """
    written = read_evidence(text)
    count = len(written.boxes)
    precision = recall = iou = float("nan")
    if truth is not None:
        scores = score_boxes(_codes_to_edges(written.boxes), _codes_to_edges(truth), invalid=len(written.problems))
        precision, recall, iou = scores.precision_50, scores.recall_50, scores.mean_iou
    follows = None if answer is None else answer == str(count)
    return BoxEvidence(count, follows, precision, recall, iou, written.problems)


def calibrate(quality: Sequence[float], right: Sequence[bool], bins: int = 4) -> Calibration:
    """Measure whether answers are right more often where the evidence is good.

    Args:
        quality: One value an item, larger = better, such as `ordered` or -rmse; NaN is left out.
        right: Whether each answer is correct.
        bins: Number of bins; of about equal size, and equal qualities share a bin.

    Raises:
        EvaluationError: Lengths differ, or no quality is known.
    """
    if len(quality) != len(right):
        raise EvaluationError(f"{len(quality)} qualities cannot be paired with {len(right)} answers")
    values, hits = np.asarray(quality, dtype=np.float64), np.asarray(right, dtype=np.float64)
    values, hits = values[np.isfinite(values)], hits[np.isfinite(values)]
    if not len(values):
        raise EvaluationError("no item has evidence of a known quality, so nothing can be calibrated")
    parts = np.array_split(np.sort(values), min(bins, len(values)))
    # Equal qualities are never separated: they all belong to the higher bin.
    bin_of_item = np.searchsorted(np.unique([part[0] for part in parts[1:]]), values, side="right")
    members = [np.flatnonzero(bin_of_item == number) for number in np.unique(bin_of_item)]
    summary = tuple(
        (float(values[part].min()), float(values[part].max()), len(part), float(hits[part].mean())) for part in members
    )
    varies = values.std() > 0 and hits.std() > 0
    return Calibration(summary, float(np.corrcoef(values, hits)[0, 1]) if varies else float("nan"))


def _codes_to_edges(codes: ArrayLike) -> np.ndarray:
    """Corner coordinates of codes (N, 4): the bins of both ends belong to the box."""
    boxes = np.array(codes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += 1
    return boxes


def _share_in_order(shown: Mapping[str, float], true: Mapping[str, float]) -> float:
    """Share of marker pairs of different true nearness that are shown in the true order; NaN without such pairs."""
    letters = [letter for letter in true if np.isfinite(true[letter])]
    pairs = [(a, b) for number, a in enumerate(letters) for b in letters[:number] if true[a] != true[b]]
    right = [(shown[a] > shown[b]) == (true[a] > true[b]) for a, b in pairs]
    return float(np.mean(right)) if right else float("nan")


@dataclass(frozen=True, eq=False)
class ItemEvidence:
    """The evidence of one answer.

    Attributes:
        depth: Its depth block; None where depth is not asked about.
        boxes: Its boxes; None where a letter is asked for.
        teacher: (H, W) nearness that the block should show; None where it is unknown.
        specialist_right: Whether the teacher's own map shows the right marker nearest; None where it is unknown.
        codec_right: The same after encoding and decoding.
        markers: Letter -> x, y in the image's pixels, of the item or found on its image.
    """

    depth: DepthEvidence | None = None
    boxes: BoxEvidence | None = None
    teacher: np.ndarray | None = None
    specialist_right: bool | None = None
    codec_right: bool | None = None
    markers: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def figures(self) -> dict[str, str | bool | int | float | None]:
        """Name -> value of everything that is known about this answer; NaN is None."""
        figures: dict[str, str | bool | int | float | None] = {}
        if self.depth is not None:
            figures |= {
                "block shows": self.depth.shows,
                "answer follows the block": self.depth.follows,
                "pairs in order": _nan_to_none(self.depth.ordered),
                "RMSE": _nan_to_none(self.depth.rmse),
                "AbsRel": _nan_to_none(self.depth.abs_rel),
            }
        if self.boxes is not None:
            figures |= {
                "boxes": self.boxes.boxes,
                "answer is the number of boxes": self.boxes.follows,
                "precision": _nan_to_none(self.boxes.precision),
                "recall": _nan_to_none(self.boxes.recall),
                "IoU": _nan_to_none(self.boxes.iou),
            }
        if self.specialist_right is not None:
            figures["specialist is right"] = self.specialist_right
        if self.codec_right is not None:
            figures["specialist through the codec is right"] = self.codec_right
        return figures

    def qualities(self, answer: str) -> dict[str, float]:
        """How good the evidence is, larger = better; `answer` is the correct one. Unknown values are NaN."""
        qualities: dict[str, float] = {}
        if self.depth is not None and self.depth.codes is not None:
            qualities = {"block's error, -RMSE": -self.depth.rmse, "pairs of points in order": self.depth.ordered}
            if self.depth.shows is not None:
                qualities["block shows the right point"] = float(self.depth.shows == answer)
        if self.boxes is not None:
            qualities["recall of boxes"] = self.boxes.recall
            qualities["number of boxes is right"] = float(str(self.boxes.boxes) == answer)
        return qualities


@dataclass(frozen=True)
class EvidenceReport:
    """The evidence of all answers.

    Attributes:
        items: Id -> its evidence.
        figures: Name -> (number of items that it is averaged over, value); shares are 0..1.
        calibrations: Quality -> accuracy where it is low and where it is high.
    """

    items: Mapping[str, ItemEvidence]
    figures: Mapping[str, tuple[int, float]]
    calibrations: Mapping[str, Calibration]

    def interval(self, name: str) -> tuple[float, float] | None:
        """Wilson's 95 % interval of a figure that is a share of answers; None for another, or without answers."""
        count, value = self.figures[name]
        return compute_interval(round(value * count), count) if name in _SHARES and count else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; NaN is None."""
        return {
            "figures": {
                name: {"items": count, "value": _nan_to_none(value), "interval": self.interval(name)}
                for name, (count, value) in self.figures.items()
            },
            "calibration": {
                quality: {
                    "correlation": _nan_to_none(calibration.correlation),
                    "bins": [
                        {
                            "lowest": low,
                            "highest": high,
                            "items": count,
                            "accuracy": accuracy,
                            "interval": compute_interval(round(accuracy * count), count),
                        }
                        for low, high, count, accuracy in calibration.bins
                    ],
                }
                for quality, calibration in self.calibrations.items()
            },
            "items": {name: evidence.figures() for name, evidence in self.items.items()},
        }


def check_evidence(
    scores: Scores, codec: DepthCodec, estimates: Mapping[str, Estimate] | None = None
) -> EvidenceReport | None:
    """Check the blocks and boxes of every answer; None where no answer has a perception token.

    Markers that the items do not give are found on the image. The teacher's map is the specialist's estimate where
    there is one, else what the record's own codes decode to, if they are of this codec; the true order of points is
    that of the record's markers where it knows their nearness.

    Args:
        scores: What `evaluate` returns.
        codec: The codec of the DEPTH tokens.
        estimates: Id -> a specialist's estimate, as teacher and ceiling.

    Raises:
        EvaluationError: An image cannot be read, or a marker lies outside of it.
    """
    texts = [outcome.text or "" for outcome in scores.outcomes]
    if not any(f"<{DEPTH.name}_" in text or f"<{PIXEL.name}_" in text for text in texts):
        return None
    items: dict[str, ItemEvidence] = {}
    qualities: dict[str, list[tuple[float, bool]]] = {}
    for outcome in scores.outcomes:
        item = outcome.item
        evidence = _check_outcome(outcome, codec, (estimates or {}).get(item.id))
        items[item.id] = evidence
        for quality, value in evidence.qualities(item.answer).items():
            if math.isfinite(value):
                qualities.setdefault(quality, []).append((value, outcome.right))
    calibrations = {
        quality: calibrate([value for value, _ in pairs], [right for _, right in pairs])
        for quality, pairs in qualities.items()
    }
    means = {quality: _mean([value for value, _ in pairs]) for quality, pairs in qualities.items()}
    return EvidenceReport(items, _summarize(list(items.values()), means), calibrations)


def _check_outcome(outcome: Outcome, codec: DepthCodec, estimate: Estimate | None) -> ItemEvidence:
    item, text, answer = outcome.item, outcome.text or "", outcome.reading.value
    truth = item.evidence
    if item.target == "block":
        assert truth is not None
        teacher = _decode_codes(truth, codec)
        return ItemEvidence(check_depth(text, codec, {}, (1, 1), truth=teacher), teacher=teacher)
    if not item.choices:
        boxes = None if truth is None or truth.boxes is None else np.array(truth.boxes).reshape(-1, 4)
        return ItemEvidence(boxes=check_boxes(text, answer=answer if item.target == "answer" else None, truth=boxes))
    try:
        size = item.image_size()
    except EvaluationError:  # an image that cannot be read: markers are not known
        size = None
    if size is None:
        return ItemEvidence(check_depth(text, codec, {}, (1, 1)))
    _require_markers_inside(item, size)
    if estimate is not None:
        depth = check_depth(
            text,
            codec,
            dict(estimate.item.markers),
            size,
            answer=answer,
            truth=estimate.nearness,
            levels=_true_levels(item),
        )
        return ItemEvidence(
            depth,
            None,
            estimate.nearness,
            estimate.letter == item.answer,
            estimate.decoded_letter == item.answer,
            estimate.item.markers,
        )
    markers = dict(item.markers) or _search_markers(item, text)
    teacher = None if truth is None else _decode_codes(truth, codec)
    codec_right: bool | None = None
    if teacher is not None and (shown := sample_nearness(teacher, markers, size)):
        codec_right = nearest_marker(shown) == item.answer
    levels = _true_levels(item)
    depth = check_depth(text, codec, markers, size, answer=answer, truth=teacher, levels=levels)
    return ItemEvidence(
        depth, None, teacher, None if levels is None else nearest_marker(levels) == item.answer, codec_right, markers
    )


def _decode_codes(evidence: Evidence, codec: DepthCodec) -> np.ndarray | None:
    """The map (320, 320) of a record's own codes; None without codes of this codec."""
    if not is_of_codec(evidence, codec):
        return None
    return np.asarray(codec.decode(np.array(evidence.codes, dtype=np.int64).reshape(DEPTH_GRID))[0])


def _true_levels(item: BenchmarkItem) -> dict[str, float] | None:
    """Letter -> true nearness, None where the item does not know it."""
    markers = () if item.evidence is None else item.evidence.markers
    return {marker.letter: marker.level for marker in markers if marker.level is not None} or None


def _search_markers(item: BenchmarkItem, text: str) -> dict[str, tuple[float, float]]:
    """Markers found on HardBLINK's images; none on other images, where checks that need markers stay unknown."""
    if f"<{DEPTH.name}_" in text and not any(item.choices.values()):
        with suppress(EvaluationError):
            return find_markers(item.open_image(), list(item.choices))
    return {}


def _require_markers_inside(item: BenchmarkItem, size: tuple[int, int]) -> None:
    for letter, (x, y) in item.markers.items():
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise EvaluationError(
                f"item {item.id}: its marker {letter} at {x:g}, {y:g} lies outside its image of {size[0]} x {size[1]}; "
                "score with the images that the items were made of"
            )


_SHARES = (
    "answers with one whole block",
    "block shows the right point",
    "answer is what the block shows",
    "ceiling: the specialist's own map",
    "ceiling: the specialist through the codec",
    "answer is the number of boxes",
    "number of boxes is right",
)
"""Figures that are shares of answers; the others are means of values of each answer."""


def _summarize(items: Sequence[ItemEvidence], means: Mapping[str, tuple[int, float]]) -> dict[str, tuple[int, float]]:
    depth = [evidence.depth for evidence in items if evidence.depth is not None]
    boxes = [evidence.boxes for evidence in items if evidence.boxes is not None]
    figures: dict[str, tuple[int, float]] = {}
    if depth:
        figures |= {
            "answers with one whole block": _mean([check.codes is not None for check in depth]),
            "block shows the right point": means.get("block shows the right point", _mean([])),
            "answer is what the block shows": _mean([check.follows for check in depth]),
            "pairs of points in order": _mean([check.ordered for check in depth]),
            "RMSE of the block against the teacher": _mean([check.rmse for check in depth]),
            "AbsRel of the block against the teacher": _mean([check.abs_rel for check in depth]),
            "ceiling: the specialist's own map": _mean([evidence.specialist_right for evidence in items]),
            "ceiling: the specialist through the codec": _mean([evidence.codec_right for evidence in items]),
        }
    if boxes:
        figures |= {
            "answer is the number of boxes": _mean([check.follows for check in boxes]),
            "number of boxes is right": means.get("number of boxes is right", _mean([])),
            "precision of boxes, IoU 0.5": _mean([check.precision for check in boxes]),
            "recall of boxes, IoU 0.5": _mean([check.recall for check in boxes]),
            "mean IoU of boxes": _mean([check.iou for check in boxes]),
        }
    return figures


def _mean(values: Sequence[float | bool | None]) -> tuple[int, float]:
    """Number of known values, and their mean."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return len(known), float(np.mean(known)) if known else float("nan")


def _nan_to_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
