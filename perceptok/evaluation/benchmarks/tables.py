"""Scores as tables: Markdown, CSV, JSON and the page, own figures beside published ones and marked as such."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perceptok.evaluation.benchmarks.scoring import Comparison, Score, Scores
from perceptok.evaluation.report.cases import Table

__all__ = [
    "HEADER",
    "PUBLISHED_NOTE",
    "compared",
    "markdown_rows",
    "rows_of",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_table",
]

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
