"""Many questions to one file of answers: continued where it stopped, and one bad image costs only itself."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from perceptok.boxes import ImageFrame
from perceptok.data import PerceptionRecord
from perceptok.errors import ConstraintError, DepthMapError, ImageError, InferenceError, OutputError, PerceptokError
from perceptok.files import atomic_write, parse_json, resolve_inside
from perceptok.images import IMAGE_SUFFIXES, open_image
from perceptok.jobs import Journal, stamp_of
from perceptok.llava.inference.answer import PerceptionAnswer, depth_of_image
from perceptok.llava.inference.pipeline import PerceptionPipeline, Request
from perceptok.pages import Case, Table, write_page

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = [
    "FileQuestion",
    "Outputs",
    "QuestionFailure",
    "answer_files",
    "answer_questions",
    "answers_with_pictures",
    "case_of_line",
    "file_names",
    "find_questions",
    "write_answer_page",
]


_SIDE = 1280
"""Longest side of a picture on the page."""


def write_answer_page(
    path: Path, lines: Iterable[Mapping[str, Any]], codec: DepthCodec, *, title: str, force: bool = False
) -> int:
    """Write the page of answers, as `answer_files` wrote them; returns how many cases it has.

    Raises:
        InferenceError: There are no answers; a line is none; or its codes are another codec's.
        OutputError: The page exists, or cannot be written.
    """
    known = list(lines)
    if not known:
        raise InferenceError(f"{path}: there are no answers to show")
    return write_page(path, _cases(known, codec), title=title, tables=[_summary(known)], force=force)


def case_of_line(line: Mapping[str, Any], codec: DepthCodec) -> Case:
    """One line as a case; an image that is no longer there is left out.

    Raises:
        InferenceError: The line is no answer, or its codes are another codec's.
    """
    try:
        frame = ImageFrame.from_dict(line["frame"])
        if line["codes"] is not None and line["codec"] != codec.fingerprint:
            raise InferenceError(
                f"{line['name']}: its codes are of the codec {line['codec']}, this one is {codec.fingerprint}"
            )
        depth = None
        if line["codes"] is not None:
            found = depth_of_image(codec.decode(np.reshape(line["codes"], (10, 10)))[0], frame)
            depth = np.where(found.valid, found.values, np.float32(np.nan))
        markers = {one["letter"]: (one["x"], one["y"]) for one in [*line["points"], *line["markers"]]}
        return Case(
            line["name"],
            _picture(line.get("image", "")),
            text=line["text"],
            prompt=line["question"],
            markers=[(letter, x, y) for letter, (x, y) in markers.items()],
            boxes=line["boxes"],
            box_labels=line["labels"],
            frame=frame.image_size,
            codes=line["codes"],
            depth=depth,
            verdict=None if line["valid"] else "invalid",
            facts={
                "answer": line["answer"],
                "tokens": line["tokens"],
                "constrained": line["constrained"],
                "problems": "; ".join(line["problems"]),
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InferenceError(f"a line is no answer of perceptok llava infer (it lacks {error})") from error


def _cases(lines: Iterable[Mapping[str, Any]], codec: DepthCodec) -> Iterator[Case]:
    for line in lines:
        yield case_of_line(line, codec)


def _picture(path: str) -> bytes | None:
    """The image as a person sees it, turned and scaled; None where it cannot be read any more."""
    try:
        image = open_image(path)
    except ImageError:
        return None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _summary(lines: list[Mapping[str, Any]]) -> Table:
    count = len(lines)
    rows = [
        ["answers", str(count)],
        ["nothing wrong", f"{sum(line['valid'] for line in lines)}"],
        ["with a depth map", f"{sum(line['codes'] is not None for line in lines)}"],
        ["boxes", str(sum(len(line["boxes"]) for line in lines))],
        ["tokens of an answer, mean", f"{sum(line['tokens'] for line in lines) / count:.0f}"],
    ]
    return Table("Answers", ["", ""], rows, note="invalid marks answers with something malformed, missing or cut off.")


_IMAGES = tuple(sorted((*IMAGE_SUFFIXES, ".gif")))
_KEYS = {"name", "id", "image", "question", "choices", "markers"}


class QuestionFailure(NamedTuple):
    """A question that could not be asked or answered, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FileQuestion:
    """One question about an image on disk.

    Attributes:
        image: The file.
        question: In words.
        name: Its name in outputs: relative, with `/`, one of its kind.
        choices: What the answer may be; empty for anything.
        markers: Letter -> x, y in the image's pixels.
    """

    image: Path
    question: str
    name: str
    choices: tuple[str, ...] = ()
    markers: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def find_questions(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    question: str | None = None,
    choices: Sequence[str] = (),
    lines: Iterable[str] = (),
) -> tuple[list[FileQuestion], list[QuestionFailure]]:
    """Resolve what a user names to questions, in a stable order; a bad line costs only itself.

    Args:
        inputs: Images; folders, searched through for images; files of JSON lines (`.jsonl`), each an object with
            `image` (relative to the file), and optionally `question`, `name` or `id`, `choices` and `markers`
            ({"A": [x, y]} in pixels), or a `PerceptionRecord`, whose first question is asked; `-` reads such lines from
            `lines`, with images relative to the working folder.
        question: For every image whose line does not say.
        choices: The same.
        lines: Standard input.

    Returns:
        The questions, and what could not be read as one.

    Raises:
        InferenceError: Something named does not exist or has no images in it, or an image has no question.
    """
    found: list[FileQuestion | QuestionFailure] = []
    for one in inputs:
        found += _expanded(os.fspath(one), question, tuple(choices), lines)
    named: set[str] = set()
    unique: list[FileQuestion] = []
    for item in found:
        if isinstance(item, FileQuestion):
            unique.append(replace(item, name=_free_name(item.name, named)))
            named.add(unique[-1].name)
    return unique, [item for item in found if isinstance(item, QuestionFailure)]


def _expanded(
    named: str, question: str | None, choices: tuple[str, ...], lines: Iterable[str]
) -> Iterator[FileQuestion | QuestionFailure]:
    if named == "-":
        yield from _in_lines(lines, "standard input", Path(), question, choices)
        return
    path = Path(named)
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.suffix.lower() in _IMAGES and one.is_file())
        if not files:
            raise InferenceError(f"{path}: no images in this folder; known are {', '.join(_IMAGES)}")
        for one in files:
            yield FileQuestion(one, _said(question, named), one.relative_to(path).as_posix(), choices)
    elif not path.is_file():
        raise InferenceError(f"{path}: there is no such file or folder")
    elif path.suffix.lower() == ".jsonl":
        try:
            with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
                yield from _in_lines(file, str(path), path.parent, question, choices)
        except OSError as error:
            raise InferenceError(f"{path}: cannot be read ({error.strerror})") from error
    else:
        yield FileQuestion(path, _said(question, named), path.name, choices)


def _in_lines(
    lines: Iterable[str], source: str, folder: Path, question: str | None, choices: tuple[str, ...]
) -> Iterator[FileQuestion | QuestionFailure]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            yield _of_values(parse_json(line, where, InferenceError), where, folder, question, choices)
        except PerceptokError as error:
            yield QuestionFailure(where, str(error))


def _of_values(values: Any, where: str, folder: Path, question: str | None, choices: tuple[str, ...]) -> FileQuestion:
    if isinstance(values, dict) and "turns" in values:
        return _of_record(PerceptionRecord.from_dict(values, where), folder)
    if not isinstance(values, dict) or not isinstance(values.get("image"), str) or not values["image"]:
        raise InferenceError(f"{where}: expected an object with an image, a path of its own; two images are two lines")
    if unknown := sorted(values.keys() - _KEYS):
        raise InferenceError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    asked = values.get("question", question)
    if not isinstance(asked, str):
        raise InferenceError(f"{where}: has no question; write one in the line, or give one for all (--question)")
    name = values.get("name", values.get("id", values["image"]))
    given = values.get("choices", choices)
    if not isinstance(name, str | int) or not isinstance(given, list | tuple) or not all(map(_is_text, given)):
        raise InferenceError(f"{where}: name is a text, choices a list of texts")
    return FileQuestion(folder / values["image"], asked, str(name), tuple(given), _markers(values, where))


def _of_record(record: PerceptionRecord, folder: Path) -> FileQuestion:
    """The first question of a record, with its markers in the image's pixels."""
    if len(record.images) != 1:
        raise InferenceError(f"record {record.id!r} has {len(record.images)} images; a question is about one")
    markers = {}
    if record.evidence.markers and record.frame is None:
        raise InferenceError(f"record {record.id!r} has markers, but no frame that says where they lie in the image")
    for one in record.evidence.markers:
        assert record.frame is not None
        x, y = record.frame.to_image([one.x, one.y]).tolist()
        markers[one.letter] = (x, y)
    return FileQuestion(folder / record.images[0], record.turns[0].text, record.id, record.choices, markers)


def _markers(values: dict[str, Any], where: str) -> dict[str, tuple[float, float]]:
    given = values.get("markers", {})
    if not isinstance(given, dict) or not all(map(_is_place, given.values())):
        raise InferenceError(f"{where}: markers are letters with places, such as {{'A': [120, 45.5]}}; got {given!r}")
    return {letter: (float(x), float(y)) for letter, (x, y) in given.items()}


def _is_place(value: object) -> bool:
    numbers: list[Any] = value if isinstance(value, list) and len(value) == 2 else [None]
    return all(type(one) in (int, float) and isfinite(one) for one in numbers)


def _said(question: str | None, named: str) -> str:
    if question is None:
        raise InferenceError(f"{named}: what shall be asked about it? Give a question (--question)")
    return question


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _free_name(name: str, taken: set[str]) -> str:
    """The name, or, where it is taken, with a number before its suffix."""
    path = Path(name)
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix() if path.name else f"{name}-{number}"
    return candidate


@dataclass(frozen=True)
class Outputs:
    """Where pictures go besides the lines; None for nowhere.

    Attributes:
        depth: Folder for depth maps, 16-bit PNG of nearness in each image's size; NPZ where a crop hides a part.
        overlay: Folder for overlays, PNG.
    """

    depth: Path | None = None
    overlay: Path | None = None

    def write(self, answer: PerceptionAnswer, names: Mapping[str, str]) -> dict[str, str]:
        """Write an answer's pictures, over those of an interrupted run; gives what goes into its line.

        Raises:
            OutputError: A name that leads out of a folder, or a file that cannot be written.
        """
        said: dict[str, str] = {}
        if self.depth is not None and answer.depth is not None:
            suffix = ".png" if answer.depth.valid.all() else ".npz"
            target = _placed(self.depth, names[answer.name] + suffix)
            answer.save_depth(target, force=True)
            said["depth"] = str(target)
        if self.overlay is not None:
            target = _placed(self.overlay, names[answer.name] + ".png")
            answer.save_overlay(target, force=True)
            said["overlay"] = str(target)
        return said


def answer_questions(
    pipe: PerceptionPipeline, asked: Sequence[FileQuestion]
) -> Iterator[PerceptionAnswer | QuestionFailure]:
    """An answer or a failure for each question, in order, batch by batch; `pipe.config` says how."""
    size = pipe.config.batch_size
    for start in range(0, len(asked), size):
        batch = asked[start : start + size]
        opened = [_opened(one) for one in batch]
        answers = iter(_answered(pipe, [one for one in opened if isinstance(one, Request)]))
        yield from (one if isinstance(one, QuestionFailure) else next(answers) for one in opened)


def answers_with_pictures(
    pipe: PerceptionPipeline,
    asked: Sequence[FileQuestion],
    outputs: Outputs | None = None,
    names: Mapping[str, str] | None = None,
) -> Iterator[tuple[PerceptionAnswer | QuestionFailure, dict[str, str]]]:
    """As `answer_questions`, with pictures written as answers come: and the paths of image, depth and overlay."""
    wanted = outputs or Outputs()
    known = names or file_names(asked)
    for one, result in zip(asked, answer_questions(pipe, asked), strict=True):
        if isinstance(result, QuestionFailure):
            yield result, {}
            continue
        try:
            yield result, {"image": str(one.image), **wanted.write(result, known)}
        except (PerceptokError, OSError) as error:
            yield QuestionFailure(result.name, str(error)), {}


def answer_files(
    pipe: PerceptionPipeline,
    asked: Sequence[FileQuestion],
    output: str | Path,
    *,
    outputs: Outputs | None = None,
    model: str = "",
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> list[QuestionFailure]:
    """Answer questions into a file of JSON lines, one each; see `PerceptionAnswer.to_dict`.

    Answers gather in `OUTPUT.partial`. A run that was interrupted, killed or out of disk is continued by the same call;
    what changed on disk since then, or could not be read, is asked again.

    Args:
        pipe: The pipeline; its `config` says how.
        asked: See `find_questions`.
        output: The `.jsonl` to write.
        outputs: Where depth maps and overlays go.
        model: What the model is called; a partial output of another one is refused.
        force: Replace an existing output, and start over.
        advance: Called after every question.

    Returns:
        What could not be answered or written; all others are in the output.

    Raises:
        OutputError: The output exists, cannot be written, or a partial one belongs to another run.
    """
    target = Path(output)
    if target.suffix != ".jsonl":
        raise OutputError(f"{target}: answers are written to .jsonl")
    if target.exists() and not force:
        raise OutputError(f"{target} exists already; choose another path, or replace it with force (--force)")
    run = {"model": model, "codec": pipe.codec.fingerprint, "config": pipe.config.to_dict(), "asked": _digest(asked)}
    names = file_names(asked)
    stamps = [stamp_of(one.image) for one in asked]
    with Journal[dict[str, Any]](target, run, stamps, start_over=force and target.exists()) as journal:
        todo = journal.todo
        for _ in range(len(asked) - len(todo)):
            advance()
        results = answers_with_pictures(pipe, [asked[index] for index in todo], outputs, names)
        for index, (result, written) in zip(todo, results, strict=True):
            values = (
                {"failure": list(result)} if isinstance(result, QuestionFailure) else {**result.to_dict(), **written}
            )
            journal.add(index, values)
            advance()
        lines = list(journal.results())
        with atomic_write(target, force=force) as file:
            for values in lines:
                if "failure" not in values:
                    file.write((json.dumps(values) + "\n").encode())
        journal.remove()
    return [QuestionFailure(*values["failure"]) for values in lines if "failure" in values]


def _opened(one: FileQuestion) -> Request | QuestionFailure:
    try:
        return Request(open_image(one.image), one.question, one.choices, one.markers, one.name)
    except PerceptokError as error:
        return QuestionFailure(one.name, str(error))


def _answered(pipe: PerceptionPipeline, requests: Sequence[Request]) -> list[PerceptionAnswer | QuestionFailure]:
    """The answers of a batch; where one question spoils it, each by itself."""
    if not requests:
        return []
    try:
        return list(pipe.answers(requests))
    except (InferenceError, ConstraintError, DepthMapError) as error:
        if len(requests) == 1:
            return [QuestionFailure(requests[0].name, str(error))]
        return [result for one in requests for result in _answered(pipe, [one])]


def file_names(asked: Sequence[FileQuestion]) -> dict[str, str]:
    """Name -> name of its pictures without suffix; where two would share one, they keep their suffixes."""
    short = [str(Path(one.name).with_suffix("")) if Path(one.name).name else one.name for one in asked]
    return {one.name: stem if short.count(stem) == 1 else one.name for one, stem in zip(asked, short, strict=True)}


def _placed(folder: Path, name: str) -> Path:
    target = resolve_inside(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _digest(asked: Sequence[FileQuestion]) -> str:
    return hashlib.sha256("\n".join(map(repr, asked)).encode("utf-8", "surrogatepass")).hexdigest()
