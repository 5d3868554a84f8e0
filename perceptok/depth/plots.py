"""A picture of what a codec keeps: the map, what its codes say, the error, and the codes themselves."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from perceptok.depth.blocks import SalvagedBlock
from perceptok.depth.codec import DepthCodec
from perceptok.depth.depth_records import MapFailure
from perceptok.depth.map_files import MapFile
from perceptok.depth.maps import DepthMap, Nearness
from perceptok.depth.preprocessing import nearest_resize
from perceptok.errors import DepthMapError, EvaluationError
from perceptok.files import atomic_write
from perceptok.images import colorize_nearness
from perceptok.pages import Case, write_page
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = [
    "PanelRow",
    "code_grid",
    "decode_salvaged",
    "depth_case",
    "draw_blocks",
    "draw_files",
    "draw_panel",
    "panel_row",
]


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
    seen = colorize_nearness(row.nearness)
    seen[~row.valid] //= 2
    return [
        Image.fromarray(seen),
        Image.fromarray(colorize_nearness(row.decoded)),
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


def depth_case(codec: DepthCodec, name: str, depth: DepthMap | Nearness, image: bytes | None = None) -> Case:
    """A map encoded and decoded: the map is the teacher, with its holes; the errors are as `panel_row` gives them.

    Args:
        codec: The codec.
        name: The map's name.
        depth: The map; a `DepthMap` in its own range.
        image: A photo of the same view.

    Raises:
        DepthMapError: The map has nothing to encode.
    """
    row = panel_row(codec, name, depth)
    nearness = depth.to_nearness() if isinstance(depth, DepthMap) else depth
    error = (row.decoded.astype(np.float64) - row.nearness)[row.valid]
    height, width = nearness.values.shape
    return Case(
        name,
        image,
        codes=row.codes.ravel().tolist(),
        depth=row.decoded,
        teacher=np.where(nearness.valid, nearness.values, np.float32(np.nan)),
        facts={
            "RMSE": float(np.sqrt(np.mean(error**2))) if error.size else None,
            "MAE": float(np.mean(np.abs(error))) if error.size else None,
            "size": f"{width} x {height}",
            "valid": f"{nearness.valid.mean():.1%}",
            "different codes": len(np.unique(row.codes)),
        },
    )


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
        maps: The files; see `find_maps`.
        output: The PNG to write (`draw_panel`), or the page.
        html: Write an HTML page to step through.
        force: Replace an existing output.
        warn: Called with a map's name and what is odd about its range (see `Nearness.few_pixels`).

    Returns:
        The maps that could not be read; where that is all of them, nothing is written.

    Raises:
        OutputError: The output exists or cannot be written.
    """
    failures: list[MapFailure] = []

    def read() -> Iterator[tuple[str, Nearness]]:
        for file in maps:
            try:
                nearness = file.read_nearness()
            except DepthMapError as error:
                failures.append(MapFailure(file.name, str(error)))
                continue
            if few := nearness.few_pixels():
                warn(file.name, str(few))
            yield file.name, nearness

    if html:
        cases = (depth_case(codec, name, nearness) for name, nearness in read())
        try:
            write_page(output, cases, title="Depth maps and their tokens", force=force)
        except EvaluationError:
            if len(failures) < len(maps):
                raise
    elif rows := [panel_row(codec, name, nearness) for name, nearness in read()]:
        with atomic_write(output, force=force) as file:
            file.write(draw_panel(rows))
    return failures


_SIDE_shown = 320
_GAP_shown = 12
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
    width = 2 * _SIDE_shown + 3 * _GAP_shown
    captions = [_caption_shown(block) for block in blocks]
    heights = [_SIDE_shown + 2 * _GAP_shown + _LINE * len(caption) for caption in captions]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP_shown), "white")
    draw = ImageDraw.Draw(sheet)
    top = _GAP_shown
    for block, caption, height in zip(blocks, captions, heights, strict=True):
        sheet.paste(_map(decode_salvaged(codec, block), block.missing, stretch), (_GAP_shown, top))
        sheet.paste(code_grid(block.codes), (2 * _GAP_shown + _SIDE_shown, top))
        for number, line in enumerate(caption):
            draw.text(
                (_GAP_shown, top + _SIDE_shown + 6 + number * _LINE),
                line,
                fill="black" if not block.problems else "#b00000",
            )
        top += height
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _map(nearness: np.ndarray, missing: np.ndarray, stretch: bool) -> Image.Image:
    if stretch:
        low, high = float(nearness.min()), float(nearness.max())
        nearness = (nearness - low) / max(high - low, 1e-12)
    colours = colorize_nearness(np.clip(nearness, 0, 1))
    cell = _SIDE_shown // DEPTH_GRID[0]
    hidden = np.kron(missing, np.ones((cell, cell), dtype=bool))
    rows, columns = np.indices(hidden.shape)
    colours[hidden] = 210
    colours[hidden & ((rows + columns) % 8 < 2)] = 90
    return Image.fromarray(colours)


def _caption_shown(block: SalvagedBlock) -> list[str]:
    if not block.problems:
        return ["a whole block"]
    return [line for problem in block.problems for line in textwrap.wrap(problem, 100)]
