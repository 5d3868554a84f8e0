"""What a server has and `generate` has not: one batch of answers with different lengths, grammars and budgets.

The masking is `PerceptionLogitsProcessor`'s. Here rows are grouped until every group is what that processor takes: ids
to one length, one budget, one place where the answer begins. In practice that is one group: budgets differ within the
last 306 tokens of an answer only, and whether an answer has begun only under `first` and `force_block="first"`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from perceptok.decoding.engines.huggingface import PerceptionLogitsProcessor
from perceptok.decoding.grammar.automaton import CELLS, Grammar, GrammarConfig, Symbol, compile_grammar
from perceptok.decoding.grammar.positions import end_of_prompt
from perceptok.errors import ConstraintError
from perceptok.vocabulary import PerceptionVocabulary

__all__ = [
    "REQUEST_KEY",
    "WINDOW",
    "Answer",
    "Group",
    "Processors",
    "asked_config",
    "checked_budget",
    "counts",
    "groups",
    "hold",
    "hold_answers",
    "neutral_id",
    "prompt_tail",
]

REQUEST_KEY = "perceptok"
"""Where a request says that it is to be held: true, or the keys of a GrammarConfig."""

WINDOW = CELLS + 10
"""Ids that decide a state, where nothing is counted."""

_FAR = 3 * (CELLS + 2)
"""No decision needs more tokens than that: a block that is open and one that is owed have 204."""


class Processors:
    """The processors of one server, made when a request first asks for their grammar.

    Args:
        tokenizer: The served model's tokenizer, with the perception tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._vocab = PerceptionVocabulary.from_tokenizer(tokenizer)
        self._made: dict[GrammarConfig | None, PerceptionLogitsProcessor] = {}

    def asked(self, settings: Mapping[str, Any] | None) -> PerceptionLogitsProcessor | None:
        """The processor that a request's extra arguments ask for; None where they do not.

        Raises:
            ConfigError: Unknown keys of GrammarConfig, or values out of range.
            ConstraintError: The grammar does not fit the tokenizer.
        """
        config = asked_config(settings)
        if config is False:
            return None
        if config not in self._made:
            self._made[config] = PerceptionLogitsProcessor(self._vocab, config, tokenizer=self._tokenizer)
        return self._made[config]


def asked_config(settings: Mapping[str, Any] | None) -> GrammarConfig | Literal[False] | None:
    """What a request's extra arguments ask for: a grammar, the default one (None), or nothing (False).

    Raises:
        ConfigError: Unknown keys of GrammarConfig, or values out of range.
        ConstraintError: Neither a flag nor such keys, as a mapping or as JSON.
    """
    wanted = (settings or {}).get(REQUEST_KEY, False)
    if isinstance(wanted, str):  # the HTTP servers pass no nested values
        try:
            wanted = json.loads(wanted)
        except json.JSONDecodeError as error:
            raise ConstraintError(
                f"{REQUEST_KEY} is not valid JSON: {error}; pass true or the keys of GrammarConfig"
            ) from error
    if isinstance(wanted, Mapping):
        return GrammarConfig.from_dict(wanted)
    if wanted is None or wanted in (0, 1):  # False and True among them
        return None if wanted else False
    raise ConstraintError(f"{REQUEST_KEY} is true or the keys of a GrammarConfig; got {wanted!r}")


def checked_budget(config: GrammarConfig | Literal[False] | None, max_tokens: int | None) -> None:
    """Raise ConstraintError for a budget that cannot hold what the grammar forces."""
    if not config or max_tokens is None:
        return
    grammar = compile_grammar(config)
    least = grammar.needed(grammar.initial)
    if max_tokens < least:
        raise ConstraintError(
            f"the answer needs at least {least} tokens for what is forced; max_tokens is {max_tokens}"
        )


class Group(NamedTuple):
    """Rows that one call of a processor can hold.

    Attributes:
        processor: Theirs.
        rows: Their numbers in the batch.
        begun: Tokens of the answer written: 0, 1, or 2 for more, or where it does not matter.
        remaining: Tokens that may still be written, None for enough.
    """

    processor: PerceptionLogitsProcessor
    rows: list[int]
    begun: int
    remaining: int | None


def groups(rows: Sequence[tuple[int, PerceptionLogitsProcessor, int, int | None]]) -> Iterator[Group]:
    """Group (row, processor, tokens written, `max_tokens`)."""
    sorted_out: dict[tuple[int, int, int | None], Group] = {}
    for row, processor, written, most in rows:
        config = processor.config
        begun = min(written, 2) if config.first != "any" or config.force_block == "first" else 2
        remaining = None if most is None else max(1, most - written)
        least = processor.grammar.needed(processor.grammar.initial)
        if remaining is not None and (remaining > _FAR or written + remaining < least):
            remaining = None  # far from the end, or too little from the beginning: as far as it gets
        key = (id(processor), begun, remaining)
        sorted_out.setdefault(key, Group(processor, [], begun, remaining)).rows.append(row)
    yield from sorted_out.values()


def counts(config: GrammarConfig) -> bool:
    """Whether the whole answer decides, not its end."""
    return config.max_blocks is not None or config.max_boxes is not None or config.force_block is not None


def neutral_id(processor: PerceptionLogitsProcessor) -> int:
    """An id that is text and nothing else, to fill rows up with."""
    return int((processor.symbols == Symbol.TEXT).argmax())


def hold(group: Group, ids: Tensor, logits: Tensor) -> None:
    """Mask the group's rows of logits (B, V) in place.

    Args:
        group: The group.
        ids: (rows, T): the answers so far, after what the prompts left open, filled up with text on the left.
        logits: Those of the whole batch.
    """
    processor, length = group.processor, ids.shape[1]
    begins = 0 if group.begun == 2 else length - group.begun
    budget = None if group.remaining is None else group.remaining + length - begins
    one = processor.answering(begins, budget)
    one.in_place = True
    if len(group.rows) == len(logits):
        one(ids, logits)
        return
    rows = torch.tensor(group.rows, device=logits.device)
    logits.index_copy_(0, rows, one(ids, logits.index_select(0, rows)))


def _open_tail(grammar: Grammar, symbols: Sequence[int]) -> int:
    """How many tokens at the end of a prompt belong to what it left open; a broken end is warned of and is text."""
    try:
        name = grammar.names[end_of_prompt(grammar, symbols).control]
    except ConstraintError as error:
        warnings.warn(f"this prompt is continued as text: {error}", stacklevel=2)
        return 0
    kind, _, count = name.partition(" ")
    if kind == "depth":
        return int(count) + 1
    if kind == "box":
        return int(count) + (grammar.config.boxes == "aurora")
    return int(bool(len(symbols)) and symbols[-1] in (Symbol.OPEN, Symbol.CLOSE_OPEN))


def prompt_tail(processor: PerceptionLogitsProcessor, prompt: Sequence[int] | None) -> list[int]:
    """The ids at the end of a prompt that belong to what it left open; None is a prompt without ids (embeddings)."""
    ids, size = list(prompt or ()), len(processor.symbols)
    symbols = [int(processor.symbols[number]) if 0 <= number < size else -1 for number in ids]
    return ids[len(ids) - _open_tail(processor.grammar, symbols) :]


@dataclass(frozen=True)
class Answer:
    """One request of an engine that keeps ids in lists.

    Attributes:
        processor: What holds it.
        tail: Ids of what the prompt left open.
        written: Ids of the answer; a list that the engine lengthens.
        max_tokens: The most it may have, None for no limit.
    """

    processor: PerceptionLogitsProcessor
    tail: Sequence[int]
    written: Sequence[int]
    max_tokens: int | None

    def ids(self) -> list[int]:
        """What decides the state."""
        config = self.processor.config
        if counts(config) or config.boxes == "compact":
            return [*self.tail, *self.written]
        end = list(self.written[-WINDOW:])
        return end if len(end) == WINDOW else [*self.tail, *end]


def hold_answers(answers: Mapping[int, Answer], logits: Tensor) -> None:
    """Mask rows of logits (B, V) in place: row -> its answer."""
    rows = [(row, answer.processor, len(answer.written), answer.max_tokens) for row, answer in answers.items()]
    for group in groups(rows):
        lists = [answers[row].ids() for row in group.rows]
        length = max(2, *map(len, lists))
        fill = [neutral_id(group.processor)]
        ids = torch.tensor([fill * (length - len(list_)) + list_ for list_ in lists], device=logits.device)
        hold(group, ids, logits)
