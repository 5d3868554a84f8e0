"""Which depths become nearness 0 and 1: ranges, sky, few pixels that decide much, and relative depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from perceptok.depth import DepthMap, NearnessRange
from perceptok.errors import ConfigError, DepthMapError

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
        with pytest.raises(ConfigError, match="said twice"):
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
        few = self.scene(0.02).to_nearness().few_pixels()
        assert few is not None
        assert (few.pixels, few.of) == (1, 4096)
        assert few.share > 0.9
        assert "--percentiles" in str(few)

    def test_both_ends_together(self) -> None:
        depth = DepthMap.from_array(np.linspace(0, 1, 4096).reshape(64, 64), kind="inverse")
        assert depth.to_nearness().few_pixels() is None
        depth.values.ravel()[7], depth.values.ravel()[9] = 1.2, -0.2
        few = depth.to_nearness().few_pixels()
        assert few is not None
        assert few.pixels == 2
        assert few.share == pytest.approx(0.4 / 1.4, abs=1e-3)

    @pytest.mark.parametrize("chosen", RANGES[1:3], ids=str)
    def test_a_chosen_range_is_trusted(self, chosen: NearnessRange) -> None:
        assert self.scene(0.02).to_nearness(chosen).few_pixels() is None

    def test_many_pixels_or_few_of_little_effect(self) -> None:
        assert self.scene().to_nearness().few_pixels() is None
        assert self.scene(0.9).to_nearness().few_pixels() is None
        assert self.scene(*[0.02] * 30).to_nearness().few_pixels() is None
        assert metres(np.full((64, 64), 3)).to_nearness().few_pixels() is None
        assert metres([[1, 2]]).to_nearness().few_pixels() is None

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
