"""A picture of what a codec keeps: the map, what its codes say, the error, and the codes themselves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from perceptok.depth.codec import DepthCodec
from perceptok.depth.maps.depth_map import DepthMap, Nearness
from perceptok.depth.preprocessing import nearest_resize
from perceptok.depth.scores.colours import coloured_nearness
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = ["PanelRow", "code_grid", "draw_panel", "panel_row"]

_SIDE = 320
_GAP = 12
_TITLE = 24
ERROR_SCALE = 0.25
"""The absolute error in nearness that is drawn white."""


@dataclass(frozen=True)
class PanelRow:
    """One map of a panel: nearness and what was decoded, (320, 320) in [0, 1]; codes (10, 10); the truth's mask."""

    name: str
    nearness: np.ndarray
    valid: np.ndarray
    decoded: np.ndarray
    codes: np.ndarray


def panel_row(codec: DepthCodec, name: str, depth: DepthMap | Nearness) -> PanelRow:
    """Encode and decode a map for a panel; a `DepthMap` in its own range."""
    nearness = depth.to_nearness() if isinstance(depth, DepthMap) else depth
    codes = codec.encode(nearness)
    values, valid = (nearest_resize(one, _SIDE, _SIDE) for one in (nearness.values, nearness.valid))
    return PanelRow(name, values, valid, codec.decode(codes)[0], codes[0])


def draw_panel(rows: Sequence[PanelRow]) -> bytes:
    """Draw input, decoded map, absolute error and the grid of codes side by side, a row per map; returns a PNG."""
    titles = ("input", "decoded from 100 tokens", f"absolute error (white = {ERROR_SCALE:g})", "codes")
    width = len(titles) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _TITLE + len(rows) * (_SIDE + _TITLE + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (_SIDE + _GAP), 6), title, fill="black")
    for index, row in enumerate(rows):
        top = _TITLE + index * (_SIDE + _TITLE + _GAP)
        for column, tile in enumerate(_tiles(row)):
            sheet.paste(tile, (_GAP + column * (_SIDE + _GAP), top))
        draw.text((_GAP, top + _SIDE + 6), _caption(row), fill="black")
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _tiles(row: PanelRow) -> list[Image.Image]:
    error = np.abs(row.decoded - row.nearness) / ERROR_SCALE
    grey = np.repeat((255 * np.clip(error, 0, 1)).astype(np.uint8)[..., None], 3, axis=2)
    # Holes have no error to show: blue, which is no grey level.
    grey[~row.valid] = (40, 60, 140)
    seen = coloured_nearness(row.nearness)
    seen[~row.valid] //= 2
    return [
        Image.fromarray(seen),
        Image.fromarray(coloured_nearness(row.decoded)),
        Image.fromarray(grey),
        code_grid(row.codes),
    ]


def code_grid(codes: np.ndarray) -> Image.Image:
    """The codes (10, 10) as numbers on coloured cells, 320x320 pixels; a cell with -1 stays empty."""
    tile = Image.new("RGB", (_SIDE, _SIDE), "white")
    draw = ImageDraw.Draw(tile)
    cell = _SIDE // DEPTH_GRID[1]
    for (row, column), code in np.ndenumerate(codes):
        if code < 0:
            continue
        # Neighbouring codes mean nothing alike, so their hues are spread by the golden ratio.
        hue = int(255 * (0.618034 * code % 1))
        box = (column * cell, row * cell, (column + 1) * cell - 1, (row + 1) * cell - 1)
        draw.rectangle(box, fill=f"hsl({hue * 360 // 255}, 60%, {55 + 30 * int(code) // DEPTH.size}%)")
        draw.text((box[0] + 6, box[1] + 10), str(code), fill="black")
    return tile


def _caption(row: PanelRow) -> str:
    error = (row.decoded.astype(np.float64) - row.nearness)[row.valid]
    return f"{row.name}: RMSE {np.sqrt(np.mean(error**2)):.4f}, MAE {np.mean(np.abs(error)):.4f} in nearness"
