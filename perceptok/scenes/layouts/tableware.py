"""Small objects for tables, shelves and bins: standing on z = 0, about the origin, in metres."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.random import Generator

from perceptok.scenes.primitives import (
    Parts,
    bowl,
    box,
    capsule,
    cylinder,
    disc,
    ellipsoid,
    place,
    quad,
    tilt,
    turn,
)


def _cup(rng: Generator) -> Parts:
    radius, tall = rng.uniform(0.03, 0.05), rng.uniform(0.06, 0.13)
    parts = [
        cylinder((0, 0, tall), (0, 0, 0), radius, rng.uniform(0.65, 1.0), closed=False),
        disc((0, 0, rng.uniform(0.01, 0.8) * tall), (0, 0, 1), radius * 0.85),
    ]
    if rng.random() < 0.6:
        low, high, out = 0.25 * tall, 0.8 * tall, radius * 1.8
        parts += [
            capsule((radius * 0.9, 0, high), (out, 0, high * 0.95), 0.006),
            capsule((out, 0, high * 0.95), (out, 0, low * 1.2), 0.006),
            capsule((out, 0, low * 1.2), (radius * 0.8, 0, low), 0.006),
        ]
    return parts


def _bottle(rng: Generator) -> Parts:
    radius, tall = rng.uniform(0.025, 0.05), rng.uniform(0.12, 0.32)
    shoulder, neck = rng.uniform(0.5, 0.75) * tall, rng.uniform(0.25, 0.5)
    return [
        cylinder((0, 0, 0), (0, 0, shoulder), radius),
        cylinder((0, 0, shoulder), (0, 0, (shoulder + tall) / 2), radius, neck),
        cylinder((0, 0, shoulder), (0, 0, tall), radius * neck),
    ]


def _carton(rng: Generator) -> Parts:
    size = rng.uniform((0.03, 0.05, 0.04), (0.12, 0.25, 0.3))
    return [box((0, 0, size[2] / 2), size)]


def _can(rng: Generator) -> Parts:
    return [cylinder((0, 0, 0), (0, 0, rng.uniform(0.03, 0.16)), rng.uniform(0.025, 0.07))]


def _ball(rng: Generator) -> Parts:
    radius = rng.uniform(0.02, 0.11)
    return [ellipsoid((0, 0, radius), radius)]


def _fruit(rng: Generator) -> Parts:
    radii = rng.uniform(0.025, 0.06, 3)
    return [ellipsoid((0, 0, radii[2]), radii)]


def _banana(rng: Generator) -> Parts:
    bend, length = rng.uniform(0.3, 0.9), rng.uniform(0.12, 0.2)
    angles = np.linspace(-bend, bend, 4)
    radius = length / 2 / np.sin(bend)
    points = np.stack([radius * np.sin(angles), radius * (np.cos(angles) - 1), np.full(4, 0.018)], axis=1)
    return [capsule(a, b, 0.017) for a, b in pairwise(points)]


def _bowl(rng: Generator) -> Parts:
    radius, deep = rng.uniform(0.06, 0.16), rng.uniform(0.03, 0.1)
    return [bowl((0, 0, deep), (radius, radius, deep))]


def _plate(rng: Generator) -> Parts:
    radius = rng.uniform(0.08, 0.15)
    return [cylinder((0, 0, 0.02), (0, 0, 0), radius, 0.6, closed=False), disc((0, 0, 0.004), (0, 0, 1), radius * 0.65)]


def _books(rng: Generator) -> Parts:
    parts, z = [], 0.0
    for _ in range(rng.integers(1, 6)):
        thick = rng.uniform(0.01, 0.05)
        size = (rng.uniform(0.12, 0.22), rng.uniform(0.18, 0.3), thick)
        parts.append(box((0, 0, z + thick / 2), size, turn(rng.uniform(-20, 20))))
        z += thick
    return parts


def _tool(rng: Generator) -> Parts:
    length, radius = rng.uniform(0.1, 0.3), rng.uniform(0.006, 0.02)
    parts = [capsule((-length / 2, 0, radius), (length / 2, 0, radius), radius)]
    if rng.random() < 0.6:
        parts.append(box((length / 2, 0, radius), rng.uniform((0.02, 0.03, 0.01), (0.05, 0.12, 0.04))))
    return parts


def _laptop(rng: Generator) -> Parts:
    wide, deep = rng.uniform(0.28, 0.38), rng.uniform(0.2, 0.26)
    lean = np.radians(rng.uniform(0, 40))
    rise = np.array([-np.sin(lean), 0, np.cos(lean)]) * deep
    hinge = np.array([-deep / 2, 0, 0.015])
    return [box((0, 0, 0.008), (deep, wide, 0.016)), quad(hinge + rise / 2, (0, wide / 2, 0), rise / 2)]


def _pot(rng: Generator) -> Parts:
    radius, tall = rng.uniform(0.07, 0.15), rng.uniform(0.06, 0.18)
    handle = radius + rng.uniform(0.08, 0.2)
    return [
        cylinder((0, 0, 0), (0, 0, tall), radius, closed=False),
        disc((0, 0, 0.005), (0, 0, 1), radius),
        capsule((radius, 0, tall * 0.85), (handle, 0, tall * 0.9), 0.011),
    ]


def _vase(rng: Generator) -> Parts:
    radius, tall = rng.uniform(0.04, 0.1), rng.uniform(0.1, 0.35)
    return [
        ellipsoid((0, 0, tall * 0.35), (radius, radius, tall * 0.37)),
        cylinder((0, 0, tall), (0, 0, tall * 0.5), radius * 0.6, 0.7, closed=False),
    ]


def _toy(rng: Generator) -> Parts:
    size = rng.uniform(0.03, 0.08)
    parts = [ellipsoid((0, 0, size), (size, size * 0.8, size)), ellipsoid((0, 0, size * 2.4), size * 0.7)]
    for side in (-1, 1):
        parts.append(capsule((0, side * size * 0.6, size * 1.3), (size * 0.8, side * size * 1.3, size), size * 0.25))
        parts.append(
            capsule((0, side * size * 0.5, size * 0.3), (size * 1.2, side * size * 0.6, size * 0.25), size * 0.28)
        )
        parts.append(ellipsoid((0, side * size * 0.5, size * 3), size * 0.3))
    return parts


def _ring(rng: Generator) -> Parts:
    radius, thick = rng.uniform(0.03, 0.07), rng.uniform(0.005, 0.02)
    corners = [turn(a) @ np.array([radius, 0, thick]) for a in np.arange(8) * 45.0]
    return [capsule(corners[i - 1], corners[i], thick) for i in range(8)]


SMALL: dict[str, Callable[[Generator], Parts]] = {
    "ball": _ball,
    "banana": _banana,
    "book": _books,
    "bottle": _bottle,
    "bowl": _bowl,
    "box": _carton,
    "can": _can,
    "cup": _cup,
    "fruit": _fruit,
    "laptop": _laptop,
    "plate": _plate,
    "pot": _pot,
    "ring": _ring,
    "tool": _tool,
    "toy": _toy,
    "vase": _vase,
}
"""Category -> builder."""

_NAMES = sorted(SMALL)


def small_object(rng: Generator) -> tuple[str, Parts]:
    """A random category and an object of it."""
    name = _NAMES[rng.integers(len(_NAMES))]
    return name, SMALL[name](rng)


def clutter(rng: Generator, count: int, length: float, width: float, height: float, tallest: float = 0.5) -> Parts:
    """Parts of `count` small objects on a surface at z = `height`, spread over length (x) by width (y)."""
    parts: Parts = []
    for _ in range(count):
        at = (rng.uniform(-0.5, 0.5) * length, rng.uniform(-0.5, 0.5) * width, height)
        rotation = turn(rng.uniform(0, 360))
        if rng.random() < 0.08:
            rotation = rotation @ tilt(90.0)
        parts += place(small_object(rng)[1], at, rotation, min(1.0, tallest / 0.3))
    return parts
