"""Surface forms of boxes: four coordinate tokens, bracketed or in a row, or plain numerals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import upside_down
from perceptok.boxes.text.parsing import Order, parse_boxes, shown
from perceptok.errors import ConfigError, MalformedBoxError
from perceptok.tokens import MOST_TOKENS, PIXEL, TokenSet

__all__ = ["Form", "boxes_from_lines", "boxes_from_text", "boxes_to_lines", "boxes_to_text", "checked_boxes"]

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
    if size > MOST_TOKENS:
        raise ConfigError(f"text has at most {MOST_TOKENS} codes along a side; got {size}")
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
