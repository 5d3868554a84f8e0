"""Analytic surfaces that rays can hit: canonical shapes, and primitives that place them in the world.

A shape is defined in its own canonical frame, where it is about one unit large; a primitive is a shape under an
affine map. Affine maps preserve the ray parameter: distances found in the canonical frame hold in the world.
"""

# ruff: noqa: ARG002, D102 - shapes implement the two documented methods of `Shape`; few need all the arguments
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
Point = Sequence[float] | Floats
"""World or object coordinates x, y, z in metres."""
Triple = tuple[Array, Array, Array]
"""x, y and z components, each an array with one value per ray (mutually broadcastable)."""

_ONE = np.float32(1)
_MISS = np.float32(np.inf)
_EPSILON = np.float32(1e-12)
"""Added to divisors, so that they are never 0."""


class Shape(ABC):
    """A two-sided surface in its canonical frame.

    Shapes of one `family` differ by one number, their `parameter`, so that many of them are computed at once.
    `extents` is the half size of the box around the canonical origin that contains the surface.
    """

    extents: tuple[float, float, float] = (1.0, 1.0, 1.0)
    solid: ClassVar[bool] = True
    """Whether the surface encloses a volume that a camera should not be in."""

    @abstractmethod
    def intersect(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        """Smallest s >= start at which `point + s * direction` lies on the surface of a shape of this family.

        Args:
            point: Any point on each ray; one near the surface keeps float32 accurate.
            direction: The direction of each ray, of any length.
            start: Hits before this s do not count.
            parameter: The parameter of the shape of each ray, or of all rays.

        Returns:
            One float32 per ray; inf or NaN where the ray misses.
        """

    @abstractmethod
    def compute_gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:
        """Surface normals of any length and sign at points of this family's surfaces, in canonical coordinates."""

    @property
    def family(self) -> tuple[object, ...]:
        """Equal for shapes that `intersect` and `compute_gradients` of one of them serve."""
        return (type(self),)

    @property
    def parameter(self) -> float:
        """The number by which shapes of one family differ; 0 where they do not."""
        return 0.0


def _select_first(candidates: Sequence[Array], start: Array | float) -> Array:
    return reduce(np.minimum, [np.where(candidate >= start, candidate, _MISS) for candidate in candidates])


def _to_float32(value: Floats | float) -> Array:
    return np.asarray(value, dtype=np.float32)


def _solve_quadratic(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Both roots of a s^2 + 2 b s + c, unsorted; NaN where there are none."""
    root = np.sqrt(b * b - a * c)
    inverse = _ONE / (a + _EPSILON)
    return (-b - root) * inverse, (root - b) * inverse


@dataclass(frozen=True)
class _Flat(Shape):
    """A patch of the plane z = 0."""

    extents = (1.0, 1.0, 0.0)
    solid: ClassVar[bool] = False

    @abstractmethod
    def _contains(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Whether points of the plane belong to the patch."""

    def intersect(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        s: Array = -point[2] * (_ONE / (direction[2] + _EPSILON))
        inside = self._contains(point[0] + s * direction[0], point[1] + s * direction[1])
        return np.where(inside & (s >= start), s, _MISS)

    def compute_gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:
        return np.zeros_like(x), np.zeros_like(y), np.ones_like(z)


@dataclass(frozen=True)
class Quad(_Flat):
    """The square |x|, |y| <= 1 at z = 0."""

    def _contains(self, x: Array, y: Array) -> NDArray[np.bool_]:
        return np.maximum(np.abs(x), np.abs(y)) <= 1


@dataclass(frozen=True)
class Disc(_Flat):
    """The disc x^2 + y^2 <= 1 at z = 0."""

    def _contains(self, x: Array, y: Array) -> NDArray[np.bool_]:
        return x * x + y * y <= 1


@dataclass(frozen=True)
class Leaf(_Flat):
    """A pointed leaf |y| <= 1 - x^2 at z = 0, its tips at x = -1 and x = 1."""

    def _contains(self, x: Array, y: Array) -> NDArray[np.bool_]:
        return np.abs(y) <= 1 - x * x


@dataclass(frozen=True)
class Box(Shape):
    """The cube |x|, |y|, |z| <= 1, intersected by the slab method (Kay and Kajiya, 1986)."""

    def intersect(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        inverses = [_ONE / (d + _EPSILON) for d in direction]
        middles = [-p * inverse for p, inverse in zip(point, inverses, strict=True)]
        halves = [np.abs(inverse) for inverse in inverses]
        near = reduce(np.maximum, [m - h for m, h in zip(middles, halves, strict=True)])
        far = reduce(np.minimum, [m + h for m, h in zip(middles, halves, strict=True)])
        return np.where(near <= far, _select_first((near, far), start), _MISS)

    def compute_gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:
        out_x, out_y, out_z = np.abs(x), np.abs(y), np.abs(z)
        on_x = (out_x >= out_y) & (out_x >= out_z)
        on_y = ~on_x & (out_y >= out_z)
        return on_x.astype(x.dtype), on_y.astype(x.dtype), (~(on_x | on_y)).astype(x.dtype)


class _Round(Shape):
    """A part of the unit sphere."""

    def compute_gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:
        return x, y, z


@dataclass(frozen=True)
class Sphere(_Round):
    """The unit sphere."""

    def intersect(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        return _select_first(_intersect_sphere(point, direction), start)


@dataclass(frozen=True)
class Bowl(_Round):
    """The shell of the unit sphere below z = `rim`, open above."""

    rim: float = 0.0
    solid: ClassVar[bool] = False

    @property
    def parameter(self) -> float:
        """The height of the rim."""
        return self.rim

    def intersect(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        rim, roots = _to_float32(parameter), _intersect_sphere(point, direction)
        return _select_first([np.where(point[2] + s * direction[2] <= rim, s, _MISS) for s in roots], start)


def _intersect_sphere(point: Triple, direction: Triple) -> tuple[Array, Array]:
    (x, y, z), (dx, dy, dz) = point, direction
    return _solve_quadratic(dx * dx + dy * dy + dz * dz, x * dx + y * dy + z * dz, x * x + y * y + z * z - 1)


@dataclass(frozen=True)
class Frustum(Shape):
    """A cylinder or cone around z, |z| <= 1: radius 1 at the bottom, `top` (0 .. 1) at the top.

    Attributes:
        top: Radius at z = 1.
        closed: With end discs (a solid), or an open tube: a cup's wall, a lamp shade, a round hall.
    """

    top: float = 1.0
    closed: bool = True

    @property
    def family(self) -> tuple[object, ...]:
        """Solids and tubes are two families."""
        return (type(self), self.closed)

    @property
    def parameter(self) -> float:
        """The radius at the top."""
        return self.top

    def intersect(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        (x, y, z), (dx, dy, dz) = point, direction
        a, b, c = dx * dx + dy * dy, x * dx + y * dy, x * x + y * y
        slope = _to_float32((parameter - 1) / 2)
        radius = _to_float32((parameter + 1) / 2) + slope * z
        growth = slope * dz
        a, b, c = a - growth * growth, b - growth * radius, c - radius * radius
        hits = [np.where(np.abs(z + s * dz) <= 1, s, _MISS) for s in _solve_quadratic(a, b, c)]
        if self.closed:
            inverse = _ONE / (dz + _EPSILON)
            for height, rim in ((-1.0, 1.0), (1.0, parameter)):
                s = (np.float32(height) - z) * inverse
                px, py = x + s * dx, y + s * dy
                inside = (px * px + py * py <= _to_float32(rim * rim)) & (_to_float32(rim) > 0)
                hits.append(np.where(inside, s, _MISS))
        return _select_first(hits, start)

    def compute_gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:
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
    """All points at distance 1 from the segment |z| <= `half_length`, in radii; only hit from outside."""

    half_length: float = 1.0

    @property
    def extents(self) -> tuple[float, float, float]:  # type: ignore[override]
        """Half the size of its bounding box."""
        return (1.0, 1.0, self.half_length + 1.0)

    @property
    def parameter(self) -> float:
        """Half the length of the segment."""
        return self.half_length

    def intersect(self, point: Triple, direction: Triple, start: Array | float, parameter: Floats | float) -> Array:
        half = _to_float32(parameter)
        (x, y, z), (dx, dy, dz) = point, direction
        a, b, c = dx * dx + dy * dy, x * dx + y * dy, x * x + y * y - 1
        side, _ = _solve_quadratic(a, b, c)
        hits = [np.where(np.abs(z + side * dz) <= half, side, _MISS)]
        a = a + dz * dz
        for height in (-half, half):
            above = z - height
            hits.append(_solve_quadratic(a, b + above * dz, c + above * above)[0])
        return _select_first(hits, start)

    def compute_gradients(self, x: Array, y: Array, z: Array, parameter: Array | float) -> Triple:
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


Parts = list[Primitive]


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
    return _make_scaled(Box(), center, np.asarray(size, dtype=np.float64) / 2, rotation)


def ellipsoid(center: Point, radii: Point | float, rotation: Floats | None = None) -> Primitive:
    """An ellipsoid by its three radii, or a sphere by one."""
    return _make_scaled(Sphere(), center, np.broadcast_to(np.asarray(radii, dtype=np.float64), 3), rotation)


def bowl(center: Point, radii: Point | float, rim: float = 0.0, rotation: Floats | None = None) -> Primitive:
    """The shell of an ellipsoid below `rim` (in units of its third radius)."""
    return _make_scaled(Bowl(rim), center, np.broadcast_to(np.asarray(radii, dtype=np.float64), 3), rotation)


def cylinder(bottom: Point, top: Point, radius: float, taper: float = 1.0, *, closed: bool = True) -> Primitive:
    """A cylinder or cone between two points; `taper` (0 .. 1) is the top's radius over the bottom's."""
    center, frame, half = _align_axis(bottom, top)
    return Primitive(Frustum(taper, closed), center, frame * np.array([radius, radius, half]))


def capsule(start: Point, end: Point, radius: float) -> Primitive:
    """All points within `radius` of the line between two points."""
    center, frame, half = _align_axis(start, end)
    return Primitive(Capsule(half / radius), center, frame * radius)


def disc(center: Point, normal: Point, radius: float, stretch: float = 1.0) -> Primitive:
    """A flat disc; `stretch` makes it an ellipse."""
    frame = _make_frame(normal)
    return Primitive(Disc(), np.asarray(center, dtype=np.float64), frame * np.array([radius * stretch, radius, 1.0]))


def leaf(stem: Point, tip: Point, width: float, roll: float = 0.0) -> Primitive:
    """A flat pointed leaf from its stem to its tip; `roll` turns it about that line, in degrees."""
    center, frame, half = _align_axis(stem, tip)
    a = math.radians(roll)
    side = frame[:, 0] * math.cos(a) + frame[:, 1] * math.sin(a)
    axes = np.stack([frame[:, 2] * half, side * (width / 2), _cross(frame[:, 2], side)], axis=1)
    return Primitive(Leaf(), center, axes)


def quad(center: Point, first: Point, second: Point) -> Primitive:
    """A parallelogram: its centre, and the vectors from there to the middles of two neighbouring edges."""
    u, v = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    normal = _cross(u, v)
    axes = np.stack([u, v, normal / np.linalg.norm(normal)], axis=1)
    return Primitive(Quad(), np.asarray(center, dtype=np.float64), axes)


def place(
    parts: Sequence[Primitive], at: Point = (0.0, 0.0, 0.0), rotation: Floats | None = None, scale: float = 1.0
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


def _make_scaled(shape: Shape, center: Point, half: Floats, rotation: Floats | None) -> Primitive:
    axes = np.diag(half) if rotation is None else rotation * half
    return Primitive(shape, np.asarray(center, dtype=np.float64), axes)


def _make_frame(direction: Point) -> Floats:
    """A right-handed orthonormal frame whose third column points along `direction`."""
    x, y, z = (float(value) for value in direction)
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    flat = math.hypot(x, y)
    if flat < 1e-9:
        return np.diag([1.0, 1.0 if z > 0 else -1.0, 1.0 if z > 0 else -1.0])
    ux, uy = -y / flat, x / flat
    return np.array([[ux, -z * uy, x], [uy, z * ux, y], [0.0, x * uy - y * ux, z]])


def _align_axis(start: Point, end: Point) -> tuple[Floats, Floats, float]:
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    return (a + b) / 2, _make_frame(b - a), float(math.dist(a, b)) / 2
