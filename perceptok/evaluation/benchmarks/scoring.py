"""Accuracy with an interval, by groups; two systems compared on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perceptok.errors import EvaluationError
from perceptok.evaluation.answers import Reading
from perceptok.evaluation.benchmarks.items import Benchmark, Item
from perceptok.evaluation.benchmarks.predictions import check_predictions
from perceptok.evaluation.written import read_written

__all__ = ["Comparison", "Outcome", "Score", "Scores", "accuracy", "compare", "evaluate", "outcome_of"]

_RESAMPLES = 20_000


class Score(NamedTuple):
    """Accuracy of some items.

    Attributes:
        items: How many.
        right: How many are answered right.
        accuracy: Their share, 0..1.
        low: Lower end of the bootstrap 95 % interval.
        high: Upper end.
        unparsed: How many texts give no answer of the choices; they count as wrong.
        invalid: How many texts hold a malformed block or box, whatever they answer.
    """

    items: int
    right: int
    accuracy: float
    low: float
    high: float
    unparsed: int
    invalid: int


@dataclass(frozen=True)
class Outcome:
    """One item's result: what was written, what it answers, and what is malformed in it."""

    item: Item
    text: str | None
    reading: Reading
    problems: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the answer is the item's."""
        return self.reading.value == self.item.answer


@dataclass(frozen=True)
class Scores:
    """A system's scores on a benchmark.

    Attributes:
        benchmark: Its name.
        overall: All items.
        groups: Breakdown -> value -> score, such as "markers" -> "5".
        outcomes: Item by item, in the benchmark's order.
        published: What others report on it, in percent.
    """

    benchmark: str
    overall: Score
    groups: Mapping[str, Mapping[str, Score]]
    outcomes: tuple[Outcome, ...]
    published: Mapping[str, float]


class Comparison(NamedTuple):
    """System a against system b on the same items.

    Attributes:
        items: How many.
        a: Accuracy of a.
        b: Accuracy of b.
        difference: a - b.
        low: Lower end of the paired bootstrap 95 % interval of the difference.
        high: Upper end.
        only_a: Items that only a answers right.
        only_b: Items that only b answers right.
        p_value: McNemar's exact test that both are right equally often.
    """

    items: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p_value: float


def evaluate(predictions: Mapping[str, str], benchmark: Benchmark, *, missing: bool = False, seed: int = 0) -> Scores:
    """Score texts by the one rule: exact match of the answer that `read_answer` finds.

    Args:
        predictions: Id of an item -> what a system wrote.
        benchmark: The items.
        missing: Let items without a prediction count as unparsed, instead of refusing.
        seed: Of the bootstrap.

    Raises:
        EvaluationError: Predictions of other items, or missing ones.
    """
    check_predictions(dict(predictions), benchmark, missing=missing)
    outcomes = tuple(outcome_of(item, predictions.get(item.id)) for item in benchmark.items)
    groups: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        for name, value in outcome.item.groups.items():
            groups.setdefault(name, {}).setdefault(value, []).append(outcome)
    broken_down = {
        name: {value: accuracy(values[value], seed) for value in sorted(values, key=_by_number)}
        for name, values in groups.items()
    }
    return Scores(benchmark.name, accuracy(outcomes, seed), broken_down, outcomes, benchmark.published)


def accuracy(outcomes: Sequence[Outcome], seed: int = 0) -> Score:
    """The score of some outcomes.

    The bootstrap draws n of n items with replacement. How many of them are right is a binomial number, which is drawn
    as such: the same distribution without n draws each time.
    """
    items, right = len(outcomes), sum(one.right for one in outcomes)
    if not items:
        raise EvaluationError("there is nothing to score")
    drawn = np.random.default_rng(seed).binomial(items, right / items, _RESAMPLES) / items
    low, high = np.percentile(drawn, (2.5, 97.5))
    unparsed = sum(one.reading.value is None for one in outcomes)
    return Score(
        items, right, right / items, float(low), float(high), unparsed, sum(bool(one.problems) for one in outcomes)
    )


def compare(a: Scores, b: Scores, *, seed: int = 0) -> Comparison:
    """Compare two systems item by item: paired bootstrap and McNemar's exact test.

    Raises:
        EvaluationError: They answered other items.
    """
    if [one.item.id for one in a.outcomes] != [one.item.id for one in b.outcomes]:
        raise EvaluationError(f"both systems have to answer the same items; got {a.benchmark} and {b.benchmark}")
    from scipy.stats import binomtest

    first, second = (np.array([one.right for one in scores.outcomes]) for scores in (a, b))
    items, only_a, only_b = len(first), int((first & ~second).sum()), int((~first & second).sum())
    shares = [only_a / items, only_b / items, 1 - (only_a + only_b) / items]
    drawn = np.random.default_rng(seed).multinomial(items, shares, _RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / items, (2.5, 97.5))
    differing = only_a + only_b
    p_value = float(binomtest(only_a, differing, 0.5).pvalue) if differing else 1.0
    difference = (only_a - only_b) / items
    return Comparison(
        items, float(first.mean()), float(second.mean()), difference, float(low), float(high), only_a, only_b, p_value
    )


def outcome_of(item: Item, text: str | None) -> Outcome:
    """What one text is worth as the answer to an item; without a text it is unparsed."""
    if text is None:
        return Outcome(item, None, Reading(None, "no prediction"), ())
    return Outcome(item, text, item.read(text), read_written(text).problems)


def _by_number(value: str) -> tuple[float, str]:
    return (float(value) if value.isdecimal() else float("inf"), value)
