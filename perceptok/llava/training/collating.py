"""Samples -> batches: images framed, text tokenised with them, labels on what the assistant writes and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceptok.errors import RecordError
from perceptok.llava.framing import FrameRule
from perceptok.llava.processors import model_inputs
from perceptok.llava.training.samples import Sample, open_picture
from perceptok.tokens import DEPTH
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["IDS", "IGNORED", "Collator", "labels_of"]

IGNORED = -100
"""Label of a token that is no target."""

IDS = ("sample_ids", "groups")
"""What a batch holds beside the model's inputs: the records' ids and groups, lists of text."""


class Collator:
    """A list of samples -> the model's inputs, `labels`, and the samples' ids and groups.

    The text goes through the processor with its images, whatever that makes of them; what it makes of the rest is held
    to what was rendered, token by token.
    """

    def __init__(self, processor: Any, vocab: PerceptionVocabulary, frame: FrameRule) -> None:
        self.processor = processor
        self.vocab = vocab
        self.frame = frame

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """A batch, padded at the right.

        Returns:
            `input_ids`, `attention_mask`, `labels` (B, T) int64, whatever the processor makes of images, `sample_ids`
            and `groups`.

        Raises:
            RecordError: An image cannot be read, or the processor tokenises a text otherwise than it was rendered; the
                message names the record.
        """
        pictures = []
        for sample in samples:
            try:
                pictures.append([self.frame.apply(open_picture(path)) for path in sample.images])
            except RecordError as error:
                raise RecordError(f"record {sample.id!r}: {error}") from error
        texts = [sample.text for sample in samples]
        tails = [sample.tail for sample in samples]
        inputs = model_inputs(self.processor, texts, pictures, tails, side="right")
        inputs["labels"] = labels_of(inputs["input_ids"], inputs["attention_mask"], samples)
        if "token_type_ids" in inputs:
            # PaliGemma reads what is of type 0 in both directions: an answer of that type would see itself.
            begun = (inputs["labels"] != IGNORED).cumsum(dim=1) > 0
            inputs["token_type_ids"] = (begun & (inputs["attention_mask"] > 0)).to(inputs["token_type_ids"].dtype)
        inputs["sample_ids"] = [sample.id for sample in samples]
        inputs["groups"] = [sample.group for sample in samples]
        return inputs

    def code_count(self, labels: Tensor) -> Tensor:
        """How many depth codes are taught in a batch of labels: a scalar, int64."""
        return (self.vocab.codes(labels[:, 1:], DEPTH) >= 0).sum()


def labels_of(input_ids: Tensor, attention_mask: Tensor, samples: Sequence[Sample]) -> Tensor:
    """Labels (B, T), not shifted: a taught token's own id, -100 everywhere else.

    Raises:
        RecordError: Behind the last image a sequence is not what was rendered.
    """
    labels = torch.full_like(input_ids, IGNORED)
    for row, sample in enumerate(samples):
        ids = input_ids[row, : int(attention_mask[row].sum())].numpy()
        begin, end = len(ids) - len(sample.tail), len(ids)
        if begin < 0 or not np.array_equal(ids[begin:], sample.tail):
            raise RecordError(
                f"record {sample.id!r}: the processor tokenises the conversation otherwise than it was rendered, so "
                "that what is taught would be shifted; its template and tokenizer contradict each other"
            )
        taught = torch.from_numpy(sample.taught)
        labels[row, begin:end] = torch.where(taught, input_ids[row, begin:end], IGNORED)
    return labels
