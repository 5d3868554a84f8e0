"""Procedural texture: a bank of square tiles that repeat without a seam, with smaller and smaller copies of each.

A value of 0 is a material's first colour, 1 its second. Everything is drawn once a process from fixed numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["EDGE", "PATTERNS", "Bank", "bank", "sample"]

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
