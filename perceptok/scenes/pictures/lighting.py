"""Lamps and the sun over a scene: where they hang, what they reach, and how corners darken.

Shadows are looked up in depth maps seen from the lights (Williams, 1978; softened by Reeves et al., 1987); corners
darken by what rises over a point's horizon nearby in the picture (after Mittring's ambient occlusion, 2007). Both are
found on every second pixel and spread with regard to depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from perceptok.scenes.camera import Camera
from perceptok.scenes.primitives import Floats
from perceptok.scenes.raycast import Scene, render

__all__ = ["OUTDOORS", "Light", "Rig", "hang_lights", "occlusion", "shadow", "spread"]

Planes = NDArray[np.float32]

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
