"""The two splits of images, for training and for testing, which share no texture and no field of view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from perceptok.errors import ConfigError

SplitName = Literal["train", "heldout"]


@dataclass(frozen=True)
class Split:
    """The parameters by which two splits differ, besides their seeds.

    Attributes:
        name: "train" or "heldout".
        number: Enters every seed.
        layouts: Layout -> its probability.
        fov: Least and greatest horizontal field of view, degrees.
        stretch: Least and greatest vertical stretch of the whole scene, which changes all proportions.
        arrangements: How gathered objects are arranged: "scatter", "row", "ring" or "grid".
        hue: Where in each sixth of the color circle the hues of paint, cloth and plastic lie, 0 .. 1.
        patterns: Kind of surface -> names of its textures.
        palette: Which of two ranges of natural colors (wood, stone, grass) is used, 0 or 1.
    """

    name: SplitName
    number: int
    layouts: dict[str, float]
    fov: tuple[float, float]
    stretch: tuple[float, float]
    arrangements: tuple[str, ...]
    hue: tuple[float, float]
    patterns: dict[str, tuple[str, ...]]
    palette: int


_LAYOUTS = {
    "gathering on a floor": (0.2, 0.2),
    "gathering on a table": (0.17, 0.17),
    "gathering in a yard": (0.1, 0.1),
    "bin": (0.04, 0.03),
    "corridor": (0.05, 0.0),
    "field": (0.0, 0.04),
    "foliage": (0.0, 0.03),
    "hall": (0.0, 0.07),
    "landscape": (0.04, 0.0),
    "people": (0.07, 0.06),
    "portrait": (0.06, 0.05),
    "room": (0.15, 0.15),
    "street": (0.06, 0.05),
    "table": (0.06, 0.05),
}
"""Layout -> its probability in "train" and in "heldout"."""

_PATTERNS = {
    "boards": (("planks",), ("parquet",)),
    "tiles": (("squares",), ("hexagons", "terrazzo")),
    "masonry": (("bricks",), ("stones",)),
    "wood": (("grain",), ("knots",)),
    "print": (("stripes", "clouds"), ("checks", "dots", "zigzag")),
    "cloth": (("weave", "clouds", "stripes"), ("felt", "checks", "dots")),
    "smooth": (("plaster",), ("ridges",)),
    "rough": (("speckle",), ("felt", "gravel")),
    "ground": (("turf", "clouds"), ("gravel", "ridges")),
}
"""Kind of surface -> names of its textures in "train" and in "heldout"."""


def _make_split(name: SplitName, palette: int, **settings: Any) -> Split:
    return Split(
        name,
        number=palette + 1,
        palette=palette,
        layouts={layout: shares[palette] for layout, shares in _LAYOUTS.items() if shares[palette]},
        patterns={surface: names[palette] for surface, names in _PATTERNS.items()},
        **settings,
    )


SPLITS: dict[str, Split] = {
    "train": _make_split(
        "train", 0, fov=(48.0, 66.0), stretch=(0.94, 1.06), arrangements=("scatter", "row"), hue=(0.0, 0.5)
    ),
    "heldout": _make_split(
        "heldout", 1, fov=(68.0, 84.0), stretch=(1.12, 1.3), arrangements=("ring", "grid"), hue=(0.5, 1.0)
    ),
}
"""The splits by name."""


def find_split(name: str) -> Split:
    """The split of a name; raises ConfigError where there is none."""
    if name not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}; got {name!r}")
    return SPLITS[name]
