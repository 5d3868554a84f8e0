"""Output files and folders are complete or absent, locks, links, and the reading of inputs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from perceptok.errors import OutputError
from perceptok.files import (
    atomic_folder,
    atomic_write,
    find_complete_folder,
    open_for_update,
    open_input,
    read_input,
    resolve_inside,
)
from perceptok.jobs import Journal
from perceptok.locks import find_hidden_path, lock_output


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of this process's files to `size` bytes, as a full disk would."""
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


def test_only_the_output_is_written(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"one")
        assert not (tmp_path / "a.bin").exists()
        file.write(b"two")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"onetwo")]


def test_permissions_are_those_of_new_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "ours") as file:
        file.write(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_existing_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"a\.bin exists already.*force"), atomic_write(path):
        pytest.fail("must not be reached")
    assert path.read_bytes() == b"old"
    with atomic_write(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_file_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with pytest.raises(OutputError, match="exists already"), atomic_write(path) as file:  # noqa: PT012
        file.write(b"late")
        path.write_bytes(b"early")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"early")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine"), FileNotFoundError(2, "no", "input")])
def test_an_error_of_the_block_is_raised_and_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, atomic_write(path, force=True) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert caught.value is error
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]


@pytest.mark.parametrize("size", [10, 100_000])
def test_full_disk(tmp_path: Path, size: int) -> None:
    """Small outputs fail when the buffer is flushed at the end, large ones while they are written."""
    path = tmp_path / "a.bin"
    with (
        limit_file_size(5),
        pytest.raises(OutputError, match=r"cannot write .*a\.bin: File too large") as caught,
        atomic_write(path) as file,
    ):
        file.write(bytes(size))
    assert isinstance(caught.value.__cause__, OSError)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_while_numpy_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with limit_file_size(1000), pytest.raises(OutputError, match="File too large"), atomic_write(path) as file:
        np.save(file, np.zeros(100_000))
    assert list(tmp_path.iterdir()) == []


def test_folder_without_permission(locked: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.bin: Permission denied"),
        atomic_write(locked / "a.bin"),
    ):
        pytest.fail("must not be reached")
    assert list(locked.iterdir()) == []


def test_missing_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="does not exist; create it"),
        atomic_write(tmp_path / "no" / "a.bin"),
    ):
        pytest.fail("must not be reached")


@pytest.mark.parametrize("force", [False, True])
def test_special_files_are_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, Path("/dev/null"), tmp_path / "dangling"):
        with pytest.raises(OutputError, match="not a regular file"), atomic_write(path, force=force):
            pytest.fail("must not be reached")
    assert Path("/dev/null").is_char_device()


def test_two_writers_of_one_output(tmp_path: Path) -> None:
    """The second is refused, in the same thread, another thread, or another process; no file remains."""
    path = tmp_path / "a.bin"
    script = f"from perceptok.files import *\nwith atomic_write({str(path)!r}): pass"
    with atomic_write(path) as file:
        with pytest.raises(OutputError, match=r"another process is writing .*a\.bin; wait"), atomic_write(path):
            pytest.fail("must not be reached")
        with ThreadPoolExecutor(1) as pool, pytest.raises(OutputError, match=r"another process is writing .*a\.bin"):
            pool.submit(write_second, path).result()
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert f"another process is writing {path}" in other.stderr
        file.write(b"first")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a.bin", b"first")]


def write_second(path: Path) -> None:
    with atomic_write(path, force=True) as file:
        file.write(b"second")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_lock_of_a_killed_process_is_released(tmp_path: Path, kind: str) -> None:
    target = tmp_path if kind == "folder" else tmp_path / "a.bin"
    body = "print('holding', flush=True); sys.stdin.read()"
    script = f"import sys\nfrom perceptok.locks import *\nwith lock_output({str(target)!r}): {body}"
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holding\n"
        with pytest.raises(OutputError, match="another process is writing"), lock_output(target):
            pytest.fail("must not be reached")
        holder.kill()
        holder.wait()
        with lock_output(target):
            assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_one_writer_at_a_time_under_contention(tmp_path: Path) -> None:
    """Locks that many threads create and remove concurrently are never held by two."""
    inside, overlaps, entered = [0], [0], [0]

    def work(_: int) -> None:
        successes = 0
        while successes < 10:
            try:
                with lock_output(tmp_path):
                    inside[0] += 1
                    time.sleep(0.0001)
                    overlaps[0] += inside[0] > 1
                    entered[0] += 1
                    inside[0] -= 1
                successes += 1
            except OutputError:
                time.sleep(0.0001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert entered[0] == 80
    assert overlaps[0] == 0


def test_names_of_maximum_length(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    with atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_a_folder_is_complete_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "a" / "out"
    with atomic_folder(target) as building:
        (building / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1"
    with pytest.raises(OutputError, match="exists already"), atomic_folder(target):
        pass

    def interrupted() -> None:
        with atomic_folder(target, force=True) as building:
            (building / "x").write_text("2")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert (target / "x").read_text() == "1"
    with atomic_folder(target, force=True) as building:
        (building / "y").write_text("3")
    assert [path.name for path in target.iterdir()] == ["y"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    # Killed between the two renamings: the previous folder is found, and removed by the next write.
    previous = target.rename(find_hidden_path(target, "previous"))
    assert find_complete_folder(target) == previous
    with atomic_folder(target) as building:
        (building / "z").write_text("4")
    assert find_complete_folder(target) == target
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    with pytest.raises(OutputError, match="is not a folder"), atomic_folder(target / "z", force=True):
        pass


def test_only_an_output_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "models"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with (
        pytest.raises(OutputError, match=r"has no manifest\.json"),
        atomic_folder(target, force=True, marker="manifest.json"),
    ):
        pytest.fail("must not be reached")
    assert [path.name for path in tmp_path.rglob("*")] == ["models", "notes.txt"]
    for number in (1, 2):
        with atomic_folder(tmp_path / "out", force=True, marker="manifest.json") as building:
            (building / "manifest.json").write_text(str(number))
    assert (tmp_path / "out" / "manifest.json").read_text() == "2"


def test_one_writer_of_a_folder_and_no_files_of_killed_ones(tmp_path: Path) -> None:
    """The second writer is refused; files of a killed process are removed, links without their targets."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    temporary = find_hidden_path(outputs / "out", "tmp")
    temporary.symlink_to(outside)
    with atomic_folder(outputs / "out") as building:
        (building / "x").touch()
        with pytest.raises(OutputError, match=r"another process is writing .*out"), atomic_folder(outputs / "out"):
            pytest.fail("must not be reached")
    (temporary / "deep").mkdir(parents=True)
    with atomic_folder(outputs / "out", force=True) as building:
        assert list(building.iterdir()) == []
    assert [path.name for path in outputs.iterdir()] == ["out"]
    assert [path.name for path in outside.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(10_000)),
        lambda path: save_file({"a": torch.zeros(10_000)}, path),
        lambda path: Tokenizer(WordLevel({str(n): n for n in range(10_000)}, "0")).save(str(path)),
    ],
    ids=["Python", "safetensors", "tokenizers"],
)
def test_a_full_disk_met_by_any_library(tmp_path: Path, write: Callable[[Path], object]) -> None:
    """The folder that was there stays; the limit on the size of files stands for the disk."""
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("before")
    with (
        limit_file_size(1000),
        pytest.raises(OutputError, match=r"cannot write .*out: .*free space of"),
        atomic_folder(tmp_path / "out", force=True) as folder,
    ):
        write(folder / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "x").read_text() == "before"


class TestLinks:
    """A link with the name of a hidden file is never followed."""

    @pytest.fixture
    def victim(self, tmp_path: Path) -> Path:
        path = tmp_path / "victim"
        path.write_text("precious")
        return path

    @pytest.mark.parametrize("suffix", ["tmp", "part"])
    def test_temporary_file(self, tmp_path: Path, victim: Path, suffix: str) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        with atomic_write(folder / "a.bin"):
            (hidden,) = (path for path in folder.iterdir() if path.suffix == ".tmp")
        (folder / "a.bin").unlink()
        hidden.with_suffix(f".{suffix}").symlink_to(victim)
        if suffix == "part":
            with lock_output(folder):
                write_second(folder / "a.bin")
        else:
            write_second(folder / "a.bin")
        assert victim.read_text() == "precious"
        assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("a.bin", b"second")]

    def test_lock(self, tmp_path: Path, victim: Path) -> None:
        (tmp_path / ".perceptok.lock").symlink_to(victim)
        with (
            pytest.raises(OutputError, match=r"its lock .* is a link to another file"),
            lock_output(tmp_path),
        ):
            pytest.fail("must not be reached")
        assert victim.read_text() == "precious"

    def test_journal(self, tmp_path: Path, victim: Path) -> None:
        (tmp_path / "out.jsonl.partial").symlink_to(victim)
        with pytest.raises(OutputError, match=r"cannot write .*out\.jsonl\.partial: is a symbolic link"):
            Journal(tmp_path / "out.jsonl", {})
        assert victim.read_text() == "precious"

    def test_pipe_instead_of_a_journal(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="is not a regular file"):
            open_for_update(tmp_path / "pipe")


def test_a_locked_folder_needs_no_other_locks(tmp_path: Path) -> None:
    """Its files have no locks of their own; another thread that writes the same file is refused."""
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "a.bin"
    with lock_output(tmp_path), atomic_write(path) as file:
        assert [entry.suffix for entry in path.parent.iterdir()] == [".part"]
        with ThreadPoolExecutor(1) as pool, pytest.raises(OutputError, match=r"another process is writing .*a\.bin"):
            pool.submit(write_second, path).result()
        file.write(b"first")
    assert path.read_bytes() == b"first"
    with atomic_write(path, force=True):
        assert sorted(entry.suffix for entry in path.parent.iterdir()) == [".bin", ".lock", ".tmp"]
    assert [entry.name for entry in tmp_path.rglob("*")] == ["sub", "a.bin"]


class TestInputs:
    def test_reading(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_bytes(b"12345")
        (tmp_path / "link").symlink_to(path)
        assert read_input(path) == read_input(tmp_path / "link") == b"12345"
        assert read_input(path, max_bytes=5) == b"12345"
        with open_input(str(path)) as file:
            assert file.read(2) == b"12"
        with pytest.raises(OSError, match="has 5 bytes; at most 4 are read"):
            read_input(path, max_bytes=4)

    def test_special_files_are_refused(self, tmp_path: Path) -> None:
        """They are refused without waiting or reading."""
        os.mkfifo(tmp_path / "pipe")
        for path, reason in (
            (tmp_path / "pipe", "is a pipe"),
            (Path("/dev/zero"), "is a device"),
            (tmp_path, "is a folder"),
            (tmp_path / "missing", "No such file"),
        ):
            for allow_pipe in (False, path.name != "pipe"):
                with pytest.raises(OSError, match=reason):
                    read_input(path, allow_pipe=allow_pipe)
        with pytest.raises(ValueError, match="null"):
            open_input("a\0b")

    def test_a_pipe_that_the_user_named(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with ThreadPoolExecutor(1) as pool:
            for size, limit in ((0, 10), (10, 10), (300_000, 300_000)):
                data = b"x" * size
                pool.submit((tmp_path / "pipe").write_bytes, data)
                assert read_input(tmp_path / "pipe", allow_pipe=True, max_bytes=limit) == data
            writing = pool.submit((tmp_path / "pipe").write_bytes, b"x" * 3_000_000)
            with pytest.raises(OSError, match="more than the 1000000 bytes"):
                read_input(tmp_path / "pipe", allow_pipe=True, max_bytes=1_000_000)
            assert isinstance(writing.exception(timeout=30), BrokenPipeError)

    def test_names_of_drives(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="not a file inside"):
            resolve_inside(tmp_path, "/etc/passwd")


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """A lock that nobody holds tells what is left; everything else stays."""

    def leave(name: str, *, with_lock: bool = True) -> None:
        temporary = find_hidden_path(tmp_path / name, "tmp")
        temporary.mkdir()
        (temporary / "file").touch()
        if with_lock:
            find_hidden_path(tmp_path / name, "lock").touch()

    leave("checkpoint-14")
    leave("foreign", with_lock=False)
    leave("held")
    (tmp_path / ".mine.tmp").mkdir()
    find_hidden_path(tmp_path / "a.json", "tmp").touch()
    find_hidden_path(tmp_path / "a.json", "lock").touch()
    with lock_output(tmp_path / "held"), atomic_folder(tmp_path / "new") as folder:
        (folder / "file").touch()
    others = {find_hidden_path(tmp_path / name, "tmp") for name in ("foreign", "held")}
    assert {*tmp_path.iterdir()} == {*others, tmp_path / ".mine.tmp", tmp_path / "new"}
    leave("checkpoint-15")
    with lock_output(tmp_path):
        assert not find_hidden_path(tmp_path / "checkpoint-15", "tmp").exists()
