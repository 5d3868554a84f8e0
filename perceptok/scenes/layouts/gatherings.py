"""Layouts in which several objects of a class gather, for counting: on a floor, on a table, in a yard."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from perceptok.errors import ConfigError
from perceptok.scenes.layouts.builder import SceneBuilder, sample_camera
from perceptok.scenes.layouts.furniture import FURNITURE, chair, stool, table
from perceptok.scenes.layouts.interiors import add_shell
from perceptok.scenes.layouts.outdoors import add_facades, add_skyline, car, pole
from perceptok.scenes.layouts.people import person
from perceptok.scenes.layouts.plants import bush, potted, tree
from perceptok.scenes.layouts.tableware import SMALL
from perceptok.scenes.primitives import Floats, Parts, Primitive, box, ellipsoid, turn
from perceptok.scenes.raycast import Camera, Scene

Builder = Callable[[Generator], Parts]


@dataclass(frozen=True)
class Difficulty:
    """How difficult the scenes of gathered objects are.

    Attributes:
        count: Least and greatest number of the class to count, 2 .. 15.
        occlusion: 0 keeps objects apart and the camera high, 1 lets them occlude each other.
        depth_gap: Minimum ratio between the distances of an object and the next farther one, minus 1. Small positive
            numbers make questions for the nearest point easy; 0 sets no minimum.
        others: Greatest number of objects of other classes between them, 0 .. 12.
    """

    count: tuple[int, int] = (2, 15)
    occlusion: float = 0.35
    depth_gap: float = 0.0
    others: int = 6

    def __post_init__(self) -> None:
        low, high = self.count
        if not 2 <= low <= high <= 15:
            raise ConfigError(f"count must be a least and a greatest number within 2 .. 15; got {self.count}")
        if not 0 <= self.occlusion <= 1:
            raise ConfigError(f"occlusion must be within 0 .. 1; got {self.occlusion}")
        if not 0 <= self.depth_gap <= 0.5:
            raise ConfigError(f"depth_gap must be within 0 .. 0.5; got {self.depth_gap}")
        if not 0 <= self.others <= 12:
            raise ConfigError(f"others must be within 0 .. 12; got {self.others}")


def _book(rng: Generator) -> Parts:
    size = rng.uniform((0.12, 0.18, 0.015), (0.22, 0.3, 0.06))
    return [box((0, 0, size[2] / 2), size)]


def _rock(rng: Generator) -> Parts:
    radii = rng.uniform((0.2, 0.2, 0.15), (0.6, 0.6, 0.5))
    return [ellipsoid((0, 0, radii[2] * 0.7), radii)]


def _scale(builder: Builder, low: float, high: float) -> Builder:
    def build(rng: Generator) -> Parts:
        scale = rng.uniform(low, high)
        return [Primitive(part.shape, part.center * scale, part.axes * scale) for part in builder(rng)]

    return build


_ON_TABLE: dict[str, Builder] = {
    **{name: SMALL[name] for name in ("ball", "banana", "bottle", "bowl", "box", "can", "cup", "plate", "pot", "vase")},
    "book": _book,
}
_ON_FLOOR: dict[str, Builder] = {
    "ball": _scale(SMALL["ball"], 1.6, 3.0),
    "box": _scale(SMALL["box"], 1.8, 3.0),
    "chair": chair,
    "lamp": FURNITURE["lamp"],
    "person": person,
    "potted plant": potted,
    "stool": stool,
    "vase": _scale(SMALL["vase"], 1.6, 2.6),
}
_IN_YARD: dict[str, Builder] = {
    "bush": lambda rng: bush(rng, rng.uniform(0.5, 1.0), 14),
    "car": car,
    "person": person,
    "pole": lambda rng: pole(rng, 1),
    "rock": _rock,
    "tree": lambda rng: tree(rng, rng.uniform(2.5, 5.0), 14),
}
_DECORATION = ("sofa", "curtain", "bed", "ladder")

GATHERINGS: dict[str, dict[str, Builder]] = {
    "gathering on a floor": _ON_FLOOR,
    "gathering on a table": _ON_TABLE,
    "gathering in a yard": _IN_YARD,
}
"""Layout -> the classes that gather there."""


def sample_gathering(
    rng: Generator, aspect: float, kind: str, difficulty: Difficulty, arrangements: tuple[str, ...], fov: float
) -> tuple[Scene, str, int]:
    """Sample a scene in which objects of a class gather.

    Args:
        rng: The random generator.
        aspect: Width / height of the view.
        kind: One of `GATHERINGS`.
        difficulty: Numbers of objects and their occlusion.
        arrangements: The names of arrangements to draw from.
        fov: Horizontal field of view in degrees.

    Returns:
        The scene, the class to count, and its desired number. The scene has more of them, as some may be occluded.
    """
    builders = GATHERINGS[kind]
    names = list(builders)
    target = names[rng.integers(len(names))]
    count = int(rng.integers(difficulty.count[0], difficulty.count[1] + 1))
    arrangement = arrangements[rng.integers(len(arrangements))]
    classes = [target] * math.ceil(count * 1.4 + 1)
    others = [name for name in names if name != target]
    for _ in range(rng.integers(0, difficulty.others + 1)):
        classes.append(others[rng.integers(len(others))])
    alike = int(rng.integers(2**31)) if rng.random() < 0.5 else None
    models = {name: builders[name](np.random.default_rng(alike)) for name in set(classes)} if alike is not None else {}
    objects = [(name, models.get(name) or builders[name](rng)) for name in classes]
    builder = SceneBuilder(rng)
    camera, ground = _SURROUNDINGS[kind](builder, rng, aspect, difficulty, fov)
    _add_objects(builder, rng, objects, ground, arrangement, difficulty)
    return builder.build(kind, camera), target, count


class _Ground(NamedTuple):
    """Where objects may stand: the unit square of (farther, to the left), mapped to a surface in front of the camera.

    To a fan, `near` to `far` metres before the eye at x = `start`; to a rectangle where `near` is 0, with `far` its
    length and `wide` its width in metres (of a fan: its half width per metre).
    """

    start: float
    near: float
    far: float
    wide: float
    height: float
    yaw: float

    def locate(self, farther: float, left: float) -> Floats:
        """The point in the world, (3,)."""
        if self.near:
            x = self.near * (self.far / self.near) ** farther
            return np.array([self.start + x, (2 * left - 1) * self.wide * x, self.height])
        point = np.array([(farther - 0.5) * self.far, (left - 0.5) * self.wide, self.height])
        return np.asarray(turn(self.yaw) @ point)


def _add_floor(
    builder: SceneBuilder, rng: Generator, aspect: float, difficulty: Difficulty, fov: float
) -> tuple[Camera, _Ground]:
    long, wide, tall = rng.uniform(4.5, 9.0), rng.uniform(3.5, 7.0), rng.uniform(2.4, 3.2)
    add_shell(builder, rng, long, wide, tall, closed=rng.random() < 0.85)
    for _ in range(rng.integers(0, 3)):
        name = _DECORATION[rng.integers(len(_DECORATION))]
        side = int(rng.choice([-1, 1]))
        at = (rng.uniform(-0.1, 0.4) * long, side * (wide / 2 - 0.5), 0)
        builder.add(name, FURNITURE[name](rng), at, turn(-90.0 * side))
    height = rng.uniform(1.2, 1.5) + (tall - 1.9) * rng.uniform(0.4, 1.0) * (1 - difficulty.occlusion)
    start = -long / 2 + 0.25
    far = long - 0.9
    middle = math.sqrt(1.6 * far)
    pitch = -math.degrees(math.atan2(height - 0.3, middle)) + rng.uniform(-3, 5)
    eye = (start, rng.uniform(-0.2, 0.2), height)
    camera = sample_camera(rng, aspect, eye, yaw=rng.normal() * 4, pitch=pitch, fov=(fov, fov), roll=1.5)
    reach = min(0.8 * math.tan(math.radians(fov / 2)), 0.46 * wide / middle)
    return camera, _Ground(start, rng.uniform(1.5, 2.2), far, reach, 0.0, 0.0)


def _add_table(
    builder: SceneBuilder, rng: Generator, aspect: float, difficulty: Difficulty, fov: float
) -> tuple[Camera, _Ground]:
    parts, length, width, height = table(rng, rng.uniform(0.65, 0.8))
    yaw = float(rng.choice([0.0, 90.0])) + rng.normal() * 12
    builder.add("table", parts, (0, 0, 0), turn(yaw))
    builder.add_ground(12)
    far = rng.uniform(1.3, 4.0)
    builder.add_wall(far, 10, 1.5, sigma=12)
    if rng.random() < 0.5:
        name = ("sofa", "curtain", "chair")[rng.integers(3)]
        at = (far - rng.uniform(0.4, 0.7), rng.uniform(-1.2, 1.2), 0)
        builder.add(name, FURNITURE[name](rng), at, turn(180))
    down = math.radians(rng.uniform(24, 38) + 30 * (1 - difficulty.occlusion) * rng.random())
    reach = rng.uniform(0.75, 1.15) * max(length, width) * 0.6 + 0.35
    eye = (-math.cos(down) * reach, rng.uniform(-0.1, 0.1), height + math.sin(down) * reach)
    pitch = -math.degrees(down) + rng.uniform(-2, 5)
    camera = sample_camera(rng, aspect, eye, yaw=rng.normal() * 4, pitch=pitch, fov=(fov, fov), roll=1.5)
    return camera, _Ground(0.0, 0.0, 0.86 * length, 0.86 * width, height, yaw)


def _add_yard(
    builder: SceneBuilder, rng: Generator, aspect: float, difficulty: Difficulty, fov: float
) -> tuple[Camera, _Ground]:
    builder.add_ground(300, "ground")
    half = rng.uniform(9, 16)
    for side in (-1, 1):
        if rng.random() < 0.5:
            add_facades(builder, rng, side, half)
    if rng.random() < 0.8:
        add_skyline(builder, rng, rng.uniform(60, 160))
    height = rng.uniform(1.5, 2.2) + rng.uniform(0.5, 3.5) * (1 - difficulty.occlusion)
    pitch = -math.degrees(math.atan2(height - 0.8, 9.0)) + rng.uniform(-2, 4)
    camera = sample_camera(rng, aspect, (0, 0, height), yaw=rng.normal() * 4, pitch=pitch, fov=(fov, fov), roll=1.5)
    reach = 0.8 * math.tan(math.radians(fov / 2))
    return camera, _Ground(0.0, rng.uniform(3.5, 5.0), rng.uniform(14, 26), reach, 0.0, 0.0)


_SURROUNDINGS = {
    "gathering on a floor": _add_floor,
    "gathering on a table": _add_table,
    "gathering in a yard": _add_yard,
}


def _add_objects(
    builder: SceneBuilder,
    rng: Generator,
    objects: list[tuple[str, Parts]],
    ground: _Ground,
    arrangement: str,
    difficulty: Difficulty,
) -> None:
    """Add objects without intersections; those for which no free place is found are left out."""
    spots = _sample_spots(rng, arrangement, len(objects))
    occupied: list[tuple[Floats, float]] = []
    distances: list[float] = []
    gap = math.log1p(difficulty.depth_gap)
    overlap = 1.0 - 0.25 * difficulty.occlusion
    facing = rng.uniform(0, 360)
    eye = ground.locate(-0.5, 0.5) if not ground.near else np.array([ground.start, 0.0, 0.0])
    for (name, parts), (farther, left) in zip(objects, spots, strict=True):
        radius = _measure_radius(parts)
        jitter = 0.02
        for _ in range(12):
            at = ground.locate(farther, left)
            away = math.log(float(np.linalg.norm(at[:2] - eye[:2])))
            free = all(float(np.linalg.norm(at - other)) > (radius + size) * overlap for other, size in occupied)
            if free and all(abs(away - other) >= gap for other in distances):
                angle = facing + rng.normal() * 12 if arrangement in ("row", "grid") else rng.uniform(0, 360)
                builder.add(name, parts, at, turn(angle))
                occupied.append((at, radius))
                distances.append(away)
                break
            jitter = min(0.5, jitter * 1.6)
            farther = float(np.clip(farther + rng.normal() * jitter, 0, 1))
            left = float(np.clip(left + rng.normal() * jitter, 0, 1))


def _measure_radius(parts: Parts) -> float:
    """Radius of the circle about the origin on which an object stands, from the boxes of its parts."""
    centers, axes = np.stack([part.center for part in parts]), np.stack([part.axes for part in parts])
    extents = np.array([part.shape.extents for part in parts])
    reach = np.abs(centers[:, :2]) + 0.8 * np.abs(axes[:, :2] * extents[:, None]).sum(axis=2)
    return float(np.linalg.norm(reach, axis=1).max()) * 0.85


def _sample_spots(rng: Generator, arrangement: str, count: int) -> list[tuple[float, float]]:
    """Points in the unit square, in random order."""
    if arrangement == "row":
        rows = int(rng.integers(1, 4))
        in_row = math.ceil(count / rows)
        lines = np.sort(rng.uniform(0.05, 0.95, rows))
        spots = [(lines[k // in_row], (k % in_row + 0.5) / in_row) for k in range(count)]
    elif arrangement == "ring":
        angles = np.arange(count) * 2 * math.pi / count + rng.uniform(0, 1)
        wide, deep = rng.uniform(0.3, 0.48, 2)
        spots = [(0.5 + deep * math.sin(a), 0.5 + wide * math.cos(a)) for a in angles.tolist()]
    elif arrangement == "grid":
        side = math.ceil(math.sqrt(count))
        spots = [((k // side + 0.5) / side, (k % side + 0.5) / side) for k in range(count)]
    else:
        spots = [(a, b) for a, b in rng.random((count, 2)).tolist()]
    jitter = rng.normal(size=(count, 2)) * 0.02
    order = rng.permutation(count).tolist()
    return [tuple(np.clip(np.array(spots[k]) + jitter[k], 0, 1).tolist()) for k in order]
