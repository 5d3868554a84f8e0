"""How good predicted boxes are: overlap, one-to-one matches, counts, precision and recall.

Boxes are corners x1, y1, x2, y2 in one frame, (N, 4), edges continuous: a box's area is (x2 - x1)(y2 - y1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from perceptok.boxes.arrays import check_corners
from perceptok.boxes.codec import BoxCodec
from perceptok.boxes.datasets.box_records import BoxFailure, BoxRecord, ImageBoxes, number_lines, read_box_records
from perceptok.boxes.datasets.coco import read_annotations
from perceptok.boxes.frames import ImageFrame
from perceptok.boxes.text import parse_boxes
from perceptok.errors import AnnotationError, BoxError, ConfigError, MalformedBoxError
from perceptok.files import find_suffix, open_text, parse_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BoxMatches",
    "BoxReport",
    "BoxScores",
    "GroundTruth",
    "GroundTruthFile",
    "TextPrediction",
    "compute_iou",
    "match_boxes",
    "read_box_predictions",
    "read_ground_truth",
    "score_boxes",
    "score_predictions",
]


MatchMethod = Literal["greedy", "hungarian"]

_MEANS = ("count_error", "exact_count", "mean_iou", "precision_50", "recall_50", "precision_75", "recall_75")


class BoxMatches(NamedTuple):
    """Pairs of a predicted and a true box, indices (K,) int64 each, and their IoU (K,) float64; best pair first."""

    predicted: np.ndarray
    true: np.ndarray
    iou: np.ndarray


def compute_iou(
    predicted: ArrayLike | Tensor, true: ArrayLike | Tensor, *, crowd: ArrayLike | None = None
) -> np.ndarray:
    """Intersection over union of every pair of boxes.

    Args:
        predicted: (N, 4) corners x1, y1, x2, y2.
        true: (M, 4) corners.
        crowd: (M,) booleans; for a crowd region, as in COCO, the intersection is divided by the predicted box's area.

    Returns:
        (N, M) float64 in [0, 1]; 0 where the boxes share no area.

    Raises:
        BoxError: Another shape, NaN or infinity, or x2 < x1 or y2 < y1.
    """
    first, second = check_corners(predicted, "predicted box"), check_corners(true, "true box")
    overlap = np.ones((len(first), len(second)))
    for low, high in ((0, 2), (1, 3)):
        shared = np.minimum(first[:, None, high], second[None, :, high])
        shared -= np.maximum(first[:, None, low], second[None, :, low])
        overlap *= np.maximum(shared, 0.0, out=shared)
    area = np.broadcast_to(_compute_areas(first)[:, None], overlap.shape)
    union = area + _compute_areas(second)[None, :] - overlap
    if crowd is not None:
        flags = np.asarray(crowd)
        if flags.shape != (len(second),):
            raise BoxError(f"crowd has one flag per true box, ({len(second)},); got {flags.shape}")
        union = np.where(flags.astype(bool)[None, :], area, union)
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0))


def match_boxes(
    predicted: ArrayLike | Tensor,
    true: ArrayLike | Tensor,
    *,
    method: MatchMethod = "hungarian",
    threshold: float = 0.5,
) -> BoxMatches:
    """Match predicted to true boxes one to one, with an IoU of at least `threshold` and above 0.

    Args:
        predicted: (N, 4) corners x1, y1, x2, y2.
        true: (M, 4) corners.
        method: "hungarian" finds the pairs with the largest sum of IoU; "greedy" takes the best pair, then the best
            of the rest, ties in order of indices. Boxes written as tokens have no scores to sort by.
        threshold: Minimum IoU of a pair, 0..1.

    Raises:
        BoxError: Another shape, NaN or infinity, or x2 < x1 or y2 < y1.
        ConfigError: Another method or a threshold out of range.
    """
    return _match(compute_iou(predicted, true), method, threshold)


@dataclass(frozen=True)
class BoxScores:
    """Scores over images as sums, so that they add up: `scores + scores`, or `sum(scores, BoxScores())`.

    Attributes:
        images: Number of images.
        predicted: Number of well-formed predicted boxes.
        invalid: Number of malformed ones, which match nothing.
        true: Number of true boxes.
        count_errors: Sum over images of |predicted - true|.
        exact_counts: Number of images with predicted = true.
        iou_sum: Sum of IoU over the best one-to-one matches of all overlapping boxes.
        hits_50: Number of matches at IoU 0.5.
        hits_75: Number of matches at IoU 0.75.
    """

    images: int = 0
    predicted: int = 0
    invalid: int = 0
    true: int = 0
    count_errors: int = 0
    exact_counts: int = 0
    iou_sum: float = 0.0
    hits_50: int = 0
    hits_75: int = 0

    @property
    def total(self) -> int:
        """Predicted boxes, malformed ones included."""
        return self.predicted + self.invalid

    @property
    def count_error(self) -> float:
        """Mean over images of |predicted - true|; NaN without images, as every mean of nothing here."""
        return _divide(self.count_errors, self.images)

    @property
    def exact_count(self) -> float:
        """Fraction of images whose count is right."""
        return _divide(self.exact_counts, self.images)

    @property
    def mean_iou(self) -> float:
        """Mean over true boxes of the IoU of their match, 0 for one without."""
        return _divide(self.iou_sum, self.true)

    @property
    def precision_50(self) -> float:
        """Fraction of all predicted boxes, malformed ones included, that match at IoU 0.5."""
        return _divide(self.hits_50, self.total)

    @property
    def recall_50(self) -> float:
        """Fraction of true boxes that are matched at IoU 0.5."""
        return _divide(self.hits_50, self.true)

    @property
    def precision_75(self) -> float:
        """Fraction of all predicted boxes, malformed ones included, that match at IoU 0.75."""
        return _divide(self.hits_75, self.total)

    @property
    def recall_75(self) -> float:
        """Fraction of true boxes that are matched at IoU 0.75."""
        return _divide(self.hits_75, self.true)

    def __add__(self, other: BoxScores) -> Self:
        if not isinstance(other, BoxScores):
            return NotImplemented
        own, others = asdict(self), asdict(other)
        return type(self)(**{name: own[name] + others[name] for name in own})

    def to_dict(self) -> dict[str, Any]:
        """Sums and means as JSON types; None for a mean of nothing."""
        means = {name: getattr(self, name) for name in _MEANS}
        return (
            asdict(self)
            | {"total": self.total}
            | {name: None if math.isnan(value) else value for name, value in means.items()}
        )


def score_boxes(
    predicted: ArrayLike | Tensor, true: ArrayLike | Tensor, *, invalid: int = 0, method: MatchMethod = "hungarian"
) -> BoxScores:
    """Score one image's boxes; scores of many images add up.

    Args:
        predicted: (N, 4) corners of well-formed boxes, in pixels of the same frame as the true ones.
        true: (M, 4) corners.
        invalid: Number of malformed boxes in the same answer (`parse_boxes` finds them). They are wrong predictions,
            and do not count as boxes when counts are compared.
        method: "hungarian" or "greedy" matching, as in `match_boxes`.

    Raises:
        BoxError: Another shape, NaN or infinity, x2 < x1 or y2 < y1, or a negative `invalid`.
        ConfigError: Another method.
    """
    if invalid < 0:
        raise BoxError(f"invalid is the number of malformed boxes, from 0; got {invalid}")
    iou = compute_iou(predicted, true)
    error = abs(iou.shape[0] - iou.shape[1])
    return BoxScores(
        images=1,
        predicted=iou.shape[0],
        invalid=int(invalid),
        true=iou.shape[1],
        count_errors=error,
        exact_counts=int(error == 0),
        iou_sum=float(_match(iou, method, 0.0).iou.sum()),
        hits_50=len(_match(iou, method, 0.5).iou),
        hits_75=len(_match(iou, method, 0.75).iou),
    )


def _match(iou: np.ndarray, method: MatchMethod, threshold: float) -> BoxMatches:
    if method not in get_args(MatchMethod):
        raise ConfigError(f"method is one of {', '.join(get_args(MatchMethod))}; got {method!r}")
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is an IoU, 0..1; got {threshold}")
    allowed = np.where((iou >= threshold) & (iou > 0), iou, 0.0)
    rows, columns = linear_sum_assignment(allowed, maximize=True) if method == "hungarian" else _match_greedily(allowed)
    values = allowed[rows, columns]
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > 0]
    return BoxMatches(rows[order], columns[order], values[order])


def _match_greedily(allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    candidates = np.argwhere(allowed > 0)
    candidates = candidates[np.argsort(-allowed[allowed > 0], kind="stable")]
    taken_rows, taken_columns = np.zeros(allowed.shape[0], dtype=bool), np.zeros(allowed.shape[1], dtype=bool)
    pairs = []
    for row, column in candidates.tolist():
        if not (taken_rows[row] or taken_columns[column]):
            taken_rows[row] = taken_columns[column] = True
            pairs.append((row, column))
    chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]


def _compute_areas(corners: np.ndarray) -> np.ndarray:
    return np.asarray((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]))


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


class GroundTruth(NamedTuple):
    """The true boxes of an image, and the frame and codec of answers that do not have their own."""

    image: ImageBoxes
    frame: ImageFrame
    codec: BoxCodec

    @classmethod
    def from_boxes(cls, boxes: ImageBoxes | BoxRecord) -> GroundTruth:
        """Of exact boxes (answers are read in AURORA's squashed frame) or of a record (in the record's frame)."""
        if isinstance(boxes, BoxRecord):
            return cls(boxes.decode(), boxes.frame, boxes.codec)
        return cls(boxes, ImageFrame.squash((boxes.width, boxes.height)), BoxCodec(decode="center"))


class GroundTruthFile(NamedTuple):
    """The content of a file of ground truth.

    Attributes:
        images: Ground truth by image name.
        failures: Entries that were left out.
        repairs: What does not follow the COCO format and was read all the same, each with how often.
    """

    images: dict[str, GroundTruth]
    failures: tuple[BoxFailure, ...]
    repairs: tuple[str, ...] = ()


def read_ground_truth(path: str | Path) -> GroundTruthFile:
    """Read ground truth from records (`.jsonl`) or from a COCO or LVIS file (any other suffix).

    Of two entries for one image the first is kept; the second becomes a failure.

    Raises:
        AnnotationError: The file cannot be read, or is not such a file.
    """
    repairs: tuple[str, ...] = ()
    boxes: list[ImageBoxes | BoxRecord | BoxFailure]
    if find_suffix(path) == ".jsonl":
        try:
            with open_text(path, allow_pipe=True) as lines:
                boxes = list(read_box_records(lines, str(path)))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise AnnotationError(f"{path}: cannot be read ({reason})") from error
    else:
        annotations = read_annotations(path, strict=False)
        boxes, repairs = [*annotations.images, *annotations.failures], annotations.repairs
    images: dict[str, GroundTruth] = {}
    failures: list[BoxFailure] = []
    for entry in boxes:
        if isinstance(entry, BoxFailure):
            failures.append(entry)
        elif entry.name in images:
            failures.append(BoxFailure(entry.name, f"repeated in {path}; the first is kept"))
        else:
            images[entry.name] = GroundTruth.from_boxes(entry)
    return GroundTruthFile(images, tuple(failures), repairs)


@dataclass(frozen=True)
class TextPrediction:
    """What a model wrote about one image.

    Attributes:
        name: The image's file name.
        text: The answer as the model wrote it.
        label: The category that was asked for; None asks for boxes of all categories.
    """

    name: str
    text: str
    label: str | None = None


BoxPrediction = BoxRecord | ImageBoxes | TextPrediction


@dataclass(frozen=True)
class BoxReport:
    """Scores of many predictions.

    Attributes:
        total: Over all; an "image" of it is one image and category, or one image where no category was asked for.
        by_label: By category.
        crowds: Number of true crowds, which are left out on both sides.
        unanswered: Number of true images without a prediction; they are not scored.
        failures: Predictions that could not be scored.
    """

    total: BoxScores
    by_label: dict[str, BoxScores]
    crowds: int
    unanswered: int
    failures: tuple[BoxFailure, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types; None for a mean of nothing."""
        return {
            "total": self.total.to_dict(),
            "by_label": {label: scores.to_dict() for label, scores in self.by_label.items()},
            "crowds": self.crowds,
            "unanswered": self.unanswered,
            "failures": [failure._asdict() for failure in self.failures],
        }


def read_box_predictions(lines: Iterable[str], where: str) -> Iterator[BoxRecord | TextPrediction | BoxFailure]:
    """Predictions of JSON lines: records, or answers with `name`, `text` and, where one was asked for, `label`.

    Other keys of an answer are ignored. A line that is neither becomes a `BoxFailure` with its number.
    """
    for number, line in number_lines(lines):
        try:
            values = parse_json(line, "the line", MalformedBoxError)
            if isinstance(values, dict) and "codec" not in values:
                label = _read_text(values, "label") if values.get("label") is not None else None
                yield TextPrediction(_read_text(values, "name"), _read_text(values, "text"), label)
            else:
                yield BoxRecord.from_json(line)
        except ValueError as error:
            yield BoxFailure(f"{where}, line {number}", f"neither a record nor an answer: {error}")


def score_predictions(
    predictions: Iterable[BoxPrediction | BoxFailure], ground_truth: Mapping[str, GroundTruth]
) -> BoxReport:
    """Score predictions against the ground truth of their images, category by category, in pixels of the image.

    Args:
        predictions: Records and exact boxes are compared in each category that they or the ground truth have, by its
            name, and by its id too where two categories share a name; answers in the category that was asked for.
        ground_truth: By image name.

    Returns:
        The report; malformed boxes of answers count as `invalid`.
    """
    predictions = list(predictions)
    ambiguous = _find_shared_names(predictions, ground_truth)
    by_label: dict[str, BoxScores] = {}
    total = BoxScores()
    failures: list[BoxFailure] = []
    seen: set[tuple[str, str | None]] = set()
    for prediction in predictions:
        if isinstance(prediction, BoxFailure):
            failures.append(prediction)
            continue
        question = (prediction.name, prediction.label if isinstance(prediction, TextPrediction) else None)
        if prediction.name not in ground_truth:
            failures.append(BoxFailure(prediction.name, "this image is not in the ground truth"))
        elif question in seen:
            failures.append(BoxFailure(prediction.name, "is predicted twice; the first is kept"))
        else:
            seen.add(question)
            for label, scores in _score_prediction(prediction, ground_truth[prediction.name], ambiguous):
                by_label[label] = by_label.get(label, BoxScores()) + scores
                total += scores
    answered = {name for name, _ in seen}
    crowds = sum(sum(ground_truth[name].image.labels.crowd) for name in answered)
    unanswered = len(ground_truth.keys() - answered)
    return BoxReport(total, dict(sorted(by_label.items())), crowds, unanswered, tuple(failures))


def _find_shared_names(
    predictions: Iterable[BoxPrediction | BoxFailure], ground_truth: Mapping[str, GroundTruth]
) -> frozenset[str]:
    """The names that two categories have, among the predictions' or among the ground truth's."""
    shared: set[str] = set()
    predicted = [prediction.labels for prediction in predictions if isinstance(prediction, BoxRecord | ImageBoxes)]
    for side in (predicted, [truth.image.labels for truth in ground_truth.values()]):
        ids: dict[str, int | str] = {}
        for labels in side:
            shared |= {name for number, name in labels.categories.items() if ids.setdefault(name, number) != number}
    return frozenset(shared)


def _score_prediction(
    prediction: BoxPrediction, truth: GroundTruth, ambiguous: frozenset[str]
) -> Iterator[tuple[str, BoxScores]]:
    if isinstance(prediction, TextPrediction):
        parsed = parse_boxes(prediction.text, size=truth.codec.size, order=truth.codec.order)
        predicted_boxes = truth.codec.decode(parsed.boxes, frame=truth.frame)
        true_boxes = _select_label(truth.image, prediction.label)
        yield prediction.label or "", score_boxes(predicted_boxes, true_boxes, invalid=len(parsed.malformed))
        return
    predicted = prediction.decode() if isinstance(prediction, BoxRecord) else prediction
    names = {*_list_names(predicted, ambiguous), *_list_names(truth.image, ambiguous)}
    labels: list[str | None] = [*sorted(names)]
    for label in labels or [None]:
        boxes = [_select_label(image, label, ambiguous) for image in (predicted, truth.image)]
        yield label or "", score_boxes(*boxes)


def _list_names(image: ImageBoxes, ambiguous: frozenset[str]) -> list[str]:
    """The name of each box's category, with the id where another category has that name."""
    pairs = zip(image.labels.category_ids, image.labels.names, strict=True)
    return [f"{name} (category {number})" if name in ambiguous else name for number, name in pairs]


def _select_label(image: ImageBoxes, label: str | None, ambiguous: frozenset[str] = frozenset()) -> np.ndarray:
    """The boxes of a category, or of all, without crowds."""
    count = len(image.boxes)
    names = _list_names(image, ambiguous) or [""] * count
    crowd = image.labels.crowd or (False,) * count
    return image.boxes[[row for row in range(count) if label in (None, names[row]) and not crowd[row]]]


def _read_text(values: Mapping[str, object], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise MalformedBoxError(f"an answer has name and text; its {key} is {value!r:.40}")
    return value
