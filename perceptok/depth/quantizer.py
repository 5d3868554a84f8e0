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

    The reference recipe (arXiv 2301.02229) is `kmeans_init=False, revive_below=0, rotation_trick=False, decay=0.99,
    commitment=0.25`.

    Attributes:
        kmeans_init: Start from the k-means centres of the first batch's features instead of noise.
        revive_below: A code whose running count of uses per batch falls below this is replaced by a random feature.
        rotation_trick: Gradient through a rotation (arXiv 2410.06424) instead of straight through.
        decay: Of the exponential moving averages that move the code vectors.
        commitment: Weight of the loss that holds features to their code vectors.
    """

    kmeans_init: bool = True
    revive_below: float = 2.0
    rotation_trick: bool = True
    decay: float = 0.99
    commitment: float = 0.25


class Quantized(NamedTuple):
    """Code vectors (B, 10, 10, D) with gradients to the features, codes (B, 10, 10), and the commitment loss."""

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
        self.commitment = config.commitment
        self.quantize = VectorQuantize(
            dim=dim,
            codebook_size=size,
            decay=config.decay,
            kmeans_init=config.kmeans_init,
            threshold_ema_dead_code=config.revive_below,
            rotation_trick=config.rotation_trick,
            sync_codebook=False,
        )

    @property
    def codebook(self) -> Tensor:
        """The code vectors, (K, D) float32."""
        codebook: Tensor = self.quantize.codebook
        return codebook

    def forward(self, features: Tensor) -> Quantized:
        """Quantise this process's features (B, 10, 10, D); in training mode the code vectors learn from all."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.float().flatten(0, 2)
            everyone, mine = _with_other_processes(flat)
            vectors, codes, _ = self.quantize(everyone)
            vectors, codes = vectors[mine], codes[mine]
            loss = self.commitment * F.mse_loss(flat, vectors.detach())
        return Quantized(vectors.view(features.shape), codes.view(features.shape[:3]), loss)

    @torch.no_grad()
    def initialise(self, features: Tensor) -> None:
        """Place the code vectors among features (B, 10, 10, D) where the configuration asks for it."""
        everyone, _ = _with_other_processes(features.float().flatten(0, 2))
        self.quantize._codebook.init_embed_(everyone[None])


def _with_other_processes(flat: Tensor) -> tuple[Tensor, slice]:
    """Features (N, D) of every process, in the order of their ranks, and which rows are ours (these keep gradients)."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return flat, slice(None)
    rank = distributed.get_rank()
    parts = [torch.empty_like(flat) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, flat.detach().contiguous())
    parts[rank] = flat
    return torch.cat(parts), slice(rank * len(flat), (rank + 1) * len(flat))
