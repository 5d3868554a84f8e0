"""The curriculum: Eqs. 3 and 4 of AURORA (arXiv 2412.03548, Sec. 3.4), and its released recipe.

Under Eq. 3 a falling temperature concentrates the draws on the *smallest* difficulty. The text around the equations
states the opposite: difficulties rise from the atomic task to whole chains of thought, and tau(s) shifts the draws
"toward harder tasks". Both follow from the same formulas, whose lambda has no printed sign: with -1 < lambda < 0 the
temperature *rises*, so that the draws start on the easiest task and spread out. That is the default of
`TemperatureSchedule`. It can only spread: no task becomes more likely than an easier one. The released data go further,
from 100 % atomic samples to 10 %: `LinearSchedule`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

from perceptok.errors import LossError

__all__ = [
    "CurriculumSampler",
    "LinearSchedule",
    "Mixture",
    "Schedule",
    "TemperatureSchedule",
    "curriculum_probabilities",
    "curriculum_temperature",
]


def curriculum_probabilities(difficulties: ArrayLike, temperature: float) -> np.ndarray:
    """p(d_t, s) = exp(-d_t / tau(s)) / sum_i exp(-d_i / tau(s)) (Eq. 3, as printed).

    Args:
        difficulties: (K,) finite; only their differences matter.
        temperature: tau > 0, in units of difficulty; towards 0 only the easiest task is drawn, towards inf all equally.

    Returns:
        (K,) float64, summing to 1.

    Raises:
        LossError: There is no task, a difficulty is not finite, or the temperature is not positive.
    """
    values = np.asarray(difficulties, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise LossError(f"difficulties must be a list of at least one number; got shape {values.shape}")
    if not np.isfinite(values).all():
        raise LossError(f"difficulties must be finite; got {values[~np.isfinite(values)][0]}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise LossError(f"the temperature tau must be positive and finite; got {temperature}")
    weights = np.exp((values.min() - values) / temperature)
    return np.asarray(weights / weights.sum())


def curriculum_temperature(step: int, total_steps: int, tau0: float, lam: float) -> float:
    """tau(s) = tau_0 / (1 + lambda * s / S) (Eq. 4, as printed).

    With lam > 0 it falls from tau0 to tau0 / (1 + lam), with -1 < lam < 0 it rises to that value; lam = 0 leaves it.

    Args:
        step: 0 <= step <= total_steps.
        total_steps: Positive.
        tau0: The temperature at step 0, positive.
        lam: Above -1.

    Raises:
        LossError: A value out of its range.
    """
    if not 0 <= step <= total_steps or total_steps <= 0:
        raise LossError(f"steps must be 0 <= step <= total_steps, with total_steps > 0; got {step} of {total_steps}")
    if not (tau0 > 0 and math.isfinite(tau0)):
        raise LossError(f"the temperature tau0 must be positive and finite; got {tau0}")
    if not (lam > -1 and math.isfinite(lam)):
        raise LossError(f"lam must be above -1, so that temperatures are positive; got {lam}")
    return tau0 / (1 + lam * step / total_steps)


class Schedule(Protocol):
    """The share of each task at each step."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        ...

    def probabilities(self, step: int, total_steps: int) -> np.ndarray:
        """Shares of the tasks at a step 0 <= step < total_steps: (K,), summing to 1, in the order of `tasks`."""
        ...


@dataclass(frozen=True)
class TemperatureSchedule:
    """Eq. 3 under the temperature of Eq. 4.

    Attributes:
        difficulties: Task -> difficulty d, e.g. {"atomic": 0, "cot": 1, "direct": 1}.
        tau0: Temperature at the start. 0.2 draws the atomic task of that example in 98.7 % of cases.
        lam: -0.95 raises the temperature twentyfold, to 39 % atomic at the end. Above 0 it falls, and the mixture moves
            *towards* the easiest task. The paper calls it the annealing rate and gives no value.
    """

    difficulties: Mapping[str, float]
    tau0: float = 0.2
    lam: float = -0.95

    def __post_init__(self) -> None:
        _check_tasks(self.tasks)
        self.probabilities(0, 1)
        self.probabilities(1, 1)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.difficulties)

    def probabilities(self, step: int, total_steps: int) -> np.ndarray:
        """Shares of the tasks at a step 0 <= step <= total_steps: (K,), summing to 1, in the order of `tasks`."""
        temperature = curriculum_temperature(step, total_steps, self.tau0, self.lam)
        return curriculum_probabilities(list(self.difficulties.values()), temperature)


@dataclass(frozen=True)
class LinearSchedule:
    """The released recipe (Sec. 8): ten passes, in which the share of atomic samples falls 100 %, 90 %, ... 10 %.

    In the paper the two other questions of an image, with and without reasoning, follow each other; here every task has
    an order of its own.

    Attributes:
        atomic: Tasks of the first passes; their shares are equal.
        others: Task -> relative weight in the remaining share, e.g. {"cot": 1, "direct": 1}.
        first: Share of atomic samples in the first pass.
        last: Share in the last pass.
        passes: Number of passes of equal length; with more passes than steps the share falls at every step.
    """

    atomic: Sequence[str] = ("atomic",)
    others: Mapping[str, float] = field(default_factory=lambda: {"cot": 1.0, "direct": 1.0})
    first: float = 1.0
    last: float = 0.1
    passes: int = 10

    def __post_init__(self) -> None:
        _check_tasks(self.atomic)
        _check_tasks(self.tasks)
        for name in ("first", "last"):
            if not 0 <= getattr(self, name) <= 1:
                raise LossError(f"{name} must be a share in 0..1; got {getattr(self, name)}")
        if self.passes < 1:
            raise LossError(f"passes must be at least 1; got {self.passes}")
        if not all(weight > 0 and math.isfinite(weight) for weight in self.others.values()):
            raise LossError(f"weights must be positive and finite; got {dict(self.others)}")
        if not self.others and (self.first < 1 or self.last < 1):
            raise LossError("without other tasks the atomic share must be 1 throughout; name the others")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, atomic ones first."""
        return (*self.atomic, *self.others)

    def probabilities(self, step: int, total_steps: int) -> np.ndarray:
        """Shares of the tasks at a step 0 <= step <= total_steps: (K,), summing to 1; LossError for another step."""
        if not 0 <= step <= total_steps or total_steps <= 0:
            raise LossError(f"steps must be 0 <= step <= total_steps; got {step} of {total_steps}")
        number = min(self.passes - 1, step * self.passes // total_steps)
        share = self.first + (self.last - self.first) * number / max(1, self.passes - 1)
        weights = np.array(list(self.others.values()))
        return np.concatenate(
            [np.full(len(self.atomic), share / len(self.atomic)), (1 - share) * weights / max(weights.sum(), 1e-300)]
        )


def _check_tasks(tasks: Sequence[str]) -> None:
    if isinstance(tasks, str) or not tasks:
        raise LossError(f"a curriculum needs at least one task, by name; got {tasks!r}")
    if len(set(tasks)) < len(tasks):
        raise LossError(f"a task is named twice: {', '.join(tasks)}")


_GOLDEN = (5**0.5 - 1) / 2


class Mixture(NamedTuple):
    """The samples that a curriculum drew over some steps.

    Attributes:
        counts: Task -> samples drawn, over all processes.
        shares: Task -> share of all samples, 0 where nothing was drawn.
        expected: Task -> the mean of the schedule's shares over the same steps.
    """

    counts: dict[str, int]
    shares: dict[str, float]
    expected: dict[str, float]


class CurriculumSampler(Sampler[list[int]]):
    """A batch sampler whose mixture of tasks follows a schedule.

    Every batch mixes the tasks: its counts are the schedule's shares of the batch, rounded so that no task deviates by
    a whole sample in a batch, nor by more than a few samples in many batches. Within a task every sample is drawn once
    before any is drawn again. All draws are functions of the seed and the step, so that processes agree without
    communication, and a resumed run draws the same samples.

    For `DataLoader(dataset, batch_sampler=sampler)`, over the tasks' concatenated datasets
    (`torch.utils.data.ConcatDataset`). With Accelerate keep the defaults of `rank` and `world_size`:
    `accelerator.prepare` distributes batches (or, with `split_batches`, parts of them) to processes itself; the number
    of steps should be a multiple of the processes, or the last batches are omitted. Without Accelerate give both, and
    each process gets its part of every batch.

    Every iteration begins at the first step, as with other samplers; after `load_state_dict` the next iteration begins
    at the saved step. Accelerate's `skip_first_batches` does the same without a state.

    Attributes:
        step: The next step to draw.
        batch_size: Samples of a step in this process.
        drop_last: True: every batch is full.
    """

    drop_last = True

    def __init__(
        self,
        sizes: Mapping[str, int],
        schedule: Schedule,
        *,
        total_steps: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Create the sampler.

        Args:
            sizes: Task -> number of samples, in the order in which the datasets are concatenated.
            schedule: Shares of the same tasks; `LinearSchedule()` is the released recipe.
            total_steps: Batches of the whole curriculum.
            batch_size: Samples of a step over all processes.
            seed: The seed of the order of samples.
            rank: This process, 0 <= rank < world_size.
            world_size: Processes; divides the batch size.

        Raises:
            LossError: There is no task, a task is empty, the schedule has other tasks, or a number is out of range.
        """
        _check(sizes, schedule, total_steps, batch_size, seed, rank, world_size)
        self.sizes = dict(sizes)
        self.schedule = schedule
        self.total_steps = total_steps
        self.batch_size = batch_size // world_size
        self.step = 0
        self._first = 0
        self._global_batch = batch_size
        self._seed = seed
        self._rank = rank
        self._order = [schedule.tasks.index(task) for task in self.sizes]
        self._offset = float(np.random.default_rng(seed).random())
        # Where a task's samples begin in the concatenated datasets.
        self._begin = np.cumsum([0, *self.sizes.values()])
        self._shuffled: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        """Batches of an iteration."""
        return self.total_steps - self._first

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of this process, from the first step, or from that of a loaded state, to the last."""
        self.step = self._first
        drawn = self._count_drawn(0, self.step)
        while self.step < self.total_steps:
            counts = self._counts(self.step)
            batch = np.concatenate([self._samples(task, drawn[task], counts[task]) for task in range(len(counts))])
            drawn = drawn + counts
            np.random.default_rng((self._seed, 1, self.step)).shuffle(batch)
            self.step += 1
            yield batch[self._rank * self.batch_size : (self._rank + 1) * self.batch_size].tolist()
        self._first = 0

    def mixture(self, first: int = 0, last: int | None = None) -> Mixture:
        """The samples drawn at the steps first <= step < last (until now where None), over all processes.

        Raises:
            LossError: Steps that are not drawn yet, or `last` before `first`.
        """
        end = self.step if last is None else last
        if not 0 <= first <= end <= self.total_steps:
            raise LossError(f"steps must be 0 <= first <= last <= {self.total_steps}; got {first} and {end}")
        counts = self._count_drawn(first, end)
        expected = np.zeros(len(counts))
        for step in range(first, end):
            expected += self._shares(step) / (end - first)
        return Mixture(
            {task: int(count) for task, count in zip(self.sizes, counts, strict=True)},
            {task: float(count / max(1, counts.sum())) for task, count in zip(self.sizes, counts, strict=True)},
            {task: float(share) for task, share in zip(self.sizes, expected, strict=True)},
        )

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """The state to save, for `load_state_dict`.

        Args:
            step: Number of trained steps. Where None, the number of batches that were yielded, which is greater
                where a `DataLoader` with workers (or Accelerate) prefetches.

        Raises:
            LossError: The step is out of range.
        """
        step = self.step if step is None else step
        if not 0 <= step <= self.total_steps:
            raise LossError(f"steps must be 0..{self.total_steps}; got {step}")
        return {**self._identity(), "step": step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at a saved step; raises LossError for the state of another curriculum."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise LossError(f"the state is of another curriculum: {name} was {state.get(name)}, now {value}")
        if not 0 <= int(state["step"]) <= self.total_steps:
            raise LossError(f"steps must be 0..{self.total_steps}; the state has {state['step']}")
        self.step = self._first = int(state["step"])

    def _identity(self) -> dict[str, Any]:
        return {
            "sizes": self.sizes,
            "schedule": repr(self.schedule),
            "total_steps": self.total_steps,
            "batch_size": self._global_batch,
            "seed": self._seed,
        }

    def _shares(self, step: int) -> np.ndarray:
        shares = np.asarray(self.schedule.probabilities(step, self.total_steps), dtype=np.float64)
        # NaN fails every comparison, so it cannot slip through.
        if shares.shape != (len(self._order),) or not ((shares >= 0).all() and abs(shares.sum() - 1) < 1e-6):
            raise LossError(
                f"shares must be at least 0 and sum to 1, one for each of {len(self._order)} tasks; the schedule gave "
                f"{shares.tolist()} at step {step}"
            )
        return shares[self._order]

    def _counts(self, step: int) -> np.ndarray:
        """Number of samples of each task at a step: of the points of a shifted grid in each task's interval.

        The shift follows the golden ratio, whose multiples fill [0, 1) more evenly than random numbers.
        """
        edges = np.concatenate([[0.0], np.cumsum(self._shares(step))]).clip(max=1.0) * self._global_batch
        edges[-1] = self._global_batch
        shift = (self._offset + step * _GOLDEN) % 1.0
        return np.diff(np.floor(edges + shift)).astype(np.int64)

    def _count_drawn(self, first: int, last: int) -> np.ndarray:
        drawn = np.zeros(len(self.sizes), dtype=np.int64)
        for step in range(first, last):
            drawn += self._counts(step)
        return drawn

    def _samples(self, task: int, first: int, count: int) -> np.ndarray:
        """The task's draws first .. first + count - 1, of consecutive permutations of its samples."""
        size = self._begin[task + 1] - self._begin[task]
        number = np.arange(first, first + count)
        chosen = np.empty(count, dtype=np.int64)
        for epoch in range(first // size, (first + count - 1) // size + 1):
            in_epoch = number // size == epoch
            chosen[in_epoch] = self._permutation(task, epoch)[number[in_epoch] % size]
        return chosen + int(self._begin[task])

    def _permutation(self, task: int, epoch: int) -> np.ndarray:
        if (task, epoch) not in self._shuffled:
            # An epoch of a task ends before the next begins.
            self._shuffled = {key: order for key, order in self._shuffled.items() if key[0] != task}
            size = int(self._begin[task + 1] - self._begin[task])
            self._shuffled[task, epoch] = np.random.default_rng((self._seed, 2, task, epoch)).permutation(size)
        return self._shuffled[task, epoch]


def _check(
    sizes: Mapping[str, int],
    schedule: Schedule,
    total_steps: int,
    batch_size: int,
    seed: int,
    rank: int,
    world_size: int,
) -> None:
    if not sizes:
        raise LossError("a curriculum needs at least one task; got none")
    if set(sizes) != set(schedule.tasks):
        raise LossError(f"the samples have the tasks {', '.join(sizes)}, the schedule {', '.join(schedule.tasks)}")
    for task, size in sizes.items():
        if type(size) is not int or size < 1:
            raise LossError(f"sizes must be numbers of samples, at least 1 for each task; got {size!r} for {task}")
    if total_steps < 1 or batch_size < 1:
        raise LossError(f"total_steps and batch_size must be positive; got {total_steps} and {batch_size}")
    if seed < 0:
        raise LossError(f"the seed must not be negative; got {seed}")
    if not 0 <= rank < world_size or batch_size % world_size:
        raise LossError(
            f"ranks must be 0..{world_size - 1} and the batch size a multiple of the number of processes; got rank "
            f"{rank}, batch size {batch_size}"
        )
