"""Ids of the images, annotations and categories of a data set: integers as COCO has them, or text such as a UUID."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

__all__ = ["FIRST_CODE", "EntryId", "EntryIds", "IdCodes", "parse_id", "parse_integer", "sort_ids"]

EntryId = int | str

_MAX_ID = 2**128
"""Larger integers are not ids; a UUID has 128 bits."""

FIRST_CODE = 2**62
"""First code of ids that are not their own codes."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}(?:\.0*)?")
_CANONICAL = re.compile(r"(?:0|-?[1-9][0-9]*)(?:\.0+)?")


def parse_integer(value: object) -> int | None:
    """The integer that a JSON value is, also as a float (7.0) or as text ("7"); None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if _INTEGER.fullmatch(text) else None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def parse_id(value: object) -> EntryId | None:
    """The id that a JSON value is: an integer, also as a float, or text as it stands; None for anything else."""
    if isinstance(value, str):
        return value if value.strip() and _is_encodable(value) else None
    number = parse_integer(value)
    return number if number is not None and abs(number) < _MAX_ID else None


def sort_ids(ids: Iterable[EntryId]) -> list[EntryId]:
    """Integers by size, then texts by alphabet."""
    return sorted(ids, key=lambda entry: (isinstance(entry, str), entry))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


class EntryIds:
    """The ids of a list's entries, found however a reference writes them: 7, 7.0 or "7".

    An id that is written alike is preferred, so that a file may have an entry 7 and another "7".
    """

    def __init__(self, entries: Iterable[EntryId]) -> None:
        self._entries = dict.fromkeys(entries)
        self._by_number: dict[int, EntryId] = {}
        for entry in self._entries:
            number = _find_number(entry)
            if number is not None:
                self._by_number.setdefault(number, entry)

    def find(self, reference: EntryId) -> EntryId:
        """The entry's id that a reference means; the reference itself where there is none."""
        if reference in self._entries:
            return reference
        number = _find_number(reference)
        return reference if number is None else self._by_number.get(number, reference)

    def normalize(self, entry: EntryId) -> EntryId:
        """An entry's id as an integer where it is one written as text and no other entry has that integer."""
        number = _find_number(entry)
        if number is None or isinstance(entry, int) or not _CANONICAL.fullmatch(entry.strip()):
            return entry
        return number if self._by_number.get(number) == entry and number not in self._entries else entry


class IdCodes:
    """Ids as integers of 64 bits: those below 2**62 are their own codes, larger ones and texts are numbered from there.

    False where it has numbered none.
    """

    def __init__(self) -> None:
        self._codes: dict[EntryId, int] = {}
        self._ids: list[EntryId] = []

    def __bool__(self) -> bool:
        return bool(self._ids)

    def encode(self, entry: EntryId) -> int:
        """The code of an id."""
        if isinstance(entry, int) and abs(entry) < FIRST_CODE:
            return entry
        code = self._codes.setdefault(entry, FIRST_CODE + len(self._ids))
        if code == FIRST_CODE + len(self._ids):
            self._ids.append(entry)
        return code

    def decode(self, code: int) -> EntryId:
        """The id of a code."""
        return code if code < FIRST_CODE else self._ids[code - FIRST_CODE]


def _find_number(entry: EntryId) -> int | None:
    number = parse_integer(entry)
    return number if number is not None and abs(number) < _MAX_ID else None
