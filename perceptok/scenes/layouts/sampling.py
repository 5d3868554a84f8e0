"""Random but reproducible scenes of everyday places, for maps with exact ground truth.

One generator per (seed, index): the same pair gives the same scene in any process and any order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from perceptok.errors import ConfigError
from perceptok.scenes.layouts.closeups import bin_picking, foliage, object_portrait, people, soup, table_top
from perceptok.scenes.layouts.interiors import corridor, hall, room
from perceptok.scenes.layouts.outdoors import field, landscape, street
from perceptok.scenes.raycast import Scene, render

__all__ = ["ASPECTS", "LAYOUTS", "sample_scene", "worth_seeing"]


LAYOUTS: dict[str, tuple[Callable[[Generator, float], Scene], float]] = {
    "bin": (bin_picking, 0.07),
    "corridor": (corridor, 0.06),
    "field": (field, 0.06),
    "foliage": (foliage, 0.07),
    "hall": (hall, 0.05),
    "landscape": (landscape, 0.05),
    "people": (people, 0.08),
    "portrait": (object_portrait, 0.08),
    "room": (room, 0.20),
    "soup": (soup, 0.06),
    "street": (street, 0.09),
    "table": (table_top, 0.13),
}
"""Layout family -> its builder and its share of the scenes; more where depth sensors are used."""

ASPECTS = ((4 / 3, 0.55), (16 / 9, 0.25), (1.0, 0.12), (3 / 4, 0.08))
"""Width / height of the camera's view, and how often."""

_ATTEMPTS = 200
_PLAIN = 0.15
"""How often a view of one or two things, such as a bare wall and floor, is good enough."""


def sample_scene(seed: int, index: int, kind: str | None = None) -> Scene:
    """The scene of a pair of numbers.

    Args:
        seed: Names a family of scenes, >= 0.
        index: Which scene of that family, >= 0.
        kind: One of `LAYOUTS`; drawn by their shares where None.

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
        aspect = float(rng.choice([a for a, _ in ASPECTS], p=[share for _, share in ASPECTS]))
        scene = LAYOUTS[name][0](rng, aspect)
        if worth_seeing(scene, plain=rng.random() < _PLAIN):
            return scene
    raise AssertionError(f"{_ATTEMPTS} degenerate scenes in a row for seed {seed}, index {index}")


def worth_seeing(scene: Scene, *, plain: bool) -> bool:
    """Whether a coarse view has something in it: not all sky, not a wall at the nose, not one flat tone."""
    view = render(scene, 24, 24)
    depth = view.depth
    if not plain and np.unique(view.instance).size < 4:
        return False
    hit = depth[np.isfinite(depth)]
    if hit.size < 0.15 * depth.size or np.mean(hit < 0.15) > 0.1:
        return False
    near, far = np.percentile(hit, [5, 95])
    return bool(far > 1.08 * near)
