"""Conversion for other engines: what is refused, and that the tokens of what was written are checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, models
from transformers import (
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

import perceptok as pt
from perceptok.errors import CheckpointError, ConfigError, OutputError
from perceptok.llava import convert_checkpoint
from perceptok_cli.main import app

pytest.importorskip("gguf", reason="needs perceptok[gguf]")

CONVERTER = """
import json, sys
from pathlib import Path
import gguf

folder, _, target, _, precision = sys.argv[1:]
assert precision == "f32", precision
tokens = json.loads(Path(folder, "tokenizer.json").read_text())
vocab = {**tokens["model"]["vocab"], **{entry["content"]: entry["id"] for entry in tokens["added_tokens"]}}
if Path(folder, "tokenizer.model").exists():  # as llama.cpp's converter does
    vocab = {**tokens["model"]["vocab"], **json.loads(Path(folder, "added_tokens.json").read_text())}
pieces = sorted(vocab, key=vocab.get)
CHANGE
writer = gguf.GGUFWriter(target, "llama")
writer.add_token_list(pieces)
writer.add_token_types([gguf.TokenType.USER_DEFINED if piece.startswith("<") else 1 for piece in pieces])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.close()
"""
"""A converter that writes the tokens alone."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The files of a language model that a converter of tokens reads."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    tokens = [token for token_set in (pt.tokens.DEPTH, pt.tokens.PIXEL) for token in token_set.tokens]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    folder = tmp_path / "merged"
    tokenizer.save_pretrained(folder)
    pt.PerceptionVocabulary.from_tokenizer(tokenizer).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def write_converter(folder: Path, change: str = "") -> Path:
    file = folder / "convert.py"
    file.write_text(CONVERTER.replace("CHANGE", change))
    return file


def convert(checkpoint: Path, converter: Path, **settings: Any) -> Path:
    output = checkpoint.with_name("out")
    return convert_checkpoint(checkpoint, output, format="gguf", precision="f32", converter=converter, **settings)


@pytest.mark.parametrize("is_sentencepiece", [False, True])
def test_tokens_that_are_kept(checkpoint: Path, tmp_path: Path, is_sentencepiece: bool) -> None:
    if is_sentencepiece:
        (checkpoint / "tokenizer.model").write_bytes(b"")
    before = sorted(file.name for file in checkpoint.iterdir())
    output = convert(checkpoint, write_converter(tmp_path))
    assert {file.name for file in output.iterdir()} == {"model.gguf", "perception_tokens.json"}
    assert sorted(file.name for file in checkpoint.iterdir()) == before, "the checkpoint is as it was"
    with pytest.raises(OutputError, match="exists"):
        convert(checkpoint, write_converter(tmp_path))
    convert(checkpoint, write_converter(tmp_path), force=True)


@pytest.mark.parametrize(
    "change",
    [
        "pieces = pieces[:-1]",
        "pieces[5] = 'x'",
        "pieces[5], pieces[6] = pieces[6], pieces[5]",
        "pieces.insert(0, 'x')",
        "pieces = [piece if piece != '<DEPTH_5>' else '[PAD7]' for piece in pieces]",
        "gguf.TokenType.USER_DEFINED = gguf.TokenType.CONTROL",
    ],
)
def test_tokens_that_are_lost_are_noticed(checkpoint: Path, tmp_path: Path, change: str) -> None:
    if "CONTROL" in change:
        change = "import types; gguf.TokenType = types.SimpleNamespace(USER_DEFINED=gguf.TokenType.CONTROL)"
    with pytest.raises(CheckpointError, match="is not a token with the id"):
        convert(checkpoint, write_converter(tmp_path, change))
    assert not checkpoint.with_name("out").exists()


def test_a_converter_that_fails_is_quoted(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the converter failed: ValueError: no such architecture"):
        convert(checkpoint, write_converter(tmp_path, "raise ValueError('no such architecture')"))
    with pytest.raises(CheckpointError, match="name its pre-tokenizer"):
        convert(checkpoint, write_converter(tmp_path, "raise ValueError('BPE pre-tokenizer was not recognized')"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] in ([], [".out.lock"])


def test_what_cannot_be_converted(checkpoint: Path, tmp_path: Path) -> None:
    converter = write_converter(tmp_path)
    with pytest.raises(ConfigError, match="format is one of 'gguf', 'onnx', 'llava'; got 'exl2'"):
        convert_checkpoint(checkpoint, tmp_path / "out", format="exl2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="precision is one of auto, f32"):
        convert_checkpoint(checkpoint, tmp_path / "out", format="gguf", precision="int4", converter=converter)
    with pytest.raises(ConfigError, match=r"needs llama\.cpp's convert_hf_to_gguf\.py"):
        convert_checkpoint(checkpoint, tmp_path / "out", format="gguf")
    with pytest.raises(ConfigError, match="the converter does not exist"):
        convert(checkpoint, tmp_path / "missing.py")
    with pytest.raises(ConfigError, match="is not the name of a pre-tokenizer"):
        convert(checkpoint, converter, pre_tokenizer="'); import os")
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {}}))
    with pytest.raises(CheckpointError, match="has a vision tower"):
        convert(checkpoint, converter)
    (checkpoint / "config.json").unlink()
    with pytest.raises(CheckpointError, match="merge an adapter first"):
        convert(checkpoint, converter)


def test_a_model_that_was_never_extended(checkpoint: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))).save_pretrained(bare)
    shutil.copy(checkpoint / "config.json", bare)
    with pytest.raises(pt.errors.PerceptokError, match=r"perception_tokens\.json|extend_vocabulary"):
        convert(bare, write_converter(tmp_path))


@pytest.fixture(scope="module")
def merged_llava(tiny_llava: Path, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with perception tokens, in several files."""
    model, processor, vocab = pt.load_llava(tiny_llava, codec=codec)
    folder = tmp_path_factory.mktemp("merged") / "merged"
    model.save_pretrained(folder, max_shard_size="300KB")
    processor.save_pretrained(folder)
    vocab.save_pretrained(folder)
    return folder


def test_the_original_layout_holds_the_same_model(merged_llava: Path, tmp_path: Path) -> None:
    """Each part as its own class of transformers loads it, with the values of the whole."""
    assert len(list(merged_llava.glob("*.safetensors"))) > 1
    folder = convert_checkpoint(merged_llava, tmp_path / "sglang", format="llava")
    whole = LlavaForConditionalGeneration.from_pretrained(merged_llava)
    tower = CLIPVisionModel.from_pretrained(folder / "clip")
    values = json.loads((folder / "config.json").read_text())
    assert values["architectures"] == ["LlavaLlamaForCausalLM"]
    assert values["mm_vision_tower"] == str(folder.resolve() / "clip")
    assert values["image_token_index"] == whole.config.image_token_id
    assert values["hidden_size"] == whole.config.text_config.hidden_size
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    weights = {name: weight for file in set(names.values()) for name, weight in load_file(folder / file).items()}
    text = LlamaForCausalLM(whole.config.text_config).eval()
    projector = {name: weights.pop(name) for name in list(weights) if name.startswith("model.mm_projector.")}
    text.load_state_dict(weights)
    ids = torch.arange(5)[None]
    assert torch.equal(text(ids).logits, whole(input_ids=ids).logits)
    pixels = torch.rand(1, 3, *[whole.config.vision_config.image_size] * 2)
    layer = values["mm_vision_select_layer"]
    features = tower(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
    linear = torch.nn.functional.linear
    first, last = ([projector[f"model.mm_projector.{layer}.{kind}"] for kind in ("weight", "bias")] for layer in (0, 2))
    found = linear(torch.nn.functional.gelu(linear(features, *first)), *last)
    expected = whole.get_image_features(pixel_values=pixels, vision_feature_layer=layer)
    expected = getattr(expected, "pooler_output", expected)
    torch.testing.assert_close(found[0], expected[0])
    assert (
        pt.PerceptionVocabulary.from_pretrained(folder).tokens
        == pt.PerceptionVocabulary.from_pretrained(merged_llava).tokens
    )
    convert_checkpoint(merged_llava, folder, format="llava", force=True)
    with pytest.raises(OutputError):
        convert_checkpoint(folder, merged_llava, format="llava", force=True)


def test_the_original_layout_by_the_command_line(merged_llava: Path, tmp_path: Path) -> None:
    words = ["llava", "export", str(merged_llava), "-o", str(tmp_path / "sglang"), "--format"]
    result = CliRunner().invoke(app, [*words, "llava"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "sglang" / "clip" / "model.safetensors").is_file()
    result = CliRunner().invoke(app, [*words, "tensorrt"])
    assert isinstance(result.exception, ConfigError)
    assert "format is one of lora, gguf, onnx and llava; got 'tensorrt'" in str(result.exception)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava_next"}, "not a LLaVA-1.5"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "not a LLaVA-1.5"),
        ({"text_config": {"model_type": "mistral"}}, "not a LLaVA-1.5"),
        ({"text_config": None}, "not a LLaVA-1.5"),
        ({"vision_feature_select_strategy": "full"}, "by the strategy 'full'"),
        ({"vision_feature_layer": [-2, -5]}, r"of the layer \[-2, -5\]"),
    ],
)
def test_models_without_an_original_layout(
    merged_llava: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(merged_llava, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(folder, tmp_path / "out", format="llava")
    assert not (tmp_path / "out").exists()
