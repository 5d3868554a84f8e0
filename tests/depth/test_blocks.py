"""Blocks of text and bytes: exact inverses, errors with position and reason, codes recovered from malformed blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from perceptok.depth import block_from_text, block_to_text, recover_blocks
from perceptok.depth.blocks import BLOCK_BYTES, block_from_bytes, block_to_bytes, validate_codes
from perceptok.errors import MalformedBlockError
from perceptok.tokens import DEPTH

GRIDS = arrays(np.int64, (10, 10), elements=st.integers(0, 127))
ORDERED = np.arange(100).reshape(10, 10)


def tokens(count: int, code: str = "5") -> str:
    return f"<DEPTH_{code}>" * count


def block(body: str) -> str:
    return f"<DEPTH_START>{body}<DEPTH_END>"


class TestText:
    @given(GRIDS)
    @settings(max_examples=50)
    def test_there_and_back(self, codes: np.ndarray) -> None:
        back = block_from_text(block_to_text(codes))
        assert back.dtype == np.int64
        np.testing.assert_array_equal(back, codes)

    def test_row_major_and_nothing_between(self) -> None:
        assert block_to_text(ORDERED) == block("".join(f"<DEPTH_{code}>" for code in range(100)))

    @given(GRIDS, st.integers(0, 101), st.sampled_from(["<DEPTH_3>", "x", "<"]))
    @settings(max_examples=50)
    def test_anything_put_between_tokens_is_found(self, codes: np.ndarray, place: int, extra: str) -> None:
        pieces = block_to_text(codes).replace("><", ">\0<").split("\0")
        before = "".join(pieces[:place])
        with pytest.raises(MalformedBlockError) as refused:
            block_from_text(before + extra + "".join(pieces[place:]))
        # One code too many is found where the end should have been: after 100 codes, the extra one among them.
        among_codes = extra == "<DEPTH_3>" and 1 <= place <= 100
        expected = len("".join(pieces[:100])) + len(extra) if among_codes else len(before)
        assert f"at character {expected}" in str(refused.value)

    @given(GRIDS, st.lists(st.sampled_from(["", " ", "\n", " \t"]), min_size=103, max_size=103))
    @settings(max_examples=20)
    def test_white_space_between_tokens_means_nothing(self, codes: np.ndarray, spaces: list[str]) -> None:
        """What decoding with some tokenizers puts there; within a token it is as wrong as anything else."""
        pieces = block_to_text(codes).replace("><", ">\0<").split("\0")
        spaced = "".join(space + piece for space, piece in zip(spaces, pieces, strict=False)) + spaces[-1]
        np.testing.assert_array_equal(block_from_text(spaced), codes)
        place = spaced.index("_")
        with pytest.raises(MalformedBlockError, match="expected <DEPTH_START> at character"):
            block_from_text(spaced[:place] + " " + spaced[place:])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected <DEPTH_START> at character 0, found the end of the text"),
            (tokens(100) + "<DEPTH_END>", "expected <DEPTH_START> at character 0, found '<DEPTH_5>'"),
            (
                block(tokens(99)),
                "expected a code token at character 904 after 99 of 100 codes, found '<DEPTH_END>'",
            ),
            (block(tokens(101)), "expected <DEPTH_END> at character 913 after 100 of 100 codes, found '<DEPTH_5>'"),
            (
                block(tokens(100)).removesuffix("<DEPTH_END>"),
                "expected <DEPTH_END> at character 913 after 100 of 100 codes, found the end of the text",
            ),
            (
                block(tokens(2) + "<DEPTH_128>" + tokens(97)),
                "at character 31 after 2 of 100 codes, found '<DEPTH_128>' (codes are 0..127, one spelling each)",
            ),
            (
                block("<DEPTH_007>" + tokens(99)),
                "at character 13 after 0 of 100 codes, found '<DEPTH_007>' (codes are 0..127, one spelling each)",
            ),
            (block(tokens(1) + "<PIXEL_5>" + tokens(98)), "at character 22 after 1 of 100 codes, found '<PIXEL_5>'"),
            (block(tokens(50) + "cat" + tokens(50)), "at character 463 after 50 of 100 codes, found 'cat'"),
            (block(tokens(1) + "<DEPTH_\u0663>" + tokens(98)), "at character 22"),
            (block(tokens(1) + "<DEPTH_-1>" + tokens(98)), "at character 22"),
            (block(tokens(100)) + "\n.", "expected the end of the text at character 925, found '.'"),
            (block(" " + tokens(1) + "\n<DEPTH_200>" + tokens(98)), "at character 24 after 1 of 100 codes"),
            (block(tokens(100)) * 2, "expected the end of the text at character 924, found '<DEPTH_START>"),
            ("y" * 99, "found '" + "y" * 37 + "...'"),
        ],
    )
    def test_what_is_wrong_and_where(self, text: str, message: str) -> None:
        with pytest.raises(MalformedBlockError) as refused:
            block_from_text(text)
        assert message in str(refused.value)


class TestBytes:
    @given(GRIDS)
    @settings(max_examples=50)
    def test_there_and_back(self, codes: np.ndarray) -> None:
        data = block_to_bytes(codes)
        back = block_from_bytes(data)
        assert len(data) == BLOCK_BYTES == 88
        assert back.dtype == np.int64
        np.testing.assert_array_equal(back, codes)

    @given(st.binary(min_size=87, max_size=87), st.integers(0, 15))
    @settings(max_examples=50)
    def test_every_accepted_string_is_what_its_codes_give(self, most: bytes, last: int) -> None:
        data = most + bytes([last << 4])
        assert block_to_bytes(block_from_bytes(data)) == data

    def test_golden(self) -> None:
        codes = np.zeros((10, 10), dtype=np.int64)
        # 1111111 0000001 1000000 0101010 ... 1010101 and four zero bits, written out by hand.
        codes[0, :4] = 127, 1, 64, 42
        codes[9, 9] = 85
        data = block_to_bytes(codes)
        assert data[:4] == bytes([0b11111110, 0b00000110, 0b00000010, 0b10100000])
        assert data[4:86] == bytes(82)
        # Code 99 begins at bit 693, the sixth of byte 86.
        assert data[86:] == bytes([0b00000101, 0b01010000])

    @pytest.mark.parametrize("length", [0, 87, 89])
    def test_another_length(self, length: int) -> None:
        with pytest.raises(MalformedBlockError, match=f"88 bytes; got {length}"):
            block_from_bytes(bytes(length))

    @pytest.mark.parametrize("padding", [1, 2, 4, 8])
    def test_padding_is_zero(self, padding: int) -> None:
        with pytest.raises(MalformedBlockError, match="last 4 bits"):
            block_from_bytes(bytes(87) + bytes([padding]))


class TestCodes:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
    def test_every_integer_type(self, dtype: type) -> None:
        assert validate_codes(ORDERED.astype(dtype)).dtype == np.int64
        assert validate_codes(np.zeros((0, 10, 10), dtype)).shape == (0, 10, 10)

    def test_a_copy(self) -> None:
        codes = ORDERED.copy()
        validate_codes(codes)[0, 0] = 7
        assert codes[0, 0] == 0

    @pytest.mark.parametrize(
        ("codes", "message"),
        [
            (np.zeros((10, 9), int), "got (10, 9)"),
            (np.zeros(100, int), "got (100,)"),
            (np.zeros((1, 1, 10, 10), int), "got (1, 1, 10, 10)"),
            (np.zeros((10, 10)), "got float64"),
            (np.zeros((10, 10), bool), "got bool"),
            ([[1], [2, 3]], "(10, 10)"),
            (np.where(ORDERED == 37, 128, 0), "found 128 at (3, 7)"),
            (np.where(ORDERED == 99, -1, 0), "found -1 at (9, 9)"),
            (np.stack([ORDERED, np.where(ORDERED == 5, 2**40, 0)]), f"found {2**40} at (1, 0, 5)"),
        ],
    )
    def test_what_is_no_grid(self, codes: Any, message: str) -> None:
        with pytest.raises(MalformedBlockError) as refused:
            validate_codes(codes)
        assert message in str(refused.value)

    @pytest.mark.parametrize("write", [block_to_text, block_to_bytes])
    def test_one_block_holds_one_grid(self, write: Any) -> None:
        with pytest.raises(MalformedBlockError, match="one by one"):
            write(np.zeros((1, 10, 10), int))


TOKENS = [DEPTH.token(code) for code in range(100)]


def write_block(tokens: list[str], end: str = DEPTH.end) -> str:
    return DEPTH.start + "".join(tokens) + end


@pytest.mark.parametrize(
    "text",
    [
        block_to_text(ORDERED),
        f"The depth map of the image is {block_to_text(ORDERED)}. The trajectory of the end effector is [1, 2].",
        " ".join(map(str, range(100))),
        str(ORDERED.tolist()),
        "\n".join(str(code) for code in range(100)) + "\n",
        DEPTH.start + " " + "\n".join(TOKENS) + " " + DEPTH.end,
    ],
)
def test_whole_blocks_and_lists(text: str) -> None:
    (found,) = recover_blocks(text)
    assert np.array_equal(found.codes, ORDERED)
    assert found.problems == ()
    assert not found.missing.any()


def test_ninety_eight_codes_are_in_place_and_two_missing() -> None:
    for text in (f"The depth map is {write_block(TOKENS[:98])}.", ",".join(map(str, range(98)))):
        (found,) = recover_blocks(text)
        assert found.codes.ravel().tolist() == [*range(98), -1, -1]
        assert found.problems == ("98 codes instead of 100: the last 2 are missing",)


def test_strange_tokens_keep_the_others_in_place() -> None:
    changed = [*TOKENS]
    changed[3], changed[41] = "<DEPTH_128>", "<PIXEL_7>"
    (found,) = recover_blocks(write_block(changed))
    assert np.argwhere(found.missing).tolist() == [[0, 3], [4, 1]]
    assert found.codes[0, 4] == 4
    assert "2 tokens that are not codes: <DEPTH_128> at place 3 (row 0, column 3); <PIXEL_7> at place 41" in str(
        found.problems
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (write_block(TOKENS, end=""), "does not end with <DEPTH_END>"),
        (write_block(TOKENS, end="") + " and then words <box>", "does not end with <DEPTH_END>"),
        ("".join(TOKENS), "does not begin with <DEPTH_START>"),
        (write_block([*TOKENS, "<DEPTH_5>"]), "101 codes instead of 100: the last 1 are not shown"),
        (write_block([*TOKENS[:50], " so ", *TOKENS[50:]]), "1 word between the codes, such as 'so'"),
    ],
)
def test_every_code_is_seen_and_the_fault_named(text: str, problem: str) -> None:
    (found,) = recover_blocks(text)
    assert np.array_equal(found.codes, ORDERED)
    assert problem in " ".join(found.problems)


def test_several_blocks_and_a_start_within_one() -> None:
    first, second = recover_blocks(f"one {write_block(TOKENS)}, two {write_block(TOKENS[:7])}")
    assert not first.problems
    assert second.missing.sum() == 93
    cut, whole = recover_blocks(write_block(TOKENS[:5], end="") + write_block(TOKENS))
    assert cut.missing.sum() == 95
    assert not whole.problems


def test_numbers_that_are_no_codes() -> None:
    (found,) = recover_blocks("5 -1 128 " + "9" * 5000)
    assert found.codes.ravel()[:5].tolist() == [5, -1, -1, -1, -1]
    assert "3 numbers that are not codes" in found.problems[0]


@pytest.mark.parametrize("text", ["", "no block here", "the answer is 42", "<PIXEL_3>"])
def test_nothing_to_see(text: str) -> None:
    with pytest.raises(MalformedBlockError, match="100 integers"):
        recover_blocks(text)


PIECES = [*TOKENS[:3], DEPTH.start, DEPTH.end, "x", "<", ">"]


@given(st.text(alphabet="<>DEPTH_START012 e") | st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_breaks_it(text: str) -> None:
    try:
        blocks = recover_blocks(text)
    except MalformedBlockError:
        return
    assert all(one.codes.shape == (10, 10) and one.codes.max() < 128 for one in blocks)
    assert all(one.problems or not one.missing.any() for one in blocks)
