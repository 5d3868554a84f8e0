"""Scores: accuracy with a confidence interval, by groups, and two systems compared on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from perceptok.decoding import AnswerReading, read_evidence
from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks import Benchmark, BenchmarkItem
from perceptok.evaluation.dataset_rows import read_json_lines
from perceptok.evaluation.judging import Judge, JudgeReport

__all__ = [
    "Comparison",
    "Outcome",
    "Prediction",
    "Score",
    "Scores",
    "compare_scores",
    "compute_interval",
    "compute_score",
    "evaluate",
    "read_predictions",
    "score_text",
]

_ID_KEYS = ("question_id", "id", "idx", "name")
_TEXT_KEYS = ("text", "prediction", "output", "response", "answer")
_RESAMPLES = 20_000


class Prediction(NamedTuple):
    """A system's text with an answer that was not read from the text, but for example off a decoded map.

    Attributes:
        text: What the system wrote.
        read: The answer; None where there is none.
    """

    text: str
    read: str | None


class Score(NamedTuple):
    """Accuracy on some items.

    Attributes:
        items: Number of items.
        right: Number of correct answers.
        accuracy: right / items, 0..1.
        low: Lower end of Wilson's 95 % confidence interval.
        high: Upper end.
        unparsed: Number of texts without an answer that can be read; they count as wrong.
        invalid: Number of texts with a malformed block or box, whatever they answer.
        judged: Number of answers that a judge extracted; the others were read by rules.
    """

    items: int
    right: int
    accuracy: float
    low: float
    high: float
    unparsed: int
    invalid: int
    judged: int = 0


@dataclass(frozen=True)
class Outcome:
    """The result on one item.

    Attributes:
        item: The item.
        text: What the system wrote; None without a prediction.
        reading: The answer that was read from the text.
        problems: What is malformed in the text.
        reader: What the answer was read by: the "rules" of `read_answer`, or a "judge"; "tokens" where the pipeline
            reads it off the map or the boxes.
    """

    item: BenchmarkItem
    text: str | None
    reading: AnswerReading
    problems: tuple[str, ...]
    reader: Literal["rules", "judge", "tokens"] = "rules"

    @property
    def right(self) -> bool:
        """Whether the answer is the item's."""
        return self.reading.value == self.item.answer


@dataclass(frozen=True)
class Scores:
    """A system's scores on a benchmark.

    Attributes:
        benchmark: The benchmark's name.
        overall: The score on all items.
        groups: Breakdown -> value -> score, such as "markers" -> "5".
        outcomes: Item by item, in the benchmark's order.
        published: System -> accuracy in percent that its authors report.
        judge: What the judge did; None without one.
        by_rules: The score on all items without the judge's answers; None without a judge.
    """

    benchmark: str
    overall: Score
    groups: Mapping[str, Mapping[str, Score]]
    outcomes: tuple[Outcome, ...]
    published: Mapping[str, float]
    judge: JudgeReport | None = None
    by_rules: Score | None = None


class Comparison(NamedTuple):
    """System a against system b on the same items.

    Attributes:
        items: Number of items.
        a: Accuracy of a, 0..1.
        b: Accuracy of b.
        difference: a - b.
        low: Lower end of the paired bootstrap 95 % confidence interval of the difference.
        high: Upper end.
        only_a: Number of items that only a answers correctly.
        only_b: Number of items that only b answers correctly.
        p_value: Of McNemar's exact test that both are correct equally often.
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


def read_predictions(path: str | Path) -> dict[str, str | Prediction]:
    """Read predictions of any system: id -> text.

    Each line is a JSON object with an id (`question_id`, `id`, `idx` or `name`) and a text (`text`, `prediction`,
    `output`, `response` or `answer`); the first of each that is present is taken. A line with the key `read` gives a
    `Prediction`.

    Raises:
        EvaluationError: The file cannot be read, a line is not UTF-8 or lacks either, or an id occurs twice; the
            message names the line.
    """
    predictions: dict[str, str | Prediction] = {}
    for place, row in read_json_lines(Path(path)):
        item_id = next((row[key] for key in _ID_KEYS if row.get(key) is not None), None)
        text = next((row[key] for key in _TEXT_KEYS if row.get(key) is not None), None)
        if item_id is None or not isinstance(text, str | int):
            raise EvaluationError(
                f"{place}: a prediction has an id ({', '.join(_ID_KEYS)}) and a text ({', '.join(_TEXT_KEYS)})"
            )
        if str(item_id) in predictions:
            raise EvaluationError(f"{place}: the id {item_id!r} occurs twice; keep one prediction for each question")
        read = row.get("read")
        if not isinstance(read, str | None):
            raise EvaluationError(f"{place}: read is an answer in text, or null; got {read!r:.60}")
        predictions[str(item_id)] = Prediction(str(text), read) if "read" in row else str(text)
    if not predictions:
        raise EvaluationError(f"{path} contains no predictions")
    return predictions


def evaluate(
    predictions: Mapping[str, str | Prediction],
    benchmark: Benchmark,
    *,
    missing: bool = False,
    judge: Judge | None = None,
) -> Scores:
    """Score texts by one rule: exact match of the answer that `read_answer` finds.

    Args:
        predictions: Id of an item -> what a system wrote; a `Prediction` is scored by its own answer.
        benchmark: The items.
        missing: Count items without a prediction as unparsed, instead of refusing them.
        judge: Extracts answers from the texts that `read_answer` leaves unread, but for atomic questions.

    Raises:
        EvaluationError: Predictions of other items, or missing ones.
        OutputError: The judge's cache cannot be used.
    """
    _check_ids(predictions, benchmark, missing)
    outcomes = tuple(score_text(item, predictions.get(item.id)) for item in benchmark.items)
    report, by_rules = None, None
    if judge is not None:
        by_rules = compute_score(outcomes)
        outcomes, report = _read_by_judge(outcomes, predictions, judge)
    groups: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        for name, value in outcome.item.groups.items():
            groups.setdefault(name, {}).setdefault(value, []).append(outcome)
    group_scores = {
        name: {value: compute_score(values[value]) for value in sorted(values, key=_numeric_first)}
        for name, values in groups.items()
    }
    overall = compute_score(outcomes)
    return Scores(benchmark.name, overall, group_scores, outcomes, benchmark.published, report, by_rules)


def _read_by_judge(
    outcomes: Sequence[Outcome], predictions: Mapping[str, str | Prediction], judge: Judge
) -> tuple[tuple[Outcome, ...], JudgeReport]:
    """Give a judge the texts that were left unread; answers that were read off tokens have no text to read."""
    unread = {
        place: (outcome.item, text)
        for place, outcome in enumerate(outcomes)
        if outcome.reading.value is None
        and outcome.item.target == "answer"
        and isinstance(text := predictions.get(outcome.item.id), str)
    }
    readings, report = judge.read(list(unread.values()))
    found = list(outcomes)
    for place, reading in zip(unread, readings, strict=True):
        if reading.value is None:
            reading = reading._replace(reason=f"{found[place].reading.reason}; {reading.reason}")
            found[place] = replace(found[place], reading=reading)
        else:
            found[place] = replace(found[place], reading=reading, reader="judge")
    return tuple(found), report


def _check_ids(predictions: Mapping[str, object], benchmark: Benchmark, missing: bool) -> None:
    known = {item.id for item in benchmark.items}
    if unknown := sorted(predictions.keys() - known):
        raise EvaluationError(
            f"{len(unknown)} of {len(predictions)} predictions do not belong to a question of {benchmark.name}, such "
            f"as {unknown[0]!r}: is this another benchmark's file?"
        )
    if not missing and (absent := sorted(known - predictions.keys())):
        raise EvaluationError(
            f"{len(absent)} of {len(known)} questions of {benchmark.name} have no prediction, such as {absent[0]!r}; "
            "allow it (--missing) to count them as wrong"
        )


def _numeric_first(value: str) -> tuple[float, str]:
    return (float(value) if value.isdecimal() else float("inf"), value)


def score_text(item: BenchmarkItem, text: str | Prediction | None) -> Outcome:
    """Read one text as the answer to an item; None, no prediction, is unparsed."""
    if text is None:
        return Outcome(item, None, AnswerReading(None, "no prediction"), ())
    if isinstance(text, Prediction):
        reading = AnswerReading(text.read, "read off the perception tokens")
        return Outcome(item, text.text, reading, read_evidence(text.text).problems, "tokens")
    return Outcome(item, text, item.read(text), read_evidence(text).problems)


def compute_interval(count: int, items: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of the proportion count / items, within 0..1.

    It has a length above 0 for 0 of n and n of n too, where a bootstrap has none (Brown, Cai, DasGupta: Interval
    estimation for a binomial proportion, 2001).

    Raises:
        EvaluationError: No items, or a count outside 0..items.
    """
    if not 0 <= count <= items or not items:
        raise EvaluationError(f"a proportion is a count of at least one item; got {count} of {items}")
    from scipy.stats import binomtest

    interval = binomtest(count, items).proportion_ci(0.95, method="wilson")
    return min(float(interval.low), count / items), max(float(interval.high), count / items)


def compute_score(outcomes: Sequence[Outcome]) -> Score:
    """Accuracy of some outcomes with Wilson's 95 % confidence interval.

    Raises:
        EvaluationError: No outcomes.
    """
    items, right = len(outcomes), sum(outcome.right for outcome in outcomes)
    if not items:
        raise EvaluationError("no items to score")
    low, high = compute_interval(right, items)
    unparsed = sum(outcome.reading.value is None for outcome in outcomes)
    invalid = sum(bool(outcome.problems) for outcome in outcomes)
    judged = sum(outcome.reader == "judge" for outcome in outcomes)
    return Score(items, right, right / items, low, high, unparsed, invalid, judged)


def compare_scores(a: Scores, b: Scores, *, seed: int = 0) -> Comparison:
    """Compare two systems item by item: paired bootstrap and McNemar's exact test.

    Args:
        a: The first system's scores.
        b: The second system's scores, on the same items.
        seed: Seed of the bootstrap.

    Raises:
        EvaluationError: They answered different items.
    """
    if [outcome.item.id for outcome in a.outcomes] != [outcome.item.id for outcome in b.outcomes]:
        raise EvaluationError(f"both systems have to answer the same items; got {a.benchmark} and {b.benchmark}")
    from scipy.stats import binomtest

    right_a, right_b = (np.array([outcome.right for outcome in scores.outcomes]) for scores in (a, b))
    items, only_a, only_b = len(right_a), int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    shares = [only_a / items, only_b / items, 1 - (only_a + only_b) / items]
    resampled = np.random.default_rng(seed).multinomial(items, shares, _RESAMPLES)
    low, high = np.percentile((resampled[:, 0] - resampled[:, 1]) / items, (2.5, 97.5))
    differing = only_a + only_b
    p_value = float(binomtest(only_a, differing, 0.5).pvalue) if differing else 1.0
    means = float(right_a.mean()), float(right_b.mean())
    return Comparison(items, *means, (only_a - only_b) / items, float(low), float(high), only_a, only_b, p_value)
