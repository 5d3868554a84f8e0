"""Boxes as text: surface forms, labelled lists, the answers that AURORA teaches, and boxes found in free text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import Order, check_codes, find_inverted
from perceptok.errors import ConfigError, MalformedBoxError
from perceptok.tokens import MAX_TOKENS, PIXEL, TokenSet

__all__ = [
    "BoxAnswer",
    "BoxForm",
    "Flaw",
    "MalformedPiece",
    "ParsedBoxes",
    "box_answer_from_text",
    "box_answer_to_text",
    "boxes_from_text",
    "boxes_to_text",
    "find_labels",
    "labelled_boxes_from_text",
    "labelled_boxes_to_text",
    "parse_boxes",
    "quote",
]

_STEM = f"<{PIXEL.name}_"


# ------------------------------------------------------------------------------------------------- surface forms

BoxForm = Literal["aurora", "compact", "numeral"]

_PUNCTUATION: dict[BoxForm, tuple[str, str, str]] = {
    "aurora": ("(", ",", ")"),
    "compact": ("", "", ""),
    "numeral": ("(", ",", ")"),
}

_CHUNK = 4096
"""Boxes read at once: what is computed for them stays in the processor's cache."""

_SPACE = re.compile(r"(?<=[(),>])\s++|(?<!\s)\s++(?=[(),<])")
"""White space between tokens; within one, as in `< PIXEL_3>` or `1 2`, it is a fault like any other character."""


def boxes_to_text(codes: ArrayLike, *, form: BoxForm = "aurora", order: Order = "xyxy", size: int = PIXEL.size) -> str:
    """Codes of boxes -> text, box after box with nothing between them; "" without boxes.

    Args:
        codes: Integers (N, 4) in 0..size - 1, or (4,) for one box, written column by column as they are.
        form: "aurora": `(<PIXEL_x1>,<PIXEL_y1>,<PIXEL_x2>,<PIXEL_y2>)`; "compact": the four tokens in a row; "numeral":
            `(x1,y1,x2,y2)`, the ablation of arXiv 2412.03548 without coordinate tokens.
        order: Order of the columns; only messages depend on it.
        size: Number of codes along a side; a size other than 336 has tokens of its own.

    Raises:
        MalformedBoxError: Another shape or type, a code out of range, or an inverted box (x2 < x1 or y2 < y1).
        ValueError: Another form.
    """
    return _write(_check_boxes(codes, size, order), form, size)


def boxes_from_text(text: str, *, size: int = PIXEL.size, order: Order = "xyxy", strict: bool = True) -> np.ndarray:
    """The inverse of `boxes_to_text`; the form is found from the text.

    Args:
        text: Boxes of one form and nothing else, except white space between their tokens, which some tokenizers'
            decoding puts there.
        size: Number of codes along a side.
        order: Order of the columns; only messages depend on it.
        strict: False reads any text that a model wrote and returns the well-formed boxes in it; `parse_boxes` reports
            the malformed ones too.

    Returns:
        Codes (N, 4) int64, columns as the text has them.

    Raises:
        MalformedBoxError: The message gives the character position, what is wrong there and what was found.
    """
    if not strict:
        return parse_boxes(text, size=size, order=order).boxes
    codes = _read_codes(text, size)
    if codes is None:
        codes = _read_codes(_SPACE.sub("", text.strip()), size)
    if codes is None:
        raise _make_error(text, size, order)
    return codes


def _check_boxes(codes: ArrayLike, size: int, order: Order) -> np.ndarray:
    return check_codes(codes, size=size, order=order, error=MalformedBoxError, allow_single=True)


@lru_cache(maxsize=16)
def _make_table(form: BoxForm, size: int, end: str) -> np.ndarray:
    """What each code is written as in each of the four columns, (4 * size,) byte strings padded with zero bytes."""
    if form not in _PUNCTUATION:
        raise ValueError(f"forms of boxes are {', '.join(_PUNCTUATION)}; got {form!r}")
    if size > MAX_TOKENS:
        raise ConfigError(f"text has at most {MAX_TOKENS} codes along a side; got {size}")
    opening, comma, closing = _PUNCTUATION[form]
    words = [str(code) for code in range(size)] if form == "numeral" else TokenSet(PIXEL.name, size).tokens
    first = [f"{opening}{word}{comma}" for word in words]
    inner = [f"{word}{comma}" for word in words]
    last = [f"{word}{closing}{end}" for word in words]
    return np.array([entry.encode() for entry in first + inner + inner + last])


def _write(codes: np.ndarray, form: BoxForm, size: int, end: str = "") -> str:
    # One table look-up for all columns, and one deletion of the padding: seven times as fast as an f-string a box.
    entries = _make_table(form, size, end).take(codes + np.arange(4) * size)
    return entries.tobytes().translate(None, b"\0").decode("ascii")


def _read_codes(text: str, size: int, end: str = "") -> np.ndarray | None:
    """Codes of a text in one of the forms; None where it is not exactly what `_write` writes."""
    if not text:
        return np.zeros((0, 4), dtype=np.int64)
    if not text.isascii():
        return None
    form: BoxForm = "compact" if text[0] == "<" else "aurora" if text[:2] == "(<" else "numeral"
    characters = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    is_end = (characters == ord(",")) | (characters == ord(")")) if form == "numeral" else characters == ord(">")
    ends = np.flatnonzero(is_end)
    if len(ends) == 0 or len(ends) % 4:
        return None
    codes = np.empty((len(ends) // 4, 4), dtype=np.int64)
    digits, position = len(str(size - 1)), 0
    for start in range(0, len(codes), _CHUNK):
        chunk = codes[start : start + _CHUNK]
        chunk[:] = _read_numbers(characters, ends[4 * start : 4 * (start + len(chunk))], digits).reshape(-1, 4)
        if chunk.max() >= size or find_inverted(chunk) is not None:
            return None
        # Only the digits were read; writing the codes again proves that everything around them is as it should be.
        written = _write(chunk, form, size, end)
        if not text.startswith(written, position):
            return None
        position += len(written)
    return codes if position == len(text) else None


def _read_numbers(characters: np.ndarray, ends: np.ndarray, digits: int) -> np.ndarray:
    """The decimal number of up to `digits` digits that ends before each position."""
    values: np.ndarray = np.zeros(len(ends), dtype=np.int32 if digits < 10 else np.int64)
    in_number: np.ndarray = np.ones(len(ends), dtype=bool)
    for place in range(digits):
        # Below "0" wraps round to above 9; a position before the start is clipped, and then refused with the rest.
        digit = characters.take(ends - (1 + place), mode="clip") - np.uint8(ord("0"))
        in_number &= digit <= 9
        values += (digit * in_number) * values.dtype.type(10**place)
    return values


def _make_error(text: str, size: int, order: Order) -> MalformedBoxError:
    """What is wrong with a text that is not a list of boxes: a malformed piece, or what stands between boxes."""
    parsed = parse_boxes(text, size=size, order=order)
    form: BoxForm = "numeral" if _STEM not in text else "aurora" if text.startswith("(") else "compact"
    expected = boxes_to_text(parsed.boxes, form=form, size=size)
    pairs = enumerate(zip(expected, text, strict=False))
    position = next((index for index, (right, found) in pairs if right != found), min(len(expected), len(text)))
    if parsed.malformed and parsed.malformed[0].start <= position:
        return parsed.malformed[0].to_error()
    next_piece = "a box" if position == len(expected) else repr(expected[position : position + 12])
    found = quote(text[position:]) if position < len(text) else "the end of the text"
    return MalformedBoxError(
        f"not a list of boxes: expected {next_piece} at character {position}, found {found}; "
        "read free text with strict=False"
    )


def quote(text: str) -> str:
    """A text in quotes, cut at 40 characters, for messages."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


# ---------------------------------------------------------------------------------- labelled lists and answers

_NUMBERED = "Bounding box"
_FOUND = ("Here are the bounding boxes for the ", ":")
_NONE = ("There are no ", " in the image.")


class BoxAnswer(NamedTuple):
    """An answer about the boxes of a category.

    Attributes:
        plural: The category that was asked for, e.g. "dogs".
        boxes: Codes (N, 4) int64; (0, 4) where there are none.
    """

    plural: str
    boxes: np.ndarray


def labelled_boxes_to_text(
    codes: ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    form: BoxForm = "aurora",
    order: Order = "xyxy",
    size: int = PIXEL.size,
) -> str:
    """Codes of boxes -> one line each, `label: box`; "" without boxes.

    Args:
        codes: Integers (N, 4) in 0..size - 1.
        labels: One for each box, without line breaks; default: "Bounding box 1", "Bounding box 2", ...
        form: Surface form of a box, one of those of `boxes_to_text`.
        order: Order of the columns; only messages depend on it.
        size: Number of codes along a side.

    Raises:
        MalformedBoxError: Invalid codes, or labels that do not fit them.
    """
    boxes = _check_boxes(codes, size, order)
    names = [f"{_NUMBERED} {number}" for number in range(1, len(boxes) + 1)] if labels is None else list(labels)
    if len(names) != len(boxes):
        raise MalformedBoxError(f"expected a label for each of {len(boxes)} boxes; got {len(names)}")
    for name in names:
        if name != name.strip() or not name or len(name.splitlines()) != 1:
            raise MalformedBoxError(f"a label is one line without space around it; got {quote(name)}")
    lines = _write(boxes, form, size, "\n").splitlines()
    return "\n".join(f"{name}: {line}" for name, line in zip(names, lines, strict=True))


def labelled_boxes_from_text(
    text: str, *, size: int = PIXEL.size, order: Order = "xyxy"
) -> tuple[tuple[str, ...], np.ndarray]:
    """The exact inverse of `labelled_boxes_to_text`; for free text use `parse_boxes` and `find_labels`.

    Returns:
        The labels, and codes (N, 4) int64.

    Raises:
        MalformedBoxError: A line is not `label: box`; the message gives the character position and what was found.
    """
    labels: list[str] = []
    lines: list[tuple[int, str, str]] = []
    position = 0
    for line in text.split("\n") if text else ():
        label, colon, box = line.rpartition(": ")
        if not colon or not label or label != label.strip():
            raise MalformedBoxError(f"expected `label: box` at character {position}, found {quote(line)}")
        labels.append(label)
        lines.append((position, line, box))
        position += len(line) + 1
    boxes = _read_codes("".join(f"{box}\n" for _, _, box in lines), size, "\n")  # None where lines have different forms
    if boxes is None:
        boxes = np.concatenate([_read_one_box(*line, size, order) for line in lines])
    return tuple(labels), boxes


def _read_one_box(position: int, line: str, box: str, size: int, order: Order) -> np.ndarray:
    try:
        codes = boxes_from_text(box, size=size, order=order)
    except MalformedBoxError as error:
        raise MalformedBoxError(f"in the line at character {position}, {quote(line)}: {error}") from error
    if len(codes) != 1:
        raise MalformedBoxError(f"expected one box in the line at character {position}, found {len(codes)}")
    return codes


def find_labels(text: str, parsed: ParsedBoxes) -> tuple[str, ...]:
    """The label of each box found in free text: what stands before it on its line, after an earlier box on it.

    Args:
        text: The text that `parse_boxes` read.
        parsed: What it found.

    Returns:
        N labels without the colon and space around; "" where nothing stands before a box.
    """
    labels: list[str] = []
    end = 0
    for start, next_end in parsed.spans.tolist():
        labels.append(text[end:start].rpartition("\n")[2].strip().removesuffix(":").strip(" \t,;-*"))
        end = next_end
    return tuple(labels)


def box_answer_to_text(
    codes: ArrayLike, plural: str, *, form: BoxForm = "aurora", order: Order = "xyxy", size: int = PIXEL.size
) -> str:
    """The answer of AURORA's atomic box samples to "Return the bounding boxes of {plural}.".

    `Here are the bounding boxes for the {plural}:`, then a line for each, `Bounding box 1: (...)`;
    without a box `There are no {plural} in the image.`

    Args:
        codes: Integers (N, 4) in 0..size - 1.
        plural: The category that was asked for.
        form: Surface form of a box, one of those of `boxes_to_text`.
        order: Order of the columns; only messages depend on it.
        size: Number of codes along a side.

    Raises:
        MalformedBoxError: Invalid codes, or a plural that is empty or longer than a line.
    """
    if not plural.strip() or len(plural.splitlines()) != 1:
        raise MalformedBoxError(f"a plural is a word or more on one line; got {quote(plural)}")
    lines = labelled_boxes_to_text(codes, form=form, order=order, size=size)
    if not lines:
        return plural.join(_NONE)
    return f"{plural.join(_FOUND)}\n{lines}"


def box_answer_from_text(text: str, *, size: int = PIXEL.size, order: Order = "xyxy", strict: bool = True) -> BoxAnswer:
    """The inverse of `box_answer_to_text`; a space before "Bounding box" is accepted.

    Args:
        text: One answer.
        size: Number of codes along a side.
        order: Order of the columns; only messages depend on it.
        strict: False allows other space, text after the boxes, and missing or wrong numbers; malformed boxes are left
            out (`parse_boxes` reports them).

    Raises:
        MalformedBoxError: Neither of the two sentences, a malformed box, or boxes that are not numbered 1, 2, 3, ...
    """
    answer = text if strict else text.strip()
    if answer.startswith(_NONE[0]) and (end := answer.find(_NONE[1])) > len(_NONE[0]):
        if strict and end + len(_NONE[1]) != len(text):
            raise MalformedBoxError(f"expected the end of the text at character {end + len(_NONE[1])}, found more")
        return BoxAnswer(answer[len(_NONE[0]) : end], np.zeros((0, 4), dtype=np.int64))
    plural, colon, lines = answer.removeprefix(_FOUND[0]).partition(_FOUND[1] + "\n" if strict else _FOUND[1])
    if not answer.startswith(_FOUND[0]) or not colon or not plural:
        raise MalformedBoxError(
            f"expected {_FOUND[0] + '...:'!r} or {_NONE[0] + '...' + _NONE[1]!r}, found {quote(text)}"
        )
    if not strict:
        return BoxAnswer(plural, parse_boxes(lines, size=size, order=order).boxes)
    if not lines.strip(" "):
        raise MalformedBoxError(f"expected one or more boxes after the colon; without boxes write {_NONE[0] + '...'!r}")
    lines = lines.removeprefix(" ").replace("\n ", "\n")
    labels, boxes = labelled_boxes_from_text(lines, size=size, order=order)
    for number, label in enumerate(labels, 1):
        if label != f"{_NUMBERED} {number}":
            raise MalformedBoxError(f"expected '{_NUMBERED} {number}', found {quote(label)}")
    return BoxAnswer(plural, boxes)


# ------------------------------------------------------------------------------------------ boxes in free text

Flaw = Literal["coordinates", "bracket", "comma", "token", "range", "order"]
"""Not four coordinates, a missing bracket or comma, an unknown token or one out of range, edges in the wrong order."""

# Every repetition is possessive: a failure is never retried in parts, so that any text takes linear time. Groups are
# atomic instead: possessive ones keep what a failed attempt has taken before Python 3.11.5 (gh-106052).
_TOKEN = rf"{_STEM}[A-Za-z0-9_+-]*+>?+"
_NUMBER = r"[-+]?[0-9][0-9.]*+"
_ITEM = rf"(?:{_TOKEN}|<[A-Za-z][^<>()\s,]*+>|{_NUMBER})"
_COMMA = r"(?>(?:\s*+,)?)\s*+"
_COMMA_ON_LINE = r"(?>(?:[^\S\n]*+,)?)[^\S\n]*+"


def _compile_run(word: str, any_run: str) -> re.Pattern[str]:
    """A run of coordinates, where most are a bracket with four words, which are then groups 1 to 4."""
    bracket = r"\s*+,\s*+".join([f"({word})"] * 4)
    return re.compile(rf"\(\s*+{bracket}\s*+\)|{any_run}")


_TOKEN_RUN = _compile_run(
    f"{_STEM}[0-9]++>",
    rf"\(\s*+{_ITEM}(?>(?:{_COMMA}{_ITEM})*)(?>(?:\s*+,)?)|{_TOKEN}(?>(?:{_COMMA_ON_LINE}{_TOKEN})*)",
)
# Two numerals are a point or prose.
_NUMBER_RUN = _compile_run(
    "[0-9]++", rf"(?>(?:\(\s*+)?)(?<![0-9.]){_NUMBER}(?>(?:\s*+,\s*+{_NUMBER}){{2,}})(?>(?:\s*+,)?)"
)
_ITEMS = re.compile(_ITEM)
_CLOSING = re.compile(r"\s*+\)")
_ONLY_SPACE = re.compile(r"\s*+\Z")
_REST = re.compile(r"[^()\n]*+\)?+")
_INTEGER = re.compile(r"-?[1-9][0-9]*+")


@dataclass(frozen=True)
class MalformedPiece:
    """A piece of text that was meant as a box and is not a valid one.

    Attributes:
        start: Position of its first character.
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

    def to_error(self) -> MalformedBoxError:
        """The error that strict reading raises."""
        return MalformedBoxError(f"malformed box at character {self.start}, {quote(self.text)}: {self.reason}")


@dataclass(frozen=True)
class ParsedBoxes:
    """The boxes of a text.

    Attributes:
        boxes: Codes (N, 4) int64 of the well-formed boxes, in the order of the text.
        spans: Where each stands, (N, 2) int64: first character and one past the last.
        malformed: The malformed pieces, in the order of the text.
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
        text: Any text.
        size: Number of codes along a side.
        order: Order of the columns; only messages depend on it.
        numerals: Read `(12,34,56,78)` instead of coordinate tokens. Default: where the text has no such token.
        strict: Refuse a text with a malformed piece.

    Returns:
        Boxes, spans and malformed pieces. Prose in brackets is neither a box nor malformed, nor are fewer than three
        numerals.

    Raises:
        MalformedBoxError: With `strict`, for the first malformed piece: position, what was found, what is wrong.
    """
    if numerals is None:
        numerals = _STEM not in text
    boxes: list[list[int]] = []
    spans: list[tuple[int, int]] = []
    malformed: list[MalformedPiece] = []
    for piece in _Parser(text, _make_code_table(size, numerals), size, order, numerals).find_pieces():
        if isinstance(piece, MalformedPiece):
            if strict:
                raise piece.to_error()
            malformed.append(piece)
        else:
            codes, span = piece
            boxes.append(codes)
            spans.append(span)
    return ParsedBoxes(
        np.array(boxes, dtype=np.int64).reshape(-1, 4), np.array(spans, dtype=np.int64).reshape(-1, 2), tuple(malformed)
    )


@lru_cache(maxsize=16)
def _make_code_table(size: int, numerals: bool) -> Mapping[str, int]:
    return {str(code): code for code in range(size)} if numerals else TokenSet(PIXEL.name, size).codes


_BoxAndSpan = tuple[list[int], tuple[int, int]]


@dataclass(frozen=True)
class _Parser:
    text: str
    codes: Mapping[str, int]
    size: int
    order: Order
    numerals: bool

    def find_pieces(self) -> Iterator[_BoxAndSpan | MalformedPiece]:
        """Boxes and malformed pieces, one run of coordinates after the other."""
        position = 0
        run = _NUMBER_RUN if self.numerals else _TOKEN_RUN
        while match := run.search(self.text, position):
            start, position = match.span()
            if match.lastindex:
                yield self._read_box(match.groups(), start, position)
                continue
            items = list(_ITEMS.finditer(self.text, start, position))
            opened = self.text[start] == "("
            closing = _CLOSING.match(self.text, position)
            if not self._is_attempt(items, opened, closing, position):
                continue
            if self._is_compact(items, opened):
                yield from self._read_compact(items)
                continue
            if closing:
                position = closing.end()
            elif opened and len(items) < 4:
                piece = self._read_unfinished(start, position, len(items))
                position = piece.end
                yield piece
                continue
            yield self._read_bracketed(start, position, items, opened, closing is not None)

    def _is_attempt(
        self, items: Sequence[re.Match[str]], opened: bool, closing: re.Match[str] | None, position: int
    ) -> bool:
        """Whether a run was meant as a box: numerals without brackets are prose, so are three in an open one."""
        if not self.numerals:
            return any(map(_is_token, items))
        is_closed = opened and (closing or _ONLY_SPACE.match(self.text, position))
        return bool(is_closed) or (len(items) >= 4 and (opened or closing is not None))

    def _is_compact(self, items: Sequence[re.Match[str]], opened: bool) -> bool:
        """Whether a run is of tokens without commas, or without a bracket and with commas between boxes only."""
        if self.numerals or not all(map(_is_token, items)):
            return False
        commas = ["," in self.text[item.end() : following.start()] for item, following in pairwise(items)]
        if not any(commas):
            return True
        between_boxes_only = not any(comma for index, comma in enumerate(commas, 1) if index % 4)
        return not opened and len(items) % 4 == 0 and between_boxes_only

    def _read_compact(self, items: Sequence[re.Match[str]]) -> Iterator[_BoxAndSpan | MalformedPiece]:
        for index in range(0, len(items), 4):
            four = items[index : index + 4]
            start, end = four[0].start(), four[-1].end()
            if len(four) == 4:
                yield self._read_box([item.group() for item in four], start, end)
            else:
                yield self._make_malformed(start, end, "coordinates", _describe_count(len(four)))

    def _read_bracketed(
        self, start: int, end: int, items: Sequence[re.Match[str]], opened: bool, closed: bool
    ) -> _BoxAndSpan | MalformedPiece:
        if len(items) != 4:
            return self._make_malformed(start, end, "coordinates", _describe_count(len(items)))
        if not (opened and closed):
            missing = "opening bracket is" if closed else "closing bracket is" if opened else "brackets are"
            return self._make_malformed(start, end, "bracket", f"the {missing} missing")
        commas = self.text.count(",", start, end)
        if commas != 3:
            return self._make_malformed(start, end, "comma", f"four coordinates take 3 commas; found {commas}")
        return self._read_box([item.group() for item in items], start, end)

    def _read_unfinished(self, start: int, end: int, count: int) -> MalformedPiece:
        """A bracket in which something else follows before there are four coordinates."""
        rest = _REST.match(self.text, end)
        assert rest is not None
        found = rest.group()
        if not found.strip():
            reason = f"{_describe_count(count)}, and the closing bracket is missing"
            return self._make_malformed(start, end, "coordinates", reason)
        reason = f"expected coordinate {count + 1}, found {quote(found.strip())}"
        return self._make_malformed(start, rest.end() if found.endswith(")") else end, "token", reason)

    def _read_box(self, words: Sequence[str], start: int, end: int) -> _BoxAndSpan | MalformedPiece:
        codes = [self.codes.get(word, -1) for word in words]
        if -1 in codes:
            return self._make_malformed(start, end, *self._explain_word(words[codes.index(-1)]))
        if codes[0] <= codes[2] and codes[1] <= codes[3]:
            return codes, (start, end)
        column = int(codes[0] <= codes[2])
        axis = self.order[column]
        return self._make_malformed(start, end, "order", f"{axis}2 = {codes[column + 2]} < {axis}1 = {codes[column]}")

    def _explain_word(self, word: str) -> tuple[Flaw, str]:
        number = word if self.numerals else word.removeprefix(_STEM).removesuffix(">")
        is_coordinate = self.numerals or (word.startswith(_STEM) and word.endswith(">"))
        if is_coordinate and _INTEGER.fullmatch(number):
            return "range", f"{quote(word)} is outside 0..{self.size - 1}"
        return "token", f"{quote(word)} is not a coordinate; those are 0..{self.size - 1}, without leading zeros"

    def _make_malformed(self, start: int, end: int, flaw: Flaw, reason: str) -> MalformedPiece:
        return MalformedPiece(start, end, self.text[start:end], flaw, reason)


def _is_token(item: re.Match[str]) -> bool:
    return item.group().startswith(_STEM)


def _describe_count(coordinates: int) -> str:
    return f"{coordinates} coordinate{'s' if coordinates != 1 else ''} where a box has four"
