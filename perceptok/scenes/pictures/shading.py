"""The light that reaches the camera: textures, lamps, shadows, gloss, haze and sky, for every pixel."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from perceptok.scenes.pictures.lighting import Light, Rig, occlusion, shadow, spread
from perceptok.scenes.pictures.materials import Dressing
from perceptok.scenes.pictures.patterns import bank, sample
from perceptok.scenes.raycast import Rendering, Scene
from perceptok.scenes.surfaces import Surfaces

__all__ = ["shade"]

Planes = NDArray[np.float32]

_SKY_DEPTH = np.float32(1e4)


def shade(seen: Rendering, dressing: Dressing, rig: Rig, rng: Generator) -> Planes:
    """Linear light (3, H, W) float32 of what a camera sees.

    Args:
        seen: The scene, cast.
        dressing: The materials of its primitives.
        rig: Its lights.
        rng: For what has no place in the scene: clouds, stains.
    """
    surfaces, scene = seen.surfaces, seen.scene
    height, width = seen.depth.shape
    picture = _sky(seen, rig, rng).reshape(3, -1)
    if not surfaces.pixels.size:
        return picture.reshape(3, height, width)
    eye = scene.camera.position.astype(np.float32)
    sight = eye[:, None] - surfaces.points
    distance = np.sqrt((sight * sight).sum(axis=0))
    sight /= distance
    facing = (sight * surfaces.normals).sum(axis=0)
    albedo = _albedo(surfaces, dressing, seen, facing)
    maps = _half(seen, rig, rng)
    open_sky, wear, *lit = maps.reshape(maps.shape[0], -1)[:, surfaces.pixels]
    albedo *= wear
    above, below = np.array(rig.above, dtype=np.float32), np.array(rig.below, dtype=np.float32)
    up = (np.float32(0.5) + np.float32(0.5) * surfaces.normals[2]) * open_sky
    down = open_sky - up
    total = above[:, None] * up + below[:, None] * down
    gloss = dressing.gloss[surfaces.part]
    shine = np.zeros_like(total)
    cast = iter(lit)
    for light in rig.lights:
        reached = next(cast) if light.shadows else np.sqrt(open_sky)
        diffuse, mirror = _lamp(light, surfaces, sight, gloss)
        color = np.array(light.color, dtype=np.float32)[:, None]
        total += color * (diffuse * reached)
        shine += color * (mirror * reached)
    total += dressing.glow[surfaces.part]
    total *= albedo
    total += shine
    # Grazing surfaces mirror what is around them.
    edge = (1 - np.clip(facing, 0, 1)) ** 4 * (gloss * np.float32(0.35)) * open_sky
    total += above[:, None] * edge
    if np.isfinite(rig.haze):
        clear = np.exp(distance * np.float32(-1 / rig.haze))
        horizon = np.array(rig.sky[0], dtype=np.float32)[:, None]
        total = horizon + (total - horizon) * clear
    picture[:, surfaces.pixels] = total
    return picture.reshape(3, height, width)


def _albedo(surfaces: Surfaces, dressing: Dressing, seen: Rendering, facing: Planes) -> Planes:
    """The texture's colour at every surface point, (3, N)."""
    parts = [part for thing in seen.scene.objects for part in thing.primitives]
    axes = np.stack([part.axes for part in parts])
    lengths = np.linalg.norm(axes, axis=1)  # metres of one canonical unit along each axis
    extents = lengths * np.array([part.shape.extents for part in parts])
    place, part = surfaces.local, surfaces.part
    # Project along the axis the surface faces most; normals along the part's own axes tell.
    units = (axes / lengths[:, None, :]).astype(np.float32)
    normals = surfaces.normals
    turned = [
        np.abs(
            sum((units[:, row, axis][part] * normals[row] for row in range(1, 3)), units[:, 0, axis][part] * normals[0])
        )
        for axis in range(3)
    ]
    facing_axis = np.where(
        (turned[0] >= turned[1]) & (turned[0] >= turned[2]), 0, np.where(turned[1] >= turned[2], 1, 2)
    ).astype(np.int32)
    pairs = np.array([[1, 2], [0, 2], [0, 1]])
    swap = dressing.along[:, None] & (extents[:, pairs[:, 1]] > extents[:, pairs[:, 0]])
    choice = np.where(swap[..., None], pairs[:, ::-1], pairs).astype(np.int32)  # (P, 3 facing axes, 2)
    key = part * 3 + facing_axis
    first_axis, second_axis = choice[..., 0].ravel()[key], choice[..., 1].ravel()[key]
    scaled = place * lengths.T.astype(np.float32)[:, part]
    flat, lane = scaled.ravel(), np.arange(part.size)
    scale = dressing.scale[part]
    u = flat[first_axis * part.size + lane] * scale + dressing.offset[0][part]
    v = flat[second_axis * part.size + lane] * scale + dressing.offset[1][part]
    pixel = np.float32(2 * seen.scene.camera.half_view[0] / seen.depth.shape[1])
    footprint = (
        seen.depth.ravel()[surfaces.pixels] * pixel * scale / np.maximum(np.sqrt(np.abs(facing)), np.float32(0.2))
    )
    value = sample(dressing.pattern[part], u, v, np.asarray(footprint, np.float32))
    first, step = dressing.first, dressing.second - dressing.first
    return np.stack([first[k][part] + step[k][part] * value for k in range(3)])


def _lamp(light: Light, surfaces: Surfaces, sight: Planes, gloss: Planes) -> tuple[Planes, Planes]:
    """What one light adds to matt surfaces, and what to glossy ones, where nothing is in the way; (N,) each."""
    way = light.position.astype(np.float32)[:, None] - surfaces.points
    square = (way * way).sum(axis=0)
    way /= np.sqrt(square)
    normals = surfaces.normals
    diffuse = np.maximum(way[0] * normals[0] + way[1] * normals[1] + way[2] * normals[2], 0)
    if np.isfinite(light.reference):
        diffuse *= np.minimum(np.float32(light.reference**2) / square, np.float32(4))
    mirror = np.zeros_like(diffuse)
    shiny = np.flatnonzero((gloss > 0.25) & (diffuse > 0))
    if shiny.size:
        half = way[:, shiny] + sight[:, shiny]
        half /= np.sqrt((half * half).sum(axis=0))
        cosine = np.clip((half * normals[:, shiny]).sum(axis=0), 0, 1)
        shininess = gloss[shiny]
        mirror[shiny] = np.float32(0.6) * shininess**2 * np.exp((cosine - 1) * (20 + 180 * shininess)) * diffuse[shiny]
    return diffuse, mirror


def _half(seen: Rendering, rig: Rig, rng: Generator) -> Planes:
    """Occlusion, stains, and the shadows of each light that throws any, (C, H, W); found on every second pixel."""
    height, width = seen.depth.shape
    surfaces = seen.surfaces
    points = np.empty((3, height * width), dtype=np.float32)
    points[:] = seen.scene.camera.position.astype(np.float32)[:, None] + np.float32(1e6)
    points[:, surfaces.pixels] = surfaces.points
    points = points.reshape(3, height, width)[:, ::2, ::2]
    normals = np.moveaxis(seen.normals, -1, 0)[:, ::2, ::2]
    coarse = np.where(np.isfinite(seen.depth), seen.depth, _SKY_DEPTH)
    small = np.ascontiguousarray(coarse[::2, ::2])
    points, normals = np.ascontiguousarray(points), np.ascontiguousarray(normals)
    reach = float(np.clip(0.14 * np.median(surfaces.points.std(axis=1)) + 0.08, 0.1, 1.5))
    hit = small < _SKY_DEPTH
    maps = [occlusion(points, normals, reach), np.ones_like(small)]
    maps[1][hit] = _stains(points[:, hit], rng)
    for light in rig.lights:
        if light.shadows:
            reached = np.ones_like(small)
            if hit.any():
                reached[hit] = shadow(seen.scene, light, points[:, hit], normals[:, hit])
            maps.append(reached)
    return spread(np.stack(maps), small, coarse)


def _stains(points: Planes, rng: Generator) -> Planes:
    """Slow unevenness of everything, as from wear, dust and uneven light; about 1."""
    scale, turn = np.float32(rng.uniform(0.12, 0.5)), rng.uniform(0.3, 0.8, 3).astype(np.float32)
    u = (points[0] + turn[0] * points[2]) * scale
    v = (points[1] + turn[1] * points[2]) * scale
    number = np.full(u.shape, bank().numbers["clouds"], dtype=np.int32)
    strength = np.float32(rng.uniform(0.1, 0.35))
    return 1 + strength * (sample(number, u, v, np.full(u.shape, 0.01, dtype=np.float32)) - np.float32(0.5))


def _sky(seen: Rendering, rig: Rig, rng: Generator) -> Planes:
    """The sky behind everything, (3, H, W), with clouds; what shines through windows indoors."""
    height, width = seen.depth.shape
    horizon, overhead = (np.array(color, dtype=np.float32)[:, None] for color in rig.sky)
    picture = np.empty((3, height * width), dtype=np.float32)
    picture[:] = horizon
    pixels = np.flatnonzero(~np.isfinite(seen.depth))
    cover, scale = rng.uniform(0.25, 0.75), np.float32(rng.uniform(0.08, 0.3))
    if pixels.size and np.isfinite(rig.haze):
        way = _ways(seen.scene, pixels, height, width)
        up = np.maximum(way[2], np.float32(0.02))
        share = np.sqrt(up)
        number = np.full(up.shape, bank().numbers["clouds"], dtype=np.int32)
        cloud = sample(number, way[0] / up * scale, way[1] / up * scale, scale * np.float32(0.004) / up)
        cloud = np.clip((cloud - np.float32(cover)) * 3, 0, 1) * np.minimum(up * 6, 1)
        blue = horizon + (overhead - horizon) * share
        picture[:, pixels] = blue + (np.float32(1.05) - blue) * cloud
    return picture.reshape(3, height, width)


def _ways(scene: Scene, pixels: NDArray[np.int64], height: int, width: int) -> Planes:
    """Unit directions of the rays of some pixels, (3, N)."""
    half_x, half_y = scene.camera.half_view
    x = ((2 * (pixels % width) + 1) / width - 1) * half_x
    y = ((2 * (pixels // width) + 1) / height - 1) * half_y
    way = scene.camera.rotation @ np.stack([x, y, np.ones_like(x)])
    return np.asarray(way / np.linalg.norm(way, axis=0), dtype=np.float32)
