"""Small codecs with random weights, for tests in which codes may be any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perceptok.depth import DepthCodec, DepthVQVAE, GridConfig


def make_codec(seed: int) -> DepthCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DepthCodec(DepthVQVAE(GridConfig(widths=(16, 32), blocks=(1, 1), heads=2)))


@pytest.fixture(scope="session")
def codec() -> DepthCodec:
    return make_codec(0)


@pytest.fixture(scope="session")
def other_codec() -> DepthCodec:
    return make_codec(1)


@pytest.fixture(scope="session")
def saved_codec(codec: DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    codec.save_pretrained(folder)
    return folder
