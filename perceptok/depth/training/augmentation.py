"""Variation of training maps, on whatever device the batch is on.

A map of nearness stays a valid map of nearness under each of these: mirror, crop (its range stretched to [0, 1]
again), and the fractional-linear tone curves that a change of camera distance makes of inverse depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["AugmentationConfig", "augment", "hide_patches"]


@dataclass(frozen=True)
class AugmentationConfig:
    """Strength of each variation; 0 turns it off.

    Attributes:
        mirror: Probability of a left-right flip.
        crop: Probability of a crop.
        smallest_crop: Side of the smallest crop, as a share of the map's.
        tone: Probability of a tone curve.
        tone_strength: Standard deviation of the curve's log slope.
        noise: Standard deviation of the strongest pixel noise added to the input alone.
        hide: Probability that patches are hidden from the input (AiT's mask augmentation, arXiv 2301.02229).
        hide_share: Largest share of the 10x10 cells hidden.
    """

    mirror: float = 0.5
    crop: float = 0.5
    smallest_crop: float = 0.5
    tone: float = 0.5
    tone_strength: float = 0.7
    noise: float = 0.0
    hide: float = 0.0
    hide_share: float = 0.2


def augment(maps: Tensor, valid: Tensor, config: AugmentationConfig, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vary a batch.

    Args:
        maps: (B, S, S) float, nearness in [0, 1], holes filled.
        valid: (B, S, S) boolean.
        config: Strengths.
        rng: A CPU generator: the draws are the same whatever the device.

    Returns:
        Varied maps and masks of the same shapes; the maps' valid range is [0, 1] again.
    """
    batch, device = len(maps), maps.device

    def chance(probability: float) -> Tensor:
        return torch.rand(batch, generator=rng) < probability

    mirror = torch.where(chance(config.mirror), -1.0, 1.0)
    side = torch.where(
        chance(config.crop)[:, None],
        config.smallest_crop + (1 - config.smallest_crop) * torch.rand(batch, 2, generator=rng),
        torch.ones(batch, 2),
    )
    offset = (1 - side) * (2 * torch.rand(batch, 2, generator=rng) - 1)
    curve = torch.exp(config.tone_strength * torch.randn(batch, generator=rng))
    curve = torch.where(chance(config.tone), curve, torch.ones(batch)).to(device)[:, None, None]

    affine = torch.zeros(batch, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = side[:, 0] * mirror, side[:, 1]
    affine[:, :, 2] = offset
    grid = F.affine_grid(affine.to(device), [batch, 1, *maps.shape[1:]], align_corners=False)
    both = torch.stack([maps, valid.to(maps.dtype)], dim=1)
    # Nearest, because a mean of two surfaces is a depth where nothing is.
    maps, known = F.grid_sample(both, grid, mode="nearest", padding_mode="border", align_corners=False).unbind(1)
    valid = known > 0.5
    maps = _stretch(maps, valid)
    return maps / (maps + curve * (1 - maps)).clamp(min=1e-6), valid


def hide_patches(maps: Tensor, config: AugmentationConfig, rng: torch.Generator, cells: int = 10) -> Tensor:
    """The encoder's input: maps (B, S, S) with noise, and with random cells of a grid hidden (set to 0.5)."""
    batch, size, device = len(maps), maps.shape[-1], maps.device
    if config.noise:
        level = config.noise * torch.rand(batch, 1, 1, generator=rng)
        maps = maps + level.to(device) * torch.randn(maps.shape, generator=rng).to(device)
    if config.hide:
        share = config.hide_share * torch.rand(batch, 1, 1, generator=rng)
        share = torch.where(torch.rand(batch, 1, 1, generator=rng) < config.hide, share, 0.0)
        hidden = (torch.rand(batch, cells, cells, generator=rng) < share).to(device)
        each = size // cells
        maps = maps.masked_fill(hidden.repeat_interleave(each, 1).repeat_interleave(each, 2), 0.5)
    return maps


def _stretch(maps: Tensor, valid: Tensor) -> Tensor:
    """Stretch each map's valid range to [0, 1]; a constant map becomes 0.5 throughout."""
    low = maps.masked_fill(~valid, float("inf")).amin((-2, -1), keepdim=True)
    high = maps.masked_fill(~valid, float("-inf")).amax((-2, -1), keepdim=True)
    flat = ~(high - low > 1e-4)
    stretched = (maps - low) / torch.where(flat, 1.0, high - low)
    return torch.where(flat, 0.5, stretched).clamp(0, 1)
