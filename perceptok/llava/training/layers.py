"""The parts of a multimodal model that a run trains, found by what they are: language model, projector, token rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from perceptok.errors import ConfigError
from perceptok.llava.training.recipe import FinetuneConfig
from perceptok.vocabulary.lookup import PerceptionVocabulary
from perceptok.vocabulary.trainable import peft_settings

__all__ = [
    "decoder_layer_class",
    "frozen_statistics",
    "lora_layers",
    "lora_settings",
    "parameter_groups",
    "projector_name",
]

_PROJECTORS = ("multi_modal_projector", "connector", "merger", "mm_projector", "aligner")
"""Names under which transformers' models keep what lies between tower and language model."""


def lora_layers(model: Any, targets: Sequence[str] = ()) -> list[str]:
    """Full names of the language model's linear layers, all of them or those of some last names; never the head.

    Raises:
        ConfigError: A target that no layer has.
    """
    inputs = model.get_input_embeddings()
    prefix = next(name for name, module in model.named_modules() if module is inputs).rpartition(".")[0] + "."
    linear = [
        name for name, module in model.named_modules() if name.startswith(prefix) and isinstance(module, nn.Linear)
    ]
    chosen = [name for name in linear if not targets or name.rpartition(".")[2] in targets]
    known = sorted({name.rpartition(".")[2] for name in linear})
    missing = [target for target in targets if target not in known]
    if missing or not chosen:
        raise ConfigError(
            f"lora.targets are among {', '.join(known)}; got {', '.join(missing) or 'none that is there'}"
        )
    return chosen


def frozen_statistics(model: nn.Module) -> list[nn.Module]:
    """The layers that gather running statistics in training although nothing of them is trained, as frozen towers' do.

    Those statistics are the base's: an adapter does not hold them, so that training has to leave them as they are.
    """
    return [
        module
        for module in model.modules()
        if getattr(module, "running_mean", None) is not None
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]


def decoder_layer_class(model: Any) -> str:
    """The class of the language model's layers, which FSDP shards one by one."""
    inputs = model.get_input_embeddings()
    prefix = next(name for name, module in model.named_modules() if module is inputs).rpartition(".")[0] + "."
    lists = [one for name, one in model.named_modules() if name.startswith(prefix) and isinstance(one, nn.ModuleList)]
    return type(max(lists, key=len)[0]).__name__


def projector_name(model: Any) -> str | None:
    """The full name of the module between tower and language model, or None where it has no name that is known."""
    names = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in _PROJECTORS]
    return min(names, key=lambda name: name.count(".")) if names else None


def lora_settings(model: Any, vocab: PerceptionVocabulary, config: FinetuneConfig) -> Any:
    """The `peft.LoraConfig` of a run: adapter, token rows, and the projector as a whole.

    Raises:
        ConfigError: A projector's rate for a model whose projector is not known by its name.
        VocabularyError: See `peft_settings`.
    """
    import peft

    rows = peft_settings(model, vocab, config.rows)
    whole = list(rows.pop("modules_to_save", []))
    if config.projector_learning_rate:
        projector = projector_name(model)
        if projector is None:
            raise ConfigError(
                f"{type(model).__name__} has no projector under a known name ({', '.join(_PROJECTORS)}); freeze it "
                "with projector_learning_rate: 0"
            )
        whole.append(projector)
    return peft.LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora.dropout,
        target_modules=lora_layers(model, config.lora.targets),
        modules_to_save=whole or None,
        **rows,
    )


def parameter_groups(model: nn.Module, config: FinetuneConfig) -> list[dict[str, Any]]:
    """The optimiser's groups: token rows without decay, projector with its own rate, all else that is trained."""
    rows: list[nn.Parameter] = []
    projector: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            _home(name, rows, projector, others).append(parameter)
    groups: Iterator[dict[str, Any]] = iter(
        [
            {"name": "adapter", "params": others, "lr": config.learning_rate, "weight_decay": config.weight_decay},
            {"name": "token rows", "params": rows, "lr": config.learning_rate, "weight_decay": 0.0},
            {
                "name": "projector",
                "params": projector,
                "lr": config.projector_learning_rate,
                "weight_decay": config.weight_decay,
            },
        ]
    )
    return [group for group in groups if group["params"]]


def _home(name: str, rows: list[Any], projector: list[Any], others: list[Any]) -> list[Any]:
    if ".lora_" in name:
        return others
    if any(f".{one}." in f".{name}" for one in _PROJECTORS):
        return projector
    return rows
