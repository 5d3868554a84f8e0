"""EXIF orientations of photos with annotations and depth maps of the upright or of the stored frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from perceptok.data import DepthFolder, FolderSource
from perceptok.data.orientation import Exif, turn_array, turn_boxes
from perceptok.data.sources import Sample
from perceptok.depth import ReadOptions


def write_photo(path: Path, orientation: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A stored photo with a white rectangle, x 10..30, y 5..15; returns the upright photo."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (10, 5, 30, 15))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    with Image.open(path) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def find_white(image: Image.Image) -> list[float]:
    rows, columns = np.nonzero(np.asarray(image.convert("L")) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_arrays_and_boxes_turn_as_pillow_turns_the_photo(tmp_path: Path, orientation: int) -> None:
    upright = write_photo(tmp_path / "a.png", orientation)
    with Image.open(tmp_path / "a.png") as stored:
        np.testing.assert_array_equal(turn_array(np.asarray(stored), orientation), np.asarray(upright))
    turned = turn_boxes(np.array([[10.0, 5, 30, 15]]), upright.size, orientation)
    assert turned.tolist() == [find_white(upright)]


def make_source(tmp_path: Path, size: tuple[int, int], box: list[float], exif: Exif | None) -> FolderSource:
    values = {
        "images": [{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    (tmp_path / "images").mkdir(exist_ok=True)
    return FolderSource(tmp_path / "images", annotations=tmp_path / "boxes.json", exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("exif", [None, "apply", "ignore"])
def test_the_size_of_the_annotations_decides(tmp_path: Path, orientation: int, exif: Exif | None) -> None:
    (tmp_path / "images").mkdir()
    upright = write_photo(tmp_path / "images" / "a.png", orientation)
    x1, y1, x2, y2 = find_white(upright)
    for size, box, is_stored in (
        ((80, 60), [10, 5, 20, 10], True),
        ((60, 80), [x1, y1, x2 - x1, y2 - y1], False),
    ):
        source = make_source(tmp_path, size, [float(number) for number in box], exif)
        (sample,) = source.read(["a.png"], depth=False, boxes=True)
        assert isinstance(sample, Sample)
        assert sample.boxes is not None
        assert sample.boxes.boxes.tolist() == [find_white(upright)]
        assert (sample.boxes.width, sample.boxes.height) == sample.image.size
        assert any("EXIF" in warning for warning in sample.warnings) == is_stored


@pytest.mark.parametrize(("orientation", "size"), [(2, (80, 60)), (3, (80, 60)), (4, (80, 60)), (6, (80, 80))])
def test_where_the_size_does_not_tell_the_option_does(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    (tmp_path / "images").mkdir()
    upright = write_photo(tmp_path / "images" / "a.png", orientation, size)
    (reason,) = make_source(tmp_path, size, [10, 5, 20, 10], None).read(["a.png"], depth=False, boxes=True)
    assert f"its EXIF orientation is {orientation}" in str(reason)
    assert "set exif: apply" in str(reason)
    (ignored,) = make_source(tmp_path, size, [10, 5, 20, 10], "ignore").read(["a.png"], depth=False, boxes=True)
    (applied,) = make_source(tmp_path, size, [10, 5, 20, 10], "apply").read(["a.png"], depth=False, boxes=True)
    assert isinstance(ignored, Sample)
    assert isinstance(applied, Sample)
    assert ignored.boxes is not None
    assert applied.boxes is not None
    assert ignored.boxes.boxes.tolist() == [find_white(upright)]
    assert applied.boxes.boxes.tolist() == [[10, 5, 30, 15]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_without_a_size(tmp_path: Path, orientation: int) -> None:
    (tmp_path / "images").mkdir()
    upright = write_photo(tmp_path / "images" / "a.png", orientation)
    values = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 10]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(values))

    def read(exif: Exif | None) -> Sample | str:
        source = FolderSource(tmp_path / "images", annotations=tmp_path / "boxes.json", exif=exif)
        assert source.remarks == ["repaired in the annotations: image: has no size; that of its file is used (1 times)"]
        return source.read(["a.png"], depth=False, boxes=True)[0]

    undecided, ignored, applied = read(None), read("ignore"), read("apply")
    if orientation != 1:
        assert "the annotations do not give its size: set exif: apply" in str(undecided)
    else:
        assert isinstance(undecided, Sample)
    assert isinstance(ignored, Sample)
    assert isinstance(applied, Sample)
    assert ignored.boxes is not None
    assert applied.boxes is not None
    assert ignored.boxes.boxes.tolist() == [find_white(upright)]
    assert applied.boxes.boxes.tolist() == [[10, 5, 30, 15]]


def test_depth_maps_of_the_stored_photo(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "maps").mkdir()
    write_photo(tmp_path / "images" / "turned.png", 6)
    write_photo(tmp_path / "images" / "upside.png", 3)
    stored = np.arange(1, 4801, dtype=np.uint16).reshape(60, 80)
    for name in ("turned", "upside"):
        Image.fromarray(stored).save(tmp_path / "maps" / f"{name}.png")
    options = ReadOptions("metric", "mm")
    source = FolderSource(tmp_path / "images", depth=DepthFolder(tmp_path / "maps", options))
    turned, upside = source.read(source.names, depth=True, boxes=False)
    assert isinstance(turned, Sample)
    assert turned.depth is not None
    np.testing.assert_array_equal(np.rint(turned.depth.values * 1000), turn_array(stored, 6))
    assert "fits the upright photo and the stored one" in str(upside)
    source = FolderSource(tmp_path / "images", depth=DepthFolder(tmp_path / "maps", options, exif="ignore"))
    (upside,) = source.read(["upside.png"], depth=True, boxes=False)
    assert isinstance(upside, Sample)
    assert upside.depth is not None
    np.testing.assert_array_equal(np.rint(upside.depth.values * 1000), stored[::-1, ::-1])
    (tmp_path / "maps" / "estimator.json").touch()  # maps that `data estimate` wrote are of upright photos
    source = FolderSource(tmp_path / "images", depth=DepthFolder(tmp_path / "maps", options))
    (upside,) = source.read(["upside.png"], depth=True, boxes=False)
    assert isinstance(upside, Sample)
    assert upside.depth is not None
    np.testing.assert_array_equal(np.rint(upside.depth.values * 1000), stored)
