"""Plants and trees: growing from z = 0 at the origin, in metres."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from perceptok.scenes.primitives import Parts, capsule, cylinder, disc, ellipsoid, leaf, place


def leaves(rng: Generator, center: np.ndarray, spread: np.ndarray, count: int, length: float) -> Parts:
    """Leaves in all directions about a point, `spread` (3,) being the standard deviation of their places."""
    stems = center + rng.normal(size=(count, 3)) * spread
    ways = rng.normal(size=(count, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    sizes = length * rng.uniform(0.5, 1.3, count)
    rolls = rng.uniform(0, 180, count)
    wide = rng.uniform(0.25, 0.7)
    return [
        leaf(stem, stem + way * size, size * wide, roll)
        for stem, way, size, roll in zip(stems, ways, sizes, rolls, strict=True)
    ]


def spray(rng: Generator, length: float, blades: int, rise: float) -> Parts:
    """A rosette: bent blades that leave the ground at the angle `rise` (degrees) and droop."""
    parts: Parts = []
    for angle in rng.uniform(0, 2 * np.pi, blades):
        up = np.radians(rise + rng.uniform(-20, 20))
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        size = length * rng.uniform(0.6, 1.2)
        knee = out * np.cos(up) * size * 0.55 + np.array([0, 0, np.sin(up) * size * 0.55])
        tip = knee + (out * np.cos(up - 0.8) + np.array([0, 0, np.sin(up - 0.8)])) * size * 0.5
        width, roll = size * rng.uniform(0.12, 0.4), rng.uniform(-30, 30)
        parts += [leaf(knee * -0.05, knee * 1.4, width, roll), leaf(knee * 0.75, tip, width, roll)]
    return parts


def crop(rng: Generator, style: int, size: float, detail: float = 1.0) -> Parts:
    """One plant of a row crop: style 0 is a rosette (beet), 1 maize, 2 beans, 3 a tuft (cereal)."""
    count = max(3, round(rng.uniform(5, 9) * detail))
    if style == 0:
        return spray(rng, size, count, rng.uniform(30, 60))
    if style == 1:
        parts: Parts = [cylinder((0, 0, 0), (0, 0, size), size * 0.025, 0.4)]
        for height in np.linspace(0.15, 0.95, count):
            angle, reach = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.3, 0.55)
            out = np.array([np.cos(angle), np.sin(angle), 0.0])
            stem = np.array([0, 0, height * size])
            middle = stem + out * reach * 0.5 + np.array([0, 0, reach * 0.4])
            width = size * 0.09
            parts += [leaf(stem - out * 0.01, middle + out * reach * 0.15, width)]
            parts += [leaf(middle - out * reach * 0.15, stem + out * reach, width)]
        return parts
    if style == 2:
        parts = [cylinder((0, 0, 0), (0, 0, size * 0.5), size * 0.03)]
        for _ in range(count):
            at = rng.normal(size=3) * size * np.array([0.25, 0.25, 0.12]) + np.array([0, 0, size * 0.6])
            way = rng.normal(size=3) * 0.5 + np.array([0, 0, 1.0])
            parts += [disc(at, way, size * rng.uniform(0.1, 0.25), rng.uniform(1.0, 1.5))]
            parts += [capsule((0, 0, size * 0.4), at, size * 0.012)]
        return parts
    return grass(rng, size, count * 2)


def grass(rng: Generator, size: float, blades: int) -> Parts:
    """A tuft of upright blades."""
    roots = rng.normal(size=(blades, 2)) * size * 0.15
    tips = roots + rng.normal(size=(blades, 2)) * size * 0.3
    heights = size * rng.uniform(0.6, 1.1, blades)
    return [
        leaf((*root, -0.1 * size), (*tip, height), size * 0.05, rng.uniform(0, 180))
        for root, tip, height in zip(roots, tips, heights, strict=True)
    ]


def bush(rng: Generator, size: float, leaf_count: int = 40) -> Parts:
    """A bush: overlapping balls with leaves that fray their outline."""
    parts: Parts = []
    for _ in range(rng.integers(3, 8)):
        at = rng.normal(size=3) * size * np.array([0.35, 0.35, 0.2]) + np.array([0, 0, size * 0.5])
        parts.append(ellipsoid(at, size * rng.uniform(0.2, 0.45, 3)))
    spread = size * np.array([0.45, 0.45, 0.35])
    return parts + leaves(rng, np.array([0, 0, size * 0.6]), spread, leaf_count, size * rng.uniform(0.1, 0.3))


def potted(rng: Generator) -> Parts:
    """A potted plant."""
    radius, tall = rng.uniform(0.08, 0.2), rng.uniform(0.12, 0.35)
    parts: Parts = [
        cylinder((0, 0, tall), (0, 0, 0), radius, 0.7, closed=False),
        disc((0, 0, tall * 0.9), (0, 0, 1), radius * 0.95),
    ]
    size = rng.uniform(0.2, 0.8)
    top = np.array([0, 0, tall])
    if rng.random() < 0.5:
        return parts + list(place(spray(rng, size, int(rng.integers(7, 16)), rng.uniform(40, 75)), top))
    crown = top + np.array([0, 0, size * 0.7])
    parts.append(cylinder(top, crown, 0.015))
    return parts + leaves(rng, crown, np.full(3, size * 0.3), int(rng.integers(20, 50)), size * 0.3)


def tree(rng: Generator, height: float, leaf_count: int = 40) -> Parts:
    """A tree: conifer, bare branches, or a crown of balls and leaves."""
    trunk = height * rng.uniform(0.015, 0.04)
    style = rng.random()
    if style < 0.25:
        parts: Parts = [cylinder((0, 0, 0), (0, 0, height * 0.3), trunk)]
        tiers = int(rng.integers(1, 5))
        for tier in range(tiers):
            low = height * (0.12 + 0.75 * tier / tiers)
            radius = height * rng.uniform(0.15, 0.25) * (1 - 0.75 * tier / tiers)
            parts.append(cylinder((0, 0, low), (0, 0, min(height, low + height * 0.9 / tiers + 0.2)), radius, 0.03))
        return parts
    fork = height * rng.uniform(0.25, 0.5)
    top = np.array([rng.normal() * 0.05, rng.normal() * 0.05, 0.95]) * height
    parts = [cylinder((0, 0, 0), (0, 0, fork), trunk * 1.2, 0.8), cylinder((0, 0, fork), top, trunk, 0.3)]
    tips = []
    for _ in range(rng.integers(3, 9)):
        start = np.array([0, 0, fork]) + (top - [0, 0, fork]) * rng.uniform(0, 0.7)
        angle = rng.uniform(0, 2 * np.pi)
        reach = height * rng.uniform(0.12, 0.32)
        tips.append(start + np.array([np.cos(angle), np.sin(angle), rng.uniform(0.2, 1.0)]) * reach)
        parts.append(cylinder(start, tips[-1], trunk * 0.5, 0.4))
        if style > 0.8:
            twig = tips[-1] + rng.normal(size=3) * reach * 0.4
            parts.append(cylinder((start + tips[-1]) / 2, twig, trunk * 0.25, 0.5))
    if style > 0.8:
        return parts
    for tip in [*tips, top]:
        parts.append(ellipsoid(tip, height * rng.uniform(0.08, 0.2, 3)))
    spread = height * np.array([0.17, 0.17, 0.13])
    crown = np.array([0, 0, height * 0.72])
    return parts + leaves(rng, crown, spread, leaf_count, height * rng.uniform(0.04, 0.1))
