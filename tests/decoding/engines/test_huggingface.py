"""The processor's masks compared with the grammar, step by step, and bad input."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.decoding import GrammarConfig, PerceptionLogitsProcessor
from perceptok.decoding.grammar.automaton import State, Symbol
from perceptok.errors import ConstraintError
from tests.decoding.grammar.test_automaton import CONFIGS, changed

INF = torch.inf


def processor_of(
    config: GrammarConfig | None, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
) -> PerceptionLogitsProcessor:
    return PerceptionLogitsProcessor(vocab, config, tokenizer=tokenizer)


def allowed_ids(processor: PerceptionLogitsProcessor, ids: torch.Tensor, width: int | None = None) -> list[set[int]]:
    held = processor(ids, torch.zeros(len(ids), width or processor.vocab.size))
    return [set(torch.nonzero(row > -INF).flatten().tolist()) for row in held]


def expected_ids(processor: PerceptionLogitsProcessor, state: State, remaining: int | None) -> set[int]:
    symbols = processor.grammar.allowed_symbols(state, remaining)
    return set(np.flatnonzero(np.isin(processor.symbols, symbols)).tolist())


def drawn(processor: PerceptionLogitsProcessor, allowed: set[int], draw: random.Random) -> int:
    """An id of a random kind of symbol, so that blocks and boxes occur."""
    kinds: dict[int, list[int]] = {}
    for number in sorted(allowed):
        kinds.setdefault(min(int(processor.symbols[number]), Symbol.PIXEL), []).append(number)
    if draw.random() < 0.9 and len(kinds) > 1:
        kinds.pop(Symbol.EOS, None)
    return draw.choice(kinds[draw.choice(sorted(kinds))])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda one: json.dumps(changed(one)))
@pytest.mark.parametrize("budget", [None, 160])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=1)
def test_every_step_allows_what_the_grammar_allows(
    vocab: pt.PerceptionVocabulary,
    tokenizer: PreTrainedTokenizerFast,
    config: GrammarConfig,
    budget: int | None,
    seed: int,
) -> None:
    draw = random.Random(seed)
    prompt = [[4, 5, 7], [3, 3, 4]]  # words, one ending in "(", one padded on the left
    plain = processor_of(config, vocab, tokenizer)
    processor = plain.for_prompt(torch.tensor(prompt), max_new_tokens=budget)
    states: list[State | None] = [processor.grammar.initial] * 2
    if config.boxes == "aurora" and config.first in ("any", "text") and config.force_block != "first":
        states[0] = State(processor.grammar.row("open")) if config.first == "any" else states[0]
    if "first open" in processor.grammar.names:
        states[0] = State(processor.grammar.row("first open"))
    ended = [False, False]
    for step in range(budget or 170):
        remaining = None if budget is None else budget - step
        sets = allowed_ids(processor, torch.tensor(prompt))
        for row, state in enumerate(states):
            if ended[row]:
                prompt[row].append(3)
                continue
            assert state is not None
            assert sets[row] == expected_ids(processor, state, remaining)
            prompt[row].append(drawn(processor, sets[row], draw))
            states[row] = processor.grammar.advance(state, int(processor.symbols[prompt[row][-1]]))
            ended[row] = prompt[row][-1] == tokenizer.eos_token_id
    for state in states:
        assert state is not None
        assert budget is None or processor.grammar.count_tokens_to_end(state) == 0


def block_ids(vocab: pt.PerceptionVocabulary, codes: int = 100) -> list[int]:
    inside = [vocab.token_id(pt.tokens.DEPTH, (7 * code) % 128) for code in range(codes)]
    return [vocab.start_id(pt.tokens.DEPTH), *inside, *([vocab.end_id(pt.tokens.DEPTH)] if codes == 100 else [])]


def box_ids(vocab: pt.PerceptionVocabulary, *codes: int) -> list[int]:
    """ "(x1,y1,x2,y2)" in the small tokenizer, as far as there are codes."""
    ids = [7]
    for number, code in enumerate(codes):
        ids += ([8] if number else []) + [vocab.token_id(pt.tokens.PIXEL, code)]
    return [*ids, *([9] if len(codes) == 4 else [])]


class TestScores:
    @pytest.fixture
    def processor(self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast) -> Any:
        return processor_of(None, vocab, tokenizer)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_what_remains_keeps_its_score_and_the_rest_is_gone(
        self, processor: Any, vocab: pt.PerceptionVocabulary, dtype: torch.dtype
    ) -> None:
        torch.manual_seed(0)
        ids = torch.tensor(
            [[4] * 60, [4, 4, *block_ids(vocab, 57)], [4] * 55 + box_ids(vocab, 3, 4)[: -0 or None] + [8]]
        )
        scores = (torch.randn(3, vocab.size + 12) * 10).to(dtype)
        before = scores.clone()
        held = processor(ids, scores)
        assert held.dtype == dtype
        assert torch.equal(scores, before)
        for row, allowed in enumerate(allowed_ids(processor, ids, vocab.size + 12)):
            assert torch.equal(held[row, sorted(allowed)], scores[row, sorted(allowed)])
            assert (held[row] == -INF).sum() == held.shape[1] - len(allowed)

    def test_probabilities_relative_to_one_another(self, processor: Any, vocab: pt.PerceptionVocabulary) -> None:
        torch.manual_seed(0)
        scores = torch.randn(1, vocab.size).double()
        allowed = sorted(allowed_ids(processor, torch.tensor([block_ids(vocab, 5)]))[0])
        held = processor(torch.tensor([block_ids(vocab, 5)]), scores).softmax(-1)[0, allowed]
        free = scores.softmax(-1)[0, allowed]
        torch.testing.assert_close(held, free / free.sum())

    def test_infinite_scores_of_what_is_masked(self, processor: Any, vocab: pt.PerceptionVocabulary) -> None:
        scores = torch.zeros(1, vocab.size)
        scores[0, 4] = INF
        held = processor(torch.tensor([block_ids(vocab, 5)]), scores)
        assert held[0, 4] == -INF
        assert not held.isnan().any()

    def test_padded_columns_and_no_rows(self, processor: Any, vocab: pt.PerceptionVocabulary) -> None:
        held = processor(torch.tensor([[4]]), torch.zeros(1, vocab.size + 100))
        assert (held[0, vocab.size :] == -INF).all()
        assert processor(torch.zeros(0, 5, dtype=torch.long), torch.zeros(0, vocab.size)).shape == (0, vocab.size)

    def test_ids_of_length_zero(self, processor: Any, vocab: pt.PerceptionVocabulary) -> None:
        none, some = torch.zeros(2, 0, dtype=torch.long), torch.tensor([[4], [4]])
        assert allowed_ids(processor, none) == allowed_ids(processor, some)

    @pytest.mark.parametrize("length", [1, 50, 99, 100])
    def test_an_open_block_under_padding_and_history(
        self, processor: Any, vocab: pt.PerceptionVocabulary, length: int
    ) -> None:
        """Few-shot blocks, boxes and padding before the open block change nothing."""
        opened = block_ids(vocab, min(length, 99)) if length < 100 else block_ids(vocab)[:-1]
        history = [3] * 5 + block_ids(vocab) + [4] + box_ids(vocab, 1, 2, 3, 4) + [4]
        expected = {vocab.end_id(pt.tokens.DEPTH)} if length == 100 else set(vocab.ids(pt.tokens.DEPTH).tolist())
        for ids in (opened, history + opened, block_ids(vocab) + opened):
            assert allowed_ids(processor, torch.tensor([ids])) == [expected]

    def test_torch_compile(self, processor: Any, vocab: pt.PerceptionVocabulary) -> None:
        ids, scores = torch.tensor([block_ids(vocab, 57)]), torch.randn(1, vocab.size)
        expected = processor(ids, scores)
        compiled = torch.compile(processor.__call__, fullgraph=True, backend="aot_eager", dynamic=True)
        assert torch.equal(compiled(ids, scores), expected)
        assert torch.equal(compiled(ids[:, :40], scores), processor(ids[:, :40], scores))

    def test_torch_compile_with_limits_and_a_budget(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """Once the tables are there: each stage of the budget has its own, made by the first call."""
        config = GrammarConfig(force_block="somewhere", max_blocks=2, max_boxes=3)
        held = PerceptionLogitsProcessor(vocab, config, tokenizer=tokenizer).for_prompt(3, max_new_tokens=150)
        steps = [torch.full((2, length), 4) for length in (3, 4, 50, 51, 52, 152)]
        scores = torch.randn(2, vocab.size)
        expected = [held(ids, scores) for ids in steps]
        torch.compiler.reset()
        compiled = torch.compile(held.__call__, fullgraph=True, backend="aot_eager")
        assert all(torch.equal(compiled(ids, scores), one) for ids, one in zip(steps, expected, strict=True))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_in_place(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype
    ) -> None:
        fresh, writing = (PerceptionLogitsProcessor(vocab, tokenizer=tokenizer, in_place=one) for one in (False, True))
        text, opened = [4] * 41, block_ids(vocab, 40)
        for rows in ([text, text], [opened, text], [opened, opened]):
            scores = torch.randn(2, vocab.size + 3, dtype=dtype)
            expected, before = fresh(torch.tensor(rows), scores), scores.clone()
            assert torch.equal(scores, before)
            assert writing(torch.tensor(rows), scores) is scores
            assert torch.equal(scores, expected)

    def test_continuous_batching_is_refused_by_the_flag(self, processor: Any) -> None:
        assert processor.supports_continuous_batching is False


class TestCompactBoxes:
    def test_boxes_that_follow_one_another_at_once(self, vocab: pt.PerceptionVocabulary) -> None:
        processor = PerceptionLogitsProcessor(vocab)
        assert processor.config.boxes == "compact"
        ones = [vocab.token_id(pt.tokens.PIXEL, 1)] * 4
        pixels, text = set(vocab.ids(pt.tokens.PIXEL).tolist()), {4}
        for count in (0, 1, 8, 9, 70, 300):
            for written in range(4):
                allowed = allowed_ids(processor, torch.tensor([[4] + ones * count + ones[:written]]))[0]
                assert pixels - {vocab.token_id(pt.tokens.PIXEL, 0)} <= allowed
                assert (text <= allowed) == (written == 0)


class TestBadInput:
    @pytest.mark.parametrize("config", [GrammarConfig(), GrammarConfig(boxes="compact", max_boxes=2)])
    def test_ids_that_the_tokenizer_lacks_are_text(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast, config: GrammarConfig
    ) -> None:
        """Placeholders for images are below zero or beyond the tokenizer in some models."""
        processor = PerceptionLogitsProcessor(vocab, config, tokenizer=tokenizer).for_prompt(0)
        for odd in (-200, -1, vocab.size, vocab.size + 9):
            for tail in ([], [vocab.start_id(pt.tokens.DEPTH)], [7, vocab.token_id(pt.tokens.PIXEL, 3)]):
                plain, same = ([[1, number, *tail]] for number in (4, odd))
                assert allowed_ids(processor, torch.tensor(same)) == allowed_ids(processor, torch.tensor(plain))

    def test_a_vocabulary_without_the_tokens(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        boxes_alone = pt.PerceptionVocabulary.from_tokenizer(tokenizer, (pt.tokens.PIXEL,))
        with pytest.raises(ConstraintError, match="DEPTH tokens, which this vocabulary lacks; add them with"):
            PerceptionLogitsProcessor(boxes_alone, GrammarConfig(), tokenizer=tokenizer)
        assert not PerceptionLogitsProcessor(boxes_alone, tokenizer=tokenizer).config.depth

    def test_the_aurora_form_without_a_tokenizer(self, vocab: pt.PerceptionVocabulary) -> None:
        with pytest.raises(ConstraintError, match="pass tokenizer="):
            PerceptionLogitsProcessor(vocab, GrammarConfig())

    def test_a_forced_block_without_an_end(self, vocab: pt.PerceptionVocabulary) -> None:
        with pytest.raises(ConstraintError, match="pass eos_token_id="):
            PerceptionLogitsProcessor(vocab, GrammarConfig(force_block="first", boxes=None))

    @pytest.mark.parametrize("number", [-1, 10_000, 20])
    def test_an_end_that_is_none(self, vocab: pt.PerceptionVocabulary, number: int) -> None:
        with pytest.raises(ConstraintError, match=f"token id {number} cannot end a sequence"):
            PerceptionLogitsProcessor(vocab, GrammarConfig(boxes=None), eos_token_id=[2, number])

    @pytest.mark.parametrize(
        "config", [GrammarConfig(force_block="first"), GrammarConfig(max_boxes=1), GrammarConfig(first="text")]
    )
    def test_limits_without_saying_where_the_answer_begins(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast, config: GrammarConfig
    ) -> None:
        processor = processor_of(config, vocab, tokenizer)
        with pytest.raises(ConstraintError, match=r"say where it begins: processor\.for_prompt"):
            processor(torch.tensor([[4]]), torch.zeros(1, vocab.size))

    def test_budgets(self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast) -> None:
        forced = processor_of(GrammarConfig(force_block="somewhere"), vocab, tokenizer)
        for prompt in (0, torch.tensor([[4, 4]])):
            with pytest.raises(ConstraintError, match=r"at least 102 tokens .* max_new_tokens is 1: raise it"):
                forced.for_prompt(prompt, max_new_tokens=1)
        with pytest.raises(ConstraintError, match="at least 1; got 0"):
            forced.for_prompt(0, max_new_tokens=0)
        free = processor_of(None, vocab, tokenizer)
        with pytest.raises(ConstraintError, match="at least 51 tokens"):
            free.for_prompt(torch.tensor([[4] * 51, block_ids(vocab, 50)]), max_new_tokens=50)
        assert free.for_prompt(torch.tensor([[4]]), max_new_tokens=1) is not free
        allowed = allowed_ids(free.for_prompt(1, max_new_tokens=1), torch.tensor([[7]]))[0]
        assert not {vocab.start_id(pt.tokens.DEPTH), vocab.token_id(pt.tokens.PIXEL, 0)} & allowed
        assert {4, 2} <= allowed

    def test_the_end_of_a_budget_after_the_only_block(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """A block that was owed is written and no other may come: text goes on to the last token."""
        config = GrammarConfig(boxes=None, max_blocks=1, force_block="somewhere")
        held = processor_of(config, vocab, tokenizer).for_prompt(2, max_new_tokens=108)
        written = [4, 4, *block_ids(vocab)]
        for more in range(6):
            ids = torch.tensor([written + [4] * more])
            assert {4, 2} <= allowed_ids(held, ids)[0]
            assert vocab.start_id(pt.tokens.DEPTH) not in allowed_ids(held, ids)[0]

    def test_a_prompt_longer_than_generation(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        processor = processor_of(None, vocab, tokenizer).for_prompt(7)
        with pytest.raises(ConstraintError, match="given a prompt of 7 ids, but generation has 1"):
            processor(torch.tensor([[4]]), torch.zeros(1, vocab.size))

    def test_scores_narrower_than_the_tokenizer(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        processor = processor_of(None, vocab, tokenizer)
        with pytest.raises(ConstraintError, match=f"{vocab.size - 1} columns, but the tokenizer has ids up to"):
            processor(torch.tensor([[4]]), torch.zeros(1, vocab.size - 1))
        with pytest.raises(ConstraintError, match=r"expected ids \(B, T\) and scores \(B, V\); got \(1,\)"):
            processor(torch.tensor([4]), torch.zeros(1, vocab.size))

    @pytest.mark.parametrize(
        ("tail", "where"),
        [
            (lambda vocab: block_ids(vocab, 7), "inside a depth block after 7 codes"),
            (lambda vocab: block_ids(vocab)[:-1], "inside a depth block after 100 codes"),
            (lambda vocab: box_ids(vocab, 5, 5), "inside a box"),
            (lambda vocab: [*box_ids(vocab, 5, 5), 8], "inside a box, at x2 or y2"),
            (lambda vocab: [4], "in text"),
        ],
    )
    def test_everything_that_may_come_is_banned_already(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast, tail: Any, where: str
    ) -> None:
        processor = processor_of(None, vocab, tokenizer)
        ids = tail(vocab)
        allowed = allowed_ids(processor, torch.tensor([ids]))[0]
        scores = torch.zeros(2, vocab.size)
        scores[1, sorted(allowed)] = -INF
        with pytest.raises(
            ConstraintError, match=f"row 1, {where}: every token that may come next has a score of -inf"
        ):
            processor(torch.tensor([[4] * len(ids), ids]), scores)

    def test_text_in_which_only_a_word_is_left(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        scores = torch.full((1, vocab.size), -INF)
        scores[0, 4] = 0.0
        assert torch.equal(processor_of(None, vocab, tokenizer)(torch.tensor([[4]]), scores), scores)


class TestPrompts:
    @pytest.mark.parametrize(
        ("tail", "message"),
        [
            (
                lambda vocab: [*block_ids(vocab, 5), 4],
                "inside a depth block, which begins at its token 1 and is broken at 7, where a",
            ),
            (lambda vocab: [*block_ids(vocab, 5), 4, *block_ids(vocab, 5)[1:]], "inside a depth block"),
            (lambda vocab: [*block_ids(vocab)[:-1], vocab.token_id(pt.tokens.DEPTH, 1)], "DEPTH_CODE is not allowed"),
            (lambda vocab: block_ids(vocab, 5)[1:], "a depth code outside a block"),
            (lambda vocab: [*box_ids(vocab, 5, 5), 4], "inside a box"),
            (lambda vocab: [*box_ids(vocab, 5, 5), 8, vocab.token_id(pt.tokens.PIXEL, 4)], "PIXEL is not allowed"),
            (lambda vocab: box_ids(vocab, 5)[1:], "a coordinate outside a box"),
            (lambda vocab: [*box_ids(vocab, 1, 2, 3, 4)[:-1], 10_000], "ordinary text is not allowed"),
        ],
    )
    def test_broken_ends(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast, tail: Any, message: str
    ) -> None:
        with pytest.raises(ConstraintError, match=message):
            processor_of(None, vocab, tokenizer).for_prompt(torch.tensor([[4, *tail(vocab)]]))

    @pytest.mark.parametrize(
        "tail",
        [
            lambda vocab: [*block_ids(vocab, 5), 4, *block_ids(vocab)],
            lambda vocab: [*box_ids(vocab, 5, 5), 4, 9, 4],
            lambda vocab: [*box_ids(vocab, 1, 2, 3, 4), 4],
            lambda vocab: block_ids(vocab, 99),
            lambda vocab: [*box_ids(vocab, 5), 8],
            lambda vocab: [],
        ],
    )
    def test_history_is_free(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast, tail: Any
    ) -> None:
        processor_of(None, vocab, tokenizer).for_prompt(torch.tensor([[4, *tail(vocab)]]), max_new_tokens=8)

    def test_compact(self, vocab: pt.PerceptionVocabulary) -> None:
        processor = PerceptionLogitsProcessor(vocab)
        codes = [vocab.token_id(pt.tokens.PIXEL, code) for code in (5, 5, 4)]
        processor.for_prompt(torch.tensor([codes[:2]]), max_new_tokens=2)
        with pytest.raises(ConstraintError, match="at least 2 tokens"):
            processor.for_prompt(torch.tensor([codes[:2]]), max_new_tokens=1)
        with pytest.raises(ConstraintError, match="inside a box"):
            processor.for_prompt(torch.tensor([[4, *codes]]))

    def test_limits_count_the_answer_alone(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        processor = processor_of(GrammarConfig(max_blocks=1, max_boxes=1), vocab, tokenizer)
        shots = [4, *block_ids(vocab), *box_ids(vocab, 1, 2, 3, 4), *block_ids(vocab), *box_ids(vocab, 1, 2, 3, 4), 7]
        start, pixel = vocab.start_id(pt.tokens.DEPTH), vocab.token_id(pt.tokens.PIXEL, 1)
        held = processor.for_prompt(len(shots))
        assert {start, pixel} <= allowed_ids(held, torch.tensor([shots]))[0]
        answered = [*shots, *box_ids(vocab, 1, 2, 3, 4)[1:], *block_ids(vocab), 7]
        assert not {start, pixel} & allowed_ids(held, torch.tensor([answered]))[0]

    def test_what_the_prompt_leaves_open_is_the_first_of_its_kind(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        processor = processor_of(GrammarConfig(max_blocks=1, max_boxes=1, force_block="somewhere"), vocab, tokenizer)
        block, box = block_ids(vocab), box_ids(vocab, 1, 2, 3, 4)
        held = processor.for_prompt(torch.tensor([block[:40]]), max_new_tokens=100)
        closed = allowed_ids(held, torch.tensor([[*block, 7]]))[0]
        assert vocab.start_id(pt.tokens.DEPTH) not in closed
        assert {2, vocab.token_id(pt.tokens.PIXEL, 1)} <= closed
        held = processor.for_prompt(torch.tensor([box[:4]]))
        assert vocab.token_id(pt.tokens.PIXEL, 1) not in allowed_ids(held, torch.tensor([[*box, 7]]))[0]
