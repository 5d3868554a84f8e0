"""The reference networks of AiT and AURORA, and their published checkpoints.

The architecture is that of "All in Tokens" (arXiv 2301.02229) as AURORA (arXiv 2412.03548) uses it: five strided
convolutions down to 10x10, two residual blocks, a 1x1 projection to the codebook's dimension, and the mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from perceptok.errors import CheckpointError, ConfigError
from perceptok.weights import load_pickled_tensors

__all__ = [
    "AuroraConfig",
    "AuroraDecoder",
    "AuroraEncoder",
    "read_aurora_checkpoint",
]

_HALVINGS = 5


@dataclass(frozen=True)
class AuroraConfig:
    """Sizes of the reference networks; the defaults are the published ones (7.69 M parameters).

    Attributes:
        hidden_dim: Channels after the first convolution; doubled by each of the next four.
        codebook_size: Number of codes.
        codebook_dim: Dimension of a code.
    """

    hidden_dim: int = 16
    codebook_size: int = 128
    codebook_dim: int = 512

    def __post_init__(self) -> None:
        if not all(1 <= size <= 2**16 for size in (self.hidden_dim, self.codebook_size, self.codebook_dim)):
            raise ConfigError(f"every size is in 1..65536; got {self}")


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.net(x))


class AuroraEncoder(nn.Sequential):
    """The encoder; maps are in [-1, 1]."""

    def __init__(self, config: AuroraConfig) -> None:
        widths = [1, *(config.hidden_dim * 2**i for i in range(_HALVINGS))]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1), nn.ReLU()]
        layers += [
            _Residual(widths[-1]),
            _Residual(widths[-1]),
            nn.Conv2d(widths[-1], config.codebook_dim, 1),
        ]
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, 1, S, S) -> features (B, S / 32, S / 32, codebook_dim)."""
        for layer in self:
            x = layer(x)
        return x.permute(0, 2, 3, 1)

    def view_pixels(self, maps: Tensor) -> Tensor:
        """Maps (B, S, S) -> the form that `forward` reads, (B, 1, S, S)."""
        return maps[:, None]


class AuroraDecoder(nn.Sequential):
    """The decoder; maps are about [-1, 1]."""

    def __init__(self, config: AuroraConfig) -> None:
        deepest = config.hidden_dim * 2 ** (_HALVINGS - 1)
        widths = [deepest, *(config.hidden_dim * 2**i for i in reversed(range(_HALVINGS)))]
        layers: list[nn.Module] = [nn.Conv2d(config.codebook_dim, deepest, 1), nn.ReLU()]
        layers += [_Residual(deepest), _Residual(deepest)]
        for wide, narrow in pairwise(widths):
            layers += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(config.hidden_dim, 1, 1))

    def forward(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, H, W, codebook_dim) -> maps (B, 1, 32 H, 32 W)."""
        maps = vectors.permute(0, 3, 1, 2)
        for layer in self:
            maps = layer(maps)
        return maps

    def compute_pixels(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, H, W, codebook_dim) -> maps (B, 32 H, 32 W)."""
        maps: Tensor = self(vectors)
        return maps[:, 0]


def read_aurora_checkpoint(path: str | Path) -> tuple[AuroraConfig, dict[str, Tensor]]:
    """Read a published checkpoint: a state dict, bare or as `{"weights": ...}`, keys with or without `module.`.

    Args:
        path: The `.pt` file, read with `weights_only=True`: a pickle that would run code is refused.

    Returns:
        The configuration, its widths read from the tensors' shapes, and the weights under the names of `DepthVQVAE`
        (float32), without the reference's running averages, which only its training needs.

    Raises:
        CheckpointError: The file is damaged, unsafe, or of another format.
    """
    # Under "weights" as AiT and AURORA save it, or at the top as MolmoAct does.
    weights = load_pickled_tensors(path, CheckpointError, key="weights")
    state = {key.removeprefix("module."): value.float() for key, value in weights.items()}
    missing = {"encoder.0.weight", "_vq_vae._embedding"} - state.keys()
    if missing:
        raise CheckpointError(f"{path}: not an AiT / AURORA depth VQ-VAE: it lacks {', '.join(sorted(missing))}")
    codebook = state.pop("_vq_vae._embedding")
    first = state["encoder.0.weight"]
    if codebook.ndim != 2 or first.ndim != 4:
        raise CheckpointError(
            f"{path}: the codebook has shape {tuple(codebook.shape)}, expected (128, D), and the first convolution "
            f"{tuple(first.shape)}, expected (width, 1, 4, 4): not an AiT / AURORA depth VQ-VAE"
        )
    config = AuroraConfig(int(first.shape[0]), *(int(length) for length in codebook.shape))
    networks = {key: value for key, value in state.items() if not key.startswith("_vq_vae.")}
    return config, {**networks, "codebook": codebook}
