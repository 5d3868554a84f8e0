"""What things are made of: textures, colours and gloss by category, part by part."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from perceptok.scenes.images.splits import Split
from perceptok.scenes.primitives import Box, Capsule, Frustum, Primitive, Quad, Sphere
from perceptok.scenes.raycast import SceneObject

__all__ = ["EDGE", "PATTERNS", "Bank", "Dressing", "bank", "dress", "sample"]


# Procedural texture: a bank of square tiles that repeat without a seam, with smaller and smaller copies of each.
#
# A value of 0 is a material's first colour, 1 its second. Everything is drawn once a process from fixed numbers.


Tile = NDArray[np.float64]

EDGE = 256
"""Texels along a tile's edge."""

_LEVELS = 9


class Bank(NamedTuple):
    """All tiles one after the other.

    Attributes:
        texels: (P * L,) uint8: of each of P tiles the EDGE x EDGE texels, then those of half the edge, down to one.
        pairs: (P * L,) uint16: each texel, and 256 times its right neighbour's.
        numbers: Name of a pattern -> its place among the P.
        length: L.
    """

    texels: NDArray[np.uint8]
    pairs: NDArray[np.uint16]
    numbers: dict[str, int]
    length: int


@functools.cache
def bank() -> Bank:
    """The tiles of all patterns; made at the first call (a third of a second), then kept."""
    tiles, pairs = [], []
    for number, build in enumerate(PATTERNS.values()):
        tile = np.clip(build(np.random.default_rng([20260, number])), 0, 1)
        while True:
            texels = np.rint(tile * 255).astype(np.uint8)
            tiles.append(texels.ravel())
            pairs.append((texels + 256 * np.roll(texels, -1, axis=1).astype(np.uint16)).ravel())
            if tile.shape[0] == 1:
                break
            tile = (tile[::2, ::2] + tile[1::2, ::2] + tile[::2, 1::2] + tile[1::2, 1::2]) / 4
    texels = np.concatenate(tiles)
    numbers = {name: k for k, name in enumerate(PATTERNS)}
    return Bank(texels, np.concatenate(pairs), numbers, texels.size // len(numbers))


def sample(
    pattern: NDArray[np.int32], u: NDArray[np.float32], v: NDArray[np.float32], footprint: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Values of patterns at points, bilinear on the level whose texels are about as large as a pixel.

    Args:
        pattern: (N,) number of the pattern in the bank.
        u: (N,) first coordinate in tiles; a whole number more is the same place.
        v: (N,) second coordinate.
        footprint: (N,) how much of a tile one pixel covers.

    Returns:
        (N,) float32, 0 .. 1.
    """
    tiles = bank()
    fine = np.maximum(footprint * np.float32(EDGE * 0.8), np.float32(1))
    # The exponent of a float32 is the logarithm's whole part.
    level = np.minimum((fine.view(np.int32) >> 23) - 127, np.int32(_LEVELS - 1))
    edge = np.right_shift(np.int32(EDGE), level)
    mask = edge - 1
    # Levels before this one hold (4 EDGE^2 - 4 edge^2) / 3 texels.
    base = pattern * np.int32(tiles.length) + (np.int32(4 * EDGE**2) - 4 * edge * edge) // np.int32(3)
    x, y = u * edge.astype(np.float32), v * edge.astype(np.float32)
    left, top = np.floor(x), np.floor(y)
    x -= left
    y -= top
    base += left.astype(np.int32) & mask
    row = top.astype(np.int32)
    upper = tiles.pairs.take(base + (row & mask) * edge)
    lower = tiles.pairs.take(base + ((row + 1) & mask) * edge)
    above = _between(upper, x)
    above += y * (_between(lower, x) - above)
    above *= np.float32(1 / 255)
    return above


def _between(pair: NDArray[np.uint16], share: NDArray[np.float32]) -> NDArray[np.float32]:
    first = (pair & np.uint16(255)).astype(np.float32)
    return np.asarray(first + share * ((pair >> np.uint16(8)).astype(np.float32) - first))


def _grid() -> tuple[Tile, Tile]:
    at = (np.arange(EDGE) + 0.5) / EDGE
    return at[None, :].repeat(EDGE, 0), at[:, None].repeat(EDGE, 1)


def _noise(rng: Generator, slope: float, stretch: float = 1.0) -> Tile:
    """Periodic noise of power 1 / f^(2 slope), mean 0, deviation 1; `stretch` > 1 draws it out along u."""
    frequency = np.fft.fftfreq(EDGE) * EDGE
    radius = np.hypot(frequency[None, :] * stretch, frequency[:, None])
    radius[0, 0] = 1.0
    spectrum = np.fft.fft2(rng.standard_normal((EDGE, EDGE))) * radius**-slope
    spectrum[0, 0] = 0.0
    noise = np.fft.ifft2(spectrum).real
    return np.asarray(noise / noise.std())


def _spread(values: Tile, width: float = 0.22) -> Tile:
    return 0.5 + width * values


def _cells(rng: Generator, count: int, jitter: float = 1.0) -> tuple[Tile, Tile, NDArray[np.int64]]:
    """Distances to the nearest and the second of about `count` points on the torus, and the nearest's number."""
    side = round(count**0.5)
    corner = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    points = ((corner + 0.5 + jitter * rng.uniform(-0.5, 0.5, corner.shape)) / side) % 1.0
    u, v = _grid()
    distance, number = cKDTree(points, boxsize=1.0).query(np.stack([u, v], axis=-1), k=2)
    return distance[..., 0] * side, distance[..., 1] * side, number[..., 0]


def _clouds(rng: Generator) -> Tile:
    return _spread(_noise(rng, 1.5))


def _speckle(rng: Generator) -> Tile:
    return _spread(_noise(rng, 0.6))


def _grain(rng: Generator) -> Tile:
    """Wood along u: rings cut lengthwise, and fibres."""
    _, v = _grid()
    rings = np.sin(2 * np.pi * (7 * v + 0.55 * _noise(rng, 1.9, 6.0)))
    return 0.45 + 0.22 * rings + 0.12 * _noise(rng, 0.9, 14.0)


def _planks(rng: Generator) -> Tile:
    u, v = _grid()
    rows = 6
    row = np.floor(v * rows).astype(int)
    shift = rng.uniform(size=rows)
    along = (u + shift[row]) % 1.0
    board = np.floor(along * 2).astype(int)
    tone = rng.uniform(0.05, 0.6, (rows, 2))[row, board]
    joint = np.minimum(np.abs(v * rows - np.rint(v * rows)) / rows, np.abs(along * 2 - np.rint(along * 2)) / 2)
    return np.where(joint < 0.005, 1.0, tone + 0.1 * _noise(rng, 1.0, 12.0))


def _squares(rng: Generator) -> Tile:
    u, v = _grid()
    count = 4
    tone = rng.uniform(0.0, 0.22, (count, count))[(v * count).astype(int), (u * count).astype(int)]
    joint = np.minimum(np.abs(u * count - np.rint(u * count)), np.abs(v * count - np.rint(v * count)))
    return np.where(joint < 0.035, 0.95, tone + 0.06 * _noise(rng, 1.2))


def _bricks(rng: Generator) -> Tile:
    u, v = _grid()
    rows, count = 8, 4
    row = (v * rows).astype(int)
    along = (u * count + 0.5 * (row % 2)) % count
    tone = rng.uniform(0.0, 0.45, (rows, count))[row, along.astype(int)]
    joint = np.minimum(np.abs(along - np.rint(along)) / count, np.abs(v * rows - np.rint(v * rows)) / rows)
    return np.where(joint < 0.008, 1.0, tone + 0.08 * _noise(rng, 0.8))


def _stripes(rng: Generator) -> Tile:
    u, _ = _grid()
    return np.clip(0.5 + 2.5 * np.sin(2 * np.pi * 8 * u), 0.05, 0.95) + 0.03 * _noise(rng, 0.7)


def _weave(rng: Generator) -> Tile:
    u, v = _grid()
    over = (np.floor(u * 32) + np.floor(v * 32)) % 2
    thread = np.where(over > 0, np.sin(np.pi * ((u * 32) % 1)), np.sin(np.pi * ((v * 32) % 1)))
    return 0.7 - 0.55 * thread + 0.06 * _noise(rng, 1.0)


def _turf(rng: Generator) -> Tile:
    return 0.45 + 0.2 * _noise(rng, 0.5) + 0.13 * _noise(rng, 1.6)


def _plaster(rng: Generator) -> Tile:
    return 0.25 + 0.09 * _noise(rng, 0.9) + 0.1 * _noise(rng, 1.7)


def _parquet(rng: Generator) -> Tile:
    """Basket weave of short boards."""
    u, v = _grid()
    count, boards = 4, 4
    cell_u, cell_v = (u * count).astype(int), (v * count).astype(int)
    across = (cell_u + cell_v) % 2 > 0
    inner_u, inner_v = (u * count) % 1, (v * count) % 1
    lane = np.where(across, inner_u, inner_v) * boards
    tone = rng.uniform(0.0, 0.6, (count, count, boards))[cell_v, cell_u, lane.astype(int)]
    fibres, turned = _noise(rng, 1.0, 12.0), _noise(rng, 1.0, 12.0).T
    joint = np.minimum(np.abs(lane - np.rint(lane)) / boards, np.minimum(inner_u, inner_v))
    return np.where(joint < 0.02, 1.0, tone + 0.1 * np.where(across, turned, fibres))


def _hexagons(rng: Generator) -> Tile:
    u, v = _grid()
    rows, count = 8, 7
    centers = np.array([[(c + 0.5 * (r % 2)) / count, r / rows] for r in range(rows) for c in range(count)]) % 1.0
    distance, number = cKDTree(centers, boxsize=1.0).query(np.stack([u, v], axis=-1), k=2)
    edge = (distance[..., 1] - distance[..., 0]) * count
    tone = rng.uniform(0.0, 0.5, rows * count)[number[..., 0]]
    return np.where(edge < 0.09, 1.0, tone + 0.04 * _noise(rng, 1.2))


def _stones(rng: Generator) -> Tile:
    first, second, number = _cells(rng, 64)
    tone = rng.uniform(0.0, 0.55, 64)[number]
    return np.where(second - first < 0.1, 1.0, tone + 0.1 * _noise(rng, 1.0))


def _terrazzo(rng: Generator) -> Tile:
    first, _, number = _cells(rng, 900)
    chip = first < rng.uniform(0.1, 0.45, 900)[number]
    return np.where(chip, rng.uniform(0.4, 1.0, 900)[number], 0.1) + 0.03 * _noise(rng, 0.8)


def _checks(rng: Generator) -> Tile:
    u, v = _grid()
    wide, tall = np.sin(2 * np.pi * 4 * u) > 0, np.sin(2 * np.pi * 4 * v) > 0
    return 0.08 + 0.42 * (wide.astype(float) + tall) + 0.03 * _noise(rng, 0.7)


def _dots(rng: Generator) -> Tile:
    u, v = _grid()
    row = np.floor(v * 8)
    x, y = (u * 8 + 0.5 * (row % 2)) % 1 - 0.5, (v * 8) % 1 - 0.5
    return np.clip((0.3 - np.hypot(x, y)) * 12, 0.02, 0.95) + 0.03 * _noise(rng, 0.7)


def _zigzag(rng: Generator) -> Tile:
    u, v = _grid()
    wave = np.abs((u * 8) % 2 - 1)
    return np.clip(0.5 + 2.5 * np.sin(2 * np.pi * (8 * v + 0.5 * wave)), 0.05, 0.95) + 0.03 * _noise(rng, 0.7)


def _knots(rng: Generator) -> Tile:
    """Wood with eyes: rings about some points, drawn out along u."""
    u, v = _grid()
    warp = 0.12 * _noise(rng, 2.0, 4.0)
    points = rng.uniform(size=(5, 2))
    near = np.full(u.shape, np.inf)
    for x, y in points:
        du = np.abs(u - x)
        dv = np.abs(v - y)
        near = np.minimum(near, np.hypot(np.minimum(du, 1 - du) / 3, np.minimum(dv, 1 - dv)))
    return 0.45 + 0.25 * np.sin(2 * np.pi * (26 * near + warp * 4)) + 0.08 * _noise(rng, 0.8, 10.0)


def _ridges(rng: Generator) -> Tile:
    return np.clip(np.abs(_noise(rng, 1.6)) * 0.55, 0, 1) + 0.05 * _noise(rng, 0.6)


def _gravel(rng: Generator) -> Tile:
    first, second, number = _cells(rng, 1600)
    tone = rng.uniform(0.1, 0.8, 1600)[number]
    return np.clip(tone * np.clip((second - first) * 4, 0.2, 1), 0, 1) + 0.05 * _noise(rng, 1.2)


def _felt(rng: Generator) -> Tile:
    return 0.4 + 0.16 * _noise(rng, 0.3) + 0.08 * _noise(rng, 1.2)


PATTERNS: dict[str, Callable[[Generator], Tile]] = {
    "clouds": _clouds,
    "speckle": _speckle,
    "grain": _grain,
    "planks": _planks,
    "squares": _squares,
    "bricks": _bricks,
    "stripes": _stripes,
    "weave": _weave,
    "turf": _turf,
    "plaster": _plaster,
    "parquet": _parquet,
    "hexagons": _hexagons,
    "stones": _stones,
    "terrazzo": _terrazzo,
    "checks": _checks,
    "dots": _dots,
    "zigzag": _zigzag,
    "knots": _knots,
    "ridges": _ridges,
    "gravel": _gravel,
    "felt": _felt,
}
"""Name -> builder of a tile of EDGE x EDGE values."""


Range = tuple[float, float]
Planes = NDArray[np.float32]


class _Substance(NamedTuple):
    """A range of materials: surface (a key of `Split.patterns`), tiles a metre, hue, saturation, value, gloss.

    `second` is the range of the second colour's value over the first's. `hues` None is any hue of the split.
    Two ranges of hue are one for each palette. `along` turns the texture to a part's longest side.
    """

    surface: str
    scale: Range
    hues: tuple[Range, Range] | None
    saturation: Range
    value: Range
    second: Range
    gloss: Range = (0.0, 0.0)
    along: bool = False
    glow: float = 0.0


_WOOD_HUES = ((0.055, 0.085), (0.085, 0.12))
_GREY = ((0.02, 0.12), (0.5, 0.66))

_SUBSTANCES: dict[str, _Substance] = {
    "boards": _Substance("boards", (0.6, 1.3), _WOOD_HUES, (0.3, 0.65), (0.35, 0.8), (0.45, 0.75), (0.1, 0.5), True),
    "tiles": _Substance("tiles", (0.5, 1.6), _GREY, (0.02, 0.3), (0.4, 0.9), (0.4, 1.3), (0.3, 0.8)),
    "carpet": _Substance("rough", (1.0, 3.0), None, (0.15, 0.6), (0.25, 0.65), (0.6, 0.85)),
    "paint": _Substance("smooth", (0.25, 0.7), None, (0.02, 0.3), (0.65, 0.95), (0.8, 0.93)),
    "wallpaper": _Substance("print", (0.5, 1.5), None, (0.1, 0.4), (0.55, 0.9), (0.65, 0.9)),
    "masonry": _Substance("masonry", (0.5, 1.2), ((0.0, 0.05), (0.07, 0.12)), (0.2, 0.6), (0.4, 0.75), (1.1, 1.5)),
    "ceiling": _Substance("smooth", (0.3, 0.8), _GREY, (0.0, 0.06), (0.85, 0.97), (0.9, 0.97)),
    "wood": _Substance("wood", (1.2, 3.5), _WOOD_HUES, (0.35, 0.7), (0.3, 0.85), (0.45, 0.75), (0.1, 0.5), True),
    "cloth": _Substance("cloth", (2.0, 6.0), None, (0.2, 0.75), (0.25, 0.85), (0.35, 0.8)),
    "plastic": _Substance("smooth", (2.0, 5.0), None, (0.45, 0.95), (0.35, 0.95), (0.8, 0.97), (0.4, 0.9)),
    "printed": _Substance("print", (3.0, 8.0), None, (0.3, 0.9), (0.4, 0.95), (0.3, 0.8), (0.2, 0.6)),
    "metal": _Substance(
        "rough", (2.0, 6.0), ((0.55, 0.65), (0.08, 0.13)), (0.0, 0.15), (0.35, 0.8), (0.8, 0.95), (0.6, 1.0)
    ),
    "ceramic": _Substance("smooth", (2.0, 5.0), None, (0.0, 0.35), (0.7, 0.97), (0.85, 0.97), (0.5, 1.0)),
    "skin": _Substance(
        "smooth", (2.0, 4.0), ((0.03, 0.06), (0.05, 0.08)), (0.3, 0.6), (0.35, 0.9), (0.88, 0.97), (0.1, 0.2)
    ),
    "hair": _Substance(
        "rough", (4.0, 8.0), ((0.02, 0.08), (0.06, 0.1)), (0.3, 0.7), (0.08, 0.5), (0.6, 0.9), (0.1, 0.3)
    ),
    "leaf": _Substance(
        "smooth", (3.0, 8.0), ((0.22, 0.32), (0.3, 0.42)), (0.45, 0.8), (0.25, 0.65), (0.6, 0.9), (0.05, 0.3)
    ),
    "crown": _Substance("ground", (0.8, 2.0), ((0.2, 0.3), (0.28, 0.4)), (0.45, 0.75), (0.2, 0.5), (0.45, 0.7)),
    "bark": _Substance("wood", (1.0, 3.0), ((0.04, 0.1), (0.08, 0.14)), (0.2, 0.5), (0.2, 0.5), (0.4, 0.7), along=True),
    "soil": _Substance("ground", (0.15, 0.6), ((0.04, 0.09), (0.08, 0.12)), (0.25, 0.55), (0.3, 0.6), (0.55, 0.8)),
    "grass": _Substance("ground", (0.15, 0.6), ((0.2, 0.28), (0.27, 0.36)), (0.35, 0.7), (0.3, 0.55), (0.5, 0.75)),
    "asphalt": _Substance("rough", (0.3, 1.0), _GREY, (0.0, 0.08), (0.25, 0.5), (0.7, 0.9)),
    "rock": _Substance("ground", (0.4, 1.2), _GREY, (0.03, 0.2), (0.35, 0.7), (0.5, 0.8)),
    "dark": _Substance("smooth", (1.0, 3.0), _GREY, (0.0, 0.2), (0.05, 0.18), (0.8, 1.2), (0.6, 1.0)),
    "banana": _Substance(
        "smooth", (3.0, 6.0), ((0.13, 0.15), (0.15, 0.17)), (0.7, 0.9), (0.8, 0.95), (0.75, 0.9), (0.1, 0.3)
    ),
    "fruit": _Substance(
        "smooth", (3.0, 6.0), ((0.0, 0.09), (0.22, 0.3)), (0.7, 0.95), (0.5, 0.9), (0.8, 0.95), (0.3, 0.7)
    ),
    "shade": _Substance(
        "cloth", (2.0, 4.0), ((0.08, 0.13), (0.1, 0.16)), (0.1, 0.4), (0.8, 0.97), (0.85, 0.97), glow=0.9
    ),
    "clay": _Substance(
        "smooth", (1.0, 3.0), ((0.02, 0.06), (0.06, 0.1)), (0.45, 0.7), (0.45, 0.75), (0.75, 0.9), (0.0, 0.3)
    ),
    "cardboard": _Substance("smooth", (1.0, 3.0), ((0.07, 0.09), (0.09, 0.12)), (0.3, 0.5), (0.5, 0.75), (0.85, 0.95)),
}

_FURNITURE = (("wood", "wood"), ("wood", "cloth"), ("metal", "plastic"), ("plastic", "metal"), ("paint", "metal"))
_CUSHIONED = (("cloth", "cloth"), ("cloth", "wood"))

_WEAR: dict[str, tuple[tuple[str, str], ...]] = {
    "arm": (("skin", "skin"),),
    "ball": (("plastic", "plastic"), ("printed", "printed")),
    "banana": (("banana", "banana"),),
    "bed": _CUSHIONED,
    "beam": (("wood", "wood"), ("paint", "paint")),
    "book": (("printed", "printed"), ("cloth", "cloth"), ("plastic", "plastic")),
    "boulder": (("rock", "rock"),),
    "bottle": (("plastic", "plastic"), ("dark", "dark"), ("ceramic", "ceramic")),
    "bowl": (("ceramic", "ceramic"), ("wood", "wood"), ("plastic", "plastic")),
    "box": (("cardboard", "cardboard"), ("printed", "printed"), ("cardboard", "cardboard")),
    "building": (("masonry", "dark"), ("paint", "dark")),
    "bush": (("crown", "leaf"),),
    "cable": (("dark", "dark"),),
    "can": (("printed", "printed"), ("metal", "metal")),
    "car": (("plastic", "dark"), ("metal", "dark"), ("ceramic", "dark")),
    "ceiling": (("ceiling", "ceiling"),),
    "column": (("paint", "paint"), ("rock", "rock"), ("masonry", "masonry")),
    "cup": (("ceramic", "ceramic"), ("plastic", "plastic"), ("printed", "ceramic")),
    "curtain": (("cloth", "cloth"),),
    "door": (("wood", "metal"), ("paint", "metal")),
    "floor": (("boards", "boards"), ("tiles", "tiles"), ("carpet", "carpet"), ("boards", "boards")),
    "fruit": (("fruit", "fruit"),),
    "ground": (("grass", "grass"), ("soil", "soil"), ("asphalt", "asphalt"), ("tiles", "tiles")),
    "heap": (("cloth", "cloth"), ("soil", "soil")),
    "hill": (("grass", "grass"), ("crown", "crown"), ("rock", "rock")),
    "house": (("masonry", "clay"), ("paint", "clay")),
    "lamp": (("shade", "metal"),),
    "laptop": (("metal", "dark"), ("dark", "dark")),
    "picture": (("printed", "wood"), ("printed", "dark")),
    "pillar": (("paint", "paint"), ("masonry", "masonry")),
    "plate": (("ceramic", "ceramic"),),
    "pole": (("metal", "metal"), ("wood", "printed")),
    "pot": (("metal", "dark"), ("ceramic", "dark")),
    "rock": (("rock", "rock"),),
    "screen": (("dark", "metal"),),
    "sofa": _CUSHIONED,
    "stone": (("rock", "rock"),),
    "vase": (("ceramic", "ceramic"), ("clay", "clay"), ("printed", "printed")),
    "wall": (("paint", "paint"), ("paint", "paint"), ("wallpaper", "wallpaper"), ("masonry", "masonry")),
    "weed": (("leaf", "leaf"),),
}
_OTHERS = (("plastic", "plastic"), ("metal", "plastic"), ("wood", "wood"), ("printed", "plastic"))
_FURNISHED = {"cabinet", "chair", "ladder", "rack", "shelf", "stairs", "stool", "table", "fence", "bin", "gripper"}
_GROWING = {"plant", "potted plant", "tree", "crop"}
_HOLDERS = {"shelf", "rack", "cabinet", "table"}
_TRINKET = 0.34
"""Parts of a shelf smaller than this (metres) are things that stand on it."""


class Dressing(NamedTuple):
    """The materials of a scene's P primitives.

    Attributes:
        pattern: (P,) int32, texture in the bank.
        scale: (P,) float32, tiles a metre.
        offset: (2, P) float32, where in the tile the part begins.
        first: (3, P) float32, linear colour where the texture is 0.
        second: (3, P) float32, linear colour where it is 1.
        gloss: (P,) float32, 0 .. 1.
        glow: (P,) float32, light that the surface gives by itself.
        along: (P,) bool, whether the texture runs along the part's longest side.
    """

    pattern: NDArray[np.int32]
    scale: Planes
    offset: Planes
    first: Planes
    second: Planes
    gloss: Planes
    glow: Planes
    along: NDArray[np.bool_]


def dress(objects: Sequence[SceneObject], rng: Generator, split: Split) -> Dressing:
    """Materials for all parts of all objects, in their order.

    Args:
        objects: Those of a scene.
        rng: The source of all choices.
        split: Where textures and colours come from.
    """
    wardrobe = _Wardrobe(rng, split)
    rows: list[int] = []
    common: dict[str, int] = {}
    for thing in objects:
        if thing.category in ("plant", "crop", "wall") and thing.category in common:
            rows += [common[thing.category]] * len(thing.primitives)  # one field, one paint
            continue
        chosen = _parts(thing, wardrobe)
        if thing.category in ("plant", "crop", "wall"):
            common[thing.category] = chosen[0]
        rows += chosen
    table, number = wardrobe.table(), np.array(rows, dtype=np.int64)
    count = number.size
    first, second = table.first[:, number], table.second[:, number]
    tone = rng.uniform(0.88, 1.08, count).astype(np.float32)
    return Dressing(
        table.pattern[number],
        table.scale[number],
        rng.random((2, count), dtype=np.float32),
        first * tone,
        second * tone,
        table.gloss[number],
        table.glow[number],
        table.along[number],
    )


class _Wardrobe:
    """Collects the materials of one scene."""

    def __init__(self, rng: Generator, split: Split) -> None:
        self.rng, self._split = rng, split
        self._rows: list[tuple[int, float, list[float], list[float], float, float, bool]] = []

    def pick(self, kind: str) -> int:
        """A new material of that kind; its row."""
        one, rng, palette = _SUBSTANCES[kind], self.rng, self._split.palette
        draws = rng.random(9).tolist()

        def between(limits: Range, k: int) -> float:
            return limits[0] + (limits[1] - limits[0]) * float(draws[k])

        if one.hues is None:
            low, high = self._split.hue
            sixth = float(np.floor(6 * draws[0]))
            hue = (sixth + low + (high - low) * draws[1]) / 6
        else:
            hue = between(one.hues[palette], 0)
        saturation, value = between(one.saturation, 2), between(one.value, 3)
        first = colorsys.hsv_to_rgb(hue, saturation, value)
        turned = (hue + (draws[7] - 0.5) * (0.5 if one.surface in ("print", "cloth") else 0.02)) % 1.0
        second = colorsys.hsv_to_rgb(
            turned, saturation * between((0.7, 1.1), 8) / 1.1, min(1.0, value * between(one.second, 4))
        )
        names = self._split.patterns[one.surface]
        name = names[int(draws[5] * len(names))]
        row = (
            bank().numbers[name],
            between(one.scale, 6),
            [channel**2.2 for channel in first],
            [channel**2.2 for channel in second],
            between(one.gloss, 1),
            one.glow,
            one.along,
        )
        self._rows.append(row)
        return len(self._rows) - 1

    def pair(self, options: tuple[tuple[str, str], ...]) -> tuple[int, int]:
        """Two new materials that go together; one and the same where both are of one kind, more often than not."""
        first, second = options[self.rng.integers(len(options))]
        main = self.pick(first)
        return main, (main if first == second and self.rng.random() < 0.7 else self.pick(second))

    def table(self) -> Dressing:
        """All materials, a column each."""
        pattern, scale, first, second, gloss, glow, along = zip(*self._rows, strict=True) if self._rows else [()] * 7
        return Dressing(
            np.array(pattern, dtype=np.int32),
            np.array(scale, dtype=np.float32),
            np.zeros((2, len(pattern)), dtype=np.float32),
            np.array(first, dtype=np.float32).reshape(-1, 3).T,
            np.array(second, dtype=np.float32).reshape(-1, 3).T,
            np.array(gloss, dtype=np.float32),
            np.array(glow, dtype=np.float32),
            np.array(along, dtype=np.bool_),
        )


def _parts(thing: SceneObject, wardrobe: _Wardrobe) -> list[int]:
    """A material's row for every part of one object."""
    parts, category = thing.primitives, thing.category
    if category == "person":
        return _person(parts, wardrobe)
    if category in _GROWING:
        return _plant(parts, category, wardrobe)
    if category in _FURNISHED:
        main, other = wardrobe.pair(_FURNITURE)
    else:
        main, other = wardrobe.pair(_WEAR.get(category, _OTHERS))
    if category == "car":
        return [other if isinstance(part.shape, Frustum | Sphere) else main for part in parts]
    if category == "building":
        return [main, *([other] * (len(parts) - 1))]
    if category == "house":
        return [other if isinstance(part.shape, Quad) else main for part in parts]
    if category == "picture":
        return [main, *([other] * (len(parts) - 1))]
    if category == "lamp":
        shade = [isinstance(p.shape, Sphere) or (isinstance(p.shape, Frustum) and not p.shape.closed) for p in parts]
        return [main if glowing else other for glowing in shade]
    if category == "book" and len(parts) > 1:
        return [main, *(wardrobe.pair(_WEAR["book"])[0] for _ in parts[1:])]
    if category == "toy":
        return [main if k < 2 else other for k in range(len(parts))]
    if category in _HOLDERS:
        return _holder(parts, main, other, wardrobe)
    return [other if isinstance(part.shape, Capsule | Frustum | Sphere) and k else main for k, part in enumerate(parts)]


def _holder(parts: Sequence[Primitive], main: int, other: int, wardrobe: _Wardrobe) -> list[int]:
    """Boards of one material, and whatever stands on them each of its own."""
    rows = []
    for part in parts:
        if float(np.abs(part.axes).max()) * 2 < _TRINKET and isinstance(part.shape, Box | Frustum | Sphere):
            rows.append(wardrobe.pair(_OTHERS)[0])
        else:
            rows.append(other if isinstance(part.shape, Capsule | Frustum) else main)
    return rows


def _plant(parts: Sequence[Primitive], category: str, wardrobe: _Wardrobe) -> list[int]:
    green, crown = wardrobe.pick("leaf"), wardrobe.pick("crown")
    wood, pot = wardrobe.pick("bark"), wardrobe.pick("clay")
    rows = []
    for k, part in enumerate(parts):
        shape = part.shape
        if category == "potted plant" and k < 2:
            rows.append(pot)
        elif isinstance(shape, Frustum) and category == "tree" and shape.top < 0.1:
            rows.append(crown)  # a conifer's tier
        elif isinstance(shape, Frustum | Capsule):
            rows.append(wood)
        else:
            rows.append(crown if isinstance(shape, Sphere) else green)
    return rows


def _person(parts: Sequence[Primitive], wardrobe: _Wardrobe) -> list[int]:
    """Skin, hair, shirt, trousers, shoes: the order of parts is that of `layouts.people.person`."""
    skin, shirt, trousers = wardrobe.pick("skin"), wardrobe.pick("cloth"), wardrobe.pick("cloth")
    shoe, hair = wardrobe.pick("dark"), wardrobe.pick("hair")
    rows = [trousers, shirt, shirt, skin, skin]
    rest = len(parts) - 5
    pack = isinstance(parts[-1].shape, Box)
    if rest - pack == 13:
        rows.append(hair)
    sleeve = shirt if wardrobe.rng.random() < 0.5 else skin
    rows += [trousers, trousers, shoe, shirt, sleeve, skin] * 2
    return rows + [shoe] * pack
