"""What a page shows: cases, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from perceptok.errors import EvaluationError

__all__ = ["Case", "Fact", "Figure", "Table", "Verdict"]

Verdict = Literal["right", "wrong", "invalid"]
"""invalid: what was written could not be read as an answer, or its evidence is malformed."""

Fact = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Case:
    """One thing to look at: a picture, what was asked and written about it, and what it means.

    Strings may hold anything: they are shown as text, never as markup.

    Attributes:
        name: Its heading; what a person searches for.
        image: The picture, the bytes of any file that Pillow reads.
        text: What a model wrote, or an answer of a record; perception tokens in it are folded and drawn.
        prompt: What was asked.
        markers: Letter, x, y of each lettered point.
        boxes: x1, y1, x2, y2 of each box.
        box_labels: A label for each box, or nothing.
        true_boxes: The boxes that should have been found.
        frame: Width and height of the picture that markers and boxes are measured in; default: the image's own.
        codes: The codes of a depth block, row-major.
        depth: (H, W) nearness in [0, 1] that the codes decode to, or any map to show; NaN where nothing is known.
        teacher: (H, W) what it should be, in the same terms.
        verdict: "right", "wrong", "invalid", or None where nothing is judged.
        facts: More about it, name -> value: numbers can be sorted by.

    Raises:
        EvaluationError: Coordinates, codes or maps of another shape, or not finite.
    """

    name: str
    image: bytes | None = None
    text: str = ""
    prompt: str = ""
    markers: Sequence[tuple[str, float, float]] = ()
    boxes: Sequence[Sequence[float]] = ()
    box_labels: Sequence[str] = ()
    true_boxes: Sequence[Sequence[float]] = ()
    frame: tuple[float, float] | None = None
    codes: Sequence[int] | None = None
    depth: np.ndarray | None = None
    teacher: np.ndarray | None = None
    verdict: Verdict | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict is not None and self.verdict not in get_args(Verdict):
            raise self._error(f"a verdict is one of {', '.join(get_args(Verdict))}, or None; got {self.verdict!r}")
        numbers = [*(one[1:] for one in self.markers), *self.boxes, *self.true_boxes]
        if any(len(one) != (2 if index < len(self.markers) else 4) for index, one in enumerate(numbers)):
            raise self._error("a marker is (letter, x, y) and a box is (x1, y1, x2, y2)")
        if not np.isfinite([value for one in numbers for value in one]).all():
            raise self._error("markers and boxes are finite numbers")
        if self.box_labels and len(self.box_labels) != len(self.boxes):
            raise self._error(f"{len(self.boxes)} boxes have {len(self.box_labels)} labels; give one for each, or none")
        if self.frame is not None and not min(self.frame) > 0:
            raise self._error(f"the frame has a width and a height above 0; got {self.frame}")
        for what, one in (("depth", self.depth), ("teacher", self.teacher)):
            if one is not None and (one.ndim != 2 or not one.size or not np.issubdtype(one.dtype, np.floating)):
                raise self._error(f"{what} is a map (H, W) of floats; got {one.dtype} of shape {one.shape}")

    def _error(self, reason: str) -> EvaluationError:
        return EvaluationError(f"case {self.name!r}: {reason}")


@dataclass(frozen=True)
class Table:
    """A table of the summary.

    Attributes:
        title: Its heading.
        header: Names of the columns.
        rows: As many cells each; shown as they are.
        note: A sentence below it: what was measured and how.

    Raises:
        EvaluationError: A row has another number of cells.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise EvaluationError(f"table {self.title!r} has {len(self.header)} columns; this row differs: {row}")


@dataclass(frozen=True)
class Figure:
    """A picture of the summary: an SVG file, such as `figure_svg` makes of a matplotlib figure."""

    title: str
    svg: bytes
    note: str = ""
