"""How a dataset writes a box down: corners, corner and side lengths, centre and side lengths."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from perceptok.errors import ConfigError

__all__ = ["Convention", "checked_convention", "from_corners", "make_corners", "to_corners"]

Convention = Literal["xyxy", "xywh", "cxcywh"]


def checked_convention(convention: str) -> None:
    """Raises ConfigError unless it is one of the three."""
    if convention not in get_args(Convention):
        raise ConfigError(f"convention is one of {', '.join(get_args(Convention))}; got {convention!r}")


def to_corners(boxes: np.ndarray, convention: Convention) -> np.ndarray:
    """Boxes (N, 4) in a convention -> x1, y1, x2, y2; "xyxy" comes back uncopied, the others as float64."""
    if convention == "xyxy":
        return boxes
    corners = np.array(boxes, dtype=np.float64, order="C")
    if convention == "cxcywh":
        corners[:, 2:] *= 0.5
    make_corners(corners, convention)
    return corners


def make_corners(boxes: np.ndarray, convention: Convention) -> None:
    """Turn contiguous float64 boxes (N, 4) into corners where they are; of "cxcywh" the lengths are half ones."""
    if convention == "xyxy":
        return
    # Pairs are taken as complex numbers: NumPy is ten times slower on inner loops of two.
    first, second = boxes.view(np.complex128).T
    if convention == "cxcywh":
        np.subtract(first, second, out=first)
        np.add(second, second, out=second)
    np.add(first, second, out=second)


def from_corners(corners: np.ndarray, convention: Convention) -> np.ndarray:
    """The inverse of `to_corners`, float64."""
    if convention == "xyxy":
        return corners
    boxes = np.empty(corners.shape, dtype=np.float64)
    np.subtract(corners[:, 2:], corners[:, :2], out=boxes[:, 2:])
    boxes[:, :2] = corners[:, :2] if convention == "xywh" else (corners[:, :2] + corners[:, 2:]) * 0.5
    return boxes
