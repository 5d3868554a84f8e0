"""What a model wrote, taken apart: text, depth blocks and boxes in their order, with positions and problems."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perceptok.decoding.grammar.automaton import CELLS
from perceptok.errors import VocabularyError
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["Generation", "Problem", "Span", "Written", "parse_generation", "read_evidence"]


_TOKEN = re.compile(rf"<({DEPTH.name}|{PIXEL.name})_([A-Za-z0-9]*)>")
_COMMA = re.compile(r"\s*,\s*")
_SPACE = re.compile(r"\s*")
_SPACE_ON_LINE = re.compile(r"[^\S\n]*")


@dataclass(frozen=True, eq=False)
class Span:
    """A part of what was written.

    Attributes:
        kind: "text", "depth" or "box".
        start: Where it begins: a character of a text, a place in a list of ids.
        end: Where it ends, exclusive.
        codes: Of a depth block (10, 10), of a box (4,): x1, y1, x2, y2; int64. None for text.
    """

    kind: Literal["text", "depth", "box"]
    start: int
    end: int
    codes: np.ndarray | None = None


class Problem(NamedTuple):
    """Perception tokens that form no block and no box; they are part of the text span around them."""

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
        found = [span.codes for span in self.spans if span.kind == "box" and span.codes is not None]
        return np.array(found, dtype=np.int64).reshape(-1, 4)


class Piece(NamedTuple):
    """One perception token: what it is, its code (-1: a marker, or a code that does not exist) and where it stands."""

    kind: Literal["start", "end", "code", "pixel"]
    code: int
    start: int
    end: int


Between = Literal["nothing", "line", "comma", "text"]
"""What stands between two pieces: nothing but spaces, a new line too, a comma, or anything else."""

Gap = Callable[[int, int], Between]


def parse_generation(
    text_or_ids: str | Sequence[int] | Tensor, vocab: PerceptionVocabulary | None = None
) -> Generation:
    """Take one answer apart. Nothing raises: what is malformed is reported and stays text.

    Boxes are known in both forms. In a text the AURORA form is `(` and `)` around four coordinates with commas between
    them. White space may stand anywhere between the tokens of one block or box, as decoding with some tokenizers puts
    it there; only a compact box, which nothing else holds together, stays on one line, as in `parse_boxes`.

    In ids, where the pieces of the brackets are the tokenizer's own affair, it is four coordinates with one token
    between each two; the span begins and ends with a coordinate then.

    Args:
        text_or_ids: A text, or the ids of one sequence (T,).
        vocab: What the ids mean; for a text, which token sets count: without it, all.

    Raises:
        VocabularyError: Ids without a vocabulary.
    """
    if isinstance(text_or_ids, str):
        text = text_or_ids
        pieces = list(_pieces_of_text(text, vocab))
        found, problems = _grouped(pieces, _gap_of_text(text), lambda start, end: _bracketed(text, start, end))
        return Generation(_with_text(found, len(text)), tuple(problems))
    if vocab is None:
        raise VocabularyError("ids mean nothing without a vocabulary; give the one of their tokenizer")
    ids = text_or_ids.tolist() if isinstance(text_or_ids, Tensor) else [int(token_id) for token_id in text_or_ids]
    pieces = list(_pieces_of_ids(ids, vocab))
    found, problems = _grouped(pieces, _gap_of_ids, lambda start, end: (start, end))
    return Generation(_with_text(found, len(ids)), tuple(problems))


def _pieces_of_text(text: str, vocab: PerceptionVocabulary | None) -> Iterator[Piece]:
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if match[1] == PIXEL.name and (vocab is None or vocab.has(PIXEL)):
            yield Piece("pixel", PIXEL.codes.get(match[0], -1), start, end)
        elif match[1] == DEPTH.name and (vocab is None or vocab.has(DEPTH)):
            if match[0] == DEPTH.start:
                yield Piece("start", -1, start, end)
            elif match[0] == DEPTH.end:
                yield Piece("end", -1, start, end)
            else:
                yield Piece("code", DEPTH.codes.get(match[0], -1), start, end)


def _pieces_of_ids(ids: list[int], vocab: PerceptionVocabulary) -> Iterator[Piece]:
    values = torch.tensor(ids, dtype=torch.int64)
    if vocab.has(DEPTH):
        markers = {vocab.start_id(DEPTH): "start", vocab.end_id(DEPTH): "end"}
        codes = vocab.codes(values, DEPTH).tolist()
    else:
        markers, codes = {}, [-1] * len(ids)
    pixels = vocab.codes(values, PIXEL).tolist() if vocab.has(PIXEL) else [-1] * len(ids)
    for place, number in enumerate(ids):
        if number in markers:
            yield Piece("start" if markers[number] == "start" else "end", -1, place, place + 1)
        elif codes[place] >= 0:
            yield Piece("code", codes[place], place, place + 1)
        elif pixels[place] >= 0:
            yield Piece("pixel", pixels[place], place, place + 1)


def _gap_of_text(text: str) -> Gap:
    def gap(start: int, end: int) -> Between:
        if _SPACE_ON_LINE.fullmatch(text, start, end):
            return "nothing"
        return (
            "line" if _SPACE.fullmatch(text, start, end) else "comma" if _COMMA.fullmatch(text, start, end) else "text"
        )

    return gap


def _gap_of_ids(start: int, end: int) -> Between:
    return "nothing" if start == end else "comma" if end == start + 1 else "text"


def _bracketed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span of coordinates widened by its brackets; None where one is missing."""
    while start and text[start - 1].isspace():
        start -= 1
    after = _SPACE.match(text, end)
    assert after is not None
    end = after.end()
    return (start - 1, end + 1) if text[start - 1 : start] == "(" and text[end : end + 1] == ")" else None


def _grouped(
    pieces: list[Piece], gap: Gap, bracketed: Callable[[int, int], tuple[int, int] | None]
) -> tuple[list[Span], list[Problem]]:
    def joined(number: int) -> bool:
        return gap(pieces[number - 1].end, pieces[number].start) in ("nothing", "line")

    found: list[Span] = []
    problems: list[Problem] = []
    place = 0
    while place < len(pieces):
        first = pieces[place]
        stop = place + 1
        if first.kind == "pixel":
            compact = stop < len(pieces) and pieces[stop].kind == "pixel" and gap(first.end, pieces[stop].start)
            between = "nothing" if compact == "nothing" else "comma"
            while (
                stop < min(len(pieces), place + 4)
                and pieces[stop].kind == "pixel"
                and gap(pieces[stop - 1].end, pieces[stop].start) == between
            ):
                stop += 1
            result = _box(pieces[place:stop], between == "comma", bracketed)
        elif first.kind == "start":
            while stop < len(pieces) and pieces[stop].kind == "code" and stop - place <= CELLS and joined(stop):
                stop += 1
            whole = stop < len(pieces) and pieces[stop].kind == "end" and joined(stop)
            stop += whole
            result = _block(pieces[place:stop], whole)
        else:
            while first.kind == "code" and stop < len(pieces) and pieces[stop].kind == "code" and joined(stop):
                stop += 1
            what = (
                "an end without a beginning" if first.kind == "end" else f"{stop - place} depth codes outside a block"
            )
            result = Problem(first.start, pieces[stop - 1].end, what)
        if isinstance(result, Span):
            found.append(result)
        else:
            problems.append(result)
        place = stop
    return found, problems


def _block(pieces: list[Piece], whole: bool) -> Span | Problem:
    start, end = pieces[0].start, pieces[-1].end
    codes = [piece.code for piece in pieces if piece.kind == "code"]
    if -1 in codes:
        return Problem(start, end, f"depth code {codes.index(-1)} of the block does not exist (codes are 0..127)")
    if not whole or len(codes) != CELLS:
        state = "a depth block" if whole else "an unclosed depth block"
        return Problem(start, end, f"{state} of {len(codes)} codes; a block has {CELLS} and {DEPTH.end}")
    return Span("depth", start, end, np.array(codes, dtype=np.int64).reshape(DEPTH_GRID))


def _box(pieces: list[Piece], commas: bool, bracketed: Callable[[int, int], tuple[int, int] | None]) -> Span | Problem:
    start, end = pieces[0].start, pieces[-1].end
    codes = [piece.code for piece in pieces]
    if -1 in codes:
        return Problem(
            start, end, f"coordinate {codes.index(-1)} of a box does not exist (codes are 0..{PIXEL.size - 1})"
        )
    if len(codes) != 4:
        return Problem(start, end, f"a box of {len(codes)} coordinates; a box has 4")
    if commas:
        widened = bracketed(start, end)
        if widened is None:
            return Problem(start, end, "a box with commas lacks a bracket")
        start, end = widened
    x1, y1, x2, y2 = codes
    if x2 < x1 or y2 < y1:
        return Problem(start, end, f"a box with {'x2 < x1' if x2 < x1 else 'y2 < y1'}: {codes}")
    return Span("box", start, end, np.array(codes, dtype=np.int64))


def _with_text(found: list[Span], length: int) -> tuple[Span, ...]:
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


class Written(NamedTuple):
    """What a text shows beside its answer.

    Attributes:
        block: The codes (10, 10) of its one depth block; None where there is none, or several.
        boxes: Codes (N, 4) of every whole box: x1, y1, x2, y2.
        problems: What is malformed, in words; two blocks are a problem too, because nothing says which one counts.
    """

    block: np.ndarray | None
    boxes: np.ndarray
    problems: tuple[str, ...]


def read_evidence(text: str) -> Written:
    """The evidence of one answer; nothing raises."""
    generation = parse_generation(text)
    blocks = generation.blocks
    problems = [problem.message for problem in generation.problems]
    if len(blocks) > 1:
        problems.append(f"{len(blocks)} depth blocks; an answer rests on one")
    return Written(blocks[0] if len(blocks) == 1 else None, generation.boxes, tuple(problems))
