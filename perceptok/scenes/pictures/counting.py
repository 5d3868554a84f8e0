"""Which things of a picture can be counted: names with plurals, and what is clearly seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perceptok.scenes.raycast import Rendering

__all__ = ["HOLDERS", "PLURALS", "Sight", "sights"]

PLURALS: dict[str, str] = {
    "ball": "balls",
    "banana": "bananas",
    "bed": "beds",
    "book": "books",
    "bottle": "bottles",
    "bowl": "bowls",
    "box": "boxes",
    "bush": "bushes",
    "can": "cans",
    "car": "cars",
    "chair": "chairs",
    "cup": "cups",
    "door": "doors",
    "house": "houses",
    "ladder": "ladders",
    "lamp": "lamps",
    "laptop": "laptops",
    "person": "people",
    "plate": "plates",
    "pole": "poles",
    "pot": "pots",
    "potted plant": "potted plants",
    "rock": "rocks",
    "screen": "screens",
    "sofa": "sofas",
    "stool": "stools",
    "table": "tables",
    "tree": "trees",
    "vase": "vases",
}
"""Category -> plural, of everything that is ever asked for."""

HOLDERS = frozenset({"shelf", "rack", "cabinet"})
"""Categories that have small things within them, which are no instances of their own."""

SMALL_THINGS = frozenset(
    {"ball", "banana", "book", "bottle", "bowl", "box", "can", "cup", "laptop", "plate", "pot", "vase"}
)
"""Categories that may lie unnamed within holders."""

LEAST_PIXELS = 48 / 336**2
LEAST_SHARE = 0.3


class Sight(NamedTuple):
    """How one object is seen.

    Attributes:
        instance: Its number.
        category: What it is.
        xyxy: Box of its visible pixels.
        pixels: How many those are.
        share: That box over the box of the whole object within the picture's frame, 0 .. 1.
        clear: Whether a person would count it: `pixels` at least 48 of 336 x 336 and `share` at least 0.3.
    """

    instance: int
    category: str
    xyxy: tuple[int, int, int, int]
    pixels: int
    share: float
    clear: bool


def sights(seen: Rendering) -> list[Sight]:
    """All objects that are seen at all, in the order of their numbers."""
    height, width = seen.depth.shape
    boxes = seen.boxes()
    whole = _whole_boxes(seen, [box.instance for box in boxes])
    least = max(2.0, LEAST_PIXELS * height * width)
    found = []
    for box, (x0, y0, x1, y1) in zip(boxes, whole.tolist(), strict=True):
        a, b, c, d = box.xyxy
        share = (c - a) * (d - b) / max((x1 - x0) * (y1 - y0), (c - a) * (d - b))
        clear = box.pixels >= least and share >= LEAST_SHARE
        found.append(Sight(box.instance, box.category, box.xyxy, box.pixels, share, clear))
    return found


def _whole_boxes(seen: Rendering, instances: list[int]) -> NDArray[np.float64]:
    """Boxes of whole objects within the frame as if nothing stood before them, (n, 4).

    The corners of every part's box are projected, pulled in as a round part fills but the middle of its box.
    """
    height, width = seen.depth.shape
    camera = seen.scene.camera
    result = np.zeros((len(instances), 4))
    if not instances:
        return result
    things = [seen.scene.objects[number].primitives for number in instances]
    parts = [part for thing in things for part in thing]
    starts = np.cumsum([0, *(len(thing) for thing in things[:-1])])
    signs = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    corners = signs * np.array([part.shape.extents for part in parts])[:, None, :] * 0.8
    axes = np.stack([part.axes for part in parts])
    points = np.einsum("nij,nkj->nki", axes, corners) + np.stack([part.center for part in parts])[:, None]
    local = (points - camera.position) @ camera.rotation
    behind = np.logical_or.reduceat((local[..., 2] < 0.05).any(axis=1), starts)
    z = np.maximum(local[..., 2], 0.05)
    for axis, (half, size) in enumerate(zip(camera.half_view, (width, height), strict=True)):
        pixel = np.clip((local[..., axis] / z / half + 1) * size / 2, 0, size)
        low, high = np.minimum.reduceat(pixel.min(axis=1), starts), np.maximum.reduceat(pixel.max(axis=1), starts)
        result[:, axis], result[:, axis + 2] = np.where(behind, 0, low), np.where(behind, size, high)
    return result
