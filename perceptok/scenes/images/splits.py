"""The two splits of images, for training and for testing, which share no texture and no field of view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


_GATHERINGS = {"gathering on a floor": 0.2, "gathering on a table": 0.17, "gathering in a yard": 0.1}

SPLITS: dict[str, Split] = {
    "train": Split(
        name="train",
        number=1,
        layouts={
            **_GATHERINGS,
            "bin": 0.04,
            "corridor": 0.05,
            "landscape": 0.04,
            "people": 0.07,
            "portrait": 0.06,
            "room": 0.15,
            "street": 0.06,
            "table": 0.06,
        },
        fov=(48.0, 66.0),
        stretch=(0.94, 1.06),
        arrangements=("scatter", "row"),
        hue=(0.0, 0.5),
        patterns={
            "boards": ("planks",),
            "tiles": ("squares",),
            "masonry": ("bricks",),
            "wood": ("grain",),
            "print": ("stripes", "clouds"),
            "cloth": ("weave", "clouds", "stripes"),
            "smooth": ("plaster",),
            "rough": ("speckle",),
            "ground": ("turf", "clouds"),
        },
        palette=0,
    ),
    "heldout": Split(
        name="heldout",
        number=2,
        layouts={
            **_GATHERINGS,
            "bin": 0.03,
            "field": 0.04,
            "foliage": 0.03,
            "hall": 0.07,
            "people": 0.06,
            "portrait": 0.05,
            "room": 0.15,
            "street": 0.05,
            "table": 0.05,
        },
        fov=(68.0, 84.0),
        stretch=(1.12, 1.3),
        arrangements=("ring", "grid"),
        hue=(0.5, 1.0),
        patterns={
            "boards": ("parquet",),
            "tiles": ("hexagons", "terrazzo"),
            "masonry": ("stones",),
            "wood": ("knots",),
            "print": ("checks", "dots", "zigzag"),
            "cloth": ("felt", "checks", "dots"),
            "smooth": ("ridges",),
            "rough": ("felt", "gravel"),
            "ground": ("gravel", "ridges"),
        },
        palette=1,
    ),
}
"""The splits by name."""


def find_split(name: str) -> Split:
    """The split of a name; raises ConfigError where there is none."""
    if name not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}; got {name!r}")
    return SPLITS[name]
