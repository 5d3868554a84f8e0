"""Markers: where lettered points are placed on an image, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from perceptok.data.records import Marker
from perceptok.errors import ConfigError, DataError

__all__ = ["LETTERS", "MarkerProtocol", "draw_markers", "place_markers"]

LETTERS = "ABCDEFGH"

MIDDLE_BAND = (95 / 336, 228 / 336)
"""The band of HardBLINK's markers: measured on 178 of its images, rows 95 to 228 of 336 hold 98 % of them."""

_RELEASED_LIMIT = 301 / 336
"""AURORA draws x and y of its training markers from 0..300 of 336, so that a letter is never cut off."""

_MAX_TRIES = 40
_RING_RADIUS, _RING_WIDTH = 4, 2
_LABEL_OFFSET, _LABEL_HEIGHT, _FONT_SIZE = 26, 15, 12


@dataclass(frozen=True)
class MarkerProtocol:
    """How markers are placed; the distances are those of AURORA's released code (arXiv 2412.03548).

    Attributes:
        min_distance: Minimum distance of two markers in frame pixels.
        min_level_gap: Minimum difference of two markers' grey levels, of 255.
        area: "anywhere"; "middle" for the band of rows in which HardBLINK's markers lie; "released" for the area of
            AURORA's training markers, x and y in 0..300 of 336.
        margin: Minimum distance from the frame's edges, so that a circle is complete.
    """

    min_distance: float = 20.0
    min_level_gap: int = 20
    area: Literal["anywhere", "middle", "released"] = "anywhere"
    margin: int = 5

    def __post_init__(self) -> None:
        if not (self.min_distance >= 0 and 0 <= self.min_level_gap <= 255 and self.margin >= 0):
            raise ConfigError(
                "markers need min_distance >= 0, min_level_gap 0..255 and margin >= 0; got "
                f"{self.min_distance}, {self.min_level_gap} and {self.margin}"
            )


def place_markers(
    nearness: NDArray[np.float32],
    valid: NDArray[np.bool_],
    count: int,
    rng: np.random.Generator,
    protocol: MarkerProtocol | None = None,
) -> tuple[Marker, ...]:
    """Place markers on an image according to its depth.

    A marker never lies on an invalid pixel or on grey level 0, the farthest.

    Args:
        nearness: (S, S) float32 in [0, 1] of the frame, 1 = nearest.
        valid: (S, S) bool.
        count: Number of markers, 2..8.
        rng: The same state gives the same markers.
        protocol: Distances and area.

    Returns:
        Markers in the order of their letters, at whole pixels; `level` is the pixel's grey level divided by 255. The
        letters are shuffled, so that they do not correlate with depth.

    Raises:
        DataError: No placement was found; the message says why.
        ConfigError: `count` is out of range.
    """
    rules = protocol or MarkerProtocol()
    if not 2 <= count <= len(LETTERS):
        raise ConfigError(f"an image has 2 to {len(LETTERS)} markers; got {count}")
    grey = np.rint(nearness * 255).astype(np.int64)
    rows, columns = np.nonzero(valid & (grey > 0) & _make_area(len(nearness), rules))
    levels = grey[rows, columns]
    # More markers than this range of levels allows: most images without a placement are recognized at once.
    if len(levels) == 0 or (rules.min_level_gap and np.ptp(levels) < rules.min_level_gap * (count - 1)):
        found = "none" if len(levels) == 0 else f"levels {levels.min()}..{levels.max()}"
        raise DataError(
            f"no {count} markers with grey levels {rules.min_level_gap} apart: the pixels allowed have {found}"
        )
    for _ in range(_MAX_TRIES):
        chosen = _try_placement(rows, columns, levels, count, rng, rules)
        if chosen is not None:
            order = np.asarray(chosen)[rng.permutation(count)].tolist()
            return tuple(
                Marker(letter, int(columns[index]), int(rows[index]), float(levels[index] / 255))
                for letter, index in zip(LETTERS, order, strict=False)
            )
    raise DataError(
        f"no {count} markers at least {rules.min_distance:g} pixels and {rules.min_level_gap} grey levels apart were "
        f"found in {_MAX_TRIES} tries"
    )


def _make_area(side: int, rules: MarkerProtocol) -> NDArray[np.bool_]:
    """The pixels (S, S) that the protocol allows."""
    allowed = np.zeros((side, side), dtype=bool)
    low, high = rules.margin, side - rules.margin
    allowed[low:high, low:high] = True
    if rules.area == "middle":
        first, end = (round(edge * side) for edge in MIDDLE_BAND)
        allowed[:first], allowed[end:] = False, False
    elif rules.area == "released":
        end = round(_RELEASED_LIMIT * side)
        allowed[end:], allowed[:, end:] = False, False
    return allowed


def _try_placement(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    levels: NDArray[np.int64],
    count: int,
    rng: np.random.Generator,
    rules: MarkerProtocol,
) -> list[int] | None:
    """Draw pixels one after the other from those far enough from the ones before; None where too few are left."""
    remaining = np.arange(len(rows))
    chosen: list[int] = []
    while len(remaining):
        index = int(remaining[rng.integers(len(remaining))])
        chosen.append(index)
        if len(chosen) == count:
            return chosen
        squared = (rows[remaining] - rows[index]) ** 2 + (columns[remaining] - columns[index]) ** 2
        gaps = np.abs(levels[remaining] - levels[index])
        remaining = remaining[(squared >= rules.min_distance**2) & (gaps >= max(rules.min_level_gap, 1))]
    return None


def draw_markers(image: Image.Image, markers: tuple[Marker, ...]) -> Image.Image:
    """Draw markers on a copy of an image, as HardBLINK's images show them.

    A red circle of radius 4 and width 2; 26 pixels above its centre a black box with the letter in white. Where the box
    would leave the image, it lies below the circle, or farther left; where it would touch another circle or label, it
    lies below, above, or beside its own circle, at the first place where it does not.

    Args:
        image: RGB, in the frame of the markers' coordinates.
        markers: The markers.
    """
    drawn = image.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(size=_FONT_SIZE)
    rings = [_find_ring(marker) for marker in markers]
    labels: list[_Rectangle] = []
    for marker, ring in zip(markers, rings, strict=True):
        canvas.ellipse(ring, outline=(255, 0, 0), width=_RING_WIDTH)
        width = round(font.getlength(marker.letter)) + 2
        label = _place_label(marker, width, image.size, [*rings, *labels])
        labels.append(label)
        canvas.rectangle(label, fill=(0, 0, 0))
        canvas.text((label[0] + 1, label[1]), marker.letter, fill=(255, 255, 255), font=font)
    return drawn


_Rectangle = tuple[float, float, float, float]
"""First and last column and row: left, top, right, bottom."""


def _find_ring(marker: Marker) -> _Rectangle:
    x, y = marker.x, marker.y
    return x - _RING_RADIUS, y - _RING_RADIUS, x + _RING_RADIUS, y + _RING_RADIUS


def _place_label(marker: Marker, width: int, size: tuple[int, int], occupied: Sequence[_Rectangle]) -> _Rectangle:
    """Find the first place of a label that touches neither a ring nor another label; where there is none, the first."""
    x, y = marker.x, marker.y
    above, below = y - _LABEL_OFFSET, y + _LABEL_OFFSET - _LABEL_HEIGHT + 1
    beside = y - _LABEL_HEIGHT // 2
    left, right = x - _LABEL_OFFSET + _LABEL_HEIGHT - width, x + _LABEL_OFFSET - _LABEL_HEIGHT + 1
    first = above if above >= 0 else below
    corners = [(x - 1, first), (x - 1, below if first == above else above), (right, beside), (left, beside)]
    corners += [(left, above), (right, above), (left, below), (right, below)]
    places = []
    for column, row in corners:
        column = min(max(column, 0), size[0] - width)
        places.append((column, row, column + width - 1, row + _LABEL_HEIGHT - 1))
    for place in places:
        is_inside = place[1] >= 0 and place[3] < size[1]
        if is_inside and not any(_touches(place, other) for other in occupied):
            return place
    return places[0]


def _touches(first: _Rectangle, second: _Rectangle) -> bool:
    """Whether two rectangles overlap or lie side by side."""
    return (
        first[0] <= second[2] + 1
        and second[0] <= first[2] + 1
        and first[1] <= second[3] + 1
        and second[1] <= first[3] + 1
    )
