"""Reading lessons: the chain of thought of a true block without the image, with points drawn anew for every update.

What is learned is what cannot be known without reading: cells copied from the question, nearness and nearest point so
far for each point, and the conclusion. Questions about one block share its keys and values; the block does not see
their points, and the image's positions are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from samples import GRID, NEAREST_QUESTION, SIDE, compute_cell_values, name_point, name_points, write_cells_answer
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
    """Blocks with several questions each, all about the same number of points, so that nothing is padded.

    Attributes:
        shared: (B, S) int64; the text around the points of the question, and the block.
        shared_positions: (1, S) int64, with gaps for the points and for the image.
        questions: (B * Q, L) int64; the points of each question, and the answer up to its conclusion.
        positions: (1, L) int64.
        mask: (1, 1, L, S + L) bool: whether a row's token sees a column's.
        is_learned: (L,) bool.
    """

    shared: Tensor
    shared_positions: Tensor
    questions: Tensor
    positions: Tensor
    mask: Tensor
    is_learned: Tensor


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
        point = make_point("A", 0, self.values[0])
        prompt = small.make_prompt_ids(processor, f"{name_points((point,))}{NEAREST_QUESTION}", small.ANSWER)
        points = self._tokenize(f" {name_point(point)}")
        start = next(place for place in range(len(prompt)) if prompt[place : place + len(points)] == points)
        self.before, self.after = prompt[:start], prompt[start + len(points) :]

    def draw(self, count: int, max_points: int, rng: np.random.Generator) -> LessonBatch:
        """Draw questions about blocks.

        Args:
            count: Number of blocks.
            max_points: Greatest number of points of the questions, 1 to 5; the numbers from 1 to it are equally likely.
            rng: The generator.
        """
        size = int(rng.integers(1, max_points + 1))
        blocks: list[list[int]] = []
        questions: list[tuple[list[int], list[int]]] = []
        while len(blocks) < count:
            scene = int(rng.integers(len(self.codes)))
            drawn = [draw_points(self.values[scene], size, rng) for _ in range(round(POINTS / size))]
            if all(len(points) == size for points in drawn):
                blocks.append(self._tokenize(f"{block_to_text(self.codes[scene])}."))
                questions += [self._write_question(points) for points in drawn]
        return self._make_batch(blocks, questions, size)

    def _write_question(self, points: Sequence[Marker]) -> tuple[list[int], list[int]]:
        """Ids of the points in a question, and of the answer up to its conclusion."""
        named = f" {', '.join(map(name_point, points))}"
        return self._tokenize(named), self._tokenize(write_cells_answer(points).partition(" is the closest")[0])

    def _make_batch(
        self, blocks: Sequence[list[int]], questions: Sequence[tuple[list[int], list[int]]], size: int
    ) -> LessonBatch:
        image = int(self.tokenizer.convert_tokens_to_ids("<image>"))
        named, answer = questions[0]
        before, points = len(self.before), len(named)
        letter, digits = len(self._tokenize(" A")), len(self._tokenize("00"))  # of a cell, or of a value
        is_learned = ([False] * letter + [True] * digits + [False] + [True] * digits + [False, True]) * size
        is_learned += [False] * (len(answer) - len(is_learned) - 1) + [True]
        places = [*range(before), *range(before + points, before + points + len(self.after))]
        text = [(place, token) for place, token in zip(places, self.before + self.after, strict=True) if token != image]
        start = places[-1] + 1
        end = start + len(blocks[0])
        shared_positions = torch.tensor([*(place for place, _ in text), *range(start, end)])
        positions = torch.tensor([*range(before, before + points), *range(end, end + len(answer))])
        return LessonBatch(
            torch.tensor([[*(token for _, token in text), *ids] for ids in blocks]),
            shared_positions[None],
            torch.tensor([named + answer for named, answer in questions]),
            positions[None],
            (torch.cat([shared_positions, positions])[None] <= positions[:, None])[None, None],
            torch.tensor([False] * points + is_learned),
        )

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


def compute_lesson_loss(model: Any, batch: LessonBatch) -> Tensor:
    """Cross entropy of the tokens that are learned."""
    language_model, device = model.model.language_model, model.device
    cache = language_model(
        input_ids=batch.shared.to(device), position_ids=batch.shared_positions.to(device), use_cache=True
    ).past_key_values
    cache.batch_repeat_interleave(len(batch.questions) // len(batch.shared))
    hidden = language_model(
        input_ids=batch.questions.to(device),
        position_ids=batch.positions.to(device),
        attention_mask=batch.mask.to(device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    places = batch.is_learned.nonzero()[:, 0]
    logits = model.lm_head(hidden[:, places.to(device) - 1])
    return F.cross_entropy(logits.float().flatten(0, 1), batch.questions[:, places].flatten().to(device))
