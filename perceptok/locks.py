"""Locks of outputs, and the hidden names beside them that a write uses.

While a process writes an output, others that want to write it are refused; the system releases the lock of a killed
process, and the next write removes what it left.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perceptok.errors import OutputError

__all__ = [
    "claim_file",
    "find_hidden_path",
    "hold_lock",
    "lock_output",
    "make_output_error",
    "remove_leftovers",
    "remove_path",
]

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
        with hold_lock(find_hidden_path(target, "lock"), shown):
            yield
        return
    held = os.getpid(), target.absolute()
    with hold_lock(target / ".perceptok.lock", shown):
        remove_leftovers(target)
        _held_folders.add(held)
        try:
            yield
        finally:
            _held_folders.discard(held)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder: temporary files and folders beside a lock that nobody holds.

    A lock stays where its process was killed, and names what it was for; so nothing else is removed.
    """
    from filelock import FileLock, Timeout

    try:
        names = {entry.name for entry in os.scandir(folder) if entry.name.startswith(".")}
    except OSError:
        return
    for name in sorted(name for name in names if re.fullmatch(r"\.perceptok-[0-9a-f]{16}\.tmp", name)):
        lock_name = f"{name.removesuffix('.tmp')}.lock"
        if lock_name not in names or _is_link(folder / lock_name):
            continue
        lock = FileLock(folder / lock_name, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except (Timeout, OSError, RuntimeError):  # held, by another process or this one
            continue
        try:
            remove_path(folder / name)
            (folder / lock_name).unlink(missing_ok=True)  # while it is held
        except OSError:
            pass  # the next run tries again
        finally:
            lock.release()


@contextmanager
def hold_lock(lock_path: Path, shown: Path) -> Iterator[None]:
    """Hold a lock for as long as the `with` block runs; raises OutputError, which names what is shown."""
    from filelock import FileLock, Timeout

    if not lock_path.parent.is_dir():
        raise OutputError(f"cannot write {shown}: the folder {lock_path.parent} does not exist; create it first")
    if _is_link(lock_path):  # some releases of filelock empty the file
        raise OutputError(f"cannot write {shown}: its lock {lock_path} is a link to another file; remove it")
    lock = FileLock(lock_path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise _make_busy_error(shown) from error
    except OSError as error:
        raise make_output_error(shown, error) from error
    try:
        yield
    finally:
        if sys.platform != "win32":  # there it is removed by its release
            lock_path.unlink(missing_ok=True)  # while it is held: a process that opened it before finds it unlinked
        lock.release()


def _is_link(path: Path) -> bool:
    """Whether a path is a symbolic link, or one of several names of a file."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1)


@contextmanager
def claim_file(target: Path) -> Iterator[Path]:
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
            yield find_hidden_path(target, "part")
        else:
            with hold_lock(find_hidden_path(target, "lock"), target):
                yield find_hidden_path(target, "tmp")
    finally:
        _open_outputs.discard(output)


def _make_busy_error(target: Path) -> OutputError:
    return OutputError(f"another process is writing {target}; wait for it, or choose another output")


def find_hidden_path(target: Path, suffix: str) -> Path:
    """A hidden name beside a file: the same for each write of it, and not longer than the file's own name may be."""
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".perceptok-{digest}.{suffix}")


def remove_path(folder: Path) -> None:
    """Remove a folder if it is there; of a symbolic link, the link alone."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def make_output_error(target: Path, error: OSError) -> OutputError:
    """The error for an output that cannot be written."""
    if isinstance(error, FileNotFoundError):
        return OutputError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {target}: {reason}; check permission and free space of {target.parent}")
