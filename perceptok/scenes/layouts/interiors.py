"""Layouts indoors: furnished rooms, corridors, round halls."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from perceptok.scenes.layouts.builder import SceneBuilder, sample_camera
from perceptok.scenes.layouts.furniture import (
    FURNITURE,
    chair,
    desk_screen,
    frame,
    hanging_lamp,
    stairs,
    table,
    window_bars,
)
from perceptok.scenes.layouts.people import person
from perceptok.scenes.layouts.plants import potted
from perceptok.scenes.layouts.tableware import small_object
from perceptok.scenes.primitives import box, capsule, cylinder, ellipsoid, place, quad, turn
from perceptok.scenes.raycast import Scene


def build_room(rng: Generator, aspect: float) -> Scene:
    """A furnished room from inside, at the height of eyes or of a low robot, level to looking down."""
    builder = SceneBuilder(rng)
    long, wide, tall = rng.uniform(2.2, 9.0), rng.uniform(2.2, 7.0), rng.uniform(2.2, 3.4)
    add_shell(builder, rng, long, wide, tall, closed=rng.random() < 0.75)
    names = list(FURNITURE)
    for _ in range(rng.integers(3, 11)):
        name = names[rng.integers(len(names))]
        _add_at_wall(builder, rng, name, long, wide)
    for _ in range(rng.integers(0, 4)):
        _add_dining_table(builder, rng, (rng.uniform(-0.35, 0.35) * long, rng.uniform(-0.35, 0.35) * wide, 0.0))
    for _ in range(rng.integers(0, 4)):
        _add_chair_or_person(builder, rng, long, wide)
    for _ in range(rng.integers(0, 3)):
        name = names[rng.integers(len(names))]
        at = (rng.uniform(-0.4, 0.4) * long, rng.uniform(-0.4, 0.4) * wide, 0.0)
        builder.add(name, FURNITURE[name](rng), at, turn(rng.uniform(0, 360)))
    for _ in range(rng.integers(0, 3)):
        at = (rng.uniform(-0.45, 0.45) * long, rng.uniform(-0.45, 0.45) * wide, 0.0)
        builder.add("potted plant", potted(rng), at)
    for _ in range(rng.integers(0, 5)):
        name, parts = small_object(rng)
        at = (rng.uniform(-0.45, 0.45) * long, rng.uniform(-0.45, 0.45) * wide, 0.0)
        builder.add(name, parts, at, turn(rng.uniform(0, 360)), rng.uniform(1, 3))
    if rng.random() < 0.4:
        at = (rng.uniform(-0.3, 0.3) * long, rng.uniform(-0.3, 0.3) * wide, 0.0)
        builder.add("lamp", hanging_lamp(rng, tall), at)
    if rng.random() < 0.25:
        at = (rng.uniform(-0.45, 0.45) * long, rng.uniform(-0.45, 0.45) * wide, 0.0)
        radius = rng.uniform(0.1, 0.4)
        builder.add("column", [cylinder((0, 0, 0), (0, 0, tall), radius)], at)
    place_x, place_y = rng.uniform(-0.46, 0.46) * long, rng.uniform(-0.46, 0.46) * wide
    target = (rng.uniform(-0.3, 0.3) * long, rng.uniform(-0.3, 0.3) * wide)
    yaw = math.degrees(math.atan2(target[1] - place_y, target[0] - place_x))
    height = rng.uniform(0.25, 0.7) if rng.random() < 0.25 else rng.uniform(1.0, min(2.1, tall - 0.15))
    pitch = rng.uniform(-15, 8) if height < 0.8 else rng.uniform(-45, 5)
    return builder.build("room", sample_camera(rng, aspect, (place_x, place_y, height), yaw=yaw, pitch=pitch))


def build_corridor(rng: Generator, aspect: float) -> Scene:
    """A corridor with doors, niches and a far end, perhaps stairs."""
    builder = SceneBuilder(rng)
    long, wide, tall = rng.uniform(5, 40), rng.uniform(1.1, 3.0), rng.uniform(2.2, 3.2)
    add_shell(builder, rng, long, wide, tall, closed=rng.random() < 0.85)
    for x in np.arange(-long / 2 + 1, long / 2 - 1, rng.uniform(1.5, 4)):
        for side in (-1, 1):
            kind = rng.random()
            if kind < 0.4:
                deep = rng.uniform(0.03, 0.15)
                parts = [
                    box((0, 0, 1.05), (1.0, deep, 2.1)),
                    capsule((0.35, -side * 0.1, 1), (0.45, -side * 0.1, 1), 0.02),
                ]
                builder.add("door", parts, (x, side * wide / 2, 0))
            elif kind < 0.5:
                builder.add("pillar", [box((0, 0, tall / 2), (0.35, 0.4, tall))], (x, side * wide / 2, 0))
            elif kind < 0.6:
                builder.add("pipe", [cylinder((0, 0, 0), (0, 0, tall), 0.05)], (x, side * (wide / 2 - 0.1), 0))
            elif kind < 0.66:
                builder.add(
                    "door",
                    [quad((0.4, -side * 0.3, 1.05), (0.3, 0.3 * -side, 0), (0, 0, 1.05))],
                    (x, side * wide / 2, 0),
                )
        if rng.random() < 0.3:
            builder.add("beam", [box((0, 0, tall), (0.2, wide, rng.uniform(0.1, 0.5)))], (x, 0, 0))
        if rng.random() < 0.2:
            parts = [box((0, 0, tall - 0.03), (1.2, 0.2, 0.06))]
            builder.add("lamp", parts, (x, 0, 0))
        if rng.random() < 0.15:
            builder.add("person", person(rng), (x, rng.uniform(-0.3, 0.3) * wide, 0), turn(rng.uniform(0, 360)))
    if rng.random() < 0.3:
        builder.add("stairs", stairs(rng), (rng.uniform(0, 0.3) * long, 0, 0), turn(180))
    at = (rng.uniform(-0.45, 0.1) * long, rng.uniform(-0.3, 0.3) * wide, rng.uniform(0.4, 1.8))
    view = sample_camera(rng, aspect, at, yaw=rng.normal() * 15, pitch=rng.uniform(-25, 5), fov=(50, 95))
    return builder.build("corridor", view)


def build_hall(rng: Generator, aspect: float) -> Scene:
    """Smooth curved walls, columns and boulders."""
    builder = SceneBuilder(rng)
    radius, tall = rng.uniform(1.2, 8.0), rng.uniform(2.2, 6.0)
    builder.add_ground(3 * radius)
    wall = cylinder((0, 0, 0), (0, 0, tall), radius, rng.uniform(0.6, 1.0), closed=False)
    builder.add("wall", place([wall], rotation=np.diag([rng.uniform(0.7, 1.6), 1.0, 1.0])))
    if rng.random() < 0.5:
        builder.add("ceiling", [ellipsoid((0, 0, tall), (1.7 * radius, 1.1 * radius, rng.uniform(0.3, 1) * radius))])
    for _ in range(rng.integers(2, 10)):
        angle, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.3, 0.98)
        thick = rng.uniform(0.05, 0.5) * min(1.0, radius / 3)
        at = (math.cos(angle) * reach, math.sin(angle) * reach, 0.0)
        if rng.random() < 0.5:
            builder.add("column", [cylinder((0, 0, 0), (0, 0, tall), thick, rng.uniform(0.7, 1))], at)
        else:
            parts = [ellipsoid((0, 0, 0), rng.uniform((0.2, 0.2, 0.2), (0.9, 0.9, 1.2)))]
            builder.add("boulder", parts, at, turn(rng.uniform(0, 360)))
    for _ in range(rng.integers(0, 3)):
        _add_chair_or_person(builder, rng, radius * 1.2, radius * 1.2)
    at = (rng.uniform(-0.5, 0.3) * radius, rng.uniform(-0.4, 0.4) * radius, rng.uniform(0.4, 2.0))
    view = sample_camera(rng, aspect, at, yaw=rng.uniform(-50, 50), pitch=rng.uniform(-35, 10), fov=(45, 90))
    return builder.build("hall", view)


def add_shell(builder: SceneBuilder, rng: Generator, long: float, wide: float, tall: float, *, closed: bool) -> None:
    """Add a floor, four walls with windows, doors and pictures, and a ceiling where `closed`."""
    builder.add("floor", [quad((0, 0, 0), (long / 2 + 6, 0, 0), (0, wide / 2 + 6, 0))])
    if closed:
        builder.add("ceiling", [quad((0, 0, tall), (long / 2 + 6, 0, 0), (0, wide / 2 + 6, 0))])
    for angle, reach, across in ((0, long, wide), (90, wide, long), (180, long, wide), (270, wide, long)):
        parts = [quad((reach / 2, 0, tall / 2), (0, across / 2, 0), (0, 0, tall / 2))]
        if rng.random() < 0.3:
            middle, gap = rng.uniform(-0.3, 0.3) * across, rng.uniform(0.8, min(1.8, 0.8 * across))
            low, high = (0.0, 2.05) if rng.random() < 0.6 else (rng.uniform(0.5, 1.0), rng.uniform(1.5, 2.1))
            parts = []
            for y0, y1, z0, z1 in (
                (-across / 2, middle - gap / 2, 0.0, tall),
                (middle + gap / 2, across / 2, 0.0, tall),
                (middle - gap / 2, middle + gap / 2, high, tall),
                (middle - gap / 2, middle + gap / 2, 0.0, low),
            ):
                if y1 > y0 and z1 > z0:
                    size = (0.1, y1 - y0, z1 - z0)
                    parts.append(box((reach / 2 + 0.05, (y0 + y1) / 2, (z0 + z1) / 2), size))
            if rng.random() < 0.5:
                parts += place(window_bars(rng, gap, low, high), (reach / 2, middle, 0))
            parts.append(quad((reach / 2 + rng.uniform(0.3, 5.0), 0, tall / 2), (0, across, 0), (0, 0, tall / 2)))
        builder.add("wall", parts, rotation=turn(angle))
        for _ in range(rng.integers(0, 3)):
            at = turn(angle) @ np.array([reach / 2, rng.uniform(-0.4, 0.4) * across, rng.uniform(1.0, 1.9)])
            builder.add("picture", frame(rng), at, turn(angle + 180))


def _add_at_wall(builder: SceneBuilder, rng: Generator, name: str, long: float, wide: float) -> None:
    angle = 90 * int(rng.integers(4))
    reach, across = (long, wide) if angle % 180 == 0 else (wide, long)
    inset = 1.0 if name == "bed" else rng.uniform(0.2, 0.6)
    at = turn(angle) @ np.array([reach / 2 - inset, rng.uniform(-0.45, 0.45) * across, 0.0])
    builder.add(name, FURNITURE[name](rng), at, turn(angle + 180 + rng.normal() * 3))


def _add_dining_table(builder: SceneBuilder, rng: Generator, at: tuple[float, float, float]) -> None:
    """Add a table with objects on it and chairs around it."""
    yaw = rng.uniform(0, 360) if rng.random() < 0.5 else 90.0 * rng.integers(4)
    parts, length, width, height = table(rng)
    builder.add("table", parts, at, turn(yaw))
    for _ in range(rng.integers(0, 9)):
        spot = np.array([rng.uniform(-0.42, 0.42) * length, rng.uniform(-0.42, 0.42) * width, height])
        name, things = small_object(rng)
        builder.add(name, things, turn(yaw) @ spot + at, turn(rng.uniform(0, 360)))
    if rng.random() < 0.35:
        spot = np.array([-0.1 * length, rng.uniform(-0.2, 0.2) * width, height])
        builder.add("screen", desk_screen(rng), turn(yaw) @ spot + at, turn(yaw + 90 * rng.integers(4)))
    for _ in range(rng.integers(0, 5)):
        side = turn(90.0 * rng.integers(4))
        spot = side @ np.array([-(length + 0.4) / 2 - rng.uniform(-0.1, 0.5), rng.uniform(-0.3, 0.3), 0.0])
        facing = turn(yaw) @ side @ turn(rng.normal() * 25)
        builder.add("chair", chair(rng), turn(yaw) @ spot + at, facing)
        if rng.random() < 0.15:
            builder.add("person", person(rng, sitting=True), turn(yaw) @ spot + at, facing)


def _add_chair_or_person(builder: SceneBuilder, rng: Generator, long: float, wide: float) -> None:
    at = (rng.uniform(-0.45, 0.45) * long, rng.uniform(-0.45, 0.45) * wide, 0.0)
    facing = turn(rng.uniform(0, 360))
    if rng.random() < 0.5:
        builder.add("person", person(rng), at, facing)
    else:
        builder.add("chair", chair(rng), at, facing)
