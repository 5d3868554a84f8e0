"""A small codec with random weights, for tests in which codes may be any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perceptok.depth import DepthCodec, DepthVQVAE, GridConfig


@pytest.fixture(scope="session")
def codec() -> DepthCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DepthCodec(DepthVQVAE(GridConfig(widths=(16, 32), blocks=(1, 1), heads=2)))


@pytest.fixture(scope="session")
def saved_codec(codec: DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    codec.save_pretrained(folder)
    return folder
