"""Reading lessons: the chain of thought of a true block without the image, with points drawn anew for every update.

Only what the chain "depth-cells" says after the block is learned: nearness and nearest point so far for each point, and
the conclusion. Questions about one block share its keys and values and do not see each other, which is the same as as
many separate samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from samples import GRID, NEAREST_QUESTION, SIDE, compute_cell_values, write_cells_answer
from torch import Tensor
from torch.nn import functional as F

import perceptok as pt
from perceptok.data import Marker
from perceptok.depth import block_to_text
from perceptok.llava import small

MIN_GAP = 20 / 255
"""Points of a lesson are at least that far apart in nearness."""
POINTS = 24
"""Points of the questions about each block, on average."""


@dataclass(frozen=True, eq=False)
class LessonBatch:
    """Blocks, each with several questions.

    Attributes:
        ids: (B, T) int64; a block, and its questions one after the other.
        positions: (B, T) int64; each question continues the block.
        mask: (B, 1, T, T) bool: whether a row's token sees a column's.
        rows: (N,) row of the token before each token that is learned.
        columns: (N,) its column.
        targets: (N,) the tokens that are learned.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor


class ReadingLessons:
    """Draws lessons about the blocks of scenes.

    Args:
        codes: (N, 10, 10) int64, the blocks.
        codec: Decodes them: the value of a point is the mean nearness of its cell in the decoded map.
        processor: Tokenizes.
    """

    def __init__(self, codes: NDArray[np.int64], codec: pt.DepthCodec, processor: Any) -> None:
        self.codes = codes
        parts = np.array_split(codes, -(-len(codes) // 64))
        self.values = np.concatenate([compute_cell_values(codec, part) for part in parts])
        self.tokenizer = processor.tokenizer
        image = int(self.tokenizer.convert_tokens_to_ids("<image>"))
        prompt = small.make_prompt_ids(processor, NEAREST_QUESTION, small.ANSWER)
        self.prompt = [token for token in prompt if token != image]

    def draw(self, count: int, max_points: int, rng: np.random.Generator) -> LessonBatch:
        """Draw questions about blocks.

        Args:
            count: Number of blocks.
            max_points: Greatest number of points of a question, 1 to 5; the numbers from 1 to it are equally likely.
            rng: The generator.
        """
        questions = round(POINTS / ((1 + max_points) / 2))
        lessons = []
        for scene in rng.integers(len(self.codes), size=count).tolist():
            block = self._tokenize(f"{block_to_text(self.codes[scene])}.")
            drawn = [
                draw_points(self.values[scene], int(rng.integers(1, max_points + 1)), rng) for _ in range(questions)
            ]
            lessons.append((self.prompt + block, [self._write_answer(points) for points in drawn]))
        return make_batch(lessons, int(self.tokenizer.pad_token_id))

    def _write_answer(self, points: Sequence[Marker]) -> tuple[list[int], list[bool]]:
        """Ids of what follows the block, and which of them are learned: all but letter and cell of each point."""
        pieces = self._tokenize(f"{write_cells_answer(points)}<|im_end|>")
        is_learned = [True] * len(pieces)
        place = 0
        for point in points:
            given = self._tokenize(write_cells_answer((point,)).partition(".")[0])
            before = len(given) - len(self._tokenize("00")) - len(self._tokenize(f" {point.letter}"))
            is_learned[place : place + before] = [False] * before
            place += len(given)
        return pieces, is_learned

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


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


def make_batch(lessons: Sequence[tuple[list[int], list[tuple[list[int], list[bool]]]]], pad: int) -> LessonBatch:
    """Pad lessons, each a block and the answers that continue it, to one length."""
    length = max(len(block) + sum(len(ids) for ids, _ in answers) for block, answers in lessons)
    ids, positions = torch.full((len(lessons), length), pad), torch.zeros(len(lessons), length, dtype=torch.long)
    owners = torch.full_like(ids, -1)  # 0 for the block, then the number of the answer
    learned: list[tuple[int, int, int]] = []
    for row, (block, answers) in enumerate(lessons):
        start = place = len(block)
        ids[row, :place], positions[row, :place], owners[row, :place] = torch.tensor(block), torch.arange(place), 0
        for number, (answer, is_learned) in enumerate(answers, 1):
            assert not is_learned[0], "the first token of an answer is given, since several follow one block"
            end = place + len(answer)
            ids[row, place:end], owners[row, place:end] = torch.tensor(answer), number
            positions[row, place:end] = torch.arange(start, start + len(answer))
            tokens = enumerate(zip(answer, is_learned, strict=True), place)
            learned += [(row, column - 1, token) for column, (token, counts) in tokens if counts]
            place = end
    sees = (owners[:, None] == 0) | (owners[:, None] == owners[..., None])
    mask = sees & torch.ones(length, length, dtype=torch.bool).tril()
    rows, columns, targets = map(torch.tensor, zip(*learned, strict=True))
    return LessonBatch(ids, positions, mask[:, None], rows, columns, targets)


def compute_lesson_loss(model: Any, batch: LessonBatch) -> Tensor:
    """Cross entropy of the tokens that are learned."""
    device = model.device
    hidden = model.model.language_model(
        input_ids=batch.ids.to(device),
        position_ids=batch.positions.to(device),
        attention_mask=batch.mask.to(device),
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[batch.rows.to(device), batch.columns.to(device)])
    return F.cross_entropy(logits.float(), batch.targets.to(device))
