"""Files: inputs that are regular files, JSON and names from outside, outputs that are complete or absent.

Inputs are opened by `open_input` and `read_input`, which never wait for a pipe or read a device that a folder or a
record names. Text is read with `open_text` or `decode_text`, JSON with `parse_json`, all of them gzip too, which the
first bytes tell, whatever the file's name is. `parse_json` takes the class of the error to raise, so that every package
reports its own. A name from a data file becomes a path with `resolve_inside`, which refuses those that lead out of
their folder.

`atomic_write` and `atomic_folder` write under a hidden name and rename at the end, so that a kill at any moment leaves
the old output or the new one; the next write of the same output removes what a killed process left. While a process
writes an output, others that want to write it are refused (`lock_output`); the system releases the lock of a killed
process.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import math
import os
import re
import shutil
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, AnyStr, BinaryIO, TextIO, cast
from urllib.parse import unquote_to_bytes

from perceptok.errors import OutputError, PerceptokError, quote_error
from perceptok.locks import claim_file, find_hidden_path, hold_lock, make_output_error, remove_leftovers, remove_path

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "MAX_LINE_BYTES",
    "append_text",
    "atomic_folder",
    "atomic_write",
    "check_free_space",
    "decode_text",
    "decompress_input",
    "find_complete_folder",
    "find_suffix",
    "open_for_update",
    "open_input",
    "open_text",
    "parse_json",
    "parse_number",
    "read_input",
    "resolve_distinct",
    "resolve_inside",
    "resolve_spelled",
    "spell_name",
    "walk_files",
]

MAX_BYTES = 2**28
"""Default limit of a file that is read whole: 268 MB."""

_MAX_NAME_BYTES, _MAX_PATH_CHARACTERS = 255, 3000
"""Of one part of a path, and of a relative path, as file systems have them."""

_MAX_VISITS = 100
"""Of one folder, by links: a few links in each of thirty folders lead to billions of paths."""

_MAX_DIGITS = 400
"""Digits of one integer; the largest float has 309."""

_GZIP = b"\x1f\x8b"
"""First bytes of a gzip file."""

MAX_LINE_BYTES = 2**25
"""Of a line of JSON, which as Python objects takes some twenty times as much memory."""

_MAX_EXPANSION = 100
"""A gzip file that holds more than `MAX_BYTES`, and more than so many times its own bytes, is refused."""

_MAX_GZIP_VALUE = 2**24
"""Bytes of one JSON value in a gzip file, unless the file itself is large."""


def open_input(
    path: str | os.PathLike[str], *, allow_pipe: bool = False, max_bytes: int | None = None
) -> io.BufferedReader:
    """Open a regular file to read its bytes.

    Args:
        path: The file; a symbolic link is followed.
        allow_pipe: Open a pipe too, and wait for its writer: for what the user named as the input, never for a name
            from a folder or a file.
        max_bytes: Refuse a larger file.

    Returns:
        A buffered file. Iterating over its lines raises OSError for one of more than `MAX_LINE_BYTES`.

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
        return _Input(io.FileIO(descriptor, "rb"))
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


def decompress_input(file: BinaryIO) -> BinaryIO:
    """Read an open file from here on as it is, or decompressed where its next bytes are those of a gzip file.

    Args:
        file: It can peek or seek; of another one the bytes are not looked at. Closing the result closes it.

    Returns:
        A buffered file. Reading damaged or truncated gzip raises OSError, whose `strerror` is the reason.
    """
    start = b""
    if isinstance(file, io.BufferedReader):
        start = file.peek(2)[:2]
    elif file.seekable():
        start = file.read(2)
        file.seek(-len(start), io.SEEK_CUR)
    return _Input(_GzipInput(file)) if start == _GZIP else file


def open_text(
    source: str | os.PathLike[str] | TextIO, *, allow_pipe: bool = False, errors: str = "strict"
) -> io.TextIOWrapper | TextIO:
    """Open a file of UTF-8 text, gzip or not; a byte order mark is skipped.

    Args:
        source: A path, or an open text file such as standard input, which is read from here on.
        allow_pipe: Open a pipe too, and wait for its writer: for what the user named as the input.
        errors: How bytes that are not UTF-8 are handled, as `open` takes it.

    Raises:
        OSError: It cannot be opened, is a folder, a pipe or a device; while reading, gzip that is damaged or truncated,
            or a line of more than `MAX_LINE_BYTES` characters.
    """
    if isinstance(source, str | os.PathLike):
        file: BinaryIO = open_input(source, allow_pipe=allow_pipe)
        return _TextInput(decompress_input(file), encoding="utf-8-sig", errors=errors)
    binary = getattr(source, "buffer", None)
    return source if binary is None else _TextInput(decompress_input(binary), encoding="utf-8-sig", errors=errors)


class _Input(io.BufferedReader):
    """A file whose lines are limited: one without an end would fill the memory."""

    def __next__(self) -> bytes:
        return _check_line(self.readline(MAX_LINE_BYTES + 1))


class _TextInput(io.TextIOWrapper):
    """A file of text whose lines are limited."""

    def __next__(self) -> str:  # type: ignore[override]  # as typeshed has it for TextIOWrapper
        return _check_line(self.readline(MAX_LINE_BYTES + 1))


def _check_line(line: AnyStr) -> AnyStr:
    if not line:
        raise StopIteration
    if len(line) > MAX_LINE_BYTES:
        raise OSError(errno.EFBIG, f"has a line of more than the {MAX_LINE_BYTES} bytes that are read")
    return line


class _GzipInput(io.RawIOBase):
    """A gzip file whose errors are OSErrors with a reason."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._num_bytes = _CountedInput(file), 0
        self._content = gzip.GzipFile(fileobj=cast(Any, self._file), mode="rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._content.read1(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise OSError(errno.EIO, f"is a damaged gzip file ({error})") from error
        self._num_bytes += len(data)
        if self._num_bytes > MAX_BYTES and self._num_bytes > _MAX_EXPANSION * self._file.num_bytes:
            raise OSError(errno.EFBIG, f"is a gzip file that holds more than {_MAX_EXPANSION} times its own bytes")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.file.close()
        super().close()


class _CountedInput:
    """Counts the bytes that are read of a file, which may be a pipe."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.num_bytes = file, 0

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.num_bytes += len(data)
        return data


def find_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix that tells a file's format, in lower case: of `r.json.gz` it is ".json"."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def walk_files(folder: str | os.PathLike[str], *, hidden: bool = True) -> Iterator[str]:
    """Yield the names of the files below a folder, relative, with `/`, in no order.

    Links to folders are followed, unless they lead to a parent. A link that leads nowhere is not a file.

    Args:
        folder: The folder.
        hidden: Whether files and folders whose names begin with a dot are among them.

    Raises:
        OSError: A folder cannot be listed, or links lead to one more than 100 times.
    """
    visits: Counter[str] = Counter()

    def walk(place: str, prefix: str, parents: tuple[str, ...]) -> Iterator[str]:
        real = os.path.realpath(place)
        if real in parents:
            return
        visits[real] += 1
        if visits[real] > _MAX_VISITS:
            raise OSError(errno.ELOOP, f"links lead to it more than {_MAX_VISITS} times", place)
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith(".") and not hidden:
                    continue
                with suppress(OSError):  # a link to itself
                    if entry.is_file():
                        yield f"{prefix}{entry.name}"
                        continue
                if Path(entry.path).is_dir():
                    yield from walk(entry.path, f"{prefix}{entry.name}/", (*parents, real))

    return walk(os.fspath(folder), "", ())


def open_for_update(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a file to read and to write it, unbuffered; made where it is missing, never through a link.

    Raises:
        OSError: It cannot be opened, is not a regular file, or has several names (hard links).
    """
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    if Path(path).is_symlink():  # where there is no O_NOFOLLOW
        raise OSError(errno.ELOOP, "is a symbolic link", os.fspath(path))
    descriptor = os.open(path, flags, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        is_linked = stat.S_ISREG(status.st_mode)
        reason = "has other names (hard links), whose file would change too" if is_linked else "is not a regular file"
        raise OSError(errno.EINVAL, reason, os.fspath(path))
    return io.FileIO(descriptor, "r+")


def append_text(path: str | os.PathLike[str], text: str) -> None:
    """Append text to a log, which is made where it is missing; never through a link.

    Raises:
        OutputError: It cannot be written; it is then as it was before.
    """
    target = Path(path)
    try:
        with open_for_update(target) as file:
            end = file.seek(0, io.SEEK_END)
            rest = memoryview(text.encode())
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise make_output_error(target, error) from error


def parse_json(text: str | bytes, name: str, error: type[PerceptokError]) -> Any:
    """Parse one JSON value.

    `NaN` and `Infinity`, which Python writes and reads although JSON does not have them, are accepted; `parse_number`
    refuses them.

    Args:
        text: Bytes are UTF-8, or gzip of it; a byte order mark is skipped.
        name: Where it comes from, for the message: a file, or a file and a line.
        error: The error to raise.

    Raises:
        PerceptokError: Of the type `error`: not UTF-8, not JSON, nested too deeply, an integer of more than 400 digits,
            or half of a surrogate pair, which cannot be written to a UTF-8 file.
    """
    try:
        decoded = decode_text(text) if isinstance(text, bytes) else text.removeprefix("\ufeff")
        values = json.loads(decoded, parse_int=_parse_integer)
        if "\\u" in decoded:
            json.dumps(values, ensure_ascii=False).encode()  # refuses half surrogate pairs
    except (ValueError, RecursionError, MemoryError, OSError) as reason:
        raise error(f"{name}: not valid JSON ({_shorten(str(reason) or type(reason).__name__)})") from reason
    return values


def decode_text(data: bytes, *, max_bytes: int | None = None) -> str:
    """The text of a file's bytes: UTF-8, or gzip of it, which the first bytes tell; a byte order mark is skipped.

    Args:
        data: The whole content of the file.
        max_bytes: Refuse gzip of more bytes; None for `MAX_BYTES`.

    Raises:
        ValueError: Not UTF-8, or gzip of too many bytes, or of many more than its own.
        OSError: The gzip data are damaged or truncated; `strerror` is the reason.
    """
    if data.startswith(_GZIP):
        limit = min(MAX_BYTES if max_bytes is None else max_bytes, max(_MAX_GZIP_VALUE, _MAX_EXPANSION * len(data)))
        with decompress_input(io.BytesIO(data)) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"gzip of {len(data)} bytes that holds more than the {limit} bytes that are read")
        data = content
    return data.decode("utf-8-sig")


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


def resolve_spelled(folder: str | os.PathLike[str], name: str) -> Path:
    """Find the path of a file in a folder by its name as `spell_name` writes it; `resolve_inside` for other names.

    Raises:
        OutputError: The name is not that of a file inside the folder.
    """
    path = resolve_inside(folder, name)
    if "%" in name and not path.exists():
        stored = os.fsdecode(unquote_to_bytes(name))
        if spell_name(stored) == name and stored != name:
            return resolve_inside(folder, stored)
    return path


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
    with claim_file(target) as temporary:
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
                raise make_output_error(target, error) from error
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
            raise make_output_error(target, error) from error

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise make_output_error(self._target, error) from error

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # a network file system may report a full disk only here
            raise make_output_error(self._target, error) from error

    def fileno(self) -> int:
        # With a descriptor NumPy and Pillow would write past this class and lose the reason of a failure.
        raise io.UnsupportedOperation("fileno")


def _check_file(target: Path, force: bool) -> None:
    try:
        if os.path.lexists(target) and not target.is_file():
            raise OutputError(f"cannot write {target}: it exists and is not a regular file; choose another path")
        if target.is_file() and not force:
            raise OutputError(f"{target} exists already; choose another path, or replace it with force (--force)")
    except PermissionError as error:
        raise make_output_error(target, error) from error


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    marker: str = "",
    patterns: Sequence[str] | None = None,
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> Iterator[Path]:
    """Make a folder that takes its name, with all its files, only when the `with` block ends without an exception.

    Files go to a hidden folder beside it, which is renamed at the end and removed on any failure. A folder of that name
    is first renamed to another hidden name, and removed once the new one has its name: whenever a process is killed,
    one of the two is complete, and `find_complete_folder` finds it.

    Args:
        path: The folder to make; missing parents are made.
        force: Replace the folder if it exists already and is not empty.
        marker: A file that every output of this kind has; a folder without it is not replaced.
        patterns: Patterns of the names of an output's files, relative, with `/`; a folder that has another file is not
            replaced. None for any files.
        inputs: What the output is made of; a folder that is one of them, or has one in it, is not replaced.

    Yields:
        The hidden folder to write into.

    Raises:
        OutputError: The path exists and `force` is not given, is not a folder, has no marker, has other files or an
            input in it, is being written by another process, or cannot be written.
    """
    target = Path(path)
    previous, temporary = (find_hidden_path(target, suffix) for suffix in ("previous", "tmp"))

    def check() -> None:
        _check_folder(target, force, marker)
        if target.is_dir() and any(target.iterdir()):
            _check_contents(target, patterns, inputs)

    check()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise make_output_error(target, error) from error
    with hold_lock(find_hidden_path(target, "lock"), target):
        remove_leftovers(target.parent)
        try:
            remove_path(temporary)  # of a killed process
            temporary.mkdir()
        except OSError as error:
            raise make_output_error(target, error) from error
        try:
            yield temporary
            check()  # it may have appeared in the meantime
            try:
                if target.exists():
                    remove_path(previous)
                    target.rename(previous)
                temporary.rename(target)
            except OSError as error:
                if previous.exists() and not target.exists():
                    previous.rename(target)
                raise make_output_error(target, error) from error
            shutil.rmtree(previous, ignore_errors=True)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if (reason := _find_disk_problem(error)) is not None:
                raise make_output_error(target, OSError(errno.ENOSPC, reason)) from error
            raise


_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_DISK_PROBLEM = re.compile(r"no space left|file too large|quota exceeded|os error (?:5|27|28|30|122)\b", re.IGNORECASE)


def _find_disk_problem(error: BaseException) -> str | None:
    """What a library met when it wrote to a full disk; None for another error. Rust has errors of its own."""
    if isinstance(error, PerceptokError) or not isinstance(error, Exception):
        return None
    if isinstance(error, OSError):
        return (error.strerror or str(error)) if error.errno in _DISK_ERRORS else None
    text = quote_error(error)
    return text if _DISK_PROBLEM.search(text) else None


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
        raise make_output_error(Path(path), error) from error
    if free < num_bytes:
        raise OutputError(
            f"cannot write {path}: it takes {num_bytes / 2**20:.0f} MB, the disk has {free / 2**20:.0f} MB left; free "
            "some space and run the command again, or choose another path"
        )


def find_complete_folder(path: str | os.PathLike[str]) -> Path:
    """Find what `atomic_folder` wrote last: the folder, or the previous one if a kill came between two renamings."""
    target = Path(path)
    previous = find_hidden_path(target, "previous")
    return previous if previous.is_dir() and not target.exists() else target


def _check_folder(target: Path, force: bool, marker: str) -> None:
    try:
        if os.path.lexists(target) and not target.is_dir():
            raise OutputError(f"cannot write {target}: it exists and is not a folder; choose another path")
        if not target.is_dir() or not any(target.iterdir()):
            return
    except OSError as error:
        raise make_output_error(target, error) from error
    if not force:
        raise OutputError(f"{target} exists already; choose another path, or replace it with force (--force)")
    if marker and not (target / marker).is_file():
        raise OutputError(
            f"{target} is not replaced: it has no {marker}, so that it is not an earlier output; choose another path, "
            "or remove it yourself"
        )


def _check_contents(target: Path, patterns: Sequence[str] | None, inputs: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse to replace a folder that has an input, or files that an output does not have."""
    resolved = target.resolve()
    for name in inputs:
        if os.path.lexists(name) and Path(name).resolve().is_relative_to(resolved):
            raise OutputError(
                f"{target} is not replaced: the output is made of {name}, which would be lost; choose another path"
            )
    for file in sorted(target.rglob("*")) if patterns is not None else ():
        name = file.relative_to(target)
        if (file.is_symlink() or not file.is_dir()) and not any(_matches(name, pattern) for pattern in patterns or ()):
            raise OutputError(
                f"{target} is not replaced: {name.as_posix()} is not a file of such an output, and would be lost; move "
                "it, or choose another path"
            )


def _matches(name: Path, pattern: str) -> bool:
    """Whether a relative name matches a pattern, in which `*` does not match `/`."""
    parts = pattern.split("/")
    return len(parts) == len(name.parts) and all(map(fnmatchcase, name.parts, parts))
