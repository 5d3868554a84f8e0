"""ONNX specialists run for real: depth by TCMonoDepth, boxes by YOLOX nano."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from perceptok.boxes import compute_iou
from perceptok.data import OnnxDepth, SpecialistConfig, make_depth_specialist
from perceptok.data.specialists.onnx_models import YoloxOnnx
from perceptok.data.specialists.specialist import BoxSpecialist, CachedBoxes, CachedDepth, DepthSpecialist
from perceptok.errors import ConfigError, SpecialistError


@pytest.fixture(scope="module")
def depth(shared: Path) -> OnnxDepth:
    return OnnxDepth(shared / "models" / "tcmonodepth_small_192x320.onnx", kind="inverse")


@pytest.fixture(scope="module")
def boxes(shared: Path) -> YoloxOnnx:
    classes = (shared / "models" / "coco_classes.txt").read_text().split("\n")
    return YoloxOnnx(shared / "models" / "yolox_nano.onnx", classes=[name for name in classes if name.strip()])


@pytest.fixture(scope="module")
def photos(shared: Path) -> list[Image.Image]:
    names = sorted((shared / "data" / "coco" / "images").iterdir())[:6]
    return [Image.open(name).convert("RGB") for name in names]


def test_lower_rows_are_nearer_than_upper_rows(depth: OnnxDepth, photos: list[Image.Image]) -> None:
    assert isinstance(depth, DepthSpecialist)
    maps = depth.estimate(photos)
    nearness = np.stack([depth_map.to_nearness().values for depth_map in maps])
    assert nearness.shape == (6, 192, 320)
    assert nearness[:, -40:].mean() > nearness[:, :40].mean() + 0.1
    assert maps[0].kind == "inverse"


def test_maps_do_not_depend_on_the_batch(depth: OnnxDepth, photos: list[Image.Image]) -> None:
    together = depth.estimate(photos[:3])
    for depth_map, image in zip(together, photos, strict=False):
        np.testing.assert_array_equal(depth_map.values, depth.estimate([image])[0].values)
    assert depth.estimate([]) == []


def test_detector_finds_annotated_persons(boxes: YoloxOnnx, shared: Path) -> None:
    """Of the large annotated persons in twelve photos at least 70 % are found."""
    assert isinstance(boxes, BoxSpecialist)
    annotations = json.loads((shared / "data" / "coco" / "instances.json").read_text())
    person = next(category["id"] for category in annotations["categories"] if category["name"] == "person")
    large: dict[int, list[Any]] = {}
    for box in annotations["annotations"]:
        if box["category_id"] == person and box["area"] > 96**2 and not box["iscrowd"]:
            x, y, w, h = box["bbox"]
            large.setdefault(box["image_id"], []).append([x, y, x + w, y + h])
    chosen = [image for image in annotations["images"] if image["id"] in large][:12]
    opened = [Image.open(shared / "data" / "coco" / "images" / image["file_name"]).convert("RGB") for image in chosen]
    hits = total = 0
    for image, found in zip(chosen, boxes.detect(opened, [image["file_name"] for image in chosen]), strict=True):
        persons = found.boxes[[name == "person" for name in found.labels.names]]
        truth = np.array(large[image["id"]], dtype=np.float64)
        total += len(truth)
        if len(persons):
            hits += int((compute_iou(truth, persons).max(axis=1) > 0.5).sum())
        assert list(found.labels.scores) == sorted(found.labels.scores, reverse=True)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [found.width, found.height] * 2).all()
    assert total >= 12
    assert hits >= 0.7 * total


def test_cache_is_by_image_content(
    depth: OnnxDepth, boxes: YoloxOnnx, photos: list[Image.Image], tmp_path: Path
) -> None:
    cached_depth, cached_boxes = CachedDepth(depth, tmp_path), CachedBoxes(boxes, tmp_path)
    first, found = cached_depth.estimate(photos[:3]), cached_boxes.detect(photos[:3], ["a", "b", "c"])
    files = sorted(tmp_path.rglob("*.*"))
    assert len([path for path in files if path.is_file()]) == 6
    files[-1].write_bytes(b"damaged")
    repeated = cached_depth.estimate([photos[2], photos[0]])
    np.testing.assert_array_equal(repeated[0].values, first[2].values)
    np.testing.assert_array_equal(repeated[1].values, first[0].values)
    renamed = cached_boxes.detect(photos[:3], ["x", "y", "z"])
    for second, original in zip(renamed, found, strict=True):
        np.testing.assert_array_equal(second.boxes, original.boxes)
        assert second.labels.names == original.labels.names
        assert second.labels.scores == original.labels.scores
    assert [image.name for image in renamed] == ["x", "y", "z"]
    assert sorted(tmp_path.rglob("*.*")) == files


def test_cached_result_does_not_load_the_network(depth: OnnxDepth, photos: list[Image.Image], tmp_path: Path) -> None:
    CachedDepth(depth, tmp_path).estimate(photos[:1])
    unpickled = pickle.loads(pickle.dumps(depth))  # noqa: S301 - our own bytes
    CachedDepth(unpickled, tmp_path).estimate(photos[:1])
    assert "session" not in vars(unpickled)


def test_fingerprints_depend_on_settings(depth: OnnxDepth, boxes: YoloxOnnx) -> None:
    assert pickle.loads(pickle.dumps(depth)).fingerprint == depth.fingerprint  # noqa: S301
    other = OnnxDepth(depth.path, kind="inverse", std=(255, 255, 255))
    assert len({depth.fingerprint, other.fingerprint, boxes.fingerprint}) == 3


def test_invalid_specialists(shared: Path, tmp_path: Path, photos: list[Image.Image]) -> None:
    path = shared / "models" / "tcmonodepth_small_192x320.onnx"
    with pytest.raises(SpecialistError, match="kind is inverse or metric"):
        OnnxDepth(path, kind="near")  # type: ignore[arg-type]
    with pytest.raises(SpecialistError, match="a metric network has a unit"):
        OnnxDepth(path, kind="metric")
    with pytest.raises(SpecialistError, match="images of mode RGB; image 0 is L"):
        OnnxDepth(path, kind="inverse").estimate([photos[0].convert("L")])
    with pytest.raises(SpecialistError, match="file not found"):
        OnnxDepth(tmp_path / "gone.onnx", kind="inverse").estimate(photos[:1])
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(SpecialistError, match="not an ONNX file"):
        OnnxDepth(tmp_path / "text.onnx", kind="inverse").estimate(photos[:1])
    with pytest.raises(
        SpecialistError, match=r"expected \(1, 3549, 6\) .* got \(1, 3549, 85\) .*are `classes` its own"
    ):
        YoloxOnnx(shared / "models" / "yolox_nano.onnx", classes=["a"]).detect(photos[:1], ["x"])
    with pytest.raises(SpecialistError, match="score_threshold and iou_threshold"):
        YoloxOnnx(path, classes=["a"], score_threshold=0)


def test_output_of_a_detector_is_not_a_depth_map(shared: Path, photos: list[Image.Image], depth: OnnxDepth) -> None:
    detector = OnnxDepth(shared / "models" / "yolox_nano.onnx", kind="inverse")
    with pytest.raises(SpecialistError, match=r"the input, 416x416 .*, got \(1, 3549, 85\); is this a network"):
        detector.estimate(photos[:1])
    assert len(depth.estimate(photos[:1])) == 1
    for shape in ((1, 96, 161), (1, 1, 192, 320)):
        depth.check_output(np.ones(shape, np.float32), 1)
    for shape in ((1, 96, 170), (1, 21, 192, 320), (2, 192, 320), (1, 1000)):
        with pytest.raises(SpecialistError, match="is this a network that estimates depth"):
            depth.check_output(np.ones(shape, np.float32), 1)
    with pytest.raises(SpecialistError, match="no finite number"):
        depth.check_output(np.full((1, 192, 320), np.nan, np.float32), 1)


@pytest.mark.parametrize("form", ["yolox_onnx", "transformers_boxes"])
def test_detectors_do_not_estimate_depth(form: Literal["yolox_onnx", "transformers_boxes"]) -> None:
    for kind in (None, "inverse"):
        config = SpecialistConfig(form, "m", kind=kind, classes="classes.txt")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"specialist m: the form {form} detects boxes; depth needs onnx_depth"):
            make_depth_specialist(config)


def test_networks_of_the_other_task_are_refused_when_they_are_opened(shared: Path, photos: list[Image.Image]) -> None:
    depth_file, boxes_file = (shared / "models" / f"{n}.onnx" for n in ("tcmonodepth_small_192x320", "yolox_nano"))
    with pytest.raises(SpecialistError, match=r"is this a YOLOX network"):
        YoloxOnnx(depth_file, classes=["cat"]).detect(photos[:1], ["a"])
    with pytest.raises(SpecialistError, match="is this a network that estimates depth"):
        OnnxDepth(boxes_file, kind="inverse").estimate(photos[:1])
    with pytest.raises(SpecialistError, match="are `classes` its own"):
        YoloxOnnx(boxes_file, classes=["cat"]).detect(photos[:1], ["a"])
