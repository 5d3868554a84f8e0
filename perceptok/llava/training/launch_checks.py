"""What `accelerate launch`, DeepSpeed and FSDP are told beside a run's configuration: a contradiction is refused.

What is written down in `train.json` has to be what ran. Where accelerate or DeepSpeed would follow their own setting,
or stop with an error of their own after the model is loaded, the run is refused as its configuration is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from perceptok.config import read_mapping
from perceptok.errors import ConfigError
from perceptok.files import parse_json

__all__ = ["check_launch"]

_ON = ("1", "true", "yes", "on", "y", "t")
"""Values of accelerate's variables that switch something on."""


def check_launch(config: TrainingArguments, step_samples: int, environment: Mapping[str, str] = os.environ) -> None:
    """Compare a configuration with what accelerate, DeepSpeed and FSDP are told beside it.

    Args:
        config: The configuration; its precision is chosen.
        step_samples: Number of samples of a step over all processes.
        environment: The variables that `accelerate launch` sets.

    Raises:
        ConfigError: They contradict each other; the message names both settings.
    """

    def is_on(name: str) -> bool:
        return environment.get(name, "").lower() in _ON

    if isinstance(config.accelerator_config, Mapping | str) and config.accelerator_config:
        raise ConfigError(
            "accelerator_config: perceptok makes the batches and accumulates gradients itself; leave it out, and set "
            "gradient_accumulation_steps or effective_batch_size"
        )
    if is_on("ACCELERATE_USE_CPU") and not config.use_cpu:
        raise ConfigError("accelerate was launched with --cpu, the configuration has use_cpu: false; make them agree")
    if is_on("ACCELERATE_USE_PARALLELISM_CONFIG") or is_on("ACCELERATE_USE_MEGATRON_LM"):
        raise ConfigError(
            "accelerate was launched with a parallelism of sequences or layers (use_parallelism_config, "
            "use_megatron_lm), but processes share a step's samples alone; launch it with DDP, FSDP or DeepSpeed"
        )
    compiles = config.torch_compile or config.torch_compile_backend or config.torch_compile_mode
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend not in ("", "no") and not compiles:
        raise ConfigError(
            f"accelerate was launched with dynamo_backend {backend!r}, the configuration has torch_compile: false; "
            "make them agree"
        )
    if is_on("ACCELERATE_USE_FSDP") and is_on("FSDP_ACTIVATION_CHECKPOINTING") and config.gradient_checkpointing:
        raise ConfigError(
            "accelerate was launched with fsdp_activation_checkpointing, the configuration has gradient_checkpointing: "
            "true, and activations would be recomputed twice; set one of them"
        )
    for source, settings in _list_deepspeed_settings(config, environment):
        _check_deepspeed(config, step_samples, source, settings)


def _list_deepspeed_settings(
    config: TrainingArguments, environment: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What DeepSpeed is told, each with its source: the launcher's variables and file, and the setting `deepspeed`."""
    variables = {
        "gradient_accumulation_steps": environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto"),
        "gradient_clipping": environment.get("ACCELERATE_GRADIENT_CLIPPING", "auto"),
    }
    yield "accelerate's configuration", {name: value for name, value in variables.items() if value != "none"}
    if path := environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        yield path, read_mapping(path)
    if isinstance(config.deepspeed, Mapping):
        yield "deepspeed", config.deepspeed
    elif isinstance(config.deepspeed, str) and Path(config.deepspeed).is_file():
        yield config.deepspeed, read_mapping(config.deepspeed)
    elif isinstance(config.deepspeed, str) and config.deepspeed.lstrip().startswith("{"):
        yield "deepspeed", parse_json(config.deepspeed, "deepspeed", ConfigError)


def _check_deepspeed(config: TrainingArguments, step_samples: int, source: str, settings: Mapping[str, Any]) -> None:
    """Compare DeepSpeed's settings, nested as in its files; "auto" takes the configuration's."""
    for section, name in (("optimizer", "optim"), ("scheduler", "lr_scheduler_type")):
        if settings.get(section) is not None:
            raise ConfigError(
                f"{source}: {section} would replace {name} and the learning rates of the parameter groups (adapter, "
                f"token rows, projector); leave {section} out"
            )
    own: dict[str, tuple[str, Any]] = {
        "train_micro_batch_size_per_gpu": ("per_device_train_batch_size", config.per_device_train_batch_size),
        "train_batch_size": ("the samples of a step", step_samples),
        "gradient_accumulation_steps": ("gradient_accumulation_steps", config.gradient_accumulation_steps),
        "gradient_clipping": ("max_grad_norm", config.max_grad_norm),
        "bf16.enabled": ("bf16", bool(config.bf16)),
        "fp16.enabled": ("fp16", bool(config.fp16)),
    }
    for key, (name, expected) in own.items():
        section, _, inner = key.partition(".")
        value = settings.get(section)
        value = value.get(inner) if inner and isinstance(value, Mapping) else value
        if value is None or str(value).lower() == "auto" or _equals(value, expected):
            continue
        raise ConfigError(
            f"{source}: {key} is {value!r}, the configuration has {name}: {expected!r}; leave {key} out, set it to "
            "auto, or make them agree"
        )


def _equals(value: Any, expected: float | bool) -> bool:
    """Whether a setting, possibly as text, is a number or truth value."""
    if isinstance(expected, bool):
        return (str(value).lower() in _ON) == expected
    try:
        return float(value) == float(expected)
    except (TypeError, ValueError):
        return False
