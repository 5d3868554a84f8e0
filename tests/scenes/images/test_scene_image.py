"""Images and their ground truth: exact, reproducible, countable, and of two splits that share no texture or lens."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from perceptok.errors import ConfigError
from perceptok.scenes import PLURALS, Difficulty, ProceduralImages, SceneImage, render, render_image
from perceptok.scenes.images.splits import SPLITS
from perceptok.scenes.layouts.gatherings import GATHERINGS
from tests.scenes.images.print_hashes import hash_image


@pytest.fixture(scope="module")
def images() -> list[SceneImage]:
    return [*ProceduralImages(1, 14, 112), *ProceduralImages(1, 10, 112, split="heldout")]


def test_another_process_and_order_give_the_same_images() -> None:
    output = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("print_hashes.py"))], capture_output=True, text=True, check=True
    ).stdout
    heldout = hash_image(render_image(11, 2, 80, split="heldout"))
    expected = [hash_image(render_image(11, index, 80)) for index in (2, 7)]
    assert output.split() == [*expected[::-1], heldout]
    assert len({*expected, heldout}) == 3


def test_shapes_and_types(images: list[SceneImage]) -> None:
    for image in images:
        assert image.image.shape == (112, 112, 3)
        assert image.image.dtype == np.uint8
        assert image.depth.shape == image.instance.shape == (112, 112)
        assert image.depth.dtype == np.float32
        assert (image.depth > 0).all()
        np.testing.assert_array_equal(image.instance >= 0, np.isfinite(image.depth))
        nearness, valid = image.nearness()
        assert (nearness.min(), nearness.max()) == (0, 1)
        assert valid.all()


def test_depth_is_that_of_the_scene_without_culling(images: list[SceneImage]) -> None:
    for image in images[::5]:
        np.testing.assert_array_equal(image.depth, render(image.scene, 112, 112, cull=False).depth)


def test_boxes_masks_and_counts_are_those_of_the_instances(images: list[SceneImage]) -> None:
    for image in images:
        assert {item.instance for item in image.visible} == set(np.unique(image.instance[image.instance >= 0]))
        for item in image.visible:
            rows, columns = np.nonzero(image.masks[item.instance])
            assert item.xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert item.pixels == rows.size
            assert 0 < item.share <= 1
        numbers = Counter(item.category for item in image.visible)
        assert set(image.counts) == set(image.countable)
        for name, number in image.counts.items():
            assert number == numbers[name] == len(image.boxes(name))
            assert all(item.clear for item in image.visible if item.category == name)
        assert not set(image.absent) & set(numbers)
        assert set(image.countable) | set(image.absent) <= PLURALS.keys()


@pytest.mark.parametrize("kind", GATHERINGS)
def test_gatherings_have_a_number_of_targets_in_the_range(kind: str) -> None:
    found = []
    for index in range(6):
        image = render_image(3, index, 112, kind=kind, difficulty=Difficulty(count=(2, 15)))
        assert image.kind == kind
        assert image.target is not None
        found.append(image.counts.get(image.target))
    counts = [number for number in found if number is not None]
    assert len(counts) >= 5
    assert all(2 <= number <= 15 for number in counts)
    assert len(set(counts)) >= 3


def test_difficulty_sets_count_others_and_occlusion() -> None:
    kind = "gathering on a table"
    for index in range(4):
        image = render_image(5, index, 112, kind=kind, difficulty=Difficulty(count=(4, 4), others=0))
        assert image.counts.get(str(image.target), 4) == 4
        assert {item.category for item in image.visible} & set(GATHERINGS[kind]) == {image.target}
    hidden, apart = (
        np.mean(
            [item.share for index in range(5) for item in render_image(6, index, 112, kind=kind, difficulty=d).visible]
        )
        for d in (Difficulty(occlusion=1.0), Difficulty(occlusion=0.0))
    )
    assert hidden < apart


def test_distances_differ_by_the_depth_gap() -> None:
    kind = "gathering on a floor"
    difficulty = Difficulty(count=(3, 4), others=0, depth_gap=0.1)
    for index in range(3):
        image = render_image(8, index, 112, kind=kind, difficulty=difficulty)
        eye = image.scene.camera.position[:2]
        objects = [item for item in image.scene.objects if item.category == image.target]
        spots = [np.mean([part.center[:2] for part in item.primitives], axis=0) for item in objects]
        away = np.sort([np.linalg.norm(spot - eye) for spot in spots])
        # Of the objects' middles, which lie a little off the points on which they stand.
        assert (away[1:] / away[:-1] > 1.02).all()


def test_the_splits_share_no_texture_lens_proportion_or_arrangement() -> None:
    train, heldout = SPLITS["train"], SPLITS["heldout"]
    assert train.patterns.keys() == heldout.patterns.keys()
    assert not set().union(*train.patterns.values()) & set().union(*heldout.patterns.values())
    assert not set(train.arrangements) & set(heldout.arrangements)
    for name in ("fov", "stretch", "hue"):
        (_, high), (low, _) = getattr(train, name), getattr(heldout, name)
        assert high <= low
    assert {"hall", "field"} <= heldout.layouts.keys() - train.layouts.keys()
    for split in SPLITS.values():
        assert sum(split.layouts.values()) == pytest.approx(1)
        for image in ProceduralImages(2, 6, 64, split=split.name):
            assert split.fov[0] <= image.scene.camera.fov <= split.fov[1]
            assert image.kind in split.layouts


def test_images_are_textured_and_lit(images: list[SceneImage]) -> None:
    """Colors vary within single objects, by more than a flat tone for each face would."""
    spreads = []
    for image in images:
        bright = image.image.mean(axis=2)
        assert 15 < bright.mean() < 240
        largest = max(image.visible, key=lambda item: item.pixels)
        spreads.append(bright[image.masks[largest.instance]].std())
    assert np.median(spreads) > 6


def test_it_is_a_sequence() -> None:
    few = ProceduralImages(0, 3, 64)
    assert len(few) == 3
    assert hash_image(few[-1]) == hash_image(few[2]) == hash_image(few[1:][1])
    for index in (3, -4):
        with pytest.raises(IndexError, match="3 items"):
            few[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"index": -1}, "index"),
        ({"size": 63}, "size"),
        ({"split": "test"}, "heldout"),
        ({"kind": "moon"}, "moon"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render_image(**({"seed": 0, "index": 0} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [{"count": (1, 5)}, {"count": (5, 4)}, {"count": (2, 16)}, {"occlusion": 1.1}, {"depth_gap": -0.1}, {"others": 13}],
)
def test_bad_difficulty(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Difficulty(**settings)  # type: ignore[arg-type]


def test_a_sequence_out_of_range() -> None:
    with pytest.raises(ConfigError, match="size"):
        ProceduralImages(0, 1, 10)
    with pytest.raises(ConfigError, match="split"):
        ProceduralImages(0, 1, split="x")
