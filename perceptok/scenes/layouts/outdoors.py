"""Layouts outdoors: streets, fields of crops, landscapes."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from perceptok.scenes.layouts.builder import SceneBuilder, sample_camera
from perceptok.scenes.layouts.people import person
from perceptok.scenes.layouts.plants import bush, crop, grass, tree
from perceptok.scenes.primitives import Parts, box, capsule, cylinder, disc, ellipsoid, quad, tilt, turn
from perceptok.scenes.raycast import Scene


def build_street(rng: Generator, aspect: float) -> Scene:
    """A street or yard: buildings, poles, trees, cars, people, cables and a far background."""
    builder = SceneBuilder(rng)
    slope = rng.normal() * 1.5
    builder.add("ground", [quad((0, 0, 0), (400, 0, 0), (0, 400, 0))], rotation=tilt(slope))
    half = rng.uniform(3, 14)
    for side in (-1, 1):
        if rng.random() < 0.85:
            add_facades(builder, rng, side, half)
        step = rng.uniform(5, 20)
        for x in np.arange(rng.uniform(1, 6), 90, step):
            at = (x + rng.normal(), side * (half - rng.uniform(0.5, 2.5)), 0)
            kind = rng.random()
            if kind < 0.35:
                builder.add("tree", tree(rng, rng.uniform(3, 10), 40 if x < 15 else 8), at)
            elif kind < 0.75:
                builder.add("pole", pole(rng, -side), at)
            elif kind < 0.85:
                builder.add("bush", bush(rng, rng.uniform(0.5, 1.5), 30 if x < 12 else 5), at)
        for _ in range(rng.integers(0, 5)):
            at = (rng.uniform(3, 50), side * (half - rng.uniform(1.5, 3.0)), 0)
            builder.add("car", car(rng), at, turn(rng.choice([0, 180]) + rng.normal() * 4))
    for _ in range(rng.integers(0, 7)):
        at = (rng.uniform(2, 25), rng.uniform(-1, 1) * half, 0)
        builder.add("person", person(rng), at, turn(rng.uniform(0, 360)))
    if rng.random() < 0.3:
        builder.add("fence", _fence(rng), (rng.uniform(2, 8), 0, 0), turn(rng.uniform(0, 360)))
    if rng.random() < 0.3:
        height = rng.uniform(4, 8)
        for _ in range(rng.integers(1, 4)):
            start, end = ((rng.uniform(2, 30), -half, height), (rng.uniform(2, 30), half, height + rng.normal()))
            builder.add("cable", [capsule(start, end, 0.02)])
    if rng.random() < 0.6:
        add_skyline(builder, rng, rng.uniform(60, 200))
    eye = (0, rng.uniform(-0.6, 0.6) * half, rng.uniform(0.7, 2.8))
    view = sample_camera(rng, aspect, eye, yaw=rng.normal() * 25, pitch=rng.uniform(-18, 8), fov=(45, 95))
    return builder.build("street", view)


def build_field(rng: Generator, aspect: float) -> Scene:
    """Rows of a crop, from a tractor or drone: obliquely along the rows or straight down."""
    builder = SceneBuilder(rng)
    builder.add_ground(150, "ground")
    style, size = int(rng.integers(4)), math.exp(rng.uniform(math.log(0.08), math.log(1.2)))
    height = size + rng.uniform(0.3, 1.5)
    straight_down = rng.random() < 0.45
    rows, apart = size * rng.uniform(0.8, 2.5), size * rng.uniform(0.5, 1.2)
    reach = 3.5 if straight_down else 9
    across = np.arange(-reach, reach) * rows + rng.uniform(0, rows)
    along = np.arange(-reach if straight_down else 0.5, reach * (1 if straight_down else 2.5)) * apart
    spots = [(x, y) for x in along for y in across if abs(y) < 0.6 * height + 0.5 * abs(x) + rows]
    spots = [spots[k] for k in rng.permutation(len(spots))[:90]] if len(spots) > 90 else spots
    patterns = [crop(rng, style, size, 1.0 if len(spots) < 40 else 0.6) for _ in range(5)]
    for x, y in spots:
        at = (x + rng.normal() * apart * 0.1, y + rng.normal() * rows * 0.05, rng.normal() * 0.02 * size)
        turned = turn(rng.uniform(0, 360))
        builder.add("plant", patterns[rng.integers(5)], at, turned, rng.uniform(0.6, 1.2))
    for _ in range(rng.integers(0, 15)):
        at = (rng.uniform(along[0], along[-1]), rng.uniform(-1, 1) * height, 0)
        if rng.random() < 0.5:
            builder.add("stone", [ellipsoid((0, 0, 0), rng.uniform(0.01, 0.1, 3))], at)
        else:
            builder.add("weed", grass(rng, rng.uniform(0.05, 0.3), 6), at)
    if not straight_down and rng.random() < 0.5:
        add_skyline(builder, rng, rng.uniform(30, 120))
    pitch = rng.uniform(-90, -70) if straight_down else rng.uniform(-50, -8)
    view = sample_camera(rng, aspect, (0, 0, height), yaw=rng.normal() * 12, pitch=pitch, fov=(45, 80))
    return builder.build("field", view)


def build_landscape(rng: Generator, aspect: float) -> Scene:
    """Smooth hills with trees, rocks and buildings on them, out to the horizon."""
    builder = SceneBuilder(rng)
    builder.add_ground(3000, "ground")
    for _ in range(rng.integers(4, 22)):
        away = math.exp(rng.uniform(math.log(4), math.log(400)))
        wide, tall = away * rng.uniform(0.15, 0.7), away * rng.uniform(0.02, 0.2)
        at = (away * 1.3, rng.uniform(-0.9, 0.9) * away, 0)
        hill = ellipsoid((0, 0, 0), (wide, wide * rng.uniform(0.5, 2), tall), turn(rng.uniform(0, 180)))
        builder.add("hill", [hill], at)
    for _ in range(rng.integers(0, 14)):
        away = math.exp(rng.uniform(math.log(3), math.log(80)))
        at = (away, rng.uniform(-0.7, 0.7) * away, 0)
        kind = rng.random()
        if kind < 0.6:
            builder.add("tree", tree(rng, rng.uniform(2, 9), 35 if away < 12 else 6), at)
        elif kind < 0.8:
            builder.add("rock", [ellipsoid((0, 0, 0), rng.uniform(0.2, 1.8, 3))], at, turn(rng.uniform(0, 360)))
        elif kind < 0.9:
            builder.add("house", _house(rng), at, turn(rng.uniform(0, 360)))
        else:
            builder.add("bush", bush(rng, rng.uniform(0.5, 2), 12), at)
    height = rng.uniform(0.8, 3.0) if rng.random() < 0.7 else rng.uniform(5, 40)
    view = sample_camera(rng, aspect, (0, 0, height), yaw=rng.normal() * 15, pitch=rng.uniform(-22, 4), fov=(45, 90))
    return builder.build("landscape", view)


def add_facades(builder: SceneBuilder, rng: Generator, side: int, half: float) -> None:
    """Add buildings along a side (-1 or 1) of a street of half width `half`."""
    x = rng.uniform(-6, 4)
    while x < 110:
        long, tall, back = rng.uniform(5, 22), rng.uniform(3, 22), rng.uniform(0, 4)
        y = side * (half + back + 4)
        parts = [box((x + long / 2, y, tall / 2), (long, 8, tall))]
        if x < 35:
            front = y - side * 4
            for column in np.arange(x + 1, x + long - 1.5, rng.uniform(2, 4)):
                deep = rng.uniform(0.08, 0.5)
                for floor in range(min(2, int(tall / 3))):
                    parts.append(box((column + 0.6, front, 1.6 + 3 * floor), (1.1, deep, 1.3)))
        if rng.random() < 0.8:
            builder.add("building", parts)
        x += long + rng.choice([0.0, rng.uniform(1, 8)])


def _house(rng: Generator) -> Parts:
    long, wide, tall = rng.uniform(6, 14), rng.uniform(5, 9), rng.uniform(2.5, 6)
    ridge = rng.uniform(1.5, 3.5)
    parts = [box((0, 0, tall / 2), (long, wide, tall))]
    for side in (-1, 1):
        rise = np.array([0, -side * (wide / 4 + 0.2), ridge / 2])
        parts.append(quad((0, side * wide / 4, tall + ridge / 2), (long / 2 + 0.3, 0, 0), rise))
    return parts


def pole(rng: Generator, side: int) -> Parts:
    """A lamp post, sign or mast; its arm points along y, towards the side -1 or 1."""
    tall, radius = rng.uniform(2, 9), rng.uniform(0.03, 0.15)
    parts = [cylinder((0, 0, 0), (0, 0, tall), radius, 0.6)]
    kind = rng.integers(3)
    if kind == 0:
        parts.append(capsule((0, 0, tall), (0, side * 1.6, tall + 0.3), 0.05))
        parts.append(ellipsoid((0, side * 1.7, tall + 0.25), (0.15, 0.4, 0.08)))
    elif kind == 1:
        parts.append(disc((-0.05, 0, tall), (1, 0, 0), rng.uniform(0.25, 0.5)))
    return parts


def car(rng: Generator) -> Parts:
    """A car or van."""
    long, wide, tall = rng.uniform(3.6, 5.2), rng.uniform(1.6, 2.0), rng.uniform(1.35, 2.3)
    waist = tall * rng.uniform(0.5, 0.62)
    parts = [
        box((0, 0, (0.25 + waist) / 2), (long, wide, waist - 0.25)),
        ellipsoid((-0.1 * long, 0, waist), (long * 0.36, wide * 0.46, tall - waist)),
        capsule((long / 2 - 0.1, -wide / 2 + 0.2, 0.5), (long / 2 - 0.1, wide / 2 - 0.2, 0.5), 0.2),
    ]
    if rng.random() < 0.35:
        parts[1] = box((-0.08 * long, 0, (waist + tall) / 2), (long * 0.8, wide * 0.95, tall - waist))
    for x in (-0.32 * long, 0.32 * long):
        for side in (-1, 1):
            y = side * wide / 2
            parts.append(cylinder((x, y - side * 0.2, 0.32), (x, y + side * 0.02, 0.32), 0.32))
    return parts


def _fence(rng: Generator) -> Parts:
    long, tall, apart = rng.uniform(3, 10), rng.uniform(0.7, 1.6), rng.uniform(0.1, 0.6)
    posts = [cylinder((0, y, 0), (0, y, tall), 0.02) for y in np.arange(-long / 2, long / 2, apart)]
    rails = [capsule((0, -long / 2, z), (0, long / 2, z), 0.025) for z in (0.3 * tall, 0.9 * tall)]
    return posts + rails


def add_skyline(builder: SceneBuilder, rng: Generator, away: float) -> None:
    """Add woods, hills and buildings at the horizon."""
    for _ in range(rng.integers(3, 10)):
        at = (away * rng.uniform(0.8, 1.4), rng.uniform(-1, 1) * away, 0)
        radii = away * rng.uniform((0.05, 0.1, 0.02), (0.2, 0.5, 0.14))
        if rng.random() < 0.6:
            builder.add("hill", [ellipsoid((0, 0, 0), radii)], at)
        else:
            builder.add("building", [box((0, 0, radii[2]), radii * 2)], at)
