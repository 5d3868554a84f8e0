"""Batches that follow a curriculum: `CurriculumSampler`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from perceptok.errors import ObjectiveError
from perceptok.objectives.curriculum import Schedule

__all__ = ["CurriculumSampler", "Mixture"]

_GOLDEN = (5**0.5 - 1) / 2


class Mixture(NamedTuple):
    """What a curriculum drew over some steps.

    Attributes:
        counts: Task -> samples drawn, over all processes.
        shares: Task -> part of all samples, 0 where nothing was drawn.
        expected: Task -> the mean of the schedule's shares over the same steps.
    """

    counts: dict[str, int]
    shares: dict[str, float]
    expected: dict[str, float]


class CurriculumSampler(Sampler[list[int]]):
    """A batch sampler whose mixture of tasks follows a schedule.

    Every batch mixes the tasks: its counts are the schedule's shares of the batch, rounded so that no task is ever off
    by a whole sample in a batch, nor the sum over many batches off by more than a few. Within a task every sample is
    drawn once before any is drawn again. All of it is a function of the seed and the step's number, so that processes
    agree without talking, and a run resumed at a step draws what it would have drawn.

    For `DataLoader(dataset, batch_sampler=sampler)`, over the tasks' datasets one after the other
    (`torch.utils.data.ConcatDataset`). With Accelerate leave `rank` and `world_size` alone: `accelerator.prepare` hands
    batches (or, with `split_batches`, parts of them) to processes itself; let the number of steps be a multiple of the
    processes, or the last batches are left out. Without it give both, and each process gets its part of every batch.

    Every iteration begins at the first step, as with other samplers; after `load_state_dict` the next one begins at
    the step that was saved. Accelerate's own way to go on, `skip_first_batches`, does the same without a state.

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
        """Set up a curriculum.

        Args:
            sizes: Task -> number of samples, in the order in which the datasets are concatenated.
            schedule: Shares of the same tasks; `LinearSchedule()` is the released recipe.
            total_steps: Batches of the whole curriculum.
            batch_size: Samples of a step over all processes.
            seed: Of the order of samples.
            rank: This process, 0 <= rank < world_size.
            world_size: Processes; divides the batch size.

        Raises:
            ObjectiveError: No task, an empty task, tasks that the schedule does not have or lacks, or sizes that do not
                fit.
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
        """Batches of this process, from the first step, or the one that a state said, to the last."""
        self.step = self._first
        drawn = self._drawn(0, self.step)
        while self.step < self.total_steps:
            counts = self._counts(self.step)
            batch = np.concatenate([self._samples(task, drawn[task], counts[task]) for task in range(len(counts))])
            drawn = drawn + counts
            np.random.default_rng((self._seed, 1, self.step)).shuffle(batch)
            self.step += 1
            yield batch[self._rank * self.batch_size : (self._rank + 1) * self.batch_size].tolist()
        self._first = 0

    def mixture(self, first: int = 0, last: int | None = None) -> Mixture:
        """What was drawn at the steps first <= step < last, without `last` all until now; over all processes.

        Raises:
            ObjectiveError: Steps that were not drawn yet, or a `last` before `first`.
        """
        end = self.step if last is None else last
        if not 0 <= first <= end <= self.total_steps:
            raise ObjectiveError(f"steps are 0 <= first <= last <= {self.total_steps}; got {first} and {end}")
        counts = self._drawn(first, end)
        expected = np.zeros(len(counts))
        for step in range(first, end):
            expected += self._shares(step) / (end - first)
        return Mixture(
            {task: int(count) for task, count in zip(self.sizes, counts, strict=True)},
            {task: float(count / max(1, counts.sum())) for task, count in zip(self.sizes, counts, strict=True)},
            {task: float(share) for task, share in zip(self.sizes, expected, strict=True)},
        )

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """Where to go on.

        Args:
            step: The number of steps that have been trained, of all processes. Without it, the number of batches
                handed out, which is more where a `DataLoader` with workers (or Accelerate) fetches ahead.

        Raises:
            ObjectiveError: A step that the run does not have.
        """
        at = self.step if step is None else step
        if not 0 <= at <= self.total_steps:
            raise ObjectiveError(f"steps are 0..{self.total_steps}; got {at}")
        return {**self._identity(), "step": at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at a saved step; raises ObjectiveError where the curriculum is another one."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ObjectiveError(
                    f"the state belongs to another curriculum: {name} was {state.get(name)}, now {value}"
                )
        if not 0 <= int(state["step"]) <= self.total_steps:
            raise ObjectiveError(f"steps are 0..{self.total_steps}; the state says {state['step']}")
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
            raise ObjectiveError(
                f"shares are at least 0 and sum to 1, one for each of {len(self._order)} tasks; the schedule gave "
                f"{shares.tolist()} at step {step}"
            )
        return shares[self._order]

    def _counts(self, step: int) -> np.ndarray:
        """Samples of each task at a step: how many points of a shifted grid fall into each task's interval.

        The shift follows the golden ratio, whose multiples fill [0, 1) more evenly than random numbers.
        """
        edges = np.concatenate([[0.0], np.cumsum(self._shares(step))]).clip(max=1.0) * self._global_batch
        edges[-1] = self._global_batch
        shift = (self._offset + step * _GOLDEN) % 1.0
        return np.diff(np.floor(edges + shift)).astype(np.int64)

    def _drawn(self, first: int, last: int) -> np.ndarray:
        drawn = np.zeros(len(self.sizes), dtype=np.int64)
        for step in range(first, last):
            drawn += self._counts(step)
        return drawn

    def _samples(self, task: int, first: int, count: int) -> np.ndarray:
        """The task's draws number first .. first + count - 1: one permutation of its samples after another."""
        size = self._begin[task + 1] - self._begin[task]
        number = np.arange(first, first + count)
        chosen = np.empty(count, dtype=np.int64)
        for epoch in range(first // size, (first + count - 1) // size + 1):
            here = number // size == epoch
            chosen[here] = self._permutation(task, epoch)[number[here] % size]
        return chosen + int(self._begin[task])

    def _permutation(self, task: int, epoch: int) -> np.ndarray:
        if (task, epoch) not in self._shuffled:
            # One epoch of a task is over before the next begins.
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
        raise ObjectiveError("a curriculum has at least one task; got none")
    if set(sizes) != set(schedule.tasks):
        raise ObjectiveError(
            f"the samples are of the tasks {', '.join(sizes)}, the schedule knows {', '.join(schedule.tasks)}"
        )
    for task, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ObjectiveError(f"sizes are numbers of samples, at least 1 for each task; got {size!r} for {task}")
    if total_steps < 1 or batch_size < 1:
        raise ObjectiveError(f"total_steps and batch_size are positive; got {total_steps} and {batch_size}")
    if seed < 0:
        raise ObjectiveError(f"a seed is not negative; got {seed}")
    if not 0 <= rank < world_size or batch_size % world_size:
        raise ObjectiveError(
            f"ranks are 0..{world_size - 1} and the batch size is a multiple of the number of processes; got rank "
            f"{rank}, batch size {batch_size}"
        )
