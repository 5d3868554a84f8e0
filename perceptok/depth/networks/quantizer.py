"""Learning the code vectors: vector-quantize-pytorch, wrapped for the depth VQ-VAE's training.

Only training enters this room: with the code vectors learned, encoding is a nearest-neighbour search in the model.
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
    """How the code vectors are learned.

    The reference recipe (arXiv 2301.02229) is `kmeans_init=False, revive_below=0, rotation_trick=False, diversity=0,
    decay=0.99, commitment=0.25`.

    Attributes:
        kmeans_init: Start from the k-means centres of the first batch's features instead of noise.
        revive_below: A code whose running count of uses per batch falls below this is replaced by a random feature.
        revive_until: Share of the training after which no code is replaced any more: at the end a code of few uses is
            rare, not dead. By itself this changed nothing measurable.
        rotation_trick: Gradient through a rotation (arXiv 2410.06424) instead of straight through.
        decay: Of the exponential moving averages that move the code vectors.
        commitment: Weight of the loss that holds features to their code vectors.
        diversity: Weight of the negative entropy of a batch's codes (nats), softened, which keeps all codes in use:
            without it the perplexity of a long run fell from 117 to 87 of 128, with it it stayed between 115 and 123.
        diversity_temperature: Inverse temperature of the softening: a code's share is softmax(-temperature * distance).
    """

    kmeans_init: bool = True
    revive_below: float = 2.0
    revive_until: float = 0.9
    rotation_trick: bool = True
    decay: float = 0.99
    commitment: float = 0.25
    diversity: float = 0.002
    diversity_temperature: float = 50.0


class Quantized(NamedTuple):
    """Code vectors (B, 10, 10, D) with gradients to the features, codes (B, 10, 10), and the quantiser's own loss."""

    vectors: Tensor
    codes: Tensor
    loss: Tensor


class Quantizer(nn.Module):
    """Assigns features to codes and moves the codes' vectors after them, in float32 whatever the autocast.

    Several processes hold one codebook: each sees the features of all, in the same order and with the same random
    state, so that k-means, averages and revivals are those of a single process.
    """

    def __init__(self, config: QuantizerConfig, size: int, dim: int) -> None:
        super().__init__()
        self.commitment, self.diversity = config.commitment, config.diversity
        self.revive_below = config.revive_below
        self.quantize = VectorQuantize(
            dim=dim,
            codebook_size=size,
            decay=config.decay,
            kmeans_init=config.kmeans_init,
            threshold_ema_dead_code=config.revive_below,
            rotation_trick=config.rotation_trick,
            codebook_diversity_loss_weight=config.diversity,
            codebook_diversity_temperature=config.diversity_temperature,
            sync_codebook=False,
        )

    @property
    def codebook(self) -> Tensor:
        """The code vectors, (K, D) float32."""
        codebook: Tensor = self.quantize.codebook
        return codebook

    def revive(self, wanted: bool) -> None:
        """Whether codes that are hardly used are replaced from now on, as far as the configuration asks for it."""
        self.quantize._codebook.threshold_ema_dead_code = self.revive_below if wanted else 0

    def forward(self, features: Tensor) -> Quantized:
        """Quantise this process's features (B, 10, 10, D); in training mode the code vectors learn from all."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.float().flatten(0, 2)
            everyone, mine = _with_other_processes(flat)
            vectors, codes, _, losses = self.quantize(everyone, return_loss_breakdown=True)
            vectors, codes = vectors[mine], codes[mine]
            loss = self.commitment * F.mse_loss(flat, vectors.detach())
            if self.diversity and self.training:
                loss = loss + self.diversity * _shared(losses.codebook_diversity, len(everyone) // len(flat))
        return Quantized(vectors.view(features.shape), codes.view(features.shape[:3]), loss)

    @torch.no_grad()
    def initialise(self, features: Tensor) -> None:
        """Place the code vectors among features (B, 10, 10, D) where the configuration asks for it."""
        everyone, _ = _with_other_processes(features.float().flatten(0, 2))
        self.quantize._codebook.init_embed_(everyone[None])

    @torch.no_grad()
    def take(self, codebook: Tensor, features: Tensor) -> None:
        """Go on from code vectors (K, D), weighed by their uses in features (B, 10, 10, D), at least one each."""
        everyone, _ = _with_other_processes(features.float().flatten(0, 2))
        nearest = torch.cdist(everyone, codebook).argmin(-1)
        uses = torch.bincount(nearest, minlength=len(codebook)).clamp(min=1).to(codebook.dtype)
        inside = self.quantize._codebook
        inside.embed.copy_(codebook[None])
        inside.cluster_size.copy_(uses[None])
        inside.embed_avg.copy_((codebook * uses[:, None])[None])
        inside.initted.fill_(True)


def _shared(loss: Tensor, processes: int) -> Tensor:
    """A loss of all processes' features: each has the gradient of its own alone, and the mean of these is taken."""
    return loss + (processes - 1) * (loss - loss.detach())


def _with_other_processes(flat: Tensor) -> tuple[Tensor, slice]:
    """Features (N, D) of every process, in the order of their ranks, and which rows are ours (these keep gradients)."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return flat, slice(None)
    rank = distributed.get_rank()
    parts = [torch.empty_like(flat) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, flat.detach().contiguous())
    parts[rank] = flat
    return torch.cat(parts), slice(rank * len(flat), (rank + 1) * len(flat))
