"""Bracket pieces in three kinds of tokenizers, and tokenizers that lose them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.decoding import GrammarConfig, compile_grammar
from perceptok.decoding.grammar.automaton import Symbol
from perceptok.decoding.grammar.token_symbols import BracketPieces, classify_tokens
from perceptok.errors import ConstraintError
from tests.decoding.conftest import with_perception_tokens

SENTENCES = [
    "Bounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)\nBox 2: (<PIXEL_0>,<PIXEL_0>,<PIXEL_335>,<PIXEL_335>).",
    "(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>),(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)",
    "f(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>), and the dog :(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)!",
    "see (above), f(x),(y) )( (a, b) :) and (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)",
]


def accepted(tokenizer: Any, sentence: str) -> bool:
    vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)
    symbols = classify_tokens(vocab, GrammarConfig(), tokenizer=tokenizer)
    ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
    return compile_grammar().accepts(symbols[ids].tolist())


def test_llama(shared: Path) -> None:
    tokenizer = with_perception_tokens(AutoTokenizer.from_pretrained(shared / "models" / "llama2_tokenizer"))
    for sentence in SENTENCES:
        assert accepted(tokenizer, sentence)
        assert not accepted(tokenizer, sentence.replace("<PIXEL_3>", "3"))
    pieces = BracketPieces.from_tokenizer(tokenizer, pt.PerceptionVocabulary.from_tokenizer(tokenizer))
    assert {"\u2581(", "(", ":("} <= set(tokenizer.convert_ids_to_tokens(pieces.opening))
    assert tokenizer.convert_ids_to_tokens(pieces.comma) == ","
    assert {")", ").", "),", "),("} <= set(tokenizer.convert_ids_to_tokens(pieces.closing))
    assert "\u2581)" not in tokenizer.convert_ids_to_tokens(pieces.closing)
    assert tokenizer.convert_ids_to_tokens(pieces.reopening).count("),(") == 1


@pytest.mark.parametrize("sentence", SENTENCES)
def test_bytes(byte_tokenizer: PreTrainedTokenizerFast, sentence: str) -> None:
    assert accepted(byte_tokenizer, sentence)
    assert not accepted(byte_tokenizer, sentence.replace(",<PIXEL_3>", " ,<PIXEL_3>"))


def test_every_id_of_the_small_tokenizer(tokenizer: PreTrainedTokenizerFast, vocab: pt.PerceptionVocabulary) -> None:
    symbols = classify_tokens(vocab, GrammarConfig(), tokenizer=tokenizer, eos_token_ids=[2])
    assert symbols.dtype == np.int64
    first = [Symbol.TEXT, Symbol.TEXT, Symbol.EOS, *[Symbol.TEXT] * 4, Symbol.OPEN, Symbol.COMMA, Symbol.CLOSE]
    assert symbols[:18].tolist() == [*first, Symbol.CLOSE, Symbol.CLOSE_OPEN, Symbol.OPEN, *[Symbol.TEXT] * 5]
    assert symbols[18:20].tolist() == [Symbol.DEPTH_START, Symbol.DEPTH_END]
    assert (symbols[20:148] == Symbol.DEPTH_CODE).all()
    assert symbols[148:].tolist() == list(range(Symbol.PIXEL, Symbol.PIXEL + 336))


def test_excluded_sets_are_never_written(tokenizer: PreTrainedTokenizerFast, vocab: pt.PerceptionVocabulary) -> None:
    symbols = classify_tokens(vocab, GrammarConfig(depth=False, boxes=None))
    grammar = compile_grammar(GrammarConfig(depth=False, boxes=None))
    assert sorted(set(symbols[grammar.allowed_symbols(grammar.initial)].tolist())) == [Symbol.TEXT]


def made(words: list[str], splitter: Any) -> PreTrainedTokenizerFast:
    bare = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    bare.pre_tokenizer = splitter
    return with_perception_tokens(PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>"))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["<unk>", "a", "(", ")"], "<unk>"),  # the comma is lost
        (["<unk>", "a", ","], "<unk>"),  # the brackets are
        (["<unk>", "a", "(", ",", ",,"], "<unk>"),
    ],
)
def test_brackets_that_are_lost(words: list[str], shown: str) -> None:
    tokenizer = made(words, pre_tokenizers.Whitespace())
    with pytest.raises(ConstraintError, match=f"splits what is around .*{shown}.*boxes='compact'"):
        accepted(tokenizer, "a")


def test_brackets_merged_with_the_text_around_them() -> None:
    """Perception tokens as ordinary words, so that "(<PIXEL_0>," is one piece of text."""
    words = ["<unk>", *pt.tokens.PIXEL.tokens, *pt.tokens.DEPTH.tokens, "(", ",", ")", "a"]
    bare = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>")
    with pytest.raises(ConstraintError, match="does not find <PIXEL_0> in"):
        accepted(tokenizer, "a")
