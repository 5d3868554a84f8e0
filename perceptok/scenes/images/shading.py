"""The light that reaches the camera: textures, lamps, shadows, gloss, haze and sky, for every pixel."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from perceptok.scenes.images.materials import Dressing, bank, sample
from perceptok.scenes.primitives import Floats
from perceptok.scenes.raycast import Camera, Rendering, Scene, Surfaces, dot, render

__all__ = ["OUTDOORS", "Light", "Rig", "develop", "hang_lights", "occlusion", "shade", "shadow", "spread"]


Planes = NDArray[np.float32]

_STEPS = 4096
_BRIGHTEST = 6.0


def develop(light: Planes, rng: Generator) -> NDArray[np.uint8]:
    """A picture (H, W, 3) uint8 of linear light (3, H, W), with the faults of a camera.

    Args:
        light: Linear red, green and blue, >= 0, of any scale.
        rng: The source of all choices.
    """
    height, width = light.shape[1:]
    luminance = light[:, ::4, ::4].mean(axis=0)
    typical = float(np.exp(np.log(luminance + 1e-4).mean()))
    bright = float(np.percentile(luminance, 97)) + 1e-4
    # Meters neither for the shadows alone nor for the lamp in the picture.
    gain = min(0.24 / typical, 2.2 / bright) * 2 ** rng.uniform(-0.5, 0.5)
    balance = np.array([1 + rng.normal() * 0.05, 1.0, 1 + rng.normal() * 0.06], dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    fall = 1 - np.float32(rng.uniform(0.0, 0.22)) * (x * x + y * y)
    picture = light * (np.clip(balance, 0.8, 1.2)[:, None, None] * np.float32(gain) * fall)
    side = np.float32(rng.uniform(0.08, 0.24))
    picture = _soften(_soften(picture, side, 1), side, 2)
    iso = 10 ** rng.uniform(-3.4, -1.9)
    shot, read = np.float32(40 * iso**2), np.float32((0.4 * iso) ** 2)
    picture += _noise(picture.shape, rng) * np.sqrt(shot * picture + read)
    picture *= np.float32(_STEPS / _BRIGHTEST)
    np.clip(picture, 0, _STEPS - 1, out=picture)
    tones = _tones().take(picture.astype(np.int16))
    return np.ascontiguousarray(tones.transpose(1, 2, 0))


def _noise(shape: tuple[int, ...], rng: Generator) -> Planes:
    """About normal noise of unit variance: sums of four bytes, at a fifth of the price of normal draws."""
    count = math.prod(shape)
    draws = np.frombuffer(rng.bytes(4 * count), dtype=np.uint8).reshape(4, count).astype(np.int16)
    total = draws[0] + draws[1] + draws[2] + draws[3] - np.int16(510)
    deviation = math.sqrt(4 * (256**2 - 1) / 12)
    return np.asarray(total.astype(np.float32).reshape(shape) * np.float32(1 / deviation))


def _soften(picture: Planes, side: np.float32, axis: int) -> Planes:
    """Each pixel gives `side` of its light to both neighbours: one ray a pixel leaves jagged edges."""
    result = picture * (1 - 2 * side)
    before, behind = [slice(None)] * 3, [slice(None)] * 3
    before[axis], behind[axis] = slice(None, -1), slice(1, None)
    part = picture * side
    result[tuple(behind)] += part[tuple(before)]
    result[tuple(before)] += part[tuple(behind)]
    first, last = [slice(None)] * 3, [slice(None)] * 3
    first[axis], last[axis] = slice(0, 1), slice(-1, None)
    result[tuple(first)] += part[tuple(first)]
    result[tuple(last)] += part[tuple(last)]
    return result


@functools.cache
def _tones() -> NDArray[np.uint8]:
    """Linear light 0 .. 6 in 4096 steps -> sRGB, bright light rolled off."""
    light = (np.arange(_STEPS) + 0.5) * (_BRIGHTEST / _STEPS)
    rolled = np.where(light < 0.6, light, 0.6 + 0.4 * (1 - np.exp(-(light - 0.6) / 0.6)))
    encoded = np.where(rolled <= 0.0031308, 12.92 * rolled, 1.055 * rolled ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(np.clip(encoded, 0, 1) * 255), dtype=np.uint8)


# Lamps and the sun over a scene: where they hang, what they reach, and how corners darken.
#
# Shadows are looked up in depth maps seen from the lights (Williams, 1978; softened by Reeves et al., 1987); corners
# darken by what rises over a point's horizon nearby in the picture (after Mittring's ambient occlusion, 2007). Both are
# found on every second pixel and spread with regard to depth.


OUTDOORS = frozenset({"street", "field", "landscape", "foliage", "gathering in a yard"})
"""Layout families under the open sky."""

_TRANSPARENT = frozenset({"lamp", "ceiling", "cable"})
"""Categories that throw no shadow: lamps are where the light is."""

_LAMP_MAP = 144
_SUN_MAP = 208
_SUN = 250.0


@dataclass(frozen=True, eq=False)
class Light:
    """One lamp, or the sun.

    Attributes:
        position: (3,) float64, metres; the sun is far away.
        color: Linear red, green, blue, at `reference` metres.
        reference: Distance at which `color` is meant; infinite for the sun, whose light does not fade.
        shadows: Whether it throws any.
        size: Radius of its shadows' soft edges, in texels of its depth map.
    """

    position: Floats
    color: tuple[float, float, float]
    reference: float
    shadows: bool
    size: float


@dataclass(frozen=True, eq=False)
class Rig:
    """All light of a scene.

    Attributes:
        lights: The key light first.
        above: Linear colour of the light that comes from everywhere above.
        below: That from below.
        haze: Distance in metres at which two thirds of the contrast are gone; infinite indoors.
        sky: Linear colours at the horizon and overhead.
    """

    lights: tuple[Light, ...]
    above: tuple[float, float, float]
    below: tuple[float, float, float]
    haze: float
    sky: tuple[tuple[float, float, float], tuple[float, float, float]]


def _tint(warmth: float, strength: float) -> tuple[float, float, float]:
    """White light made warmer (above 0) or colder."""
    return (strength * (1 + 0.35 * warmth), strength, strength * (1 - 0.45 * warmth))


def hang_lights(scene: Scene, points: Planes, rng: Generator) -> Rig:
    """Light for a scene: the sun and the sky outdoors, else up to three lamps where nothing hides the middle.

    Args:
        scene: What is lit.
        points: (3, N) float32, what the camera sees.
        rng: The source of all choices.
    """
    step = max(1, points.shape[1] // 2000)
    seen = points[:, ::step].astype(np.float64)
    middle = np.median(seen, axis=1)
    reach = float(np.median(np.linalg.norm(seen - middle[:, None], axis=0)))
    if scene.kind in OUTDOORS:
        return _daylight(middle, reach, rng)
    lights = []
    for number in range(1 + int(rng.random() < 0.6) + int(rng.random() < 0.3)):
        way, free = _open_way(scene, middle, rng)
        far = min(0.85 * free, max(0.8, rng.uniform(1.2, 3.0) * reach))
        strength = rng.uniform(0.7, 1.1) if number == 0 else rng.uniform(0.1, 0.4)
        lights.append(
            Light(
                middle + way * far,
                _tint(rng.uniform(-0.4, 0.8), strength),
                far,
                number == 0 or rng.random() < 0.3,
                rng.uniform(0.7, 3.0),
            )
        )
    fill = rng.uniform(0.12, 0.36)
    above, below = _tint(rng.uniform(-0.3, 0.4), fill), _tint(rng.uniform(0.0, 0.6), 0.6 * fill)
    window = _tint(rng.uniform(-0.5, 0.1), rng.uniform(0.8, 1.6))
    return Rig(tuple(lights), above, below, math.inf, (window, window))


def _daylight(middle: Floats, reach: float, rng: Generator) -> Rig:
    overcast = rng.random() < 0.25
    up, around = math.radians(rng.uniform(20, 70)), rng.uniform(0, 2 * math.pi)
    way = np.array([math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)])
    warmth = rng.uniform(-0.05, 0.5) * (1 - math.sin(up))
    sun = Light(
        middle + way * max(_SUN, 30 * reach),
        _tint(warmth, rng.uniform(0.15, 0.3) if overcast else rng.uniform(1.0, 1.6)),
        math.inf,
        True,
        rng.uniform(3.0, 5.0) if overcast else rng.uniform(0.5, 1.2),
    )
    blue = rng.uniform(0.1, 0.3) if overcast else rng.uniform(0.4, 0.9)
    fill = rng.uniform(0.5, 0.8) if overcast else rng.uniform(0.22, 0.4)
    overhead = _tint(-0.9 * blue, 0.55 + 0.4 * float(overcast))
    horizon = _tint(0.3 * warmth - 0.15 * blue, 0.95)
    haze = math.exp(
        rng.uniform(math.log(60), math.log(200)) if rng.random() < 0.15 else rng.uniform(math.log(250), math.log(3000))
    )
    return Rig((sun,), _tint(-0.5 * blue, fill), _tint(0.3, 0.4 * fill), haze, (horizon, overhead))


def _open_way(scene: Scene, middle: Floats, rng: Generator) -> tuple[Floats, float]:
    """A direction upwards from the scene's middle in which nothing stands near, and how far it is free."""
    start = middle + np.array([0.0, 0.0, 0.1])
    kept = tuple(thing for thing in scene.objects if thing.category != "lamp")
    upwards = Camera.aimed(start, yaw=float(rng.uniform(0, 360)), pitch=90.0, fov=130.0)
    depth = render(replace(scene, objects=kept, camera=upwards), 12, 12).depth.astype(np.float64)
    centers = (np.arange(12) + 0.5) / 12 * 2 - 1
    half = upwards.half_view[0]
    rays = np.stack([*np.meshgrid(centers * half, centers * half), np.ones((12, 12))], axis=-1)
    length = np.linalg.norm(rays, axis=-1)
    free = np.minimum(depth, 50.0) * length
    weight = (np.minimum(free, 4.0) ** 2).ravel()
    pick = int(rng.choice(weight.size, p=weight / weight.sum()))
    way = rays.reshape(-1, 3)[pick] @ upwards.rotation.T
    return way / np.linalg.norm(way), float(free.ravel()[pick])


def shadow(scene: Scene, light: Light, points: Planes, normals: Planes) -> Planes:
    """The share of a light that reaches points, (N,) float32 of 0 .. 1.

    Args:
        scene: What may stand in the way.
        light: The lamp.
        points: (3, N) float32, in the world.
        normals: (3, N) float32.
    """
    to = points - light.position.astype(np.float32)[:, None]
    distance = np.sqrt(to[0] * to[0] + to[1] * to[1] + to[2] * to[2])
    # Texels are few: under the sun they go to what is near the camera, and the horizon stays without shadows.
    sun = math.isinf(light.reference)
    few = slice(None, None, max(1, distance.size // 3000))
    ways = (to / distance)[:, few].astype(np.float64)
    if sun:
        away = np.linalg.norm(points[:, few] - scene.camera.position[:, None], axis=0)
        ways = ways[:, away <= 1.2 * np.median(away)]
    forward = np.median(ways, axis=1)
    forward /= np.linalg.norm(forward)
    cosine = np.sort(forward @ ways)
    half = math.degrees(math.acos(float(np.clip(cosine[int(0.06 * cosine.size)], -1.0, 1.0))))
    fov = float(np.clip(2.1 * half, 1.0, 145.0))
    edge = _SUN_MAP if sun else _LAMP_MAP
    yaw, pitch = math.degrees(math.atan2(forward[1], forward[0])), math.degrees(math.asin(np.clip(forward[2], -1, 1)))
    camera = Camera.aimed(light.position, yaw=yaw, pitch=pitch, fov=fov)
    kept = tuple(thing for thing in scene.objects if thing.category not in _TRANSPARENT)
    depth = render(replace(scene, objects=kept, camera=camera), edge, edge).depth
    texel = np.float32(2 * camera.half_view[0] / edge) * distance
    lifted = to + normals * (texel * np.float32(1.5 + 0.6 * light.size))
    x, y, z = camera.rotation.T.astype(np.float32) @ lifted
    ahead = z > 0
    scale = np.float32(edge / 2 / camera.half_view[0]) / np.where(ahead, z, np.float32(1))
    column, row = x * scale + np.float32(edge / 2), y * scale + np.float32(edge / 2)
    inside = ahead & (column >= 0) & (column < edge) & (row >= 0) & (row < edge)
    limit = z - np.float32(0.5) * texel
    flat = depth.ravel()
    lit = np.zeros(z.shape, dtype=np.float32)
    angles = np.arange(9) * 2.39996  # the golden angle: a disc evenly filled
    for number, angle in enumerate(angles.tolist()):
        out = light.size * math.sqrt((number + 0.5) / len(angles))
        c = np.clip(column + np.float32(out * math.cos(angle)), 0, edge - 1).astype(np.int32)
        r = np.clip(row + np.float32(out * math.sin(angle)), 0, edge - 1).astype(np.int32)
        lit += flat[r * np.int32(edge) + c] >= limit
    return np.where(inside, lit / np.float32(len(angles)), np.float32(1))


def occlusion(points: Planes, normals: Planes, reach: float) -> Planes:
    """How much of the light from everywhere reaches each pixel, (h, w) float32 of 0 .. 1.

    Args:
        points: (3, h, w) float32, in the world; very far where there is sky.
        normals: (3, h, w) float32.
        reach: Things farther away than this (metres) darken nothing.
    """
    height, width = points.shape[1:]
    rings = ((1, 0), (3, 1), (7, 3), (15, 6))
    border = 16
    padded = np.pad(points, ((0, 0), (border, border), (border, border)), mode="edge")
    hidden = np.zeros((height, width), dtype=np.float32)
    shrink = np.float32(1 / reach**2)
    count = 0
    for down, across in rings:
        for dy, dx in (
            (down, across),
            (-across, down),
            (-down, -across),
            (across, -down),
            (down, -down),
            (-down, down),
        ):
            rows = slice(border + dy, border + dy + height)
            columns = slice(border + dx, border + dx + width)
            x, y, z = padded[:, rows, columns] - points
            square = x * x + y * y + z * z + np.float32(1e-8)
            rise = x * normals[0] + y * normals[1] + z * normals[2]
            rise /= np.sqrt(square)
            rise -= np.float32(0.12)
            square *= -shrink
            square += 1
            np.maximum(rise, 0, out=rise)
            np.maximum(square, 0, out=square)
            rise *= square
            hidden += rise
            count += 1
    return np.asarray(np.exp(hidden * np.float32(-7.0 / count)))


def spread(maps: Planes, coarse: NDArray[np.float32], fine: NDArray[np.float32]) -> Planes:
    """Maps of every second pixel at all pixels, mixed among the neighbours of about the same depth.

    Args:
        maps: (C, h, w) float32, at the pixels [::2, ::2] of the picture.
        coarse: (h, w) float32, their depth.
        fine: (H, W) float32, depth of the picture.

    Returns:
        (C, H, W) float32.
    """
    height, width = fine.shape
    result = np.empty((maps.shape[0], height, width), dtype=np.float32)
    right = np.minimum(np.arange(coarse.shape[1]) + 1, coarse.shape[1] - 1)
    lower = np.minimum(np.arange(coarse.shape[0]) + 1, coarse.shape[0] - 1)
    shifted = (maps, maps[:, :, right], maps[:, lower], maps[:, lower][:, :, right])
    depths = (coarse, coarse[:, right], coarse[lower], coarse[lower][:, right])
    shares = {(0, 0): (0,), (0, 1): (0, 1), (1, 0): (0, 2), (1, 1): (0, 1, 2, 3)}
    for (top, left), corners in shares.items():
        if corners == (0,):
            result[:, ::2, ::2] = maps
            continue
        here = fine[top::2, left::2]
        rows, columns = here.shape
        total = np.full(here.shape, 1e-6, dtype=np.float32)
        values = np.zeros((maps.shape[0], *here.shape), dtype=np.float32)
        for corner in corners:
            near = depths[corner][:rows, :columns]
            weight = np.float32(1e-5) + (np.abs(near - here) < np.float32(0.03) * here)
            total += weight
            values += weight * shifted[corner][:, :rows, :columns]
        result[:, top::2, left::2] = values / total
    return result


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
    distance = np.sqrt(dot(sight, sight))
    sight /= distance
    facing = dot(sight, surfaces.normals)
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
    square = dot(way, way)
    way /= np.sqrt(square)
    normals = surfaces.normals
    diffuse = np.maximum(dot(way, normals), 0)
    if np.isfinite(light.reference):
        diffuse *= np.minimum(np.float32(light.reference**2) / square, np.float32(4))
    half = way
    half += sight
    cosine = dot(half, normals) / np.sqrt(dot(half, half) + np.float32(1e-12))
    mirror = np.float32(0.6) * gloss * gloss * np.exp((cosine - 1) * (20 + 180 * gloss)) * diffuse
    return diffuse, mirror


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
