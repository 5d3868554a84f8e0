"""The codec: one answer whatever the batch, the form of the input, and the way it was saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import perceptok as pt
from perceptok.depth.codec import DepthCodec
from perceptok.depth.grid import GridConfig
from perceptok.depth.model import DepthVQVAE
from perceptok.depth.preprocessing import Preprocessing
from perceptok.errors import CheckpointError, ConfigError, DepthMapError, MalformedBlockError

SMALL = GridConfig(widths=(16, 32), blocks=(1, 1), heads=2, codebook_dim=8)


@pytest.fixture(scope="module")
def codec() -> DepthCodec:
    torch.manual_seed(0)
    model = DepthVQVAE(SMALL)
    model.codebook.mul_(0.1)
    return DepthCodec(model)


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    return np.random.default_rng(0).random((7, 96, 128), dtype=np.float32)


def test_codes_do_not_depend_on_the_batch(codec: DepthCodec, maps: np.ndarray) -> None:
    alone = np.concatenate([codec.encode(one) for one in maps])
    assert len(np.unique(alone)) > 3
    for batch_size in (1, 2, 3, 7, 16):
        assert np.array_equal(codec.encode(maps, batch_size=batch_size), alone)


def test_near_ties_are_settled_as_for_a_single_map(maps: np.ndarray) -> None:
    torch.manual_seed(0)
    model = DepthVQVAE(SMALL)
    # Every code has a twin a rounding error away.
    model.codebook[1::2] = model.codebook[::2] + 1e-8 * torch.randn(64, 8)
    codec = DepthCodec(model)
    alone = np.concatenate([codec.encode(one) for one in maps])
    assert np.array_equal(codec.encode(maps), alone)


def test_every_form_of_input_gives_the_same_codes(codec: DepthCodec) -> None:
    depth = pt.DepthMap.from_array(np.random.default_rng(1).uniform(0.5, 9, (60, 80)), kind="metric", unit="m")
    nearness = depth.to_nearness()
    expected = codec.encode(depth)
    assert expected.shape == (1, 10, 10)
    assert expected.dtype == np.int64
    for form in (nearness, [depth], [nearness], nearness.values, nearness.values[None], nearness.values[None, None]):
        assert np.array_equal(codec.encode(form), expected)
    tensor = codec.encode(torch.from_numpy(nearness.values))
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), expected)
    assert np.array_equal(codec.encode([depth, depth]), np.concatenate([expected, expected]))
    assert codec.encode(np.empty((0, 5, 5), dtype=np.float32)).shape == (0, 10, 10)
    assert codec.encode([]).shape == (0, 10, 10)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.full((4, 4), np.nan), "NaN or infinite"),
        (np.full((4, 4), np.inf), "NaN or infinite"),
        (np.full((4, 4), 1.01), r"lies in \[0, 1\]; got 1.01"),
        (np.full((4, 4), -0.1), r"lies in \[0, 1\]"),
        (np.zeros((4, 4), dtype=np.uint8), "DepthMap.from_array"),
        (torch.zeros(4, 4, dtype=torch.int64), "DepthMap.from_array"),
        (np.zeros((2, 3, 4, 4)), "shape"),
        (np.zeros(4), "shape"),
        (np.zeros((1, 0, 4)), "shape"),
        (np.array([["a"]]), "array of numbers"),
    ],
)
def test_what_is_no_nearness_is_refused(codec: DepthCodec, maps, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DepthMapError, match=message):
        codec.encode(maps)


def test_soft_codes(codec: DepthCodec, maps: np.ndarray) -> None:
    probs = codec.encode_soft(maps)
    assert probs.shape == (7, 10, 10, 128)
    assert np.allclose(probs.sum(-1), 1, atol=1e-5)
    assert np.array_equal(probs.argmax(-1), codec.encode(maps))
    assert codec.encode_soft(maps, temperature=1e-6).max(-1).min() > 0.6
    assert isinstance(codec.encode_soft(torch.from_numpy(maps)), torch.Tensor)
    for temperature in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="temperature"):
            codec.encode_soft(maps, temperature=temperature)


def test_decode(codec: DepthCodec, maps: np.ndarray) -> None:
    codes = codec.encode(maps)
    decoded = codec.decode(codes)
    assert decoded.shape == (7, 320, 320)
    assert decoded.dtype == np.float32
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert np.allclose(codec.decode(codes[2])[0], decoded[2], atol=1e-5)
    assert isinstance(codec.decode(torch.from_numpy(codes)), torch.Tensor)
    assert codec.decode(np.empty((0, 10, 10), dtype=int)).shape == (0, 320, 320)
    with pytest.raises(MalformedBlockError, match="found 128"):
        codec.decode(np.full((10, 10), 128))


def test_soft_decoding_agrees_and_is_differentiable(codec: DepthCodec, maps: np.ndarray) -> None:
    codes = torch.from_numpy(codec.encode(maps[:2]))
    one_hot = torch.nn.functional.one_hot(codes, 128).float().requires_grad_()
    soft = codec.decode_soft(one_hot)
    assert torch.allclose(soft.clamp(0, 1), codec.decode(codes), atol=1e-5)
    soft[0].sum().backward()
    assert one_hot.grad is not None
    assert one_hot.grad[0].abs().sum() > 0
    assert one_hot.grad[1].abs().sum() == 0
    with pytest.raises(MalformedBlockError, match="128"):
        codec.decode_soft(torch.ones(10, 10, 127))


def test_text_and_bytes(codec: DepthCodec, maps: np.ndarray) -> None:
    codes = codec.encode(maps)[0]
    assert np.array_equal(codec.from_text(codec.to_text(torch.from_numpy(codes))), codes)
    assert np.array_equal(codec.from_bytes(codec.to_bytes(codes)), codes)


def test_saved_codec_is_the_same(codec: DepthCodec, maps: np.ndarray, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["codebook"].dtype == torch.float32
    loaded = DepthCodec.from_pretrained(tmp_path)
    assert loaded.fingerprint == codec.fingerprint
    assert np.array_equal(loaded.encode(maps), codec.encode(maps))
    for tensor in loaded.model.state_dict().values():
        tensor.copy_(tensor.half().float())
    loaded.save_pretrained(tmp_path / "half")
    assert load_file(tmp_path / "half" / "model.safetensors")["codebook"].dtype == torch.float16
    assert DepthCodec.from_pretrained(tmp_path / "half").fingerprint == loaded.fingerprint != codec.fingerprint


def test_damaged_and_foreign_codecs_are_refused(codec: DepthCodec, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(changed: object, error: type[Exception], message: str) -> None:
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(error, match=message):
            DepthCodec.from_pretrained(tmp_path)

    refused({**config, "extra": 1}, ConfigError, "exactly the keys")
    refused({**config, "model": {**config["model"], "depth": 3}}, ConfigError, "unknown keys.*depth")
    refused({**config, "model": {**config["model"], "architecture": "x"}}, ConfigError, "unknown architecture 'x'")
    refused({**config, "model": {**config["model"], "heads": 5}}, ConfigError, "multiple of heads")
    refused({**config, "preprocessing": {**config["preprocessing"], "resize": "cubic"}}, ConfigError, "resize")
    refused({**config, "preprocessing": {"sise": 3}}, ConfigError, "sise")
    refused({**config, "format": 2}, CheckpointError, "update perceptok")
    refused({**config, "model": {**config["model"], "widths": [16, 64]}}, CheckpointError, "different models")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a readable codec"):
        DepthCodec.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "codebook": weights["codebook"] * torch.nan}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="NaN"):
        DepthCodec.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(CheckpointError):
        DepthCodec.from_pretrained(tmp_path)


def test_paths_never_become_hub_ids(tmp_path: Path) -> None:
    for missing in (tmp_path / "none", str(tmp_path / "none"), "none", "a/b/c", Path("a/b")):
        with pytest.raises(CheckpointError, match="expected a directory"):
            DepthCodec.from_pretrained(missing)


def test_reference_preprocessing_is_pillows_nearest() -> None:
    from PIL import Image

    grey = np.random.default_rng(0).integers(0, 256, (123, 457), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(grey).resize((320, 320), Image.Resampling.NEAREST))
    square = Preprocessing().square(torch.from_numpy(grey.astype(np.float32))[None])[0].numpy()
    assert np.array_equal(square, expected.astype(np.float32))


def test_area_preprocessing_keeps_the_mean() -> None:
    maps = torch.rand(1, 960, 1280, generator=torch.Generator().manual_seed(0))
    area = Preprocessing(resize="area").square(maps)
    assert area.shape == (1, 320, 320)
    assert area.mean() == pytest.approx(float(maps.mean()), abs=1e-3)
    assert area.std() < 0.5 * maps.std()
