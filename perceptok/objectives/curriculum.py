"""Which task to train on when: Eqs. 3 and 4 of AURORA (arXiv 2412.03548, Sec. 3.4), and its released recipe.

Under Eq. 3 a falling temperature moves the draw to the *smallest* difficulty: what is easy at the start is nearly all
there is at the end. The text around the equations wants the opposite: difficulties rise from the atomic task to whole
chains of thought, and tau(s) is to shift the draw "toward harder tasks". Both are to be had from the same formulas,
whose lambda has no printed sign: with -1 < lambda < 0 the temperature *rises*, so that the draw starts on the easiest
task and spreads out. `TemperatureSchedule` does that unless told otherwise. It can only spread: no task overtakes an
easier one. The released data go further, from 100 % atomic samples to 10 %: `LinearSchedule`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from perceptok.errors import ObjectiveError

__all__ = ["LinearSchedule", "Schedule", "TemperatureSchedule", "curriculum_probabilities", "curriculum_temperature"]


def curriculum_probabilities(difficulties: ArrayLike, temperature: float) -> np.ndarray:
    """p(d_t, s) = exp(-d_t / tau(s)) / sum_i exp(-d_i / tau(s)) (Eq. 3, as printed).

    Args:
        difficulties: (K,) finite; only differences matter.
        temperature: tau > 0, in units of difficulty: near 0 the easiest task alone is drawn, far above all alike.

    Returns:
        (K,) float64, summing to 1.

    Raises:
        ObjectiveError: No task, a difficulty that is not finite, or a temperature that is not positive.
    """
    values = np.asarray(difficulties, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ObjectiveError(f"difficulties are a list of at least one number; got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ObjectiveError(f"difficulties are finite; got {values[~np.isfinite(values)][0]}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ObjectiveError(f"the temperature tau is positive and finite; got {temperature}")
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
        ObjectiveError: A value out of its range.
    """
    if not 0 <= step <= total_steps or total_steps <= 0:
        raise ObjectiveError(f"steps are 0 <= step <= total_steps, with total_steps > 0; got {step} of {total_steps}")
    if not (tau0 > 0 and math.isfinite(tau0)):
        raise ObjectiveError(f"the temperature tau0 is positive and finite; got {tau0}")
    if not (lam > -1 and math.isfinite(lam)):
        raise ObjectiveError(f"lam is above -1, or the temperature leaves the positive numbers; got {lam}")
    return tau0 / (1 + lam * step / total_steps)


class Schedule(Protocol):
    """How often each task is drawn, step by step."""

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
        """Shares of the tasks at a step; see `Schedule`."""
        temperature = curriculum_temperature(step, total_steps, self.tau0, self.lam)
        return curriculum_probabilities(list(self.difficulties.values()), temperature)


@dataclass(frozen=True)
class LinearSchedule:
    """The released recipe (Sec. 8): ten passes, in which the share of atomic samples falls 100 %, 90 %, ... 10 %.

    The paper besides asks an image's two other questions, with and without reasoning, one right after the other; here
    every task has an order of its own.

    Attributes:
        atomic: Tasks that are learned first; they share their part equally.
        others: Task -> relative weight in the rest, e.g. {"cot": 1, "direct": 1}.
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
                raise ObjectiveError(f"{name} is a share in 0..1; got {getattr(self, name)}")
        if self.passes < 1:
            raise ObjectiveError(f"passes is at least 1; got {self.passes}")
        if not all(weight > 0 and math.isfinite(weight) for weight in self.others.values()):
            raise ObjectiveError(f"weights are positive and finite; got {dict(self.others)}")
        if not self.others and (self.first < 1 or self.last < 1):
            raise ObjectiveError("without other tasks the atomic share is 1 throughout; name the others")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, atomic ones first."""
        return (*self.atomic, *self.others)

    def probabilities(self, step: int, total_steps: int) -> np.ndarray:
        """Shares of the tasks at a step; see `Schedule`. Raises ObjectiveError for a step beyond the run."""
        if not 0 <= step <= total_steps or total_steps <= 0:
            raise ObjectiveError(f"steps are 0 <= step <= total_steps; got {step} of {total_steps}")
        number = min(self.passes - 1, step * self.passes // total_steps)
        share = self.first + (self.last - self.first) * number / max(1, self.passes - 1)
        weights = np.array(list(self.others.values()))
        return np.concatenate(
            [np.full(len(self.atomic), share / len(self.atomic)), (1 - share) * weights / max(weights.sum(), 1e-300)]
        )


def _check_tasks(tasks: Sequence[str]) -> None:
    if isinstance(tasks, str) or not tasks:
        raise ObjectiveError(f"a curriculum has at least one task, by name; got {tasks!r}")
    if len(set(tasks)) < len(tasks):
        raise ObjectiveError(f"a task is named twice: {', '.join(tasks)}")
