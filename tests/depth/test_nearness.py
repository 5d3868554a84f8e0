"""Nearness keeps the order of nearness and leads back to the units it came from, in every range."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from perceptok.depth import DepthMap, Kind, Nearness, NearnessRange
from perceptok.depth.maps import _has_full_ends
from perceptok.errors import ConfigError, DepthMapError

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)
EXTREMES = {"metric": (2.0**-60, 2.0**60), "inverse": (-(2.0**100), 2.0**100)}


def maps_of(kind: Kind, *, any_magnitude: bool = False) -> st.SearchStrategy[DepthMap]:
    smallest, largest = EXTREMES[kind] if any_magnitude else ((0.0625, 1024) if kind == "metric" else (-1024, 1024))
    values = hnp.arrays(np.float32, SHAPES, elements=st.floats(smallest, largest, width=32))
    return values.flatmap(
        lambda array: (
            hnp.arrays(np.bool_, array.shape)
            .filter(lambda valid: valid.any())
            .map(lambda valid: DepthMap(np.where(valid, array, np.float32(0)), valid, kind))
        )
    )


MAPS = st.one_of(maps_of("metric"), maps_of("inverse"))
ANY_MAPS = st.one_of(maps_of("metric", any_magnitude=True), maps_of("inverse", any_magnitude=True))


def slow_nearness(depth: DepthMap) -> dict[tuple[int, int], float]:
    """Nearness of the valid pixels, one at a time."""
    inverse = {
        (row, column): 1 / float(value) if depth.kind == "metric" else float(value)
        for (row, column), value in np.ndenumerate(depth.values)
        if depth.valid[row, column]
    }
    low, high = min(inverse.values()), max(inverse.values())
    return {at: (value - low) / (high - low) if high > low else 0.5 for at, value in inverse.items()}


@given(ANY_MAPS)
def test_agrees_with_the_slow_definition(depth: DepthMap) -> None:
    nearness = depth.to_nearness()
    for at, expected in slow_nearness(depth).items():
        assert nearness.values[at] == pytest.approx(expected, rel=1e-6, abs=1e-37)


@given(MAPS)
def test_order_is_reversed_for_metric_and_kept_for_inverse(depth: DepthMap) -> None:
    seen = depth.values[depth.valid].astype(np.float64)
    if depth.kind == "metric":
        seen = -seen
    nearness = depth.to_nearness().values[depth.valid]
    order = np.argsort(seen, kind="stable")
    assert np.all(np.diff(nearness[order]) >= 0)
    if seen.min() < seen.max():
        assert (nearness[seen == seen.max()] == 1).all()
        assert (nearness[seen == seen.min()] == 0).all()


@given(ANY_MAPS)
def test_round_trip_within_the_documented_error(depth: DepthMap) -> None:
    nearness = depth.to_nearness()
    back = DepthMap.from_nearness(nearness)
    assert back.kind == depth.kind
    assert np.array_equal(back.valid, depth.valid)
    came, went = back.values[depth.valid].astype(np.float64), depth.values[depth.valid].astype(np.float64)
    error = went if depth.kind == "metric" else max(abs(nearness.near), abs(nearness.far))
    assert np.all(np.abs(came - went) <= 2e-7 * np.abs(error))


@given(ANY_MAPS)
def test_near_and_far_are_the_extremes_and_come_back_exactly(depth: DepthMap) -> None:
    seen = depth.values[depth.valid]
    nearness = depth.to_nearness()
    extremes = (seen.min(), seen.max()) if depth.kind == "metric" else (seen.max(), seen.min())
    assert (nearness.near, nearness.far) == extremes
    ends = Nearness(np.array([[1, 0]], np.float32), np.ones((1, 2), bool), nearness.near, nearness.far, depth.kind)
    if depth.kind == "metric":
        assert DepthMap.from_nearness(ends).values.tolist() == [[nearness.near, nearness.far]]


@given(ANY_MAPS)
def test_holes_take_a_nearest_valid_pixel(depth: DepthMap) -> None:
    nearness = depth.to_nearness()
    assert np.array_equal(nearness.valid, depth.valid)
    known = {(int(row), int(column)) for row, column in np.argwhere(depth.valid)}
    for row, column in np.argwhere(~depth.valid):
        distance = {at: (at[0] - row) ** 2 + (at[1] - column) ** 2 for at in known}
        closest = min(distance.values())
        assert nearness.values[row, column] in {nearness.values[at] for at in known if distance[at] == closest}


@given(MAPS, st.floats(0, 100), st.floats(0, 100))
def test_percentiles_clamp_what_lies_beyond_and_keep_the_rest(depth: DepthMap, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if low == high:
        with pytest.raises(ConfigError, match="low < high"):
            depth.to_nearness(percentiles=(low, high))
        return
    nearness = depth.to_nearness(percentiles=(low, high))
    seen = depth.values[depth.valid].astype(np.float64)
    inside = np.clip(seen, min(nearness.near, nearness.far), max(nearness.near, nearness.far))
    back = DepthMap.from_nearness(nearness).values[depth.valid]
    assert np.allclose(back, inside, rtol=2e-7, atol=2e-7 * np.abs(seen).max())


@given(MAPS)
def test_percentiles_0_and_100_are_the_extremes(depth: DepthMap) -> None:
    robust, plain = depth.to_nearness(percentiles=(0, 100)), depth.to_nearness()
    assert (robust.near, robust.far) == (plain.near, plain.far)
    assert np.array_equal(robust.values, plain.values)


def test_percentiles_drop_outliers_on_both_sides() -> None:
    depth = np.linspace(1, 2, 10_000, dtype=np.float32).reshape(100, 100)
    depth[0, 0], depth[99, 99] = 0.001, 900
    nearness = DepthMap.from_array(depth, kind="metric", unit="m").to_nearness(percentiles=(1, 99))
    assert nearness.near == pytest.approx(1.01, abs=1e-3)
    assert nearness.far == pytest.approx(1.99, abs=1e-3)
    assert (nearness.values[0, 0], nearness.values[99, 99]) == (1, 0)


def test_percentiles_that_meet_split_the_map_in_nearer_same_and_farther() -> None:
    wall = np.full((20, 20), 3, np.float32)
    wall[0, 0], wall[0, 1] = 1, 9
    nearness = DepthMap.from_array(wall, kind="metric", unit="m").to_nearness(percentiles=(5, 95))
    assert (nearness.near, nearness.far) == (3, 3)
    assert nearness.values[0, :3].tolist() == [1, 0, 0.5]
    assert (DepthMap.from_nearness(nearness).values == 3).all()


@pytest.mark.parametrize("percentiles", [(-1, 50), (50, 101), (90, 10), (math.nan, 50)])
def test_percentiles_out_of_order(percentiles: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="expected 0 <= low < high <= 100"):
        DepthMap.from_array([[1, 2]], kind="inverse").to_nearness(percentiles=percentiles)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 40)])
@pytest.mark.parametrize("kind", ["metric", "inverse"])
def test_a_constant_map_is_half_near_and_comes_back_exactly(shape: tuple[int, int], kind: Kind) -> None:
    value = np.float32(1.7)
    depth = DepthMap(np.full(shape, value), np.ones(shape, bool), kind)
    nearness = depth.to_nearness()
    assert (nearness.values == 0.5).all()
    assert nearness.near == nearness.far == value
    assert (DepthMap.from_nearness(nearness).values == value).all()


@pytest.mark.parametrize("kind", ["metric", "inverse"])
def test_an_all_invalid_map_has_nothing_to_encode(kind: Kind) -> None:
    depth = DepthMap(np.zeros((2, 3), np.float32), np.zeros((2, 3), bool), kind)
    with pytest.raises(DepthMapError, match="nothing to encode: all 6 pixels are invalid"):
        depth.to_nearness()


def test_numbers_at_holes_do_not_matter() -> None:
    valid = np.array([[True, False, True, False, False]])
    first = DepthMap(np.array([[1, np.nan, 2, -7, np.inf]], np.float32), valid, "metric").to_nearness()
    second = DepthMap(np.array([[1, 0, 2, 0, 0]], np.float32), valid, "metric").to_nearness()
    assert np.array_equal(first.values, second.values)


class TestWithoutNormalisation:
    def test_eight_bit_grayscale_is_kept(self) -> None:
        """AURORA (arXiv 2412.03548) feeds the 8-bit gray value divided by 255."""
        gray = np.arange(20, 220, dtype=np.uint8).reshape(10, 20)
        nearness = DepthMap.from_array(gray, kind="inverse").to_nearness(normalize=False)
        assert np.array_equal(nearness.values, gray.astype(np.float32) / np.float32(255))
        assert (nearness.near, nearness.far) == (1, 0)

    def test_sixteen_bits(self) -> None:
        gray = np.array([[0, 1, 65534, 65535]], np.uint16)
        nearness = DepthMap.from_array(gray, kind="inverse").to_nearness(normalize=False)
        assert np.array_equal(np.rint(nearness.values.astype(np.float64) * 65535), gray)

    @pytest.mark.parametrize("values", [[0.5, 1.001], [-0.001, 0.5]])
    def test_out_of_range(self, values: list[float]) -> None:
        with pytest.raises(DepthMapError, match=r"expects nearness in \[0, 1\]; the map goes from"):
            DepthMap.from_array([values], kind="inverse").to_nearness(normalize=False)

    def test_metric_and_percentiles_do_not_go_with_it(self) -> None:
        with pytest.raises(DepthMapError, match="metric depth has no range"):
            DepthMap.from_array([[1]], kind="metric", unit="m").to_nearness(normalize=False)
        with pytest.raises(ConfigError, match="given twice"):
            DepthMap.from_array([[1]], kind="inverse").to_nearness(normalize=False, percentiles=(2, 98))


def nearness_of(values: npt.ArrayLike = ((0.5,),), **changes: Any) -> Nearness:
    array = np.asarray(values, np.float32)
    given = {"values": array, "valid": np.ones(array.shape, bool), "near": 1.0, "far": 2.0, "kind": "metric"}
    return Nearness(**{**given, **changes})


def test_decoded_nearness_becomes_metres() -> None:
    depth = DepthMap.from_nearness(nearness_of([[0, 0.5, 1]], near=1.0, far=4.0))
    assert depth.values.tolist() == [[4, pytest.approx(1.6), 1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": [[1.01]]}, r"\[0, 1\]"),
        ({"values": [[-0.01]]}, r"\[0, 1\]"),
        ({"values": [[np.nan]]}, r"\[0, 1\]"),
        ({"near": 3.0}, "0 < near <= far"),
        ({"near": 0.0}, "0 < near <= far"),
        ({"near": math.nan}, "0 < near <= far"),
        ({"far": math.inf}, "both finite"),
        ({"kind": "inverse"}, "far <= near"),
        ({"kind": "disparity"}, "expected 'metric'"),
        ({"valid": np.ones((1, 2), bool)}, "one shape"),
        ({"valid": np.ones((1, 1), np.uint8)}, "valid of a nearness must be a NumPy array of bool"),
    ],
)
def test_impossible_nearness_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DepthMapError, match=message):
        nearness_of(**changes)


@settings(max_examples=20)
@given(MAPS)
def test_the_mask_of_nearness_is_its_own(depth: DepthMap) -> None:
    nearness = depth.to_nearness()
    nearness.valid[...] = False
    assert depth.valid.any()


RANGES = [
    NearnessRange(),
    NearnessRange.of_percentiles(2, 98.5),
    NearnessRange.fixed(0.25, 80),
    NearnessRange.whole(),
]


def metres(values: Any, **more: Any) -> DepthMap:
    return DepthMap.from_array(np.asarray(values, np.float32), kind="metric", unit="m", **more)


class TestRange:
    @pytest.mark.parametrize("chosen", RANGES, ids=str)
    def test_spelled_and_read_again(self, chosen: NearnessRange) -> None:
        assert NearnessRange.parse(str(chosen)) == chosen

    @pytest.mark.parametrize(
        "text", ["percentiles 98 2", "percentiles 2", "fixed 1", "fixed nan 2", "most", "extremes 3"]
    )
    def test_no_ranges(self, text: str) -> None:
        with pytest.raises(ConfigError):
            NearnessRange.parse(text)
        assert text

    def test_fixed_is_the_same_for_every_map_and_clamps(self) -> None:
        chosen = NearnessRange.fixed(1, 4)
        one, other = metres([[2, 4, 0.5]]).to_nearness(chosen), metres([[2, 1, 9]]).to_nearness(chosen)
        assert one.values[0, 0] == other.values[0, 0] == np.float32((1 / 2 - 1 / 4) / (1 - 1 / 4))
        assert one.values.tolist()[0][1:] == [0, 1]
        assert other.values.tolist()[0][1:] == [1, 0]
        assert (one.near, one.far) == (1, 4)
        assert np.allclose(DepthMap.from_nearness(one).values, [[2, 4, 1]])

    @pytest.mark.parametrize(
        ("kind", "near", "far"), [("metric", 4, 1), ("metric", 0, 1), ("inverse", 0, 1), ("relative", 1, 0)]
    )
    def test_ends_in_the_wrong_order(self, kind: Any, near: float, far: float) -> None:
        depth = DepthMap.from_array([[0.5]], kind=kind, unit="m" if kind == "metric" else None)
        with pytest.raises(DepthMapError, match=f"for a {kind} map it is"):
            depth.to_nearness(NearnessRange.fixed(near, far))

    def test_short_forms_are_the_same_ranges(self) -> None:
        depth = DepthMap.from_array(np.linspace(0, 1, 99).reshape(9, 11), kind="inverse")
        short = depth.to_nearness(percentiles=(5, 90))
        assert np.array_equal(short.values, depth.to_nearness(NearnessRange.of_percentiles(5, 90)).values)
        assert depth.to_nearness(normalize=False).range == NearnessRange.whole()
        with pytest.raises(ConfigError, match="given twice"):
            depth.to_nearness(NearnessRange(), percentiles=(5, 90))


class TestSky:
    def test_infinity_is_beyond_everything_and_fills_its_holes(self) -> None:
        depth = metres([[2, 8, np.inf, np.nan]])
        nearness = depth.to_nearness()
        assert depth.valid.tolist() == [[True, True, False, False]]
        assert nearness.values[0, 2] == nearness.values[0, 3] == 0
        assert 0 < nearness.values[0, 1] < nearness.values[0, 0] == 1
        assert nearness.valid.tolist() == [[True, True, True, False]]
        assert (nearness.near, nearness.far) == (2, 16)
        back = DepthMap.from_nearness(nearness)
        assert np.allclose(back.values[0, :2], [2, 8])
        assert back.sky is not None
        assert back.sky.tolist() == [[False, False, True, False]]

    def test_as_holes(self) -> None:
        depth = metres([[2, 8, np.inf]], sky="hole")
        assert depth.sky is None
        assert depth.to_nearness().values.tolist() == [[1, 0, 0]]
        assert depth.to_nearness().far == 8

    def test_named_numbers(self) -> None:
        depth = DepthMap.from_array(
            np.array([[200, 800, 65535]], np.uint16), kind="metric", unit="cm", sky_values=[65535]
        )
        assert depth.to_nearness().values[0, 2] == 0
        assert depth.to_nearness().far == 16
        with pytest.raises(DepthMapError, match="both holes and sky"):
            metres([[1, 2]], invalid=[2], sky_values=[2])

    def test_a_named_hole_and_a_mask_are_stronger(self) -> None:
        assert metres([[1, np.inf]], invalid=[np.inf]).sky is None
        assert metres([[1, np.inf]], valid=[[True, False]]).sky is None

    def test_inverse_depth_knows_no_infinite_distance(self) -> None:
        depth = DepthMap.from_array([[0.0, 1.0, np.inf]], kind="inverse")
        assert depth.sky is None
        assert depth.valid.tolist() == [[True, True, False]]

    def test_nothing_but_sky(self) -> None:
        with pytest.raises(DepthMapError, match="nothing but sky"):
            metres([[np.inf, np.nan]]).to_nearness()
        assert metres([[np.inf, np.nan]]).to_nearness(NearnessRange.fixed(1, 50)).values.tolist() == [[0, 0]]

    @pytest.mark.parametrize("suffix", [".npz", ".npy", ".tif", ".pfm", ".exr"])
    def test_written_and_read(self, tmp_path: Path, suffix: str) -> None:
        depth = metres([[2, 8, np.inf, np.nan]])
        depth.write(tmp_path / f"a{suffix}")
        options: dict[str, Any] = {} if suffix == ".npz" else {"kind": "metric", "unit": "m"}
        again = DepthMap.read(tmp_path / f"a{suffix}", **options)
        assert again.sky is not None
        assert again.sky.tolist() == [[False, False, True, False]]
        assert np.array_equal(again.valid, depth.valid)
        with pytest.raises(DepthMapError, match="are sky, which these numbers cannot mark"):
            depth.write(tmp_path / "a.png")


class TestFewPixels:
    def scene(self, *stuck: float) -> DepthMap:
        values = np.linspace(1, 5, 64 * 64, dtype=np.float32).reshape(64, 64)
        values.ravel()[100 : 100 + len(stuck)] = stuck
        return metres(values)

    def test_one_stuck_pixel_is_seen(self) -> None:
        few = self.scene(0.02).to_nearness().find_outliers()
        assert few is not None
        assert (few.pixels, few.total) == (1, 4096)
        assert few.fraction > 0.9
        assert "--percentiles" in str(few)

    def test_both_ends_together(self) -> None:
        depth = DepthMap.from_array(np.linspace(0, 1, 4096).reshape(64, 64), kind="inverse")
        assert depth.to_nearness().find_outliers() is None
        depth.values.ravel()[7], depth.values.ravel()[9] = 1.2, -0.2
        few = depth.to_nearness().find_outliers()
        assert few is not None
        assert few.pixels == 2
        assert few.fraction == pytest.approx(0.4 / 1.4, abs=1e-3)

    def test_the_cheap_test_leaves_nothing_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(0)
        maps = [
            DepthMap.from_array(base + sign * power * rng.random((64, 64)) ** power, kind="inverse").to_nearness()
            for base in (0.0, 3.0)
            for sign in (1, -1)
            for power in (0.01, 0.1, 1, 5, 20, 40, 60, 80, 200, 400, 800)
        ]
        found = [nearness.find_outliers() for nearness in maps]
        cheap = [_has_full_ends(nearness.values.ravel(), 4) for nearness in maps]
        monkeypatch.setattr("perceptok.depth.maps._has_full_ends", lambda *_: False)
        assert found == [nearness.find_outliers() for nearness in maps]
        assert sum(cheap) > 3
        assert sum(few is not None for few in found) > 3

    @pytest.mark.parametrize("chosen", RANGES[1:3], ids=str)
    def test_a_chosen_range_is_trusted(self, chosen: NearnessRange) -> None:
        assert self.scene(0.02).to_nearness(chosen).find_outliers() is None

    def test_many_pixels_or_few_of_little_effect(self) -> None:
        assert self.scene().to_nearness().find_outliers() is None
        assert self.scene(0.9).to_nearness().find_outliers() is None
        assert self.scene(*[0.02] * 30).to_nearness().find_outliers() is None
        assert metres(np.full((64, 64), 3)).to_nearness().find_outliers() is None
        assert metres([[1, 2]]).to_nearness().find_outliers() is None

    def test_percentiles_undo_what_one_pixel_does(self) -> None:
        clean, stuck = self.scene(), self.scene(0.02)
        robust = NearnessRange.of_percentiles(0.1, 99.9)
        one, other = clean.to_nearness(robust), stuck.to_nearness(robust)
        assert np.abs(one.values - other.values)[stuck.values > 0.5].max() < 0.01


class TestRelative:
    @given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=30))
    def test_order_is_that_of_distance(self, values: list[float]) -> None:
        """The farther of two points has the lower nearness, whatever the numbers."""
        array = np.array([values], np.float32)
        nearness = DepthMap.from_array(array, kind="relative").to_nearness()
        farther = array[0][:, None] > array[0][None]
        assert np.all((nearness.values[0][:, None] <= nearness.values[0][None])[farther])
        if array.max() > array.min():
            assert nearness.values[0, array.argmin()] == 1
            assert nearness.values[0, array.argmax()] == 0
        assert np.allclose(DepthMap.from_nearness(nearness).values, array, atol=2e-7 * np.abs(array).max() + 1e-30)

    def test_zero_is_nearest_and_no_hole(self) -> None:
        depth = DepthMap.from_array([[0.0, 0.25, 1.0]], kind="relative")
        assert depth.valid.all()
        assert depth.to_nearness().values.tolist() == [[1, 0.75, 0]]
        assert depth.to_nearness(NearnessRange.whole()).values.tolist() == [[1, 0.75, 0]]

    def test_integers_are_scaled_written_and_read(self, tmp_path: Path) -> None:
        depth = DepthMap.from_array(np.array([[0, 65535, 13107]], np.uint16), kind="relative")
        assert depth.values.tolist() == [[0, 1, np.float32(0.2)]]
        depth.write(tmp_path / "a.png")
        assert np.array_equal(DepthMap.read(tmp_path / "a.png", kind="relative").values, depth.values)
        with pytest.raises(DepthMapError, match="relative depth is relative"):
            DepthMap.read(tmp_path / "a.png", kind="relative", unit="m")

    def test_the_opposite_of_inverse(self) -> None:
        values = np.random.default_rng(0).random((5, 6)).astype(np.float32)
        relative = DepthMap.from_array(values, kind="relative").to_nearness()
        inverse = DepthMap.from_array(-values, kind="inverse").to_nearness()
        assert np.array_equal(relative.values, inverse.values)
