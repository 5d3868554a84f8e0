"""The surface points that a camera sees: where they lie in the world and on their primitive, and their normals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perceptok.scenes.camera import Camera
from perceptok.scenes.primitives import Primitive

__all__ = ["Surfaces", "surfaces_of"]

Planes = NDArray[np.float32]


class Surfaces(NamedTuple):
    """The N pixels whose ray hit something.

    Attributes:
        pixels: (N,) int64, position in the flattened picture, rising.
        part: (N,) int64, number of the primitive.
        points: (3, N) float32, in the world, metres.
        local: (3, N) float32, in the primitive's canonical frame.
        normals: (3, N) float32, unit length, in the world, turned towards the camera.
    """

    pixels: NDArray[np.int64]
    part: NDArray[np.int64]
    points: Planes
    local: Planes
    normals: Planes


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
    numbers = primitive.ravel()
    pixels = np.flatnonzero(numbers >= 0)
    if not pixels.size:
        nothing = np.zeros((3, 0), dtype=np.float32)
        return Surfaces(pixels, pixels, nothing, nothing, nothing)
    part = numbers[pixels].astype(np.int64)
    half_x, half_y = camera.half_view
    x = (((2 * np.arange(width) + 1) / width - 1) * half_x).astype(np.float32)
    y = (((2 * np.arange(height) + 1) / height - 1) * half_y).astype(np.float32)
    z = depth.ravel()[pixels]
    rays = (np.broadcast_to(x, depth.shape).ravel()[pixels] * z, np.repeat(y, width)[pixels] * z, z)
    points = np.stack([_dot(row, rays) for row in camera.rotation.astype(np.float32)])
    points += camera.position.astype(np.float32)[:, None]
    # Straight from the camera's frame into the primitive's: world coordinates would cost far things their digits.
    inverse = np.linalg.inv(np.stack([one.axes for one in parts]))
    turned = (inverse @ camera.rotation).astype(np.float32)
    origin = np.einsum("nij,nj->ni", inverse, camera.position - np.stack([one.center for one in parts]))
    local = np.stack(
        [
            _dot([turned[:, row, column][part] for column in range(3)], rays) + origin[:, row].astype(np.float32)[part]
            for row in range(3)
        ]
    )
    gradients = _gradients(parts, part, local)
    back = inverse.astype(np.float32)
    normals = np.stack([_dot([back[:, row, column][part] for row in range(3)], gradients) for column in range(3)])
    # Towards the camera: against the ray.
    sight = points - camera.position.astype(np.float32)[:, None]
    length = np.sqrt(_dot(normals, normals))
    facing = _dot(normals, sight)
    normals *= np.where(facing > 0, np.float32(-1), np.float32(1)) / np.maximum(length, np.float32(1e-20))
    return Surfaces(pixels, part, points, local, normals)


def _dot(first: Sequence[Planes] | Planes, second: Sequence[Planes] | Planes) -> Planes:
    return np.asarray(first[0] * second[0] + first[1] * second[1] + first[2] * second[2])


def _gradients(parts: Sequence[Primitive], part: NDArray[np.int64], local: Planes) -> Planes:
    """Gradients in the canonical frames, one family of shapes after the other."""
    families: dict[tuple[object, ...], int] = {}
    family = np.array([families.setdefault(one.shape.family, len(families)) for one in parts])
    shapes = [next(one.shape for one in parts if one.shape.family == key) for key in families]
    parameters = np.array([one.shape.parameter for one in parts], dtype=np.float32)
    found = np.empty_like(local)
    of_pixel = family.astype(np.int8)[part] if len(families) < 128 else family[part]
    for number in np.unique(family[np.unique(part)]).tolist():
        here = np.flatnonzero(of_pixel == number)
        x, y, z = local[:, here]
        for axis, values in enumerate(shapes[number].gradients(x, y, z, parameters[part[here]])):
            found[axis, here] = values
    return found
