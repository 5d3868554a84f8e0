"""The grammar of answers with perception tokens: a table of states and token classes, and a few counters.

An answer is ordinary text in which perception tokens stand in three forms only:

- a depth block: `<DEPTH_START>`, 100 codes, `<DEPTH_END>`;
- a compact box: four PIXEL tokens in a row;
- an AURORA box: a token that ends in "(", then PIXEL "," PIXEL "," PIXEL "," PIXEL, then a token that begins with ")".
  Brackets of ordinary text are not restricted: only a PIXEL token after "(" opens a box.

Pure Python without a framework. An adapter to another engine needs `classify_tokens` and `Grammar`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, Literal, NamedTuple

from perceptok.config import config_from_dict
from perceptok.errors import ConfigError
from perceptok.tokens import DEPTH_GRID, PIXEL

__all__ = ["CELLS", "SYMBOL_COUNT", "Grammar", "GrammarConfig", "State", "Symbol", "compile_grammar"]


CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]
"""Codes in one depth block: 100."""


class Symbol(IntEnum):
    """Classes of tokens, the columns of the table; the PIXEL token of code k is the symbol `Symbol.PIXEL + k`."""

    TEXT = 0
    OPEN = 1
    """Text that ends in "(", such as "(" or " (" or ":("."""
    COMMA = 2
    """The token "," and nothing else."""
    CLOSE = 3
    """Text that begins with ")", such as ")" or ")."."""
    CLOSE_OPEN = 4
    """Text that begins with ")" and ends in "(", such as "),("."""
    DEPTH_START = 5
    DEPTH_END = 6
    DEPTH_CODE = 7
    EOS = 8
    PIXEL = 9


SYMBOL_COUNT = Symbol.PIXEL + PIXEL.size
"""Number of symbols, every PIXEL code counted."""

_LAST_PIXEL = SYMBOL_COUNT - 1
_TEXTS = (Symbol.TEXT, Symbol.OPEN, Symbol.COMMA, Symbol.CLOSE, Symbol.CLOSE_OPEN)
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "boxes": ("aurora", "compact", None),
    "first": ("any", "text", "block", "box"),
    "force_block": ("first", "somewhere", None),
}


@dataclass(frozen=True)
class GrammarConfig:
    """What an answer may contain.

    Attributes:
        depth: Whether depth blocks are allowed.
        boxes: The form of boxes: "aurora" is `(x1,y1,x2,y2)` in PIXEL tokens, "compact" four PIXEL tokens in a row;
            None for no boxes.
        ordered: Boxes have x2 >= x1 and y2 >= y1.
        max_blocks: Maximum number of depth blocks; None for no limit.
        max_boxes: Maximum number of boxes; None for no limit.
        first: What the answer begins with: "any" thing, "text" (so that it is not empty), a "block" or a "box".
        force_block: The answer begins with a block ("first", the same as `first="block"`) or contains one
            ("somewhere").
    """

    depth: bool = True
    boxes: Literal["aurora", "compact"] | None = "aurora"
    ordered: bool = True
    max_blocks: int | None = None
    max_boxes: int | None = None
    first: Literal["any", "text", "block", "box"] = "any"
    force_block: Literal["first", "somewhere"] | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is one of {', '.join(map(repr, choices))}; got {getattr(self, name)!r}")
        for name in ("max_blocks", "max_boxes"):
            limit = getattr(self, name)
            if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
                raise ConfigError(f"{name} is a count or None; got {limit!r}")
        if self.force_block == "first" and self.first not in ("any", "block"):
            raise ConfigError(f"force_block='first' and first={self.first!r} contradict each other; leave one out")
        if (self.force_block or self.first == "block") and (not self.depth or self.max_blocks == 0):
            raise ConfigError("a block is required, but depth is off or max_blocks is 0")
        if self.first == "box" and (self.boxes is None or self.max_boxes == 0):
            raise ConfigError("a box is required, but boxes is None or max_boxes is 0")

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> GrammarConfig:
        """Read what `to_dict` wrote, missing keys with their defaults; raises ConfigError for what is not valid."""
        return config_from_dict(cls, values)


class State(NamedTuple):
    """How far an answer has come: a row of the grammar's table and the counters.

    Attributes:
        control: The row.
        blocks: Depth blocks begun.
        boxes: Boxes begun.
        corner: x1 and y1 of the open box as far as they are written, the minimum of x2 and y2.
    """

    control: int
    blocks: int = 0
    boxes: int = 0
    corner: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Grammar:
    """A grammar as `compile_grammar` makes it: a finite automaton over symbols, with counters.

    Attributes:
        config: What it was compiled from.
        table: Row of a state x symbol -> row of the next, -1 where the symbol is not allowed; PIXEL has one column.
        names: The name of every row.
        coordinate: Row -> which of x1, y1, x2, y2 (0..3) a PIXEL token would be there, -1 where none may come.
        distance: Row -> the minimum number of tokens until the answer may end there (0 in text).
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
        """The row with a name, such as "text", "open", "depth 37" or "box 3"."""
        return self.names.index(name)

    def advance(self, state: State, symbol: int) -> State | None:
        """The state after one more symbol; None where the symbol is not allowed.

        Three rules hold beside the table: the limits, no end before a forced block, and the order of coordinates
        (x2 >= x1, y2 >= y1).
        """
        control = self.table[state.control][min(symbol, Symbol.PIXEL)]
        if control < 0 or symbol > _LAST_PIXEL:
            return None
        _, blocks, boxes, corner = state
        if symbol == Symbol.DEPTH_START:
            blocks += 1
            if self.config.max_blocks is not None and blocks > self.config.max_blocks:
                return None
        elif symbol >= Symbol.PIXEL:
            code, coordinate = symbol - Symbol.PIXEL, self.coordinate[state.control]
            if coordinate == 0:
                boxes, corner = boxes + 1, (code, 0)
                if self.config.max_boxes is not None and boxes > self.config.max_boxes:
                    return None
            elif coordinate == 1:
                corner = (corner[0], code)
            elif code < self._find_min_code(state):
                return None
        elif symbol == Symbol.EOS and self.needs_block(state):
            return None
        return State(control, blocks, boxes, corner)

    def needs_block(self, state: State) -> bool:
        """Whether a forced block has not begun yet."""
        return self.config.force_block is not None and state.blocks == 0

    def count_tokens_to_end(self, state: State) -> int:
        """The minimum number of tokens until the answer may end, a forced block included."""
        # A block that must come first lies on every path from the first row already.
        forced = self.needs_block(state) and self.config.force_block == "somewhere"
        return self.distance[state.control] + (CELLS + 2 if forced else 0)

    def allowed_symbols(self, state: State, remaining: int | None = None) -> list[int]:
        """The symbols that may come next, ascending.

        Args:
            state: The state of the answer.
            remaining: Tokens that may still be written, this one included: nothing is begun that cannot be finished
                within them. Where they are too few already (an open block at the end of a prompt), they are ignored.
        """
        symbols = [symbol for symbol in Symbol if symbol != Symbol.PIXEL]
        steps = {symbol: self.advance(state, symbol) for symbol in (*symbols, _LAST_PIXEL)}
        needed = {
            symbol: self.count_tokens_to_end(following) for symbol, following in steps.items() if following is not None
        }
        if remaining is not None and self.count_tokens_to_end(state) <= remaining:
            needed = {symbol: count for symbol, count in needed.items() if count < remaining}
        if needed.pop(_LAST_PIXEL, None) is None:  # the order alone excludes codes, and never the largest
            return list(needed)
        return [*needed, *range(Symbol.PIXEL + self._find_min_code(state), _LAST_PIXEL + 1)]

    def _find_min_code(self, state: State) -> int:
        coordinate = self.coordinate[state.control]
        return state.corner[coordinate - 2] if coordinate >= 2 and self.config.ordered else 0

    def run(self, symbols: Iterable[int], state: State | None = None) -> State | None:
        """The state after a sequence of symbols, from `initial` or a given state; None where one is not allowed."""
        current: State | None = self.initial if state is None else state
        for symbol in symbols:
            if current is None:
                return None
            current = self.advance(current, symbol)
        return current

    def accepts(self, symbols: Iterable[int]) -> bool:
        """Whether a whole answer, with or without an end of sequence, is in the language."""
        state = self.run(symbols)
        return state is not None and self.count_tokens_to_end(state) == 0


def compile_grammar(config: GrammarConfig | None = None) -> Grammar:
    """Build the table of a configuration: about 110 rows of 10 columns."""
    config = config or GrammarConfig()
    rows: dict[str, dict[int, str]] = {
        "text": {**dict.fromkeys(_TEXTS, "text"), Symbol.EOS: "ended"},
        "ended": {},
    }
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
        coordinate=tuple(_find_coordinate(name, row, config) for name, row in rows.items()),
        distance=_compute_distances(table, [number[name] for name in ("text", "ended", "open") if name in number]),
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
    for count in range(1, 7):  # x1 , y1 , x2 , y2: a comma follows the odd ones
        rows[f"box {count}"] = {Symbol.COMMA if count % 2 else Symbol.PIXEL: f"box {count + 1}"}
    rows["box 7"] = {Symbol.CLOSE: "text", Symbol.CLOSE_OPEN: "open"}


def _add_first(rows: dict[str, dict[int, str]], config: GrammarConfig) -> str:
    """Add the rows for the beginning of an answer; returns the name of the first."""
    if config.first == "block" or config.force_block == "first":
        rows["first"] = {Symbol.DEPTH_START: "depth 0"}
    elif config.first == "text":
        rows["first"] = {symbol: rows["text"][symbol] for symbol in _TEXTS}
    elif config.first == "box" and config.boxes == "compact":
        rows["first"] = {Symbol.PIXEL: "box 1"}
    elif config.first == "box":
        rows["first"] = {Symbol.OPEN: "first open"}
        rows["first open"] = {Symbol.PIXEL: "box 1"}
    else:
        return "text"
    return "first"


def _find_coordinate(name: str, row: Mapping[int, str], config: GrammarConfig) -> int:
    if Symbol.PIXEL not in row:
        return -1
    written = int(name.removeprefix("box ")) if name.startswith("box ") else 0
    return written // 2 if config.boxes == "aurora" else written


def _compute_distances(table: tuple[tuple[int, ...], ...], accepting: list[int]) -> tuple[int, ...]:
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
