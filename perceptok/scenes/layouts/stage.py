"""The stage on which a layout puts its things, and the choice of cameras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from perceptok.scenes.primitives import Floats, Point, Primitive, place
from perceptok.scenes.raycast import Camera, Scene, SceneObject

__all__ = ["Stage", "camera"]

_CLEARANCE = 0.12
"""No solid comes nearer to the camera than this (metres)."""


class Stage:
    """Collects the objects of one scene, each in a colour of its own."""

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
        """Put one object on the stage: parts about the origin are scaled, rotated and moved to `at`."""
        red, green, blue = self._rng.uniform(0.15, 0.95, 3).tolist()
        self._objects.append(SceneObject(category, place(parts, at, rotation, scale), (red, green, blue)))

    def scene(self, kind: str, view: Camera) -> Scene:
        """The finished scene, without the objects that the camera would be in."""
        x, y, z = self._rng.normal(size=3).tolist()
        kept = _clear(self._objects, view.position)
        return Scene(tuple(kept), view, kind, light=(x, y, abs(z) + 1.0))


def camera(
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
    turned = float(np.clip(rng.normal() * roll, -15, 15))
    if rng.random() < 0.03:
        turned += float(rng.choice([90, 180, 270]))
    place_at = np.asarray(position, dtype=np.float64)
    return Camera.aimed(place_at, yaw=yaw, pitch=pitch, roll=turned, fov=rng.uniform(*fov), aspect=aspect)


def _clear(objects: Sequence[SceneObject], position: Floats) -> list[SceneObject]:
    """The objects none of whose solid parts has the camera in its bounding box, or just before it."""
    solids = [(number, part) for number, thing in enumerate(objects) for part in thing.primitives if part.shape.solid]
    if not solids:
        return list(objects)
    axes = np.stack([part.axes for _, part in solids])
    offsets = position - np.stack([part.center for _, part in solids])
    reach = np.array([part.shape.extents for _, part in solids])
    local = np.abs(np.einsum("nij,nj->ni", np.linalg.inv(axes), offsets))
    margin = _CLEARANCE / np.linalg.norm(axes, axis=1)
    inside = np.nonzero((local < reach + margin).all(axis=1))[0]
    dropped = {solids[k][0] for k in inside.tolist()}
    return [thing for number, thing in enumerate(objects) if number not in dropped]
