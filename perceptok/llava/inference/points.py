"""Points that an answer names, in the words that AURORA teaches: `Point A is located at (x = 73 y = 188)`."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["NamedPoint", "SeenPoint", "points_in_text"]

_POINT = re.compile(r"\b[Pp]oint ([A-Z]) is located at \(x = (\d{1,6}(?:\.\d{1,6})?),? y = (\d{1,6}(?:\.\d{1,6})?)\)")


class NamedPoint(NamedTuple):
    """A lettered point in pixels of the frame."""

    letter: str
    x: float
    y: float


class SeenPoint(NamedTuple):
    """A lettered point in the image's own pixels, with the nearness that the answer's depth block gives it."""

    letter: str
    x: float
    y: float
    nearness: float | None


def points_in_text(text: str) -> list[NamedPoint]:
    """The points of a text in their order, in pixels of the frame; of a letter named twice the first."""
    found: dict[str, NamedPoint] = {}
    for match in _POINT.finditer(text):
        found.setdefault(match[1], NamedPoint(match[1], float(match[2]), float(match[3])))
    return list(found.values())
