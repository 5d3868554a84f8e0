"""Orientation: boxes and depth maps of the stored frame of a photo, turned upright as its EXIF tag says."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perceptok.errors import DataError

__all__ = ["Exif", "choose_turn", "turn_array", "turn_boxes"]

Exif = Literal["apply", "ignore"]
"""What annotations and maps of photos with an EXIF orientation are of: the upright photo ("apply": whoever made them
applied the tag), or the photo as it is stored ("ignore")."""

_TURNS = {1: "", 2: "h", 3: "hv", 4: "v", 5: "t", 6: "th", 7: "thv", 8: "tv"}
"""EXIF orientation -> transpose (t), then mirror left and right (h), then top and bottom (v), of the stored frame."""


def choose_turn(
    size: tuple[int, int], upright: tuple[int, int], orientation: int, exif: Exif | None, what: str
) -> int | None:
    """Decide by which orientation something of a photo has to be turned to fit the upright photo.

    Args:
        size: Width and height that it declares; any multiple of them is the same frame.
        upright: Width and height of the upright photo.
        orientation: EXIF orientation of the photo, 1..8.
        exif: Decides where the size fits both frames; None to refuse that.
        what: What it is, in the plural, for the message.

    Returns:
        An orientation, 1 for no turn; None where the size fits neither frame.

    Raises:
        DataError: The size fits both frames, which differ, and `exif` is None.
    """
    stored = upright[::-1] if orientation >= 5 else upright
    fits_upright, fits_stored = (_has_shape(size, frame) for frame in (upright, stored))
    if orientation == 1 or not (fits_upright and fits_stored):
        return 1 if fits_upright else orientation if fits_stored else None
    if exif is None:
        raise DataError(
            f"its EXIF orientation is {orientation}, and the size of its {what} fits the upright photo and the stored "
            "one: set exif: apply for the source if they were made on upright photos, or exif: ignore"
        )
    return 1 if exif == "apply" else orientation


def _has_shape(size: tuple[int, int], frame: tuple[int, int]) -> bool:
    """Whether two sizes have one aspect ratio, within a pixel."""
    (columns, rows), (width, height) = size, frame
    return abs(columns * height - rows * width) <= max(width, height, rows, columns)


def turn_array(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array (H, W, ...) of the stored frame upright."""
    turns = _TURNS[orientation]
    if "t" in turns:
        array = array.swapaxes(0, 1)
    if "h" in turns:
        array = array[:, ::-1]
    if "v" in turns:
        array = array[::-1]
    return np.ascontiguousarray(array)


def turn_boxes(boxes: NDArray[np.float64], upright: tuple[int, int], orientation: int) -> NDArray[np.float64]:
    """Turn boxes (N, 4), x1, y1, x2, y2 in pixels of the stored frame, into the upright photo of width and height."""
    turns = _TURNS[orientation]
    x1, y1, x2, y2 = boxes.T
    if "t" in turns:
        x1, y1, x2, y2 = y1, x1, y2, x2
    width, height = upright
    if "h" in turns:
        x1, x2 = width - x2, width - x1
    if "v" in turns:
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], axis=1)
