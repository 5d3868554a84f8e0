"""The answer held to its own evidence: the count of boxes, the numbers of a list, the letter that a block names.

These processors are off unless they are asked for, work beside `PerceptionLogitsProcessor`, and count how often the
model would have said something else: a measure by itself of how far an answer rests on its own evidence. Every beam,
and every candidate of assisted decoding, counts as an answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from perceptok.decoding.reading.parsing import parse_generation
from perceptok.errors import ConstraintError
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["CountConsistency", "Interventions", "ListConsistency", "MarkerConsistency"]


class Interventions(NamedTuple):
    """What a consistency processor has done since it was made.

    Attributes:
        answers: Answers it decided.
        changed: How many of them the model would have begun with another token, which had the highest score.
    """

    answers: int
    changed: int

    @property
    def rate(self) -> float:
        """Changed answers among all; NaN without any."""
        return self.changed / self.answers if self.answers else float("nan")


class _Consistency(LogitsProcessor, ABC):
    """After a cue in the answer, the tokens of one spelling and no others. Looks at ids on the host, row by row."""

    supports_continuous_batching = False

    def __init__(self, vocab: PerceptionVocabulary, cue: Sequence[int], prompt_length: int) -> None:
        if not cue:
            raise ConstraintError("a cue is at least one token: the ids of the words right before the answer")
        self.vocab = vocab
        self.cue = tuple(cue)
        self.prompt_length = prompt_length
        self._answers = 0
        self._changed = 0

    @property
    def interventions(self) -> Interventions:
        """How often an answer was decided, and how often it was changed."""
        return Interventions(self._answers, self._changed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V), with all but one id at -inf in rows that are inside the answer."""
        held = scores
        for number, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            place = _after_cue(ids, self.cue)
            spelled = self._spelled(ids[:place]) if place >= 0 else ()
            written = len(ids) - place
            if written >= len(spelled) or tuple(ids[place:]) != tuple(spelled[:written]):
                continue
            wanted = spelled[written]
            if written == 0:
                self._answers += 1
                self._changed += int(scores[number].argmax()) != wanted
            held = held.clone() if held is scores else held
            kept = scores[number, wanted]
            if kept == -torch.inf:
                raise ConstraintError(
                    f"row {number}: the answer that the evidence gives has a score of -inf; look at the processors "
                    "that run before this one"
                )
            held[number] = -torch.inf
            held[number, wanted] = kept
        return held

    @abstractmethod
    def _spelled(self, answer: list[int]) -> Sequence[int]:
        """The ids of what the evidence in an answer up to its cue says; none where it says nothing."""


class CountConsistency(_Consistency):
    """The number after a cue is the number of boxes written before it.

    Args:
        vocab: Perception tokens and their ids.
        cue: The ids after which the number stands, such as those of "we conclude there are".
        spell: Number -> its ids, such as `lambda n: tokenizer.encode(f"{n}.", add_special_tokens=False)`; with what
            follows the number, where more digits could.
        prompt_length: Ids of the prompt; only the answer is looked at.
    """

    def __init__(
        self,
        vocab: PerceptionVocabulary,
        cue: Sequence[int],
        spell: Callable[[int], Sequence[int]],
        *,
        prompt_length: int = 0,
    ) -> None:
        super().__init__(vocab, cue, prompt_length)
        self.spell = spell

    def _spelled(self, answer: list[int]) -> Sequence[int]:
        return self.spell(len(parse_generation(answer, self.vocab).boxes))


class ListConsistency(CountConsistency):
    """The number of a list's item is one more than the boxes written before it: "Bounding box 3: (" after two boxes.

    Args:
        vocab: Perception tokens and their ids.
        cue: The ids that all items begin with, such as those of "Bounding box".
        spell: Number -> the ids that follow the cue, as the tokenizer splits them there, such as
            `lambda n: tokenizer.encode(f"Bounding box {n}: (", add_special_tokens=False)[len(cue):]`.
        prompt_length: Ids of the prompt; only the answer is looked at.
    """

    def _spelled(self, answer: list[int]) -> Sequence[int]:
        return self.spell(1 + len(parse_generation(answer, self.vocab).boxes))


class MarkerConsistency(_Consistency):
    """The letter after a cue is the marker that the last depth block of the answer says is nearest.

    Args:
        vocab: Perception tokens and their ids.
        cue: The ids after which the letter stands, such as those of "the answer is that point".
        letters: Letter -> its ids.
        markers: Letter -> (x, y) in 0..1 of what the block describes, the square frame that the model saw: with a
            letterbox or crop, a point of the image goes through `ImageFrame.to_frame` first.
        nearness: Codes (10, 10) -> a map of nearness (H, W), larger = nearer, such as a DepthCodec's decoding.
        prompt_length: Ids of the prompt; only the answer is looked at.
    """

    def __init__(
        self,
        vocab: PerceptionVocabulary,
        cue: Sequence[int],
        letters: dict[str, Sequence[int]],
        markers: dict[str, tuple[float, float]],
        nearness: Callable[[np.ndarray], np.ndarray],
        *,
        prompt_length: int = 0,
    ) -> None:
        super().__init__(vocab, cue, prompt_length)
        if not markers or markers.keys() - letters.keys():
            raise ConstraintError(f"every marker needs the ids of its letter; got {sorted(markers)}, {sorted(letters)}")
        outside = [letter for letter, point in markers.items() if not all(0 <= value < 1 for value in point)]
        if outside:
            raise ConstraintError(f"markers are (x, y) in [0, 1); {outside[0]} is at {markers[outside[0]]}")
        self.letters, self.markers, self.nearness = letters, markers, nearness

    def _spelled(self, answer: list[int]) -> Sequence[int]:
        blocks = parse_generation(answer, self.vocab).blocks
        if not blocks:
            return ()  # no evidence: the model's own answer stands
        return self.letters[self.nearest(blocks[-1])]

    def nearest(self, codes: np.ndarray) -> str:
        """The letter of the marker that a block (10, 10) of codes 0..127 says is nearest; the first of equals."""
        near = np.asarray(self.nearness(codes))
        height, width = near.shape
        return max(self.markers, key=lambda letter: near[_pixel(self.markers[letter], width, height)])


def _pixel(point: tuple[float, float], width: int, height: int) -> tuple[int, int]:
    return int(point[1] * height), int(point[0] * width)


def _after_cue(ids: list[int], cue: tuple[int, ...]) -> int:
    """The place after the last cue; -1 without one."""
    length = len(cue)
    for place in range(len(ids), length - 1, -1):
        if tuple(ids[place - length : place]) == cue:
            return place
    return -1
