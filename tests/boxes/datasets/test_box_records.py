"""Records of images: JSON lines there and back, refused boxes that cost only themselves."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from perceptok.boxes import BoxCodec, BoxFailure, BoxLabels, BoxRecord, ImageBoxes, ImageFrame, read_box_records
from perceptok.errors import BoxError, ConfigError, MalformedBoxError

LABELS = BoxLabels(
    category_ids=(5, 4),
    crowd=(True, False),
    annotation_ids=(70, 71),
    areas=(9.5, 0.25),
    scores=(0.5, 1.0),
    negative_category_ids=(6,),
    not_exhaustive_category_ids=(),
    categories={4: "cat", 5: "d\u00f6g", 6: "cow"},
)
IMAGE = ImageBoxes("a/b.jpg", 640, 480, np.array([[10.0, 20, 300, 400], [0, 0, 640, 480]]), LABELS, 12)


@given(
    st.sampled_from(["squash", "letterbox", "center_crop"]),
    st.sampled_from([336, 1000]),
    st.sampled_from(["xyxy", "yxyx"]),
    st.sampled_from(["aurora", "compact", "numeral", None]),
    st.booleans(),
)
@settings(max_examples=60)
def test_there_and_back(frame: Any, size: int, order: Any, form: Any, labelled: bool) -> None:
    image = IMAGE if labelled else ImageBoxes("x.png", 640, 480, IMAGE.boxes)
    record = BoxRecord.from_boxes(image, BoxCodec(size, order=order, decode="center"), frame=frame)
    line = record.to_json(form=form)
    assert "\n" not in line
    assert BoxRecord.from_json(line) == record
    if form:
        values = json.loads(line)
        del values["codes"]
        assert BoxRecord.from_json(json.dumps(values)) == record
    back = record.decode()
    assert (back.name, back.width, back.height, back.image_id) == (image.name, 640, 480, image.image_id)
    assert back.labels == image.labels
    if frame != "center_crop":
        np.testing.assert_allclose(back.boxes, image.boxes, atol=640 / size / 2 + 1e-9)


def test_no_box() -> None:
    record = BoxRecord.from_boxes(ImageBoxes("x.png", 9, 9, np.zeros((0, 4))), BoxCodec())
    assert BoxRecord.from_json(record.to_json(form="aurora")) == record
    assert record.array.shape == (0, 4)
    assert record.decode().boxes.shape == (0, 4)


def test_empty_and_unknown_lists_are_distinguished() -> None:
    record = BoxRecord.from_boxes(IMAGE, BoxCodec())
    back = BoxRecord.from_json(record.to_json()).labels
    assert back.not_exhaustive_category_ids == ()
    plain = BoxRecord.from_json(
        BoxRecord.from_boxes(ImageBoxes("x", 9, 9, np.zeros((0, 4))), BoxCodec()).to_json()
    ).labels
    assert plain.not_exhaustive_category_ids is None


class TestDropping:
    BOXES = np.array([[10.0, 10, 20, 20], [200, 200, 300, 300], [5, 5, 5, 30], [40, 40, 50, 50]])
    LABELS = BoxLabels(
        category_ids=(1, 2, 3, 4), areas=(1.0, 2.0, 3.0, 4.0), categories=dict.fromkeys(range(1, 5), "x")
    )
    IMAGE = ImageBoxes("x.jpg", 100, 100, BOXES, LABELS)

    def test_labels_follow_their_boxes(self) -> None:
        codec = BoxCodec(outside="drop", degenerate="drop")
        record = BoxRecord.from_boxes(self.IMAGE, codec)
        assert record.labels.category_ids == (1, 4)
        assert record.labels.areas == (1.0, 4.0)
        assert len(record.codes) == 2

    def test_a_crop_drops_what_it_does_not_show(self) -> None:
        wide = ImageBoxes("x.jpg", 400, 100, np.array([[0.0, 0, 40, 40], [190, 40, 210, 60]]))
        record = BoxRecord.from_boxes(wide, BoxCodec(outside="drop"), frame="center_crop", min_visible=0.5)
        assert len(record.codes) == 1
        np.testing.assert_allclose(record.decode().boxes, [[190, 40, 210, 60]], atol=0.3)

    def test_refused_boxes_cost_only_themselves(self) -> None:
        codec = BoxCodec(outside="raise", degenerate="raise")
        with pytest.raises(BoxError):
            BoxRecord.from_boxes(self.IMAGE, codec)
        failures: list[BoxFailure] = []
        record = BoxRecord.from_boxes(self.IMAGE, codec, failures=failures)
        assert record.labels.category_ids == (1, 4)
        assert [failure.name for failure in failures] == ["x.jpg, box 1", "x.jpg, box 2"]
        nan = ImageBoxes("y.jpg", 9, 9, np.array([[1.0, 2, np.nan, 4], [1, 2, 3, 4]]))
        record = BoxRecord.from_boxes(nan, BoxCodec(), failures=failures)
        assert len(record.codes) == 1
        assert failures[-1].name == "y.jpg, box 0"

    def test_policies_still_hold_when_a_box_is_refused(self) -> None:
        failures: list[BoxFailure] = []
        record = BoxRecord.from_boxes(self.IMAGE, BoxCodec(outside="drop", degenerate="raise"), failures=failures)
        assert record.labels.category_ids == (1, 4)
        assert [failure.name for failure in failures] == ["x.jpg, box 2"]

    def test_another_frame(self) -> None:
        with pytest.raises(ConfigError, match="squash, letterbox, center_crop"):
            BoxRecord.from_boxes(self.IMAGE, BoxCodec(), frame="stretch")  # type: ignore[arg-type]
        frame = ImageFrame.letterbox((100, 100), 336, fill=0)
        assert BoxRecord.from_boxes(ImageBoxes("x", 100, 100, self.BOXES[:1]), BoxCodec(), frame=frame).frame == frame


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (
                BoxLabels(category_ids=(1,), categories={1: "x"}),
                "category_ids is empty or has one entry for each of 2 boxes; got 1",
            ),
            (BoxLabels(crowd=(True,) * 3), "crowd is empty or"),
            (BoxLabels(category_ids=(1, 2), categories={1: "x"}), "category 2 has no name"),
            (BoxLabels(negative_category_ids=(7,)), "category 7 has no name"),
        ],
    )
    def test_labels_fit_their_boxes(self, labels: BoxLabels, message: str) -> None:
        with pytest.raises(BoxError, match=message):
            ImageBoxes("x", 9, 9, np.zeros((2, 4)), labels)

    def test_names(self) -> None:
        assert LABELS.names == ("d\u00f6g", "cat")
        assert LABELS.select([1]).names == ("cat",)
        assert LABELS.select([1]).negative_category_ids == (6,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": None}, "not a record"),
        ({"frame": {"mode": "squash"}}, "not a record (ConfigError"),
        ({"codes": [[1, 2, 3]]}, "shape (N, 4)"),
        ({"codes": [[1, 2, 3], [1, 2, 3, 4]]}, "in a regular array"),
        ({"codes": [[1, 2, 3, 336]], "category_ids": [], "crowd": []}, "codes are 0..335"),
        ({"codes": [[1.5, 2, 3, 4]]}, "codes are integers"),
        ({"codes": [[3, 2, 1, 4]]}, "box 0 is inverted: x2 = 1 < x1 = 3"),
        ({"codes": 5}, "not a record (TypeError"),
        ({"category_ids": [1, 2]}, "category_ids is empty or has one entry for each of 1"),
        ({"category_ids": [9]}, "category 9 has no name"),
        ({"colour": [1]}, "colour"),
        ({"name": 5}, "name is the image's file name; got 5"),
        ({"categories": {"x": "y"}}, "not a record (ValueError"),
        ({"codes": None}, "not a record"),
        ({"codes": None, "text": "(<PIXEL_1>,<PIXEL_2>)"}, "2 coordinates where a box has four"),
    ],
)
def test_what_is_no_record(change: dict[str, Any], message: str) -> None:
    good = BoxRecord.from_boxes(ImageBoxes("x", 9, 9, np.array([[1.0, 2, 3, 4]])), BoxCodec()).to_json()
    assert isinstance(BoxRecord.from_json(good), BoxRecord)
    values = {key: value for key, value in {**json.loads(good), **change}.items() if value is not None}
    with pytest.raises(MalformedBoxError) as refused:
        BoxRecord.from_json(json.dumps(values))
    assert message in str(refused.value)


@pytest.mark.parametrize("line", ["", "{", "[]", "null", "7", "[" * 100_000, '{"codes": 1e999}', "\x00"])
def test_lines_that_are_not_records_are_reported_by_number(line: str) -> None:
    good = BoxRecord.from_boxes(IMAGE, BoxCodec())
    first, second, third = read_box_records([good.to_json(), line, good.to_json()], "x.jsonl")
    assert first == third == good
    assert isinstance(second, BoxFailure)
    assert second.name == "x.jsonl, line 2"
    assert "not a record" in second.reason
