"""Lettered circles found on a picture: HardBLINK draws its points, but publishes no coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perceptok.errors import EvaluationError

__all__ = ["find_markers"]

FRAME = 336
"""Side of the pictures that HardBLINK draws on: a circle of radius 4 and width 2, its letter 20 pixels above."""

_APART = 11
_LETTER_CENTRE = (3, -19)
_REACH = (10, 10)


def find_markers(picture: Image.Image, letters: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The centre of each lettered red circle, letter -> x, y in pixels.

    As many circles as letters are taken, by how much a ring of red stands out from its inside and its outside; then
    the letters above them are told apart all at once, by the assignment under which they look most alike.

    Args:
        picture: 336 x 336, marked as AURORA's HardBLINK is.
        letters: The letters on it, each once.

    Raises:
        EvaluationError: The picture has another size, or fewer circles than letters can be made out.
    """
    if picture.size != (FRAME, FRAME):
        raise EvaluationError(f"markers are found on pictures of {FRAME} x {FRAME} pixels; this one has {picture.size}")
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    centres = _circles(pixels, len(letters))
    from scipy.optimize import linear_sum_assignment

    likeness = np.array([[_likeness(pixels, centre, letter) for letter in letters] for centre in centres])
    rows, columns = linear_sum_assignment(-likeness)
    found = {letters[column]: centres[row] for row, column in zip(rows, columns, strict=True)}
    return {letter: found[letter] for letter in letters}


def _circles(pixels: np.ndarray, count: int) -> list[tuple[float, float]]:
    """Centres of the clearest rings, (x, y) with pixel centres at .5."""
    from scipy.ndimage import correlate, maximum_filter

    red = np.clip(pixels[..., 0] - np.maximum(pixels[..., 1], pixels[..., 2]), 0, 1)
    rows, columns = np.mgrid[-8:9, -8:9]
    radius = np.hypot(rows, columns)
    inside, ring, outside = radius < 1.6, (radius >= 2.4) & (radius <= 4.6), (radius > 5.8) & (radius < 8)
    kernel = ring / ring.sum() - 0.5 * inside / inside.sum() - 0.5 * outside / outside.sum()
    clear = correlate(red, kernel, mode="nearest")
    peaks = np.argwhere((clear == maximum_filter(clear, _APART)) & (clear > 0.15))
    if len(peaks) < count:
        raise EvaluationError(f"expected {count} red circles on the picture; {len(peaks)} can be made out")
    best = peaks[np.argsort(-clear[tuple(peaks.T)])[:count]]
    return [(float(x) + 0.5, float(y) + 0.5) for y, x in best]


def _likeness(pixels: np.ndarray, centre: tuple[float, float], letter: str) -> float:
    """The best correlation of a drawn letter with what stands above a circle, wherever it may have been moved to."""
    grey = pixels.mean(-1)
    x, y = int(centre[0]) + _LETTER_CENTRE[0], int(centre[1]) + _LETTER_CENTRE[1]
    reach_x, reach_y = _REACH
    top, left = max(0, y - reach_y), max(0, x - reach_x)
    window = grey[top : min(FRAME, y + reach_y + 1), left : min(FRAME, x + reach_x + 1)]
    best = -1.0
    for tile in _drawn(letter):
        height, width = tile.shape
        if window.shape[0] < height or window.shape[1] < width:
            continue
        patches = np.lib.stride_tricks.sliding_window_view(window, tile.shape)
        flat = patches.reshape(*patches.shape[:2], -1)
        centred = flat - flat.mean(-1, keepdims=True)
        norm = np.linalg.norm(centred, axis=-1)
        known = (tile - tile.mean()).ravel()
        score = centred @ known / np.maximum(norm * np.linalg.norm(known), 1.0)
        best = max(best, float(score.max()))
    return best


@cache
def _drawn(letter: str) -> list[np.ndarray]:
    """A white letter on black, at the sizes that occur."""
    tiles = []
    for size in (11, 12, 13):
        font = ImageFont.load_default(size)
        left, top, right, bottom = (int(edge) for edge in font.getbbox(letter))
        tile = Image.new("L", (right - left + 4, bottom - top + 4))
        ImageDraw.Draw(tile).text((2 - left, 2 - top), letter, fill=255, font=font)
        tiles.append(np.asarray(tile, dtype=np.float32) / 255)
    return tiles
