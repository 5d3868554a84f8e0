"""Reading lessons: the chain of thought of a true block without an image, with points drawn anew for every update.

Only what follows the block is learned, so that a lesson teaches to read a block and to compare its values. Its answer
is that of the records "depth-cells", and stands as far behind the block as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from samples import SIDE, write_cells_answer, write_cells_question

import perceptok as pt
from perceptok.data import Marker
from perceptok.depth import block_to_text
from perceptok.llava import small

GRID = 10
MIN_GAP = 20 / 255
"""Points of a lesson are at least that far apart in nearness."""


class ReadingLessons:
    """Draws lessons about the blocks of scenes.

    Args:
        codes: (N, 100) int64, the blocks.
        codec: Decodes them: the value of a point is the mean nearness of its cell in the decoded map.
        processor: Tokenizes.
    """

    def __init__(self, codes: NDArray[np.int64], codec: pt.DepthCodec, processor: Any) -> None:
        self.codes = codes
        decoded = np.concatenate(
            [np.asarray(codec.decode(part)) for part in np.array_split(codes, -(-len(codes) // 64))]
        )
        self.values = decoded.reshape(-1, GRID, 32, GRID, 32).mean((2, 4)).reshape(-1, GRID**2)
        self.processor = processor

    def draw(self, count: int, max_points: int, rng: np.random.Generator) -> tuple[list[list[int]], list[int]]:
        """Draw lessons about different scenes.

        Args:
            count: Number of lessons.
            max_points: Greatest number of points, 1 to 5; the numbers from 1 to it are equally likely.
            rng: The generator.

        Returns:
            Token ids of each lesson, and for each the number of ids up to the end of its block.
        """
        lessons, given = [], []
        for scene in rng.choice(len(self.codes), count, replace=count > len(self.codes)).tolist():
            points = draw_points(self.values[scene], int(rng.integers(1, max_points + 1)), rng)
            before = f"{small.ANSWER}{block_to_text(self.codes[scene])}."
            question = write_cells_question(points)
            lessons.append(self._tokenize(question, f"{before}{write_cells_answer(points)}<|im_end|>"))
            given.append(len(self._tokenize(question, before)))
        return lessons, given

    def _tokenize(self, question: str, answer: str) -> list[int]:
        """Ids of a turn, without image tokens."""
        image = int(self.processor.tokenizer.convert_tokens_to_ids("<image>"))
        return [token for token in small.make_prompt_ids(self.processor, question, answer) if token != image]


def draw_points(values: NDArray[np.floating[Any]], count: int, rng: np.random.Generator) -> tuple[Marker, ...]:
    """Draw the centers of cells whose values are `MIN_GAP` apart; fewer where there are not as many.

    Args:
        values: (100,) nearness of the cells.
        count: Number of points, 1 to 5.
        rng: The generator.
    """
    chosen: list[int] = []
    for cell in rng.permutation(len(values)).tolist():
        if all(abs(values[cell] - values[other]) >= MIN_GAP for other in chosen):
            chosen.append(cell)
        if len(chosen) == count:
            break
    return tuple(make_point(letter, cell, values) for letter, cell in zip("ABCDE", chosen, strict=False))


def make_point(letter: str, cell: int, values: Sequence[Any] | NDArray[np.floating[Any]]) -> Marker:
    """The center of a cell, with its value."""
    row, column = divmod(cell, GRID)
    x, y = (int((place + 0.5) * SIDE / GRID) for place in (column, row))
    return Marker(letter, x, y, float(np.clip(values[cell], 0, 1)))
