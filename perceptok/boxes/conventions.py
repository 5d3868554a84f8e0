"""How a dataset writes a box down: corners, corner and side lengths, centre and side lengths."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from perceptok.errors import ConfigError

__all__ = ["Convention", "checked_convention", "from_corners", "to_corners"]

Convention = Literal["xyxy", "xywh", "cxcywh"]


def checked_convention(convention: str) -> None:
    """Raises ConfigError unless it is one of the three."""
    if convention not in get_args(Convention):
        raise ConfigError(f"convention is one of {', '.join(get_args(Convention))}; got {convention!r}")


def to_corners(boxes: np.ndarray, convention: Convention) -> np.ndarray:
    """Boxes (N, 4) in a convention -> x1, y1, x2, y2; "xyxy" comes back uncopied, the others as float64."""
    if convention == "xyxy":
        return boxes
    # Pairs are taken as complex numbers: NumPy is ten times slower on inner loops of two.
    numbers = np.ascontiguousarray(boxes, dtype=np.float64)
    points, corners = _pairs(numbers), np.empty_like(numbers)
    first, second = _pairs(corners).T
    if convention == "xywh":
        first[...] = points[:, 0]
        np.add(points[:, 0], points[:, 1], out=second)
    else:
        half = _pairs(numbers * 0.5)[:, 1]
        np.subtract(points[:, 0], half, out=first)
        np.add(points[:, 0], half, out=second)
    return corners


def from_corners(corners: np.ndarray, convention: Convention) -> np.ndarray:
    """The inverse of `to_corners`, float64."""
    if convention == "xyxy":
        return corners
    boxes = np.empty(corners.shape, dtype=np.float64)
    np.subtract(corners[:, 2:], corners[:, :2], out=boxes[:, 2:])
    boxes[:, :2] = corners[:, :2] if convention == "xywh" else (corners[:, :2] + corners[:, 2:]) * 0.5
    return boxes


def _pairs(boxes: np.ndarray) -> np.ndarray:
    """Contiguous float64 (N, 4) seen as (N, 2) complex: (a, b) and (c, d)."""
    return boxes.view(np.complex128)
