"""Procedural depth maps: the sequence, sensor effects that remove and disturb only, and soft estimates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from perceptok.errors import ConfigError, DepthMapError
from perceptok.scenes import (
    Camera,
    ProceduralClips,
    ProceduralDepthMaps,
    Scene,
    SceneObject,
    box,
    quad,
    render,
    sample_scene,
)
from perceptok.scenes.procedural import (
    EFFECTS,
    add_noise,
    degrade,
    drop_shadowed,
    quantize_disparity,
    smooth_estimate,
)


@pytest.fixture(scope="module")
def maps() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(ProceduralDepthMaps(seed=1, length=48, size=96))


def test_ranges_types_and_shapes(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for nearness, valid in maps:
        assert nearness.shape == valid.shape == (96, 96)
        assert nearness.dtype == np.float32
        assert valid.dtype == np.bool_
        assert np.isfinite(nearness).all()
        assert nearness.min() == 0
        assert nearness.max() == 1
        assert valid.mean() > 0.1


def test_holes_take_the_value_of_the_nearest_valid_pixel(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    checked = 0
    for nearness, valid in maps:
        holes = np.argwhere(~valid)[::97]
        known = np.argwhere(valid)
        for hole in holes:
            distance = ((known - hole) ** 2).sum(axis=1)
            nearest = known[distance == distance.min()]
            assert nearness[tuple(hole)] in nearness[nearest[:, 0], nearest[:, 1]]
            checked += 1
    assert checked > 100


def test_items_do_not_depend_on_order_or_instance() -> None:
    forward = ProceduralDepthMaps(seed=2, length=5, size=64)
    other = ProceduralDepthMaps(seed=2, length=50, size=64)
    for index in (4, 0, 3):
        for first, second in zip(forward[index], other[index], strict=True):
            np.testing.assert_array_equal(first, second)
    assert not np.array_equal(forward[0][0], ProceduralDepthMaps(3, 1, 64)[0][0])


def test_it_is_a_sequence() -> None:
    maps = ProceduralDepthMaps(seed=0, length=3, size=32)
    assert len(maps) == 3
    assert len(list(maps)) == 3
    np.testing.assert_array_equal(maps[-1][0], maps[2][0])
    np.testing.assert_array_equal(maps[1:][0][0], maps[1][0])
    for index in (3, -4):
        with pytest.raises(IndexError, match="3 items"):
            maps[index]


def test_the_maps_spread_about_the_statistics_of_real_ones(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Real sensor maps: mean nearness .23 to .6, RMSE of their 10 x 10 averages .03 to .12."""
    means = np.array([nearness.mean() for nearness, _ in maps])
    assert 0.25 < means.mean() < 0.5
    assert means.std() > 0.08
    errors = []
    for nearness, _ in maps:
        small = nearness[:90, :90].reshape(10, 9, 10, 9).mean(axis=(1, 3))
        large = ndimage.zoom(small, 9, order=1, grid_mode=True, mode="nearest")
        errors.append(float(np.sqrt(np.mean((large - nearness[:90, :90]) ** 2))))
    assert 0.04 < np.mean(errors) < 0.09
    assert np.percentile(errors, 10) < 0.03
    assert np.percentile(errors, 90) > 0.08


@pytest.mark.parametrize("arguments", [(-1, 1, 64), (0, -1, 64), (0, 1, 16)])
def test_bad_arguments_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="size"):
        ProceduralDepthMaps(*arguments)


@pytest.fixture(scope="module")
def depth() -> np.ndarray:
    """A box before a wall, the upper part sky, with a hole."""
    wall = SceneObject("wall", (quad((4, 0, -2), (0, 9, 0), (0.5, 0, 3)),))
    item = SceneObject("box", (box((2, 0, 0), (0.6, 0.8, 0.8)),))
    values = render(Scene((wall, item), Camera.aimed((0.0, 0.0, 0.0), fov=70)), 96, 128).depth
    values = np.where(np.isfinite(values), values, np.float32(0))
    values[60:70, 10:30] = 0
    assert 0.6 < np.mean(values > 0) < 0.98
    return values


@pytest.mark.parametrize("effect", [effect for effect, _ in EFFECTS], ids=lambda effect: effect.__name__)
def test_effects_never_invent_values(effect: object, depth: np.ndarray) -> None:
    assert callable(effect)
    before = depth.copy()
    for seed in range(4):
        after = effect(depth, np.random.default_rng(seed))
        np.testing.assert_array_equal(depth, before)
        assert after.shape == depth.shape
        assert after.dtype == np.float32
        assert np.isfinite(after).all()
        assert (after >= 0).all()
        np.testing.assert_array_equal(after, effect(depth, np.random.default_rng(seed)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_degrade_only_invalidates(depth: np.ndarray, seed: int) -> None:
    after = degrade(depth, np.random.default_rng(seed))
    assert (after[depth == 0] == 0).all()
    valid = after > 0
    assert after.dtype == np.float32
    if valid.any():
        assert 0.2 * depth[depth > 0].min() < after[valid].min()
        assert after[valid].max() < 2.5 * depth.max()


def test_every_missing_value_is_read_as_zero() -> None:
    values = np.ones((8, 8))
    values[0, :3] = (np.nan, np.inf, 0)
    after = degrade(values, np.random.default_rng(0), perfect=1.0)
    assert (after[0, :3] == 0).all()
    assert (after.ravel()[3:] == 1).all()


def test_noise_grows_with_the_square_of_depth() -> None:
    near = add_noise(np.full((200, 200), 1, np.float32), np.random.default_rng(3)) - 1
    far = add_noise(np.full((200, 200), 3, np.float32), np.random.default_rng(3)) - 3
    assert far.std() == pytest.approx(9 * near.std(), rel=1e-3)


def test_quantized_steps_are_of_equal_disparity() -> None:
    ramp = np.tile((1 / np.linspace(0.25, 2, 20_000)).astype(np.float32), (8, 1))
    steps = np.unique(1 / quantize_disparity(ramp, np.random.default_rng(1))[0])
    assert 3 < steps.size < 2000
    np.testing.assert_allclose(np.diff(steps), np.diff(steps).mean(), rtol=0.02)


def test_shadows_lie_beside_near_objects_on_one_side() -> None:
    plane = np.full((40, 200), 3, np.float32)
    plane[:, 90:110] = 1
    sides = set()
    for seed in range(12):
        lost = drop_shadowed(plane, np.random.default_rng(seed)) == 0
        assert not lost[:, 90:110].any()
        left, right = bool(lost[:, :90].any()), bool(lost[:, 110:].any())
        assert not (left and right)
        columns = np.nonzero(lost[0])[0]
        if columns.size:
            assert np.ptp(columns) == columns.size - 1
            assert columns[0] == 110 or columns[-1] == 89
            sides.add("left" if left else "right")
    assert sides == {"left", "right"}


def test_an_estimate_is_soft_and_keeps_the_range() -> None:
    nearness = np.zeros((320, 320), np.float32)
    nearness[100:200, 100:200] = 1
    steepest = []
    for seed in range(6):
        soft = smooth_estimate(nearness, np.random.default_rng(seed))
        assert soft.shape == nearness.shape
        assert soft.min() == 0
        assert soft.max() == 1
        steepest.append(np.abs(np.diff(soft, axis=1)).max())
        assert np.corrcoef(soft.ravel(), nearness.ravel())[0, 1] > 0.6
    assert max(steepest) < 0.9
    assert np.median(steepest) < 0.4


def test_bad_maps_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DepthMapError, match="8 x 8"):
        degrade(np.ones((3, 40)), rng)
    with pytest.raises(DepthMapError, match="8 x 8"):
        degrade(np.ones((2, 40, 40)), rng)
    with pytest.raises(DepthMapError, match="negative"):
        degrade(np.full((9, 9), -1.0), rng)
    for bad in (np.ones(9), np.full((9, 9), 2.0), np.full((9, 9), np.nan)):
        with pytest.raises(DepthMapError, match="nearness"):
            smooth_estimate(bad, rng)


class TestClips:
    def test_the_camera_moves_through_one_scene(self) -> None:
        clip = ProceduralClips(seed=3, length=2, size=48, frames=3)[1]
        assert clip.shape == (3, 48, 48)
        assert clip.dtype == np.float32
        scene = sample_scene(3, 1)
        first = render(scene, 48, 48).depth
        np.testing.assert_array_equal(clip[0], np.where(np.isfinite(first), first, 0))
        known = (clip > 0).all(0)
        change = np.abs(clip[1] - clip[0])[known]
        assert 0 < np.median(change) < 0.05

    def test_a_longer_clip_begins_with_the_shorter_one(self) -> None:
        short, long = (ProceduralClips(3, 1, 48, frames)[0] for frames in (2, 4))
        np.testing.assert_array_equal(long[:2], short)

    @pytest.mark.parametrize("frames", [0, -1])
    def test_a_clip_without_frames_is_refused(self, frames: int) -> None:
        with pytest.raises(ConfigError, match="at least one frame"):
            ProceduralClips(0, 1, 48, frames)
