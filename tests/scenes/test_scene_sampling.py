"""Sampled scenes: reproducible, informative, and without a camera inside an object."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from perceptok.errors import ConfigError
from perceptok.scenes import render, sample_scene
from perceptok.scenes.layouts.scene_sampling import ASPECTS, LAYOUTS

PRINT_HASHES = """
import hashlib
from perceptok.scenes.raycast import render
from perceptok.scenes.layouts.scene_sampling import sample_scene
for index in (7, 2):
    view = render(sample_scene(11, index), 40, 40)
    print(hashlib.sha256(view.depth.tobytes() + view.instance.tobytes()).hexdigest())
"""


def test_another_process_and_order_give_the_same_scenes() -> None:
    output = subprocess.run([sys.executable, "-c", PRINT_HASHES], capture_output=True, text=True, check=True).stdout
    expected = []
    for index in (2, 7):
        view = render(sample_scene(11, index), 40, 40)
        expected.append(hashlib.sha256(view.depth.tobytes() + view.instance.tobytes()).hexdigest())
    assert output.split() == expected[::-1]


def test_different_numbers_give_different_scenes() -> None:
    depths = [render(sample_scene(*pair), 30, 30).depth for pair in ((0, 1), (1, 0), (0, 2), (1, 1))]
    for i, first in enumerate(depths):
        assert all(not np.array_equal(first, second) for second in depths[i + 1 :])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_is_informative(kind: str) -> None:
    for index in range(3):
        scene = sample_scene(21, index, kind)
        assert scene.kind == kind
        depth = render(scene, 48, 48).depth
        hit = depth[np.isfinite(depth)]
        assert hit.size > 0.1 * depth.size
        assert np.mean(hit < 0.15) < 0.2
        assert hit.max() > 1.08 * hit.min()


def test_no_solid_encloses_the_camera() -> None:
    for index in range(30):
        scene = sample_scene(4, index)
        for item in scene.objects:
            for part in item.primitives:
                if part.shape.solid:
                    local = np.linalg.solve(part.axes, scene.camera.position - part.center)
                    assert (np.abs(local) > part.shape.extents).any(), (index, item.category)


def test_all_layouts_occur_and_their_shares_sum_to_one() -> None:
    assert sum(share for _, share in LAYOUTS.values()) == pytest.approx(1)
    assert sum(share for _, share in ASPECTS) == pytest.approx(1)
    assert len({sample_scene(0, index).kind for index in range(80)}) >= len(LAYOUTS) - 2


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match=">= 0"):
        sample_scene(-1, 0)
    with pytest.raises(ConfigError, match=">= 0"):
        sample_scene(0, -1)
    with pytest.raises(ConfigError, match="moon"):
        sample_scene(0, 0, "moon")
