"""Records back to maps: as many files as records, whatever they are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perceptok.depth import (
    DepthCodec,
    DepthMap,
    DepthRecord,
    DepthVQVAE,
    GridConfig,
    ReadOptions,
    decode_records,
    encode_files,
    find_maps,
    read_depth_records,
)
from perceptok.errors import OutputError


@pytest.fixture(scope="module")
def codec() -> DepthCodec:
    torch.manual_seed(0)
    return DepthCodec(DepthVQVAE(GridConfig(widths=(16, 32), blocks=(1, 1), heads=2)))


def record(codec: DepthCodec, name: str, code: int = 0) -> DepthRecord:
    return DepthRecord(name, (code,) * 100, "inverse", 1.0, 0.0, 6, 5, codec.fingerprint)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_two_inputs_give_two_outputs(codec: DepthCodec, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    rising, falling = np.tile(np.linspace(0, 1, 8), (8, 1)), np.tile(np.linspace(1, 0, 8), (8, 1))
    DepthMap.from_array(rising, kind="inverse").write(folder / "x.pfm")
    DepthMap.from_array(falling, kind="inverse").write(folder / "x.png")
    encode_files(codec, find_maps([folder], ReadOptions(kind="inverse")), tmp_path / "out.jsonl")
    records = list(read_depth_records(tmp_path / "out.jsonl"))
    for force, batch_size in ((False, 16), (True, 1)):
        assert decode_records(codec, records, tmp_path / "back", force=force, batch_size=batch_size) == []
        assert files(tmp_path / "back") == {"x.pfm.png", "x.png.png"}
    first, second = (DepthMap.read(tmp_path / "back" / f"{one.name}.png", kind="inverse") for one in records)
    assert not np.array_equal(first.values, second.values)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.npy", "b.npy"], {"a.png", "b.png"}),
        (["a.npy", "a.tif", "b.npy"], {"a.npy.png", "a.tif.png", "b.png"}),
        (["a/x.npy", "b/x.npy"], {"a/x.png", "b/x.png"}),
        (["a", "a.png"], {"a.png", "a.png.png"}),
        (["x.pfm", "x.png", "x.png.pfm"], {"x.pfm.png", "x.png.png", "x.png.pfm.png"}),
        (["frame.0001", "frame.0002"], {"frame.0001.png", "frame.0002.png"}),
    ],
)
def test_as_many_files_as_records(codec: DepthCodec, tmp_path: Path, names: list[str], expected: set[str]) -> None:
    records = [record(codec, name, index) for index, name in enumerate(names)]
    try:
        assert decode_records(codec, records, tmp_path) == []
    except OutputError as error:
        assert "x.png.png" in str(error) or "a.png" in str(error)  # noqa: PT017 - refused before anything is written
        assert files(tmp_path) == set()
    else:
        assert files(tmp_path) == expected


def test_one_name_in_two_records(codec: DepthCodec, tmp_path: Path) -> None:
    records = [record(codec, "a.npy"), replace(record(codec, "a.npy"), near=2.0)]
    with pytest.raises(OutputError, match=r"such as 'a\.npy'"):
        decode_records(codec, records, tmp_path)
    assert files(tmp_path) == set()


def test_a_suffix_with_or_without_its_dot(codec: DepthCodec, tmp_path: Path) -> None:
    for suffix in ("npy", ".npy"):
        decode_records(codec, [record(codec, "a.png")], tmp_path, suffix=suffix)
        assert files(tmp_path) == {"a.npy"}
