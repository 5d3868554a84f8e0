"""Drawings of what a codec keeps of maps: the map, the map decoded from its codes, the error, and the codes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from perceptok.depth.blocks import RecoveredBlock
from perceptok.depth.codec import DepthCodec
from perceptok.depth.map_files import MapFailure, MapFile, try_reading
from perceptok.depth.maps import DepthMap, Nearness
from perceptok.depth.preprocessing import MAP_SIZE, resize_nearest
from perceptok.errors import EvaluationError
from perceptok.files import atomic_write
from perceptok.images import colorize_nearness
from perceptok.pages import Case, write_page
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = ["PanelRow", "draw_blocks", "draw_files", "draw_panel", "make_panel_row"]

ERROR_SCALE = 0.25
"""The absolute error in nearness that is drawn white."""

_GAP = 12
_TITLE_HEIGHT = 24
_LINE_HEIGHT = 14
_HOLE_COLOUR = (40, 60, 140)
"""Blue, which is not a grey level: holes have no error to show."""


@dataclass(frozen=True)
class PanelRow:
    """One map of a panel.

    Attributes:
        name: The map's name.
        nearness: (320, 320) float32 in [0, 1], the map squashed to the networks' square.
        valid: (320, 320) bool, False at holes.
        decoded: (320, 320) float32 in [0, 1].
        codes: (10, 10) int64 in 0..127.
    """

    name: str
    nearness: np.ndarray
    valid: np.ndarray
    decoded: np.ndarray
    codes: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """(N,) float64, the error in nearness at the valid pixels."""
        return np.asarray((self.decoded.astype(np.float64) - self.nearness)[self.valid])


def make_panel_row(codec: DepthCodec, name: str, depth: DepthMap | Nearness) -> PanelRow:
    """Encode and decode a map for a panel; a `DepthMap` in the range of its own extremes.

    Raises:
        DepthMapError: No pixel of the map is valid.
    """
    nearness = depth.to_nearness() if isinstance(depth, DepthMap) else depth
    codes = codec.encode(nearness)
    values, valid = (resize_nearest(array, MAP_SIZE, MAP_SIZE) for array in (nearness.values, nearness.valid))
    return PanelRow(name, values, valid, codec.decode(codes)[0], codes[0])


def draw_panel(rows: Sequence[PanelRow]) -> bytes:
    """Draw input, decoded map, absolute error and the grid of codes side by side, a row per map; returns a PNG."""
    titles = ("input", "decoded from 100 tokens", f"absolute error (white = {ERROR_SCALE:g})", "codes")
    row_height = MAP_SIZE + _TITLE_HEIGHT + _GAP
    columns = [_GAP + index * (MAP_SIZE + _GAP) for index in range(len(titles))]
    sheet = Image.new("RGB", (columns[-1] + MAP_SIZE + _GAP, _TITLE_HEIGHT + len(rows) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for left, title in zip(columns, titles, strict=True):
        draw.text((left, 6), title, fill="black")
    for index, row in enumerate(rows):
        top = _TITLE_HEIGHT + index * row_height
        for left, tile in zip(columns, _draw_tiles(row), strict=True):
            sheet.paste(tile, (left, top))
        rmse, mae = np.sqrt(np.mean(row.error**2)), np.mean(np.abs(row.error))
        caption = f"{row.name}: RMSE {rmse:.4f}, MAE {mae:.4f} in nearness"
        draw.text((_GAP, top + MAP_SIZE + 6), caption, fill="black")
    return _to_png(sheet)


def _draw_tiles(row: PanelRow) -> list[Image.Image]:
    error = np.abs(row.decoded - row.nearness) / ERROR_SCALE
    grey = np.repeat((255 * np.clip(error, 0, 1)).astype(np.uint8)[..., None], 3, axis=2)
    grey[~row.valid] = _HOLE_COLOUR
    nearness = colorize_nearness(row.nearness)
    nearness[~row.valid] //= 2
    decoded = colorize_nearness(row.decoded)
    return [Image.fromarray(nearness), Image.fromarray(decoded), Image.fromarray(grey), _draw_codes(row.codes)]


def _draw_codes(codes: np.ndarray) -> Image.Image:
    """The codes (10, 10) as numbers on coloured cells, 320x320 pixels; a cell with -1 stays empty."""
    tile = Image.new("RGB", (MAP_SIZE, MAP_SIZE), "white")
    draw = ImageDraw.Draw(tile)
    side = MAP_SIZE // DEPTH_GRID[1]
    for (row, column), code in np.ndenumerate(codes):
        if code < 0:
            continue
        # Consecutive codes are not similar, so their hues are spread by the golden ratio.
        hue = int(255 * (0.618034 * code % 1))
        left, top = column * side, row * side
        colour = f"hsl({hue * 360 // 255}, 60%, {55 + 30 * int(code) // DEPTH.size}%)"
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill=colour)
        draw.text((left + 6, top + 10), str(code), fill="black")
    return tile


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def draw_files(
    codec: DepthCodec,
    maps: Sequence[MapFile],
    output: str | Path,
    *,
    html: bool = False,
    force: bool = False,
    warn: Callable[[str, str], object] = lambda *_: None,
) -> list[MapFailure]:
    """Draw the maps of files, the maps decoded from their tokens, the errors and the grids of codes.

    Args:
        codec: The codec.
        maps: The files, as `find_maps` gives them.
        output: The PNG to write (`draw_panel`), or the page.
        html: Write an HTML page to step through.
        force: Replace an existing output.
        warn: Called with a map's name and what is odd about it (`Nearness.find_warnings`).

    Returns:
        The maps that could not be read; where that is all of them, nothing is written.

    Raises:
        OutputError: The output exists or cannot be written.
    """
    failures: list[MapFailure] = []

    def read() -> Iterator[tuple[str, Nearness]]:
        for file in maps:
            nearness = try_reading(file, MapFile.read_nearness)
            if isinstance(nearness, MapFailure):
                failures.append(nearness)
                continue
            for warning in nearness.find_warnings():
                warn(file.name, warning)
            yield file.name, nearness

    if html:
        cases = (_make_case(make_panel_row(codec, name, nearness), nearness) for name, nearness in read())
        try:
            write_page(output, cases, title="Depth maps and their tokens", force=force)
        except EvaluationError:
            if len(failures) < len(maps):
                raise
    elif rows := [make_panel_row(codec, name, nearness) for name, nearness in read()]:
        with atomic_write(output, force=force) as file:
            file.write(draw_panel(rows))
    return failures


def _make_case(row: PanelRow, nearness: Nearness) -> Case:
    """A map on a page: the teacher is the map with its holes."""
    height, width = nearness.values.shape
    return Case(
        row.name,
        codes=row.codes.ravel().tolist(),
        depth=row.decoded,
        teacher=np.where(nearness.valid, nearness.values, np.float32(np.nan)),
        facts={
            "RMSE": float(np.sqrt(np.mean(row.error**2))) if row.error.size else None,
            "MAE": float(np.mean(np.abs(row.error))) if row.error.size else None,
            "size": f"{width} x {height}",
            "valid": f"{nearness.valid.mean():.1%}",
            "different codes": len(np.unique(row.codes)),
        },
    )


def draw_blocks(codec: DepthCodec, blocks: Sequence[RecoveredBlock], *, stretch: bool = False) -> bytes:
    """Draw decoded map and grid of codes side by side, a row per block, its problems below; returns a PNG.

    Args:
        codec: The codec that the tokens belong to.
        blocks: Blocks of `recover_blocks`. Missing cells are hatched in the map and empty in the grid.
        stretch: Stretch the colours to each map's own minimum and maximum, as MolmoAct does, instead of 0 to 1.
    """
    captions = [_describe_block(block) for block in blocks]
    heights = [MAP_SIZE + 2 * _GAP + _LINE_HEIGHT * len(lines) for lines in captions]
    sheet = Image.new("RGB", (2 * MAP_SIZE + 3 * _GAP, sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for block, lines, height in zip(blocks, captions, heights, strict=True):
        sheet.paste(_draw_recovered(_decode_recovered(codec, block), block.missing, stretch), (_GAP, top))
        sheet.paste(_draw_codes(block.codes), (2 * _GAP + MAP_SIZE, top))
        for number, line in enumerate(lines):
            position = (_GAP, top + MAP_SIZE + 6 + number * _LINE_HEIGHT)
            draw.text(position, line, fill="#b00000" if block.problems else "black")
        top += height
    return _to_png(sheet)


def _describe_block(block: RecoveredBlock) -> list[str]:
    if not block.problems:
        return ["a whole block"]
    return [line for problem in block.problems for line in textwrap.wrap(problem, 100)]


def _decode_recovered(codec: DepthCodec, block: RecoveredBlock) -> np.ndarray:
    """Nearness (320, 320) float32, not clamped; a cell without a code has the mean of all code vectors."""
    probs = torch.full((*DEPTH_GRID, DEPTH.size), 1 / DEPTH.size)
    rows, columns = np.nonzero(~block.missing)
    probs[rows, columns] = 0
    probs[rows, columns, torch.from_numpy(block.codes[rows, columns])] = 1
    with torch.no_grad():
        decoded: np.ndarray = codec.decode_soft(probs)[0].cpu().numpy()
    return decoded


def _draw_recovered(nearness: np.ndarray, missing: np.ndarray, stretch: bool) -> Image.Image:
    if stretch:
        low, high = float(nearness.min()), float(nearness.max())
        nearness = (nearness - low) / max(high - low, 1e-12)
    colours = colorize_nearness(np.clip(nearness, 0, 1))
    side = MAP_SIZE // DEPTH_GRID[0]
    hidden = np.kron(missing, np.ones((side, side), dtype=bool))
    rows, columns = np.indices(hidden.shape)
    colours[hidden] = 210
    colours[hidden & ((rows + columns) % 8 < 2)] = 90
    return Image.fromarray(colours)
