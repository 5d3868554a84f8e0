"""What servers need beyond `generate`: batches of requests with different lengths, grammars and token budgets.

The masking is `PerceptionLogitsProcessor`'s. Here rows are grouped until every group is what that processor takes: ids
of one length, one budget, one place where the answer begins. In practice that is one group: budgets differ within the
last 306 tokens of an answer only, and whether an answer has begun only under `first` and `force_block="first"`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perceptok.decoding.engines.huggingface import PerceptionLogitsProcessor
from perceptok.decoding.grammar.automaton import CELLS, Grammar, GrammarConfig, Symbol, compile_grammar
from perceptok.decoding.grammar.positions import find_prompt_state
from perceptok.errors import ConstraintError
from perceptok.vocabulary import PerceptionVocabulary

__all__ = [
    "REQUEST_KEY",
    "WINDOW",
    "ProcessorCache",
    "RowGroup",
    "ServedRequest",
    "check_budget",
    "constrain_requests",
    "constrain_rows",
    "find_filler_id",
    "find_open_tail",
    "group_rows",
    "needs_whole_answer",
    "read_request",
]

REQUEST_KEY = "perceptok"
"""The extra argument by which a request asks to be constrained: true, or the keys of a GrammarConfig."""

WINDOW = CELLS + 10
"""Number of last ids that decide a state, where nothing is counted."""

_MAX_NEEDED = 3 * (CELLS + 2)
"""More tokens than any decision needs: a block that is open and one that is forced have 204."""


class ProcessorCache:
    """The processors of one server, made when a request first asks for their grammar.

    Args:
        tokenizer: The served model's tokenizer, with the perception tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._vocab = PerceptionVocabulary.from_tokenizer(tokenizer)
        self._processors: dict[GrammarConfig | None, PerceptionLogitsProcessor] = {}

    def find(self, arguments: Mapping[str, Any] | None) -> PerceptionLogitsProcessor | None:
        """The processor that a request's extra arguments ask for; None where they ask for none.

        Raises:
            ConfigError: Unknown keys of GrammarConfig, or values out of range.
            ConstraintError: The grammar does not fit the tokenizer.
        """
        is_constrained, config = read_request(arguments)
        if not is_constrained:
            return None
        if config not in self._processors:
            self._processors[config] = PerceptionLogitsProcessor(self._vocab, config, tokenizer=self._tokenizer)
        return self._processors[config]


def read_request(arguments: Mapping[str, Any] | None) -> tuple[bool, GrammarConfig | None]:
    """Whether a request's extra arguments ask for constraints, and the grammar that they name (None: the default).

    Raises:
        ConfigError: Unknown keys of GrammarConfig, or values out of range.
        ConstraintError: Neither a flag nor such keys, as a mapping or as JSON.
    """
    value = (arguments or {}).get(REQUEST_KEY, False)
    if isinstance(value, str):  # the HTTP servers pass no nested values
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ConstraintError(
                f"{REQUEST_KEY} is not valid JSON: {error}; pass true or the keys of GrammarConfig"
            ) from error
    if isinstance(value, Mapping):
        return True, GrammarConfig.from_dict(value)
    if value is None or value in (0, 1):  # False and True among them
        return bool(value), None
    raise ConstraintError(f"{REQUEST_KEY} is true or the keys of a GrammarConfig; got {value!r}")


def check_budget(config: GrammarConfig | None, max_tokens: int | None) -> None:
    """Raise ConstraintError for a budget that is too small for what the grammar forces."""
    if config is None or max_tokens is None:
        return
    grammar = compile_grammar(config)
    needed = grammar.count_tokens_to_end(grammar.initial)
    if max_tokens < needed:
        raise ConstraintError(
            f"the answer needs at least {needed} tokens for what is forced; max_tokens is {max_tokens}: raise it"
        )


class RowGroup(NamedTuple):
    """Rows that one call of a processor can mask.

    Attributes:
        processor: The processor.
        rows: Their numbers in the batch.
        written: Tokens of the answer: 0, 1, or 2 for more, or where it does not matter.
        remaining: Tokens that may still be written, None for enough.
    """

    processor: PerceptionLogitsProcessor
    rows: list[int]
    written: int
    remaining: int | None


def group_rows(rows: Iterable[tuple[int, PerceptionLogitsProcessor, int, int | None]]) -> list[RowGroup]:
    """Group (row, processor, tokens written, `max_tokens`)."""
    groups: dict[tuple[int, int, int | None], RowGroup] = {}
    for row, processor, written, max_tokens in rows:
        config, grammar = processor.config, processor.grammar
        has_beginning = config.first != "any" or config.force_block == "first"
        remaining = None if max_tokens is None else max(1, max_tokens - written)
        if remaining is not None and (
            remaining > _MAX_NEEDED or written + remaining < grammar.count_tokens_to_end(grammar.initial)
        ):
            remaining = None  # far from the end, or too little from the beginning: then as far as it gets
        shown = min(written, 2) if has_beginning else 2
        key = (id(processor), shown, remaining)
        groups.setdefault(key, RowGroup(processor, [], shown, remaining)).rows.append(row)
    return list(groups.values())


def needs_whole_answer(config: GrammarConfig) -> bool:
    """Whether the state depends on the whole answer, not on its end alone."""
    return config.max_blocks is not None or config.max_boxes is not None or config.force_block is not None


def find_filler_id(processor: PerceptionLogitsProcessor) -> int:
    """An id that is text and nothing else, to pad rows with."""
    return int((processor.symbols == Symbol.TEXT).argmax())


def constrain_rows(group: RowGroup, ids: Tensor, logits: Tensor) -> None:
    """Mask the group's rows of logits (B, V) in place.

    Args:
        group: The group.
        ids: (rows, T): the answers so far, after what the prompts left open, padded with text on the left.
        logits: Those of the whole batch.
    """
    length = ids.shape[1]
    start = 0 if group.written == 2 else length - group.written
    budget = None if group.remaining is None else group.remaining + length - start
    processor = group.processor.for_prompt(start, budget)
    processor.in_place = True
    if len(group.rows) == len(logits):
        processor(ids, logits)
        return
    rows = torch.tensor(group.rows, device=logits.device)
    logits.index_copy_(0, rows, processor(ids, logits.index_select(0, rows)))


def find_open_tail(processor: PerceptionLogitsProcessor, prompt: Sequence[int] | None) -> list[int]:
    """The ids at the end of a prompt that belong to what it left open; None is a prompt without ids (embeddings)."""
    ids, size = list(prompt or ()), len(processor.symbols)
    symbols = [int(processor.symbols[token_id]) if 0 <= token_id < size else -1 for token_id in ids]
    return ids[len(ids) - _count_open_tokens(processor.grammar, symbols) :]


def _count_open_tokens(grammar: Grammar, symbols: Sequence[int]) -> int:
    """How many tokens at the end of a prompt belong to what it left open; warns of a broken end, which is text."""
    try:
        name = grammar.names[find_prompt_state(grammar, symbols).control]
    except ConstraintError as error:
        warnings.warn(f"this prompt is continued as text: {error}", stacklevel=2)
        return 0
    kind, _, count = name.partition(" ")
    if kind == "depth":
        return int(count) + 1
    if kind == "box":
        return int(count) + (grammar.config.boxes == "aurora")
    return int(bool(symbols) and symbols[-1] in (Symbol.OPEN, Symbol.CLOSE_OPEN))


@dataclass(frozen=True)
class ServedRequest:
    """A running request of an engine that keeps ids in lists.

    Attributes:
        processor: The processor that it asked for.
        tail: Ids of what the prompt left open.
        written: Ids of the answer; a list that the engine lengthens.
        max_tokens: Maximum number of tokens of the answer, None for no limit.
    """

    processor: PerceptionLogitsProcessor
    tail: Sequence[int]
    written: Sequence[int]
    max_tokens: int | None

    def ids(self) -> list[int]:
        """The ids that decide the state."""
        config = self.processor.config
        if needs_whole_answer(config) or config.boxes == "compact":
            return [*self.tail, *self.written]
        end = list(self.written[-WINDOW:])
        return end if len(end) == WINDOW else [*self.tail, *end]


def constrain_requests(requests: Mapping[int, ServedRequest], logits: Tensor) -> None:
    """Mask rows of logits (B, V) in place: row -> its request."""
    rows = [(row, request.processor, len(request.written), request.max_tokens) for row, request in requests.items()]
    for group in group_rows(rows):
        sequences = [requests[row].ids() for row in group.rows]
        length = max(2, *map(len, sequences))
        filler = [find_filler_id(group.processor)]
        padded = [filler * (length - len(ids)) + ids for ids in sequences]
        constrain_rows(group, torch.tensor(padded, device=logits.device), logits)
