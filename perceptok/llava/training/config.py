"""The configuration of a fine-tuning run: `transformers.TrainingArguments` with perceptok's own settings beside."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_type_hints

import torch
from transformers import TrainingArguments

from perceptok.config import apply_overrides, config_from_dict, find_config_file, read_mapping, resolve_paths
from perceptok.data import Regime
from perceptok.errors import ConfigError
from perceptok.llava.framing import FrameRule, Framing, Interpolation
from perceptok.llava.training.launch_checks import check_launch
from perceptok.precision import choose_dtype
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary import Init

__all__ = [
    "ConfigSetting",
    "CurriculumSettings",
    "FinetuneConfig",
    "LoraSettings",
    "MonitoringSettings",
    "ObjectiveSettings",
    "PerceptionSettings",
    "explain",
    "make_paths_absolute",
]

# ruff: noqa: RUF009 - `_setting` makes a field, as `dataclasses.field` does


def _setting(text: str, default: Any = MISSING, factory: Any = MISSING) -> Any:
    """A field with its help text."""
    if factory is not MISSING:
        return field(default_factory=factory, metadata={"help": text})
    return field(default=default, metadata={"help": text})


_MAX_RANK = 2**14
"""Of an adapter: more than any layer has rows."""


@dataclass(frozen=True)
class LoraSettings:
    """The LoRA adapter of the language model; settings as in `peft.LoraConfig`."""

    r: int = _setting("Rank; AURORA's 128.", 128)
    lora_alpha: float = _setting("The adapter is scaled by lora_alpha / r; AURORA's 256.", 256.0)
    lora_dropout: float = _setting("Dropout probability of the adapter's inputs.", 0.05)
    target_modules: tuple[str, ...] = _setting(
        "Last names of the layers that get an adapter, such as q_proj; empty for every linear layer of the language "
        "model, as AURORA.",
        (),
    )

    def __post_init__(self) -> None:
        _require_positive(self, "r", "lora_alpha")
        if self.r > _MAX_RANK:
            raise ConfigError(f"r is a rank of at most {_MAX_RANK}; got {self.r}")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout is a probability in [0, 1); got {self.lora_dropout}")


@dataclass(frozen=True)
class ObjectiveSettings:
    """The loss: cross entropy of the answers, and the terms of AURORA's Eqs. 1 and 2."""

    cross_entropy: float = _setting("Weight of the answers' cross entropy, a mean over supervised tokens.", 1.0)
    distillation: float = _setting("Weight of Eq. 1, a mean over depth codes; 0 leaves it out.", 1.0)
    teacher: Literal["hard", "soft", "codebook"] = _setting(
        "Teacher of Eq. 1: hard: the codes themselves; soft: the codec's distribution for the map, where a record has "
        "it (soft_codes of `perceptok data build`), else as codebook; codebook: the codec's distribution for a map "
        "that lies exactly on its codes, a softmax of distances between code vectors.",
        "hard",
    )
    teacher_temperature: float = _setting(
        "Temperature of the soft teachers, in units of the mean squared distance between two code vectors; small is "
        "close to hard.",
        0.05,
    )
    normalization: Literal["full", "auxiliary"] = _setting(
        "Whether Eq. 1's probabilities sum to 1 over the whole vocabulary or over the codes alone.", "full"
    )
    reconstruction: float = _setting("Weight of Eq. 2, the error of the decoded map; AURORA's 0.", 0.0)

    def __post_init__(self) -> None:
        for name in ("cross_entropy", "distillation", "reconstruction"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is a weight of at least 0; got {getattr(self, name)}")
        if not self.cross_entropy + self.distillation + self.reconstruction:
            raise ConfigError("every weight is 0: nothing would be trained")
        _require_positive(self, "teacher_temperature")


@dataclass(frozen=True)
class CurriculumSettings:
    """The order in which regimes are drawn."""

    kind: Literal["linear", "aurora", "temperature", "proportional", "sequential"] = _setting(
        "linear: every step mixes the regimes, and the share of atomic samples falls from pass to pass; aurora: the "
        "order of AURORA's released files, in which the atomic samples of a pass come first and the list of the others "
        "follows, repeated (an epoch is all passes); temperature: Eqs. 3 and 4; proportional: no curriculum, each "
        "regime as often as it has records; sequential: the records in the order of their files.",
        "linear",
    )
    first: float = _setting("linear, aurora: share of atomic samples in the first pass.", 1.0)
    last: float = _setting("linear, aurora: share of atomic samples in the last pass.", 0.1)
    passes: int = _setting("linear, aurora: number of passes.", 10)
    others: Mapping[str, float] = _setting(
        "linear: shares of the regimes beside atomic in the rest; empty for equal shares of those that have records.",
        factory=dict,
    )
    difficulties: Mapping[str, float] = _setting(
        "temperature: difficulty of each regime.",
        factory=lambda: {"atomic": 0.0, "reading": 0.5, "cot": 1.0, "direct": 1.0},
    )
    tau0: float = _setting("temperature: temperature of the first step.", 0.2)
    lam: float = _setting(
        "temperature: lambda of Eq. 4; negative lets the temperature rise and the mixture spread from easy to hard.",
        -0.95,
    )

    def __post_init__(self) -> None:
        _require_positive(self, "passes", "tau0")
        for name in ("first", "last"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"curriculum.{name} is a share in [0, 1]; got {getattr(self, name)}")


@dataclass(frozen=True)
class MonitoringSettings:
    """Answers that the model generates while it trains, to count valid blocks and boxes and to draw depth maps."""

    generate_steps: int = _setting("Number of steps between generations; 0 for none.", 500)
    num_records: int = _setting("Number of records that are answered each time.", 8)
    records: str | None = _setting("File of held-out records to answer; none for the first training records.", None)
    num_images: int = _setting("Number of decoded depth maps that are logged each time.", 4)

    def __post_init__(self) -> None:
        _require_positive(self, "num_records")
        if self.generate_steps < 0 or self.num_images < 0:
            raise ConfigError("generate_steps and num_images are not negative")


@dataclass
class PerceptionSettings:
    """The settings that perceptok adds to `transformers.TrainingArguments`."""

    model_name_or_path: str = _setting("Folder or Hub id of the model to start from, extended or not. Required.", "")
    records: tuple[str, ...] = _setting(
        "Files of records (.jsonl, .json, .parquet); images are relative to each. Required.", ()
    )
    instruction_records: tuple[str, ...] = _setting(
        "Files of general instruction data (LLaVA JSON: visual questions, captions, text alone) that are mixed in, so "
        "that the model does not forget what it can do; trained by plain cross entropy.",
        (),
    )
    instruction_share: float = _setting(
        "Share of every step's samples that are instruction data, where there is some.", 0.1
    )
    allow_changed_records: bool = _setting(
        "Resume although the records are not those that the last checkpoint was trained on.", False
    )
    regimes: tuple[Regime, ...] = _setting(
        "Regimes to train on, such as [direct] for a baseline without perception tokens; empty for all records.", ()
    )
    codec: str | None = _setting("Folder or Hub id of the depth codec; none for the shipped one.", None)
    tokens: Literal["both", "depth", "boxes"] = _setting(
        "Perception tokens of the vocabulary: the 130 of depth (AURORA's depth model), the 336 of boxes (its counting "
        "model), or both.",
        "both",
    )
    system: str | None = _setting(
        "System sentence that every conversation begins with; none for that of the chat template.", None
    )
    frame: Framing = _setting("How images are framed; AURORA squashes.", "squash")
    interpolation: Interpolation = _setting("How images are resized to the frame; AURORA's nearest.", "bicubic")
    init: Init = _setting(
        "Initialization of new rows; codebook gives similar codes similar rows, normal is that of "
        "resize_token_embeddings.",
        "codebook",
    )
    rows: Literal["new_rows", "full"] = _setting(
        "Train only the rows of perception tokens (small adapters), or whole token matrices, as AURORA.", "new_rows"
    )
    lora: LoraSettings = _setting("The LoRA adapter.", factory=LoraSettings)
    objective: ObjectiveSettings = _setting("The loss.", factory=ObjectiveSettings)
    curriculum: CurriculumSettings = _setting("The order of regimes.", factory=CurriculumSettings)
    monitoring: MonitoringSettings = _setting("Answers generated in training.", factory=MonitoringSettings)
    projector_learning_rate: float = _setting(
        "Learning rate of the projector between vision tower and language model; 0 freezes it.", 2e-5
    )
    warmup_ratio: float = _setting("Share of the steps with linear warmup, where warmup_steps is not set.", 0.03)
    effective_batch_size: int | None = _setting(
        "Number of samples of an optimizer step over all processes, instead of gradient_accumulation_steps, which is "
        "then effective_batch_size / (per_device_train_batch_size x processes).",
        None,
    )
    max_length: int = _setting("Maximum length of a sample in tokens, its image's included; AURORA's 2048.", 2048)
    too_long: Literal["drop", "refuse"] = _setting(
        "Longer samples are dropped and counted, or refused; none is ever truncated.", "drop"
    )
    load_in_4bit: bool = _setting("Load the language model in 4 bits (bitsandbytes).", False)
    load_in_8bit: bool = _setting("Load the language model in 8 bits (bitsandbytes).", False)

    def __post_init__(self) -> None:
        if self.projector_learning_rate < 0:
            raise ConfigError(f"projector_learning_rate is not negative; got {self.projector_learning_rate}")
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"warmup_ratio is a share in [0, 1); got {self.warmup_ratio}")
        if self.load_in_4bit and self.load_in_8bit:
            raise ConfigError("load_in_4bit and load_in_8bit exclude each other")
        _require_positive(self, "max_length")
        if "instruction" in self.regimes:
            raise ConfigError("regimes are those of records; instruction data is mixed in by instruction_records")
        if not 0 < self.instruction_share < 1:
            raise ConfigError(f"instruction_share is a share in (0, 1); got {self.instruction_share}")
        if len({*self.regimes}) != len(self.regimes):
            raise ConfigError(f"regimes are named once; got {', '.join(self.regimes)}")
        if self.effective_batch_size is not None:
            _require_positive(self, "effective_batch_size")


_OWN = tuple(setting.name for setting in fields(PerceptionSettings))

_NOT_SAVED = ("allow_changed_records",)
"""Settings of one call, not of the run."""

_LISTS = ("records", "instruction_records", "regimes", "lora.target_modules")
"""Settings that take a single value for a list of one."""

_FIXED: dict[str, tuple[Any, str]] = {
    "remove_unused_columns": (False, "samples carry more than the model's inputs"),
    "label_names": (["labels"], "the collator writes the labels"),
    "train_sampling_strategy": ("random", "the curriculum draws the samples"),
    "auto_find_batch_size": (False, "the curriculum's steps have a fixed size"),
    "dataloader_drop_last": (False, "every batch of the curriculum is whole"),
    "ignore_data_skip": (False, "a resumed run continues with the samples that would have come next"),
    "resume_from_checkpoint": (None, "a run resumes from the last checkpoint in its output_dir"),
    "average_tokens_across_devices": (True, "the loss is a mean over the tokens of all processes"),
    "parallelism_config": (None, "processes share a step's samples, never a sequence"),
    "eval_strategy": ("no", "training has no evaluation loop; set monitoring, or run `perceptok llava eval`"),
    "eval_on_start": (False, "training has no evaluation loop"),
    "load_best_model_at_end": (False, "training has no evaluation loop"),
    "save_strategy": ("steps", "checkpoints are written every save_steps"),
    "save_only_model": (False, "a checkpoint has to be resumable"),
    "save_on_each_node": (False, "one process writes the checkpoints"),
    "hub_strategy": ("end", "the verified adapter is pushed, at the end"),
    "label_smoothing_factor": (0.0, "the objective computes the loss; set objective.teacher: soft"),
    "use_liger_kernel": (False, "the objective needs the logits"),
    "use_cache": (False, "training has no use for a key-value cache"),
}
"""Settings of TrainingArguments that have one value here, with the reason."""

_SELECTING_OPTIMIZERS = ("galore", "apollo", "lomo", "adalomo")
"""Beginnings of the names of optimizers that have no parameter groups of ours."""

_LEARNING = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "neftune_noise_alpha"),
    *("max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("bf16", "fp16", "tf32", "seed", "data_seed"),
)
"""Settings of TrainingArguments that change what is learned: a run resumes only with the same ones."""

_DERIVED = (
    *("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "label_names"),
    *("dataloader_pin_memory", "accelerator_config", "local_rank", "debug", "disable_tqdm", "hub_token"),
)
"""Settings that TrainingArguments fills in from others or from the machine, or that are secret: not saved."""

_LAUNCH_PRECISION = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
"""Mixed precision of `accelerate launch`; read before TrainingArguments, which writes it in older releases."""


@dataclass
class FinetuneConfig(PerceptionSettings, TrainingArguments):
    """A fine-tuning run: `transformers.TrainingArguments` and perceptok's own settings.

    Every setting of TrainingArguments keeps its meaning; some have other defaults, and those that would break the
    curriculum, the loss or resuming have one value and are refused otherwise. The recipe of AURORA (arXiv 2412.03548)
    is in the presets `aurora-depth` and `aurora-counting`; the defaults differ from it (`perceptok llava presets`).
    Where no accelerator is available, `use_cpu` is set.

    Raises:
        ConfigError: A setting of the wrong type or out of range, one that is fixed, or settings that contradict each
            other.
    """

    learning_rate: float = _setting("Peak learning rate of the adapter and the rows.", 2e-4)
    lr_scheduler_type: str = _setting("Learning rate schedule after warmup.", "cosine")
    num_train_epochs: float = _setting("Number of epochs: this many samples are drawn for each record.", 1.0)
    per_device_train_batch_size: int = _setting("Batch size of each process; AURORA's 16.", 16)
    bf16: bool | None = _setting(  # type: ignore[assignment]  # as in TRL's configs
        "bfloat16 mixed precision; by default, without fp16, what the hardware computes fast, or accelerate's.", None
    )
    gradient_checkpointing: bool = _setting("Recompute activations in the backward pass to save memory.", True)
    logging_steps: float = _setting("Number of steps between two lines of the log.", 10)
    logging_nan_inf_filter: bool = _setting("Filter NaN losses out of the log; a NaN stops the run anyway.", False)
    save_total_limit: int | None = _setting("Number of checkpoints that are kept.", 2)
    dataloader_num_workers: int = _setting("Number of processes that load and prepare images.", 4)
    hub_strategy: str = _setting("Fixed: the adapter is pushed at the end.", "end")
    remove_unused_columns: bool = _setting("Fixed: samples carry more than the model's inputs.", False)
    ddp_find_unused_parameters: bool | None = _setting("Search for unused parameters under DDP.", False)

    def __post_init__(self) -> None:
        own = {name: _to_plain_types(name, getattr(self, name)) for name in _OWN}
        settings = config_from_dict(PerceptionSettings, own, name=type(self).__name__)
        for name in _OWN:
            setattr(self, name, getattr(settings, name))
        for name in ("model_name_or_path", "records", "output_dir"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is required")
        self._check_fixed()
        _require_positive(self, "learning_rate", "num_train_epochs", "per_device_train_batch_size", "max_grad_norm")
        _require_positive(self, "gradient_accumulation_steps", "save_steps")
        if self.save_total_limit is not None:
            _require_positive(self, "save_total_limit")
        if self.max_steps == 0:
            raise ConfigError("max_steps is at least 1, or -1 for as many as num_train_epochs needs; got 0")
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if self.effective_batch_size is not None:
            samples = self.per_device_train_batch_size * processes
            self.gradient_accumulation_steps = self.count_step_samples(processes) // samples
        if not torch.accelerator.is_available():
            self.use_cpu = True
        self._choose_precision()
        check_launch(self, self.count_step_samples(processes))
        self._rename_checkpointing()
        if self.disable_tqdm is None:  # transformers would derive it from the level of its own log messages
            self.disable_tqdm = False
        try:
            TrainingArguments.__post_init__(self)  # type: ignore[no-untyped-call]
        except (ValueError, ImportError) as error:
            raise ConfigError(str(error)) from error

    def _check_fixed(self) -> None:
        if self.label_names is None:
            self.label_names = ["labels"]
        for name, (value, reason) in _FIXED.items():
            if hasattr(self, name) and getattr(self, name) != value:
                raise ConfigError(f"{name} is fixed to {value!r} ({reason}); got {getattr(self, name)!r}")
        if self.optim.startswith(_SELECTING_OPTIMIZERS):
            raise ConfigError(
                f"optim: {self.optim} selects its parameters itself, but token rows and projector have groups of their "
                "own; choose another, such as adamw_torch_fused"
            )

    def _choose_precision(self) -> None:
        """Set bf16 and fp16 where they are not given; refuse what `accelerate launch` contradicts."""
        launched = _LAUNCH_PRECISION
        if self.bf16 is None:
            if self.fp16 or launched != "no":
                self.bf16, self.fp16 = launched == "bf16" and not self.fp16, self.fp16 or launched == "fp16"
            else:
                dtype = choose_dtype("cpu" if self.use_cpu else _get_accelerator())
                self.bf16, self.fp16 = dtype == torch.bfloat16, dtype == torch.float16
        if launched not in ("no", self.precision):
            raise ConfigError(
                f"accelerate was launched with mixed_precision {launched!r}, the configuration has {self.precision!r} "
                "(bf16, fp16); leave mixed_precision out of accelerate's configuration, or make them agree"
            )

    @property
    def precision(self) -> Literal["bf16", "fp16", "no"]:
        """The mixed precision that `bf16` and `fp16` name, as accelerate's `mixed_precision`."""
        return "fp16" if self.fp16 else "bf16" if self.bf16 else "no"

    @property
    def base_dtype(self) -> torch.dtype:
        """Data type of the frozen weights: half precision on an accelerator, where autocast needs no copy of them."""
        if self.use_cpu:
            return torch.float32
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[self.precision]

    def _rename_checkpointing(self) -> None:
        """Give gradient checkpointing the name of newer releases of transformers, which warn about the old one."""
        if self.gradient_checkpointing_kwargs is None:
            self.gradient_checkpointing_kwargs = {"use_reentrant": False}
        for ending in ("", "_kwargs"):
            old, new = f"gradient_checkpointing{ending}", f"activation_checkpointing{ending}"
            if hasattr(self, new):
                if getattr(self, new) not in (None, getattr(self, old)):
                    raise ConfigError(f"{new} is another name of {old} and contradicts it; set {old} alone")
                setattr(self, new, getattr(self, old))
                setattr(self, old, None)  # TrainingArguments sets it again

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Number of steps with linear warmup: `warmup_steps`, or where it is 0 the share `warmup_ratio`."""
        steps = self.warmup_steps or self.warmup_ratio
        return int(steps) if steps >= 1 else math.ceil(num_training_steps * steps)

    def count_step_samples(self, processes: int) -> int:
        """Number of samples of an optimizer step over all processes.

        Raises:
            ConfigError: `effective_batch_size` is not a multiple of what the processes take at once.
        """
        at_once = self.per_device_train_batch_size * processes
        if self.effective_batch_size is None:
            return at_once * self.gradient_accumulation_steps
        if self.effective_batch_size % at_once:
            raise ConfigError(
                f"effective_batch_size {self.effective_batch_size} is not a multiple of per_device_train_batch_size "
                f"{self.per_device_train_batch_size} x {processes} processes; change either"
            )
        return self.effective_batch_size

    @classmethod
    def read(cls, path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a configuration from YAML or JSON.

        Args:
            path: The file, or the name of a preset (`perceptok llava presets`); unknown keys are refused. Paths in a
                file are relative to its folder.
            overrides: Settings that replace those of the file, nested ones by dotted names or as mappings. Paths in
                them are relative to the current directory.

        Raises:
            ConfigError: The file cannot be read, or a setting is unknown or not valid.
        """
        found = find_config_file(path, "llava")
        values = read_mapping(found)
        if found == Path(path):  # not a preset
            make_paths_absolute(values, found.parent)
        apply_overrides(values, overrides or {})
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{found}: {error}") from error

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Make a configuration of plain JSON types, the inverse of `to_dict`; raises ConfigError."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is an object of settings; got {values!r}")
        known = [setting.name for setting in fields(cls) if setting.init]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {near[0]}?" if near else "--explain lists all settings"
                raise ConfigError(f"unknown key in {cls.__name__}: {key}; {hint}")
        if values.get("effective_batch_size") is not None and "gradient_accumulation_steps" in values:
            raise ConfigError(
                "effective_batch_size determines gradient_accumulation_steps; set one of them and leave the other out"
            )
        hints = get_type_hints(cls)
        return cls(
            **{key: value if key in _OWN else _check_type(value, hints[key], key) for key, value in values.items()}
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types: perceptok's own settings, and those of TrainingArguments that differ from their defaults."""
        everything = super().to_dict()  # type: ignore[no-untyped-call]
        values = {name: getattr(self, name) for name in _OWN if name not in _NOT_SAVED}
        skipped = {*_OWN, *_DERIVED, *(() if torch.accelerator.is_available() else ("use_cpu",))}
        if not self.fsdp:
            skipped.add("fsdp_config")  # filled in by TrainingArguments
        if self.effective_batch_size is not None:
            skipped.add("gradient_accumulation_steps")  # depends on the number of processes
        for setting in fields(self):
            value = everything.get(setting.name)
            if setting.init and setting.name not in skipped and value not in (_default_of(setting), []):
                values[setting.name] = value
        return {name: _to_json_types(value) for name, value in values.items()}

    @property
    def frame_rule(self) -> FrameRule:
        """The frame of every image."""
        return FrameRule(self.frame, interpolation=self.interpolation)

    @property
    def token_sets(self) -> tuple[TokenSet, ...]:
        """The token sets of the vocabulary."""
        return {"depth": (DEPTH,), "boxes": (PIXEL,), "both": (DEPTH, PIXEL)}[self.tokens]

    @property
    def bits(self) -> Literal[4, 8] | None:
        """Bits that the language model is loaded in; None for its own precision."""
        return 4 if self.load_in_4bit else 8 if self.load_in_8bit else None

    def difference(self, other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
        """The first setting that changes what is learned and differs from another configuration's `to_dict`.

        Returns:
            Its name, the other value and this one's; None if all are equal.
        """
        own, earlier = self.to_dict(), json.loads(json.dumps(other))
        for values in (own, earlier):
            make_paths_absolute(values)
        for name in (*_OWN, *_LEARNING):
            if name not in ("monitoring", *_NOT_SAVED) and own.get(name) != earlier.get(name):
                return name, earlier.get(name), own.get(name)
        return None


def make_paths_absolute(values: dict[str, Any], folder: str | os.PathLike[str] = ".") -> None:
    """Make the paths of a configuration, as JSON types, absolute in place; they are relative to a folder."""
    resolve_paths(
        *(values, folder, ("records", "instruction_records", "output_dir", "monitoring.records")),
        sources=("model_name_or_path", "codec", "deepspeed", "fsdp_config"),
    )


def _get_accelerator() -> torch.device:
    return torch.accelerator.current_accelerator() or torch.device("cpu")


class ConfigSetting(NamedTuple):
    """One setting, as `explain` lists it: dotted name, type, default and help text."""

    name: str
    kind: str
    default: str
    help: str


def explain() -> Iterator[ConfigSetting]:
    """List every setting of `FinetuneConfig`: perceptok's own, nested ones by dotted names, then TrainingArguments'."""
    yield from _explain_settings(PerceptionSettings, "")
    for setting in fields(FinetuneConfig):
        if setting.init and setting.name not in _OWN:
            text = " ".join(str(setting.metadata.get("help", "")).replace("%%", "%").split())
            if setting.name in _FIXED:
                text = f"Fixed to {_FIXED[setting.name][0]!r}: {_FIXED[setting.name][1]}."
            yield _explain_setting(setting, setting.name, text)


def _explain_settings(kind: Any, prefix: str) -> Iterator[ConfigSetting]:
    hints = get_type_hints(kind)
    for setting in fields(kind):
        if is_dataclass(hints[setting.name]):
            yield from _explain_settings(hints[setting.name], f"{prefix}{setting.name}.")
        else:
            yield _explain_setting(setting, prefix + setting.name, setting.metadata["help"])


def _explain_setting(setting: Field[Any], name: str, text: str) -> ConfigSetting:
    kind = setting.type.__name__ if isinstance(setting.type, type) else str(setting.type).replace("typing.", "")
    default = _default_of(setting)
    return ConfigSetting(name, kind, "required" if default is MISSING else repr(default), text)


def _check_type(value: Any, hint: Any, name: str) -> Any:
    """A boolean, number or text of the annotated type; what may be of several other types is left as it is."""
    kinds = getattr(hint, "__args__", (hint,))
    simple = [kind for kind in kinds if kind in (bool, int, float, str)]
    if len(simple) != 1 or not set(kinds) <= {*simple, type(None)} or (value is None and type(None) in kinds):
        return value
    kind = simple[0]
    if isinstance(value, bool) == (kind is bool) and isinstance(value, (int, float) if kind is float else kind):
        return value
    raise ConfigError(f"{name} is of type {kind.__name__}; got {value!r}")


def _default_of(setting: Field[Any]) -> Any:
    if setting.default is not MISSING:
        return _to_json_types(setting.default)
    return _to_json_types(setting.default_factory()) if setting.default_factory is not MISSING else MISSING


def _to_plain_types(name: str, value: Any) -> Any:
    """A setting as `config_from_dict` takes it: a path as text, a single value where a list is meant as one of one."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if name in _LISTS and isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return {key: _to_plain_types(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()}
    return [_to_plain_types("", inner) for inner in value] if isinstance(value, list | tuple) else value


def _to_json_types(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _to_json_types(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _to_json_types(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_types(inner) for inner in value]
    return value.value if isinstance(value, Enum) else value


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} has to be positive; got {getattr(config, name)}")
