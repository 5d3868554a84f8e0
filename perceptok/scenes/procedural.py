"""Procedural depth maps, for training depth codecs: scenes as depth sensors and monocular networks see them.

Sensor effects are functions of (depth, rng) on metric z-depth in metres, 0 without a value. They alter or remove
values; none gives a value to a pixel that had none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, overload

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from perceptok.errors import ConfigError, DepthMapError
from perceptok.scenes.layouts.scene_sampling import sample_scene
from perceptok.scenes.raycast import render

Map = NDArray[np.float32]
DepthSample = tuple[Map, NDArray[np.bool_]]
Item = TypeVar("Item")

_RENDERING = 1
"""Raised whenever the same arguments give other items than before."""

_FAR = np.float32(1e6)
_ESTIMATES = 0.35
_SENSORS = 0.45
_MIN_VALID = 0.35


def degrade(depth: NDArray[np.floating], rng: Generator, perfect: float = 0.0) -> Map:
    """Apply random sensor effects to a metric depth map.

    Args:
        depth: (H, W) z-depth in metres; 0, NaN and inf mean no value.
        rng: The random generator.
        perfect: Probability of no effect at all.

    Returns:
        (H, W) float32, metres; 0 without a value, at least where the input has none.

    Raises:
        DepthMapError: `depth` is not two-dimensional, smaller than 8 x 8 pixels, or negative somewhere.
    """
    values = np.asarray(depth, dtype=np.float32)
    if values.ndim != 2 or min(values.shape) < 8:
        raise DepthMapError(f"sensor effects need an (H, W) map of at least 8 x 8 pixels; got {values.shape}")
    if (values < 0).any():
        raise DepthMapError(f"metric depth cannot be negative; the minimum is {np.nanmin(values):g}")
    clean = np.where(np.isfinite(values), values, np.float32(0))
    if rng.random() < perfect:
        return clean
    result = clean.copy()
    for effect, probability in EFFECTS:
        if rng.random() < probability:
            result = effect(result, rng)
    result[clean == 0] = 0
    return result


def drop_shadowed(depth: Map, rng: Generator) -> Map:
    """Remove what the projector of a structured-light camera or the other eye of a stereo pair does not see.

    A point is hidden where a nearer point to one side has a disparity larger by more than their distance in pixels:
    where the running maximum of column + disparity along the row exceeds its own.
    """
    baseline = np.float32(depth.shape[1] * rng.uniform(0.02, 0.09))  # focal length in pixels x baseline in metres
    disparity = np.where(depth > 0, baseline / np.where(depth > 0, depth, 1), 0)
    if rng.random() < 0.5:
        return _drop_right_of_edges(depth, disparity)
    return _drop_right_of_edges(depth[:, ::-1], disparity[:, ::-1])[:, ::-1].copy()


def _drop_right_of_edges(depth: Map, disparity: Map) -> Map:
    position = np.arange(depth.shape[1], dtype=np.float32) + disparity
    return np.where(np.maximum.accumulate(position, axis=1) > position + 1.0, np.float32(0), depth)


def drop_out_of_range(depth: Map, rng: Generator) -> Map:
    """Remove values beyond the sensor's maximum (and sometimes below its minimum) distance."""
    valid = depth[depth > 0]
    if valid.size == 0:
        return depth
    far = max(rng.uniform(2.5, 12.0), float(np.quantile(valid, rng.uniform(0.4, 1.0))))
    near = rng.uniform(0.15, 0.5) if rng.random() < 0.4 else 0.0
    near = min(near, float(np.quantile(valid, 0.2)))
    return np.where((depth > far) | (depth < near), np.float32(0), depth)


def drop_pixels(depth: Map, rng: Generator) -> Map:
    """Remove single pixels."""
    return np.where(rng.random(depth.shape, dtype=np.float32) < rng.uniform(0.0005, 0.03), np.float32(0), depth)


def drop_patches(depth: Map, rng: Generator) -> Map:
    """Remove patches of irregular outline, as on dark or shiny surfaces."""
    field = _smooth_noise(depth.shape, rng, int(rng.integers(6, 28)))
    return np.where(field > np.quantile(field, 1 - rng.uniform(0.005, 0.12)), np.float32(0), depth)


def drop_dark_object(depth: Map, rng: Generator) -> Map:
    """Remove a range of distances within a region: a dark, glossy or transparent object."""
    rows, columns = np.nonzero(depth)
    if rows.size == 0:
        return depth
    pick = rng.integers(rows.size)
    middle = depth[rows[pick], columns[pick]]
    spread = rng.uniform(0.02, 0.12)
    height, width = depth.shape
    y, x = np.ogrid[:height, :width]
    radius = rng.uniform(0.05, 0.25) * width
    close = (y - rows[pick]) ** 2 + (x - columns[pick]) ** 2 < radius**2
    return np.where(close & (np.abs(depth - middle) < spread * middle), np.float32(0), depth)


def drop_grazing(depth: Map, rng: Generator) -> Map:
    """Remove surfaces at a grazing angle: pixels of steep relative gradient."""
    safe = np.where(depth > 0, depth, _FAR)
    step = np.maximum(np.abs(np.gradient(safe, axis=0)), np.abs(np.gradient(safe, axis=1))) / safe
    limit = rng.uniform(0.02, 0.08) * 320 / max(depth.shape)
    return np.where(step > limit, np.float32(0), depth)


def add_noise(depth: Map, rng: Generator) -> Map:
    """Add random errors that grow with the square of the distance, fine or patchy."""
    strength = np.float32(10 ** rng.uniform(-3.3, -1.9))
    grain = _smooth_noise(depth.shape, rng, int(rng.integers(max(depth.shape) // 8, max(depth.shape) + 1)))
    error = strength * grain * depth * depth
    return np.where(depth > 0, np.maximum(depth + error, np.float32(0.3) * depth), depth)


def quantize_disparity(depth: Map, rng: Generator) -> Map:
    """Round to steps of constant disparity, as Kinect v1 and stereo sensors do."""
    scale = np.float32(10 ** rng.uniform(1.6, 3.0))
    safe = np.where(depth > 0, depth, 1)
    steps = np.maximum(np.rint(scale / safe), 1)
    return np.where(depth > 0, scale / steps, depth)


def displace_edges(depth: Map, rng: Generator) -> Map:
    """Distort outlines by some pixels: each pixel takes the value at a slowly varying offset."""
    height, width = depth.shape
    cells = int(rng.integers(20, 110))
    reach = rng.uniform(0.5, 3.5) * max(depth.shape) / 320
    y = np.arange(height)[:, None] + reach * _smooth_noise(depth.shape, rng, cells)
    x = np.arange(width)[None, :] + reach * _smooth_noise(depth.shape, rng, cells)
    rows = np.clip(np.rint(y), 0, height - 1).astype(np.intp)
    columns = np.clip(np.rint(x), 0, width - 1).astype(np.intp)
    return np.asarray(depth[rows, columns])


def enlarge_foreground(depth: Map, rng: Generator) -> Map:
    """Enlarge near objects by a pixel or more, as block matching does."""
    size = int(rng.integers(2, 6))
    safe = np.where(depth > 0, depth, _FAR)
    grown = ndimage.minimum_filter(safe, size)
    return np.where((depth > 0) & (grown < _FAR), grown, depth)


def add_flying_pixels(depth: Map, rng: Generator) -> Map:
    """Mix foreground and background along edges, as time-of-flight sensors do."""
    size = int(rng.integers(2, 5))
    mean = _masked_blur(depth, size)
    where = rng.random(depth.shape, dtype=np.float32) < rng.uniform(0.3, 1.0)
    return np.where(where & (depth > 0), mean, depth)


def reduce_resolution(depth: Map, rng: Generator) -> Map:
    """Reduce the resolution, and scale up by nearest neighbour or bilinearly between valid values."""
    height, width = depth.shape
    factor = rng.uniform(1.2, 5.0)
    small_height, small_width = max(4, round(height / factor)), max(4, round(width / factor))
    rows = ((np.arange(small_height) + 0.5) * height / small_height).astype(np.intp)
    columns = ((np.arange(small_width) + 0.5) * width / small_width).astype(np.intp)
    small = depth[np.ix_(rows, columns)]
    y = (np.arange(height) + 0.5) * small_height / height - 0.5
    x = (np.arange(width) + 0.5) * small_width / width - 0.5
    near_y, near_x = np.rint(y).clip(0, small_height - 1), np.rint(x).clip(0, small_width - 1)
    nearest = small[np.ix_(near_y.astype(int), near_x.astype(int))]
    if rng.random() < 0.4:
        return np.asarray(nearest)
    weight = _interpolate((small > 0).astype(np.float32), y, x)
    smooth = _interpolate(small, y, x) / np.maximum(weight, 1e-6)
    return np.where(nearest > 0, smooth, np.float32(0))


def add_outliers(depth: Map, rng: Generator) -> Map:
    """Scale a few small rectangles, mostly to much too near: reflections and mismatches."""
    result = depth.copy()
    height, width = depth.shape
    for _ in range(rng.integers(1, 12)):
        tall, wide = rng.integers(1, 7, 2).tolist()
        y, x = int(rng.integers(height)), int(rng.integers(width))
        result[y : y + tall, x : x + wide] *= np.float32(rng.uniform(0.35, 1.3))
    return result


def distort_surfaces(depth: Map, rng: Generator) -> Map:
    """Bend surfaces by up to some per cent of depth, as errors of calibration and reconstruction do."""
    warp = _smooth_noise(depth.shape, rng, int(rng.integers(3, 30)))
    return depth * (1 + np.float32(10 ** rng.uniform(-2.7, -1.5)) * np.clip(warp, -3, 3))


def drop_border(depth: Map, rng: Generator) -> Map:
    """Remove the borders of the frame, as registration to another camera does."""
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
    (distort_surfaces, 0.25),
    (drop_out_of_range, 0.45),
    (drop_dark_object, 0.25),
    (drop_grazing, 0.15),
    (enlarge_foreground, 0.15),
    (displace_edges, 0.4),
    (add_flying_pixels, 0.2),
    (add_noise, 0.5),
    (drop_shadowed, 0.4),
    (drop_patches, 0.2),
    (drop_pixels, 0.2),
    (reduce_resolution, 0.3),
    (quantize_disparity, 0.35),
    (add_outliers, 0.08),
    (drop_border, 0.15),
)
"""Effect and the probability that `degrade` applies it, in the order in which light and sensor cause them."""


def smooth_estimate(nearness: NDArray[np.floating], rng: Generator) -> Map:
    """Make a nearness map look like a monocular network's estimate of it.

    Edges are softened, detail is lost, the map is slowly distorted, passed through a random monotone tone curve and
    scaled to [0, 1] again.

    Args:
        nearness: (H, W) in [0, 1], 1 = nearest, without holes.
        rng: The random generator.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        DepthMapError: `nearness` is not a two-dimensional map of finite values in [0, 1].
    """
    values = np.asarray(nearness, dtype=np.float32)
    if values.ndim != 2 or not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise DepthMapError(f"an estimate is made from an (H, W) nearness map in [0, 1]; got shape {values.shape}")
    size = max(values.shape) / 320
    if rng.random() < 0.5:
        half = ndimage.median_filter(values[::2, ::2], int(rng.integers(2, 5)))
        values = half.repeat(2, 0).repeat(2, 1)[: values.shape[0], : values.shape[1]]
    if rng.random() < 0.6:
        share = rng.uniform(0.3, 0.9)
        values = values + np.float32(share) * (_blur(values, rng.uniform(4, 16) * size) - values)
    values = _blur(values, 10 ** rng.uniform(-0.3, 0.75) * size)
    strength = np.float32(rng.uniform(0, 0.3)) * values.std()
    values = values + strength * _smooth_noise(values.shape, rng, int(rng.integers(2, 7)))
    low, high = values.min(), values.max()
    values = (values - low) / max(high - low, np.float32(1e-6))
    gamma = np.float32(np.exp(rng.normal() * 0.35))
    return np.asarray((values**gamma).clip(0, 1), dtype=np.float32)


def _smooth_noise(shape: tuple[int, ...], rng: Generator, cells: int) -> Map:
    """Noise of about unit variance: normal values on a coarse grid, interpolated bilinearly."""
    height, width = shape
    grid = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
    y = np.linspace(0.3, cells + 0.7, height)
    x = np.linspace(0.3, cells + 0.7, width)
    return _interpolate(grid, y, x)


def _interpolate(grid: Map, y: NDArray[np.float64], x: NDArray[np.float64]) -> Map:
    """Bilinear interpolation of a grid at all pairs of a row y and a column x, clamped to its borders."""
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


class ProceduralSequence(Sequence[Item]):
    """A sequence whose items are made at every access, from a seed and their number."""

    def __init__(self, seed: int, length: int, size: int, min_size: int) -> None:
        if seed < 0 or length < 0 or size < min_size:
            raise ConfigError(
                f"seed and length must be >= 0 and size >= {min_size}; got seed {seed}, length {length}, size {size}"
            )
        self.seed, self.length, self.size = seed, length, size

    @property
    def recipe(self) -> dict[str, Any]:
        """What the items are made of: equal recipes give equal items."""
        return {"class": type(self).__name__, "rendering": _RENDERING, **vars(self)}

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self.length))]
        if not -self.length <= index < self.length:
            raise IndexError(f"index {index} is outside a sequence of {self.length} items")
        return self._make(index % self.length)

    @abstractmethod
    def _make(self, index: int) -> Item:
        """Make the item 0 <= index < length."""


class ProceduralDepthMaps(ProceduralSequence[DepthSample]):
    """A sequence of (nearness, valid) pairs of random scenes, made at every access.

    nearness is (size, size) float32 in [0, 1], 1 = nearest: inverse depth between the minimum and the maximum of the
    map's valid pixels, holes filled from the nearest valid pixel. valid is (size, size) bool, False in holes. 35 % of
    the maps are made to look like monocular estimates, 45 % like sensor maps, the rest are perfect. Item i depends on
    seed, i and size only.

    Args:
        seed: The seed of the family of maps, >= 0; families of different seeds share no scene.
        length: Number of maps.
        size: Edge length in pixels, at least 32. A view of any aspect is squashed into the square.

    Raises:
        ConfigError: For arguments out of range.
    """

    def __init__(self, seed: int, length: int, size: int = 320) -> None:
        super().__init__(seed, length, size, 32)

    def _make(self, index: int) -> DepthSample:
        depth = render(sample_scene(self.seed, index), self.size, self.size).depth
        rng = np.random.default_rng([self.seed, index, 1])
        style = rng.random()
        if rng.random() < 0.5:
            depth = depth[:, ::-1]
        if style < _SENSORS:
            measured = degrade(depth, rng)
            if np.mean(measured > 0) >= _MIN_VALID and np.ptp(measured[measured > 0]) > 0:
                return compute_nearness(measured)
        estimated = style >= 1 - _ESTIMATES
        sky_is_far = estimated or (style >= _SENSORS and rng.random() < 0.5)
        perfect = np.where(np.isfinite(depth), depth, np.float32(np.inf if sky_is_far else 0))
        nearness, valid = compute_nearness(perfect)
        return (smooth_estimate(nearness, rng) if estimated else nearness), valid


class ProceduralClips(ProceduralSequence[Map]):
    """A sequence of clips of random scenes with a moving camera, made at every access.

    A clip is (frames, size, size) float32: exact depth in metres, 0 where there is only sky. The camera moves by 1 cm
    to its right and 0.5 cm forward a frame. Item i depends on seed, i, size and, for its length, on frames only.

    Args:
        seed: The seed of the family of scenes, >= 0.
        length: Number of clips.
        size: Edge length in pixels, at least 32.
        frames: Frames of a clip, at least 1.

    Raises:
        ConfigError: For arguments out of range.
    """

    def __init__(self, seed: int, length: int, size: int = 320, frames: int = 8) -> None:
        super().__init__(seed, length, size, 32)
        if frames < 1:
            raise ConfigError(f"a clip has at least one frame; got {frames}")
        self.frames = frames

    def _make(self, index: int) -> Map:
        scene = sample_scene(self.seed, index)
        view = scene.camera
        step = 0.01 * view.rotation[:, 0] + 0.005 * view.rotation[:, 2]
        cameras = [replace(view, position=view.position + number * step) for number in range(self.frames)]
        frames = [render(replace(scene, camera=camera), self.size, self.size).depth for camera in cameras]
        return np.stack([np.where(np.isfinite(frame), frame, np.float32(0)) for frame in frames])


def compute_nearness(depth: Map) -> DepthSample:
    """Inverse depth, scaled to [0, 1] over the valid pixels.

    Args:
        depth: (H, W) float32, metres; inf is infinitely far, 0 a hole, which the nearest valid pixel fills.

    Returns:
        nearness (H, W) float32, 1 = nearest, and valid (H, W) bool.

    Raises:
        DepthMapError: All valid pixels have the same depth.
    """
    valid = depth > 0
    inverse = np.float32(1) / np.where(valid, depth, np.float32(1))
    low, high = inverse[valid].min(), inverse[valid].max()
    if not high > low:
        raise DepthMapError(f"a constant depth map has no nearness; every pixel is at {1 / low:g} m")
    nearness = (inverse - low) / (high - low)
    if not valid.all():
        nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
        nearness = nearness[tuple(nearest)]
    return np.asarray(nearness, dtype=np.float32), valid
