"""The sequence of procedural depth maps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from perceptok.errors import ConfigError
from perceptok.scenes import ProceduralDepthMaps


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
        with pytest.raises(IndexError, match="3 maps"):
            maps[index]


def test_the_maps_spread_about_the_statistics_of_real_ones(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Real sensor maps: mean nearness .23 to .6, RMSE of their 10 x 10 averages .03 to .12."""
    means = np.array([nearness.mean() for nearness, _ in maps])
    assert 0.25 < means.mean() < 0.5
    assert means.std() > 0.08
    lost = []
    for nearness, _ in maps:
        small = nearness[:90, :90].reshape(10, 9, 10, 9).mean(axis=(1, 3))
        large = ndimage.zoom(small, 9, order=1, grid_mode=True, mode="nearest")
        lost.append(float(np.sqrt(np.mean((large - nearness[:90, :90]) ** 2))))
    assert 0.04 < np.mean(lost) < 0.09
    assert np.percentile(lost, 10) < 0.03
    assert np.percentile(lost, 90) > 0.08


@pytest.mark.parametrize("arguments", [(-1, 1, 64), (0, -1, 64), (0, 1, 16)])
def test_bad_arguments(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="size"):
        ProceduralDepthMaps(*arguments)
