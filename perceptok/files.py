"""Files: inputs that are regular files, JSON and names from outside, outputs that are complete or absent.

Inputs are opened by `open_input` and `read_input`, which never wait for a pipe or read a device that a folder or a
record names. Text is read with `open_text`, JSON with `parse_json`, both gzip too, which the first bytes tell, whatever
the file's name is. `parse_json` takes the class of the error to raise, so that every package reports its own. A name
from a data file becomes a path with `resolve_inside`, which refuses those that lead out of their folder.

`atomic_write` and `atomic_folder` write under a hidden name and rename at the end, so that a kill at any moment leaves
the old output or the new one; the next write of the same output removes what a killed process left. While a process
writes an output, others that want to write it are refused (`lock_output`); the system releases the lock of a killed
process.
"""

from __future__ import annotations

import errno
import gzip
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
from collections.abc import Iterable, Iterator
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
    "decompress_input",
    "find_complete_folder",
    "find_suffix",
    "lock_output",
    "open_for_update",
    "open_input",
    "open_text",
    "parse_json",
    "parse_number",
    "read_input",
    "resolve_distinct",
    "resolve_inside",
    "spell_name",
]

MAX_BYTES = 2**28
"""Default limit of a file that is read whole: 268 MB."""

_MAX_NAME_BYTES, _MAX_PATH_CHARACTERS = 255, 3000
"""Of one part of a path, and of a relative path, as file systems have them."""

_MAX_DIGITS = 400
"""Digits of one integer; the largest float has 309."""

_GZIP = b"\x1f\x8b"
"""First bytes of a gzip file."""


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
    return io.BufferedReader(_GzipInput(file)) if start == _GZIP else file


def open_text(
    source: str | os.PathLike[str] | TextIO, *, allow_pipe: bool = False, errors: str = "strict"
) -> io.TextIOWrapper | TextIO:
    """Open a file of UTF-8 text, gzip or not; a byte order mark is skipped.

    Args:
        source: A path, or an open text file such as standard input, which is read from here on.
        allow_pipe: Open a pipe too, and wait for its writer: for what the user named as the input.
        errors: How bytes that are not UTF-8 are handled, as `open` takes it.

    Raises:
        OSError: It cannot be opened, is a folder, a pipe or a device; while reading, gzip that is damaged or truncated.
    """
    if isinstance(source, str | os.PathLike):
        file: BinaryIO = open_input(source, allow_pipe=allow_pipe)
        return io.TextIOWrapper(decompress_input(file), encoding="utf-8-sig", errors=errors)
    binary = getattr(source, "buffer", None)
    if binary is None or (file := decompress_input(binary)) is binary:
        return source
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors=errors)


class _GzipInput(io.RawIOBase):
    """A gzip file whose errors are OSErrors with a reason."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._content = file, gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._content.read1(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise OSError(errno.EIO, f"is a damaged gzip file ({error})") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def find_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix that tells a file's format, in lower case: of `r.json.gz` it is ".json"."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


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
        text: Bytes are UTF-8, or gzip of it; a byte order mark is skipped.
        name: Where it comes from, for the message: a file, or a file and a line.
        error: The error to raise.

    Raises:
        PerceptokError: Of the type `error`: not UTF-8, not JSON, nested too deeply, an integer of more than 400 digits,
            or half of a surrogate pair, which cannot be written to a UTF-8 file.
    """
    try:
        if isinstance(text, bytes) and text.startswith(_GZIP):
            text = _decompress(text)
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        values = json.loads(decoded, parse_int=_parse_integer)
        if "\\u" in decoded:
            json.dumps(values, ensure_ascii=False).encode()  # refuses half surrogate pairs
    except (ValueError, RecursionError, MemoryError, OSError) as reason:
        raise error(f"{name}: not valid JSON ({_shorten(str(reason) or type(reason).__name__)})") from reason
    return values


def _decompress(data: bytes) -> bytes:
    with decompress_input(io.BytesIO(data)) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"gzip of more than the {MAX_BYTES} bytes that are read")
    return content


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
