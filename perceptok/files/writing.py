"""Output files and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from perceptok.errors import OutputError
from perceptok.files.locks import open_locked

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["atomic_folder", "atomic_write", "whole_folder"]


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
