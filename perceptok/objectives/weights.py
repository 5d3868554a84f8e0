"""How much each training term counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from perceptok.configs import config_from_dict
from perceptok.errors import ConfigError, ObjectiveError

__all__ = ["ObjectiveWeights"]


@dataclass(frozen=True)
class ObjectiveWeights:
    """Weights of the training terms; by default those of the paper: distillation alone.

    Attributes:
        distillation: Of `distillation_loss`, Eq. 1.
        reconstruction: Of `reconstruction_loss`, Eq. 2; 0 in AURORA (arXiv 2412.03548).
        marker: Of `marker_loss`.
        count: Of `count_loss`.
        merging: Of `merging_loss`.
    """

    distillation: float = 1.0
    reconstruction: float = 0.0
    marker: float = 0.0
    count: float = 0.0
    merging: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise ConfigError(f"{name} is a weight of at least 0; got {weight}")
        if not any(asdict(self).values()):
            raise ConfigError("every weight is 0: nothing would be trained")

    def total(self, **terms: Callable[[], Tensor]) -> Tensor:
        """The weighted sum of the terms, by name, each a scalar; those of weight 0 are not computed.

        Raises:
            ObjectiveError: A name that is no term, or a weighted term that is not given.
        """
        weights = asdict(self)
        if unknown := terms.keys() - weights.keys():
            raise ObjectiveError(f"terms are {', '.join(weights)}; got {', '.join(sorted(unknown))}")
        wanted = {name: weight for name, weight in weights.items() if weight}
        if missing := wanted.keys() - terms.keys():
            raise ObjectiveError(f"{', '.join(sorted(missing))} has a weight, but was not given")
        return torch.stack([weight * terms[name]() for name, weight in wanted.items()]).sum()

    def to_dict(self) -> dict[str, float]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> ObjectiveWeights:
        """The inverse of `to_dict`, missing keys taking their defaults; raises ConfigError as `config_from_dict`."""
        return config_from_dict(cls, values)
