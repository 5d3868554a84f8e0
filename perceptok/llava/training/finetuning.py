"""Fine-tuning: from records and a base model to an adapter, resumable; and a dry run that trains nothing."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PrinterCallback

from perceptok.depth import DepthCodec
from perceptok.errors import MissingExtraError, TrainingError
from perceptok.llava.loading import find_checkpoint, load_llava
from perceptok.llava.saving import load_adapter, push_to_hub, quiet_peft
from perceptok.llava.training.config import FinetuneConfig, make_paths_absolute
from perceptok.llava.training.monitoring import (
    GenerationMonitor,
    ProgressLines,
    check_report_to,
    has_perception_tokens,
)
from perceptok.llava.training.objective import Objective, make_lora_config, parameter_groups
from perceptok.llava.training.run_folder import (
    Fingerprints,
    RunLog,
    check_checkpoint,
    check_images,
    check_setup,
    fingerprint_base,
    fingerprint_images,
    fingerprint_records,
    hold_run_folder,
    read_run_config,
    write_run_config,
)
from perceptok.llava.training.samples import (
    Collator,
    Progress,
    RecordSamples,
    SoftTeacher,
    TrainingSample,
    read_samples,
    show_no_progress,
)
from perceptok.llava.training.sampling import (
    Curriculum,
    MicroBatches,
    count_epoch_samples,
    count_steps,
    make_curriculum,
)
from perceptok.llava.training.trainer import PerceptionTrainer, find_last_checkpoint
from perceptok.precision import computes_fast
from perceptok.tokens import DEPTH
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["DryRun", "Fact", "FinetuneResult", "PreparedRun", "dry_run", "finetune", "mark_supervised", "prepare_run"]


@dataclass(frozen=True)
class FinetuneResult:
    """The result of a run.

    Attributes:
        adapter: The adapter's folder, for `load_adapter`.
        steps: Number of optimizer steps of the whole run.
        loss: Mean loss over the steps of this call; NaN where none was left.
        samples: Number of records trained on.
        dropped: Number of records that were too long.
    """

    adapter: Path
    steps: int
    loss: float
    samples: int
    dropped: int


@dataclass(frozen=True)
class PreparedRun:
    """A run that is prepared but not started.

    Attributes:
        model: The extended base model with its adapter.
        processor: The model's processor.
        vocab: Its vocabulary.
        codec: The depth codec.
        samples: The training samples.
        curriculum: The samples of each step.
        steps: Number of optimizer steps.
        step_size: Number of samples of a step, over all processes.
        epoch_samples: Number of samples of an epoch.
        fingerprints: What the run rests on; beside the records' in the main process alone, which writes them.
        checkpoint: The checkpoint to resume from, or None.
    """

    model: Any
    processor: Any
    vocab: PerceptionVocabulary
    codec: DepthCodec
    samples: RecordSamples
    curriculum: Curriculum
    steps: int
    step_size: int
    epoch_samples: int
    fingerprints: Fingerprints
    checkpoint: Path | None


def finetune(config: FinetuneConfig, *, progress: Progress = show_no_progress) -> FinetuneResult:
    """Fine-tune a multimodal model on records, or resume an interrupted run.

    Started by `accelerate launch` it runs in several processes (DDP, FSDP2, DeepSpeed). A run of the same
    configuration and records resumes from its last checkpoint, in the middle of an epoch, with the samples that would
    have come next.

    Args:
        config: The configuration. `output_dir` receives `adapter/` (for `load_adapter`), `checkpoint-N/`, `logs/` and
            `train.json`, the configuration that ran.
        progress: Shows the progress of checking images.

    Raises:
        TrainingError: The folder holds a run of another configuration or a finished one, or a damaged checkpoint; the
            records changed; no record is left; the loss is NaN.
        RecordError: A record or its image cannot be used; the message names it.
        ConfigError: Settings that contradict each other or the records.
        OutputError: Another process trains in the folder, it cannot be made, or a checkpoint cannot be written; the one
            before is complete.
        MissingExtraError: peft, or a logger named in `report_to`, is not installed.
        KeyboardInterrupt: Of the user; its text says where the run stopped and how it is resumed.
    """
    check_report_to(config.report_to)
    # TrainingArguments sets up the process state: anew, so that an earlier run in this process has no influence.
    config = replace(config)
    output = Path(str(config.output_dir))
    is_main = config.process_index == 0
    _require_same_run(output, config)
    trainer: PerceptionTrainer | None = None
    try:
        with hold_run_folder(output, is_main=is_main):
            run = prepare_run(config, processes=config.world_size, progress=progress)
            log = None
            if is_main:
                values = config.to_dict()
                make_paths_absolute(values)
                write_run_config(output, values)
                log = RunLog(output / "logs")
                log.forget_after(0 if run.checkpoint is None else int(run.checkpoint.name.rpartition("-")[2]))
            trainer = _make_trainer(config, run, log)
            with quiet_peft():
                checkpoint = None if run.checkpoint is None else str(run.checkpoint)
                outcome = trainer.train(resume_from_checkpoint=checkpoint)
                trainer.save_adapter_to(output / "adapter", verify="reload")
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_describe_interruption(output, trainer)) from error
    if is_main and config.push_to_hub:
        push_to_hub(output / "adapter", str(trainer.hub_model_id), token=config.hub_token, revision=config.hub_revision)
    samples = run.samples
    return FinetuneResult(output / "adapter", run.steps, float(outcome.training_loss), len(samples), samples.dropped)


def _describe_interruption(output: Path, trainer: PerceptionTrainer | None) -> str:
    """Where a run stopped, and where it is going to resume."""
    where = "before its first step" if trainer is None else f"at step {trainer.state.global_step}"
    checkpoint = find_last_checkpoint(output)
    resumed = "starts it again" if checkpoint is None else f"resumes it from {checkpoint}"
    return f"the training was interrupted {where}; the same command {resumed}"


def _make_trainer(config: FinetuneConfig, run: PreparedRun, log: RunLog | None) -> PerceptionTrainer:
    args = copy.copy(config)
    args.max_steps = run.steps
    shows_lines = not config.process_index and not config.disable_tqdm and not sys.stderr.isatty()
    args.disable_tqdm = config.disable_tqdm or bool(config.process_index) or shows_lines
    size = config.per_device_train_batch_size
    batches = MicroBatches(run.curriculum, batch_size=size, rank=config.process_index, world_size=config.world_size)
    teacher = SoftTeacher.from_settings(config.objective, run.codec)
    collator = Collator(run.processor, run.vocab, config.frame_rule, teacher)
    objective = Objective(config.objective, run.vocab, run.codec)
    trainer = PerceptionTrainer(
        run.model,
        args,
        run.samples,
        batches,
        collator,
        objective,
        run.codec,
        epoch_samples=run.epoch_samples,
        log=log,
        fingerprints=run.fingerprints,
    )
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary for each line of the log
    if shows_lines:
        trainer.add_callback(ProgressLines())
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if config.monitoring.generate_steps and not is_sharded and config.process_index == 0:
        trainer.monitor = _make_monitor(config, run)
    return trainer


def _make_monitor(config: FinetuneConfig, run: PreparedRun) -> GenerationMonitor:
    samples = run.samples
    if config.monitoring.records is not None:
        samples = read_samples(
            (config.monitoring.records,),
            run.processor,
            run.vocab,
            config.frame_rule,
            max_length=config.max_length,
            system=config.system,
        )
    selected = [sample for sample in samples.samples if has_perception_tokens(sample, run.vocab)]
    return GenerationMonitor(
        run.model,
        run.processor,
        run.vocab,
        run.codec,
        config.frame_rule,
        selected[: config.monitoring.num_records],
        num_images=config.monitoring.num_images,
        autocast={"bf16": torch.bfloat16, "fp16": torch.float16, "no": None}[config.precision],
    )


def prepare_run(config: FinetuneConfig, *, processes: int = 1, progress: Progress = show_no_progress) -> PreparedRun:
    """Load, extend and wrap the model, read the records and find the checkpoint to resume from; writes nothing.

    Args:
        config: The configuration.
        processes: Number of processes of the run.
        progress: Shows the progress of checking images.

    Raises:
        TrainingError: The folder holds a run of another configuration or of other records, a finished one, or a damaged
            checkpoint; no record is left.
        RecordError: A record or its image cannot be used; the message names it.
        MissingExtraError: peft is not installed.
    """
    output = Path(str(config.output_dir))
    _require_same_run(output, config)
    records = fingerprint_records([*config.records, *config.instruction_records])
    checkpoint = find_last_checkpoint(output)
    if checkpoint is not None:
        check_checkpoint(checkpoint, records, allow_changed_records=config.allow_changed_records)
    codec = DepthCodec.from_pretrained(config.codec)
    model, processor, vocab = _load_model(config, codec, checkpoint)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # updates of 1e-5 vanish in 8 bits of mantissa
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    samples = read_samples(
        config.records,
        processor,
        vocab,
        config.frame_rule,
        instructions=config.instruction_records,
        max_length=config.max_length,
        too_long=config.too_long,
        codec_fingerprint=codec.fingerprint,
        regimes=config.regimes,
        system=config.system,
        progress=progress,
        share=(config.process_index, config.world_size),
    )
    step_size = config.count_step_samples(processes)
    fingerprints = Fingerprints(records)
    if config.process_index == 0:
        base = fingerprint_base(find_checkpoint(config.model_name_or_path))
        if checkpoint is not None:
            check_setup(checkpoint, base, step_size)
        images = _fingerprint_images(config, samples, checkpoint, progress)
        fingerprints = Fingerprints(records, images, base, step_size)
    steps = count_steps(config, samples, step_size)
    return PreparedRun(
        model,
        processor,
        vocab,
        codec,
        samples,
        make_curriculum(config, samples, steps, step_size),
        steps,
        step_size,
        count_epoch_samples(config, samples),
        fingerprints,
        checkpoint,
    )


def _fingerprint_images(
    config: FinetuneConfig, samples: RecordSamples, checkpoint: Path | None, progress: Progress
) -> str:
    """The fingerprints of the samples' images, which have to be the checkpoint's."""
    paths = list(dict.fromkeys(path for sample in samples.samples for path in sample.images))
    with progress("reading images", len(paths)) as advance:
        images = fingerprint_images(paths, advance)
    if checkpoint is not None:
        check_images(checkpoint, images, paths, allow_changed_records=config.allow_changed_records)
    return images


def _load_model(
    config: FinetuneConfig, codec: DepthCodec, checkpoint: Path | None
) -> tuple[Any, Any, PerceptionVocabulary]:
    """The model in its adapter, new or from a checkpoint, with its processor and vocabulary."""
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "llava", "fine-tuning") from error
    import transformers

    dtype = config.base_dtype
    transformers.set_seed(config.seed)
    source = config.model_name_or_path
    if checkpoint is not None:
        loaded = load_adapter(
            checkpoint / "adapter", base=source, codec=codec, bits=config.bits, dtype=dtype, trainable=True
        )
        return loaded.model, loaded.processor, loaded.vocab
    model, processor, vocab = load_llava(
        source,
        config.token_sets,
        codec=codec,
        frame=config.frame_rule,
        init=config.init,
        bits=config.bits,
        dtype=dtype,
        seed=config.seed,
    )
    with quiet_peft():
        return peft.get_peft_model(model, make_lora_config(model, vocab, config)), processor, vocab


def _require_same_run(output: Path, config: FinetuneConfig) -> None:
    earlier = read_run_config(output)
    if earlier is None:
        return
    if (difference := config.difference(earlier)) is not None:
        name, before, now = difference
        raise TrainingError(
            f"{output} holds a run of another configuration: {name} was {before!r}, now {now!r}. Choose another "
            "output_dir, or the same configuration to resume it"
        )
    if (output / "adapter").exists():
        raise TrainingError(f"{output} holds a finished run; choose another output_dir to train again")


_GB = 1e9


class Fact(NamedTuple):
    """A figure of a run: its name and value."""

    name: str
    value: str


class DryRun(NamedTuple):
    """The result of a dry run.

    Attributes:
        facts: Samples, steps, parameters, memory.
        sample: The first sample's id.
        text: Its conversation, with the supervised tokens between « and ».
    """

    facts: tuple[Fact, ...]
    sample: str
    text: str


def dry_run(config: FinetuneConfig, *, processes: int = 1, progress: Progress = show_no_progress) -> DryRun:
    """Load and check everything, and train nothing.

    Args:
        config: The configuration.
        processes: Number of processes of the run.
        progress: Shows the progress of checking images.

    Raises:
        PerceptokError: Any error that would stop the run before its first step.
    """
    run = prepare_run(config, processes=processes, progress=progress)
    first = run.samples.samples[0]
    return DryRun(tuple(_facts(config, run)), first.id, mark_supervised(first, run.processor))


def mark_supervised(sample: TrainingSample, processor: Any) -> str:
    """A sample's conversation with the supervised tokens between « and »; image tokens as in the prompt."""
    tokenizer = processor.tokenizer
    ids, supervised = sample.suffix_ids, sample.supervised
    bounds = [0, *(np.flatnonzero(np.diff(supervised)) + 1).tolist(), len(ids)]
    parts = []
    for start, end in itertools.pairwise(bounds):
        text = tokenizer.decode(ids[start:end], skip_special_tokens=False)
        parts.append(f"«{text}»" if supervised[start] else text)
    suffix = tokenizer.decode(ids, skip_special_tokens=False)
    prefix = sample.text.removesuffix(suffix) if sample.text.endswith(suffix) else f"[{len(sample.images)} images]"
    return prefix + "".join(parts)


def _facts(config: FinetuneConfig, run: PreparedRun) -> Iterator[Fact]:
    samples = run.samples
    lengths = sorted(sample.length for sample in samples.samples)
    yield Fact("records", ", ".join(f"{count} {regime}" for regime, count in samples.sizes.items()))
    yield Fact("dropped as too long", str(samples.dropped))
    yield Fact("tokens per sample", f"median {lengths[len(lengths) // 2]}, longest {lengths[-1]}")
    yield Fact(
        "supervised tokens per sample",
        f"{sum(int(sample.supervised.sum()) for sample in samples.samples) / len(samples):.0f}",
    )
    if config.objective.teacher == "soft":
        blocks = [sample for sample in samples.samples if _has_codes(sample, run.vocab)]
        soft = sum(sample.soft is not None for sample in blocks)
        yield Fact("soft teacher", f"{soft} of {len(blocks)} records with a block have soft codes of their map")
    yield Fact("steps", f"{run.steps} of {run.step_size} samples")
    for place, step in (("first", 0), ("last", run.steps - 1)):
        shares = run.curriculum.mixture(step, step + 1).expected
        mixture = ", ".join(f"{regime} {share:.0%}" for regime, share in shares.items())
        yield Fact(f"mixture of the {place} step", mixture)
    yield Fact("mixed precision", _describe_precision(config))
    parameters = list(run.model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in parameters)
    yield Fact("parameters", f"{total:,}, of which {trained:,} are trained ({trained / total:.2%})")
    for group in parameter_groups(run.model, config):
        count = sum(parameter.numel() for parameter in group["params"])
        yield Fact(
            f"trained: {group['name']}",
            f"{count:,} at learning rate {group['lr']:g}, weight decay {group['weight_decay']:g}",
        )
    yield Fact("memory per process, estimated", _estimate_memory(config, run, lengths[-1]))
    if run.checkpoint is not None:
        yield Fact("resumes from", str(run.checkpoint))


def _describe_precision(config: FinetuneConfig) -> str:
    """The precision, and whether this machine computes it slowly."""
    device = "cpu" if config.use_cpu else torch.device(config.device).type
    if config.precision == "no":
        return "no: float32"
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float16
    slow = (
        "" if computes_fast(dtype, device) else f"; slower than float32 on this {device}: set {config.precision}: false"
    )
    return f"{config.precision}{slow}"


def _has_codes(sample: TrainingSample, vocab: PerceptionVocabulary) -> bool:
    return bool((vocab.codes(sample.answer_ids, DEPTH) >= 0).any())


def _estimate_memory(config: FinetuneConfig, run: PreparedRun, length: int) -> str:
    """Weights, gradients and optimizer states as they are; activations by the usual count for a transformer."""
    parameters = list(run.model.parameters())
    weights = sum(parameter.nbytes for parameter in parameters)
    training = sum(3 * parameter.nbytes for parameter in parameters if parameter.requires_grad)
    text = run.model.get_base_model().config.get_text_config()
    width, layers = text.hidden_size, text.num_hidden_layers
    item_size = 4 if config.precision == "no" else 2
    tokens = config.per_device_train_batch_size * length
    # 34 bytes per token, layer and channel in half precision without checkpointing (Korthikanti 2022), else the
    # inputs of every layer and the activations of one.
    activations = tokens * width * item_size * (layers + 17 if config.gradient_checkpointing else 17 * layers)
    supervised = config.per_device_train_batch_size * max(
        int(sample.supervised.sum()) for sample in run.samples.samples
    )
    logits = supervised * text.vocab_size * (4 * 2 + item_size)
    parts = {
        "weights": weights,
        "gradients and optimizer states": training,
        "activations": activations,
        "logits": logits,
    }
    total = sum(parts.values())
    return f"{total / _GB:.2f} GB: " + ", ".join(f"{name} {size / _GB:.2f}" for name, size in parts.items())
