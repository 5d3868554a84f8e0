"""Tokens of the sets, in vocabulary order, and their spelling."""

from __future__ import annotations

import pytest

from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL, TokenSet


def test_depth_tokens_are_markers_then_codes_in_order() -> None:
    assert len(DEPTH.tokens) == 130
    assert DEPTH.tokens[:4] == ("<DEPTH_START>", "<DEPTH_END>", "<DEPTH_0>", "<DEPTH_1>")
    assert DEPTH.tokens[-1] == "<DEPTH_127>"
    assert DEPTH_GRID == (10, 10)


def test_pixel_tokens_are_codes_only() -> None:
    assert len(PIXEL.tokens) == 336
    assert (PIXEL.tokens[0], PIXEL.tokens[-1]) == ("<PIXEL_0>", "<PIXEL_335>")
    with pytest.raises(ValueError, match="PIXEL token set has no START"):
        _ = PIXEL.start
    with pytest.raises(ValueError, match="PIXEL token set has no END"):
        _ = PIXEL.end


@pytest.mark.parametrize("tokens", [DEPTH, PIXEL])
def test_codes_and_tokens_round_trip(tokens: TokenSet) -> None:
    assert [tokens.codes[tokens.token(code)] for code in range(tokens.size)] == list(range(tokens.size))
    assert len(set(tokens.tokens)) == len(tokens.tokens)
    assert all((token in tokens.codes) == (token not in ("<DEPTH_START>", "<DEPTH_END>")) for token in tokens.tokens)


@pytest.mark.parametrize(("tokens", "code"), [(DEPTH, -1), (DEPTH, 128), (PIXEL, 336)])
def test_a_code_out_of_range_is_refused(tokens: TokenSet, code: int) -> None:
    with pytest.raises(ValueError, match=f"got {code}"):
        tokens.token(code)


def test_the_pattern_finds_token_like_text() -> None:
    text = "a <DEPTH_007><PIXEL_3> <DEPTH_START> <DEPTH_999> <DEPTH_> <depth_1>"
    assert DEPTH.pattern.findall(text) == ["007", "START", "999", ""]
