"""Whole folders: order, interruption, kill, bad files, and the files of records."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.depth import (
    DepthCodec,
    DepthRecord,
    DepthVQVAE,
    GridConfig,
    ReadOptions,
    decode_records,
    encode_files,
    find_maps,
    parse_depth_records,
    read_depth_records,
    write_depth_records,
)
from perceptok.depth.depth_records import RECORD_SUFFIXES
from perceptok.errors import CheckpointError, DepthMapError, MalformedBlockError, OutputError


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def codec() -> DepthCodec:
    torch.manual_seed(0)
    return DepthCodec(DepthVQVAE(GridConfig(widths=(16, 32), blocks=(1, 1), heads=2)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    rng = np.random.default_rng(0)
    for index in range(9):
        path = folder / f"room{index % 2}" / f"{index}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.uniform(1, 5, (12 + index, 16)).astype(np.float32))
    (folder / "room0" / "4.npy").write_bytes(b"\x93NUMPY broken")
    return folder


def metres(folder: Path) -> list:  # type: ignore[type-arg]
    return find_maps([folder], ReadOptions(kind="metric", unit="m"))


def test_order_names_and_the_one_bad_file(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    failures = encode_files(codec, metres(folder), tmp_path / "out.jsonl", batch_size=2)
    assert [failure.name for failure in failures] == ["room0/4.npy"]
    records = list(read_depth_records(tmp_path / "out.jsonl"))
    assert [record.name for record in records] == [f.name for f in metres(folder) if f.name != "room0/4.npy"]
    depth = metres(folder)[0].read()
    assert np.array_equal(records[0].grid, codec.encode(depth)[0])
    assert (records[0].width, records[0].height, records[0].kind) == (16, 12, "metric")
    assert (records[0].near, records[0].far) == (depth.values.min(), depth.values.max())
    assert not (tmp_path / "out.jsonl.partial").exists()


@pytest.mark.parametrize("suffix", [".jsonl", ".npz", ".parquet"])
def test_interrupted_run_ends_with_the_same_bytes(codec: DepthCodec, folder: Path, tmp_path: Path, suffix: str) -> None:
    encode_files(codec, metres(folder), tmp_path / f"whole{suffix}")
    count = 0

    def interrupt() -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise StopError

    with pytest.raises(StopError):
        encode_files(codec, metres(folder), tmp_path / f"cut{suffix}", batch_size=2, advance=interrupt)
    partial = tmp_path / f"cut{suffix}.partial"
    with partial.open("a") as file:
        file.write('{"name": "half a li')
    seen = []
    failures = encode_files(codec, metres(folder), tmp_path / f"cut{suffix}", advance=lambda: seen.append(1))
    assert len(seen) == 9
    assert len(failures) == 1
    assert (tmp_path / f"cut{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert len(list(read_depth_records(tmp_path / f"cut{suffix}"))) == 8


def test_partial_of_another_run_is_refused(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.partial").write_text('{"codec": "other", "inputs": "x"}\n')
    with pytest.raises(OutputError, match="another run"):
        encode_files(codec, metres(folder), tmp_path / "out.jsonl")


def test_existing_output(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        encode_files(codec, metres(folder), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "precious"
    encode_files(codec, metres(folder), tmp_path / "out.jsonl", force=True)
    assert len(list(read_depth_records(tmp_path / "out.jsonl"))) == 8
    for name in ("out.txt", "out"):
        with pytest.raises(OutputError, match=r"\.jsonl, \.npz, \.parquet"):
            encode_files(codec, metres(folder), tmp_path / name)
    with pytest.raises(OutputError, match=r"only \.jsonl"):
        encode_files(codec, metres(folder), tmp_path / "new.npz", text=True)


def many(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(120):
        np.save(folder / f"{index:03}.npy", rng.random((8, 8), dtype=np.float32))
    return folder


def start(codec_folder: Path, maps: Path, output: Path, **more: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "perceptok_cli.main", "depth", "encode", str(maps), "--kind", "inverse"]
    command += ["--codec", str(codec_folder), "--batch-size", "1", "-o", str(output)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **more)  # type: ignore[call-overload,no-any-return]


def test_killed_process_ends_with_the_same_bytes(codec: DepthCodec, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "codec")
    maps = many(tmp_path / "many")
    encode_files(codec, find_maps([maps], ReadOptions(kind="inverse")), tmp_path / "whole.jsonl")
    process = start(tmp_path / "codec", maps, tmp_path / "cut.jsonl")
    partial = tmp_path / "cut.jsonl.partial"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (partial.exists() and partial.read_bytes().count(b"\n") > 10):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "cut.jsonl").exists()
    assert 10 < partial.read_bytes().count(b"\n") < 121
    assert encode_files(codec, find_maps([maps], ReadOptions(kind="inverse")), tmp_path / "cut.jsonl") == []
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_full_disk_is_said_and_nothing_is_lost(codec: DepthCodec, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "codec")
    maps = many(tmp_path / "many")
    limit = 20_000

    def no_large_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(tmp_path / "codec", maps, tmp_path / "out.jsonl", preexec_fn=no_large_files)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    assert b"error: cannot write" in errors
    assert b"make room and run the command again" in errors
    assert 0 < (tmp_path / "out.jsonl.partial").stat().st_size <= limit
    encode_files(codec, find_maps([maps], ReadOptions(kind="inverse")), tmp_path / "out.jsonl")
    encode_files(codec, find_maps([maps], ReadOptions(kind="inverse")), tmp_path / "whole.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_decoding_mirrors_names_sizes_and_units(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    encode_files(codec, metres(folder), tmp_path / "out.npz")
    records = list(read_depth_records(tmp_path / "out.npz"))
    assert decode_records(codec, records, tmp_path / "near") == []
    assert decode_records(codec, records, tmp_path / "depth", form="depth") == []
    for record in records:
        near = pt.DepthMap.read((tmp_path / "near" / record.name).with_suffix(".png"), kind="inverse")
        depth = pt.DepthMap.read((tmp_path / "depth" / record.name).with_suffix(".png"), kind="metric", unit="mm")
        assert near.values.shape == depth.values.shape == (record.height, record.width)
        assert depth.values.min() >= record.near - 1e-3
        assert depth.values.max() <= record.far + 1e-3
    kept = tmp_path / "near" / "room0" / "0.png"
    kept.write_bytes(b"kept")
    decode_records(codec, records, tmp_path / "near")
    assert kept.read_bytes() == b"kept"
    decode_records(codec, records, tmp_path / "near", force=True)
    assert kept.read_bytes() != b"kept"


def test_records_of_another_codec_and_names_that_lead_out(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    encode_files(codec, metres(folder), tmp_path / "out.jsonl")
    record = next(iter(read_depth_records(tmp_path / "out.jsonl")))
    with pytest.raises(CheckpointError, match="same weights"):
        decode_records(pt.DepthCodec.from_pretrained(), [record], tmp_path / "d")
    names = ["../out.png", "/etc/out.png", ".", "", "a/..", "x\0.png"]
    wrong = [DepthRecord(**{**record.__dict__, "name": name}) for name in names]
    failures = decode_records(codec, [*wrong, record], tmp_path / "d", force=True)
    assert [one.name for one in failures] == names
    assert all("is no file of" in one.reason for one in failures)
    assert [path.name for path in (tmp_path / "d").rglob("*") if path.is_file()] == [f"{Path(record.name).stem}.png"]
    assert not (tmp_path / "out.png").exists()
    assert not (tmp_path / "d.png").exists()


def test_damaged_records_name_their_line(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    encode_files(codec, metres(folder), tmp_path / "out.jsonl", text=True)
    good = (tmp_path / "out.jsonl").read_text().splitlines()[0]
    values = json.loads(good)
    assert np.array_equal(codec.from_text(values["text"]).ravel(), values["codes"])
    assert DepthRecord.from_json(json.dumps({k: v for k, v in values.items() if k != "codes"})).codes == tuple(
        values["codes"]
    )
    for bad in ("{", "[]", "7", "{}"):
        with pytest.raises(MalformedBlockError, match="here, line 2: not a record"):
            list(parse_depth_records([good, bad], "here"))
    with pytest.raises(MalformedBlockError, match="has 99"):
        _ = DepthRecord.from_json(
            json.dumps({"codes": values["codes"][:99]} | {k: values[k] for k in values if k not in ("codes", "text")})
        ).grid
    with pytest.raises(MalformedBlockError, match="found 128"):
        _ = DepthRecord(**{**DepthRecord.from_json(good).__dict__, "codes": (128,) * 100}).grid
    (tmp_path / "bad.npz").write_bytes(b"PK broken")
    with pytest.raises(MalformedBlockError, match="not a file of depth records"):
        list(read_depth_records(tmp_path / "bad.npz"))


@pytest.mark.parametrize("suffix", RECORD_SUFFIXES)
def test_files_of_records_damaged_anywhere(suffix: str, tmp_path: Path) -> None:
    """Cut or overwritten: the records, or an error that names the file."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    records = [
        DepthRecord(f"{i}.png", tuple((i + k) % 128 for k in range(100)), "metric", 1, 2, 3, 4, "x") for i in range(20)
    ]
    path = tmp_path / f"records{suffix}"
    with path.open("wb") as file:
        write_depth_records(file, suffix, records)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    assert list(read_depth_records(path)) == records
    messages = []
    for attempt in range(200):
        damaged = bytearray(whole)
        if attempt % 2:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            for place in rng.integers(len(whole), size=rng.integers(1, 40)):
                damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            found = list(read_depth_records(path))
        except MalformedBlockError as error:
            messages.append(str(error))
            continue
        for record in found:
            with suppress(MalformedBlockError):
                _ = record.grid
    assert len(messages) > 100
    assert all(str(path) in message for message in messages)


def test_damaged_partial_output_is_refused(codec: DepthCodec, folder: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise StopError

    with pytest.raises(StopError):
        encode_files(codec, metres(folder), tmp_path / "out.jsonl", batch_size=1, advance=interrupt)
    partial = tmp_path / "out.jsonl.partial"
    for line in (b"\xff\xfe\n", b"{}\n", b"3\n", b'{"failure": 1}\n'):
        kept = partial.read_bytes()
        partial.write_bytes(kept + line)
        with pytest.raises(OutputError, match="damaged"):
            encode_files(codec, metres(folder), tmp_path / "out.jsonl", batch_size=1)
        partial.write_bytes(kept)
    encode_files(codec, metres(folder), tmp_path / "out.jsonl", batch_size=1)


def test_finding_maps(folder: Path, tmp_path: Path) -> None:
    assert [f.name for f in find_maps([folder / "room0"])] == ["0.npy", "2.npy", "4.npy", "6.npy", "8.npy"]
    assert [f.name for f in find_maps([str(folder / "*" / "1.npy")])] == ["room1/1.npy"]
    assert {f.source for f in find_maps([folder])} == {"room0", "room1"}
    (folder / "list.csv").write_text(
        "file,kind,metres_per_value,source\nroom0/0.npy,metric,0.001,kinect\nroom1/1.npy,metric,,lidar\n"
    )
    first, second = find_maps([folder / "list.csv"])
    assert (first.name, first.options.kind, first.options.scale, first.in_metres, first.source) == (
        "room0/0.npy",
        "metric",
        0.001,
        True,
        "kinect",
    )
    assert (second.options.scale, second.in_metres) == (1.0, False)
    assert find_maps([folder / "list.csv"], sources=["lidar"]) == [second]
    (folder / "list.txt").write_text("room0/0.npy\n\nroom1/1.npy\n")
    assert [f.name for f in find_maps([folder / "list.txt"], ReadOptions(kind="inverse"))] == [
        "room0/0.npy",
        "room1/1.npy",
    ]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "wrong.csv").write_text("path\nx\n")
    for named, message in {
        str(tmp_path / "empty"): "no depth maps in it",
        str(tmp_path / "none"): "no such file or folder",
        str(tmp_path / "*.exr"): "no file matches",
        str(tmp_path / "empty.txt"): "list is empty",
        str(tmp_path / "wrong.csv"): "column named file",
    }.items():
        with pytest.raises(DepthMapError, match=message):
            find_maps([named])
    (folder / "room1" / "0.npy").write_bytes((folder / "room0" / "0.npy").read_bytes())
    with pytest.raises(DepthMapError, match=r"both be called 0\.npy"):
        find_maps([folder / "room0", folder / "room1"])
    with pytest.raises(DepthMapError, match="no depth maps of the source sonar"):
        find_maps([folder / "list.csv"], sources=["sonar"])
