"""Output files that appear whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from perceptok.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["atomic_write"]


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
