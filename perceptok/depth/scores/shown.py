"""A picture of blocks that a model wrote: the map they say, their codes, and what is missing in them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from perceptok.depth.codec import DepthCodec
from perceptok.depth.salvage import SalvagedBlock
from perceptok.depth.scores.colours import coloured_nearness
from perceptok.depth.scores.panel import code_grid
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = ["decode_salvaged", "draw_blocks"]

_SIDE = 320
_GAP = 12
_LINE = 14


def decode_salvaged(codec: DepthCodec, block: SalvagedBlock) -> np.ndarray:
    """Nearness (320, 320) float32 of a block, not clamped; a cell without a code has the mean of all codes' vectors."""
    probs = torch.full((*DEPTH_GRID, DEPTH.size), 1 / DEPTH.size)
    rows, columns = np.nonzero(~block.missing)
    probs[rows, columns] = 0
    probs[rows, columns, torch.from_numpy(block.codes[rows, columns])] = 1
    with torch.no_grad():
        decoded: np.ndarray = codec.decode_soft(probs)[0].cpu().numpy()
    return decoded


def draw_blocks(codec: DepthCodec, blocks: Sequence[SalvagedBlock], *, stretch: bool = False) -> bytes:
    """Draw decoded map and grid of codes side by side, a row per block, its problems below; returns a PNG.

    Args:
        codec: The codec that the tokens belong to.
        blocks: See `salvage_blocks`. Missing cells are hatched in the map and empty in the grid.
        stretch: Colours from each map's own least to its largest value, as MolmoAct draws them, instead of 0 to 1.
    """
    width = 2 * _SIDE + 3 * _GAP
    captions = [_caption(block) for block in blocks]
    heights = [_SIDE + 2 * _GAP + _LINE * len(caption) for caption in captions]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for block, caption, height in zip(blocks, captions, heights, strict=True):
        sheet.paste(_map(decode_salvaged(codec, block), block.missing, stretch), (_GAP, top))
        sheet.paste(code_grid(block.codes), (2 * _GAP + _SIDE, top))
        for number, line in enumerate(caption):
            draw.text((_GAP, top + _SIDE + 6 + number * _LINE), line, fill="black" if not block.problems else "#b00000")
        top += height
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _map(nearness: np.ndarray, missing: np.ndarray, stretch: bool) -> Image.Image:
    if stretch:
        low, high = float(nearness.min()), float(nearness.max())
        nearness = (nearness - low) / max(high - low, 1e-12)
    colours = coloured_nearness(np.clip(nearness, 0, 1))
    cell = _SIDE // DEPTH_GRID[0]
    hidden = np.kron(missing, np.ones((cell, cell), dtype=bool))
    rows, columns = np.indices(hidden.shape)
    colours[hidden] = 210
    colours[hidden & ((rows + columns) % 8 < 2)] = 90
    return Image.fromarray(colours)


def _caption(block: SalvagedBlock) -> list[str]:
    if not block.problems:
        return ["a whole block"]
    return [line for problem in block.problems for line in textwrap.wrap(problem, 100)]
