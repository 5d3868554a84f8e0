"""Sampling of scenes: one random generator for each (seed, index), so that any process and any order give the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from perceptok.errors import ConfigError
from perceptok.scenes.layouts import closeups, interiors, outdoors
from perceptok.scenes.raycast import Scene, render

LAYOUTS: dict[str, tuple[Callable[[Generator, float], Scene], float]] = {
    "bin": (closeups.build_bin_picking, 0.07),
    "corridor": (interiors.build_corridor, 0.06),
    "field": (outdoors.build_field, 0.06),
    "foliage": (closeups.build_foliage, 0.07),
    "hall": (interiors.build_hall, 0.05),
    "landscape": (outdoors.build_landscape, 0.05),
    "people": (closeups.build_people, 0.08),
    "portrait": (closeups.build_portrait, 0.08),
    "room": (interiors.build_room, 0.20),
    "soup": (closeups.build_soup, 0.06),
    "street": (outdoors.build_street, 0.09),
    "table": (closeups.build_table_top, 0.13),
}
"""Layout -> its function and its probability, higher where depth sensors are used."""

ASPECTS = ((4 / 3, 0.55), (16 / 9, 0.25), (1.0, 0.12), (3 / 4, 0.08))
"""Width / height of the camera's view, and its probability."""

_ATTEMPTS = 200
_PLAIN = 0.15
"""Probability that a view of one or two objects, such as a bare wall and floor, is accepted."""


def sample_scene(seed: int, index: int, kind: str | None = None) -> Scene:
    """Sample a scene; equal arguments give equal scenes.

    Args:
        seed: The seed of a family of scenes, >= 0.
        index: Number of the scene in that family, >= 0.
        kind: One of `LAYOUTS`; drawn with their probabilities where None.

    Raises:
        ConfigError: For a negative number or an unknown kind.
    """
    if seed < 0 or index < 0:
        raise ConfigError(f"seed and index must be >= 0; got {seed} and {index}")
    if kind is not None and kind not in LAYOUTS:
        raise ConfigError(f"kind must be one of {', '.join(LAYOUTS)}; got {kind!r}")
    rng = np.random.default_rng([seed, index])
    names, shares = list(LAYOUTS), [share for _, share in LAYOUTS.values()]
    for _ in range(_ATTEMPTS):
        name = kind or names[rng.choice(len(names), p=shares)]
        scene = LAYOUTS[name][0](rng, sample_aspect(rng))
        if is_informative(scene, plain=rng.random() < _PLAIN):
            return scene
    raise AssertionError(f"{_ATTEMPTS} degenerate scenes in a row for seed {seed}, index {index}")


def sample_aspect(rng: Generator) -> float:
    """The width over the height of a view."""
    return float(rng.choice([aspect for aspect, _ in ASPECTS], p=[share for _, share in ASPECTS]))


def is_informative(scene: Scene, *, plain: bool) -> bool:
    """Whether a coarse view shows objects at different depths, not too near; few objects suffice where `plain`."""
    view = render(scene, 24, 24)
    if not plain and np.unique(view.instance).size < 4:
        return False
    depth = view.depth[np.isfinite(view.depth)]
    if depth.size < 0.15 * view.depth.size or np.mean(depth < 0.15) > 0.1:
        return False
    near, far = np.percentile(depth, [5, 95])
    return bool(far > 1.08 * near)
