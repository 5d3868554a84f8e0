"""Published checkpoints: the reference's codes and maps, and refusal of everything else."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from perceptok.depth import AuroraConfig, DepthCodec, DepthVQVAE, load_aurora_checkpoint
from perceptok.depth.networks.aurora import read_aurora_checkpoint
from perceptok.errors import CheckpointError

TINY = AuroraConfig(hidden_dim=2, codebook_dim=6)

State = dict[str, Tensor]


def published_state(seed: int = 0, prefix: str = "") -> State:
    torch.manual_seed(seed)
    state = DepthVQVAE(TINY).state_dict()
    codebook = state.pop("codebook")
    averages = {"_vq_vae._ema_cluster_size": torch.zeros(128), "_vq_vae._ema_w": codebook.clone()}
    return {prefix + key: value for key, value in {**state, "_vq_vae._embedding": codebook, **averages}.items()}


def save(path: Path, state: State) -> Path:
    torch.save({"weights": state, "epoch": 3}, path)
    return path


class TestReference:
    @pytest.mark.parametrize("name", ["small", "small_ddp"])
    def test_codes_and_maps_are_the_reference_s(self, shared: Path, name: str) -> None:
        folder = shared / "data" / "aurora_fixture" / name
        if not folder.is_dir():
            pytest.skip(f"no {folder}")
        codec = load_aurora_checkpoint(folder / "vae-final.pt")
        expected = np.load(folder / "expected.npz")
        codes = codec.encode(expected["gray"].astype(np.float32) / 255)
        np.testing.assert_array_equal(codes, expected["codes"])
        with torch.no_grad():
            unclamped = codec.model.reconstruct(codec.model.look_up_vectors(torch.from_numpy(codes)))[:, 0].numpy()
        np.testing.assert_allclose(unclamped, expected["recon"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(codec.decode(codes), np.clip((expected["recon"] + 1) / 2, 0, 1), rtol=0, atol=1e-5)


class TestSynthetic:
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_weights_arrive_unchanged(self, tmp_path: Path, prefix: str) -> None:
        state = published_state(prefix=prefix)
        config, read = read_aurora_checkpoint(save(tmp_path / "vae.pt", state))
        assert config == TINY
        assert not [key for key in read if key.startswith("_vq_vae")]
        assert torch.equal(read["codebook"], state[f"{prefix}_vq_vae._embedding"])
        assert all(torch.equal(read[key], state[prefix + key]) for key in read.keys() - {"codebook"})

    def test_encodes_and_survives_saving(self, tmp_path: Path) -> None:
        codec = load_aurora_checkpoint(str(save(tmp_path / "vae.pt", published_state())))
        maps = np.random.default_rng(0).random((2, 40, 30), dtype=np.float32)
        codes = codec.encode(maps)
        assert codes.shape == (2, 10, 10)
        assert codec.decode(codes).shape == (2, 320, 320)
        codec.save_pretrained(tmp_path / "saved")
        again = DepthCodec.from_pretrained(tmp_path / "saved")
        assert again.fingerprint == codec.fingerprint
        np.testing.assert_array_equal(again.encode(maps), codes)

    def test_half_precision_weights_are_read(self, tmp_path: Path) -> None:
        state = {key: value.half() for key, value in published_state().items()}
        codec = load_aurora_checkpoint(save(tmp_path / "vae.pt", state))
        assert codec.codebook.dtype == torch.float32


class _Touch:
    """Unpickled without care, creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


class TestRefusal:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_pickle_that_runs_code_does_not_run_it(self, tmp_path: Path, zipped: bool) -> None:
        trap, path = tmp_path / "ran", tmp_path / "vae.pt"
        payload = {"weights": {"encoder.0.weight": _Touch(trap)}}
        torch.save(payload, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"(?s)refused.*tensors only"):
            load_aurora_checkpoint(path)
        assert not trap.exists()

    def test_a_bare_pickle_does_not_run_either(self, tmp_path: Path) -> None:
        trap, path = tmp_path / "ran", tmp_path / "vae.pt"
        path.write_bytes(pickle.dumps(_Touch(trap), protocol=2))
        with pytest.raises(CheckpointError):
            load_aurora_checkpoint(path)
        assert not trap.exists()

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, share: float) -> None:
        path = save(tmp_path / "vae.pt", published_state())
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(CheckpointError, match=r"vae\.pt"):
            load_aurora_checkpoint(path)

    @pytest.mark.parametrize("content", [bytes(5000), b"not weights at all\n" * 50, b"PK\x03\x04" + bytes(100)])
    def test_other_bytes(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "vae.pt"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"vae\.pt"):
            load_aurora_checkpoint(path)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"vae\.pt"):
            load_aurora_checkpoint(tmp_path / "vae.pt")

    @pytest.mark.parametrize(
        "saved", [{}, {"model": {}}, {"weights": 3}, {"weights": {"encoder.0.weight": 3}}, [1, 2], torch.zeros(3)]
    )
    def test_another_layout(self, tmp_path: Path, saved: object) -> None:
        path = tmp_path / "vae.pt"
        torch.save(saved, path)
        with pytest.raises(CheckpointError, match="'weights'"):
            load_aurora_checkpoint(path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"_vq_vae._embedding": None}, "it lacks _vq_vae._embedding"),
            ({"encoder.0.weight": None}, "it lacks encoder.0.weight"),
            ({"decoder.0.bias": None}, "decoder.0.bias has shape none"),
            ({"extra": torch.zeros(2)}, r"extra has shape \(2,\), but the configuration expects none"),
            ({"encoder.2.weight": torch.zeros(3, 3)}, r"encoder.2.weight has shape \(3, 3\)"),
            ({"encoder.0.weight": torch.zeros(2)}, "first convolution"),
            ({"_vq_vae._embedding": torch.zeros(128)}, "codebook has shape"),
            ({"decoder.0.bias": torch.full((32,), torch.nan)}, "NaN"),
        ],
    )
    def test_other_weights(self, tmp_path: Path, changes: dict[str, Tensor | None], message: str) -> None:
        changed = {**published_state(), **changes}
        path = save(tmp_path / "vae.pt", {key: value for key, value in changed.items() if value is not None})
        with pytest.raises(CheckpointError, match=message):
            load_aurora_checkpoint(path)
