"""A yard in the haze: simple scenes whose pictures show their depth, with exact truth.

One fixed camera, a floor, a back wall, and two to five things that stand on the floor at a distance of their own. Haze
fades every colour with distance, so that depth can be told from a small patch as well as from where a thing stands: a
world that ten minutes of training can learn, and no harder than that. Photographs are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perceptok.scenes.building import box, cylinder, ellipsoid, place, quad
from perceptok.scenes.raycast import Camera, Rendering, Scene, SceneObject, render

__all__ = ["YardView", "sample_yard", "view_yard"]

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
