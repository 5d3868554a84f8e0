"""Token sets: order, spelling, refusal."""

import pytest

from perceptok.tokens import DEPTH, PIXEL, TokenSet


def test_order_is_auroras() -> None:
    assert DEPTH.tokens[:3] == ("<DEPTH_START>", "<DEPTH_END>", "<DEPTH_0>")
    assert DEPTH.tokens[-1] == "<DEPTH_127>"
    assert len(DEPTH.tokens) == 130
    assert PIXEL.tokens == tuple(f"<PIXEL_{code}>" for code in range(336))


def test_codes_and_tokens_are_inverse() -> None:
    assert all(DEPTH.codes[DEPTH.token(code)] == code for code in range(128))
    assert "<DEPTH_START>" not in DEPTH.codes


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"0\.\.127; got 128"):
        DEPTH.token(128)
    with pytest.raises(ValueError, match="no START marker"):
        _ = PIXEL.start
    assert TokenSet("LOC", 1000).token(999) == "<LOC_999>"
