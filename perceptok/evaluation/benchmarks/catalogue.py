"""The benchmarks by name: where their items come from, and what has been published about them.

The rows' keys are those that lmms-eval's tasks read of the same hub ids (EvolvingLMMs-Lab/lmms-eval, utils.py of its
tasks blink, cv_bench and seedbench): BLINK image_1, question, choices, answer "(A)", idx; CV-Bench image, question,
choices, answer "(A)", task, source, idx; SEED-Bench a list of images, question, choice_a to choice_d, answer "A",
question_id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from perceptok.data.records.files import read_records
from perceptok.errors import EvaluationError, PerceptokError
from perceptok.evaluation.answers import read_answer
from perceptok.evaluation.benchmarks.items import Benchmark, Item, image_of
from perceptok.evaluation.benchmarks.rows import read_lines, read_rows

__all__ = ["BENCHMARKS", "item_of_row", "load_benchmark"]

_LLAVA = "LLaVA-1.5-13B"
_TUNED = "LLaVA-1.5-13B fine-tuned, no perception tokens"
_AURORA = "AURORA"
PUBLISHED: dict[str, dict[str, float]] = {
    "blink-depth": {_LLAVA: 54.0, _TUNED: 68.5, _AURORA: 64.5},
    "hardblink-3": {_LLAVA: 35.5, _TUNED: 58.9, _AURORA: 66.9},
    "hardblink-4": {_LLAVA: 37.9, _TUNED: 52.4, _AURORA: 60.5},
    "hardblink-5": {_LLAVA: 29.0, _TUNED: 41.1, _AURORA: 54.8},
    "cvbench-count": {_LLAVA: 40.9, _TUNED: 44.7, _AURORA: 56.0},
    "seed-count": {_LLAVA: 52.2, _TUNED: 46.3, _AURORA: 54.6},
    "blink-count": {_LLAVA: 35.0, _AURORA: 45.8},
}
"""Accuracy in percent as printed in arXiv 2412.03548, version 1."""


class _Layout(NamedTuple):
    """How a benchmark is read: what its rows become, and which rows are its own."""

    item: Callable[[dict[str, Any], Path | None], Item | None]
    config: str | None = None
    split: str | None = None


def load_benchmark(name: str, data: str | Path, *, images: str | Path | None = None) -> Benchmark:
    """A benchmark from its published files.

    Args:
        name: One of `BENCHMARKS`.
        data: Of hardblink-N: the folder with `questions_N.jsonl`, `answers_N.jsonl` and `images/N`; of blink-count and
            seed-count also a `..._questions.jsonl` with its `..._answers.jsonl` beside it; of the others rows: JSON
            lines, Parquet, a folder, or a hub id such as `BLINK-Benchmark/BLINK` or `nyu-visionx/CV-Bench` (a hub id
            is downloaded); of records: what `perceptok data` or `write_records` wrote.
        images: The folder that images named in the rows lie in; by default that of the data.

    Raises:
        EvaluationError: An unknown name, files that are missing or damaged, or rows of another layout.
        MissingExtraError: A package that the layout needs is not installed.
    """
    place, folder = Path(data), Path(images) if images else None
    if name not in BENCHMARKS:
        raise EvaluationError(f"the benchmarks are {', '.join(BENCHMARKS)}; got {name!r}")
    if name == "records":
        items = tuple(_record_items(place, folder))
    elif name.startswith("hardblink-"):
        count = name.removeprefix("hardblink-")
        letters = "ABCDE"[: int(count)]
        questions = place / f"questions_{count}.jsonl"
        items = tuple(_asked(questions, place / f"answers_{count}.jsonl", folder or place / "images" / count, letters))
    elif place.name.endswith("questions.jsonl"):
        answers = place.with_name(place.name.replace("questions", "answers"))
        items = tuple(_asked(place, answers, folder or place.parent / "images", ""))
    else:
        layout = _LAYOUTS[name]
        rows = read_rows(data, config=layout.config, split=layout.split)
        base = folder or (place.parent if place.is_file() else None)
        items = tuple(item for item in (item_of_row(name, row, base) for row in rows) if item)
    return Benchmark(name, items, PUBLISHED.get(name, {}))


def item_of_row(name: str, row: dict[str, Any], images: Path | None = None) -> Item | None:
    """A row of blink-..., cvbench-... or seed-count as an item; None where it belongs to another part of its benchmark.

    Raises:
        EvaluationError: A row of another layout, or a benchmark that is not published as rows.
    """
    if name not in _LAYOUTS:
        raise EvaluationError(f"the benchmarks published as rows are {', '.join(_LAYOUTS)}; got {name!r}")
    try:
        return _LAYOUTS[name].item(row, images)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, PerceptokError):
            raise
        raise EvaluationError(f"{name}: a row of another layout, with the keys {', '.join(map(str, row))}") from error


def _asked(questions: Path, answers: Path, images: Path, letters: str) -> Iterator[Item]:
    """LLaVA's layout: questions and answers in two files of the same ids."""
    expected: dict[str, str] = {}
    for name, row in read_lines(answers):
        number, text = str(row.get("question_id")), str(row.get("text"))
        if expected.setdefault(number, text) != text:
            raise EvaluationError(
                f"{name}: question {number} has two answers, {expected[number]!r} and {text!r}; keep the right one"
            )
    for name, row in read_lines(questions):
        if not {"question_id", "text"} <= row.keys() or str(row["question_id"]) not in expected:
            raise EvaluationError(f"{name}: a question has question_id and text, and an answer in {answers.name}")
        number = str(row["question_id"])
        answer = expected[number].strip("() .")
        groups = {"markers": str(len(letters))} if letters else {"count": answer}
        picture = image_of(row.get("image"), images if images.is_dir() else None)
        yield Item(number, str(row["text"]), answer, dict.fromkeys(letters, ""), picture, groups)


def _record_items(path: Path, images: Path | None) -> Iterator[Item]:
    folder = images or path.parent
    try:
        for record in read_records(path):
            if record.answer is None:
                continue
            question = [turn.text for turn in record.turns if turn.role == "user"][-1]
            letters = record.task == "depth"
            groups: dict[str, str] = {"task": record.task, "regime": record.regime}
            groups |= {"markers": str(len(record.choices))} if letters else {"count": record.answer}
            markers = {}
            for marker in record.evidence.markers:
                point = (marker.x, marker.y)
                markers[marker.letter] = (
                    point if record.frame is None else tuple(map(float, record.frame.to_image(point)))
                )
            yield Item(
                record.id,
                question,
                record.answer,
                dict.fromkeys(record.choices, "") if letters else {},
                folder / record.images[0],
                groups,
                markers,  # type: ignore[arg-type]
                record.evidence,
            )
    except PerceptokError as error:
        raise EvaluationError(str(error)) from error


def _letter(answer: object) -> str:
    match = re.search("[A-Z]", str(answer).upper())
    if match is None:
        raise ValueError(answer)
    return match[0]


def _options(choices: Any) -> dict[str, str]:
    return {"ABCDEFGH"[number]: str(choice) for number, choice in enumerate(choices)}


def _counted(answer: str) -> str:
    """The number that the right choice says; "0" of "There are none"."""
    value = read_answer(answer).value
    if value is None:
        raise ValueError(answer)
    return value


def _blink_depth(row: dict[str, Any], folder: Path | None) -> Item:
    # Its choices are sentences ("A is closer"): the letter alone is asked for.
    choices = dict.fromkeys(_options(row["choices"]), "")
    picture = image_of(row["image_1"], folder)
    return Item(str(row["idx"]), str(row["question"]), _letter(row["answer"]), choices, picture, {"markers": "2"})


def _blink_count(row: dict[str, Any], folder: Path | None) -> Item:
    answer = _counted(_options(row["choices"])[_letter(row["answer"])])
    return Item(str(row["idx"]), str(row["question"]), answer, {}, image_of(row["image_1"], folder), {"count": answer})


def _cvbench(task: str) -> Callable[[dict[str, Any], Path | None], Item | None]:
    def item(row: dict[str, Any], folder: Path | None) -> Item | None:
        if str(row["task"]).lower() != task:
            return None
        options, right = _options(row["choices"]), _letter(row["answer"])
        picture = image_of(row.get("image") or row.get("filename"), folder)
        groups = {"source": str(row.get("source", ""))}
        if task == "count":
            count = _counted(options[right])
            return Item(str(row["idx"]), str(row["question"]), count, {}, picture, {"count": count, **groups})
        return Item(str(row["idx"]), str(row["question"]), right, options, picture, groups)

    return item


def _seed_count(row: dict[str, Any], folder: Path | None) -> Item | None:
    if str(row["question_type_id"]) not in ("5", "Instances Counting"):
        return None
    answer = _counted(str(row[f"choice_{_letter(row['answer']).lower()}"]))
    image = row.get("image") or row.get("data_id")
    picture = image_of(image[0] if isinstance(image, list) else image, folder)
    return Item(str(row["question_id"]), str(row["question"]), answer, {}, picture, {"count": answer})


_LAYOUTS: Mapping[str, _Layout] = {
    "blink-depth": _Layout(_blink_depth, "Relative_Depth", "val"),
    "blink-count": _Layout(_blink_count, "Counting", "val"),
    "cvbench-depth": _Layout(_cvbench("depth"), None, "test"),
    "cvbench-count": _Layout(_cvbench("count"), None, "test"),
    "seed-count": _Layout(_seed_count, None, "test"),
}
BENCHMARKS = ("hardblink-3", "hardblink-4", "hardblink-5", *_LAYOUTS, "records")
"""Names of all benchmarks; "records" is any set that `perceptok data` builds."""
