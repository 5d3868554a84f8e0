"""Light and camera: lamps, the sun, shadows, gloss, haze and sky for every pixel, and the sensor that records them.

Shadows are looked up in depth maps seen from the lights (Williams, 1978; softened by Reeves et al., 1987); corners
darken by what rises above a point's horizon in its neighbourhood (after Mittring's ambient occlusion, 2007). Both are
computed for every second pixel and upsampled with regard to depth.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from perceptok.scenes.images.materials import Materials, make_textures, sample_textures
from perceptok.scenes.primitives import Floats
from perceptok.scenes.raycast import Camera, Planes, Rendering, Scene, Surfaces, dot, render

Color = tuple[float, float, float]

_STEPS = 4096
_BRIGHTEST = 6.0


def expose(light: Planes, rng: Generator) -> NDArray[np.uint8]:
    """An sRGB image (H, W, 3) uint8 of linear light (3, H, W) >= 0 of any scale, with the defects of a camera."""
    height, width = light.shape[1:]
    luminance = light[:, ::4, ::4].mean(axis=0)
    typical = float(np.exp(np.log(luminance + 1e-4).mean()))
    bright = float(np.percentile(luminance, 97)) + 1e-4
    # Metered neither for the shadows alone nor for a lamp in the image.
    gain = min(0.24 / typical, 2.2 / bright) * 2 ** rng.uniform(-0.5, 0.5)
    balance = np.array([1 + rng.normal() * 0.05, 1.0, 1 + rng.normal() * 0.06], dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    vignette = 1 - np.float32(rng.uniform(0.0, 0.22)) * (x * x + y * y)
    image = light * (np.clip(balance, 0.8, 1.2)[:, None, None] * np.float32(gain) * vignette)
    side = np.float32(rng.uniform(0.08, 0.24))
    image = _soften(_soften(image, side, 1), side, 2)
    iso = 10 ** rng.uniform(-3.4, -1.9)
    shot, read = np.float32(40 * iso**2), np.float32((0.4 * iso) ** 2)
    image += _draw_noise(image.shape, rng) * np.sqrt(shot * image + read)
    image *= np.float32(_STEPS / _BRIGHTEST)
    np.clip(image, 0, _STEPS - 1, out=image)
    tones = _tone_curve().take(image.astype(np.int16))
    return np.ascontiguousarray(tones.transpose(1, 2, 0))


def _draw_noise(shape: tuple[int, ...], rng: Generator) -> Planes:
    """Nearly normal noise of unit variance: sums of four bytes, at a fifth of the cost of normal draws."""
    count = math.prod(shape)
    draws = np.frombuffer(rng.bytes(4 * count), dtype=np.uint8).reshape(4, count).astype(np.int16)
    total = draws[0] + draws[1] + draws[2] + draws[3] - np.int16(510)
    deviation = math.sqrt(4 * (256**2 - 1) / 12)
    return np.asarray(total.astype(np.float32).reshape(shape) * np.float32(1 / deviation))


def _soften(image: Planes, side: np.float32, axis: int) -> Planes:
    """Blur along an axis (one ray a pixel leaves jagged edges): both neighbours get `side` of each pixel's light."""
    result, part = image * (1 - 2 * side), image * side

    def select(start: int | None, stop: int | None) -> tuple[slice, ...]:
        return (slice(None),) * axis + (slice(start, stop),)

    result[select(1, None)] += part[select(None, -1)]
    result[select(None, -1)] += part[select(1, None)]
    for border in (select(0, 1), select(-1, None)):
        result[border] += part[border]
    return result


@functools.cache
def _tone_curve() -> NDArray[np.uint8]:
    """Linear light 0 .. 6 in 4096 steps -> sRGB, highlights rolled off."""
    light = (np.arange(_STEPS) + 0.5) * (_BRIGHTEST / _STEPS)
    rolled = np.where(light < 0.6, light, 0.6 + 0.4 * (1 - np.exp(-(light - 0.6) / 0.6)))
    encoded = np.where(rolled <= 0.0031308, 12.92 * rolled, 1.055 * rolled ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(np.clip(encoded, 0, 1) * 255), dtype=np.uint8)


OUTDOORS = frozenset({"street", "field", "landscape", "foliage", "gathering in a yard"})
"""Layouts under the open sky."""

_TRANSPARENT = frozenset({"lamp", "ceiling", "cable"})
"""Categories that cast no shadow: lamps are where the light is."""

_LAMP_MAP = 144
_SUN_MAP = 208
_SUN = 250.0


@dataclass(frozen=True, eq=False)
class Light:
    """A lamp, or the sun.

    Attributes:
        position: (3,) float64, metres; the sun is far away.
        color: Linear red, green, blue, at `reference` metres.
        reference: Distance at which `color` is meant; infinite for the sun, whose light does not fade.
        shadows: Whether it casts any.
        size: Radius of its shadows' soft edges, in texels of its depth map.
    """

    position: Floats
    color: Color
    reference: float
    shadows: bool
    size: float


@dataclass(frozen=True, eq=False)
class Lighting:
    """All light of a scene.

    Attributes:
        lights: The key light first.
        above: Linear color of the ambient light from above.
        below: Linear color of the ambient light from below.
        haze: Distance in metres at which two thirds of the contrast are gone; infinite indoors.
        sky: Linear colors at the horizon and overhead.
    """

    lights: tuple[Light, ...]
    above: Color
    below: Color
    haze: float
    sky: tuple[Color, Color]


def _tint(warmth: float, strength: float) -> Color:
    """White light made warmer (above 0) or colder."""
    return (strength * (1 + 0.35 * warmth), strength, strength * (1 - 0.45 * warmth))


def sample_lighting(scene: Scene, points: Planes, rng: Generator) -> Lighting:
    """Sun and sky outdoors, else up to three lamps in free space, for a scene whose visible points are (3, N)."""
    step = max(1, points.shape[1] // 2000)
    visible = points[:, ::step].astype(np.float64)
    middle = np.median(visible, axis=1)
    reach = float(np.median(np.linalg.norm(visible - middle[:, None], axis=0)))
    if scene.kind in OUTDOORS:
        return _sample_daylight(middle, reach, rng)
    lights = []
    for number in range(1 + int(rng.random() < 0.6) + int(rng.random() < 0.3)):
        way, free = _find_free_direction(scene, middle, rng)
        far = min(0.85 * free, max(0.8, rng.uniform(1.2, 3.0) * reach))
        strength = rng.uniform(0.7, 1.1) if number == 0 else rng.uniform(0.1, 0.4)
        color = _tint(rng.uniform(-0.4, 0.8), strength)
        shadows = number == 0 or rng.random() < 0.3
        lights.append(Light(middle + way * far, color, far, shadows, rng.uniform(0.7, 3.0)))
    fill = rng.uniform(0.12, 0.36)
    above, below = _tint(rng.uniform(-0.3, 0.4), fill), _tint(rng.uniform(0.0, 0.6), 0.6 * fill)
    window = _tint(rng.uniform(-0.5, 0.1), rng.uniform(0.8, 1.6))
    return Lighting(tuple(lights), above, below, math.inf, (window, window))


def _sample_daylight(middle: Floats, reach: float, rng: Generator) -> Lighting:
    overcast = rng.random() < 0.25
    up, around = math.radians(rng.uniform(20, 70)), rng.uniform(0, 2 * math.pi)
    way = np.array([math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)])
    warmth = rng.uniform(-0.05, 0.5) * (1 - math.sin(up))
    color = _tint(warmth, rng.uniform(0.15, 0.3) if overcast else rng.uniform(1.0, 1.6))
    size = rng.uniform(3.0, 5.0) if overcast else rng.uniform(0.5, 1.2)
    sun = Light(middle + way * max(_SUN, 30 * reach), color, math.inf, True, size)
    blue = rng.uniform(0.1, 0.3) if overcast else rng.uniform(0.4, 0.9)
    fill = rng.uniform(0.5, 0.8) if overcast else rng.uniform(0.22, 0.4)
    overhead = _tint(-0.9 * blue, 0.55 + 0.4 * float(overcast))
    horizon = _tint(0.3 * warmth - 0.15 * blue, 0.95)
    low, high = (60, 200) if rng.random() < 0.15 else (250, 3000)
    haze = math.exp(rng.uniform(math.log(low), math.log(high)))
    return Lighting((sun,), _tint(-0.5 * blue, fill), _tint(0.3, 0.4 * fill), haze, (horizon, overhead))


def _find_free_direction(scene: Scene, middle: Floats, rng: Generator) -> tuple[Floats, float]:
    """A direction upwards from the scene's middle without near objects, and the distance that is free."""
    start = middle + np.array([0.0, 0.0, 0.1])
    objects = tuple(item for item in scene.objects if item.category != "lamp")
    upwards = Camera.aimed(start, yaw=float(rng.uniform(0, 360)), pitch=90.0, fov=130.0)
    depth = render(replace(scene, objects=objects, camera=upwards), 12, 12).depth.astype(np.float64)
    centers = ((np.arange(12) + 0.5) / 12 * 2 - 1) * upwards.half_view[0]
    rays = np.stack([*np.meshgrid(centers, centers), np.ones((12, 12))], axis=-1)
    length = np.linalg.norm(rays, axis=-1)
    free = np.minimum(depth, 50.0) * length
    weight = (np.minimum(free, 4.0) ** 2).ravel()
    pick = int(rng.choice(weight.size, p=weight / weight.sum()))
    way = rays.reshape(-1, 3)[pick] @ upwards.rotation.T
    return way / np.linalg.norm(way), float(free.ravel()[pick])


def cast_shadow(scene: Scene, light: Light, points: Planes, normals: Planes) -> Planes:
    """The share of a light that reaches points (3, N) with normals (3, N), both in the world: (N,) float32, 0 .. 1."""
    to = points - light.position.astype(np.float32)[:, None]
    distance = np.sqrt(to[0] * to[0] + to[1] * to[1] + to[2] * to[2])
    # Texels are few: those of the sun cover what is near the camera, and the horizon has no shadows.
    sun = math.isinf(light.reference)
    subset = slice(None, None, max(1, distance.size // 3000))
    ways = (to / distance)[:, subset].astype(np.float64)
    if sun:
        away = np.linalg.norm(points[:, subset] - scene.camera.position[:, None], axis=0)
        ways = ways[:, away <= 1.2 * np.median(away)]
    forward = np.median(ways, axis=1)
    forward /= np.linalg.norm(forward)
    cosine = np.sort(forward @ ways)
    half = math.degrees(math.acos(float(np.clip(cosine[int(0.06 * cosine.size)], -1.0, 1.0))))
    fov = float(np.clip(2.1 * half, 1.0, 145.0))
    edge = _SUN_MAP if sun else _LAMP_MAP
    yaw, pitch = math.degrees(math.atan2(forward[1], forward[0])), math.degrees(math.asin(np.clip(forward[2], -1, 1)))
    camera = Camera.aimed(light.position, yaw=yaw, pitch=pitch, fov=fov)
    casters = tuple(item for item in scene.objects if item.category not in _TRANSPARENT)
    depth = render(replace(scene, objects=casters, camera=camera), edge, edge).depth
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


def measure_occlusion(points: Planes, normals: Planes, reach: float) -> Planes:
    """The share of ambient light that reaches each pixel, (h, w) float32, 0 .. 1.

    Args:
        points: (3, h, w) float32, in the world; very far where there is sky.
        normals: (3, h, w) float32.
        reach: Surfaces farther away than this (metres) darken nothing.
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


def upsample(maps: Planes, coarse: Planes, fine: Planes) -> Planes:
    """Maps of every second pixel at all pixels, interpolated among neighbours of about the same depth.

    Args:
        maps: (C, h, w) float32, at the pixels [::2, ::2] of the image.
        coarse: (h, w) float32, their depth.
        fine: (H, W) float32, depth of the image.

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


def shade(view: Rendering, materials: Materials, lighting: Lighting, rng: Generator) -> Planes:
    """Linear light (3, H, W) float32 of a rendered scene; `rng` draws clouds and stains, which are not in the scene."""
    height, width = view.depth.shape
    image = _shade_sky(view, lighting, rng).reshape(3, -1)
    if view.surfaces.pixels.size:
        maps = _make_maps(view, lighting, rng)
        maps = maps.reshape(maps.shape[0], -1)
        sizes = _measure_parts(view, materials)
        for chunk in view.surfaces.split():
            reaching = maps.take(chunk.pixels, axis=1)
            image[:, chunk.pixels] = _shade_surfaces(chunk, view, materials, sizes, lighting, reaching)
    return image.reshape(3, height, width)


def _shade_surfaces(
    surfaces: Surfaces, view: Rendering, materials: Materials, sizes: _PartSizes, lighting: Lighting, maps: Planes
) -> Planes:
    """The light of surface points, (3, N); `maps` (C, N) are those of `_make_maps`."""
    to_camera = view.scene.camera.position.astype(np.float32)[:, None] - surfaces.points
    distance = np.sqrt(dot(to_camera, to_camera))
    to_camera /= distance
    facing = dot(to_camera, surfaces.normals)
    open_sky, wear, *shares = maps
    above, below = np.array(lighting.above, dtype=np.float32), np.array(lighting.below, dtype=np.float32)
    up = (np.float32(0.5) + np.float32(0.5) * surfaces.normals[2]) * open_sky
    down = open_sky - up
    total = above[:, None] * up + below[:, None] * down
    gloss = surfaces.expand(materials.gloss)
    shine = np.zeros_like(total)
    shadowed = iter(shares)
    for light in lighting.lights:
        reached = next(shadowed) if light.shadows else np.sqrt(open_sky)
        diffuse, mirror = _illuminate(light, surfaces, to_camera, gloss)
        color = np.array(light.color, dtype=np.float32)[:, None]
        total += color * (diffuse * reached)
        shine += color * (mirror * reached)
    total += surfaces.expand(materials.glow)
    total *= _find_albedo(surfaces, view, materials, sizes, facing) * wear
    total += shine
    # Surfaces at grazing angles mirror their surroundings.
    edge = (1 - np.clip(facing, 0, 1)) ** 4 * (gloss * np.float32(0.35)) * open_sky
    total += above[:, None] * edge
    if np.isfinite(lighting.haze):
        clear = np.exp(distance * np.float32(-1 / lighting.haze))
        horizon = np.array(lighting.sky[0], dtype=np.float32)[:, None]
        total = horizon + (total - horizon) * clear
    return np.asarray(total)


class _PartSizes(NamedTuple):
    """What texture mapping needs to know of P primitives.

    `metres` (3, P) is the length of the canonical unit along each axis; `turned` (3, P) is 1 where the texture of the
    faces across that axis is turned to the longest side.
    """

    metres: Planes
    turned: Planes


def _measure_parts(view: Rendering, materials: Materials) -> _PartSizes:
    parts = view.scene.primitives
    metres = np.linalg.norm(np.stack([part.axes for part in parts]), axis=1).T
    extents = metres * np.array([part.shape.extents for part in parts]).T
    turned = materials.along & (extents[[2, 2, 1]] > extents[[1, 0, 0]])
    return _PartSizes(metres.astype(np.float32), turned.astype(np.float32))


def _find_albedo(
    surfaces: Surfaces, view: Rendering, materials: Materials, sizes: _PartSizes, facing: Planes
) -> Planes:
    """The texture's color at every surface point, (3, N)."""
    metres = surfaces.expand(sizes.metres)
    # Projected along the axis that the surface faces most. Choices are sums of products: branches are slow.
    steep = np.abs(surfaces.gradients) / metres
    on_x = ((steep[0] >= steep[1]) & (steep[0] >= steep[2])).astype(np.float32)
    on_z = (steep[2] > np.maximum(steep[0], steep[1])).astype(np.float32)
    on_y = 1 - on_x - on_z
    place = surfaces.local * metres
    u = place[0] + on_x * (place[1] - place[0])
    v = place[2] + on_z * (place[1] - place[2])
    swap_x, swap_y, swap_z = surfaces.expand(sizes.turned)
    swap = (on_x * swap_x + on_y * swap_y + on_z * swap_z) * (v - u)
    scale = surfaces.expand(materials.scale)
    offset_u, offset_v = surfaces.expand(materials.offset)
    pixel = np.float32(2 * view.scene.camera.half_view[0] / view.depth.shape[1])
    footprint = view.depth.ravel().take(surfaces.pixels) * scale
    footprint *= pixel / np.maximum(np.sqrt(np.abs(facing)), np.float32(0.2))
    pattern = surfaces.expand(materials.pattern)
    value = sample_textures(pattern, (u + swap) * scale + offset_u, (v - swap) * scale + offset_v, footprint)
    return surfaces.expand(materials.first) + surfaces.expand(materials.second - materials.first) * value


def _illuminate(light: Light, surfaces: Surfaces, to_camera: Planes, gloss: Planes) -> tuple[Planes, Planes]:
    """Diffuse and specular reflection of a light that nothing shadows; (N,) each."""
    way = light.position.astype(np.float32)[:, None] - surfaces.points
    square = dot(way, way)
    way /= np.sqrt(square)
    normals = surfaces.normals
    diffuse = np.maximum(dot(way, normals), 0)
    if np.isfinite(light.reference):
        diffuse *= np.minimum(np.float32(light.reference**2) / square, np.float32(4))
    half = way + to_camera
    cosine = dot(half, normals) / np.sqrt(dot(half, half) + np.float32(1e-12))
    mirror = np.float32(0.6) * gloss * gloss * np.exp((cosine - 1) * (20 + 180 * gloss)) * diffuse
    return diffuse, mirror


def _make_maps(view: Rendering, lighting: Lighting, rng: Generator) -> Planes:
    """Occlusion, stains, and the shadows of each light that casts any, (C, H, W)."""
    height, width = view.depth.shape
    surfaces = view.surfaces
    place = np.zeros(height * width, dtype=np.int64)
    place[surfaces.pixels] = np.arange(surfaces.pixels.size)
    place = place.reshape(height, width)[::2, ::2]
    depth = np.where(np.isinf(view.depth), _SKY_DEPTH, view.depth)
    small = np.ascontiguousarray(depth[::2, ::2])
    hit = small < _SKY_DEPTH
    points, normals = surfaces.points.take(place, axis=1), surfaces.normals.take(place, axis=1)
    points[:, ~hit] = 1e6
    reach = float(np.clip(0.14 * np.median(surfaces.points.std(axis=1)) + 0.08, 0.1, 1.5))
    maps = [measure_occlusion(points, normals, reach), np.ones_like(small)]
    maps[1][hit] = _sample_stains(points[:, hit], rng)
    casters = np.unique(view.instance[::4, ::4]).tolist()
    objects = tuple(view.scene.objects[number] for number in casters if number >= 0)
    scene = replace(view.scene, objects=objects)  # hidden objects cast no shadow: half the time for little
    for light in lighting.lights:
        if light.shadows:
            reached = np.ones_like(small)
            if hit.any():
                reached[hit] = cast_shadow(scene, light, points[:, hit], normals[:, hit])
            maps.append(reached)
    return upsample(np.stack(maps), small, depth)


def _sample_stains(points: Planes, rng: Generator) -> Planes:
    """Factors about 1 that vary slowly over all surfaces, as by wear, dust and uneven light."""
    scale, turn = np.float32(rng.uniform(0.12, 0.5)), rng.uniform(0.3, 0.8, 3).astype(np.float32)
    u = (points[0] + turn[0] * points[2]) * scale
    v = (points[1] + turn[1] * points[2]) * scale
    number = np.full(u.shape, make_textures().numbers["clouds"], dtype=np.int32)
    strength = np.float32(rng.uniform(0.1, 0.35))
    return 1 + strength * (sample_textures(number, u, v, np.full(u.shape, 0.01, dtype=np.float32)) - np.float32(0.5))


def _shade_sky(view: Rendering, lighting: Lighting, rng: Generator) -> Planes:
    """The sky, (3, H, W), with clouds; indoors the light behind the windows."""
    height, width = view.depth.shape
    horizon, overhead = (np.array(color, dtype=np.float32)[:, None] for color in lighting.sky)
    image = np.empty((3, height * width), dtype=np.float32)
    image[:] = horizon
    pixels = np.flatnonzero(~np.isfinite(view.depth))
    cover, scale = rng.uniform(0.25, 0.75), np.float32(rng.uniform(0.08, 0.3))
    if pixels.size and np.isfinite(lighting.haze):
        way = _ray_directions(view.scene, pixels, height, width)
        up = np.maximum(way[2], np.float32(0.02))
        share = np.sqrt(up)
        number = np.full(up.shape, make_textures().numbers["clouds"], dtype=np.int32)
        cloud = sample_textures(number, way[0] / up * scale, way[1] / up * scale, scale * np.float32(0.004) / up)
        cloud = np.clip((cloud - np.float32(cover)) * 3, 0, 1) * np.minimum(up * 6, 1)
        blue = horizon + (overhead - horizon) * share
        image[:, pixels] = blue + (np.float32(1.05) - blue) * cloud
    return image.reshape(3, height, width)


def _ray_directions(scene: Scene, pixels: NDArray[np.int64], height: int, width: int) -> Planes:
    """Unit directions of the rays of some pixels, (3, N)."""
    half_x, half_y = scene.camera.half_view
    x = ((2 * (pixels % width) + 1) / width - 1) * half_x
    y = ((2 * (pixels // width) + 1) / height - 1) * half_y
    way = scene.camera.rotation @ np.stack([x, y, np.ones_like(x)])
    return np.asarray(way / np.linalg.norm(way, axis=0), dtype=np.float32)
