"""The grammar compared with a slow and obvious acceptor without tables."""

from __future__ import annotations

import json
import random
import re
from functools import cache

import pytest
from hypothesis import given, settings, strategies as st

from perceptok.decoding import GrammarConfig, compile_grammar as compile_anew
from perceptok.decoding.grammar.automaton import State, Symbol
from perceptok.errors import ConfigError

P = Symbol.PIXEL
compile_grammar = cache(compile_anew)
BLOCK = [Symbol.DEPTH_START, *[Symbol.DEPTH_CODE] * 100, Symbol.DEPTH_END]


def box(x1: int, y1: int, x2: int, y2: int) -> list[int]:
    return [P + x1, P + y1, P + x2, P + y2]


def aurora(x1: int, y1: int, x2: int, y2: int) -> list[int]:
    comma = Symbol.COMMA
    return [Symbol.OPEN, P + x1, comma, P + y1, comma, P + x2, comma, P + y2, Symbol.CLOSE]


def reference_accepts(config: GrammarConfig, symbols: list[int]) -> bool:
    """One letter per symbol, one regular expression for the shapes, and plain counting for the rest.

    Letters: t text, ( and ) and , the brackets' pieces, x for the piece that closes and opens, S E the markers of a
    block, d a depth code, $ the end, p a coordinate.
    """
    letters = "".join("t(,)xSEd$"[symbol] if symbol < P else "p" for symbol in symbols)
    parts = ["[t(,)x]"]
    if config.depth:
        parts.append("Sd{100}E")
    if config.boxes == "compact":
        parts.append("pppp")
    if config.boxes == "aurora":
        parts = [r"[(x]p,p,p,p(?=[)x])", *parts]
    if not re.fullmatch(f"(?:{'|'.join(parts)})*[$]?", letters):
        return False
    codes = [symbol - P for symbol in symbols if symbol >= P]
    boxes = [codes[place : place + 4] for place in range(0, len(codes), 4)]
    if config.ordered and any(x2 < x1 or y2 < y1 for x1, y1, x2, y2 in boxes):
        return False
    blocks = letters.count("S")
    if config.max_blocks is not None and blocks > config.max_blocks:
        return False
    if config.max_boxes is not None and len(boxes) > config.max_boxes:
        return False
    if config.force_block and not blocks:
        return False
    beginning = {"any": "", "text": "[t(,)x]", "block": "S", "box": "p" if config.boxes == "compact" else r"\(p"}
    first = "block" if config.force_block == "first" else config.first
    return re.match(beginning[first], letters) is not None


CONFIGS = [
    GrammarConfig(),
    GrammarConfig(boxes="compact"),
    GrammarConfig(depth=False),
    GrammarConfig(depth=False, boxes="compact", ordered=False),
    GrammarConfig(boxes=None),
    GrammarConfig(ordered=False, max_boxes=1),
    GrammarConfig(max_blocks=1, max_boxes=2),
    GrammarConfig(force_block="first"),
    GrammarConfig(force_block="somewhere", boxes="compact"),
    GrammarConfig(force_block="somewhere", max_blocks=1, max_boxes=1),
    GrammarConfig(first="text"),
    GrammarConfig(first="block", boxes=None),
    GrammarConfig(first="box"),
    GrammarConfig(first="box", boxes="compact", max_boxes=2),
    GrammarConfig(first="box", force_block="somewhere"),
    GrammarConfig(max_blocks=0, max_boxes=0),
]
configs = pytest.mark.parametrize("config", CONFIGS, ids=lambda one: json.dumps(changed(one)))


def changed(config: GrammarConfig) -> dict[str, object]:
    plain = GrammarConfig().to_dict()
    return {name: value for name, value in config.to_dict().items() if value != plain[name]}


def walk(config: GrammarConfig, seed: int, length: int = 220, budget: int | None = None) -> list[int]:
    """A random answer under the mask, with frequent perception tokens."""
    grammar, draw = compile_grammar(config), random.Random(seed)
    state: State | None = grammar.initial
    symbols: list[int] = []
    while state is not None and len(symbols) < (length if budget is None else budget):
        allowed = grammar.allowed_symbols(state, None if budget is None else budget - len(symbols))
        if state.control == grammar.row("ended"):
            break
        assert allowed, f"no way out of {grammar.names[state.control]}"
        kinds = sorted({min(symbol, P) for symbol in allowed} - ({Symbol.EOS} if draw.random() < 0.9 else set()))
        kind = draw.choice(kinds or [Symbol.EOS])
        symbols.append(draw.choice([symbol for symbol in allowed if min(symbol, P) == kind]))
        state = grammar.advance(state, symbols[-1])
    assert state is not None
    return symbols


@configs
@given(seed=st.integers(0, 2**32))
@settings(max_examples=6)
def test_every_complete_walk_under_the_mask_is_accepted(config: GrammarConfig, seed: int) -> None:
    grammar, symbols = compile_grammar(config), walk(config, seed)
    state = grammar.run(symbols)
    assert state is not None
    whole = grammar.count_tokens_to_end(state) == 0
    assert grammar.accepts(symbols) == whole
    assert reference_accepts(config, symbols) == whole


SYMBOLS = st.one_of(st.sampled_from(list(range(P))), st.integers(P, P + 335))
PARTS = st.lists(
    st.one_of(
        st.lists(SYMBOLS, max_size=2),
        st.just(BLOCK),
        st.just(BLOCK[:-1]),
        st.just([*BLOCK[:-1], Symbol.DEPTH_CODE, Symbol.DEPTH_END]),
        st.builds(box, *[st.integers(0, 3)] * 4),
        st.builds(aurora, *[st.integers(0, 3)] * 4),
        st.builds(lambda *codes: [*aurora(*codes)[:-1], Symbol.CLOSE_OPEN, *aurora(*codes)[1:]], *[st.just(2)] * 4),
    ),
    max_size=4,
).map(lambda parts: [symbol for part in parts for symbol in part])


@configs
@given(symbols=PARTS)
@settings(max_examples=40)
def test_the_same_language_as_the_reference(config: GrammarConfig, symbols: list[int]) -> None:
    grammar = compile_grammar(config)
    assert grammar.accepts(symbols) == reference_accepts(config, symbols)


@configs
@given(symbols=PARTS)
@settings(max_examples=12)
def test_what_is_accepted_can_be_sampled(config: GrammarConfig, symbols: list[int]) -> None:
    grammar = compile_grammar(config)
    if not reference_accepts(config, symbols):
        return
    state = grammar.initial
    for place, symbol in enumerate(symbols):
        # Both without a budget and with the least one.
        assert symbol in grammar.allowed_symbols(state)
        assert symbol in grammar.allowed_symbols(state, len(symbols) - place)
        state = grammar.advance(state, symbol)
        assert state is not None


@configs
def test_the_reference_refuses_something_and_accepts_something(config: GrammarConfig) -> None:
    samples = [[], [0], BLOCK, BLOCK[1:], [*BLOCK, 0], box(1, 1, 2, 2), aurora(1, 1, 2, 2), aurora(2, 1, 1, 2), [5, 8]]
    samples += [BLOCK + box(1, 1, 2, 2), aurora(1, 1, 2, 2) + BLOCK, box(1, 1, 2, 2) + BLOCK]
    assert {reference_accepts(config, sample) for sample in samples} == {True, False}


@configs
@pytest.mark.parametrize("budget", [102, 103, 111, 150, 215])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=2)
def test_nothing_is_incomplete_when_the_budget_ends(config: GrammarConfig, budget: int, seed: int) -> None:
    grammar = compile_grammar(config)
    if grammar.count_tokens_to_end(grammar.initial) > budget:
        pytest.skip("asked for more than the budget holds")
    symbols = walk(config, seed, budget=budget)
    assert grammar.accepts(symbols)
    assert len(symbols) <= budget


@configs
def test_every_state_has_a_shortest_end(config: GrammarConfig) -> None:
    grammar = compile_grammar(config)
    for row, distance in enumerate(grammar.distance):
        followers = [after for after in grammar.table[row] if after >= 0]
        if distance:
            assert min(grammar.distance[after] for after in followers) == distance - 1
        elif grammar.names[row] != "ended":
            assert grammar.table[row][Symbol.TEXT] == grammar.row("text")


def test_unconstrained_text_is_allowed() -> None:
    grammar = compile_grammar(GrammarConfig())
    # "(see above), f(x),(y)": brackets and commas of ordinary text.
    text = [
        Symbol.OPEN,
        0,
        Symbol.CLOSE,
        Symbol.COMMA,
        0,
        Symbol.OPEN,
        0,
        Symbol.CLOSE_OPEN,
        0,
        Symbol.CLOSE,
        Symbol.EOS,
    ]
    assert grammar.accepts(text)
    assert grammar.accepts([Symbol.OPEN, Symbol.OPEN, *aurora(1, 2, 3, 4), Symbol.CLOSE])


@pytest.mark.parametrize(
    "symbols",
    [
        [Symbol.DEPTH_CODE],
        [Symbol.DEPTH_END],
        [0, P + 4],
        [*BLOCK[:50], Symbol.EOS],
        [*BLOCK[:50], 0],
        [*aurora(1, 2, 3, 4)[:4], Symbol.EOS],
        [*aurora(1, 2, 3, 4)[:4], 0],
        [Symbol.EOS, 0],
        [Symbol.OPEN, P + 336],
        aurora(5, 2, 4, 4),
        aurora(1, 5, 3, 4),
    ],
)
def test_invalid_sequences_are_refused(symbols: list[int]) -> None:
    assert compile_grammar(GrammarConfig()).run(symbols) is None


def test_x2_and_y2_are_at_least_x1_and_y1() -> None:
    grammar = compile_grammar(GrammarConfig())
    at_x2, at_y2 = grammar.run(aurora(300, 2, 300, 4)[:5]), grammar.run(aurora(300, 2, 300, 4)[:7])
    assert at_x2 is not None
    assert at_y2 is not None
    assert grammar.allowed_symbols(at_x2) == list(range(P + 300, P + 336))
    assert grammar.allowed_symbols(at_y2) == list(range(P + 2, P + 336))
    assert grammar.accepts(aurora(335, 335, 335, 335))


def test_text_ends_in_time_for_a_forced_block() -> None:
    grammar = compile_grammar(GrammarConfig(force_block="somewhere"))
    assert grammar.allowed_symbols(grammar.initial, 102) == [Symbol.DEPTH_START]
    assert Symbol.TEXT in grammar.allowed_symbols(grammar.initial, 103)
    opened = grammar.run([Symbol.OPEN])
    assert opened is not None
    assert P not in grammar.allowed_symbols(opened, 109)
    assert P in grammar.allowed_symbols(opened, 110)  # four coordinates, three commas, a bracket, and the block
    assert grammar.allowed_symbols(grammar.initial, 101) == grammar.allowed_symbols(
        grammar.initial
    )  # too late for anything better


def test_a_block_needs_its_102_tokens() -> None:
    grammar = compile_grammar(GrammarConfig())
    assert Symbol.DEPTH_START not in grammar.allowed_symbols(grammar.initial, 101)
    assert Symbol.DEPTH_START in grammar.allowed_symbols(grammar.initial, 102)


class TestConfig:
    @configs
    def test_encode_and_decode_round_trip(self, config: GrammarConfig) -> None:
        assert GrammarConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    def test_unknown_keys(self) -> None:
        with pytest.raises(ConfigError, match="GrammarConfig: unknown key 'max_block';"):
            GrammarConfig.from_dict({"max_block": 1})

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"boxes": "paligemma"}, "boxes is one of 'aurora', 'compact', None; got 'paligemma'"),
            ({"first": None}, "first is one of"),
            ({"force_block": "last"}, "force_block is one of"),
            ({"max_boxes": -1}, "max_boxes is a count or None; got -1"),
            ({"max_blocks": 1.5}, "max_blocks is a count"),
            ({"max_blocks": True}, "max_blocks is a count"),
            ({"force_block": "first", "first": "text"}, "contradict each other"),
            ({"force_block": "somewhere", "depth": False}, "depth is off or max_blocks is 0"),
            ({"first": "block", "max_blocks": 0}, "depth is off or max_blocks is 0"),
            ({"first": "box", "boxes": None}, "boxes is None or max_boxes is 0"),
            ({"first": "box", "max_boxes": 0}, "boxes is None or max_boxes is 0"),
        ],
    )
    def test_invalid_sequences_are_refused(self, values: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(message)):
            GrammarConfig(**values)  # type: ignore[arg-type]
