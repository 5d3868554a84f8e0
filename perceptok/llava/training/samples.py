"""Records as samples of a training: rendered once, measured, grouped by regime; none is ever cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from perceptok.data import PerceptionRecord, SoftCodes, code_spread, read_records, render_record
from perceptok.depth import DepthCodec
from perceptok.errors import ImageError, RecordError, TrainingError
from perceptok.images import open_image, read_image_size
from perceptok.llava.framing import FrameRule
from perceptok.llava.loading import image_token_of, model_inputs
from perceptok.llava.training.config import ObjectiveSettings
from perceptok.tokens import DEPTH
from perceptok.vocabulary import PerceptionVocabulary

__all__ = [
    "IDS",
    "IGNORED",
    "Collator",
    "RecordSamples",
    "SoftTeacher",
    "TrainingSample",
    "labels_of",
    "read_samples",
    "softened_codes",
]


"""20,000 pixels a side; what is larger is more likely a bomb than a photo."""


@dataclass(frozen=True)
class TrainingSample:
    """A record ready to be tokenised with its images.

    Attributes:
        id: The record's, for messages.
        group: Its task and regime, "depth/cot", for logs.
        images: Paths of its images.
        text: The conversation, with the model's image tokens in it, one for each image.
        tail: Token ids behind the last image, which no processor changes.
        taught: Which of them are taught.
        length: Tokens with the images' own.
        soft: What the codec says of the map behind the taught block; None without a map or block.
    """

    id: str
    group: str
    images: tuple[Path, ...]
    text: str
    tail: np.ndarray
    taught: np.ndarray
    length: int
    soft: SoftCodes | None = None


class RecordSamples(Dataset[TrainingSample]):
    """Samples in an order of regimes: all of one, then all of the next.

    Attributes:
        samples: In that order.
        sizes: Regime -> samples.
        dropped: Records that were too long.
    """

    def __init__(self, samples: Sequence[TrainingSample], regimes: Sequence[str], dropped: int) -> None:
        order = sorted(range(len(samples)), key=lambda index: regimes[index])
        self.samples = [samples[index] for index in order]
        counted = Counter(regimes)
        self.sizes = {regime: counted[regime] for regime in sorted(counted)}
        self.dropped = dropped

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> TrainingSample:
        return self.samples[index]


def read_samples(
    paths: Sequence[str],
    processor: Any,
    vocab: PerceptionVocabulary,
    frame: FrameRule,
    *,
    max_length: int,
    too_long: str = "drop",
    codec_fingerprint: str | None = None,
) -> RecordSamples:
    """Read files of records and render every one.

    Args:
        paths: Files of records.
        processor: The model's, extended.
        vocab: Its vocabulary.
        frame: How pictures are framed.
        max_length: Tokens, the images' included.
        too_long: "drop" longer ones, or "refuse" them.
        codec_fingerprint: Of the codec whose codes the DEPTH tokens mean; None does not look.

    Raises:
        RecordError: A record cannot be read or rendered, has no image, or its image is missing; codes of another codec.
        TrainingError: No sample is left, or some are too long under "refuse"; the message says how many.
    """
    samples: list[TrainingSample] = []
    regimes: list[str] = []
    long: list[tuple[str, int]] = []
    expansions = _Expansions(processor, frame)
    for path in paths:
        folder = Path(path).parent
        for record in read_records(path):
            made = record.evidence.codec
            if None not in (made, codec_fingerprint) and made != codec_fingerprint:
                raise RecordError(
                    f"{path}, record {record.id!r}: its depth codes are of the codec {made}, the model's of "
                    f"{codec_fingerprint}: codes of two codecs do not mix; encode the maps anew, or train with that "
                    "codec"
                )
            sample = sample_of_record(record, folder, processor, vocab, expansions)
            if sample.length > max_length:
                long.append((record.id, sample.length))
                continue
            samples.append(sample)
            regimes.append(record.regime)
    if long and too_long == "refuse":
        raise TrainingError(
            f"{len(long)} of {len(long) + len(samples)} records are longer than max_length={max_length}, first "
            f"{long[0][0]!r} with {long[0][1]} tokens: no block is ever cut; raise max_length, or too_long: drop"
        )
    if not samples:
        reason = f"all {len(long)} are longer than max_length={max_length}" if long else "there are none"
        raise TrainingError(f"no record to train on in {', '.join(paths)}: {reason}")
    return RecordSamples(samples, regimes, len(long))


def sample_of_record(
    record: PerceptionRecord, folder: Path, processor: Any, vocab: PerceptionVocabulary, expansions: _Expansions
) -> TrainingSample:
    """One record, rendered and measured; see `read_samples`."""
    if not record.images:
        raise RecordError(f"record {record.id!r}: images: a sample of training has one or more; got none")
    paths = tuple(folder / image for image in record.images)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise RecordError(f"record {record.id!r}: images: there is no file {missing[0]}")
    rendered = render_record(record, processor, vocab)
    image_id = expansions.image_id
    ids = np.array(rendered.ids, dtype=np.int64)
    places = np.flatnonzero(ids == image_id)
    if len(places) != len(paths):
        raise RecordError(
            f"record {record.id!r}: the chat template shows {len(places)} images, the record has {len(paths)}; every "
            "image needs its place in the prompt"
        )
    begin = int(places[-1]) + 1
    mask = np.array(rendered.loss_mask)
    if mask[:begin].any():
        raise RecordError(f"record {record.id!r}: an answer stands before an image, which no processor here expands")
    length = len(ids) + sum(expansions.of(path) for path in paths)
    group = f"{record.task}/{record.regime}"
    soft = record.evidence.soft
    if soft is not None and _taught_codes(ids[mask], vocab) != soft.nearest:
        soft = None  # the block is not all that is taught, or is in words
    tail = ids[begin:].astype(np.int32)
    return TrainingSample(record.id, group, paths, rendered.text, tail, mask[begin:], length, soft)


def _taught_codes(ids: np.ndarray, vocab: PerceptionVocabulary) -> tuple[int, ...]:
    if not vocab.has(DEPTH):
        return ()
    codes = vocab.codes(torch.from_numpy(ids), DEPTH)
    return tuple(codes[codes >= 0].tolist())


class _Expansions:
    """How many tokens more than one an image of a size becomes, asked of the processor once for each size."""

    def __init__(self, processor: Any, frame: FrameRule) -> None:
        self._processor, self._frame = processor, frame
        self._known: dict[tuple[int, int], int] = {}
        self.image_token = image_token_of(processor)
        self.image_id = int(processor.tokenizer.convert_tokens_to_ids(self.image_token))

    def of(self, path: Path) -> int:
        if self._frame.mode != "processor":
            return self._of_size((self._frame.size, self._frame.size))
        return self._of_size(read_image_size(path))

    def _of_size(self, size: tuple[int, int]) -> int:
        if size not in self._known:
            batch = self._processor(images=[[Image.new("RGB", size)]], text=[self.image_token], return_tensors="pt")
            plain = self._processor.tokenizer(self.image_token)["input_ids"]
            self._known[size] = int(batch["input_ids"].shape[1]) - len(plain)
        return self._known[size]


# Samples -> batches: images framed, text tokenised with them, labels on what the assistant writes and nothing else.
#
# With a soft teacher a batch brings what the codec says of each taught code: of the record's map, or of its codes
# alone.


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

    def __call__(self, samples: Sequence[TrainingSample]) -> dict[str, Any]:
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
                pictures.append([self.frame.apply(open_image(path)) for path in sample.images])
            except ImageError as error:
                raise RecordError(
                    f"record {sample.id!r}: {error}; restore the image, or leave its records out"
                ) from error
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

    def _taught(self, sample: TrainingSample, teacher: SoftTeacher) -> Tensor:
        codes = self.vocab.codes(torch.from_numpy(sample.tail[sample.taught]).long(), DEPTH)
        return teacher.rows(codes[codes >= 0], sample.soft)

    def code_count(self, labels: Tensor) -> Tensor:
        """How many depth codes are taught in a batch of labels: a scalar, int64."""
        return (self.vocab.codes(labels[:, 1:], DEPTH) >= 0).sum()


def labels_of(input_ids: Tensor, attention_mask: Tensor, samples: Sequence[TrainingSample]) -> Tensor:
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
