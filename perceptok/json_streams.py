"""JSON files larger than memory: the members of an object, or the items of a list, one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, TextIO

from perceptok.errors import PerceptokError
from perceptok.files import MAX_LINE_BYTES

__all__ = ["stream_json", "stream_list"]

CHUNK = 1 << 16
"""Characters that the streaming functions read at once."""

_MAX_VALUE = MAX_LINE_BYTES
"""Characters of one item, or of one member that is not a list: it is in memory as a whole."""

_SPACE = re.compile(r"[ \t\n\r]*")
_NEAR_END = 16
"""An error within so many characters of the end of the window may only mean that the rest has not been read yet."""


def stream_json(
    file: TextIO, lists: Collection[str], name: str, error: type[PerceptokError], *, list_hint: str = ""
) -> Iterator[tuple[str, Any]]:
    """Read the members of a JSON object one by one, those that are long lists item by item.

    Args:
        file: A text file that holds one JSON object.
        lists: Keys whose values are lists to read item by item.
        name: What messages call the file.
        error: The error to raise.
        list_hint: What the message adds where the file holds a list instead of an object.

    Yields:
        (key, value) in the file's order; for a key in `lists` the value is an iterator over the items, which is
        exhausted before the next key.

    Raises:
        PerceptokError: Of the type `error`: not JSON, truncated, not an object, not a list where one is expected, or a
            duplicated key; the message gives the character position.
    """
    scanner = _JsonScanner(file, name, error)
    if list_hint and scanner.skip_if("["):
        raise error(f"{name}: expected an object ('{{'), found '['. {list_hint}")
    scanner.expect("{", "an object")
    keys: set[str] = set()
    is_first = True
    while not scanner.skip_if("}"):
        if not is_first:
            scanner.expect(",", "a comma")
        is_first = False
        key = scanner.read_value()
        if not isinstance(key, str):
            raise scanner.make_error(f"expected a key, found {key!r:.40}")
        if key in keys:
            raise scanner.make_error(f"duplicate key {key!r:.40}")
        keys.add(key)
        scanner.expect(":", "a colon")
        if key in lists:
            items = scanner.read_items(key)
            yield key, items
            for _ in items:
                pass
        else:
            yield key, scanner.read_value()
    scanner.expect_end()


def stream_list(file: TextIO, name: str, error: type[PerceptokError]) -> Iterator[Any]:
    """Read the items of a JSON list one by one; raises `error` as `stream_json` does."""
    scanner = _JsonScanner(file, name, error)
    yield from scanner.read_items("items")
    scanner.expect_end()


class _JsonScanner:
    """A window on a file that moves on as values are read; each value is decoded by the standard library's C code."""

    def __init__(self, file: TextIO, name: str, error: type[PerceptokError]) -> None:
        self._file, self._name, self._error = file, name, error
        self._text = ""
        self._position = 0
        self._offset = 0
        """Characters of the file before the window."""
        self._is_started = self._is_ended = False
        self._decode = json.JSONDecoder().raw_decode

    def read_value(self) -> Any:
        """Read one JSON value."""
        self._skip_space()
        size = CHUNK
        while True:
            try:
                value, end = self._decode(self._text, self._position)
            except json.JSONDecodeError as reason:
                may_go_on = reason.pos >= len(self._text) - _NEAR_END or reason.msg.startswith("Unterminated string")
                if self._is_ended or not may_go_on:
                    raise self.make_error(reason.msg, reason.pos) from reason
            except RecursionError as reason:
                raise self.make_error("nested too deeply") from reason
            except ValueError as reason:  # an integer of more digits than Python converts
                raise self.make_error("a number has too many digits") from reason
            else:
                # A number may go on in what has not been read: it is complete only with a delimiter behind it.
                after = _SPACE.match(self._text, end).end()  # type: ignore[union-attr]
                if self._is_ended or (after < len(self._text) and self._text[after] in ",]}:"):
                    self._position = end
                    return value
                if after < len(self._text) - _NEAR_END and self._text[after] not in ".eE+-0123456789":
                    raise self.make_error(f"expected a comma or a bracket, found {self._text[after]!r}", after)
            if len(self._text) - self._position > _MAX_VALUE:
                raise self.make_error(f"a value of more than the {_MAX_VALUE} characters that are read")
            # Twice as much each time, so that a value longer than a chunk takes linear time.
            self._read(size)
            size *= 2

    def read_items(self, key: str) -> Iterator[Any]:
        """Read the items of a list."""
        self.expect("[", f"the list of {key}")
        if self.skip_if("]"):
            return
        while True:
            yield self.read_value()
            if self.skip_if("]"):
                return
            self.expect(",", "a comma")

    def skip_if(self, character: str) -> bool:
        """Skip a character if it comes next."""
        self._skip_space()
        if self._text[self._position : self._position + 1] != character:
            return False
        self._position += 1
        return True

    def expect(self, character: str, meaning: str) -> None:
        """Skip a character; raises an error if another one comes next."""
        if not self.skip_if(character):
            is_end = self._position == len(self._text)
            found = "the end of the file" if is_end else repr(self._text[self._position])
            raise self.make_error(f"expected {meaning} ({character!r}), found {found}")

    def expect_end(self) -> None:
        """Raise an error if anything follows."""
        self._skip_space()
        if self._position < len(self._text):
            raise self.make_error(f"expected the end of the file, found {self._text[self._position]!r}")

    def make_error(self, reason: str, position: int | None = None) -> PerceptokError:
        """Make an error at a position in the window, by default the current one."""
        character = self._offset + (self._position if position is None else position)
        return self._error(f"{self._name}: not valid JSON: {reason} at character {character}")

    def _skip_space(self) -> None:
        while True:
            self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text) or self._is_ended:
                return
            self._read(CHUNK)

    def _read(self, characters: int) -> None:
        try:
            text = self._file.read(characters)
        except UnicodeDecodeError as reason:
            raise self.make_error(f"not UTF-8 ({reason.reason})") from reason
        except OSError as reason:  # a gzip file that is truncated or damaged
            raise self.make_error(f"cannot be read further ({reason.strerror or reason})") from reason
        if not self._is_started:
            text, self._is_started = text.removeprefix("\ufeff"), True
        self._is_ended = not text
        self._offset += self._position
        self._text, self._position = self._text[self._position :] + text, 0
