"""Boxes in sentences: numbered and labelled lists, and the answers that AURORA teaches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import upside_down
from perceptok.errors import ConfigError, MalformedBoxError
from perceptok.tokens import MAX_TOKENS, PIXEL, TokenSet

__all__ = [
    "BoxAnswer",
    "Flaw",
    "Form",
    "MalformedPiece",
    "Order",
    "ParsedBoxes",
    "answer_from_text",
    "answer_to_text",
    "boxes_from_lines",
    "boxes_from_text",
    "boxes_to_lines",
    "boxes_to_text",
    "checked_boxes",
    "labelled_from_text",
    "labelled_to_text",
    "labels_before",
    "parse_boxes",
    "shown",
]


Order = Literal["xyxy", "yxyx"]

Flaw = Literal["coordinates", "bracket", "comma", "token", "range", "order"]
"""What is wrong: their number, a bracket or comma missing, a token unknown or out of range, the edges' order."""

_STEM = f"<{PIXEL.name}_"
_TOKEN = rf"{_STEM}[A-Za-z0-9_+-]*+>?+"
_NUMBER = r"[-+]?[0-9][0-9.]*+"
_ITEM = rf"(?:{_TOKEN}|<[A-Za-z][^<>()\s,]*+>|{_NUMBER})"
_NEXT_parsing = r"(?:\s*+,)?+\s*+"
_NEXT_ON_LINE = r"(?:[^\S\n]*+,)?+[^\S\n]*+"
# Every repetition is possessive: a failure is never retried in parts, so that any text takes linear time.
_TOKENS_RUN = rf"\(\s*+{_ITEM}(?:{_NEXT_parsing}{_ITEM})*+(?:\s*+,)?+|{_TOKEN}(?:{_NEXT_ON_LINE}{_TOKEN})*+"
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


Form = Literal["aurora", "compact", "numeral"]

_AT_ONCE = 4096
"""Boxes read at once: what is computed of them stays in the processor's cache."""

_SPACE = re.compile(r"(?<=[(),>])\s+|\s+(?=[(),<])")
"""White space between tokens; within one, as in `< PIXEL_3>` or `1 2`, it is a fault like any other letter."""

_PUNCTUATION: dict[Form, tuple[str, str, str]] = {
    "aurora": ("(", ",", ")"),
    "compact": ("", "", ""),
    "numeral": ("(", ",", ")"),
}


def checked_boxes(codes: ArrayLike, *, size: int = PIXEL.size, order: Order = "xyxy") -> np.ndarray:
    """Codes of boxes as int64 of shape (N, 4).

    Args:
        codes: Integers (N, 4), or (4,) for one box, in 0..size - 1; the far edge is never before the near one.
        size: Number of codes along a side.
        order: What the columns are, `x1, y1, x2, y2` or `y1, x1, y2, x2`; only messages depend on it.

    Raises:
        MalformedBoxError: Another shape or type, a code out of range, or a box that is upside down; the message
            names the first one.
    """
    try:
        array = np.asarray(codes)
    except ValueError as error:
        raise MalformedBoxError(f"codes have shape (N, 4); got no regular array ({error})") from error
    if array.shape == (4,):
        array = array[None]
    if array.size == 0 and array.shape in ((0,), (0, 4)):
        return np.zeros((0, 4), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 4:
        raise MalformedBoxError(f"codes have shape (N, 4); got {array.shape}")
    if array.dtype.kind not in "iu":
        raise MalformedBoxError(f"codes are integers; got {array.dtype}: encode coordinates with a BoxCodec first")
    if array.min() < 0 or array.max() >= size:
        outside = (array < 0) | (array >= size)
        row, column = (int(index) for index in np.argwhere(outside)[0])
        raise MalformedBoxError(f"codes are 0..{size - 1}; found {array[row, column]} in box {row}")
    array = np.ascontiguousarray(array, dtype=np.int64)
    turned = upside_down(array)
    if turned is not None:
        column = int(array[turned, 2] >= array[turned, 0])
        name = order[column]
        far, near = array[turned, column + 2], array[turned, column]
        raise MalformedBoxError(f"box {turned} has {name}2 = {far} < {name}1 = {near}; give the near edges first")
    return array


def boxes_to_text(codes: ArrayLike, *, form: Form = "aurora", order: Order = "xyxy", size: int = PIXEL.size) -> str:
    """Codes of boxes (N, 4) -> text, box after box with nothing between them; no box gives "".

    Args:
        codes: Integers (N, 4) in 0..size - 1, written column by column as they are.
        form: "aurora": `(<PIXEL_x1>,<PIXEL_y1>,<PIXEL_x2>,<PIXEL_y2>)`; "compact": the four tokens in a row; "numeral":
            `(x1,y1,x2,y2)`, the ablation of arXiv 2412.03548 without coordinate tokens.
        order: What the columns are; only messages depend on it.
        size: Number of codes along a side; another size than 336 has tokens of its own.

    Raises:
        MalformedBoxError: The codes are no boxes; see `checked_boxes`.
        ValueError: Another form.
    """
    return _written(checked_boxes(codes, size=size, order=order), _known(form), size).decode("ascii")


def boxes_from_text(text: str, *, size: int = PIXEL.size, order: Order = "xyxy", strict: bool = True) -> np.ndarray:
    """The inverse of `boxes_to_text`, whose form shows in the text.

    Args:
        text: Boxes of one form and nothing else, but for white space between their tokens, which some tokenizers'
            decoding puts there.
        size: Number of codes along a side.
        order: What the columns are; only messages depend on it.
        strict: Without it, `text` may be anything a model wrote: the well-formed boxes in it are returned, and
            `parse_boxes` tells what was not.

    Returns:
        Codes (N, 4) int64, columns as the text has them.

    Raises:
        MalformedBoxError: The message gives the character position, what is wrong there and what was found.
    """
    if not strict:
        return parse_boxes(text, size=size, order=order).boxes
    codes = _read(text, size)
    if codes is None:
        codes = _read(_SPACE.sub("", text.strip()), size)
    if codes is None:
        raise _explained(text, size, order)
    return codes


def boxes_to_lines(
    codes: ArrayLike, *, form: Form = "aurora", order: Order = "xyxy", size: int = PIXEL.size
) -> list[str]:
    """As `boxes_to_text`, a text for each box, in a seventeenth of the time of one call for each."""
    return _written(checked_boxes(codes, size=size, order=order), _known(form), size, "\n").decode("ascii").splitlines()


def boxes_from_lines(lines: Sequence[str], *, size: int = PIXEL.size) -> np.ndarray | None:
    """Codes (N, 4) of texts of one box each, all in one form; None where one of them is not exactly that."""
    return _read("".join(line + "\n" for line in lines), size, "\n")


def _known(form: Form) -> Form:
    if form not in _PUNCTUATION:
        raise ValueError(f"forms of boxes are {', '.join(_PUNCTUATION)}; got {form!r}")
    return form


@lru_cache(maxsize=16)
def _pieces(form: Form, size: int, end: str) -> np.ndarray:
    """What each code is written as in each of the four columns, (4 * size,) byte strings filled up with zero bytes."""
    opening, comma, closing = _PUNCTUATION[form]
    if size > MAX_TOKENS:
        raise ConfigError(f"text has at most {MAX_TOKENS} codes along a side; got {size}")
    words = [str(code) for code in range(size)] if form == "numeral" else TokenSet(PIXEL.name, size).tokens
    first = [f"{opening}{word}{comma}" for word in words]
    inner = [f"{word}{comma}" for word in words]
    last = [f"{word}{closing}{end}" for word in words]
    return np.array([piece.encode() for piece in first + inner + inner + last])


def _written(codes: np.ndarray, form: Form, size: int, end: str = "") -> bytes:
    # One table look-up for all columns, and the fill is squeezed out of the whole at once: 0.1 microseconds a box.
    pieces = _pieces(form, size, end).take(codes + np.arange(4) * size)
    return pieces.tobytes().translate(None, b"\0")


def _read(text: str, size: int, end: str = "") -> np.ndarray | None:
    """Codes of a text in one of the forms; None where it is not exactly what `_written` writes."""
    if not text:
        return np.zeros((0, 4), dtype=np.int64)
    if not text.isascii():
        return None
    form: Form = "compact" if text[0] == "<" else "aurora" if text[:2] == "(<" else "numeral"
    data = text.encode("ascii")
    view = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero((view == ord(",")) | (view == ord(")")) if form == "numeral" else view == ord(">"))
    if len(ends) == 0 or len(ends) % 4:
        return None
    codes = np.empty((len(ends) // 4, 4), dtype=np.int64)
    places, position = len(str(size - 1)), 0
    for first in range(0, len(codes), _AT_ONCE):
        part = codes[first : first + _AT_ONCE]
        part[:] = _numbers_before(view, ends[4 * first : 4 * (first + len(part))], places).reshape(-1, 4)
        if part.max() >= size or upside_down(part) is not None:
            return None
        # The digits were read without a look at what stands around them; writing them again is the proof.
        again = _written(part, form, size, end)
        if not data.startswith(again, position):
            return None
        position += len(again)
    return codes if position == len(data) else None


def _numbers_before(view: np.ndarray, ends: np.ndarray, places: int) -> np.ndarray:
    """The decimal number of up to `places` digits that ends before each position."""
    values: np.ndarray = np.zeros(len(ends), dtype=np.int32 if places < 10 else np.int64)
    going: np.ndarray = np.ones(len(ends), dtype=bool)
    for place in range(places):
        # Below "0" wraps round to above 9; a position before the start is clipped, and then refused with the rest.
        digits = view.take(ends - (1 + place), mode="clip") - np.uint8(ord("0"))
        going &= digits <= 9
        values += (digits * going) * values.dtype.type(10**place)
    return values


def _explained(text: str, size: int, order: Order) -> MalformedBoxError:
    """What is wrong with a text that is no list of boxes: a malformed piece, or what stands between boxes."""
    parsed = parse_boxes(text, size=size, order=order)
    pixels, bracket = f"<{PIXEL.name}_" in text, text.startswith("(")
    form: Form = "numeral" if not pixels else "aurora" if bracket else "compact"
    again = boxes_to_text(parsed.boxes, form=form, size=size)
    differs = next((at for at, (ours, given) in enumerate(zip(again, text, strict=False)) if ours != given), len(again))
    differs = min(differs, len(text))
    if parsed.malformed and parsed.malformed[0].start <= differs:
        return parsed.malformed[0].error()
    expected = "a box" if differs == len(again) else repr(again[differs : differs + 12])
    found = shown(text[differs:]) if differs < len(text) else "the end of the text"
    return MalformedBoxError(
        f"not a list of boxes: expected {expected} at character {differs}, found {found}; "
        "read free text with strict=False"
    )


_LABEL = "Bounding box"
_FOUND = ("Here are the bounding boxes for the ", ":")
_NONE = ("There are no ", " in the image.")
_NEXT = "\n "
"""Between lines. The released samples have the space, which tokenizers and people lose: reading does without."""


class BoxAnswer(NamedTuple):
    """What an answer says.

    Attributes:
        plural: What was asked for, e.g. "dogs".
        boxes: Codes (N, 4) int64; (0, 4) where there are none.
    """

    plural: str
    boxes: np.ndarray


def labelled_to_text(
    codes: ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    form: Form = "aurora",
    order: Order = "xyxy",
    size: int = PIXEL.size,
) -> str:
    """Codes of boxes (N, 4) -> one line each, `label: box`; no box gives "".

    Args:
        codes: See `boxes_to_text`.
        labels: One for each box, without line breaks; default: "Bounding box 1", "Bounding box 2", ...
        form: See `boxes_to_text`.
        order: See `boxes_to_text`.
        size: See `boxes_to_text`.

    Raises:
        MalformedBoxError: The codes are no boxes, or the labels do not fit them.
    """
    boxes = checked_boxes(codes, size=size, order=order)
    names = [f"{_LABEL} {number}" for number in range(1, len(boxes) + 1)] if labels is None else list(labels)
    if len(names) != len(boxes):
        raise MalformedBoxError(f"expected a label for each of {len(boxes)} boxes; got {len(names)}")
    for name in names:
        if name != name.strip() or not name or len(name.splitlines()) != 1:
            raise MalformedBoxError(f"a label is one line without space around it; got {shown(name)}")
    written = boxes_to_lines(boxes, form=form, order=order, size=size)
    return "\n".join(f"{name}: {box}" for name, box in zip(names, written, strict=True))


def labelled_from_text(
    text: str, *, size: int = PIXEL.size, order: Order = "xyxy"
) -> tuple[tuple[str, ...], np.ndarray]:
    """The exact inverse of `labelled_to_text`; for free text see `parse_boxes` and `labels_before`.

    Returns:
        The labels, and codes (N, 4) int64.

    Raises:
        MalformedBoxError: A line is not `label: box`; the message gives the character position and what was found.
    """
    labels: list[str] = []
    pieces: list[tuple[int, str, str]] = []
    position = 0
    for line in text.split("\n") if text else ():
        label, colon, box = line.rpartition(": ")
        if not colon or not label or label != label.strip():
            raise MalformedBoxError(f"expected `label: box` at character {position}, found {shown(line)}")
        labels.append(label)
        pieces.append((position, line, box))
        position += len(line) + 1
    boxes = boxes_from_lines([box for _, _, box in pieces], size=size)
    if boxes is None:
        boxes = np.concatenate([_one_box(*piece, size, order) for piece in pieces])
    return tuple(labels), boxes


def _one_box(position: int, line: str, box: str, size: int, order: Order) -> np.ndarray:
    try:
        one = boxes_from_text(box, size=size, order=order)
    except MalformedBoxError as error:
        raise MalformedBoxError(f"in the line at character {position}, {shown(line)}: {error}") from error
    if len(one) != 1:
        raise MalformedBoxError(f"expected one box in the line at character {position}, found {len(one)}")
    return one


def labels_before(text: str, parsed: ParsedBoxes) -> tuple[str, ...]:
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


def answer_to_text(
    codes: ArrayLike, plural: str, *, form: Form = "aurora", order: Order = "xyxy", size: int = PIXEL.size
) -> str:
    """The answer of AURORA's atomic box samples to "Return the bounding boxes of {plural}.".

    `Here are the bounding boxes for the {plural}:`, then a line for each, after a space, `Bounding box 1: (...)`;
    without a box `There are no {plural} in the image.`

    Args:
        codes: See `boxes_to_text`.
        plural: What was asked for.
        form: See `boxes_to_text`.
        order: See `boxes_to_text`.
        size: See `boxes_to_text`.

    Raises:
        MalformedBoxError: The codes are no boxes, or the plural is empty or longer than a line.
    """
    if not plural.strip() or len(plural.splitlines()) != 1:
        raise MalformedBoxError(f"a plural is a word or more on one line; got {shown(plural)}")
    lines = labelled_to_text(codes, form=form, order=order, size=size)
    if not lines:
        return plural.join(_NONE)
    return _NEXT.join([plural.join(_FOUND), *lines.split("\n")])


def answer_from_text(text: str, *, size: int = PIXEL.size, order: Order = "xyxy", strict: bool = True) -> BoxAnswer:
    """The inverse of `answer_to_text`; also without the spaces before "Bounding box".

    Args:
        text: One answer.
        size: Number of codes along a side.
        order: What the columns are; only messages depend on it.
        strict: Without it, space may differ, text may follow, and numbers may be missing or wrong; malformed boxes are
            left out (`parse_boxes` tells which).

    Raises:
        MalformedBoxError: Not one of the two sentences, a malformed box, or boxes that are not numbered 1, 2, 3, ...
    """
    stripped = text if strict else text.strip()
    if stripped.startswith(_NONE[0]) and (end := stripped.find(_NONE[1])) > len(_NONE[0]):
        if strict and end + len(_NONE[1]) != len(text):
            raise MalformedBoxError(f"expected the end of the text at character {end + len(_NONE[1])}, found more")
        return BoxAnswer(stripped[len(_NONE[0]) : end], np.zeros((0, 4), dtype=np.int64))
    plural, colon, lines = stripped.removeprefix(_FOUND[0]).partition(_FOUND[1] + "\n" if strict else _FOUND[1])
    if not stripped.startswith(_FOUND[0]) or not colon or not plural:
        raise MalformedBoxError(
            f"expected {_FOUND[0] + '...:'!r} or {_NONE[0] + '...' + _NONE[1]!r}, found {shown(text)}"
        )
    if not strict:
        return BoxAnswer(plural, parse_boxes(lines, size=size, order=order).boxes)
    if not lines.strip(" "):
        raise MalformedBoxError(f"expected a box or more after the colon, found none; {_NONE[0] + '...'!r} says so")
    labels, boxes = labelled_from_text(lines.removeprefix(" ").replace(_NEXT, "\n"), size=size, order=order)
    expected = [f"{_LABEL} {number}" for number in range(1, len(boxes) + 1)]
    if list(labels) != expected:
        wrong = next(at for at, (label, name) in enumerate(zip(labels, expected, strict=True)) if label != name)
        raise MalformedBoxError(f"expected {expected[wrong]!r}, found {shown(labels[wrong])}")
    return BoxAnswer(plural, boxes)
