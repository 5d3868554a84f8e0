"""Answers made consistent with their own evidence: the count of boxes, the numbers of a list, the nearest marker.

These processors are off by default, work beside `PerceptionLogitsProcessor`, and count how often the model would have
written something else: a measure of how far an answer rests on its own evidence. Every beam, and every candidate of
assisted decoding, counts as an answer.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from perceptok.decoding.reading.generation import parse_generation
from perceptok.errors import ConstraintError
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["CountConsistency", "Interventions", "ListConsistency", "MarkerConsistency", "NumberIds", "find_number_ids"]

_SEPARATORS = ".,'"
_DIGITS = re.compile(rf"[{_SEPARATORS}]?[0-9]")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece writes a byte that is a token."""


class Interventions(NamedTuple):
    """What a consistency processor has done since it was made.

    Attributes:
        answers: Number of answers that it decided.
        changed: How many of them the model would have begun with another token, which had the highest score.
    """

    answers: int
    changed: int

    @property
    def rate(self) -> float:
        """Share of answers that were changed; NaN without any."""
        return self.changed / self.answers if self.answers else float("nan")


class NumberIds(NamedTuple):
    """The ids by which a number that has been written could become another one, as `find_number_ids` finds them.

    Attributes:
        continuing: (N,) int64: tokens that begin with a digit, or with a separator and a digit.
        digits: (N,) int64: those that begin with a digit.
        separators: Tokens that are a separator and nothing else.
    """

    continuing: Tensor
    digits: Tensor
    separators: frozenset[int]


def find_number_ids(tokenizer: Any) -> NumberIds:
    """Find the ids that could continue a number in a tokenizer: 2 -> 20, 2.5, 2,000.

    Args:
        tokenizer: Of transformers; byte-level, SentencePiece or any whose tokens begin with their own text.
    """
    digits: list[int] = []
    separated: list[int] = []
    separators: set[int] = set()
    for token_id in range(len(tokenizer)):
        token = str(tokenizer.convert_ids_to_tokens(token_id))
        if byte := _BYTE.fullmatch(token):
            token = chr(int(byte[1], 16))
        if _DIGITS.match(token):
            (digits if token[0] in "0123456789" else separated).append(token_id)
        elif token in _SEPARATORS:
            separators.add(token_id)
    return NumberIds(torch.tensor(digits + separated), torch.tensor(digits), frozenset(separators))


class _Consistency(LogitsProcessor, ABC):
    """After a cue in the answer, the tokens of one conclusion and no others. Reads ids on the CPU, row by row."""

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
        """Scores (B, V), with all but one id at -inf in rows that are inside the answer, and some after it."""
        constrained = scores
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            start = _find_end_of_cue(ids, self.cue)
            conclusion = self._spell_conclusion(ids[:start]) if start >= 0 else ()
            written = len(ids) - start
            if tuple(ids[start : start + len(conclusion)]) != tuple(conclusion[:written]):
                continue
            if written >= len(conclusion):
                excluded = self._find_excluded_ids(ids[start + len(conclusion) :]) if conclusion else None
                if excluded is not None:
                    constrained = constrained.clone() if constrained is scores else constrained
                    constrained[row, excluded.to(constrained.device)] = -torch.inf
                continue
            token_id = conclusion[written]
            if written == 0:
                self._answers += 1
                self._changed += int(scores[row].argmax()) != token_id
            constrained = constrained.clone() if constrained is scores else constrained
            score = scores[row, token_id]
            if score == -torch.inf:
                raise ConstraintError(
                    f"row {row}: the answer that the evidence gives has a score of -inf; look at the processors that "
                    "run before this one"
                )
            constrained[row] = -torch.inf
            constrained[row, token_id] = score
        return constrained

    @abstractmethod
    def _spell_conclusion(self, answer: list[int]) -> Sequence[int]:
        """The ids of what follows from the evidence in an answer up to its cue; empty without evidence."""

    def _find_excluded_ids(self, after: list[int]) -> Tensor | None:  # noqa: ARG002 - for conclusions that can go on
        """The ids that would change the conclusion, given what was written after it; None for none."""
        return None


class CountConsistency(_Consistency):
    """The number after a cue is the number of boxes written before it.

    Args:
        vocab: Perception tokens and their ids.
        cue: The ids after which the number stands, such as those of "we conclude there are".
        spell: Number -> its ids, such as `lambda n: tokenizer.encode(f"{n}.", add_special_tokens=False)`.
        prompt_length: Ids of the prompt; only the answer is read.
        digits: What could continue the number, from `find_number_ids`, is excluded after it; without, `spell` has to
            end the number itself.
    """

    def __init__(
        self,
        vocab: PerceptionVocabulary,
        cue: Sequence[int],
        spell: Callable[[int], Sequence[int]],
        *,
        prompt_length: int = 0,
        digits: NumberIds | None = None,
    ) -> None:
        super().__init__(vocab, cue, prompt_length)
        self.spell = spell
        self.digits = digits

    def _spell_conclusion(self, answer: list[int]) -> Sequence[int]:
        return self.spell(len(parse_generation(answer, self.vocab).boxes))

    def _find_excluded_ids(self, after: list[int]) -> Tensor | None:
        if self.digits is None or len(after) > 1 or (after and after[0] not in self.digits.separators):
            return None
        return self.digits.digits if after else self.digits.continuing


class ListConsistency(CountConsistency):
    """The number of a list's item is one more than the boxes written before it: "Bounding box 3: (" after two boxes.

    Args:
        vocab: Perception tokens and their ids.
        cue: The ids that all items begin with, such as those of "Bounding box".
        spell: Number -> the ids that follow the cue, as the tokenizer splits them there, such as
            `lambda n: tokenizer.encode(f"Bounding box {n}: (", add_special_tokens=False)[len(cue):]`.
        prompt_length: Ids of the prompt; only the answer is read.
    """

    def _spell_conclusion(self, answer: list[int]) -> Sequence[int]:
        return self.spell(1 + len(parse_generation(answer, self.vocab).boxes))


class MarkerConsistency(_Consistency):
    """The letter after a cue is the marker that is nearest by the last depth block of the answer.

    Args:
        vocab: Perception tokens and their ids.
        cue: The ids after which the letter stands, such as those of "the answer is that point".
        letters: Letter -> its ids.
        markers: Letter -> (x, y) in [0, 1) of what the block describes, the square frame that the model saw: with a
            letterbox or crop, a point of the image goes through `ImageFrame.to_frame` first.
        nearness: Codes (10, 10) -> a map of nearness (H, W), larger = nearer, such as a DepthCodec's decoding.
        prompt_length: Ids of the prompt; only the answer is read.
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

    def _spell_conclusion(self, answer: list[int]) -> Sequence[int]:
        blocks = parse_generation(answer, self.vocab).blocks
        return self.letters[self.find_nearest(blocks[-1])] if blocks else ()

    def find_nearest(self, codes: np.ndarray) -> str:
        """The letter of the marker that is nearest by a block (10, 10) of codes 0..127; the first of equals."""
        nearness = np.asarray(self.nearness(codes))
        height, width = nearness.shape
        places = {letter: (int(y * height), int(x * width)) for letter, (x, y) in self.markers.items()}
        return max(places, key=lambda letter: nearness[places[letter]])


def _find_end_of_cue(ids: list[int], cue: tuple[int, ...]) -> int:
    """The index after the last cue; -1 without one."""
    length = len(cue)
    for end in range(len(ids), length - 1, -1):
        if tuple(ids[end - length : end]) == cue:
            return end
    return -1
