"""ONNX specialists run for real: depth by TCMonoDepth, boxes by YOLOX nano."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perceptok.boxes import compute_iou
from perceptok.data import OnnxDepth
from perceptok.data.specialists.onnx_models import YoloxOnnx
from perceptok.data.specialists.specialist import BoxSpecialist, CachedBoxes, CachedDepth, DepthSpecialist
from perceptok.errors import SpecialistError


@pytest.fixture(scope="module")
def depth(shared: Path) -> OnnxDepth:
    return OnnxDepth(shared / "models" / "tcmonodepth_small_192x320.onnx", kind="inverse")


@pytest.fixture(scope="module")
def boxes(shared: Path) -> YoloxOnnx:
    classes = (shared / "models" / "coco_classes.txt").read_text().split("\n")
    return YoloxOnnx(shared / "models" / "yolox_nano.onnx", classes=[one for one in classes if one.strip()])


@pytest.fixture(scope="module")
def photos(shared: Path) -> list[Image.Image]:
    names = sorted((shared / "data" / "coco" / "images").iterdir())[:6]
    return [Image.open(name).convert("RGB") for name in names]


def test_depth_sees_that_the_floor_is_nearer_than_the_ceiling(depth: OnnxDepth, photos: list[Image.Image]) -> None:
    assert isinstance(depth, DepthSpecialist)
    maps = depth.estimate(photos)
    nearness = np.stack([one.to_nearness().values for one in maps])
    assert nearness.shape == (6, 192, 320)
    assert nearness[:, -40:].mean() > nearness[:, :40].mean() + 0.1
    assert maps[0].kind == "inverse"


def test_maps_do_not_depend_on_the_batch(depth: OnnxDepth, photos: list[Image.Image]) -> None:
    together = depth.estimate(photos[:3])
    for one, picture in zip(together, photos, strict=False):
        np.testing.assert_array_equal(one.values, depth.estimate([picture])[0].values)
    assert depth.estimate([]) == []


def test_the_detector_finds_what_is_annotated(boxes: YoloxOnnx, shared: Path) -> None:
    """Of large annotated persons in twelve photos most are found, and most of what is found as one is annotated."""
    assert isinstance(boxes, BoxSpecialist)
    told = json.loads((shared / "data" / "coco" / "instances.json").read_text())
    person = next(one["id"] for one in told["categories"] if one["name"] == "person")
    large: dict[int, list[Any]] = {}
    for one in told["annotations"]:
        if one["category_id"] == person and one["area"] > 96**2 and not one["iscrowd"]:
            x, y, w, h = one["bbox"]
            large.setdefault(one["image_id"], []).append([x, y, x + w, y + h])
    chosen = [one for one in told["images"] if one["id"] in large][:12]
    pictures = [Image.open(shared / "data" / "coco" / "images" / one["file_name"]).convert("RGB") for one in chosen]
    hits = total = 0
    for image, found in zip(chosen, boxes.detect(pictures, [one["file_name"] for one in chosen]), strict=True):
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


def test_answers_are_kept_by_content(
    depth: OnnxDepth, boxes: YoloxOnnx, photos: list[Image.Image], tmp_path: Path
) -> None:
    cached, seen = CachedDepth(depth, tmp_path), CachedBoxes(boxes, tmp_path)
    first, found = cached.estimate(photos[:3]), seen.detect(photos[:3], ["a", "b", "c"])
    kept = sorted(tmp_path.rglob("*.*"))
    assert len([one for one in kept if one.is_file()]) == 6
    kept[-1].write_bytes(b"damaged")
    again = cached.estimate([photos[2], photos[0]])
    np.testing.assert_array_equal(again[0].values, first[2].values)
    np.testing.assert_array_equal(again[1].values, first[0].values)
    renamed = seen.detect(photos[:3], ["x", "y", "z"])
    for one, other in zip(renamed, found, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        assert one.labels.names == other.labels.names
        assert one.labels.scores == other.labels.scores
    assert [one.name for one in renamed] == ["x", "y", "z"]
    assert sorted(tmp_path.rglob("*.*")) == kept


def test_a_kept_answer_needs_no_network(depth: OnnxDepth, photos: list[Image.Image], tmp_path: Path) -> None:
    CachedDepth(depth, tmp_path).estimate(photos[:1])
    asleep = pickle.loads(pickle.dumps(depth))  # noqa: S301 - our own bytes
    CachedDepth(asleep, tmp_path).estimate(photos[:1])
    assert "session" not in vars(asleep)


def test_fingerprints_tell_settings_apart(depth: OnnxDepth, boxes: YoloxOnnx) -> None:
    assert pickle.loads(pickle.dumps(depth)).fingerprint == depth.fingerprint  # noqa: S301
    other = OnnxDepth(depth.path, kind="inverse", std=(255, 255, 255))
    assert len({depth.fingerprint, other.fingerprint, boxes.fingerprint}) == 3


def test_what_is_refused(shared: Path, tmp_path: Path, photos: list[Image.Image]) -> None:
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
    with pytest.raises(SpecialistError, match="are `classes` those of this network"):
        YoloxOnnx(shared / "models" / "yolox_nano.onnx", classes=["a"]).detect(photos[:1], ["x"])
    with pytest.raises(SpecialistError, match="score_threshold and iou_threshold"):
        YoloxOnnx(path, classes=["a"], score_threshold=0)
