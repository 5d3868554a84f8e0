"""Generated tokens as they arrive: text, rows of depth codes, boxes, for a viewer that draws while the model writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from perceptok.decoding.grammar.automaton import CELLS
from perceptok.errors import ConstraintError
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["StreamEvent", "TokenStream"]


@dataclass(frozen=True, eq=False)
class StreamEvent:
    """One thing that has become known.

    Attributes:
        kind: "text" (one id), "row" (a row of the open block is complete), "depth" (the block is), "box", or "problem".
        start: Index of its first id in the stream.
        end: One more than the index of its last id.
        codes: Of a row (10,), a block (10, 10) or a box (4,), int64.
        block: Index of the block, of rows and blocks.
        row: Index of the row, 0..9.
        message: What is wrong, of problems.
    """

    kind: Literal["text", "row", "depth", "box", "problem"]
    start: int
    end: int
    codes: np.ndarray | None = None
    block: int = 0
    row: int = 0
    message: str = ""


class TokenStream:
    """Takes ids as they come and returns what they complete. Also a streamer for `generate(streamer=...)`.

    Brackets, commas and other text between the coordinates of a box arrive as text before the box does. One stream
    serves any number of answers, one after the other: `end` (and `close`) reset it, with indices of ids and blocks from
    0. A `generate` that was interrupted calls neither: call `close` before the next.

    Args:
        vocab: What the ids mean.
        receive: Called with every event, when the stream serves as a streamer.
        skip_prompt: As a streamer: the first ids are the prompt, of which no event is made.
    """

    def __init__(
        self,
        vocab: PerceptionVocabulary,
        receive: Callable[[StreamEvent], None] | None = None,
        *,
        skip_prompt: bool = True,
    ) -> None:
        self.vocab = vocab
        self.receive = receive
        self.skip_prompt = skip_prompt
        self._reset()

    def _reset(self) -> None:
        self._awaits_prompt = self.skip_prompt
        self._place = 0
        self._blocks = 0
        self._depth: list[int] | None = None  # codes of the open block
        self._box: list[tuple[int, int]] = []  # codes and places of the open box

    @property
    def partial(self) -> np.ndarray | None:
        """The open block so far, (10, 10) int64, -1 for codes still to come; None where no block is open."""
        if self._depth is None:
            return None
        codes = self._depth + [-1] * (CELLS - len(self._depth))
        return np.array(codes, dtype=np.int64).reshape(DEPTH_GRID)

    def feed(self, token_ids: int | Iterable[int] | Tensor) -> list[StreamEvent]:
        """The events of one token id or several, a tensor of any shape among them."""
        if isinstance(token_ids, Tensor):
            token_ids = token_ids.flatten().tolist()
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return [event for token_id in ids for event in self._read_token(int(token_id))]

    def close(self) -> list[StreamEvent]:
        """The events of what the end of the stream leaves unfinished; what is fed next is another stream."""
        events = [*self._break_box(), *self._break_block("the end")]
        self._reset()
        return events

    def put(self, value: Tensor) -> None:
        """For `generate(streamer=...)`: the prompt (1, N) first, then ids (1,); raises ConstraintError for a batch."""
        if value.ndim > 1 and len(value) > 1:
            raise ConstraintError(f"a stream follows one sequence; got a batch of {len(value)}: generate one by one")
        if self._awaits_prompt:
            self._awaits_prompt = False
            return
        self._emit(self.feed(value))

    def end(self) -> None:
        """For `generate(streamer=...)`: the answer has ended."""
        self._emit(self.close())

    def _emit(self, events: list[StreamEvent]) -> None:
        if self.receive is not None:
            for event in events:
                self.receive(event)

    def _read_token(self, token_id: int) -> list[StreamEvent]:
        place, self._place = self._place, self._place + 1
        kind, code = self._classify(token_id)
        if kind == "pixel":
            return [*self._break_block("a coordinate"), *self._add_coordinate(place, code)]
        if kind == "code":
            return [*self._break_box(), *self._add_code(place, code)]
        if kind == "start":
            events = [*self._break_box(), *self._break_block("another beginning")]
            self._depth = []
            return events
        if kind == "end":
            return [*self._break_box(), *self._end_block(place)]
        events = self._break_box() if self._box and place - self._box[-1][1] >= self._max_distance else []
        return [*events, *self._break_block("text"), StreamEvent("text", place, place + 1)]

    def _classify(self, token_id: int) -> tuple[Literal["pixel", "code", "start", "end", "text"], int]:
        if not self.vocab.is_perception(token_id):
            return "text", -1
        if self.vocab.has(DEPTH) and token_id in (self.vocab.start_id(DEPTH), self.vocab.end_id(DEPTH)):
            return "start" if token_id == self.vocab.start_id(DEPTH) else "end", -1
        token_set, code = self.vocab.code(token_id)
        return ("code", code) if token_set == DEPTH else ("pixel", code) if token_set == PIXEL else ("text", -1)

    @property
    def _max_distance(self) -> int:
        """How far the next coordinate of the open box may be from the last: as the second was from the first."""
        return 2 if len(self._box) == 1 else self._box[1][1] - self._box[0][1]

    def _add_coordinate(self, place: int, code: int) -> list[StreamEvent]:
        if len(self._box) > 1 and place - self._box[-1][1] < self._max_distance:
            return [*self._break_box(), *self._add_coordinate(place, code)]
        self._box.append((code, place))
        if len(self._box) < 4:
            return []
        start, end, codes = self._box[0][1], place + 1, [coordinate for coordinate, _ in self._box]
        self._box = []
        if codes[2] < codes[0] or codes[3] < codes[1]:
            return [StreamEvent("problem", start, end, message=f"a box that is upside down: {codes}")]
        return [StreamEvent("box", start, end, np.array(codes, dtype=np.int64))]

    def _add_code(self, place: int, code: int) -> list[StreamEvent]:
        if self._depth is None:
            return [StreamEvent("problem", place, place + 1, message="a depth code outside a block")]
        if len(self._depth) == CELLS:
            return [*self._break_block("one code too many"), *self._add_code(place, code)]
        self._depth.append(code)
        row, column = divmod(len(self._depth) - 1, DEPTH_GRID[1])
        if column < DEPTH_GRID[1] - 1:
            return []
        codes = np.array(self._depth[-DEPTH_GRID[1] :], dtype=np.int64)
        return [StreamEvent("row", place - column, place + 1, codes, self._blocks, row)]

    def _end_block(self, place: int) -> list[StreamEvent]:
        if self._depth is None:
            return [StreamEvent("problem", place, place + 1, message="an end without a beginning")]
        if len(self._depth) < CELLS:
            return self._break_block(DEPTH.end)
        codes = np.array(self._depth, dtype=np.int64).reshape(DEPTH_GRID)
        event = StreamEvent("depth", place - CELLS - 1, place + 1, codes, self._blocks)
        self._depth, self._blocks = None, self._blocks + 1
        return [event]

    def _break_block(self, cause: str) -> list[StreamEvent]:
        if self._depth is None:
            return []
        count, self._depth = len(self._depth), None
        start = self._place - count - (1 if cause == "the end" else 2)
        end = start + count + (2 if cause == DEPTH.end else 1)
        return [StreamEvent("problem", start, end, message=f"a block of {count} codes, broken by {cause}")]

    def _break_box(self) -> list[StreamEvent]:
        if not self._box:
            return []
        count, start, end = len(self._box), self._box[0][1], self._box[-1][1] + 1
        self._box = []
        return [StreamEvent("problem", start, end, message=f"a box of {count} coordinates; a box has 4")]
