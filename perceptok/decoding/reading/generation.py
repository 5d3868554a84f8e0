"""What a model wrote, parsed: text, depth blocks and boxes in their order, with positions and problems."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from perceptok.decoding.grammar.automaton import CELLS
from perceptok.errors import VocabularyError
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["Generation", "Problem", "Span", "WrittenEvidence", "parse_generation", "read_evidence"]


@dataclass(frozen=True, eq=False)
class Span:
    """A part of what was written.

    Attributes:
        kind: "text", "depth" or "box".
        start: Where it begins: index of a character of a text, or of an id.
        end: Where it ends, exclusive.
        codes: Of a depth block (10, 10), of a box (4,): x1, y1, x2, y2; int64. None for text.
    """

    kind: Literal["text", "depth", "box"]
    start: int
    end: int
    codes: np.ndarray | None = None


class Problem(NamedTuple):
    """Perception tokens that form neither a block nor a box; they are part of the text span around them."""

    start: int
    end: int
    message: str


@dataclass(frozen=True, eq=False)
class Generation:
    """A parsed answer.

    Attributes:
        spans: They cover everything, in order and without gaps.
        problems: What is malformed, in order.
    """

    spans: tuple[Span, ...]
    problems: tuple[Problem, ...]

    @property
    def blocks(self) -> list[np.ndarray]:
        """The codes (10, 10) of every whole depth block."""
        return [span.codes for span in self.spans if span.kind == "depth" and span.codes is not None]

    @property
    def boxes(self) -> np.ndarray:
        """The codes of every whole box, (N, 4) int64."""
        codes = [span.codes for span in self.spans if span.kind == "box" and span.codes is not None]
        return np.array(codes, dtype=np.int64).reshape(-1, 4)


class WrittenEvidence(NamedTuple):
    """The evidence that an answer contains.

    Attributes:
        block: The codes (10, 10) of its depth block; None without one, or with several.
        boxes: Codes (N, 4) of every whole box: x1, y1, x2, y2.
        problems: What is malformed, in words; two blocks are a problem too, because nothing says which one counts.
    """

    block: np.ndarray | None
    boxes: np.ndarray
    problems: tuple[str, ...]


def read_evidence(text: str) -> WrittenEvidence:
    """Read the evidence of one answer. Never raises: what is malformed is reported."""
    generation = parse_generation(text)
    blocks = generation.blocks
    problems = [problem.message for problem in generation.problems]
    if len(blocks) > 1:
        problems.append(f"{len(blocks)} depth blocks; an answer rests on one")
    return WrittenEvidence(blocks[0] if len(blocks) == 1 else None, generation.boxes, tuple(problems))


def parse_generation(
    text_or_ids: str | Sequence[int] | Tensor, vocab: PerceptionVocabulary | None = None
) -> Generation:
    """Parse one answer. What is malformed does not raise: it is reported, and stays text.

    Boxes are recognised in both forms. In a text the AURORA form is `(` and `)` around four coordinates with commas
    between them. White space may stand anywhere between the tokens of one block or box, as decoding with some
    tokenizers puts it there; only a compact box, which has neither brackets nor markers, stays on one line, as in
    `parse_boxes`. White space is that of ASCII: other spaces may be several ids, none of which says so.

    Ids are read by the same grammar as their text, with the tokenizer's own tokens for spaces, commas and brackets
    (`PerceptionVocabulary.separators`); the span of a box in ids begins and ends with a coordinate. A vocabulary that
    was made without a tokenizer knows none of these, so that only compact boxes are read.

    Args:
        text_or_ids: A text, or the ids of one sequence (T,).
        vocab: What the ids mean; for a text, which token sets count: without it, all.

    Raises:
        VocabularyError: Ids without a vocabulary.
    """
    if isinstance(text_or_ids, str):
        text = text_or_ids
        pieces = list(_find_pieces_in_text(text, vocab))
        spans, problems = _group_pieces(pieces, _compile_gaps(text), lambda start, end: _add_brackets(text, start, end))
        return Generation(_add_text(spans, len(text)), tuple(problems))
    if vocab is None:
        raise VocabularyError("ids mean nothing without a vocabulary; give the one of their tokenizer")
    ids = text_or_ids.tolist() if isinstance(text_or_ids, Tensor) else [int(token_id) for token_id in text_or_ids]
    written = [spell_token(token_id, vocab) for token_id in ids]
    starts = [0, *accumulate(map(len, written))]
    spans, problems = find_pieces("".join(written), vocab)

    def find_ids(start: int, end: int) -> tuple[int, int]:
        return bisect_right(starts, start) - 1, bisect_left(starts, end)

    spans = [Span(span.kind, *find_ids(span.start, span.end), span.codes) for span in spans]
    problems = [Problem(*find_ids(problem.start, problem.end), problem.message) for problem in problems]
    return Generation(_add_text(spans, len(ids)), tuple(problems))


def spell_token(token_id: int, vocab: PerceptionVocabulary) -> str:
    """The text that the grammar reads for an id: a perception token, a separator, or "x" for any other text."""
    if 0 <= token_id < vocab.size and vocab.is_perception(token_id):
        return vocab.token(token_id)
    return vocab.separators.get(token_id, "x")


def find_pieces(text: str, vocab: PerceptionVocabulary | None) -> tuple[list[Span], list[Problem]]:
    """The blocks and boxes of a text, and its problems; the span of a box is that of its coordinates."""
    pieces = list(_find_pieces_in_text(text, vocab))
    return _group_pieces(pieces, _compile_gaps(text), lambda start, end: _require_brackets(text, start, end))


def _require_brackets(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The same span where brackets stand around it, else None."""
    return None if _add_brackets(text, start, end) is None else (start, end)


class _Piece(NamedTuple):
    """One perception token: what it is, its code (-1: a marker, or a code that does not exist) and where it stands."""

    kind: Literal["start", "end", "code", "pixel"]
    code: int
    start: int
    end: int


_TOKEN = re.compile(rf"<({DEPTH.name}|{PIXEL.name})_([A-Za-z0-9]*)>")
_COMMA = re.compile(r"\s*,\s*", re.ASCII)
_SPACE = re.compile(r"\s*", re.ASCII)
_SPACE_ON_LINE = re.compile(r"[^\S\n]*", re.ASCII)

_Gap = Callable[[int, int], Literal["nothing", "line", "comma", "text"]]
"""What stands between two positions: nothing but spaces, a new line too, a comma, or anything else."""

_Widen = Callable[[int, int], tuple[int, int] | None]
"""The span of coordinates -> that of the box with its brackets; None where one is missing."""


def _find_pieces_in_text(text: str, vocab: PerceptionVocabulary | None) -> Iterator[_Piece]:
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if match[1] == PIXEL.name and (vocab is None or vocab.has(PIXEL)):
            yield _Piece("pixel", PIXEL.codes.get(match[0], -1), start, end)
        elif match[1] == DEPTH.name and (vocab is None or vocab.has(DEPTH)):
            if match[0] in (DEPTH.start, DEPTH.end):
                yield _Piece("start" if match[0] == DEPTH.start else "end", -1, start, end)
            else:
                yield _Piece("code", DEPTH.codes.get(match[0], -1), start, end)


def _compile_gaps(text: str) -> _Gap:
    def gap(start: int, end: int) -> Literal["nothing", "line", "comma", "text"]:
        if _SPACE_ON_LINE.fullmatch(text, start, end):
            return "nothing"
        if _SPACE.fullmatch(text, start, end):
            return "line"
        return "comma" if _COMMA.fullmatch(text, start, end) else "text"

    return gap


def _add_brackets(text: str, start: int, end: int) -> tuple[int, int] | None:
    while start and _SPACE.fullmatch(text, start - 1, start):
        start -= 1
    after = _SPACE.match(text, end)
    assert after is not None
    end = after.end()
    return (start - 1, end + 1) if text[start - 1 : start] == "(" and text[end : end + 1] == ")" else None


def _group_pieces(pieces: list[_Piece], gap: _Gap, widen: _Widen) -> tuple[list[Span], list[Problem]]:
    """The blocks and boxes that pieces form, and the problems of the other pieces."""
    spans: list[Span] = []
    problems: list[Problem] = []
    place = 0
    while place < len(pieces):
        kind = pieces[place].kind
        if kind == "pixel":
            stop, result = _read_box(pieces, place, gap, widen)
        elif kind == "start":
            stop, result = _read_block(pieces, place, gap)
        else:
            stop = _find_end_of_codes(pieces, place + 1, gap) if kind == "code" else place + 1
            message = "an end without a beginning" if kind == "end" else f"{stop - place} depth codes outside a block"
            result = Problem(pieces[place].start, pieces[stop - 1].end, message)
        if isinstance(result, Span):
            spans.append(result)
        else:
            problems.append(result)
        place = stop
    return spans, problems


def _is_next(pieces: list[_Piece], number: int, kind: str, gap: _Gap) -> bool:
    """Whether a piece is of this kind and nothing but space stands before it."""
    if number >= len(pieces) or pieces[number].kind != kind:
        return False
    return gap(pieces[number - 1].end, pieces[number].start) in ("nothing", "line")


def _find_end_of_codes(pieces: list[_Piece], number: int, gap: _Gap, limit: int | None = None) -> int:
    while (limit is None or number < limit) and _is_next(pieces, number, "code", gap):
        number += 1
    return number


def _read_block(pieces: list[_Piece], first: int, gap: _Gap) -> tuple[int, Span | Problem]:
    """The block that begins with a piece, and the number of the piece after it."""
    stop = _find_end_of_codes(pieces, first + 1, gap, limit=first + 1 + CELLS)
    closed = _is_next(pieces, stop, "end", gap)
    codes = [piece.code for piece in pieces[first + 1 : stop]]
    stop += closed
    start, end = pieces[first].start, pieces[stop - 1].end
    if -1 in codes:
        message = f"depth code {codes.index(-1)} of the block does not exist (codes are 0..127)"
        return stop, Problem(start, end, message)
    if not closed or len(codes) != CELLS:
        state = "a depth block" if closed else "an unclosed depth block"
        return stop, Problem(start, end, f"{state} of {len(codes)} codes; a block has {CELLS} and {DEPTH.end}")
    return stop, Span("depth", start, end, np.array(codes, dtype=np.int64).reshape(DEPTH_GRID))


def _read_box(pieces: list[_Piece], first: int, gap: _Gap, widen: _Widen) -> tuple[int, Span | Problem]:
    """The box that begins with a piece, and the number of the piece after it."""

    def is_next_coordinate(number: int, by: str) -> bool:
        return (
            number < len(pieces)
            and pieces[number].kind == "pixel"
            and gap(pieces[number - 1].end, pieces[number].start) == by
        )

    separator = "nothing" if is_next_coordinate(first + 1, "nothing") else "comma"
    stop = first + 1
    while stop < first + 4 and is_next_coordinate(stop, separator):
        stop += 1
    start, end = pieces[first].start, pieces[stop - 1].end
    codes = [piece.code for piece in pieces[first:stop]]
    if -1 in codes:
        message = f"coordinate {codes.index(-1)} of a box does not exist (codes are 0..{PIXEL.size - 1})"
        return stop, Problem(start, end, message)
    if len(codes) != 4:
        return stop, Problem(start, end, f"a box of {len(codes)} coordinates; a box has 4")
    if separator == "comma":
        widened = widen(start, end)
        if widened is None:
            return stop, Problem(start, end, "a box with commas lacks a bracket")
        start, end = widened
    x1, y1, x2, y2 = codes
    if x2 < x1 or y2 < y1:
        return stop, Problem(start, end, f"a box with {'x2 < x1' if x2 < x1 else 'y2 < y1'}: {codes}")
    return stop, Span("box", start, end, np.array(codes, dtype=np.int64))


def _add_text(found: list[Span], length: int) -> tuple[Span, ...]:
    """All spans, with text between those of blocks and boxes."""
    spans: list[Span] = []
    place = 0
    for span in found:
        if span.start > place:
            spans.append(Span("text", place, span.start))
        spans.append(span)
        place = span.end
    if place < length:
        spans.append(Span("text", place, length))
    return tuple(spans)
