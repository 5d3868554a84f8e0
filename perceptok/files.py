"""One writer at a time: locks that the system takes back when a process ends, however it ends."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from perceptok.errors import AnnotationError, OutputError, PerceptokError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "atomic_folder",
    "atomic_write",
    "distinct_targets",
    "inside",
    "json_number",
    "locked",
    "open_locked",
    "parse_json",
    "stream_json",
    "stream_list",
    "whole_folder",
]


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


if sys.platform != "win32":
    import fcntl


_WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems say that know no locks."""


def open_locked(path: Path, target: Path) -> int:
    """A descriptor of a file, made where missing, which no other process or thread has opened in this way.

    Args:
        path: The file to hold; what is in it stays.
        target: The output that it stands for, for the message.

    Raises:
        OutputError: Another process holds it.
        OSError: It cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _lock(descriptor, target)
            # The one before may have renamed or removed the file between the opening and the lock.
            if _same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def locked(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock file for as long as the `with` block runs; it is removed at the end, and a kill releases it.

    Args:
        path: The lock file; its folder must exist.
        target: The output that it stands for, for the message.

    Raises:
        OutputError: Another process holds it, or it cannot be made.
    """
    place = Path(path)
    try:
        descriptor = open_locked(place, Path(target))
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield
    finally:
        place.unlink(missing_ok=True)  # while it is held: nobody else can have it
        os.close(descriptor)


def _lock(descriptor: int, target: Path) -> None:
    if sys.platform != "win32":  # there outputs still appear whole, but two writers are not told of each other
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"another process is writing {target}; wait for it, or choose another output") from error
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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
        raise error(f"{name}: not valid JSON ({_shortened(reason)})") from reason
    return values


def json_number(value: object, *, least: float = -math.inf, most: float = math.inf) -> float:
    """A value out of JSON as a finite float within limits.

    Raises:
        ValueError: It is not a number (nor is a boolean), not finite, out of the limits, or overflows a float.
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


def inside(folder: str | os.PathLike[str], name: str, *, suffix: str | None = None) -> Path:
    """The file of a name in a folder, wherever symbolic links lead.

    Args:
        folder: Where the file must be; it need not exist.
        name: A relative name with subfolders, as records have them.
        suffix: Takes the place of the name's own.

    Raises:
        OutputError: The name is empty, absolute, has a NUL, names a folder (`.`, `..`), or leads out of the folder, be
            it through a symbolic link.
    """
    path = Path(name)
    if not path.name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise OutputError(f"the name {name!r} is not a file inside {folder}; names are relative, without '..'")
    target = Path(folder) / path
    if suffix is not None:
        target = target.with_suffix(suffix)
    if not target.resolve().is_relative_to(Path(folder).resolve()):
        raise OutputError(f"the name {name!r} leads out of {folder}, through a symbolic link")
    return target


def distinct_targets(names: Iterable[str], folder: str | os.PathLike[str], *, suffix: str | None = None) -> list[Path]:
    """The file of each name; see `inside`.

    Raises:
        OutputError: Two names lead to one file; nothing has been written yet.
    """
    first: dict[Path, str] = {}
    targets: list[Path] = []
    for name in names:
        target = inside(folder, name, suffix=suffix)
        other = first.setdefault(target.resolve(), name)
        if len(first) == len(targets):
            raise OutputError(f"{other!r} and {name!r} would both be written to {target}; rename one of them")
        targets.append(target)
    return targets


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file that takes its name only when the `with` block ends without an exception.

    The bytes go to a hidden temporary file in the same folder, which is renamed at the end and removed on any
    failure. What a killed process leaves of it is overwritten by the next write of the same file. An error of the block
    itself passes through unchanged.

    Args:
        path: The file to write; its folder must exist.
        force: Replace the file if it exists already.

    Yields:
        A buffered binary file. It has no `fileno()`, so that every byte passes through Python.

    Raises:
        OutputError: The path exists and `force` is not given, is not a regular file, is being written by another
            process, or cannot be written (no folder, no permission, full disk).
    """
    target = Path(path)
    _refuse_existing(target, force)
    # Of the same file's next write it is the name as well, and not longer than the target's own may be.
    temporary = target.with_name(f".perceptok-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.tmp")
    try:
        held = open_locked(temporary, target)
    except OutputError:
        raise
    except OSError as error:
        raise _failure(target, error) from error
    try:
        with io.BufferedWriter(_Output(held, target)) as file:
            try:
                yield file
            except BaseException:
                file.raw.close()  # what the buffer still holds is not worth writing
                raise
        _refuse_existing(target, force)  # somebody may have been faster
        try:
            temporary.replace(target)
        except OSError as error:
            raise _failure(target, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(held)  # only now another writer may take the temporary name


class _Output(io.FileIO):
    """The temporary file; its failures name the file that was asked for."""

    def __init__(self, held: int, target: Path) -> None:
        os.ftruncate(held, 0)  # what a killed process may have left
        super().__init__(os.dup(held), "w")
        self._target = target

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise _failure(self._target, error) from error

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # a network file system may tell of a full disk only here
            raise _failure(self._target, error) from error

    def fileno(self) -> int:
        # With a descriptor NumPy and Pillow would write past us and lose the reason of a failure.
        raise io.UnsupportedOperation("fileno")


def _refuse_existing(target: Path, force: bool) -> None:
    try:
        if os.path.lexists(target) and not target.is_file():
            raise OutputError(f"cannot write {target}: it exists and is not a regular file; choose another path")
        if target.is_file() and not force:
            raise OutputError(f"{target} exists already; choose another path, or replace it with force (--force)")
    except PermissionError as error:
        raise _failure(target, error) from error


def _failure(target: Path, error: OSError) -> OutputError:
    if isinstance(error, FileNotFoundError):
        return OutputError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {target}: {reason}; check permission and free space of {target.parent}")


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """A folder that takes its name, with everything in it, only when the `with` block ends without an exception.

    Files go to a hidden folder beside it, which is renamed at the end and removed on any failure. A folder that stood
    there before is first renamed to `.NAME.previous`, and removed once the new one has its name: whenever a process is
    killed, one of the two is whole, and `whole_folder` finds it.

    Args:
        path: The folder to make; missing folders above it are made.
        force: Replace the folder if it exists already and is not empty.

    Yields:
        The hidden folder to write into.

    Raises:
        OutputError: The path exists and `force` is not given, is not a folder, or cannot be written.
    """
    target = Path(path)
    before = _previous(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        _refuse_folder(target, force)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise error if isinstance(error, OutputError) else _failure(target, error) from error
    try:
        yield temporary
        _refuse_folder(target, force)  # another process may have been faster
        try:
            if target.exists():
                shutil.rmtree(before, ignore_errors=True)
                target.rename(before)
            temporary.rename(target)
        except OSError as error:
            if before.exists() and not target.exists():
                before.rename(target)
            raise _failure(target, error) from error
        shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def whole_folder(path: str | os.PathLike[str]) -> Path:
    """What `atomic_folder` wrote last: the folder, or the one before where a kill came between the two renamings."""
    target = Path(path)
    before = _previous(target)
    return before if before.is_dir() and not target.exists() else target


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _refuse_folder(target: Path, force: bool) -> None:
    if os.path.lexists(target) and not target.is_dir():
        raise OutputError(f"cannot write {target}: it exists and is not a folder; choose another path")
    if target.is_dir() and not force and any(target.iterdir()):
        raise OutputError(f"{target} exists already; choose another path, or replace it with force (--force)")
