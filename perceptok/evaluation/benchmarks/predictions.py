"""Predictions of any system: JSON lines with an id and a text."""

from __future__ import annotations

from pathlib import Path

from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks.items import Benchmark
from perceptok.evaluation.benchmarks.rows import read_lines

__all__ = ["check_predictions", "read_predictions"]

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
    for name, row in read_lines(Path(path)):
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
