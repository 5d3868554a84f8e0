"""Predictions against the truth: by category, malformed boxes counted, crowds left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perceptok.boxes import (
    BoxCodec,
    BoxFailure,
    BoxLabels,
    BoxRecord,
    GroundTruth,
    ImageBoxes,
    TextPrediction,
    read_box_predictions,
    read_results,
    score_predictions,
)
from perceptok.errors import AnnotationError

NAMES = {1: "dog", 2: "cat"}
IMAGE = ImageBoxes(
    "a.jpg",
    336,
    336,
    np.array([[0.0, 0, 100, 100], [200, 200, 300, 300], [50, 50, 60, 60], [0, 0, 336, 336]]),
    BoxLabels((1, 1, 2, 2), crowd=(False, False, False, True), categories=NAMES),
)
TRUTH = {
    "a.jpg": GroundTruth.from_boxes(IMAGE),
    "b.jpg": GroundTruth.from_boxes(ImageBoxes("b.jpg", 50, 50, np.zeros((0, 4)))),
}
DOGS = "(<PIXEL_0>,<PIXEL_0>,<PIXEL_100>,<PIXEL_100>) and (<PIXEL_200>,<PIXEL_200>,<PIXEL_300>,<PIXEL_300>)"


def test_records_category_by_category() -> None:
    record = BoxRecord.from_boxes(IMAGE, BoxCodec(decode="center"))
    report = score_predictions([record], TRUTH)
    assert {label: (item.true, item.predicted) for label, item in report.by_label.items()} == {
        "cat": (1, 1),
        "dog": (2, 2),
    }
    assert report.total.recall_50 == report.total.precision_50 == 1
    assert report.total.mean_iou > 0.9
    assert (report.crowds, report.unanswered, report.failures) == (1, 1, ())


def test_a_box_of_another_category_does_not_count() -> None:
    wrong = ImageBoxes("a.jpg", 336, 336, IMAGE.boxes[:1], BoxLabels((2,), categories=NAMES))
    report = score_predictions([BoxRecord.from_boxes(wrong, BoxCodec(decode="center"))], TRUTH)
    assert report.total.hits_50 == 0
    assert (report.total.true, report.total.predicted) == (3, 1)


def test_two_categories_of_one_name_are_two_classes() -> None:
    names = {1: "cat", 2: "cat"}
    true = ImageBoxes("a.jpg", 336, 336, IMAGE.boxes[:2], BoxLabels((1, 2), categories=names))
    swapped = ImageBoxes("a.jpg", 336, 336, IMAGE.boxes[:2], BoxLabels((2, 1), categories=names))
    truth, codec = {"a.jpg": GroundTruth.from_boxes(true)}, BoxCodec(decode="center")
    for given in (swapped, BoxRecord.from_boxes(swapped, codec)):
        assert score_predictions([given], truth).total.recall_50 == 0
    right = score_predictions([BoxRecord.from_boxes(true, codec)], truth)
    assert right.total.recall_50 == 1
    assert list(right.by_label) == ["cat (category 1)", "cat (category 2)"]
    # Another numbering of the same names is no fault.
    other = ImageBoxes("a.jpg", 336, 336, IMAGE.boxes[:1], BoxLabels((9,), categories={9: "dog"}))
    assert score_predictions([other], TRUTH).by_label["dog"].hits_50 == 1


def test_results() -> None:
    image = ImageBoxes("a.jpg", 336, 336, IMAGE.boxes, IMAGE.labels, 4)
    rows = [{"image_id": 4, "category_id": 1, "bbox": [0, 0, 100, 100], "score": 0.9}]
    wrong = [
        {**rows[0], "image_id": 5},
        {**rows[0], "bbox": [1]},
        7,
        {**rows[0], "category_id": "cat"},
        {**rows[0], "score": "high"},
    ]
    found = read_results(json.dumps(rows + wrong), "r.json", [image])
    assert [item.name for item in found if isinstance(item, BoxFailure)] == [
        f"r.json, result {at}" for at in range(1, 6)
    ]
    report = score_predictions(found, {"a.jpg": GroundTruth.from_boxes(image)})
    assert report.by_label["dog"].hits_50 == 1
    assert len(report.failures) == 5
    with pytest.raises(AnnotationError, match="expected a list of results; got dict"):
        read_results("{}", "r.json", [image])


def test_answers() -> None:
    broken = DOGS + " and (<PIXEL_1>,<PIXEL_2>)"
    report = score_predictions(
        [
            TextPrediction("a.jpg", broken, "dog"),
            TextPrediction("a.jpg", "none", "cat"),
            TextPrediction("b.jpg", "none"),
        ],
        TRUTH,
    )
    dog = report.by_label["dog"]
    assert (dog.true, dog.predicted, dog.invalid, dog.hits_75) == (2, 2, 1, 2)
    assert dog.precision_75 == pytest.approx(2 / 3)
    assert report.by_label["cat"].recall_50 == 0
    assert report.by_label[""].exact_count == 1
    assert report.unanswered == 0


def test_answers_lie_in_the_frame_of_the_records() -> None:
    wide = ImageBoxes("w.jpg", 400, 200, np.array([[0.0, 0, 400, 200]]))
    record = BoxRecord.from_boxes(wide, BoxCodec(decode="center"), frame="letterbox")
    report = score_predictions([TextPrediction("w.jpg", record.to_text())], {"w.jpg": GroundTruth.from_boxes(record)})
    assert report.total.mean_iou == 1


def test_predictions_that_cannot_be_scored_cost_only_themselves() -> None:
    lines = [
        json.dumps({"name": "a.jpg", "text": DOGS, "label": "dog", "model": "x"}),
        "{",
        json.dumps({"name": "a.jpg"}),
        json.dumps({"name": "a.jpg", "text": DOGS, "label": 5}),
        json.dumps({"name": "none.jpg", "text": DOGS}),
        json.dumps({"name": "a.jpg", "text": "", "label": "dog"}),
        json.dumps([1]),
        BoxRecord.from_boxes(IMAGE, BoxCodec()).to_json().replace("[0, 0, 100, 100]", "[0, 0]"),
        "[" * 100_000,
        BoxRecord.from_boxes(ImageBoxes("b.jpg", 50, 50, np.zeros((0, 4))), BoxCodec()).to_json(),
    ]
    predictions = list(read_box_predictions(lines, "p.jsonl"))
    assert [isinstance(item, BoxFailure) for item in predictions] == [
        False, True, True, True, False, False, True, True, True, False,
    ]  # fmt: skip
    report = score_predictions(predictions, TRUTH)
    assert report.total.hits_50 == 2
    reasons = [f"{item.name}: {item.reason}" for item in report.failures]
    assert len(reasons) == 8
    for expected in (
        "p.jsonl, line 2",
        "its text is None",
        "its label is 5",
        "not in the ground truth",
        "predicted twice",
        "line 8",
    ):
        assert any(expected in reason for reason in reasons), expected
