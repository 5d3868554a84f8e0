"""The light that reaches the camera: textures, lamps, shadows, gloss, haze and sky, for every pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

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
    surfaces = seen.surfaces
    height, width = seen.depth.shape
    picture = _sky(seen, rig, rng).reshape(3, -1)
    if not surfaces.pixels.size:
        return picture.reshape(3, height, width)
    maps = _half(seen, rig, rng)
    maps = maps.reshape(maps.shape[0], -1)
    sizes = _sizes(seen, dressing)
    for piece in surfaces.pieces():
        picture[:, piece.pixels] = _reflected(piece, seen, dressing, sizes, rig, maps.take(piece.pixels, axis=1))
    return picture.reshape(3, height, width)


def _reflected(
    surfaces: Surfaces, seen: Rendering, dressing: Dressing, sizes: _Sizes, rig: Rig, maps: Planes
) -> Planes:
    """The light of surface points, (3, N): `maps` (C, N) are those of `_half`."""
    sight = seen.scene.camera.position.astype(np.float32)[:, None] - surfaces.points
    distance = np.sqrt(_dot(sight, sight))
    sight /= distance
    facing = _dot(sight, surfaces.normals)
    open_sky, wear, *lit = maps
    above, below = np.array(rig.above, dtype=np.float32), np.array(rig.below, dtype=np.float32)
    up = (np.float32(0.5) + np.float32(0.5) * surfaces.normals[2]) * open_sky
    down = open_sky - up
    total = above[:, None] * up + below[:, None] * down
    gloss = surfaces.each(dressing.gloss)
    shine = np.zeros_like(total)
    cast = iter(lit)
    for light in rig.lights:
        reached = next(cast) if light.shadows else np.sqrt(open_sky)
        diffuse, mirror = _lamp(light, surfaces, sight, gloss)
        color = np.array(light.color, dtype=np.float32)[:, None]
        total += color * (diffuse * reached)
        shine += color * (mirror * reached)
    total += surfaces.each(dressing.glow)
    total *= _albedo(surfaces, dressing, sizes, seen, facing) * wear
    total += shine
    # Grazing surfaces mirror what is around them.
    edge = (1 - np.clip(facing, 0, 1)) ** 4 * (gloss * np.float32(0.35)) * open_sky
    total += above[:, None] * edge
    if np.isfinite(rig.haze):
        clear = np.exp(distance * np.float32(-1 / rig.haze))
        horizon = np.array(rig.sky[0], dtype=np.float32)[:, None]
        total = horizon + (total - horizon) * clear
    return np.asarray(total)


class _Sizes(NamedTuple):
    """What a texture needs to know of P parts.

    `metres` (3, P) are those of a canonical unit along each axis; `turned` (3, P) is 1 where the texture of the faces
    across that axis is turned to the longest side.
    """

    metres: Planes
    turned: Planes


def _sizes(seen: Rendering, dressing: Dressing) -> _Sizes:
    parts = [part for thing in seen.scene.objects for part in thing.primitives]
    metres = np.linalg.norm(np.stack([part.axes for part in parts]), axis=1).T
    extents = metres * np.array([part.shape.extents for part in parts]).T
    turned = dressing.along & (extents[[2, 2, 1]] > extents[[1, 0, 0]])
    return _Sizes(metres.astype(np.float32), turned.astype(np.float32))


def _albedo(surfaces: Surfaces, dressing: Dressing, sizes: _Sizes, seen: Rendering, facing: Planes) -> Planes:
    """The texture's colour at every surface point, (3, N)."""
    metres = surfaces.each(sizes.metres)
    # Project along the axis that the surface faces most. Choices are sums of products: branches are slow.
    steep = np.abs(surfaces.gradients) / metres
    on_x = ((steep[0] >= steep[1]) & (steep[0] >= steep[2])).astype(np.float32)
    on_z = (steep[2] > np.maximum(steep[0], steep[1])).astype(np.float32)
    on_y = 1 - on_x - on_z
    place = surfaces.local * metres
    u = place[0] + on_x * (place[1] - place[0])
    v = place[2] + on_z * (place[1] - place[2])
    swap_x, swap_y, swap_z = surfaces.each(sizes.turned)
    swap = (on_x * swap_x + on_y * swap_y + on_z * swap_z) * (v - u)
    scale = surfaces.each(dressing.scale)
    offset_u, offset_v = surfaces.each(dressing.offset)
    pixel = np.float32(2 * seen.scene.camera.half_view[0] / seen.depth.shape[1])
    footprint = seen.depth.ravel().take(surfaces.pixels) * scale
    footprint *= pixel / np.maximum(np.sqrt(np.abs(facing)), np.float32(0.2))
    pattern = surfaces.each(dressing.pattern)
    value = sample(pattern, (u + swap) * scale + offset_u, (v - swap) * scale + offset_v, footprint)
    return surfaces.each(dressing.first) + surfaces.each(dressing.second - dressing.first) * value


def _lamp(light: Light, surfaces: Surfaces, sight: Planes, gloss: Planes) -> tuple[Planes, Planes]:
    """What one light adds to matt surfaces, and what to glossy ones, where nothing is in the way; (N,) each."""
    way = light.position.astype(np.float32)[:, None] - surfaces.points
    square = _dot(way, way)
    way /= np.sqrt(square)
    normals = surfaces.normals
    diffuse = np.maximum(_dot(way, normals), 0)
    if np.isfinite(light.reference):
        diffuse *= np.minimum(np.float32(light.reference**2) / square, np.float32(4))
    half = way
    half += sight
    cosine = _dot(half, normals) / np.sqrt(_dot(half, half) + np.float32(1e-12))
    mirror = np.float32(0.6) * gloss * gloss * np.exp((cosine - 1) * (20 + 180 * gloss)) * diffuse
    return diffuse, mirror


def _dot(first: Planes, second: Planes) -> Planes:
    return np.asarray(first[0] * second[0] + first[1] * second[1] + first[2] * second[2])


def _half(seen: Rendering, rig: Rig, rng: Generator) -> Planes:
    """Occlusion, stains, and the shadows of each light that throws any, (C, H, W); found on every second pixel."""
    height, width = seen.depth.shape
    surfaces = seen.surfaces
    place = np.zeros(height * width, dtype=np.int64)
    place[surfaces.pixels] = np.arange(surfaces.pixels.size)
    place = place.reshape(height, width)[::2, ::2]
    coarse = seen.depth.copy()
    coarse[np.isinf(coarse)] = _SKY_DEPTH
    small = np.ascontiguousarray(coarse[::2, ::2])
    hit = small < _SKY_DEPTH
    points, normals = surfaces.points.take(place, axis=1), surfaces.normals.take(place, axis=1)
    points[:, ~hit] = 1e6
    reach = float(np.clip(0.14 * np.median(surfaces.points.std(axis=1)) + 0.08, 0.1, 1.5))
    maps = [occlusion(points, normals, reach), np.ones_like(small)]
    maps[1][hit] = _stains(points[:, hit], rng)
    casters = np.unique(seen.instance[::4, ::4]).tolist()
    objects = tuple(seen.scene.objects[number] for number in casters if number >= 0)
    scene = replace(seen.scene, objects=objects)  # unseen things throw no shadow: half the time for little
    for light in rig.lights:
        if light.shadows:
            reached = np.ones_like(small)
            if hit.any():
                reached[hit] = shadow(scene, light, points[:, hit], normals[:, hit])
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
