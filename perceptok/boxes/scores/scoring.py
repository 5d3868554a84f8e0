"""Predicted boxes, as records or as free answers, against the true ones, by category."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perceptok.boxes.codec import BoxCodec
from perceptok.boxes.datasets.records import BoxFailure, BoxRecord, ImageBoxes, numbered_lines
from perceptok.boxes.frames.geometry import ImageFrame
from perceptok.boxes.scores.metrics import BoxScores, score_boxes
from perceptok.boxes.text.parsing import parse_boxes
from perceptok.errors import MalformedBoxError
from perceptok.files import parse_json

__all__ = ["BoxAnswerLine", "BoxReport", "Truth", "read_predictions", "score_predictions"]


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


def read_predictions(lines: Iterable[str], where: str) -> Iterator[BoxRecord | BoxAnswerLine | BoxFailure]:
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
