"""Two worlds that share no texture and no lens: what pictures are trained on, and what they are tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perceptok.errors import ConfigError

__all__ = ["SPLITS", "Split", "SplitName", "find_split"]

SplitName = Literal["train", "heldout"]


@dataclass(frozen=True)
class Split:
    """The parameters by which the worlds of two splits differ, beside their seeds.

    Attributes:
        name: "train" or "heldout".
        number: Enters every seed.
        families: Layout family -> its share.
        fov: Least and greatest horizontal field of view, degrees.
        stretch: Least and greatest vertical stretch of everything; it alters the proportions of all things.
        arrangements: How gathered things stand: "scatter", "row", "ring" or "grid".
        hue: Where in each sixth of the colour circle the colours of paint, cloth and plastic lie, 0 .. 1.
        patterns: Kind of surface -> names of its textures.
        palette: Which of two ranges of natural colours (wood, stone, grass) is used, 0 or 1.
    """

    name: SplitName
    number: int
    families: dict[str, float]
    fov: tuple[float, float]
    stretch: tuple[float, float]
    arrangements: tuple[str, ...]
    hue: tuple[float, float]
    patterns: dict[str, tuple[str, ...]]
    palette: int


SPLITS: dict[str, Split] = {
    "train": Split(
        name="train",
        number=1,
        families={
            "gathering on a floor": 0.2,
            "gathering on a table": 0.17,
            "gathering in a yard": 0.1,
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
        families={
            "gathering on a floor": 0.2,
            "gathering on a table": 0.17,
            "gathering in a yard": 0.1,
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
    """A split by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}; got {name!r}")
    return SPLITS[name]
