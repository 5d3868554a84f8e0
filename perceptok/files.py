"""Files: inputs that are regular files, JSON and names from outside, outputs that are complete or absent.

Inputs are opened by `open_input` and `read_input`, which never wait for a pipe or read a device that a folder or a
record names. JSON is parsed by `parse_json` (one value) and by `stream_json` and `stream_list` (files larger than
memory). They take the class of the error to raise, so that every package reports its own. A name from a data file
becomes a path with `resolve_inside`, which refuses those that lead out of their folder.

`atomic_write` and `atomic_folder` write under a hidden name and rename at the end, so that a kill at any moment leaves
the old output or the new one; the next write of the same output removes what a killed process left. While a process
writes an output, others that want to write it are refused (`lock_output`); the system releases the lock of a killed
process.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import sys
import threading
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from perceptok.errors import OutputError, PerceptokError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "atomic_folder",
    "atomic_write",
    "check_free_space",
    "find_complete_folder",
    "lock_output",
    "open_for_update",
    "open_input",
    "parse_json",
    "parse_number",
    "read_input",
    "resolve_distinct",
    "resolve_inside",
    "spell_name",
    "stream_json",
    "stream_list",
]

MAX_BYTES = 2**28
"""Default limit of a file that is read whole: 268 MB."""

_MAX_NAME_BYTES, _MAX_PATH_CHARACTERS = 255, 3000
"""Of one part of a path, and of a relative path, as file systems have them."""

_MAX_DIGITS = 400
"""Digits of one integer; the largest float has 309."""

CHUNK = 1 << 16
"""Characters that the streaming functions read at once."""

_SPACE = re.compile(r"[ \t\n\r]*")
_NEAR_END = 16
"""An error within so many characters of the end of the window may only mean that the rest has not been read yet."""


def open_input(
    path: str | os.PathLike[str], *, allow_pipe: bool = False, max_bytes: int | None = None
) -> io.BufferedReader:
    """Open a regular file to read its bytes.

    Args:
        path: The file; a symbolic link is followed.
        allow_pipe: Open a pipe too, and wait for its writer: for what the user named as the input, never for a name
            from a folder or a file.
        max_bytes: Refuse a larger file.

    Raises:
        OSError: The file cannot be opened, is a folder, a pipe or a device, or is too large; `strerror` is the reason.
        ValueError: The path has a NUL in it.
    """
    # Without O_NONBLOCK a pipe without a writer is waited for.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | (0 if allow_pipe else getattr(os, "O_NONBLOCK", 0))
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder", os.fspath(path))
        if not (stat.S_ISREG(mode) or (allow_pipe and stat.S_ISFIFO(mode))):
            kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
            raise OSError(errno.EINVAL, f"is a {kind}, not a regular file", os.fspath(path))
        if max_bytes is not None and status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"has {status.st_size} bytes; at most {max_bytes} are read", os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_input(path: str | os.PathLike[str], *, allow_pipe: bool = False, max_bytes: int = MAX_BYTES) -> bytes:
    """Read all bytes of a file that `open_input` opens; raises the same errors, for a pipe that goes on too."""
    with open_input(path, allow_pipe=allow_pipe, max_bytes=max_bytes) as file:
        data = file.read(os.fstat(file.fileno()).st_size + 1)
        while len(data) <= max_bytes and (more := file.read(2**20)):  # of a pipe, or a file that grows
            data += more
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"has more than the {max_bytes} bytes that are read", os.fspath(path))
    return data


def open_for_update(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a file to read and to write it, unbuffered; made where it is missing, never through a symbolic link.

    Raises:
        OSError: It cannot be opened, or is not a regular file.
    """
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    if Path(path).is_symlink():  # where there is no O_NOFOLLOW
        raise OSError(errno.ELOOP, "is a symbolic link", os.fspath(path))
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))
    return io.FileIO(descriptor, "r+")


def parse_json(text: str | bytes, name: str, error: type[PerceptokError]) -> Any:
    """Parse one JSON value.

    `NaN` and `Infinity`, which Python writes and reads although JSON does not have them, are accepted; `parse_number`
    refuses them.

    Args:
        text: Bytes are UTF-8; a byte order mark is skipped.
        name: Where it comes from, for the message: a file, or a file and a line.
        error: The error to raise.

    Raises:
        PerceptokError: Of the type `error`: not UTF-8, not JSON, nested too deeply, an integer of more than 400 digits,
            or half of a surrogate pair, which cannot be written to a UTF-8 file.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        values = json.loads(decoded, parse_int=_parse_integer)
        if "\\u" in decoded:
            json.dumps(values, ensure_ascii=False).encode()  # refuses half surrogate pairs
    except (ValueError, RecursionError, MemoryError) as reason:
        raise error(f"{name}: not valid JSON ({_shorten(str(reason) or type(reason).__name__)})") from reason
    return values


def parse_number(value: object, *, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Convert a value from JSON to a finite float within limits.

    Raises:
        ValueError: It is not a number (a boolean is not one), not finite, outside the limits, or overflows a float.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number; got {_shorten(repr(value))}")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("a number is too large for a float") from error
    if not (math.isfinite(number) and minimum <= number <= maximum):
        raise ValueError(f"expected a finite number from {minimum:g} to {maximum:g}; got {number:g}")
    return number


def _parse_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."


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
        except (OSError, EOFError, zlib.error) as reason:  # a gzip file that is truncated or damaged
            raise self.make_error(f"cannot be read further ({reason})") from reason
        if not self._is_started:
            text, self._is_started = text.removeprefix("\ufeff"), True
        self._is_ended = not text
        self._offset += self._position
        self._text, self._position = self._text[self._position :] + text, 0


def spell_name(name: str) -> str:
    """Spell a file name so that it can be written as UTF-8: bytes that are not UTF-8 become %XX.

    Names that are UTF-8 are unchanged. In the others `%` becomes %25, so that `urllib.parse.unquote_to_bytes` gives the
    file's own bytes back.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return re.sub(r"[\ud800-\udfff]", _spell_byte, name.replace("%", "%25"))
    return name


def _spell_byte(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"%{number - 0xDC00:02X}" if 0xDC80 <= number <= 0xDCFF else f"%u{number:04X}"


def resolve_inside(folder: str | os.PathLike[str], name: str, *, suffix: str | None = None) -> Path:
    """Find the path of a file in a folder by its relative name.

    Args:
        folder: Where the file must be; it need not exist.
        name: A relative name, with `/` for subfolders, as records have them.
        suffix: Replaces the name's own.

    Raises:
        OutputError: The name is empty, absolute, contains NUL, `..` or half a surrogate pair, is that of a folder
            (`.`), too long, or leads out of the folder through a symbolic link.
    """
    path = Path(name)
    if not path.name or "\0" in name or path.anchor or ".." in path.parts:  # on Windows `c:x` has an anchor too
        raise OutputError(f"the name {name!r:.200} is not a file inside {folder}; names are relative, without '..'")
    try:
        is_too_long = any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in path.parts)
    except UnicodeEncodeError as error:
        raise OutputError(
            f"the name {name!r:.200} has half a surrogate pair, which a file's name cannot have"
        ) from error
    if is_too_long or len(name) > _MAX_PATH_CHARACTERS:
        raise OutputError(f"the name {name!r:.200} is longer than a file's name can be ({_MAX_NAME_BYTES} bytes)")
    target = Path(folder) / path
    if suffix is not None:
        target = target.with_suffix(suffix)
    if not target.resolve().is_relative_to(Path(folder).resolve()):
        raise OutputError(f"the name {name!r} leads out of {folder} through a symbolic link")
    return target


def resolve_distinct(names: Iterable[str], folder: str | os.PathLike[str], *, suffix: str | None = None) -> list[Path]:
    """Find the path of each name with `resolve_inside`.

    Raises:
        OutputError: Two names have the same path, or a name leads out of the folder.
    """
    name_of: dict[Path, str] = {}
    targets: list[Path] = []
    for name in names:
        target = resolve_inside(folder, name, suffix=suffix)
        other = name_of.setdefault(target.resolve(), name)
        if len(name_of) == len(targets):
            raise OutputError(f"{other!r} and {name!r} would both be written to {target}; rename one of them")
        targets.append(target)
    return targets


_held_folders: set[tuple[int, Path]] = set()
"""Process id and absolute path of the folders that `lock_output` holds: a forked process inherits the set only."""

_open_outputs: set[tuple[int, Path]] = set()
"""Process id and absolute path of the files that `atomic_write` is writing."""

_open_outputs_lock = threading.Lock()


@contextmanager
def lock_output(path: str | os.PathLike[str], *, shown: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Hold a file or a folder that is being written, for as long as the `with` block runs.

    The lock is a hidden file: `.perceptok.lock` in a folder, `.perceptok-HASH.lock` beside a file. It is removed at the
    end, and the system releases it when the process is killed. Files that this process writes into a folder that it
    holds are not locked one by one.

    Args:
        path: A folder that exists, or a file in one.
        shown: What messages name instead.

    Raises:
        OutputError: Another process or thread holds it, or the lock cannot be made.
    """
    target = Path(path)
    shown = Path(target if shown is None else shown)
    if not target.is_dir():
        with _hold_lock(_hidden_path(target, "lock"), shown):
            yield
        return
    held = os.getpid(), target.absolute()
    with _hold_lock(target / ".perceptok.lock", shown):
        _remove_leftovers(target)
        _held_folders.add(held)
        try:
            yield
        finally:
            _held_folders.discard(held)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder: temporary files and folders beside a lock that nobody holds.

    A lock stays where its process was killed, and names what it was for; so nothing else is removed.
    """
    from filelock import FileLock, Timeout

    try:
        names = {entry.name for entry in os.scandir(folder) if entry.name.startswith(".")}
    except OSError:
        return
    for name in sorted(name for name in names if name.endswith(".tmp")):
        is_file = re.fullmatch(r"\.perceptok-[0-9a-f]{16}\.tmp", name)
        lock_name = f"{name[:-4]}.lock" if is_file else _hidden_path(folder / (name[1:-4] or "."), "lock").name
        if lock_name not in names or (folder / lock_name).is_symlink():
            continue
        lock = FileLock(folder / lock_name, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except (Timeout, OSError, RuntimeError):  # held, by another process or this one
            continue
        try:
            _remove(folder / name)
            (folder / lock_name).unlink(missing_ok=True)  # while it is held
        except OSError:
            pass  # the next run tries again
        finally:
            lock.release()


@contextmanager
def _hold_lock(lock_path: Path, shown: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    if not lock_path.parent.is_dir():
        raise OutputError(f"cannot write {shown}: the folder {lock_path.parent} does not exist; create it first")
    if lock_path.is_symlink():
        raise OutputError(f"cannot write {shown}: its lock {lock_path} is a symbolic link; remove it")
    lock = FileLock(lock_path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise _make_busy_error(shown) from error
    except OSError as error:
        raise _make_error(shown, error) from error
    try:
        yield
    finally:
        if sys.platform != "win32":  # there it is removed by its release
            lock_path.unlink(missing_ok=True)  # while it is held: a process that opened it before finds it unlinked
        lock.release()


@contextmanager
def _claim_file(target: Path) -> Iterator[Path]:
    """Refuse every other writer of a file; yields the path of its temporary file, which nothing else uses.

    A lock of its own takes 0.4 ms, so a file in a folder that this process holds has none: there only other threads
    can write it.
    """
    process, path = output = os.getpid(), target.absolute()
    with _open_outputs_lock:
        if output in _open_outputs:
            raise _make_busy_error(target)
        _open_outputs.add(output)
    try:
        if any(process == holder and folder in path.parents for holder, folder in _held_folders):
            yield _hidden_path(target, "part")
        else:
            with _hold_lock(_hidden_path(target, "lock"), target):
                yield _hidden_path(target, "tmp")
    finally:
        _open_outputs.discard(output)


def _make_busy_error(target: Path) -> OutputError:
    return OutputError(f"another process is writing {target}; wait for it, or choose another output")


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file that takes its name only when the `with` block ends without an exception.

    The bytes go to a hidden temporary file in the same folder, which is renamed at the end and removed on any failure.
    An error of the block itself passes through unchanged.

    Args:
        path: The file to write; its folder must exist.
        force: Replace the file if it exists already.

    Yields:
        A buffered binary file. It has no `fileno()`, so that every byte passes through Python.

    Raises:
        OutputError: The path exists and `force` is not given, is not a regular file, is being written by another
            process, or cannot be written (the folder is missing, no permission, full disk).
    """
    target = Path(path)
    _check_file(target, force)
    with _claim_file(target) as temporary:
        try:
            with io.BufferedWriter(_Output(temporary, target)) as file:
                try:
                    yield file
                except BaseException:
                    file.raw.close()  # without writing what the buffer holds
                    raise
            _check_file(target, force)  # it may have appeared in the meantime
            try:
                temporary.replace(target)
            except OSError as error:
                raise _make_error(target, error) from error
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class _Output(io.FileIO):
    """The temporary file; its errors name the file that was asked for."""

    def __init__(self, temporary: Path, target: Path) -> None:
        self._target = target
        try:
            temporary.unlink(missing_ok=True)  # of a killed process, or a link that leads elsewhere
            super().__init__(temporary, "x")  # never through a link
        except OSError as error:
            raise _make_error(target, error) from error

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise _make_error(self._target, error) from error

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # a network file system may report a full disk only here
            raise _make_error(self._target, error) from error

    def fileno(self) -> int:
        # With a descriptor NumPy and Pillow would write past this class and lose the reason of a failure.
        raise io.UnsupportedOperation("fileno")


def _hidden_path(target: Path, suffix: str) -> Path:
    """A hidden name beside a file: the same for each write of it, and not longer than the file's own name may be."""
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".perceptok-{digest}.{suffix}")


def _check_file(target: Path, force: bool) -> None:
    try:
        if os.path.lexists(target) and not target.is_file():
            raise OutputError(f"cannot write {target}: it exists and is not a regular file; choose another path")
        if target.is_file() and not force:
            raise OutputError(f"{target} exists already; choose another path, or replace it with force (--force)")
    except PermissionError as error:
        raise _make_error(target, error) from error


def _make_error(target: Path, error: OSError) -> OutputError:
    if isinstance(error, FileNotFoundError):
        return OutputError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {target}: {reason}; check permission and free space of {target.parent}")


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, force: bool = False, marker: str = "") -> Iterator[Path]:
    """Make a folder that takes its name, with all its files, only when the `with` block ends without an exception.

    Files go to a hidden folder beside it, which is renamed at the end and removed on any failure. A folder of that name
    is first renamed to `.NAME.previous`, and removed once the new one has its name: whenever a process is killed, one
    of the two is complete, and `find_complete_folder` finds it.

    Args:
        path: The folder to make; missing parents are made.
        force: Replace the folder if it exists already and is not empty.
        marker: A file that every output of this kind has; a folder without it is not replaced.

    Yields:
        The hidden folder to write into.

    Raises:
        OutputError: The path exists and `force` is not given, is not a folder or has no marker, is being written by
            another process, or cannot be written.
    """
    target = Path(path)
    previous, temporary = _previous_folder(target), target.with_name(f".{target.name}.tmp")
    _check_folder(target, force, marker)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _make_error(target, error) from error
    with _hold_lock(_hidden_path(target, "lock"), target):
        _remove_leftovers(target.parent)
        try:
            _remove(temporary)  # of a killed process
            temporary.mkdir()
        except OSError as error:
            raise _make_error(target, error) from error
        try:
            yield temporary
            _check_folder(target, force, marker)  # it may have appeared in the meantime
            try:
                if target.exists():
                    _remove(previous)
                    target.rename(previous)
                temporary.rename(target)
            except OSError as error:
                if previous.exists() and not target.exists():
                    previous.rename(target)
                raise _make_error(target, error) from error
            shutil.rmtree(previous, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_free_space(path: str | os.PathLike[str], num_bytes: int) -> None:
    """Refuse an output for which its disk has no space, before anything is written.

    Args:
        path: The file or folder to write; it need not exist.
        num_bytes: Bytes that it takes.

    Raises:
        OutputError: Fewer bytes are free.
    """
    place = next((folder for folder in (Path(path), *Path(path).absolute().parents) if folder.is_dir()), Path())
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise _make_error(Path(path), error) from error
    if free < num_bytes:
        raise OutputError(
            f"cannot write {path}: it takes {num_bytes / 2**20:.0f} MB, the disk has {free / 2**20:.0f} MB left; free "
            "some space, or choose another path"
        )


def _remove(folder: Path) -> None:
    """Remove a folder if it is there; of a symbolic link, the link alone."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def find_complete_folder(path: str | os.PathLike[str]) -> Path:
    """Find what `atomic_folder` wrote last: the folder, or the previous one if a kill came between two renamings."""
    target = Path(path)
    previous = _previous_folder(target)
    return previous if previous.is_dir() and not target.exists() else target


def _previous_folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _check_folder(target: Path, force: bool, marker: str) -> None:
    try:
        if os.path.lexists(target) and not target.is_dir():
            raise OutputError(f"cannot write {target}: it exists and is not a folder; choose another path")
        if not target.is_dir() or not any(target.iterdir()):
            return
    except OSError as error:
        raise _make_error(target, error) from error
    if not force:
        raise OutputError(f"{target} exists already; choose another path, or replace it with force (--force)")
    if marker and not (target / marker).is_file():
        raise OutputError(
            f"{target} is not replaced: it has no {marker}, so that it is not an earlier output; choose another path, "
            "or remove it yourself"
        )
