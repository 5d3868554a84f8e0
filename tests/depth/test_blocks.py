"""Blocks of text and bytes: exact inverses, and errors that say where and what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import integers

from perceptok.depth.blocks import block_from_bytes, block_from_text, block_to_bytes, block_to_text, checked_codes
from perceptok.errors import MalformedBlockError

GRIDS = arrays(np.int64, (10, 10), elements=integers(0, 127))
COUNTING = np.arange(100).reshape(10, 10)


@given(GRIDS)
def test_text_and_bytes_are_exact_inverses(codes: np.ndarray) -> None:
    assert np.array_equal(block_from_text(block_to_text(codes)), codes)
    assert np.array_equal(block_from_bytes(block_to_bytes(codes)), codes)
    assert len(block_to_bytes(codes)) == 88


def test_golden_text() -> None:
    text = block_to_text(COUNTING)
    assert text.startswith("<DEPTH_START><DEPTH_0><DEPTH_1>")
    assert text.endswith("<DEPTH_98><DEPTH_99><DEPTH_END>")


def test_golden_bytes() -> None:
    codes = np.zeros((10, 10), dtype=np.int64)
    codes[0, 0], codes[0, 1], codes[9, 9] = 127, 1, 127
    # 1111111 0000001 0... and 99 * 7 = 693 = 86 * 8 + 5 bits before the last code.
    assert block_to_bytes(codes) == bytes([0b11111110, 0b00000100, *[0] * 84, 0b00000111, 0b11110000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.replace("<DEPTH_99>", ""),
            "expected a code token at character 993 after 99 of 100 codes, found '<DEPTH_END>'",
        ),
        (
            lambda t: t.replace("<DEPTH_99>", "<DEPTH_99><DEPTH_5>"),
            "expected <DEPTH_END> at character 1003 .*'<DEPTH_5>'",
        ),
        (
            lambda t: t.replace("<DEPTH_7>", "<DEPTH_128>"),
            r"at character \d+ after 7 of 100 codes, found '<DEPTH_128>' .*0..127",
        ),
        (lambda t: t.replace("<DEPTH_7>", "<DEPTH_007>"), "found '<DEPTH_007>' .*one spelling"),
        (lambda t: t.replace("<DEPTH_7>", "<PIXEL_7>"), "found '<PIXEL_7>'"),
        (lambda t: t.replace("<DEPTH_7>", " "), "found ' '"),
        (lambda t: t.removeprefix("<DEPTH_START>"), "expected <DEPTH_START> at character 0, found '<DEPTH_0>'"),
        (
            lambda t: t.removesuffix("<DEPTH_END>"),
            "expected <DEPTH_END> at character 1003 .* found the end of the text",
        ),
        (lambda t: t + "!", "expected the end of the text at character 1014, found '!'"),
        (lambda t: t[:500], "found '<DEPTH"),
        (lambda t: "", "expected <DEPTH_START> at character 0, found the end of the text"),
    ],
)
def test_malformed_text_says_where_and_what(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MalformedBlockError, match=message):
        block_from_text(change(block_to_text(COUNTING)))


def test_malformed_bytes_and_codes() -> None:
    with pytest.raises(MalformedBlockError, match="88 bytes; got 87"):
        block_from_bytes(bytes(87))
    with pytest.raises(MalformedBlockError, match="last 4 bits"):
        block_from_bytes(bytes(87) + b"\x01")
    with pytest.raises(MalformedBlockError, match=r"found 128 at \(3, 4\)"):
        checked_codes(np.where(np.arange(100).reshape(10, 10) == 34, 128, 0))
    with pytest.raises(MalformedBlockError, match="integers; got float64"):
        checked_codes(np.zeros((10, 10)))
    for shape in ((99,), (100,), (10, 9), (1, 1, 10, 10)):
        with pytest.raises(MalformedBlockError, match="shape"):
            checked_codes(np.zeros(shape, dtype=int))
    with pytest.raises(MalformedBlockError, match="one by one"):
        block_to_text(np.zeros((2, 10, 10), dtype=int))
