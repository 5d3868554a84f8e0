"""A builder that collects the objects of a scene, and the sampling of cameras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from perceptok.scenes.primitives import Floats, Point, Primitive, place, quad, turn
from perceptok.scenes.raycast import Camera, Scene, SceneObject

_CLEARANCE = 0.12
"""No solid comes nearer to the camera than this (metres)."""


class SceneBuilder:
    """Collects the objects of a scene, each in a color of its own."""

    def __init__(self, rng: Generator) -> None:
        self._rng = rng
        self._objects: list[SceneObject] = []

    def add(
        self,
        category: str,
        parts: Sequence[Primitive],
        at: Point = (0.0, 0.0, 0.0),
        rotation: Floats | None = None,
        scale: float = 1.0,
    ) -> None:
        """Add an object: parts about the origin are scaled, rotated and moved to `at`."""
        red, green, blue = self._rng.uniform(0.15, 0.95, 3).tolist()
        self._objects.append(SceneObject(category, place(parts, at, rotation, scale), (red, green, blue)))

    def add_ground(self, reach: float, category: str = "floor", height: float = 0.0) -> None:
        """Add a horizontal plane that extends `reach` metres from the origin in x and y."""
        self.add(category, [quad((0, 0, height), (reach, 0, 0), (0, reach, 0))])

    def add_wall(self, away: float, half_width: float, half_height: float, sigma: float) -> None:
        """Add a wall on the floor `away` metres in front, turned by a normal angle of deviation `sigma` degrees."""
        wall = quad((away, 0, half_height), (0, half_width, 0), (0, 0, half_height))
        self.add("wall", [wall], rotation=turn(self._rng.normal() * sigma))

    def build(self, kind: str, camera: Camera) -> Scene:
        """The scene, without the objects that enclose the camera."""
        x, y, z = self._rng.normal(size=3).tolist()
        objects = _remove_enclosing(self._objects, camera.position)
        return Scene(tuple(objects), camera, kind, light=(x, y, abs(z) + 1.0))


def sample_camera(
    rng: Generator,
    aspect: float,
    position: Point,
    *,
    yaw: float = 0.0,
    pitch: float = 0.0,
    fov: tuple[float, float] = (45.0, 80.0),
    roll: float = 3.0,
) -> Camera:
    """A camera with a random field of view and a roll of standard deviation `roll` degrees."""
    angle = float(np.clip(rng.normal() * roll, -15, 15))
    if rng.random() < 0.03:
        angle += float(rng.choice([90, 180, 270]))
    center = np.asarray(position, dtype=np.float64)
    return Camera.aimed(center, yaw=yaw, pitch=pitch, roll=angle, fov=rng.uniform(*fov), aspect=aspect)


def _remove_enclosing(objects: Sequence[SceneObject], position: Floats) -> list[SceneObject]:
    """The objects none of whose solid parts has the camera in, or directly in front of, its bounding box."""
    solids = [(number, part) for number, item in enumerate(objects) for part in item.primitives if part.shape.solid]
    if not solids:
        return list(objects)
    axes = np.stack([part.axes for _, part in solids])
    offsets = position - np.stack([part.center for _, part in solids])
    extents = np.array([part.shape.extents for _, part in solids])
    local = np.abs(np.einsum("nij,nj->ni", np.linalg.inv(axes), offsets))
    margin = _CLEARANCE / np.linalg.norm(axes, axis=1)
    inside = np.nonzero((local < extents + margin).all(axis=1))[0]
    removed = {solids[number][0] for number in inside.tolist()}
    return [item for number, item in enumerate(objects) if number not in removed]
