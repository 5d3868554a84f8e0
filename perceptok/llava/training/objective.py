"""What is trained and how: adapter layers, optimizer groups, and the loss of a batch with Eqs. 1 and 2 of AURORA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptok.errors import ConfigError, TrainingError
from perceptok.llava.training.config import FinetuneConfig, ObjectiveSettings
from perceptok.llava.training.samples import IGNORE_INDEX
from perceptok.losses import distillation_loss, next_token_targets, reconstruction_loss
from perceptok.tokens import DEPTH, DEPTH_GRID
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment, peft_settings

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = [
    "BatchLoss",
    "Objective",
    "count_logits_to_keep",
    "decoder_layer_class",
    "find_projector",
    "frozen_norms",
    "make_lora_config",
    "parameter_groups",
]

_PROJECTORS = ("multi_modal_projector", "connector", "merger", "mm_projector", "aligner")
"""Names in transformers' models of the module between vision tower and language model."""

_CODES_PER_BLOCK = DEPTH_GRID[0] * DEPTH_GRID[1]


def make_lora_config(model: Any, vocab: PerceptionVocabulary, config: FinetuneConfig) -> Any:
    """The `peft.LoraConfig` of a run: adapter, token rows, and the whole projector.

    Raises:
        ConfigError: A target module that the language model does not have, or a projector learning rate for a model
            without a projector of a known name.
        VocabularyError: The model's rows of perception tokens cannot be trained so.
    """
    import peft

    rows = peft_settings(model, vocab, config.rows)
    modules_to_save = list(rows.pop("modules_to_save", []))
    if config.projector_learning_rate:
        projector = find_projector(model)
        if projector is None:
            raise ConfigError(
                f"{type(model).__name__} has no projector of a known name ({', '.join(_PROJECTORS)}); freeze it with "
                "projector_learning_rate: 0"
            )
        modules_to_save.append(projector)
    return peft.LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora.lora_dropout,
        target_modules=_find_lora_layers(model, config.lora.target_modules),
        modules_to_save=modules_to_save or None,
        **rows,
    )


def find_projector(model: Any) -> str | None:
    """The full name of the module between vision tower and language model; None where no name is known."""
    names = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in _PROJECTORS]
    return min(names, key=lambda name: name.count(".")) if names else None


def _find_lora_layers(model: Any, targets: Sequence[str]) -> list[str]:
    """Full names of the language model's linear layers, all or those of the given last names; never the head's."""
    linear = [name for name, module in _language_modules(model) if isinstance(module, nn.Linear)]
    chosen = [name for name in linear if not targets or name.rpartition(".")[2] in targets]
    known = sorted({name.rpartition(".")[2] for name in linear})
    missing = [target for target in targets if target not in known]
    if missing or not chosen:
        raise ConfigError(
            f"lora.target_modules are among {', '.join(known)}; got {', '.join(missing) or 'none of them'}"
        )
    return chosen


def _language_modules(model: Any) -> list[tuple[str, nn.Module]]:
    """The modules beside and below the input embeddings, with their full names."""
    embeddings = model.get_input_embeddings()
    modules = list(model.named_modules())
    prefix = next(name for name, module in modules if module is embeddings).rpartition(".")[0] + "."
    return [(name, module) for name, module in modules if name.startswith(prefix)]


def decoder_layer_class(model: Any) -> str:
    """Class name of the language model's layers, which FSDP shards one by one."""
    lists = [module for _, module in _language_modules(model) if isinstance(module, nn.ModuleList)]
    return type(max(lists, key=len)[0]).__name__


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """The normalization layers that update running statistics in training although none of their weights is trained.

    An adapter does not hold these statistics, so training has to leave them as the base has them.
    """
    return [
        module
        for module in model.modules()
        if getattr(module, "running_mean", None) is not None
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]


def parameter_groups(model: nn.Module, config: FinetuneConfig) -> list[dict[str, Any]]:
    """The optimizer's groups: adapter, token rows (without weight decay), projector (with its own learning rate)."""
    groups: dict[str, dict[str, Any]] = {
        "adapter": {"lr": config.learning_rate, "weight_decay": config.weight_decay},
        "token rows": {"lr": config.learning_rate, "weight_decay": 0.0},
        "projector": {"lr": config.projector_learning_rate, "weight_decay": config.weight_decay},
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_projector = any(part in _PROJECTORS for part in name.split("."))
            group = "adapter" if ".lora_" in name else "projector" if is_projector else "token rows"
            groups[group].setdefault("params", []).append(parameter)
    return [{"name": name, **group} for name, group in groups.items() if "params" in group]


class BatchLoss(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: A scalar, for the backward pass.
        sums: (B,) cross entropy of each sample, summed over its supervised tokens, detached.
        counts: (B,) number of supervised tokens of each sample.
        terms: The terms before their weights, by the names of `ObjectiveSettings`, each this batch's part of the
            step's mean; scalars, detached.
    """

    total: Tensor
    sums: Tensor
    counts: Tensor
    terms: dict[str, Tensor]


class Objective:
    """The weighted terms of `ObjectiveSettings` for the logits of a causal model.

    Raises:
        ConfigError: A reconstruction term without a codec.
    """

    def __init__(self, settings: ObjectiveSettings, vocab: PerceptionVocabulary, codec: DepthCodec | None) -> None:
        if codec is None and settings.reconstruction:
            raise ConfigError("Eq. 2 (objective.reconstruction) needs the depth codec; pass one")
        self.settings = settings
        self.vocab = vocab
        self.codec = codec
        self.alignment = VocabularyAlignment.identity(DEPTH.size)

    def __call__(
        self,
        logits: Tensor,
        input_ids: Tensor,
        labels: Tensor,
        num_tokens: Tensor | int,
        num_codes: Tensor,
        teacher: Tensor | None = None,
    ) -> BatchLoss:
        """The loss of a batch, as its part of a step's mean.

        Args:
            logits: (B, K, V), unshifted, of the last K positions.
            input_ids: (B, T).
            labels: (B, T), unshifted, -100 where nothing is supervised.
            num_tokens: Number of supervised tokens of the step, over all batches and processes.
            num_codes: Number of depth codes among them.
            teacher: (M, 128) of a soft teacher: a row for each of the batch's M supervised codes, in order.
        """
        length = logits.shape[1]
        input_ids, labels = input_ids[:, -length:], labels[:, -length:]
        next_labels = labels.roll(-1, dims=1)
        next_labels[:, -1] = IGNORE_INDEX
        supervised = next_labels != IGNORE_INDEX
        # The other rows of logits (image, question, padding) are never converted to float32.
        losses = F.cross_entropy(logits[supervised].float(), next_labels[supervised], reduction="none")
        num_tokens = torch.as_tensor(num_tokens, device=losses.device).clamp(min=1)
        num_codes = num_codes.to(losses.device).clamp(min=1)
        terms = {"cross_entropy": losses.sum() / num_tokens}
        has_codes = self.vocab.has(DEPTH)
        if self.settings.distillation and has_codes:
            distilled = self._distill(logits, input_ids, labels, losses, supervised, teacher)
            terms["distillation"] = distilled / num_codes
        if self.settings.reconstruction and has_codes:
            terms["reconstruction"] = self._reconstruct(logits, input_ids, labels, num_codes)
        total = sum((getattr(self.settings, name) * term for name, term in terms.items()), torch.zeros(()).to(losses))
        rows = supervised.nonzero()[:, 0]
        sums = torch.zeros(len(labels), device=losses.device).index_add_(0, rows, losses.detach())
        return BatchLoss(total, sums, supervised.sum(dim=1), {name: term.detach() for name, term in terms.items()})

    def _distill(
        self,
        logits: Tensor,
        input_ids: Tensor,
        labels: Tensor,
        losses: Tensor,
        supervised: Tensor,
        teacher: Tensor | None,
    ) -> Tensor:
        """Eq. 1, summed over the codes."""
        targets = next_token_targets(input_ids, self.vocab, labels=labels)
        if self.settings.teacher == "hard":
            if self.settings.normalization == "full":  # the codes' cross entropy, which is computed already
                return (losses * targets.mask[supervised]).sum()
            teacher = targets.codes[targets.mask]
        assert teacher is not None
        return distillation_loss(
            logits,
            teacher.to(logits.device),
            self.alignment,
            self.vocab,
            targets.mask,
            normalization=self.settings.normalization,
            reduction="sum",
        )

    def _reconstruct(self, logits: Tensor, input_ids: Tensor, labels: Tensor, num_codes: Tensor) -> Tensor:
        """Eq. 2, as this batch's part of the mean over every block of the step."""
        assert self.codec is not None
        if self.codec.device != logits.device:
            self.codec.to(logits.device)
        targets = next_token_targets(input_ids, self.vocab, labels=labels)
        if int(targets.mask.sum()) % _CODES_PER_BLOCK:
            raise TrainingError(
                f"Eq. 2 decodes whole blocks; the batch has {int(targets.mask.sum())} supervised depth codes, which is "
                f"not a multiple of {_CODES_PER_BLOCK}"
            )
        grids = targets.codes[targets.mask].view(-1, *DEPTH_GRID)
        maps = self.codec.decode(grids)
        error = reconstruction_loss(logits, maps, self.codec.decode_soft, self.alignment, self.vocab, targets.mask)
        return error * len(grids) * _CODES_PER_BLOCK / num_codes


def count_logits_to_keep(labels: Tensor) -> int:
    """Number of last positions of a batch's logits that the loss needs: from the one before the first label on."""
    positions = (labels != IGNORE_INDEX).any(dim=0).nonzero()
    return labels.shape[1] if not len(positions) else int(labels.shape[1] - positions[0, 0] + 1)
