"""Procedural depth maps by the number: what a depth codec is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from perceptok.errors import ConfigError, DepthMapError
from perceptok.scenes.layouts import sample_scene
from perceptok.scenes.raycast import render
from perceptok.scenes.sensor import degrade, smooth_estimate

__all__ = ["ProceduralDepthMaps", "nearness_of"]

Sample = tuple[NDArray[np.float32], NDArray[np.bool_]]

_ESTIMATES = 0.35
_SENSORS = 0.45
_MIN_VALID = 0.35


class ProceduralDepthMaps(Sequence[Sample]):
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
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        number = index + self.length if index < 0 else index
        if not 0 <= number < self.length:
            raise IndexError(f"index {index} is outside a sequence of {self.length} maps")
        return self._sample(number)

    def _sample(self, index: int) -> Sample:
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


def nearness_of(depth: NDArray[np.float32]) -> Sample:
    """Inverse depth stretched to [0, 1] over the valid pixels.

    Args:
        depth: (H, W) float32, metres; inf is infinitely far, 0 a hole that the nearest valid pixel fills.

    Returns:
        nearness (H, W) float32, 1 = nearest, and valid (H, W) bool.

    Raises:
        DepthMapError: There is no relief at all.
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
