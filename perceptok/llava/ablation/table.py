"""An ablation as one table: every cell on every test, beside the first cell on the same items."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from perceptok.evaluation.benchmarks.pages import case_of
from perceptok.evaluation.benchmarks.scoring import Comparison, compare
from perceptok.evaluation.benchmarks.tables import markdown_rows
from perceptok.evaluation.report.cases import Case, Fact, Table
from perceptok.evaluation.report.page import write_page
from perceptok.files import atomic_write
from perceptok.llava.ablation.running import CellScores

__all__ = ["ABLATION_HEADER", "ablation_rows", "write_ablation"]

ABLATION_HEADER = (
    "test", "cell", "items", "right", "accuracy", "95 % interval", "unparsed", "invalid", "difference",
    "95 % interval of it", "p",
)  # fmt: skip
_NOTE = (
    "Accuracies in percent, differences from the first cell in points, on the same items: bootstrap 95 % intervals, "
    "paired for differences; p is McNemar's exact test."
)


def ablation_rows(results: Sequence[CellScores]) -> list[tuple[str, ...]]:
    """Cells below `ABLATION_HEADER`, test by test."""
    rows: list[tuple[str, ...]] = []
    for one in _by_test(results):
        score, pair = one.scores.overall, _against_first(one, results)
        told = ("", "", "")
        if pair is not None:
            told = (
                f"{100 * pair.difference:+.1f}",
                f"{100 * pair.low:+.1f} to {100 * pair.high:+.1f}",
                f"{pair.p_value:.3g}",
            )
        shares = (f"{100 * score.accuracy:.1f}", f"{100 * score.low:.1f} to {100 * score.high:.1f}")
        counts = (str(score.unparsed), str(score.invalid))
        rows.append((one.test.name, one.cell.name, str(score.items), str(score.right), *shares, *counts, *told))
    return rows


def write_ablation(results: Sequence[CellScores], folder: str | Path) -> None:
    """Write `ablation-table.json`, `.csv`, `.md` and `page.html`; what stands there is replaced."""
    place, rows = Path(folder), ablation_rows(results)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([ABLATION_HEADER, *rows])
    means = "".join(f"- {name}: {text}\n" for name, text in _means(results).items())
    lines = []
    for one in _by_test(results):
        pair = _against_first(one, results)
        lines.append(
            {
                "test": one.test.name,
                "cell": one.cell.name,
                **one.scores.overall._asdict(),
                "against the first cell": None if pair is None else pair._asdict(),
            }
        )
    texts = {
        "ablation-table.csv": out.getvalue(),
        "ablation-table.md": f"{markdown_rows(ABLATION_HEADER, rows)}\n{_NOTE}\n\n{means}",
        "ablation-table.json": json.dumps(lines, indent=1) + "\n",
    }
    for name, text in texts.items():
        with atomic_write(place / name, force=True) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    tables = [
        Table("Ablation", ABLATION_HEADER, rows, _NOTE),
        Table("Cells", ("cell", "what it changes"), list(_means(results).items())),
    ]
    write_page(place / "page.html", _cases(results), title="Ablation", tables=tables, force=True)


def _means(results: Sequence[CellScores]) -> dict[str, str]:
    return {one.cell.name: one.cell.means for one in results}


def _by_test(results: Sequence[CellScores]) -> list[CellScores]:
    order = list(dict.fromkeys(one.test.name for one in results))
    return sorted(results, key=lambda one: order.index(one.test.name))


def _first(one: CellScores, results: Sequence[CellScores]) -> CellScores:
    return next(other for other in results if other.test.name == one.test.name)


def _against_first(one: CellScores, results: Sequence[CellScores]) -> Comparison | None:
    """The comparison; None for the first itself, and where the items are not the same."""
    first = _first(one, results)
    items, others = ([(o.item.id, o.item.answer) for o in x.scores.outcomes] for x in (one, first))
    return None if one is first or items != others else compare(one.scores, first.scores)


def _cases(results: Sequence[CellScores]) -> Iterator[Case]:
    """The items of each test with the first cell's text and every cell's answer."""
    for first in (one for one in _by_test(results) if _first(one, results) is one):
        told: dict[str, dict[str, Fact]] = {}
        for one in results:
            if one.test.name == first.test.name:
                for outcome in one.scores.outcomes:
                    verdict = "right" if outcome.right else "wrong"
                    told.setdefault(outcome.item.id, {})[one.cell.name] = f"{outcome.reading.value} ({verdict})"
        for outcome in first.scores.outcomes:
            yield case_of(outcome, facts={"test": first.test.name, **told[outcome.item.id]})
