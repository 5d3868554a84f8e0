"""Folders of maps through the codec, against the reference architecture one map at a time, in one run.

Run by hand: python -m pytest tests/benchmarks/test_depth.py --benchmark-enable --benchmark-only -o addopts=""
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.depth import AuroraConfig, DepthVQVAE
from perceptok.scenes import ProceduralDepthMaps
from tests.benchmarks.gpu import convert_by_reference, convert_folder

MAPS = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 PNGs at 16 bits: 32 scenes, each under 16 names."""
    folder = tmp_path_factory.mktemp("maps")
    scenes = ProceduralDepthMaps(seed=7, length=32)
    for index, (values, valid) in enumerate(scenes):
        pt.DepthMap(values, np.ones_like(valid), "inverse").write(folder / f"{index:03}.png")
    for index in range(len(scenes), MAPS):
        copied = folder / f"{index % len(scenes):03}.png"
        (folder / f"{index:03}.png").write_bytes(copied.read_bytes())
    return folder


@pytest.mark.benchmark(group="512 PNG maps -> codes -> PNG maps")
def test_perceptok(benchmark, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    codec = pt.DepthCodec.from_pretrained()

    benchmark.pedantic(convert_folder, (codec, folder, tmp_path), rounds=3, warmup_rounds=0)
    assert len(list((tmp_path / "ours").iterdir())) == MAPS


@pytest.mark.benchmark(group="512 PNG maps -> codes -> PNG maps")
def test_reference_one_by_one(benchmark, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = DepthVQVAE(AuroraConfig()).eval()

    benchmark.pedantic(convert_by_reference, (model, folder, tmp_path), rounds=2, warmup_rounds=0)
    assert len(list(tmp_path.iterdir())) == MAPS
