"""Benchmarks: their items, read from the published files, and what has been published about them.

Rows have the keys that lmms-eval's tasks read under the same hub ids (EvolvingLMMs-Lab/lmms-eval, utils.py of its
tasks blink, cv_bench and seedbench). BLINK: image_1, question, choices, answer "(A)", idx. CV-Bench: image, question,
choices, answer "(A)", task, source, idx. SEED-Bench: a list of images, question, choice_a to choice_d, answer "A",
question_id.
"""

from __future__ import annotations

import glob
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from perceptok.data import Evidence, PerceptionRecord, TokenReading, Turn, find_records_file, read_records
from perceptok.decoding import AnswerReading, read_answer, read_evidence
from perceptok.depth import DepthCodec
from perceptok.errors import EvaluationError, ImageError, MissingExtraError, PerceptokError, add_place
from perceptok.evaluation.dataset_rows import read_json_lines, read_rows
from perceptok.files import read_input
from perceptok.images import open_image, read_image_size

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkItem",
    "check_codec",
    "is_of_codec",
    "item_from_record",
    "item_from_row",
    "load_benchmark",
]

_LLAVA = "LLaVA-1.5-13B"
_FINETUNED = "LLaVA-1.5-13B fine-tuned, no perception tokens"
_AURORA = "AURORA"
_PUBLISHED: dict[str, dict[str, float]] = {
    "blink-depth": {_LLAVA: 54.0, _FINETUNED: 68.5, _AURORA: 64.5},
    "hardblink-3": {_LLAVA: 35.5, _FINETUNED: 58.9, _AURORA: 66.9},
    "hardblink-4": {_LLAVA: 37.9, _FINETUNED: 52.4, _AURORA: 60.5},
    "hardblink-5": {_LLAVA: 29.0, _FINETUNED: 41.1, _AURORA: 54.8},
    "cvbench-count": {_LLAVA: 40.9, _FINETUNED: 44.7, _AURORA: 56.0},
    "seed-count": {_LLAVA: 52.2, _FINETUNED: 46.3, _AURORA: 54.6},
    "blink-count": {_LLAVA: 35.0, _AURORA: 45.8},
}
"""Accuracy in percent as printed in arXiv 2412.03548, version 1."""

WHOLE_BLOCK = "a whole block"
"""The answer of an item that asks for a depth map."""


@dataclass(frozen=True)
class BenchmarkItem:
    """One question with its answer.

    Attributes:
        id: Unique in its benchmark.
        question: The text that a model is asked.
        answer: The correct answer: a letter of the choices, a count in digits, or `WHOLE_BLOCK`.
        choices: Letter -> the text of that choice (which may be empty); empty where a count is asked for.
        options: Letter -> the count of that choice, where a count is asked for but the row has choices: a letter in an
            answer then stands for its count. They are not part of the question.
        image: The image file or its bytes; None where the image is not available.
        groups: How scores are broken down: name -> value, such as "markers" -> "5".
        markers: Letter -> x, y in pixels of the image, where they are known.
        evidence: What the correct answer rests on, where it is known.
        target: What a text is scored by: its "answer"; for atomic questions one whole depth "block" and nothing
            malformed, or the number of its whole "boxes".
        history: The turns before the question, which a model is given.
        more_images: The images after the first.
        tokens: Whether perception tokens in the user's texts are "meant" or "text".

    Raises:
        EvaluationError: The answer is neither one of the choices nor a count.
    """

    id: str
    question: str
    answer: str
    choices: Mapping[str, str] = field(default_factory=dict)
    image: Path | bytes | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    markers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    evidence: Evidence | None = None
    target: Literal["answer", "block", "boxes"] = "answer"
    history: tuple[Turn, ...] = ()
    more_images: tuple[Path, ...] = ()
    tokens: TokenReading = "text"
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.target == "block" and self.answer == WHOLE_BLOCK:
            return
        valid = self.answer in self.choices if self.choices else self.answer.isdecimal()
        if not valid:
            expected = f"one of {', '.join(self.choices)}" if self.choices else "a count in digits"
            raise EvaluationError(f"item {self.id}: its answer is {self.answer!r}; expected {expected}")

    def read(self, text: str) -> AnswerReading:
        """The answer that `read_answer` finds in a text, given this item's choices; or what `target` names."""
        if self.target == "answer":
            if not self.options:
                return read_answer(text, self.choices)
            reading = read_answer(text, self.options)
            return reading._replace(value=None if reading.value is None else self.options[reading.value])
        written = read_evidence(text)
        if written.problems:
            return AnswerReading(None, "; ".join(written.problems))
        if self.target == "boxes":
            return AnswerReading(str(len(written.boxes)), "the number of boxes")
        return AnswerReading(None if written.block is None else WHOLE_BLOCK, "the depth blocks of the text")

    def image_bytes(self) -> bytes | None:
        """The image file's bytes, None without an image; raises EvaluationError where it cannot be read."""
        if not isinstance(self.image, Path):
            return self.image
        try:
            return read_input(self.image)
        except OSError as error:
            raise EvaluationError(f"item {self.id}: {self.image} cannot be read ({error.strerror})") from error

    def open_image(self) -> Image.Image:
        """The image in RGB, upright; raises EvaluationError where there is none, or it cannot be read."""
        if self.image is None:
            raise EvaluationError(f"item {self.id} has no image; name the folder of the benchmark's images")
        return self._open(self.image)

    def open_images(self) -> tuple[Image.Image, ...]:
        """All images, as `open_image`."""
        return (self.open_image(), *map(self._open, self.more_images))

    def _open(self, source: Path | bytes) -> Image.Image:
        try:
            return open_image(source)
        except ImageError as error:
            raise EvaluationError(f"item {self.id}: {error}") from error

    def image_size(self) -> tuple[int, int] | None:
        """Width and height of the upright image, None without one; raises EvaluationError where it cannot be read."""
        if self.image is None:
            return None
        try:
            return read_image_size(self.image)
        except ImageError as error:
            raise EvaluationError(f"item {self.id}: {error}") from error


@dataclass(frozen=True)
class Benchmark:
    """A named set of items.

    Attributes:
        name: One of `BENCHMARKS`, such as "hardblink-5".
        items: In their published order.
        published: System -> accuracy in percent, as its authors report it.

    Raises:
        EvaluationError: No items, or an id that occurs twice.
    """

    name: str
    items: tuple[BenchmarkItem, ...]
    published: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.items:
            raise EvaluationError(f"{self.name} has no items")
        repeated = [name for name, count in Counter(item.id for item in self.items).items() if count > 1]
        if repeated:
            raise EvaluationError(f"{self.name}: {len(repeated)} ids occur more than once, such as {repeated[0]!r}")

    def __len__(self) -> int:
        return len(self.items)


def load_benchmark(name: str, data: str | Path, *, images: str | Path | None = None) -> Benchmark:
    """Load a benchmark from its published files.

    Args:
        name: One of `BENCHMARKS`.
        data: For hardblink-N: the folder `hardblink` of AURORA's repository, or one with `questions_N.jsonl`,
            `answers_N.jsonl` and `images/N`. For blink-count and seed-count: the folders `blink_counting` and
            `seedbench` of that repository, or a `..._questions.jsonl` with its `..._answers.jsonl` beside it. For the
            others, and for these too, rows: JSON lines, Parquet, a folder, or a hub id such as `BLINK-Benchmark/BLINK`
            or `nyu-visionx/CV-Bench` (a hub id is downloaded). A folder that holds the three folders of the
            repository, and rows in `blink` and `cvbench`, will do for each of these. For "records" (with an answer)
            and "atomic" (without): a file that `perceptok data build` or `write_records` wrote.
        images: The folder of the images that the rows name; by default beside the data.

    Raises:
        EvaluationError: An unknown name, missing or damaged files, rows of another layout, or answers to other
            questions.
        MissingExtraError: A package that the layout needs is not installed.
    """
    path, folder = Path(data), Path(images) if images else None
    if name not in BENCHMARKS:
        raise EvaluationError(f"{name!r} is not a benchmark; the benchmarks are {', '.join(BENCHMARKS)}")
    if name in ("records", "atomic"):
        items = tuple(_record_items(path, folder, atomic=name == "atomic"))
        if not items:
            other, kind = ("records", "without") if name == "atomic" else ("atomic", "with")
            raise EvaluationError(f"{name} has no items: {path} has no record {kind} an answer; try {other}")
    elif (found := _find_question_files(name, path)) is not None:
        letters = "ABCDE"[: int(name[-1])] if name.startswith("hardblink-") else ""
        items = tuple(_question_file_items(found.questions, found.answers, folder or found.images, letters))
    elif name not in _LAYOUTS:
        raise EvaluationError(f"{path}: the questions of {name} were not found; expected {_describe_places(name)}")
    else:
        source = _find_rows(name, path) if path.is_dir() else data
        base = folder or (path.parent if path.is_file() else Path(source) if path.is_dir() else None)
        items = tuple(item for item in (item_from_row(name, row, base) for row in _read_rows_of(name, source)) if item)
        if not items:
            raise EvaluationError(f"{name} has no items: no row of {source} is of its task; name its own files")
    return Benchmark(name, items, _PUBLISHED.get(name, {}))


def item_from_row(name: str, row: dict[str, Any], images: Path | None = None) -> BenchmarkItem | None:
    """Turn a row of blink-..., cvbench-... or seed-count into an item; None where it is of another task.

    Args:
        name: The benchmark.
        row: The row, with the published keys.
        images: The folder of the images that rows name.

    Raises:
        EvaluationError: A row of another layout, or a benchmark that is not published as rows.
    """
    if name not in _LAYOUTS:
        raise EvaluationError(f"the benchmarks published as rows are {', '.join(_LAYOUTS)}; got {name!r}")
    try:
        return _LAYOUTS[name].parse(row, images)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, PerceptokError):
            raise EvaluationError(add_place(name, error)) from error
        raise EvaluationError(f"{name}: a row of another layout, with the keys {', '.join(map(str, row))}") from error


def item_from_record(record: PerceptionRecord, folder: Path) -> BenchmarkItem:
    """Turn a record into an item.

    Args:
        record: Its last user turn is the question, which is asked after the turns before it; markers are given back in
            pixels of the first image. A record without an answer (regime atomic) is scored by its block or boxes.
        folder: The folder that the record's images are relative to.

    Raises:
        EvaluationError: The record has neither an answer nor evidence, or no image.
    """
    if not record.images:
        raise EvaluationError(f"record {record.id} has no image; a question is about at least one: leave it out")
    evidence, is_depth = record.evidence, record.task == "depth"
    answer, target = record.answer, "answer"
    if answer is None and is_depth and evidence.codes is not None:
        answer, target = WHOLE_BLOCK, "block"
    elif answer is None and evidence.boxes is not None:
        answer, target = str(len(evidence.boxes)), "boxes"
    if answer is None:
        raise EvaluationError(
            f"record {record.id} has neither an answer nor the codes or boxes that its text should have; a benchmark "
            "needs records with either"
        )
    groups: dict[str, str] = {"task": record.task, "regime": record.regime}
    if target != "block":
        groups |= {"markers": str(len(record.choices))} if is_depth else {"count": answer}
    markers: dict[str, tuple[float, float]] = {}
    for marker in evidence.markers:
        x, y = (marker.x, marker.y) if record.frame is None else record.frame.to_image((marker.x, marker.y))
        markers[marker.letter] = (float(x), float(y))
    return BenchmarkItem(
        record.id,
        record.question,
        answer,
        dict.fromkeys(record.choices, "") if is_depth else {},
        folder / record.images[0],
        groups,
        markers,
        evidence,
        target,  # type: ignore[arg-type]
        record.history,
        tuple(folder / image for image in record.images[1:]),
        record.tokens,
    )


def is_of_codec(evidence: Evidence, codec: DepthCodec) -> bool:
    """Whether evidence has depth codes that a codec decodes: its own, or of an unknown codec."""
    return evidence.codes is not None and evidence.codec in (None, codec.fingerprint)


def check_codec(record_id: str, evidence: Evidence, codec: DepthCodec) -> None:
    """Raise EvaluationError for depth codes of another codec than the model's."""
    if evidence.codes is not None and not is_of_codec(evidence, codec):
        raise EvaluationError(
            f"record {record_id!r}: its depth codes are of the codec {evidence.codec}, the model's of "
            f"{codec.fingerprint}: codes of two codecs do not mix; encode the maps anew, or take a model of that codec"
        )


def _record_items(path: Path, images: Path | None, *, atomic: bool) -> Iterator[BenchmarkItem]:
    """Items of the records with an answer, or of those without."""
    try:
        for record in read_records(path, check_supervision=True):
            if (record.answer is None) == atomic:
                yield item_from_record(record, images or find_records_file(path).parent)
    except EvaluationError:
        raise
    except PerceptokError as error:
        raise EvaluationError(str(error)) from error


class _QuestionFiles(NamedTuple):
    """Names of a benchmark's files in LLaVA's layout, relative to its folder."""

    questions: str
    answers: str
    images: str


_QUESTION_FILES: Mapping[str, tuple[_QuestionFiles, ...]] = {
    **{
        f"hardblink-{n}": (
            _QuestionFiles(f"questions_{n}.jsonl", f"answers_{n}.jsonl", f"images/{n}"),
            _QuestionFiles(
                f"questions/blink_{n}pointscenter_questions.jsonl",
                f"answers/blink_{n}pointscenter_answers.jsonl",
                f"images/blink{n}pointscenter",
            ),
        )
        for n in (3, 4, 5)
    },
    "blink-count": (_QuestionFiles("blinkcounting_questions.jsonl", "blinkcounting_answers.jsonl", "images"),),
    "seed-count": (_QuestionFiles("seedbench_questions.jsonl", "seedbench_answers.jsonl", "images"),),
}
"""Benchmark -> its files; the longer names of HardBLINK are those of AURORA's repository."""

_REPOSITORY_FOLDERS = ("hardblink", "blink_counting", "seedbench")
_ROW_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "blink": ("blink",),
    "cvbench": ("cvbench",),
    "seed": ("seed", "seedbench"),
}
"""The first word of a benchmark's name -> the folders of its rows in a folder of all benchmarks."""


class _FoundFiles(NamedTuple):
    """Paths of a benchmark's files in LLaVA's layout."""

    questions: Path
    answers: Path
    images: Path


def _find_question_files(name: str, path: Path) -> _FoundFiles | None:
    """The files of LLaVA's layout in a folder or in one of AURORA's folders below it, or the given file of questions.

    Returns:
        None where there are none.

    Raises:
        EvaluationError: A file of questions that is named after another benchmark.
    """
    known = _QUESTION_FILES.get(name, ())
    absolute = path.absolute()  # so that a relative path has the folders above it
    for files in known:
        if absolute.as_posix().endswith(f"/{files.questions}"):
            folders: tuple[Path, ...] = (absolute.parents[files.questions.count("/")],)
        else:
            folders = (path, *(path / folder for folder in _REPOSITORY_FOLDERS))
        for folder in folders:
            if (folder / files.questions).is_file():
                return _FoundFiles(folder / files.questions, folder / files.answers, folder / files.images)
    for files in known:
        if path.name == Path(files.questions).name and path.is_file():
            return _FoundFiles(path, path.with_name(Path(files.answers).name), path.parent / "images")
    if known and path.name.endswith("questions.jsonl"):
        names = " or ".join(Path(files.questions).name for files in known)
        raise EvaluationError(f"{path}: the questions of {name} were not found; they are in a file named {names}")
    return None


def _find_rows(name: str, folder: Path) -> Path:
    """The folder of a benchmark's rows: the given one, or the benchmark's own in a folder of all benchmarks.

    Raises:
        EvaluationError: A folder of all benchmarks without this one.
    """
    for below in _ROW_FOLDERS[name.partition("-")[0]]:
        if (folder / below).is_dir():
            return folder / below
    others = {*_REPOSITORY_FOLDERS, *(below for folders in _ROW_FOLDERS.values() for below in folders)}
    found = sorted(other for other in others if (folder / other).is_dir())
    if found:
        raise EvaluationError(
            f"{folder}: {name} was not found beside {', '.join(f'{other}/' for other in found)}; "
            f"expected {_describe_places(name)}"
        )
    return folder


def _describe_places(name: str) -> str:
    """Where a benchmark is looked for in a folder."""
    places = []
    if files := _QUESTION_FILES.get(name):
        own = "hardblink" if name.startswith("hardblink-") else {"blink-count": "blink_counting"}.get(name, "seedbench")
        places.append(f"a folder with {' or '.join(names.questions for names in files)}, or with {own}/ that has it")
    if name in _LAYOUTS:
        rows = " or ".join(f"{below}/" for below in _ROW_FOLDERS[name.partition("-")[0]])
        places.append(f"{rows} with its rows in it")
    return ", or ".join(places)


def _question_file_items(questions: Path, answers: Path, images: Path, letters: str) -> Iterator[BenchmarkItem]:
    """Items of LLaVA's layout: questions and answers in two files of the same ids."""
    answer_by_id: dict[str, str] = {}
    for place, row in read_json_lines(answers):
        question_id, text = str(row.get("question_id")), str(row.get("text"))
        if answer_by_id.setdefault(question_id, text) != text:
            raise EvaluationError(
                f"{place}: question {question_id} has two answers, {answer_by_id[question_id]!r} and {text!r}; keep "
                "the right one"
            )
    _check_points(answers, answer_by_id.values(), letters)
    rows = list(read_json_lines(questions))
    question_ids = {str(row.get("question_id")) for _, row in rows}
    if len(question_ids) != len(answer_by_id):
        missing = sorted(question_ids - answer_by_id.keys()) or sorted(answer_by_id.keys() - question_ids)
        raise EvaluationError(
            f"{questions} has {len(question_ids)} questions and {answers} {len(answer_by_id)} answers, but every "
            f"question has an answer in {answers.name} and the other way round; the first without is {missing[0]!r}"
        )
    for place, row in rows:
        if not {"question_id", "text"} <= row.keys() or str(row["question_id"]) not in answer_by_id:
            raise EvaluationError(f"{place}: a question has question_id and text, and an answer in {answers.name}")
        question_id = str(row["question_id"])
        answer = answer_by_id[question_id].strip("() .")
        groups = {"markers": str(len(letters))} if letters else {"count": answer}
        image = _find_image(row.get("image"), images if images.is_dir() else None, place)
        yield BenchmarkItem(question_id, str(row["text"]), answer, dict.fromkeys(letters, ""), image, groups)


_IMPLAUSIBLE = 1e-6
"""Probability, for answers drawn evenly, below which answers are of fewer points than they should be."""


def _check_points(answers: Path, texts: Collection[str], letters: str) -> None:
    """Refuse answers in which the last letters never occur: they are to questions about fewer points."""
    used = [letters.find(text.strip("() .")) for text in texts] if letters else []
    number = max(used, default=-1) + 1
    if number and (number / len(letters)) ** len(used) < _IMPLAUSIBLE:
        raise EvaluationError(
            f"{answers}: all {len(used)} answers are among {', '.join(letters[:number])}, those to questions about "
            f"{number} points, not {len(letters)}; load it as hardblink-{number}"
        )


class _RowLayout(NamedTuple):
    """How a row becomes an item (None: a row of another task), and the configuration and split on the hub."""

    parse: Callable[[dict[str, Any], Path | None], BenchmarkItem | None]
    config: str | None = None
    split: str | None = None


def _parse_letter(answer: object) -> str:
    match = re.search("[A-Z]", str(answer).upper())
    if match is None:
        raise ValueError(answer)
    return match[0]


def _letter_choices(choices: Any) -> dict[str, str]:
    return {"ABCDEFGH"[number]: str(choice) for number, choice in enumerate(choices)}


def _parse_options(choices: Mapping[str, str]) -> dict[str, str]:
    """Letter -> the count that the choice states."""
    return {letter: _parse_count(text) for letter, text in choices.items()}


def _parse_count(answer: str) -> str:
    """The count that the correct choice states; "0" for "There are none"."""
    value = read_answer(answer).value
    if value is None:
        raise ValueError(answer)
    return value


def _read_blink_task(row: dict[str, Any]) -> str | None:
    """The task of a BLINK row by its sub_task, or by its idx, such as val_Relative_Depth_1; None where it says none."""
    match = re.fullmatch(r"[a-z]+_(\D.*)_\d+", str(row.get("idx")))
    return str(row.get("sub_task") or (match and match[1]) or "").lower() or None


def _parse_blink_depth(row: dict[str, Any], folder: Path | None) -> BenchmarkItem | None:
    if _read_blink_task(row) not in (None, "relative_depth"):
        return None
    # Its choices are sentences ("A is closer"): the letter alone is asked for.
    choices, image = dict.fromkeys(_letter_choices(row["choices"]), ""), row["image_1"]
    if len(choices) != 2:
        raise EvaluationError(f"row {row['idx']}: a question has two choices; got {len(choices)}, as in another task")
    image = _find_image(image, folder, f"row {row['idx']}")
    answer = _parse_letter(row["answer"])
    return BenchmarkItem(str(row["idx"]), str(row["question"]), answer, choices, image, {"markers": "2"})


def _parse_blink_count(row: dict[str, Any], folder: Path | None) -> BenchmarkItem | None:
    if _read_blink_task(row) not in (None, "counting"):
        return None
    options = _parse_options(_letter_choices(row["choices"]))
    answer = options[_parse_letter(row["answer"])]
    image = _find_image(row["image_1"], folder, f"row {row['idx']}")
    groups = {"count": answer}
    return BenchmarkItem(str(row["idx"]), str(row["question"]), answer, {}, image, groups, options=options)


def _cvbench_parser(task: str) -> Callable[[dict[str, Any], Path | None], BenchmarkItem | None]:
    def parse(row: dict[str, Any], folder: Path | None) -> BenchmarkItem | None:
        if str(row["task"]).lower() != task:
            return None
        choices, correct = _letter_choices(row["choices"]), _parse_letter(row["answer"])
        image = _find_image(row.get("image") or row.get("filename"), folder, f"row {row['idx']}")
        groups = {"source": str(row.get("source", ""))}
        if task == "count":
            options = _parse_options(choices)
            groups, question = {"count": options[correct], **groups}, str(row["question"])
            return BenchmarkItem(str(row["idx"]), question, options[correct], {}, image, groups, options=options)
        return BenchmarkItem(str(row["idx"]), str(row["question"]), correct, choices, image, groups)

    return parse


def _parse_seed_count(row: dict[str, Any], folder: Path | None) -> BenchmarkItem | None:
    if str(row["question_type_id"]) not in ("5", "Instances Counting"):
        return None
    keys = {letter: f"choice_{letter.lower()}" for letter in "ABCD"}
    options = _parse_options({letter: str(row[key]) for letter, key in keys.items() if key in row})
    answer = options[_parse_letter(row["answer"])]
    name = row.get("image") or row.get("data_id")
    image = _find_image(name[0] if isinstance(name, list) else name, folder, f"row {row['question_id']}")
    groups = {"count": answer}
    return BenchmarkItem(str(row["question_id"]), str(row["question"]), answer, {}, image, groups, options=options)


_LAYOUTS: Mapping[str, _RowLayout] = {
    "blink-depth": _RowLayout(_parse_blink_depth, "Relative_Depth", "val"),
    "blink-count": _RowLayout(_parse_blink_count, "Counting", "val"),
    "cvbench-depth": _RowLayout(_cvbench_parser("depth"), None, "test"),
    "cvbench-count": _RowLayout(_cvbench_parser("count"), None, "test"),
    "seed-count": _RowLayout(_parse_seed_count, None, "test"),
}
BENCHMARKS = ("hardblink-3", "hardblink-4", "hardblink-5", *_LAYOUTS, "records", "atomic")
"""Names of all benchmarks; "records" and "atomic" are sets that `perceptok data` builds."""


def _find_image(value: Any, folder: Path | None, place: str) -> Path | bytes | None:
    """The image of a row: bytes, a Pillow image, the struct of `datasets`, or a name in the folder of images.

    A name whose file has another suffix is found by its stem: HardBLINK's questions say .png of what may be .jpg.

    Args:
        value: What the row has.
        folder: The folder of images; None where there is none, and then a name gives None.
        place: The row, for messages.

    Raises:
        EvaluationError: A name that is empty, too long, absolute, or leaves the folder.
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
    name = Path(str(value))
    # Links are followed, as those of the hub's cache are.
    if not name.name or "\0" in str(value) or name.anchor or ".." in name.parts:
        raise EvaluationError(
            f"{place}: the image {str(value)!r:.80} is not a file inside {folder}; names are relative to the folder of "
            "images, without '..'"
        )
    path = folder / name
    try:
        if not path.is_file():
            path = next(iter(sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))), path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid name"
        raise EvaluationError(f"{place}: the image {str(value)!r:.80} cannot be looked up ({reason})") from error
    return path


def _read_rows_of(name: str, source: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a benchmark as `read_rows`; its errors name the benchmark."""
    try:
        yield from read_rows(source, config=_LAYOUTS[name].config, split=_LAYOUTS[name].split)
    except EvaluationError as error:
        raise EvaluationError(add_place(name, error)) from error
    except MissingExtraError as error:
        error.msg = f"{name}: {error}"  # what ImportError prints
        raise
