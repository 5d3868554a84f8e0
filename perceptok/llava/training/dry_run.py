"""What a run would be, without starting it: sizes, what is trained, memory, and a sample with its taught tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from perceptok.llava.training.finetuning import Prepared, prepare
from perceptok.llava.training.layers import parameter_groups
from perceptok.llava.training.ordering import schedule_of
from perceptok.llava.training.recipe import FinetuneConfig
from perceptok.llava.training.samples import Sample
from perceptok.tokens import DEPTH
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["DryRun", "Fact", "dry_run", "marked"]

_GB = 1e9
_MARKS = "«", "»"


class Fact(NamedTuple):
    """One line: what, and how much."""

    name: str
    value: str


class DryRun(NamedTuple):
    """What `--dry-run` prints.

    Attributes:
        facts: Samples, steps, parameters, memory.
        sample: The first sample's id.
        text: Its conversation, what is taught between « and ».
    """

    facts: tuple[Fact, ...]
    sample: str
    text: str


def dry_run(config: FinetuneConfig, *, processes: int = 1) -> DryRun:
    """Load everything and train nothing.

    Args:
        config: The run.
        processes: For how many processes it is worked out.

    Raises:
        PerceptokError: Whatever the run itself would stop at before its first step; see `finetune`.
    """
    ready = prepare(config, processes=processes)
    first = ready.samples.samples[0]
    return DryRun(tuple(_facts(config, ready)), first.id, marked(first, ready.processor))


def marked(sample: Sample, processor: Any) -> str:
    """A sample's conversation with what is taught between « and »; image tokens as they stand in the prompt."""
    tokenizer = processor.tokenizer
    parts: list[str] = []
    start = 0
    for end in range(1, len(sample.tail) + 1):
        if end == len(sample.tail) or sample.taught[end] != sample.taught[start]:
            text = tokenizer.decode(sample.tail[start:end], skip_special_tokens=False)
            parts.append(f"{_MARKS[0]}{text}{_MARKS[1]}" if sample.taught[start] else text)
            start = end
    behind = tokenizer.decode(sample.tail, skip_special_tokens=False)
    before = sample.text[: -len(behind)] if sample.text.endswith(behind) else f"[{len(sample.images)} images]"
    return before + "".join(parts)


def _facts(config: FinetuneConfig, ready: Prepared) -> Iterator[Fact]:
    samples = ready.samples
    lengths = sorted(sample.length for sample in samples.samples)
    yield Fact("records", ", ".join(f"{count} {regime}" for regime, count in samples.sizes.items()))
    yield Fact("dropped as too long", str(samples.dropped))
    yield Fact("tokens a sample", f"median {lengths[len(lengths) // 2]}, longest {lengths[-1]}")
    yield Fact("taught tokens a sample", f"{sum(int(s.taught.sum()) for s in samples.samples) / len(samples):.0f}")
    if config.objective.teacher == "soft":
        blocks = [one for one in samples.samples if _has_codes(one, ready.vocab)]
        kept = sum(one.soft is not None for one in blocks)
        yield Fact("soft teacher", f"of {len(blocks)} records with a block {kept} keep their map's soft codes")
    yield Fact("steps", f"{ready.steps} of {ready.step_size} samples")
    schedule = schedule_of(config.curriculum, samples.sizes)
    for where, step in (("first", 0), ("last", ready.steps - 1)):
        shares = schedule.probabilities(step, ready.steps)
        drawn = ", ".join(f"{name} {share:.0%}" for name, share in zip(schedule.tasks, shares, strict=True))
        yield Fact(f"mixture of the {where} step", drawn)
    parameters = list(ready.model.parameters())
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    total = sum(one.numel() for one in parameters)
    yield Fact("parameters", f"{total:,}, of which {trained:,} are trained ({trained / total:.2%})")
    for group in parameter_groups(ready.model, config):
        count = sum(one.numel() for one in group["params"])
        yield Fact(f"trained: {group['name']}", f"{count:,} at rate {group['lr']:g}, decay {group['weight_decay']:g}")
    yield Fact("memory of a process, estimated", _memory(config, ready, lengths[-1]))
    if ready.checkpoint is not None:
        yield Fact("goes on from", str(ready.checkpoint))


def _has_codes(sample: Sample, vocab: PerceptionVocabulary) -> bool:
    return bool((vocab.codes(torch.from_numpy(sample.tail[sample.taught]).long(), DEPTH) >= 0).any())


def _memory(config: FinetuneConfig, ready: Prepared, length: int) -> str:
    """Weights, gradients and moments as they are; activations by the usual count for a transformer."""
    parameters = list(ready.model.parameters())
    weights = sum(one.numel() * one.element_size() for one in parameters)
    training = sum(3 * one.numel() * one.element_size() for one in parameters if one.requires_grad)
    text = ready.model.get_base_model().config.get_text_config()
    width, layers = text.hidden_size, text.num_hidden_layers
    half = 2 if config.precision == "bf16" else 4
    tokens = config.batch_size * length
    # 34 bytes a token, layer and channel in half precision without checkpointing (Korthikanti 2022), else the inputs
    # of every layer and one layer's own.
    held = tokens * width * half * (layers + 17 if config.gradient_checkpointing else 17 * layers)
    taught = config.batch_size * max(int(sample.taught.sum()) for sample in ready.samples.samples)
    logits = taught * text.vocab_size * (4 * 2 + half)
    parts = {"weights": weights, "gradients and moments": training, "activations": held, "logits": logits}
    total = sum(parts.values())
    return f"{total / _GB:.2f} GB: " + ", ".join(f"{name} {size / _GB:.2f}" for name, size in parts.items())
