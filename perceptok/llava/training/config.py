"""What a fine-tuning run is made of: every setting with its meaning, as `perceptok llava train --explain` prints it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, Self, get_type_hints

from perceptok.config import config_from_dict, read_config
from perceptok.errors import ConfigError
from perceptok.llava.framing import FrameRule, Framing
from perceptok.vocabulary import Init

__all__ = [
    "ConfigSetting",
    "CurriculumSettings",
    "FinetuneConfig",
    "LoraSettings",
    "ObjectiveSettings",
    "ReportSettings",
    "explain",
]


# ruff: noqa: RUF009 - `_said` makes a field, as `dataclasses.field` does


def _said(text: str, default: Any = MISSING, factory: Any = MISSING) -> Any:
    """A field and what it means."""
    if factory is not MISSING:
        return field(default_factory=factory, metadata={"means": text})
    return field(default=default, metadata={"means": text})


@dataclass(frozen=True)
class LoraSettings:
    """The low-rank adapter of the language model."""

    r: int = _said("Rank; AURORA's 128.", 128)
    alpha: float = _said("Scale: the adapter counts alpha / r times; AURORA's 256.", 256.0)
    dropout: float = _said("Share of the adapter's inputs that is dropped in training.", 0.05)
    targets: tuple[str, ...] = _said(
        "Last names of the layers that get an adapter, such as q_proj; none for every linear layer of the language "
        "model, as AURORA.",
        (),
    )

    def __post_init__(self) -> None:
        _positive(self, "r", "alpha")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is a share in [0, 1); got {self.dropout}")


@dataclass(frozen=True)
class ObjectiveSettings:
    """What is minimised: cross entropy of the answers, and the terms of AURORA's Eqs. 1 and 2."""

    cross_entropy: float = _said("Weight of the answers' cross entropy, a mean over supervised tokens.", 1.0)
    distillation: float = _said("Weight of Eq. 1, a mean over depth codes; 0 leaves it out.", 1.0)
    teacher: Literal["hard", "soft", "codebook"] = _said(
        "Of Eq. 1: hard: the codes themselves; soft: what the codec says of the map, where a record keeps it "
        "(soft_codes of `perceptok data build`), else as codebook; codebook: what it would say of a map that lies on "
        "its codes, a softmax of distances between their vectors.",
        "hard",
    )
    teacher_temperature: float = _said(
        "Of the soft teacher, in units of the mean squared distance between two code vectors: small is hard.", 0.05
    )
    normalisation: Literal["full", "auxiliary"] = _said(
        "Whether Eq. 1's probabilities sum to 1 over the whole vocabulary or over the codes alone.", "full"
    )
    reconstruction: float = _said("Weight of Eq. 2, the error of the decoded map; AURORA's 0.", 0.0)

    def __post_init__(self) -> None:
        for name in ("cross_entropy", "distillation", "reconstruction"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is a weight of at least 0; got {getattr(self, name)}")
        if not self.cross_entropy + self.distillation + self.reconstruction:
            raise ConfigError("every weight is 0: nothing would be trained")
        _positive(self, "teacher_temperature")


@dataclass(frozen=True)
class CurriculumSettings:
    """Which regime is drawn when."""

    kind: Literal["linear", "temperature", "proportional"] = _said(
        "linear: the released recipe, ten passes with 100 % atomic samples falling to 10 %; temperature: Eqs. 3 and 4; "
        "proportional: no curriculum, each regime as often as it has records.",
        "linear",
    )
    first: float = _said("linear: share of atomic samples in the first pass.", 1.0)
    last: float = _said("linear: share in the last pass.", 0.1)
    passes: int = _said("linear: number of passes.", 10)
    others: Mapping[str, float] = _said(
        "linear: regimes beside atomic, and how they share the rest; none for those that have records, alike.",
        factory=dict,
    )
    difficulties: Mapping[str, float] = _said(
        "temperature: difficulty of each regime.", factory=lambda: {"atomic": 0.0, "cot": 1.0, "direct": 1.0}
    )
    tau0: float = _said("temperature: at the first step.", 0.2)
    lam: float = _said(
        "temperature: lambda of Eq. 4; negative lets the temperature rise and the mixture spread from easy to hard.",
        -0.95,
    )


@dataclass(frozen=True)
class ReportSettings:
    """What is written while it trains, under OUTPUT/logs."""

    every: int = _said("Steps between lines of the log.", 10)
    generate_every: int = _said("Steps between generations, whose valid blocks are counted; 0 for none.", 500)
    generate: int = _said("Records that are answered each time.", 8)
    watch: str | None = _said("Records to answer, held out; without it, the first ones of the training.", None)
    pictures: int = _said("Decoded depth maps that are drawn each time.", 4)
    to: tuple[Literal["tensorboard", "wandb"], ...] = _said(
        "Where beside log.jsonl: tensorboard and wandb, where installed.", ()
    )

    def __post_init__(self) -> None:
        _positive(self, "every", "generate")


@dataclass(frozen=True)
class FinetuneConfig:
    """A fine-tuning run; defaults are AURORA's where its paper or code says one (arXiv 2412.03548)."""

    base: str = _said("Folder or Hub id of the model to start from, extended or not.")
    records: tuple[str, ...] = _said("Files of records (.jsonl, .json, .parquet); images are relative to each.")
    output: str = _said("Folder of the run: checkpoints, logs and the adapter.")
    codec: str | None = _said("Folder or Hub id of the depth codec; none for the shipped one.", None)
    frame: Framing = _said("How pictures are framed; AURORA squashes.", "squash")
    init: Init = _said("How new rows start; codebook lets similar codes start alike.", "codebook")
    rows: Literal["new_rows", "full"] = _said(
        "Train the rows of perception tokens alone (small adapters), or whole token matrices, as AURORA.", "new_rows"
    )
    lora: LoraSettings = _said("The adapter.", factory=LoraSettings)
    objective: ObjectiveSettings = _said("The losses.", factory=ObjectiveSettings)
    curriculum: CurriculumSettings = _said("The order of regimes.", factory=CurriculumSettings)
    report: ReportSettings = _said("Logs, generations and pictures.", factory=ReportSettings)
    learning_rate: float = _said("Of the adapter and the rows, at its highest.", 2e-4)
    projector_learning_rate: float = _said("Of the projector between tower and language model; 0 freezes it.", 2e-5)
    weight_decay: float = _said("Of LoRA and projector; rows never decay.", 0.0)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = _said("How the rate falls.", "cosine")
    warmup: float = _said("Share of the steps in which the rate rises.", 0.03)
    max_grad_norm: float = _said("Gradients longer than this are cut to it.", 1.0)
    steps: int | None = _said("Optimiser steps; without it, as many as `passes` ask for.", None)
    passes: float = _said("Times that as many samples are drawn as there are records.", 1.0)
    batch_size: int = _said("Samples of a process at once; AURORA's 16.", 16)
    accumulate: int = _said("Batches whose gradients are added before a step.", 1)
    max_length: int = _said("Tokens of the longest sample, its image's included; AURORA's 2048.", 2048)
    too_long: Literal["drop", "refuse"] = _said(
        "Samples that are longer are dropped and counted, or refused; none is ever cut.", "drop"
    )
    precision: Literal["bf16", "fp32"] = _said("Of the arithmetic; trained weights stay in float32.", "bf16")
    bits: Literal[4, 8] | None = _said("Load the language model in 4 or 8 bits (bitsandbytes).", None)
    gradient_checkpointing: bool = _said("Compute activations twice to hold fewer of them.", True)
    workers: int = _said("Processes that read and prepare images.", 4)
    save_every: int = _said("Steps between checkpoints.", 500)
    keep: int = _said("Checkpoints that are kept.", 2)
    cpu: bool = _said("Stay on the CPU, where there is an accelerator too.", False)
    seed: int = _said("Of new rows, adapter, dropout and the order of samples.", 0)

    def __post_init__(self) -> None:
        for name in ("base", "output"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is a folder or id; got an empty one")
        if not self.records:
            raise ConfigError("records names at least one file; got none")
        _positive(self, "learning_rate", "passes", "batch_size", "accumulate", "max_length", "save_every", "keep")
        _positive(self, "max_grad_norm")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is at least 1; got {self.steps}")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is a share in [0, 1); got {self.warmup}")
        if self.projector_learning_rate < 0 or self.weight_decay < 0 or self.workers < 0 or self.seed < 0:
            raise ConfigError("projector_learning_rate, weight_decay, workers and seed are not negative")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """From YAML or JSON; raises ConfigError as `read_config`."""
        return read_config(cls, path)

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """From plain JSON types, the inverse of `to_dict`; raises ConfigError as `config_from_dict`."""
        return config_from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self)

    @property
    def frame_rule(self) -> FrameRule:
        """The frame of every picture."""
        return FrameRule(self.frame)


class ConfigSetting(NamedTuple):
    """One line of `explain`."""

    name: str
    kind: str
    default: str
    means: str


def explain(kind: Any = FinetuneConfig, prefix: str = "") -> Iterator[ConfigSetting]:
    """Every setting of a configuration, nested ones by their dotted names."""
    hints = get_type_hints(kind)
    for one in fields(kind):
        inner = hints[one.name]
        if is_dataclass(inner):
            yield from explain(inner, f"{prefix}{one.name}.")
        else:
            yield ConfigSetting(prefix + one.name, str(one.type), _default(one), one.metadata["means"])


def _default(one: Field[Any]) -> str:
    if one.default is not MISSING:
        return repr(one.default)
    return repr(one.default_factory()) if one.default_factory is not MISSING else "required"


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} is positive; got {getattr(config, name)}")
