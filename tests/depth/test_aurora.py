"""The reference networks: published checkpoints give the reference's codes; unsafe and damaged files are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.depth.aurora import AuroraConfig
from perceptok.depth.model import DepthVQVAE
from perceptok.errors import CheckpointError


def published(path: Path, *, prefix: str = "", **changes: torch.Tensor) -> Path:
    """Random weights in the published format."""
    torch.manual_seed(0)
    state = dict(DepthVQVAE(AuroraConfig(hidden_dim=2, codebook_dim=6)).state_dict())
    state["_vq_vae._embedding"] = state.pop("codebook")
    state |= {"_vq_vae._ema_cluster_size": torch.ones(128), "_vq_vae._ema_w": torch.ones(128, 6), **changes}
    torch.save({"weights": {prefix + key: value for key, value in state.items()}}, path)
    return path


@pytest.mark.parametrize("name", ["small", "small_ddp"])
def test_codes_are_the_references(shared: Path, name: str) -> None:
    folder = shared / "data" / "aurora_fixture" / name
    expected = np.load(folder / "expected.npz")
    codec = pt.load_aurora_checkpoint(folder / "vae-final.pt")
    nearness = expected["gray"].astype(np.float32) / 255
    codes = codec.encode(nearness)
    assert np.array_equal(codes, expected["codes"])
    with torch.no_grad():
        maps = codec.model.reconstruct(codec.model.vectors(torch.from_numpy(codes)))[:, 0].numpy()
    assert np.abs(maps - expected["recon"]).max() < 1e-5
    assert np.allclose(codec.decode(codes), ((expected["recon"] + 1) / 2).clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_widths_are_read_from_the_tensors(tmp_path: Path, prefix: str) -> None:
    codec = pt.load_aurora_checkpoint(published(tmp_path / "vae-final.pt", prefix=prefix))
    assert codec.model.config == AuroraConfig(hidden_dim=2, codebook_size=128, codebook_dim=6)
    codec.save_pretrained(tmp_path / "saved")
    assert pt.DepthCodec.from_pretrained(tmp_path / "saved").fingerprint == codec.fingerprint


def test_published_size() -> None:
    parameters = sum(one.numel() for one in DepthVQVAE(AuroraConfig()).parameters())
    # The paper counts the code vectors too: 128 x 512 of them, trained by averages here as there.
    assert parameters + 128 * 512 == pytest.approx(7.75e6, rel=2e-3)


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(Attack.target),)

    target = Path()


def test_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    Attack.target = tmp_path / "owned"
    with (tmp_path / "evil.pt").open("wb") as file:
        pickle.dump({"weights": Attack()}, file, protocol=2)
    torch.save({"weights": Attack()}, tmp_path / "zip.pt")
    for name in ("evil.pt", "zip.pt"):
        with pytest.raises(CheckpointError, match="refused"):
            pt.load_aurora_checkpoint(tmp_path / name)
    assert not Attack.target.exists()


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    good = published(tmp_path / "good.pt")
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"model": {}}, tmp_path / "other.pt")
    torch.save({"weights": {"encoder.0.weight": torch.zeros(2, 1, 4, 4)}}, tmp_path / "half.pt")
    published(tmp_path / "shape.pt", **{"encoder.0.bias": torch.zeros(7)})
    published(tmp_path / "nan.pt", **{"encoder.0.bias": torch.full((2,), torch.nan)})
    messages = {
        "cut": "not a readable checkpoint",
        "empty": "not a readable checkpoint",
        "other": "key 'weights'",
        "half": "has no _vq_vae._embedding",
        "shape": r"encoder.0.bias has shape \(7,\)",
        "nan": "NaN",
        "missing": "not a readable checkpoint",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message):
            pt.load_aurora_checkpoint(tmp_path / f"{name}.pt")
