"""Procedural depth maps by the number: what a depth codec is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from perceptok.errors import ConfigError, DepthMapError
from perceptok.scenes.layouts.sampling import sample_scene
from perceptok.scenes.raycast import render

__all__ = [
    "EFFECTS",
    "ProceduralDepthMaps",
    "blobs",
    "coarse",
    "dark_object",
    "degrade",
    "fattened",
    "flying_pixels",
    "grazing",
    "missing_border",
    "nearness_of",
    "noise",
    "out_of_range",
    "outliers",
    "quantised",
    "ragged_edges",
    "relief",
    "shadows",
    "smooth_estimate",
    "speckle",
]


# What real devices do to depth: holes, noise and coarse sampling of sensors, and the softness of estimates.
#
# Every effect is a function of (depth, rng) that works on metric z-depth in metres, 0 without a value.
# Effects only ever alter or remove values; none gives a value to a pixel that had none.


Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

_FAR = np.float32(1e6)


def degrade(depth: NDArray[np.floating], rng: Generator, perfect: float = 0.0) -> Map:
    """Random sensor effects on a metric depth map.

    Args:
        depth: (H, W) z-depth in metres; 0, NaN and inf mean no value.
        rng: The source of all choices.
        perfect: Probability of no effect at all.

    Returns:
        (H, W) float32, metres; 0 without a value; that is at least where the input has none.

    Raises:
        DepthMapError: Unless `depth` is two-dimensional, of at least 8 x 8 pixels and nowhere negative.
    """
    values = np.asarray(depth, dtype=np.float32)
    if values.ndim != 2 or min(values.shape) < 8:
        raise DepthMapError(f"sensor effects need an (H, W) map of at least 8 x 8 pixels; got {values.shape}")
    if (values < 0).any():
        raise DepthMapError(f"metric depth cannot be negative; the least value is {np.nanmin(values):g}")
    clean = np.where(np.isfinite(values), values, np.float32(0))
    if rng.random() < perfect:
        return clean
    result = clean.copy()
    for effect, probability in EFFECTS:
        if rng.random() < probability:
            result = effect(result, rng)
    result[clean == 0] = 0
    return result


def shadows(depth: Map, rng: Generator) -> Map:
    """Holes beside near edges, which the projector of a structured-light or stereo pair does not reach.

    A surface point is shadowed where a nearer point to one side has a disparity larger by more than their
    distance in pixels: the running maximum of column + disparity along the row.
    """
    baseline = np.float32(depth.shape[1] * rng.uniform(0.02, 0.09))  # focal length in pixels x baseline in metres
    disparity = np.where(depth > 0, baseline / np.where(depth > 0, depth, 1), 0)
    if rng.random() < 0.5:
        return _shadows_to_right(depth, disparity)
    return _shadows_to_right(depth[:, ::-1], disparity[:, ::-1])[:, ::-1].copy()


def _shadows_to_right(depth: Map, disparity: Map) -> Map:
    """The part of `shadows` for a projector on the left: what lies right of near edges goes."""
    reach = np.arange(depth.shape[1], dtype=np.float32) + disparity
    covered = np.maximum.accumulate(reach, axis=1)
    return np.where(covered > reach + 1.0, np.float32(0), depth)


def out_of_range(depth: Map, rng: Generator) -> Map:
    """Nothing beyond the device's farthest (and sometimes before its nearest) distance."""
    valid = depth[depth > 0]
    if valid.size == 0:
        return depth
    far = max(rng.uniform(2.5, 12.0), float(np.quantile(valid, rng.uniform(0.4, 1.0))))
    near = rng.uniform(0.15, 0.5) if rng.random() < 0.4 else 0.0
    near = min(near, float(np.quantile(valid, 0.2)))
    return np.where((depth > far) | (depth < near), np.float32(0), depth)


def speckle(depth: Map, rng: Generator) -> Map:
    """Single pixels without a value."""
    return np.where(rng.random(depth.shape, dtype=np.float32) < rng.uniform(0.0005, 0.03), np.float32(0), depth)


def blobs(depth: Map, rng: Generator) -> Map:
    """Patches of irregular outline without values, as on dark or shiny surfaces."""
    noise = _field(depth.shape, rng, int(rng.integers(6, 28)))
    return np.where(noise > np.quantile(noise, 1 - rng.uniform(0.005, 0.12)), np.float32(0), depth)


def dark_object(depth: Map, rng: Generator) -> Map:
    """One range of distances within one region gives nothing: a dark, glossy or transparent thing."""
    rows, columns = np.nonzero(depth)
    if rows.size == 0:
        return depth
    pick = rng.integers(rows.size)
    middle = depth[rows[pick], columns[pick]]
    spread = rng.uniform(0.02, 0.12)
    height, width = depth.shape
    y, x = np.ogrid[:height, :width]
    reach = rng.uniform(0.05, 0.25) * width
    close = (y - rows[pick]) ** 2 + (x - columns[pick]) ** 2 < reach**2
    return np.where(close & (np.abs(depth - middle) < spread * middle), np.float32(0), depth)


def grazing(depth: Map, rng: Generator) -> Map:
    """No echo from surfaces seen at a grazing angle: steep relative gradients lose their values."""
    safe = np.where(depth > 0, depth, _FAR)
    step = np.maximum(np.abs(np.gradient(safe, axis=0)), np.abs(np.gradient(safe, axis=1))) / safe
    limit = rng.uniform(0.02, 0.08) * 320 / max(depth.shape)
    return np.where(step > limit, np.float32(0), depth)


def noise(depth: Map, rng: Generator) -> Map:
    """Random depth errors that grow with the square of the distance, fine or patchy."""
    strength = np.float32(10 ** rng.uniform(-3.3, -1.9))
    grain = _field(depth.shape, rng, int(rng.integers(max(depth.shape) // 8, max(depth.shape) + 1)))
    error = strength * grain * depth * depth
    return np.where(depth > 0, np.maximum(depth + error, np.float32(0.3) * depth), depth)


def quantised(depth: Map, rng: Generator) -> Map:
    """Steps of constant disparity, as of Kinect v1 and stereo sensors."""
    scale = np.float32(10 ** rng.uniform(1.6, 3.0))
    safe = np.where(depth > 0, depth, 1)
    steps = np.maximum(np.rint(scale / safe), 1)
    return np.where(depth > 0, scale / steps, depth)


def ragged_edges(depth: Map, rng: Generator) -> Map:
    """Outlines that wobble by some pixels: each takes a value from nearby, at slowly varying offsets."""
    height, width = depth.shape
    cells = int(rng.integers(20, 110))
    reach = rng.uniform(0.5, 3.5) * max(depth.shape) / 320
    y = np.arange(height)[:, None] + reach * _field(depth.shape, rng, cells)
    x = np.arange(width)[None, :] + reach * _field(depth.shape, rng, cells)
    rows = np.clip(np.rint(y), 0, height - 1).astype(np.intp)
    columns = np.clip(np.rint(x), 0, width - 1).astype(np.intp)
    return np.asarray(depth[rows, columns])


def fattened(depth: Map, rng: Generator) -> Map:
    """Near things grow by a pixel or more, as in block matching."""
    size = int(rng.integers(2, 6))
    safe = np.where(depth > 0, depth, _FAR)
    grown = ndimage.minimum_filter(safe, size)
    return np.where((depth > 0) & (grown < _FAR), grown, depth)


def flying_pixels(depth: Map, rng: Generator) -> Map:
    """Values between front and back along edges, as of time-of-flight sensors."""
    size = int(rng.integers(2, 5))
    mean = _masked_blur(depth, size)
    where = rng.random(depth.shape, dtype=np.float32) < rng.uniform(0.3, 1.0)
    return np.where(where & (depth > 0), mean, depth)


def coarse(depth: Map, rng: Generator) -> Map:
    """A lower native resolution, scaled up by nearest neighbour or linearly between values."""
    height, width = depth.shape
    factor = rng.uniform(1.2, 5.0)
    small_height, small_width = max(4, round(height / factor)), max(4, round(width / factor))
    rows = ((np.arange(small_height) + 0.5) * height / small_height).astype(np.intp)
    columns = ((np.arange(small_width) + 0.5) * width / small_width).astype(np.intp)
    small = depth[np.ix_(rows, columns)]
    y = (np.arange(height) + 0.5) * small_height / height - 0.5
    x = (np.arange(width) + 0.5) * small_width / width - 0.5
    nearest = small[
        np.ix_(np.rint(y).clip(0, small_height - 1).astype(int), np.rint(x).clip(0, small_width - 1).astype(int))
    ]
    if rng.random() < 0.4:
        return np.asarray(nearest)
    weight = _linear((small > 0).astype(np.float32), y, x)
    smooth = _linear(small, y, x) / np.maximum(weight, 1e-6)
    return np.where(nearest > 0, smooth, np.float32(0))


def outliers(depth: Map, rng: Generator) -> Map:
    """A few wrong values, mostly much too near: reflections and mismatches."""
    result = depth.copy()
    height, width = depth.shape
    for _ in range(rng.integers(1, 12)):
        tall, wide = rng.integers(1, 7, 2).tolist()
        y, x = int(rng.integers(height)), int(rng.integers(width))
        result[y : y + tall, x : x + wide] *= np.float32(rng.uniform(0.35, 1.3))
    return result


def relief(depth: Map, rng: Generator) -> Map:
    """Slow errors of calibration and reconstruction: surfaces bulge by up to some per cent of depth."""
    warp = _field(depth.shape, rng, int(rng.integers(3, 30)))
    return depth * (1 + np.float32(10 ** rng.uniform(-2.7, -1.5)) * np.clip(warp, -3, 3))


def missing_border(depth: Map, rng: Generator) -> Map:
    """Frame borders without data, as after registration to another camera."""
    height, width = depth.shape
    top, bottom = rng.uniform(0, 0.06, 2) * height
    left, right = rng.uniform(0, 0.09, 2) * width
    result = np.zeros_like(depth)
    rows = slice(int(top), height - int(bottom))
    columns = slice(int(left), width - int(right))
    result[rows, columns] = depth[rows, columns]
    return result


Effect = Callable[[Map, Generator], Map]

EFFECTS: tuple[tuple[Effect, float], ...] = (
    (relief, 0.25),
    (out_of_range, 0.45),
    (dark_object, 0.25),
    (grazing, 0.15),
    (fattened, 0.15),
    (ragged_edges, 0.4),
    (flying_pixels, 0.2),
    (noise, 0.5),
    (shadows, 0.4),
    (blobs, 0.2),
    (speckle, 0.2),
    (coarse, 0.3),
    (quantised, 0.35),
    (outliers, 0.08),
    (missing_border, 0.15),
)
"""Each effect and how often `degrade` applies it, in the order in which light and device cause them."""


def smooth_estimate(nearness: NDArray[np.floating], rng: Generator) -> Map:
    """Make a nearness map look like a monocular network's estimate of it.

    Soft edges, lost detail, a slow distortion and a random monotone tone curve; stretched to [0, 1] again.

    Args:
        nearness: (H, W) in [0, 1], 1 = nearest, without holes.
        rng: The source of all choices.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        DepthMapError: Unless `nearness` is a two-dimensional map of finite values in [0, 1].
    """
    values = np.asarray(nearness, dtype=np.float32)
    if values.ndim != 2 or not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise DepthMapError(f"an estimate is made from an (H, W) nearness map in [0, 1]; got shape {values.shape}")
    size = max(values.shape) / 320
    if rng.random() < 0.5:
        values = (
            ndimage.median_filter(values[::2, ::2], int(rng.integers(2, 5)))
            .repeat(2, 0)
            .repeat(2, 1)[: values.shape[0], : values.shape[1]]
        )
    if rng.random() < 0.6:
        share = rng.uniform(0.3, 0.9)
        values = values + np.float32(share) * (_blur(values, rng.uniform(4, 16) * size) - values)
    values = _blur(values, 10 ** rng.uniform(-0.3, 0.75) * size)
    values = values + np.float32(rng.uniform(0, 0.3)) * values.std() * _field(
        values.shape, rng, int(rng.integers(2, 7))
    )
    low, high = values.min(), values.max()
    values = (values - low) / max(high - low, np.float32(1e-6))
    bend = np.float32(np.exp(rng.normal() * 0.35))
    values = values**bend
    return np.asarray(values.clip(0, 1), dtype=np.float32)


def _field(shape: tuple[int, ...], rng: Generator, cells: int) -> Map:
    """Smooth noise of about unit variance: normal values on a coarse grid, linearly between."""
    height, width = shape
    grid = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
    y = np.linspace(0.3, cells + 0.7, height)
    x = np.linspace(0.3, cells + 0.7, width)
    return _linear(grid, y, x)


def _linear(grid: Map, y: NDArray[np.float64], x: NDArray[np.float64]) -> Map:
    """Bilinear samples of a grid at every pair of a row y and a column x, clamped to its borders."""
    for axis, position in ((0, y), (1, x)):
        position = position.clip(0, grid.shape[axis] - 1)
        below = np.floor(position).astype(np.intp)
        above = np.minimum(below + 1, grid.shape[axis] - 1)
        share = (position - below).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None, :]
        grid = grid.take(below, axis) * (1 - share) + grid.take(above, axis) * share
    return grid


def _masked_blur(depth: Map, size: int) -> Map:
    weight = ndimage.uniform_filter((depth > 0).astype(np.float32), size)
    return np.asarray(ndimage.uniform_filter(depth, size) / np.maximum(weight, np.float32(1e-6)), np.float32)


def _blur(values: Map, sigma: float) -> Map:
    return np.asarray(ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0))


DepthSample = tuple[NDArray[np.float32], NDArray[np.bool_]]

_ESTIMATES = 0.35
_SENSORS = 0.45
_MIN_VALID = 0.35


class ProceduralDepthMaps(Sequence[DepthSample]):
    """A sequence of (nearness, valid) pairs of random scenes, made anew at every access.

    nearness is (size, size) float32 in [0, 1], 1 = nearest: inverse depth between the least and the greatest
    of the map's valid pixels, holes filled from the nearest valid pixel. valid is (size, size) bool, False in
    holes. About a third of the maps are made to look like monocular estimates, nearly half like sensor maps,
    the rest are perfect. Item i depends on seed, i and size only: any process and order will do.

    Args:
        seed: Names the family of maps, >= 0; families of different seeds share no scene.
        length: Number of maps.
        size: Edge length in pixels, at least 32. A map squashes a view of any aspect into its square.

    Raises:
        ConfigError: For arguments out of range.
    """

    def __init__(self, seed: int, length: int, size: int = 320) -> None:
        if seed < 0 or length < 0 or size < 32:
            raise ConfigError(
                f"seed and length must be >= 0 and size >= 32; got seed {seed}, length {length}, size {size}"
            )
        self.seed, self.length, self.size = seed, length, size

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> DepthSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[DepthSample]: ...
    def __getitem__(self, index: int | slice) -> DepthSample | list[DepthSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        number = index + self.length if index < 0 else index
        if not 0 <= number < self.length:
            raise IndexError(f"index {index} is outside a sequence of {self.length} maps")
        return self._sample(number)

    def _sample(self, index: int) -> DepthSample:
        depth = render(sample_scene(self.seed, index), self.size, self.size).depth
        rng = np.random.default_rng([self.seed, index, 1])
        look = rng.random()
        if rng.random() < 0.5:
            depth = depth[:, ::-1]
        if look < _SENSORS:
            measured = degrade(depth, rng)
            if np.mean(measured > 0) >= _MIN_VALID and np.ptp(measured[measured > 0]) > 0:
                return nearness_of(measured)
        estimated = look >= 1 - _ESTIMATES
        sky_is_far = estimated or (look >= _SENSORS and rng.random() < 0.5)
        perfect = np.where(np.isfinite(depth), depth, np.float32(np.inf if sky_is_far else 0))
        nearness, valid = nearness_of(perfect)
        if estimated:
            nearness = smooth_estimate(nearness, rng)
        return nearness, valid


def nearness_of(depth: NDArray[np.float32]) -> DepthSample:
    """Inverse depth stretched to [0, 1] over the valid pixels.

    Args:
        depth: (H, W) float32, metres; inf is infinitely far, 0 a hole that the nearest valid pixel fills.

    Returns:
        nearness (H, W) float32, 1 = nearest, and valid (H, W) bool.

    Raises:
        DepthMapError: The map has no relief.
    """
    valid = depth > 0
    inverse = np.float32(1) / np.where(valid, depth, np.float32(1))
    low, high = inverse[valid].min(), inverse[valid].max()
    if not high > low:
        raise DepthMapError(f"a depth map without any relief has no nearness; every pixel is at {1 / low:g} m")
    nearness = (inverse - low) / (high - low)
    if not valid.all():
        nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
        nearness = nearness[tuple(nearest)]
    return np.asarray(nearness, dtype=np.float32), valid
