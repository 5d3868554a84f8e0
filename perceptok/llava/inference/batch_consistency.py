"""Constrains the conclusions of a batch of answers, each to its own evidence, as AURORA words them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor
from transformers import LogitsProcessor

from perceptok.boxes import ImageFrame
from perceptok.decoding import (
    CountConsistency,
    ListConsistency,
    MarkerConsistency,
    NumberIds,
    find_number_ids,
)
from perceptok.errors import InferenceError
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["BatchConsistency", "Consistency", "encode_after"]

Consistency = Literal["count", "list", "marker"]

_COUNT_CUES = (("masks,", " we conclude there are"), ("image.", " We conclude there are"))
_LIST_CUE = ("cars:\n", "Bounding box")
_MARKER_CUE = ("map,", " the answer is that point")


class BatchConsistency(LogitsProcessor):
    """Applies separate consistency processors to each row of a batch, since the questions differ.

    Args:
        kinds: The kinds of consistency: "count", "list", "marker".
        tokenizer: The model's tokenizer.
        vocab: Perception tokens of the model.
        prompt_length: Number of tokens of the prompts.
        markers: For each row: letter -> x, y in its image's pixels; "marker" does not apply to a row without any.
        frames: For each row: maps its image to the model's input.
        nearness: Decodes codes (10, 10) to nearness (S, S) of the frame.

    Raises:
        InferenceError: A marker outside the frame, or a tokenizer that joins a cue with the text after it.
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
        self.rows: list[list[CountConsistency | MarkerConsistency]] = []
        for row_markers, frame in zip(markers, frames, strict=True):
            row: list[CountConsistency | MarkerConsistency] = []
            if "count" in kinds:
                row += [_build_count(tokenizer, vocab, *cue, prompt_length) for cue in _COUNT_CUES]
            if "list" in kinds:
                row.append(_build_list(tokenizer, vocab, prompt_length))
            if "marker" in kinds and row_markers:
                row.append(_build_marker(tokenizer, vocab, row_markers, frame, nearness, prompt_length))
            self.rows.append(row)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) after each row's own processors; `scores` itself where nothing changes."""
        constrained = scores
        for index, row in enumerate(self.rows):
            for processor in row:
                before = constrained[index : index + 1]
                after = processor(input_ids[index : index + 1], before)
                if after is not before:
                    constrained = constrained.clone() if constrained is scores else constrained
                    constrained[index] = after[0]
        return constrained

    def overruled(self, row: int) -> int:
        """How often the evidence of a row changed the token that the model would have written."""
        return sum(processor.interventions.changed for processor in self.rows[row])


def encode_after(tokenizer: Any, before: str, text: str) -> list[int]:
    """Token ids of a text after another text; raises InferenceError where a token spans both."""
    first, both = (list(tokenizer.encode(part, add_special_tokens=False)) for part in (before, before + text))
    if both[: len(first)] != first:
        raise InferenceError(f"the tokenizer joins {text!r} with {before!r} before it; leave consistency out")
    return both[len(first) :]


def _build_count(
    tokenizer: Any, vocab: PerceptionVocabulary, before: str, cue: str, prompt_length: int
) -> CountConsistency:
    return CountConsistency(
        vocab,
        encode_after(tokenizer, before, cue),
        lambda number: encode_after(tokenizer, before + cue, f" {number}"),
        prompt_length=prompt_length,
        digits=_look_up_digits(tokenizer),
    )


_digits_cache: WeakKeyDictionary[Any, NumberIds] = WeakKeyDictionary()


def _look_up_digits(tokenizer: Any) -> NumberIds:
    """`find_number_ids`, computed once per tokenizer, since every batch needs them."""
    if tokenizer not in _digits_cache:
        _digits_cache[tokenizer] = find_number_ids(tokenizer)
    return _digits_cache[tokenizer]


def _build_list(tokenizer: Any, vocab: PerceptionVocabulary, prompt_length: int) -> ListConsistency:
    before, cue = _LIST_CUE
    return ListConsistency(
        vocab,
        encode_after(tokenizer, before, cue),
        lambda number: encode_after(tokenizer, before + cue, f" {number}:"),
        prompt_length=prompt_length,
    )


def _build_marker(
    tokenizer: Any,
    vocab: PerceptionVocabulary,
    markers: Mapping[str, tuple[float, float]],
    frame: ImageFrame,
    nearness: Callable[[np.ndarray], np.ndarray],
    prompt_length: int,
) -> MarkerConsistency:
    before, cue = _MARKER_CUE
    points = frame.to_frame(np.array(list(markers.values()), dtype=np.float64)) / frame.size
    for (letter, position), point in zip(markers.items(), points, strict=True):
        if (point < 0).any() or (point > 1).any():
            raise InferenceError(
                f"marker {letter} at {position} lies outside the part of the image that the model sees; move it or "
                "leave it out"
            )
    last = np.nextafter(1.0, 0.0)  # the right and bottom edges belong to the last pixels
    return MarkerConsistency(
        vocab,
        encode_after(tokenizer, before, cue),
        {letter: encode_after(tokenizer, before + cue, f" {letter}") for letter in markers},
        {letter: (min(float(x), last), min(float(y), last)) for letter, (x, y) in zip(markers, points, strict=True)},
        nearness,
        prompt_length=prompt_length,
    )
