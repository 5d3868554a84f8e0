"""What a file of records holds: counts, answers, codes, positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from perceptok.data.records import PerceptionRecord
from perceptok.tokens import DEPTH

__all__ = ["RecordStatistics", "record_statistics"]

_PARTS = 4
"""Marker positions are counted in this many rows and columns of the frame."""


@dataclass(frozen=True)
class RecordStatistics:
    """Counts over records.

    Attributes:
        records: How many.
        kinds: (task, regime) -> how many.
        answers: Task -> answer -> how many, over records that have one.
        markers: Number of markers -> how many images.
        instances: Number of boxes -> how many images.
        codes: (128,) how often each depth code stands in the evidence.
        positions: (4, 4) how many markers lie in each part of the frame, rows first.
        sources: Layout or file extension -> how many.
    """

    records: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    markers: Counter[int] = field(default_factory=Counter)
    instances: Counter[int] = field(default_factory=Counter)
    codes: tuple[int, ...] = (0,) * DEPTH.size
    positions: tuple[tuple[int, ...], ...] = ((0,) * _PARTS,) * _PARTS

    @property
    def codes_used(self) -> int:
        """How many of the 128 codes stand in the evidence at all."""
        return sum(count > 0 for count in self.codes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "records": self.records,
            "kinds": {f"{task} {regime}": count for (task, regime), count in sorted(self.kinds.items())},
            "answers": {task: dict(sorted(counts.items())) for task, counts in sorted(self.answers.items())},
            "markers": {str(number): count for number, count in sorted(self.markers.items())},
            "instances": {str(number): count for number, count in sorted(self.instances.items())},
            "codes": list(self.codes),
            "codes_used": self.codes_used,
            "positions": [list(row) for row in self.positions],
        }


def record_statistics(records: Iterable[PerceptionRecord]) -> RecordStatistics:
    """Count what records hold, one at a time.

    Args:
        records: Any; see `read_records`.
    """
    total = 0
    kinds: Counter[tuple[str, str]] = Counter()
    answers: dict[str, Counter[str]] = {}
    markers: Counter[int] = Counter()
    instances: Counter[int] = Counter()
    codes: Counter[int] = Counter()
    positions = [[0] * _PARTS for _ in range(_PARTS)]
    for record in records:
        total += 1
        kinds[record.task, record.regime] += 1
        if record.answer is not None:
            answers.setdefault(record.task, Counter())[record.answer] += 1
        evidence = record.evidence
        codes.update(evidence.codes or ())
        if evidence.boxes is not None:
            instances[len(evidence.boxes)] += 1
        if evidence.markers:
            markers[len(evidence.markers)] += 1
        if record.frame is not None:
            for marker in evidence.markers:
                row, column = (min(int(at * _PARTS / record.frame.size), _PARTS - 1) for at in (marker.y, marker.x))
                positions[row][column] += 1
    return RecordStatistics(
        total,
        kinds,
        answers,
        markers,
        instances,
        tuple(codes[code] for code in range(DEPTH.size)),
        tuple(tuple(row) for row in positions),
    )
