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
from torch.utils.data import Dataset

from perceptok.data.records import PerceptionRecord, SoftCodes, read_records
from perceptok.data.rendering import render_record
from perceptok.errors import RecordError, TrainingError
from perceptok.llava.framing import FrameRule
from perceptok.llava.processors import image_token_of
from perceptok.tokens import DEPTH
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["RecordSamples", "Sample", "open_picture", "read_samples"]

_MOST_PIXELS = 400_000_000
"""20,000 pixels a side; what is larger is more likely a bomb than a photo."""


@dataclass(frozen=True)
class Sample:
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


class RecordSamples(Dataset[Sample]):
    """Samples in an order of regimes: all of one, then all of the next.

    Attributes:
        samples: In that order.
        sizes: Regime -> samples.
        dropped: Records that were too long.
    """

    def __init__(self, samples: Sequence[Sample], regimes: Sequence[str], dropped: int) -> None:
        order = sorted(range(len(samples)), key=lambda index: regimes[index])
        self.samples = [samples[index] for index in order]
        counted = Counter(regimes)
        self.sizes = {regime: counted[regime] for regime in sorted(counted)}
        self.dropped = dropped

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
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
    samples: list[Sample] = []
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
) -> Sample:
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
    return Sample(record.id, group, paths, rendered.text, tail, mask[begin:], length, soft)


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
        with Image.open(path) as image:
            return self._of_size(image.size)

    def _of_size(self, size: tuple[int, int]) -> int:
        if size not in self._known:
            batch = self._processor(images=[[Image.new("RGB", size)]], text=[self.image_token], return_tensors="pt")
            plain = self._processor.tokenizer(self.image_token)["input_ids"]
            self._known[size] = int(batch["input_ids"].shape[1]) - len(plain)
        return self._known[size]


def open_picture(path: Path) -> Image.Image:
    """An image in RGB.

    Raises:
        RecordError: It is missing, damaged, or beyond 20,000 x 20,000 pixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise RecordError(
                    f"{path}: {image.width} x {image.height} pixels are more than an image has; resize it"
                )
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{path}: no image can be read ({error}); restore it, or leave its records out") from error
