"""YOLO text, torchvision targets and supervision detections, there and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from perceptok.boxes import (
    BoxCodec,
    BoxLabels,
    BoxRecord,
    ImageBoxes,
    from_supervision,
    from_torchvision,
    from_yolo,
    to_supervision,
    to_torchvision,
    to_yolo,
)
from perceptok.errors import AnnotationError, BoxError, PerceptokError

NAMES = ["person", "dog", "cat"]
SIZE = (640, 480)
PLACE: Any = {"name": "a.jpg", "image_size": SIZE, "names": NAMES}


@dataclass
class Detections:
    """The fields of `supervision.Detections`."""

    xyxy: Any
    class_id: Any = None
    confidence: Any = None
    mask: Any = None
    tracker_id: Any = None
    data: dict[str, Any] = field(default_factory=dict)


@st.composite
def images(draw: st.DrawFn) -> ImageBoxes:
    edges = [st.tuples(st.floats(0, side), st.floats(0, side)).map(sorted) for side in SIZE]
    rows = draw(st.lists(st.tuples(*edges, st.integers(0, 2), st.floats(0, 1)), max_size=6))
    boxes = np.array([[x[0], y[0], x[1], y[1]] for x, y, _, _ in rows]).reshape(-1, 4)
    ids = tuple(row[2] for row in rows)
    scores = tuple(row[3] for row in rows) if draw(st.booleans()) else ()
    return ImageBoxes(
        "a.jpg", *SIZE, boxes, BoxLabels(ids, scores=scores, categories={number: NAMES[number] for number in ids})
    )


def assert_same(back: ImageBoxes, image: ImageBoxes, within: float) -> None:
    assert (back.name, back.width, back.height) == (image.name, image.width, image.height)
    assert back.boxes.shape == image.boxes.shape
    np.testing.assert_allclose(back.boxes, image.boxes, rtol=0, atol=within)
    assert back.labels.category_ids == image.labels.category_ids
    assert back.labels.names == image.labels.names
    np.testing.assert_allclose(back.labels.scores, image.labels.scores, atol=1e-6)


@given(images())
@settings(max_examples=60)
def test_there_and_back(image: ImageBoxes) -> None:
    # Six decimals of centre and length: one and a half steps of a millionth of 640 pixels at most.
    assert_same(from_yolo(to_yolo(image), **PLACE), image, 640 * 1e-6)
    assert_same(from_torchvision(to_torchvision(image), **PLACE), image, 1e-4)
    arguments = to_supervision(image)
    assert_same(from_supervision(Detections(**arguments), name="a.jpg", image_size=SIZE), image, 1e-4)
    assert_same(from_supervision(Detections(**arguments), **PLACE), image, 1e-4)


def test_into_records() -> None:
    image = from_yolo("1 0.5 0.5 0.25 0.5\n", **PLACE)
    np.testing.assert_array_equal(image.boxes, [[240, 120, 400, 360]])
    record = BoxRecord.from_boxes(image, BoxCodec(decode="center"))
    assert record.codes == ((126, 84, 210, 252),)
    assert record.labels.names == ("dog",)


class TestYolo:
    def test_golden(self) -> None:
        image = ImageBoxes("a", 100, 50, np.array([[10.0, 10, 30, 20]]), BoxLabels((2,), categories={2: "cat"}))
        assert to_yolo(image) == "2 0.200000 0.300000 0.200000 0.200000\n"

    def test_confidence_blank_lines_and_windows_line_ends(self) -> None:
        image = from_yolo("0 0.5 0.5 1 1 0.75\r\n\r\n2 0.5 0.5 0.5 0.5 0.5", **PLACE)
        assert image.labels.scores == (0.75, 0.5)
        assert image.labels.names == ("person", "cat")
        assert from_yolo("\n", **PLACE).boxes.shape == (0, 4)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0 0.5 0.5 1", "line 1: expected class cx cy w h"),
            ("0 .1 .1 .2 .2 .3 .3", "outlines, rotated boxes and keypoints are not read"),
            ("0 .1 .1 .2 .2\n0 .1 .1 .2 .2 .9", "line 2: expected class cx cy w h, and a confidence on every line"),
            ("0 .1 .1 .2 x", "line 1: expected numbers"),
            ("0 .1 .1 .2 1.2", "line 1: expected fractions in 0..1"),
            ("0 .1 .1 .2 -0.2", "fractions in 0..1"),
            ("0 nan .1 .2 .2", "fractions in 0..1"),
            ("3 .1 .1 .2 .2", "class 3 has no name among 3"),
            ("-1 .1 .1 .2 .2", "class -1 has no name"),
            ("1.5 .1 .1 .2 .2", "class 1.5 has no name"),
            ("inf .1 .1 .2 .2", "line 1"),
            ("nan .1 .1 .2 .2", "line 1"),
        ],
    )
    def test_bad_lines(self, text: str, message: str) -> None:
        with pytest.raises(AnnotationError) as refused:
            from_yolo(text, **PLACE)
        assert message in str(refused.value)

    def test_what_yolo_cannot_say(self) -> None:
        crowd = ImageBoxes("a", 9, 9, np.zeros((1, 4)), BoxLabels((1,), crowd=(True,), categories={1: "x"}))
        with pytest.raises(AnnotationError, match="YOLO has no crowds"):
            to_yolo(crowd)
        assert to_yolo(crowd, crowd=True).startswith("1 ")
        for write in (to_yolo, to_torchvision, to_supervision):
            with pytest.raises(AnnotationError, match="without a category"):
                write(ImageBoxes("a", 9, 9, np.zeros((1, 4))))


class TestTorchvision:
    def test_a_target_as_torchvision_has_it(self) -> None:
        target = {
            "boxes": torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]),
            "labels": torch.tensor([1, 2]),
            "image_id": torch.tensor([17]),
            "area": torch.tensor([4.0, 4.0]),
            "iscrowd": torch.tensor([0, 1]),
            "masks": torch.zeros(2, 4, 4),
        }
        image = from_torchvision(target, **PLACE)
        assert image.image_id == 17
        assert image.labels.crowd == (False, True)
        assert image.labels.areas == (4.0, 4.0)
        back = to_torchvision(image)
        assert back["boxes"].dtype == torch.float32
        assert back["labels"].tolist() == [1, 2]
        assert back["iscrowd"].tolist() == [0, 1]
        assert back["image_id"] == 17

    @pytest.mark.parametrize(
        ("target", "error", "message"),
        [
            ({"boxes": np.zeros((0, 4))}, AnnotationError, "has boxes and labels; got boxes"),
            ({"boxes": np.zeros((2, 4)), "labels": [1]}, AnnotationError, "category_ids has 1 entries for 2 boxes"),
            ({"boxes": np.zeros((1, 4)), "labels": [9]}, AnnotationError, "class 9 has no name among 3"),
            ({"boxes": np.zeros((1, 3)), "labels": [1]}, BoxError, "shape"),
            ({"boxes": [[0, 0, np.nan, 1]], "labels": [1]}, BoxError, "finite|NaN"),
            ({"boxes": [[2, 0, 1, 1]], "labels": [1]}, BoxError, "inverted"),
            ({"boxes": np.zeros((1, 4)), "labels": [1], "scores": []}, AnnotationError, "scores has 0 entries"),
        ],
    )
    def test_bad_targets(self, target: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            from_torchvision(target, **PLACE)


class TestSupervision:
    def test_none_at_all(self) -> None:
        empty = Detections(np.zeros((0, 4), dtype=np.float32))
        assert from_supervision(empty, name="a.jpg", image_size=SIZE).boxes.shape == (0, 4)

    @pytest.mark.parametrize(
        ("detections", "message"),
        [
            (Detections(np.zeros((1, 4))), "have no class_id"),
            (Detections(np.zeros((1, 4)), class_id=np.array([1])), "give names="),
            (Detections(np.zeros((2, 4)), class_id=np.array([1]), data={"class_name": ["x"]}), "1 entries for 2 boxes"),
        ],
    )
    def test_bad_detections(self, detections: Detections, message: str) -> None:
        with pytest.raises(AnnotationError, match=message):
            from_supervision(detections, name="a.jpg", image_size=SIZE)


class TestAsExportersWrite:
    @pytest.mark.parametrize("row", ["0 0.5 0.5 1.0004 1", "0 1.0000001 0.5 0.1 0.1", "0 -0.0005 0.5 0.1 0.1"])
    def test_slightly_beyond_the_border(self, row: str) -> None:
        image = from_yolo(row, name="a.jpg", image_size=(100, 50), names=["x"])
        assert from_yolo(to_yolo(image), name="a.jpg", image_size=(100, 50), names=["x"]).boxes.shape == (1, 4)
        with pytest.raises(AnnotationError, match=r"fractions in 0..1"):
            from_yolo("0 0.5 0.5 1.002 1", name="a.jpg", image_size=(100, 50), names=["x"])

    @given(st.lists(st.floats(-60, 160), min_size=4, max_size=4), st.sampled_from(["raise", "clip"]))
    def test_what_is_written_reads_back(self, numbers: list[float], outside: str) -> None:
        x, y = sorted(numbers[:2]), sorted(numbers[2:])
        box = np.array([[x[0], y[0], x[1], y[1]]])
        image = ImageBoxes("a.jpg", 100, 100, box, BoxLabels((0,), categories={0: "x"}))
        try:
            text = to_yolo(image, outside=outside)  # type: ignore[arg-type]
        except AnnotationError as error:
            assert str(error).startswith("a.jpg: box 0")  # noqa: PT017 - refused or written, as drawn
            assert (box < 0).any() or (box > 100).any()
            return
        back = from_yolo(text, name="a.jpg", image_size=(100, 100), names=["x"])
        np.testing.assert_allclose(back.boxes, box.clip(0, 100) if outside == "clip" else box, atol=0.2)

    def test_supervision_without_class_ids(self) -> None:
        boxes = np.array([[0.0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]])
        named = Detections(boxes, data={"class_name": np.array(["dog", "cat", "dog"])})
        image = from_supervision(named, name="a.jpg", image_size=(9, 9))
        assert image.labels.names == ("dog", "cat", "dog")
        assert image.labels.category_ids == (0, 1, 0)
        numbered = from_supervision(named, name="a.jpg", image_size=(9, 9), names={3: "cat", 7: "dog"})
        assert numbered.labels.category_ids == (7, 3, 7)
        with pytest.raises(AnnotationError, match="the class 'dog' is not in names"):
            from_supervision(named, name="a.jpg", image_size=(9, 9), names=["cat"])

    def test_two_names_under_one_class(self) -> None:
        boxes = np.array([[0.0, 0, 1, 1], [0, 0, 2, 2]])
        twice = Detections(boxes, class_id=np.array([1, 1]), data={"class_name": np.array(["dog", "cat"])})
        with pytest.raises(AnnotationError, match="class 1 is called 'dog' and 'cat'"):
            from_supervision(twice, name="a.jpg", image_size=(9, 9))


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (10.5, 10), (True, 10), (1, 2, 3), 5])
def test_sizes_are_positive_integers(size: Any) -> None:
    with pytest.raises(PerceptokError, match="pixels"):
        from_yolo("0 .5 .5 .1 .1", name="a", image_size=size, names=["dog"])


@pytest.mark.parametrize("names", ["dog", None, 3])
def test_names_are_a_list_or_a_dictionary(names: Any) -> None:
    with pytest.raises(AnnotationError, match="names are a list"):
        from_yolo("0 .5 .5 .1 .1", name="a", image_size=(10, 10), names=names)


def test_a_file_with_a_byte_order_mark_is_read() -> None:
    assert len(from_yolo("\ufeff0 .5 .5 .1 .1", name="a", image_size=(10, 10), names=["dog"]).boxes) == 1


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"image_id": []}, "image_id is one integer"),
        ({"image_id": 1.5}, "image_id is one integer"),
        ({"labels": [float("nan")]}, "finite"),
        ({"scores": [float("nan")]}, "finite"),
        ({"area": [float("inf")]}, "finite"),
        ({"iscrowd": [2]}, "0 or 1"),
    ],
)
def test_numbers_of_targets_are_checked(part: dict[str, Any], reason: str) -> None:
    target = {"boxes": [[1, 2, 3, 4]], "labels": [0], **part}
    with pytest.raises(AnnotationError, match=reason):
        from_torchvision(target, name="a", image_size=(10, 10), names=["dog"])
