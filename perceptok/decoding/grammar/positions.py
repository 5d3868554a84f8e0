"""Where sequences of token ids stand in the grammar: found from the ids alone, for a whole batch, without a loop.

The last id says what may be open: after a depth code a block, after a PIXEL token or a comma a box. Looking back, the
nearest id that cannot be a part of it decides: `<DEPTH_START>` or "(" at the right distance opens it, and anything else
leaves text. So a table (kind of the last id, distance, kind of an id) holds verdicts, and the nearest one counts. Only
limits look at the whole answer, by counting.

What can be looked up is in tables, so that a step launches few kernels on a GPU. On the CPU ids are a NumPy array:
operations on some hundred numbers take half as long there (14 us instead of 28 for one sequence, measured).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from itertools import product
from typing import Any

import numpy as np
import torch

from perceptok.decoding.grammar.automaton import CELLS, SYMBOL_COUNT, Grammar, GrammarConfig, State, Symbol
from perceptok.errors import ConstraintError
from perceptok.tokens import PIXEL

__all__ = ["StateReader", "StateRows", "find_prompt_state"]


_PIXELS = range(Symbol.PIXEL, SYMBOL_COUNT)
_OPENING = (Symbol.OPEN, Symbol.CLOSE_OPEN)
_CLOSING = (Symbol.CLOSE, Symbol.CLOSE_OPEN)
_ADVICE = "repair the end of the prompt, or close there what it leaves open"


def find_prompt_state(grammar: Grammar, symbols: Sequence[int]) -> State:
    """The state in which the answer to a prompt begins. What the prompt leaves open counts, and nothing before it.

    Args:
        grammar: The grammar of the answer.
        symbols: The symbols of the prompt's ids; -1 counts as text.

    Raises:
        ConstraintError: The prompt ends inside a block or box with tokens that are not allowed there.
    """
    kind, start = _find_open_part(grammar, symbols)
    state = State(grammar.row("text"))
    for place in range(start, len(symbols)):
        following = grammar.advance(state, symbols[place])
        if following is None:
            symbol = symbols[place]
            name = "ordinary text" if symbol < 0 else f"a token of the kind {Symbol(min(symbol, Symbol.PIXEL)).name}"
            raise ConstraintError(
                f"the prompt ends inside a {kind}, which begins at its token {start} and is broken at {place}, where "
                f"{name} is not allowed; {_ADVICE}"
            )
        state = following
    if grammar.distance[state.control]:
        return state
    if "first open" in grammar.names and symbols and symbols[-1] in _OPENING:
        return State(grammar.row("first open"))
    return grammar.initial


def _find_open_part(grammar: Grammar, symbols: Sequence[int]) -> tuple[str, int]:
    """What the prompt leaves open and where that begins; the prompt's own end where nothing is open."""
    end = len(symbols)
    if grammar.config.depth:
        start = _find_last(symbols, (Symbol.DEPTH_START,))
        if start > _find_last(symbols, (Symbol.DEPTH_END,)):
            return "depth block", start
        if end and symbols[-1] == Symbol.DEPTH_CODE:
            raise ConstraintError(f"the prompt ends in a depth code outside a block; {_ADVICE}")
    last = _find_last(symbols, _PIXELS)
    if grammar.config.boxes is None or last < 0:
        return "text", end
    if grammar.config.boxes == "compact":
        run = next((back for back in range(last + 1) if symbols[last - back] < Symbol.PIXEL), last + 1)
        return "box", end - run % 4 if last == end - 1 else end
    while last >= 2 and symbols[last - 1] == Symbol.COMMA and symbols[last - 2] >= Symbol.PIXEL:
        last -= 2
    if last and symbols[last - 1] in _OPENING:
        closed = any(symbol in _CLOSING for symbol in symbols[last:])
        return "box", end if closed else last - 1
    if symbols[-1] >= Symbol.PIXEL:
        raise ConstraintError(f"the prompt ends in a coordinate outside a box; {_ADVICE}")
    return "text", end


def _find_last(symbols: Sequence[int], kinds: Collection[int]) -> int:
    return next((place for place in reversed(range(len(symbols))) if symbols[place] in kinds), -1)


class StateRows:
    """Numbers for states, and the symbols that may follow each.

    A row is a row of the grammar's table together with how far the counters are: `control + len(grammar.table) *
    (blocks * 2 + boxes)`, where `blocks` is 0 while more may come, 1 at the limit, 2 while a forced one is missing, and
    `boxes` is 0 or 1 likewise. Behind these, row `ordered + k` is any state that awaits an x2 or y2 of at least k. So
    limits, a forced block and the order of coordinates become look-ups, and an adapter needs a sequence's row alone.

    Attributes:
        grammar: The grammar.
        ordered: The first of the rows for x2 and y2.
        count: Number of rows.
        found: The row of each number that a `StateReader` returns: every row once, or, where verdicts alone decide,
            that of every verdict.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.ordered = 6 * len(grammar.table)
        self.count = self.ordered + PIXEL.size
        self._budget_steps = self._find_budget_steps()
        self._verdicts = _build_verdicts(self, _WINDOW)
        self.found = np.arange(self.count)
        if not self.has_more_than_verdicts:
            values = np.flatnonzero(np.bincount(self._verdicts.ravel()))
            self.found = values & _ROW_MASK
            self._verdicts = np.searchsorted(values, self._verdicts)  # ascending too, so that the nearest counts

    @property
    def has_more_than_verdicts(self) -> bool:
        """Whether a row depends on counts, on the length of the answer, or on corners that verdicts do not know."""
        config = self.grammar.config
        has_limits = config.max_blocks is not None or config.max_boxes is not None
        return has_limits or bool(config.force_block) or config.first != "any" or config.boxes == "compact"

    def find_verdicts(self, length: int) -> np.ndarray:
        """The table of `_build_verdicts`; in the compact form for sequences of that length."""
        if self.grammar.config.boxes == "compact" and length > self._verdicts.shape[2]:
            self._verdicts = _build_verdicts(self, max(length, 2 * self._verdicts.shape[2]))
        return self._verdicts

    def list_states(self) -> list[State]:
        """A state for every row, in their order."""
        config, controls = self.grammar.config, range(len(self.grammar.table))
        blocks = (0 if config.force_block is None else 1, config.max_blocks or 0, 0)
        boxes = (0, config.max_boxes or 0)
        x2 = next((row for row, coordinate in enumerate(self.grammar.coordinate) if coordinate == 2), 0)
        counted = [State(control, *counts) for counts in product(blocks, boxes) for control in controls]
        return counted + [State(x2, blocks[0], 0, (code, 0)) for code in range(PIXEL.size)]

    def allowed_symbols(self, remaining: int | None = None) -> np.ndarray:
        """Whether a symbol may come next, with so many tokens left: (count, SYMBOL_COUNT) bool."""
        table = np.zeros((self.count, SYMBOL_COUNT), dtype=bool)
        for row, state in enumerate(self.list_states()):
            table[row, self.grammar.allowed_symbols(state, remaining)] = True
        return table

    def round_budget(self, remaining: int | None) -> int | None:
        """The largest number of tokens up to `remaining` at which what is allowed changes, or 1; None: no limit."""
        if remaining is None or not self._budget_steps or remaining >= self._budget_steps[-1]:
            return None
        return max([step for step in self._budget_steps if step <= remaining], default=1)

    def _find_budget_steps(self) -> list[int]:
        grammar = self.grammar
        steps = set()
        for state in self.list_states():
            needed = {
                grammar.count_tokens_to_end(after) for symbol in Symbol if (after := grammar.advance(state, symbol))
            }
            if len(needed) > 1:
                steps |= {count + 1 for count in needed} | {grammar.count_tokens_to_end(state)}
        return sorted(steps)


Array = Any
"""A tensor on the reader's device, or an ndarray if it has none."""

_WINDOW = CELLS + 1  # `<DEPTH_START>` and 100 codes
_LONG_WINDOW = 1 << 14  # on a GPU, for compact boxes that follow one another; longer sequences build larger tables
_ROW_BITS = 10  # of a verdict; the bits above say how near the id is to the end
_ROW_MASK = (1 << _ROW_BITS) - 1
_MARGIN = 1 << 17
"""On a GPU, ids so far below zero or beyond the tokenizer are text; to clip them would be one more kernel."""


class _Kind(IntEnum):
    """What verdicts distinguish."""

    OTHER = 0
    START = 1
    CODE = 2
    PIXEL = 3
    OPEN = 4
    COMMA = 5


_KINDS: dict[int, int] = {
    Symbol.DEPTH_START: _Kind.START,
    Symbol.DEPTH_CODE: _Kind.CODE,
    Symbol.COMMA: _Kind.COMMA,
    **dict.fromkeys(_OPENING, _Kind.OPEN),
    **dict.fromkeys(_PIXELS, _Kind.PIXEL),
}


class StateReader:
    """Finds the rows in which sequences of ids are, as numbers of `StateRows.found`.

    Args:
        rows: The rows.
        symbols: The symbol of every id, (size,) int64, -1 for none, as `classify_tokens` gives them.
        device: Where the ids are, which are tensors then; None for NumPy arrays.
    """

    def __init__(self, rows: StateRows, symbols: np.ndarray, device: torch.device | None = None) -> None:
        config = rows.grammar.config
        self._rows, self._device, self._size = rows, device, len(symbols)
        # Ids beyond the tokenizer and (from the end) below zero are text.
        symbols = np.pad(symbols, (0, 1 if device is None else 2 * _MARGIN), constant_values=Symbol.TEXT)
        kinds = np.array([_KINDS.get(symbol, _Kind.OTHER) for symbol in (*range(SYMBOL_COUNT), -1)])
        limits = _find_limits(config)
        self._limits = {name: self._load(values) for name, values in limits.items() if len(values)}
        parts = {
            "kind": kinds[symbols],
            "code": np.maximum(symbols - Symbol.PIXEL, 0),
            "boxes": symbols >= Symbol.PIXEL,
            "blocks": symbols == Symbol.DEPTH_END,
        }
        parts = {
            name: part.astype(np.int64) for name, part in parts.items() if name not in limits.keys() - self._limits
        }
        self._columns = {name: number for number, name in enumerate(parts)}
        self._parts: Array = parts if device is None else self._load(np.stack(list(parts.values()), 1))
        self._verdicts = self._load(rows.find_verdicts(_WINDOW if device is None else _LONG_WINDOW))
        self._row_table = self._load(_build_row_table(rows)) if rows.has_more_than_verdicts else None
        self._back = {"aurora": 4, "compact": 2}[config.boxes] if config.boxes and config.ordered else 0

    def _load(self, values: np.ndarray) -> Array:
        return values if self._device is None else torch.from_numpy(values).to(self._device)

    def find_rows(self, ids: Array, prompt_length: int) -> Array:
        """Numbers of `StateRows.found`: (B, T) ids, of which the first `prompt_length` are the prompt -> (B,) int64."""
        length, compact = ids.shape[1], self._rows.grammar.config.boxes == "compact"
        window = length if compact and self._device is not None else min(length, _WINDOW)
        read = self._read_parts(ids, min(length - window, prompt_length if self._limits else length))
        # x1 stands as far before x2 as y1 before y2.
        corner = read("code", length - self._back, length - self._back + 1)[:, 0] if 0 < self._back <= length else None
        best = self._find_nearest(read, length, window, corner)
        if self._row_table is None:
            return best
        table = self._row_table[min(length - prompt_length, 2)]
        at = [best & _ROW_MASK]
        if compact and corner is not None:
            at.append(corner)
        else:
            table = table[:, 0]
        for name, limits in self._limits.items():
            count = read(name, prompt_length, length).sum(1)
            at.append((np if self._device is None else torch).searchsorted(limits, count, side="right"))
        return table[tuple(at)]

    def _read_parts(self, ids: Array, first: int) -> Callable[..., Array]:
        """A function that returns a column of the ids from one place up to another, none of them before the first."""
        if self._device is None:
            return lambda name, start, stop: self._parts[name].take(ids[:, start:stop].clip(-1, self._size))
        parts = self._parts[ids[:, first:]]
        return lambda name, start, stop: parts[:, start - first : stop - first, self._columns[name]]

    def _find_nearest(self, read: Callable[..., Array], length: int, window: int, corner: Array | None) -> Array:
        """The nearest verdict on each sequence (B,), from its last `window` ids."""
        kinds = read("kind", length - window, length)
        if not window:
            return kinds.sum(1)  # zeros: text
        if window > self._verdicts.shape[2]:
            self._verdicts = self._load(self._rows.find_verdicts(window))
        corners, known = self._verdicts.shape[1:3]
        last = kinds[:, -1]
        if self._device is not None:
            end = self._verdicts[:, :, known - window :]
            of_last = end[:, 0][last] if corner is None or corners == 1 else end[last, corner]
            return of_last.gather(2, kinds[:, :, None]).amax((1, 2))
        table = self._verdicts.reshape(-1, known * self._verdicts.shape[3])
        offsets = np.arange(known - window, known) * self._verdicts.shape[3]
        lines = last * corners + (0 if corner is None or corners == 1 else corner)
        best = table.ravel().take(kinds + offsets + (lines * table.shape[1])[:, None]).max(1)
        if window < length and self._rows.grammar.config.boxes == "compact" and (best >> _ROW_BITS <= known).any():
            return self._find_nearest(read, length, min(length, 8 * window), corner)  # boxes alone as far as was seen
        return best


def _build_verdicts(rows: StateRows, length: int) -> np.ndarray:
    """What an id says of the row: (kinds of the last id, corners, places, kinds of the id), the last place the last id.

    0 for a part of what may be open; else the row in the low bits and, above them, how near the id is to the last one,
    so that the largest verdict counts. Text is row 0, which is also what remains without any verdict. Corners are the
    PIXEL codes at which an AURORA box has its x1 or y1, and one otherwise.
    """
    grammar = rows.grammar
    config = grammar.config
    assert grammar.row("text") == 0
    assert rows.count <= 1 << _ROW_BITS
    corners = PIXEL.size if config.boxes == "aurora" and config.ordered else 1
    nearness = np.arange(length + 1, 2 * length + 1) << _ROW_BITS
    table = np.broadcast_to(nearness[:, None], (len(_Kind), corners, length, len(_Kind))).copy()
    verdicts = table[:, :, ::-1]  # by the distance from the last id
    for codes, row in enumerate(grammar.depth):
        verdicts[_Kind.CODE if codes else _Kind.START, :, codes, _Kind.START] += row
    verdicts[_Kind.CODE, :, :, _Kind.CODE] = 0
    if config.boxes == "compact":
        boxes = np.array([grammar.row(name) for name in ("text", "box 1", "box 2", "box 3")])
        distance = np.arange(length)
        verdicts[_Kind.PIXEL] += boxes[distance % 4][:, None]
        # The farthest of many PIXEL tokens counts where nothing else is seen.
        verdicts[_Kind.PIXEL, :, :, _Kind.PIXEL] = (distance + 1 << _ROW_BITS) + boxes[(distance + 1) % 4]
    if config.boxes == "aurora":
        verdicts[_Kind.OPEN, :, 0, _Kind.OPEN] += grammar.row("open")
        for written in range(1, 8):  # coordinates and commas in turn
            last, before = (_Kind.PIXEL, _Kind.COMMA) if written % 2 else (_Kind.COMMA, _Kind.PIXEL)
            row = grammar.row(f"box {written}")
            is_ordered = corners > 1 and grammar.coordinate[row] >= 2
            verdicts[last, :, written, _Kind.OPEN] += rows.ordered + np.arange(corners) if is_ordered else row
            verdicts[last, :, 0:written:2, last] = verdicts[last, :, 1:written:2, before] = 0
    return table


def _find_limits(config: GrammarConfig) -> dict[str, np.ndarray]:
    """The numbers of closed blocks, and of PIXEL tokens, from which on a row may be another; ascending."""
    blocks = {1} if config.force_block else set()
    if config.max_blocks is not None:
        blocks |= {config.max_blocks - 1, config.max_blocks}  # with and without an open one
    boxes = set() if config.max_boxes is None else {4 * config.max_boxes - missing for missing in range(3, 7)}
    return {
        name: np.array(sorted(count for count in counts if count > 0), dtype=np.int64)
        for name, counts in (("blocks", blocks), ("boxes", boxes))
    }


def _build_row_table(rows: StateRows) -> np.ndarray:
    """Rows by tokens written (0, 1, more), row of the verdict, corner, and where counts are among `_find_limits`."""
    grammar = rows.grammar
    config, size = grammar.config, len(grammar.table)
    limits = _find_limits(config)
    controls = _build_starting_rows(grammar)[:, :, None, None]
    blocks = _find_block_levels(grammar, controls, np.append(0, limits["blocks"])[:, None])
    boxes = _find_box_levels(grammar, controls, np.append(0, limits["boxes"]))
    counted = (controls + size * (2 * blocks + boxes))[:, :, None]
    if config.boxes == "compact":
        corners = PIXEL.size if config.ordered else 1
        table = np.repeat(counted, corners, 2)
        if config.ordered:
            table[:, np.isin(grammar.coordinate, (2, 3))] = (rows.ordered + np.arange(corners))[:, None, None]
    else:
        table = np.empty((3, rows.count, *counted.shape[2:]), dtype=np.int64)
        table[:] = np.arange(rows.count)[:, None, None, None]
        table[:, :size] = counted
    return table.reshape(*table.shape[:3], *(len(values) + 1 for values in limits.values() if len(values)))


def _find_block_levels(grammar: Grammar, control: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """0, 1 at the limit, 2 while a forced block is missing; a block that the prompt left open is the first one."""
    config = grammar.config
    blocks = closed + np.isin(control, grammar.depth)
    levels = np.zeros_like(blocks) if config.max_blocks is None else (blocks >= config.max_blocks) * 1
    return np.where(blocks == 0, 2, levels) if config.force_block else levels


def _find_box_levels(grammar: Grammar, control: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """0, or 1 at the limit; a box that the prompt left open is the first one."""
    in_open_box = _count_open_coordinates(grammar)[control]
    boxes = (pixels - in_open_box + 3) // 4 + (in_open_box > 0)
    return np.zeros_like(boxes) if grammar.config.max_boxes is None else (boxes >= grammar.config.max_boxes) * 1


def _build_starting_rows(grammar: Grammar) -> np.ndarray:
    """What rows become before the first token of an answer, after it, and later, by the rule of `first`: (3, rows)."""
    rows = np.arange(len(grammar.table))
    before, after = rows.copy(), rows.copy()
    if grammar.start != grammar.row("text"):
        before[[grammar.row(name) for name in ("text", "open") if name in grammar.names]] = grammar.start
    if "first open" in grammar.names:
        before[grammar.row("open")] = after[grammar.row("open")] = grammar.row("first open")
    return np.stack([before, after, rows])


def _count_open_coordinates(grammar: Grammar) -> np.ndarray:
    """Row -> coordinates written of the open box."""
    written = [int(name.removeprefix("box ")) if name.startswith("box ") else 0 for name in grammar.names]
    return np.array([(count + 1) // 2 for count in written] if grammar.config.boxes == "aurora" else written)
