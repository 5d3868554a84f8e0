"""The grid tower: features on the block's grid, calibration, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

import perceptok as pt
from perceptok.llava import GridTower
from perceptok.llava.grid_tower import GridTowerConfig


@pytest.fixture(scope="module")
def tower() -> GridTower:
    torch.manual_seed(0)
    built = GridTower(GridTowerConfig(image_size=160, taps=(1, 4))).eval()
    for part in built.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    return built


def test_feature_k_is_about_patch_k(tower: GridTower) -> None:
    plain = torch.zeros(1, 3, 160, 160)
    with torch.no_grad():
        before = tower(plain).last_hidden_state[0]
        for row, column in ((0, 0), (4, 7), (9, 9)):
            changed = plain.clone()
            changed[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 3.0
            change = (tower(changed).last_hidden_state[0] - before).abs().sum(-1)
            assert int(change.argmax()) == 10 * row + column
    assert before.shape == (100, 24 + 32 + 20)
    assert torch.equal(before[37, -20:].nonzero()[:, 0], torch.tensor([3, 17]))


def test_calibrated_features_are_standard(tower: GridTower) -> None:
    images = torch.randn(4, 3, 160, 160)
    tower.calibrate(images)
    with torch.no_grad():
        features = tower(images).last_hidden_state[..., :-20].flatten(0, 1)
    torch.testing.assert_close(features.mean(0), torch.zeros(56), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(56), atol=1e-2, rtol=0)


def test_cached_features_pass_through_and_saving_keeps_everything(tower: GridTower, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        features = tower(images).last_hidden_state
        assert torch.equal(tower(features).last_hidden_state, features)
        tower.save_pretrained(tmp_path)
        again = AutoModel.from_pretrained(tmp_path).eval()
        assert torch.equal(again(images).last_hidden_state, features)


@pytest.mark.parametrize("values", [{"image_size": 165}, {"image_size": 0}, {"taps": ()}, {"taps": (3, 16)}])
def test_invalid_sizes_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(pt.PerceptokError, match=r"image_size is a multiple|taps are numbers"):
        GridTowerConfig(**values)  # type: ignore[arg-type]
