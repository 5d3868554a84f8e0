"""JSON from outside, read in one safe place."""

from __future__ import annotations

import json
import math
from typing import Any

from perceptok.errors import PerceptokError

__all__ = ["json_number", "parse_json"]

_MOST_DIGITS = 400
"""Of one number; the largest float has 309."""


def parse_json(text: str | bytes, name: str, error: type[PerceptokError]) -> Any:
    """What a JSON text says; the one place where JSON from outside is read.

    Numbers are what JSON calls numbers: `NaN` and `Infinity`, which Python writes and reads besides, are read too, and
    it is for the reader of a field to refuse them (`json_number`).

    Args:
        text: One JSON value; bytes are UTF-8, a byte order mark is passed over.
        name: Where it comes from, for the message: a file, or a file and line.
        error: The error of the caller's room.

    Raises:
        PerceptokError: Of the type `error`: no UTF-8, no JSON, nested too deeply, a number of more than 400 digits, or
            half of a surrogate pair, which no UTF-8 file can hold.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        values = json.loads(decoded, parse_int=_whole_number)
        if "\\u" in decoded:
            _refuse_surrogates(values)
    except (ValueError, RecursionError, MemoryError) as reason:
        raise error(f"{name}: this is no JSON that can be read ({_shortened(reason)})") from reason
    return values


def json_number(value: object, *, least: float = -math.inf, most: float = math.inf) -> float:
    """A value out of JSON as a finite float within limits.

    Raises:
        ValueError: It is no number (a boolean is none), not finite, out of the limits, or overflows a float.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number; got {_shortened(repr(value))}")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("a number is too large for a float") from error
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError(f"expected a finite number from {least:g} to {most:g}; got {number:g}")
    return number


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _refuse_surrogates(value: object) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            one.encode()
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]


def _shortened(reason: object) -> str:
    text = str(reason) or type(reason).__name__
    return text if len(text) <= 200 else text[:200] + "..."
