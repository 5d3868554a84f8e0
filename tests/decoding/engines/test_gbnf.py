"""The GBNF form, read by xgrammar, whose EBNF includes GBNF; `tests/engines` has llama.cpp itself.

The spelled form is read as it is, character by character. Of the form with token ids `<[7]>` becomes xgrammar's
`Token(7)`, which means the same.
"""

from __future__ import annotations

import random
import re
from functools import cache

import pytest

import perceptok as pt
from perceptok.decoding import GrammarConfig, build_gbnf_grammar, compile_grammar
from perceptok.decoding.grammar.automaton import Symbol
from perceptok.errors import ConstraintError
from tests.decoding.engines.engine_cases import CONFIGS, ORDERED, answer, mutated, symbols, tokenizer, vocabulary

xgrammar = pytest.importorskip("xgrammar", reason="needs perceptok[engines]")

FORMS = {name: config for name, config in CONFIGS.items() if name not in ("first text", "first a box")}
"""What comes first is told apart by pieces in the grammar, by characters here: it has tests of its own."""


@cache
def compiled(config: GrammarConfig, spelled: bool | str) -> object:
    text = build_gbnf_grammar(vocabulary(), config, tokenizer=tokenizer(), spelled=spelled)  # type: ignore[arg-type]
    assert ("<[" in text) == (spelled is False or (spelled == "codes" and config.depth))
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer())
    return xgrammar.GrammarCompiler(info).compile_grammar(re.sub(r"<\[(\d+)\]>", r"Token(\1)", text))


def reads_text(config: GrammarConfig, text: str) -> bool:
    matcher = xgrammar.GrammarMatcher(compiled(config, spelled=True), terminate_without_stop_token=True)
    return bool(matcher.accept_string(text)) and matcher.is_completed()


def reads_ids(config: GrammarConfig, ids: list[int], spelled: bool | str = "codes") -> bool:
    matcher = xgrammar.GrammarMatcher(compiled(config, spelled))
    return all(matcher.accept_token(token) for token in ids) and matcher.accept_token(tokenizer().eos_token_id)


def plain(config: GrammarConfig, ids: list[int]) -> list[int]:
    """An answer without <s> and <pad>, which have no characters, and without bytes that are not text."""
    classes = symbols(config)[ids]
    letter = tokenizer().get_vocab()["a"]
    return [letter if symbol == Symbol.TEXT else token for token, symbol in zip(ids, classes, strict=True)]


@pytest.mark.parametrize("name", FORMS)
def test_complete_and_mutated_answers_by_id_and_by_text(name: str) -> None:
    config, verdicts = FORMS[name], set()
    grammar = compile_grammar(config)
    for seed in range(10):
        whole = plain(config, answer(grammar, seed, 12))
        for ids in (whole, plain(config, mutated(whole, seed, vocabulary().size))):
            classes = symbols(config)[ids].tolist()
            if Symbol.EOS in classes:
                continue
            # Characters know no pieces: "(" of any token opens a box, and ")" of any closes it.
            expected = min(classes) >= 0 and grammar.accepts(classes)
            assert reads_text(config, tokenizer().decode(ids)) == expected, ids
            assert reads_ids(config, ids) == expected, ids
            assert reads_ids(config, ids, spelled=False) == expected, ids
            verdicts.add(expected)
    assert verdicts == {True, False}


@pytest.mark.parametrize("text", ["a < b", "<", "<<D", "<DEPTH", "a <PIXELS> <DEPT", "<DEPT<PIXEL <pixel_5>", "é<中"])
def test_token_like_text_is_allowed(text: str) -> None:
    assert reads_text(GrammarConfig(ordered=False), text)


@pytest.mark.parametrize("text", ["<DEPTH_", "a <DEPTH_5>", "<PIXEL_3> ", "<<PIXEL_", "<DEPTH_START>", "<DEPTH_1000>"])
def test_stray_tokens_are_refused(text: str) -> None:
    assert not reads_text(GrammarConfig(ordered=False), text)


def test_every_code_and_no_other_is_in_the_classes_of_digits() -> None:
    compact = GrammarConfig(boxes="compact", ordered=False)
    for number in range(1000):
        box = "<PIXEL_0>" * 3 + f"<PIXEL_{number}>"
        assert reads_text(compact, box) == (number < 336), number
    for number in (0, 9, 10, 19, 99, 100, 109, 119, 120, 127, 128, 129, 130, 200, 999, 1000):
        block = pt.tokens.DEPTH.start + "<DEPTH_0>" * 99 + f"<DEPTH_{number}>" + pt.tokens.DEPTH.end
        assert reads_text(compact, block) == (number < 128), number
    for number in ("00", "01", "", "-1", "1 ", "٣"):
        assert not reads_text(compact, "<PIXEL_0>" * 3 + f"<PIXEL_{number}>")


def test_a_grammar_with_classes_of_digits_is_small() -> None:
    assert len(build_gbnf_grammar(vocabulary(), tokenizer=tokenizer())) < 1500
    assert len(build_gbnf_grammar(vocabulary(), tokenizer=tokenizer(), spelled=False)) > 5000


def test_a_token_in_pieces_is_accepted_as_text() -> None:
    chance = random.Random(0)
    block = (
        pt.tokens.DEPTH.start
        + "".join(pt.tokens.DEPTH.token(chance.randrange(128)) for _ in range(100))
        + pt.tokens.DEPTH.end
    )
    whole = tokenizer()(block, add_special_tokens=False)["input_ids"]
    letters = [tokenizer().get_vocab()[letter] for letter in pt.tokens.DEPTH.start]
    config = GrammarConfig(boxes=None)
    assert reads_ids(config, whole)
    assert not reads_ids(config, letters + whole[1:])
    code = [tokenizer().get_vocab()[letter] for letter in pt.tokens.DEPTH.token(5)]
    assert reads_ids(config, [whole[0], *code, *whole[2:]]), "a code may be spelled"
    assert not reads_ids(config, [whole[0], *code, *whole[2:]], spelled=False)
    assert reads_text(config, block)


def test_the_forced_block_comes_first() -> None:
    box, text = GrammarConfig(ordered=False, first="box"), GrammarConfig(ordered=False, first="text")
    written = "(<PIXEL_9>,<PIXEL_9>,<PIXEL_1>,<PIXEL_1>)"
    assert reads_text(box, written + " and")
    assert reads_text(box, " " + written)
    assert not reads_text(box, "a " + written)
    assert not reads_text(box, "")
    assert reads_text(text, "a" + written)
    assert reads_text(text, "<a" + written)
    assert not reads_text(text, "")


def test_the_order_of_coordinates_is_not_part_of_the_form() -> None:
    boxes = "(<PIXEL_9>,<PIXEL_9>,<PIXEL_1>,<PIXEL_1>)"
    assert reads_text(ORDERED["ordered"], boxes)


def test_inexpressible_grammars_are_refused() -> None:
    with pytest.raises(ConstraintError, match="spelled is True, False or 'codes'; got 'all'"):
        build_gbnf_grammar(vocabulary(), tokenizer=tokenizer(), spelled="all")  # type: ignore[arg-type]
    with pytest.raises(ConstraintError, match="2601 combinations"):
        build_gbnf_grammar(vocabulary(), GrammarConfig(boxes="compact", max_blocks=50, max_boxes=50))
