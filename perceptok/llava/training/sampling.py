"""Which samples each optimizer step holds, mixed by a schedule or in a fixed order, and each process's part of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

from perceptok.errors import ConfigError
from perceptok.llava.training.config import CurriculumSettings, FinetuneConfig
from perceptok.llava.training.samples import RecordSamples
from perceptok.losses import CurriculumSampler, LinearSchedule, Mixture, Schedule, TemperatureSchedule

__all__ = [
    "Curriculum",
    "InstructionSchedule",
    "MicroBatches",
    "OrderedSampler",
    "ProportionalSchedule",
    "count_epoch_samples",
    "count_samples",
    "count_steps",
    "make_curriculum",
    "make_pass_order",
    "make_schedule",
]


@dataclass(frozen=True)
class ProportionalSchedule:
    """No curriculum: the same shares at every step.

    Attributes:
        weights: Regime -> weight, such as its number of records.
    """

    weights: Mapping[str, float]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The regimes."""
        return tuple(self.weights)

    def probabilities(self, step: int, total_steps: int) -> np.ndarray:  # noqa: ARG002 - it is the same at every step
        """Shares of the regimes, the same at every step."""
        weights = np.array(list(self.weights.values()), dtype=np.float64)
        return np.asarray(weights / weights.sum())


@dataclass(frozen=True)
class InstructionSchedule:
    """A schedule of regimes, of which a constant share goes to instruction data.

    Attributes:
        schedule: The schedule of the rest.
        share: The share of instruction data, 0..1.
    """

    schedule: Schedule
    share: float

    @property
    def tasks(self) -> tuple[str, ...]:
        """The regimes."""
        return (*self.schedule.tasks, "instruction")

    def probabilities(self, step: int, total_steps: int) -> np.ndarray:
        """Shares of the regimes at a step."""
        rest = self.schedule.probabilities(step, total_steps)
        return np.append(rest * (1 - self.share), self.share)


class OrderedSampler(Sampler[list[int]]):
    """The steps of a fixed order of samples, which begins again at its end.

    Attributes:
        batch_size: Number of samples of a step, over all processes.
        step: The next step.
    """

    drop_last = True

    def __init__(self, order: ArrayLike, regimes: Sequence[str], *, total_steps: int, batch_size: int) -> None:
        """Set up a sampler.

        Args:
            order: (N,) int64, indices of samples, any number of times each.
            regimes: The regime of every sample.
            total_steps: Number of steps.
            batch_size: Number of samples of a step, over all processes.
        """
        self._order, self._regimes = np.asarray(order, dtype=np.int64), np.asarray(regimes)
        self._total_steps, self.batch_size = total_steps, batch_size
        self.step = 0

    def __len__(self) -> int:
        """Number of steps."""
        return self._total_steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._total_steps):
            self.step = step + 1
            yield self._take(step, step + 1).tolist()

    def mixture(self, first: int = 0, last: int | None = None) -> Mixture:
        """What is drawn at the steps first <= step < last, without `last` all until now; over all processes."""
        drawn = self._regimes[self._take(first, self.step if last is None else last)]
        counts = {str(regime): int((drawn == regime).sum()) for regime in np.unique(self._regimes)}
        shares = {regime: count / max(1, len(drawn)) for regime, count in counts.items()}
        return Mixture(counts, shares, shares)

    def _take(self, first: int, last: int) -> np.ndarray:
        """The samples of the steps first <= step < last."""
        return self._order[np.arange(first * self.batch_size, last * self.batch_size) % len(self._order)]


Curriculum = CurriculumSampler | OrderedSampler


def make_curriculum(config: FinetuneConfig, samples: RecordSamples, steps: int, step_size: int) -> Curriculum:
    """Make the batches of a run.

    Args:
        config: The configuration.
        samples: The training samples.
        steps: Number of optimizer steps.
        step_size: Number of samples of a step, over all processes.

    Raises:
        ConfigError: A curriculum that these samples do not fit.
    """
    settings = config.curriculum
    seed = config.seed if config.data_seed is None else config.data_seed
    if settings.kind in ("aurora", "sequential"):
        if "instruction" in samples.sizes:
            raise ConfigError(
                f"curriculum.kind: {settings.kind} is a fixed order, into which no instruction data is mixed; "
                "set linear, temperature or proportional, or leave instruction_records out"
            )
        order = make_pass_order(settings, samples, seed) if settings.kind == "aurora" else samples.file_order
        return OrderedSampler(order, samples.regimes, total_steps=steps, batch_size=step_size)
    schedule = make_schedule(settings, _without_instructions(samples.sizes))
    if "instruction" in samples.sizes:
        schedule = InstructionSchedule(schedule, config.instruction_share)
    return CurriculumSampler(samples.sizes, schedule, total_steps=steps, batch_size=step_size, seed=seed)


def make_pass_order(settings: CurriculumSettings, samples: RecordSamples, seed: int) -> np.ndarray:
    """The order of AURORA's released training files: `passes` passes, one after the other.

    Of N atomic records, a pass takes int(N * share) without replacement, then the list of the other records, in the
    order of their files, as often as it fits whole into the rest of N. Without atomic samples (`regimes`) only the
    second part is left, and without others only the first.

    Returns:
        Indices of samples, int64.

    Raises:
        ConfigError: The other records are more than the largest rest of a pass, or no sample would be drawn.
    """
    is_atomic = np.array([regime == "atomic" for regime in samples.regimes])
    atomic = np.flatnonzero(is_atomic)
    others = samples.file_order[~is_atomic[samples.file_order]]
    order: list[np.ndarray] = []
    for number, (count, repeats) in enumerate(_plan_passes(settings, samples.atomic_records, len(others))):
        drawn = np.random.default_rng((seed, number)).permutation(atomic)[:count]
        order += [drawn, *[others] * repeats]
    if not any(map(len, order)):
        raise ConfigError("curriculum.kind: aurora draws no sample: the records are atomic and first and last are 0")
    return np.concatenate(order)


def _plan_passes(settings: CurriculumSettings, atomic_records: int, others: int) -> list[tuple[int, int]]:
    """For each pass the number of atomic samples, and how often the list of the others follows."""
    size = atomic_records or others
    counts = []
    for number in range(settings.passes):
        share = settings.first + (settings.last - settings.first) * number / max(1, settings.passes - 1)
        counts.append(int(round(size * share, 6)))
    largest = size - min(counts)
    if others > largest:
        raise ConfigError(
            f"curriculum.kind: aurora repeats the list of {others} records that are not atomic, which does not fit "
            f"into any pass: at most {largest} of its {size} samples are left. Add atomic records, lower "
            "curriculum.last, or set curriculum.kind: linear"
        )
    return [(count, (size - count) // others if others else 0) for count in counts]


def make_schedule(settings: CurriculumSettings, sizes: Mapping[str, int]) -> Schedule:
    """Make the schedule for the regimes that have records.

    Raises:
        ConfigError: A regime without a difficulty (temperature) or without a share (linear).
    """
    if settings.kind == "temperature":
        missing = [regime for regime in sizes if regime not in settings.difficulties]
        if missing:
            raise ConfigError(f"curriculum.difficulties has no difficulty for the regime {missing[0]}; add it")
        return TemperatureSchedule(
            {regime: settings.difficulties[regime] for regime in sizes}, settings.tau0, settings.lam
        )
    if settings.kind == "proportional":
        return ProportionalSchedule(dict(sizes))
    others = {regime: settings.others.get(regime, 0.0) if settings.others else 1.0 for regime in sizes}
    others.pop("atomic", None)
    if missing := [regime for regime, weight in others.items() if not weight > 0]:
        raise ConfigError(f"curriculum.others has no share for the regime {missing[0]}; add it")
    if "atomic" not in sizes:
        return ProportionalSchedule(others)
    if not others:
        return LinearSchedule(others={}, first=1.0, last=1.0)
    return LinearSchedule(others=others, first=settings.first, last=settings.last, passes=settings.passes)


def _without_instructions(sizes: Mapping[str, int]) -> dict[str, int]:
    return {regime: size for regime, size in sizes.items() if regime != "instruction"}


def count_samples(config: FinetuneConfig, sizes: Mapping[str, int]) -> int:
    """Number of samples of an epoch.

    Args:
        config: The configuration.
        sizes: Number of records of each regime in its files.

    Raises:
        ConfigError: A curriculum that these records do not fit.
    """
    trained = {regime: size for regime, size in sizes.items() if not config.regimes or regime in config.regimes}
    return _count_epoch(config.curriculum, trained, sizes.get("atomic", 0))


def _count_epoch(settings: CurriculumSettings, trained: Mapping[str, int], atomic_records: int) -> int:
    if settings.kind != "aurora":
        return sum(trained.values())
    atomic = trained.get("atomic", 0)
    others = sum(trained.values()) - atomic
    return sum(
        min(count, atomic) + repeats * others for count, repeats in _plan_passes(settings, atomic_records, others)
    )


def count_epoch_samples(config: FinetuneConfig, samples: RecordSamples) -> int:
    """Number of samples of an epoch, in which every record is drawn once; with the instruction data mixed in."""
    epoch = _count_epoch(config.curriculum, _without_instructions(samples.sizes), samples.atomic_records)
    return round(epoch / (1 - config.instruction_share)) if "instruction" in samples.sizes else epoch


def count_steps(config: FinetuneConfig, samples: RecordSamples, step_size: int) -> int:
    """Number of optimizer steps: `max_steps` where it is positive, else as many as the epochs need."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, math.ceil(config.num_train_epochs * count_epoch_samples(config, samples) / step_size))


class MicroBatches(Sampler[list[int]]):
    """The batches of one process: the steps of a curriculum, each split into equal parts.

    A step holds the same samples for any number of processes and accumulated batches.

    Attributes:
        curriculum: Gives the samples of each step.
        batch_size: Batch size of each process.
        parts: Number of batches of a step in this process.
    """

    def __init__(self, curriculum: Curriculum, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        """Set up a sampler.

        Args:
            curriculum: Gives the samples of each step.
            batch_size: Batch size of each process; times `world_size` it divides the curriculum's.
            rank: Index of this process.
            world_size: Number of processes.
        """
        assert curriculum.batch_size % (batch_size * world_size) == 0
        self.curriculum = curriculum
        self.batch_size = batch_size
        self._rank, self._world_size = rank, world_size
        self.parts = curriculum.batch_size // (batch_size * world_size)
        self.drop_last = True

    def __len__(self) -> int:
        """Number of batches of this process."""
        return len(self.curriculum) * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.curriculum:
            for part in range(self.parts):
                begin = (part * self._world_size + self._rank) * self.batch_size
                yield step[begin : begin + self.batch_size]
