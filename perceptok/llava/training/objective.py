"""The loss of a batch: cross entropy of the answers, and Eqs. 1 and 2 of AURORA on the depth codes among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptok.errors import ConfigError
from perceptok.llava.training.config import FinetuneConfig, ObjectiveSettings
from perceptok.llava.training.samples import IGNORED
from perceptok.losses import distillation_loss, next_token_targets, reconstruction_loss
from perceptok.tokens import DEPTH, DEPTH_GRID
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment, peft_settings

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = [
    "BatchLoss",
    "Objective",
    "decoder_layer_class",
    "frozen_statistics",
    "lora_config",
    "lora_layers",
    "parameter_groups",
    "positions_to_keep",
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
            f"lora.target_modules are among {', '.join(known)}; got {', '.join(missing) or 'none of them'}"
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


def lora_config(model: Any, vocab: PerceptionVocabulary, config: FinetuneConfig) -> Any:
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
        lora_alpha=config.lora.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora.lora_dropout,
        target_modules=lora_layers(model, config.lora.target_modules),
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


_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]


class BatchLoss(NamedTuple):
    """What a batch costs.

    Attributes:
        total: A scalar, to go back from.
        sums: (B,) cross entropy of each sample, summed over its supervised tokens, detached.
        counts: (B,) supervised tokens of each.
    """

    total: Tensor
    sums: Tensor
    counts: Tensor


class Objective:
    """The weighted terms of `ObjectiveSettings` for the logits of a causal model."""

    def __init__(self, settings: ObjectiveSettings, vocab: PerceptionVocabulary, codec: DepthCodec | None) -> None:
        self.settings = settings
        self.vocab = vocab
        self.codec = codec
        self.alignment = VocabularyAlignment.identity(DEPTH.size)
        if codec is None and settings.reconstruction:
            raise ConfigError("Eq. 2 needs the depth codec; name one")
        self._soft = settings.teacher != "hard"

    def __call__(
        self,
        logits: Tensor,
        input_ids: Tensor,
        labels: Tensor,
        items: Tensor | int,
        codes: Tensor,
        teacher: Tensor | None = None,
    ) -> BatchLoss:
        """The loss of one batch, as its part of a step's mean.

        Args:
            logits: (B, K, V), unshifted, of the last K positions.
            input_ids: (B, T).
            labels: (B, T), unshifted, -100 where nothing is taught.
            items: Supervised tokens of the whole step: of every batch and process whose gradients are added.
            codes: Depth codes among them.
            teacher: (M, 128) for a soft teacher: a row for each of the batch's M codes, in their order.
        """
        kept = logits.shape[1]
        input_ids, labels = input_ids[:, -kept:], labels[:, -kept:]
        following = labels.roll(-1, dims=1)
        following[:, -1] = IGNORED
        at = following != IGNORED
        # Rows that teach nothing (image, question, padding) never leave the head's own precision.
        losses = F.cross_entropy(logits[at].float(), following[at], reduction="none")
        items = torch.as_tensor(items, device=losses.device).clamp(min=1)
        codes = codes.to(losses.device).clamp(min=1)
        total = self.settings.cross_entropy * losses.sum() / items
        if self.settings.distillation:
            total = (
                total
                + self.settings.distillation
                * self._distillation(logits, input_ids, labels, losses, at, teacher)
                / codes
            )
        if self.settings.reconstruction:
            total = total + self.settings.reconstruction * self._reconstruction(logits, input_ids, labels, codes)
        rows = at.nonzero()[:, 0]
        sums = torch.zeros(len(labels), device=losses.device).index_add_(0, rows, losses.detach())
        return BatchLoss(total, sums, at.sum(dim=1))

    def _distillation(
        self, logits: Tensor, input_ids: Tensor, labels: Tensor, losses: Tensor, at: Tensor, teacher: Tensor | None
    ) -> Tensor:
        """Eq. 1, summed over the codes."""
        targets = next_token_targets(input_ids, self.vocab, labels=labels)
        if not self._soft and self.settings.normalization == "full":
            # Of a hard teacher over the whole vocabulary it is the cross entropy of the codes, which is there already.
            return (losses * targets.mask[at]).sum()
        assert teacher is not None or not self._soft
        return distillation_loss(
            logits,
            teacher.to(logits.device) if self._soft and teacher is not None else targets.codes[targets.mask],
            self.alignment,
            self.vocab,
            targets.mask,
            normalization=self.settings.normalization,
            reduction="sum",
        )

    def _reconstruction(self, logits: Tensor, input_ids: Tensor, labels: Tensor, codes: Tensor) -> Tensor:
        """Eq. 2, as this batch's part of the mean over every block of the step."""
        assert self.codec is not None
        if self.codec.device != logits.device:
            self.codec.to(logits.device)
        targets = next_token_targets(input_ids, self.vocab, labels=labels)
        grids = targets.codes[targets.mask].view(-1, *DEPTH_GRID)
        wanted = self.codec.decode(grids)
        error = reconstruction_loss(logits, wanted, self.codec.decode_soft, self.alignment, self.vocab, targets.mask)
        return error * len(grids) * _CELLS / codes


def positions_to_keep(labels: Tensor) -> int:
    """How many last positions of a batch's logits are needed: from the one before the first label on."""
    taught = (labels != IGNORED).any(dim=0).nonzero()
    return labels.shape[1] if not len(taught) else int(labels.shape[1] - taught[0, 0] + 1)
