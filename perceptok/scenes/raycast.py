"""The pinhole camera. World: metres, z up. Camera: x right, y down, z forward; depth is z, not the distance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from perceptok.errors import ConfigError
from perceptok.scenes.primitives import Floats, Primitive, Triple

__all__ = [
    "NEAREST",
    "PIECE",
    "Camera",
    "InstanceBox",
    "Rendering",
    "Scene",
    "SceneObject",
    "Surfaces",
    "cast",
    "render",
    "surfaces_of",
]


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        position: (3,) float64, metres.
        rotation: (3, 3) float64, world from camera; its columns are the camera's right, down and forward.
        fov: Horizontal field of view in degrees, 1 .. 170.
        aspect: Width / height of the view. It need not be that of the picture: a square picture of a 4:3 view
            is the squash that square codecs see.
    """

    position: Floats
    rotation: Floats
    fov: float = 60.0
    aspect: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.fov <= 170:
            raise ConfigError(f"fov must be 1 .. 170 degrees; got {self.fov}")
        if not self.aspect > 0:
            raise ConfigError(f"aspect (width / height) must be positive; got {self.aspect}")

    @classmethod
    def aimed(
        cls,
        position: tuple[float, float, float] | Floats,
        *,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
        fov: float = 60.0,
        aspect: float = 1.0,
    ) -> Camera:
        """A camera by its angles in degrees.

        Yaw 0 looks along +x and grows towards +y; pitch -90 looks straight down; roll is clockwise.
        """
        a, p, r = math.radians(yaw), math.radians(pitch), math.radians(roll)
        forward = np.array([math.cos(a) * math.cos(p), math.sin(a) * math.cos(p), math.sin(p)])
        right = np.array([math.sin(a), -math.cos(a), 0.0])
        down = np.cross(forward, right)
        turned = (
            right * math.cos(r) + down * math.sin(r),
            down * math.cos(r) - right * math.sin(r),
            forward,
        )
        return cls(np.asarray(position, dtype=np.float64), np.stack(turned, axis=1), fov, aspect)

    @property
    def half_view(self) -> tuple[float, float]:
        """Tangents of half the horizontal and half the vertical field of view."""
        half = math.tan(math.radians(self.fov) / 2)
        return half, half / self.aspect

    def project(self, points: Floats, height: int, width: int) -> Floats:
        """World points (..., 3) -> (..., 3): x and y in pixels (0 is the edge), and z-depth in metres."""
        local = (points - self.position) @ self.rotation
        half_x, half_y = self.half_view
        x = (local[..., 0] / local[..., 2] / half_x + 1) * width / 2
        y = (local[..., 1] / local[..., 2] / half_y + 1) * height / 2
        return np.stack([x, y, local[..., 2]], axis=-1)

    def unproject(self, pixels: Floats, height: int, width: int) -> Floats:
        """The inverse of `project`: (..., 3) of x, y in pixels and z-depth -> world points (..., 3)."""
        half_x, half_y = self.half_view
        x = (2 * pixels[..., 0] / width - 1) * half_x
        y = (2 * pixels[..., 1] / height - 1) * half_y
        return np.asarray(
            (np.stack([x, y, np.ones_like(x)], axis=-1) * pixels[..., 2:]) @ self.rotation.T + self.position
        )


Planes = NDArray[np.float32]
PIECE = 24_000
"""Larger arrays of float32 than this are handed back to the system at every step, which costs more than the step."""

Kind = TypeVar("Kind", bound=np.generic)


class Surfaces(NamedTuple):
    """The N pixels whose ray hit something, those of one primitive together.

    Attributes:
        pixels: (N,) int64, position in the flattened picture.
        numbers: (K,) int64, the primitives that are seen, in the order of their pixels.
        counts: (K,) int64, how many pixels each has.
        points: (3, N) float32, in the world, metres.
        local: (3, N) float32, in the primitive's canonical frame.
        gradients: (3, N) float32, gradient directions there, of any length and sign.
        normals: (3, N) float32, unit length, in the world, turned towards the camera.
    """

    pixels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    counts: NDArray[np.int64]
    points: Planes
    local: Planes
    gradients: Planes
    normals: Planes

    def each(self, table: NDArray[Kind]) -> NDArray[Kind]:
        """Values of primitives (..., P) at their pixels (..., N)."""
        # Repeating runs takes a tenth of the time of looking up every pixel.
        return np.repeat(table[..., self.numbers], self.counts, axis=-1)

    def pieces(self, size: int = PIECE) -> Iterator[Surfaces]:
        """The same pixels, at most `size` at a time: views that stay in a processor's cache."""
        ends = np.cumsum(self.counts)
        for start in range(0, self.pixels.size, size):
            stop = min(start + size, self.pixels.size)
            first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop, side="left") + 1
            counts = self.counts[first:last].copy()
            counts[0] = ends[first] - start
            counts[-1] -= ends[last - 1] - stop
            window = slice(start, stop)
            yield Surfaces(
                self.pixels[window],
                self.numbers[first:last],
                counts,
                self.points[:, window],
                self.local[:, window],
                self.gradients[:, window],
                self.normals[:, window],
            )


def surfaces_of(
    camera: Camera, parts: Sequence[Primitive], depth: NDArray[np.float32], primitive: NDArray[np.int32]
) -> Surfaces:
    """The surface points of a picture.

    Args:
        camera: That of the picture.
        parts: All primitives, in the order of their numbers.
        depth: (H, W) float32, z-depth in metres.
        primitive: (H, W) int32, number of the primitive hit; -1 nothing.
    """
    height, width = depth.shape
    families: dict[tuple[object, ...], int] = {}
    family = np.array([families.setdefault(part.shape.family, len(families)) for part in parts], dtype=np.int64)
    by_family = np.argsort(family, kind="stable")
    rank = np.empty(len(parts) + 1, dtype=np.int16 if len(parts) < 2**15 else np.int32)
    rank[by_family] = np.arange(len(parts))
    rank[-1] = -1
    ranks = np.asarray(rank.take(primitive.ravel()), dtype=rank.dtype)
    hits_by_rank = np.bincount(ranks[ranks >= 0], minlength=len(parts))
    pixels = np.argsort(ranks, kind="stable")[ranks.size - int(hits_by_rank.sum()) :]
    seen = np.flatnonzero(hits_by_rank)
    numbers, counts = by_family[seen], hits_by_rank[seen]
    if not pixels.size:
        nothing = np.zeros((3, 0), dtype=np.float32)
        return Surfaces(pixels, numbers, counts, nothing, nothing, nothing, nothing)
    half_x, half_y = camera.half_view
    x = (((2 * np.arange(width) + 1) / width - 1) * half_x).astype(np.float32)
    y = (((2 * np.arange(height) + 1) / height - 1) * half_y).astype(np.float32)
    views = np.stack([np.tile(x, height), np.repeat(y, width), np.ones(height * width, dtype=np.float32)])
    blank = np.empty((4, 3, pixels.size), dtype=np.float32)
    whole = Surfaces(pixels, numbers, counts, *blank)
    inverse = np.linalg.inv(np.stack([part.axes for part in parts]))
    # Straight from the camera's frame into the primitive's: world coordinates would cost far things their digits.
    turned = inverse @ camera.rotation
    origin = np.einsum("nij,nj->ni", inverse, camera.position - np.stack([part.center for part in parts]))
    into = np.ascontiguousarray(np.concatenate([turned, origin[:, :, None]], axis=2).transpose(1, 2, 0), np.float32)
    back = np.ascontiguousarray(inverse.transpose(2, 1, 0), np.float32)
    rotation, position = camera.rotation.astype(np.float32), camera.position.astype(np.float32)
    for piece in whole.pieces():
        rays = views.take(piece.pixels, axis=1) * depth.ravel().take(piece.pixels)
        sight = rotation @ rays
        np.add(sight, position[:, None], out=piece.points)
        for axis in range(3):
            columns = piece.each(into[axis])
            piece.local[axis] = dot(columns, rays) + columns[3]
        _gradients(parts, family, piece)
        for axis in range(3):
            piece.normals[axis] = dot(piece.each(back[axis]), piece.gradients)
        length = np.maximum(np.sqrt(dot(piece.normals, piece.normals)), np.float32(1e-20))
        # Towards the camera is against the ray.
        piece.normals[:] *= -np.copysign(1 / length, dot(piece.normals, sight))
    return whole


def dot(first: Sequence[Planes] | Planes, second: Sequence[Planes] | Planes) -> Planes:
    """The dot product of two vectors of planes (3, ...)."""
    return np.asarray(first[0] * second[0] + first[1] * second[1] + first[2] * second[2])


def _gradients(parts: Sequence[Primitive], family: NDArray[np.int64], piece: Surfaces) -> None:
    """Fill in the gradients: pixels of one family of shapes lie together."""
    families = family[piece.numbers]
    ends = np.cumsum(piece.counts)
    starts = np.flatnonzero(np.concatenate([[True], families[1:] != families[:-1]])).tolist()
    for first, last in zip(starts, [*starts[1:], families.size], strict=True):
        window = slice(int(ends[first] - piece.counts[first]), int(ends[last - 1]))
        shapes = [parts[number].shape for number in piece.numbers[first:last].tolist()]
        parameters = np.array([shape.parameter for shape in shapes], dtype=np.float32)
        x, y, z = piece.local[:, window]
        found = shapes[0].gradients(x, y, z, np.repeat(parameters, piece.counts[first:last]))
        for axis, values in enumerate(found):
            piece.gradients[axis, window] = values


NEAREST = 0.02
"""Surfaces at a smaller z-depth than this (metres) are not seen."""

_CORNERS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
_EDGES = np.array([(i, j) for i in range(8) for j in range(i + 1, 8) if (_CORNERS[i] != _CORNERS[j]).sum() == 1])
_FARTHEST = np.finfo(np.float32).max
_SMALL = 500
"""Pixels of a window up to which primitives are cast together."""


def cast(
    camera: Camera,
    parts: list[Primitive],
    depth: NDArray[np.float32],
    primitive: NDArray[np.int32],
    cull: bool,
) -> None:
    """Write the nearest hits into a picture.

    Args:
        camera: The view.
        parts: What may be hit.
        depth: (H, W) float32 z-depth; what is nearer than its values takes their place.
        primitive: (H, W) int32, takes the numbers of what was hit.
        cull: Only look at the pixels that a primitive's bounding box covers; the result is the same without.
    """
    height, width = depth.shape
    half_x, half_y = camera.half_view
    x = ((2 * np.arange(width) + 1) / width - 1) * half_x
    y = ((2 * np.arange(height) + 1) / height - 1) * half_y
    axes = np.stack([part.axes for part in parts])
    centers = np.stack([part.center for part in parts])
    inverse = np.linalg.inv(axes)
    turns = inverse @ camera.rotation
    origins = np.einsum("nij,nj->ni", inverse, camera.position - centers)
    extents = np.array([part.shape.extents for part in parts])
    rectangles, nearest, middle = _bounds(camera, axes, centers, extents, height, width)
    if not cull:
        rectangles = np.broadcast_to(np.array([0, 0, width, height]), rectangles.shape)
    coefficients = _ray_coefficients(turns, origins, middle)
    seen = np.nonzero((rectangles[:, 0] < rectangles[:, 2]) & (rectangles[:, 1] < rectangles[:, 3]))[0]
    # Front to back, so that what lies behind a large surface is skipped.
    seen = seen[np.lexsort((seen, nearest[seen]))]
    rank = np.full(len(parts) + 1, len(parts), dtype=np.int64)
    rank[seen] = np.arange(seen.size)
    spans = rectangles[seen, 2:] - rectangles[seen, :2]
    small = spans[:, 0] * spans[:, 1] <= (_SMALL if cull else 0)
    with np.errstate(all="ignore"):
        for number in seen[~small].tolist():
            x0, y0, x1, y1 = rectangles[number].tolist()
            window = depth[y0:y1, x0:x1]
            if cull and window.max() < nearest[number]:
                continue
            base = float(middle[number])
            point, direction = _rays(coefficients[number], x[x0:x1], y[y0:y1])
            found = parts[number].shape.entry(point, direction, NEAREST - base) + np.float32(base)
            closer = found < window
            np.copyto(window, found, where=closer)
            np.copyto(primitive[y0:y1, x0:x1], np.int32(number), where=closer)
        families: dict[tuple[object, ...], list[int]] = {}
        for number in seen[small][::-1].tolist():
            families.setdefault(parts[number].shape.family, []).append(number)
        for numbers in families.values():
            _cast_together(parts, np.array(numbers), rectangles, coefficients, middle, rank, (x, y), depth, primitive)


def _cast_together(
    parts: Sequence[Primitive],
    numbers: NDArray[np.int64],
    rectangles: NDArray[np.int64],
    coefficients: Floats,
    middle: Floats,
    rank: NDArray[np.int64],
    view: tuple[Floats, Floats],
    depth: NDArray[np.float32],
    primitive: NDArray[np.int32],
) -> None:
    """Cast small primitives of one family, given from back to front; each alone would cost mostly calls."""
    x0, y0, x1, y1 = rectangles[numbers].T
    wide = x1 - x0
    areas = wide * (y1 - y0)

    def each(values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, areas, axis=-1)

    place = np.arange(int(areas.sum())) - each(np.cumsum(areas) - areas)
    down = place // each(wide)
    column, row = each(x0) + place - down * each(wide), each(y0) + down
    x, y = view[0].take(column), view[1].take(row)
    rays = []
    for one in np.ascontiguousarray(coefficients[numbers].transpose(1, 2, 0)):
        across, along, rest = each(one)
        rays.append((along * y + rest).astype(np.float32) + (across * x).astype(np.float32))
    base = middle[numbers]
    shape = parts[int(numbers[0])].shape
    parameters = np.array([parts[number].shape.parameter for number in numbers.tolist()])
    start = each((NEAREST - base).astype(np.float32))
    found = shape.hits((rays[0], rays[1], rays[2]), (rays[3], rays[4], rays[5]), start, each(parameters))
    found = found + each(base.astype(np.float32))
    pixel = row * depth.shape[1] + column
    depths, owners = depth.reshape(-1), primitive.reshape(-1)
    # Of equal depths the one further ahead in the order wins, as if all were cast one after the other.
    chosen = np.flatnonzero(found <= np.minimum(depths.take(pixel), _FARTHEST))
    pixel, found, number = pixel.take(chosen), found.take(chosen), each(numbers).take(chosen)
    wins = (found < depths.take(pixel)) | (rank.take(number) < rank[owners.take(pixel)])
    pixel, found, number = pixel[wins], found[wins], number[wins]
    np.minimum.at(depths, pixel, found)
    nearest = found == depths[pixel]
    owners[pixel[nearest]] = number[nearest]  # the last of several stays, which is the one further ahead


def _ray_coefficients(turns: Floats, origins: Floats, base: Floats) -> Floats:
    """(N, 6, 3): what to multiply (x, y, 1) with for a ray's point at z-depth `base` and for its direction.

    Starting at the primitive's own depth instead of at the camera keeps float32 exact for small, far things.
    """
    points = turns * base[:, None, None]
    points[:, :, 2] += origins
    return np.concatenate([points, turns], axis=1)


def _rays(coefficients: Floats, x: Floats, y: Floats) -> tuple[Triple, Triple]:
    """Points and directions (per metre of z-depth) of the rays of a window, in a primitive's frame."""
    down = (coefficients[:, 1:2] * y + coefficients[:, 2:]).astype(np.float32)
    across = (coefficients[:, :1] * x).astype(np.float32)
    a, b, c, d, e, f = down[:, :, None] + across[:, None, :]
    return (a, b, c), (d, e, f)


def _bounds(
    camera: Camera, axes: Floats, centers: Floats, extents: Floats, height: int, width: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """For every primitive: pixels x0, y0, x1, y1 that its bounding box covers, its least and middle depth.

    The part of a box before the nearest plane is the hull of its corners there and its edges' cuts with it.
    """
    local = _CORNERS * extents[:, None, :]
    corners = (np.einsum("nij,nkj->nki", axes, local) + (centers - camera.position)[:, None]) @ camera.rotation
    first, second = corners[:, _EDGES[:, 0]], corners[:, _EDGES[:, 1]]
    rise = second[..., 2:] - first[..., 2:]
    crosses = (first[..., 2] < NEAREST) != (second[..., 2] < NEAREST)
    share = (NEAREST - first[..., 2:]) / np.where(crosses[..., None], rise, 1.0)
    cuts = first + share * (second - first)
    points = np.concatenate([corners, cuts], axis=1)
    visible = np.concatenate([corners[..., 2] >= NEAREST, crosses], axis=1)
    z = np.where(visible, np.maximum(points[..., 2], NEAREST), 1.0)
    half_x, half_y = camera.half_view
    slack = 0.02  # pixels, for the rounding of float32 rays
    limits = []
    for axis, half, size in ((0, half_x, width), (1, half_y, height)):
        pixel = (points[..., axis] / z / half + 1) * size / 2
        low = np.where(visible, pixel, np.inf).min(axis=1) - slack
        high = np.where(visible, pixel, -np.inf).max(axis=1) + slack
        limits.append((np.ceil(np.clip(low - 0.5, 0, size)), np.floor(np.clip(high - 0.5, -1, size - 1)) + 1))
    rectangles = np.stack([limits[0][0], limits[1][0], limits[0][1], limits[1][1]], axis=1).astype(np.int64)
    nearest = np.where(visible, points[..., 2], np.inf).min(axis=1) * (1 - 1e-5)
    middle = np.clip(((centers - camera.position) @ camera.rotation)[:, 2], NEAREST, None)
    return rectangles, nearest, middle


# A ray caster for scenes of analytic primitives: depth, instances, boxes, normals and plain colour pictures.
#
# World: metres, z up. Camera: x right, y down, z forward; depth is z, not the distance along the ray.


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One thing of a scene, made of one or more primitives.

    Attributes:
        category: What it is, in the singular ("chair").
        primitives: Its parts.
        color: Red, green, blue in 0 .. 1.
    """

    category: str
    primitives: tuple[Primitive, ...]
    color: tuple[float, float, float] = (0.6, 0.6, 0.6)


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects before a camera.

    Attributes:
        objects: The position in this tuple is the object's instance number.
        camera: The view.
        kind: The layout family, such as "room".
        light: Direction towards the light, of any length.
    """

    objects: tuple[SceneObject, ...]
    camera: Camera
    kind: str = "custom"
    light: tuple[float, float, float] = (0.3, -0.4, 0.8)


class InstanceBox(NamedTuple):
    """The box of one visible object: [x_min, y_min, x_max + 1, y_max + 1] of its visible pixels."""

    instance: int
    category: str
    xyxy: tuple[int, int, int, int]
    pixels: int


@dataclass(frozen=True, eq=False)
class Rendering:
    """What the camera of a scene sees.

    Attributes:
        scene: The scene.
        depth: (H, W) float32, z-depth in metres; inf where nothing was hit.
        primitive: (H, W) int32, number of the primitive hit, counted through all objects; -1 nothing.
        instance: (H, W) int32, number of the object hit; -1 nothing.
    """

    scene: Scene
    depth: NDArray[np.float32]
    primitive: NDArray[np.int32]
    instance: NDArray[np.int32]

    def mask(self, instance: int) -> NDArray[np.bool_]:
        """The visible pixels of one object, (H, W) bool; raises ConfigError for an instance that the scene lacks."""
        if not 0 <= instance < len(self.scene.objects):
            raise ConfigError(f"the scene's instances are 0 .. {len(self.scene.objects) - 1}; got {instance}")
        return np.equal(self.instance, instance)

    @cached_property
    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """Instance number -> visible pixels (H, W) bool, for every object that is seen at all."""
        return {box.instance: self.mask(box.instance) for box in self.boxes()}

    def boxes(self, category: str | None = None, min_pixels: int = 1) -> list[InstanceBox]:
        """Exact boxes of the visible objects, in the order of their instance numbers.

        Args:
            category: Only objects of this category; all where None.
            min_pixels: Objects with fewer visible pixels are left out.
        """
        found = []
        pixels = np.bincount(self.instance.ravel() + 1, minlength=len(self.scene.objects) + 1)[1:]
        windows = ndimage.find_objects(self.instance + 1, len(self.scene.objects))
        for number in np.flatnonzero(pixels >= max(min_pixels, 1)).tolist():
            name = self.scene.objects[number].category
            if category in (None, name):
                rows, columns = windows[number]
                xyxy = (columns.start, rows.start, columns.stop, rows.stop)
                found.append(InstanceBox(number, name, xyxy, int(pixels[number])))
        return found

    @cached_property
    def surfaces(self) -> Surfaces:
        """Where on which primitive every pixel's ray ended, and the normal there."""
        parts = [part for thing in self.scene.objects for part in thing.primitives]
        return surfaces_of(self.scene.camera, parts, self.depth, self.primitive)

    @cached_property
    def normals(self) -> NDArray[np.float32]:
        """(H, W, 3) float32 unit normals in the world, turned towards the camera; 0 where nothing was hit."""
        normals = np.zeros((self.depth.size, 3), dtype=np.float32)
        surfaces = self.surfaces
        normals[surfaces.pixels] = surfaces.normals.T
        return normals.reshape(*self.depth.shape, 3)

    def rgb(self, ambient: float = 0.35) -> NDArray[np.uint8]:
        """A Lambert-shaded picture (H, W, 3) uint8; the sky is a pale blue gradient.

        Args:
            ambient: Share of the light that comes from everywhere, 0 .. 1.
        """
        light = np.asarray(self.scene.light, dtype=np.float32)
        light = light / np.linalg.norm(light)
        diffuse = np.maximum(self.normals @ light, 0)
        colors = np.array([thing.color for thing in self.scene.objects], dtype=np.float32).reshape(-1, 3)
        shade = np.float32(ambient) + np.float32(1 - ambient) * diffuse
        down = np.linspace(0, 1, self.depth.shape[0], dtype=np.float32)[:, None, None]
        sky = np.array([0.55, 0.7, 0.9], np.float32) * (1 - down) + np.array([0.85, 0.9, 0.95], np.float32) * down
        picture = np.broadcast_to(sky, (*self.depth.shape, 3)).copy()
        hit = self.instance >= 0
        picture[hit] = colors[self.instance[hit]] * shade[hit][:, None]
        return np.asarray(np.rint(picture.clip(0, 1) * 255), dtype=np.uint8)


def render(scene: Scene, height: int, width: int, *, cull: bool = True) -> Rendering:
    """Cast one ray through every pixel centre.

    Args:
        scene: The objects and the camera.
        height: Rows of the picture.
        width: Columns of the picture.
        cull: Only look at the pixels that a primitive's bounding box covers; the result is the same without.

    Raises:
        ConfigError: For a picture without pixels.
    """
    if height < 1 or width < 1:
        raise ConfigError(f"a picture needs at least one row and one column; got {height} x {width}")
    depth = np.full((height, width), np.inf, dtype=np.float32)
    primitive = np.full((height, width), -1, dtype=np.int32)
    parts = [part for thing in scene.objects for part in thing.primitives]
    owners = np.repeat(np.arange(len(scene.objects)), [len(thing.primitives) for thing in scene.objects])
    if parts:
        cast(scene.camera, parts, depth, primitive, cull)
    instance = np.append(owners, -1).astype(np.int32)[primitive]
    return Rendering(scene, depth, primitive, instance)
