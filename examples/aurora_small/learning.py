"""Teaching the small LLaVA lessons on features that were computed once, and asking it through `PerceptionPipeline`.

Every update takes lessons of one kind. Codes are taught by Eq. 1 with the codec's soft probabilities, all other tokens
of the answer by cross entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lessons import Lessons
from torch import Tensor
from torch.nn import functional as F

import perceptok as pt
from perceptok.data import PerceptionRecord
from perceptok.llava import small
from perceptok.losses import distillation_loss, next_token_targets
from perceptok.vocabulary import VocabularyAlignment


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded lessons of one kind.

    Attributes:
        ids: (B, T).
        labels: (B, T), -100 over question and padding.
        mask: (B, T), 1 where there is a token.
        scenes: (B,) numbers.
    """

    ids: Tensor
    labels: Tensor
    mask: Tensor
    scenes: Tensor


class Encoder:
    """Records -> batches; ids of a record are made once."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._known: dict[str, tuple[list[int], int]] = {}

    def ids(self, record: PerceptionRecord) -> tuple[list[int], int]:
        """Ids of question and answer, and how many are the question's."""
        if record.id not in self._known:
            question, reply = (turn.text for turn in record.turns)
            before = small.prompt_ids(self.processor, question)
            whole = small.prompt_ids(self.processor, question, f"{reply}<|im_end|>")
            assert whole[: len(before)] == before, "a question's ids do not depend on what is answered"
            self._known[record.id] = whole, len(before)
        return self._known[record.id]

    def batch(self, records: Sequence[PerceptionRecord]) -> Batch:
        """Pad some records to one length."""
        rows = [self.ids(record) for record in records]
        length = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), length), int(self.processor.tokenizer.pad_token_id))
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, (found, asked) in enumerate(rows):
            ids[row, : len(found)] = torch.tensor(found)
            labels[row, asked : len(found)] = ids[row, asked : len(found)]
            mask[row, : len(found)] = 1
        scenes = torch.tensor([int(str(record.provenance["scene"])) for record in records])
        return Batch(ids, labels, mask, scenes)


def loss_of(model: Any, vocab: pt.PerceptionVocabulary, batch: Batch, lessons: Lessons) -> Tensor:
    """Eq. 1, mean over codes, and cross entropy, mean over the rest: a few digits would be lost among 100 codes."""
    taught = (batch.labels != -100).any(0).nonzero()
    keep = batch.ids.shape[1] - int(taught[0]) + 1
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            pixel_values=lessons.features[batch.scenes].float(),
            logits_to_keep=keep,
        ).logits
    ids, labels = batch.ids[:, -keep:], batch.labels[:, -keep:]
    codes = next_token_targets(ids, vocab, labels=labels).mask
    words = labels.roll(-1, dims=1).masked_fill(codes, -100)
    words[:, -1] = -100
    loss = F.cross_entropy(logits.float().flatten(0, 1), words.flatten(), ignore_index=-100)
    if codes.any():
        teacher = lessons.teacher[batch.scenes].float()
        alignment = VocabularyAlignment.identity(teacher.shape[-1])
        loss = loss + distillation_loss(logits, teacher, alignment, vocab, codes)
    return loss


def drawn(records: Sequence[PerceptionRecord], size: int, seed: int) -> Iterator[list[PerceptionRecord]]:
    """Endless batches; every record once before any twice."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while True:
        while len(order) < size:
            order += rng.permutation(len(records)).tolist()
        yield [records[number] for number in order[:size]]
        order = order[size:]


@dataclass(frozen=True)
class Course:
    """What one model is taught.

    Attributes:
        regime: "cot" (perception tokens, then the answer) or "direct" (the answer alone).
        labels: Scenes whose answers are known; blocks are taught of all scenes, since specialists need no labels.
        counting: Share of updates that are about counting.
        training: Updates and rates, the same for every course of a comparison.
    """

    regime: str
    labels: int
    counting: float = 0.25
    training: small.SmallTraining = field(default_factory=small.SmallTraining)

    def kind(self, step: int, rng: np.random.Generator) -> str:
        """What update `step` teaches: blocks alone at first, their share falling to a fifth (linear, as released)."""
        if rng.random() < self.counting:
            return f"counting-{self.regime}"
        atomic = max(0.2, 1 - 1.6 * step / self.training.steps)
        return "depth-atomic" if self.regime == "cot" and rng.random() < atomic else f"depth-{self.regime}"


def teach(
    model: Any,
    encoder: Encoder,
    vocab: pt.PerceptionVocabulary,
    lessons: Lessons,
    held_out: Lessons,
    course: Course,
    advance: Callable[[str], None] = lambda _: None,
) -> list[dict[str, float]]:
    """Train, and return the learning curve on held-out lessons."""
    training = course.training
    rng = np.random.default_rng([training.seed, 1])
    known = {
        kind: [
            record
            for record in records
            if kind == "depth-atomic" or int(str(record.provenance["scene"])) < course.labels
        ]
        for kind, records in lessons.records.items()
    }
    batches = {kind: drawn(records, training.batch_size, training.seed) for kind, records in known.items()}
    steps = iter(range(training.steps))
    curve: list[dict[str, float]] = []

    def loss(_: Tensor) -> Tensor:
        records = next(batches[course.kind(next(steps), rng)])
        return loss_of(model, vocab, encoder.batch(records), lessons)

    def measure() -> tuple[float, float]:
        curve.append(looked_at(model, encoder, vocab, held_out, course.regime))
        return 0.0, 0.0

    points = small.optimise(model, training.batch_size, loss, measure, training, advance)
    return [
        {"step": at.step, "loss": at.loss, "seconds": at.processor_seconds, **seen}
        for at, seen in zip(points, curve, strict=True)
    ]


@torch.no_grad()
def looked_at(
    model: Any, encoder: Encoder, vocab: pt.PerceptionVocabulary, lessons: Lessons, regime: str, most: int = 64
) -> dict[str, float]:
    """With the true tokens before each: the likeliest token's being right, by what it is a part of."""
    found: dict[str, float] = {}
    letters = {f"{space}{letter}" for space in ("", " ") for letter in "ABCDE"}
    for task in ("depth", "counting"):
        records = lessons.records[f"{task}-{regime}"][:most]
        batch = encoder.batch(records)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                pixel_values=lessons.features[batch.scenes].float(),
            ).logits
        right = logits[:, :-1].argmax(-1) == batch.labels[:, 1:]
        targets = batch.labels[:, 1:]
        tokenizer = encoder.processor.tokenizer
        codes = torch.isin(targets, vocab.ids(pt.tokens.DEPTH))
        if codes.any():
            found["codes"] = float(right[codes].float().mean())
        texts = [[tokenizer.decode([token]) if token >= 0 else "" for token in row] for row in targets.tolist()]
        wanted = letters if task == "depth" else set("12345")
        last = [max(n for n, text in enumerate(row) if text in wanted) for row in texts]
        found[task] = float(right[torch.arange(len(last)), torch.tensor(last)].float().mean())
        if task == "depth" and regime == "cot":
            digits = torch.tensor([[text.isdigit() for text in row] for row in texts])
            tens = digits & ~digits.roll(1, 1)
            found["tens"], found["units"] = (float(right[place].float().mean()) for place in (tens, digits & ~tens))
        pixels = torch.isin(targets, vocab.ids(pt.tokens.PIXEL))
        if pixels.any():
            error = (
                logits[:, :-1][pixels][:, vocab.ids(pt.tokens.PIXEL)].argmax(-1)
                - (targets[pixels] - vocab.ids(pt.tokens.PIXEL)[0])
            ).abs()
            found["pixels off"] = float(error.float().median())
    return found
