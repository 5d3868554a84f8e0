"""Folders of maps to records: order, interruption, kills, two runs on one output, inputs that change, bad files."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perceptok.depth import (
    DepthCodec,
    MapFile,
    ReadOptions,
    encode_files,
    find_maps,
    read_depth_records,
)
from perceptok.errors import DepthMapError, OutputError
from perceptok.jobs import stamp_of
from perceptok_cli.main import app, run_command

COUNT = 9


class StopError(Exception):
    pass


def stop_after(count: int) -> Callable[[], None]:
    """Something to call after each map, which interrupts the run at one of them."""
    calls = iter(range(1, 10**6))

    def advance() -> None:
        if next(calls) == count:
            raise StopError

    return advance


def write_map(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(seed).uniform(1, 5, (12 + seed % 9, 16)).astype(np.float32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine maps in two folders, of which one cannot be read."""
    for index in range(COUNT):
        write_map(tmp_path / "maps" / f"scene{index % 2}" / f"{index}.npy", seed=index)
    (tmp_path / "maps" / "scene0" / "4.npy").write_bytes(b"\x93NUMPY broken")
    return tmp_path / "maps"


def metres(folder: Path) -> list[MapFile]:
    return find_maps([folder], ReadOptions(kind="metric", unit="m"))


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_order_names_and_the_one_bad_file(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    failures = encode_files(codec, metres(folder), tmp_path / "out.jsonl", batch_size=2)
    assert [failure.name for failure in failures] == ["scene0/4.npy"]
    records = list(read_depth_records(tmp_path / "out.jsonl"))
    assert [record.name for record in records] == [f.name for f in metres(folder) if f.name != "scene0/4.npy"]
    depth = metres(folder)[0].read()
    assert np.array_equal(records[0].grid, codec.encode(depth)[0])
    assert (records[0].width, records[0].height, records[0].kind) == (16, 12, "metric")
    assert (records[0].near, records[0].far) == (depth.values.min(), depth.values.max())
    assert not (tmp_path / "out.jsonl.partial").exists()


@pytest.mark.parametrize(
    ("suffix", "text"), [(".jsonl", False), (".jsonl", True), (".npz", False), (".parquet", False)]
)
def test_interrupted_run_ends_with_the_same_bytes(
    codec: DepthCodec, folder: Path, tmp_path: Path, suffix: str, text: bool
) -> None:
    encode_files(codec, metres(folder), tmp_path / f"whole{suffix}", text=text)
    cut = tmp_path / f"cut{suffix}"
    with pytest.raises(StopError):
        encode_files(codec, metres(folder), cut, batch_size=2, text=text, advance=stop_after(5))
    with cut.with_name(f"cut{suffix}.partial").open("a") as file:
        file.write('{"name": "half a li')
    seen: list[int] = []
    failures = encode_files(codec, metres(folder), cut, text=text, advance=lambda: seen.append(1))
    assert len(seen) == COUNT
    assert len(failures) == 1
    assert cut.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert len(list(read_depth_records(cut))) == COUNT - 1


def test_partial_of_another_run_is_refused(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.partial").write_text('{"codec": "other", "inputs": "x"}\n')
    with pytest.raises(OutputError, match="another run"):
        encode_files(codec, metres(folder), tmp_path / "out.jsonl")


def test_damaged_partial_output_is_refused(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        encode_files(codec, metres(folder), tmp_path / "out.jsonl", batch_size=1, advance=stop_after(1))
    partial = tmp_path / "out.jsonl.partial"
    good = partial.read_bytes()
    first = json.loads(good.splitlines()[1])
    of_another_map = json.dumps({**first, "index": 1, "stamp": stamp_of(metres(folder)[1].path)}).encode() + b"\n"
    for line in (b"\xff\xfe\n", b"{}\n", b"3\n", b'{"failure": 1}\n', of_another_map):
        partial.write_bytes(good + line)
        with pytest.raises(OutputError, match="damaged"):
            encode_files(codec, metres(folder), tmp_path / "out.jsonl", batch_size=1)
    partial.write_bytes(good)
    encode_files(codec, metres(folder), tmp_path / "out.jsonl", batch_size=1)


def test_existing_output(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        encode_files(codec, metres(folder), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "precious"
    encode_files(codec, metres(folder), tmp_path / "out.jsonl", force=True)
    assert len(list(read_depth_records(tmp_path / "out.jsonl"))) == COUNT - 1
    for name in ("out.txt", "out"):
        with pytest.raises(OutputError, match=r"\.jsonl, \.npz, \.parquet"):
            encode_files(codec, metres(folder), tmp_path / name)
    with pytest.raises(OutputError, match=r"only \.jsonl"):
        encode_files(codec, metres(folder), tmp_path / "new.npz", text=True)


def test_nothing_is_written_where_no_map_can_be_read(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    """So that the same command with the right options finds no output in its way."""
    for options in (ReadOptions(kind="metric"), ReadOptions(kind="metric", unit="m")):
        files = find_maps([folder], options)
        failures = encode_files(codec, files, tmp_path / "out.jsonl")
    assert len(failures) == 1
    assert len(list(read_depth_records(tmp_path / "out.jsonl"))) == COUNT - 1


def test_force_goes_on_where_it_stopped(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    output.write_text("old")
    with pytest.raises(StopError):
        encode_files(codec, metres(folder), output, batch_size=2, force=True, advance=stop_after(5))
    before = count_lines(partial)
    seen: list[int] = []
    encode_files(codec, metres(folder), output, force=True, advance=lambda: seen.append(count_lines(partial)))
    assert min(seen) >= before > 1
    assert len(list(read_depth_records(output))) == COUNT - 1


def test_what_changed_in_between_is_done_again(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    """A repaired file loses its failure, a replaced one its codes, a removed one becomes a failure."""
    files, output = metres(folder), tmp_path / "out.jsonl"
    with pytest.raises(StopError):
        encode_files(codec, files, output, batch_size=2, advance=stop_after(5))
    write_map(folder / "scene0" / "4.npy", seed=4)
    write_map(folder / "scene0" / "0.npy", seed=1001)
    (folder / "scene0" / "2.npy").unlink()
    failures = encode_files(codec, files, output)
    assert [failure.name for failure in failures] == ["scene0/2.npy"]
    encode_files(codec, files, tmp_path / "expected.jsonl")
    assert output.read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


def test_threads_of_one_process_do_not_mix(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def again() -> None:
        if not refused:
            with pytest.raises(OutputError, match="another process is writing") as caught:
                encode_files(codec, metres(folder), tmp_path / "out.jsonl")
            refused.append(str(caught.value))

    encode_files(codec, metres(folder), tmp_path / "out.jsonl", advance=again)
    assert refused
    assert len(list(read_depth_records(tmp_path / "out.jsonl"))) == COUNT - 1


@pytest.fixture
def many(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "many").mkdir()
    for index in range(120):
        np.save(tmp_path / "many" / f"{index:03}.npy", rng.random((8, 8), dtype=np.float32))
    return tmp_path / "many"


def words(codec: Path, maps: Path, output: Path) -> list[str]:
    options = ["--kind", "inverse", "--codec", str(codec), "--batch-size", "1"]
    return ["depth", "encode", str(maps), *options, "-o", str(output)]


def test_killed_and_concurrent_commands(codec: DepthCodec, saved_codec: Path, many: Path, tmp_path: Path) -> None:
    """A second command is told of the first; after the first is killed, the output is that of an undisturbed run."""
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    command = [sys.executable, "-m", "perceptok_cli.main", *words(saved_codec, many, output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)

    def wait_for_lines(count: int) -> None:
        end = time.monotonic() + 120
        while count_lines(partial) < count and first.poll() is None and time.monotonic() < end:
            time.sleep(0.002)

    wait_for_lines(10)
    first.send_signal(signal.SIGSTOP)  # it holds the output, and does nothing
    second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert second.returncode == 2
    assert "another process is writing" in second.stderr
    stopped_at = count_lines(partial)
    first.send_signal(signal.SIGCONT)
    wait_for_lines(stopped_at + 1)
    first.kill()
    first.communicate()
    assert not output.exists()
    assert stopped_at < count_lines(partial) < 121
    maps = find_maps([many], ReadOptions(kind="inverse"))
    assert encode_files(codec, maps, output) == []
    assert encode_files(codec, maps, tmp_path / "whole.jsonl") == []
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not partial.exists()


def test_a_full_disk_is_reported_and_nothing_is_lost(
    codec: DepthCodec, saved_codec: Path, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit, (soft, hard) = 20_000, resource.getrlimit(resource.RLIMIT_FSIZE)
    output = tmp_path / "out.jsonl"
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = run_command(lambda: app(words(saved_codec, many, output)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert "error: cannot write" in errors
    assert "free some space and run the command again" in errors
    assert 0 < output.with_name("out.jsonl.partial").stat().st_size <= limit
    maps = find_maps([many], ReadOptions(kind="inverse"))
    encode_files(codec, maps, output)
    encode_files(codec, maps, tmp_path / "whole.jsonl")
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_setting_that_fails_every_map_stops_early(tmp_path: Path, codec: DepthCodec) -> None:
    for index in range(200):
        write_map(tmp_path / "maps" / f"{index}.npy", seed=0)
    output = tmp_path / "out.jsonl"
    tried: list[int] = []
    files = find_maps([tmp_path / "maps"], ReadOptions())  # the kind is missing
    with pytest.raises(DepthMapError, match=r"the first 64 of 200 maps, .*does not say its kind.*Correct the setting"):
        encode_files(codec, files, output, advance=lambda: tried.append(1))
    assert len(tried) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    assert encode_files(codec, find_maps([tmp_path / "maps"], ReadOptions(kind="inverse")), output) == []


def test_damaged_maps_before_others_do_not_stop_a_run(tmp_path: Path, codec: DepthCodec) -> None:
    (tmp_path / "maps").mkdir()
    for index in range(66):
        (tmp_path / "maps" / f"a{index:02d}.npy").write_bytes(b"\x93NUMPY broken")
    write_map(tmp_path / "maps" / "z.npy", seed=0)
    files = find_maps([tmp_path / "maps"], ReadOptions(kind="inverse"))
    assert len(encode_files(codec, files, tmp_path / "out.jsonl")) == 66
    assert [record.name for record in read_depth_records(tmp_path / "out.jsonl")] == ["z.npy"]
