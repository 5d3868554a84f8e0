"""Sanitized text has no perception tokens, and is restored exactly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.vocabulary import extend_vocabulary, restore_text, sanitize_text

TOKENS = ["<DEPTH_5>", "<DEPTH_START>", "<PIXEL_335>"]
STRANGERS = ["<DEPTH_128>", "<DEPTH_05>", "<\\DEPTH_5>", "<\\\\PIXEL_3>", "<depth_5>"]
SCRAPS = ["<", ">", "\\", "DEPTH_5", "<DEPTH_", "5>", "a", "\n"]
PIECES = st.sampled_from([*TOKENS, *STRANGERS, *SCRAPS])
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=8).map("".join))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("what is <DEPTH_5>?", r"what is <\DEPTH_5>?"),
        ("<DEPTH_<DEPTH_5>5>", r"<DEPTH_<\DEPTH_5>5>"),
        (r"<\DEPTH_5>", r"<\\DEPTH_5>"),
        ("<DEPTH_128> <PIXEL_336> <DEPTH_05> a < b", "<DEPTH_128> <PIXEL_336> <DEPTH_05> a < b"),
    ],
)
def test_tokens_are_escaped(text: str, clean: str) -> None:
    assert sanitize_text(text) == clean
    assert restore_text(clean) == text


@settings(max_examples=60)
@given(text=TEXTS)
def test_any_text_is_restored_and_has_no_token(text: str) -> None:
    clean = sanitize_text(text)
    assert restore_text(clean) == text
    assert not any(token in clean for token_set in (pt.tokens.DEPTH, pt.tokens.PIXEL) for token in token_set.tokens)


def test_the_tokenizer_finds_no_token(bare: PreTrainedTokenizerFast) -> None:
    vocab = extend_vocabulary(bare)
    text = "a <DEPTH_5> map<PIXEL_3>" + pt.tokens.DEPTH.start
    assert any(vocab.is_perception(index) for index in bare.encode(text))
    assert not any(vocab.is_perception(index) for index in bare.encode(sanitize_text(text, vocab)))


def test_only_the_given_sets_are_escaped(bare: PreTrainedTokenizerFast) -> None:
    assert sanitize_text("<DEPTH_5><PIXEL_5>", (pt.tokens.PIXEL,)) == r"<DEPTH_5><\PIXEL_5>"
    vocab = extend_vocabulary(bare, token_sets=(pt.tokens.DEPTH,))
    assert sanitize_text("<DEPTH_5><PIXEL_5>", vocab) == r"<\DEPTH_5><PIXEL_5>"
