"""A small tokenizer, configurations, and random walks through the grammar, for the tests of all engines."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Protocol

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.decoding import GrammarConfig
from perceptok.decoding.grammar.automaton import Grammar, Symbol
from perceptok.decoding.grammar.token_symbols import classify_tokens

CONFIGS = {
    "unordered": GrammarConfig(ordered=False),
    "compact": GrammarConfig(boxes="compact", ordered=False),
    "depth alone": GrammarConfig(boxes=None),
    "boxes alone": GrammarConfig(depth=False, ordered=False),
    "limits": GrammarConfig(max_blocks=2, max_boxes=3, ordered=False),
    "compact limits": GrammarConfig(boxes="compact", max_blocks=1, max_boxes=2, ordered=False),
    "no blocks, no boxes": GrammarConfig(max_blocks=0, max_boxes=0, ordered=False),
    "first a block": GrammarConfig(force_block="first", max_blocks=1, ordered=False),
    "first text": GrammarConfig(first="text", ordered=False),
    "first a box": GrammarConfig(first="box", ordered=False, max_boxes=1),
    "first a compact box": GrammarConfig(first="box", boxes="compact", ordered=False),
    "a block somewhere": GrammarConfig(force_block="somewhere", ordered=False),
    "a block somewhere, limits": GrammarConfig(force_block="somewhere", max_blocks=2, max_boxes=1, ordered=False),
    "first text, then a block": GrammarConfig(force_block="somewhere", first="text", boxes=None),
}
ORDERED = {
    "ordered": GrammarConfig(),
    "compact ordered": GrammarConfig(boxes="compact"),
    "ordered limits": GrammarConfig(max_boxes=2, max_blocks=1),
}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with some words and every kind of bracket piece, then the perception tokens."""
    pieces = ["<s>", "</s>", "<pad>", *sorted(ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in ("Ġ(", ")(", ").", "),", "),Ġ", ":(", "),(", "an", "and", "Ġa", "<D", "EP", "PI"):
        built = word[0]
        for letter in word[1:]:
            if built + letter not in pieces:
                pieces.append(built + letter)
                merges.append((built, letter))
            built += letter
    bare = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    bare.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokens = [token for token_set in (pt.tokens.DEPTH, pt.tokens.PIXEL) for token in token_set.tokens]
    fast.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    return fast


@cache
def vocabulary() -> pt.PerceptionVocabulary:
    return pt.PerceptionVocabulary.from_tokenizer(tokenizer())


def symbols(config: GrammarConfig) -> np.ndarray:
    return classify_tokens(vocabulary(), config, tokenizer=tokenizer(), eos_token_ids=[tokenizer().eos_token_id])


class Matcher(Protocol):
    """An engine that reads an answer token by token."""

    def allowed(self) -> set[int]: ...
    def accept(self, token_id: int) -> bool: ...


@cache
def ids_of(config: GrammarConfig) -> dict[int, list[int]]:
    """Symbol -> its ids, for symbols that have any."""
    ids = symbols(config)
    return {int(symbol): np.flatnonzero(ids == symbol).tolist() for symbol in np.unique(ids) if symbol >= 0}


def steps(grammar: Grammar, seed: int, length: int) -> Iterator[tuple[set[int], int]]:
    """A random answer: at each step the allowed ids and the chosen one; perception tokens are frequent."""
    chance, ids, state = random.Random(seed), ids_of(grammar.config), grammar.initial
    for _ in range(length):
        following = [symbol for symbol in grammar.allowed_symbols(state) if symbol in ids]
        may_follow = {number for symbol in following for number in ids[symbol]}
        going_on = [symbol for symbol in following if symbol not in (Symbol.EOS, Symbol.TEXT)]
        if Symbol.TEXT in following and (not going_on or chance.random() < 0.3):
            going_on = [Symbol.TEXT]
        pixels = [symbol for symbol in going_on if symbol >= Symbol.PIXEL]
        symbol = chance.choice(pixels if pixels and chance.random() < 0.5 else going_on)
        yield may_follow, (taken := chance.choice(ids[symbol]))
        advanced = grammar.advance(state, symbol)
        assert advanced is not None, taken
        state = advanced


def assert_same_language(matcher: Matcher, grammar: Grammar, seed: int, length: int = 130) -> None:
    """The engine allows exactly what the grammar allows, after every token of a random answer.

    Equal sets at every step are equal answers to every mutation of the answer by one token at its first wrong place;
    that a refused token is refused when it comes, too, is looked at with one stranger at a random place.
    """
    chance = random.Random(seed)
    stranger_at = chance.randrange(length)
    for step, (may_follow, taken) in enumerate(steps(grammar, seed, length)):
        allowed = matcher.allowed()
        extra, missing = sorted(allowed - may_follow)[:5], sorted(may_follow - allowed)[:5]
        assert allowed == may_follow, f"step {step}: wrongly allowed {extra}, wrongly refused {missing}"
        assert matcher.accept(taken), f"step {step}: {taken}"
        if step == stranger_at:
            strangers = sorted(set(range(vocabulary().size)) - matcher.allowed())
            assert not strangers or not matcher.accept(chance.choice(strangers))
            break


def mutated(answer: list[int], seed: int, size: int) -> list[int]:
    """An answer with a token replaced, removed, repeated or moved."""
    chance = random.Random(seed)
    place, other = chance.randrange(len(answer)), chance.randrange(len(answer))
    changed = list(answer)
    kind = chance.choice(("replace", "drop", "double", "swap"))
    if kind == "replace":
        changed[place] = chance.randrange(size)
    elif kind == "drop":
        del changed[place]
    elif kind == "double":
        changed.insert(place, answer[place])
    else:
        changed[place], changed[other] = changed[other], changed[place]
    return changed


def answer(grammar: Grammar, seed: int, length: int) -> list[int]:
    """A complete random answer, without the end of sequence."""
    ids, places = ids_of(grammar.config), symbols(grammar.config)
    taken = [token for _, token in steps(grammar, seed, length)]
    state = grammar.run(places[taken].tolist())
    assert state is not None
    while needed := grammar.count_tokens_to_end(state):
        following = [(symbol, grammar.advance(state, symbol)) for symbol in grammar.allowed_symbols(state)]
        symbol, state = next(
            (one, after) for one, after in following if after and grammar.count_tokens_to_end(after) < needed
        )
        taken.append(ids[symbol][0])
    return taken


def accepts(matcher: Matcher, answer: list[int]) -> bool:
    """Whether an engine accepts every token and then the end of sequence."""
    return all(matcher.accept(token) for token in answer) and tokenizer().eos_token_id in matcher.allowed()


def assert_same_verdict(matcher: Matcher, grammar: Grammar, seed: int, length: int = 60) -> bool:
    """An engine and the grammar agree on a mutated complete answer; returns their verdict."""
    changed = mutated(answer(grammar, seed, length), seed, vocabulary().size)
    classes = symbols(grammar.config)[changed].tolist()
    expected = min(classes) >= 0 and Symbol.EOS not in classes and grammar.accepts(classes)
    assert accepts(matcher, changed) == expected, changed
    return expected
