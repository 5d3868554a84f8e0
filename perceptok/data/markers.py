"""Markers: where lettered points are put on an image, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from perceptok.data.records import Marker
from perceptok.errors import ConfigError, DataError

__all__ = ["LETTERS", "MarkerProtocol", "draw_markers", "place_markers"]

LETTERS = "ABCDEFGH"

_TRIES = 40
_RING, _WIDTH = 4, 2
_ABOVE, _LABEL_HEIGHT, _FONT_SIZE = 26, 15, 12


@dataclass(frozen=True)
class MarkerProtocol:
    """How markers are placed; the defaults are AURORA's (arXiv 2412.03548).

    Attributes:
        distance: Least distance of two markers in frame pixels.
        gap: Least difference of two markers' grey levels, of 255.
        area: "anywhere", or "middle" for the band of height in which HardBLINK's markers lie.
        margin: Least distance from the frame's edges, so that a circle is whole.
    """

    distance: float = 20.0
    gap: int = 20
    area: Literal["anywhere", "middle"] = "anywhere"
    margin: int = 5

    def __post_init__(self) -> None:
        if not (self.distance >= 0 and 0 <= self.gap <= 255 and self.margin >= 0):
            raise ConfigError(
                f"markers need distance >= 0, gap 0..255, margin >= 0; got {self.distance}, {self.gap}, {self.margin}"
            )


MIDDLE = (95 / 336, 228 / 336)
"""The band of HardBLINK's markers: measured on 178 of its images, rows 95 to 228 of 336 hold 98 % of them."""


def place_markers(
    nearness: NDArray[np.float32],
    valid: NDArray[np.bool_],
    count: int,
    rng: np.random.Generator,
    protocol: MarkerProtocol | None = None,
) -> tuple[Marker, ...]:
    """Put markers on an image by its depth.

    A point never lies on an invalid pixel or on grey level 0, the farthest.

    Args:
        nearness: (S, S) float32 in [0, 1] of the frame, 1 = nearest.
        valid: (S, S) bool.
        count: 2 .. 8 markers.
        rng: What is drawn from; the same state gives the same markers.
        protocol: Distances and area.

    Returns:
        Markers in the order of their letters, whole pixels, `level` the pixel's grey level of 255 as nearness; letters
        say nothing about depth.

    Raises:
        DataError: No such points were found; the message says what was in the way.
        ConfigError: Another count.
    """
    rules = protocol or MarkerProtocol()
    if not 2 <= count <= len(LETTERS):
        raise ConfigError(f"an image has 2 to {len(LETTERS)} markers; got {count}")
    side = len(nearness)
    grey = np.rint(nearness * 255).astype(np.int64)
    allowed = valid & (grey > 0)
    allowed[: rules.margin], allowed[:, : rules.margin] = False, False
    allowed[side - rules.margin :], allowed[:, side - rules.margin :] = False, False
    if rules.area == "middle":
        low, high = (round(edge * side) for edge in MIDDLE)
        allowed[:low], allowed[high:] = False, False
    rows, columns = np.nonzero(allowed)
    levels = grey[rows, columns]
    # With whole levels a gap apart, more points than this never fit; most hopeless images are told by it at once.
    if len(levels) == 0 or (rules.gap and np.ptp(levels) < rules.gap * (count - 1)):
        found = "none" if len(levels) == 0 else f"levels {levels.min()}..{levels.max()}"
        raise DataError(f"no {count} markers with grey levels {rules.gap} apart: the pixels allowed have {found}")
    for _ in range(_TRIES):
        chosen = _try_placement(rows, columns, levels, count, rng, rules)
        if chosen is not None:
            letters = rng.permutation(count)
            return tuple(
                Marker(LETTERS[index], int(columns[at]), int(rows[at]), float(levels[at] / 255))
                for index, at in enumerate(np.asarray(chosen)[letters].tolist())
            )
    raise DataError(
        f"no {count} markers at least {rules.distance:g} pixels and {rules.gap} grey levels apart were found in "
        f"{_TRIES} tries"
    )


def _try_placement(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    levels: NDArray[np.int64],
    count: int,
    rng: np.random.Generator,
    rules: MarkerProtocol,
) -> list[int] | None:
    left = np.arange(len(rows))
    chosen: list[int] = []
    while len(left):
        at = int(left[rng.integers(len(left))])
        chosen.append(at)
        if len(chosen) == count:
            return chosen
        apart = (rows[left] - rows[at]) ** 2 + (columns[left] - columns[at]) ** 2 >= rules.distance**2
        left = left[apart & (np.abs(levels[left] - levels[at]) >= max(rules.gap, 1))]
    return None


def draw_markers(picture: Image.Image, markers: tuple[Marker, ...]) -> Image.Image:
    """A copy of a picture with its markers, as HardBLINK's images show them.

    A red circle of radius 4 and width 2; above it, 26 pixels up, a black box with the letter in white. Where that would
    leave the picture the box lies below the circle, or as far left as it has to.

    Args:
        picture: RGB, in the frame that the markers' coordinates refer to.
        markers: What to draw.
    """
    drawn = picture.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(size=_FONT_SIZE)
    for marker in markers:
        x, y = marker.x, marker.y
        canvas.ellipse((x - _RING, y - _RING, x + _RING, y + _RING), outline=(255, 0, 0), width=_WIDTH)
        wide = round(font.getlength(marker.letter)) + 2
        left = min(max(x - 1, 0), picture.width - wide)
        top = y - _ABOVE if y >= _ABOVE else y + _ABOVE - _LABEL_HEIGHT + 1
        canvas.rectangle((left, top, left + wide - 1, top + _LABEL_HEIGHT - 1), fill=(0, 0, 0))
        canvas.text((left + 1, top), marker.letter, fill=(255, 255, 255), font=font)
    return drawn
