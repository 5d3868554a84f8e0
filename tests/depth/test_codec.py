"""The codec: the same codes whatever the batch or the form of the input, and files that hold all of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from perceptok.depth import AuroraConfig, DepthCodec, DepthMap, DepthVQVAE, GridConfig, Preprocessing
from perceptok.depth.codec import _BYTES_PER_MAP, _fit_batch
from perceptok.depth.networks.grid import _convolve_depthwise, _SeparableBlock
from perceptok.depth.preprocessing import to_float32, validate_nearness
from perceptok.errors import CheckpointError, ConfigError, DepthMapError, MalformedBlockError
from perceptok.scenes import ProceduralDepthMaps
from tests.operators import RecordedOperators

TINY = GridConfig(widths=(16, 32), blocks=(1, 1), heads=2)


def tiny_codec(seed: int = 0, preprocessing: Preprocessing | None = None) -> DepthCodec:
    """Random networks whose codes spread: the code vectors are features of random maps."""
    torch.manual_seed(seed)
    model = DepthVQVAE(TINY)
    with torch.no_grad():
        features = model.compute_features(2 * torch.rand(2, 1, 320, 320) - 1).flatten(0, 2)
        model.codebook.copy_(features[torch.randperm(len(features))[:128]])
    return DepthCodec(model, preprocessing)


def random_maps(count: int, side: int = 320, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, side, side), dtype=np.float32)


@pytest.fixture(scope="module")
def codec() -> DepthCodec:
    return tiny_codec()


@pytest.fixture(scope="module")
def codes(codec: DepthCodec) -> np.ndarray:
    return codec.encode(random_maps(5))


class TestBatches:
    def test_codes_do_not_depend_on_them(self, codec: DepthCodec, codes: np.ndarray) -> None:
        assert codes.dtype == np.int64
        assert codes.shape == (5, 10, 10)
        assert len(np.unique(codes)) > 30
        maps = random_maps(5)
        np.testing.assert_array_equal(np.concatenate([codec.encode(one) for one in maps]), codes)
        for size in (1, 2, 5, 99):
            np.testing.assert_array_equal(codec.encode(maps, batch_size=size), codes)

    def test_nor_where_rounding_decides(self) -> None:
        codec = tiny_codec()
        twins = codec.codebook[:64]
        noise = torch.randn(twins.shape, generator=torch.Generator().manual_seed(1))
        codec.codebook[64:] = twins * (1 + 1e-7 * noise)
        maps = random_maps(6, seed=3)
        alone = np.concatenate([codec.encode(one) for one in maps])
        for size in (2, 3, 6):
            np.testing.assert_array_equal(codec.encode(maps, batch_size=size), alone)

    def test_float64_reads_the_weights_of_the_call(self) -> None:
        codec = tiny_codec()
        inputs = 2 * torch.from_numpy(random_maps(2))[:, None] - 1
        for seed in (0, 1):
            codec.model.load_state_dict(tiny_codec(seed).model.state_dict())
            encoder = copy.deepcopy(codec.model.encoder).double()
            expected = torch.cdist(encoder(inputs.double()), codec.codebook.double()).argmin(-1)
            with ThreadPoolExecutor(4) as threads:
                for found in threads.map(codec._encode_precisely, [inputs] * 4):
                    assert torch.equal(found, expected)
        assert {parameter.dtype for parameter in codec.model.parameters()} == {torch.float32}

    def test_a_depthwise_convolution_in_float64(self) -> None:
        block = _SeparableBlock(6, 2).double()
        x = torch.randn(2, 7, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = block.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        torch.testing.assert_close(_convolve_depthwise(x, block.depthwise), expected, rtol=1e-13, atol=1e-13)

    def test_none_at_all(self, codec: DepthCodec) -> None:
        for nothing in ([], np.empty((0, 8, 8), np.float32), torch.empty(0, 1, 8, 8)):
            codes = codec.encode(nothing)
            assert codes.shape == (0, 10, 10)
            assert isinstance(codes, torch.Tensor) == isinstance(nothing, torch.Tensor)
            assert codec.decode(codes).shape == (0, 320, 320)
            assert codec.encode_soft(nothing).shape == (0, 10, 10, 128)

    @pytest.mark.parametrize("size", [0, -1])
    def test_sizes_start_at_one(self, codec: DepthCodec, codes: np.ndarray, size: int) -> None:
        for call in (codec.encode, codec.encode_soft):
            with pytest.raises(ValueError, match=f"got {size}"):
                call(random_maps(1, side=4), batch_size=size)
        with pytest.raises(ValueError, match=f"got {size}"):
            codec.decode(codes, batch_size=size)

    def test_by_default_the_device_decides(self, codec: DepthCodec, codes: np.ndarray) -> None:
        assert codec.choose_batch_size() == 16
        assert codec.choose_batch_size(3) == 3
        np.testing.assert_array_equal(codec.encode(random_maps(5), batch_size=None), codes)

    @pytest.mark.parametrize(
        ("free", "expected"), [(140 * 2**30, 256), (16 * 2**30, 256), (4 * 2**30, 64), (2**28, 4), (2**20, 1), (0, 1)]
    )
    def test_as_many_as_fit_into_a_quarter_of_the_memory(self, free: int, expected: int) -> None:
        assert _fit_batch(free) == expected

    def test_no_intermediate_result_of_a_map_exceeds_the_bound(self, codec: DepthCodec) -> None:
        torch.manual_seed(0)
        for each in (codec, DepthCodec(DepthVQVAE(AuroraConfig(codebook_dim=64)))):
            with RecordedOperators() as operators, torch.no_grad():
                each.model.compute_features(torch.rand(1, 1, 320, 320))
                each.decode(torch.zeros(1, 10, 10, dtype=torch.int64))
            assert 2 * max(operators.sizes) <= _BYTES_PER_MAP


class TestCopies:
    """What is on the device in the right form is read where it is."""

    COPIES = frozenset({"_to_copy", "clone", "copy_", "contiguous", "empty_like"})

    def test_maps(self, codec: DepthCodec) -> None:
        maps = torch.from_numpy(random_maps(3))
        with RecordedOperators() as operators:
            list(codec._prepare_batches(maps, 2, None))
        assert not self.COPIES & set(operators.names)
        assert operators.names.count("mul") == 2  # the networks' scale and order of pixels, once a batch
        for inputs, batch in zip(codec._prepare_batches(maps, 2, None), maps.split(2), strict=True):
            assert inputs.is_contiguous()  # the first layer makes no copy
            assert torch.equal(codec.model.encoder(inputs), codec.model.encoder(2 * batch[:, None] - 1))
        assert validate_nearness(maps).data_ptr() == maps.data_ptr()
        assert to_float32(array := maps.numpy()) is array

    def test_codes(self, codec: DepthCodec) -> None:
        codes = torch.randint(128, (3, 10, 10), generator=torch.Generator().manual_seed(0))
        assert codec._to_grids(codes).data_ptr() == codes.data_ptr()
        with RecordedOperators() as operators:
            codec.decode(codes, batch_size=2)
        assert not {"_to_copy", "copy_"} & set(operators.names)
        with RecordedOperators() as operators:
            maps = codec.decode(codes, batch_size=2, clamp=False)
        assert "copy_" not in set(operators.names)
        assert operators.names.count("sub") == 2  # scale and order of pixels, into the result, once a batch
        assert torch.equal(codec.decode(codes), maps.clamp(0, 1))
        for scale in (Preprocessing(), Preprocessing(low=-0.3, high=1.7)):
            found = DepthCodec(codec.model, scale).decode(codes, clamp=False)
            expected = scale.from_network(codec.model.reconstruct(codec.model.look_up_vectors(codes)))[:, 0]
            assert torch.equal(found, expected)

    def test_other_forms_still_work_and_others_are_refused(self, codec: DepthCodec) -> None:
        codes = torch.randint(128, (2, 10, 10), generator=torch.Generator().manual_seed(0))
        maps = codec.decode(codes)
        assert torch.equal(codec.decode(codes.int()), maps)
        assert torch.equal(codec.decode(codes.transpose(1, 2).contiguous().transpose(1, 2)), maps)
        assert torch.equal(codec.decode(codes[0])[0], maps[0])
        for wrong in (codes - 128, codes + 128, codes[None], codes[:, :5], codes.float()):
            with pytest.raises(MalformedBlockError, match="codes"):
                codec.decode(wrong)


class TestForms:
    def test_every_form_of_a_map_gives_the_same_codes(self, codec: DepthCodec) -> None:
        maps = random_maps(2, side=24)
        expected = codec.encode(maps)
        depths = [DepthMap.from_array(one, kind="inverse", scale=1) for one in maps]
        nearness = [depth.to_nearness(normalize=False) for depth in depths]
        for form in (
            maps[:, None],
            maps.astype(np.float64),
            maps.astype(">f4"),
            maps[:, ::-1][:, ::-1],
            np.asfortranarray(maps),
            list(maps),
            nearness,
            tuple(nearness),
        ):
            np.testing.assert_array_equal(codec.encode(form), expected)
        np.testing.assert_array_equal(codec.encode(nearness[0]), expected[:1])
        np.testing.assert_array_equal(codec.encode(maps[0]), expected[:1])

    def test_a_depth_map_is_encoded_by_its_nearness(self, codec: DepthCodec) -> None:
        metres = DepthMap.from_array(1 + 9 * random_maps(1, side=24)[0], kind="metric", unit="m")
        other = DepthMap.from_array(random_maps(1, side=31, seed=4)[0], kind="inverse", scale=1)
        expected = np.concatenate([codec.encode(one.to_nearness().values) for one in (metres, other)])
        np.testing.assert_array_equal(codec.encode([metres, other]), expected)
        np.testing.assert_array_equal(codec.encode([metres, other.to_nearness()]), expected)
        np.testing.assert_array_equal(codec.encode(metres), expected[:1])

    def test_memory_that_may_not_be_written_or_runs_backwards(self, codec: DepthCodec) -> None:
        maps = random_maps(1, side=24)
        expected = codec.encode(maps)
        nearness = DepthMap.from_array(maps[0], kind="inverse", scale=1).to_nearness(normalize=False)
        backwards = type(nearness)(
            np.ascontiguousarray(nearness.values[::-1])[::-1], nearness.valid, 1.0, 0.0, "inverse"
        )
        np.testing.assert_array_equal(codec.encode(backwards), expected)
        maps.flags.writeable = False
        nearness.values.flags.writeable = False
        np.testing.assert_array_equal(codec.encode(maps), expected)
        np.testing.assert_array_equal(codec.encode(nearness), expected)

    def test_tensors_in_tensors_out(self, codec: DepthCodec) -> None:
        maps = random_maps(2)
        codes = codec.encode(torch.from_numpy(maps)[:, None])
        assert isinstance(codes, torch.Tensor)
        assert codes.dtype == torch.int64
        np.testing.assert_array_equal(codes.numpy(), codec.encode(maps))
        decoded, soft = codec.decode(codes), codec.encode_soft(torch.from_numpy(maps))
        assert isinstance(decoded, torch.Tensor)
        assert isinstance(soft, torch.Tensor)
        np.testing.assert_array_equal(decoded.numpy(), codec.decode(codes.numpy()))
        assert codec.to_text(codes[0]) == codec.to_text(codes[0].numpy())
        assert codec.to_bytes(codes[0]) == codec.to_bytes(codes[0].numpy())

    @pytest.mark.parametrize(
        ("depth", "message"),
        [
            (np.full((4, 4), np.nan, np.float32), "DepthMap.from_array"),
            (np.full((4, 4), np.inf), "NaN or infinite.*DepthMap.from_array"),
            (np.full((4, 4), 1.5), r"got 1.5..1.5.*DepthMap.from_array"),
            (np.full((4, 4), -0.25), r"got -0.25..-0.25"),
            (np.zeros((4, 4), np.uint8), "Say what the integers mean"),
            (np.zeros((4, 4), np.uint32), "Say what the integers mean"),
            (torch.zeros(4, 4, dtype=torch.int64), "Say what the integers mean"),
            (np.zeros(4), r"\(B, 1, H, W\); got \(4,\)"),
            (np.zeros((1, 3, 4, 4)), r"got \(1, 3, 4, 4\)"),
            (np.zeros((2, 0, 4)), r"got \(2, 0, 4\)"),
            (np.zeros((4, 4), complex), "got complex128"),
            ("map.png", "array of numbers"),
            ([np.zeros((4, 4)), np.zeros((5, 5))], "list of DepthMap"),
        ],
    )
    def test_what_is_refused(self, codec: DepthCodec, depth: Any, message: str) -> None:
        for call in (codec.encode, codec.encode_soft):
            with pytest.raises(DepthMapError, match=message):
                call(depth)


class TestSoft:
    def test_rows_are_distributions_around_the_codes(self, codec: DepthCodec, codes: np.ndarray) -> None:
        probs = codec.encode_soft(random_maps(5), temperature=0.05)
        assert probs.shape == (5, 10, 10, 128)
        assert probs.dtype == np.float32
        np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
        np.testing.assert_array_equal(probs.argmax(-1), codes)

    def test_it_is_the_softmax_of_squared_distances(self, codec: DepthCodec) -> None:
        maps = random_maps(1)
        with torch.no_grad():
            features = codec.model.compute_features(torch.from_numpy(2 * maps - 1)[:, None])[0].double().numpy()
        distances = ((features[:, :, None] - codec.codebook.double().numpy()) ** 2).sum(-1)
        weights = np.exp(-distances / 0.3)
        expected = weights / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(codec.encode_soft(maps, temperature=0.3)[0], expected, atol=1e-5)

    @pytest.mark.parametrize("temperature", [1e-9, 1e-40])
    def test_cold_it_is_one_hot(self, codec: DepthCodec, codes: np.ndarray, temperature: float) -> None:
        probs = codec.encode_soft(random_maps(5), temperature=temperature)
        np.testing.assert_array_equal(probs, np.eye(128, dtype=np.float32)[codes])

    @pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
    def test_temperatures_are_positive(self, codec: DepthCodec, temperature: float) -> None:
        with pytest.raises(ValueError, match="must be positive"):
            codec.encode_soft(random_maps(1, side=4), temperature=temperature)

    def test_one_hot_rows_decode_as_codes(self, codec: DepthCodec, codes: np.ndarray) -> None:
        probs = torch.eye(128)[torch.from_numpy(codes[:2])]
        soft = codec.decode_soft(probs)
        np.testing.assert_allclose(soft.clamp(0, 1).numpy(), codec.decode(codes[:2]), atol=1e-5)
        torch.testing.assert_close(codec.decode_soft(probs[0]), soft[:1], rtol=0, atol=1e-5)

    def test_gradient_reaches_the_probabilities(self, codec: DepthCodec) -> None:
        generator = torch.Generator().manual_seed(0)
        probs = torch.rand(1, 10, 10, 128, generator=generator).softmax(-1).requires_grad_()
        weight = torch.randn(1, 320, 320, generator=generator) / 320
        (codec.decode_soft(probs) * weight).sum().backward()
        assert probs.grad is not None
        direction = probs.grad / probs.grad.norm()
        step = 0.05
        with torch.no_grad():
            above, below = (
                float((codec.decode_soft(probs + sign * step * direction) * weight).double().sum()) for sign in (1, -1)
            )
        assert (above - below) / (2 * step) == pytest.approx(float(probs.grad.norm()), rel=0.02)
        assert all(parameter.grad is None for parameter in codec.model.parameters())

    @pytest.mark.parametrize("shape", [(100, 128), (10, 10, 127), (1, 1, 10, 10, 128)])
    def test_other_shapes_are_refused(self, codec: DepthCodec, shape: tuple[int, ...]) -> None:
        with pytest.raises(MalformedBlockError, match="probabilities have shape"):
            codec.decode_soft(torch.zeros(shape))

    def test_none_at_all(self, codec: DepthCodec) -> None:
        assert codec.decode_soft(torch.zeros(0, 10, 10, 128)).shape == (0, 320, 320)


class TestDecode:
    def test_shape_range_and_type(self, codec: DepthCodec, codes: np.ndarray) -> None:
        maps = codec.decode(codes)
        assert maps.shape == (5, 320, 320)
        assert maps.dtype == np.float32
        assert 0 <= maps.min() < maps.max() <= 1
        np.testing.assert_allclose(codec.decode(codes, batch_size=2), maps, atol=1e-5)
        np.testing.assert_allclose(codec.decode(codes[3].astype(np.uint8)), maps[3:4], atol=1e-5)
        np.testing.assert_allclose(codec.decode(codes[0].tolist()), maps[:1], atol=1e-5)

    @pytest.mark.parametrize(
        "codes", [np.zeros((9, 10), int), np.zeros((10, 10)), np.full((10, 10), 128), torch.full((1, 10, 10), -1)]
    )
    def test_what_is_refused(self, codec: DepthCodec, codes: Any) -> None:
        with pytest.raises(MalformedBlockError):
            codec.decode(codes)

    def test_surface_forms(self, codec: DepthCodec, codes: np.ndarray) -> None:
        np.testing.assert_array_equal(codec.from_text(codec.to_text(codes[0])), codes[0])
        np.testing.assert_array_equal(codec.from_bytes(codec.to_bytes(codes[0])), codes[0])


class TestFiles:
    @pytest.mark.parametrize("half", [True, False])
    def test_what_is_loaded_is_what_was_saved(self, tmp_path: Path, half: bool) -> None:
        codec = tiny_codec(preprocessing=Preprocessing(resize="area"))
        if half:
            codec.model.half().float()
        codec.save_pretrained(tmp_path / "codec")
        stored = load_file(tmp_path / "codec" / "model.safetensors")
        assert {value.dtype for value in stored.values()} == {torch.float16 if half else torch.float32}
        again = DepthCodec.from_pretrained(str(tmp_path / "codec"))
        assert again.preprocessing == codec.preprocessing
        assert again.model.config == TINY
        assert again.fingerprint == codec.fingerprint
        assert again.codebook.dtype == torch.float32
        maps = random_maps(2, side=50)
        codes = codec.encode(maps)
        np.testing.assert_array_equal(again.encode(maps), codes)
        np.testing.assert_array_equal(again.decode(codes), codec.decode(codes))

    def test_fingerprints_tell_codecs_apart(self, codec: DepthCodec) -> None:
        nudged = tiny_codec()
        assert nudged.fingerprint == codec.fingerprint
        nudged.codebook[0, 0] += 1e-3
        others = {
            nudged.fingerprint,
            tiny_codec(1).fingerprint,
            tiny_codec(0, Preprocessing(resize="area")).fingerprint,
        }
        assert len(others | {codec.fingerprint}) == 4

    def test_nothing_is_left_beside_the_files(self, codec: DepthCodec, tmp_path: Path) -> None:
        codec.save_pretrained(tmp_path)
        assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}


Edit = Callable[[dict[str, Any]], object]


class TestDamage:
    @pytest.fixture
    def saved(self, codec: DepthCodec, tmp_path: Path) -> Path:
        codec.save_pretrained(tmp_path / "codec")
        return tmp_path / "codec"

    @pytest.mark.parametrize(
        ("edit", "error", "message"),
        [
            (lambda c: c.update(extra=1), ConfigError, "exactly the keys"),
            (lambda c: c.pop("preprocessing"), ConfigError, "exactly the keys"),
            (lambda c: c.pop("format"), ConfigError, "exactly the keys"),
            (lambda c: c["model"].update(depth=3), ConfigError, "GridConfig: unknown key 'depth'"),
            (lambda c: c["model"].update(architecture="swin"), ConfigError, "unknown architecture 'swin'"),
            (lambda c: c["model"].update(heads=5), ConfigError, "multiple of heads"),
            (lambda c: c["preprocessing"].update(crop=1), ConfigError, "Preprocessing: unknown key 'crop'"),
            (lambda c: c.update(format=2), CheckpointError, "update perceptok"),
            (lambda c: c.update(format=2, something="new"), CheckpointError, "update perceptok"),
            (lambda c: c["model"].update(codebook_dim=16), CheckpointError, "belong to different models"),
            (lambda c: c["model"].update(blocks=[2, 1]), CheckpointError, "belong to different models"),
        ],
    )
    def test_of_the_configuration(self, saved: Path, edit: Edit, error: type[Exception], message: str) -> None:
        values = json.loads((saved / "config.json").read_text())
        edit(values)
        (saved / "config.json").write_text(json.dumps(values))
        with pytest.raises(error, match=message):
            DepthCodec.from_pretrained(saved)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    @pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"{"])
    def test_of_a_file(self, saved: Path, name: str, content: bytes | None) -> None:
        if content is None:
            (saved / name).unlink()
        else:
            (saved / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="not a readable codec"):
            DepthCodec.from_pretrained(saved)

    def test_truncated_weights(self, saved: Path) -> None:
        data = (saved / "model.safetensors").read_bytes()
        (saved / "model.safetensors").write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError, match="not a readable codec"):
            DepthCodec.from_pretrained(saved)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_diverged_weights(self, saved: Path, value: float) -> None:
        state = load_file(saved / "model.safetensors")
        state["codebook"][3, 4] = value
        save_file(state, saved / "model.safetensors")
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            DepthCodec.from_pretrained(saved)

    @pytest.mark.parametrize("change", ["gone", "added"])
    def test_another_set_of_weights(self, saved: Path, change: str) -> None:
        state = load_file(saved / "model.safetensors")
        if change == "gone":
            del state["codebook"]
        else:
            state["more"] = torch.zeros(2)
        save_file(state, saved / "model.safetensors")
        with pytest.raises(CheckpointError, match="codebook has shape none" if change == "gone" else "more has shape"):
            DepthCodec.from_pretrained(saved)

    @pytest.mark.parametrize(
        "name", ["codec", "./codec", "./my/codec", "../codec", "my/deep/codec", "my/codec/", "~/codec", "/no/codec"]
    )
    def test_a_path_to_nothing_never_reaches_the_network(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("asked for an address")

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("socket.getaddrinfo", refuse)
        for form in (name, Path(name)):
            with pytest.raises(CheckpointError, match=r"expected a directory with config\.json"):
                DepthCodec.from_pretrained(form)

    def test_a_file_is_no_codec(self, tmp_path: Path) -> None:
        (tmp_path / "vae-final.pt").write_bytes(b"x")
        with pytest.raises(CheckpointError, match="load_aurora_checkpoint"):
            DepthCodec.from_pretrained(tmp_path / "vae-final.pt")


def procedural_maps(count: int = 12) -> torch.Tensor:
    scenes = ProceduralDepthMaps(seed=11, length=count)
    return torch.from_numpy(np.stack([scenes[index][0] for index in range(count)]))


def test_autocast_changes_nothing() -> None:
    codec = DepthCodec.from_pretrained()
    nearness = procedural_maps()
    codes, soft = codec.encode(nearness), codec.encode_soft(nearness)
    decoded, softly = codec.decode(codes), codec.decode_soft(soft)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(codec.encode(nearness), codes)
            assert torch.equal(codec.encode_soft(nearness), soft)
            assert torch.equal(codec.decode(codes), decoded)
            assert torch.equal(codec.decode_soft(soft), softly)
            assert codec.decode_soft(soft.to(dtype)).dtype == torch.float32


def test_gradients_pass_under_autocast() -> None:
    codec = DepthCodec.from_pretrained()
    probs = torch.softmax(torch.randn(1, 10, 10, 128), -1).requires_grad_()
    codec.decode_soft(probs).sum().backward()
    expected = probs.grad
    probs.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = codec.decode_soft(probs)
    decoded.sum().backward()  # outside, as torch asks: inside, autocast would round the backward pass itself
    assert expected is not None
    assert probs.grad is not None
    torch.testing.assert_close(probs.grad, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
