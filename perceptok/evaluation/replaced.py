"""The replacement test as tables and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from perceptok.depth.codec import DepthCodec
from perceptok.evaluation.benchmarks.pages import case_of
from perceptok.evaluation.benchmarks.scoring import Outcome, Scores, accuracy, compare
from perceptok.evaluation.benchmarks.tables import markdown_rows
from perceptok.evaluation.replacement import Replacement
from perceptok.evaluation.report.cases import Case, Fact, Table
from perceptok.evaluation.report.page import write_page
from perceptok.evaluation.written import read_written
from perceptok.files import atomic_write

__all__ = ["REPLACEMENT_HEADER", "replacement_rows", "write_replacement"]

REPLACEMENT_HEADER = (
    "block", "items", "right", "accuracy", "95 % interval", "unparsed", "answers changed", "minus own", "p",
)  # fmt: skip
_NOTE = (
    "Each answer is cut at its depth block, another block is put there, and the model goes on. Changed: share of items "
    "whose answer is another than with the own block. p: McNemar's exact test against the own block."
)


def replacement_rows(told: Replacement) -> list[tuple[str, ...]]:
    """Cells below `REPLACEMENT_HEADER`; accuracies in percent, differences in points."""
    rows: list[tuple[str, ...]] = []
    for kind, one in told.scores.items():
        against = ("", "", "")
        if "own" in told.outcomes:
            pair = compare(_scores(told.outcomes[kind]), _scores(told.outcomes["own"]))
            against = (
                f"{100 * told.changed[kind]:.1f}",
                "" if kind == "own" else f"{100 * pair.difference:+.1f}",
                "" if kind == "own" else f"{pair.p_value:.3g}",
            )
        shares = (f"{100 * one.accuracy:.1f}", f"{100 * one.low:.1f} to {100 * one.high:.1f}")
        rows.append((kind, str(one.items), str(one.right), *shares, str(one.unparsed), *against))
    return rows


def write_replacement(
    told: Replacement, folder: str | Path, *, system: str, codec: DepthCodec, force: bool = False
) -> None:
    """Write `replacement.json`, `.csv`, `.md`, `answers.jsonl` (every text) and `page.html`.

    Raises:
        OutputError: As for `atomic_write`.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    rows = replacement_rows(told)
    title = f"{system}: what the answer makes of its depth block"
    skipped = (
        f"{len(told.skipped)} records are left out: no whole block, or several, was written. " if told.skipped else ""
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([("system", *REPLACEMENT_HEADER), *((system, *row) for row in rows)])
    values = {
        "system": system,
        "kinds": {kind: {**one._asdict(), "changed": told.changed.get(kind)} for kind, one in told.scores.items()},
        "skipped": list(told.skipped),
    }
    texts = {
        "replacement.csv": out.getvalue(),
        "replacement.md": f"**{system}**\n\n{markdown_rows(REPLACEMENT_HEADER, rows)}\n{skipped}{_NOTE}\n",
        "answers.jsonl": "".join(json.dumps(line) + "\n" for line in _lines(told)),
    }
    for name, text in texts.items():
        with atomic_write(place / name, force=force) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    table = Table("Accuracy with another block in its place, in percent", REPLACEMENT_HEADER, rows, skipped + _NOTE)
    write_page(place / "page.html", _cases(told, codec), title=title, tables=[table], force=force)
    # Last: it says that everything is there.
    with atomic_write(place / "replacement.json", force=force) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


def _scores(outcomes: tuple[Outcome, ...]) -> Scores:
    return Scores("", accuracy(outcomes), {}, outcomes, {})


def _lines(told: Replacement) -> Iterator[dict[str, object]]:
    for kind, outcomes in told.outcomes.items():
        for one in outcomes:
            yield {"id": one.item.id, "block": kind, "text": one.text, "read": one.reading.value, "right": one.right}


def _cases(told: Replacement, codec: DepthCodec) -> Iterator[Case]:
    """A case a record: the own block (or the first kind's) beside the teacher's, and each kind's answer."""
    first = "own" if "own" in told.outcomes else next(iter(told.outcomes))
    for number, outcome in enumerate(told.outcomes[first]):
        facts: dict[str, Fact] = {}
        for kind, outcomes in told.outcomes.items():
            one = outcomes[number]
            facts[f"with {kind}"] = f"{one.reading.value or 'unparsed'} ({'right' if one.right else 'wrong'})"
        shown = read_written(outcome.text or "").block
        teacher = read_written(told.outcomes["oracle"][number].text or "").block if "oracle" in told.outcomes else None
        maps: dict[str, np.ndarray] = {}
        if shown is not None:
            maps["depth"] = codec.decode(shown)[0]
        if teacher is not None:
            maps["teacher"] = codec.decode(teacher)[0]
        codes = None if shown is None else shown.ravel().tolist()
        yield case_of(outcome, codes=codes, facts=facts, **maps)
