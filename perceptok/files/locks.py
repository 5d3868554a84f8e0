"""One writer at a time: locks that the system takes back when a process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perceptok.errors import OutputError

if sys.platform != "win32":
    import fcntl

__all__ = ["locked", "open_locked"]

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
