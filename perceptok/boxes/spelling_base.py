"""What the spellings of all models share: codes and labels, collected from a text, and their checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import find_inverted
from perceptok.boxes.text import MalformedPiece
from perceptok.errors import MalformedBoxError

__all__ = [
    "Binned",
    "Collector",
    "ImageSize",
    "ParsedSpelling",
    "Spelling",
    "check_code_columns",
    "check_edges",
    "check_labels",
    "check_range",
]

ImageSize = tuple[int, int]


@dataclass(frozen=True)
class ParsedSpelling:
    """The boxes of a text in a model's spelling.

    Attributes:
        codes: The well-formed boxes in the scheme's own numbers and order, int64 (N, 4), for Kosmos-2 (N, 2).
        labels: One for each, "" for none.
        spans: Where each stands, (N, 2) int64: first character and one past the last.
        malformed: The malformed pieces, in the order of the text.
        repaired: Pieces that were read as boxes after a small repair: fractions of a pixel (rounded), numbers written
            as text, an edge one step beyond the last (moved to the last), or Florence-2's polygons (the box around).
        segments: PaliGemma's `<seg000>` tokens of each box, as they were written; "" for none; () in other schemes.
    """

    codes: np.ndarray
    labels: tuple[str, ...]
    spans: np.ndarray
    malformed: tuple[MalformedPiece, ...]
    repaired: tuple[MalformedPiece, ...] = ()
    segments: tuple[str, ...] = ()


def check_code_columns(codes: ArrayLike, columns: int) -> np.ndarray:
    """Codes as int64 (N, columns); raises MalformedBoxError for another shape or type."""
    array = np.asarray(codes)
    if array.size == 0:
        return np.zeros((0, columns), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iu":
        raise MalformedBoxError(f"codes are integers of shape (N, {columns}); got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def check_range(codes: np.ndarray, highest: ArrayLike) -> None:
    """Raise MalformedBoxError for a code outside 0..highest."""
    outside = (codes < 0) | (codes > np.asarray(highest))
    if outside.any():
        row, column = (int(index) for index in np.argwhere(outside)[0])
        limit = np.broadcast_to(highest, codes.shape)[row, column]
        raise MalformedBoxError(f"box {row}: {codes[row, column]} is outside 0..{limit}")


def check_edges(boxes: np.ndarray) -> None:
    """Raise MalformedBoxError for a box whose far edge is before its near one."""
    inverted = find_inverted(boxes)
    if inverted is not None:
        raise MalformedBoxError(f"box {inverted} has its far edge before its near one")


def check_labels(labels: Sequence[str], forbidden: str, model: str) -> None:
    """Raise MalformedBoxError for labels that a model's spelling cannot write."""
    for label in labels:
        if not isinstance(label, str):
            raise MalformedBoxError(f"labels are text; got {label!r:.60}")
        if any(character in label for character in forbidden) or label != label.strip():
            raise MalformedBoxError(
                f"{model}'s labels have no {' or '.join(forbidden)} and no space around; got {label!r}"
            )


class Spelling(ABC):
    """One model's spelling: a text of boxes <-> codes and labels <-> fractions of the image.

    Codes are int64 (N, columns) in the model's own order; fractions are float64 (N, 4), x1, y1, x2, y2 in 0..1.
    """

    columns = 4

    @abstractmethod
    def read(self, text: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Codes and labels of a text of boxes and nothing else; raises MalformedBoxError."""

    @abstractmethod
    def parse(self, text: str) -> ParsedSpelling:
        """The boxes in any text."""

    @abstractmethod
    def write(self, codes: np.ndarray, labels: Sequence[str]) -> str:
        """The inverse of `read`; raises MalformedBoxError for a label that cannot be written."""

    @abstractmethod
    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        """Codes -> fractions; raises MalformedBoxError for a code out of range or an inverted box."""

    @abstractmethod
    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        """Fractions -> codes."""

    @abstractmethod
    def compute_error(self) -> tuple[float, float]:
        """The largest quantization error along x and y, in fractions of the image."""


class Binned(Spelling):
    """Codes are bins of the image, x first, read at their centres."""

    bins: int

    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        """Codes -> the fractions at the centres of their bins."""
        check_range(codes, self.bins - 1)
        check_edges(codes)
        return np.asarray((codes + 0.5) / self.bins)

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        """Fractions -> the bins that they lie in."""
        return np.asarray(np.minimum(np.floor(fractions * self.bins), self.bins - 1), dtype=np.int64)

    def compute_error(self) -> tuple[float, float]:
        """Half a bin."""
        return 0.5 / self.bins, 0.5 / self.bins


@dataclass
class Collector:
    """What is found in a text, piece by piece."""

    boxes: list[list[int]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    malformed: list[MalformedPiece] = field(default_factory=list)
    repaired: list[MalformedPiece] = field(default_factory=list)

    def add_box(self, box: list[int], label: str, start: int, end: int) -> None:
        """Add a well-formed box."""
        self.boxes.append(box)
        self.labels.append(label)
        self.spans.append((start, end))

    def to_parsed(self, columns: int) -> ParsedSpelling:
        """What was found, with codes of so many columns."""
        return ParsedSpelling(
            np.array(self.boxes, dtype=np.int64).reshape(-1, columns),
            tuple(self.labels),
            np.array(self.spans, dtype=np.int64).reshape(-1, 2),
            tuple(self.malformed),
            tuple(self.repaired),
        )
