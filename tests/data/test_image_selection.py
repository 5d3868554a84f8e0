"""Selection of images: depth maps, masks and label maps among photos, formats that are not read, odd file names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.data import DepthFolder, FolderSource, select_images
from perceptok.data.sources import Sample
from perceptok.depth import ReadOptions, find_maps
from perceptok.errors import DataError, DepthMapError, ImageError

MILLIMETRES = ReadOptions("metric", "mm")


def write_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (80, 60), (200, 30, 10))
    image.paste((20, 90, 160), (20, 10, 70, 50))
    image.save(path)


def write_map(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(500, 5300, dtype=np.uint16).reshape(60, 80)).save(path)


def test_a_photo_and_its_depth_map_in_one_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "c.png", "without.png"):
        write_photo(tmp_path / name)
    for name in ("a.png", "b_depth.png", "c.tif", "lonely.png"):
        write_map(tmp_path / name)
    source = FolderSource(tmp_path, depth=DepthFolder(tmp_path, MILLIMETRES))
    assert source.names == ["a.jpg", "b.png", "c.png", "without.png"]
    *with_map, without = source.read(source.names, depth=True, boxes=False)
    for sample in with_map:
        assert isinstance(sample, Sample)
        assert sample.depth is not None
        assert sample.image.getpixel((0, 0))[0] > 190  # type: ignore[index]
    assert str(without).startswith("this image has no depth map: only the image file itself")
    told = "\n".join(source.remarks)
    assert "3 files are not used as images, as they are depth maps of other images: a.png, b_depth.png, c.tif" in told
    assert "1 files are not used as images, as they are their own depth maps: lonely.png" in told
    listed = FolderSource(tmp_path, depth=DepthFolder(tmp_path, MILLIMETRES), names=["lonely.png"])
    (reason,) = listed.read(listed.names, depth=True, boxes=False)
    assert str(reason).startswith("this image has no depth map")


def test_maps_and_masks_in_folders_among_the_images(tmp_path: Path) -> None:
    write_photo(tmp_path / "rgb" / "a.png")
    write_map(tmp_path / "depth" / "rgb" / "a.png")
    write_map(tmp_path / "depth" / "other.png")
    Image.new("L", (80, 60), 255).save(tmp_path / "masked.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (80, 60), 255).save(tmp_path / "masks" / "b.png")
    options = ReadOptions("metric", "mm", mask=tmp_path / "masks")
    assert list(select_images(tmp_path, DepthFolder(tmp_path / "depth", options)).files) == ["masked.png", "rgb/a.png"]


@pytest.mark.parametrize(
    ("photo", "other"),
    [
        ("x.jpg", "x_seg.png"),
        ("x.jpg", "x_parts_1.png"),
        ("x.jpg", "x/instance_001_x.png"),
        ("x.png", "x_mask.png"),
        ("x.png", "x-depth.png"),
        ("0.color.png", "0.depth.png"),
        ("aachen_0_leftImg8bit.png", "aachen_0_gtFine_labelIds.png"),
        ("JPEGImages/x.jpg", "SegmentationClass/x.png"),
        ("rgb/x.png", "depth/x.png"),
        ("x.jpg", "x.depth.png"),
        ("x.jpg", "x_mask_0.png"),
        ("x.jpg", "x.instance.png"),
        ("rgb.png", "depth.png"),
        ("rgb_07.png", "depth_07.png"),
        ("train/x.jpg", "train_masks/x_mask.gif"),
        ("rgb/Camera_0/rgb_01.png", "instanceSegmentation/Camera_0/instancegt_01.png"),
        ("nyu_depth/rgb/0.png", "nyu_depth/depth/0.png"),
        ("matterport_color_images/x_i0_0.jpg", "matterport_depth_images/x_d0_0.png"),
        ("im0.png", "mask0nocc.png"),
    ],
)
def test_maps_and_label_maps_of_data_sets(tmp_path: Path, photo: str, other: str) -> None:
    write_photo(tmp_path / photo)
    write_map(tmp_path / other)
    selection = select_images(tmp_path)
    assert list(selection.files) == [photo]
    assert list(selection.left_out.values()) == [[other]]
    assert FolderSource(tmp_path, names=[other]).names == [other]


@pytest.mark.parametrize(
    ("photo", "other"),
    [
        ("val2017/1.jpg", "annotations/panoptic_val2017/1.png"),
        ("front_rgb/0.png", "front_depth/0.png"),
        ("image_left/0_left.png", "seg_left/0_left_seg.png"),
        ("rgb/0_domain_rgb.png", "semantic/0_domain_semantic.png"),
        ("images/x.jpg", "v1.2/labels/x.png"),
        ("train/1.png", "train_labels/1_L.png"),
    ],
)
def test_maps_and_label_maps_with_colours(tmp_path: Path, photo: str, other: str) -> None:
    """Panoptic maps, packed depth and colour-coded classes."""
    for name in (photo, other):
        write_photo(tmp_path / name)
    assert list(select_images(tmp_path).files) == [photo]


@pytest.mark.parametrize(
    ("photo", "depth"),
    [
        ("x.jpg", "x_depth.png"),
        ("x.jpg", "x.depth.png"),
        ("x.jpg", "x-depth.tif"),
        ("0.color.jpg", "0.depth.png"),
        ("rgb_07.png", "depth_07.png"),
        ("scene/rgb.png", "scene/depth.png"),
        ("a/x_rgb.png", "a/x_depth.png"),
    ],
)
def test_maps_of_other_names_are_found(tmp_path: Path, photo: str, depth: str) -> None:
    write_photo(tmp_path / photo)
    write_map(tmp_path / depth)
    for folder in (tmp_path, tmp_path / "maps"):
        source = FolderSource(tmp_path, depth=DepthFolder(folder, MILLIMETRES)) if folder == tmp_path else None
        if source is None:
            write_map(folder / depth)
            (tmp_path / depth).unlink()
            source = FolderSource(tmp_path, depth=DepthFolder(folder, MILLIMETRES))
        assert source.names == [photo]
        (sample,) = source.read(source.names, depth=True, boxes=False)
        assert isinstance(sample, Sample)
        assert sample.depth is not None


def test_photos_of_similar_names_are_used(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "b/a.jpg", "lonely_mask.png", "x_2.png", "x.png"]
    names += ["mask/1.jpg", "no_face/1.jpg", "with_mask/1.jpg", "edge.jpg", "cat_depth.jpg"]
    for name in names:
        write_photo(tmp_path / name)
    assert list(select_images(tmp_path).files) == sorted(names)


def test_ade20k_on_disk_without_patterns(shared: Path) -> None:
    names = FolderSource(shared / "data" / "ade20k").names
    assert names == ["ADE_train_00016964.jpg"] + [f"sceneparsing/images/ADE_val_0000000{n}.jpg" for n in (1, 2, 3)]


def test_nothing_but_maps_is_an_error(tmp_path: Path) -> None:
    write_map(tmp_path / "a.png")
    with pytest.raises(ImageError, match="none of its 1 image files is used: 1 are their own depth maps"):
        select_images(tmp_path, DepthFolder(tmp_path, MILLIMETRES))
    with pytest.raises(DataError, match="none of its 1 image files is used"):
        _ = FolderSource(tmp_path, depth=DepthFolder(tmp_path, MILLIMETRES)).names


def test_other_formats_are_counted(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg")
    for name in ("b.heic", "c.HEIC", "sub/d.pgm", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert select_images(tmp_path).skipped == {".heic": 2, ".pgm": 1}


def test_patterns_of_map_names(tmp_path: Path) -> None:
    write_photo(tmp_path / "room" / "rgb_07.jpg")
    write_map(tmp_path / "room" / "sync_depth_07.png")
    patterns = {"*rgb_*.jpg": "*sync_depth_*.png"}
    source = FolderSource(tmp_path, depth=DepthFolder(tmp_path, MILLIMETRES, names=patterns))
    assert source.names == ["room/rgb_07.jpg"]
    (sample,) = source.read(source.names, depth=True, boxes=False)
    assert isinstance(sample, Sample)
    assert sample.depth is not None
    with pytest.raises(DataError, match=r"different numbers of \*"):
        DepthFolder(tmp_path, names={"*.jpg": "map.png"})


def test_file_names_that_are_not_utf_8(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg")
    write_map(tmp_path / "a.png")
    for suffix in (".jpg", ".png"):
        shutil.copy(tmp_path / f"a{suffix}", os.fsencode(tmp_path) + b"/caf\xe9" + suffix.encode())
    source = FolderSource(tmp_path, depth=DepthFolder(tmp_path, MILLIMETRES))
    assert source.names == ["a.jpg", "caf%E9.jpg"]
    assert source.fingerprint
    for sample in source.read(source.names, depth=True, boxes=False):
        assert isinstance(sample, Sample)
        assert sample.depth is not None


@pytest.mark.parametrize(("suffix", "remedy"), [(".h5", "h5py.File"), (".mat", "loadmat"), (".jpg", "JPEG is lossy")])
def test_maps_of_other_formats_are_named(tmp_path: Path, suffix: str, remedy: str) -> None:
    write_photo(tmp_path / "images" / "a.png")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / f"a{suffix}").write_bytes(b"something")
    source = FolderSource(tmp_path / "images", depth=DepthFolder(tmp_path / "maps", MILLIMETRES))
    (reason,) = source.read(source.names, depth=True, boxes=False)
    assert remedy in str(reason)


def test_a_mask_that_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    write_map(tmp_path / "a.png")
    options = ReadOptions("metric", "mm", mask=tmp_path / "masks")
    with pytest.raises(DataError, match=r"masks: no such file or folder of masks; .*depth_options\.mask"):
        DepthFolder(tmp_path, options)
    with pytest.raises(DepthMapError, match="no such file or folder of masks"):
        find_maps([tmp_path], options)


def test_annotations_of_spelled_names_and_of_windows(tmp_path: Path) -> None:
    write_photo(tmp_path / "images" / "sub" / "a.jpg")
    shutil.copy(tmp_path / "images" / "sub" / "a.jpg", os.fsencode(tmp_path) + b"/images/caf\xe9.jpg")
    names = ["caf%E9.jpg", "sub\\a.jpg"]
    images = [{"id": n, "file_name": name, "width": 80, "height": 60} for n, name in enumerate(names)]
    values = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    source = FolderSource(tmp_path / "images", annotations=tmp_path / "boxes.json")
    assert source.names == names
    assert all(isinstance(sample, Sample) for sample in source.read(names, depth=False, boxes=True))


def test_listed_images_by_absolute_path(tmp_path: Path) -> None:
    write_photo(tmp_path / "sub" / "a.jpg")
    write_photo(tmp_path / "b.jpg")
    assert FolderSource(tmp_path, names=[str(tmp_path / "sub" / "a.jpg")]).names == ["sub/a.jpg"]


@pytest.mark.parametrize("size", [(1, 1), (80, 60), (80, 2)])
def test_images_that_show_nothing(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "a.png")
    (reason,) = FolderSource(tmp_path).read(["a.png"], depth=False, boxes=False)
    assert "shows nothing" in str(reason) or "an image has sides of 8 or more" in str(reason)
