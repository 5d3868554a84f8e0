"""The grammar as arrays: for every row of states, which symbols may come next.

A row of states is a row of the grammar's table under a standing of the counters. So limits, a forced block and the
order of coordinates become look-ups too, and an adapter needs nothing but the row of a sequence.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from perceptok.decoding.grammar.automaton import Grammar, State, Symbol
from perceptok.tokens import PIXEL

__all__ = ["SYMBOLS", "StateRows"]

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
