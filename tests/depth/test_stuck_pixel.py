"""One stuck pixel in real sensors' maps: it decides everything in a map's own extremes, nothing in percentiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import perceptok as pt
from perceptok.depth import nearest_resize


def abs_rel(codec: pt.DepthCodec, depth: pt.DepthMap, chosen: pt.depth.NearnessRange) -> float:
    """Of the good pixels, in metres, after codes and back."""
    nearness = depth.to_nearness(chosen)
    decoded = nearest_resize(codec.decode(codec.encode(depth, range=chosen))[0], *depth.values.shape)
    back = pt.DepthMap.from_nearness(
        pt.depth.Nearness(decoded, np.ones_like(depth.valid), nearness.near, nearness.far, nearness.kind)
    )
    good = depth.valid & (depth.values > 0.1)
    return float(np.mean(np.abs(back.values - depth.values)[good] / depth.values[good]))


@pytest.mark.parametrize(
    ("file", "scale"),
    [
        ("train/slambook-ch7-000.png", 0.0002),
        ("val/slambook-ch13-000.png", 0.001),
        ("val/nvblox-3dmatch-000.png", 0.001),
    ],
    ids=["TUM", "Kinect", "3DMatch"],
)
def test_a_stuck_pixel_in_a_real_map(shared: Path, file: str, scale: float) -> None:
    codec = pt.DepthCodec.from_pretrained()
    clean = pt.DepthMap.read(shared / "data" / "depth" / file, kind="metric", scale=scale)
    values, valid = clean.values.copy(), clean.valid.copy()
    values[100, 200], valid[100, 200] = 0.02, True
    stuck = pt.DepthMap(values, valid, "metric")
    own, robust = pt.depth.NearnessRange(), pt.depth.NearnessRange.of_percentiles(0.1, 99.9)
    before = abs_rel(codec, clean, own)
    assert before < 0.08
    assert abs_rel(codec, stuck, own) > 3 * before
    assert abs_rel(codec, stuck, robust) < 1.1 * before
    few = stuck.to_nearness().few_pixels()
    assert few is not None
    assert few.pixels == 1
    assert clean.to_nearness().few_pixels() is None or few.share > 0.5
