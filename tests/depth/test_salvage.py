"""What is seen of blocks that are none: each code in its place, everything wrong by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from perceptok.depth import block_to_text, salvage_blocks
from perceptok.errors import MalformedBlockError
from perceptok.tokens import DEPTH

CODES = np.arange(100).reshape(10, 10)
TOKENS = [DEPTH.token(code) for code in range(100)]


def block(tokens: list[str], end: str = DEPTH.end) -> str:
    return DEPTH.start + "".join(tokens) + end


@pytest.mark.parametrize(
    "text",
    [
        block_to_text(CODES),
        f"The depth map of the image is {block_to_text(CODES)}. The trajectory of the end effector is [1, 2].",
        " ".join(map(str, range(100))),
        str(CODES.tolist()),
        "\n".join(str(code) for code in range(100)) + "\n",
        DEPTH.start + " " + "\n".join(TOKENS) + " " + DEPTH.end,
    ],
)
def test_whole_blocks_and_lists(text: str) -> None:
    (found,) = salvage_blocks(text)
    assert np.array_equal(found.codes, CODES)
    assert found.problems == ()
    assert not found.missing.any()


def test_ninety_eight_codes_are_in_place_and_two_missing() -> None:
    for text in (f"The depth map is {block(TOKENS[:98])}.", ",".join(map(str, range(98)))):
        (found,) = salvage_blocks(text)
        assert found.codes.ravel().tolist() == [*range(98), -1, -1]
        assert found.problems == ("98 codes instead of 100: the last 2 are missing",)


def test_strange_tokens_keep_the_others_in_place() -> None:
    tokens = [*TOKENS]
    tokens[3], tokens[41] = "<DEPTH_128>", "<PIXEL_7>"
    (found,) = salvage_blocks(block(tokens))
    assert np.argwhere(found.missing).tolist() == [[0, 3], [4, 1]]
    assert found.codes[0, 4] == 4
    assert "2 tokens that are no code: <DEPTH_128> at place 3 (row 0, column 3); <PIXEL_7> at place 41" in str(
        found.problems
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (block(TOKENS, end=""), "does not end with <DEPTH_END>"),
        (block(TOKENS, end="") + " and then words <box>", "does not end with <DEPTH_END>"),
        ("".join(TOKENS), "does not begin with <DEPTH_START>"),
        (block([*TOKENS, "<DEPTH_5>"]), "101 codes instead of 100: the last 1 are not shown"),
        (block([*TOKENS[:50], " so ", *TOKENS[50:]]), "1 word between the codes, such as 'so'"),
    ],
)
def test_every_code_is_seen_and_the_fault_named(text: str, problem: str) -> None:
    (found,) = salvage_blocks(text)
    assert np.array_equal(found.codes, CODES)
    assert problem in " ".join(found.problems)


def test_several_blocks_and_a_start_within_one() -> None:
    first, second = salvage_blocks(f"one {block(TOKENS)}, two {block(TOKENS[:7])}")
    assert not first.problems
    assert second.missing.sum() == 93
    cut, whole = salvage_blocks(block(TOKENS[:5], end="") + block(TOKENS))
    assert cut.missing.sum() == 95
    assert not whole.problems


def test_numbers_that_are_no_codes() -> None:
    (found,) = salvage_blocks("5 -1 128 " + "9" * 5000)
    assert found.codes.ravel()[:5].tolist() == [5, -1, -1, -1, -1]
    assert "3 numbers that are no code" in found.problems[0]


@pytest.mark.parametrize("text", ["", "no block here", "the answer is 42", "<PIXEL_3>"])
def test_nothing_to_see(text: str) -> None:
    with pytest.raises(MalformedBlockError, match="100 integers"):
        salvage_blocks(text)


PIECES = [*TOKENS[:3], DEPTH.start, DEPTH.end, "x", "<", ">"]


@given(st.text(alphabet="<>DEPTH_START012 e") | st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_breaks_it(text: str) -> None:
    try:
        blocks = salvage_blocks(text)
    except MalformedBlockError:
        return
    assert all(one.codes.shape == (10, 10) and one.codes.max() < 128 for one in blocks)
    assert all(one.problems or not one.missing.any() for one in blocks)
