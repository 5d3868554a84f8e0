"""Depth maps of a folder of images: written once, resumed, and never mixed with another specialist's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import perceptok as pt
from perceptok.data import OnnxDepth, estimate_maps
from perceptok.errors import DataError, ImageError, OutputError, SpecialistError
from perceptok.images import open_image
from perceptok_cli.main import app


class Brightness:
    """Estimates that brighter is nearer, and nothing where grey is 77; counts the images that it sees."""

    def __init__(self, fingerprint: str = "brightness") -> None:
        self.fingerprint = fingerprint
        self.seen = 0

    def estimate(self, images: Sequence[Image.Image]) -> list[pt.DepthMap]:
        self.seen += len(images)
        values = [np.asarray(image.convert("L"), np.float32) for image in images]
        return [pt.DepthMap.from_array(np.where(grey == 77, np.nan, grey), kind="inverse") for grey in values]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    ramp = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
    Image.fromarray(ramp).save(folder / "a.png")
    Image.fromarray(255 - ramp).save(folder / "inner" / "b.png")
    return folder


def test_map_is_the_estimate_stretched_to_nearness(images: Path, tmp_path: Path) -> None:
    assert estimate_maps(Brightness(), images, tmp_path / "maps") == []
    found = pt.DepthMap.read(tmp_path / "maps" / "a.png", kind="inverse")
    assert np.allclose(found.values, np.tile(np.arange(64) / 63, (48, 1)), atol=1 / 65535)
    assert (tmp_path / "maps" / "inner" / "b.png").exists()


def test_only_missing_and_outdated_maps_are_estimated(images: Path, tmp_path: Path) -> None:
    estimate_maps(Brightness(), images, tmp_path / "maps", names=["a.png"])
    specialist = Brightness()
    estimate_maps(specialist, images, tmp_path / "maps", batch_size=2)
    assert specialist.seen == 1
    os.utime(images / "a.png", ns=(2**62, 2**62))
    estimate_maps(specialist, images, tmp_path / "maps")
    assert specialist.seen == 2


def test_failures_name_their_images(images: Path, tmp_path: Path) -> None:
    (images / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    Image.fromarray(np.array([[1, 2], [3, 77]], dtype=np.uint8)).save(images / "hole.png")
    failures = estimate_maps(Brightness(), images, tmp_path / "maps", batch_size=4)
    assert [failure.name for failure in failures] == ["cut.jpg", "hole.png"]
    assert all(failure.reason for failure in failures)
    assert sorted(path.name for path in (tmp_path / "maps").rglob("*.png")) == ["a.png", "b.png"]


def test_maps_of_another_specialist_are_not_mixed(images: Path, tmp_path: Path) -> None:
    estimate_maps(Brightness(), images, tmp_path / "maps")
    with pytest.raises(OutputError, match="maps of another specialist"):
        estimate_maps(Brightness("other"), images, tmp_path / "maps")
    other = Brightness("other")
    estimate_maps(other, images, tmp_path / "maps", force=True)
    assert other.seen == 2
    Image.new("L", (8, 8)).save(tmp_path / "own.png")
    for force in (False, True):
        with pytest.raises(OutputError, match="not known to be estimates"):
            estimate_maps(Brightness(), images, tmp_path, force=force)
        for folder in (images, images / "maps"):
            with pytest.raises(OutputError, match="lies in the folder of images"):
                estimate_maps(Brightness(), images, folder, force=force)
    assert sorted(path.name for path in images.rglob("*")) == ["a.png", "b.png", "inner"]


def test_a_specialist_that_fails_leaves_no_maps_of_another_behind(images: Path, tmp_path: Path) -> None:
    class Failing(Brightness):
        def estimate(self, images: Sequence[Image.Image]) -> list[pt.DepthMap]:
            raise SpecialistError("out of order")

    with pytest.raises(SpecialistError):
        estimate_maps(Failing("failing"), images, tmp_path / "maps")
    estimate_maps(Brightness(), images, tmp_path / "maps")  # a folder without maps is free
    with pytest.raises(SpecialistError):
        estimate_maps(Failing("failing"), images, tmp_path / "maps", force=True)
    assert not list((tmp_path / "maps").rglob("*.png"))


def test_metric_estimates_are_written_in_millimetres(images: Path, tmp_path: Path) -> None:
    class Metric(Brightness):
        def estimate(self, images: Sequence[Image.Image]) -> list[pt.DepthMap]:
            return [pt.DepthMap.from_array(np.full((4, 4), 1.5), kind="metric", unit="m") for _ in images]

    assert estimate_maps(Metric(), images, tmp_path / "maps") == []
    found = pt.DepthMap.read(tmp_path / "maps" / "a.png", kind="metric", unit="mm")
    assert found.values.shape == (48, 64)
    assert np.allclose(found.values, 1.5)


def test_two_images_with_one_map_are_refused(images: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(images / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png would both have the map"):
        estimate_maps(Brightness(), images, tmp_path / "maps")
    with pytest.raises(ImageError, match="not found"):
        estimate_maps(Brightness(), tmp_path / "missing", tmp_path / "maps")


def test_command_on_real_photos(shared: Path, tmp_path: Path) -> None:
    photos = shared / "data" / "ade20k" / "sceneparsing" / "images"
    model = shared / "models" / "tcmonodepth_small_192x320.onnx"
    words = ["data", "estimate", str(photos), "-o", str(tmp_path / "maps"), "--model", str(model), "--kind", "inverse"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (expected,) = OnnxDepth(model, kind="inverse").estimate([open_image(photos / "ADE_val_00000001.jpg")])
    found = pt.DepthMap.read(tmp_path / "maps" / "ADE_val_00000001.png", kind="inverse")
    assert found.values.shape[::-1] == open_image(photos / "ADE_val_00000001.jpg").size
    smaller = Image.fromarray(found.values).resize(expected.values.shape[::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(smaller) - expected.to_nearness().values).mean() < 0.01
    assert CliRunner().invoke(app, words).exit_code == 0
    missing = CliRunner().invoke(app, ["none.onnx" if word == str(model) else word for word in words] + ["--force"])
    assert isinstance(missing.exception, SpecialistError)
