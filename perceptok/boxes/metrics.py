"""How good predicted boxes are: overlap, one-to-one matches, counts, precision and recall.

Boxes are corners x1, y1, x2, y2 in one frame, (N, 4), edges continuous: a box's area is (x2 - x1)(y2 - y1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from perceptok.boxes.arrays import corner_array
from perceptok.boxes.codec import BoxCodec
from perceptok.boxes.datasets.box_records import BoxFailure, BoxRecord, ImageBoxes, numbered_lines
from perceptok.boxes.frames import ImageFrame
from perceptok.boxes.text import parse_boxes
from perceptok.errors import BoxError, ConfigError, MalformedBoxError
from perceptok.files import parse_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BoxAnswerLine",
    "BoxMatches",
    "BoxReport",
    "BoxScores",
    "Truth",
    "iou_matrix",
    "match_boxes",
    "read_box_predictions",
    "score_boxes",
    "score_predictions",
]


Method = Literal["greedy", "hungarian"]

_MEANS = ("count_error", "exact_count", "mean_iou", "precision_50", "recall_50", "precision_75", "recall_75")


class BoxMatches(NamedTuple):
    """Pairs of a predicted and a true box, indices (K,) int64 each, and their IoU (K,) float64; best pair first."""

    predicted: np.ndarray
    true: np.ndarray
    iou: np.ndarray


def iou_matrix(
    predicted: ArrayLike | Tensor, true: ArrayLike | Tensor, *, crowd: ArrayLike | None = None
) -> np.ndarray:
    """Intersection over union of every pair of boxes.

    Args:
        predicted: (N, 4).
        true: (M, 4).
        crowd: (M,) booleans; a crowd region counts as COCO counts it, intersection over the predicted box's area.

    Returns:
        (N, M) float64 in [0, 1]; 0 where the boxes share no area.

    Raises:
        BoxError: Another shape, NaN or infinity, or x2 < x1 or y2 < y1.
    """
    first, second = corner_array(predicted, "predicted box"), corner_array(true, "true box")
    overlap = np.ones((len(first), len(second)))
    for low, high in ((0, 2), (1, 3)):
        shared = np.minimum(first[:, None, high], second[None, :, high])
        shared -= np.maximum(first[:, None, low], second[None, :, low])
        overlap *= np.maximum(shared, 0.0, out=shared)
    area = np.broadcast_to(_areas(first)[:, None], overlap.shape)
    union = area + _areas(second)[None, :] - overlap
    if crowd is not None:
        flags = np.asarray(crowd)
        if flags.shape != (len(second),):
            raise BoxError(f"crowd has one flag a true box, ({len(second)},); got {flags.shape}")
        union = np.where(flags.astype(bool)[None, :], area, union)
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0))


def match_boxes(
    predicted: ArrayLike | Tensor,
    true: ArrayLike | Tensor,
    *,
    method: Method = "hungarian",
    threshold: float = 0.5,
) -> BoxMatches:
    """Match predicted to true boxes one to one, at least `threshold` and more than nothing in common.

    Args:
        predicted: (N, 4).
        true: (M, 4).
        method: "hungarian" takes the pairs with the largest sum of IoU; "greedy" the best pair, then the best of what
            is left, in order of indices where two are equal. Boxes written as tokens have no scores to sort by.
        threshold: Least IoU of a pair, 0..1.

    Raises:
        BoxError: As `iou_matrix`.
        ConfigError: Another method or a threshold out of range.
    """
    return _matches(iou_matrix(predicted, true), method, threshold)


@dataclass(frozen=True)
class BoxScores:
    """Scores over images as sums, so that they add up: `scores + scores`, or `sum(scores, BoxScores())`.

    Attributes:
        images: How many.
        predicted: Well-formed predicted boxes.
        invalid: Malformed ones, which match nothing.
        true: True boxes.
        count_errors: Sum over images of |predicted - true|.
        exact_counts: Images with predicted = true.
        iou_sum: Sum of IoU over the best one-to-one matches of all overlapping boxes.
        hits_50: Matches at IoU 0.5.
        hits_75: Matches at IoU 0.75.
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
        """Mean over images of |predicted - true|; NaN without images, as every mean here of nothing."""
        return _share(self.count_errors, self.images)

    @property
    def exact_count(self) -> float:
        """Share of images whose count is right."""
        return _share(self.exact_counts, self.images)

    @property
    def mean_iou(self) -> float:
        """Mean over true boxes of the IoU of their match, 0 for one without."""
        return _share(self.iou_sum, self.true)

    @property
    def precision_50(self) -> float:
        """Share of all predicted boxes, malformed ones included, that match at IoU 0.5."""
        return _share(self.hits_50, self.total)

    @property
    def recall_50(self) -> float:
        """Share of true boxes that are matched at IoU 0.5."""
        return _share(self.hits_50, self.true)

    @property
    def precision_75(self) -> float:
        """As `precision_50`, at IoU 0.75."""
        return _share(self.hits_75, self.total)

    @property
    def recall_75(self) -> float:
        """As `recall_50`, at IoU 0.75."""
        return _share(self.hits_75, self.true)

    def __add__(self, other: BoxScores) -> Self:
        if not isinstance(other, BoxScores):
            return NotImplemented
        mine, theirs = asdict(self), asdict(other)
        return type(self)(**{name: mine[name] + theirs[name] for name in mine})

    def to_dict(self) -> dict[str, Any]:
        """Sums and means as JSON types; None for a mean of nothing."""
        means = {name: getattr(self, name) for name in _MEANS}
        return (
            asdict(self)
            | {"total": self.total}
            | {name: None if math.isnan(value) else value for name, value in means.items()}
        )


def score_boxes(
    predicted: ArrayLike | Tensor, true: ArrayLike | Tensor, *, invalid: int = 0, method: Method = "hungarian"
) -> BoxScores:
    """Score one image's boxes; scores of many images add up.

    Args:
        predicted: (N, 4) well-formed boxes, in the frame of the true ones.
        true: (M, 4).
        invalid: Malformed boxes of the same answer (`parse_boxes` counts them). They are wrong predictions, and do not
            count as boxes when counts are compared.
        method: See `match_boxes`.

    Raises:
        BoxError: As `iou_matrix`, or a negative `invalid`.
        ConfigError: Another method.
    """
    if invalid < 0:
        raise BoxError(f"invalid counts malformed boxes, from 0; got {invalid}")
    iou = iou_matrix(predicted, true)
    error = abs(iou.shape[0] - iou.shape[1])
    return BoxScores(
        images=1,
        predicted=iou.shape[0],
        invalid=int(invalid),
        true=iou.shape[1],
        count_errors=error,
        exact_counts=int(error == 0),
        iou_sum=float(_matches(iou, method, 0.0).iou.sum()),
        hits_50=len(_matches(iou, method, 0.5).iou),
        hits_75=len(_matches(iou, method, 0.75).iou),
    )


def _matches(iou: np.ndarray, method: Method, threshold: float) -> BoxMatches:
    if method not in get_args(Method):
        raise ConfigError(f"method is one of {', '.join(get_args(Method))}; got {method!r}")
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is an IoU, 0..1; got {threshold}")
    allowed = np.where((iou >= threshold) & (iou > 0), iou, 0.0)
    rows, columns = linear_sum_assignment(allowed, maximize=True) if method == "hungarian" else _greedy(allowed)
    found = allowed[rows, columns]
    order = np.argsort(-found, kind="stable")
    order = order[found[order] > 0]
    return BoxMatches(rows[order], columns[order], found[order])


def _greedy(allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _areas(corners: np.ndarray) -> np.ndarray:
    return np.asarray((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


class Truth(NamedTuple):
    """The true boxes of an image, and where answers without a frame of their own are taken to lie."""

    image: ImageBoxes
    frame: ImageFrame
    codec: BoxCodec

    @classmethod
    def of(cls, known: ImageBoxes | BoxRecord) -> Truth:
        """Of exact boxes (answers lie in AURORA's squashed frame) or of a record (in the record's)."""
        if isinstance(known, BoxRecord):
            return cls(known.decoded(), known.frame, known.codec)
        return cls(known, ImageFrame.squash((known.width, known.height)), BoxCodec(decode="center"))


@dataclass(frozen=True)
class BoxAnswerLine:
    """What a model wrote on one image.

    Attributes:
        name: The image's file name.
        text: The answer, as it is.
        label: The category that was asked for; without it, boxes of all categories are.
    """

    name: str
    text: str
    label: str | None = None


@dataclass(frozen=True)
class BoxReport:
    """Scores of many predictions.

    Attributes:
        total: Over all; an "image" of it is one image and category, or one image where no category was asked for.
        by_label: By category.
        crowds: True crowds, which are left out on both sides.
        unanswered: True images without a prediction; they are not scored.
        failures: Predictions that could not be scored.
    """

    total: BoxScores
    by_label: dict[str, BoxScores]
    crowds: int
    unanswered: int
    failures: tuple[BoxFailure, ...]


def read_box_predictions(lines: Iterable[str], where: str) -> Iterator[BoxRecord | BoxAnswerLine | BoxFailure]:
    """Predictions of JSON lines: records, or answers with `name`, `text` and, where one was asked for, `label`.

    Other keys of an answer are left out. A line that is neither becomes a `BoxFailure` that names it.
    """
    for number, line in numbered_lines(lines):
        try:
            values = parse_json(line, "the line", MalformedBoxError)
            if isinstance(values, dict) and "codec" not in values:
                yield BoxAnswerLine(_text(values, "name"), _text(values, "text"), _label(values))
            else:
                yield BoxRecord.from_json(line)
        except ValueError as error:
            yield BoxFailure(f"{where}, line {number}", f"neither a record nor an answer: {error}")


def score_predictions(
    predictions: Iterable[BoxRecord | ImageBoxes | BoxAnswerLine | BoxFailure], truth: Mapping[str, Truth]
) -> BoxReport:
    """Score predictions against the truth of their images, category by category, in pixels of the image.

    Args:
        predictions: Records and exact boxes are compared in each category that they or the truth name, by its name,
            and by its id too where two categories have one name; answers in theirs.
        truth: By image name.

    Returns:
        The report; malformed boxes of answers count as `invalid`.
    """
    predictions = list(predictions)
    shared = _shared_names(predictions, truth)
    by_label: dict[str, BoxScores] = {}
    total = BoxScores()
    failures: list[BoxFailure] = []
    seen: set[tuple[str, str | None]] = set()
    for one in predictions:
        if isinstance(one, BoxFailure):
            failures.append(one)
            continue
        question = (one.name, one.label if isinstance(one, BoxAnswerLine) else None)
        if one.name not in truth:
            failures.append(BoxFailure(one.name, "there is no such image in the truth"))
        elif question in seen:
            failures.append(BoxFailure(one.name, "is predicted twice; the first is kept"))
        else:
            seen.add(question)
            for label, scores in _scored(one, truth[one.name], shared):
                by_label[label] = by_label.get(label, BoxScores()) + scores
                total += scores
    answered = {name for name, _ in seen}
    crowds = sum(sum(truth[name].image.labels.crowd) for name in answered)
    return BoxReport(total, dict(sorted(by_label.items())), crowds, len(truth.keys() - answered), tuple(failures))


def _shared_names(
    predictions: Iterable[BoxRecord | ImageBoxes | BoxAnswerLine | BoxFailure], truth: Mapping[str, Truth]
) -> frozenset[str]:
    """The names that two categories have, among the predictions' or among the truth's."""
    shared: set[str] = set()
    predicted = [one.labels for one in predictions if isinstance(one, BoxRecord | ImageBoxes)]
    for labels in (predicted, [one.image.labels for one in truth.values()]):
        ids: dict[str, int] = {}
        for one in labels:
            shared |= {name for number, name in one.categories.items() if ids.setdefault(name, number) != number}
    return frozenset(shared)


def _scored(
    prediction: BoxRecord | ImageBoxes | BoxAnswerLine, truth: Truth, shared: frozenset[str]
) -> Iterator[tuple[str, BoxScores]]:
    if isinstance(prediction, BoxAnswerLine):
        parsed = parse_boxes(prediction.text, size=truth.codec.size, order=truth.codec.order)
        found = truth.codec.decode(parsed.boxes, frame=truth.frame)
        true = _of_label(truth.image, prediction.label)
        yield prediction.label or "", score_boxes(found, true, invalid=len(parsed.malformed))
        return
    predicted = prediction.decoded() if isinstance(prediction, BoxRecord) else prediction
    labels: list[str | None] = [*sorted({*_names(predicted, shared), *_names(truth.image, shared)})]
    for label in labels or [None]:
        yield label or "", score_boxes(_of_label(predicted, label, shared), _of_label(truth.image, label, shared))


def _names(image: ImageBoxes, shared: frozenset[str]) -> list[str]:
    """What each box is called: its category's name, with the id where another category has that name."""
    named = zip(image.labels.category_ids, image.labels.names, strict=True)
    return [f"{name} (category {number})" if name in shared else name for number, name in named]


def _of_label(image: ImageBoxes, label: str | None, shared: frozenset[str] = frozenset()) -> np.ndarray:
    """The boxes of a category, or of all, without crowds."""
    count = len(image.boxes)
    names = _names(image, shared) or [""] * count
    crowd = image.labels.crowd or (False,) * count
    return image.boxes[[row for row in range(count) if label in (None, names[row]) and not crowd[row]]]


def _text(values: Mapping[str, object], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise MalformedBoxError(f"an answer has name and text; its {key} is {value!r:.40}")
    return value


def _label(values: Mapping[str, object]) -> str | None:
    return _text(values, "label") if values.get("label") is not None else None
