"""The structural tag in xgrammar: the same language as the grammar, token by token."""

from __future__ import annotations

import json
import random
import re
from functools import cache

import pytest
import torch
from hypothesis import given, settings, strategies as st

import perceptok as pt
from perceptok.decoding import GrammarConfig, build_structural_tag, compile_grammar
from perceptok.errors import ConstraintError
from tests.decoding.engines.engine_cases import (
    CONFIGS,
    ORDERED,
    assert_same_language,
    assert_same_verdict,
    tokenizer,
    vocabulary,
)

xgrammar = pytest.importorskip("xgrammar", reason="needs perceptok[engines]")

PADDED = 1024
"""Columns of logits, more than the tokenizer has ids."""


@cache
def compiled(config: GrammarConfig, ordered_axes: str = "coarse") -> object:
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer(), vocab_size=PADDED)
    tag = build_structural_tag(vocabulary(), config, tokenizer=tokenizer(), ordered_axes=ordered_axes)  # type: ignore[arg-type]
    return xgrammar.GrammarCompiler(info, cache_enabled=False).compile_structural_tag(json.dumps(tag))


class XGrammar:
    def __init__(self, grammar: object) -> None:
        self.matcher = xgrammar.GrammarMatcher(grammar)
        self.bits = xgrammar.allocate_token_bitmask(1, PADDED)

    def allowed(self) -> set[int]:
        self.matcher.fill_next_token_bitmask(self.bits)
        flags = (self.bits[0][:, None] >> torch.arange(32)) & 1
        return set(flags.flatten()[:PADDED].nonzero().flatten().tolist())

    def accept(self, token_id: int) -> bool:
        return bool(self.matcher.accept_token(token_id))


@pytest.mark.parametrize("name", CONFIGS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=4)
def test_the_language_is_that_of_the_grammar(name: str, seed: int) -> None:
    config = CONFIGS[name]
    assert_same_language(XGrammar(compiled(config)), compile_grammar(config), seed)


@pytest.mark.parametrize("name", ["unordered", "compact", "limits", "a block somewhere, limits", "first a box"])
def test_mutated_answers_get_the_same_verdict(name: str) -> None:
    config = CONFIGS[name]
    verdicts = [
        assert_same_verdict(XGrammar(compiled(config)), compile_grammar(config), seed, length=20) for seed in range(60)
    ]
    assert {True, False} == set(verdicts)


@pytest.mark.parametrize("name", ["ordered", "compact ordered"])
def test_both_coordinates_are_ordered(name: str) -> None:
    config = ORDERED[name]
    tag = compiled(config, "xy")
    for seed in range(10):
        assert_same_language(XGrammar(tag), compile_grammar(config), seed, length=60)


@pytest.mark.parametrize(("ordered_axes", "interval"), [("coarse", 8), ("x", 336), ("xy", 1)])
@pytest.mark.parametrize("boxes", ["aurora", "compact"])
def test_how_much_of_the_order_is_enforced(boxes: str, ordered_axes: str, interval: int) -> None:
    config = GrammarConfig(boxes=boxes)  # type: ignore[arg-type]
    tag, chance = compiled(config, ordered_axes), random.Random(0)
    pixels = vocabulary().ids(pt.tokens.PIXEL).tolist()
    opening, comma, closing = (tokenizer().get_vocab()[piece] for piece in ("(", ",", ")"))
    corners = [(0, 0), (335, 335), (100, 15), (100, 16), (335, 7), *(random_corner(chance) for _ in range(20))]
    for x1, y1 in corners:
        matcher = XGrammar(tag)
        x2, least_y2 = chance.randrange(x1, 336), y1 // interval * interval
        y2 = chance.randrange(least_y2, 336)
        if boxes == "aurora":
            assert matcher.accept(opening)
        for number, (code, least) in enumerate(((x1, 0), (y1, 0), (x2, x1), (y2, least_y2))):
            allowed = [pixels.index(token_id) for token_id in matcher.allowed() if token_id in pixels]
            assert sorted(allowed) == list(range(least, 336)), (x1, y1, x2, number)
            assert matcher.accept(pixels[code])
            if boxes == "aurora":
                assert matcher.accept(comma if number < 3 else closing)


def random_corner(chance: random.Random) -> tuple[int, int]:
    return chance.randrange(336), chance.randrange(336)


def test_every_coordinate_has_its_own_minimum() -> None:
    tag = compiled(GrammarConfig(boxes="compact"), "xy")
    pixels = vocabulary().ids(pt.tokens.PIXEL).tolist()
    for code in range(336):
        matcher = XGrammar(tag)
        assert matcher.accept(pixels[335 - code])
        assert matcher.accept(pixels[code])
        assert matcher.allowed() == set(pixels[335 - code :])
        assert matcher.accept(pixels[335])
        assert matcher.allowed() == set(pixels[code:])


def test_exactly_one_hundred_codes_and_no_end_between() -> None:
    matcher = XGrammar(compiled(GrammarConfig(boxes=None)))
    start, end = vocabulary().start_id(pt.tokens.DEPTH), vocabulary().end_id(pt.tokens.DEPTH)
    codes = set(vocabulary().ids(pt.tokens.DEPTH).tolist())
    assert matcher.accept(start)
    for _ in range(100):
        assert matcher.allowed() == codes
        assert matcher.accept(min(codes))
    assert matcher.allowed() == {end}


def test_a_tag_of_the_published_size() -> None:
    """Ids of five digits, as with Llama's tokenizer, of which the documentation states the sizes."""
    wide = GrammarConfig()
    offset = 32_000 - vocabulary().token_id(pt.tokens.DEPTH, 0)

    def count_bytes(config: GrammarConfig, ordered_axes: str) -> int:
        tag = build_structural_tag(vocabulary(), config, tokenizer=tokenizer(), ordered_axes=ordered_axes)  # type: ignore[arg-type]
        return len(json.dumps(re.sub(r"\b\d{3}\b", lambda found: str(int(found[0]) + offset), json.dumps(tag))))

    assert count_bytes(GrammarConfig(boxes=None), "coarse") < 10_000
    assert count_bytes(wide, "x") < 90_000
    assert count_bytes(wide, "coarse") < 300_000
    assert count_bytes(wide, "xy") < 2_000_000


def test_two_tags_through_one_caching_compiler() -> None:
    """SGLang 0.5.23 states that the compiler's cache confuses token-level tags; ours differ in their text."""
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer(), vocab_size=PADDED)
    compiler = xgrammar.GrammarCompiler(info)
    for name in ("depth alone", "compact", "limits", "depth alone", "compact"):
        tag = build_structural_tag(vocabulary(), CONFIGS[name], tokenizer=tokenizer())
        assert_same_language(XGrammar(compiler.compile_structural_tag(tag)), compile_grammar(CONFIGS[name]), 3)


def test_inexpressible_grammars_are_refused() -> None:
    with pytest.raises(ConstraintError, match="ordered_axes is one of 'coarse', 'x', 'xy'; got 'y'"):
        build_structural_tag(vocabulary(), tokenizer=tokenizer(), ordered_axes="y")  # type: ignore[arg-type]
    with pytest.raises(ConstraintError, match="pass tokenizer"):
        build_structural_tag(vocabulary(), GrammarConfig(boxes="aurora"))
    with pytest.raises(ConstraintError, match="end of sequence"):
        build_structural_tag(vocabulary(), GrammarConfig(boxes=None, force_block="first"))
    with pytest.raises(ConstraintError, match="2601 combinations"):
        build_structural_tag(vocabulary(), GrammarConfig(boxes="compact", max_blocks=50, max_boxes=50))
    depth = pt.PerceptionVocabulary.from_tokenizer(tokenizer(), (pt.tokens.DEPTH,))
    with pytest.raises(ConstraintError, match="PIXEL"):
        build_structural_tag(depth, GrammarConfig(boxes="compact"))
    assert "pixel" not in build_structural_tag(depth)["format"]["grammar"]
