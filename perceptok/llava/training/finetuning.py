"""`finetune`: from records and a base to an adapter, resumable; and what a run would be, without starting it."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from perceptok.depth import DepthCodec
from perceptok.errors import ConfigError, MissingExtraError, OutputError, TrainingError
from perceptok.files import atomic_write, parse_json
from perceptok.llava.loading import load_llava
from perceptok.llava.saving import load_adapter
from perceptok.llava.training.config import FinetuneConfig
from perceptok.llava.training.monitoring import RunLog
from perceptok.llava.training.objective import Objective, lora_settings, parameter_groups
from perceptok.llava.training.samples import Collator, RecordSamples, SoftTeacher, TrainingSample, read_samples
from perceptok.llava.training.trainer import MicroBatches, last_checkpoint, schedule_of, total_steps
from perceptok.losses import CurriculumSampler
from perceptok.tokens import DEPTH
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["DryRun", "Fact", "FinetuneResult", "Prepared", "dry_run", "finetune", "marked", "prepare"]


_CONFIG = "train.json"
_MAY_CHANGE = ("workers", "cpu", "keep", "report")
"""Settings that change nothing of what is learned, so that a run may go on with others."""


@dataclass(frozen=True)
class FinetuneResult:
    """What a run left.

    Attributes:
        adapter: The folder for `load_adapter`.
        steps: Optimiser steps of the whole run.
        loss: Mean loss of the steps of this call; NaN where there was none left.
        samples: Records trained on.
        dropped: Records that were too long.
    """

    adapter: Path
    steps: int
    loss: float
    samples: int
    dropped: int


@dataclass(frozen=True)
class Prepared:
    """Everything of a run but the run.

    Attributes:
        model: The extended base in its adapter.
        processor: The model's.
        vocab: Its vocabulary.
        codec: The depth codec.
        samples: What is trained on.
        steps: Optimiser steps.
        step_size: Samples of a step, over all processes.
        checkpoint: Where it goes on from, or None.
    """

    model: Any
    processor: Any
    vocab: PerceptionVocabulary
    codec: DepthCodec
    samples: RecordSamples
    steps: int
    step_size: int
    checkpoint: Path | None


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune a multimodal model on records, or go on with a run that was interrupted.

    Started by `accelerate launch` it runs in several processes (DDP, FSDP2, DeepSpeed); see the room's front page for
    the configurations that come with it. A run of the same configuration goes on from its last checkpoint, in the
    middle of an epoch, with the samples that would have come next.

    Args:
        config: The run. In `output` it leaves `adapter/` (see `load_adapter`), `checkpoints/`, `logs/` and
            `train.json`.

    Raises:
        TrainingError: The folder holds a run of another configuration or a finished one; no record is left; the loss
            is NaN.
        RecordError: A record or its image cannot be used; the message names it.
        ConfigError: Settings that contradict each other or the records.
        OutputError: The folder cannot be made, or a checkpoint cannot be written; the one before is whole.
        MissingExtraError: peft, or a board that is asked for, is not installed.
    """
    import accelerate
    import transformers

    from perceptok.llava.training.monitoring import Watch, wants_tokens
    from perceptok.llava.training.trainer import PerceptionTrainer

    on_cpu = _on_cpu(config)
    state = accelerate.PartialState(cpu=on_cpu)
    ready = prepare(config, processes=state.num_processes)
    first = state.process_index == 0
    output = Path(config.output)
    if first:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{output}: the run's folder cannot be made ({error.strerror}); choose another output"
            ) from error
        with atomic_write(output / _CONFIG, force=True) as file:
            file.write((json.dumps(config.to_dict(), indent=1) + "\n").encode())
    curriculum = CurriculumSampler(
        ready.samples.sizes,
        schedule_of(config.curriculum, ready.samples.sizes),
        total_steps=ready.steps,
        batch_size=ready.step_size,
        seed=config.seed,
    )
    batches = MicroBatches(
        curriculum, batch_size=config.batch_size, rank=state.process_index, world_size=state.num_processes
    )
    log = RunLog(output / "logs", config.report.to) if first else None
    if log is not None and ready.checkpoint is not None:
        log.forget_after(int(ready.checkpoint.name.rpartition("-")[2]))
    args = transformers.TrainingArguments(
        output_dir=str(output / "checkpoints"),
        max_steps=ready.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.schedule,
        warmup_steps=math.ceil(config.warmup * ready.steps),
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bf16",
        logging_steps=config.report.every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_every,
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        use_cpu=on_cpu,
        seed=config.seed,
        disable_tqdm=not first,
        **_checkpointing(transformers.TrainingArguments, config.gradient_checkpointing),
    )
    rule = config.frame_rule
    collator = Collator(ready.processor, ready.vocab, rule, SoftTeacher.of(config.objective, ready.codec))
    trainer = PerceptionTrainer(
        ready.model,
        args,
        ready.samples,
        batches,
        collator,
        Objective(config.objective, ready.vocab, ready.codec),
        config,
        ready.codec,
        log=log,
    )
    whole = not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
    if config.report.generate_every and whole and first:
        watched = ready.samples
        if config.report.watch is not None:
            watched = read_samples(
                (config.report.watch,), ready.processor, ready.vocab, rule, max_length=config.max_length
            )
        chosen = [one for one in watched.samples if wants_tokens(one, ready.vocab)][: config.report.generate]
        trainer._watch = Watch(
            ready.model, ready.processor, ready.vocab, ready.codec, rule, chosen,
            log=log, pictures=config.report.pictures, autocast=config.precision == "bf16",
        )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            outcome = trainer.train(resume_from_checkpoint=None if ready.checkpoint is None else str(ready.checkpoint))
            trainer.save_to(output / "adapter", verify="reload")
    finally:
        if log is not None:
            log.close()
    return FinetuneResult(
        output / "adapter", ready.steps, float(outcome.training_loss), len(ready.samples), ready.samples.dropped
    )


def prepare(config: FinetuneConfig, *, processes: int = 1) -> Prepared:
    """Load, extend and wrap the model, read the records, and find out where to go on; starts and writes nothing.

    Raises:
        TrainingError: The folder holds a run of another configuration, or a finished one; no record is left.
        RecordError: See `read_samples`.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "llava", "fine-tuning") from error
    import transformers

    output = Path(config.output)
    _require_same_run(output, config)
    codec = DepthCodec.from_pretrained(config.codec)
    rule = config.frame_rule
    checkpoint = last_checkpoint(output / "checkpoints")
    dtype = (
        torch.bfloat16
        if config.precision == "bf16" and torch.cuda.is_available() and not _on_cpu(config)
        else torch.float32
    )
    transformers.set_seed(config.seed)
    if checkpoint is None:
        model, processor, vocab = load_llava(
            config.base, codec=codec, frame=rule, init=config.init, bits=config.bits, dtype=dtype, seed=config.seed
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            wrapped: Any = peft.get_peft_model(model, lora_settings(model, vocab, config))
    else:
        loaded = load_adapter(
            checkpoint / "adapter", base=config.base, codec=codec, bits=config.bits, dtype=dtype, trainable=True
        )
        wrapped, processor, vocab = loaded.model, loaded.processor, loaded.vocab
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # updates of 1e-5 vanish in 8 bits of mantissa
    if config.gradient_checkpointing:
        wrapped.enable_input_require_grads()
    samples = read_samples(
        config.records,
        processor,
        vocab,
        rule,
        max_length=config.max_length,
        too_long=config.too_long,
        codec_fingerprint=codec.fingerprint,
    )
    step_size = config.batch_size * config.accumulate * processes
    steps = total_steps(len(samples), step_size, config.steps, config.passes)
    schedule_of(config.curriculum, samples.sizes)
    return Prepared(wrapped, processor, vocab, codec, samples, steps, step_size, checkpoint)


def _checkpointing(arguments: Any, wanted: bool) -> dict[str, Any]:
    """The Trainer's settings of it, by the name that this release of transformers has for them."""
    known = {one.name for one in fields(arguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False}}


def _require_same_run(output: Path, config: FinetuneConfig) -> None:
    path = output / _CONFIG
    if not path.exists():
        return
    found = parse_json(path.read_bytes(), str(path), TrainingError)
    if not isinstance(found, Mapping):
        raise TrainingError(f"{path} is no configuration of a run; choose another folder")
    now = json.loads(json.dumps(config.to_dict()))
    for key in sorted({*found, *now} - {*_MAY_CHANGE}):
        if found.get(key) != now.get(key):
            raise TrainingError(
                f"{output} holds a run of another configuration: {key} was {found.get(key)!r}, now {now.get(key)!r}. "
                "Choose another folder, or the same configuration to go on"
            )
    if (output / "adapter").exists():
        raise TrainingError(f"{output} holds a finished run; choose another folder to train again")


def _on_cpu(config: FinetuneConfig) -> bool:
    """Whether the run computes on the CPU: where it is told to, or where there is nothing else.

    Raises:
        ConfigError: bf16 on an accelerator that has none.
    """
    if config.cpu or not torch.accelerator.is_available():
        return True
    if config.precision == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise ConfigError("this GPU computes no bf16; say precision: fp32, or cpu: true")
    return False


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


def marked(sample: TrainingSample, processor: Any) -> str:
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


def _has_codes(sample: TrainingSample, vocab: PerceptionVocabulary) -> bool:
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
