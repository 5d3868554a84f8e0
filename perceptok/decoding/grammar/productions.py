"""The grammar as production rules, for engines that read a grammar instead of calling a function.

Rules are written for token ids, not characters: a block spelled letter by letter is not a block. The shape is the same
for every engine; how a set of tokens and an ordered box are written is the engine's `Notation`.

The limits become part of a rule's name: `text-1-3` is text after 1 block and 3 boxes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from perceptok.decoding.grammar.automaton import CELLS, GrammarConfig, Symbol
from perceptok.decoding.grammar.token_symbols import BracketTokenizer, token_symbols
from perceptok.errors import ConstraintError
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["Notation", "TokenClasses", "id_ranges", "productions"]


_MOST_STANDINGS = 2000
"""Pairs of (blocks, boxes) that limits may have: each is three rules."""


@dataclass(frozen=True)
class TokenClasses:
    """The ids of every symbol of the grammar in one tokenizer.

    Attributes:
        config: The grammar's configuration.
        symbols: The symbol of every id, (size,) int64; see `token_symbols`.
    """

    config: GrammarConfig
    symbols: np.ndarray

    @classmethod
    def of(
        cls,
        vocab: PerceptionVocabulary,
        config: GrammarConfig | None,
        tokenizer: BracketTokenizer | None,
        eos_token_id: int | Sequence[int] | None,
    ) -> TokenClasses:
        """Classes of a vocabulary; without a configuration, as `PerceptionLogitsProcessor` chooses it.

        Raises:
            ConstraintError: Vocabulary, tokenizer and grammar do not fit together, or a forced block has no end of
                sequence that it could hold back.
        """
        if config is None:
            boxes: Literal["aurora", "compact"] | None = (
                None if not vocab.has(PIXEL) else "compact" if tokenizer is None else "aurora"
            )
            config = GrammarConfig(depth=vocab.has(DEPTH), boxes=boxes)
        found = getattr(tokenizer, "eos_token_id", None) if eos_token_id is None else eos_token_id
        ends = [] if found is None else [found] if isinstance(found, int) else list(found)
        if not ends and (config.force_block or config.first != "any"):
            raise ConstraintError(
                "force_block and first need the end of sequence; pass eos_token_id=... or tokenizer=..."
            )
        return cls(config, token_symbols(vocab, config, tokenizer=tokenizer, eos_token_ids=ends))

    def ids(self, *symbols: int) -> list[int]:
        """The ids of some symbols, ascending."""
        return [int(number) for number in np.flatnonzero(np.isin(self.symbols, symbols))]

    @property
    def pixels(self) -> list[int]:
        """The ids of the PIXEL tokens: entry k is code k's."""
        wanted = range(Symbol.PIXEL, Symbol.PIXEL + PIXEL.size)
        place = {int(symbol): number for number, symbol in enumerate(self.symbols) if symbol >= Symbol.PIXEL}
        return [place[symbol] for symbol in wanted]

    @property
    def free(self) -> list[int]:
        """What running text is made of: all but perception tokens, ends of sequence, and what ends in "("."""
        return self.ids(Symbol.TEXT, Symbol.COMMA, Symbol.CLOSE)

    @property
    def not_free(self) -> list[int]:
        """The other ids, those without a token included."""
        return sorted(set(range(len(self.symbols))) - set(self.free))


class Notation(Protocol):
    """How one engine writes things down."""

    def tokens(self, ids: Sequence[int]) -> str:
        """One token out of a set."""
        ...

    def free(self, classes: TokenClasses) -> dict[str, list[str]]:
        """Rules for `free`, one piece of running text, and `free-text`, any number of them."""
        ...

    def box(self, classes: TokenClasses, between: str) -> dict[str, list[str]]:
        """Rules for `box`, four coordinates with something between them."""
        ...


def id_ranges(ids: Iterable[int]) -> list[tuple[int, int]]:
    """Ids -> inclusive ranges, ascending."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(ids):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def productions(classes: TokenClasses, notation: Notation, root: str) -> dict[str, list[str]]:
    """Rule name -> its alternatives, the root's first.

    Brackets are tokens of their own here: where they belong to the notation's `box` already, pass classes without them
    (a compact configuration).

    Raises:
        ConstraintError: The limits have more than 2,000 combinations.
    """
    config = classes.config
    rules = {root: _first(config)} | notation.free(classes)
    if config.depth:
        rules["code"] = [notation.tokens(classes.ids(Symbol.DEPTH_CODE))]
        start, end = (notation.tokens(classes.ids(symbol)) for symbol in (Symbol.DEPTH_START, Symbol.DEPTH_END))
        rules["block"] = [f"{start} code{{{CELLS}}} {end}"]
    if config.boxes:
        aurora = config.boxes == "aurora"
        rules |= notation.box(classes, "comma" if aurora else "")
        if aurora:
            rules |= _brackets(classes, notation)
    standings = _standings(config)
    for blocks, boxes in standings:
        rules |= _standing(config, blocks, boxes, bool(rules.get("reopening")))
    return {name: alternatives for name, alternatives in rules.items() if alternatives}


def _first(config: GrammarConfig) -> list[str]:
    if config.first == "block" or config.force_block == "first":
        return [f"block {_text(config, 1, 0)}"]
    if config.first == "text":
        return [f"free {_text(config, 0, 0)}", *([_opened(0, 0)] if config.boxes == "aurora" else [])]
    if config.first == "box" and config.boxes == "compact":
        return [f"box {_text(config, 0, 1)}"]
    if config.first == "box":
        return ["bracket box-0-0"]
    return [_text(config, 0, 0)]


def _brackets(classes: TokenClasses, notation: Notation) -> dict[str, list[str]]:
    both = classes.ids(Symbol.CLOSE_OPEN)
    return {
        "bracket": [notation.tokens(classes.ids(Symbol.OPEN))],
        "opening": [notation.tokens(classes.ids(Symbol.OPEN, Symbol.CLOSE_OPEN))],
        "comma": [notation.tokens(classes.ids(Symbol.COMMA))],
        "closing": [notation.tokens(classes.ids(Symbol.CLOSE))],
        "reopening": [notation.tokens(both)] if both else [],
    }


def _standings(config: GrammarConfig) -> list[tuple[int, int]]:
    blocks = range(_level(config.max_blocks, sys.maxsize, 1 if config.force_block else 0) + 1)
    boxes = range(_level(config.max_boxes, sys.maxsize, 0) + 1)
    if len(blocks) * len(boxes) > _MOST_STANDINGS:
        raise ConstraintError(
            f"max_blocks={config.max_blocks} and max_boxes={config.max_boxes} have {len(blocks) * len(boxes)} "
            f"combinations, each of which is a rule; at most {_MOST_STANDINGS} are written: lower one, or leave one out"
        )
    return [(block, box) for block in blocks for box in boxes]


def _level(limit: int | None, count: int, unlimited: int) -> int:
    """What is remembered of a count: itself under a limit, else only whether it is 0 where that matters."""
    return min(count, unlimited if limit is None else limit)


def _text(config: GrammarConfig, blocks: int, boxes: int) -> str:
    level = _level(config.max_blocks, blocks, 1 if config.force_block else 0)
    return f"text-{level}-{_level(config.max_boxes, boxes, 0)}"


def _opened(blocks: int, boxes: int) -> str:
    return f"opening open-{blocks}-{boxes}"


def _standing(config: GrammarConfig, blocks: int, boxes: int, reopening: bool) -> dict[str, list[str]]:
    """The rules of text after so many blocks and boxes."""
    here, more_boxes = f"{blocks}-{boxes}", config.max_boxes is None or boxes < config.max_boxes
    tail = [] if config.force_block and blocks == 0 else ['""']
    if config.depth and (config.max_blocks is None or blocks < config.max_blocks):
        tail.append(f"block {_text(config, blocks + 1, boxes)}")
    after = _text(config, blocks, boxes + 1)
    if config.boxes == "compact" and more_boxes:
        tail.append(f"box {after}")
    if config.boxes == "aurora":
        tail.append(_opened(blocks, boxes))
    rules = {f"text-{here}": [f"free-text tail-{here}"], f"tail-{here}": tail}
    if config.boxes == "aurora":
        rules[f"open-{here}"] = [f"text-{here}", *([f"box-{here}"] if more_boxes else [])]
        if more_boxes:
            again = [f"box reopening {after.replace('text', 'open')}"] if reopening else []
            rules[f"box-{here}"] = [f"box closing {after}", *again]
    return rules
