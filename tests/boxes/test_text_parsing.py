"""Free model output: the boxes in it, where they stand, what is malformed, in linear time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from perceptok.boxes import BoxForm, ParsedBoxes, boxes_to_text, parse_boxes
from perceptok.errors import MalformedBoxError

P = "<PIXEL_{}>".format


def pieces(text: str, parsed: ParsedBoxes) -> list[str]:
    return [text[start:end] for start, end in parsed.spans.tolist()]


class TestBoxes:
    def test_in_sentences(self) -> None:
        text = (
            "There is a dog (on the left) at (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>), and a cat\n"
            "at ( <PIXEL_5>, <PIXEL_6>, <PIXEL_7>, <PIXEL_8> ); <PIXEL_9><PIXEL_9><PIXEL_10><PIXEL_10> is (12, 13)."
        )
        parsed = parse_boxes(text)
        np.testing.assert_array_equal(parsed.boxes, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 10, 10]])
        assert pieces(text, parsed) == [
            "(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)",
            "( <PIXEL_5>, <PIXEL_6>, <PIXEL_7>, <PIXEL_8> )",
            "<PIXEL_9><PIXEL_9><PIXEL_10><PIXEL_10>",
        ]
        assert parsed.malformed == ()

    @given(
        st.lists(st.tuples(*[st.integers(0, 167)] * 2, *[st.integers(168, 335)] * 2), max_size=8),
        st.sampled_from(["aurora", "compact", "numeral"]),
        st.text(alphabet="abc .:;-\n\t\u00e9", max_size=12),
    )
    @settings(max_examples=100)
    def test_whatever_prose_stands_between(self, boxes: list[tuple[int, ...]], form: BoxForm, prose: str) -> None:
        between = f".{prose}."  # letters or a full stop, so that compact boxes do not run together
        texts = [boxes_to_text([box], form=form) for box in boxes]
        text = between + between.join(texts) + between
        parsed = parse_boxes(text)
        assert parsed.boxes.tolist() == [list(box) for box in boxes]
        assert pieces(text, parsed) == texts
        assert parsed.malformed == ()

    def test_compact_boxes_run_together_and_apart(self) -> None:
        run = "".join(P(code) for code in range(8))
        for text in (
            run,
            run.replace("><", "> <"),
            f"({run} they are)",
            f"{run[:36]},{run[36:]}",
            f"{run[:36]}\n{run[36:]}",
        ):
            assert parse_boxes(text).boxes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
            assert parse_boxes(text).malformed == ()

    def test_a_line_break_parts_compact_boxes(self) -> None:
        parsed = parse_boxes("".join(map(P, range(3))) + "\n" + "".join(map(P, range(4))))
        assert parsed.boxes.tolist() == [[0, 1, 2, 3]]
        assert [piece.flaw for piece in parsed.malformed] == ["coordinates"]

    def test_numerals_are_read_where_there_are_no_tokens(self) -> None:
        assert parse_boxes("at (1, 2, 3, 4)").boxes.tolist() == [[1, 2, 3, 4]]
        mixed = "at (1,2,3,4) and <PIXEL_5><PIXEL_6><PIXEL_7><PIXEL_8>"
        assert parse_boxes(mixed).boxes.tolist() == [[5, 6, 7, 8]]
        assert parse_boxes(mixed, numerals=True).boxes.tolist() == [[1, 2, 3, 4]]
        assert parse_boxes("at (1,2,3,4)", numerals=False).boxes.shape == (0, 4)

    def test_prose_is_no_malformed_box(self) -> None:
        text = "Point A is located at (x = 73 y = 188), Point B (1, 2) in 1999, (3 dogs), 1, 2, 3, 4 and 5 (see 2.5)."
        parsed = parse_boxes(text)
        assert parsed.boxes.shape == (0, 4)
        assert parsed.spans.shape == (0, 2)
        assert parsed.malformed == ()

    def test_other_sizes(self) -> None:
        assert parse_boxes("".join(map(P, (1, 2, 999, 1000))), size=1001).boxes.tolist() == [[1, 2, 999, 1000]]


class TestMalformed:
    @pytest.mark.parametrize(
        ("text", "piece", "flaw", "reason"),
        [
            ("a ({1},{2},{3}) b", "({1},{2},{3})", "coordinates", "3 coordinates where a box has four"),
            ("a ({1},{2},{3},{4},{5}) b", "({1},{2},{3},{4},{5})", "coordinates", "5 coordinates"),
            ("a ({1},{2},", "({1},{2},", "coordinates", "2 coordinates where a box has four, and the closing bracket"),
            ("a {1} b", "{1}", "coordinates", "1 coordinate where"),
            ("a {1}{2}{3} b", "{1}{2}{3}", "coordinates", "3 coordinates"),
            ("({5},{2},{3},{4})", "({5},{2},{3},{4})", "order", "x2 = 3 < x1 = 5"),
            ("({1},{5},{3},{4})", "({1},{5},{3},{4})", "order", "y2 = 4 < y1 = 5"),
            ("{5}{2}{3}{4}", "{5}{2}{3}{4}", "order", "x2 = 3 < x1 = 5"),
            ("({1},{2},{3},{336})", "({1},{2},{3},{336})", "range", "'<PIXEL_336>' is outside 0..335"),
            ("({1},{2},{3},{-4})", "({1},{2},{3},{-4})", "range", "'<PIXEL_-4>' is outside"),
            ("({1},{2},{3},{04})", "({1},{2},{3},{04})", "token", "'<PIXEL_04>' is not a coordinate"),
            ("({1},{2},{3},{x})", "({1},{2},{3},{x})", "token", "'<PIXEL_x>' is not a coordinate"),
            ("({1},{2},{3},<PIXEL_4)", "({1},{2},{3},<PIXEL_4)", "token", "'<PIXEL_4' is not a coordinate"),
            ("({1},<DEPTH_2>,{3},{4})", "({1},<DEPTH_2>,{3},{4})", "token", "'<DEPTH_2>' is not a coordinate"),
            ("({1},2,{3},{4})", "({1},2,{3},{4})", "token", "'2' is not a coordinate"),
            ("({1},{2},cat,{4}) b", "({1},{2},cat,{4})", "token", "expected coordinate 3, found 'cat,"),
            ("({1},{2},{3},{4} b", "({1},{2},{3},{4}", "bracket", "the closing bracket is missing"),
            ("({1},{2},{3},{4}\n (b)", "({1},{2},{3},{4}", "bracket", "the closing bracket is missing"),
            ("[{1},{2},{3},{4}]", "{1},{2},{3},{4}", "bracket", "the brackets are missing"),
            ("a {1},{2},{3},{4}) b", "{1},{2},{3},{4})", "bracket", "the opening bracket is missing"),
            ("({1}{2},{3},{4})", "({1}{2},{3},{4})", "comma", "3 commas; found 2"),
            ("({1},{2},{3},{4},)", "({1},{2},{3},{4},)", "comma", "3 commas; found 4"),
        ],
    )
    def test_reasons(self, text: str, piece: str, flaw: str, reason: str) -> None:
        def tokens(template: str) -> str:
            return template.replace("{", "<PIXEL_").replace("}", ">")

        good = boxes_to_text([[9, 9, 9, 9]])
        whole = f"{good} {tokens(text)}\n{good}"
        parsed = parse_boxes(whole)
        assert parsed.boxes.tolist() == [[9, 9, 9, 9]] * 2
        (found,) = parsed.malformed
        assert (found.text, found.flaw) == (tokens(piece), flaw)
        assert reason in found.reason
        assert whole[found.start : found.end] == found.text
        with pytest.raises(MalformedBoxError, match=f"at character {found.start}, "):
            parse_boxes(whole, strict=True)

    @pytest.mark.parametrize(
        ("piece", "flaw"),
        [
            ("(1,2,3)", "coordinates"),
            ("(1,2,3,4,5)", "coordinates"),
            ("(1, 2, 3", "coordinates"),
            ("(3,2,1,4)", "order"),
            ("(1,2,3,336)", "range"),
            ("(1,2,3,-4)", "range"),
            ("(1,2,3,4.5)", "token"),
            ("(01,2,3,4)", "token"),
            ("1,2,3,4)", "bracket"),
            ("(1,2,3,4", "bracket"),
        ],
    )
    def test_numerals(self, piece: str, flaw: str) -> None:
        parsed = parse_boxes(f"(7,7,7,7) then {piece}")
        assert parsed.boxes.tolist() == [[7, 7, 7, 7]]
        assert [(found.text, found.flaw) for found in parsed.malformed] == [(piece, flaw)]

    @given(
        st.lists(st.sampled_from(["(", ")", ",", " ", "\n", "<PIXEL_", "<PIXEL_3>", "7", ">", "<", "-", "."])).map(
            "".join
        )
    )
    @settings(max_examples=300)
    def test_any_soup(self, text: str) -> None:
        for numerals in (None, True, False):
            parsed = parse_boxes(text, numerals=numerals)
            spans = sorted(
                [*map(tuple, parsed.spans.tolist()), *((piece.start, piece.end) for piece in parsed.malformed)]
            )
            ends = [0, *(end for _, end in spans)]
            assert all(end <= start for end, (start, _) in zip(ends, spans, strict=False)), "pieces overlap"
            assert all(start < end <= len(text) for start, end in spans)
            assert all(text[piece.start : piece.end] == piece.text for piece in parsed.malformed)
            for (start, end), box in zip(parsed.spans.tolist(), parsed.boxes.tolist(), strict=True):
                again = parse_boxes(text[start:end], numerals=numerals)
                assert again.boxes.tolist() == [box]


@pytest.mark.parametrize(
    "unit",
    [
        "(",
        ")",
        "( ",
        "(<PIXEL_1>,",
        "(<PIXEL_1>, cat ",
        "<PIXEL_1>,",
        "<PIXEL_1> ",
        "(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)",
        "(1,",
        "(1,2,3,4",
        "1,2,3,4 ",
        "<PIXEL_",
        "<a",
        "(<a",
        " ",
        "(1" + " ",
    ],
)
def test_linear_time_on_brackets_without_end(unit: str, cpu_seconds: Callable[[Callable[[], object]], float]) -> None:
    """Sixteen times the text takes about sixteen times as long; quadratic would be 256."""

    def seconds(repeats: int) -> float:
        text = f"({P(1)}" + unit * repeats + " x"
        return cpu_seconds(lambda: parse_boxes(text))

    largest = 100_000 if len(unit) <= 2 else 20_000
    assert seconds(largest) < 80 * max(seconds(largest // 16), 0.0005)
