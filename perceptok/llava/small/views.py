"""A yard in the haze: simple scenes whose pictures show their depth, with exact truth.

One fixed camera, a floor, a back wall, and two to five things that stand on the floor at a distance of their own. Haze
fades every colour with distance, so that depth can be told from a small patch as well as from where a thing stands: a
world that ten minutes of training can learn, and no harder than that. Photographs are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceptok.depth import DepthCodec
from perceptok.files import atomic_write
from perceptok.llava.grid_tower import GridTower
from perceptok.scenes import Camera, Rendering, Scene, SceneObject, box, cylinder, ellipsoid, place, quad, render

__all__ = ["Views", "YardView", "make_views", "normalised", "sample_yard", "view_yard"]


_WALL = 9.0
_EYE = 1.5
_HAZE = 3.5
"""Metres over which haze takes 1 - 1/e of a colour."""
_PALE = np.array([225, 230, 235], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class YardView:
    """One scene as it is seen.

    Attributes:
        picture: (size, size, 3) uint8.
        nearness: (320, 320) float32 in [0, 1], 1 = nearest: inverse depth from the map's least to its greatest.
        rendering: Depth in metres and instances, 320x320.
    """

    picture: NDArray[np.uint8]
    nearness: NDArray[np.float32]
    rendering: Rendering


def sample_yard(seed: int, index: int) -> Scene:
    """The scene of a pair of numbers; the same in every process."""
    rng = np.random.default_rng([seed, index, 77])
    things = [
        SceneObject("floor", (quad((4.5, 0, 0), (5.0, 0, 0), (0, 8.0, 0)),), (0.45, 0.5, 0.4)),
        SceneObject("wall", (quad((_WALL, 0, 2), (0, 8.0, 0), (0, 0, 4.0)),), (0.5, 0.45, 0.45)),
    ]
    for _ in range(int(rng.integers(2, 6))):
        away = 1 / rng.uniform(1 / 7.0, 1 / 2.0)
        aside = rng.uniform(-0.5, 0.5) * away
        wide, high = rng.uniform(0.35, 0.75), rng.uniform(0.7, 2.2)
        kind = str(rng.choice(["box", "ball", "pillar"]))
        if kind == "box":
            parts = (box((0, 0, high / 2), (2 * wide, 2 * wide, high)),)
        elif kind == "ball":
            parts = (ellipsoid((0, 0, wide), wide),)
        else:
            parts = (cylinder((0, 0, 0), (0, 0, high), wide * 0.7),)
        red, green, blue = rng.uniform(0.05, 0.6, 3).tolist()
        things.append(SceneObject(kind, place(parts, (away + wide, aside, 0.0)), (red, green, blue)))
    camera = Camera.aimed((0.0, 0.0, _EYE), pitch=-12, fov=60)
    return Scene(tuple(things), camera, "yard", light=(-0.6, 0.4, 1.0))


def view_yard(seed: int, index: int, size: int = 160) -> YardView:
    """Render a scene: exact depth at the codec's 320x320, the picture at the tower's size."""
    scene = sample_yard(seed, index)
    seen = render(scene, 320, 320)
    inverse = 1 / seen.depth  # infinitely far is 0
    nearness = (inverse - inverse.min()) / (inverse.max() - inverse.min())
    small = seen if size == 320 else render(scene, size, size)
    clear = np.exp(-np.minimum(small.depth, 100.0) / _HAZE)[..., None]
    picture = small.rgb().astype(np.float32) * clear + _PALE * (1 - clear)
    return YardView(np.rint(picture).astype(np.uint8), nearness.astype(np.float32), seen)


_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
_CHUNK = 32


@dataclass(frozen=True, eq=False)
class Views:
    """Scenes in arrays, one entry each.

    Attributes:
        pictures: (N, S, S, 3) uint8.
        nearness: (N, 160, 160) float16, every second row and column.
        codes: (N, 100) int64.
        features: (N, 100, C) float16, of the tower.
        teacher: (N, 100, 128) float16, the codec's probabilities (`encode_soft`); rows sum to 1 as far as float16 goes.
    """

    pictures: NDArray[np.uint8]
    nearness: NDArray[np.float16]
    codes: Tensor
    features: Tensor
    teacher: Tensor

    def __len__(self) -> int:
        return len(self.codes)


def normalised(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures (N, S, S, 3) -> what the tower sees, (N, 3, S, S) float32; as the processor does it."""
    values = (pictures.astype(np.float32) / 255 - _MEAN) / _STD
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def make_views(
    seed: int,
    count: int,
    tower: GridTower,
    codec: DepthCodec,
    *,
    temperature: float,
    cache: str | os.PathLike[str] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Views:
    """Render scenes, and pass them through tower and codec once.

    Args:
        seed: Names the family of scenes.
        count: How many.
        tower: Frozen and calibrated.
        codec: The teacher.
        temperature: Of the teacher, see `DepthCodec.encode_soft`.
        cache: A file (`.npz`) to keep them in; what is there already is read instead. Its name must tell what is in it.
        advance: Called after each scene.
    """
    path = None if cache is None else Path(cache)
    if path is not None and path.is_file():
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        for _ in range(count):
            advance()
        return _views(arrays)
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, count, _CHUNK):
        seen = []
        for index in range(start, min(count, start + _CHUNK)):
            seen.append(view_yard(seed, index, tower.config.image_size))
            advance()
        pictures, nearness = np.stack([one.picture for one in seen]), np.stack([one.nearness for one in seen])
        with torch.no_grad():
            features = tower(normalised(pictures)).last_hidden_state
        soft = codec.encode_soft(nearness, temperature=temperature)
        parts.append(
            {
                "pictures": pictures,
                "nearness": nearness[:, ::2, ::2].astype(np.float16),
                "codes": codec.encode(nearness).reshape(-1, 100),
                "features": features.half().numpy(),
                "teacher": soft.reshape(len(seen), 100, -1).astype(np.float16),
            }
        )
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if path is not None:
        with atomic_write(path, force=True) as file:
            np.savez(file, **arrays)
    return _views(arrays)


def _views(arrays: dict[str, np.ndarray]) -> Views:
    return Views(
        arrays["pictures"],
        arrays["nearness"],
        torch.from_numpy(arrays["codes"]),
        torch.from_numpy(arrays["features"]),
        torch.from_numpy(arrays["teacher"]),
    )
