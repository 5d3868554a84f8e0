"""Large JSON files item by item: nothing is held but the item at hand."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterator
from typing import Any, TextIO

from perceptok.errors import AnnotationError

__all__ = ["stream_json", "stream_list"]

CHUNK = 1 << 16
_SPACE = re.compile(r"[ \t\n\r]*")
_NEAR_END = 16
"""Characters at the end of what was read in which an error may only mean that the rest is still to come."""


def stream_json(file: TextIO, lists: Collection[str], where: str = "the file") -> Iterator[tuple[str, Any]]:
    """The members of a JSON object as they come.

    Args:
        file: A text file that holds one JSON object.
        lists: Keys whose values are lists that come item by item.
        where: What messages call the file.

    Yields:
        (key, value); for a key in `lists`, the value is an iterator over the items, used up before the next key.

    Raises:
        AnnotationError: Not JSON, cut off, not an object, not a list where one was announced, or a key twice; the
            message gives the character position.
    """
    source = _Source(file, where)
    if source.next_is("["):
        raise AnnotationError(
            f"{where}: expected an object ('{{'), found '['. A list of COCO results does not say its images' "
            "sizes: give the annotation file that has them (`perceptok box encode --header`, `read_results`)"
        )
    source.expect("{", "an object")
    seen: set[str] = set()
    if source.next_is("}"):
        source.expect_end()
        return
    while True:
        key = source.value()
        if not isinstance(key, str):
            raise source.error(f"expected a key, found {key!r:.40}")
        if key in seen:
            raise source.error(f"the key {key!r:.40} stands twice")
        seen.add(key)
        source.expect(":", "a colon")
        if key in lists:
            items = _items(source, key)
            yield key, items
            for _ in items:
                pass
        else:
            yield key, source.value()
        if source.next_is("}"):
            source.expect_end()
            return
        source.expect(",", "a comma")


def stream_list(file: TextIO, where: str = "the file") -> Iterator[Any]:
    """The items of a JSON list as they come; raises AnnotationError as `stream_json`."""
    source = _Source(file, where)
    yield from _items(source, "items")
    source.expect_end()


def _items(source: _Source, key: str) -> Iterator[Any]:
    source.expect("[", f"the list of {key}")
    if source.next_is("]"):
        return
    while True:
        yield source.value()
        if source.next_is("]"):
            return
        source.expect(",", "a comma")


class _Source:
    """A window on the file that moves on as values are taken."""

    def __init__(self, file: TextIO, where: str) -> None:
        self._file = file
        self._where = where
        self._text = ""
        self._at = 0
        self._before = 0
        self._ended = False
        self._begun = False
        self._decode = json.JSONDecoder().raw_decode

    def value(self) -> Any:
        """The next JSON value, whole."""
        self._skip_space()
        wanted = CHUNK
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                unfinished = error.pos >= len(self._text) - _NEAR_END or error.msg.startswith("Unterminated string")
                if self._ended or not unfinished:
                    raise self.error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self.error("nested too deeply") from error
            except ValueError as error:  # a number of more digits than Python converts
                raise self.error("a number has too many digits") from error
            else:
                # A number may go on in what was not read yet: it is whole only with a delimiter behind it.
                after = _SPACE.match(self._text, end).end()  # type: ignore[union-attr]
                if self._ended or (after < len(self._text) and self._text[after] in ",]}:"):
                    self._at = end
                    return value
                if after < len(self._text) - _NEAR_END and self._text[after] not in ".eE+-0123456789":
                    raise self.error(f"expected a comma or a bracket, found {self._text[after]!r}", after)
            # Twice as much each time, so that a value longer than a chunk takes linear time.
            self._read(wanted)
            wanted *= 2

    def next_is(self, character: str) -> bool:
        """Take a character if it comes next."""
        self._skip_space()
        if self._text[self._at : self._at + 1] != character:
            return False
        self._at += 1
        return True

    def expect(self, character: str, what: str) -> None:
        """Take a character; raises AnnotationError if another comes next."""
        if not self.next_is(character):
            found = repr(self._text[self._at]) if self._at < len(self._text) else "the end of the file"
            raise self.error(f"expected {what} ({character!r}), found {found}")

    def expect_end(self) -> None:
        """Raises AnnotationError if anything follows."""
        self._skip_space()
        if self._at < len(self._text):
            raise self.error(f"expected the end of the file, found {self._text[self._at]!r}")

    def error(self, reason: str, at: int | None = None) -> AnnotationError:
        """An error at a position in the window, by default where it stands."""
        position = self._before + (self._at if at is None else at)
        return AnnotationError(f"{self._where}: not readable: {reason} at character {position}")

    def _skip_space(self) -> None:
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._ended:
                return
            self._read(CHUNK)

    def _read(self, characters: int) -> None:
        try:
            more = self._file.read(characters)
        except UnicodeDecodeError as error:
            raise self.error(f"no UTF-8 ({error.reason})") from error
        except (OSError, EOFError, zlib.error) as error:  # a gzip file that is cut or damaged
            raise self.error(f"cannot be read further ({error})") from error
        if not self._begun:
            more, self._begun = more.removeprefix("\ufeff"), True
        self._ended = not more
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0
