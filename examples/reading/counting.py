"""Counting lessons: a list of boxes, and the count that follows from the list alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SIDE = 336
MAX_COUNT = 15
CUE = " are"
"""The word before the count, as in AURORA's "we conclude there are 7 dogs"."""


@dataclass(frozen=True)
class Listing:
    """How boxes are listed.

    Attributes:
        form: "plain", the boxes in random order, a line each; "sorted", the same by x1; "numbered", each with its
            number before it; "total", each with the number of boxes so far after it; "aurora", as AURORA lists them,
            "Bounding box 3: (<PIXEL_73>,...)".
    """

    form: Literal["plain", "sorted", "numbered", "total", "aurora"] = "plain"


def draw_boxes(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw (count, 4) random boxes: x1 < x2 and y1 < y2, codes in 0..335."""
    sizes = rng.integers(8, SIDE // 2, (count, 2))
    corners = (rng.random((count, 2)) * (SIDE - sizes)).astype(np.int64)
    return np.concatenate([corners, corners + sizes], axis=1)


def write_list(boxes: NDArray[np.int64], listing: Listing) -> Iterator[tuple[str, bool]]:
    """The lines of boxes in pieces, each with whether it is a number that a model can know: its loss counts."""
    rows = boxes[np.argsort(boxes[:, 0], kind="stable")] if listing.form == "sorted" else boxes
    for number, row in enumerate(rows.tolist(), 1):
        tokens = [f"<PIXEL_{code}>" for code in row]
        digits = [(digit, True) for digit in str(number)]
        if listing.form == "aurora":
            yield from [("Bounding", False), (" box", False), (" ", False), *digits, (":", False), (" (", False)]
            yield tokens[0], False
            for token in tokens[1:]:
                yield from [(",", False), (token, False)]
            yield from [(")", False), ("\n", False)]
            continue
        if listing.form == "numbered":
            yield from [*digits, (":", True)]
        yield from [(token, False) for token in tokens]
        if listing.form == "total":
            yield from [(" ", False), *digits]
        yield "\n", listing.form == "total"
