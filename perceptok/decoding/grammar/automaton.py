"""The grammar of answers with perception tokens: a table of states x token classes, and four counters beside it.

An answer is free text in which three things may stand, and nothing else of the perception tokens:

- a depth block: `<DEPTH_START>`, 100 codes, `<DEPTH_END>`;
- a compact box: four PIXEL tokens in a row;
- an AURORA box: a piece of text that ends in "(", then PIXEL "," PIXEL "," PIXEL "," PIXEL, then a piece that begins
  with ")". Brackets of ordinary text stay free: only a PIXEL token after "(" opens a tuple.

Pure Python without a framework: whoever adapts it to an engine needs the table and the two rules of `Grammar.advance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np

from perceptok.config import config_from_dict
from perceptok.errors import ConfigError
from perceptok.tokens import DEPTH_GRID, PIXEL

__all__ = ["CELLS", "SYMBOLS", "Grammar", "GrammarConfig", "State", "StateRows", "Symbol", "compile_grammar"]


CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]
"""Codes in one depth block: 100."""


class Symbol(IntEnum):
    """Classes of tokens, the columns of the table; the PIXEL token of code k is the symbol `Symbol.PIXEL + k`."""

    TEXT = 0
    OPEN = 1
    """Text that ends in "(", such as "(" or " (" or ":("."""
    COMMA = 2
    """The piece "," and nothing else."""
    CLOSE = 3
    """Text that begins with ")", such as ")" or ")."."""
    CLOSE_OPEN = 4
    """Text that begins with ")" and ends in "(", such as "),("."""
    DEPTH_START = 5
    DEPTH_END = 6
    DEPTH_CODE = 7
    EOS = 8
    PIXEL = 9


_LAST_PIXEL = Symbol.PIXEL + PIXEL.size - 1
_TEXTS = (Symbol.TEXT, Symbol.OPEN, Symbol.COMMA, Symbol.CLOSE, Symbol.CLOSE_OPEN)


@dataclass(frozen=True)
class GrammarConfig:
    """What an answer may hold.

    Attributes:
        depth: Depth blocks may stand in it.
        boxes: The form of boxes: "aurora" is `(x1,y1,x2,y2)` in PIXEL tokens, "compact" four PIXEL tokens in a row;
            None for no boxes.
        ordered: Boxes have x2 >= x1 and y2 >= y1.
        max_blocks: Depth blocks at most; None for no limit.
        max_boxes: Boxes at most; None for no limit.
        first: What comes first: "any" thing, "text" (not the end either), a "block" or a "box".
        force_block: The answer begins with a block ("first", the same as `first="block"`) or holds one ("somewhere").
    """

    depth: bool = True
    boxes: Literal["aurora", "compact"] | None = "aurora"
    ordered: bool = True
    max_blocks: int | None = None
    max_boxes: int | None = None
    first: Literal["any", "text", "block", "box"] = "any"
    force_block: Literal["first", "somewhere"] | None = None

    def __post_init__(self) -> None:
        choices: tuple[tuple[str, tuple[str | None, ...]], ...] = (
            ("boxes", ("aurora", "compact", None)),
            ("first", ("any", "text", "block", "box")),
            ("force_block", ("first", "somewhere", None)),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is one of {', '.join(map(repr, known))}; got {getattr(self, name)!r}")
        for name in ("max_blocks", "max_boxes"):
            limit = getattr(self, name)
            if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
                raise ConfigError(f"{name} is a count or None; got {limit!r}")
        if self.force_block == "first" and self.first not in ("any", "block"):
            raise ConfigError(f"force_block='first' and first={self.first!r} contradict each other; leave one out")
        if (self.force_block or self.first == "block") and (not self.depth or self.max_blocks == 0):
            raise ConfigError("a block is asked for, but depth is off or max_blocks is 0")
        if self.first == "box" and (self.boxes is None or self.max_boxes == 0):
            raise ConfigError("a box is asked for, but boxes is None or max_boxes is 0")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> GrammarConfig:
        """The inverse of `to_dict`, missing keys taking their defaults; raises ConfigError as `config_from_dict`."""
        return config_from_dict(cls, values)


class State(NamedTuple):
    """Where an answer is: a row of the table and the counters.

    Attributes:
        control: The row.
        blocks: Depth blocks begun.
        boxes: Boxes begun.
        corner: x1 and y1 of the open box so far, which are the least x2 and y2.
    """

    control: int
    blocks: int = 0
    boxes: int = 0
    corner: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Grammar:
    """A compiled grammar; see `compile_grammar`.

    Attributes:
        config: What it was compiled from.
        table: Row of a state x symbol -> row of the next, -1 where the symbol is refused; PIXEL has one column.
        names: A name for every row.
        coordinate: Row -> which of x1, y1, x2, y2 (0..3) a PIXEL token would be there, -1 where none is awaited.
        distance: Row -> the least number of tokens until the answer may end there (0 in text).
        start: The row of an empty answer.
        depth: Row of the block with r codes, for r = 0..100; empty without depth.
    """

    config: GrammarConfig
    table: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    coordinate: tuple[int, ...]
    distance: tuple[int, ...]
    start: int
    depth: tuple[int, ...]

    @property
    def initial(self) -> State:
        """The state of an empty answer."""
        return State(self.start)

    def row(self, name: str) -> int:
        """The row of a name, such as "text", "open", "depth 37" or "box 3"."""
        return self.names.index(name)

    def advance(self, state: State, symbol: int) -> State | None:
        """The state after one more symbol; None where it is refused.

        Beside the table stand the limits (a block or box beyond its number, the end before a forced block) and the
        order of coordinates (x2 >= x1, y2 >= y1).
        """
        control = self.table[state.control][min(symbol, Symbol.PIXEL)]
        if control < 0 or symbol > _LAST_PIXEL:
            return None
        _, blocks, boxes, corner = state
        if symbol == Symbol.DEPTH_START:
            blocks += 1
            if _beyond(blocks, self.config.max_blocks):
                return None
        elif symbol >= Symbol.PIXEL:
            code, which = symbol - Symbol.PIXEL, self.coordinate[state.control]
            if which == 0:
                boxes += 1
                if _beyond(boxes, self.config.max_boxes):
                    return None
            if which < 2:
                corner = (code, 0) if which == 0 else (corner[0], code)
            elif code < self._least_code(state):
                return None
        elif symbol == Symbol.EOS and self.owes_block(state):
            return None
        return State(control, blocks, boxes, corner)

    def owes_block(self, state: State) -> bool:
        """Whether a forced block has still to be begun."""
        return self.config.force_block is not None and state.blocks == 0

    def needed(self, state: State) -> int:
        """The least number of tokens until the answer may end, a forced block included."""
        # A block that must come first is on every way from the first row already.
        owed = self.owes_block(state) and self.config.force_block == "somewhere"
        return self.distance[state.control] + (CELLS + 2 if owed else 0)

    def allowed(self, state: State, remaining: int | None = None) -> list[int]:
        """The symbols that may come next, ascending.

        Args:
            state: Where the answer is.
            remaining: Tokens that may still be written, this one included; nothing is begun that they cannot finish. An
                answer that is too late already (an open block at the end of a prompt) goes on as far as it gets.
        """
        symbols = [symbol for symbol in Symbol if symbol != Symbol.PIXEL]
        steps = {symbol: self.advance(state, symbol) for symbol in (*symbols, _LAST_PIXEL)}
        after = {symbol: self.needed(following) for symbol, following in steps.items() if following is not None}
        if remaining is not None and self.needed(state) <= remaining:
            after = {symbol: needed for symbol, needed in after.items() if needed < remaining}
        if after.pop(_LAST_PIXEL, None) is None:  # no code is held back but by the order, which the largest fulfils
            return list(after)
        return [*after, *range(Symbol.PIXEL + self._least_code(state), _LAST_PIXEL + 1)]

    def _least_code(self, state: State) -> int:
        which = self.coordinate[state.control]
        return state.corner[which - 2] if which >= 2 and self.config.ordered else 0

    def run(self, symbols: Iterable[int], state: State | None = None) -> State | None:
        """The state after many symbols, from `initial` or a given one; None where one is refused."""
        reached: State | None = self.initial if state is None else state
        for symbol in symbols:
            if reached is None:
                return None
            reached = self.advance(reached, symbol)
        return reached

    def accepts(self, symbols: Iterable[int]) -> bool:
        """Whether a whole answer, with or without an end of sequence, is in the language."""
        state = self.run(symbols)
        return state is not None and self.needed(state) == 0


def compile_grammar(config: GrammarConfig | None = None) -> Grammar:
    """Lay out the table: about 110 rows of 10 columns."""
    config = config or GrammarConfig()
    text: dict[int, str] = {**dict.fromkeys(_TEXTS, "text"), Symbol.EOS: "ended"}
    rows: dict[str, dict[int, str]] = {"text": text, "ended": {}}
    if config.depth:
        _add_depth(rows)
    if config.boxes == "compact":
        _add_compact_box(rows)
    elif config.boxes == "aurora":
        _add_aurora_box(rows)
    start = _add_first(rows, config)
    names = tuple(rows)
    number = {name: index for index, name in enumerate(names)}
    table = tuple(tuple(number.get(rows[name].get(symbol, ""), -1) for symbol in Symbol) for name in names)
    return Grammar(
        config=config,
        table=table,
        names=names,
        coordinate=tuple(_coordinate(name, row, config) for name, row in rows.items()),
        distance=_distances(table, [number["text"], number["ended"], *([number["open"]] if "open" in rows else [])]),
        start=number[start],
        depth=tuple(number[f"depth {codes}"] for codes in range(CELLS + 1)) if config.depth else (),
    )


def _add_depth(rows: dict[str, dict[int, str]]) -> None:
    rows["text"][Symbol.DEPTH_START] = "depth 0"
    for codes in range(CELLS):
        rows[f"depth {codes}"] = {Symbol.DEPTH_CODE: f"depth {codes + 1}"}
    rows[f"depth {CELLS}"] = {Symbol.DEPTH_END: "text"}


def _add_compact_box(rows: dict[str, dict[int, str]]) -> None:
    rows["text"][Symbol.PIXEL] = "box 1"
    rows |= {f"box {count}": {Symbol.PIXEL: f"box {count + 1}"} for count in (1, 2)}
    rows["box 3"] = {Symbol.PIXEL: "text"}


def _add_aurora_box(rows: dict[str, dict[int, str]]) -> None:
    rows["text"] |= {Symbol.OPEN: "open", Symbol.CLOSE_OPEN: "open"}
    rows["open"] = {**rows["text"], Symbol.PIXEL: "box 1"}
    for count in range(1, 7):  # x1 , y1 , x2 , y2: odd ones await a comma
        rows[f"box {count}"] = {Symbol.COMMA if count % 2 else Symbol.PIXEL: f"box {count + 1}"}
    rows["box 7"] = {Symbol.CLOSE: "text", Symbol.CLOSE_OPEN: "open"}


def _add_first(rows: dict[str, dict[int, str]], config: GrammarConfig) -> str:
    text = rows["text"]
    if config.first == "block" or config.force_block == "first":
        rows["first"] = {Symbol.DEPTH_START: "depth 0"}
    elif config.first == "text":
        rows["first"] = {symbol: text[symbol] for symbol in _TEXTS}
    elif config.first == "box" and config.boxes == "compact":
        rows["first"] = {Symbol.PIXEL: "box 1"}
    elif config.first == "box":
        rows["first"] = {Symbol.OPEN: "first open"}
        rows["first open"] = {Symbol.PIXEL: "box 1"}
    else:
        return "text"
    return "first"


def _coordinate(name: str, row: Mapping[int, str], config: GrammarConfig) -> int:
    if Symbol.PIXEL not in row:
        return -1
    written = int(name.removeprefix("box ")) if name.startswith("box ") else 0
    return written // 2 if config.boxes == "aurora" else written


def _distances(table: tuple[tuple[int, ...], ...], accepting: list[int]) -> tuple[int, ...]:
    """Breadth first from the rows in which an answer may end."""
    distance = dict.fromkeys(accepting, 0)
    while len(distance) < len(table):
        reached = {
            row: 1 + min(distance[after] for after in followers if after in distance)
            for row, followers in enumerate(table)
            if row not in distance and any(after in distance for after in followers)
        }
        assert reached, "a row without a way out"
        distance |= reached
    return tuple(distance[row] for row in range(len(table)))


def _beyond(count: int, limit: int | None) -> bool:
    return limit is not None and count > limit


# The grammar as arrays: for every row of states, which symbols may come next.
#
# A row of states is a row of the grammar's table under a standing of the counters. So limits, a forced block and the
# order of coordinates become look-ups too, and an adapter needs nothing but the row of a sequence.


SYMBOLS = Symbol.PIXEL + PIXEL.size
"""Number of symbols, every PIXEL code counted."""


class StateRows:
    """Numbers for states, and what may follow each.

    A row is `control + len(grammar.table) * (blocks * 2 + boxes)`, where `blocks` is 0 while more may come, 1 when the
    limit is reached, 2 while a forced one is owed, and `boxes` is 0 or 1 likewise. Behind these, row `ordered + k` is
    any state that awaits an x2 or y2 of at least k.

    Attributes:
        grammar: The grammar.
        ordered: The first of the rows for x2 and y2.
        count: Number of rows.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.ordered = 6 * len(grammar.table)
        self.count = self.ordered + PIXEL.size
        self._stages = self._found_stages()

    def states(self) -> list[State]:
        """A state for every row, in their order."""
        config, controls = self.grammar.config, range(len(self.grammar.table))
        begun = (0 if config.force_block is None else 1, config.max_blocks or 0, 0)
        written = (0, config.max_boxes or 0)
        second = next((row for row, which in enumerate(self.grammar.coordinate) if which == 2), 0)
        counted = [State(control, blocks, boxes) for blocks, boxes in product(begun, written) for control in controls]
        return counted + [State(second, begun[0], 0, (code, 0)) for code in range(PIXEL.size)]

    def allowed(self, remaining: int | None = None) -> np.ndarray:
        """Whether a symbol may come next: (count, SYMBOLS) bool; see `Grammar.allowed`."""
        table = np.zeros((self.count, SYMBOLS), dtype=bool)
        for row, state in enumerate(self.states()):
            table[row, self.grammar.allowed(state, remaining)] = True
        return table

    def stage(self, remaining: int | None) -> int | None:
        """The largest count of tokens up to `remaining` at which what is allowed changes, or 1; None: everything is."""
        if remaining is None or not self._stages or remaining >= self._stages[-1]:
            return None
        return max([stage for stage in self._stages if stage <= remaining], default=1)

    def _found_stages(self) -> list[int]:
        grammar = self.grammar
        found = set()
        for state in self.states():
            after = {grammar.needed(step) for symbol in Symbol if (step := grammar.advance(state, symbol))}
            if len(after) > 1:
                found |= {needed + 1 for needed in after} | {grammar.needed(state)}
        return sorted(found)
