"""Loading: extended, recorded, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import perceptok as pt
from perceptok.errors import CheckpointError, ConfigError, VocabularyError
from perceptok.llava import FrameRule, load_llava
from perceptok.llava.loading import get_perception_settings
from perceptok.llava.saving import probe_logits
from tests.llava.tiny import save_llava_of


def test_extended_and_recorded(tiny_llava: Path, codec: pt.DepthCodec) -> None:
    model, processor, vocab = load_llava(tiny_llava, codec=codec)
    known: Any = processor
    assert vocab.tokens["<DEPTH_START>"] == 400
    assert model.get_output_embeddings().weight.shape[0] == len(known.tokenizer) == 866  # type: ignore[operator]
    assert vocab.codec_fingerprint == codec.fingerprint
    settings = get_perception_settings(model)
    assert settings["frame"] == {"mode": "squash", "size": 336, "interpolation": "bicubic"}
    assert settings["codec"] == codec.fingerprint
    assert len(settings["base"]) > 64
    assert not model.training


def test_saved_and_loaded_again(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    model, processor, vocab = load_llava(tiny_llava, codec=codec, init="codebook")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    vocab.save_pretrained(tmp_path)
    again, _, same = load_llava(tmp_path, codec=codec)
    assert same.tokens == vocab.tokens
    assert same.codec_fingerprint == codec.fingerprint
    assert get_perception_settings(again) == get_perception_settings(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    with pytest.raises(ConfigError, match=r"trained with the frame .*squash.* not .*letterbox"):
        load_llava(tmp_path, frame="letterbox")
    other = pt.DepthCodec.from_pretrained()
    other.model.codebook.add_(1)
    with pytest.raises(VocabularyError, match="codes of two codecs are not interchangeable"):
        load_llava(tmp_path, codec=other)
    manifest = json.loads((tmp_path / "perception_tokens.json").read_text())
    manifest["tokens"]["<DEPTH_0>"], manifest["tokens"]["<DEPTH_1>"] = 403, 402
    (tmp_path / "perception_tokens.json").write_text(json.dumps(manifest))
    with pytest.raises(VocabularyError, match="the manifest is of another tokenizer: it gives <DEPTH_0> the id 403"):
        load_llava(tmp_path)


def test_every_image_is_squashed(tiny_llava: Path) -> None:
    """The framed image through the processor is the squashed image, whatever the processor did before."""
    model, processor, _ = load_llava(tiny_llava)
    known: Any = processor
    image = Image.effect_noise((200, 100), 80).convert("RGB")
    image.paste((255, 0, 0), (0, 0, 40, 100))
    framed = FrameRule().apply(image)
    assert framed.size == (336, 336)
    direct = known.image_processor(image, return_tensors="pt")["pixel_values"]
    ours = known.image_processor(framed, return_tensors="pt")["pixel_values"]
    assert direct.shape == ours.shape == (1, 3, 56, 56)
    # The red stripe is at the left edge in both: nothing was cropped.
    assert torch.allclose(direct[0, :, :, :9], ours[0, :, :, :9], atol=0.3)
    text = "USER: <image>\nWhich? ASSISTANT:"
    batch = known(images=[framed], text=[text], return_tensors="pt")
    assert int((batch["input_ids"] == known.image_token_id).sum()) == 16
    assert model(**batch).logits.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_images_of_odd_sizes(size: tuple[int, int]) -> None:
    for mode in ("squash", "letterbox"):
        assert FrameRule(mode).apply(Image.new("L", size, 90)).size == (336, 336)  # type: ignore[arg-type]


def test_refused(tiny_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="folder not found: "):
        load_llava(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no multimodal model loads"):
        load_llava(tmp_path)
    with pytest.raises(ConfigError, match="a frame is one of squash, letterbox, processor; got 'crop'"):
        load_llava(tiny_llava, frame="crop")
    with pytest.raises(VocabularyError, match="pass codec="):
        load_llava(tiny_llava, init="codebook")
    bare = tmp_path / "bare"
    shutil.copytree(tiny_llava, bare)
    (bare / "processor_config.json").unlink()
    (bare / "tokenizer.json").unlink()
    (bare / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match="processor"):
        load_llava(bare)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("ignore")  # bitsandbytes on a CPU prints much
def test_the_language_model_alone_is_quantised(bits: Any, codec: pt.DepthCodec, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = save_llava_of(tmp_path / "base", {"hidden_size": 128, "intermediate_size": 256})
    model, processor, vocab = load_llava(base, codec=codec, bits=bits, dtype=torch.float32)
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if "Linear" in type(module).__name__}
    assert len(kinds) > 20
    for name, kind in kinds.items():
        assert (kind == f"Linear{bits}bit" or kind == f"Linear{bits}bitLt") == ("language_model" in name), name
    assert probe_logits(model, processor, vocab, FrameRule()).isfinite().all()
