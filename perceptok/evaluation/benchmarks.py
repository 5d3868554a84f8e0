"""The benchmarks by name: where their items come from, and what has been published about them.

The rows' keys are those that lmms-eval's tasks read of the same hub ids (EvolvingLMMs-Lab/lmms-eval, utils.py of its
tasks blink, cv_bench and seedbench): BLINK image_1, question, choices, answer "(A)", idx; CV-Bench image, question,
choices, answer "(A)", task, source, idx; SEED-Bench a list of images, question, choice_a to choice_d, answer "A",
question_id.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from perceptok.data import Evidence, read_records
from perceptok.decoding import Reading, read_answer
from perceptok.errors import EvaluationError, ImageError, MissingExtraError, PerceptokError
from perceptok.files import parse_json
from perceptok.images import open_image, read_image_size

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Item",
    "datasets_library",
    "item_of_row",
    "load_benchmark",
    "read_json_lines",
    "read_rows",
]


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read_rows(source: str | Path, *, config: str | None = None, split: str | None = None) -> Iterator[dict[str, Any]]:
    """Row after row, as mappings.

    Args:
        source: A .jsonl, .json (a list, or an object with `questions`) or .parquet file; a folder of Parquet files, or
            one that `Dataset.save_to_disk` wrote; or a hub id, which is downloaded.
        config: Of a hub id: its configuration; of a folder: the part of the paths to keep, if any has it.
        split: Of a hub id or a saved dataset.

    Raises:
        EvaluationError: Nothing there, or no rows that can be read.
        MissingExtraError: `datasets` or pyarrow are not installed.
    """
    place = Path(source)
    if place.is_file():
        yield from _file_rows(place)
    elif place.is_dir():
        yield from _folder_rows(place, config, split)
    elif _HUB_ID.fullmatch(str(source)) and not str(source).startswith("."):
        yield from _loaded(str(source), config, split)
    else:
        raise EvaluationError(f"{source}: no such file or folder, and no id of the hub (owner/name)")


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line n", object) of JSON lines; raises EvaluationError that names the line."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                name = f"{path}, line {number}"
                if line.strip():
                    value = parse_json(line, name, EvaluationError)
                    if not isinstance(value, dict):
                        raise EvaluationError(f"{name}: expected an object; got {str(value)[:60]!r}")
                    yield name, value
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from error


def _file_rows(path: Path) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix in (".jsonl", ".ndjson"):
        yield from (row for _, row in read_json_lines(path))
    elif suffix == ".json":
        values = parse_json(path.read_bytes(), str(path), EvaluationError)
        if isinstance(values, Mapping) and "questions" in values:
            values = values["questions"]  # SEED-Bench's own file
        if not isinstance(values, list) or not all(isinstance(row, dict) for row in values):
            raise EvaluationError(f"{path}: expected a list of objects, or an object with `questions`")
        yield from values
    else:
        raise EvaluationError(f"{path}: rows come from .jsonl, .json and .parquet files; got {suffix or 'no suffix'}")


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", f"reading {path}") from error
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(64):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(f"{path}: no Parquet file that can be read ({error})") from error


def _folder_rows(folder: Path, config: str | None, split: str | None) -> Iterator[dict[str, Any]]:
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        datasets = datasets_library()
        try:
            loaded = datasets.load_from_disk(str(folder))
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{folder}: no saved dataset ({error})") from error
        yield from _undecoded(datasets, _split(loaded, split, folder))
        return
    files = sorted(folder.rglob("*.parquet"))
    named = [file for file in files if config and config.lower() in str(file.relative_to(folder)).lower()]
    files = named or files
    wanted = [file for file in files if split and file.name.startswith(split)]
    for file in wanted or files:
        yield from _parquet_rows(file)
    if not files:
        raise EvaluationError(f"{folder}: neither Parquet files nor a saved dataset; name a file, or another folder")


def _loaded(name: str, config: str | None, split: str | None) -> Iterator[dict[str, Any]]:
    datasets = datasets_library()
    try:
        loaded = datasets.load_dataset(name, config)
    except Exception as error:  # the hub's errors have no base of their own
        raise EvaluationError(f"{name}: cannot be loaded from the hub ({error})") from error
    yield from _undecoded(datasets, _split(loaded, split, name))


def _split(loaded: Any, split: str | None, name: object) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    if split in loaded:
        return loaded[split]
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise EvaluationError(f"{name} has the splits {', '.join(loaded)}; got {split!r}")


def _undecoded(datasets: Any, rows: Any) -> Iterator[dict[str, Any]]:
    """With pictures as bytes: decoding and encoding again would cost time and change them."""
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    yield from rows


def datasets_library(purpose: str = "a benchmark of the Hugging Face hub") -> Any:
    """The package `datasets`; raises MissingExtraError where it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "test", purpose) from error
    return datasets


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: Unique in its benchmark.
        question: In words.
        answer: The right one: a letter of the choices, or a count in digits.
        choices: Letter -> what it stands for (which may be nothing); empty: a count is asked for.
        image: The picture, a file or its bytes; None where it is not at hand.
        groups: How scores are broken down: name -> value, such as "markers" -> "5".
        markers: Letter -> x, y in pixels of the picture, where they are known.
        evidence: What the right answer rests on, where it is known.
    """

    id: str
    question: str
    answer: str
    choices: Mapping[str, str] = field(default_factory=dict)
    image: Path | bytes | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    markers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    evidence: Evidence | None = None

    def __post_init__(self) -> None:
        fine = self.answer in self.choices if self.choices else self.answer.isdecimal()
        if not fine:
            expected = f"one of {', '.join(self.choices)}" if self.choices else "a count in digits"
            raise EvaluationError(f"item {self.id}: its answer is {self.answer!r}; expected {expected}")

    def read(self, text: str) -> Reading:
        """What a text answers; see `read_answer`."""
        return read_answer(text, self.choices)

    def picture(self) -> bytes | None:
        """The picture's bytes; raises EvaluationError where its file cannot be read."""
        if not isinstance(self.image, Path):
            return self.image
        try:
            return self.image.read_bytes()
        except OSError as error:
            raise EvaluationError(f"item {self.id}: {self.image} cannot be read ({error.strerror})") from error

    def opened(self) -> Image.Image:
        """The picture in RGB; raises EvaluationError where there is none, or it cannot be read."""
        data = self.picture()
        if data is None:
            raise EvaluationError(f"item {self.id} has no picture; name the benchmark's images")
        with self._reading():
            return open_image(data)

    def size(self) -> tuple[int, int] | None:
        """Width and height of the picture, None where there is none; raises EvaluationError where it cannot be read."""
        data = self.picture()
        if data is None:
            return None
        with self._reading():
            return read_image_size(data)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except ImageError as error:
            raise EvaluationError(f"item {self.id}: {error}") from error


@dataclass(frozen=True)
class Benchmark:
    """A named set of items.

    Attributes:
        name: As in the catalogue, such as "hardblink-5".
        items: In their published order.
        published: System -> accuracy in percent, as its authors report it.

    Raises:
        EvaluationError: No items, or an id that stands twice.
    """

    name: str
    items: tuple[Item, ...]
    published: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.items:
            raise EvaluationError(f"{self.name} has no items")
        twice = [name for name, count in Counter(item.id for item in self.items).items() if count > 1]
        if twice:
            raise EvaluationError(f"{self.name}: {len(twice)} ids stand more than once, such as {twice[0]!r}")

    def __len__(self) -> int:
        return len(self.items)

    def by_id(self) -> dict[str, Item]:
        """Items by their id."""
        return {item.id: item for item in self.items}


def image_of(value: Any, folder: Path | None) -> Path | bytes | None:
    """The picture of a row: bytes, a Pillow image, the struct of `datasets`, or a name in the folder of images.

    A name whose file has another suffix is found by its stem: HardBLINK's questions say .png of what may be .jpg.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        out = io.BytesIO()
        open_image(value).save(out, "PNG")
        return out.getvalue()
    if isinstance(value, bytes) or value is None:
        return value
    if folder is None:
        return None
    path = folder / str(value)
    if not path.is_file():
        path = next(iter(sorted(path.parent.glob(f"{_escaped(path.stem)}.*"))), path)
    return path


def _escaped(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)


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
    for name, row in read_json_lines(answers):
        number, text = str(row.get("question_id")), str(row.get("text"))
        if expected.setdefault(number, text) != text:
            raise EvaluationError(
                f"{name}: question {number} has two answers, {expected[number]!r} and {text!r}; keep the right one"
            )
    for name, row in read_json_lines(questions):
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
