"""Nearness in colours, for a person to look at."""

from __future__ import annotations

import numpy as np

__all__ = ["coloured_nearness"]

_STOPS = np.array(
    [
        [48, 18, 59],
        [70, 107, 227],
        [40, 187, 236],
        [49, 242, 153],
        [162, 252, 60],
        [237, 208, 58],
        [251, 128, 34],
        [210, 49, 5],
        [122, 4, 3],
    ]
)
"""The Turbo colour map at nine stops: far is blue, near is red."""


def coloured_nearness(nearness: np.ndarray) -> np.ndarray:
    """Nearness of any shape (...), 1 = nearest -> colours (..., 3) uint8; what lies beyond [0, 1] takes its end."""
    place = np.clip(nearness, 0, 1) * (len(_STOPS) - 1)
    return np.stack(
        [np.interp(place, np.arange(len(_STOPS)), _STOPS[:, channel]) for channel in range(3)], axis=-1
    ).astype(np.uint8)
