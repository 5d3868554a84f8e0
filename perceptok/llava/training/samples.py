"""Records as training samples and batches: rendered once, measured, grouped by regime, never truncated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from perceptok.data import (
    PerceptionRecord,
    SoftCodes,
    code_spread,
    find_records_file,
    read_records,
    render_record,
)
from perceptok.depth import DepthCodec
from perceptok.errors import ImageError, RecordError, TrainingError
from perceptok.images import check_image_header, open_image, read_image_size
from perceptok.jobs import map_in_order
from perceptok.llava.framing import FrameRule
from perceptok.llava.loading import encode_inputs, get_image_token
from perceptok.llava.training.config import ObjectiveSettings
from perceptok.tokens import DEPTH
from perceptok.vocabulary import PerceptionVocabulary

__all__ = [
    "IGNORE_INDEX",
    "NOT_FOR_MODEL",
    "Collator",
    "Progress",
    "RecordSamples",
    "SoftTeacher",
    "TrainingSample",
    "make_codebook_teacher",
    "read_samples",
    "show_no_progress",
]

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""A progress bar: a name and a count give a context whose value is called after each item."""

_THREADS = 8
_CHECKED_AHEAD = 1000
_SHOWN = 5
"""Images that one message lists."""

IGNORE_INDEX = -100
"""Label of a token that is not supervised."""

NOT_FOR_MODEL = ("sample_ids", "groups", "teacher")
"""Keys of a batch that are neither labels nor inputs of the model."""


@dataclass(frozen=True)
class TrainingSample:
    """A record that is rendered and ready to be processed with its images.

    Attributes:
        id: The record's id, for messages.
        group: Its task and regime, such as "depth/cot", for logs.
        images: Paths of its images.
        text: The conversation, with one image token of the model for each image.
        suffix_ids: (N,) int32 token ids after the last image, all of them without one.
        supervised: (N,) bool, which of them are supervised.
        length: Number of tokens, with those that the images become.
        soft: The codec's distribution for the map of the supervised block; None without a map or block.
    """

    id: str
    group: str
    images: tuple[Path, ...]
    text: str
    suffix_ids: np.ndarray
    supervised: np.ndarray
    length: int
    soft: SoftCodes | None = None

    @property
    def answer_ids(self) -> Tensor:
        """The supervised token ids, int64."""
        return torch.from_numpy(self.suffix_ids[self.supervised]).long()


def show_no_progress(_: str, __: int) -> AbstractContextManager[Callable[..., None]]:
    """A progress bar that shows nothing."""
    return nullcontext(lambda *_: None)


class RecordSamples(Dataset[TrainingSample]):
    """Samples, sorted by regime as `CurriculumSampler` expects them.

    Attributes:
        samples: The sorted samples.
        regimes: The regime of each.
        sizes: Number of samples of each regime, in that order.
        file_order: (N,) int64, indices of the samples in the order of the files.
        atomic_records: Number of atomic records in the files, whether they are trained on or not.
        dropped: Number of records that were too long.
    """

    def __init__(
        self, samples: Sequence[TrainingSample], regimes: Sequence[str], *, atomic_records: int, dropped: int
    ) -> None:
        order = sorted(range(len(samples)), key=lambda index: regimes[index])
        self.samples = [samples[index] for index in order]
        self.regimes = [regimes[index] for index in order]
        self.sizes = dict(sorted(Counter(regimes).items()))
        self.file_order = np.argsort(order)
        self.atomic_records = atomic_records
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
    instructions: Sequence[str] = (),
    max_length: int,
    too_long: str = "drop",
    codec_fingerprint: str | None = None,
    regimes: Sequence[str] = (),
    system: str | None = None,
    progress: Progress = show_no_progress,
    share: tuple[int, int] = (0, 1),
) -> RecordSamples:
    """Read files of records and render every record.

    Args:
        paths: Files of records.
        processor: The model's processor, extended.
        vocab: Its vocabulary.
        frame: How images are framed.
        instructions: Files of general instruction data.
        max_length: Maximum length of a sample in tokens, its images' included.
        too_long: "drop" longer samples, or "refuse" them.
        codec_fingerprint: Fingerprint of the model's codec, which the records' codes have to be of; None to not check.
        regimes: Regimes to read, beside instructions; empty for all.
        system: The system sentence that conversations begin with; None for that of the chat template.
        progress: Shows the progress of checking images.
        share: Index and number of the processes that check images, each its share.

    Raises:
        RecordError: A record cannot be read or rendered, its answer is malformed or contradicts its evidence
            (`find_supervision_problems`), its id occurs twice, it has no image, or its codes are of another codec; or
            images are missing or have a header that cannot be read.
        TrainingError: No sample is left, or some are too long under "refuse"; the message says how many.
    """
    samples: list[TrainingSample] = []
    sample_regimes: list[str] = []
    long: list[TrainingSample] = []
    counter = _ImageTokenCounter(processor, frame)
    atomic_records = left_out = 0
    for path, record in _read_all(paths, instructions):
        atomic_records += record.regime == "atomic"
        if regimes and record.regime not in (*regimes, "instruction"):
            left_out += 1
            continue
        codec = record.evidence.codec
        if None not in (codec, codec_fingerprint) and codec != codec_fingerprint:
            raise RecordError(
                f"{path}, record {record.id!r}: its depth codes are of the codec {codec}, the model's of "
                f"{codec_fingerprint}: codes of two codecs do not mix; encode the maps anew, or train with that codec"
            )
        sample = _make_sample(record, path.parent, processor, vocab, counter, system)
        if sample.length > max_length:
            long.append(sample)
        else:
            samples.append(sample)
            sample_regimes.append(record.regime)
    if long and too_long == "refuse":
        raise TrainingError(
            f"{len(long)} of {len(long) + len(samples)} records are longer than max_length={max_length}, first "
            f"{long[0].id!r} with {long[0].length} tokens: no block is ever truncated; raise max_length, or set "
            "too_long: drop"
        )
    if not {*sample_regimes} - {"instruction"}:
        reason = f"all {len(long)} are longer than max_length={max_length}" if long else "the files are empty"
        if left_out and not long:
            reason = f"none of {left_out} is of the regimes {', '.join(regimes)}"
        raise TrainingError(f"no record to train on in {', '.join(paths)}: {reason}")
    _check_images(samples, progress, share)
    return RecordSamples(samples, sample_regimes, atomic_records=atomic_records, dropped=len(long))


def _read_all(paths: Sequence[str], instructions: Sequence[str]) -> Iterator[tuple[Path, PerceptionRecord]]:
    """The records of all files, each with its file."""
    for path in paths:
        for record in read_records(path, check_supervision=True):
            yield find_records_file(path), record
    for path in instructions:
        for record in read_records(path, task="other", regime="instruction", check_supervision=True):
            if record.regime != "instruction":
                raise RecordError(
                    f"{path}, record {record.id!r}: of the task {record.task!r}; instruction_records are general data, "
                    "without evidence: name this file in records"
                )
            yield find_records_file(path), record


def _make_sample(
    record: PerceptionRecord,
    folder: Path,
    processor: Any,
    vocab: PerceptionVocabulary,
    counter: _ImageTokenCounter,
    system: str | None,
) -> TrainingSample:
    if not record.images and record.regime not in ("instruction", "reading"):
        raise RecordError(f"record {record.id!r}: images: a training sample has at least one image; got none")
    if not record.images and not counter.takes_text_alone:
        raise RecordError(
            f"record {record.id!r}: images: {type(processor).__name__} takes no text without an image; leave such "
            "records out"
        )
    images = tuple(folder / image for image in record.images)
    rendered = render_record(record, processor, vocab, system=system)
    ids = np.array(rendered.ids, dtype=np.int32)
    positions = np.flatnonzero(ids == counter.image_token_id)
    if len(positions) != len(images):
        raise RecordError(
            f"record {record.id!r}: the chat template shows {len(positions)} images, the record has {len(images)}; "
            "every image needs its place in the prompt"
        )
    begin = int(positions[-1]) + 1 if len(positions) else 0
    mask = np.array(rendered.loss_mask)
    if mask[:begin].any():
        raise RecordError(f"record {record.id!r}: an answer comes before an image; put the images into the first turn")
    try:
        length = len(ids) + sum(counter.count_added(path) for path in images)
    except ImageError as error:
        raise RecordError(f"record {record.id!r}: images: {error}") from error
    sample = TrainingSample(
        record.id, f"{record.task}/{record.regime}", images, rendered.text, ids[begin:], mask[begin:], length
    )
    soft = record.evidence.soft
    if soft is None or tuple(_supervised_codes(sample, vocab).tolist()) != soft.nearest:
        return sample  # without a map; or with more, or other, supervised codes than its block
    return TrainingSample(**{**vars(sample), "soft": soft})


def _supervised_codes(sample: TrainingSample, vocab: PerceptionVocabulary) -> Tensor:
    if not vocab.has(DEPTH):
        return torch.empty(0, dtype=torch.int64)
    codes = vocab.codes(sample.answer_ids, DEPTH)
    return codes[codes >= 0]


def _check_images(samples: Sequence[TrainingSample], progress: Progress, share: tuple[int, int]) -> None:
    """Read the headers of this process's share of all images, in threads; raises RecordError that lists the faulty."""
    record_of: dict[Path, str] = {}
    for sample in samples:
        for path in sample.images:
            record_of.setdefault(path, sample.id)
    images = list(record_of)[share[0] :: share[1]]
    problems: list[str] = []
    with progress("checking images", len(images)) as advance, ThreadPoolExecutor(_THREADS) as pool:
        found = map_in_order(pool, _find_image_problem, images, ahead=_CHECKED_AHEAD)
        for path, problem in zip(images, found, strict=True):
            advance()
            if problem is not None:
                problems.append(f"record {record_of[path]!r}: images: {problem}")
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise RecordError(
            f"{len(problems)} of {len(images)} images cannot be read: {shown}{more}. Restore them, or leave their "
            "records out"
        )


def _find_image_problem(path: Path) -> str | None:
    try:
        check_image_header(path)
    except ImageError as error:
        return str(error)
    return None


class _ImageTokenCounter:
    """Counts the tokens that an image adds to its image token; runs the processor once for each image size."""

    def __init__(self, processor: Any, frame: FrameRule) -> None:
        self._processor, self._frame = processor, frame
        self._by_size: dict[tuple[int, int], int] = {}
        self._image_token = get_image_token(processor)
        self.image_token_id = int(processor.tokenizer.convert_tokens_to_ids(self._image_token))

    @cached_property
    def takes_text_alone(self) -> bool:
        """Whether the processor takes a text without an image; PaliGemma's does not."""
        try:
            self._processor(images=None, text=["text"], return_tensors="pt")
        except (ValueError, TypeError, AttributeError, IndexError):
            return False
        return True

    def count_added(self, path: Path) -> int:
        size = (self._frame.size, self._frame.size) if self._frame.mode != "processor" else read_image_size(path)
        if size not in self._by_size:
            batch = self._processor(images=[[Image.new("RGB", size)]], text=[self._image_token], return_tensors="pt")
            text_only = self._processor.tokenizer(self._image_token)["input_ids"]
            self._by_size[size] = int(batch["input_ids"].shape[1]) - len(text_only)
        return self._by_size[size]


class Collator:
    """Samples to batches: images opened and framed, text processed with them, labels on the assistant's turns alone."""

    def __init__(
        self, processor: Any, vocab: PerceptionVocabulary, frame: FrameRule, teacher: SoftTeacher | None = None
    ) -> None:
        self.processor = processor
        self.vocab = vocab
        self.frame = frame
        self.teacher = teacher

    def __call__(self, samples: Sequence[TrainingSample]) -> dict[str, Any]:
        """Make a batch, padded on the right.

        Returns:
            `input_ids`, `attention_mask`, `labels` (B, T) int64, whatever the processor makes of images, `sample_ids`
            and `groups`; with a soft teacher `teacher`, (M, 128) float32: a row for each supervised code, in order.

        Raises:
            RecordError: An image cannot be read, or the processor tokenizes a text differently than it was rendered;
                the message names the record.
        """
        images = [self._open_images(sample) for sample in samples]
        texts = [sample.text for sample in samples]
        suffixes = [sample.suffix_ids for sample in samples]
        batch = encode_inputs(self.processor, texts, images, suffixes, padding_side="right")
        batch["labels"] = _make_labels(batch["input_ids"], batch["attention_mask"], samples)
        if "token_type_ids" in batch:
            # PaliGemma attends in both directions to tokens of type 0: an answer of that type would see itself.
            begun = (batch["labels"] != IGNORE_INDEX).cumsum(dim=1) > 0
            batch["token_type_ids"] = (begun & (batch["attention_mask"] > 0)).to(batch["token_type_ids"].dtype)
        if (teacher := self.teacher) is not None:
            batch["teacher"] = torch.cat(
                [teacher.make_rows(_supervised_codes(sample, self.vocab), sample.soft) for sample in samples]
            )
        batch["sample_ids"] = [sample.id for sample in samples]
        batch["groups"] = [sample.group for sample in samples]
        return batch

    def _open_images(self, sample: TrainingSample) -> list[Image.Image]:
        try:
            return [self.frame.apply(open_image(path)) for path in sample.images]
        except ImageError as error:
            raise RecordError(f"record {sample.id!r}: {error}; restore the image, or leave its records out") from error

    def count_codes(self, labels: Tensor) -> int:
        """Number of supervised depth codes in a batch of labels."""
        if not self.vocab.has(DEPTH):
            return 0
        return int((self.vocab.codes(labels[:, 1:], DEPTH) >= 0).sum())


def _make_labels(input_ids: Tensor, attention_mask: Tensor, samples: Sequence[TrainingSample]) -> Tensor:
    """Labels (B, T), not shifted: the ids of supervised tokens, else IGNORE_INDEX."""
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    for row, sample in enumerate(samples):
        end = int(attention_mask[row].sum())
        begin = end - len(sample.suffix_ids)
        if begin < 0 or not np.array_equal(input_ids[row, begin:end].numpy(), sample.suffix_ids):
            raise RecordError(
                f"record {sample.id!r}: the processor tokenizes the conversation differently than it was rendered, "
                "which would shift the labels; use the tokenizer and chat template that belong to the processor"
            )
        supervised = torch.from_numpy(sample.supervised)
        labels[row, begin:end] = torch.where(supervised, input_ids[row, begin:end], IGNORE_INDEX)
    return labels


class SoftTeacher:
    """Distributions over the codes, for each supervised code of a sample (q of Eq. 1)."""

    def __init__(self, codec: DepthCodec, temperature: float, *, maps: bool) -> None:
        """Set up a teacher.

        Args:
            codec: The depth codec.
            temperature: In units of the mean squared distance between two code vectors.
            maps: Whether to use the distributions that a record keeps of its map, or the codebook alone.
        """
        self._table = make_codebook_teacher(codec.codebook, temperature).cpu()
        self._temperature, self._maps = temperature, maps

    @classmethod
    def from_settings(cls, settings: ObjectiveSettings, codec: DepthCodec) -> SoftTeacher | None:
        """The teacher of an objective; None for a hard one."""
        if settings.teacher == "hard" or not settings.distillation:
            return None
        return cls(codec, settings.teacher_temperature, maps=settings.teacher == "soft")

    def make_rows(self, codes: Tensor, soft: SoftCodes | None) -> Tensor:
        """A distribution (N, 128) float32 for each of a sample's supervised codes (N,)."""
        if soft is None or not self._maps:
            return self._table[codes]
        return torch.from_numpy(soft.probabilities(self._temperature))


def make_codebook_teacher(codebook: Tensor, temperature: float) -> Tensor:
    """The soft teacher of Eq. 1 for codes without their map: (K, K) float32, row k the distribution of code k.

    q = softmax(-||e_k - e_j||^2 / (temperature * spread)), as `DepthCodec.encode_soft` gives for a feature that lies
    on its code vector; spread is the mean squared distance between two code vectors, which makes the temperature
    comparable between codecs.
    """
    vectors = codebook.detach().double()
    distances = torch.cdist(vectors, vectors).square()
    return (-distances / (temperature * code_spread(codebook))).softmax(-1).float()
