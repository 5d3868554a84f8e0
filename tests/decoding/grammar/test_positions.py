"""The reader of ids compared with the grammar read from left to right, on the CPU and with the tables of a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.decoding import GrammarConfig
from perceptok.decoding.grammar.automaton import SYMBOL_COUNT, Symbol, compile_grammar
from perceptok.decoding.grammar.positions import StateReader, StateRows
from tests.operators import RecordedOperators

SYMBOLS = np.array([*range(Symbol.PIXEL), -1, *range(Symbol.PIXEL, SYMBOL_COUNT)])
"""Ten ids, then the PIXEL tokens."""
CONFIGS = [
    GrammarConfig(),
    GrammarConfig(ordered=False),
    GrammarConfig(boxes="compact"),
    GrammarConfig(max_blocks=1, max_boxes=2, force_block="somewhere"),
    GrammarConfig(boxes="compact", max_boxes=3, first="box"),
    GrammarConfig(depth=False, max_boxes=1, first="text"),
]


def write_answer(config: GrammarConfig, length: int, seed: int) -> tuple[list[int], list[int]]:
    """A random answer and the row of `StateRows` before each of its tokens and after the last."""
    draw, grammar = np.random.default_rng(seed), compile_grammar(config)
    rows, state, ids, expected = StateRows(grammar), grammar.initial, [], []
    states = [rows.grammar.allowed_symbols(known) for known in rows.list_states()]
    for _ in range(length + 1):
        allowed = grammar.allowed_symbols(state)
        expected.append(states.index(allowed))
        choices = [symbol for symbol in allowed if symbol not in (Symbol.TEXT, Symbol.EOS)] or allowed
        symbol = int(draw.choice(choices if draw.random() < 0.8 else [s for s in allowed if s != Symbol.EOS]))
        following = grammar.advance(state, symbol)
        assert following is not None
        state = following
        ids.append(int(np.flatnonzero(symbol == SYMBOLS)[0]))
    return ids[:length], expected


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=["arrays", "tensors"])
def test_every_place_of_an_answer_is_found(config: GrammarConfig, device: torch.device | None) -> None:
    ids, expected = write_answer(config, 260, seed=4)
    rows = StateRows(compile_grammar(config))
    reader = StateReader(rows, SYMBOLS, device)
    states = [rows.grammar.allowed_symbols(state) for state in rows.list_states()]
    for length in range(len(ids) + 1):
        written = np.array([ids[:length]], dtype=np.int64).reshape(1, length)
        found = reader.find_rows(written if device is None else torch.from_numpy(written), 0)
        assert states[rows.found[int(found[0])]] == states[expected[length]], length


@pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=["arrays", "tensors"])
@pytest.mark.parametrize("count", [1, 100, 102, 403, 806, 1201, 20_001])
def test_compact_boxes_that_follow_one_another(device: torch.device | None, count: int) -> None:
    rows = StateRows(compile_grammar(GrammarConfig(boxes="compact")))
    reader = StateReader(rows, SYMBOLS, device)
    for before in ([], [0]):
        ids = np.array([[*before, *[12] * count]])
        (found,) = reader.find_rows(ids if device is None else torch.from_numpy(ids), 0)
        row = int(rows.found[int(found)])
        name = "ordered" if row >= rows.ordered else rows.grammar.names[row]
        assert name == ("text", "box 1", "ordered", "ordered")[count % 4]


@pytest.mark.parametrize("odd", [-1, -200, -100_000, 2_000, 100_000])
def test_ids_outside_the_tokenizer_are_text_in_tensors(odd: int) -> None:
    rows = StateRows(compile_grammar(GrammarConfig()))
    reader = StateReader(rows, SYMBOLS, torch.device("cpu"))
    tails = [[5, 7], [1, 15], [1]]
    for tail in tails:
        text, same = (reader.find_rows(torch.tensor([[0, known, *tail]]), 0) for known in (0, odd))
        assert torch.equal(text, same)
    assert int(rows.found[int(reader.find_rows(torch.tensor([[5, 7, odd]]), 0))]) == rows.grammar.row("text")


@pytest.mark.parametrize(("boxes", "most"), [("aurora", 7), ("compact", 9), (None, 7)])
@pytest.mark.parametrize("batch", [1, 16])
def test_operators_of_a_step_on_another_device(
    vocab: pt.PerceptionVocabulary, tokenizer: object, boxes: str | None, most: int, batch: int
) -> None:
    """On the meta device, which has no values, so that a step that waited for one would fail."""
    config = GrammarConfig(boxes=boxes)  # type: ignore[arg-type]
    processor = pt.PerceptionLogitsProcessor(vocab, config, tokenizer=tokenizer)  # type: ignore[arg-type]
    ids = torch.zeros(batch, 60, dtype=torch.long, device="meta")
    scores = torch.zeros(batch, vocab.size, device="meta")
    processor(ids, scores)
    with RecordedOperators() as operators:
        processor(ids, scores)
    assert len(operators.kernels) <= most, operators.kernels
