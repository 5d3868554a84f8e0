"""Which samples each process gets in each batch: a curriculum's steps, cut into micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from perceptok.errors import ConfigError
from perceptok.llava.training.recipe import CurriculumSettings
from perceptok.objectives.curriculum import LinearSchedule, Schedule, TemperatureSchedule
from perceptok.objectives.sampler import CurriculumSampler

__all__ = ["MicroBatches", "ProportionalSchedule", "schedule_of", "total_steps"]


@dataclass(frozen=True)
class ProportionalSchedule:
    """No curriculum: every regime is drawn as often as it has records.

    Attributes:
        sizes: Regime -> records.
    """

    sizes: Mapping[str, int]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The regimes."""
        return tuple(self.sizes)

    def probabilities(self, step: int, total_steps: int) -> np.ndarray:  # noqa: ARG002 - it is the same at every step
        """Shares of the regimes, the same at every step."""
        counts = np.array(list(self.sizes.values()), dtype=np.float64)
        return np.asarray(counts / counts.sum())


class MicroBatches(Sampler[list[int]]):
    """The batches of one process: step after step of a curriculum, each cut into equal parts.

    A step's samples are the same whatever number of processes and accumulated batches it is cut for, so that runs of
    another shape see the same data in the same steps.
    """

    def __init__(self, curriculum: CurriculumSampler, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        """Set up a cut.

        Args:
            curriculum: Of whole steps.
            batch_size: Samples of a process at once; with the processes it divides the step.
            rank: This process.
            world_size: All of them.
        """
        assert curriculum.batch_size % (batch_size * world_size) == 0
        self.curriculum = curriculum
        self.batch_size = batch_size
        self._rank, self._world_size = rank, world_size
        self._parts = curriculum.batch_size // (batch_size * world_size)
        self.drop_last = True

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self.curriculum) * self._parts

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.curriculum:
            for part in range(self._parts):
                begin = (part * self._world_size + self._rank) * self.batch_size
                yield step[begin : begin + self.batch_size]


def schedule_of(settings: CurriculumSettings, sizes: Mapping[str, int]) -> Schedule:
    """The schedule for the regimes that have records.

    Raises:
        ConfigError: The linear recipe without atomic records or without others, or a regime that the settings lack.
    """
    if settings.kind == "proportional":
        return ProportionalSchedule(dict(sizes))
    if settings.kind == "temperature":
        lacking = [regime for regime in sizes if regime not in settings.difficulties]
        if lacking:
            raise ConfigError(f"there are records of the regime {lacking[0]}, but difficulties names none; add it")
        return TemperatureSchedule(
            {regime: settings.difficulties[regime] for regime in sizes}, settings.tau0, settings.lam
        )
    others = settings.others or {regime: 1.0 for regime in sizes if regime != "atomic"}
    if "atomic" not in sizes or not others or set(others) | {"atomic"} != set(sizes):
        raise ConfigError(
            f"the linear curriculum goes from atomic records to {', '.join(others) or 'others'}; the files hold "
            f"{', '.join(f'{count} {regime}' for regime, count in sizes.items())}. Add the missing ones, or take "
            "curriculum.kind: proportional"
        )
    return LinearSchedule(
        atomic=("atomic",), others=others, first=settings.first, last=settings.last, passes=settings.passes
    )


def total_steps(records: int, step_size: int, steps: int | None, passes: float) -> int:
    """Optimiser steps of a run: as said, or for that many passes."""
    return steps if steps is not None else max(1, math.ceil(passes * records / step_size))
