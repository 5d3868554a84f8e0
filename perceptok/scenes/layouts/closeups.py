"""Layouts close to the camera: table tops, bins, single objects, people, foliage, random shapes."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from perceptok.scenes.layouts.builder import SceneBuilder, sample_camera
from perceptok.scenes.layouts.furniture import FURNITURE, bin_open, chair, table
from perceptok.scenes.layouts.people import person
from perceptok.scenes.layouts.plants import crop, leaves, potted
from perceptok.scenes.layouts.tableware import clutter, small_object
from perceptok.scenes.primitives import (
    Parts,
    Primitive,
    bowl,
    box,
    capsule,
    cylinder,
    disc,
    ellipsoid,
    leaf,
    place,
    quad,
    tilt,
    turn,
)
from perceptok.scenes.raycast import Camera, Scene


def build_table_top(rng: Generator, aspect: float) -> Scene:
    """Objects on a table, seen from 0.4 to 1.2 m."""
    builder = SceneBuilder(rng)
    parts, length, width, height = table(rng, rng.uniform(0.6, 0.9))
    yaw = rng.uniform(-25, 25)
    builder.add("table", parts, (0, 0, 0), turn(yaw))
    builder.add_ground(20)
    if rng.random() < 0.8:
        builder.add_wall(rng.uniform(0.7, 5.0), 10, 1.5, sigma=15)
    pull = rng.uniform(0.25, 0.8)
    for _ in range(rng.integers(1, 14)):
        spot = np.array([rng.normal() * length * 0.22 * pull, rng.normal() * width * 0.35 * pull, height])
        name, things = small_object(rng)
        builder.add(name, things, turn(yaw) @ spot, turn(rng.uniform(0, 360)), rng.uniform(0.8, 1.5))
    if rng.random() < 0.35:
        for _ in range(rng.integers(1, 4)):
            at = (rng.uniform(0.6, 2.5), rng.uniform(-1.5, 1.5), 0)
            name = ("shelf", "cabinet", "chair", "sofa")[rng.integers(4)]
            builder.add(name, FURNITURE[name](rng), at, turn(180 + rng.normal() * 20))
    if rng.random() < 0.25:
        _add_arm(builder, rng, height)
    reach, down = rng.uniform(0.4, 1.25), rng.uniform(12, 85)
    a = math.radians(down)
    eye = (-math.cos(a) * reach, rng.uniform(-0.15, 0.15), height + 0.05 + math.sin(a) * reach)
    pitch = -down + rng.uniform(-6, 9)
    view = sample_camera(rng, aspect, eye, yaw=rng.normal() * 8, pitch=pitch, fov=(35, 70))
    if rng.random() < 0.12:
        _add_gripper(builder, rng, view)
    return builder.build("table", view)


def build_bin_picking(rng: Generator, aspect: float) -> Scene:
    """A bin, tote or drawer filled with objects, seen from above."""
    builder = SceneBuilder(rng)
    long, wide, tall = rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.6), rng.uniform(0.04, 0.4)
    builder.add_ground(8, height=-rng.choice([0.0, 0.8]))
    if rng.random() < 0.85:
        builder.add("bin", bin_open(rng, long, wide, tall), rotation=turn(rng.normal() * 10))
    layers = rng.uniform(0.0, 0.12)
    for _ in range(rng.integers(2, 22)):
        at = (rng.uniform(-0.4, 0.4) * long, rng.uniform(-0.4, 0.4) * wide, rng.uniform(0.0, 1.0) * layers)
        rotation = turn(rng.uniform(0, 360)) @ tilt(rng.choice([0.0, 90.0, rng.uniform(0, 180)]))
        name, things = small_object(rng)
        lift = 0.04 if rotation[2, 2] < 0.9 else 0.0
        builder.add(name, things, np.add(at, (0, 0, lift)), rotation)
    down = rng.uniform(60, 90)
    reach, a = tall + long * rng.uniform(0.7, 1.9), math.radians(down)
    at = (-math.cos(a) * reach, rng.uniform(-0.08, 0.08), math.sin(a) * reach)
    view = sample_camera(rng, aspect, at, pitch=-down + rng.normal() * 3, fov=(35, 70))
    if rng.random() < 0.15:
        _add_gripper(builder, rng, view)
    return builder.build("bin", view)


def build_portrait(rng: Generator, aspect: float) -> Scene:
    """A piece of furniture, potted plant or enlarged small object in front of a far wall."""
    builder = SceneBuilder(rng)
    builder.add_ground(60)
    far = rng.uniform(1.0, 12.0)
    if rng.random() < 0.85:
        builder.add_wall(far, 40, 3, sigma=20)
    kind = rng.random()
    if kind < 0.5:
        name = list(FURNITURE)[rng.integers(len(FURNITURE))]
        parts = FURNITURE[name](rng)
    elif kind < 0.65:
        name, parts = "potted plant", potted(rng)
    else:
        name, parts = small_object(rng)
        parts = list(place(parts, scale=rng.uniform(2, 6)))
    builder.add(name, parts, rotation=turn(rng.uniform(0, 360)))
    for _ in range(rng.integers(0, 4)):
        other, things = small_object(rng)
        at = (rng.uniform(-0.3, 2.0), rng.normal() * 0.7, 0)
        builder.add(other, things, at, turn(rng.uniform(0, 360)), rng.uniform(1, 4))
    centers = np.stack([part.center for part in parts])
    reach = np.stack([np.abs(part.axes).sum(axis=1) for part in parts])
    size = float(np.linalg.norm((centers + reach).max(axis=0) - (centers - reach).min(axis=0)))
    distance, height = max(0.35, size * rng.uniform(0.6, 1.5)), rng.uniform(0.15, 1.8)
    aim = float((centers + reach)[:, 2].max()) * rng.uniform(0.3, 0.8)
    pitch = math.degrees(math.atan2(aim - height, distance))
    aside = rng.normal() * 0.1 * size
    view = sample_camera(rng, aspect, (-distance, aside, height), yaw=rng.normal() * 8, pitch=pitch)
    return builder.build("portrait", view)


def build_people(rng: Generator, aspect: float) -> Scene:
    """People standing, walking and sitting, near and far."""
    builder = SceneBuilder(rng)
    builder.add_ground(80)
    if rng.random() < 0.75:
        builder.add_wall(rng.uniform(2.5, 15.0), 40, 2, sigma=15)
    for _ in range(rng.integers(1, 7)):
        away = rng.uniform(0.9, 6.0)
        at = np.array([away - 1.5, rng.uniform(-0.45, 0.45) * away, 0.0])
        facing = turn(rng.uniform(0, 360))
        if rng.random() < 0.25:
            builder.add("chair", chair(rng), at, facing)
            builder.add("person", person(rng, sitting=True), at, facing)
        else:
            builder.add("person", person(rng), at, facing)
    if rng.random() < 0.4:
        parts, _, width, height = table(rng)
        at = np.array([rng.uniform(-0.2, 3), rng.uniform(-1, 1), 0])
        builder.add("table", parts + clutter(rng, 4, 0.4, width * 0.8, height), at, turn(rng.uniform(0, 360)))
    view = sample_camera(
        rng, aspect, (-1.5, 0, rng.uniform(0.7, 2.0)), yaw=rng.normal() * 10, pitch=rng.uniform(-25, 5)
    )
    return builder.build("people", view)


def build_foliage(rng: Generator, aspect: float) -> Scene:
    """Leaves, blades and twigs close to the camera."""
    builder = SceneBuilder(rng)
    back = rng.random()
    if back < 0.6:
        builder.add_ground(50, "ground", -rng.uniform(0.3, 1.5))
    if back > 0.3:
        far = rng.uniform(1.0, 20.0)
        builder.add("wall", [quad((far, 0, 0), (0, 40, 0), (0, 0, 40))], rotation=turn(rng.normal() * 20))
    length = rng.uniform(0.05, 0.25)
    for _ in range(rng.integers(1, 5)):
        away = rng.uniform(0.5, 2.0)
        center = np.array([away, rng.uniform(-0.4, 0.4) * away, rng.uniform(-0.4, 0.2) * away])
        spread = rng.uniform(0.08, 0.4, 3) * away
        parts: Parts = leaves(rng, center, spread, int(rng.integers(15, 80)), length)
        for _ in range(rng.integers(1, 6)):
            start, end = center + rng.normal(size=(2, 3)) * spread
            parts.append(capsule(start, end, rng.uniform(0.003, 0.015)))
        builder.add("plant", parts)
    for _ in range(rng.integers(0, 5)):
        style, size = int(rng.integers(4)), rng.uniform(0.3, 1.2)
        at = (rng.uniform(0.7, 3.0), rng.uniform(-1, 1), -rng.uniform(0.4, 1.0))
        builder.add("plant", crop(rng, style, size, 1.5), at)
    view = sample_camera(rng, aspect, (0, 0, 0), yaw=rng.normal() * 8, pitch=rng.uniform(-40, 15))
    return builder.build("foliage", view)


def build_soup(rng: Generator, aspect: float) -> Scene:
    """Random shapes of all sizes in random places."""
    builder = SceneBuilder(rng)
    far = rng.uniform(2, 25)
    if rng.random() < 0.8:
        normal = np.array([-1.0, rng.normal() * 0.5, rng.normal() * 0.5])
        builder.add("wall", [disc((far, 0, 0), normal, 20 * far)])
    if rng.random() < 0.6:
        builder.add(
            "ground", [quad((0, 0, -rng.uniform(0.3, 2)), (100, 0, 0), (0, 100, 0))], rotation=tilt(rng.normal() * 6)
        )
    for _ in range(rng.integers(3, 50)):
        away = math.exp(rng.uniform(math.log(0.5), math.log(far)))
        at = np.array([away, rng.uniform(-0.7, 0.7) * away, rng.uniform(-0.6, 0.6) * away])
        size = away * rng.uniform(0.04, 0.3) * rng.uniform(0.3, 1, 3)
        builder.add(
            "shape", place([_sample_shape(rng, size)], at, turn(rng.uniform(0, 360)) @ tilt(rng.uniform(0, 180)))
        )
    view = sample_camera(rng, aspect, (0, 0, 0), yaw=rng.normal() * 5, pitch=rng.normal() * 8, roll=20, fov=(40, 80))
    return builder.build("soup", view)


def _sample_shape(rng: Generator, size: np.ndarray) -> Primitive:
    x, y, z = size.tolist()
    match rng.integers(9):
        case 0:
            return box((0, 0, 0), size)
        case 1:
            return ellipsoid((0, 0, 0), size / 2)
        case 2:
            return cylinder((0, 0, -z), (0, 0, z), x / 2, rng.uniform(0, 1))
        case 3:
            return cylinder((0, 0, -z), (0, 0, z), x, rng.uniform(0.4, 1), closed=False)
        case 4:
            return capsule((0, 0, -z), (0, 0, z), x / 3)
        case 5:
            return capsule((-2 * x, 0, -2 * z), (2 * x, y, 2 * z), rng.uniform(0.02, 0.12) * x)
        case 6:
            return disc((0, 0, 0), (0, 0, 1), x, rng.uniform(0.4, 1))
        case 7:
            return leaf((-x, 0, 0), (x, 0, 0), y)
        case _:
            return bowl((0, 0, 0), size / 2, rng.uniform(-0.3, 0.6))


def _add_arm(builder: SceneBuilder, rng: Generator, height: float) -> None:
    """Add a forearm and hand that reach over the table, as when somebody points or grasps."""
    hand = np.array([rng.uniform(-0.1, 0.15), rng.uniform(-0.2, 0.2), height + rng.uniform(0.04, 0.2)])
    elbow = hand + np.array(
        [-rng.uniform(0.2, 0.35), rng.choice([-1, 1]) * rng.uniform(0.05, 0.3), rng.uniform(-0.02, 0.15)]
    )
    parts: Parts = [capsule(elbow, hand, 0.035), ellipsoid(hand, (0.06, 0.045, 0.025))]
    for finger in np.linspace(-0.035, 0.035, 4):
        tip = hand + np.array([0.09, finger * 1.5, rng.uniform(-0.03, 0.02)])
        parts.append(capsule(hand + np.array([0.03, finger, 0.0]), tip, 0.009))
    builder.add("arm", parts)


def _add_gripper(builder: SceneBuilder, rng: Generator, view: Camera) -> None:
    """Add two fingers, or two hands, that enter from the lower edge of the image."""
    apart, away = rng.uniform(0.03, 0.12), rng.uniform(0.2, 0.4)
    thick = rng.uniform(0.008, 0.035)
    parts: Parts = []
    for side in (-1, 1):
        tip = np.array([side * apart, rng.uniform(0.03, 0.12), away])
        root = np.array([side * apart * rng.uniform(0.8, 1.8), 0.25, away * rng.uniform(0.6, 1.0)])
        parts.append(capsule(root, tip, thick))
        parts.append(ellipsoid(tip, thick * rng.uniform(0.8, 1.8, 3)))
    builder.add("gripper", parts, view.position, view.rotation)
