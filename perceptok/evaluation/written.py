"""The evidence in a text: whole depth blocks, boxes, and what is malformed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from perceptok.decoding.reading.parsing import parse_generation

__all__ = ["Written", "read_written"]


class Written(NamedTuple):
    """What a text shows beside its answer.

    Attributes:
        block: The codes (10, 10) of its one depth block; None where there is none, or several.
        boxes: Codes (N, 4) of every whole box: x1, y1, x2, y2.
        problems: What is malformed, in words; two blocks are a problem too, because nothing says which one counts.
    """

    block: np.ndarray | None
    boxes: np.ndarray
    problems: tuple[str, ...]


def read_written(text: str) -> Written:
    """The evidence of one answer; nothing raises."""
    generation = parse_generation(text)
    blocks = generation.blocks
    problems = [problem.message for problem in generation.problems]
    if len(blocks) > 1:
        problems.append(f"{len(blocks)} depth blocks; an answer rests on one")
    return Written(blocks[0] if len(blocks) == 1 else None, generation.boxes, tuple(problems))
