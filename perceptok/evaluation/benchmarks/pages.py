"""Scores as a page: tables, a figure, and every item as a case."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from perceptok.errors import MissingExtraError
from perceptok.evaluation.benchmarks.scoring import Outcome, Scores
from perceptok.evaluation.benchmarks.tables import to_table
from perceptok.evaluation.report.cases import Case, Fact, Figure, Table, Verdict
from perceptok.evaluation.report.page import write_page
from perceptok.evaluation.report.pictures import figure_svg

__all__ = ["case_of", "write_report"]


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
