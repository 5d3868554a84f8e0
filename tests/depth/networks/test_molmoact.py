"""MolmoAct's checkpoint: the same networks, fed as that project feeds them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perceptok.depth import (
    AuroraConfig,
    DepthCodec,
    DepthMap,
    DepthVQVAE,
    Preprocessing,
    block_to_text,
    load_aurora_checkpoint,
)
from perceptok.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def fixture(shared: Path) -> Path:
    folder = shared / "data" / "molmoact_fixture"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare state dict of random weights."""
    torch.manual_seed(0)
    state = DepthVQVAE(AuroraConfig(hidden_dim=2, codebook_dim=6)).state_dict()
    path = tmp_path_factory.mktemp("published") / "vae-final.pt"
    torch.save({("_vq_vae._embedding" if key == "codebook" else key): value for key, value in state.items()}, path)
    return path


def check_codes(codec: DepthCodec, nearness: np.ndarray, codes: np.ndarray, expected: np.ndarray) -> None:
    """Codes (10, 10) of a map (H, W) are the published ones; without AVX-512, but for ties of float32.

    These weights have 57 cells whose two nearest codes float32 can hardly tell apart. The published code computed the
    expected ones with AVX-512; kernels for other CPUs round otherwise, at every batch size.
    """
    cells = np.argwhere(codes != expected)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert len(cells) == 0
    assert len(cells) <= 3
    inputs = codec.preprocessing.to_network(
        codec.preprocessing.squash(torch.from_numpy(nearness[None]))[:, None]
    ).double()
    model = copy.deepcopy(codec.model).double()
    with torch.no_grad():
        features = model.compute_features(inputs)[0]
    for row, column in cells:
        feature = features[row, column]
        distances = (feature - model.codebook).square().sum(-1)
        two = [int(codes[row, column]), int(expected[row, column])]
        assert sorted(two) == sorted(distances.topk(2, largest=False).indices.tolist())
        # Squared distances are |f|^2 + |c|^2 - 2 f c in float32: their rounding is relative to these terms.
        terms = feature.square().sum() + model.codebook[two[1]].square().sum()
        assert (distances[two[0]] - distances[two[1]]).abs() < 4 * torch.finfo(torch.float32).eps * terms


class TestReference:
    def test_codes_blocks_and_maps(self, fixture: Path) -> None:
        codec = load_aurora_checkpoint(fixture / "vae-final.pt", preprocessing="molmoact")
        expected = np.load(fixture / "expected.npz")
        for index in range(6):
            nearness = expected[f"gray{index}"].astype(np.float32) / 255
            check_codes(codec, nearness, codec.encode(nearness)[0], expected["codes"][index])
            assert block_to_text(expected["codes"][index]) == expected["text"][index]
        raw = codec.decode(expected["codes"], clamp=False)
        np.testing.assert_allclose(raw, expected["decoded"], rtol=0, atol=1e-5)
        assert np.array_equal(codec.decode(expected["codes"]), raw.clip(0, 1))

    def test_threads_and_batches_decide_nothing(self, fixture: Path) -> None:
        codec = load_aurora_checkpoint(fixture / "vae-final.pt", preprocessing="molmoact")
        expected = np.load(fixture / "expected.npz")
        maps = [DepthMap.from_array(expected[f"gray{i}"], kind="inverse").to_nearness(normalize=False) for i in (3, 4)]
        alone = np.concatenate([codec.encode([nearness]) for nearness in maps])
        for nearness, codes, published in zip(maps, alone, expected["codes"][[3, 4]], strict=True):
            check_codes(codec, nearness.values, codes, published)
        before = torch.get_num_threads()
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                for batch_size in (1, 2):
                    np.testing.assert_array_equal(codec.encode(maps, batch_size=batch_size), alone)
        finally:
            torch.set_num_threads(before)

    def test_fed_as_aurora_most_codes_are_wrong(self, fixture: Path) -> None:
        codec = load_aurora_checkpoint(fixture / "vae-final.pt")
        expected = np.load(fixture / "expected.npz")
        codes = codec.encode(expected["gray0"].astype(np.float32) / 255)
        assert (codes[0] == expected["codes"][0]).mean() < 0.7


class TestLoading:
    def test_bare_and_wrapped_weights_are_the_same_codec(self, bare: Path, tmp_path: Path) -> None:
        torch.save({"weights": torch.load(bare, weights_only=True)}, tmp_path / "vae-final.pt")
        one, other = load_aurora_checkpoint(bare), load_aurora_checkpoint(tmp_path / "vae-final.pt")
        assert one.fingerprint == other.fingerprint

    def test_a_folder_and_another_file_name(self, bare: Path, tmp_path: Path) -> None:
        (tmp_path / "other.pt").write_bytes(bare.read_bytes())
        fingerprint = load_aurora_checkpoint(bare).fingerprint
        assert load_aurora_checkpoint(bare.parent).fingerprint == fingerprint
        assert load_aurora_checkpoint(tmp_path, filename="other.pt").fingerprint == fingerprint

    def test_the_choice_is_saved_and_part_of_the_fingerprint(self, bare: Path, tmp_path: Path) -> None:
        codec = load_aurora_checkpoint(bare, preprocessing="molmoact")
        assert codec.fingerprint != load_aurora_checkpoint(bare).fingerprint
        codec.save_pretrained(tmp_path)
        again = DepthCodec.from_pretrained(tmp_path)
        assert again.preprocessing == Preprocessing.from_name("molmoact")
        assert again.fingerprint == codec.fingerprint

    def test_a_preprocessing_of_one_s_own(self, bare: Path) -> None:
        own = Preprocessing(resize="area", low=0.0)
        assert load_aurora_checkpoint(bare, preprocessing=own).preprocessing == own

    def test_names_that_are_none(self, bare: Path) -> None:
        with pytest.raises(ConfigError, match="aurora, molmoact"):
            load_aurora_checkpoint(bare, preprocessing="molmo")

    def test_a_hub_id_that_cannot_be_reached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(
            CheckpointError, match=r"nobody/nothing cannot be downloaded from the Hugging Face Hub: the Hub cannot be"
        ):
            load_aurora_checkpoint("nobody/nothing")

    def test_a_missing_file_is_no_hub_id(self) -> None:
        with pytest.raises(CheckpointError, match="fetch the file again"):
            load_aurora_checkpoint("folder/vae-final.pt")


class TestPillowBilinear:
    @pytest.mark.parametrize("shape", [(256, 256), (240, 320), (480, 270), (90, 160), (320, 320), (333, 500), (1, 7)])
    def test_bit_for_bit(self, shape: tuple[int, int]) -> None:
        gray = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        small = np.asarray(Image.fromarray(gray).resize((320, 320), Image.Resampling.BILINEAR))
        square = Preprocessing.from_name("molmoact").squash(torch.from_numpy(gray.astype(np.float32) / 255)[None])
        assert np.array_equal(square[0].numpy(), small.astype(np.float32) / 255)

    def test_no_maps(self) -> None:
        assert Preprocessing.from_name("molmoact").squash(torch.empty(0, 4, 5)).shape == (0, 320, 320)
