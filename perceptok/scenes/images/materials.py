"""Materials: textures, colors and gloss by category, for every part of a scene.

Textures are square tiles that repeat without a seam, each with a pyramid of smaller copies (mipmaps). A value of 0 is
a material's first color, 1 its second. They are made once a process, from fixed seeds.
"""

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
from perceptok.scenes.raycast import Planes, SceneObject

Range = tuple[float, float]
Tile = NDArray[np.float64]

EDGE = 256
"""Texels along a tile's edge."""
_LEVELS = 9


class Textures(NamedTuple):
    """The tiles of P patterns, one after the other.

    Attributes:
        texels: (P * L,) uint8: of each pattern EDGE x EDGE texels, then those of half the edge, down to a single one.
        pairs: (P * L,) uint16: each texel, plus 256 times its right neighbour.
        numbers: Name of a pattern -> its place among the P.
        length: L.
    """

    texels: NDArray[np.uint8]
    pairs: NDArray[np.uint16]
    numbers: dict[str, int]
    length: int


@functools.cache
def make_textures() -> Textures:
    """The tiles of all patterns; the first call takes a third of a second."""
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
    return Textures(texels, np.concatenate(pairs), numbers, texels.size // len(numbers))


def sample_textures(pattern: NDArray[np.int32], u: Planes, v: Planes, footprint: Planes) -> Planes:
    """Values of patterns at points, bilinear on the level whose texels are about as large as a pixel.

    Args:
        pattern: (N,) number of the pattern.
        u: (N,) first coordinate in tiles, with period 1.
        v: (N,) second coordinate.
        footprint: (N,) share of a tile that one pixel covers.

    Returns:
        (N,) float32, 0 .. 1.
    """
    textures = make_textures()
    fine = np.maximum(footprint * np.float32(EDGE * 0.8), np.float32(1))
    # The exponent of a float32 is the integer part of its logarithm.
    level = np.minimum((fine.view(np.int32) >> 23) - 127, np.int32(_LEVELS - 1))
    edge = np.right_shift(np.int32(EDGE), level)
    mask = edge - 1
    # Levels before this one hold (4 EDGE^2 - 4 edge^2) / 3 texels.
    base = pattern * np.int32(textures.length) + (np.int32(4 * EDGE**2) - 4 * edge * edge) // np.int32(3)
    x, y = u * edge.astype(np.float32), v * edge.astype(np.float32)
    left, top = np.floor(x), np.floor(y)
    x -= left
    y -= top
    base += left.astype(np.int32) & mask
    row = top.astype(np.int32)
    upper = textures.pairs.take(base + (row & mask) * edge)
    lower = textures.pairs.take(base + ((row + 1) & mask) * edge)
    above = _interpolate(upper, x)
    above += y * (_interpolate(lower, x) - above)
    above *= np.float32(1 / 255)
    return above


def _interpolate(pair: NDArray[np.uint16], share: Planes) -> Planes:
    first = (pair & np.uint16(255)).astype(np.float32)
    return np.asarray(first + share * ((pair >> np.uint16(8)).astype(np.float32) - first))


def _grid() -> tuple[Tile, Tile]:
    at = (np.arange(EDGE) + 0.5) / EDGE
    return at[None, :].repeat(EDGE, 0), at[:, None].repeat(EDGE, 1)


def _noise(rng: Generator, slope: float, stretch: float = 1.0) -> Tile:
    """Periodic noise of power 1 / f^(2 slope), mean 0, deviation 1; `stretch` > 1 stretches it along u."""
    frequency = np.fft.fftfreq(EDGE) * EDGE
    radius = np.hypot(frequency[None, :] * stretch, frequency[:, None])
    radius[0, 0] = 1.0
    spectrum = np.fft.fft2(rng.standard_normal((EDGE, EDGE))) * radius**-slope
    spectrum[0, 0] = 0.0
    noise = np.fft.ifft2(spectrum).real
    return np.asarray(noise / noise.std())


def _to_tile(values: Tile, width: float = 0.22) -> Tile:
    return 0.5 + width * values


def _cells(rng: Generator, count: int, jitter: float = 1.0) -> tuple[Tile, Tile, NDArray[np.int64]]:
    """Distances to the nearest and the second of about `count` points on the torus, and the nearest's number."""
    side = round(count**0.5)
    corner = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    points = ((corner + 0.5 + jitter * rng.uniform(-0.5, 0.5, corner.shape)) / side) % 1.0
    u, v = _grid()
    distance, number = cKDTree(points, boxsize=1.0).query(np.stack([u, v], axis=-1), k=2)
    return distance[..., 0] * side, distance[..., 1] * side, number[..., 0]


def _grain(rng: Generator) -> Tile:
    """Wood grain along u: rings cut lengthwise, and fibres."""
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
    """Wood with knots: rings about some points, stretched along u."""
    u, v = _grid()
    warp = 0.12 * _noise(rng, 2.0, 4.0)
    points = rng.uniform(size=(5, 2))
    near = np.full(u.shape, np.inf)
    for x, y in points:
        du = np.abs(u - x)
        dv = np.abs(v - y)
        near = np.minimum(near, np.hypot(np.minimum(du, 1 - du) / 3, np.minimum(dv, 1 - dv)))
    return 0.45 + 0.25 * np.sin(2 * np.pi * (26 * near + warp * 4)) + 0.08 * _noise(rng, 0.8, 10.0)


def _gravel(rng: Generator) -> Tile:
    first, second, number = _cells(rng, 1600)
    tone = rng.uniform(0.1, 0.8, 1600)[number]
    return np.clip(tone * np.clip((second - first) * 4, 0.2, 1), 0, 1) + 0.05 * _noise(rng, 1.2)


PATTERNS: dict[str, Callable[[Generator], Tile]] = {
    "clouds": lambda rng: _to_tile(_noise(rng, 1.5)),
    "speckle": lambda rng: _to_tile(_noise(rng, 0.6)),
    "grain": _grain,
    "planks": _planks,
    "squares": _squares,
    "bricks": _bricks,
    "stripes": _stripes,
    "weave": _weave,
    "turf": lambda rng: 0.45 + 0.2 * _noise(rng, 0.5) + 0.13 * _noise(rng, 1.6),
    "plaster": lambda rng: 0.25 + 0.09 * _noise(rng, 0.9) + 0.1 * _noise(rng, 1.7),
    "parquet": _parquet,
    "hexagons": _hexagons,
    "stones": _stones,
    "terrazzo": _terrazzo,
    "checks": _checks,
    "dots": _dots,
    "zigzag": _zigzag,
    "knots": _knots,
    "ridges": lambda rng: np.clip(np.abs(_noise(rng, 1.6)) * 0.55, 0, 1) + 0.05 * _noise(rng, 0.6),
    "gravel": _gravel,
    "felt": lambda rng: 0.4 + 0.16 * _noise(rng, 0.3) + 0.08 * _noise(rng, 1.2),
}
"""Name -> function that makes a tile of EDGE x EDGE values."""


class _Finish(NamedTuple):
    """A range of materials; each material is drawn from it.

    Attributes:
        surface: A key of `Split.patterns`.
        scale: Tiles a metre.
        hues: Two ranges, one for each palette; any hue of the split where None.
        saturation: Of both colors, 0 .. 1.
        value: Of the first color (HSV), 0 .. 1.
        second: The second color's value over the first's.
        gloss: 0 .. 1.
        along: Whether the texture runs along the longest side of a part.
        glow: Light that the surface emits.
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


_BROWN = ((0.055, 0.085), (0.085, 0.12))
_GREY = ((0.02, 0.12), (0.5, 0.66))

_FINISHES: dict[str, _Finish] = {
    "boards": _Finish("boards", (0.6, 1.3), _BROWN, (0.3, 0.65), (0.35, 0.8), (0.45, 0.75), (0.1, 0.5), True),
    "tiles": _Finish("tiles", (0.5, 1.6), _GREY, (0.02, 0.3), (0.4, 0.9), (0.4, 1.3), (0.3, 0.8)),
    "carpet": _Finish("rough", (1.0, 3.0), None, (0.15, 0.6), (0.25, 0.65), (0.6, 0.85)),
    "paint": _Finish("smooth", (0.25, 0.7), None, (0.02, 0.3), (0.65, 0.95), (0.8, 0.93)),
    "wallpaper": _Finish("print", (0.5, 1.5), None, (0.1, 0.4), (0.55, 0.9), (0.65, 0.9)),
    "masonry": _Finish("masonry", (0.5, 1.2), ((0.0, 0.05), (0.07, 0.12)), (0.2, 0.6), (0.4, 0.75), (1.1, 1.5)),
    "ceiling": _Finish("smooth", (0.3, 0.8), _GREY, (0.0, 0.06), (0.85, 0.97), (0.9, 0.97)),
    "wood": _Finish("wood", (1.2, 3.5), _BROWN, (0.35, 0.7), (0.3, 0.85), (0.45, 0.75), (0.1, 0.5), True),
    "cloth": _Finish("cloth", (2.0, 6.0), None, (0.2, 0.75), (0.25, 0.85), (0.35, 0.8)),
    "plastic": _Finish("smooth", (2.0, 5.0), None, (0.45, 0.95), (0.35, 0.95), (0.8, 0.97), (0.4, 0.9)),
    "printed": _Finish("print", (3.0, 8.0), None, (0.3, 0.9), (0.4, 0.95), (0.3, 0.8), (0.2, 0.6)),
    "metal": _Finish(
        "rough", (2.0, 6.0), ((0.55, 0.65), (0.08, 0.13)), (0.0, 0.15), (0.35, 0.8), (0.8, 0.95), (0.6, 1.0)
    ),
    "ceramic": _Finish("smooth", (2.0, 5.0), None, (0.0, 0.35), (0.7, 0.97), (0.85, 0.97), (0.5, 1.0)),
    "skin": _Finish(
        "smooth", (2.0, 4.0), ((0.03, 0.06), (0.05, 0.08)), (0.3, 0.6), (0.35, 0.9), (0.88, 0.97), (0.1, 0.2)
    ),
    "hair": _Finish("rough", (4.0, 8.0), ((0.02, 0.08), (0.06, 0.1)), (0.3, 0.7), (0.08, 0.5), (0.6, 0.9), (0.1, 0.3)),
    "leaf": _Finish(
        "smooth", (3.0, 8.0), ((0.22, 0.32), (0.3, 0.42)), (0.45, 0.8), (0.25, 0.65), (0.6, 0.9), (0.05, 0.3)
    ),
    "crown": _Finish("ground", (0.8, 2.0), ((0.2, 0.3), (0.28, 0.4)), (0.45, 0.75), (0.2, 0.5), (0.45, 0.7)),
    "bark": _Finish("wood", (1.0, 3.0), ((0.04, 0.1), (0.08, 0.14)), (0.2, 0.5), (0.2, 0.5), (0.4, 0.7), along=True),
    "soil": _Finish("ground", (0.15, 0.6), ((0.04, 0.09), (0.08, 0.12)), (0.25, 0.55), (0.3, 0.6), (0.55, 0.8)),
    "grass": _Finish("ground", (0.15, 0.6), ((0.2, 0.28), (0.27, 0.36)), (0.35, 0.7), (0.3, 0.55), (0.5, 0.75)),
    "asphalt": _Finish("rough", (0.3, 1.0), _GREY, (0.0, 0.08), (0.25, 0.5), (0.7, 0.9)),
    "rock": _Finish("ground", (0.4, 1.2), _GREY, (0.03, 0.2), (0.35, 0.7), (0.5, 0.8)),
    "dark": _Finish("smooth", (1.0, 3.0), _GREY, (0.0, 0.2), (0.05, 0.18), (0.8, 1.2), (0.6, 1.0)),
    "banana": _Finish(
        "smooth", (3.0, 6.0), ((0.13, 0.15), (0.15, 0.17)), (0.7, 0.9), (0.8, 0.95), (0.75, 0.9), (0.1, 0.3)
    ),
    "fruit": _Finish(
        "smooth", (3.0, 6.0), ((0.0, 0.09), (0.22, 0.3)), (0.7, 0.95), (0.5, 0.9), (0.8, 0.95), (0.3, 0.7)
    ),
    "shade": _Finish("cloth", (2.0, 4.0), ((0.08, 0.13), (0.1, 0.16)), (0.1, 0.4), (0.8, 0.97), (0.85, 0.97), glow=0.9),
    "clay": _Finish(
        "smooth", (1.0, 3.0), ((0.02, 0.06), (0.06, 0.1)), (0.45, 0.7), (0.45, 0.75), (0.75, 0.9), (0.0, 0.3)
    ),
    "cardboard": _Finish("smooth", (1.0, 3.0), ((0.07, 0.09), (0.09, 0.12)), (0.3, 0.5), (0.5, 0.75), (0.85, 0.95)),
}

_FURNITURE = (("wood", "wood"), ("wood", "cloth"), ("metal", "plastic"), ("plastic", "metal"), ("paint", "metal"))

_CATEGORIES: dict[str, tuple[tuple[str, str], ...]] = {
    "arm": (("skin", "skin"),),
    "ball": (("plastic", "plastic"), ("printed", "printed")),
    "beam": (("wood", "wood"), ("paint", "paint")),
    "book": (("printed", "printed"), ("cloth", "cloth"), ("plastic", "plastic")),
    "bottle": (("plastic", "plastic"), ("dark", "dark"), ("ceramic", "ceramic")),
    "bowl": (("ceramic", "ceramic"), ("wood", "wood"), ("plastic", "plastic")),
    "box": (("cardboard", "cardboard"), ("printed", "printed"), ("cardboard", "cardboard")),
    "building": (("masonry", "dark"), ("paint", "dark")),
    "bush": (("crown", "leaf"),),
    "cable": (("dark", "dark"),),
    "can": (("printed", "printed"), ("metal", "metal")),
    "car": (("plastic", "dark"), ("metal", "dark"), ("ceramic", "dark")),
    "column": (("paint", "paint"), ("rock", "rock"), ("masonry", "masonry")),
    "cup": (("ceramic", "ceramic"), ("plastic", "plastic"), ("printed", "ceramic")),
    "curtain": (("cloth", "cloth"),),
    "door": (("wood", "metal"), ("paint", "metal")),
    "floor": (("boards", "boards"), ("tiles", "tiles"), ("carpet", "carpet"), ("boards", "boards")),
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
    "screen": (("dark", "metal"),),
    "vase": (("ceramic", "ceramic"), ("clay", "clay"), ("printed", "printed")),
    "wall": (("paint", "paint"), ("paint", "paint"), ("wallpaper", "wallpaper"), ("masonry", "masonry")),
    "weed": (("leaf", "leaf"),),
    **{name: ((name, name),) for name in ("banana", "ceiling", "fruit", "rock")},
    **dict.fromkeys(("boulder", "stone"), (("rock", "rock"),)),
    **dict.fromkeys(("bed", "sofa"), (("cloth", "cloth"), ("cloth", "wood"))),
    **dict.fromkeys(("bin", "cabinet", "chair", "fence", "gripper", "ladder"), _FURNITURE),
    **dict.fromkeys(("rack", "shelf", "stairs", "stool", "table"), _FURNITURE),
}
_OTHERS = (("plastic", "plastic"), ("metal", "plastic"), ("wood", "wood"), ("printed", "plastic"))
_PLANTS = frozenset({"plant", "potted plant", "tree", "crop"})
_HOLDERS = frozenset({"shelf", "rack", "cabinet", "table"})
_SHARED = frozenset({"plant", "crop", "wall"})
"""Categories of which all objects of a scene are of one material: one crop, one paint."""
_TRINKET = 0.34
"""Parts of a holder smaller than this (metres) are separate things that stand on it."""


class Materials(NamedTuple):
    """The materials of a scene's P primitives.

    Attributes:
        pattern: (P,) int32, number of the texture.
        scale: (P,) float32, tiles a metre.
        offset: (2, P) float32, where in the tile the part begins.
        first: (3, P) float32, linear color where the texture is 0.
        second: (3, P) float32, linear color where it is 1.
        gloss: (P,) float32, 0 .. 1.
        glow: (P,) float32, light that the surface emits.
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


def sample_materials(objects: Sequence[SceneObject], rng: Generator, split: Split) -> Materials:
    """Materials for all parts of all objects, in their order, with the textures and colors of a split."""
    palette = _Palette(rng, split)
    rows: list[int] = []
    shared: dict[str, int] = {}
    for item in objects:
        if item.category in shared:
            rows += [shared[item.category]] * len(item.primitives)
            continue
        chosen = _choose_for_object(item, palette)
        if item.category in _SHARED:
            shared[item.category] = chosen[0]
        rows += chosen
    table, number = palette.to_table(), np.array(rows, dtype=np.int64)
    tone = rng.uniform(0.88, 1.08, number.size).astype(np.float32)
    offset = rng.random((2, number.size), dtype=np.float32)
    return Materials(
        table.pattern[number],
        table.scale[number],
        offset,
        table.first[:, number] * tone,
        table.second[:, number] * tone,
        table.gloss[number],
        table.glow[number],
        table.along[number],
    )


class _Palette:
    """Draws the materials of a scene and collects them, one row each."""

    def __init__(self, rng: Generator, split: Split) -> None:
        self.rng, self._split = rng, split
        self._rows: list[tuple[int, float, list[float], list[float], float, float, bool]] = []

    def draw(self, kind: str) -> int:
        """Draw a new material of a kind; returns its row."""
        finish = _FINISHES[kind]
        draws = self.rng.random(9).tolist()

        def interpolate(limits: Range, k: int) -> float:
            return limits[0] + (limits[1] - limits[0]) * float(draws[k])

        if finish.hues is None:
            low, high = self._split.hue
            sixth = float(np.floor(6 * draws[0]))
            hue = (sixth + low + (high - low) * draws[1]) / 6
        else:
            hue = interpolate(finish.hues[self._split.palette], 0)
        saturation, value = interpolate(finish.saturation, 2), interpolate(finish.value, 3)
        second_hue = (hue + (draws[7] - 0.5) * (0.5 if finish.surface in ("print", "cloth") else 0.02)) % 1.0
        second_value = min(1.0, value * interpolate(finish.second, 4))
        first = colorsys.hsv_to_rgb(hue, saturation, value)
        second = colorsys.hsv_to_rgb(second_hue, saturation * interpolate((0.7, 1.1), 8) / 1.1, second_value)
        names = self._split.patterns[finish.surface]
        pattern = make_textures().numbers[names[int(draws[5] * len(names))]]
        colors = [channel**2.2 for channel in first], [channel**2.2 for channel in second]
        scale, gloss = interpolate(finish.scale, 6), interpolate(finish.gloss, 1)
        self._rows.append((pattern, scale, *colors, gloss, finish.glow, finish.along))
        return len(self._rows) - 1

    def draw_pair(self, options: tuple[tuple[str, str], ...]) -> tuple[int, int]:
        """Draw two materials that go together; where both are of one kind, mostly a single one."""
        first, second = options[self.rng.integers(len(options))]
        main = self.draw(first)
        return main, (main if first == second and self.rng.random() < 0.7 else self.draw(second))

    def to_table(self) -> Materials:
        """All materials, a column each."""
        pattern, scale, first, second, gloss, glow, along = zip(*self._rows, strict=True) if self._rows else [()] * 7
        return Materials(
            np.array(pattern, dtype=np.int32),
            np.array(scale, dtype=np.float32),
            np.zeros((2, len(pattern)), dtype=np.float32),
            np.array(first, dtype=np.float32).reshape(-1, 3).T,
            np.array(second, dtype=np.float32).reshape(-1, 3).T,
            np.array(gloss, dtype=np.float32),
            np.array(glow, dtype=np.float32),
            np.array(along, dtype=np.bool_),
        )


def _choose_for_object(item: SceneObject, palette: _Palette) -> list[int]:
    """A material's row for every part of an object."""
    parts, category = item.primitives, item.category
    if category == "person":
        return _choose_for_person(parts, palette)
    if category in _PLANTS:
        return _choose_for_plant(parts, category, palette)
    main, other = palette.draw_pair(_CATEGORIES.get(category, _OTHERS))
    if category in _HOLDERS:
        return [_choose_for_holder(part, main, other, palette) for part in parts]
    if category == "book" and len(parts) > 1:
        return [main, *(palette.draw_pair(_CATEGORIES["book"])[0] for _ in parts[1:])]
    return [other if _is_secondary(category, number, part) else main for number, part in enumerate(parts)]


def _is_secondary(category: str, number: int, part: Primitive) -> bool:
    """Whether a part is of the second of an object's two materials."""
    shape = part.shape
    if category == "car":
        return isinstance(shape, Frustum | Sphere)
    if category == "house":
        return isinstance(shape, Quad)
    if category == "lamp":
        return not (isinstance(shape, Sphere) or (isinstance(shape, Frustum) and not shape.closed))
    if category in ("building", "picture"):
        return number > 0
    if category == "toy":
        return number > 1
    return number > 0 and isinstance(shape, Capsule | Frustum | Sphere)


def _choose_for_holder(part: Primitive, main: int, other: int, palette: _Palette) -> int:
    """Boards are of one material, and each thing that stands on them of its own."""
    if float(np.abs(part.axes).max()) * 2 < _TRINKET and isinstance(part.shape, Box | Frustum | Sphere):
        return palette.draw_pair(_OTHERS)[0]
    return other if isinstance(part.shape, Capsule | Frustum) else main


def _choose_for_plant(parts: Sequence[Primitive], category: str, palette: _Palette) -> list[int]:
    green, crown, wood, pot = (palette.draw(kind) for kind in ("leaf", "crown", "bark", "clay"))
    rows = []
    for number, part in enumerate(parts):
        shape = part.shape
        if category == "potted plant" and number < 2:
            rows.append(pot)
        elif isinstance(shape, Frustum) and category == "tree" and shape.top < 0.1:
            rows.append(crown)  # a conifer's tier
        elif isinstance(shape, Frustum | Capsule):
            rows.append(wood)
        else:
            rows.append(crown if isinstance(shape, Sphere) else green)
    return rows


def _choose_for_person(parts: Sequence[Primitive], palette: _Palette) -> list[int]:
    """Skin, hair, shirt, trousers, shoes: the order of parts is that of `layouts.people.person`."""
    skin, shirt, trousers, shoe, hair = (palette.draw(kind) for kind in ("skin", "cloth", "cloth", "dark", "hair"))
    rows = [trousers, shirt, shirt, skin, skin]
    backpack = isinstance(parts[-1].shape, Box)
    if len(parts) - 5 - backpack == 13:
        rows.append(hair)
    sleeve = shirt if palette.rng.random() < 0.5 else skin
    rows += [trousers, trousers, shoe, shirt, sleeve, skin] * 2
    return rows + [shoe] * backpack
