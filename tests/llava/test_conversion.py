"""Conversion for other engines: what is refused, and that the tokens of what was written are checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.errors import CheckpointError, ConfigError, OutputError
from perceptok.llava import convert_checkpoint

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
    with pytest.raises(ConfigError, match="format is one of 'gguf', 'onnx'; got 'exl2'"):
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
