"""What a command is asked: images, folders of them, and JSON lines, as questions with names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from perceptok.data.records import PerceptionRecord
from perceptok.errors import InferenceError, PerceptokError
from perceptok.files import parse_json

__all__ = ["Failure", "FileQuestion", "find_questions"]

_IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_KEYS = {"name", "id", "image", "question", "choices", "markers"}


class Failure(NamedTuple):
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
) -> tuple[list[FileQuestion], list[Failure]]:
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
    found: list[FileQuestion | Failure] = []
    for one in inputs:
        found += _expanded(os.fspath(one), question, tuple(choices), lines)
    named: set[str] = set()
    unique: list[FileQuestion] = []
    for item in found:
        if isinstance(item, FileQuestion):
            unique.append(replace(item, name=_free_name(item.name, named)))
            named.add(unique[-1].name)
    return unique, [item for item in found if isinstance(item, Failure)]


def _expanded(
    named: str, question: str | None, choices: tuple[str, ...], lines: Iterable[str]
) -> Iterator[FileQuestion | Failure]:
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
) -> Iterator[FileQuestion | Failure]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            yield _of_values(parse_json(line, where, InferenceError), where, folder, question, choices)
        except PerceptokError as error:
            yield Failure(where, str(error))


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
