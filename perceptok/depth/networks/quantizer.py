"""The quantiser of training: learns the code vectors with vector-quantize-pytorch.

Only training needs it: with the code vectors learned, encoding is a nearest-neighbour search in `DepthVQVAE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from vector_quantize_pytorch import VectorQuantize

__all__ = ["Quantized", "Quantizer", "QuantizerConfig"]


@dataclass(frozen=True)
class QuantizerConfig:
    """How the code vectors are learned; the names are those of vector-quantize-pytorch's `VectorQuantize`.

    The reference recipe (arXiv 2301.02229) is `kmeans_init=False, threshold_ema_dead_code=0, rotation_trick=False,
    codebook_diversity_loss_weight=0, decay=0.99, commitment_weight=0.25`.

    Attributes:
        kmeans_init: Start from the k-means centres of the first batch's features instead of noise.
        threshold_ema_dead_code: A code whose running count of uses per batch falls below this is dead and replaced by a
            random feature.
        dead_code_ratio: Fraction of the steps in which dead codes are replaced: at the end a code of few uses is rare,
            not dead. By itself this changed nothing measurable.
        rotation_trick: Gradient through a rotation (arXiv 2410.06424) instead of straight through.
        decay: Decay of the exponential moving averages that update the code vectors.
        commitment_weight: Weight of the loss that keeps features near their code vectors.
        codebook_diversity_loss_weight: Weight of the negative entropy of a batch's softened codes (nats), which keeps
            all codes in use: without it the perplexity of a long run fell from 117 to 87 of 128, with it it stayed
            between 115 and 123.
        codebook_diversity_temperature: Inverse temperature of the softening: softmax(-temperature * distance).
    """

    kmeans_init: bool = True
    threshold_ema_dead_code: float = 2.0
    dead_code_ratio: float = 0.9
    rotation_trick: bool = True
    decay: float = 0.99
    commitment_weight: float = 0.25
    codebook_diversity_loss_weight: float = 0.002
    codebook_diversity_temperature: float = 50.0


class Quantized(NamedTuple):
    """Code vectors (B, 10, 10, D) with gradients to the features, codes (B, 10, 10), and the quantiser's own loss."""

    vectors: Tensor
    codes: Tensor
    loss: Tensor


class Quantizer(nn.Module):
    """Assigns features to codes and moves the code vectors towards them, in float32 whatever the autocast.

    Several processes hold one codebook: each gets the features of all, in the same order and with the same random
    state, so that k-means, averages and replacements are those of a single process.
    """

    def __init__(self, config: QuantizerConfig, size: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.quantize = VectorQuantize(
            dim=dim,
            codebook_size=size,
            decay=config.decay,
            kmeans_init=config.kmeans_init,
            threshold_ema_dead_code=config.threshold_ema_dead_code,
            rotation_trick=config.rotation_trick,
            codebook_diversity_loss_weight=config.codebook_diversity_loss_weight,
            codebook_diversity_temperature=config.codebook_diversity_temperature,
            sync_codebook=False,
        )

    @property
    def codebook(self) -> Tensor:
        """The code vectors, (K, D) float32."""
        codebook: Tensor = self.quantize.codebook
        return codebook

    def replace_dead_codes(self, enabled: bool) -> None:
        """Replace dead codes from now on, or no longer."""
        threshold = self.config.threshold_ema_dead_code
        self.quantize._codebook.threshold_ema_dead_code = threshold if enabled else 0

    def forward(self, features: Tensor) -> Quantized:
        """Quantise this process's features (B, 10, 10, D); in training mode the code vectors learn from all."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.float().flatten(0, 2)
            gathered, own = _gather_features(flat)
            vectors, codes, _, losses = self.quantize(gathered, return_loss_breakdown=True)
            vectors, codes = vectors[own], codes[own]
            loss = self.config.commitment_weight * F.mse_loss(flat, vectors.detach())
            if self.config.codebook_diversity_loss_weight and self.training:
                diversity = _scale_gradient(losses.codebook_diversity, len(gathered) // len(flat))
                loss = loss + self.config.codebook_diversity_loss_weight * diversity
        return Quantized(vectors.view(features.shape), codes.view(features.shape[:3]), loss)

    @torch.no_grad()
    def initialise(self, features: Tensor) -> None:
        """Place the code vectors among features (B, 10, 10, D) where the configuration asks for it."""
        gathered, _ = _gather_features(features.float().flatten(0, 2))
        self.quantize._codebook.init_embed_(gathered[None])

    @torch.no_grad()
    def load_codebook(self, codebook: Tensor, features: Tensor) -> None:
        """Continue from code vectors (K, D), weighted by their uses in features (B, 10, 10, D), at least one each."""
        gathered, _ = _gather_features(features.float().flatten(0, 2))
        nearest = torch.cdist(gathered, codebook).argmin(-1)
        uses = torch.bincount(nearest, minlength=len(codebook)).clamp(min=1).to(codebook.dtype)
        inner = self.quantize._codebook
        inner.embed.copy_(codebook[None])
        inner.cluster_size.copy_(uses[None])
        inner.embed_avg.copy_((codebook * uses[:, None])[None])
        inner.initted.fill_(True)


def _scale_gradient(loss: Tensor, processes: int) -> Tensor:
    """The same loss with a larger gradient: each process has that of its own features, and their mean is taken."""
    return loss + (processes - 1) * (loss - loss.detach())


def _gather_features(flat: Tensor) -> tuple[Tensor, slice]:
    """Features (N, D) of all processes, by rank, and the rows of this process, which keep their gradients."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return flat, slice(None)
    rank = distributed.get_rank()
    parts = [torch.empty_like(flat) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, flat.detach().contiguous())
    parts[rank] = flat
    return torch.cat(parts), slice(rank * len(flat), (rank + 1) * len(flat))
