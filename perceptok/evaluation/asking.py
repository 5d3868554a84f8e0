"""A benchmark's questions to a model: answers kept as they come, so that the same call goes on where it stopped."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perceptok.evaluation.benchmarks import Benchmark, Item
from perceptok.files import atomic_write
from perceptok.jobs import Journal, Stamp, stamp_of
from perceptok.llava import PerceptionPipeline, Request

__all__ = ["answer_benchmark", "model_stamp"]


def answer_benchmark(
    pipe: PerceptionPipeline,
    benchmark: Benchmark,
    output: str | Path,
    *,
    model: Any = "",
    start_over: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Ask every question; its choices and markers go along, so that the pipeline may hold answers to them.

    Args:
        pipe: The pipeline; its `config` says how.
        benchmark: The questions.
        output: The `.jsonl` to write: id and text a line, as `read_predictions` reads. Answers gather in
            `OUTPUT.partial`, which is the caller's to remove once its own outputs are written.
        model: What tells this model from another, as JSON types (see `model_stamp`).
        start_over: Forget answers of another run instead of refusing them.
        advance: Called after every question.

    Returns:
        Id -> text.

    Raises:
        OutputError: The kept answers are of another model, benchmark or settings; or it cannot be written.
        EvaluationError: An item without a picture.
    """
    target, items = Path(output), benchmark.items
    asked = [[item.id, item.question, list(item.choices)] for item in items]
    run = {
        "model": model,
        "codec": pipe.codec.fingerprint,
        "config": pipe.config.to_dict(),
        "benchmark": benchmark.name,
        "asked": zlib.crc32(json.dumps(asked).encode()),
    }
    with Journal(target, run, [_stamp(item) for item in items], start_over=start_over) as journal:
        todo = journal.todo
        for _ in range(len(items) - len(todo)):
            advance()
        size = pipe.config.batch_size
        for start in range(0, len(todo), size):
            some = todo[start : start + size]
            for index, answer in zip(some, pipe.answers([_request(items[index]) for index in some]), strict=True):
                journal.add(index, {"id": items[index].id, "text": answer.text, "answer": answer.answer})
                advance()
        lines = journal.in_order()
        with atomic_write(target, force=True) as file:
            for line in lines:
                file.write((json.dumps(line) + "\n").encode())
    return {str(line["id"]): str(line["text"]) for line in lines}


def model_stamp(folder: str | Path) -> list[Any]:
    """What tells the model of a folder from another, and from what it was before: its files' names, sizes and times."""
    place = Path(folder)
    files = sorted(one for one in place.rglob("*") if one.is_file())
    return [str(place.resolve()), [[one.relative_to(place).as_posix(), *(stamp_of(one) or ())] for one in files]]


def _request(item: Item) -> Request:
    return Request(item.opened(), item.question, tuple(item.choices), item.markers, item.id)


def _stamp(item: Item) -> Stamp:
    if isinstance(item.image, Path):
        return stamp_of(item.image)
    return None if item.image is None else (len(item.image), zlib.crc32(item.image))
