"""Adapters and processors of other people, checked before peft and Jinja use them.

What they would fail at somewhere deep inside, hang at, or allocate memory for, is refused by the name of the file and
the key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from perceptok.checkpoints import MAX_INTEGER, read_json_object
from perceptok.config import config_from_dict
from perceptok.errors import CheckpointError, quote_text, translate_errors
from perceptok.llava.chat_templates import find_template_problem
from perceptok.weights import TensorInfo

__all__ = ["AdapterSettings", "check_adapter_tensors", "check_processor", "read_adapter_settings"]

_MAX_SIDE = 8192
"""Of the image that a processor makes, in pixels."""

_MAX_IMAGE_TOKENS = 2**16

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,400}$")]
"""Of a layer; never a regular expression, which can take for ever to match."""

TokenId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


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
    values = read_json_object(path)
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
