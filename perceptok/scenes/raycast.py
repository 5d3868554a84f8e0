"""A ray caster for scenes of analytic primitives: depth, instances, boxes, normals and flat-shaded color images.

World: metres, z up. Camera: x right, y down, z forward; depth is z, not the distance along the ray.
"""

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


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        position: (3,) float64, metres.
        rotation: (3, 3) float64, world from camera; its columns are the camera's right, down and forward.
        fov: Horizontal field of view in degrees, 1 .. 170.
        aspect: Width / height of the view. The image may have another one: a square image of a 4:3 view is squashed,
            as the input of square codecs is.
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
        columns = (right * math.cos(r) + down * math.sin(r), down * math.cos(r) - right * math.sin(r), forward)
        return cls(np.asarray(position, dtype=np.float64), np.stack(columns, axis=1), fov, aspect)

    @property
    def half_view(self) -> tuple[float, float]:
        """Tangents of half the horizontal and half the vertical field of view."""
        half = math.tan(math.radians(self.fov) / 2)
        return half, half / self.aspect

    def view_coordinates(self, height: int, width: int) -> tuple[Floats, Floats]:
        """X / z of each column (W,) and y / z of each row (H,) of pixel centres, in the camera's frame."""
        half_x, half_y = self.half_view
        x = ((2 * np.arange(width) + 1) / width - 1) * half_x
        return x, ((2 * np.arange(height) + 1) / height - 1) * half_y

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
_CHUNK = 24_000
"""Pixels of a chunk. NumPy returns larger arrays to the system at every step, which costs more than the step."""

Scalar = TypeVar("Scalar", bound=np.generic)


class Surfaces(NamedTuple):
    """The N pixels whose ray hit something, grouped by primitive.

    Attributes:
        pixels: (N,) int64, position in the flattened image.
        numbers: (K,) int64, the visible primitives, in the order of their pixels.
        counts: (K,) int64, number of pixels of each.
        points: (3, N) float32, in the world, metres.
        local: (3, N) float32, in the primitive's canonical frame.
        gradients: (3, N) float32, normals in that frame, of any length and sign.
        normals: (3, N) float32, unit length, in the world, facing the camera.
    """

    pixels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    counts: NDArray[np.int64]
    points: Planes
    local: Planes
    gradients: Planes
    normals: Planes

    def expand(self, table: NDArray[Scalar]) -> NDArray[Scalar]:
        """Values of primitives (..., P) at their pixels (..., N)."""
        # Repeating runs takes a tenth of the time of looking up every pixel.
        return np.repeat(table[..., self.numbers], self.counts, axis=-1)

    def split(self) -> Iterator[Surfaces]:
        """Views of at most `_CHUNK` pixels, which stay in a processor's cache."""
        ends = np.cumsum(self.counts)
        for start in range(0, self.pixels.size, _CHUNK):
            stop = min(start + _CHUNK, self.pixels.size)
            first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop, side="left") + 1
            counts = self.counts[first:last].copy()
            counts[0] = ends[first] - start
            counts[-1] -= ends[last - 1] - stop
            planes = (plane[:, start:stop] for plane in self[3:])
            yield Surfaces(self.pixels[start:stop], self.numbers[first:last], counts, *planes)


def _find_surfaces(
    camera: Camera, parts: Sequence[Primitive], depth: NDArray[np.float32], primitive: NDArray[np.int32]
) -> Surfaces:
    """The surface points of an image with depth (H, W) and primitive numbers (H, W), -1 for the sky."""
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
    visible = np.flatnonzero(hits_by_rank)
    planes = np.empty((4, 3, pixels.size), dtype=np.float32)
    surfaces = Surfaces(pixels, by_family[visible], hits_by_rank[visible], *planes)
    if not pixels.size:
        return surfaces
    x, y = (axis.astype(np.float32) for axis in camera.view_coordinates(height, width))
    rays = np.stack([np.tile(x, height), np.repeat(y, width), np.ones(height * width, dtype=np.float32)])
    inverse, turns, origins = _transform_to_canonical(camera, parts)
    # Directly from the camera's frame into the primitive's: through world coordinates far points would lose digits.
    to_local = np.concatenate([turns, origins[:, :, None]], axis=2).transpose(1, 2, 0)
    to_local = np.ascontiguousarray(to_local, np.float32)
    to_world = np.ascontiguousarray(inverse.transpose(2, 1, 0), np.float32)
    rotation, position = camera.rotation.astype(np.float32), camera.position.astype(np.float32)
    for chunk in surfaces.split():
        view = rays.take(chunk.pixels, axis=1) * depth.ravel().take(chunk.pixels)
        ray = rotation @ view
        np.add(ray, position[:, None], out=chunk.points)
        for axis in range(3):
            columns = chunk.expand(to_local[axis])
            chunk.local[axis] = dot(columns, view) + columns[3]
        _fill_gradients(parts, family, chunk)
        for axis in range(3):
            chunk.normals[axis] = dot(chunk.expand(to_world[axis]), chunk.gradients)
        length = np.maximum(np.sqrt(dot(chunk.normals, chunk.normals)), np.float32(1e-20))
        chunk.normals[:] *= -np.copysign(1 / length, dot(chunk.normals, ray))  # against the ray
    return surfaces


def _transform_to_canonical(camera: Camera, parts: Sequence[Primitive]) -> tuple[Floats, Floats, Floats]:
    """From world and from camera axes to canonical ones, (P, 3, 3) each, and the camera's canonical place (P, 3)."""
    inverse = np.linalg.inv(np.stack([part.axes for part in parts]))
    centers = np.stack([part.center for part in parts])
    return inverse, inverse @ camera.rotation, np.einsum("nij,nj->ni", inverse, camera.position - centers)


def dot(first: Sequence[Planes] | Planes, second: Sequence[Planes] | Planes) -> Planes:
    """The dot product of two vectors of planes (3, ...)."""
    return np.asarray(first[0] * second[0] + first[1] * second[1] + first[2] * second[2])


def _fill_gradients(parts: Sequence[Primitive], family: NDArray[np.int64], chunk: Surfaces) -> None:
    """Compute the gradients of a chunk, one run of primitives of the same family of shapes at a time."""
    families = family[chunk.numbers]
    ends = np.cumsum(chunk.counts)
    starts = np.flatnonzero(np.concatenate([[True], families[1:] != families[:-1]])).tolist()
    for first, last in zip(starts, [*starts[1:], families.size], strict=True):
        window = slice(int(ends[first] - chunk.counts[first]), int(ends[last - 1]))
        shapes = [parts[number].shape for number in chunk.numbers[first:last].tolist()]
        parameters = np.array([shape.parameter for shape in shapes], dtype=np.float32)
        x, y, z = chunk.local[:, window]
        gradients = shapes[0].compute_gradients(x, y, z, np.repeat(parameters, chunk.counts[first:last]))
        for axis, values in enumerate(gradients):
            chunk.gradients[axis, window] = values


_NEAREST = 0.02
"""Surfaces at a smaller z-depth than this (metres) are not visible."""
_SLACK = 0.02
"""Pixels by which bounding rectangles are widened, for the rounding of float32 rays."""

CORNERS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
"""The corners of the canonical cube, (8, 3)."""
_EDGES = np.array([(i, j) for i in range(8) for j in range(i + 1, 8) if (CORNERS[i] != CORNERS[j]).sum() == 1])
_FARTHEST = np.finfo(np.float32).max
_SMALL = 500
"""Pixels of a bounding rectangle up to which primitives are cast together."""


def _cast(
    camera: Camera, parts: list[Primitive], depth: NDArray[np.float32], primitive: NDArray[np.int32], cull: bool
) -> None:
    """Write the nearest hits of primitives into a depth map (H, W) and a map of their numbers (H, W)."""
    height, width = depth.shape
    x, y = camera.view_coordinates(height, width)
    _, turns, origins = _transform_to_canonical(camera, parts)
    rectangles, nearest, middle = _find_bounds(camera, parts, height, width)
    if not cull:
        rectangles = np.broadcast_to(np.array([0, 0, width, height]), rectangles.shape)
    coefficients = _ray_coefficients(turns, origins, middle)
    visible = np.nonzero((rectangles[:, 0] < rectangles[:, 2]) & (rectangles[:, 1] < rectangles[:, 3]))[0]
    # Front to back, so that what lies behind a large surface is skipped.
    visible = visible[np.lexsort((visible, nearest[visible]))]
    rank = np.full(len(parts) + 1, len(parts), dtype=np.int64)
    rank[visible] = np.arange(visible.size)
    spans = rectangles[visible, 2:] - rectangles[visible, :2]
    small = spans[:, 0] * spans[:, 1] <= (_SMALL if cull else 0)
    with np.errstate(all="ignore"):
        for number in visible[~small].tolist():
            x0, y0, x1, y1 = rectangles[number].tolist()
            window = depth[y0:y1, x0:x1]
            if cull and window.max() < nearest[number]:
                continue
            base, shape = float(middle[number]), parts[number].shape
            point, direction = _make_rays(coefficients[number], x[x0:x1], y[y0:y1])
            hits = shape.intersect(point, direction, _NEAREST - base, shape.parameter) + np.float32(base)
            closer = hits < window
            np.copyto(window, hits, where=closer)
            np.copyto(primitive[y0:y1, x0:x1], np.int32(number), where=closer)
        families: dict[tuple[object, ...], list[int]] = {}
        for number in visible[small][::-1].tolist():
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
    """Cast small primitives of one family, ordered back to front; one at a time, calls would take most of the time."""
    x0, y0, x1, y1 = rectangles[numbers].T
    wide = x1 - x0
    areas = wide * (y1 - y0)

    def expand(values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, areas, axis=-1)

    place = np.arange(int(areas.sum())) - expand(np.cumsum(areas) - areas)
    down = place // expand(wide)
    column, row = expand(x0) + place - down * expand(wide), expand(y0) + down
    x, y = view[0].take(column), view[1].take(row)
    rays = []
    for component in np.ascontiguousarray(coefficients[numbers].transpose(1, 2, 0)):
        across, along, rest = expand(component)
        rays.append((along * y + rest).astype(np.float32) + (across * x).astype(np.float32))
    base = middle[numbers]
    shape = parts[int(numbers[0])].shape
    parameters = np.array([parts[number].shape.parameter for number in numbers.tolist()])
    start = expand((_NEAREST - base).astype(np.float32))
    hits = shape.intersect((rays[0], rays[1], rays[2]), (rays[3], rays[4], rays[5]), start, expand(parameters))
    hits = hits + expand(base.astype(np.float32))
    pixel = row * depth.shape[1] + column
    depths, owners = depth.reshape(-1), primitive.reshape(-1)
    # Of equal depths the one further ahead in the order wins, as if all were cast one after the other.
    chosen = np.flatnonzero(hits <= np.minimum(depths.take(pixel), _FARTHEST))
    pixel, hits, number = pixel.take(chosen), hits.take(chosen), expand(numbers).take(chosen)
    wins = (hits < depths.take(pixel)) | (rank.take(number) < rank[owners.take(pixel)])
    pixel, hits, number = pixel[wins], hits[wins], number[wins]
    np.minimum.at(depths, pixel, hits)
    nearest = hits == depths[pixel]
    owners[pixel[nearest]] = number[nearest]  # the last of several stays, which is the one further ahead


def _ray_coefficients(turns: Floats, origins: Floats, base: Floats) -> Floats:
    """(P, 6, 3): factors of (x, y, 1) that give a ray's point at z-depth `base`, and its direction.

    Starting at the primitive's own depth instead of at the camera keeps float32 exact for small, far primitives.
    """
    points = turns * base[:, None, None]
    points[:, :, 2] += origins
    return np.concatenate([points, turns], axis=1)


def _make_rays(coefficients: Floats, x: Floats, y: Floats) -> tuple[Triple, Triple]:
    """Points and directions (per metre of z-depth) of the rays of a window, in a primitive's frame."""
    down = (coefficients[:, 1:2] * y + coefficients[:, 2:]).astype(np.float32)
    across = (coefficients[:, :1] * x).astype(np.float32)
    a, b, c, d, e, f = down[:, :, None] + across[:, None, :]
    return (a, b, c), (d, e, f)


def _find_bounds(
    camera: Camera, parts: Sequence[Primitive], height: int, width: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """For every primitive: pixels x0, y0, x1, y1 that its bounding box covers, its least and middle depth.

    Of a box that reaches behind the nearest plane, the hull of its corners and its edges' cuts with the plane counts.
    """
    local = CORNERS * np.array([part.shape.extents for part in parts])[:, None, :]
    axes, offsets = np.stack([part.axes for part in parts]), np.stack([part.center for part in parts]) - camera.position
    corners = (np.einsum("nij,nkj->nki", axes, local) + offsets[:, None]) @ camera.rotation
    first, second = corners[:, _EDGES[:, 0]], corners[:, _EDGES[:, 1]]
    rise = second[..., 2:] - first[..., 2:]
    crosses = (first[..., 2] < _NEAREST) != (second[..., 2] < _NEAREST)
    share = (_NEAREST - first[..., 2:]) / np.where(crosses[..., None], rise, 1.0)
    points = np.concatenate([corners, first + share * (second - first)], axis=1)
    visible = np.concatenate([corners[..., 2] >= _NEAREST, crosses], axis=1)
    z = np.where(visible, np.maximum(points[..., 2], _NEAREST), 1.0)
    limits = []
    for axis, half, size in zip((0, 1), camera.half_view, (width, height), strict=True):
        pixel = (points[..., axis] / z / half + 1) * size / 2
        low = np.where(visible, pixel, np.inf).min(axis=1) - _SLACK
        high = np.where(visible, pixel, -np.inf).max(axis=1) + _SLACK
        limits.append((np.ceil(np.clip(low - 0.5, 0, size)), np.floor(np.clip(high - 0.5, -1, size - 1)) + 1))
    rectangles = np.stack([limits[0][0], limits[1][0], limits[0][1], limits[1][1]], axis=1).astype(np.int64)
    nearest = np.where(visible, points[..., 2], np.inf).min(axis=1) * (1 - 1e-5)
    return rectangles, nearest, np.clip((offsets @ camera.rotation)[:, 2], _NEAREST, None)


@dataclass(frozen=True, eq=False)
class SceneObject:
    """An object of a scene, made of one or more primitives.

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

    @property
    def primitives(self) -> list[Primitive]:
        """The primitives of all objects, in the order of `Rendering.primitive`."""
        return [part for scene_object in self.objects for part in scene_object.primitives]


class InstanceBox(NamedTuple):
    """The box of a visible object: [x_min, y_min, x_max + 1, y_max + 1] of its visible pixels."""

    instance: int
    category: str
    xyxy: tuple[int, int, int, int]
    pixels: int


@dataclass(frozen=True, eq=False)
class Rendering:
    """A scene as its camera sees it.

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
        """The visible pixels of an object, (H, W) bool; raises ConfigError for an instance that the scene lacks."""
        if not 0 <= instance < len(self.scene.objects):
            raise ConfigError(f"the scene's instances are 0 .. {len(self.scene.objects) - 1}; got {instance}")
        return np.equal(self.instance, instance)

    @cached_property
    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """Instance number -> visible pixels (H, W) bool, for every visible object."""
        return {box.instance: self.mask(box.instance) for box in self.boxes()}

    def boxes(self, category: str | None = None, min_pixels: int = 1) -> list[InstanceBox]:
        """Exact boxes of the visible objects, in the order of their instance numbers.

        Args:
            category: Only objects of this category; all where None.
            min_pixels: Objects with fewer visible pixels are left out.
        """
        boxes = []
        pixels = np.bincount(self.instance.ravel() + 1, minlength=len(self.scene.objects) + 1)[1:]
        windows = ndimage.find_objects(self.instance + 1, len(self.scene.objects))
        for number in np.flatnonzero(pixels >= max(min_pixels, 1)).tolist():
            name = self.scene.objects[number].category
            if category in (None, name):
                rows, columns = windows[number]
                xyxy = (columns.start, rows.start, columns.stop, rows.stop)
                boxes.append(InstanceBox(number, name, xyxy, int(pixels[number])))
        return boxes

    @cached_property
    def surfaces(self) -> Surfaces:
        """Where on which primitive each pixel's ray ends, and the normal there."""
        return _find_surfaces(self.scene.camera, self.scene.primitives, self.depth, self.primitive)

    @cached_property
    def normals(self) -> NDArray[np.float32]:
        """(H, W, 3) float32 unit normals in the world, facing the camera; 0 where nothing was hit."""
        normals = np.zeros((self.depth.size, 3), dtype=np.float32)
        surfaces = self.surfaces
        normals[surfaces.pixels] = surfaces.normals.T
        return normals.reshape(*self.depth.shape, 3)

    def rgb(self, ambient: float = 0.35) -> NDArray[np.uint8]:
        """A Lambert-shaded image (H, W, 3) uint8; the sky is a pale blue gradient.

        Args:
            ambient: Share of ambient light, 0 .. 1.
        """
        light = np.asarray(self.scene.light, dtype=np.float32)
        light = light / np.linalg.norm(light)
        diffuse = np.maximum(self.normals @ light, 0)
        colors = np.array([item.color for item in self.scene.objects], dtype=np.float32).reshape(-1, 3)
        shade = np.float32(ambient) + np.float32(1 - ambient) * diffuse
        down = np.linspace(0, 1, self.depth.shape[0], dtype=np.float32)[:, None, None]
        sky = np.array([0.55, 0.7, 0.9], np.float32) * (1 - down) + np.array([0.85, 0.9, 0.95], np.float32) * down
        image = np.broadcast_to(sky, (*self.depth.shape, 3)).copy()
        hit = self.instance >= 0
        image[hit] = colors[self.instance[hit]] * shade[hit][:, None]
        return np.asarray(np.rint(image.clip(0, 1) * 255), dtype=np.uint8)


def render(scene: Scene, height: int, width: int, *, cull: bool = True) -> Rendering:
    """Cast one ray through every pixel centre.

    Args:
        scene: The objects and the camera.
        height: Rows of the image.
        width: Columns of the image.
        cull: Only look at the pixels that a primitive's bounding box covers; the result is the same without.

    Raises:
        ConfigError: For an image without pixels.
    """
    if height < 1 or width < 1:
        raise ConfigError(f"an image needs at least one row and one column; got {height} x {width}")
    depth = np.full((height, width), np.inf, dtype=np.float32)
    primitive = np.full((height, width), -1, dtype=np.int32)
    owners = np.repeat(np.arange(len(scene.objects)), [len(item.primitives) for item in scene.objects])
    if owners.size:
        _cast(scene.camera, scene.primitives, depth, primitive, cull)
    instance = np.append(owners, -1).astype(np.int32)[primitive]
    return Rendering(scene, depth, primitive, instance)
