"""Sensor effects remove and disturb, never invent; estimates are softer than what they estimate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from perceptok.errors import DepthMapError
from perceptok.scenes import Camera, Scene, SceneObject, box, quad, render
from perceptok.scenes.procedural import EFFECTS, degrade, noise, quantised, shadows, smooth_estimate


@pytest.fixture(scope="module")
def depth() -> np.ndarray:
    """A box before a wall, the upper part sky, with a hole."""
    wall = SceneObject("wall", (quad((4, 0, -2), (0, 9, 0), (0.5, 0, 3)),))
    thing = SceneObject("box", (box((2, 0, 0), (0.6, 0.8, 0.8)),))
    values = render(Scene((wall, thing), Camera.aimed((0.0, 0.0, 0.0), fov=70)), 96, 128).depth
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
    kept = after > 0
    assert after.dtype == np.float32
    if kept.any():
        assert 0.2 * depth[depth > 0].min() < after[kept].min()
        assert after[kept].max() < 2.5 * depth.max()


def test_every_missing_value_is_read_as_zero() -> None:
    values = np.ones((8, 8))
    values[0, :3] = (np.nan, np.inf, 0)
    after = degrade(values, np.random.default_rng(0), perfect=1.0)
    assert (after[0, :3] == 0).all()
    assert (after.ravel()[3:] == 1).all()


def test_noise_grows_with_the_square_of_depth() -> None:
    near = noise(np.full((200, 200), 1, np.float32), np.random.default_rng(3)) - 1
    far = noise(np.full((200, 200), 3, np.float32), np.random.default_rng(3)) - 3
    assert far.std() == pytest.approx(9 * near.std(), rel=1e-3)


def test_quantised_steps_are_of_equal_disparity() -> None:
    ramp = np.tile((1 / np.linspace(0.25, 2, 20_000)).astype(np.float32), (8, 1))
    steps = np.unique(1 / quantised(ramp, np.random.default_rng(1))[0])
    assert 3 < steps.size < 2000
    np.testing.assert_allclose(np.diff(steps), np.diff(steps).mean(), rtol=0.02)


def test_shadows_lie_beside_near_things_on_one_side() -> None:
    plane = np.full((40, 200), 3, np.float32)
    plane[:, 90:110] = 1
    sides = set()
    for seed in range(12):
        lost = shadows(plane, np.random.default_rng(seed)) == 0
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


def test_bad_arguments() -> None:
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
