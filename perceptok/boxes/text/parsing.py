"""Boxes in what a model wrote: those that are well formed, where they stand, and what is wrong with the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from perceptok.errors import MalformedBoxError
from perceptok.tokens import PIXEL, TokenSet

__all__ = ["Flaw", "MalformedPiece", "Order", "ParsedBoxes", "parse_boxes", "shown"]

Order = Literal["xyxy", "yxyx"]

Flaw = Literal["coordinates", "bracket", "comma", "token", "range", "order"]
"""What is wrong: their number, a bracket or comma missing, a token unknown or out of range, the edges' order."""

_STEM = f"<{PIXEL.name}_"
_TOKEN = rf"{_STEM}[A-Za-z0-9_+-]*+>?+"
_NUMBER = r"[-+]?[0-9][0-9.]*+"
_ITEM = rf"(?:{_TOKEN}|<[A-Za-z][^<>()\s,]*+>|{_NUMBER})"
_NEXT = r"(?:\s*+,)?+\s*+"
_NEXT_ON_LINE = r"(?:[^\S\n]*+,)?+[^\S\n]*+"
# Every repetition is possessive: a failure is never retried in parts, so that any text takes linear time.
_TOKENS_RUN = rf"\(\s*+{_ITEM}(?:{_NEXT}{_ITEM})*+(?:\s*+,)?+|{_TOKEN}(?:{_NEXT_ON_LINE}{_TOKEN})*+"
_NUMBERS_RUN = rf"(?:\(\s*+)?+(?<![0-9.]){_NUMBER}(?:\s*+,\s*+{_NUMBER})*+(?:\s*+,)?+"
# What most runs are: a box in brackets, or four tokens in a row that are a run by themselves; their numbers are groups.
# With a literal at the start of every alternative, `re` skips prose three times as fast.
_COMMA, _PLAIN_TOKEN, _PLAIN_NUMBER = r"\s*+,\s*+", f"{_STEM}([0-9]++)>", "([0-9]++)"
_PLAIN_TOKENS = rf"\(\s*+{_COMMA.join([_PLAIN_TOKEN] * 4)}\s*+\)|{_PLAIN_TOKEN * 4}(?!{_NEXT_ON_LINE}{_STEM})"
_PLAIN_NUMBERS = rf"\(\s*+{_COMMA.join([_PLAIN_NUMBER] * 4)}\s*+\)"
_TOKENS = re.compile(f"{_PLAIN_TOKENS}|{_TOKENS_RUN}")
_NUMBERS = re.compile(f"{_PLAIN_NUMBERS}|{_NUMBERS_RUN}")
_ITEMS = re.compile(_ITEM)
_CLOSING = re.compile(r"\s*+\)")
_ONLY_SPACE = re.compile(r"\s*+\Z")
_REST = re.compile(r"[^()\n]*+\)?+")
_INTEGER = re.compile(r"-?[1-9][0-9]*+")


@dataclass(frozen=True)
class MalformedPiece:
    """A piece of text that set out to be a box.

    Attributes:
        start: Its first character's position.
        end: One past its last character.
        text: The piece itself.
        flaw: The kind of fault, to count by.
        reason: The fault in words.
    """

    start: int
    end: int
    text: str
    flaw: Flaw
    reason: str

    def error(self) -> MalformedBoxError:
        """The error that strict reading raises."""
        return MalformedBoxError(f"malformed box at character {self.start}, {shown(self.text)}: {self.reason}")


@dataclass(frozen=True)
class ParsedBoxes:
    """What was found in a text.

    Attributes:
        boxes: Codes (N, 4) int64 of the well-formed boxes, in the order of the text.
        spans: Where each stands, (N, 2) int64: first character and one past the last.
        malformed: The pieces that are no boxes, in the order of the text.
    """

    boxes: np.ndarray
    spans: np.ndarray
    malformed: tuple[MalformedPiece, ...]


def parse_boxes(
    text: str,
    *,
    size: int = PIXEL.size,
    order: Order = "xyxy",
    numerals: bool | None = None,
    strict: bool = False,
) -> ParsedBoxes:
    """Find the boxes in free text, bracketed or compact, spaces between tokens allowed; takes linear time.

    Args:
        text: Anything.
        size: Number of codes along a side.
        order: What the columns are; only messages depend on it.
        numerals: Read `(12,34,56,78)` instead of coordinate tokens. Without it, where the text has no such token.
        strict: Refuse a text with a malformed piece.

    Returns:
        Boxes, spans and malformed pieces. Prose in brackets is none of these, nor are fewer than three numerals.

    Raises:
        MalformedBoxError: With `strict`, for the first malformed piece: position, what was found, what is wrong.
    """
    if numerals is None:
        numerals = _STEM not in text
    boxes: list[list[int]] = []
    spans: list[tuple[int, int]] = []
    malformed: list[MalformedPiece] = []
    reader = _Reader(text, _codes(size, numerals), size, order, numerals)
    for found in reader.pieces():
        if isinstance(found, MalformedPiece):
            if strict:
                raise found.error()
            malformed.append(found)
        else:
            boxes.append(found[0])
            spans.append(found[1])
    return ParsedBoxes(
        np.array(boxes, dtype=np.int64).reshape(-1, 4), np.array(spans, dtype=np.int64).reshape(-1, 2), tuple(malformed)
    )


def shown(text: str) -> str:
    """A text in quotes, cut at 40 characters."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


@lru_cache(maxsize=16)
def _codes(size: int, numerals: bool) -> Mapping[str, int]:
    return {str(code): code for code in range(size)} if numerals else TokenSet(PIXEL.name, size).codes


Box = tuple[list[int], tuple[int, int]]


@dataclass(frozen=True)
class _Reader:
    text: str
    codes: Mapping[str, int]
    size: int
    order: Order
    numerals: bool

    def pieces(self) -> Iterator[Box | MalformedPiece]:
        """Boxes and malformed pieces, one run of coordinates after the other."""
        position = 0
        run = _NUMBERS if self.numerals else _TOKENS
        while match := run.search(self.text, position):
            start, position = match.span()
            if match.lastindex:
                numbers = match.group(1, 2, 3, 4) if match.lastindex == 4 else match.group(5, 6, 7, 8)
                words = numbers if self.numerals else [f"{_STEM}{number}>" for number in numbers]
                yield self._box(words, start, position)
                continue
            items = list(_ITEMS.finditer(self.text, start, position))
            opened = self.text[start] == "("
            closing = _CLOSING.match(self.text, position)
            if not self._attempted(items, opened, closing, position):
                continue
            if self._compact(items, opened):
                yield from self._fours(items)
                continue
            if closing:
                position = closing.end()
            elif opened and len(items) < 4:
                piece = self._broken_off(start, position, len(items))
                position = piece.end
                yield piece
                continue
            yield self._bracketed(start, position, items, opened, closing is not None)

    def _attempted(
        self, items: Sequence[re.Match[str]], opened: bool, closing: re.Match[str] | None, position: int
    ) -> bool:
        """Whether a run set out to be a box: two numerals are a point or prose, and so are those without brackets."""
        if not self.numerals:
            return any(map(_is_token, items))
        whole = opened and (closing or _ONLY_SPACE.match(self.text, position))
        return len(items) >= (3 if whole else 4) and (opened or closing is not None)

    def _compact(self, items: Sequence[re.Match[str]], opened: bool) -> bool:
        """Whether a run is of tokens without commas, or without a bracket and with commas between boxes only."""
        if self.numerals or not all(map(_is_token, items)):
            return False
        commas = ["," in self.text[one.end() : other.start()] for one, other in pairwise(items)]
        if not any(commas):
            return True
        return not opened and len(items) % 4 == 0 and not any(comma for at, comma in enumerate(commas, 1) if at % 4)

    def _fours(self, items: Sequence[re.Match[str]]) -> Iterator[Box | MalformedPiece]:
        for at in range(0, len(items), 4):
            four = items[at : at + 4]
            if len(four) == 4:
                yield self._box([one.group() for one in four], four[0].start(), four[3].end())
            else:
                yield self._malformed(four[0].start(), four[-1].end(), "coordinates", _number_of(len(four)))

    def _bracketed(
        self, start: int, end: int, items: Sequence[re.Match[str]], opened: bool, closed: bool
    ) -> Box | MalformedPiece:
        if len(items) != 4:
            return self._malformed(start, end, "coordinates", _number_of(len(items)))
        if not (opened and closed):
            missing = "opening bracket is" if closed else "closing bracket is" if opened else "brackets are"
            return self._malformed(start, end, "bracket", f"the {missing} missing")
        commas = self.text.count(",", start, end)
        if commas != 3:
            return self._malformed(start, end, "comma", f"four coordinates take 3 commas; found {commas}")
        return self._box([one.group() for one in items], start, end)

    def _broken_off(self, start: int, end: int, read: int) -> MalformedPiece:
        """A bracket in which something else follows before there are four coordinates."""
        rest = _REST.match(self.text, end)
        assert rest is not None
        found = rest.group()
        if not found.strip():
            return self._malformed(start, end, "coordinates", _number_of(read) + ", and the closing bracket is missing")
        reason = f"expected coordinate {read + 1}, found {shown(found.strip())}"
        return self._malformed(start, rest.end() if found.endswith(")") else end, "token", reason)

    def _box(self, words: Sequence[str], start: int, end: int) -> Box | MalformedPiece:
        codes = [self.codes.get(word, -1) for word in words]
        if -1 in codes:
            return self._malformed(start, end, *self._unknown(words[codes.index(-1)]))
        if codes[0] <= codes[2] and codes[1] <= codes[3]:
            return codes, (start, end)
        axis = int(codes[0] <= codes[2])
        name = self.order[axis]
        return self._malformed(start, end, "order", f"{name}2 = {codes[axis + 2]} < {name}1 = {codes[axis]}")

    def _unknown(self, word: str) -> tuple[Flaw, str]:
        number = word if self.numerals else word.removeprefix(_STEM).removesuffix(">")
        stem_fits = self.numerals or (word.startswith(_STEM) and word.endswith(">"))
        if stem_fits and _INTEGER.fullmatch(number):
            return "range", f"{shown(word)} is outside 0..{self.size - 1}"
        return "token", f"{shown(word)} is no coordinate; they are 0..{self.size - 1}, one spelling each"

    def _malformed(self, start: int, end: int, flaw: Flaw, reason: str) -> MalformedPiece:
        return MalformedPiece(start, end, self.text[start:end], flaw, reason)


def _is_token(item: re.Match[str]) -> bool:
    return item.group().startswith(_STEM)


def _number_of(coordinates: int) -> str:
    return f"{coordinates} coordinate{'s' if coordinates != 1 else ''} where a box has four"
