"""A page of what a model concludes from its map: image, map, the points on both, and what other blocks make of it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import perceptok as pt
from perceptok.data import PerceptionRecord
from perceptok.evaluation import Replacement
from perceptok.pages import Case, Table, write_page

NAMES = {
    "own": "own block",
    "oracle": "teacher's block",
    "random": "random block",
    "constant": "constant block",
    "other": "another image's block",
    "shuffled": "shuffled block",
    "none": "no block",
}


def write_reading_page(
    path: Path,
    records: Sequence[PerceptionRecord],
    answers: Mapping[str, pt.llava.PerceptionAnswer],
    replacement: Replacement,
    note: str,
) -> None:
    """Write the page; an existing one is replaced.

    Args:
        path: The file.
        records: The questions.
        answers: The answer of each record, by id.
        replacement: The conclusions with other blocks.
        note: Which model it is.
    """
    table = Table(
        "Conclusions with other blocks",
        ("block", "correct", "other answer than with the own block"),
        [
            (NAMES[kind], f"{score.accuracy:.0%}", f"{replacement.changed[kind]:.0%}" if kind != "own" else "")
            for kind, score in replacement.scores.items()
        ],
        f"{replacement.scores['own'].items} held-out scenes; the text is cut at the block and continued after another.",
    )
    cases = list(make_cases(records, answers, replacement))
    write_page(path, cases, title="Conclusions from written depth maps", tables=[table], note=note, force=True)


def make_cases(
    records: Sequence[PerceptionRecord], answers: Mapping[str, pt.llava.PerceptionAnswer], replacement: Replacement
) -> Iterator[Case]:
    """A case for each question whose block was replaced."""
    conclusions: dict[str, dict[str, str | None]] = {}
    for kind, outcomes in replacement.outcomes.items():
        for outcome in outcomes:
            conclusions.setdefault(outcome.item.id, {})[f"with {NAMES[kind]}"] = outcome.reading.value
    for record in records:
        if record.id in conclusions:
            answer, png = answers[record.id], io.BytesIO()
            answer.image.save(png, format="PNG")
            yield Case(
                record.id,
                png.getvalue(),
                text=answer.text,
                prompt=record.question,
                markers=[(marker.letter, marker.x, marker.y) for marker in record.evidence.markers],
                markers_in_image=True,
                codes=None if answer.codes is None else answer.codes.ravel().tolist(),
                depth=answer.nearness,
                verdict="right" if answer.answer == record.answer else "wrong",
                facts={"correct answer": record.answer, "conclusion": answer.answer, **conclusions[record.id]},
            )
