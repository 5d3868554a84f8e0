"""Answers many questions into one JSON-lines file; resumable, and an unreadable image fails only its own question."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields as dataclass_fields, replace
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast, get_args

import numpy as np
from PIL import Image

from perceptok.boxes import ImageFrame
from perceptok.data import PerceptionRecord, Task, TokenReading, Turn
from perceptok.errors import ConstraintError, DepthMapError, ImageError, InferenceError, OutputError, PerceptokError
from perceptok.files import atomic_write, find_suffix, open_text, parse_json, resolve_inside
from perceptok.images import find_images, open_image
from perceptok.jobs import Journal, stamp_of
from perceptok.llava.inference.answer import PerceptionAnswer, resample_to_image
from perceptok.llava.inference.pipeline import PerceptionPipeline
from perceptok.llava.inference.questions import ParsedMessages, Request, parse_messages
from perceptok.llava.serving.client import ServedPipeline
from perceptok.pages import Case, Table, write_page

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = [
    "FileQuestion",
    "OutputFolders",
    "QuestionFailure",
    "answer_files",
    "answer_questions",
    "assign_file_names",
    "case_from_line",
    "find_questions",
    "write_answer_page",
]

_LINE_KEYS = {"name", "id", "image", "images", "question", "messages", "choices", "markers", "plural", "tokens"}

_PAGE_IMAGE_SIDE = 1280
"""Maximum side, in pixels, of an image on the page."""


_UNWRITTEN = "unwritten"
"""Key of the journal: why the images of an answer could not be written."""


@dataclass(frozen=True)
class FileQuestion:
    """One question about images on disk.

    Attributes:
        images: Paths of its images; depth map, boxes and markers are those of the first.
        question: The question's text; empty for the trained question of the setting `ask`.
        name: Its name in outputs: relative, with `/`, unique within a run.
        choices: The allowed answers; empty for any.
        markers: Letter -> (x, y) in the first image's pixels.
        task: "depth" or "counting"; by default found in the question, markers and plural.
        plural: What is counted, such as "dogs"; by default found in the question.
        history: The turns before the question.
        tokens: Whether perception tokens in the user's texts are "meant" or "text".
        system: A system text instead of that of training; None for that of training.
    """

    images: tuple[Path, ...]
    question: str
    name: str
    choices: tuple[str, ...] = ()
    markers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    task: Task | None = None
    plural: str | None = None
    history: tuple[Turn, ...] = ()
    tokens: TokenReading = "text"
    system: str | None = None


class QuestionFailure(NamedTuple):
    """The name of a question that could not be read or answered, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class OutputFolders:
    """Folders for the images of each answer; None writes none.

    Attributes:
        depth: Folder for depth maps: 16-bit PNG of nearness in the image's size, or NPZ where a crop hides a part.
        overlay: Folder for overlays, PNG.
    """

    depth: Path | None = None
    overlay: Path | None = None

    def check(self, questions: Sequence[FileQuestion], *, replace: bool) -> None:
        """Refuse to write over files of others, before anything is asked.

        Args:
            questions: The questions.
            replace: Whether files may exist; images of the questions are never replaced.

        Raises:
            OutputError: Depth maps and overlays have one folder, or a file exists.
        """
        if self.depth is not None and self.overlay is not None and self.depth.resolve() == self.overlay.resolve():
            raise OutputError(f"{self.depth}: depth maps and overlays have the same names; choose two folders")
        inputs = {os.path.abspath(path) for question in questions for path in question.images}  # noqa: PTH100 - a name
        stems = assign_file_names(questions).values()
        for folder, suffixes in ((self.depth, (".png", ".npz")), (self.overlay, (".png",))):
            if folder is None or not folder.exists():
                continue
            for path in (folder / f"{stem}{suffix}" for stem in stems for suffix in suffixes):
                if not os.path.lexists(path) or path.is_dir():
                    continue
                if os.path.abspath(path) in inputs or str(path.resolve()) in inputs:  # noqa: PTH100 - a name
                    raise OutputError(f"{path} is an image that is asked about; choose another folder")
                if not replace:
                    raise OutputError(f"{path} exists already; choose another folder, or replace it with force")

    def write(self, answer: PerceptionAnswer, stem: str) -> dict[str, str]:
        """Write an answer's depth map and overlay, replacing those of an interrupted run.

        Args:
            answer: The answer to write.
            stem: File name without suffix, relative to the folders.

        Returns:
            "depth" and "overlay" -> the path written, for those that were written.

        Raises:
            OutputError: The name leads out of a folder, or a file cannot be written.
        """
        paths: dict[str, str] = {}
        if self.depth is not None and answer.depth is not None:
            target = _make_path(self.depth, stem + (".png" if answer.depth.valid.all() else ".npz"))
            answer.save_depth(target, force=True)
            paths["depth"] = str(target)
        if self.overlay is not None:
            target = _make_path(self.overlay, stem + ".png")
            answer.save_overlay(target, force=True)
            paths["overlay"] = str(target)
        return paths


def _make_path(folder: Path, name: str) -> Path:
    target = resolve_inside(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def answer_files(
    pipe: PerceptionPipeline | ServedPipeline,
    questions: Sequence[FileQuestion],
    output: str | Path,
    *,
    folders: OutputFolders | None = None,
    model: str = "",
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> list[QuestionFailure]:
    """Answer questions into a JSON-lines file; each line is a `PerceptionAnswer.to_dict` with the paths of its images.

    Answers are collected in `OUTPUT.partial`. The same call resumes a run that was interrupted, killed or out of disk
    space; questions whose image changed since then, or whose answer cannot be read, are asked again. Where depth maps
    or overlays cannot be written, the answers are in the output all the same, and `OUTPUT.partial` stays: the same call
    asks these questions again and writes them.

    Args:
        pipe: The pipeline, of a loaded or a served model; its `config` holds all settings.
        questions: The questions, such as `find_questions` returns.
        output: The `.jsonl` file to write.
        folders: Folders for depth maps and overlays.
        model: Name of the model; a partial output of another model is refused.
        force: Replace an existing output, and start over.
        advance: Called after every question.

    Returns:
        The questions that could not be answered or written; all others are in the output.

    Raises:
        OutputError: The output exists, cannot be written, or a partial output belongs to another run.
    """
    target = Path(output)
    if target.suffix != ".jsonl":
        raise OutputError(f"{target}: answers are written to .jsonl")
    # With a journal beside it, an output lacks images of its answers, which the same call writes.
    is_unfinished = target.with_name(target.name + ".partial").exists()
    if target.exists() and not force and not is_unfinished:
        raise OutputError(f"{target} exists already; choose another path, or replace it with force (--force)")
    (folders or OutputFolders()).check(questions, replace=force or is_unfinished)
    digest = hashlib.sha256("\n".join(map(repr, questions)).encode("utf-8", "surrogatepass")).hexdigest()
    run = {
        "model": model,
        "files": pipe.stamps,
        "codec": pipe.codec.fingerprint,
        "config": pipe.config.to_dict(),
        "questions": digest,
    }
    stamps = [stamp_of(*question.images) for question in questions]
    with Journal[dict[str, Any]](target, run, stamps, start_over=force and target.exists()) as journal:
        writes_images = folders not in (None, OutputFolders())
        if writes_images:
            for index in [index for index in journal if _UNWRITTEN in journal[index]]:
                journal.forget(index)
        _answer_missing(journal, pipe, questions, folders, advance)
        lines = list(journal.results())
        with atomic_write(target, force=True) as file:
            for line in lines:
                if "failure" not in line:
                    file.write((json.dumps({key: line[key] for key in line if key != _UNWRITTEN}) + "\n").encode())
        failures = [_find_failure(line) for line in lines]
        if not (writes_images and any(_UNWRITTEN in line for line in lines)):
            journal.remove()
    return [failure for failure in failures if failure is not None]


def _find_failure(line: Mapping[str, Any]) -> QuestionFailure | None:
    """What went wrong with a question of the journal: it was not answered, or its images were not written."""
    if "failure" in line:
        return QuestionFailure(*line["failure"])
    return QuestionFailure(line["name"], line[_UNWRITTEN]) if _UNWRITTEN in line else None


def _answer_missing(
    journal: Journal[dict[str, Any]],
    pipe: PerceptionPipeline | ServedPipeline,
    questions: Sequence[FileQuestion],
    folders: OutputFolders | None,
    advance: Callable[[], object],
) -> None:
    """Answer the questions that the journal lacks, and add their lines to it."""
    missing = journal.todo
    for _ in range(len(questions) - len(missing)):
        advance()
    names = assign_file_names(questions)
    asked = [questions[index] for index in missing]
    if isinstance(pipe, ServedPipeline):
        results: Iterable[tuple[int, PerceptionAnswer | QuestionFailure]] = _answer_as_completed(pipe, asked)
    else:
        results = enumerate(_answer_in_batches(pipe, asked))
    for position, result in results:
        index = missing[position]
        if isinstance(result, QuestionFailure):
            journal.add(index, {"failure": list(result)})
        else:
            paths = _write_images(questions[index], result, folders or OutputFolders(), names)
            journal.add(index, {**result.to_dict(), **paths})
        advance()


def answer_questions(
    pipe: PerceptionPipeline | ServedPipeline,
    questions: Sequence[FileQuestion],
    folders: OutputFolders | None = None,
    names: Mapping[str, str] | None = None,
) -> Iterator[tuple[PerceptionAnswer | QuestionFailure, dict[str, Any]]]:
    """Answer questions batch by batch, in order, and write depth maps and overlays as answers come.

    Args:
        pipe: The pipeline, of a loaded or a served model; its `config` holds all settings.
        questions: The questions.
        folders: Folders for depth maps and overlays.
        names: Question name -> file name without suffix; by default unique ones made from the questions' names.

    Yields:
        An answer and the paths of its "image", "depth" and "overlay", and of "images" where it has several; or a
        failure and no paths. Where depth map or overlay cannot be written, "unwritten" says why.
    """
    folders = folders or OutputFolders()
    names = names or assign_file_names(questions)
    for question, result in zip(questions, _answer_in_batches(pipe, questions), strict=True):
        if isinstance(result, QuestionFailure):
            yield result, {}
        else:
            yield result, _write_images(question, result, folders, names)


def _write_images(
    question: FileQuestion, answer: PerceptionAnswer, folders: OutputFolders, names: Mapping[str, str]
) -> dict[str, Any]:
    """Write depth map and overlay of an answer; the paths of its images, as `answer_questions` yields them."""
    images = [str(path) for path in question.images]
    paths: dict[str, Any] = {"image": images[0], **({"images": images} if len(images) > 1 else {})}
    try:
        return paths | folders.write(answer, names[answer.name])
    except (PerceptokError, OSError) as error:  # the answer is kept
        return paths | {_UNWRITTEN: f"answered, but its images are not written: {error}"}


def _answer_as_completed(
    pipe: ServedPipeline, questions: Sequence[FileQuestion]
) -> Iterator[tuple[int, PerceptionAnswer | QuestionFailure]]:
    """The answers of a served model as they come, each with the index of its question."""
    sent: list[int] = []
    unread: list[tuple[int, QuestionFailure]] = []

    def open_requests() -> Iterator[Request]:
        for index, question in enumerate(questions):
            opened = _open_request(question)
            if isinstance(opened, QuestionFailure):
                unread.append((index, opened))
            else:
                sent.append(index)
                yield opened

    with closing(pipe.answers_as_completed(open_requests())) as answers:
        for position, result in answers:
            index = sent[position]
            if isinstance(result, PerceptokError):
                yield index, QuestionFailure(questions[index].name, str(result))
            else:
                yield index, result
    yield from unread


def _answer_in_batches(
    pipe: PerceptionPipeline | ServedPipeline, questions: Sequence[FileQuestion]
) -> Iterator[PerceptionAnswer | QuestionFailure]:
    size = pipe.config.batch_size
    for start in range(0, len(questions), size):
        opened = [_open_request(question) for question in questions[start : start + size]]
        answers = iter(_answer_batch(pipe, [item for item in opened if isinstance(item, Request)]))
        yield from (item if isinstance(item, QuestionFailure) else next(answers) for item in opened)


def _open_request(question: FileQuestion) -> Request | QuestionFailure:
    try:
        images = tuple(open_image(path) for path in question.images)
    except PerceptokError as error:
        return QuestionFailure(question.name, str(error))
    fields = {item.name: getattr(question, item.name) for item in dataclass_fields(question)}
    return Request(**{**fields, "images": images})


def _convert_errors(
    requests: Sequence[Request], results: Iterable[PerceptionAnswer | PerceptokError]
) -> Iterator[PerceptionAnswer | QuestionFailure]:
    for request, result in zip(requests, results, strict=True):
        yield QuestionFailure(request.name, str(result)) if isinstance(result, PerceptokError) else result


def _answer_batch(
    pipe: PerceptionPipeline | ServedPipeline, requests: Sequence[Request]
) -> Iterable[PerceptionAnswer | QuestionFailure]:
    """The answers of a batch; where one question makes the batch fail, each is asked separately."""
    if not requests:
        return []
    if isinstance(pipe, ServedPipeline):
        return _convert_errors(requests, pipe.try_answers(requests))
    try:
        return list(pipe.answers(requests))
    except (InferenceError, ConstraintError, DepthMapError) as error:
        if len(requests) == 1:
            return [QuestionFailure(requests[0].name, str(error))]
        return [result for request in requests for result in _answer_batch(pipe, [request])]


def assign_file_names(questions: Sequence[FileQuestion]) -> dict[str, str]:
    """Question name -> file name of its images without suffix; names that would collide keep their own suffix."""
    names = [question.name for question in questions]
    stems = [str(Path(name).with_suffix("")) if Path(name).name else name for name in names]
    return {name: stem if stems.count(stem) == 1 else name for name, stem in zip(names, stems, strict=True)}


def find_questions(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    question: str | None = None,
    choices: Sequence[str] = (),
    plural: str | None = None,
    tokens: TokenReading = "text",
    together: bool = False,
    lines: Iterable[str] = (),
) -> tuple[list[FileQuestion], list[QuestionFailure]]:
    """Read questions from images, folders and JSON lines, in a stable order; a malformed line fails only itself.

    Args:
        inputs: Images; folders, searched recursively for images; files of JSON lines (`.jsonl`); `-` reads such lines
            from `lines`, with images relative to the working folder. A line is a `PerceptionRecord`, whose last
            question is asked after the turns before it, or an object with `image` or `images` (relative to the file),
            and optionally `question`, or `messages` (a conversation that ends with the question), `name` or `id`,
            `choices`, `plural`, `tokens` and `markers` ({"A": [x, y]} in pixels).
        question: The question for inputs that do not hold one; "" for the trained question of the setting `ask`.
        choices: The allowed answers for inputs that do not hold any.
        plural: What is counted, for inputs that do not say it.
        tokens: Whether perception tokens in the user's texts are "meant" or "text", for inputs that do not say it.
        together: All inputs are images, which one question is about.
        lines: Lines of standard input.

    Returns:
        The questions, and the lines that could not be read.

    Raises:
        InferenceError: An input does not exist, or an image has no question.
        ImageError: A folder has no images.
    """
    defaults = _Defaults(question, tuple(choices), plural, tokens)
    sources = [os.fspath(source) for source in inputs]
    if together:
        return [_join_images(sources, defaults)], []
    items: list[FileQuestion | QuestionFailure] = []
    for source in sources:
        items += _read_input(source, defaults, lines)
    names: set[str] = set()
    questions: list[FileQuestion] = []
    for item in items:
        if isinstance(item, FileQuestion):
            questions.append(replace(item, name=_unique_name(item.name, names)))
            names.add(questions[-1].name)
    return questions, [item for item in items if isinstance(item, QuestionFailure)]


class _Defaults(NamedTuple):
    """What is asked about an input that does not say it."""

    question: str | None
    choices: tuple[str, ...]
    plural: str | None
    tokens: TokenReading


def _join_images(sources: Sequence[str], defaults: _Defaults) -> FileQuestion:
    """The question about all images."""
    paths = [Path(source) for source in sources]
    for path in paths:
        if not path.is_file() or find_suffix(path) == ".jsonl":
            raise InferenceError(f"{path}: not an image file; one question about several images names each of them")
    if defaults.question is None or not paths:
        raise InferenceError("one question about several images needs the images and a question (--question)")
    name = "+".join(path.name for path in paths)
    return FileQuestion(
        tuple(paths), defaults.question, name, defaults.choices, plural=defaults.plural, tokens=defaults.tokens
    )


def _unique_name(name: str, taken: set[str]) -> str:
    """The name; where it is taken, with a number before its suffix."""
    path = Path(name)
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix() if path.name else f"{name}-{number}"
    return candidate


def _read_input(source: str, defaults: _Defaults, lines: Iterable[str]) -> Iterator[FileQuestion | QuestionFailure]:
    if source == "-":
        opened = open_text(cast("TextIO", lines)) if isinstance(lines, io.TextIOBase) else lines
        yield from _read_lines(opened, "standard input", Path(), defaults)
        return
    path = Path(source)
    if path.is_file() and find_suffix(path) == ".jsonl":
        try:
            with open_text(path, errors="surrogateescape") as file:
                yield from _read_lines(file, str(path), path.parent, defaults)
        except OSError as error:
            raise InferenceError(f"{path}: cannot be read ({error.strerror})") from error
        return
    if path.is_dir():
        images = [(path / name, name) for name in find_images(path)]
    elif path.is_file():
        images = [(path, path.name)]
    else:
        raise InferenceError(f"{path}: no such file or folder; name an image, a folder of images or a .jsonl")
    if defaults.question is None:
        raise InferenceError(f"{source}: no question about this input; give one (--question)")
    for image, name in images:
        yield FileQuestion(
            (image,), defaults.question, name, defaults.choices, plural=defaults.plural, tokens=defaults.tokens
        )


def _read_lines(
    lines: Iterable[str], source: str, folder: Path, defaults: _Defaults
) -> Iterator[FileQuestion | QuestionFailure]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            yield _parse_line(parse_json(line, where, InferenceError), where, folder, defaults)
        except PerceptokError as error:
            yield QuestionFailure(where, str(error))


def _parse_line(values: Any, where: str, folder: Path, defaults: _Defaults) -> FileQuestion:
    if isinstance(values, dict) and "turns" in values:
        return _convert_record(PerceptionRecord.from_dict(values, where), folder)
    if not isinstance(values, dict):
        raise InferenceError(f"{where}: expected an object with an image; got {values!r:.80}")
    if unknown := sorted(values.keys() - _LINE_KEYS):
        raise InferenceError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_LINE_KEYS))}")
    if "messages" in values:
        parsed = _parse_messages(values, where)
    else:
        text = values.get("question", defaults.question)
        if not isinstance(text, str):
            raise InferenceError(f"{where}: has no question; write one in the line, or give one for all (--question)")
        parsed = ParsedMessages((Turn("user", text),), tuple(_parse_images(values, where)), None)
    images = [str(image) for image in parsed.images]
    choices = values.get("choices", defaults.choices)
    plural = values.get("plural", defaults.plural)
    tokens = values.get("tokens", defaults.tokens)
    name = values.get("name", values.get("id", "+".join(images)))
    strings = isinstance(choices, list | tuple) and all(isinstance(choice, str) for choice in choices)
    if not isinstance(name, str | int) or not strings or not isinstance(plural, str | None):
        raise InferenceError(f"{where}: name and plural must be strings, choices a list of strings")
    if tokens not in get_args(TokenReading):
        raise InferenceError(f"{where}: tokens must be one of {', '.join(get_args(TokenReading))}; got {tokens!r:.80}")
    return FileQuestion(
        tuple(folder / image for image in images),
        parsed.turns[-1].text,
        str(name),
        tuple(choices),
        _parse_markers(values, where),
        plural=plural,
        history=parsed.turns[:-1],
        tokens=tokens,
        system=parsed.system,
    )


def _parse_images(values: Mapping[str, Any], where: str) -> list[str]:
    """The paths of a line's images, relative to its file."""
    paths = values["images"] if "images" in values else [values.get("image")]
    is_valid = isinstance(paths, list) and bool(paths) and all(isinstance(path, str) and path for path in paths)
    if not is_valid or {"image", "images"} <= values.keys():
        raise InferenceError(
            f"{where}: expected an object with an image, a single path, or with images, the paths of a question about "
            "several; to ask about each, write two images as two lines"
        )
    return list(paths)


def _parse_messages(values: Mapping[str, Any], where: str) -> ParsedMessages:
    """The conversation of a line, whose images are paths in its parts, or those of the line."""
    if "question" in values:
        raise InferenceError(f"{where}: has a question and messages; the last message is the question")
    images = _parse_images(values, where) if values.keys() & {"image", "images"} else []
    try:
        parsed = parse_messages(values["messages"], images)
    except InferenceError as error:
        raise InferenceError(f"{where}: {error}") from error
    if not parsed.images or not all(isinstance(image, str) and image for image in parsed.images):
        raise InferenceError(
            f"{where}: expected an object with an image, or with paths of images in its messages; got "
            f"{list(parsed.images)!r:.80}"
        )
    return parsed


def _convert_record(record: PerceptionRecord, folder: Path) -> FileQuestion:
    """The last question of a record after the turns before it, with its markers in the first image's pixels."""
    if not record.images:
        raise InferenceError(f"record {record.id!r} has no image; a question needs at least one")
    markers = {}
    for marker in record.evidence.markers:
        if record.frame is None:
            raise InferenceError(f"record {record.id!r} has markers, but no frame that maps them to the image's pixels")
        x, y = record.frame.to_image([marker.x, marker.y]).tolist()
        markers[marker.letter] = (x, y)
    return FileQuestion(
        tuple(folder / image for image in record.images),
        record.question,
        record.id,
        record.choices,
        markers,
        record.task,
        record.evidence.plural,
        record.history,
        record.tokens,
    )


def _parse_markers(values: dict[str, Any], where: str) -> dict[str, tuple[float, float]]:
    markers = values.get("markers", {})
    if not isinstance(markers, dict) or not all(map(_is_point, markers.values())):
        raise InferenceError(f"{where}: markers map letters to points, such as {{'A': [120, 45.5]}}; got {markers!r}")
    return {letter: (float(x), float(y)) for letter, (x, y) in markers.items()}


def _is_point(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(number) in (int, float) and isfinite(number) for number in value)
    )


def write_answer_page(
    path: Path,
    lines: Iterable[Mapping[str, Any]],
    codec: DepthCodec,
    *,
    title: str,
    failures: Sequence[QuestionFailure] = (),
    force: bool = False,
) -> int:
    """Write an HTML page of answers, and of the questions that failed beside them.

    Args:
        path: The page to write.
        lines: Parsed lines of the file that `answer_files` wrote.
        codec: The codec of the lines' depth codes.
        title: Title of the page.
        failures: Questions that could not be read or answered.
        force: Replace an existing page.

    Returns:
        The number of answers and failures on the page.

    Raises:
        InferenceError: There is neither an answer nor a failure, or `lines` holds something else than answers, or
            its codes are another codec's.
        OutputError: The page exists, or cannot be written.
    """
    answers = list(lines)
    if not answers and not failures:
        raise InferenceError(f"{path}: no answers to show")
    cases = (case_from_line(answer, codec) for answer in answers)
    failed = (Case(failure.name, invalid=True, text="", facts={"failed": failure.reason}) for failure in failures)
    return write_page(path, chain(failed, cases), title=title, tables=[_summarize(answers, len(failures))], force=force)


def case_from_line(line: Mapping[str, Any], codec: DepthCodec) -> Case:
    """Convert a line of `answer_files` to a case of the page; an image that cannot be read any more is left out.

    Raises:
        InferenceError: The line is not an answer, or its codes are another codec's.
    """
    try:
        frame = ImageFrame.from_dict(line["frame"])
        if line["codes"] is not None and line["codec"] != codec.fingerprint:
            raise InferenceError(
                f"{line['name']}: its codes are of the codec {line['codec']}, this one is {codec.fingerprint}; pass "
                "the codec of the model that answered"
            )
        nearness = None
        if line["codes"] is not None:
            depth = resample_to_image(codec.decode(np.reshape(line["codes"], (10, 10)))[0], frame)
            nearness = np.where(depth.valid, depth.values, np.float32(np.nan))
        markers = {point["letter"]: (point["x"], point["y"]) for point in [*line["points"], *line["markers"]]}
        return Case(
            line["name"],
            _read_jpeg(line.get("image", "")),
            text=line["text"],
            prompt=line["question"],
            markers=[(letter, x, y) for letter, (x, y) in markers.items()],
            boxes=line["boxes"],
            box_labels=line["labels"],
            frame=frame.image_size,
            codes=line["codes"],
            depth=nearness,
            invalid=not line["valid"],
            facts={
                "answer": line["answer"],
                "tokens": line["tokens"],
                "constrained": line["constrained"],
                "problems": "; ".join(line["problems"]),
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InferenceError(f"a line is not an answer of perceptok llava infer (it lacks {error})") from error


def _read_jpeg(path: str) -> bytes | None:
    """The image, turned upright and scaled, as JPEG; None where it cannot be read."""
    try:
        image = open_image(path)
    except ImageError:
        return None
    image.thumbnail((_PAGE_IMAGE_SIDE, _PAGE_IMAGE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _summarize(lines: list[Mapping[str, Any]], failures: int) -> Table:
    rows = [
        ["answers", str(len(lines))],
        ["valid answers", str(sum(line["valid"] for line in lines))],
        ["invalid: invalid answers and failures", str(sum(not line["valid"] for line in lines) + failures)],
        ["failures: questions that could not be read or answered", str(failures)],
        ["with a depth map", str(sum(line["codes"] is not None for line in lines))],
        ["boxes", str(sum(len(line["boxes"]) for line in lines))],
        ["tokens per answer, mean", f"{sum(line['tokens'] for line in lines) / max(1, len(lines)):.0f}"],
    ]
    note = "An answer is invalid where something is malformed, missing or cut off."
    return Table("Answers", ["", ""], rows, note=note)
