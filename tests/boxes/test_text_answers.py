"""Labelled lists and the answers of the box samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from perceptok.boxes import (
    BoxForm,
    box_answer_from_text,
    box_answer_to_text,
    find_labels,
    labelled_boxes_from_text,
    labelled_boxes_to_text,
    parse_boxes,
)
from perceptok.errors import MalformedBoxError

BOXES = st.lists(st.tuples(*[st.integers(0, 167)] * 2, *[st.integers(168, 335)] * 2), max_size=6)
LABELS = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]), min_size=1, max_size=8)
TWO = [[1, 2, 3, 4], [5, 6, 7, 8]]
ANSWER = (
    "Here are the bounding boxes for the dogs:\n"
    "Bounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)\n"
    "Bounding box 2: (<PIXEL_5>,<PIXEL_6>,<PIXEL_7>,<PIXEL_8>)"
)


class TestLabelled:
    @given(BOXES, st.data(), st.sampled_from(["aurora", "compact", "numeral"]))
    @settings(max_examples=100)
    def test_there_and_back(self, boxes: list[tuple[int, ...]], data: st.DataObject, form: BoxForm) -> None:
        labels = data.draw(st.lists(LABELS, min_size=len(boxes), max_size=len(boxes)))
        text = labelled_boxes_to_text(np.array(boxes, dtype=np.int64).reshape(-1, 4), labels, form=form)
        back_labels, back = labelled_boxes_from_text(text)
        assert back_labels == tuple(labels)
        assert back.shape == (len(boxes), 4)
        assert back.tolist() == [list(box) for box in boxes]

    def test_numbered_by_default(self) -> None:
        assert labelled_boxes_to_text(TWO, form="compact").splitlines() == [
            "Bounding box 1: <PIXEL_1><PIXEL_2><PIXEL_3><PIXEL_4>",
            "Bounding box 2: <PIXEL_5><PIXEL_6><PIXEL_7><PIXEL_8>",
        ]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (["a"], "a label for each of 2 boxes; got 1"),
            (["a", "b\nc"], "one line"),
            (["a", " b"], "space"),
            (["", "b"], "line"),
        ],
    )
    def test_labels_that_do_not_fit(self, labels: list[str], message: str) -> None:
        with pytest.raises(MalformedBoxError, match=message):
            labelled_boxes_to_text(TWO, labels)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("(1,2,3,4)", "expected `label: box` at character 0, found '(1,2,3,4)'"),
            ("a: (1,2,3,4)\n\nb: (1,2,3,4)", "at character 13, found ''"),
            ("a: (1,2,3,4)\nb: (1,2,3)", "in the line at character 13, 'b: (1,2,3)': malformed box at character 0"),
            ("a: (1,2,3,4)(1,2,3,4)", "expected one box in the line at character 0, found 2"),
            ("a: ", "expected one box in the line at character 0, found 0"),
            (" a: (1,2,3,4)", "at character 0"),
        ],
    )
    def test_what_is_no_list(self, text: str, message: str) -> None:
        with pytest.raises(MalformedBoxError) as refused:
            labelled_boxes_from_text(text)
        assert message in str(refused.value)

    def test_lines_of_several_forms(self) -> None:
        text = "a: (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)\nb: <PIXEL_5><PIXEL_6><PIXEL_7><PIXEL_8>\nc: (1,2,3,4)"
        labels, boxes = labelled_boxes_from_text(text)
        assert labels == ("a", "b", "c")
        assert boxes.tolist() == [*TWO, TWO[0]]

    def test_labels_in_free_text(self) -> None:
        text = (
            "Sure!\n- the red dog: (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)\n"
            "cat <PIXEL_1><PIXEL_2><PIXEL_3><PIXEL_4>; mouse: <PIXEL_1><PIXEL_2><PIXEL_3><PIXEL_4>\n"
            "<PIXEL_1><PIXEL_2><PIXEL_3><PIXEL_4>"
        )
        assert find_labels(text, parse_boxes(text)) == ("the red dog", "cat", "mouse", "")


class TestAnswers:
    def test_golden(self) -> None:
        assert box_answer_to_text(TWO, "dogs") == ANSWER
        assert (
            box_answer_to_text(np.zeros((0, 4), dtype=np.int64), "fire hydrants")
            == "There are no fire hydrants in the image."
        )

    @given(BOXES, st.sampled_from(["dogs", "arctics (type of shoe)", "1st: things", "no images in the image"]))
    @settings(max_examples=50)
    def test_there_and_back(self, boxes: list[tuple[int, ...]], plural: str) -> None:
        text = box_answer_to_text(np.array(boxes, dtype=np.int64).reshape(-1, 4), plural)
        back = box_answer_from_text(text)
        assert back.plural == plural
        assert back.boxes.shape == (len(boxes), 4)
        assert back.boxes.tolist() == [list(box) for box in boxes]

    def test_a_space_before_lines_is_accepted(self) -> None:
        for text in (ANSWER.replace("\n", "\n "), ANSWER.replace("\n", "\n ", 1), ANSWER):
            answer = box_answer_from_text(text)
            assert (answer.plural, answer.boxes.tolist()) == ("dogs", TWO)

    def test_what_a_model_may_add_or_forget(self) -> None:
        loose = "\n" + ANSWER.replace("box 2", "box 7") + "\nSince there are 2 distinct boxes ..."
        assert box_answer_from_text(loose, strict=False).boxes.tolist() == TWO
        none = box_answer_from_text(" There are no cats in the image. Sorry.", strict=False)
        assert none.plural == "cats"
        assert none.boxes.shape == (0, 4)
        broken = box_answer_from_text(ANSWER.replace("<PIXEL_8>", ""), strict=False)
        assert broken.boxes.tolist() == TWO[:1]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected 'Here are the bounding boxes for the ...:'"),
            ("There are no  in the image", "found 'There are no"),
            ("There are no cats in the image. Sorry.", "expected the end of the text at character 31"),
            (ANSWER.replace("box 2", "box 3"), "expected 'Bounding box 2', found 'Bounding box 3'"),
            (ANSWER.replace("\n", "\n  "), "expected `label: box` at character 0, found ' Bounding box 1"),
            (ANSWER.replace("\n", "", 1), "found 'Here are"),
            (ANSWER + "\n", "expected `label: box`"),
            (ANSWER.replace("<PIXEL_8>", ""), "3 coordinates where"),
            ("Here are the bounding boxes for the dogs:\n ", "expected one or more boxes"),
        ],
    )
    def test_what_is_no_answer(self, text: str, message: str) -> None:
        with pytest.raises(MalformedBoxError) as refused:
            box_answer_from_text(text)
        assert message in str(refused.value)

    @pytest.mark.parametrize("plural", ["", " ", "a\nb"])
    def test_a_plural_is_one_line(self, plural: Any) -> None:
        with pytest.raises(MalformedBoxError, match="plural"):
            box_answer_to_text(TWO, plural)
