"""Samples -> batches: images framed, text tokenised with them, labels on what the assistant writes and nothing else.

With a soft teacher a batch brings what the codec says of each taught code: of the record's map, or of its codes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceptok.data.records import SoftCodes
from perceptok.data.softening import code_spread
from perceptok.depth.codec import DepthCodec
from perceptok.errors import RecordError
from perceptok.llava.framing import FrameRule
from perceptok.llava.processors import model_inputs
from perceptok.llava.training.recipe import ObjectiveSettings
from perceptok.llava.training.samples import Sample, open_picture
from perceptok.tokens import DEPTH
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["IDS", "IGNORED", "Collator", "SoftTeacher", "labels_of", "softened_codes"]

IGNORED = -100
"""Label of a token that is no target."""

IDS = ("sample_ids", "groups")
"""What a batch holds beside the model's inputs: the records' ids and groups, lists of text."""


class Collator:
    """A list of samples -> the model's inputs, `labels`, and the samples' ids and groups.

    The text goes through the processor with its images, whatever that makes of them; what it makes of the rest is held
    to what was rendered, token by token.
    """

    def __init__(
        self, processor: Any, vocab: PerceptionVocabulary, frame: FrameRule, teacher: SoftTeacher | None = None
    ) -> None:
        self.processor = processor
        self.vocab = vocab
        self.frame = frame
        self.teacher = teacher

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """A batch, padded at the right.

        Returns:
            `input_ids`, `attention_mask`, `labels` (B, T) int64, whatever the processor makes of images, `sample_ids`
            and `groups`; with a soft teacher `teacher`, (M, 128) float32: one row for each taught code, in their order.

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
        if self.teacher is not None:
            inputs["teacher"] = torch.cat([self._taught(sample, self.teacher) for sample in samples])
        inputs["sample_ids"] = [sample.id for sample in samples]
        inputs["groups"] = [sample.group for sample in samples]
        return inputs

    def _taught(self, sample: Sample, teacher: SoftTeacher) -> Tensor:
        codes = self.vocab.codes(torch.from_numpy(sample.tail[sample.taught]).long(), DEPTH)
        return teacher.rows(codes[codes >= 0], sample.soft)

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


class SoftTeacher:
    """Probabilities of the codes for each taught code of a sample."""

    def __init__(self, codec: DepthCodec, temperature: float, *, maps: bool) -> None:
        """Set up a teacher.

        Args:
            codec: Whose codes.
            temperature: In units of the mean squared distance between two of its vectors.
            maps: Whether what a record keeps of its map counts, or the codebook alone.
        """
        self._table = softened_codes(codec.codebook, temperature).cpu()
        self._temperature, self._maps = temperature, maps

    @classmethod
    def of(cls, settings: ObjectiveSettings, codec: DepthCodec) -> SoftTeacher | None:
        """The teacher that the settings ask for; None for a hard one."""
        if settings.teacher == "hard" or not settings.distillation:
            return None
        return cls(codec, settings.teacher_temperature, maps=settings.teacher == "soft")

    def rows(self, codes: Tensor, soft: SoftCodes | None) -> Tensor:
        """A row of probabilities (N, 128) float32 for each of a sample's taught codes (N,)."""
        if soft is None or not self._maps:
            return self._table[codes]
        return torch.from_numpy(soft.probabilities(self._temperature))


def softened_codes(codebook: Tensor, temperature: float) -> Tensor:
    """The soft teacher of Eq. 1 where only codes are at hand: (K, K) float32, row k the teacher of code k.

    q = softmax(-||e_k - e_j||^2 / (temperature * spread)), as `DepthCodec.encode_soft` gives for a feature that lies
    on its code's vector; spread is the mean squared distance between two vectors, so that 1 means the same for every
    codec.
    """
    vectors = codebook.detach().double()
    distances = torch.cdist(vectors, vectors).square()
    return (-distances / (temperature * code_spread(codebook))).softmax(-1).float()
