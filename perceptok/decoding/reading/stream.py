"""Generated tokens as they arrive: text, rows of depth codes, boxes, for a viewer that draws while the model writes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from torch import Tensor

from perceptok.decoding.grammar.automaton import CELLS
from perceptok.decoding.reading.generation import Problem, Span, find_pieces, spell_token
from perceptok.errors import ConstraintError
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["StreamEvent", "TokenStream"]


_COORDINATE = PIXEL.token(0)
_FOLLOWING = ("x", ")x", f"{_COORDINATE}x", f",{_COORDINATE}x")
"""What may follow: all that the grammar tells apart."""


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

    It reads as `parse_generation` does. Brackets and commas arrive as text; a box with commas is known once its bracket
    closes. White space between the tokens of a block belongs to the block. One stream
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
        self._places: list[int] = []  # places of its beginning and codes
        self._before = ""  # the separators before the open box
        self._box: list[tuple[str, int]] = []  # texts and places of the open box's tokens, from its first coordinate

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
        events = [*self._add_to_box("x", self._place), *self._break_block("the end")]
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
        text, (kind, code) = spell_token(token_id, self.vocab), self._classify(token_id)
        events = self._add_to_box(text if kind in ("pixel", "text") else "x", place)
        if kind == "pixel":
            return [*self._break_block("a coordinate"), *events]
        if kind == "code":
            return [*events, *self._add_code(place, code)]
        if kind == "start":
            events += self._break_block("another beginning")
            self._depth, self._places = [], [place]
            return events
        if kind == "end":
            return [*events, *self._end_block(place)]
        if self._depth is not None and text.isspace():
            return events
        return [*events, *self._break_block("text"), StreamEvent("text", place, place + 1)]

    def _classify(self, token_id: int) -> tuple[Literal["pixel", "code", "start", "end", "text"], int]:
        if not self.vocab.is_perception(token_id):
            return "text", -1
        if self.vocab.has(DEPTH) and token_id in (self.vocab.start_id(DEPTH), self.vocab.end_id(DEPTH)):
            return "start" if token_id == self.vocab.start_id(DEPTH) else "end", -1
        token_set, code = self.vocab.code(token_id)
        return ("code", code) if token_set == DEPTH else ("pixel", code) if token_set == PIXEL else ("text", -1)

    def _add_to_box(self, text: str, place: int) -> list[StreamEvent]:
        """Add a token's text to the open box, or begin one; the events of what is decided then."""
        if not self._box and not text.startswith("<"):
            self._before = self._before if text.isspace() else text
            return []
        if not (text.isspace() and self._box[-1][0] == text):  # repeated spaces change nothing
            self._box.append((text, place))
        events = []
        while self._box and (found := self._find_decided()) is not None:
            events.append(self._take_from_box(found))
        return events

    def _find_decided(self) -> Span | Problem | None:
        """What the first coordinates of the open box are, if nothing that follows can change it."""
        written = self._before + "".join(text for text, _ in self._box)
        found = [_find_first(written + following, self.vocab) for following in _FOLLOWING]
        is_decided = all(
            (other.start, other.end, type(other)) == (found[0].start, found[0].end, type(found[0])) for other in found
        )
        return found[0] if is_decided else None

    def _take_from_box(self, found: Span | Problem) -> StreamEvent:
        """Remove the tokens of a box, or of what is malformed, from the open box."""
        ends = [len(self._before) + end for end in accumulate(len(text) for text, _ in self._box)]
        size = bisect_left(ends, found.end) + 1
        start, end = self._box[0][1], self._box[size - 1][1] + 1
        rest = self._box[size:]
        following = next((number for number, (text, _) in enumerate(rest) if text.startswith("<")), len(rest))
        self._before = "".join(text for text, _ in rest[:following])
        self._box = rest[following:]
        if isinstance(found, Span):
            return StreamEvent("box", start, end, found.codes)
        return StreamEvent("problem", start, end, message=found.message)

    def _add_code(self, place: int, code: int) -> list[StreamEvent]:
        if self._depth is None:
            return [StreamEvent("problem", place, place + 1, message="a depth code outside a block")]
        if len(self._depth) == CELLS:
            return [*self._break_block("one code too many"), *self._add_code(place, code)]
        self._depth.append(code)
        self._places.append(place)
        row, column = divmod(len(self._depth) - 1, DEPTH_GRID[1])
        if column < DEPTH_GRID[1] - 1:
            return []
        codes = np.array(self._depth[-DEPTH_GRID[1] :], dtype=np.int64)
        return [StreamEvent("row", self._places[-DEPTH_GRID[1]], place + 1, codes, self._blocks, row)]

    def _end_block(self, place: int) -> list[StreamEvent]:
        if self._depth is None:
            return [StreamEvent("problem", place, place + 1, message="an end without a beginning")]
        if len(self._depth) < CELLS:
            return self._break_block(DEPTH.end)
        codes = np.array(self._depth, dtype=np.int64).reshape(DEPTH_GRID)
        event = StreamEvent("depth", self._places[0], place + 1, codes, self._blocks)
        self._depth, self._blocks = None, self._blocks + 1
        return [event]

    def _break_block(self, cause: str) -> list[StreamEvent]:
        if self._depth is None:
            return []
        count, self._depth = len(self._depth), None
        end = self._place if cause == DEPTH.end else self._places[-1] + 1
        return [StreamEvent("problem", self._places[0], end, message=f"a block of {count} codes, broken by {cause}")]


def _find_first(written: str, vocab: PerceptionVocabulary) -> Span | Problem:
    """The first box or problem of a text that has some."""
    return min((found for part in find_pieces(written, vocab) for found in part), key=lambda found: found.start)
