"""The nearest hit of every pixel's ray: large primitives one after the other, small ones of a family all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceptok.scenes.camera import Camera
from perceptok.scenes.primitives import Floats, Primitive, Triple

__all__ = ["NEAREST", "cast"]

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
