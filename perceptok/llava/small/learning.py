"""Training the small LLaVA on features that were computed once: atomic depth generation under Eq. 1."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from perceptok.decoding import GrammarConfig, PerceptionLogitsProcessor, parse_generation
from perceptok.depth import DepthCodec
from perceptok.errors import TrainingError
from perceptok.llava.small.model import depth_batch, prompt_ids
from perceptok.llava.small.views import Views
from perceptok.losses import distillation_loss, next_token_targets
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment

__all__ = [
    "CurvePoint",
    "DepthAnswer",
    "SmallTraining",
    "answer_depth",
    "held_out_loss",
    "map_error",
    "optimise",
    "point_order",
    "train_depth",
    "trained_groups",
]


_BATCH = 32
_LONGEST = 128
"""Tokens of an answer: the words before the block, 102 tokens, the full stop and the end."""


@dataclass(frozen=True, eq=False)
class DepthAnswer:
    """One answer.

    Attributes:
        text: What was written.
        codes: (100,) int64 of its block; None where there is not exactly one whole block, or anything malformed.
        depth: (160, 160) float32 nearness decoded from it, every second row and column, or None.
    """

    text: str
    codes: NDArray[np.int64] | None
    depth: NDArray[np.float32] | None


@torch.no_grad()
def answer_depth(
    model: Any,
    processor: Any,
    vocab: PerceptionVocabulary,
    codec: DepthCodec,
    views: Views,
    *,
    constrained: bool = True,
    bfloat16: bool = True,
) -> list[DepthAnswer]:
    """Ask for the depth map of every view; greedy, with or without the grammar."""
    tokenizer = processor.tokenizer
    prompt = torch.tensor(prompt_ids(processor))
    grammar = GrammarConfig(boxes=None, max_blocks=1, force_block="somewhere")
    held = PerceptionLogitsProcessor(vocab, grammar, tokenizer=tokenizer)
    found = []
    for start in range(0, len(views), _BATCH):
        features = views.features[start : start + _BATCH].float()
        ids = prompt.expand(len(features), -1)
        processors = [held.for_prompt(ids, max_new_tokens=_LONGEST)] if constrained else []
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=features,
                logits_processor=processors,
                max_new_tokens=_LONGEST,
                do_sample=False,
            )
        for row in out[:, ids.shape[1] :]:
            text = tokenizer.decode(row, skip_special_tokens=True)
            parsed = parse_generation(text, vocab)
            whole = len(parsed.blocks) == 1 and not parsed.problems
            codes = parsed.blocks[0].reshape(-1) if whole else None
            found.append(
                DepthAnswer(text, codes, None if codes is None else codec.decode(codes.reshape(10, 10))[0, ::2, ::2])
            )
    return found


def map_error(maps: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> float:
    """Root mean square error of nearness over all pixels of all maps, (N, H, W) each."""
    return float(np.sqrt(np.mean((maps.astype(np.float64) - truth) ** 2)))


def point_order(depth: NDArray[np.floating[Any]], points: NDArray[np.int64], truth: NDArray[np.floating[Any]]) -> bool:
    """Whether the point (x, y) that is nearest on a map is the one that truly is; (n, 2) points in pixels of both."""
    x, y = points[:, 0], points[:, 1]
    return int(np.argmax(depth[y, x])) == int(np.argmax(truth[y, x]))


@dataclass(frozen=True)
class SmallTraining:
    """How the small LLaVA is trained.

    Attributes:
        steps: Updates.
        batch_size: Scenes an update.
        learning_rate: Of language model, rows and projector alike; warmed up over a twentieth, then falling to 0.
        measure_every: Updates between two measurements of the held-out loss.
        bfloat16: Compute in bfloat16 (twice as fast on a recent CPU), with weights in float32.
        seed: Of the order of scenes.
    """

    steps: int = 400
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    measure_every: int = 25
    bfloat16: bool = True
    seed: int = 0


@dataclass(frozen=True)
class CurvePoint:
    """One measurement.

    Attributes:
        step: Updates so far.
        loss: Mean training loss since the last point.
        held_out: Cross entropy of the true codes on held-out scenes, nats a code; ln 128 = 4.85 knows nothing.
        accuracy: Share of codes that are the likeliest, given the true ones before.
        processor_seconds: Of this process, so far.
    """

    step: int
    loss: float
    held_out: float
    accuracy: float
    processor_seconds: float


def trained_groups(model: Any) -> list[Tensor]:
    """Everything but the tower, made trainable."""
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    return [one for one in model.parameters() if one.requires_grad]


def train_depth(
    model: Any,
    processor: Any,
    vocab: PerceptionVocabulary,
    views: Views,
    held_out: Views,
    config: SmallTraining,
    advance: Callable[[str], None] = lambda _: None,
) -> list[CurvePoint]:
    """Teach depth blocks: Eq. 1 with the codec's soft probabilities on codes, cross entropy on the other tokens.

    Raises:
        TrainingError: The loss is not finite.
    """
    alignment = VocabularyAlignment.identity(views.teacher.shape[-1])

    def loss_of(chosen: Tensor) -> Tensor:
        ids, labels = depth_batch(processor, vocab, views.codes[chosen])
        keep = int((labels[0] != -100).sum()) + 1
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            logits = model(input_ids=ids, pixel_values=views.features[chosen].float(), logits_to_keep=keep).logits
        ids, labels = ids[:, -keep:], labels[:, -keep:]
        codes = next_token_targets(ids, vocab, labels=labels).mask
        teacher = views.teacher[chosen].float()
        taught = distillation_loss(logits, teacher, alignment, vocab, codes, reduction="sum")
        words = labels.roll(-1, dims=1).masked_fill(codes, -100)
        words[:, -1] = -100
        written = F.cross_entropy(logits.float().flatten(0, 1), words.flatten(), ignore_index=-100, reduction="sum")
        return (taught + written) / ((words != -100).sum() + codes.sum())

    def measure() -> tuple[float, float]:
        return held_out_loss(model, processor, vocab, held_out, config.bfloat16)

    return optimise(model, len(views), loss_of, measure, config, advance)


def optimise(
    model: Any,
    count: int,
    loss_of: Callable[[Tensor], Tensor],
    measure: Callable[[], tuple[float, float]],
    config: SmallTraining,
    advance: Callable[[str], None] = lambda _: None,
) -> list[CurvePoint]:
    """AdamW over shuffled scenes 0 .. count - 1; `loss_of` takes a batch of their numbers, (B,) int64.

    Everything but the tower is trained; the model is left in evaluation mode.

    Raises:
        TrainingError: The loss is not finite.
    """
    parameters = trained_groups(model)
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.01, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.empty(0, dtype=torch.int64)
    curve: list[CurvePoint] = []
    since: list[float] = []
    begun = time.process_time()
    warm = max(1, config.steps // 20)
    model.train()
    for step in range(config.steps):
        while len(order) < config.batch_size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        chosen, order = order[: config.batch_size], order[config.batch_size :]
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / warm) * (1 - step / config.steps)
        loss = loss_of(chosen)
        if not bool(loss.isfinite()):
            raise TrainingError(f"the loss is {float(loss)} at step {step}, scenes {chosen.tolist()}; lower the rate")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        since.append(float(loss.detach()))
        advance(f"loss {since[-1]:.2f}")
        if (step + 1) % config.measure_every == 0 or step + 1 == config.steps:
            model.eval()
            loss_there, accuracy = measure()
            model.train()
            mean = sum(since) / len(since)
            curve.append(CurvePoint(step + 1, mean, loss_there, accuracy, time.process_time() - begun))
            since.clear()
    model.eval()
    model.requires_grad_(False)
    return curve


@torch.no_grad()
def held_out_loss(
    model: Any, processor: Any, vocab: PerceptionVocabulary, views: Views, bfloat16: bool = True, most: int = 32
) -> tuple[float, float]:
    """Cross entropy of the true codes, and how many are the likeliest, with the true ones before them."""
    ids, labels = depth_batch(processor, vocab, views.codes[:most])
    keep = int((labels[0] != -100).sum()) + 1
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = model(input_ids=ids, pixel_values=views.features[:most].float(), logits_to_keep=keep).logits.float()
    ids = ids[:, -keep:]
    mask = next_token_targets(ids, vocab).mask
    scores, truth = logits[mask], ids.roll(-1, dims=1)[mask]
    return float(F.cross_entropy(scores, truth)), float((scores.argmax(-1) == truth).float().mean())
