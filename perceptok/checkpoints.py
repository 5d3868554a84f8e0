"""Checkpoints of other people: their configuration is checked before transformers loads anything.

What transformers would fail at somewhere deep inside, allocate memory for, or run code for, is refused by the name of
the file and the key: sizes in a configuration are compared with the headers of the weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from perceptok.errors import CheckpointError, translate_errors
from perceptok.files import parse_json, read_input, resolve_inside
from perceptok.weights import read_tensor_infos

__all__ = [
    "CHECKPOINT_FILES",
    "MAX_INTEGER",
    "check_checkpoint_folder",
    "list_weight_files",
    "read_json_object",
    "refuse_code",
]

CHECKPOINT_FILES = (
    "*.safetensors", "*.safetensors.index.json", "*config.json", "README.md", "perception_*.json", "tokenizer.json",
    "*.model", "tekken.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "chat_template.json", "*.jinja", "additional_chat_templates/*.jinja", ".gitattributes",
)  # fmt: skip
"""Patterns of the names of the files in a checkpoint or an adapter, as perceptok, transformers and peft write them."""

_MAX_JSON_BYTES = 2**25
MAX_INTEGER = 2**24
"""Of a configuration, rotary bases excepted: more than any vocabulary or context."""

_MAX_LAYERS = 1000
"""Layers, experts, labels and the like that a configuration may have more than its weights have tensors."""

_COUNTED = re.compile(r"layer|depth|expert|block|stage|label|scale|resampler", re.IGNORECASE)
_UNLIMITED = re.compile(r"theta|_id$|_index$|seed", re.IGNORECASE)
_KERNELS = re.compile(r"(attn|experts|attention)_implementation")
"""Settings whose values may be repositories of the Hub with compiled code."""


def check_checkpoint_folder(folder: Path, auto_class: str) -> None:
    """Compare a model's configuration with the headers of its weights, before transformers allocates anything.

    Args:
        folder: With `config.json` and weights, as `save_pretrained` writes them.
        auto_class: Name of the class of transformers that loads it, such as "AutoModelForImageTextToText".

    Raises:
        CheckpointError: The configuration is damaged, names code of the Hub, has a number beyond reason, or describes a
            model that is several times larger than its weights; or a file of the weights is damaged, missing or not
            complete.
    """
    from transformers import CONFIG_MAPPING

    path = folder / "config.json"
    if not os.path.lexists(path):
        return  # transformers says what it looks for
    values = read_json_object(path)
    _refuse_kernels(values, path)
    num_tensors, num_values = _count_weights(folder)
    for key, number in _walk_integers(values, ""):
        last = key.rpartition(".")[2]
        # The ids in perception_rows stand under names of token sets, such as DEPTH.
        is_count = _COUNTED.search(last) and not key.startswith("perception_rows.")
        limit = max(_MAX_LAYERS, num_tensors) if is_count else MAX_INTEGER
        if not -limit <= number <= limit and not _UNLIMITED.search(last):
            raise CheckpointError(f"{path}: {key} is {number:.6g}; at most {limit} is accepted for these weights")
    if "auto_map" in values and values.get("model_type") not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{path}: transformers has no model type {values.get('model_type')!r:.80}, but auto_map names code: "
            "code that comes with a model is never run"
        )
    with translate_errors(CheckpointError, f"{path}: no model of the class {auto_class} can be made of it"):
        described = _count_described(folder, auto_class)
    if described > 4 * num_values + 10_000_000:
        raise CheckpointError(
            f"{path} describes a model of {described:,} values, but the weights beside it hold {num_values:,}; both "
            "have to be of one model"
        )


def _refuse_kernels(values: object, path: Path) -> None:
    """Raise CheckpointError for a configuration that names kernels of the Hub, which transformers would run."""
    if isinstance(values, dict):
        for key, value in values.items():
            names = value.values() if isinstance(value, dict) else (value,)
            if _KERNELS.search(key) and any(isinstance(name, str) and "/" in name for name in names):
                raise CheckpointError(
                    f"{path}: {key} is {value!r:.80}, code of a repository, which is never run; remove the key"
                )
    for item in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        _refuse_kernels(item, path)


def refuse_code(folder: Path) -> None:
    """Refuse a folder with code of its own, for programs that would run it.

    Raises:
        CheckpointError: A file of its configuration names code (`auto_map`), or the folder has Python files.
    """
    for path in sorted(folder.glob("*")):
        if path.suffix == ".py":
            raise CheckpointError(f"{path}: code that comes with a model is never run; remove the file")
        if path.suffix == ".json" and path.name.endswith("config.json") and "auto_map" in read_json_object(path):
            raise CheckpointError(f"{path}: auto_map names code, which is never run; remove the key")


def _count_described(folder: Path, auto_class: str) -> int:
    """Values of the model that a configuration describes, made without memory for them."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        auto: Any = getattr(transformers, auto_class)
        model = auto.from_config(config, trust_remote_code=False)
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() for tensor in tensors.values())


def list_weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, several where it has an index; empty where it has other weights.

    Raises:
        CheckpointError: The index is damaged, or names a file that is not in the folder.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if not index.exists():
        return []
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: weight_map: expected an object of names of files")
    with translate_errors(CheckpointError, f"{index}: weight_map names a file that is not in its folder"):
        return [resolve_inside(folder, name) for name in sorted(set(names.values()))]


def _count_weights(folder: Path) -> tuple[int, int]:
    """Number of tensors in a folder's weights, and of their values; of a pickled file, at most one for each byte."""
    files = list_weight_files(folder)
    if not files:
        sizes = [path.stat().st_size for path in folder.glob("pytorch_model*.bin") if path.is_file()]
        return len(sizes), sum(sizes)
    infos = [info for file in files for info in read_tensor_infos(file, CheckpointError).values()]
    return len(infos), sum(info.numel for info in infos)


def _walk_integers(values: object, path: str) -> Iterator[tuple[str, int]]:
    """The integers of a configuration with their dotted keys."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _walk_integers(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, list):
        for value in values:
            yield from _walk_integers(value, path)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield path, values


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint; raises CheckpointError, which names the file."""
    try:
        text = read_input(path, max_bytes=_MAX_JSON_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    values = parse_json(text, str(path), CheckpointError)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected an object; got {values!r:.80}")
    return values
