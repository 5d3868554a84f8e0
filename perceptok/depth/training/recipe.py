"""What a training run is made of: networks, quantiser, variation of maps, lengths, rates and shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from perceptok.configs import config_from_dict
from perceptok.depth.networks.grid import GridConfig
from perceptok.depth.networks.model import ModelConfig, model_config_from_dict, model_config_to_dict
from perceptok.depth.networks.quantizer import QuantizerConfig
from perceptok.depth.training.augmentation import AugmentationConfig
from perceptok.errors import ConfigError

__all__ = ["TrainingConfig"]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what is trained; saved beside the weights.

    Attributes:
        model: The networks.
        quantizer: How the code vectors are learned.
        augmentation: How training maps are varied.
        steps: Updates of the weights.
        epoch_steps: Updates between two evaluations.
        batch_size: Maps per update, over all processes and accumulated micro-batches together.
        accumulate: Micro-batches per update.
        learning_rate: At its peak.
        schedule: "cosine" to zero, or "exponential" (0.98 every 500 steps, the reference's).
        warmup: Steps until the peak.
        weight_decay: Of AdamW.
        absolute: Weight of the mean absolute error beside the mean squared error (in the networks' [-1, 1]).
        precision: "no" for float32, or "bf16"; quantisation is float32 in any case.
        shares: Set shares of a batch by source, e.g. {"procedural": 0.6}; see `draw_shares`.
        largest_share: Limit for every other source, as a part of the rest.
        caps: Smaller limits, by source.
        collapse_below: Perplexity of an epoch under which `CollapseWarning` is given.
        seed: Of weights and every draw.
    """

    model: ModelConfig = field(default_factory=GridConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    steps: int = 10_000
    epoch_steps: int = 500
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "exponential"] = "cosine"
    warmup: int = 200
    weight_decay: float = 0.02
    absolute: float = 0.0
    precision: Literal["no", "bf16"] = "no"
    shares: Mapping[str, float] = field(default_factory=dict)
    largest_share: float = 0.25
    caps: Mapping[str, float] = field(default_factory=dict)
    collapse_below: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("steps", "epoch_steps", "batch_size", "accumulate", "learning_rate")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive; got {getattr(self, name)}")
        for name, known in (("schedule", ("cosine", "exponential")), ("precision", ("no", "bf16"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is one of {', '.join(known)}; got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "model": model_config_to_dict(self.model)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """The inverse of `to_dict`, missing keys taking their defaults; raises ConfigError as `config_from_dict`."""
        if isinstance(values, Mapping) and "model" in values:
            values = {**values, "model": model_config_from_dict(values["model"])}
        return config_from_dict(cls, values)
