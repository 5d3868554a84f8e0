"""Sources: maps and annotations of images, and errors of single images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.data import DepthFolder, ProceduralSource
from perceptok.data.depth_folders import ImageView
from perceptok.data.npy_files import DepthCodesFile
from perceptok.data.sources import FolderSource, Sample, read_names
from perceptok.depth import ReadOptions, block_to_text
from perceptok.errors import DataError


def draw_image(red: int = 0) -> Image.Image:
    """An image with some texture, 80 x 60 pixels, whose first pixel has that much red."""
    image = Image.new("RGB", (80, 60), (red, 0, 0))
    image.paste((20, 90, 160), (20, 10, 70, 50))
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, two with a map; one map of another shape."""
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    for name, shape in (("a b", (30, 40)), ("ü", None), ("c", (40, 30))):
        draw_image().save(tmp_path / "images" / f"{name}.png")
        if shape:
            grey = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
            Image.fromarray(grey).save(tmp_path / "depth" / f"{name}.png")
    return tmp_path


def test_maps_are_found_by_image_name(folder: Path) -> None:
    source = FolderSource(folder / "images", depth=DepthFolder(folder / "depth", ReadOptions("metric", "mm")))
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


def test_maps_of_depth_anything(folder: Path, tmp_path: Path) -> None:
    """Its `run.py` writes `NAME_depth.png` into one folder, whatever folder an image is in."""
    (tmp_path / "flat").mkdir()
    (tmp_path / "photos" / "street").mkdir(parents=True)
    draw_image().save(tmp_path / "photos" / "street" / "ADE_1.v2.jpg")
    Image.new("L", (40, 30), 9).save(tmp_path / "flat" / "ADE_1.v2_depth.png")
    source = FolderSource(tmp_path / "photos", depth=DepthFolder(tmp_path / "flat", ReadOptions("inverse")))
    (sample,) = source.read(["street/ADE_1.v2.jpg"], depth=True, boxes=False)
    assert isinstance(sample, Sample)
    assert sample.depth is not None
    assert sample.depth.values.shape == (30, 40)


def test_ambiguous_and_unreadable_maps(folder: Path) -> None:
    np.save(folder / "depth" / "a b.npy", np.ones((30, 40), dtype=np.float32))
    (folder / "depth" / "c.png").write_bytes(b"no map")
    source = FolderSource(folder / "images", depth=DepthFolder(folder / "depth", ReadOptions("inverse")))
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
    twice = FolderSource(folder / "images", annotations=path)
    assert twice.names == ["a b.png"]
    assert any("1 images whose file name another image has, such as a b.png; the first" in r for r in twice.remarks)


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


FULL_RELEASE = (
    "index_ade20k.pkl",
    "images/ADE/training/urban/street/ADE_train_00016964.jpg",
    "images/ADE/training/urban/street/ADE_train_00016964_seg.png",
    "images/ADE/training/urban/street/ADE_train_00016964_parts_1.png",
    "images/ADE/training/urban/street/ADE_train_00016964.json",
    "images/ADE/training/urban/street/ADE_train_00016964/instance_001_ADE_train_00016964.png",
    "images/ADE/validation/urban/street/ADE_val_00000002.jpg",
    "images/ADE/validation/urban/street/ADE_val_00000002_seg.png",
)
SCENE_PARSING = (
    "sceneCategories.txt",
    "images/training/ADE_train_00000001.jpg",
    "images/validation/ADE_val_00000001.jpg",
    "annotations/training/ADE_train_00000001.png",
    "annotations/validation/ADE_val_00000001.png",
)


@pytest.mark.parametrize(
    ("files", "photo"), [(FULL_RELEASE, FULL_RELEASE[1]), (SCENE_PARSING, SCENE_PARSING[1])], ids=["full", "parsing"]
)
def test_photographs_of_ade20k(tmp_path: Path, files: tuple[str, ...], photo: str) -> None:
    folder = make_files(tmp_path, *files)
    assert FolderSource(folder, include=["*ADE_train_*.jpg"]).names == [photo]
    assert FolderSource(folder, include=["*.jpg"], exclude=["*ADE_val_*"]).names == [photo]
    source = FolderSource(folder / "images", include=["*ADE_test_*.jpg"])
    with pytest.raises(DataError, match=r"images: none of its \d images, such as .*folder of another split"):
        _ = source.names


def test_photographs_of_ade20k_on_disk(shared: Path) -> None:
    folder = shared / "data" / "ade20k"
    assert FolderSource(folder, include=["*ADE_train_*.jpg"]).names == ["ADE_train_00016964.jpg"]
    photos = [f"sceneparsing/images/ADE_val_0000000{number}.jpg" for number in (1, 2, 3)]
    assert FolderSource(folder, include=["*ADE_val_*.jpg"]).names == photos
    opened = FolderSource(folder, include=["*.jpg"]).read(["ADE_train_00016964.jpg", *photos], depth=False, boxes=False)
    assert all(isinstance(sample, Sample) for sample in opened)


def write_annotations(
    path: Path, *file_names: str, key: str = "file_name", sizes: Sequence[tuple[int, int]] = ()
) -> Path:
    sizes = sizes or [(80, 60)] * len(file_names)
    images = [
        {"id": 70 + n, key: name, "width": width, "height": height}
        for n, (name, (width, height)) in enumerate(zip(file_names, sizes, strict=True))
    ]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "dog"}]}))
    return path


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (["000000000139.jpg", "000000000790.jpg"], "file_name"),
        (["COCO_val2014_000000000139.jpg", "COCO_train2014_000000000790.jpg"], "file_name"),
        ([f"http://images.cocodataset.org/val2017/000000000{n}.jpg" for n in (139, 790)], "coco_url"),
    ],
    ids=["coco", "lvis-0.5", "lvis-1.0"],
)
def test_images_of_coco_and_lvis_are_found_below_the_folder(
    tmp_path: Path, shared: Path, names: list[str], key: str
) -> None:
    make_files(tmp_path / "coco", "annotations/panoptic_val2017/000000000139.png")
    (tmp_path / "coco" / "val2017").symlink_to(shared / "data" / "coco" / "images")
    (tmp_path / "coco" / "train2017").mkdir()
    path = write_annotations(tmp_path / "boxes.json", *names, key=key, sizes=[(640, 426), (640, 422)])
    for folder in (tmp_path / "coco" / "val2017", tmp_path / "coco"):
        source = FolderSource(folder, annotations=path)
        assert len(source.names) == 2
        assert all(isinstance(sample, Sample) for sample in source.read(source.names, depth=False, boxes=True))
    source = FolderSource(tmp_path / "coco" / "annotations", annotations=path)
    with pytest.raises(DataError, match=r"none of 2 images that .*boxes\.json names was found, .*another split"):
        _ = source.names


def test_listed_images(folder: Path) -> None:
    np.save(folder / "names.npy", np.array(["ü.png", "c.png"]))
    (folder / "names.json").write_text('["ü.png", "c.png"]')
    (folder / "names.txt").write_text("ü.png\n\nc.png\n", encoding="utf-8")
    for suffix in ("npy", "json", "txt"):
        source = FolderSource(folder, include=["images/*"], names=read_names(folder / f"names.{suffix}"))
        assert source.names == ["images/c.png", "images/ü.png"]
    np.save(folder / "ids.npy", np.array([71]))
    path = write_annotations(folder / "boxes.json", "a b.png", "c.png")
    assert FolderSource(folder / "images", annotations=path, names=read_names(folder / "ids.npy")).names == ["c.png"]
    source = FolderSource(folder / "images", annotations=path, names=[71, 99])
    with pytest.raises(DataError, match=r"1 of 2 listed images are not in .*boxes\.json, such as 99"):
        _ = source.names
    (folder / "names.json").write_text("[1.5]")
    with pytest.raises(DataError, match=r"names\.json: expected a list of image names or ids"):
        read_names(folder / "names.json")
    for name in ("gone.txt", "gone.npy"):
        with pytest.raises(DataError, match="cannot be read"):
            read_names(folder / name)


def test_stored_codes(folder: Path) -> None:
    codes = np.arange(100).reshape(10, 10)
    np.save(folder / "codes.npy", {"a b_depth.png": block_to_text(codes), "c.png": "<DEPTH_1>"}, allow_pickle=True)
    source = FolderSource(folder / "images", codes=DepthCodesFile(folder / "codes.npy"))
    with_codes, malformed, without = source.read(["a b.png", "c.png", "ü.png"], depth=True, boxes=False)
    assert isinstance(with_codes, Sample)
    np.testing.assert_array_equal(with_codes.codes, codes)
    assert with_codes.depth is None
    assert str(malformed).startswith("depth codes in codes.npy: ")
    assert without == "this image has no depth codes in codes.npy"
    assert FolderSource(folder / "images").fingerprint != source.fingerprint


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


def read_reasons(source: FolderSource, *, depth: bool = False) -> list[str]:
    results = source.read(source.names, depth=depth, boxes=False)
    return [result if isinstance(result, str) else "read" for result in results]


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "/secret.png"])
def test_annotations_cannot_name_files_outside_the_folder(folder: Path, name: str) -> None:
    draw_image().save(folder / "secret.png")
    name = str(folder / "secret.png") if name.startswith("/") else name
    path = write_annotations(folder / "boxes.json", "c.png", name)
    reasons = read_reasons(FolderSource(folder / "images", annotations=path))
    assert sorted(reason == "read" for reason in reasons) == [False, True]
    assert any("is not that of a file inside" in reason and "names are relative" in reason for reason in reasons)
    path = write_annotations(folder / "boxes.json", name)
    with pytest.raises(DataError, match=r"boxes\.json: the name .* is not that of a file inside"):
        _ = FolderSource(folder / "images", annotations=path).names


def test_annotations_with_a_name_that_is_too_long(folder: Path) -> None:
    path = write_annotations(folder / "boxes.json", "c.png", "x" * 5000)
    first, second = read_reasons(FolderSource(folder / "images", annotations=path))
    assert first == "read"
    assert "(5000 characters) cannot be that of a file" in second
    assert len(second) < 300


def test_annotations_with_a_name_of_several_files(folder: Path) -> None:
    for number, part in enumerate("xy"):
        (folder / "images" / part).mkdir()
        draw_image(number).save(folder / "images" / part / "a.png")
    path = write_annotations(folder / "boxes.json", "a.png", "c.png", "split/c.png", "y/a.png")
    source = FolderSource(folder / "images", annotations=path)
    several, *rest = read_reasons(source)
    assert several.startswith("a.png may be x/a.png or y/a.png, 2 files in ")
    assert rest == ["read"] * 3
    (sample,) = FolderSource(folder, annotations=path).read(["y/a.png"], depth=False, boxes=False)
    assert isinstance(sample, Sample)
    assert sample.image.getpixel((0, 0)) == (1, 0, 0)


def test_only_the_prefix_of_coco_2014_is_left_out(folder: Path) -> None:
    path = write_annotations(folder / "boxes.json", "COCO_val2014_c.png", "other_c.png")
    found, other = read_reasons(FolderSource(folder / "images", annotations=path))
    assert found == "read"
    assert other.endswith("other_c.png: image file not found")


def test_annotations_of_another_size(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("turned.png", "stored.png"):
        draw_image().save(folder / "images" / name, exif=exif)
    sizes = [(80, 60), (60, 80), (80, 60), (60, 80)]
    path = write_annotations(folder / "boxes.json", "a b.png", "c.png", "stored.png", "turned.png", sizes=sizes)
    same, other, *turned = read_reasons(FolderSource(folder / "images", annotations=path))
    assert same == "read"
    assert "annotations are of an image of 60x80 pixels, but " in other
    assert "c.png has 80x60; is this another image" in other
    assert turned == ["read"] * 2


def test_annotations_without_images_and_empty_lists(folder: Path) -> None:
    path = write_annotations(folder / "boxes.json")
    with pytest.raises(DataError, match=r"boxes\.json: no images; a file of annotations lists the images"):
        _ = FolderSource(folder / "images", annotations=path).names
    path = write_annotations(folder / "boxes.json", "c.png")
    for file in (path, None):
        with pytest.raises(DataError, match="images: the list of its images is empty"):
            _ = FolderSource(folder / "images", annotations=file, names=[]).names


def test_maps_and_codes_of_two_images_with_one_stem(folder: Path) -> None:
    for name in ("x/a.png", "y/a.png", "y/b.png", "y/b.jpg"):
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        draw_image().save(folder / "photos" / name)
    grey = Image.new("L", (40, 30), 9)
    (folder / "maps" / "y").mkdir(parents=True)
    for name in ("a_depth.png", "y/a.png", "y/b.png"):
        grey.save(folder / "maps" / name)
    depth = DepthFolder(folder / "maps", ReadOptions("inverse"))
    source = FolderSource(folder / "photos", depth=depth)
    assert source.names == ["x/a.png", "y/a.png", "y/b.jpg", "y/b.png"]
    shared_map, own_map, jpg, png = read_reasons(source, depth=True)
    assert shared_map.startswith("the depth map a_depth.png may be of this image or of y/a.png; ")
    assert own_map == "read"
    assert "y/b.png may be of this image or of y/b.png" in jpg
    assert "y/b.png may be of this image or of y/b.jpg" in png
    assert read_reasons(FolderSource(folder / "photos", depth=depth, include=["x/*"]), depth=True) == ["read"]
    with pytest.raises(DataError, match="is not that of a file inside"):
        depth.read("../depth/c.png", ImageView(folder / "photos" / "y" / "a.png", (40, 30)))
    np.save(folder / "codes.npy", {"a.png": block_to_text(np.zeros((10, 10), int))}, allow_pickle=True)
    codes = DepthCodesFile(folder / "codes.npy")
    reason, *_ = read_reasons(FolderSource(folder / "photos", codes=codes), depth=True)
    assert reason.startswith("the depth codes of a in codes.npy may be of this image or of y/a.png; ")
    assert read_reasons(FolderSource(folder / "photos", codes=codes, include=["x/*"]), depth=True) == ["read"]


def test_the_two_folders_of_lvis_1(folder: Path) -> None:
    """Its validation images lie in train2017 and val2017, where other files have the same names."""
    for number, part in enumerate(("train2017", "val2017")):
        for name in ("1.png", "2.png"):
            (folder / "coco" / part).mkdir(parents=True, exist_ok=True)
            draw_image(number).save(folder / "coco" / part / name)
    addresses = ["http://images.cocodataset.org/train2017/1.png", "http://images.cocodataset.org/val2017/2.png"]
    path = write_annotations(folder / "boxes.json", *addresses, key="coco_url")
    source = FolderSource(folder / "coco", annotations=path)
    samples = source.read(source.names, depth=False, boxes=True)
    assert [sample.image.getpixel((0, 0))[0] for sample in samples if isinstance(sample, Sample)] == [0, 1]  # type: ignore[index]
    for name in ("1.png", "2.png"):
        (folder / "coco" / "train2017" / name).unlink()
    source = FolderSource(folder / "coco" / "val2017", annotations=path)
    (folder / "coco" / "val2017" / "1.png").unlink()
    missing, found = source.read(source.names, depth=False, boxes=True)
    assert "its address names the folder train2017" in str(missing)
    assert isinstance(found, Sample)
