"""Real depth maps of 43 sources: sensors, scans, renders and estimates, and one stuck pixel in real sensors' maps."""

from __future__ import annotations

import csv
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.depth import DepthCodec, DepthMap, Nearness, NearnessRange, resize_nearest


def rows(split: Path) -> list[dict[str, str]]:
    with (split / "manifest.csv").open(newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: row["source"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_sample_of_each_source_goes_to_nearness_and_back(shared: Path, tmp_path: Path, split: str) -> None:
    folder = shared / "data" / "depth" / split
    sources = groupby(rows(folder), key=lambda row: row["source"])
    sample = [row for _, group in sources for row in islice(group, 3)]
    assert len(sample) > 20
    for row in sample:
        scale = float(row["metres_per_value"] or 1)
        depth = DepthMap.read(folder / row["file"], kind="metric", scale=scale)
        stored = np.asarray(Image.open(folder / row["file"]))
        assert f"{stored.shape[1]}x{stored.shape[0]}" == row["size"]
        assert np.array_equal(depth.valid, stored != 0)
        assert depth.valid.mean() == pytest.approx(float(row["valid_share"]), abs=0.006)

        nearness = depth.to_nearness()
        assert nearness.values.min() == 0
        assert nearness.values.max() == 1
        back = DepthMap.from_nearness(nearness)
        assert np.allclose(back.values[depth.valid], depth.values[depth.valid], rtol=2e-7, atol=0)

        back.write(tmp_path / "again.png", scale=scale, force=True)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), stored)


def test_a_point_cloud_in_one_row_is_a_legal_map(shared: Path) -> None:
    """Unorganised clouds came into the collection as maps one pixel high; a map has no smallest side."""
    row = next(row for row in rows(shared / "data" / "depth" / "train") if row["size"] == "170986x1")
    depth = DepthMap.read(shared / "data" / "depth" / "train" / row["file"], kind="metric", scale=0.001)
    assert depth.values.shape == (1, 170986)
    assert depth.to_nearness().values.max() == 1


def abs_rel(codec: DepthCodec, depth: DepthMap, chosen: NearnessRange) -> float:
    """Of the good pixels, in metres, after codes and back."""
    nearness = depth.to_nearness(chosen)
    decoded = resize_nearest(codec.decode(codec.encode(depth, range=chosen))[0], *depth.values.shape)
    back = DepthMap.from_nearness(
        Nearness(decoded, np.ones_like(depth.valid), nearness.near, nearness.far, nearness.kind)
    )
    good = depth.valid & (depth.values > 0.1)
    return float(np.mean(np.abs(back.values - depth.values)[good] / depth.values[good]))


@pytest.mark.parametrize(
    ("file", "scale"),
    [
        ("train/slambook-ch7-000.png", 0.0002),
        ("val/slambook-ch13-000.png", 0.001),
        ("val/nvblox-3dmatch-000.png", 0.001),
    ],
    ids=["TUM", "Kinect", "3DMatch"],
)
def test_a_stuck_pixel_in_a_real_map(shared: Path, file: str, scale: float) -> None:
    codec = DepthCodec.from_pretrained()
    clean = DepthMap.read(shared / "data" / "depth" / file, kind="metric", scale=scale)
    values, valid = clean.values.copy(), clean.valid.copy()
    values[100, 200], valid[100, 200] = 0.02, True
    stuck = DepthMap(values, valid, "metric")
    own, robust = NearnessRange(), NearnessRange.of_percentiles(0.1, 99.9)
    before = abs_rel(codec, clean, own)
    assert before < 0.08
    assert abs_rel(codec, stuck, own) > 3 * before
    assert abs_rel(codec, stuck, robust) < 1.1 * before
    few = stuck.to_nearness().find_outliers()
    assert few is not None
    assert few.pixels == 1
    assert clean.to_nearness().find_outliers() is None or few.fraction > 0.5
