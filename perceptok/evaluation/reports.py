"""Reports: scores, comparisons and evidence as tables, files and HTML pages."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perceptok.data import format_conversation
from perceptok.depth import MAP_SIZE, resize_nearest
from perceptok.errors import EvaluationError, MissingExtraError
from perceptok.evaluation.evidence import EvidenceReport
from perceptok.evaluation.judging import JudgeReport
from perceptok.evaluation.scoring import Comparison, Outcome, Score, Scores, compute_interval
from perceptok.evaluation.specialists import Estimate
from perceptok.files import atomic_write
from perceptok.pages import Case, Fact, Figure, Table, Verdict, figure_to_svg, write_page

__all__ = [
    "PUBLISHED_NOTE",
    "SCORE_HEADER",
    "comparison_rows",
    "describe_agreement",
    "describe_judge",
    "estimate_case",
    "evidence_case",
    "evidence_tables",
    "outcome_case",
    "score_rows",
    "to_csv",
    "to_markdown_table",
    "write_report",
    "write_scores",
    "write_texts",
]

SCORE_HEADER = (
    "group",
    "value",
    "items",
    "right",
    "accuracy",
    "95 % interval",
    "by rules",
    "by judge",
    "unparsed",
    "invalid",
)
PUBLISHED_NOTE = (
    "Rows marked (published) are figures of other people's runs, as printed in arXiv 2412.03548v1; they were not "
    "measured here."
)


def score_rows(scores: Scores) -> list[tuple[str, ...]]:
    """Table rows below `SCORE_HEADER`: all items, each breakdown, and the published figures; accuracies in percent.

    Answers "by rules", "by judge" and "unparsed" texts are all items together. With a judge a row gives the score that
    the rules alone reach.
    """

    def row(group: str, value: str, score: Score) -> tuple[str, ...]:
        percent = (f"{100 * score.accuracy:.1f}", f"{100 * score.low:.1f} to {100 * score.high:.1f}")
        by_rules = score.items - score.judged - score.unparsed
        counts = map(str, (by_rules, score.judged, score.unparsed, score.invalid))
        return (group, value, str(score.items), str(score.right), *percent, *counts)

    rows = [row("all", "", scores.overall)]
    if scores.by_rules is not None:
        rows.append(row("all", "without the judge", scores.by_rules))
    for group, values in scores.groups.items():
        rows += [row(group, value, score) for value, score in values.items()] if len(values) > 1 else []
    rows += [("(published)", name, "", "", f"{value:.1f}", *[""] * 5) for name, value in scores.published.items()]
    return rows


def describe_judge(report: JudgeReport) -> str:
    """What a judge did, in a sentence."""
    text = f"The judge {report.model} read {report.read} of the {report.asked} texts that the rules left unread"
    return f"{text}; it failed for {report.failed} ({report.failure})." if report.failed else f"{text}."


def describe_agreement(scores: Scores, report: EvidenceReport | None) -> str:
    """How often conclusions follow from the model's own block or boxes, in one line, with what chance would give.

    Chance is the mean over these answers of 1 / (number of points). Answers that were read off the tokens say nothing
    about a conclusion and are left out, as are texts without a whole block or without an answer.

    Args:
        scores: What `evaluate` returns.
        report: Their checked evidence; None where no answer has a perception token.
    """
    own = {outcome.item.id for outcome in scores.outcomes if outcome.reader != "tokens"}
    items = [] if report is None else [item for name, item in report.items.items() if name in own]
    depth = [item for item in items if item.depth is not None and item.depth.follows is not None]
    boxes = [item.boxes.follows for item in items if item.boxes is not None and item.boxes.follows is not None]
    parts = []
    if depth:
        chance = float(np.mean([1 / len(item.markers) for item in depth]))
        follow = [bool(item.depth and item.depth.follows) for item in depth]
        parts.append(f"conclusion follows the own block: {_spell_count(follow)}, by chance {chance:.1%}")
    if boxes:
        parts.append(f"conclusion is the number of own boxes: {_spell_count(boxes)}")
    return "; ".join(parts) or "conclusion and own evidence: no answer has both"


def _spell_count(values: Sequence[bool]) -> str:
    return f"{sum(values)} of {len(values)}, {_spell_share(sum(values) / len(values), len(values))}"


def comparison_rows(comparison: Comparison, first: str, second: str) -> list[tuple[str, str]]:
    """Name and value of each figure of a comparison of two named systems."""
    return [
        ("items", str(comparison.items)),
        (f"accuracy of {first}", _spell_share(comparison.a, comparison.items)),
        (f"accuracy of {second}", _spell_share(comparison.b, comparison.items)),
        ("difference", f"{100 * comparison.difference:+.1f} points"),
        ("95 % interval (paired bootstrap)", f"{100 * comparison.low:+.1f} to {100 * comparison.high:+.1f}"),
        (f"only {first} is right", str(comparison.only_a)),
        (f"only {second} is right", str(comparison.only_b)),
        ("McNemar's exact p", f"{comparison.p_value:.4g}"),
    ]


def _spell_share(share: float, items: int) -> str:
    low, high = compute_interval(round(share * items), items)
    return f"{share:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def write_scores(
    scores: Scores,
    folder: str | Path,
    *,
    system: str,
    evidence: EvidenceReport | None = None,
    case: Callable[[Outcome], Case] | None = None,
    force: bool = False,
) -> None:
    """Write `scores.csv`, `scores.md`, `page.html` and, last, `scores.json`.

    Args:
        scores: What `evaluate` returns.
        folder: Where the files go; it is made where it does not exist.
        system: The name of what was scored.
        evidence: The checked evidence; adds its tables, and shows each item with its evidence.
        case: How an outcome is shown on the page instead.
        force: Replace existing files.

    Raises:
        EvaluationError: An image cannot be read.
        OutputError: A file exists already, or cannot be written.
        MissingExtraError: matplotlib is not installed (extra `report`).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    markdown = f"**{_escape_cell(system)}** on {_escape_cell(scores.benchmark)}\n\n"
    markdown += to_markdown_table(SCORE_HEADER, score_rows(scores))
    if scores.judge is not None:
        markdown += f"\n{_escape_cell(describe_judge(scores.judge))}\n"
    rows: list[tuple[str, ...]] = [("system", "benchmark", *SCORE_HEADER)]
    rows += [(system, scores.benchmark, *row) for row in score_rows(scores)]
    write_report(
        scores,
        folder / "page.html",
        title=f"{system} on {scores.benchmark}",
        case=case or (None if evidence is None else partial(evidence_case, evidence)),
        tables=() if evidence is None else evidence_tables(evidence),
        force=force,
    )
    texts = {
        "scores.csv": to_csv(rows),
        "scores.md": f"{markdown}\n{PUBLISHED_NOTE}\n" if scores.published else markdown,
        "scores.json": json.dumps(_scores_to_dict(scores, system, evidence), indent=2) + "\n",
    }
    write_texts(folder, texts, force=force)


def _scores_to_dict(scores: Scores, system: str, evidence: EvidenceReport | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "system": system,
        "benchmark": scores.benchmark,
        "overall": scores.overall._asdict(),
        "groups": {
            group: {value: score._asdict() for value, score in values.items()}
            for group, values in scores.groups.items()
        },
        "published, in percent, not measured here": dict(scores.published),
        "items": [
            {
                "id": outcome.item.id,
                "expected": outcome.item.answer,
                "read": outcome.reading.value,
                "reason": outcome.reading.reason,
                "reader": outcome.reader,
                "right": outcome.right,
                "problems": list(outcome.problems),
            }
            for outcome in scores.outcomes
        ],
    }
    if scores.judge is not None and scores.by_rules is not None:
        values |= {"judge": scores.judge._asdict(), "without the judge": scores.by_rules._asdict()}
    return values if evidence is None else {**values, "evidence": evidence.to_dict()}


def write_texts(folder: Path, texts: Mapping[str, str], *, force: bool) -> None:
    """Write text files, each atomically, in their order; raises OutputError where one exists already."""
    for name, text in texts.items():
        with atomic_write(folder / name, force=force) as file:
            file.write(text.encode("utf-8", "backslashreplace"))


def to_csv(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the header first, as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def to_markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that ends with a newline; special characters of cells are escaped."""
    return "".join(f"| {' | '.join(map(_escape_cell, row))} |\n" for row in (header, ["---"] * len(header), *rows))


def _escape_cell(text: str) -> str:
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
    """Write an HTML page of scores: a table with published figures, a plot, and every item to step through.

    Args:
        scores: What `evaluate` returns.
        path: The HTML file.
        title: The heading; by default the benchmark's name.
        case: How an outcome is shown; by default `outcome_case`.
        tables: Further tables, such as `evidence_tables`.
        force: Replace the file if it exists.

    Returns:
        The number of cases on the page.

    Raises:
        EvaluationError: An image cannot be read.
        OutputError: The file exists already, or cannot be written.
        MissingExtraError: matplotlib is not installed (extra `report`).
    """
    notes = [] if scores.judge is None else [describe_judge(scores.judge)]
    notes += [PUBLISHED_NOTE] if scores.published else []
    return write_page(
        path,
        map(case or outcome_case, scores.outcomes),
        title=title or scores.benchmark,
        tables=[Table("Accuracy, in percent", SCORE_HEADER, score_rows(scores), " ".join(notes)), *tables],
        figures=[_plot_accuracy(scores)],
        force=force,
    )


def outcome_case(outcome: Outcome, **fields: Any) -> Case:
    """Show an outcome as a case of a page; "invalid" is a text with a malformed block or box, as in the table.

    Args:
        outcome: What was scored.
        **fields: Further fields of `Case`; `facts` are added to those of the outcome.
    """
    item = outcome.item
    verdict: Verdict = "right" if outcome.right else "unparsed" if outcome.reading.value is None else "wrong"
    facts: dict[str, Fact] = {
        "expected": item.answer,
        "read": outcome.reading.value,
        "read from": outcome.reading.reason,
        **({"malformed": "; ".join(outcome.problems)} if outcome.problems else {}),
        **item.groups,
        **fields.pop("facts", {}),
    }
    image = None
    try:
        image = item.image_bytes()
    except EvaluationError as error:  # the other items are shown
        facts["image"] = str(error)
    shown: dict[str, Any] = {
        "image": image,
        "text": outcome.text or "",
        "prompt": format_conversation(item.history, item.question),
        "markers": _list_points(item.markers),
        "verdict": verdict,
        "invalid": bool(outcome.problems),
        "facts": facts,
    }
    return Case(item.id, **{**shown, **fields})


def evidence_tables(report: EvidenceReport) -> list[Table]:
    """The tables of a page: the figures of the evidence, and a calibration for each quality."""

    def spell(value: float) -> str:
        return f"{value:.4f}" if np.isfinite(value) else "unknown"

    def spell_interval(interval: tuple[float, float] | None) -> str:
        return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"

    rows = [
        (name, str(count), spell(value), spell_interval(report.interval(name)))
        for name, (count, value) in report.figures.items()
    ]
    note = "Shares and errors of nearness (0 to 1). Intervals of shares of answers: Wilson, 95 %."
    tables = [Table("Evidence", ("what", "items", "value", "95 % interval"), rows, note)]
    for quality, calibration in report.calibrations.items():
        bins = [
            (f"{low:.4g} to {high:.4g}", str(count), _spell_share(accuracy, count))
            for low, high, count, accuracy in calibration.bins
        ]
        title = f"Is the answer right more often where the evidence is good? By {quality}"
        note = f"Correlation of quality and being right: {spell(calibration.correlation)}."
        tables.append(Table(title, (quality, "items", "accuracy, 95 % interval"), bins, note))
    return tables


def evidence_case(report: EvidenceReport, outcome: Outcome) -> Case:
    """Show an outcome with its evidence decoded."""
    evidence = report.items[outcome.item.id]
    fields: dict[str, Any] = {"facts": evidence.figures()}
    if evidence.markers and not outcome.item.markers:  # found on the image, which shows them
        fields |= {"markers": _list_points(evidence.markers), "markers_in_image": True}
    if evidence.depth is not None and evidence.depth.codes is not None:
        fields |= {"codes": evidence.depth.codes.ravel().tolist(), "depth": evidence.depth.decoded}
    if evidence.teacher is not None:
        fields["teacher"] = evidence.teacher
    return outcome_case(outcome, **fields)


def estimate_case(estimate: Estimate, outcome: Outcome) -> Case:
    """Show a specialist's estimate beside what its tokens decode to."""
    found = {} if outcome.item.markers else {"markers": _list_points(estimate.item.markers), "markers_in_image": True}
    error = (estimate.decoded - resize_nearest(estimate.nearness, MAP_SIZE, MAP_SIZE)).astype(np.float64)
    return outcome_case(
        outcome,
        codes=estimate.codes.ravel().tolist(),
        depth=estimate.decoded,
        teacher=estimate.nearness,
        facts={"estimate says": estimate.letter, "RMSE": float(np.sqrt(np.nanmean(error**2)))},
        **found,
    )


def _list_points(markers: Mapping[str, tuple[float, float]]) -> list[tuple[str, float, float]]:
    return [(letter, x, y) for letter, (x, y) in markers.items()]


def _plot_accuracy(scores: Scores) -> Figure:
    """Bars of accuracy with intervals: all items, the first breakdown with several values, and published figures."""
    try:
        from matplotlib.figure import Figure as Plot
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "the plot of a report") from error
    group, parts = next(((group, parts) for group, parts in scores.groups.items() if len(parts) > 1), ("", {}))
    measured = [("all", scores.overall), *((f"{group} {value}", score) for value, score in parts.items())]
    count = len(measured) + len(scores.published)
    plot = Plot(figsize=(6.4, max(1.6, 0.36 * count + 0.7)))
    axes = plot.subplots()
    for place, (_, score) in enumerate(measured):
        error_bar = [[100 * (score.accuracy - score.low)], [100 * (score.high - score.accuracy)]]
        axes.barh(place, 100 * score.accuracy, xerr=error_bar, color="#4f74e3", error_kw={"capsize": 3, "lw": 1})
    for place, value in enumerate(scores.published.values(), len(measured)):
        axes.barh(place, value, color="#b9bec9", hatch="//", edgecolor="#8b92a1", lw=0)
    labels = [_escape_label(label) for label, _ in measured] + [f"{system} (published)" for system in scores.published]
    axes.set_yticks(range(count), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    return Figure("Accuracy", figure_to_svg(plot), "Bars with lines: measured here, with 95 % intervals (Wilson).")


def _escape_label(label: str) -> str:
    """A label that matplotlib draws as it is: a dollar starts no formula, and an SVG holds no control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in label).replace("$", r"\$")
