"""Two commands on one output, inputs that change between kills, hostile records: nothing lost, nothing let in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceptok as pt
from perceptok.depth import (
    DepthRecord,
    MapFailure,
    MapFile,
    ReadOptions,
    decode_records,
    encode_files,
    find_maps,
    parse_depth_records,
    read_depth_records,
)
from perceptok.errors import MalformedBlockError, OutputError

COUNT = 60


@pytest.fixture(scope="module")
def codec() -> pt.DepthCodec:
    return pt.DepthCodec.from_pretrained()


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    folder.mkdir()
    for index in range(COUNT):
        _write_map(folder / f"{index:03}.npy", seed=index)
    return folder


def _write_map(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ramp = np.linspace(1, 2 + rng.random() * 8, 48, dtype=np.float32)
    np.save(path, np.outer(np.ones(36, np.float32), ramp) + rng.random((36, 1), dtype=np.float32))


def metres(folder: Path) -> list[MapFile]:
    return find_maps([folder], ReadOptions(kind="metric", unit="m"))


def _start(maps: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "perceptok_cli.main", "depth", "encode", str(maps), "--kind", "metric"]
    return subprocess.Popen(
        [*command, "--unit", "m", "-o", str(output), "--batch-size", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _kill_after(process: subprocess.Popen[bytes], partial: Path, lines: int) -> None:
    end = time.monotonic() + 120
    while _lines_of(partial) < lines and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_two_commands_on_one_output_do_not_mix(codec: pt.DepthCodec, maps: Path, tmp_path: Path) -> None:
    """The second is told of the first; after kills of both the output is that of an uninterrupted run."""
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    encode_files(codec, metres(maps), whole)
    partial = output.with_name("out.jsonl.partial")
    first = _start(maps, output)
    end = time.monotonic() + 120
    while _lines_of(partial) < 2 and first.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)  # it holds the output, and does nothing
    second = _start(maps, output)
    said = second.communicate(timeout=120)[1].decode()
    assert second.returncode == 2
    assert "another process is writing" in said
    first.send_signal(signal.SIGCONT)
    _kill_after(first, partial, 6)
    assert not output.exists() or output.read_bytes() == whole.read_bytes()
    if not output.exists():
        assert encode_files(codec, metres(maps), output) == []
    assert output.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_threads_of_one_process_do_not_mix(codec: pt.DepthCodec, maps: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def again() -> None:
        if not refused:
            with pytest.raises(OutputError, match="another process is writing") as caught:
                encode_files(codec, metres(maps), tmp_path / "out.jsonl")
            refused.append(str(caught.value))

    encode_files(codec, metres(maps), tmp_path / "out.jsonl", advance=again)
    assert refused
    assert [record.name for record in read_depth_records(tmp_path / "out.jsonl")] == [one.name for one in metres(maps)]


def test_what_changed_between_kills_is_done_again(codec: pt.DepthCodec, maps: Path, tmp_path: Path) -> None:
    """A repaired file loses its failure, a replaced one its codes, a removed one becomes a failure."""
    broken = maps / "000.npy"
    broken.write_bytes(b"no map")
    output = tmp_path / "out.jsonl"
    partial = output.with_name("out.jsonl.partial")
    files = metres(maps)
    _stop_after(codec, files, output, 20)
    assert _lines_of(partial) >= 20
    _write_map(broken, seed=0)
    _write_map(maps / "001.npy", seed=1001)
    (maps / "002.npy").unlink()
    failures = encode_files(codec, files, output)
    assert [one.name for one in failures] == ["002.npy"]
    expected = tmp_path / "expected.jsonl"
    encode_files(codec, files, expected)
    assert output.read_bytes() == expected.read_bytes()


def test_force_goes_on_where_it_stopped(codec: pt.DepthCodec, maps: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("old")
    _stop_after(codec, metres(maps), output, 20, force=True)
    before = _lines_of(output.with_name("out.jsonl.partial"))
    seen: list[int] = []
    encode_files(
        codec,
        metres(maps),
        output,
        force=True,
        batch_size=1,
        advance=lambda: seen.append(_lines_of(output.with_name("out.jsonl.partial"))),
    )
    assert min(seen) >= before
    assert len(list(read_depth_records(output))) == COUNT


def _stop_after(codec: pt.DepthCodec, files: list[MapFile], output: Path, maps: int, *, force: bool = False) -> None:
    """An encoding that is interrupted."""
    count = 0

    def advance() -> None:
        nonlocal count
        count += 1
        if count == maps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_files(codec, files, output, batch_size=2, force=force, advance=advance)


def record(**changes: Any) -> dict[str, Any]:
    good = {"name": "a.png", "codes": [1] * 100, "kind": "inverse", "near": 1.0, "far": 0.0, "width": 8, "height": 6}
    return {**good, "codec": "x", **changes}


WRONG = [
    *({"name": value} for value in (5, "", None, ["a"], "a\0b", "\ud800")),
    *({"codes": value} for value in ([1] * 99, [[1] * 10] * 10, [128] + [1] * 99, [1.0] * 100, "1" * 100, None, {})),
    *({"codes": [True] + [1] * 99}, {"codes": [-1] * 100}, {"codes": [10**400] * 100}),
    *({"width": value} for value in ("64", 0, -1, None, 1.5, 10**9, True)),
    *({"height": value} for value in ("64", 0, None, 2**63)),
    *({"near": value} for value in (None, "1", True, 10**400, float("nan"), float("inf"))),
    *({"kind": value} for value in ("depth", None, 3)),
    *({"codec": value} for value in (None, 3)),
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: repr(change)[:40])
def test_one_bad_record_is_one_failure(change: dict[str, Any]) -> None:
    lines = [json.dumps(record(name="before.png")), json.dumps(record(**change)), "", json.dumps(record(more=1))]
    failures: list[MapFailure] = []
    read = list(parse_depth_records(lines, "in.jsonl", failures))
    assert [one.name for one in read] == ["before.png", "a.png"]
    (failure,) = failures
    assert failure.name == "in.jsonl, line 2"
    with pytest.raises(MalformedBlockError, match=r"in.jsonl, line 2"):
        list(parse_depth_records(lines, "in.jsonl"))


def test_names_through_links_stay_inside(codec: pt.DepthCodec, tmp_path: Path) -> None:
    folder, outside = tmp_path / "res", tmp_path / "outside"
    folder.mkdir(), outside.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file.png").symlink_to(outside / "file.png")
    (tmp_path / "res.png").write_text("beside")
    records = [
        DepthRecord.from_dict(record(name=name, codec=codec.fingerprint))
        for name in ("link/x.png", "file.png", ".", "good/x.png")
    ]
    failures = decode_records(codec, records, folder, force=True)
    assert [one.name for one in failures] == ["link/x.png", "file.png", "."]
    assert list(outside.iterdir()) == []
    assert (tmp_path / "res.png").read_text() == "beside"
    assert (folder / "good/x.png").is_file()


def test_a_huge_record_is_one_failure(codec: pt.DepthCodec, tmp_path: Path) -> None:
    records = [
        DepthRecord.from_dict(record(name=f"{width}.png", width=width, height=width, codec=codec.fingerprint))
        for width in (8, 2**20, 12000)
    ]
    failures = decode_records(codec, records, tmp_path / "d")
    assert [one.name for one in failures] == ["1048576.png", "12000.png"]
    assert all("--max-pixels" in one.reason for one in failures)
    assert decode_records(codec, records[:1], tmp_path / "e", max_pixels=47) != []


def test_two_decodings_into_one_folder(codec: pt.DepthCodec, tmp_path: Path) -> None:
    records = [DepthRecord.from_dict(record(codec=codec.fingerprint))]
    refused: list[str] = []

    def again() -> None:
        with pytest.raises(OutputError, match="another process is writing") as caught:
            decode_records(codec, records, tmp_path / "d")
        refused.append(str(caught.value))

    decode_records(codec, records, tmp_path / "d", advance=again)
    assert refused
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["a.png"]
