"""From light to a photograph: exposure, white balance, lens, noise of the sensor, tone curve."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = ["develop"]

Planes = NDArray[np.float32]

_STEPS = 4096
_BRIGHTEST = 6.0


def develop(light: Planes, rng: Generator) -> NDArray[np.uint8]:
    """A picture (H, W, 3) uint8 of linear light (3, H, W), with the faults of a camera.

    Args:
        light: Linear red, green and blue, >= 0, of any scale.
        rng: The source of all choices.
    """
    height, width = light.shape[1:]
    luminance = light[:, ::4, ::4].mean(axis=0)
    typical = float(np.exp(np.log(luminance + 1e-4).mean()))
    bright = float(np.percentile(luminance, 97)) + 1e-4
    # Meters neither for the shadows alone nor for the lamp in the picture.
    gain = min(0.24 / typical, 2.2 / bright) * 2 ** rng.uniform(-0.5, 0.5)
    balance = np.array([1 + rng.normal() * 0.05, 1.0, 1 + rng.normal() * 0.06], dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    fall = 1 - np.float32(rng.uniform(0.0, 0.22)) * (x * x + y * y)
    picture = light * (np.clip(balance, 0.8, 1.2)[:, None, None] * np.float32(gain) * fall)
    side = np.float32(rng.uniform(0.08, 0.24))
    picture = _soften(_soften(picture, side, 1), side, 2)
    iso = 10 ** rng.uniform(-3.4, -1.9)
    shot, read = np.float32(40 * iso**2), np.float32((0.4 * iso) ** 2)
    picture += _noise(picture.shape, rng) * np.sqrt(shot * picture + read)
    picture *= np.float32(_STEPS / _BRIGHTEST)
    np.clip(picture, 0, _STEPS - 1, out=picture)
    tones = _tones().take(picture.astype(np.int16))
    return np.ascontiguousarray(tones.transpose(1, 2, 0))


def _noise(shape: tuple[int, ...], rng: Generator) -> Planes:
    """About normal noise of unit variance: sums of four bytes, at a fifth of the price of normal draws."""
    count = math.prod(shape)
    draws = np.frombuffer(rng.bytes(4 * count), dtype=np.uint8).reshape(4, count).astype(np.int16)
    total = draws[0] + draws[1] + draws[2] + draws[3] - np.int16(510)
    deviation = math.sqrt(4 * (256**2 - 1) / 12)
    return np.asarray(total.astype(np.float32).reshape(shape) * np.float32(1 / deviation))


def _soften(picture: Planes, side: np.float32, axis: int) -> Planes:
    """Each pixel gives `side` of its light to both neighbours: one ray a pixel leaves jagged edges."""
    result = picture * (1 - 2 * side)
    before, behind = [slice(None)] * 3, [slice(None)] * 3
    before[axis], behind[axis] = slice(None, -1), slice(1, None)
    part = picture * side
    result[tuple(behind)] += part[tuple(before)]
    result[tuple(before)] += part[tuple(behind)]
    first, last = [slice(None)] * 3, [slice(None)] * 3
    first[axis], last[axis] = slice(0, 1), slice(-1, None)
    result[tuple(first)] += part[tuple(first)]
    result[tuple(last)] += part[tuple(last)]
    return result


@functools.cache
def _tones() -> NDArray[np.uint8]:
    """Linear light 0 .. 6 in 4096 steps -> sRGB, bright light rolled off."""
    light = (np.arange(_STEPS) + 0.5) * (_BRIGHTEST / _STEPS)
    rolled = np.where(light < 0.6, light, 0.6 + 0.4 * (1 - np.exp(-(light - 0.6) / 0.6)))
    encoded = np.where(rolled <= 0.0031308, 12.92 * rolled, 1.055 * rolled ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(np.clip(encoded, 0, 1) * 255), dtype=np.uint8)
