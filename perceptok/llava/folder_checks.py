"""Folders of other people, checked before peft and transformers read them: adapters, bases and processors.

What peft, transformers or Jinja would fail at somewhere deep inside, hang at, or allocate memory for, is refused by
the name of the file and the key: sizes in a configuration are compared with the headers of the weights, before anything
is allocated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from perceptok.config import config_from_dict
from perceptok.errors import CheckpointError, quote_text, translate_errors
from perceptok.files import parse_json, read_input, resolve_inside
from perceptok.llava.chat_templates import find_template_problem
from perceptok.weights import TensorInfo, read_tensor_infos

__all__ = ["AdapterSettings", "check_adapter_tensors", "check_base_folder", "check_processor", "read_adapter_settings"]

_MAX_JSON_BYTES = 2**25
_MAX_INTEGER = 2**24
"""Of a base's configuration, rotary bases excepted: more than any vocabulary or context."""

_MAX_LAYERS = 1000
"""Layers, experts, labels and the like that a configuration may have more than its weights have tensors."""

_MAX_SIDE = 8192
"""Of the image that a processor makes, in pixels."""

_MAX_IMAGE_TOKENS = 2**16
_COUNTED = re.compile(r"layer|depth|expert|block|stage|label|scale|resampler", re.IGNORECASE)
_UNLIMITED = re.compile(r"theta|_id$|_index$|seed", re.IGNORECASE)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,400}$")]
"""Of a layer; never a regular expression, which can take for ever to match."""

TokenId = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]


@dataclass(frozen=True)
class AdapterSettings:
    """The settings in `adapter_config.json` that perceptok writes; all others have to be peft's defaults.

    Attributes are those of `peft.LoraConfig`.
    """

    peft_type: Literal["LORA"]
    target_modules: tuple[Name, ...]
    r: Annotated[int, Field(ge=1, le=2**14)]
    lora_alpha: Annotated[float, Field(ge=-1e6, le=1e6)] = 8
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    modules_to_save: tuple[Name, ...] | None = None
    trainable_token_indices: dict[Name, tuple[TokenId, ...]] | tuple[TokenId, ...] | None = None
    ensure_weight_tying: bool = False
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    inference_mode: bool = True
    init_lora_weights: bool | Literal["gaussian"] = True
    task_type: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    peft_version: str | None = None
    auto_mapping: dict[str, str] | None = None


def read_adapter_settings(folder: Path) -> AdapterSettings:
    """Read `adapter_config.json` of a folder, strictly.

    Raises:
        CheckpointError: The file cannot be read, is not a LoRA adapter's, or has a key or a value that perceptok does
            not write; the message names the key.
    """
    path = folder / "adapter_config.json"
    values = _read_object(path)
    if values.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type: expected 'LORA'; got {values.get('peft_type')!r:.80}")
    if isinstance(targets := values.get("target_modules"), str):
        raise CheckpointError(
            f"{path}: target_modules: expected a list of names of layers, got the pattern {targets!r:.80}; save the "
            "adapter again with save_adapter, which writes their names"
        )
    known = {field.name for field in fields(AdapterSettings)}
    _check_other_settings({key: value for key, value in values.items() if key not in known}, path)
    own = {key: value for key, value in values.items() if key in known}
    return config_from_dict(AdapterSettings, own, name=str(path), error=CheckpointError)


def _check_other_settings(values: Mapping[str, Any], path: Path) -> None:
    """Require that settings have peft's defaults; those of another release, which peft does not know, have no value."""
    import peft

    config: Any = peft.LoraConfig()
    defaults = config.to_dict()
    for key, value in values.items():
        if value not in (None, False) and value != {} and (key not in defaults or value != defaults[key]):
            expected = f"expected {defaults[key]!r}, which perceptok writes" if key in defaults else "unknown key"
            raise CheckpointError(f"{path}: {key!r:.80}: {expected}; got {value!r:.80}")


def check_adapter_tensors(settings: AdapterSettings, infos: Mapping[str, TensorInfo], path: Path) -> None:
    """Compare an adapter's settings with the header of its weights, so that peft allocates what the file holds.

    Args:
        settings: Its settings.
        infos: The header of its weights.
        path: The file of the weights, for messages.

    Raises:
        CheckpointError: Another rank, layers or rows without weights, or values that are not floating point numbers.
    """
    if not infos:
        raise CheckpointError(f"{path} has no tensors; save the adapter again")
    layers: set[str] = set()
    for name, info in infos.items():
        if info.dtype not in ("F32", "F16", "BF16"):
            raise CheckpointError(f"{path}: {name} has the type {info.dtype}; expected F32, F16 or BF16")
        layer, part, _ = name.partition(".lora_")
        if part:
            layers.add(layer)
            axis = 0 if ".lora_A." in name else 1 if ".lora_B." in name else None
            if axis is not None and (len(info.shape) <= axis or info.shape[axis] != settings.r):
                raise CheckpointError(
                    f"{path}: {name} has the shape {info.shape}, which is not of rank r = {settings.r}"
                )
    for target in settings.target_modules:
        if not any(f".{layer}".endswith(f".{target}") for layer in layers):
            raise CheckpointError(f"{path} has no LoRA weights of the layer {target} in target_modules")
    for module in settings.modules_to_save or ():
        if not any(f".{module}." in f".{name}" for name in infos):
            raise CheckpointError(f"{path} has no weights of {module} in modules_to_save")
    _check_token_rows(settings.trainable_token_indices, infos, path)


def _check_token_rows(
    rows: Mapping[str, Sequence[int]] | Sequence[int] | None, infos: Mapping[str, TensorInfo], path: Path
) -> None:
    named = rows if isinstance(rows, Mapping) else {"embed_tokens": rows} if rows is not None else {}
    for module, ids in named.items():
        found = [info for name, info in infos.items() if f".{module}.token_adapter." in f".{name}"]
        if found and found[0].shape[:1] != (len(set(ids)),):
            raise CheckpointError(
                f"{path}: trainable_token_indices names {len(set(ids))} rows of {module}; the weights have "
                f"{found[0].shape}"
            )


def check_base_folder(folder: Path) -> None:
    """Compare a model's configuration with the headers of its weights, before transformers allocates anything.

    Args:
        folder: With `config.json` and weights, as `save_pretrained` writes them.

    Raises:
        CheckpointError: The configuration is damaged, has a number beyond reason, or describes a model that is several
            times larger than its weights; or a file of the weights is damaged, missing or not complete.
    """
    path = folder / "config.json"
    if not os.path.lexists(path):
        return  # transformers says what it looks for
    values = _read_object(path)
    num_tensors, num_values = _count_weights(folder)
    for key, number in _walk_integers(values, ""):
        last = key.rpartition(".")[2]
        # The ids in perception_rows stand under names of token sets, such as DEPTH.
        is_count = _COUNTED.search(last) and not key.startswith("perception_rows.")
        limit = max(_MAX_LAYERS, num_tensors) if is_count else _MAX_INTEGER
        if not -limit <= number <= limit and not _UNLIMITED.search(last):
            raise CheckpointError(f"{path}: {key} is {number:.6g}; at most {limit} is accepted for these weights")
    with translate_errors(CheckpointError, f"{path}: no multimodal model can be made of it"):
        described = _count_described(folder)
    if described > 4 * num_values + 10_000_000:
        raise CheckpointError(
            f"{path} describes a model of {described:,} values, but the weights beside it hold {num_values:,}; both "
            "have to be of one model"
        )


def _count_described(folder: Path) -> int:
    """Values of the model that a configuration describes, made without memory for them."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    import perceptok.llava.grid_tower  # noqa: F401  (a vision tower that transformers does not know)

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        auto: Any = AutoModelForImageTextToText
        model = auto.from_config(config, trust_remote_code=False)
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() for tensor in tensors.values())


def _count_weights(folder: Path) -> tuple[int, int]:
    """Number of tensors in a folder's weights, and of their values; of a pickled file, at most one for each byte."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        files = [folder / "model.safetensors"]
    elif index.exists():
        names = _read_object(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise CheckpointError(f"{index}: weight_map: expected an object of names of files")
        with translate_errors(CheckpointError, f"{index}: weight_map names a file that is not in its folder"):
            files = [resolve_inside(folder, name) for name in sorted(set(names.values()))]
    else:
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


def check_processor(processor: Any, name: str | os.PathLike[str]) -> None:
    """Check the sizes and the chat template of a loaded processor.

    Args:
        processor: A processor of images and text.
        name: Where it was loaded from, for messages.

    Raises:
        CheckpointError: A size of its images or a number of image tokens beyond reason, or a chat template that fails,
            does not end, or writes without limit.
    """
    inner = getattr(processor, "image_processor", None)
    settings = {**_list_sizes(inner), **_list_sizes(processor)}
    for key, value in settings.items():
        is_pixels = key.startswith("size.") and key.endswith("_edge") and hasattr(inner, "merge_size")
        limit = 2**28 if "pixels" in key or is_pixels else _MAX_IMAGE_TOKENS if "token" in key else _MAX_SIDE
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
            raise CheckpointError(
                f"{name}: the processor's {key} is {value!r:.80}; expected a number from 0 to {limit}"
            )
    for template in _list_templates(processor):
        if not isinstance(template, str):
            raise CheckpointError(f"{name}: the chat template is not a text; got {template!r:.80}")
        tokens = getattr(processor.tokenizer, "special_tokens_map", {})
        if problem := find_template_problem(template, {**tokens, "image_token": getattr(processor, "image_token", "")}):
            raise CheckpointError(f"{name}: the chat template cannot be used: {quote_text(problem)}")


_SIZES = (
    "size", "crop_size", "pad_size", "patch_size", "temporal_patch_size", "merge_size", "max_image_size",
    "image_grid_pinpoints", "min_pixels", "max_pixels", "num_additional_image_tokens", "image_seq_length",
    "image_seq_len", "max_image_tiles", "max_patches", "min_patches",
)  # fmt: skip


def _list_sizes(processor: Any) -> dict[str, Any]:
    """The sizes of a processor by name; those that are not set are left out."""
    sizes: dict[str, Any] = {}
    for name in _SIZES:
        value = getattr(processor, name, None)
        if value is None:
            continue
        if isinstance(value, list | tuple):
            flat = [number for part in value for number in (part if isinstance(part, list | tuple) else [part])]
            sizes |= {f"{name}.{index}": number for index, number in enumerate(flat)}
        elif isinstance(value, int | float | str):
            sizes[name] = value
        else:  # transformers has kept sizes as dicts and as its own type
            with translate_errors(CheckpointError, f"the processor's {name} is {value!r:.80}, which is not a size"):
                items = value.items() if isinstance(value, Mapping) else iter(value)
                sizes |= {f"{name}.{key}": number for key, number in items if number is not None}
    return sizes


def _list_templates(processor: Any) -> list[object]:
    """The chat templates of a processor and its tokenizer: each is one text, or several by name."""
    templates: list[object] = []
    for owner in (processor, processor.tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, Mapping):
            templates += template.values()
        elif template is not None:
            templates.append(template)
    return templates


def _read_object(path: Path) -> dict[str, Any]:
    try:
        text = read_input(path, max_bytes=_MAX_JSON_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    values = parse_json(text, str(path), CheckpointError)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected an object; got {values!r:.80}")
    return values
