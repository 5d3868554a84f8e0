"""Real depth maps of 43 sources: sensors, scans, renders and estimates."""

from __future__ import annotations

import csv
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.depth import DepthMap


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
