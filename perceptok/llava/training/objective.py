"""The loss of a batch: cross entropy of the answers, and Eqs. 1 and 2 of AURORA on the depth codes among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from perceptok.errors import ConfigError
from perceptok.llava.training.collating import IGNORED
from perceptok.llava.training.recipe import ObjectiveSettings
from perceptok.objectives.distillation import distillation_loss
from perceptok.objectives.reconstruction import reconstruction_loss
from perceptok.objectives.targets import next_token_targets
from perceptok.tokens import DEPTH, DEPTH_GRID
from perceptok.vocabulary.alignment.mapping import VocabularyAlignment
from perceptok.vocabulary.lookup import PerceptionVocabulary

if TYPE_CHECKING:
    from perceptok.depth.codec import DepthCodec

__all__ = ["BatchLoss", "Objective", "positions_to_keep"]

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
        if not self._soft and self.settings.normalisation == "full":
            # Of a hard teacher over the whole vocabulary it is the cross entropy of the codes, which is there already.
            return (losses * targets.mask[at]).sum()
        assert teacher is not None or not self._soft
        return distillation_loss(
            logits,
            teacher.to(logits.device) if self._soft and teacher is not None else targets.codes[targets.mask],
            self.alignment,
            self.vocab,
            targets.mask,
            normalisation=self.settings.normalisation,
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
