"""The Lark form in llguidance: the same language as the grammar, token by token."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings, strategies as st

import perceptok as pt
from perceptok.decoding import GrammarConfig, build_lark_grammar, compile_grammar
from perceptok.errors import ConstraintError
from tests.decoding.engines.engine_cases import (
    CONFIGS,
    ORDERED,
    assert_same_language,
    assert_same_verdict,
    tokenizer,
    vocabulary,
)

llguidance = pytest.importorskip("llguidance", reason="needs perceptok[engines]")
llguidance_hf = pytest.importorskip("llguidance.hf", reason="needs perceptok[engines]")

PADDED = 1024
"""Columns of logits, more than the tokenizer has ids."""


@cache
def ll_tokenizer() -> object:
    return llguidance_hf.from_tokenizer(tokenizer(), n_vocab=PADDED)


@cache
def template(config: GrammarConfig) -> object:
    text = build_lark_grammar(vocabulary(), config, tokenizer=tokenizer())
    matcher = llguidance.LLMatcher(ll_tokenizer(), llguidance.LLMatcher.grammar_from_lark(text), log_level=0)
    assert not matcher.get_error()
    assert not matcher.get_grammar_warnings()
    return matcher


class LLGuidance:
    def __init__(self, config: GrammarConfig) -> None:
        self.matcher = template(config).deep_copy()  # type: ignore[attr-defined]
        self.bits = torch.zeros(PADDED // 32, dtype=torch.int32)

    def allowed(self) -> set[int]:
        self.matcher.unsafe_compute_mask_ptr(self.bits.data_ptr(), PADDED // 8)
        flags = (self.bits[:, None] >> torch.arange(32)) & 1
        return set(flags.flatten().nonzero().flatten().tolist())

    def accept(self, token_id: int) -> bool:
        return bool(self.matcher.consume_token(token_id))


@pytest.mark.parametrize("name", [*CONFIGS, *ORDERED])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=4)
def test_the_language_is_that_of_the_grammar(name: str, seed: int) -> None:
    config = {**CONFIGS, **ORDERED}[name]
    assert_same_language(LLGuidance(config), compile_grammar(config), seed)


@pytest.mark.parametrize("name", ["ordered", "compact ordered", "ordered limits", "a block somewhere, limits"])
def test_mutated_answers_get_the_same_verdict(name: str) -> None:
    config = {**CONFIGS, **ORDERED}[name]
    verdicts = [assert_same_verdict(LLGuidance(config), compile_grammar(config), seed, length=20) for seed in range(60)]
    assert {True, False} == set(verdicts)


def test_exactly_one_hundred_codes_and_no_end_between() -> None:
    matcher = LLGuidance(GrammarConfig(boxes=None))
    start, end = vocabulary().start_id(pt.tokens.DEPTH), vocabulary().end_id(pt.tokens.DEPTH)
    codes = set(vocabulary().ids(pt.tokens.DEPTH).tolist())
    assert matcher.accept(start)
    for _ in range(100):
        assert matcher.allowed() == codes
        assert matcher.accept(min(codes))
    assert matcher.allowed() == {end}


def test_inexpressible_grammars_are_refused() -> None:
    with pytest.raises(ConstraintError, match="pass tokenizer"):
        build_lark_grammar(vocabulary(), GrammarConfig(boxes="aurora"))
    with pytest.raises(ConstraintError, match="2601 combinations"):
        build_lark_grammar(vocabulary(), GrammarConfig(boxes="compact", max_blocks=50, max_boxes=50))


def test_the_form_is_small() -> None:
    assert len(build_lark_grammar(vocabulary(), tokenizer=tokenizer())) < 60_000
