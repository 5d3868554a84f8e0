"""Pictures and their truth: exact, the same everywhere, countable, and of two worlds that share nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from perceptok.errors import ConfigError
from perceptok.scenes import PLURALS, Difficulty, SceneImage, render, render_image
from perceptok.scenes.images.rendering import ProceduralImages, hash_image
from perceptok.scenes.images.splits import SPLITS
from perceptok.scenes.layouts.gatherings import GATHERINGS

DIGEST = """
from perceptok.scenes.images.rendering import hash_image, render_image
for index in (7, 2):
    print(hash_image(render_image(11, index, 80)))
print(hash_image(render_image(11, 2, 80, split="heldout")))
"""


@pytest.fixture(scope="module")
def pictures() -> list[SceneImage]:
    return [*ProceduralImages(1, 14, 112), *ProceduralImages(1, 10, 112, split="heldout")]


def test_the_same_in_another_process_and_order() -> None:
    output = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout
    heldout = hash_image(render_image(11, 2, 80, split="heldout"))
    expected = [hash_image(render_image(11, index, 80)) for index in (2, 7)]
    assert output.split() == [*expected[::-1], heldout]
    assert len({*expected, heldout}) == 3


def test_shapes_and_types(pictures: list[SceneImage]) -> None:
    for picture in pictures:
        assert picture.image.shape == (112, 112, 3)
        assert picture.image.dtype == np.uint8
        assert picture.depth.shape == picture.instance.shape == (112, 112)
        assert picture.depth.dtype == np.float32
        assert (picture.depth > 0).all()
        np.testing.assert_array_equal(picture.instance >= 0, np.isfinite(picture.depth))
        nearness, valid = picture.nearness()
        assert (nearness.min(), nearness.max()) == (0, 1)
        assert valid.all()


def test_depth_is_that_of_the_scene_without_culling(pictures: list[SceneImage]) -> None:
    for picture in pictures[::5]:
        np.testing.assert_array_equal(picture.depth, render(picture.scene, 112, 112, cull=False).depth)


def test_boxes_masks_and_counts_are_those_of_the_instances(pictures: list[SceneImage]) -> None:
    for picture in pictures:
        assert {one.instance for one in picture.sights} == set(np.unique(picture.instance[picture.instance >= 0]))
        for one in picture.sights:
            rows, columns = np.nonzero(picture.masks[one.instance])
            assert one.xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert one.pixels == rows.size
            assert 0 < one.share <= 1
        numbers = Counter(one.category for one in picture.sights)
        assert set(picture.counts) == set(picture.countable)
        for name, number in picture.counts.items():
            assert number == numbers[name] == len(picture.boxes(name))
            assert all(one.clear for one in picture.sights if one.category == name)
        assert not set(picture.absent) & set(numbers)
        assert set(picture.countable) | set(picture.absent) <= PLURALS.keys()


@pytest.mark.parametrize("kind", GATHERINGS)
def test_gatherings_have_as_many_as_asked_for(kind: str) -> None:
    found = []
    for index in range(6):
        picture = render_image(3, index, 112, kind=kind, difficulty=Difficulty(count=(2, 15)))
        assert picture.kind == kind
        assert picture.target is not None
        found.append(picture.counts.get(picture.target))
    sure = [number for number in found if number is not None]
    assert len(sure) >= 5
    assert all(2 <= number <= 15 for number in sure)
    assert len(set(sure)) >= 3


def test_difficulty_is_obeyed() -> None:
    kind = "gathering on a table"
    for index in range(4):
        picture = render_image(5, index, 112, kind=kind, difficulty=Difficulty(count=(4, 4), others=0))
        assert picture.counts.get(str(picture.target), 4) == 4
        assert {one.category for one in picture.sights} & set(GATHERINGS[kind]) == {picture.target}
    hidden, apart = (
        np.mean(
            [one.share for index in range(5) for one in render_image(6, index, 112, kind=kind, difficulty=d).sights]
        )
        for d in (Difficulty(occlusion=1.0), Difficulty(occlusion=0.0))
    )
    assert hidden < apart


def test_the_depth_gap_is_kept() -> None:
    kind = "gathering on a floor"
    difficulty = Difficulty(count=(3, 4), others=0, depth_gap=0.1)
    for index in range(3):
        picture = render_image(8, index, 112, kind=kind, difficulty=difficulty)
        eye = picture.scene.camera.position[:2]
        things = [thing for thing in picture.scene.objects if thing.category == picture.target]
        spots = [np.mean([part.center[:2] for part in thing.primitives], axis=0) for thing in things]
        away = np.sort([np.linalg.norm(spot - eye) for spot in spots])
        # Of their middles, which lie a little off the points on which things stand.
        assert (away[1:] / away[:-1] > 1.02).all()


def test_the_splits_share_no_texture_lens_proportion_or_arrangement() -> None:
    train, heldout = SPLITS["train"], SPLITS["heldout"]
    assert train.patterns.keys() == heldout.patterns.keys()
    assert not set().union(*train.patterns.values()) & set().union(*heldout.patterns.values())
    assert not set(train.arrangements) & set(heldout.arrangements)
    for name in ("fov", "stretch", "hue"):
        (_, high), (low, _) = getattr(train, name), getattr(heldout, name)
        assert high <= low
    assert {"hall", "field"} <= heldout.families.keys() - train.families.keys()
    for split in SPLITS.values():
        assert sum(split.families.values()) == pytest.approx(1)
        for picture in ProceduralImages(2, 6, 64, split=split.name):
            assert split.fov[0] <= picture.scene.camera.fov <= split.fov[1]
            assert picture.kind in split.families


def test_pictures_are_textured_and_lit(pictures: list[SceneImage]) -> None:
    """Within single objects colours vary, and more than one flat tone a face would."""
    spreads = []
    for picture in pictures:
        bright = picture.image.mean(axis=2)
        assert 15 < bright.mean() < 240
        largest = max(picture.sights, key=lambda one: one.pixels)
        spreads.append(bright[picture.masks[largest.instance]].std())
    assert np.median(spreads) > 6


def test_it_is_a_sequence() -> None:
    few = ProceduralImages(0, 3, 64)
    assert len(few) == 3
    assert hash_image(few[-1]) == hash_image(few[2]) == hash_image(few[1:][1])
    for index in (3, -4):
        with pytest.raises(IndexError, match="3 pictures"):
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
