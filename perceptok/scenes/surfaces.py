"""The surface points that a camera sees: where they lie in the world and on their primitive, and their normals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from perceptok.scenes.camera import Camera
from perceptok.scenes.primitives import Primitive

__all__ = ["PIECE", "Surfaces", "surfaces_of"]

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
    family = np.array([families.setdefault(one.shape.family, len(families)) for one in parts], dtype=np.int64)
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
    inverse = np.linalg.inv(np.stack([one.axes for one in parts]))
    # Straight from the camera's frame into the primitive's: world coordinates would cost far things their digits.
    turned = inverse @ camera.rotation
    origin = np.einsum("nij,nj->ni", inverse, camera.position - np.stack([one.center for one in parts]))
    into = np.ascontiguousarray(np.concatenate([turned, origin[:, :, None]], axis=2).transpose(1, 2, 0), np.float32)
    back = np.ascontiguousarray(inverse.transpose(2, 1, 0), np.float32)
    rotation, position = camera.rotation.astype(np.float32), camera.position.astype(np.float32)
    for piece in whole.pieces():
        rays = views.take(piece.pixels, axis=1) * depth.ravel().take(piece.pixels)
        sight = rotation @ rays
        np.add(sight, position[:, None], out=piece.points)
        for axis in range(3):
            columns = piece.each(into[axis])
            piece.local[axis] = _dot(columns, rays) + columns[3]
        _gradients(parts, family, piece)
        for axis in range(3):
            piece.normals[axis] = _dot(piece.each(back[axis]), piece.gradients)
        length = np.maximum(np.sqrt(_dot(piece.normals, piece.normals)), np.float32(1e-20))
        # Towards the camera is against the ray.
        piece.normals[:] *= -np.copysign(1 / length, _dot(piece.normals, sight))
    return whole


def _dot(first: Sequence[Planes] | Planes, second: Sequence[Planes] | Planes) -> Planes:
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
