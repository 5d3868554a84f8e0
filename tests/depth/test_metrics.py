"""Measures against slow and obvious ones, and the report that is made of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from perceptok.depth import (
    DepthCodec,
    DepthMap,
    DepthReport,
    DepthVQVAE,
    GridConfig,
    MapFile,
    ReadOptions,
    evaluate_depth_codec,
    resize_nearest,
)
from perceptok.depth.metrics import (
    BASELINE_SIDES,
    MarkerPositions,
    average_over_grid,
    compute_code_usage,
    compute_metric_errors,
    compute_squared_errors,
    find_closest_marker_hits,
    find_pair_order_hits,
    sample_marker_positions,
)
from perceptok.errors import DepthMapError

SEEDS = st.integers(0, 2**32 - 1)


class TestErrors:
    @given(SEEDS)
    @settings(max_examples=20)
    def test_squared_errors_are_means_over_valid_pixels(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        decoded, target = rng.random((2, 3, 5, 5), dtype=np.float32)
        valid = rng.random((3, 5, 5)) < 0.6
        valid[:, 0, 0] = True
        expected = [
            np.mean([(float(d) - float(t)) ** 2 for d, t, v in zip(*map(np.ravel, one), strict=True) if v])
            for one in zip(decoded, target, valid, strict=True)
        ]
        got = compute_squared_errors(*map(torch.from_numpy, (decoded, target, valid)))
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)

    def test_nothing_valid_is_no_error(self) -> None:
        maps = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
        assert compute_squared_errors(maps, 1 - maps, torch.zeros(1, 4, 4, dtype=torch.bool)).tolist() == [0.0]

    def test_metres_by_hand(self) -> None:
        truth = np.array([[1.0, 2.0], [4.0, 8.0]], np.float32)
        decoded = np.array([[1.2, 1.5], [4.0, 80.0]], np.float32)
        valid = np.array([[True, True], [True, False]])
        errors = compute_metric_errors(decoded, truth, valid)
        assert errors.abs_rel == pytest.approx((0.2 + 0.25 + 0) / 3, rel=1e-6)
        # 1.2 / 1 and 4 / 4 are below 1.25; 2 / 1.5 is not.
        assert errors.delta_125 == pytest.approx(2 / 3)


class TestUsage:
    @pytest.mark.parametrize(
        ("counts", "used", "perplexity"),
        [([7] * 128, 128, 128.0), ([5, *[0] * 127], 1, 1.0), ([3, 3, *[0] * 126], 2, 2.0), ([0] * 128, 0, 1.0)],
    )
    def test_even_use(self, counts: list[int], used: int, perplexity: float) -> None:
        usage = compute_code_usage(torch.tensor(counts))
        assert usage.used == used
        assert usage.perplexity == pytest.approx(perplexity, rel=1e-9)

    @given(st.lists(st.integers(0, 1000), min_size=2, max_size=128).filter(any))
    @settings(max_examples=30)
    def test_any_use(self, counts: list[int]) -> None:
        shares = [count / sum(counts) for count in counts if count]
        usage = compute_code_usage(torch.tensor(counts))
        assert usage.perplexity == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-9)
        assert usage.used == len(shares)


class TestLadder:
    @pytest.mark.parametrize("side", [1, 10, 14, 20])
    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_a_constant_stays(self, side: int, share: float) -> None:
        target = torch.full((2, 40, 40), 0.3)
        valid = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(0)) < share
        torch.testing.assert_close(average_over_grid(target, valid, side), target, rtol=0, atol=1e-6)

    @given(SEEDS, st.sampled_from([1, 2, 5, 20]))
    @settings(max_examples=20)
    def test_cells_are_means_of_valid_pixels(self, seed: int, side: int) -> None:
        rng = np.random.default_rng(seed)
        target = rng.random((20, 20), dtype=np.float32)
        valid = rng.random((20, 20)) < 0.3
        step = 20 // side
        grid = np.empty((side, side))
        for row, column in np.ndindex(side, side):
            cell = np.s_[row * step : (row + 1) * step, column * step : (column + 1) * step]
            grid[row, column] = target[cell][valid[cell]].mean() if valid[cell].any() else target[cell].mean()
        got = average_over_grid(torch.from_numpy(target)[None], torch.from_numpy(valid)[None], side)[0].numpy()
        np.testing.assert_allclose(got, bilinear(grid, 20), atol=1e-5)

    def test_invalid_pixels_do_not_count(self) -> None:
        target = torch.full((1, 20, 20), 0.25)
        valid = torch.ones(1, 20, 20, dtype=torch.bool)
        target[:, ::2], valid[:, ::2] = 0.9, False
        torch.testing.assert_close(average_over_grid(target, valid, 5), torch.full((1, 20, 20), 0.25))


def bilinear(grid: np.ndarray, size: int) -> np.ndarray:
    places = np.clip((np.arange(size) + 0.5) * len(grid) / size - 0.5, 0, len(grid) - 1)
    rows = np.stack([np.interp(places, np.arange(len(grid)), column) for column in grid.T], axis=1)
    return np.stack([np.interp(places, np.arange(len(grid)), row) for row in rows])


class TestMarkers:
    @given(SEEDS, st.sampled_from([3, 4, 5]), st.sampled_from([168, 320, 336]))
    @settings(max_examples=30)
    def test_they_obey_the_protocol(self, seed: int, markers: int, size: int) -> None:
        rng = np.random.default_rng(seed)
        nearness = rng.random((size, size), dtype=np.float32)
        valid = rng.random((size, size)) < 0.7
        draw = sample_marker_positions(nearness, valid, markers, 8, rng)
        assert draw.rows.shape == draw.columns.shape == (8, markers)
        assert (draw.rows == size // 2).all()
        assert valid[draw.rows, draw.columns].all()
        for one in draw.columns:
            levels = nearness[size // 2, one]
            for i in range(markers):
                for j in range(i):
                    assert abs(int(one[i]) - int(one[j])) * 336 / size >= 20
                    assert abs(float(levels[i]) - float(levels[j])) >= 20 / 255 - 1e-6

    def test_a_seed_gives_the_same_ones(self) -> None:
        nearness = np.random.default_rng(0).random((320, 320))
        one, two = (sample_marker_positions(nearness, nearness > 0.1, 3, 8, np.random.default_rng(5)) for _ in range(2))
        np.testing.assert_array_equal(one.columns, two.columns)

    def test_no_relief_or_no_room_gives_none(self) -> None:
        rng = np.random.default_rng(0)
        everywhere = np.ones((320, 320), bool)
        flat = sample_marker_positions(np.full((320, 320), 0.5), everywhere, 3, 8, rng)
        hidden = sample_marker_positions(rng.random((320, 320)), ~everywhere, 3, 8, rng)
        for draw in (flat, hidden):
            assert draw.rows.shape == draw.columns.shape == (0, 3)
            assert find_closest_marker_hits(everywhere, everywhere, draw).shape == (0,)

    def test_hits(self) -> None:
        target = np.array([[0.1, 0.5, 0.9]])
        decoded = np.array([[0.2, 0.8, 0.6]])
        draw = MarkerPositions(np.zeros((3, 2), int), np.array([[0, 1], [1, 2], [2, 0]]))
        assert find_closest_marker_hits(decoded, target, draw).tolist() == [True, False, True]


class TestPairs:
    def test_order_kept_lost_and_levelled(self) -> None:
        target = np.random.default_rng(0).random((30, 30))
        everywhere = np.ones_like(target, bool)
        for decoded, share in ((target / 2 + 0.1, 1.0), (1 - target, 0.0), (np.zeros_like(target), 0.0)):
            hits = find_pair_order_hits(decoded, target, everywhere, 200, np.random.default_rng(1))
            assert len(hits) == 200
            assert hits.mean() == share

    def test_masked_pixels_do_not_count(self) -> None:
        target = np.random.default_rng(0).random((30, 30))
        valid = np.random.default_rng(1).random((30, 30)) < 0.5
        decoded = np.where(valid, target, 1 - target)
        assert find_pair_order_hits(decoded, target, valid, 200, np.random.default_rng(2)).all()

    def test_pairs_alike_are_left_out(self) -> None:
        steps = np.where(np.arange(400).reshape(20, 20) < 200, 0.5, 0.55)
        everywhere = np.ones_like(steps, bool)
        assert len(find_pair_order_hits(steps, steps, everywhere, 100, np.random.default_rng(0))) == 0
        assert len(find_pair_order_hits(steps, steps, ~everywhere, 100, np.random.default_rng(0))) == 0


def tiny_codec() -> DepthCodec:
    torch.manual_seed(0)
    return DepthCodec(DepthVQVAE(GridConfig(widths=(16, 32), blocks=(1, 1), heads=2)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[MapFile]:
    folder = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    made = []
    for index, source in enumerate(("lab", "lab", "street")):
        metres = rng.uniform(1, 9, (60, 80)).astype(np.float32)
        metres[:5, :7] = 0
        path = folder / f"{index}.npy"
        np.save(path, metres)
        made.append(MapFile(path, path.name, source, ReadOptions("metric", "m"), in_metres=source == "lab"))
    (folder / "broken.npy").write_bytes(b"nothing")
    return [*made, MapFile(folder / "broken.npy", "broken.npy", "lab", ReadOptions("metric", "m"))]


@pytest.fixture(scope="module")
def report(files: list[MapFile]) -> DepthReport:
    return evaluate_depth_codec(tiny_codec(), files)


class TestReport:
    def test_all_is_the_mean_of_the_maps(self, report: DepthReport) -> None:
        for scores in (report.codec, *report.baselines.values()):
            assert list(scores) == ["all", "lab", "street"]
            assert [scores[name].maps for name in scores] == [3, 2, 1]
            for measure in ("rmse", "mae", "pairs", "closest"):
                lab, street = (getattr(scores[name], measure) for name in ("lab", "street"))
                assert getattr(scores["all"], measure) == pytest.approx((2 * lab + street) / 3)
            # Without a known scale there are no metres, and they do not weigh on the others.
            assert math.isnan(scores["street"].abs_rel)
            assert scores["all"].abs_rel == scores["lab"].abs_rel > 0
        assert list(report.baselines) == list(BASELINE_SIDES)

    def test_errors_are_those_of_valid_pixels(self, report: DepthReport, files: list[MapFile]) -> None:
        codec, depth = tiny_codec(), DepthMap.read(files[2].path, kind="metric", unit="m")
        nearness = depth.to_nearness()
        truth, valid = (resize_nearest(one, 320, 320) for one in (nearness.values, nearness.valid))
        error = (codec.decode(codec.encode(depth))[0].astype(np.float64) - truth)[valid]
        assert not valid.all()
        assert report.codec["street"].rmse == pytest.approx(math.sqrt((error**2).mean()), rel=1e-5)
        assert report.codec["street"].mae == pytest.approx(np.abs(error).mean(), rel=1e-5)

    def test_finer_grids_are_better(self, report: DepthReport) -> None:
        rmse = [report.baselines[side]["all"].rmse for side in BASELINE_SIDES]
        assert rmse == sorted(rmse, reverse=True)

    def test_failures_are_listed(self, report: DepthReport) -> None:
        assert [failure.name for failure in report.failures] == ["broken.npy"]
        assert "broken.npy" in report.failures[0].reason

    def test_usage_is_that_of_all_maps(self, report: DepthReport, files: list[MapFile]) -> None:
        codes = tiny_codec().encode([file.read() for file in files[:3]])
        assert report.usage == compute_code_usage(torch.from_numpy(np.bincount(codes.ravel(), minlength=128)))

    def test_the_same_again_and_as_json(self, report: DepthReport, files: list[MapFile]) -> None:
        ticks: list[None] = []
        again = evaluate_depth_codec(tiny_codec(), files, advance=lambda: ticks.append(None))
        assert len(ticks) == len(files)
        assert json.dumps(again.to_dict()) == json.dumps(report.to_dict())

    def test_nothing_readable(self, files: list[MapFile], tmp_path: Path) -> None:
        with pytest.raises(DepthMapError, match=r"none of the 1 maps can be read.*broken\.npy"):
            evaluate_depth_codec(tiny_codec(), files[3:])
        with pytest.raises(DepthMapError, match="no maps"):
            evaluate_depth_codec(tiny_codec(), [])
