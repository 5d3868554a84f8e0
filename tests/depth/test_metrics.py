"""Metrics against slow, obvious computations; the report on maps whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.depth.collection import find_maps
from perceptok.depth.metrics import (
    area_ladder,
    closest_marker_hits,
    code_usage,
    draw_markers,
    metric_errors,
    pair_order_hits,
    squared_errors,
)
from perceptok.depth.report import evaluate_depth_codec
from perceptok.errors import DepthMapError

RNG = np.random.default_rng(0)


def test_squared_errors_count_valid_pixels_only() -> None:
    decoded, target = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.3
    expected = [float(((d - t)[v].double() ** 2).mean()) for d, t, v in zip(decoded, target, valid, strict=True)]
    assert squared_errors(decoded, target, valid).tolist() == pytest.approx(expected)


def test_code_usage() -> None:
    assert code_usage(torch.full((128,), 7.0)).perplexity == pytest.approx(128)
    assert code_usage(torch.tensor([5.0] + [0.0] * 127)) == pytest.approx((1, 1.0))
    assert code_usage(torch.tensor([3.0, 1.0])).perplexity == pytest.approx(4 / 3**0.75)


def test_metric_errors() -> None:
    truth, told = np.array([[1.0, 2.0, 4.0, 9.0]]), np.array([[1.2, 3.0, 4.0, 1.0]])
    errors = metric_errors(told, truth, np.array([[True, True, True, False]]))
    assert errors.abs_rel == pytest.approx((0.2 + 0.5 + 0) / 3)
    assert errors.delta_125 == pytest.approx(2 / 3)


def test_ladder_of_what_a_grid_can_say() -> None:
    constant = torch.full((1, 320, 320), 0.4)
    everywhere = torch.ones_like(constant, dtype=torch.bool)
    assert torch.allclose(area_ladder(constant, everywhere, 10), constant)
    spoiled = constant.clone()
    spoiled[:, 40:60, 40:60] = 1
    holes = everywhere.clone()
    holes[:, 40:60, 40:60] = False
    assert torch.allclose(area_ladder(spoiled, holes, 10), constant)
    slope = torch.linspace(0, 1, 320).expand(1, 320, 320)
    errors = [float(squared_errors(area_ladder(slope, everywhere, side), slope, everywhere)) for side in (10, 20)]
    assert errors[1] < errors[0] < 1e-4


def test_markers_keep_the_protocol() -> None:
    nearness = RNG.random((320, 320)).astype(np.float32)
    valid = RNG.random((320, 320)) > 0.2
    draw = draw_markers(nearness, valid, 4, 50, np.random.default_rng(0))
    assert draw.columns.shape == (50, 4)
    assert (draw.rows == 160).all()
    assert valid[draw.rows, draw.columns].all()
    levels = np.sort(nearness[draw.rows, draw.columns], axis=1)
    assert (np.diff(levels) >= 20 / 255).all()
    assert (np.diff(np.sort(draw.columns)) >= 20 * 320 / 336).all()
    flat = draw_markers(np.full((320, 320), 0.5, np.float32), valid, 3, 50, np.random.default_rng(0))
    assert flat.columns.shape == (0, 3)


def test_closest_marker_and_pairs() -> None:
    truth = np.tile(np.linspace(0, 1, 320, dtype=np.float32), (320, 1))
    everywhere = np.ones((320, 320), dtype=bool)
    draw = draw_markers(truth, everywhere, 5, 30, np.random.default_rng(0))
    assert closest_marker_hits(truth**3, truth, draw).all()
    assert not closest_marker_hits(1 - truth, truth, draw).any()
    assert pair_order_hits(truth**2, truth, everywhere, 200, np.random.default_rng(0)).mean() == 1
    assert pair_order_hits(1 - truth, truth, everywhere, 200, np.random.default_rng(0)).mean() == 0
    assert pair_order_hits(truth, truth, np.zeros_like(everywhere), 200, np.random.default_rng(0)).size == 0


def test_report_of_the_shipped_codec(tmp_path: Path) -> None:
    slope = np.linspace(1, 5, 320)[:, None].repeat(320, 1)
    for name in ("a/one.npy", "a/two.npy", "b/three.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, slope)
    (tmp_path / "b" / "broken.npy").write_bytes(b"no map")
    report = evaluate_depth_codec(pt.DepthCodec.from_pretrained(), find_maps([tmp_path], kind="metric", unit="m"))
    assert {name: score.maps for name, score in report.codec.items()} == {"all": 3, "a": 2, "b": 1}
    assert [failure.name for failure in report.failures] == ["b/broken.npy"]
    score = report.codec["all"]
    # A plain slope is easy: measured 0.02.
    assert score.rmse < 0.06
    assert 0 < score.mae <= score.rmse
    assert score.abs_rel < 0.3
    assert report.ladder[20]["all"].rmse < report.ladder[10]["all"].rmse
    assert 1 <= report.usage.used <= 100
    assert np.isnan(score.markers[0])  # at mid height a horizontal slope has no relief
    with pytest.raises(DepthMapError, match="none of the 1 maps"):
        evaluate_depth_codec(
            pt.DepthCodec.from_pretrained(), find_maps([tmp_path / "b" / "broken.npy"], kind="inverse")
        )
