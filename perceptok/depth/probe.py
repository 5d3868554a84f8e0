"""A probe of codecs: how well small networks learn the codes, and how many codes change when a map changes a little.

Reconstruction is half of a tokenizer's quality: a language model has to predict the codes. The probe trains the same
two small networks for the same steps on the same maps for every codec, and for a k-means of patches, the baseline
without networks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from perceptok.depth.codec import DepthCodec
from perceptok.depth.maps import DepthMap
from perceptok.depth.metrics import compute_code_usage, compute_squared_errors
from perceptok.depth.preprocessing import MAP_SIZE, resize_nearest
from perceptok.depth.sequences import compute_clip_range
from perceptok.depth.training.map_dataset import MapDataset
from perceptok.errors import ConfigError, TrainingError
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = ["KMEANS", "ProbeConfig", "ProbeScore", "count_probe_steps", "find_static_cells", "probe_depth_codecs"]

KMEANS = "k-means"
"""Name of the baseline among the scores."""

_SIDE = DEPTH_GRID[0]
_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]
_CELL_PIXELS = MAP_SIZE // _SIDE


@dataclass(frozen=True)
class ProbeConfig:
    """Settings of the probe; scores of different settings are not comparable.

    Attributes:
        max_steps: Number of optimizer steps of each of the two networks.
        batch_size: Maps per step.
        learning_rate: Peak learning rate of AdamW; cosine to zero.
        hidden_size: Width of the transformers.
        num_hidden_layers: Their layers.
        num_attention_heads: Attention heads of a layer.
        view_size: Side in pixels of the view that codes are predicted from, a multiple of 10.
        view_blur: Standard deviation of the Gaussian blur of the view, in its pixels.
        view_noise: Standard deviation of the view's noise, in nearness.
        sensor_noise: Standard deviation of the noise of the clips' pixels, as a fraction of their depth.
        kmeans_patches: Number of training patches that k-means runs on.
        seed: Seed of weights, batches, noise and k-means.

    Raises:
        ConfigError: A value is out of range.
    """

    max_steps: int = 300
    batch_size: int = 32
    learning_rate: float = 2e-3
    hidden_size: int = 96
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    view_size: int = 40
    view_blur: float = 1.0
    view_noise: float = 0.05
    sensor_noise: float = 0.01
    kmeans_patches: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = ("max_steps", "batch_size", "learning_rate", "hidden_size", "num_hidden_layers", "num_attention_heads")
        for name in (*sizes, "view_size", "view_blur"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("view_noise", "sensor_noise", "seed"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative; got {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size must be a multiple of num_attention_heads; got {self.hidden_size} and "
                f"{self.num_attention_heads}"
            )
        if self.view_size % _SIDE or MAP_SIZE % self.view_size:
            raise ConfigError(f"view_size must divide {MAP_SIZE} and be a multiple of {_SIDE}; got {self.view_size}")
        if self.kmeans_patches < DEPTH.size:
            raise ConfigError(f"kmeans_patches must be at least {DEPTH.size}; got {self.kmeans_patches}")


@dataclass(frozen=True)
class ProbeScore:
    """What the probe measures of one codec on the held-out maps.

    Attributes:
        rmse: Root mean squared error in nearness of a map's valid pixels when decoded from its own codes; mean of maps.
        codes_used: Number of codes that the held-out maps use.
        entropy: Entropy of the codes' frequencies in bits: what a model pays for a code that knows only these.
        bits_per_code: Cross entropy in bits per code of an autoregressive transformer over the 100 codes of a map.
        predicted_rmse: As `rmse`, but decoded from the codes that a transformer predicts from a blurred, noisy view.
        predicted_codes: Fraction of the codes that it predicts right.
        changed: Fraction of codes that change when the map is perturbed, by the name of the perturbation: smooth noise
            and noise of each pixel (standard deviation in nearness), a tone curve, a shift of 2 pixels, and a change of
            one cell, in that cell, in its eight neighbours and in all others. "static cells of clips" is the fraction
            per frame in cells whose true depth stays while the camera moves; NaN without such cells.
    """

    rmse: float
    codes_used: int
    entropy: float
    bits_per_code: float
    predicted_rmse: float
    predicted_codes: float
    changed: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The score as plain JSON types, None for NaN."""
        changed = {name: None if math.isnan(share) else share for name, share in self.changed.items()}
        return {**asdict(self), "changed": changed}


def count_probe_steps(codecs: int, config: ProbeConfig) -> int:
    """The number of times that `probe_depth_codecs` calls `advance` for that many codecs, k-means not counted."""
    return 2 * config.max_steps * (codecs + 1)


def probe_depth_codecs(
    codecs: Mapping[str, DepthCodec],
    train_maps: MapDataset,
    val_maps: MapDataset,
    clips: Sequence[np.ndarray] = (),
    config: ProbeConfig | None = None,
    *,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, ProbeScore]:
    """Train the probe's networks for every codec and for a k-means of patches (128 centres of 32x32 pixels).

    On one device equal arguments give equal scores. A codec that uses few codes has few bits per code: read them beside
    the errors.

    Args:
        codecs: The codecs by name.
        train_maps: Maps whose codes the networks are trained on, and whose patches are the k-means' points.
        val_maps: Held-out maps, which every measure but that of clips is made on.
        clips: Frames (F, H, W) of a moving camera, exact depth in metres, 0 where nothing is known.
        config: The settings.
        advance: Called after every optimizer step; see `count_probe_steps`.

    Returns:
        The score of every codec, and of "k-means".

    Raises:
        ConfigError: There are no codecs, or one is named "k-means".
        TrainingError: A validation map is also a training map.
    """
    config = config or ProbeConfig()
    if not codecs or KMEANS in codecs:
        raise ConfigError(f"the probe compares codecs by name, and {KMEANS!r} is the baseline's; got {list(codecs)}")
    if common := train_maps.hash_maps() & val_maps.hash_maps():
        raise TrainingError(f"{len(common)} held-out maps are training maps too; held-out maps must be others")
    compared: dict[str, DepthCodec | _PatchCodec] = {**codecs, KMEANS: _PatchCodec.fit(train_maps, config)}
    clips = list(clips)  # rendered once, where every access renders them
    train_views, val_views = (_make_views(maps, config) for maps in (train_maps, val_maps))
    scores = {}
    for name, codec in compared.items():
        train_codes = _encode(codec, train_maps)
        val_codes = _encode(codec, val_maps)
        writer = _train(_Writer, train_codes, train_codes, config, advance)
        reader = _train(_Reader, train_views, train_codes, config, advance)
        predicted = _predict(reader, val_views).argmax(-1).view(val_codes.shape)
        usage = compute_code_usage(torch.bincount(val_codes.flatten(), minlength=DEPTH.size))
        scores[name] = ProbeScore(
            rmse=_compute_rmse(codec, val_codes, val_maps),
            codes_used=usage.used,
            entropy=math.log2(usage.perplexity),
            bits_per_code=float(_compute_loss(_predict(writer, val_codes), val_codes)) / math.log(2),
            predicted_rmse=_compute_rmse(codec, predicted, val_maps),
            predicted_codes=float((predicted == val_codes).float().mean()),
            changed=_measure_changes(codec, val_maps, val_codes, clips, config),
        )
    return scores


class _PatchCodec:
    """The baseline: each cell's pixels become the nearest of 128 centres, and the centre's pixels are decoded."""

    def __init__(self, centres: Tensor) -> None:
        self.centres = centres

    @classmethod
    def fit(cls, maps: MapDataset, config: ProbeConfig) -> _PatchCodec:
        rng = np.random.default_rng(config.seed)
        chosen = np.sort(rng.choice(len(maps) * _CELLS, min(config.kmeans_patches, len(maps) * _CELLS), replace=False))
        parts = []
        for batch, _ in _load(maps):
            cells = _split_cells(batch).flatten(0, 2)
            parts.append(cells[chosen[chosen < len(cells)]])
            chosen = chosen[chosen >= len(cells)] - len(cells)
        patches = torch.cat(parts)
        if len(patches) < DEPTH.size:
            raise TrainingError(f"k-means needs {DEPTH.size} patches; {len(maps)} maps have {len(patches)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of centres without patches, which stay where they are
            centres, _ = kmeans2(patches.numpy(), DEPTH.size, iter=15, minit="points", rng=config.seed)
        return cls(torch.from_numpy(centres.astype(np.float32)))

    def encode(self, maps: Tensor) -> Tensor:
        """Nearness (B, 320, 320) -> codes (B, 10, 10)."""
        cells = _split_cells(maps)
        return torch.cdist(cells.flatten(0, 2), self.centres).argmin(-1).view(cells.shape[:3])

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, 10, 10) -> nearness (B, 320, 320)."""
        cells = self.centres[codes].view(-1, _SIDE, _SIDE, _CELL_PIXELS, _CELL_PIXELS)
        return cells.transpose(2, 3).reshape(-1, MAP_SIZE, MAP_SIZE)


def _split_cells(maps: Tensor) -> Tensor:
    """(B, 320, 320) -> (B, 10, 10, 1024): the pixels of each cell."""
    cells = maps.view(-1, _SIDE, _CELL_PIXELS, _SIDE, _CELL_PIXELS).transpose(2, 3)
    return cells.flatten(3)


_BATCH = 32


def _load(maps: MapDataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Maps and masks, 32 at a time."""
    for start in range(0, len(maps), _BATCH):
        yield maps.load_batch(np.arange(start, min(start + _BATCH, len(maps))), torch.device("cpu"))


def _encode(codec: DepthCodec | _PatchCodec, maps: MapDataset) -> Tensor:
    return torch.cat([codec.encode(batch).cpu() for batch, _ in _load(maps)])


def _compute_rmse(codec: DepthCodec | _PatchCodec, codes: Tensor, maps: MapDataset) -> float:
    errors = [
        compute_squared_errors(codec.decode(part).cpu(), batch, valid).sqrt()
        for part, (batch, valid) in zip(torch.split(codes, _BATCH), _load(maps), strict=True)
    ]
    return float(torch.cat(errors).mean())


def _make_views(maps: MapDataset, config: ProbeConfig) -> Tensor:
    """Blurred, noisy views (N, 100, P) of the maps: the pixels of each cell at the view's size."""
    generator = torch.Generator().manual_seed(config.seed)
    radius = math.ceil(3 * config.view_blur)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / config.view_blur).square())
    kernel /= kernel.sum()
    side = config.view_size // _SIDE
    views = []
    for batch, _ in _load(maps):
        view = F.adaptive_avg_pool2d(batch[:, None], config.view_size)
        padded = F.pad(view, (radius, radius, radius, radius), mode="replicate")
        view = F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])
        view = view + config.view_noise * torch.randn(view.shape, generator=generator)
        views.append(view.view(-1, _SIDE, side, _SIDE, side).transpose(2, 3).reshape(-1, _CELLS, side * side))
    return torch.cat(views)


class _Transformer(nn.Module):
    """A small transformer over the 100 cells, in row-major order, that gives logits (B, 100, 128) of their codes."""

    def __init__(self, config: ProbeConfig, *, causal: bool) -> None:
        super().__init__()
        width = config.hidden_size
        layer = nn.TransformerEncoderLayer(
            width, config.num_attention_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.position = nn.Parameter(0.02 * torch.randn(_CELLS, width))
        self.layers = nn.TransformerEncoder(
            layer, config.num_hidden_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, DEPTH.size)
        self.mask = nn.Transformer.generate_square_subsequent_mask(_CELLS) if causal else None

    def compute_logits(self, cells: Tensor) -> Tensor:
        """Embedded cells (B, 100, C) -> logits (B, 100, 128)."""
        hidden = self.layers(cells + self.position, mask=self.mask, is_causal=self.mask is not None)
        logits: Tensor = self.head(hidden)
        return logits


class _Writer(_Transformer):
    """Predicts each code from the codes before it."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__(config, causal=True)
        self.embedding = nn.Embedding(DEPTH.size + 1, config.hidden_size)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, 10, 10) -> logits (B, 100, 128)."""
        return self.compute_logits(self.embedding(F.pad(codes.flatten(1)[:, :-1], (1, 0), value=DEPTH.size)))


class _Reader(_Transformer):
    """Predicts every code from the view of the whole map."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__(config, causal=False)
        self.embedding = nn.Linear((config.view_size // _SIDE) ** 2, config.hidden_size)

    def forward(self, views: Tensor) -> Tensor:
        """Views (B, 100, P) -> logits (B, 100, 128)."""
        return self.compute_logits(self.embedding(views - 0.5))


def _compute_loss(logits: Tensor, codes: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


def _train(
    network_type: type[_Writer] | type[_Reader],
    inputs: Tensor,
    codes: Tensor,
    config: ProbeConfig,
    advance: Callable[[], object],
) -> nn.Module:
    """Train a network to predict codes (N, 10, 10) from inputs (N, ...); every codec's from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = network_type(config).train()
        optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=config.max_steps, pct_start=0.1
        )
        for _ in range(config.max_steps):
            chosen = torch.randint(len(codes), (config.batch_size,))
            loss = _compute_loss(network(inputs[chosen]), codes[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            advance()
    return network.eval()


@torch.no_grad()
def _predict(network: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([network(part) for part in torch.split(inputs, _BATCH)])


def _measure_changes(
    codec: DepthCodec | _PatchCodec,
    maps: MapDataset,
    codes: Tensor,
    clips: Sequence[np.ndarray],
    config: ProbeConfig,
) -> dict[str, float]:
    changed: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(config.seed)
    for before, (batch, _) in zip(torch.split(codes, _BATCH), _load(maps), strict=True):
        for name, perturbed in _perturb(batch, generator):
            changed.setdefault(name, []).append((codec.encode(perturbed).cpu() != before).flatten())
        perturbed, distance = _change_cell(batch, generator)
        differs = codec.encode(perturbed).cpu() != before
        for name, cells in (
            ("changed cell", distance == 0),
            ("its neighbours", distance == 1),
            ("other cells", distance > 1),
        ):
            changed.setdefault(name, []).append(differs[cells])
    shares = {name: float(torch.cat(parts).float().mean()) for name, parts in changed.items()}
    return {**shares, "static cells of clips": _measure_clips(codec, clips, config)}


def _perturb(maps: Tensor, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    for std in (0.005, 0.01, 0.02, 0.05):
        coarse = torch.randn(len(maps), 1, 8, 8, generator=generator)
        smooth = F.interpolate(coarse, size=maps.shape[1:], mode="bicubic", align_corners=False)[:, 0]
        noise = std * smooth / smooth.std((1, 2), keepdim=True)
        yield f"smooth noise {std:g}", (maps + noise).clamp(0, 1)
    for std in (0.01, 0.03):
        yield f"pixel noise {std:g}", (maps + std * torch.randn(maps.shape, generator=generator)).clamp(0, 1)
    yield "tone ^1.05", maps**1.05
    yield "shift by 2 pixels", F.pad(maps[:, None], (2, 0, 0, 0), mode="replicate")[:, 0, :, :-2]


def _change_cell(maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Maps with one random cell 0.25 nearer or farther, and the distance of all cells (B, 10, 10) from it in cells."""
    row, column = torch.randint(_SIDE, (2, len(maps), 1, 1), generator=generator)
    cells = torch.arange(_SIDE)
    distance = torch.maximum((cells[:, None] - row).abs(), (cells - column).abs())
    inside = (distance == 0).repeat_interleave(_CELL_PIXELS, 1).repeat_interleave(_CELL_PIXELS, 2)
    return torch.where(inside, torch.where(maps < 0.5, maps + 0.25, maps - 0.25), maps), distance


def _measure_clips(codec: DepthCodec | _PatchCodec, clips: Sequence[np.ndarray], config: ProbeConfig) -> float:
    """Fraction of codes that change a frame in static cells, each clip in one range of nearness."""
    changed, total = 0, 0
    for index, frames in enumerate(clips):
        rng = np.random.default_rng([config.seed, index])
        noisy = frames * (1 + config.sensor_noise * rng.standard_normal(frames.shape))
        maps = [DepthMap.from_array(frame, kind="metric", unit="m") for frame in noisy]
        clip_range = compute_clip_range(maps)
        nearness = [resize_nearest(depth.to_nearness(clip_range).values, MAP_SIZE, MAP_SIZE) for depth in maps]
        codes = codec.encode(torch.from_numpy(np.stack(nearness).astype(np.float32))).cpu().numpy()
        for number, (before, after) in enumerate(pairwise(frames)):
            static = find_static_cells(before, after)
            changed += int((codes[number] != codes[number + 1])[static].sum())
            total += int(static.sum())
    return changed / total if total else math.nan


def find_static_cells(
    before: np.ndarray, after: np.ndarray, *, tolerance: float = 0.01, moving: float = 0.1
) -> np.ndarray:
    """Find the cells whose true depth stays between two frames.

    Args:
        before: Depth (H, W), 0 where it is unknown.
        after: The next frame, of the same shape.
        tolerance: Relative change up to which a pixel's depth stays.
        moving: Largest fraction of a cell's known pixels whose depth may change by more.

    Returns:
        (10, 10) bool; False, too, for cells of which no more than half is known in both frames.
    """
    first, second = (
        _split_cells(torch.from_numpy(resize_nearest(frame, MAP_SIZE, MAP_SIZE)[None]))[0].numpy()
        for frame in (before, after)
    )
    known = (first > 0) & (second > 0)
    moved = known & (np.abs(first - second) > tolerance * first)
    few = moved.sum(-1) <= moving * known.sum(-1)
    return np.asarray(few & (known.mean(-1) > 0.5))
