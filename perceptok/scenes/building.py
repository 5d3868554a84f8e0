"""Primitives by their everyday measures, and how to move a group of them to its place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from perceptok.scenes.primitives import (
    Bowl,
    Box,
    Capsule,
    Disc,
    Floats,
    Frustum,
    Leaf,
    Primitive,
    Quad,
    Shape,
    Sphere,
)

__all__ = [
    "Point",
    "bowl",
    "box",
    "capsule",
    "cylinder",
    "disc",
    "ellipsoid",
    "leaf",
    "place",
    "quad",
    "tilt",
    "turn",
]

Point = Sequence[float] | Floats
"""World or object coordinates x, y, z in metres."""


def turn(degrees: float) -> Floats:
    """Rotation about the vertical, counter-clockwise from above, as (3, 3)."""
    a = math.radians(degrees)
    return np.array([[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0], [0.0, 0.0, 1.0]])


def tilt(degrees: float) -> Floats:
    """Rotation about x: tips the z axis towards -y, as (3, 3)."""
    a = math.radians(degrees)
    return np.array([[1.0, 0.0, 0.0], [0.0, math.cos(a), -math.sin(a)], [0.0, math.sin(a), math.cos(a)]])


def box(center: Point, size: Point, rotation: Floats | None = None) -> Primitive:
    """A box by its full edge lengths."""
    return _scaled(Box(), center, np.asarray(size, dtype=np.float64) / 2, rotation)


def ellipsoid(center: Point, radii: Point | float, rotation: Floats | None = None) -> Primitive:
    """An ellipsoid by its three radii, or a sphere by one."""
    return _scaled(Sphere(), center, np.broadcast_to(np.asarray(radii, dtype=np.float64), 3), rotation)


def bowl(center: Point, radii: Point | float, rim: float = 0.0, rotation: Floats | None = None) -> Primitive:
    """The shell of an ellipsoid below `rim` (in units of its third radius)."""
    return _scaled(Bowl(rim), center, np.broadcast_to(np.asarray(radii, dtype=np.float64), 3), rotation)


def cylinder(bottom: Point, top: Point, radius: float, taper: float = 1.0, *, closed: bool = True) -> Primitive:
    """A cylinder or cone between two points; `taper` (0 .. 1) is the top's radius over the bottom's."""
    center, frame, half = _along(bottom, top)
    return Primitive(Frustum(taper, closed), center, frame * np.array([radius, radius, half]))


def capsule(start: Point, end: Point, radius: float) -> Primitive:
    """All points within `radius` of the line between two points."""
    center, frame, half = _along(start, end)
    return Primitive(Capsule(half / radius), center, frame * radius)


def disc(center: Point, normal: Point, radius: float, stretch: float = 1.0) -> Primitive:
    """A flat disc; `stretch` makes it an ellipse."""
    frame = _frame(normal)
    return Primitive(Disc(), np.asarray(center, dtype=np.float64), frame * np.array([radius * stretch, radius, 1.0]))


def leaf(stem: Point, tip: Point, width: float, roll: float = 0.0) -> Primitive:
    """A flat pointed leaf from its stem to its tip; `roll` turns it about that line, in degrees."""
    center, frame, half = _along(stem, tip)
    a = math.radians(roll)
    side = frame[:, 0] * math.cos(a) + frame[:, 1] * math.sin(a)
    axes = np.stack([frame[:, 2] * half, side * (width / 2), _cross(frame[:, 2], side)], axis=1)
    return Primitive(Leaf(), center, axes)


def quad(center: Point, first: Point, second: Point) -> Primitive:
    """A parallelogram: its centre, and the vectors from there to the middles of two neighbouring edges."""
    u, v = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    normal = _cross(u, v)
    return Primitive(
        Quad(),
        np.asarray(center, dtype=np.float64),
        np.stack([u, v, normal / np.linalg.norm(normal)], axis=1),
    )


def place(
    parts: Sequence[Primitive],
    at: Point = (0.0, 0.0, 0.0),
    rotation: Floats | None = None,
    scale: float = 1.0,
) -> tuple[Primitive, ...]:
    """The parts, scaled and rotated about the origin, then moved by `at`."""
    if not parts:
        return ()
    motion = (np.eye(3) if rotation is None else rotation) * scale
    centers = np.stack([part.center for part in parts]) @ motion.T + np.asarray(at, dtype=np.float64)
    axes = motion @ np.stack([part.axes for part in parts])
    return tuple(Primitive(part.shape, c, a) for part, c, a in zip(parts, centers, axes, strict=True))


def _cross(u: Floats, v: Floats) -> Floats:
    # np.cross takes 43 us, this a tenth; a scene may ask for a thousand of them.
    (a, b, c), (d, e, f) = u.tolist(), v.tolist()
    return np.array([b * f - c * e, c * d - a * f, a * e - b * d])


def _scaled(shape: Shape, center: Point, half: Floats, rotation: Floats | None) -> Primitive:
    axes = np.diag(half) if rotation is None else rotation * half
    return Primitive(shape, np.asarray(center, dtype=np.float64), axes)


def _frame(direction: Point) -> Floats:
    """A right-handed orthonormal frame whose third column points along `direction`."""
    x, y, z = (float(value) for value in direction)
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    flat = math.hypot(x, y)
    if flat < 1e-9:
        return np.diag([1.0, 1.0 if z > 0 else -1.0, 1.0 if z > 0 else -1.0])
    ux, uy = -y / flat, x / flat
    return np.array([[ux, -z * uy, x], [uy, z * ux, y], [0.0, x * uy - y * ux, z]])


def _along(start: Point, end: Point) -> tuple[Floats, Floats, float]:
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    return (a + b) / 2, _frame(b - a), float(math.dist(a, b)) / 2
