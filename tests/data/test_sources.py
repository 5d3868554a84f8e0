"""Sources: maps and annotations of images, and errors of single images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.data import ProceduralSource
from perceptok.data.sources import DepthFolder, FolderSource, Sample
from perceptok.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, two with a map; one map of another shape."""
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    for name, shape in (("a b", (30, 40)), ("ü", None), ("c", (40, 30))):
        Image.new("RGB", (80, 60)).save(tmp_path / "images" / f"{name}.png")
        if shape:
            grey = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
            Image.fromarray(grey).save(tmp_path / "depth" / f"{name}.png")
    return tmp_path


def test_maps_are_found_by_image_name(folder: Path) -> None:
    source = FolderSource(folder / "images", depth=DepthFolder(folder / "depth", kind="metric", unit="mm"))
    assert source.names == ["a b.png", "c.png", "ü.png"]
    matching, other, without = source.read(source.names, depth=True, boxes=False)
    assert isinstance(matching, Sample)
    assert matching.depth is not None
    assert matching.depth.values.shape == (30, 40)
    assert not matching.depth.valid[0, 0]
    assert isinstance(other, str)
    assert "30x40 pixels, the image 80x60: another shape" in other
    assert isinstance(without, Sample)
    assert without.depth is None


def test_ambiguous_and_unreadable_maps(folder: Path) -> None:
    np.save(folder / "depth" / "a b.npy", np.ones((30, 40), dtype=np.float32))
    (folder / "depth" / "c.png").write_bytes(b"no map")
    source = FolderSource(folder / "images", depth=DepthFolder(folder / "depth", kind="inverse"))
    two, broken = source.read(["a b.png", "c.png"], depth=True, boxes=False)
    assert isinstance(two, str)
    assert "two depth maps" in two
    assert isinstance(broken, str)
    assert "c.png" in broken
    with pytest.raises(DataError, match="folder of depth maps not found"):
        DepthFolder(folder / "gone")
    with pytest.raises(DataError, match="folder of images not found"):
        FolderSource(folder / "gone")


def test_annotations_list_the_samples(folder: Path) -> None:
    images = [{"id": n, "file_name": name, "width": 80, "height": 60} for n, name in enumerate(["a b.png", "no.png"])]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 40]}]
    path = folder / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    source = FolderSource(folder / "images", annotations=path)
    assert source.names == ["a b.png", "no.png"]
    present, missing = source.read(source.names, depth=False, boxes=True)
    assert missing == f"{folder / 'images' / 'no.png'}: image file not found"
    assert isinstance(present, Sample)
    assert present.boxes is not None
    assert present.boxes.labels.names == ("dog",)
    assert present.boxes.labels.categories == {1: "dog", 2: "cat"}
    assert present.complete
    images[1]["file_name"] = "a b.png"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    with pytest.raises(DataError, match=r"two images are called a b\.png"):
        FolderSource(folder / "images", annotations=path)


def test_procedural_source() -> None:
    source = ProceduralSource(5, 3, 64)
    assert source.names == ["train-5-000000", "train-5-000001", "train-5-000002"]
    (sample,) = source.read(source.names[1:2], depth=True, boxes=True)
    assert isinstance(sample, Sample)
    assert sample.depth is not None
    assert sample.boxes is not None
    assert sample.image.size == (64, 64)
    assert sample.depth.valid.all()
    assert sample.boxes.labels.negative_category_ids
    assert not {*sample.boxes.labels.category_ids} & {*sample.boxes.labels.negative_category_ids}
    with pytest.raises(DataError, match="scenes need"):
        ProceduralSource(-1, 3)
