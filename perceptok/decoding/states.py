"""Where sequences of token ids are in the grammar: from the ids alone, at once for a whole batch, without a loop.

What decides the state lies in the last 102 ids at most: how many codes follow the last `<DEPTH_START>`, and which shape
of an open box the last 8 ids have. Each becomes one number per sequence, and a table turns that into a row. Only limits
look at the whole answer, by counting.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from perceptok.decoding.grammar import CELLS, Grammar, Symbol
from perceptok.decoding.tables import StateRows

__all__ = ["StateReader"]

_WINDOW = CELLS + 2  # DEPTH_START, 100 codes, and one more, by which too many codes show
_KINDS = 16  # more than there are symbols but for the PIXEL codes
_SHAPE = 8  # "(" and the seven tokens that an open box has at most


class StateReader:
    """Ids -> rows of `StateRows`, with every table on one device.

    Args:
        rows: The rows.
        symbols: The symbol of every id, (size,) int64, -1 for none; see `token_symbols`.
        device: Where the ids are.
    """

    def __init__(self, rows: StateRows, symbols: np.ndarray, device: torch.device) -> None:
        def table(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        self.state_rows = rows
        grammar = rows.grammar
        kinds = np.minimum(symbols, Symbol.PIXEL)
        # A window's key is the largest of position * 16 + kind; codes are kept out of that by a large negative number.
        marks = np.where(kinds == Symbol.DEPTH_CODE, -_KINDS * _WINDOW, np.where(kinds < 0, Symbol.TEXT, kinds))
        self._marks = table(marks)
        self._positions = table(_KINDS * np.arange(_WINDOW))
        self._rows_of_keys = table(_rows_of_keys(grammar))
        self._digits = table(_digits(kinds))
        self._powers = table(4 ** np.arange(_SHAPE)[::-1])
        self._rows_of_shapes = table(_rows_of_shapes(grammar))
        self._pixels = table(kinds == Symbol.PIXEL)
        self._ordered_rows = table(rows.ordered + np.where(symbols >= Symbol.PIXEL, symbols - Symbol.PIXEL, 0))
        self._awaits_second = table(np.isin(grammar.coordinate, (2, 3)).astype(np.int64))
        self._at_start = tuple(map(table, _at_start(grammar)))
        self._open_coordinates = table(_open_coordinates(grammar))
        (self._end_id,) = np.flatnonzero(symbols == Symbol.DEPTH_END).tolist() or [-1]

    def controls(self, ids: Tensor) -> Tensor:
        """Rows of the grammar's table: (B, T) ids -> (B,) int64; anything that is no open block or box is text."""
        if ids.shape[1] == 0:
            return ids.new_zeros(ids.shape[0])
        window = ids[:, -_WINDOW:]
        keys = (torch.take(self._marks, window) + self._positions[-window.shape[1] :]).amax(1)
        control = torch.take(self._rows_of_keys, keys)
        boxes = self.state_rows.grammar.config.boxes
        if boxes == "aurora":
            shape = ids[:, -_SHAPE:]
            numbers = (torch.take(self._digits, shape) * self._powers[-shape.shape[1] :]).sum(1)
            return torch.maximum(control, torch.take(self._rows_of_shapes, numbers))
        if boxes == "compact":
            return torch.maximum(control, self._rows_of_shapes[self._trailing_pixels(ids) % 4])
        return control

    def rows(self, ids: Tensor, prompt_length: int) -> Tensor:
        """Rows of `StateRows`: (B, T) ids, of which the first `prompt_length` are the prompt -> (B,) int64."""
        grammar = self.state_rows.grammar
        control = self.controls(ids)
        if grammar.config.first != "any" or grammar.config.force_block == "first":
            control = self._first(control, ids.shape[1] - prompt_length)
        row = control
        if grammar.config.max_blocks is not None or grammar.config.force_block:
            row = row + 2 * len(grammar.table) * self._block_standing(control, ids[:, prompt_length:])
        if grammar.config.max_boxes is not None:
            row = row + len(grammar.table) * self._box_standing(control, ids[:, prompt_length:])
        back = 4 if grammar.config.boxes == "aurora" else 2
        if grammar.config.boxes and grammar.config.ordered and ids.shape[1] >= back:
            # x1 stands as far before x2 as y1 before y2.
            least = torch.take(self._ordered_rows, ids[:, -back])
            row = torch.maximum(row, least * torch.take(self._awaits_second, control))
        return row

    def _first(self, control: Tensor, written: int) -> Tensor:
        if written == 0:
            return self._at_start[0][control]
        return self._at_start[1][control] if written == 1 else control

    def _block_standing(self, control: Tensor, answer: Tensor) -> Tensor:
        """0, 1 at the limit, 2 while a forced block is owed; a block that the prompt left open is the first one."""
        config, depth = self.state_rows.grammar.config, self.state_rows.grammar.depth
        begun = (answer == self._end_id).sum(1) + ((control >= depth[0]) & (control <= depth[-1]))
        standing = torch.zeros_like(begun)
        if config.max_blocks is not None:
            standing = (begun >= config.max_blocks).long()
        return torch.where(begun == 0, 2, standing) if config.force_block else standing

    def _box_standing(self, control: Tensor, answer: Tensor) -> Tensor:
        """0, or 1 at the limit; a box that the prompt left open is the first one."""
        open_ones = self._open_coordinates[control]
        begun = (self._pixels[answer].sum(1) - open_ones + 3).div(4, rounding_mode="floor") + (open_ones > 0)
        limit = self.state_rows.grammar.config.max_boxes
        assert limit is not None
        return (begun >= limit).long()

    def _trailing_pixels(self, ids: Tensor) -> Tensor:
        """How many PIXEL tokens end each sequence, (B,): boxes in the compact form may follow one another at once."""
        length, width = ids.shape[1], 32
        if ids.is_cuda or torch.compiler.is_compiling():
            width = length  # looking twice would make the host wait
        while True:
            pixels = self._pixels[ids[:, -width:]]
            if width >= length or not bool(pixels.all(1).any()):
                return pixels.flip(1).long().cumprod(1).sum(1)
            width *= 8


def _rows_of_keys(grammar: Grammar) -> np.ndarray:
    """Keys of windows -> rows, text where nothing is open. Keys below zero (nothing but codes) index from the end."""
    rows = np.full(2 * _KINDS * _WINDOW, grammar.row("text"))
    last = _KINDS * (_WINDOW - 1)
    for codes, row in enumerate(grammar.depth):
        rows[last - _KINDS * codes + Symbol.DEPTH_START] = row
    if "open" in grammar.names:
        rows[[last + Symbol.OPEN, last + Symbol.CLOSE_OPEN]] = grammar.row("open")
    return rows


def _digits(kinds: np.ndarray) -> np.ndarray:
    digits = np.zeros_like(kinds)
    digits[kinds == Symbol.PIXEL] = 1
    digits[kinds == Symbol.COMMA] = 2
    digits[(kinds == Symbol.OPEN) | (kinds == Symbol.CLOSE_OPEN)] = 3
    return digits


def _rows_of_shapes(grammar: Grammar) -> np.ndarray:
    """AURORA: the last 8 ids as digits of one number -> row; compact: coordinates of the open box -> row; else 0."""
    if grammar.config.boxes == "compact":
        return np.array([0, *(grammar.row(f"box {count}") for count in (1, 2, 3))])
    rows = np.zeros(4**_SHAPE, dtype=np.int64)
    if grammar.config.boxes is None:
        return rows
    shape = [3]
    for count in range(1, _SHAPE):
        shape.append(1 if count % 2 else 2)
        tail = sum(digit * 4**place for place, digit in enumerate(reversed(shape)))
        rows[tail :: 4 ** len(shape)] = grammar.row(f"box {count}")  # whatever stands before the bracket
    return rows


def _at_start(grammar: Grammar) -> np.ndarray:
    """What "text" and "open" become before the first token of an answer, and after it: (2, rows)."""
    same = np.arange(len(grammar.table))
    before, after = same.copy(), same.copy()
    before[grammar.row("text")] = grammar.start
    if "open" in grammar.names:
        before[grammar.row("open")] = grammar.start
    if "first open" in grammar.names:
        before[grammar.row("open")] = after[grammar.row("open")] = grammar.row("first open")
    return np.stack([before, after])


def _open_coordinates(grammar: Grammar) -> np.ndarray:
    """Row -> coordinates written of the open box."""
    written = [int(name.removeprefix("box ")) if name.startswith("box ") else 0 for name in grammar.names]
    return np.array([(count + 1) // 2 for count in written] if grammar.config.boxes == "aurora" else written)
