"""Training of the small LLaVA on samples whose features are computed once.

Every update has samples of one kind. The loss is Eq. 1 with the codec's soft probabilities for codes, and cross entropy
for all other tokens of the answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lessons import ReadingLessons, compute_lesson_loss
from samples import YardSamples
from torch import Tensor
from torch.nn import functional as F

import perceptok as pt
from perceptok.data import PerceptionRecord
from perceptok.files import atomic_write
from perceptok.llava import small
from perceptok.losses import distillation_loss, next_token_targets
from perceptok.precision import choose_dtype
from perceptok.vocabulary import VocabularyAlignment


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded samples of one kind.

    Attributes:
        ids: (B, T) int64.
        labels: (B, T) int64, -100 for question and padding.
        mask: (B, T), 1 where there is a token.
        scenes: (B,) numbers of the scenes.
    """

    ids: Tensor
    labels: Tensor
    mask: Tensor
    scenes: Tensor


class Encoder:
    """Makes batches of records; each conversation is tokenized once."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._ids: dict[tuple[str, str], tuple[list[int], int]] = {}

    def ids(self, record: PerceptionRecord) -> tuple[list[int], int]:
        """Token ids of question and answer, and the number of the question's."""
        question, reply = (turn.text for turn in record.turns)
        # Not by the record's id, which a training and a held-out scene share.
        if (question, reply) not in self._ids:
            before = small.make_prompt_ids(self.processor, question)
            whole = small.make_prompt_ids(self.processor, question, f"{reply}<|im_end|>")
            assert whole[: len(before)] == before, "the ids of a question do not depend on the answer"
            self._ids[question, reply] = whole, len(before)
        return self._ids[question, reply]

    def batch(self, records: Sequence[PerceptionRecord]) -> Batch:
        """Pad records to one length."""
        scenes = torch.tensor([int(str(record.provenance["scene"])) for record in records])
        rows = [self.ids(record) for record in records]
        length = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), length), int(self.processor.tokenizer.pad_token_id))
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, (tokens, given) in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, given : len(tokens)] = ids[row, given : len(tokens)]
            mask[row, : len(tokens)] = 1
        return Batch(ids, labels, mask, scenes)


def compute_loss(model: Any, vocab: pt.PerceptionVocabulary, batch: Batch, samples: YardSamples) -> Tensor:
    """Eq. 1, mean over codes, plus cross entropy, mean over the other tokens, which are few beside 100 codes."""
    supervised = (batch.labels != -100).any(0).nonzero()
    keep = batch.ids.shape[1] - int(supervised[0]) + 1
    logits = compute_logits(model, batch, samples, keep)
    ids, labels = (tensor[:, -keep:].to(logits.device) for tensor in (batch.ids, batch.labels))
    codes = next_token_targets(ids, vocab, labels=labels).mask
    words = labels.roll(-1, dims=1).masked_fill(codes, -100)
    words[:, -1] = -100
    loss = F.cross_entropy(logits.float().flatten(0, 1), words.flatten(), ignore_index=-100)
    if bool(codes.any()):
        teacher = samples.teacher[batch.scenes].float().to(logits.device)
        alignment = VocabularyAlignment.identity(teacher.shape[-1])
        loss = loss + distillation_loss(logits, teacher, alignment, vocab, codes)
    return loss


def compute_logits(model: Any, batch: Batch, samples: YardSamples, keep: int = 0) -> Tensor:
    """Logits of the last `keep` tokens, or of all."""
    device = model.device
    with autocast(device):
        logits: Tensor = model(
            input_ids=batch.ids.to(device),
            attention_mask=batch.mask.to(device),
            pixel_values=samples.features[batch.scenes].float().to(device),
            logits_to_keep=keep,
        ).logits
    return logits


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes it faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=choose_dtype(device) == torch.bfloat16)


def draw_records(records: Sequence[PerceptionRecord], size: int, seed: int, number: int) -> list[PerceptionRecord]:
    """Batch `number` of a seed; every record is drawn once before any is drawn again."""
    places = range(number * size, (number + 1) * size)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(len(records))
        for epoch in {place // len(records) for place in places}
    }
    return [records[orders[place // len(records)][place % len(records)]] for place in places]


@dataclass(frozen=True)
class Setup:
    """The training of a model.

    Attributes:
        regime: "cot" (perception tokens, then the answer), "cells" (the same with cells and the nearest point so far,
            after reading lessons) or "direct" (the answer alone).
        labels: Number of scenes with answers; depth blocks are trained on all scenes, since specialists need no labels.
        counting: Share of updates with questions about counting.
        lessons: Share of the updates, the first ones, with reading lessons only, for "cells"; a quarter of the
            later ones has lessons too.
        training: Updates and learning rate, the same for all models of a comparison.
    """

    regime: str
    labels: int
    counting: float = 0.25
    lessons: float = 0.5
    training: small.SmallTraining = field(default_factory=small.SmallTraining)

    @property
    def kinds(self) -> dict[str, str]:
        """Task -> the kind of its samples."""
        return {"depth": f"depth-{self.regime}", "counting": f"counting-{self.regime}".replace("cells", "cot")}

    def schedule(self) -> list[tuple[str, int]]:
        """For every update the kind of its samples, and the number of updates of that kind before it.

        Atomic depth comes first, its share falling linearly to a fifth, as released.
        """
        rng = np.random.default_rng([self.training.seed, 1])
        first = round(self.training.max_steps * self.lessons) if self.regime == "cells" else 0
        counts: Counter[str] = Counter()
        schedule = []
        for step in range(self.training.max_steps):
            atomic = max(0.2, 1 - 1.6 * (step - first) / (self.training.max_steps - first))
            if step < first or (self.regime == "cells" and rng.random() < 0.25):
                kind = "lessons"
            elif rng.random() < self.counting:
                kind = self.kinds["counting"]
            elif self.regime != "direct" and rng.random() < atomic:
                kind = "depth-atomic"
            else:
                kind = self.kinds["depth"]
            schedule.append((kind, counts[kind]))
            counts[kind] += 1
        return schedule

    def choose_max_points(self, number: int) -> int:
        """The greatest number of points in lesson update `number`: 1 in the first third of the lessons, then more."""
        first = max(1, round(self.training.max_steps * self.lessons))
        return min(5, 1 + max(0, 9 * number - 3 * first) // first)


def train(
    model: Any,
    encoder: Encoder,
    vocab: pt.PerceptionVocabulary,
    samples: YardSamples,
    held_out: YardSamples,
    setup: Setup,
    codec: pt.DepthCodec,
    advance: Callable[[str], None] = lambda _: None,
    *,
    checkpoint: Path | None = None,
) -> list[dict[str, float]]:
    """Train, and return the learning curve on held-out samples; a checkpoint resumes an interrupted training."""
    training, schedule = setup.training, setup.schedule()
    records_by_kind = {
        kind: [
            record
            for record in records
            if kind == "depth-atomic" or int(str(record.provenance["scene"])) < setup.labels
        ]
        for kind, records in samples.records.items()
    }
    codes = np.array([record.evidence.codes for record in samples.records["depth-atomic"]]).reshape(-1, 10, 10)
    lessons = ReadingLessons(codes, codec, encoder.processor) if setup.regime == "cells" else None
    curve_path = None if checkpoint is None else checkpoint.with_suffix(".curve.jsonl")
    curve = {} if curve_path is None or not curve_path.is_file() else _read_curve(curve_path)
    steps = 0

    def count_update(text: str) -> None:
        nonlocal steps
        steps += 1
        advance(text)

    def compute_batch_loss(_: Tensor) -> Tensor:
        kind, number = schedule[steps]
        if lessons is not None and kind == "lessons":
            rng = np.random.default_rng([training.seed, 2, number])
            batch = lessons.draw(max(1, training.batch_size // 2), setup.choose_max_points(number), rng)
            with autocast(model.device):
                return compute_lesson_loss(model, batch)
        records = draw_records(records_by_kind[kind], training.batch_size, training.seed, number)
        return compute_loss(model, vocab, encoder.batch(records), samples)

    def evaluate() -> tuple[float, float]:
        curve[steps] = measure_accuracy(model, encoder, vocab, held_out, setup.kinds)
        if curve_path is not None:
            with atomic_write(curve_path, force=True) as file:
                file.writelines(f"{json.dumps([step, values])}\n".encode() for step, values in curve.items())
        return 0.0, 0.0

    points = small.optimize(
        model, training.batch_size, compute_batch_loss, evaluate, training, count_update, checkpoint=checkpoint
    )
    return [
        {"step": point.step, "loss": point.loss, "seconds": point.processor_seconds, **curve[point.step]}
        for point in points
    ]


def _read_curve(path: Path) -> dict[int, dict[str, float]]:
    return dict(map(json.loads, path.read_text().splitlines()))


@torch.no_grad()
def measure_accuracy(
    model: Any,
    encoder: Encoder,
    vocab: pt.PerceptionVocabulary,
    samples: YardSamples,
    kinds: Mapping[str, str],
    max_records: int = 64,
) -> dict[str, float]:
    """Accuracy of the most likely token given the true ones before, for each kind of token of each task."""
    accuracy: dict[str, float] = {}
    letters = {f"{space}{letter}" for space in ("", " ") for letter in "ABCDE"}
    for task, kind in kinds.items():
        batch = encoder.batch(samples.records[kind][:max_records])
        logits = compute_logits(model, batch, samples).cpu()
        correct = logits[:, :-1].argmax(-1) == batch.labels[:, 1:]
        targets = batch.labels[:, 1:]
        tokenizer = encoder.processor.tokenizer
        codes = torch.isin(targets, vocab.ids(pt.tokens.DEPTH))
        if codes.any():
            accuracy["codes"] = float(correct[codes].float().mean())
        texts = [[tokenizer.decode([token]) if token >= 0 else "" for token in row] for row in targets.tolist()]
        answers = letters if task == "depth" else set("12345")
        last = [max(n for n, text in enumerate(row) if text in answers) for row in texts]
        accuracy[task] = float(correct[torch.arange(len(last)), torch.tensor(last)].float().mean())
        if kind == "depth-cot":
            digits = torch.tensor([[text.isdigit() for text in row] for row in texts])
            tens = digits & ~digits.roll(1, 1)
            accuracy["tens"], accuracy["units"] = (
                float(correct[positions].float().mean()) for positions in (tens, digits & ~tens)
            )
        pixels = torch.isin(targets, vocab.ids(pt.tokens.PIXEL))
        if pixels.any():
            error = (
                logits[:, :-1][pixels][:, vocab.ids(pt.tokens.PIXEL)].argmax(-1)
                - (targets[pixels] - vocab.ids(pt.tokens.PIXEL)[0])
            ).abs()
            accuracy["pixels off"] = float(error.float().median())
    return accuracy
