"""Files in and out: outputs that appear whole or not at all, and JSON that is read in one safe place."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from perceptok.errors import OutputError, PerceptokError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["atomic_folder", "atomic_write", "parse_json", "whole_folder"]


def parse_json(text: str | bytes, name: str, error: type[PerceptokError]) -> Any:
    """What a JSON text says; the one place where JSON from outside is read.

    Args:
        text: One JSON value; bytes are UTF-8, a byte order mark is passed over.
        name: Where it comes from, for the message: a file, or a file and line.
        error: The error of the caller's room.

    Raises:
        PerceptokError: Of the type `error`: no UTF-8, no JSON, nested too deeply, or a number of too many digits.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        return json.loads(decoded)
    except (ValueError, RecursionError) as reason:
        raise error(f"{name}: this is no JSON that can be read ({reason})") from reason


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file that takes its name only when the `with` block ends without an exception.

    The bytes go to a hidden temporary file in the same folder, which is renamed at the end and removed on any
    failure. An error of the block itself passes through unchanged.

    Args:
        path: The file to write; its folder must exist.
        force: Replace the file if it exists already.

    Yields:
        A buffered binary file. It has no `fileno()`, so that every byte passes through Python.

    Raises:
        OutputError: The path exists and `force` is not given, is not a regular file, or cannot be written (no
            folder, no permission, full disk).
    """
    target = Path(path)
    _refuse_existing(target, force)
    temporary = target.with_name(f".perceptok-{secrets.token_hex(8)}.tmp")
    try:
        output = _Output(temporary, target)
    except OSError as error:
        raise _failure(target, error) from error
    try:
        with io.BufferedWriter(output) as file:
            try:
                yield file
            except BaseException:
                output.close()  # what the buffer still holds is not worth writing
                raise
        _refuse_existing(target, force)  # another process may have been faster
        try:
            temporary.replace(target)
        except OSError as error:
            raise _failure(target, error) from error
    except BaseException:
        output.close()
        temporary.unlink(missing_ok=True)
        raise


class _Output(io.FileIO):
    """The temporary file; its failures name the file that was asked for."""

    def __init__(self, temporary: Path, target: Path) -> None:
        super().__init__(temporary, "x")
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
        OutputError: The path exists and `force` is not given, is no folder, or cannot be written.
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
