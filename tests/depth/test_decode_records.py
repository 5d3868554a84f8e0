"""Records back to maps: as many files as records, whatever they are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perceptok.depth import (
    DepthCodec,
    DepthMap,
    DepthRecord,
    ReadOptions,
    decode_records,
    encode_files,
    find_maps,
    read_depth_records,
)
from perceptok.errors import CheckpointError, ConfigError, OutputError


def record(codec: DepthCodec, name: str = "a.png", code: int = 0, *, width: int = 6, height: int = 5) -> DepthRecord:
    return DepthRecord(name, (code,) * 100, "inverse", 1.0, 0.0, width, height, codec.fingerprint)


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
    first, second = (DepthMap.read(tmp_path / "back" / f"{record.name}.png", kind="inverse") for record in records)
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


def test_a_unit_for_npz_is_refused_at_once(codec: DepthCodec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.npz keeps metres: leave out the unit"):
        decode_records(codec, [], tmp_path / "out", form="depth", suffix="npz", unit="mm")
    assert not (tmp_path / "out").exists()


def test_decoding_mirrors_names_sizes_and_units(codec: DepthCodec, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(4):
        path = tmp_path / "maps" / f"scene{index % 2}" / f"{index}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.uniform(1, 5, (12 + index, 16)).astype(np.float32))
    encode_files(codec, find_maps([tmp_path / "maps"], ReadOptions(kind="metric", unit="m")), tmp_path / "out.npz")
    records = list(read_depth_records(tmp_path / "out.npz"))
    assert len(records) == 4
    assert decode_records(codec, records, tmp_path / "near") == []
    assert decode_records(codec, records, tmp_path / "depth", form="depth") == []
    for record in records:
        near = DepthMap.read((tmp_path / "near" / record.name).with_suffix(".png"), kind="inverse")
        depth = DepthMap.read((tmp_path / "depth" / record.name).with_suffix(".png"), kind="metric", unit="mm")
        assert near.values.shape == depth.values.shape == (record.height, record.width)
        assert depth.values.min() >= record.near - 1e-3
        assert depth.values.max() <= record.far + 1e-3
    kept = tmp_path / "near" / "scene0" / "0.png"
    kept.write_bytes(b"kept")
    decode_records(codec, records, tmp_path / "near")
    assert kept.read_bytes() == b"kept"
    decode_records(codec, records, tmp_path / "near", force=True)
    assert kept.read_bytes() != b"kept"


def test_records_of_another_codec(codec: DepthCodec, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="same weights"):
        decode_records(codec, [replace(record(codec), codec="another")], tmp_path)
    assert files(tmp_path) == set()


def test_names_that_lead_out_of_the_folder(codec: DepthCodec, tmp_path: Path) -> None:
    names = ["../out.png", "/etc/out.png", ".", "", "a/..", "x\0.png"]
    failures = decode_records(codec, [record(codec, name) for name in [*names, "a.npy"]], tmp_path / "d", force=True)
    assert [failure.name for failure in failures] == names
    assert all("is not a file inside" in failure.reason for failure in failures)
    assert files(tmp_path / "d") == {"a.png"}
    assert not (tmp_path / "out.png").exists()
    assert not (tmp_path / "d.png").exists()


def test_names_through_links_stay_inside(codec: DepthCodec, tmp_path: Path) -> None:
    folder, outside = tmp_path / "res", tmp_path / "outside"
    folder.mkdir(), outside.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file.png").symlink_to(outside / "file.png")
    (tmp_path / "res.png").write_text("beside")
    records = [record(codec, name) for name in ("link/x.png", "file.png", ".", "good/x.png")]
    failures = decode_records(codec, records, folder, force=True)
    assert [failure.name for failure in failures] == ["link/x.png", "file.png", "."]
    assert list(outside.iterdir()) == []
    assert (tmp_path / "res.png").read_text() == "beside"
    assert (folder / "good/x.png").is_file()


def test_a_huge_record_is_one_failure(codec: DepthCodec, tmp_path: Path) -> None:
    records = [record(codec, f"{side}.png", width=side, height=side) for side in (8, 2**20, 12000)]
    failures = decode_records(codec, records, tmp_path / "d")
    assert [failure.name for failure in failures] == ["1048576.png", "12000.png"]
    assert all("--max-pixels" in failure.reason for failure in failures)
    assert decode_records(codec, records[:1], tmp_path / "e", max_pixels=47) != []


def test_two_decodings_into_one_folder(codec: DepthCodec, tmp_path: Path) -> None:
    records = [record(codec)]
    refused: list[str] = []

    def again() -> None:
        with pytest.raises(OutputError, match="another process is writing") as caught:
            decode_records(codec, records, tmp_path / "d")
        refused.append(str(caught.value))

    decode_records(codec, records, tmp_path / "d", advance=again)
    assert refused
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["a.png"]
