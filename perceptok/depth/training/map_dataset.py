"""Training maps: square maps on disk or in memory grouped by source, how often each source is drawn, augmentation."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perceptok.config import config_from_dict
from perceptok.depth.preprocessing import MAP_SIZE, resize_nearest
from perceptok.errors import ConfigError, DepthMapError, PerceptokError, TrainingError, quote_error
from perceptok.files import atomic_folder, atomic_write, check_free_space, parse_json, read_input
from perceptok.jobs import prepare_worker

__all__ = ["AugmentationConfig", "MapDataset", "MapSource", "augment", "compute_source_probabilities", "corrupt_inputs"]

_LEVELS = 65535

MapWarning = tuple[str, str]
"""A map's name and what is suspicious about it."""

MapSource = Sequence[tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, MapWarning | None]]
"""A sequence of (nearness, valid): float (H, W) in [0, 1] without holes, and a bool mask; a `MapWarning` may follow."""


class _PackedMap(NamedTuple):
    """A map's source, its 16-bit levels and mask, and its warning; `error` instead of levels where it is unreadable."""

    source: str
    levels: np.ndarray
    valid: np.ndarray
    warning: MapWarning | None
    error: str | None = None


class Batch(NamedTuple):
    """Maps (B, S, S) float32 in [0, 1] and their masks (B, S, S)."""

    maps: Tensor
    valid: Tensor


@dataclass(frozen=True)
class MapDataset:
    """Square maps of nearness at 16 bits with their masks, and the source of each.

    Attributes:
        nearness: (N, S, S) int16 that holds the bits of uint16, 0 = far, 65535 = near: no device indexes uint16.
        valid: (N, S, S) bool.
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
        cache_dir: str | Path | None = None,
        advance: Callable[[], object] = lambda: None,
        failures: list[str] | None = None,
        warnings: list[MapWarning] | None = None,
    ) -> MapDataset:
        """Read every map of every source once, or, with a cache, once for all runs.

        Args:
            groups: Source name -> its maps.
            workers: Number of processes that read; 0 reads in this one.
            cache_dir: A folder for the maps of this and later calls, 0.3 MB each, which are then mapped into memory
                and not held in it. Its subfolders are named by a hash of the sources' `recipe`: seeds and sizes of
                `ProceduralDepthMaps`, and of `MapFiles` the options and the sizes and times of the files.
            advance: Called after every map, for a progress bar.
            failures: Receives the errors of maps that cannot be read, which are then left out.
            warnings: Receives the warnings about maps, which are used all the same.

        Raises:
            TrainingError: The sources have no maps, or none that can be read.
            DepthMapError: A map cannot be read, without `failures`.
            ConfigError: A cache for a source without a `recipe`, such as arrays in memory.
            OutputError: The cache cannot be written.
        """
        total = sum(len(maps) for maps in groups.values())
        if not total:
            raise TrainingError("no depth maps to train on; name a folder or a list file that has some")
        lenient = failures is not None
        if cache_dir is None:
            shape = (total, MAP_SIZE, MAP_SIZE)
            arrays: dict[str, np.ndarray] = {name: np.empty(shape, dtype) for name, dtype in _ARRAYS.items()}
            contents = _read_maps(groups, arrays, workers, advance, lenient=lenient)
        else:
            folder = Path(cache_dir) / _hash_recipe(groups)
            if folder.exists():
                for _ in range(total):
                    advance()
            else:
                _write_bank(folder, groups, total, workers, advance)
            arrays, contents = _open_bank(folder, total)
            if contents.failures and not lenient:
                raise DepthMapError(contents.failures[0])
        if failures is not None:
            failures += contents.failures
        if warnings is not None:
            warnings += [(name, text) for name, text in contents.warnings]
        count = len(contents.sources)
        if not count:
            raise TrainingError(f"none of the {total} depth maps can be read; the first: {contents.failures[0]}")
        nearness, valid = (torch.from_numpy(arrays[name][:count]) for name in _ARRAYS)
        return cls(nearness, valid, tuple(contents.sources))

    def __len__(self) -> int:
        return len(self.sources)

    def hash_maps(self) -> set[bytes]:
        """A digest of every map's content, to find maps that two sets share."""
        return {hashlib.sha256(levels.numpy().tobytes()).digest() for levels in self.nearness.cpu()}

    def describe(self) -> dict[str, Any]:
        """The number of maps of each source, and a digest of all maps in their order, which identify a run's data."""
        digest = hashlib.sha256("\n".join(self.sources).encode("utf-8", "surrogatepass"))
        for nearness, valid in zip(self.nearness.cpu(), self.valid.cpu(), strict=True):
            digest.update(nearness.numpy().tobytes())
            digest.update(valid.numpy().tobytes())
        return {"maps": dict(Counter(self.sources)), "sha256": digest.hexdigest()}

    def to(self, device: torch.device) -> MapDataset:
        """The same maps on a device."""
        return MapDataset(self.nearness.to(device), self.valid.to(device), self.sources)

    def load_batch(self, indices: np.ndarray, device: torch.device) -> Batch:
        """The maps of the indices (B,) int64 on a device."""
        chosen = torch.from_numpy(indices).to(self.nearness.device, non_blocking=True)
        levels = self.nearness[chosen].to(device).to(torch.int32) & 0xFFFF
        return Batch(levels.float() / _LEVELS, self.valid[chosen].to(device))


_ARRAYS: dict[str, type[np.generic]] = {"nearness": np.int16, "valid": np.bool_}
_CONTENTS = "contents.json"


@dataclass
class _Contents:
    """What was read: the source of each map, what cannot be read, and what is suspicious."""

    sources: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    warnings: list[MapWarning] = field(default_factory=list)


def _read_maps(
    groups: Mapping[str, MapSource],
    arrays: Mapping[str, np.ndarray],
    workers: int,
    advance: Callable[[], object],
    *,
    lenient: bool,
) -> _Contents:
    """Read the maps into arrays, those that can be read one after another."""
    contents = _Contents()
    for packed in _pack_all(groups, workers, lenient=lenient):
        advance()
        if packed.error is not None:
            contents.failures.append(packed.error)
            continue
        arrays["nearness"][len(contents.sources)] = packed.levels.view(np.int16)
        arrays["valid"][len(contents.sources)] = packed.valid
        contents.sources.append(packed.source)
        contents.warnings += [packed.warning] if packed.warning else []
    return contents


def _hash_recipe(groups: Mapping[str, MapSource]) -> str:
    """Names a bank by what its maps are made of."""
    recipes = []
    for source, maps in groups.items():
        recipe = getattr(maps, "recipe", None)
        if recipe is None:
            raise ConfigError(
                f"the maps of {source!r} have no recipe, so that a cache could not tell them from others; leave "
                "cache_dir out, or give MapFiles or ProceduralDepthMaps"
            )
        recipes.append([source, recipe])
    text = json.dumps([_BANK_FORMAT, MAP_SIZE, recipes], default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


_BANK_FORMAT = 1


def _write_bank(
    folder: Path, groups: Mapping[str, MapSource], total: int, workers: int, advance: Callable[[], object]
) -> None:
    with atomic_folder(folder) as temporary:
        check_free_space(temporary, total * MAP_SIZE**2 * sum(np.dtype(dtype).itemsize for dtype in _ARRAYS.values()))
        arrays = {
            name: np.lib.format.open_memmap(
                temporary / f"{name}.npy", mode="w+", dtype=dtype, shape=(total, MAP_SIZE, MAP_SIZE)
            )
            for name, dtype in _ARRAYS.items()
        }
        contents = _read_maps(groups, arrays, workers, advance, lenient=True)
        for array in arrays.values():
            array.flush()
        with atomic_write(temporary / _CONTENTS) as file:
            file.write(json.dumps(asdict(contents)).encode())


def _open_bank(folder: Path, total: int) -> tuple[dict[str, np.ndarray], _Contents]:
    """The arrays, copied on write where somebody writes into them, and what they hold."""
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in _ARRAYS}
        values = parse_json(read_input(folder / _CONTENTS), str(folder / _CONTENTS), TrainingError)
        contents = config_from_dict(_Contents, values)
    except (OSError, ValueError, EOFError, PerceptokError) as error:
        raise TrainingError(f"{folder}: a damaged cache of maps ({quote_error(error)}); remove it") from error
    if any(
        array.shape != (total, MAP_SIZE, MAP_SIZE) or array.dtype != _ARRAYS[name] for name, array in arrays.items()
    ):
        raise TrainingError(f"{folder}: a damaged cache of maps: its arrays do not hold {total} maps; remove it")
    return arrays, contents


def _pack_all(groups: Mapping[str, MapSource], workers: int, *, lenient: bool) -> Iterator[_PackedMap]:
    if not workers:
        for source, maps in groups.items():
            yield from (_pack(maps, source, lenient, index) for index in range(len(maps)))
        return
    # Spawned, not forked: a forked child inherits torch's thread pools in whatever state they are.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=prepare_worker) as pool:
        # All sources are submitted before the first is awaited, so that no worker waits for the end of a source.
        submitted = [
            pool.map(partial(_pack, maps, source, lenient), range(len(maps)), chunksize=8)
            for source, maps in groups.items()
        ]
        for results in submitted:
            yield from results


def _pack(maps: MapSource, source: str, lenient: bool, index: int) -> _PackedMap:
    try:
        nearness, valid, *warning = maps[index]
    except DepthMapError as error:
        if not lenient:
            raise
        return _PackedMap(source, np.empty((0, 0)), np.empty((0, 0), dtype=bool), None, str(error))
    levels = np.rint(resize_nearest(nearness, MAP_SIZE, MAP_SIZE) * _LEVELS).astype(np.uint16)
    return _PackedMap(source, levels, resize_nearest(valid, MAP_SIZE, MAP_SIZE), warning[0] if warning else None)


def compute_source_probabilities(
    sources: Sequence[str], given: Mapping[str, float], limit: float, limits: Mapping[str, float]
) -> dict[str, float]:
    """The probability that a map is drawn from each source: by source, not by file, so that no recording dominates.

    Args:
        sources: The source of every map.
        given: Probabilities of given sources, e.g. {"procedural": 0.6}; the other sources divide the rest in proportion
            to the square root of their numbers of maps.
        limit: No source that is not in `given` gets more than this fraction of the rest.
        limits: Smaller limits, by source.

    Returns:
        Source -> probability; they sum to 1.

    Raises:
        TrainingError: The given probabilities sum to more than 1.
    """
    counts = Counter(sources)
    known = {name: probability for name, probability in given.items() if name in counts}
    weights = {name: math.sqrt(count) for name, count in counts.items() if name not in known}
    rest = 1 - sum(known.values())
    if rest < -1e-9:
        raise TrainingError(f"the source probabilities sum to {1 - rest:g}; they must not exceed 1")
    if not weights:
        total = sum(known.values())
        return {name: probability / total for name, probability in known.items()}
    divided = _divide(weights, {name: min(limit, limits.get(name, 1.0)) for name in weights})
    return {**known, **{name: rest * fraction for name, fraction in divided.items()}}


def _divide(weights: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """Fractions in proportion to weights, none above its limit; limits that cannot add up to 1 are scaled up."""
    slack = max(1.0, 1 / sum(limits[name] for name in weights))
    fractions: dict[str, float] = {}
    unlimited = dict(weights)
    while unlimited:
        rest, total = 1 - sum(fractions.values()), sum(unlimited.values())
        proportional = {name: rest * weight / total for name, weight in unlimited.items()}
        at_limit = {name for name, fraction in proportional.items() if fraction > slack * limits[name]}
        if not at_limit:
            return fractions | proportional
        fractions |= {name: slack * limits[name] for name in weights if name in at_limit}
        unlimited = {name: weight for name, weight in unlimited.items() if name not in at_limit}
    return fractions


@dataclass(frozen=True)
class AugmentationConfig:
    """Strength of each augmentation; a probability or standard deviation of 0 turns it off.

    A map of nearness stays a valid map of nearness under each of them: flip, crop (its range stretched to [0, 1]
    again), and the fractional-linear tone curves that a change of camera distance makes of inverse depth.

    Attributes:
        flip_prob: Probability of a left-right flip.
        crop_prob: Probability of a crop.
        min_crop_scale: Side of the smallest crop, as a fraction of the map's.
        tone_prob: Probability of a tone curve.
        tone_std: Standard deviation of the curve's log slope.
        noise_std: Standard deviation of the strongest pixel noise added to the input alone.
        mask_prob: Probability that patches of the input are masked (AiT's mask augmentation, arXiv 2301.02229).
        mask_ratio: Largest fraction of the 10x10 cells that is masked.
    """

    flip_prob: float = 0.5
    crop_prob: float = 0.5
    min_crop_scale: float = 0.5
    tone_prob: float = 0.5
    tone_std: float = 0.7
    noise_std: float = 0.0
    mask_prob: float = 0.0
    mask_ratio: float = 0.2


def augment(maps: Tensor, valid: Tensor, config: AugmentationConfig, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip, crop and tone a batch.

    Args:
        maps: (B, S, S) float, nearness in [0, 1], holes filled.
        valid: (B, S, S) bool.
        config: Strengths.
        rng: A CPU generator: the draws are the same whatever the device.

    Returns:
        Augmented maps and masks of the same shapes; the maps' valid range is [0, 1] again.
    """
    batch, device = len(maps), maps.device

    def draw(probability: float) -> Tensor:
        return torch.rand(batch, generator=rng) < probability

    flip = torch.where(draw(config.flip_prob), -1.0, 1.0)
    side = torch.where(
        draw(config.crop_prob)[:, None],
        config.min_crop_scale + (1 - config.min_crop_scale) * torch.rand(batch, 2, generator=rng),
        torch.ones(batch, 2),
    )
    offset = (1 - side) * (2 * torch.rand(batch, 2, generator=rng) - 1)
    slope = torch.exp(config.tone_std * torch.randn(batch, generator=rng))
    slope = torch.where(draw(config.tone_prob), slope, torch.ones(batch))
    affine = torch.zeros(batch, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = side[:, 0] * flip, side[:, 1]
    affine[:, :, 2] = offset
    # One transfer, which the host does not wait for.
    drawn = torch.cat([affine.flatten(1), slope[:, None]], dim=1).to(device, non_blocking=True)
    affine, slope = drawn[:, :6].reshape(batch, 2, 3), drawn[:, 6, None, None]
    grid = F.affine_grid(affine, [batch, 1, *maps.shape[1:]], align_corners=False)
    both = torch.stack([maps, valid.to(maps.dtype)], dim=1)
    # Nearest, because a mean of two surfaces is a depth that does not occur.
    maps, mask = F.grid_sample(both, grid, mode="nearest", padding_mode="border", align_corners=False).unbind(1)
    valid = mask > 0.5
    maps = _stretch(maps, valid)
    return maps / (maps + slope * (1 - maps)).clamp(min=1e-6), valid


def _stretch(maps: Tensor, valid: Tensor) -> Tensor:
    """Stretch each map's valid range to [0, 1]; a constant map becomes 0.5 throughout."""
    low = maps.masked_fill(~valid, float("inf")).amin((-2, -1), keepdim=True)
    high = maps.masked_fill(~valid, float("-inf")).amax((-2, -1), keepdim=True)
    flat = ~(high - low > 1e-4)
    stretched = (maps - low) / torch.where(flat, 1.0, high - low)
    return torch.where(flat, 0.5, stretched).clamp(0, 1)


def corrupt_inputs(maps: Tensor, config: AugmentationConfig, rng: torch.Generator, cells: int = 10) -> Tensor:
    """The encoder's input: maps (B, S, S) with noise, and with random cells of a cells x cells grid masked by 0.5."""
    batch, size, device = len(maps), maps.shape[-1], maps.device
    if config.noise_std:
        std = config.noise_std * torch.rand(batch, 1, 1, generator=rng)
        maps = maps + std.to(device) * torch.randn(maps.shape, generator=rng).to(device)
    if config.mask_prob:
        ratio = config.mask_ratio * torch.rand(batch, 1, 1, generator=rng)
        ratio = torch.where(torch.rand(batch, 1, 1, generator=rng) < config.mask_prob, ratio, 0.0)
        masked = (torch.rand(batch, cells, cells, generator=rng) < ratio).to(device)
        side = size // cells
        maps = maps.masked_fill(masked.repeat_interleave(side, 1).repeat_interleave(side, 2), 0.5)
    return maps
