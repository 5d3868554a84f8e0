"""Output files appear whole or not at all."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from perceptok.errors import OutputError
from perceptok.files import atomic_folder, atomic_write, find_complete_folder, lock_output


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """The kernel lets no file of this process grow beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that this process may list but not write to, whoever runs the tests."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "locked"
        folder.mkdir()
        folder.chmod(0o555)
        Path(name).chmod(0o755)
        if user == 0:
            try:
                os.seteuid(65534)  # root may write anywhere
            except PermissionError:
                pytest.skip("root that cannot become another user")
        try:
            yield folder
        finally:
            os.seteuid(user)


def test_writes_and_leaves_nothing_else(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"one")
        assert not (tmp_path / "a.bin").exists()
        file.write(b"two")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"onetwo")]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "ours") as file:
        file.write(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_existing_file_is_kept_without_force_and_replaced_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"a\.bin exists already.*force"), atomic_write(path):
        pytest.fail("must not get here")
    assert path.read_bytes() == b"old"
    with atomic_write(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with pytest.raises(OutputError, match="exists already"), atomic_write(path) as file:  # noqa: PT012
        file.write(b"late")
        path.write_bytes(b"early")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"early")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine"), FileNotFoundError(2, "no", "input")])
def test_an_error_of_the_block_passes_and_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, atomic_write(path, force=True) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert caught.value is error
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]


@pytest.mark.parametrize("size", [10, 100_000])
def test_full_disk(tmp_path: Path, size: int) -> None:
    """Small outputs fail when the buffer is flushed at the end, large ones in the middle."""
    path = tmp_path / "a.bin"
    with (
        at_most(5),
        pytest.raises(OutputError, match=r"cannot write .*a\.bin: File too large") as caught,
        atomic_write(path) as file,
    ):
        file.write(bytes(size))
    assert isinstance(caught.value.__cause__, OSError)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_while_numpy_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with at_most(1000), pytest.raises(OutputError, match="File too large"), atomic_write(path) as file:
        np.save(file, np.zeros(100_000))
    assert list(tmp_path.iterdir()) == []


def test_folder_without_permission(locked: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.bin: Permission denied"),
        atomic_write(locked / "a.bin"),
    ):
        pytest.fail("must not get here")
    assert list(locked.iterdir()) == []


def test_missing_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="does not exist; create it"),
        atomic_write(tmp_path / "no" / "a.bin"),
    ):
        pytest.fail("must not get here")


@pytest.mark.parametrize("force", [False, True])
def test_what_is_not_a_regular_file_is_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, Path("/dev/null"), tmp_path / "dangling"):
        with pytest.raises(OutputError, match="not a regular file"), atomic_write(path, force=force):
            pytest.fail("must not get here")
    assert Path("/dev/null").is_char_device()


def test_two_writers_of_one_output(tmp_path: Path) -> None:
    """The second is refused, in the same thread, another one, or another process; afterwards nothing is left."""
    path = tmp_path / "a.bin"
    script = f"from perceptok.files import *\nwith atomic_write({str(path)!r}): pass"
    with atomic_write(path) as file:
        with pytest.raises(OutputError, match=r"another process is writing .*a\.bin; wait"), atomic_write(path):
            pytest.fail("must not get here")
        with ThreadPoolExecutor(1) as pool, pytest.raises(OutputError, match=r"another process is writing .*a\.bin"):
            pool.submit(path_written, path).result()
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert f"another process is writing {path}" in other.stderr
        file.write(b"first")
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("a.bin", b"first")]


def path_written(path: Path) -> None:
    with atomic_write(path, force=True) as file:
        file.write(b"second")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_lock_of_a_killed_process_is_released(tmp_path: Path, kind: str) -> None:
    target = tmp_path if kind == "folder" else tmp_path / "a.bin"
    body = "print('holding', flush=True); sys.stdin.read()"
    script = f"import sys\nfrom perceptok.files import *\nwith lock_output({str(target)!r}): {body}"
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holding\n"
        with pytest.raises(OutputError, match="another process is writing"), lock_output(target):
            pytest.fail("must not get here")
        holder.kill()
        holder.wait()
        with lock_output(target):
            assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_one_writer_at_a_time_under_contention(tmp_path: Path) -> None:
    """Locks that are made and removed all the time by many threads never let two in."""
    inside, overlaps, entered = [0], [0], [0]

    def work(_: int) -> None:
        for _ in range(100):
            try:
                with lock_output(tmp_path):
                    inside[0] += 1
                    time.sleep(0.0001)
                    overlaps[0] += inside[0] > 1
                    entered[0] += 1
                    inside[0] -= 1
            except OutputError:
                continue

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert entered[0] > 50
    assert overlaps[0] == 0


def test_long_names_are_fine(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    with atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "a" / "out"
    with atomic_folder(target) as place:
        (place / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1"
    with pytest.raises(OutputError, match="exists already"), atomic_folder(target):
        pass

    def interrupted() -> None:
        with atomic_folder(target, force=True) as place:
            (place / "x").write_text("2")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert (target / "x").read_text() == "1"
    with atomic_folder(target, force=True) as place:
        (place / "y").write_text("3")
    assert [path.name for path in target.iterdir()] == ["y"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    # Killed between the two renamings: the one before is found, and the next write tidies up.
    target.rename(target.with_name(".out.previous"))
    assert find_complete_folder(target).name == ".out.previous"
    with atomic_folder(target) as place:
        (place / "z").write_text("4")
    assert find_complete_folder(target) == target
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    with pytest.raises(OutputError, match="is not a folder"), atomic_folder(target / "z", force=True):
        pass
