"""Training maps in the form training reads them: one array of square maps, on disk or in memory, grouped by source."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perceptok.depth.preprocessing import MAP_SIZE, nearest_resize
from perceptok.errors import DepthMapError, TrainingError

__all__ = ["AugmentationConfig", "MapBank", "MapSource", "augment", "draw_shares", "hide_patches"]


# Variation of training maps, on whatever device the batch is on.
#
# A map of nearness stays a valid map of nearness under each of these: mirror, crop (its range stretched to [0, 1]
# again), and the fractional-linear tone curves that a change of camera distance makes of inverse depth.


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


_LEVELS = 65535

Oddity = tuple[str, str]
"""A map's name and what is odd about it."""

MapSource = Sequence[tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, Oddity | None]]
"""A sequence of (nearness, valid): float (H, W) in [0, 1], holes filled, and a boolean mask; an `Oddity` may follow."""


_Packed = tuple[str, np.ndarray | str, np.ndarray, Oddity | None]


class Batch(NamedTuple):
    """Maps (B, S, S) float32 in [0, 1] and their masks (B, S, S)."""

    maps: Tensor
    valid: Tensor


@dataclass(frozen=True)
class MapBank:
    """Square maps at 16 bits with their masks, and the source of each.

    Attributes:
        nearness: (N, S, S) int16 that holds the bits of uint16, 0 = far, 65535 = near: no device indexes uint16.
        valid: (N, S, S) boolean.
        sources: The source of each map, in contiguous groups.
    """

    nearness: Tensor
    valid: Tensor
    sources: tuple[str, ...]

    @classmethod
    def build(
        cls,
        groups: Mapping[str, MapSource],
        *,
        workers: int = 0,
        advance: Callable[[], object] = lambda: None,
        failures: list[str] | None = None,
        warnings: list[Oddity] | None = None,
    ) -> MapBank:
        """Read every map of every source once.

        Args:
            groups: Source name -> its maps.
            workers: Processes that read; 0 reads here.
            advance: Called after every map, for a progress bar.
            failures: Takes what is wrong with maps that cannot be read, which are then left out.
            warnings: Takes what is odd about maps that are used all the same.

        Raises:
            TrainingError: There are no maps, or none that can be read.
            DepthMapError: A map cannot be read, without `failures`.
        """
        total = sum(len(maps) for maps in groups.values())
        if not total:
            raise TrainingError("there are no depth maps to train on; name a folder or a list file that has some")
        nearness = torch.empty((total, MAP_SIZE, MAP_SIZE), dtype=torch.int16)
        valid = torch.empty((total, MAP_SIZE, MAP_SIZE), dtype=torch.bool)
        names: list[str] = []
        for source, packed, known, oddity in _packed(groups, workers, failures is not None):
            if isinstance(packed, str):
                assert failures is not None
                failures.append(packed)
                advance()
                continue
            nearness[len(names)] = torch.from_numpy(packed.view(np.int16))
            valid[len(names)] = torch.from_numpy(known)
            names.append(source)
            if oddity and warnings is not None:
                warnings.append(oddity)
            advance()
        if not names:
            raise TrainingError(f"none of the {total} depth maps can be read; the first: {(failures or ['?'])[0]}")
        return cls(nearness[: len(names)], valid[: len(names)], tuple(names))

    def __len__(self) -> int:
        return len(self.sources)

    def digests(self) -> set[bytes]:
        """A digest of every map's content, to find one map in two sets."""
        return {hashlib.sha256(one.numpy().tobytes()).digest() for one in self.nearness.cpu()}

    def identity(self) -> dict[str, Any]:
        """How many maps of which sources, and a digest of all of them in their order: what a run was begun on."""
        digest = hashlib.sha256("\n".join(self.sources).encode("utf-8", "surrogatepass"))
        for nearness, valid in zip(self.nearness.cpu(), self.valid.cpu(), strict=True):
            digest.update(nearness.numpy().tobytes())
            digest.update(valid.numpy().tobytes())
        return {"maps": dict(Counter(self.sources)), "sha256": digest.hexdigest()}

    def to(self, device: torch.device) -> MapBank:
        """The same maps on a device."""
        return MapBank(self.nearness.to(device), self.valid.to(device), self.sources)

    def batch(self, indices: np.ndarray, device: torch.device) -> Batch:
        """The maps of indices (B,) int64, on a device."""
        chosen = torch.from_numpy(indices).to(self.nearness.device)
        levels = self.nearness[chosen].to(device).to(torch.int32) & 0xFFFF
        return Batch(levels.float() / _LEVELS, self.valid[chosen].to(device))


def draw_shares(
    sources: Sequence[str], fixed: Mapping[str, float], largest: float, caps: Mapping[str, float]
) -> dict[str, float]:
    """How often each source is drawn: by source, not by file, so that one long recording does not rule.

    Args:
        sources: The source of every map.
        fixed: Shares of a batch that are set, e.g. {"procedural": 0.6}; the other sources divide the rest by the square
            root of their numbers of maps.
        largest: No source not named in `fixed` gets more than this part of the rest.
        caps: Smaller limits, by source.

    Returns:
        Source -> probability; they sum to 1.
    """
    counts = {name: sources.count(name) for name in dict.fromkeys(sources)}
    set_shares = {name: share for name, share in fixed.items() if name in counts}
    free = {name: math.sqrt(count) for name, count in counts.items() if name not in set_shares}
    rest = 1 - sum(set_shares.values())
    if rest < -1e-9:
        raise TrainingError(f"the fixed shares sum to {1 - rest:g}; they may sum to 1 at most")
    if not free:
        total = sum(set_shares.values())
        return {name: share / total for name, share in set_shares.items()}
    limits = {name: min(largest, caps.get(name, 1.0)) for name in free}
    return {**set_shares, **{name: rest * share for name, share in _capped(free, limits).items()}}


def _capped(weights: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """Shares in proportion to weights, none above its limit; limits that cannot add up to 1 are scaled up."""
    slack = max(1.0, 1 / sum(limits[name] for name in weights))
    shares: dict[str, float] = {}
    open_names = set(weights)
    while open_names:
        left = 1 - sum(shares.values())
        total = sum(weights[name] for name in open_names)
        full = {name for name in open_names if left * weights[name] / total > slack * limits[name]}
        if not full:
            return {
                **shares,
                **{name: left * weights[name] / total for name in weights if name in open_names},
            }
        shares.update({name: slack * limits[name] for name in full})
        open_names -= full
    return shares


def _pack(maps: MapSource, source: str, lenient: bool, index: int) -> _Packed:
    """A map's source, its levels, or what is wrong with it, its mask, and what is odd about it."""
    try:
        nearness, valid, *odd = maps[index]
    except DepthMapError as error:
        if not lenient:
            raise
        return source, str(error), np.empty((0, 0), dtype=bool), None
    levels = np.rint(nearest_resize(nearness, MAP_SIZE, MAP_SIZE) * _LEVELS).astype(np.uint16)
    return source, levels, nearest_resize(valid, MAP_SIZE, MAP_SIZE), odd[0] if odd else None


def _packed(groups: Mapping[str, MapSource], workers: int, lenient: bool) -> Iterator[_Packed]:
    if not workers:
        for source, maps in groups.items():
            yield from (_pack(maps, source, lenient, index) for index in range(len(maps)))
        return
    # Spawned, not forked: a forked child inherits torch's thread pools in whatever state they are.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        # All sources are handed out before the first is awaited, so that no worker waits for the end of a source.
        handed = [
            pool.map(partial(_pack, maps, source, lenient), range(len(maps)), chunksize=8)
            for source, maps in groups.items()
        ]
        for results in handed:
            yield from results
