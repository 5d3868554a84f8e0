"""The default networks: patches to a 10x10 grid of tokens and back.

100 tokens of 7 bits hold no detail finer than about a twentieth of the map, so almost all layers and all attention are
on the 10x10 grid, where a layer costs 1/1024 of what it would cost per pixel; finer stages have a few cheap
depthwise-separable blocks, and pixels are only rearranged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptok.depth.preprocessing import MAP_SIZE
from perceptok.errors import ConfigError

__all__ = ["GridConfig", "GridDecoder", "GridEncoder", "extend_decoder_state"]

_MAX_STAGES, _MAX_BLOCKS, _MAX_CHANNELS = 8, 256, 2**16
"""Limits of a configuration; a damaged one would build modules for hours."""


@dataclass(frozen=True)
class GridConfig:
    """Sizes of the default networks.

    Attributes:
        widths: Channels of each stage, from fine to coarse. The last stage is the 10x10 grid of tokens, each one before
            it twice as fine; pixel-unshuffle makes the finest from patches of pixels.
        blocks: Encoder blocks of each stage: separable convolutions, and attention on the last.
        decoder_blocks: Decoder blocks of each stage, from fine to coarse too; None takes `blocks`.
        heads: Attention heads.
        expansion: Hidden width of every pointwise network, as a multiple of its input.
        codebook_size: Number of codes.
        codebook_dim: Dimension of a code.
    """

    widths: tuple[int, ...] = (64, 160)
    blocks: tuple[int, ...] = (1, 3)
    heads: int = 5
    expansion: int = 3
    codebook_size: int = 128
    codebook_dim: int = 32
    decoder_blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ConfigError(
                f"widths and blocks must have one value for each stage; got {self.widths} and {self.blocks}"
            )
        if self.decoder_blocks is not None and len(self.decoder_blocks) != len(self.blocks):
            raise ConfigError(
                f"decoder_blocks must have one value for each stage, as blocks has; got {self.decoder_blocks} and "
                f"{self.blocks}"
            )
        blocks = (*self.blocks, *(self.decoder_blocks or ()))
        sizes = (*self.widths, *blocks, self.heads, self.expansion, self.codebook_size, self.codebook_dim)
        if min(sizes) < 1:
            raise ConfigError(f"every size is at least 1; got {self}")
        if len(self.widths) > _MAX_STAGES or max(blocks) > _MAX_BLOCKS or max(sizes) > _MAX_CHANNELS:
            raise ConfigError(
                f"at most {_MAX_STAGES} stages of {_MAX_BLOCKS} blocks, and sizes of {_MAX_CHANNELS}; got "
                f"{len(self.widths)} stages, {max(blocks)} blocks and a size of {max(sizes)}"
            )
        if self.widths[-1] % self.heads:
            raise ConfigError(f"the last width must be a multiple of heads; got {self.widths[-1]} and {self.heads}")

    def for_decoder(self) -> GridConfig:
        """The same sizes with `decoder_blocks` as `blocks`."""
        return replace(self, blocks=self.decoder_blocks or self.blocks, decoder_blocks=None)


class _Pointwise(nn.Sequential):
    def __init__(self, width: int, expansion: int) -> None:
        super().__init__(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))


class _SeparableBlock(nn.Module):
    """Depthwise 5x5 and a pointwise network, each residual; (B, H, W, C) in and out."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise = _Pointwise(width, expansion)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.pointwise(self.norm(self._mix(x))))

    def _mix(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return _convolve_depthwise(x, self.depthwise)
        # A permuted channels-last tensor is what convolutions are fastest on; no data moves.
        mixed: Tensor = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return mixed


def _convolve_depthwise(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """A depthwise layer by shifted sums, (B, H, W, C): for float64, where PyTorch's own takes 3.5 times as long."""
    height, width = x.shape[1:3]
    rows, columns = layer.weight.shape[2:]
    padded = F.pad(x, (0, 0, columns // 2, columns // 2, rows // 2, rows // 2))
    mixed = cast(Tensor, layer.bias).expand(x.shape).clone()
    for row in range(rows):
        for column in range(columns):
            mixed.addcmul_(padded[:, row : row + height, column : column + width], layer.weight[:, 0, row, column])
    return mixed


class _AttentionBlock(nn.Module):
    """Pre-norm self-attention over all positions and a pointwise network; (B, N, C) in and out."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_pointwise = nn.LayerNorm(width)
        self.pointwise = _Pointwise(width, expansion)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + cast(Tensor, self.pointwise(self.norm_pointwise(x)))


class _GlobalContext(nn.Module):
    """Attention blocks over the whole grid, with a learned embedding of each position; (B, H, W, C) in and out."""

    def __init__(self, config: GridConfig, side: int) -> None:
        super().__init__()
        width = config.widths[-1]
        self.position = nn.Parameter(0.02 * torch.randn(side * side, width))
        self.blocks = nn.Sequential(
            *(_AttentionBlock(width, config.heads, config.expansion) for _ in range(config.blocks[-1]))
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.norm(self.blocks(x.flatten(1, 2) + self.position))
        return mixed.view(x.shape)


class _Gather(nn.Module):
    """(B, H, W, C) -> (B, H / f, W / f, wide): the cells of each f x f square side by side, then a projection."""

    def __init__(self, factor: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.factor = factor
        self.gathered = factor * factor * narrow
        self.project = nn.Linear(self.gathered, wide)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        f = self.factor
        x = x.view(batch, height // f, f, width // f, f, channels).permute(0, 1, 3, 2, 4, 5)
        gathered: Tensor = self.project(x.reshape(batch, height // f, width // f, self.gathered))
        return gathered


class _Spread(nn.Module):
    """(B, H, W, wide) -> (B, f H, f W, C): the mirror image of `_Gather`."""

    def __init__(self, factor: int, wide: int, narrow: int) -> None:
        super().__init__()
        self.factor = factor
        self.narrow = narrow
        self.project = nn.Linear(wide, factor * factor * narrow)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        return self.spread(x).reshape(batch, height * self.factor, width * self.factor, self.narrow)

    def spread(self, x: Tensor) -> Tensor:
        """(B, H, W, wide) -> (B, H, f, W, f, C), a view: nothing is reordered in memory yet."""
        squares: Tensor = self.project(x).view(*x.shape[:3], self.factor, self.factor, self.narrow)
        return squares.permute(0, 1, 3, 2, 4, 5)


def _build_separable(width: int, config: GridConfig, count: int) -> nn.Sequential:
    return nn.Sequential(*(_SeparableBlock(width, config.expansion) for _ in range(count)))


def _list_resolutions(config: GridConfig, side: int) -> list[tuple[int, int, int]]:
    """(factor, narrow, wide) of every change of resolution, from pixels to the grid."""
    widths = (1, *config.widths)
    patch = MAP_SIZE // side >> (len(config.widths) - 1)
    factors = (patch, *(2 for _ in config.widths[1:]))
    return list(zip(factors, widths, widths[1:], strict=False))


def extend_decoder_state(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a model with fewer decoder blocks, for one with more, in which the added blocks change nothing yet.

    Args:
        state: Weights of the smaller model.
        model: The larger one, whose random weights the added blocks take, except that their outputs are 0.
    """
    added = {key: value.clone() for key, value in model.state_dict().items() if key not in state}
    for key, value in added.items():
        if re.search(r"\.(out|pointwise\.2)\.(weight|bias)$", key):
            value.zero_()
    return {**state, **added}


class GridEncoder(nn.Sequential):
    """The encoder; maps are in [-1, 1]."""

    def __init__(self, config: GridConfig, side: int) -> None:
        layers: list[nn.Module] = []
        for (factor, narrow, wide), count in zip(_list_resolutions(config, side)[:-1], config.blocks[:-1], strict=True):
            layers += [_Gather(factor, narrow, wide), _build_separable(wide, config, count)]
        layers += [_Gather(*_list_resolutions(config, side)[-1]), _GlobalContext(config, side)]
        super().__init__(*layers, nn.Linear(config.widths[-1], config.codebook_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, 1, 320, 320), or what `view_pixels` makes of them -> features (B, 10, 10, codebook_dim)."""
        first, *others = self
        pixels = self.view_pixels(x[:, 0]) if x.ndim == 4 else x
        x = cast(_Gather, first).project(pixels.flatten(3))
        for layer in others:
            x = layer(x)
        return x

    def view_pixels(self, maps: Tensor) -> Tensor:
        """Maps (B, 320, 320) -> (B, rows, columns, patch, patch); the first layer reads a copy in this order."""
        batch, height, width = maps.shape
        patch = cast(_Gather, self[0]).factor
        return maps.view(batch, height // patch, patch, width // patch, patch).transpose(2, 3)


class GridDecoder(nn.Sequential):
    """The decoder; maps are about [-1, 1]."""

    def __init__(self, config: GridConfig, side: int) -> None:
        config = config.for_decoder()
        layers: list[nn.Module] = [
            nn.Linear(config.codebook_dim, config.widths[-1]),
            _GlobalContext(config, side),
        ]
        for (factor, narrow, wide), count in zip(
            _list_resolutions(config, side)[:0:-1], config.blocks[-2::-1], strict=True
        ):
            layers += [_Spread(factor, wide, narrow), _build_separable(narrow, config, count), nn.LayerNorm(narrow)]
        patch, _, finest = _list_resolutions(config, side)[0]
        super().__init__(*layers, _Spread(patch, finest, 1))

    def forward(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, 10, 10, codebook_dim) -> maps (B, 1, 320, 320)."""
        pixels = self.compute_pixels(vectors)
        batch, rows, height, columns, width = pixels.shape
        return pixels.reshape(batch, 1, rows * height, columns * width)

    def compute_pixels(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, 10, 10, codebook_dim) -> pixels (B, rows, patch, columns, patch), in the order of patches.

        A map (B, 320, 320) can be viewed in this shape, so that whatever writes one reorders the pixels as it goes.
        """
        *others, last = self
        for layer in others:
            vectors = layer(vectors)
        return cast(_Spread, last).spread(vectors)[..., 0]
