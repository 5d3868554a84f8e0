"""Accuracy with an interval, by groups; two systems compared on the same items."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perceptok.decoding import Reading, read_evidence
from perceptok.errors import EvaluationError, MissingExtraError
from perceptok.evaluation.benchmarks import Benchmark, Item, read_json_lines
from perceptok.pages import Case, Fact, Figure, Table, Verdict, figure_svg, write_page

__all__ = [
    "HEADER",
    "PUBLISHED_NOTE",
    "Comparison",
    "Outcome",
    "Score",
    "Scores",
    "accuracy",
    "case_of",
    "check_predictions",
    "compare",
    "compared",
    "evaluate",
    "markdown_rows",
    "outcome_of",
    "read_predictions",
    "rows_of",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_table",
    "write_report",
]


_IDS = ("question_id", "id", "idx", "name")
_TEXTS = ("text", "prediction", "output", "response", "answer")


def read_predictions(path: str | Path) -> dict[str, str]:
    """Id -> text.

    Each line has an id (`question_id`, `id`, `idx` or `name`) and a text (`text`, `prediction`, `output`, `response`
    or `answer`), the first of each that is there.

    Raises:
        EvaluationError: The file cannot be read, a line is no UTF-8 or lacks either, or an id stands twice; the
            message names the line.
    """
    found: dict[str, str] = {}
    for name, row in read_json_lines(Path(path)):
        number = next((row[key] for key in _IDS if row.get(key) is not None), None)
        text = next((row[key] for key in _TEXTS if row.get(key) is not None), None)
        if number is None or not isinstance(text, str | int):
            raise EvaluationError(
                f"{name}: a prediction has an id ({', '.join(_IDS)}) and a text ({', '.join(_TEXTS)})"
            )
        if str(number) in found:
            raise EvaluationError(f"{name}: the id {number!r} stands twice; keep one prediction for each question")
        found[str(number)] = str(text)
    if not found:
        raise EvaluationError(f"{path}: there are no predictions in it")
    return found


def check_predictions(predictions: dict[str, str], benchmark: Benchmark, *, missing: bool = False) -> None:
    """Raise EvaluationError unless ids are those of the benchmark; `missing` lets some be absent."""
    known = {item.id for item in benchmark.items}
    if other := sorted(predictions.keys() - known):
        raise EvaluationError(
            f"{len(other)} of {len(predictions)} predictions are of no question of {benchmark.name}, such as "
            f"{other[0]!r}: is this another benchmark's file?"
        )
    if not missing and (absent := sorted(known - predictions.keys())):
        raise EvaluationError(
            f"{len(absent)} of {len(known)} questions of {benchmark.name} have no prediction, such as {absent[0]!r}; "
            "allow it (--missing) to count them as wrong"
        )


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
    return Outcome(item, text, item.read(text), read_evidence(text).problems)


def _by_number(value: str) -> tuple[float, str]:
    return (float(value) if value.isdecimal() else float("inf"), value)


HEADER = ("group", "value", "items", "right", "accuracy", "95 % interval", "unparsed", "invalid")
PUBLISHED_NOTE = (
    "Rows marked (published) are figures of other people's runs, as printed in arXiv 2412.03548v1; they were not "
    "measured here."
)


def rows_of(scores: Scores) -> list[tuple[str, ...]]:
    """Cells below `HEADER`: all items, each breakdown, and the published rows."""
    rows = [_row("all", "", scores.overall)]
    for name, values in scores.groups.items():
        rows += [_row(name, value, one) for value, one in values.items()] if len(values) > 1 else []
    rows += [("(published)", name, "", "", f"{value:.1f}", "", "", "") for name, value in scores.published.items()]
    return rows


def to_markdown(scores: Scores, system: str) -> str:
    """A Markdown table; accuracies in percent."""
    head = f"**{_cell(system)}** on {_cell(scores.benchmark)}\n\n{markdown_rows(HEADER, rows_of(scores))}"
    return f"{head}\n{PUBLISHED_NOTE}\n" if scores.published else head


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that ends with a newline; whatever a cell holds stays in it."""
    return "".join(f"{_line(row)}\n" for row in (header, ["---"] * len(header), *rows))


def to_csv(scores: Scores, system: str) -> str:
    """The same rows as CSV, with the system in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("system", "benchmark", *HEADER))
    writer.writerows((system, scores.benchmark, *row) for row in rows_of(scores))
    return out.getvalue()


def to_json(scores: Scores, system: str, evidence: Mapping[str, Any] | None = None) -> str:
    """Everything, item by item, as JSON; `evidence` as it stands."""
    values: dict[str, Any] = {
        "system": system,
        "benchmark": scores.benchmark,
        "overall": scores.overall._asdict(),
        "groups": {
            name: {value: one._asdict() for value, one in values.items()} for name, values in scores.groups.items()
        },
        "published, in percent, not measured here": dict(scores.published),
        "items": [
            {
                "id": one.item.id,
                "expected": one.item.answer,
                "read": one.reading.value,
                "reason": one.reading.reason,
                "right": one.right,
                "problems": list(one.problems),
            }
            for one in scores.outcomes
        ],
    }
    if evidence is not None:
        values["evidence"] = evidence
    return json.dumps(values, indent=2) + "\n"


def to_table(scores: Scores, title: str) -> Table:
    """For the page."""
    return Table(title, HEADER, rows_of(scores), PUBLISHED_NOTE if scores.published else "")


def compared(comparison: Comparison, first: str, second: str) -> Iterator[tuple[str, str]]:
    """Name and value of each line of a comparison."""
    yield "items", str(comparison.items)
    yield f"accuracy of {first}", f"{comparison.a:.1%}"
    yield f"accuracy of {second}", f"{comparison.b:.1%}"
    yield "difference", f"{100 * comparison.difference:+.1f} points"
    yield "95 % interval (paired bootstrap)", f"{100 * comparison.low:+.1f} to {100 * comparison.high:+.1f}"
    yield f"only {first} is right", str(comparison.only_a)
    yield f"only {second} is right", str(comparison.only_b)
    yield "McNemar's exact p", f"{comparison.p_value:.4g}"


def _row(name: str, value: str, one: Score) -> tuple[str, ...]:
    shares = (f"{100 * one.accuracy:.1f}", f"{100 * one.low:.1f} to {100 * one.high:.1f}")
    return (name, value, str(one.items), str(one.right), *shares, str(one.unparsed), str(one.invalid))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def write_report(
    scores: Scores,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    case: Callable[[Outcome], Case] | None = None,
    tables: Sequence[Table] = (),
    force: bool = False,
) -> int:
    """Write the page of a system's scores: a table beside published figures, a plot, and every item to step through.

    Args:
        scores: What `evaluate` gives.
        path: The HTML file.
        title: Its heading; by default the benchmark's name.
        case: How an outcome is shown; by default `case_of`.
        tables: Further ones, such as those of `check_evidence`.
        force: Replace the file if it exists.

    Returns:
        How many cases it has.

    Raises:
        EvaluationError: An image cannot be read.
        OutputError: As for `atomic_write`.
        MissingExtraError: matplotlib is not installed (extra `report`).
    """
    return write_page(
        path,
        map(case or case_of, scores.outcomes),
        title=title or scores.benchmark,
        tables=[to_table(scores, "Accuracy, in percent"), *tables],
        figures=[_figure(scores)],
        force=force,
    )


def case_of(outcome: Outcome, **more: Any) -> Case:
    """An outcome as a case of the page; "invalid" is what cannot be read, or holds a malformed block or box.

    Args:
        outcome: What was scored.
        **more: Further fields of `Case`; `facts` are added to those of the outcome.
    """
    item = outcome.item
    invalid = outcome.reading.value is None or bool(outcome.problems)
    verdict: Verdict = "invalid" if invalid else "right" if outcome.right else "wrong"
    facts: dict[str, Fact] = {
        "expected": item.answer,
        "read": outcome.reading.value,
        "how": outcome.reading.reason,
        **({"malformed": "; ".join(outcome.problems)} if outcome.problems else {}),
        **item.groups,
        **more.pop("facts", {}),
    }
    fields: dict[str, Any] = {
        "image": item.picture(),
        "text": outcome.text or "",
        "prompt": item.question,
        "markers": [(letter, *point) for letter, point in item.markers.items()],
        "verdict": verdict,
        "facts": facts,
    }
    return Case(item.id, **{**fields, **more})


def _figure(scores: Scores) -> Figure:
    """Accuracy with its interval: of all items, of each part of the first breakdown that has several, and published."""
    try:
        from matplotlib.figure import Figure as Plot
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "the plot of a report") from error
    name, parts = next(((name, parts) for name, parts in scores.groups.items() if len(parts) > 1), ("", {}))
    own = [("all", scores.overall), *((f"{name} {value}", one) for value, one in parts.items())]
    plot = Plot(figsize=(6.4, max(1.6, 0.36 * (len(own) + len(scores.published)) + 0.7)))
    axes = plot.subplots()
    for place, (_, one) in enumerate(own):
        reach = [[100 * (one.accuracy - one.low)], [100 * (one.high - one.accuracy)]]
        axes.barh(place, 100 * one.accuracy, xerr=reach, color="#4f74e3", error_kw={"capsize": 3, "lw": 1})
    for place, value in enumerate(scores.published.values(), len(own)):
        axes.barh(place, value, color="#b9bec9", hatch="//", edgecolor="#8b92a1", lw=0)
    axes.set_yticks(
        range(len(own) + len(scores.published)),
        [_plain(label) for label, _ in own] + [f"{system} (published)" for system in scores.published],
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    return Figure("Accuracy", figure_svg(plot), "Bars with lines: measured here, with bootstrap 95 % intervals.")


def _plain(label: str) -> str:
    """A label that matplotlib takes as it stands: dollars set no formula, and an SVG holds no control characters."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in label).replace("$", r"\$")
