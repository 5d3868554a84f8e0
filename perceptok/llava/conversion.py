"""Checkpoints in the formats of llama.cpp (GGUF), onnxruntime-genai (ONNX) and SGLang (LLaVA's original layout).

The converters of llama.cpp and onnxruntime-genai run in a process of their own; what they wrote is read again, and
every perception token must be one token with the id that the manifest gives it. SGLang has no converter: the weights of
a LLaVA-1.5 are written here under their original names, the vision tower apart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import load_file, save_file
from transformers import LlavaConfig

from perceptok.checkpoints import CHECKPOINT_FILES, list_weight_files, read_json_object, refuse_code
from perceptok.errors import CheckpointError, ConfigError, MissingExtraError, quote_error, translate_errors
from perceptok.files import atomic_folder
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["CheckpointFormat", "convert_checkpoint"]

CheckpointFormat = Literal["gguf", "onnx", "llava"]
"""Formats of other engines: llama.cpp's GGUF, onnxruntime-genai's ONNX, and LLaVA's original layout for SGLang."""

_MODEL_FILES: dict[CheckpointFormat, str] = {
    "gguf": "model.gguf",
    "onnx": "genai_config.json",
    "llava": "clip/config.json",
}
_OTHER_FILES = ("*.gguf", "*.onnx", "*.onnx.data", "*.onnx_data", "clip/*", "codec/*")
_PRECISIONS: dict[CheckpointFormat, tuple[str, ...]] = {
    "gguf": ("auto", "f32", "f16", "bf16", "q8_0"),
    "onnx": ("fp32", "fp16", "bf16", "int4"),
    "llava": ("auto",),
}
_ORIGINAL_NAMES = (
    (re.compile(r"^(?:model\.)?language_model\.(?:model\.)?(embed_tokens|layers|norm)\."), r"model.\1."),
    (re.compile(r"^(?:language_model\.)?lm_head\."), "lm_head."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\.linear_1\."), "model.mm_projector.0."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\.linear_2\."), "model.mm_projector.2."),
)
"""Names of weights in transformers, of all its versions, and in LLaVA's original code."""
_VISION_NAME = re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?")
_PATCHED = """
import sys, runpy
sys.path.insert(0, {folder!r})
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: {name!r}
sys.argv = sys.argv[1:]
runpy.run_path({converter!r}, run_name="__main__")
"""
"""Runs llama.cpp's converter with a given pre-tokenizer; arguments as it takes them, its path first."""


def convert_checkpoint(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    format: CheckpointFormat,  # noqa: A002 -- as the command line names it
    precision: str | None = None,
    provider: str = "cpu",
    converter: str | os.PathLike[str] | None = None,
    pre_tokenizer: str | None = None,
    force: bool = False,
) -> Path:
    """Convert a plain checkpoint with perception tokens for llama.cpp, onnxruntime-genai or SGLang.

    Args:
        folder: A checkpoint that transformers loads, with its manifest (`perception_tokens.json`): a language model, or
            for "llava" a LLaVA-1.5.
        output: Folder to write: `model.gguf`, or what the engine loads, and the manifest. With "llava" its
            configuration names the vision tower by this place, so that it cannot be moved.
        format: "gguf", "onnx" or "llava".
        precision: Of the weights, as the converter names it: for GGUF auto (default), f32, f16, bf16 or q8_0; for ONNX
            fp32 (default), fp16, bf16 or int4; "llava" leaves them as they are (auto).
        provider: Execution provider of ONNX: "cpu", "cuda", ...
        converter: Path of llama.cpp's `convert_hf_to_gguf.py`, for GGUF.
        pre_tokenizer: llama.cpp's name for the pre-tokenizer of a BPE tokenizer that its converter does not know, such
            as "gpt-2".
        force: Replace an existing folder.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder has no manifest, the model has a vision tower (the converters for GGUF and ONNX were
            not tried on one) or for "llava" is not a LLaVA-1.5, the converter failed, or the tokens have other ids in
            what it wrote.
        ConfigError: The format or the precision is not one of those above, or llama.cpp's converter is not named.
        MissingExtraError: onnxruntime-genai or gguf is not installed.
        OutputError: The output exists, or cannot be written.
    """
    if format not in get_args(CheckpointFormat):
        raise ConfigError(f"format is one of {', '.join(map(repr, get_args(CheckpointFormat)))}; got {format!r}")
    precision = precision or _PRECISIONS[format][0]
    if format == "gguf" and find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf", "conversion to GGUF")
    if precision not in _PRECISIONS[format]:
        raise ConfigError(f"precision is one of {', '.join(_PRECISIONS[format])} for {format}; got {precision!r}")
    source = Path(folder).resolve()
    vocab = _read_vocabulary(source, format)
    target = Path(output)
    with atomic_folder(
        target, force=force, marker=_MODEL_FILES[format], patterns=(*CHECKPOINT_FILES, *_OTHER_FILES), inputs=[source]
    ) as place:
        if format == "gguf":
            with _stage_gguf(source) as staged:
                arguments = [str(staged), "--outfile", str(place / _MODEL_FILES["gguf"]), "--outtype", precision]
                _run(_find_gguf_command(converter, pre_tokenizer) + arguments, target)
            _check_gguf(place / _MODEL_FILES["gguf"], vocab, target)
        elif format == "llava":
            _write_original(source, place, target)
        else:
            if find_spec("onnxruntime_genai") is None or find_spec("onnx_ir") is None:
                raise MissingExtraError("onnxruntime-genai", "onnx", "conversion to ONNX")
            command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
            with tempfile.TemporaryDirectory() as cache:
                options = ["-i", str(source), "-o", str(place), "-p", precision, "-e", provider, "-c", cache]
                _run(command + options, target)
            _check_onnx(place, vocab, target)
        vocab.save_pretrained(place)
    return target


def _read_vocabulary(folder: Path, format: CheckpointFormat) -> PerceptionVocabulary:  # noqa: A002
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"{folder}: not a checkpoint (it has no config.json); merge an adapter first")
    config = read_json_object(config_file)
    if format == "llava":
        _check_llava(folder, config)
    elif "vision_config" in config:
        raise CheckpointError(
            f"{folder}: conversion was tried for language models alone, and this one has a vision tower "
            f"({config.get('model_type')}); serve it with `perceptok llava serve`, vLLM, or SGLang (format 'llava')"
        )
    refuse_code(folder)  # some converters would run it
    return PerceptionVocabulary.from_pretrained(folder)


def _check_llava(folder: Path, config: dict[str, Any]) -> None:
    """Raise CheckpointError for a model that LLaVA's original code cannot describe."""
    parts = [config.get(name) for name in ("text_config", "vision_config")]
    kinds = [values.get("model_type") if isinstance(values, dict) else None for values in (config, *parts)]
    if kinds != ["llava", "llama", "clip_vision_model"]:
        raise CheckpointError(f"{folder}: not a LLaVA-1.5 (llava, llama, clip_vision_model), but {kinds}")
    layer, strategy = config.get("vision_feature_layer", -2), config.get("vision_feature_select_strategy", "default")
    if strategy != "default" or not isinstance(layer, int):
        raise CheckpointError(
            f"{folder}: image features of the layer {layer} by the strategy {strategy!r}; LLaVA's original layout has "
            "one layer, without the class token ('default')"
        )
    if not list_weight_files(folder):
        raise CheckpointError(f"{folder}: no weights in safetensors; save the model again with transformers")


def _write_original(source: Path, place: Path, target: Path) -> None:
    """Write a LLaVA-1.5 in the layout of its original code, and its vision tower as a model of its own in `clip`."""
    clip = place / "clip"
    clip.mkdir()
    vision: dict[str, Any] = {}
    weight_map: dict[str, str] = {}
    for file in list_weight_files(source):
        weights: dict[str, Any] = {}
        for name, weight in load_file(file).items():
            if _VISION_NAME.match(name):
                vision[_VISION_NAME.sub("vision_model.", name)] = weight
            else:
                weights[_find_original_name(name, source)] = weight
        if weights:
            save_file(weights, place / file.name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(weights, file.name)
    save_file(vision, clip / "model.safetensors", metadata={"format": "pt"})
    if len(set(weight_map.values())) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (place / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    for path in source.iterdir():
        if path.is_dir() and path.name == "codec":
            shutil.copytree(path, place / "codec")
        elif path.is_file() and ".safetensors" not in path.name:
            shutil.copy(path, place)
    config: Any = LlavaConfig.from_pretrained(source)
    vision_config = {**config.vision_config.to_dict(), "architectures": ["CLIPVisionModel"]}
    (clip / "config.json").write_text(json.dumps(vision_config, indent=2), encoding="utf-8")
    values = {
        **config.text_config.to_dict(),
        **config.to_dict(),
        "architectures": ["LlavaLlamaForCausalLM"],
        "image_aspect_ratio": "square",
        "image_token_index": config.image_token_id,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_tower": str(target.resolve() / "clip"),
    }
    (place / "config.json").write_text(json.dumps(values, indent=2), encoding="utf-8")


def _find_original_name(name: str, source: Path) -> str:
    for pattern, original in _ORIGINAL_NAMES:
        if pattern.match(name):
            return pattern.sub(original, name)
    raise CheckpointError(f"{source}: the weight {name} has no place in LLaVA's original layout")


@contextmanager
def _stage_gguf(source: Path) -> Iterator[Path]:
    """The checkpoint as llama.cpp's converter needs it.

    For a SentencePiece tokenizer it reads added tokens from `added_tokens.json`, which transformers 5 does not write:
    without this file every perception token would be split into pieces, silently.
    """
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / source.name
        staged.mkdir()
        for file in source.iterdir():
            (staged / file.name).symlink_to(file)
        tokenizer_file, added_file = source / "tokenizer.json", staged / "added_tokens.json"
        if (source / "tokenizer.model").is_file() and tokenizer_file.is_file() and not added_file.exists():
            content = read_json_object(tokenizer_file)
            with translate_errors(CheckpointError, f"{tokenizer_file}: added_tokens cannot be read"):
                added = {entry["content"]: entry["id"] for entry in content["added_tokens"] if not entry["special"]}
            added_file.write_text(json.dumps(added), encoding="utf-8")
        yield staged


def _find_gguf_command(converter: str | os.PathLike[str] | None, pre_tokenizer: str | None) -> list[str]:
    if converter is None:
        raise ConfigError(
            "conversion to GGUF needs llama.cpp's convert_hf_to_gguf.py (--converter), which is in its repository and "
            "in the package convert-hf-to-gguf"
        )
    path = Path(converter).resolve()
    if not path.is_file():
        raise ConfigError(f"{converter}: the converter does not exist; expected llama.cpp's convert_hf_to_gguf.py")
    if pre_tokenizer is None:
        return [sys.executable, str(path)]
    if not re.fullmatch(r"[\w.-]+", pre_tokenizer):
        raise ConfigError(f"{pre_tokenizer!r} is not the name of a pre-tokenizer of llama.cpp, such as 'gpt-2'")
    code = _PATCHED.format(folder=str(path.parent), name=pre_tokenizer, converter=str(path))
    return [sys.executable, "-c", code, str(path)]


def _run(command: list[str], target: Path) -> None:
    """Run a converter; raises CheckpointError with its last line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise CheckpointError(
            f"{target}: the converter cannot be started ({command[0]}: {quote_error(error)})"
        ) from error
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        hint = "; name its pre-tokenizer" if any("pre-tokenizer" in line for line in lines) else ""
        raise CheckpointError(f"{target}: the converter failed: {lines[-1][:500] if lines else done.returncode}{hint}")


def _check_gguf(file: Path, vocab: PerceptionVocabulary, target: Path) -> None:
    from gguf import GGUFReader, TokenType

    fields: Any = GGUFReader(file).fields
    tokens, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    for token, token_id in vocab.tokens.items():
        if token_id >= len(tokens) or tokens[token_id] != token or kinds[token_id] != TokenType.USER_DEFINED:
            raise CheckpointError(f"{target}: {token} is not a token with the id {token_id} in what was converted")


def _check_onnx(folder: Path, vocab: PerceptionVocabulary, target: Path) -> None:
    from onnxruntime_genai import Model, Tokenizer

    tokenizer = Tokenizer(Model(str(folder)))
    for token, token_id in vocab.tokens.items():
        ids = [int(number) for number in tokenizer.encode(token)]
        if ids[-1:] != [token_id] or len(ids) > 2:  # a start of sequence may come first
            raise CheckpointError(f"{target}: {token} has the ids {ids} in what was converted; expected {token_id}")
