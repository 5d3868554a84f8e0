"""Conclusions held to an answer's own evidence, in the words that AURORA teaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor
from transformers import LogitsProcessor

from perceptok.boxes.frames.geometry import ImageFrame
from perceptok.decoding.consistency import (
    CountConsistency,
    ListConsistency,
    MarkerConsistency,
    NumberIds,
    number_ids,
)
from perceptok.errors import InferenceError
from perceptok.vocabulary.lookup import PerceptionVocabulary

if TYPE_CHECKING:
    from perceptok.llava.inference.settings import Consistency

__all__ = ["EvidenceRows", "ids_after"]

_COUNT_CUES = (("masks,", " we conclude there are"), ("image.", " We conclude there are"))
_LIST_CUE = ("cars:\n", "Bounding box")
_MARKER_CUE = ("map,", " the answer is that point")


class EvidenceRows(LogitsProcessor):
    """One set of consistency processors for each row of a batch, whose questions differ.

    Args:
        kinds: What is held: "count", "list", "marker".
        tokenizer: The model's.
        vocab: Its perception tokens.
        prompt_length: Ids of the prompts.
        markers: Of each row: letter -> x, y in its image's pixels; a row without is not held by "marker".
        frames: How each row's image lay in what the model saw.
        nearness: Codes (10, 10) -> a map (S, S) of the frame.

    Raises:
        InferenceError: A marker outside the frame, or a tokenizer that joins a cue with what follows.
    """

    def __init__(
        self,
        kinds: Sequence[Consistency],
        tokenizer: Any,
        vocab: PerceptionVocabulary,
        prompt_length: int,
        markers: Sequence[Mapping[str, tuple[float, float]]],
        frames: Sequence[ImageFrame],
        nearness: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        digits = _digits_of(tokenizer) if "count" in kinds else None
        self.rows: list[list[CountConsistency | MarkerConsistency]] = []
        for places, frame in zip(markers, frames, strict=True):
            row: list[CountConsistency | MarkerConsistency] = []
            if "count" in kinds:
                row += [_count(tokenizer, vocab, *cue, prompt_length, digits) for cue in _COUNT_CUES]
            if "list" in kinds:
                row.append(_numbers(tokenizer, vocab, prompt_length))
            if "marker" in kinds and places:
                row.append(_nearest(tokenizer, vocab, places, frame, nearness, prompt_length))
            self.rows.append(row)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V), each row held by its own."""
        held = scores
        for number, row in enumerate(self.rows):
            for one in row:
                ids, before = input_ids[number : number + 1], held[number : number + 1]
                after = one(ids, before)
                if after is not before:
                    held = held.clone() if held is scores else held
                    held[number] = after[0]
        return held

    def overruled(self, row: int) -> int:
        """How often the evidence of a row's answer said something else than the model would have."""
        return sum(one.interventions.changed for one in self.rows[row])


def ids_after(tokenizer: Any, before: str, text: str) -> list[int]:
    """Ids of a text where it follows another; raises InferenceError where a token spans the border."""
    first, both = (list(tokenizer.encode(one, add_special_tokens=False)) for one in (before, before + text))
    if both[: len(first)] != first:
        raise InferenceError(f"the tokenizer joins {text!r} with {before!r} before it; leave consistency out")
    return both[len(first) :]


def _count(
    tokenizer: Any, vocab: PerceptionVocabulary, before: str, cue: str, prompt_length: int, digits: NumberIds | None
) -> CountConsistency:
    return CountConsistency(
        vocab,
        ids_after(tokenizer, before, cue),
        lambda number: ids_after(tokenizer, before + cue, f" {number}"),
        prompt_length=prompt_length,
        digits=digits,
    )


_known_digits: WeakKeyDictionary[Any, NumberIds] = WeakKeyDictionary()


def _digits_of(tokenizer: Any) -> NumberIds:
    """`number_ids`, looked up once for each tokenizer: every batch asks for them."""
    if tokenizer not in _known_digits:
        _known_digits[tokenizer] = number_ids(tokenizer)
    return _known_digits[tokenizer]


def _numbers(tokenizer: Any, vocab: PerceptionVocabulary, prompt_length: int) -> ListConsistency:
    before, cue = _LIST_CUE
    return ListConsistency(
        vocab,
        ids_after(tokenizer, before, cue),
        lambda number: ids_after(tokenizer, before + cue, f" {number}:"),
        prompt_length=prompt_length,
    )


def _nearest(
    tokenizer: Any,
    vocab: PerceptionVocabulary,
    places: Mapping[str, tuple[float, float]],
    frame: ImageFrame,
    nearness: Callable[[np.ndarray], np.ndarray],
    prompt_length: int,
) -> MarkerConsistency:
    before, cue = _MARKER_CUE
    shares = frame.to_frame(np.array(list(places.values()), dtype=np.float64)) / frame.size
    outside = [letter for letter, share in zip(places, shares, strict=True) if (share < 0).any() or (share > 1).any()]
    if outside:
        raise InferenceError(f"marker {outside[0]} at {places[outside[0]]} lies outside what the model sees")
    inner = np.nextafter(1.0, 0.0)  # the right and bottom edges belong to the last pixels
    return MarkerConsistency(
        vocab,
        ids_after(tokenizer, before, cue),
        {letter: ids_after(tokenizer, before + cue, f" {letter}") for letter in places},
        {letter: (min(float(x), inner), min(float(y), inner)) for letter, (x, y) in zip(places, shares, strict=True)},
        nearness,
        prompt_length=prompt_length,
    )
