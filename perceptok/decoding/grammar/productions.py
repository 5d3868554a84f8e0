"""The grammar as production rules, for engines that read a grammar instead of calling a function.

Rules are written for token ids, not characters: a block that is spelled letter by letter is not a block. The rules are
the same for every engine; how a set of tokens and an ordered box are written is the engine's `Notation`.

The limits become part of a rule's name: `text-1-3` is text after 1 block and 3 boxes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from perceptok.decoding.grammar.automaton import CELLS, SYMBOL_COUNT, GrammarConfig, Symbol
from perceptok.decoding.grammar.token_symbols import classify_tokens, default_config, list_eos_ids
from perceptok.errors import ConstraintError
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Notation", "TokenClasses", "build_productions"]


_MAX_COMBINATIONS = 2000
"""Pairs of (blocks, boxes) that limits may have: each is three rules."""


@dataclass(frozen=True)
class TokenClasses:
    """The ids of every symbol of the grammar in one tokenizer.

    Attributes:
        config: The grammar's configuration.
        symbols: The symbol of every id, (size,) int64, as `classify_tokens` gives them.
    """

    config: GrammarConfig
    symbols: np.ndarray

    @classmethod
    def from_vocabulary(
        cls,
        vocab: PerceptionVocabulary,
        config: GrammarConfig | None,
        tokenizer: PreTrainedTokenizerBase | None,
        eos_token_id: int | Sequence[int] | None,
    ) -> TokenClasses:
        """Classify the tokens of a vocabulary; without a configuration, for the default one.

        Raises:
            ConstraintError: Vocabulary, tokenizer and grammar do not fit together, or a forced beginning has no end of
                sequence that it could exclude.
        """
        config = config or default_config(vocab, tokenizer)
        ends = list_eos_ids(eos_token_id, tokenizer)
        if not ends and (config.force_block or config.first != "any"):
            raise ConstraintError(
                "force_block and first need the end of sequence; pass eos_token_id=... or tokenizer=..."
            )
        return cls(config, classify_tokens(vocab, config, tokenizer=tokenizer, eos_token_ids=ends))

    def list_ids(self, *symbols: int) -> list[int]:
        """The ids of some symbols, ascending."""
        return [int(token_id) for token_id in np.flatnonzero(np.isin(self.symbols, symbols))]

    @property
    def pixels(self) -> list[int]:
        """The ids of the PIXEL tokens: entry k is code k's."""
        ids = {int(symbol): token_id for token_id, symbol in enumerate(self.symbols) if symbol >= Symbol.PIXEL}
        return [ids[symbol] for symbol in range(Symbol.PIXEL, SYMBOL_COUNT)]

    @property
    def text(self) -> list[int]:
        """The ids of running text: all but perception tokens, ends of sequence, and what ends in "("."""
        return self.list_ids(Symbol.TEXT, Symbol.COMMA, Symbol.CLOSE)

    @property
    def not_text(self) -> list[int]:
        """The other ids, those without a token included."""
        return sorted(set(range(len(self.symbols))) - set(self.text))


class Notation(Protocol):
    """How one engine writes rules."""

    def write_tokens(self, ids: Sequence[int]) -> str:
        """One token out of a set."""
        ...

    def write_text_rules(self, classes: TokenClasses) -> dict[str, list[str]]:
        """Rules for `free`, one piece of running text, and `free-text`, any number of them."""
        ...

    def write_box_rules(self, classes: TokenClasses, separator: str) -> dict[str, list[str]]:
        """Rules for `box`, four coordinates with something between them."""
        ...


def build_productions(classes: TokenClasses, notation: Notation, root: str) -> dict[str, list[str]]:
    """Rule name -> its alternatives, the root's first.

    Brackets are tokens by themselves here: where they are a part of the notation's `box`, pass classes without them (a
    compact configuration).

    Raises:
        ConstraintError: The limits have more than 2,000 combinations.
    """
    config = classes.config
    rules = {root: _write_beginning(config)} | notation.write_text_rules(classes)
    if config.depth:
        start, code, end = (
            notation.write_tokens(classes.list_ids(symbol))
            for symbol in (Symbol.DEPTH_START, Symbol.DEPTH_CODE, Symbol.DEPTH_END)
        )
        rules |= {"code": [code], "block": [f"{start} code{{{CELLS}}} {end}"]}
    if config.boxes:
        rules |= notation.write_box_rules(classes, "comma" if config.boxes == "aurora" else "")
    if config.boxes == "aurora":
        rules |= _write_brackets(classes, notation)
    blocks = range(_limit_count(config.max_blocks, sys.maxsize, 1 if config.force_block else 0) + 1)
    boxes = range(_limit_count(config.max_boxes, sys.maxsize, 0) + 1)
    if len(blocks) * len(boxes) > _MAX_COMBINATIONS:
        raise ConstraintError(
            f"max_blocks={config.max_blocks} and max_boxes={config.max_boxes} have {len(blocks) * len(boxes)} "
            f"combinations, each of which is a rule; the maximum is {_MAX_COMBINATIONS}: lower one, or leave one out"
        )
    for block_count in blocks:
        for box_count in boxes:
            rules |= _write_text(config, block_count, box_count, bool(rules.get("reopening")))
    return {name: alternatives for name, alternatives in rules.items() if alternatives}


def _write_beginning(config: GrammarConfig) -> list[str]:
    if config.first == "block" or config.force_block == "first":
        return [f"block {_name_text(config, 1, 0)}"]
    if config.first == "text":
        return [f"free {_name_text(config, 0, 0)}", *(["opening open-0-0"] if config.boxes == "aurora" else [])]
    if config.first == "box" and config.boxes == "compact":
        return [f"box {_name_text(config, 0, 1)}"]
    if config.first == "box":
        return ["bracket box-0-0"]
    return [_name_text(config, 0, 0)]


def _write_brackets(classes: TokenClasses, notation: Notation) -> dict[str, list[str]]:
    reopening = classes.list_ids(Symbol.CLOSE_OPEN)
    return {
        "bracket": [notation.write_tokens(classes.list_ids(Symbol.OPEN))],
        "opening": [notation.write_tokens(classes.list_ids(Symbol.OPEN, Symbol.CLOSE_OPEN))],
        "comma": [notation.write_tokens(classes.list_ids(Symbol.COMMA))],
        "closing": [notation.write_tokens(classes.list_ids(Symbol.CLOSE))],
        "reopening": [notation.write_tokens(reopening)] if reopening else [],
    }


def _limit_count(limit: int | None, count: int, unlimited: int) -> int:
    """What a rule's name says of a count: itself under a limit, else only whether it is 0 where that matters."""
    return min(count, unlimited if limit is None else limit)


def _name_text(config: GrammarConfig, blocks: int, boxes: int) -> str:
    block_count = _limit_count(config.max_blocks, blocks, 1 if config.force_block else 0)
    return f"text-{block_count}-{_limit_count(config.max_boxes, boxes, 0)}"


def _write_text(config: GrammarConfig, blocks: int, boxes: int, reopening: bool) -> dict[str, list[str]]:
    """The rules of text after so many blocks and boxes."""
    counts, more_boxes = f"{blocks}-{boxes}", config.max_boxes is None or boxes < config.max_boxes
    tail = [] if config.force_block and blocks == 0 else ['""']
    if config.depth and (config.max_blocks is None or blocks < config.max_blocks):
        tail.append(f"block {_name_text(config, blocks + 1, boxes)}")
    after = _name_text(config, blocks, boxes + 1)
    rules = {f"text-{counts}": [f"free-text tail-{counts}"], f"tail-{counts}": tail}
    if config.boxes == "compact" and more_boxes:
        tail.append(f"box {after}")
    if config.boxes == "aurora":
        tail.append(f"opening open-{counts}")
        rules[f"open-{counts}"] = [f"text-{counts}", *([f"box-{counts}"] if more_boxes else [])]
        if more_boxes:
            again = [f"box reopening {after.replace('text', 'open')}"] if reopening else []
            rules[f"box-{counts}"] = [f"box closing {after}", *again]
    return rules
