"""Analytic surfaces a ray can hit: canonical shapes, and primitives that place them in the world.

A shape lives in its own canonical frame, where it is about one unit large; a primitive is a shape under an
affine map. Such a map keeps the ray parameter: distances found in the canonical frame hold in the world.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bowl",
    "Box",
    "Capsule",
    "Disc",
    "Frustum",
    "Leaf",
    "Point",
    "Primitive",
    "Quad",
    "Shape",
    "Sphere",
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


Array = NDArray[np.float32]
Floats = NDArray[np.float64]
Triple = tuple[Array, Array, Array]
"""x, y and z components, each an array of one value per ray (mutually broadcastable)."""

_ONE = np.float32(1)
_AWAY_FROM_ZERO = np.float32(1e-12)


class Shape(ABC):
    """A two-sided surface in its canonical frame.

    `extents` is the half size of the box around the canonical origin that holds the surface.
    """

    extents: tuple[float, float, float] = (1.0, 1.0, 1.0)
    solid: ClassVar[bool] = True
    """Whether the surface encloses a volume that a camera should not be in."""

    def entry(self, point: Triple, direction: Triple, start: float) -> Array:
        """The first hit of each ray with this shape; see `hits`."""
        return self.hits(point, direction, start, self.parameter)

    @abstractmethod
    def hits(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        """Smallest s >= start at which `point + s * direction` lies on the surface of a shape of this family.

        Args:
            point: A point on each ray; any choice is right, one near the surface keeps float32 accurate.
            direction: The direction of each ray, of any length.
            start: Hits before this s do not count.
            parameter: That of each ray's own shape, or one for all.

        Returns:
            One float32 per ray; inf or NaN where the ray misses.
        """

    @property
    def family(self) -> tuple[object, ...]:
        """What shapes must share for `gradients` of one to serve all of them."""
        return (type(self),)

    @property
    def parameter(self) -> float:
        """The number by which shapes of one family differ; 0 where they do not."""
        return 0.0

    @abstractmethod
    def gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:
        """Gradient directions, of any length and sign, at points of the surfaces of this family.

        Args:
            x: First canonical coordinate of each point.
            y: Second.
            z: Third.
            parameter: That of each point's own shape, or one for all.
        """

    def normal(self, points: Floats) -> Floats:
        """Gradient directions, of any length and sign, at points (N, 3) on the surface -> (N, 3)."""
        x, y, z = points.T
        return np.stack(np.broadcast_arrays(*self.gradients(x, y, z, self.parameter)), axis=1)


def _first(candidates: Sequence[Array], start: Array | float) -> Array:
    usable = [np.where(candidate >= start, candidate, np.float32(np.inf)) for candidate in candidates]
    return reduce(np.minimum, usable)


def _single(value: Floats | float) -> Array:
    return np.asarray(value, dtype=np.float32)


def _roots(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Both roots of a s^2 + 2 b s + c, unsorted; NaN where there are none."""
    root = np.sqrt(b * b - a * c)
    inverse = _ONE / (a + _AWAY_FROM_ZERO)
    return (-b - root) * inverse, (root - b) * inverse


@dataclass(frozen=True)
class _Flat(Shape):
    """A patch of the plane z = 0."""

    extents = (1.0, 1.0, 0.0)
    solid: ClassVar[bool] = False

    @abstractmethod
    def inside(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Whether points of the plane belong to the patch."""

    def hits(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:  # noqa: ARG002
        """The one hit of the plane, where it belongs to the patch."""
        s: Array = -point[2] * (_ONE / (direction[2] + _AWAY_FROM_ZERO))
        x: Array = point[0] + s * direction[0]
        y: Array = point[1] + s * direction[1]
        return np.where(self.inside(x, y) & (s >= start), s, np.float32(np.inf))

    def gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:  # noqa: ARG002
        """The plane's."""
        return np.zeros_like(x), np.zeros_like(y), np.ones_like(z)


@dataclass(frozen=True)
class Quad(_Flat):
    """The square |x|, |y| <= 1 at z = 0."""

    def inside(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Whether points of the plane belong to the square."""
        return np.maximum(np.abs(x), np.abs(y)) <= 1


@dataclass(frozen=True)
class Disc(_Flat):
    """The disc x^2 + y^2 <= 1 at z = 0."""

    def inside(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Whether points of the plane belong to the disc."""
        return x * x + y * y <= 1


@dataclass(frozen=True)
class Leaf(_Flat):
    """A pointed leaf |y| <= 1 - x^2 at z = 0, its tips at x = -1 and x = 1."""

    def inside(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Whether points of the plane belong to the leaf."""
        return np.abs(y) <= 1 - x * x


@dataclass(frozen=True)
class Box(Shape):
    """The cube |x|, |y|, |z| <= 1."""

    def hits(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:  # noqa: ARG002
        """Where the ray enters the last of three slabs or leaves the first (Kay and Kajiya, 1986)."""
        inverses = [_ONE / (d + _AWAY_FROM_ZERO) for d in direction]
        middles = [-p * inverse for p, inverse in zip(point, inverses, strict=True)]
        halves = [np.abs(inverse) for inverse in inverses]
        near = reduce(np.maximum, [m - h for m, h in zip(middles, halves, strict=True)])
        far = reduce(np.minimum, [m + h for m, h in zip(middles, halves, strict=True)])
        return np.where(near <= far, _first((near, far), start), np.float32(np.inf))

    def gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:  # noqa: ARG002
        """Along the axis in which the point lies farthest out."""
        out_x, out_y, out_z = np.abs(x), np.abs(y), np.abs(z)
        on_x = (out_x >= out_y) & (out_x >= out_z)
        on_y = ~on_x & (out_y >= out_z)
        return on_x.astype(x.dtype), on_y.astype(x.dtype), (~(on_x | on_y)).astype(x.dtype)


@dataclass(frozen=True)
class Sphere(Shape):
    """The unit sphere."""

    def hits(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:  # noqa: ARG002
        """The first root of a quadratic."""
        return _first(_sphere_roots(point, direction, 0.0), start)

    def gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:  # noqa: ARG002
        """The point itself."""
        return x, y, z


@dataclass(frozen=True)
class Bowl(Shape):
    """The shell of the unit sphere below z = `rim`, open above."""

    rim: float = 0.0
    solid: ClassVar[bool] = False

    @property
    def parameter(self) -> float:
        """Where the shell ends."""
        return self.rim

    def hits(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        """The first root of a quadratic that lies below the rim."""
        rim = _single(parameter)
        return _first(
            [
                np.where(point[2] + s * direction[2] <= rim, s, np.float32(np.inf))
                for s in _sphere_roots(point, direction, 0.0)
            ],
            start,
        )

    def gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:  # noqa: ARG002
        """The point itself."""
        return x, y, z


def _sphere_roots(point: Triple, direction: Triple, height: float) -> tuple[Array, Array]:
    (x, y, z), (dx, dy, dz) = point, direction
    z = z - np.float32(height)
    return _roots(dx * dx + dy * dy + dz * dz, x * dx + y * dy + z * dz, x * x + y * y + z * z - 1)


@dataclass(frozen=True)
class Frustum(Shape):
    """A cylinder or cone around z, |z| <= 1: radius 1 at the bottom, `top` (0 .. 1) at the top.

    Attributes:
        top: Radius at z = 1.
        closed: With end discs (a solid), or an open tube: a cup's wall, a lamp shade, a round room.
    """

    top: float = 1.0
    closed: bool = True

    def hits(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        """The first of the side's two roots and the ends' hits."""
        (x, y, z), (dx, dy, dz) = point, direction
        a, b, c = dx * dx + dy * dy, x * dx + y * dy, x * x + y * y
        slope = _single((parameter - 1) / 2)
        radius = _single((parameter + 1) / 2) + slope * z
        growth = slope * dz
        a, b, c = a - growth * growth, b - growth * radius, c - radius * radius
        hits = [np.where(np.abs(z + s * dz) <= 1, s, np.float32(np.inf)) for s in _roots(a, b, c)]
        if self.closed:
            inverse = _ONE / (dz + _AWAY_FROM_ZERO)
            for height, rim in ((-1.0, 1.0), (1.0, parameter)):
                s = (np.float32(height) - z) * inverse
                px, py = x + s * dx, y + s * dy
                inside = (px * px + py * py <= _single(rim * rim)) & (_single(rim) > 0)
                hits.append(np.where(inside, s, np.float32(np.inf)))
        return _first(hits, start)

    @property
    def family(self) -> tuple[object, ...]:
        """Closed ones and tubes."""
        return (type(self), self.closed)

    @property
    def parameter(self) -> float:
        """The radius at the top."""
        return self.top

    def gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:
        """The side's gradient, or z where an end disc is nearer."""
        slope = (parameter - 1) / 2
        radius = (parameter + 1) / 2 + slope * z
        side = -slope * radius
        if not self.closed:
            return x, y, np.asarray(side, dtype=x.dtype)
        on_cap = (np.abs(1 - np.abs(z)) < np.abs(np.hypot(x, y) - radius)).astype(x.dtype)
        on_side = 1 - on_cap  # products, as choices between random pixels are slow
        return x * on_side, y * on_side, np.asarray(side * on_side + on_cap, dtype=x.dtype)


@dataclass(frozen=True)
class Capsule(Shape):
    """All points at distance 1 from the segment |z| <= `half_length`; seen from outside only.

    Attributes:
        half_length: Half the length of the segment, in radii.
    """

    half_length: float = 1.0

    @property
    def extents(self) -> tuple[float, float, float]:  # type: ignore[override]
        """Half size of the box around it."""
        return (1.0, 1.0, self.half_length + 1.0)

    def hits(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        """The first of the hits of the side and of the two end spheres."""
        half = _single(parameter)
        (x, y, z), (dx, dy, dz) = point, direction
        a, b, c = dx * dx + dy * dy, x * dx + y * dy, x * x + y * y - 1
        side, _ = _roots(a, b, c)
        hits = [np.where(np.abs(z + side * dz) <= half, side, np.float32(np.inf))]
        a = a + dz * dz
        for height in (-half, half):
            above = z - height
            hits.append(_roots(a, b + above * dz, c + above * above)[0])
        return _first(hits, start)

    @property
    def parameter(self) -> float:
        """Half the length of the segment."""
        return self.half_length

    def gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:
        """Away from the nearest point of the segment."""
        return x, y, np.asarray(z - np.clip(z, -parameter, parameter), dtype=x.dtype)


@dataclass(frozen=True, eq=False)
class Primitive:
    """A shape placed in the world: canonical point p lies at `center + axes @ p`, in metres.

    Attributes:
        shape: The canonical shape.
        center: (3,) float64, where the canonical origin lies.
        axes: (3, 3) float64, invertible; its columns are the images of the canonical x, y and z unit vectors.
    """

    shape: Shape
    center: Floats
    axes: Floats


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
