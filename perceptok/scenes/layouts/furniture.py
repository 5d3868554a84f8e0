"""Furniture: parts about the origin, standing on z = 0, the front towards +x, in metres."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from perceptok.scenes.layouts.tableware import clutter
from perceptok.scenes.primitives import (
    Parts,
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


def _legs(rng: Generator, length: float, width: float, height: float, thickness: float, splay: float) -> Parts:
    round_legs = rng.random() < 0.5
    parts = []
    for sx in (-1, 1):
        for sy in (-1, 1):
            x, y = sx * (length / 2 - thickness), sy * (width / 2 - thickness)
            if round_legs or splay > 0:
                foot = (x + sx * splay, y + sy * splay, 0.0)
                parts.append(cylinder(foot, (x, y, height), thickness / 2))
            else:
                parts.append(box((x, y, height / 2), (thickness, thickness, height)))
    return parts


def table(rng: Generator, height: float | None = None) -> tuple[Parts, float, float, float]:
    """A table and the length, width and height of its top."""
    length, width = rng.uniform(0.6, 2.2), rng.uniform(0.5, 1.1)
    height = rng.uniform(0.4, 0.78) if height is None else height
    thick = rng.uniform(0.015, 0.05)
    if rng.random() < 0.25:
        radius = width * 0.7
        parts = [cylinder((0, 0, height - thick), (0, 0, height), radius)]
        parts.append(cylinder((0, 0, 0), (0, 0, height - thick), rng.uniform(0.02, 0.08)))
        parts.append(cylinder((0, 0, 0), (0, 0, 0.04), radius * 0.5, 0.8))
        return parts, radius * 1.3, radius * 1.3, height
    parts = [box((0, 0, height - thick / 2), (length, width, thick))]
    parts += _legs(rng, length, width, height - thick, rng.uniform(0.025, 0.08), 0.0)
    if rng.random() < 0.4:
        deep = rng.uniform(0.3, 0.95)
        parts.append(box((-length / 4, 0, height * (1 - deep / 2) - thick), (length / 3, width * 0.9, height * deep)))
    return parts, length, width, height


def chair(rng: Generator) -> Parts:
    """A chair: four legs or a swivel foot, a slatted, framed or closed back, perhaps arms."""
    wide, seat, back = rng.uniform(0.38, 0.55), rng.uniform(0.4, 0.5), rng.uniform(0.3, 0.6)
    thick = rng.uniform(0.02, 0.07)
    parts = [box((0, 0, seat - thick / 2), (wide, wide, thick))]
    if rng.random() < 0.3:
        parts.append(cylinder((0, 0, 0.08), (0, 0, seat), 0.03))
        for angle in np.arange(5) * 72.0 + rng.uniform(0, 72):
            tip = turn(angle) @ np.array([wide * 0.55, 0, 0.05])
            parts += [capsule((0, 0, 0.1), tip, 0.02), ellipsoid(tip, 0.035)]
    else:
        parts += _legs(rng, wide, wide, seat - thick, rng.uniform(0.02, 0.05), rng.choice([0.0, 0.05]))
    lean = rng.uniform(0.0, 0.12)
    left, right = np.array([-wide / 2, -wide / 2 + 0.02, seat]), np.array([-wide / 2, wide / 2 - 0.02, seat])
    top = np.array([-lean, 0.0, back])
    style = rng.integers(4)
    if style == 0:
        middle = (left + right) / 2 + top / 2
        parts.append(quad(middle, (right - left) / 2, top / 2))
    elif style == 1:
        parts += [capsule(left, left + top, 0.015), capsule(right, right + top, 0.015)]
        for share in np.linspace(0.35, 1, rng.integers(2, 5)):
            parts.append(capsule(left + top * share, right + top * share, rng.uniform(0.012, 0.03)))
    elif style == 2:
        for share in np.linspace(0, 1, rng.integers(4, 8)):
            foot = left + (right - left) * share
            parts.append(capsule(foot, foot + top, 0.011))
        parts.append(capsule(left + top, right + top, 0.025))
    else:
        middle = (left + right) / 2 + top * 0.55
        parts.append(ellipsoid(middle, (0.05, wide / 2, back / 2)))
    if rng.random() < 0.3:
        for corner in (left, right):
            rest = corner + np.array([0, 0, 0.2])
            front = rest + np.array([wide * 0.8, 0, 0])
            parts += [capsule(rest, front, 0.018), capsule(front, front - np.array([0, 0, 0.22]), 0.015)]
    return parts


def stool(rng: Generator) -> Parts:
    """A round stool."""
    height, radius = rng.uniform(0.35, 0.75), rng.uniform(0.14, 0.2)
    parts = [cylinder((0, 0, height - 0.04), (0, 0, height), radius)]
    for angle in np.arange(3 + rng.integers(2)) * 90.0:
        foot = turn(angle) @ np.array([radius * 1.1, 0, 0])
        parts.append(cylinder(foot, (foot[0] * 0.7, foot[1] * 0.7, height - 0.04), 0.015))
    return parts


def sofa(rng: Generator) -> Parts:
    """A sofa or armchair with soft arms and cushions."""
    wide, deep, seat = rng.uniform(0.8, 2.2), rng.uniform(0.75, 1.0), rng.uniform(0.35, 0.48)
    back = rng.uniform(0.3, 0.5)
    parts = [box((0, 0, seat / 2), (deep, wide, seat))]
    parts.append(box((-deep / 2 + 0.1, 0, (seat + back) / 2), (0.2, wide, seat + back)))
    for side in (-1, 1):
        y, top = side * (wide / 2 - 0.08), seat + 0.18
        parts.append(box((0, y, top / 2), (deep, 0.16, top)))
        parts.append(capsule((-deep / 2 + 0.08, y, top), (deep / 2 - 0.04, y, top), 0.09))
    for _ in range(rng.integers(0, 4)):
        at = (rng.uniform(-0.1, 0.1), rng.uniform(-0.4, 0.4) * wide, seat + 0.18)
        size = rng.uniform(0.15, 0.28)
        parts.append(ellipsoid(at, (0.09, size, size), turn(rng.uniform(-30, 30)) @ tilt(rng.uniform(-20, 20))))
    return parts


def bed(rng: Generator) -> Parts:
    """A bed with a mattress, pillows and a bulging blanket."""
    length, wide, height = rng.uniform(1.8, 2.1), rng.uniform(0.8, 1.7), rng.uniform(0.35, 0.6)
    parts = [box((0, 0, height / 2), (length, wide, height))]
    parts.append(box((-length / 2, 0, 0.5), (0.06, wide, rng.uniform(0.7, 1.2))))
    for y in (-wide / 4, wide / 4):
        parts.append(ellipsoid((-length / 2 + 0.28, y, height + 0.05), (0.2, wide * 0.23, 0.1)))
    for _ in range(rng.integers(0, 6)):
        at = (rng.uniform(-0.1, 0.45) * length, rng.uniform(-0.4, 0.4) * wide, height)
        radii = (rng.uniform(0.15, 0.6), rng.uniform(0.15, 0.5), rng.uniform(0.04, 0.16))
        parts.append(ellipsoid(at, radii, turn(rng.uniform(0, 180))))
    return parts


def cabinet(rng: Generator) -> Parts:
    """A chest, wardrobe, refrigerator or counter, with knobs and perhaps things on top."""
    wide, deep, height = rng.uniform(0.4, 1.6), rng.uniform(0.3, 0.65), rng.uniform(0.5, 2.1)
    parts = [box((0, 0, height / 2), (deep, wide, height))]
    rows = max(1, round(height / rng.uniform(0.2, 0.9)))
    for row in range(rows):
        z = height * (row + 0.5) / rows
        parts.append(box((deep / 2 + 0.006, 0, z), (0.012, wide * 0.94, height / rows * 0.92)))
        parts.append(capsule((deep / 2 + 0.03, -0.06, z), (deep / 2 + 0.03, 0.06, z), 0.012))
    if height < 1.4:
        parts += clutter(rng, int(rng.integers(0, 6)), deep * 0.7, wide * 0.8, height)
    return parts


def shelf(rng: Generator) -> Parts:
    """An open shelf with books and other clutter."""
    wide, deep, height = rng.uniform(0.5, 1.8), rng.uniform(0.2, 0.4), rng.uniform(0.7, 2.2)
    floors = int(rng.integers(2, 6))
    parts = [box((0, side * wide / 2, height / 2), (deep, 0.03, height)) for side in (-1, 1)]
    if rng.random() < 0.6:
        parts.append(quad((-deep / 2, 0, height / 2), (0, wide / 2, 0), (0, 0, height / 2)))
    for floor in range(floors + 1):
        z = 0.04 + (height - 0.06) * floor / floors
        parts.append(box((0, 0, z), (deep, wide, 0.025)))
        gap = height / floors
        if floor == floors or rng.random() < 0.15:
            continue
        if rng.random() < 0.5:
            y, end = -wide / 2 + 0.03, wide / 2 - rng.uniform(0.03, 0.5 * wide)
            while y < end:
                thick, tall = rng.uniform(0.015, 0.07), min(rng.uniform(0.15, 0.32), gap * 0.9)
                back = rng.uniform(0.5, 0.85) * deep
                parts.append(box((-deep / 2 + back / 2, y + thick / 2, z + tall / 2), (back, thick * 0.95, tall)))
                y += thick
        else:
            parts += clutter(rng, int(rng.integers(1, 5)), deep * 0.6, wide * 0.85, z + 0.0125, min(gap * 0.8, 0.3))
    return parts


def floor_lamp(rng: Generator) -> Parts:
    """A standing lamp with an open shade."""
    height, radius = rng.uniform(1.2, 1.8), rng.uniform(0.12, 0.25)
    tall = rng.uniform(0.2, 0.35)
    return [
        cylinder((0, 0, 0), (0, 0, 0.03), rng.uniform(0.1, 0.17)),
        cylinder((0, 0, 0), (0, 0, height), rng.uniform(0.008, 0.02)),
        cylinder((0, 0, height - tall), (0, 0, height), radius, rng.uniform(0.4, 1.0), closed=False),
    ]


def hanging_lamp(rng: Generator, ceiling: float) -> Parts:
    """A lamp on a cable below a ceiling at height `ceiling`."""
    drop, radius = rng.uniform(0.3, 1.0), rng.uniform(0.1, 0.3)
    low = ceiling - drop
    parts = [cylinder((0, 0, low), (0, 0, ceiling), 0.006)]
    if rng.random() < 0.5:
        parts.append(ellipsoid((0, 0, low), radius * 0.8))
    else:
        parts.append(cylinder((0, 0, low - 0.15), (0, 0, low), radius, rng.uniform(0.1, 0.6), closed=False))
    return parts


def desk_screen(rng: Generator) -> Parts:
    """A computer screen or television on a foot."""
    wide, tall, lift = rng.uniform(0.35, 1.2), rng.uniform(0.25, 0.65), rng.uniform(0.06, 0.2)
    return [
        box((0, 0, lift + tall / 2), (0.04, wide, tall)),
        cylinder((-0.03, 0, 0), (-0.03, 0, lift + 0.05), 0.025),
        cylinder((-0.03, 0, 0), (-0.03, 0, 0.015), 0.12),
    ]


def frame(rng: Generator) -> Parts:
    """A picture frame, mirror or board whose back is at x = 0, centred at z = 0."""
    wide, tall, thick = rng.uniform(0.2, 1.4), rng.uniform(0.2, 1.0), rng.uniform(0.01, 0.05)
    if rng.random() < 0.15:
        return [disc((thick, 0, 0), (1, 0, 0), wide / 3)]
    parts = [box((thick / 2, 0, 0), (thick, wide, tall))]
    if rng.random() < 0.5:
        for side in (-1, 1):
            parts.append(box((thick, side * wide / 2, 0), (thick * 2, 0.04, tall)))
            parts.append(box((thick, 0, side * tall / 2), (thick * 2, wide, 0.04)))
    return parts


def bin_open(rng: Generator, length: float, width: float, height: float) -> Parts:
    """An open bin, crate or drawer with walls of some thickness; its floor is at z = 0."""
    wall = rng.uniform(0.004, 0.03)
    lean = rng.uniform(0.0, 0.15) * height
    parts = [quad((0, 0, 0.002), (length / 2, 0, 0), (0, width / 2, 0))]
    for angle, reach, across in ((0, length, width), (90, width, length), (180, length, width), (270, width, length)):
        foot = np.array([reach / 2, 0.0, 0.0])
        rise = np.array([lean, 0.0, height])
        side = np.array([0.0, across / 2 + lean, 0.0])
        wall_parts = [quad(foot + rise / 2, side, rise / 2), quad(foot + rise / 2 + [wall, 0, 0], side, rise / 2)]
        wall_parts.append(box(foot + rise + [wall / 2, 0, 0], (wall * 1.6, across + 2 * lean + wall, 0.008)))
        parts += place(wall_parts, rotation=turn(angle))
    return parts


def stairs(rng: Generator) -> Parts:
    """A flight of stairs that climbs towards -x."""
    rise, run, wide = rng.uniform(0.15, 0.2), rng.uniform(0.25, 0.32), rng.uniform(0.8, 2.5)
    steps = int(rng.integers(4, 15))
    parts = []
    for step in range(steps):
        top = rise * (step + 1)
        parts.append(box((-run * (step + 0.5), 0, top / 2), (run, wide, top)))
    if rng.random() < 0.6:
        for step in range(0, steps, 2):
            foot = np.array([-run * (step + 0.5), wide / 2, rise * (step + 1)])
            parts.append(cylinder(foot, foot + np.array([0, 0, 0.9]), 0.015))
        start = np.array([-run * 0.5, wide / 2, rise + 0.9])
        parts.append(capsule(start, start + np.array([-run, 0, rise]) * (steps - 1), 0.025))
    return parts


def rack(rng: Generator) -> Parts:
    """A metal rack, scaffold or door frame: thin posts and rails, with or without boards and boxes."""
    wide, deep, height = rng.uniform(0.6, 2.0), rng.uniform(0.05, 0.6), rng.uniform(0.9, 2.3)
    thick = rng.uniform(0.01, 0.035)
    parts = []
    for x in (-deep / 2, deep / 2):
        for y in np.linspace(-wide / 2, wide / 2, rng.integers(2, 4)):
            parts.append(box((x, y, height / 2), (thick, thick, height)))
    for z in np.linspace(rng.uniform(0.1, 0.5), height, rng.integers(1, 5)):
        if deep > 0.2 and rng.random() < 0.7:
            parts.append(box((0, 0, z), (deep, wide, 0.02)))
            parts += clutter(rng, int(rng.integers(0, 3)), deep * 0.6, wide * 0.8, z + 0.01, 0.3)
        else:
            parts += [box((x, 0, z), (thick, wide, thick)) for x in (-deep / 2, deep / 2)]
    return parts


def ladder(rng: Generator) -> Parts:
    """A leaning ladder."""
    wide, long, lean = rng.uniform(0.3, 0.5), rng.uniform(1.2, 2.6), rng.uniform(0.1, 0.5)
    rise = np.array([-np.sin(lean), 0, np.cos(lean)]) * long
    feet = [np.array([0, side * wide / 2, 0.0]) for side in (-1, 1)]
    parts = [capsule(foot, foot + rise, 0.022) for foot in feet]
    for share in np.arange(0.12, 1.0, 0.28 / long):
        parts.append(capsule(feet[0] + rise * share, feet[1] + rise * share, 0.013))
    return parts


def curtain(rng: Generator) -> Parts:
    """A curtain or radiator: upright folds side by side."""
    fold, folds, height = rng.uniform(0.03, 0.12), int(rng.integers(6, 16)), rng.uniform(0.5, 2.4)
    low = 0.1 if height < 1.0 else 0.02
    return [
        cylinder(
            (rng.normal() * fold * 0.4, (k - folds / 2) * fold * 1.7, low),
            (0, (k - folds / 2) * fold * 1.7, height),
            fold,
        )
        for k in range(folds)
    ]


def heap(rng: Generator) -> Parts:
    """A soft heap of clothes, sacks, cushions or soil."""
    size = rng.uniform(0.25, 0.9)
    parts = []
    for _ in range(rng.integers(4, 14)):
        at = rng.normal(size=3) * size * np.array([0.35, 0.35, 0.15]) + np.array([0, 0, size * 0.2])
        rotation = turn(rng.uniform(0, 180)) @ tilt(rng.normal() * 30)
        parts.append(ellipsoid(at, size * rng.uniform((0.2, 0.15, 0.05), (0.5, 0.4, 0.25)), rotation))
    return parts


def window_bars(rng: Generator, width: float, low: float, high: float) -> Parts:
    """Frame, mullions and perhaps slats of a window or glazed door, in the plane x = 0."""
    thick = rng.uniform(0.02, 0.07)
    middle, tall = (low + high) / 2, high - low
    parts = [box((0, y, middle), (thick, thick, tall)) for y in np.linspace(-width / 2, width / 2, rng.integers(2, 5))]
    rows = rng.integers(2, 5) if rng.random() < 0.7 else int(tall / 0.08)
    parts += [box((0, 0, z), (thick, width, thick if rows < 6 else 0.03)) for z in np.linspace(low, high, rows)]
    return parts


FURNITURE: dict[str, Callable[[Generator], Parts]] = {
    "bed": bed,
    "cabinet": cabinet,
    "chair": chair,
    "curtain": curtain,
    "heap": heap,
    "ladder": ladder,
    "lamp": floor_lamp,
    "rack": rack,
    "shelf": shelf,
    "sofa": sofa,
    "stool": stool,
}
"""Category -> builder, for what stands on a floor (tables are built with what is on them)."""
