"""Training of the small LLaVA on samples whose features are computed once.

Every update has samples of one kind. The loss is Eq. 1 with the codec's soft probabilities for codes, and cross entropy
for all other tokens of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from samples import YardSamples
from torch import Tensor
from torch.nn import functional as F

import perceptok as pt
from perceptok.data import PerceptionRecord
from perceptok.llava import small
from perceptok.losses import distillation_loss, next_token_targets
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
    """Makes batches of records; each record is tokenized once."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._ids: dict[str, tuple[list[int], int]] = {}

    def ids(self, record: PerceptionRecord) -> tuple[list[int], int]:
        """Token ids of question and answer, and the number of the question's."""
        if record.id not in self._ids:
            question, reply = (turn.text for turn in record.turns)
            before = small.make_prompt_ids(self.processor, question)
            whole = small.make_prompt_ids(self.processor, question, f"{reply}<|im_end|>")
            assert whole[: len(before)] == before, "the ids of a question do not depend on the answer"
            self._ids[record.id] = whole, len(before)
        return self._ids[record.id]

    def batch(self, records: Sequence[PerceptionRecord]) -> Batch:
        """Pad records to one length."""
        rows = [self.ids(record) for record in records]
        length = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), length), int(self.processor.tokenizer.pad_token_id))
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, (tokens, question) in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, question : len(tokens)] = ids[row, question : len(tokens)]
            mask[row, : len(tokens)] = 1
        scenes = torch.tensor([int(str(record.provenance["scene"])) for record in records])
        return Batch(ids, labels, mask, scenes)


def compute_loss(model: Any, vocab: pt.PerceptionVocabulary, batch: Batch, samples: YardSamples) -> Tensor:
    """Eq. 1, mean over codes, plus cross entropy, mean over the other tokens, which are few beside 100 codes."""
    supervised = (batch.labels != -100).any(0).nonzero()
    keep = batch.ids.shape[1] - int(supervised[0]) + 1
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            pixel_values=samples.features[batch.scenes].float(),
            logits_to_keep=keep,
        ).logits
    ids, labels = batch.ids[:, -keep:], batch.labels[:, -keep:]
    codes = next_token_targets(ids, vocab, labels=labels).mask
    words = labels.roll(-1, dims=1).masked_fill(codes, -100)
    words[:, -1] = -100
    loss = F.cross_entropy(logits.float().flatten(0, 1), words.flatten(), ignore_index=-100)
    if codes.any():
        teacher = samples.teacher[batch.scenes].float()
        alignment = VocabularyAlignment.identity(teacher.shape[-1])
        loss = loss + distillation_loss(logits, teacher, alignment, vocab, codes)
    return loss


def draw_batches(records: Sequence[PerceptionRecord], size: int, seed: int) -> Iterator[list[PerceptionRecord]]:
    """Endless batches; every record is drawn once before any is drawn again."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while True:
        while len(order) < size:
            order += rng.permutation(len(records)).tolist()
        yield [records[number] for number in order[:size]]
        order = order[size:]


@dataclass(frozen=True)
class Setup:
    """The training of a model.

    Attributes:
        regime: "cot" (perception tokens, then the answer) or "direct" (the answer alone).
        labels: Number of scenes with answers; depth blocks are trained on all scenes, since specialists need no labels.
        counting: Share of updates with questions about counting.
        training: Updates and learning rate, the same for all models of a comparison.
    """

    regime: str
    labels: int
    counting: float = 0.25
    training: small.SmallTraining = field(default_factory=small.SmallTraining)

    def kind(self, step: int, rng: np.random.Generator) -> str:
        """The kind of samples of an update: atomic depth first, its share falling linearly to a fifth, as released."""
        if rng.random() < self.counting:
            return f"counting-{self.regime}"
        atomic = max(0.2, 1 - 1.6 * step / self.training.max_steps)
        return "depth-atomic" if self.regime == "cot" and rng.random() < atomic else f"depth-{self.regime}"


def train(
    model: Any,
    encoder: Encoder,
    vocab: pt.PerceptionVocabulary,
    samples: YardSamples,
    held_out: YardSamples,
    setup: Setup,
    advance: Callable[[str], None] = lambda _: None,
) -> list[dict[str, float]]:
    """Train, and return the learning curve on held-out samples."""
    training = setup.training
    rng = np.random.default_rng([training.seed, 1])
    records_by_kind = {
        kind: [
            record
            for record in records
            if kind == "depth-atomic" or int(str(record.provenance["scene"])) < setup.labels
        ]
        for kind, records in samples.records.items()
    }
    batches = {
        kind: draw_batches(records, training.batch_size, training.seed) for kind, records in records_by_kind.items()
    }
    steps = iter(range(training.max_steps))
    curve: list[dict[str, float]] = []

    def compute_batch_loss(_: Tensor) -> Tensor:
        records = next(batches[setup.kind(next(steps), rng)])
        return compute_loss(model, vocab, encoder.batch(records), samples)

    def evaluate() -> tuple[float, float]:
        curve.append(measure_accuracy(model, encoder, vocab, held_out, setup.regime))
        return 0.0, 0.0

    points = small.optimize(model, training.batch_size, compute_batch_loss, evaluate, training, advance)
    return [
        {"step": point.step, "loss": point.loss, "seconds": point.processor_seconds, **accuracy}
        for point, accuracy in zip(points, curve, strict=True)
    ]


@torch.no_grad()
def measure_accuracy(
    model: Any,
    encoder: Encoder,
    vocab: pt.PerceptionVocabulary,
    samples: YardSamples,
    regime: str,
    max_records: int = 64,
) -> dict[str, float]:
    """Accuracy of the most likely token given the true ones before, for each kind of token."""
    accuracy: dict[str, float] = {}
    letters = {f"{space}{letter}" for space in ("", " ") for letter in "ABCDE"}
    for task in ("depth", "counting"):
        records = samples.records[f"{task}-{regime}"][:max_records]
        batch = encoder.batch(records)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                pixel_values=samples.features[batch.scenes].float(),
            ).logits
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
        if task == "depth" and regime == "cot":
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
