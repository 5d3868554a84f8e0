"""From the square frame that the model saw back to the image's own pixels."""

from __future__ import annotations

import numpy as np

from perceptok.boxes.frames.geometry import ImageFrame
from perceptok.depth.maps.depth_map import DepthMap

__all__ = ["depth_of_image", "nearness_at"]


def depth_of_image(nearness: np.ndarray, frame: ImageFrame) -> DepthMap:
    """A decoded map of the frame -> the depth map of the image, pixel for pixel.

    Each pixel takes the value of the map's pixel that its centre falls into; surfaces are not blended.

    Args:
        nearness: (S, S) float32 in [0, 1] of the whole frame.
        frame: How the image lay in it.

    Returns:
        An inverse map of the image's size, 1 = nearest; not valid where the frame did not show the image (a crop).
    """
    rows, seen_rows = _picked(frame, 1, nearness.shape[0])
    columns, seen_columns = _picked(frame, 0, nearness.shape[1])
    values = np.ascontiguousarray(nearness[np.ix_(rows, columns)], dtype=np.float32)
    return DepthMap(values, np.outer(seen_rows, seen_columns), "inverse")


def nearness_at(nearness: np.ndarray, frame: ImageFrame, points: np.ndarray) -> np.ndarray:
    """Nearness at points (N, 2) of the frame, as x, y: (N,) float32; NaN where a point lies outside the frame."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    inside = ((points >= 0) & (points <= frame.size)).all(axis=1)
    found = np.full(len(points), np.nan, dtype=np.float32)
    if inside.any():
        rows, columns = frame.to_depth_map(points[inside], len(nearness))
        found[inside] = nearness[rows, columns]
    return found


def _picked(frame: ImageFrame, axis: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The map's index of each pixel along an axis of the image, and whether the frame shows it."""
    centres = np.arange(frame.image_size[axis]) + 0.5
    places = (centres * frame.scale[axis] + frame.origin[axis]) * (side / frame.size)
    indices = np.floor(places).astype(np.int64)
    return np.clip(indices, 0, side - 1), (indices >= 0) & (indices < side)
