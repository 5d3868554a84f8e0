"""Boxes as text: exact inverses in every form, and errors that say where and what."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from perceptok.boxes import BoxForm, box_answer_to_text, boxes_from_text, boxes_to_text, labelled_boxes_to_text
from perceptok.errors import MalformedBoxError

FORMS: tuple[BoxForm, ...] = ("aurora", "compact", "numeral")


@st.composite
def code_arrays(draw: st.DrawFn, size: int = 336, at_most: int = 12) -> np.ndarray:
    code = st.integers(0, size - 1)
    pairs = st.tuples(code, code).map(sorted)
    boxes = draw(
        st.lists(st.tuples(pairs, pairs).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1])), max_size=at_most)
    )
    return np.array(boxes, dtype=np.int64).reshape(-1, 4)


def slowly_written(codes: np.ndarray, form: BoxForm) -> str:
    """The obvious reference."""
    if form == "aurora":
        return "".join(f"(<PIXEL_{a}>,<PIXEL_{b}>,<PIXEL_{c}>,<PIXEL_{d}>)" for a, b, c, d in codes.tolist())
    if form == "compact":
        return "".join(f"<PIXEL_{a}><PIXEL_{b}><PIXEL_{c}><PIXEL_{d}>" for a, b, c, d in codes.tolist())
    return "".join(f"({a},{b},{c},{d})" for a, b, c, d in codes.tolist())


class TestThereAndBack:
    @given(st.data(), st.sampled_from(FORMS), st.sampled_from([1, 7, 10, 11, 336, 1000, 1024, 12345]))
    @settings(max_examples=150)
    def test_every_form_and_size(self, data: st.DataObject, form: BoxForm, size: int) -> None:
        codes = data.draw(code_arrays(size))
        text = boxes_to_text(codes, form=form, size=size)
        assert text == slowly_written(codes, form)
        back = boxes_from_text(text, size=size)
        assert back.dtype == np.int64
        assert back.shape == codes.shape
        np.testing.assert_array_equal(back, codes)

    @pytest.mark.parametrize("form", FORMS)
    def test_every_code(self, form: BoxForm) -> None:
        codes = np.repeat(np.arange(336), 4).reshape(-1, 4)
        np.testing.assert_array_equal(boxes_from_text(boxes_to_text(codes, form=form)), codes)

    def test_golden(self) -> None:
        assert boxes_to_text([[0, 12, 335, 12]]) == "(<PIXEL_0>,<PIXEL_12>,<PIXEL_335>,<PIXEL_12>)"
        assert boxes_to_text([0, 12, 335, 12], form="compact") == "<PIXEL_0><PIXEL_12><PIXEL_335><PIXEL_12>"
        assert boxes_to_text([[0, 12, 335, 12]] * 2, form="numeral") == "(0,12,335,12)(0,12,335,12)"

    @pytest.mark.parametrize("form", FORMS)
    def test_no_box(self, form: BoxForm) -> None:
        assert boxes_to_text(np.zeros((0, 4), dtype=np.int64), form=form) == ""
        assert boxes_from_text("").shape == (0, 4)

    @given(code_arrays(), code_arrays(), st.sampled_from(FORMS))
    @settings(max_examples=40)
    def test_texts_add_up_as_their_boxes_do(self, first: np.ndarray, second: np.ndarray, form: BoxForm) -> None:
        both = boxes_to_text(first, form=form) + boxes_to_text(second, form=form)
        assert both == boxes_to_text(np.concatenate([first, second]), form=form)

    def test_tensors_and_every_integer_type(self) -> None:
        assert boxes_to_text(torch.tensor([[1, 2, 3, 4]])) == boxes_to_text(np.array([[1, 2, 3, 4]], dtype=np.uint8))

    @given(code_arrays(at_most=4), st.sampled_from(FORMS), st.data())
    @settings(max_examples=200)
    def test_what_is_accepted_is_what_would_be_written(
        self, codes: np.ndarray, form: BoxForm, data: st.DataObject
    ) -> None:
        """One edit anywhere: either refused, or the text of other boxes."""
        text = boxes_to_text(codes, form=form)
        place = data.draw(st.integers(0, len(text)))
        gone = data.draw(st.integers(0, 3))
        put = data.draw(
            st.sampled_from(["", " ", "0", "9", "1", ",", "(", ")", "<", ">", "<PIXEL_4>", "\0", "\u0663", "x"])
        )
        edited = text[:place] + put + text[place + gone :]
        try:
            back = boxes_from_text(edited)
        except MalformedBoxError:
            # Were it a text that some boxes have, the slow reference would find them.
            assert edited not in {slowly_written(codes, form) for form in FORMS}
        else:
            assert without_space(edited) in {slowly_written(back, form) for form in FORMS}

    @given(code_arrays(at_most=3), st.sampled_from(FORMS), st.data())
    def test_space_between_tokens_means_nothing(self, codes: np.ndarray, form: BoxForm, data: st.DataObject) -> None:
        spaces = st.sampled_from(["", " ", "  ", "\n", "\t "])
        pieces = re.findall(r"<[^>]*>|[0-9]+|[(),]", boxes_to_text(codes, form=form))
        spaced = "".join(data.draw(spaces) + piece for piece in pieces) + data.draw(spaces)
        np.testing.assert_array_equal(boxes_from_text(spaced), codes)


def without_space(text: str) -> str:
    """Space goes where it does not part a token, letter by letter."""
    kept = ""
    for place, letter in enumerate(text):
        before, after = text[:place].rstrip()[-1:], text[place:].lstrip()[:1]
        inner = letter.isspace() and before and after and before not in "(),>" and after not in "(),<"
        kept += letter if inner or not letter.isspace() else ""
    return kept


class TestRefusedText:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("hello", "expected a box at character 0, found 'hello'"),
            ("(1,2 3,3,4)", "expected a box at character 0, found '(1,2 3,3,4)'"),
            ("(1,2,3,4)x", "expected a box at character 9, found 'x'"),
            ("(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>)", "malformed box at character 0"),
            ("(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>)", "3 coordinates where a box has four"),
            ("(1,2,3,4)(5,2,3,4)", "malformed box at character 9, '(5,2,3,4)': x2 = 3 < x1 = 5"),
            ("(1,5,3,4)", "y2 = 4 < y1 = 5"),
            ("(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_336>)", "'<PIXEL_336>' is outside 0..335"),
            (
                "(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_04>)",
                "'<PIXEL_04>' is not a coordinate; those are 0..335, without leading",
            ),
            ("(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>", "the closing bracket is missing"),
            ("<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)", "the opening bracket is missing"),
            ("(<PIXEL_1>,<PIXEL_2>,<DEPTH_3>,<PIXEL_4>)", "'<DEPTH_3>' is not a coordinate"),
            ("(<PIXEL_1>, <PIXEL_ 2>,<PIXEL_3>,<PIXEL_4>)", "malformed box at character 0"),
            ("<PIXEL_1><PIXEL_2><PIXEL_3><PIXEL_4><PIXEL_5>", "1 coordinate where a box has four"),
            (
                "(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)<PIXEL_1><PIXEL_2><PIXEL_3><PIXEL_4>",
                "at character 41, found '<PIX",
            ),
            ("(1,2,3," + "9" * 5000 + ")", "is outside 0..335"),
            ("\ud800(1,2,3,4)", "at character 0"),
        ],
    )
    def test_what_is_wrong_and_where(self, text: str, message: str) -> None:
        with pytest.raises(MalformedBoxError) as refused:
            boxes_from_text(text)
        assert message in str(refused.value)
        assert len(str(refused.value)) < 300

    def test_one_bad_box_among_many(self) -> None:
        codes = np.tile([1, 2, 3, 4], (1000, 1))
        text = boxes_to_text(codes)
        broken = text[: 41 * 700] + text[41 * 700 :].replace("<PIXEL_3>", "<PIXEL_0>", 1)
        with pytest.raises(MalformedBoxError, match=f"at character {41 * 700}, .*: x2 = 0 < x1 = 1"):
            boxes_from_text(broken)

    def test_order_names_the_columns(self) -> None:
        with pytest.raises(MalformedBoxError, match="y2 = 3 < y1 = 5"):
            boxes_from_text("(5,2,3,4)", order="yxyx")
        with pytest.raises(MalformedBoxError, match="y2 = 3 < y1 = 5"):
            boxes_to_text([[5, 2, 3, 4]], order="yxyx")
        with pytest.raises(MalformedBoxError, match="x2 = 1 < x1 = 2"):
            boxes_to_text([[5, 2, 6, 1]], order="yxyx")

    def test_not_strict_finds_what_is_there(self) -> None:
        text = "A dog (1,2,3,4), a cat (9,9,8,8) and (5,6,7,8)."
        np.testing.assert_array_equal(boxes_from_text(text, strict=False), [[1, 2, 3, 4], [5, 6, 7, 8]])
        assert boxes_from_text("nothing", strict=False).shape == (0, 4)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((2, 3), int), "shape (N, 4); got (2, 3)"),
        (np.zeros((1, 2, 4), int), "got (1, 2, 4)"),
        (np.zeros(3, int), "got (3,)"),
        (np.zeros((0, 5), int), "got (0, 5)"),
        ([[1, 2, 3], [4]], "in a regular array"),
        ([[1.0, 2.0, 3.0, 4.0]], "codes are integers; got float64: encode coordinates with a BoxCodec"),
        ([[float("nan")] * 4], "codes are integers"),
        ([[True] * 4], "got bool"),
        ([[0, 0, 0, 336]], "codes are 0..335; found 336 in box 0"),
        ([[0, 0, 0, 0], [0, -1, 0, 0]], "found -1 in box 1"),
        (np.array([[0, 0, 0, 2**64 - 1]], dtype=np.uint64), f"found {2**64 - 1}"),
        ([[0, 0, 0, 10**30]], "codes are integers; got float64"),
        ([[5, 0, 4, 9]], "box 0 is inverted: x2 = 4 < x1 = 5"),
        ([[5, 9, 5, 9], [5, 9, 5, 8]], "box 1 is inverted: y2 = 8 < y1 = 9"),
    ],
)
def test_what_are_no_boxes(codes: Any, message: str) -> None:
    for write in (boxes_to_text, labelled_boxes_to_text, partial(box_answer_to_text, plural="dogs")):
        with pytest.raises(MalformedBoxError) as refused:
            write(codes)
        assert message in str(refused.value)


def test_another_form() -> None:
    with pytest.raises(ValueError, match="aurora, compact, numeral; got 'xml'"):
        boxes_to_text([[1, 2, 3, 4]], form="xml")  # type: ignore[arg-type]
