"""Records in JSON lines, NPZ and Parquet: every field checked, damage named, nothing let in."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceptok.depth import (
    DepthCodec,
    DepthRecord,
    MapFailure,
    parse_depth_records,
    read_depth_records,
    write_depth_records,
)
from perceptok.depth.depth_records import RECORD_SUFFIXES
from perceptok.errors import MalformedBlockError, OutputError


def values(**changes: Any) -> dict[str, Any]:
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
    lines = [json.dumps(values(name="before.png")), json.dumps(values(**change)), "", json.dumps(values(more=1))]
    failures: list[MapFailure] = []
    read = list(parse_depth_records(lines, "in.jsonl", failures))
    assert [record.name for record in read] == ["before.png", "a.png"]
    (failure,) = failures
    assert failure.name == "in.jsonl, line 2"
    with pytest.raises(MalformedBlockError, match=r"in.jsonl, line 2"):
        list(parse_depth_records(lines, "in.jsonl"))


@pytest.mark.parametrize("line", ["{", "[]", "7", "{}"])
def test_lines_that_are_not_records_are_named(line: str) -> None:
    with pytest.raises(MalformedBlockError, match="here, line 2: not a record"):
        list(parse_depth_records([json.dumps(values()), line], "here"))


def test_the_text_of_a_block_may_stand_for_codes(codec: DepthCodec) -> None:
    record = DepthRecord.from_dict(values(codes=list(range(100))))
    written = json.loads(record.to_json(text=True))
    assert np.array_equal(codec.from_text(written["text"]).ravel(), written["codes"])
    del written["codes"]
    assert DepthRecord.from_json(json.dumps(written)) == record


def test_codes_that_are_not_a_block_have_no_grid() -> None:
    with pytest.raises(MalformedBlockError, match="has 99"):
        DepthRecord.from_json(json.dumps(values(codes=[1] * 99)))
    for codes, message in (((1,) * 99, "has 99"), ((128,) * 100, "found 128")):
        with pytest.raises(MalformedBlockError, match=message):
            _ = DepthRecord(**values(codes=codes)).grid


def test_a_file_that_is_not_an_archive(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"changed": [5, 3]}, "rising"),
        ({"changed": [5, 5]}, "rising"),
        ({"changed": [5, 100]}, r"0\.\.99"),
        ({"changed": "all"}, "changed"),
        ({"changed": [1, 2, 3]}, "as many"),
        ({"codes": [1, 128]}, r"0\.\.127"),
        ({"codes": "12"}, "codes"),
        ({"changed": None}, "100 integers"),
        ({"frame": None}, "belong together"),
        ({"frame": -1}, "frame"),
        ({"frame": True}, "frame"),
        ({"frame": 0}, "first frame"),
        ({"clip": ""}, "belong together"),
        ({"clip": 7}, "name"),
    ],
)
def test_bad_frames_are_refused(change: dict[str, object], message: str) -> None:
    good = DepthRecord("a/3.npy", (1, 2), "metric", 1, 4, 8, 8, "c", clip="a", frame=3, changed=(4, 9))
    assert DepthRecord.from_json(good.to_json()) == good
    with pytest.raises(MalformedBlockError, match=message):
        DepthRecord.from_dict({**json.loads(good.to_json()), **change})


def test_only_frames_have_fields_of_frames(tmp_path: Path) -> None:
    plain = DepthRecord("a.npy", tuple(range(100)), "metric", 1, 4, 8, 8, "c")
    assert json.loads(plain.to_json()).keys().isdisjoint({"clip", "frame", "changed"})
    frame = DepthRecord("a/3.npy", (1, 2), "metric", 1, 4, 8, 8, "c", clip="a", frame=3, changed=(4, 9))
    with (tmp_path / "a.npz").open("wb") as file, pytest.raises(OutputError, match="two kinds"):
        write_depth_records(file, ".npz", [plain, frame])
    with (tmp_path / "a.txt").open("wb") as file, pytest.raises(OutputError, match=r"written to \.jsonl"):
        write_depth_records(file, ".txt", [plain])
    with pytest.raises(MalformedBlockError, match=r"records are in \.jsonl"):
        list(read_depth_records(tmp_path / "a.txt"))
