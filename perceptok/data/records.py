"""One training or test sample: images, a conversation, the evidence of its answer, and its provenance."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, get_args

from pydantic import PlainValidator

from perceptok.boxes import ImageFrame
from perceptok.config import validate_json
from perceptok.data.soft_codes import SoftCodes
from perceptok.errors import PerceptokError, RecordError
from perceptok.files import parse_json
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL
from perceptok.vocabulary import sanitize_text

__all__ = [
    "IMAGE_TAG",
    "Evidence",
    "Marker",
    "PerceptionRecord",
    "Regime",
    "Task",
    "TokenReading",
    "Turn",
    "format_conversation",
]

Task = Literal["depth", "counting", "other"]
Regime = Literal["atomic", "cot", "direct", "reading", "instruction"]

TokenReading = Literal["meant", "text"]
"""Whether perception tokens in the user's texts, such as `<PIXEL_3>`, are "meant" as tokens or are ordinary "text"."""

Number: TypeAlias = int | float
"""A number of JSON; an integer stays an integer, so that a record that is read is written as the same bytes."""

IMAGE_TAG = "<image>"
"""Stands for an image in texts of the LLaVA format. Turns do not contain it: images precede the first turn."""

_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]
_MAX_FLOAT = sys.float_info.max
"""Limit of difficulties and coordinates: larger integers overflow a float, and NaN and infinity exceed it."""

_ROLES = ("user", "assistant")
_LLAVA_ROLES = {"user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation, without image tags."""

    role: Literal["user", "assistant"]
    text: str


def format_conversation(history: Sequence[Turn], question: str) -> str:
    """A question with the turns before it, for people to read: the question alone where there are none."""
    if not history:
        return question
    return "\n".join([*(f"{turn.role}: {turn.text}" for turn in history), f"user: {question}"])


@dataclass(frozen=True)
class Marker:
    """A lettered point that is drawn on the image.

    Attributes:
        letter: Its label, "A", "B", ...
        x: Frame pixels, 0..frame.size.
        y: Frame pixels, 0..frame.size.
        level: Nearness of its pixel, 0..1, 1 = nearest; None if unknown.
    """

    letter: str
    x: Number
    y: Number
    level: Number | None = None


@dataclass(frozen=True)
class Evidence:
    """The evidence of an answer; what does not apply is None or empty.

    Attributes:
        codes: 100 depth codes in 0..127, row-major.
        codec: Fingerprint of the codec of the codes; None if unknown.
        markers: Lettered points on the image.
        boxes: Coordinate codes x1, y1, x2, y2 in 0..335 of each instance, in the order of the answer; () for a count
            of zero.
        plural: The category that is counted, e.g. "dogs".
        soft: The nearest codes of each cell with their distances; None where they were not asked for.

    Raises:
        RecordError: A value is out of range, or contradicts another; the message names it.
    """

    codes: tuple[int, ...] | None = None
    codec: str | None = None
    markers: tuple[Marker, ...] = ()
    boxes: tuple[tuple[int, int, int, int], ...] | None = None
    plural: str | None = None
    soft: SoftCodes | None = None

    def __post_init__(self) -> None:
        codes = self.codes
        if codes is not None:
            if len(codes) != _CELLS:
                _refuse("evidence.codes", f"{_CELLS} codes", len(codes))
            for code in codes:
                if type(code) is not int or not 0 <= code < DEPTH.size:
                    _refuse("evidence.codes", f"integers 0..{DEPTH.size - 1}", code)
        if self.soft is not None and codes != self.soft.nearest:
            _refuse("evidence.soft.codes", "the code of evidence.codes first in each cell", self.soft.nearest)
        letters = [marker.letter for marker in self.markers]
        if len({*letters}) != len(letters) or not all(letters):
            _refuse("evidence.markers", "different letters", letters)
        for index, marker in enumerate(self.markers):
            if marker.level is not None and not 0 <= marker.level <= 1:
                _refuse(f"evidence.markers.{index}.level", "0..1 or null", marker.level)
        for index, box in enumerate(self.boxes or ()):
            if len(box) != 4 or not all(type(code) is int and 0 <= code < PIXEL.size for code in box):
                _refuse(f"evidence.boxes.{index}", f"four integers 0..{PIXEL.size - 1}", box)
            if box[0] > box[2] or box[1] > box[3]:
                _refuse(f"evidence.boxes.{index}", "x1 <= x2 and y1 <= y2", box)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON types, in a fixed order of keys."""
        values: dict[str, Any] = {
            "codes": None if self.codes is None else list(self.codes),
            "codec": self.codec,
            "markers": [{"letter": m.letter, "x": m.x, "y": m.y, "level": m.level} for m in self.markers],
            "boxes": None if self.boxes is None else [list(box) for box in self.boxes],
            "plural": self.plural,
        }
        if self.soft is not None:
            values["soft"] = {"codes": list(self.soft.codes), "distances": list(self.soft.distances)}
        return values


@dataclass(frozen=True)
class PerceptionRecord:
    """One training or test sample.

    Attributes:
        id: Unique within its file.
        images: Paths relative to the records' folder, with `/`; the images precede the first turn.
        turns: "user" and "assistant" alternate, the user first. A test record may end with the user.
        task: "depth", "counting", or "other" (general instruction data).
        regime: "atomic" (perception tokens alone), "cot" (tokens, then the answer), "direct" (the answer alone),
            "reading" (the question gives the block, and the answer follows from it; possibly without an image), or
            "instruction" (task "other"; without evidence, and possibly without an image).
        difficulty: Larger = harder, >= 0.
        frame: Geometry of the image in the model's square; None if unknown.
        answer: The correct answer, a letter or a number; None where only perception tokens are asked for.
        choices: Answers to choose from; empty for an open question.
        evidence: Codes, markers or boxes of the answer.
        provenance: JSON types by name: source, specialist, seed, template, ...
        tokens: Whether perception tokens in the user's turns are "meant" (a question about a region) or "text" (of
            people who do not know of these tokens). Those of the assistant's turns are always meant; control tokens
            of the model, such as its end of sequence, never are.

    Raises:
        RecordError: A value is out of range, or contradicts another; the message names it.
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    task: Task
    regime: Regime
    difficulty: Number = 0.0
    frame: Annotated[ImageFrame, PlainValidator(_read_frame)] | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()
    evidence: Evidence = Evidence()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tokens: TokenReading = "meant"

    def __post_init__(self) -> None:
        if not self.id.strip():
            _refuse("id", "text that is not empty", self.id)
        for image in self.images:
            _check_image_path(image)
        if not self.turns:
            _refuse("turns", "one turn or more", self.turns)
        for index, turn in enumerate(self.turns):
            if turn.role != _ROLES[index % 2]:
                _refuse(f"turns.{index}.role", f"{_ROLES[index % 2]!r} (user and assistant alternate)", turn.role)
            if not turn.text or IMAGE_TAG in turn.text:
                _refuse(f"turns.{index}.text", f"text without {IMAGE_TAG} that is not empty", turn.text)
        if self.task not in get_args(Task):
            _refuse("task", f"one of {', '.join(get_args(Task))}", self.task)
        if self.regime not in get_args(Regime):
            _refuse("regime", f"one of {', '.join(get_args(Regime))}", self.regime)
        if self.tokens not in get_args(TokenReading):
            _refuse("tokens", f"one of {', '.join(get_args(TokenReading))}", self.tokens)
        if (self.task == "other") != (self.regime == "instruction"):
            _refuse("task", "'other' together with the regime 'instruction'", f"{self.task} {self.regime}")
        if self.task == "other" and self.evidence != Evidence():
            _refuse("evidence", "nothing for the task 'other'", self.evidence.to_dict())
        if not 0 <= self.difficulty <= _MAX_FLOAT:
            _refuse("difficulty", "a finite number >= 0", self.difficulty)
        if len({*self.choices}) != len(self.choices):
            _refuse("choices", "different answers", self.choices)
        if self.choices and self.answer is not None and self.answer not in self.choices:
            _refuse("answer", f"one of {self.choices}", self.answer)
        try:
            json.dumps(dict(self.provenance), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            _refuse("provenance", f"JSON types with finite numbers ({error})", self.provenance)
        limit = _MAX_FLOAT if self.frame is None else self.frame.size
        for index, marker in enumerate(self.evidence.markers):
            for axis, value in (("x", marker.x), ("y", marker.y)):
                if not 0 <= value <= limit:
                    _refuse(f"evidence.markers.{index}.{axis}", f"frame pixels 0..{limit}", value)

    @property
    def question(self) -> str:
        """The text of the user's last turn."""
        return self.turns[self._last_question].text

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns before the user's last turn."""
        return self.turns[: self._last_question]

    @property
    def _last_question(self) -> int:
        return (len(self.turns) - 1) // 2 * 2

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON types, in a fixed order of keys."""
        values = {
            "id": self.id,
            "images": list(self.images),
            "turns": [{"role": turn.role, "text": turn.text} for turn in self.turns],
            "task": self.task,
            "regime": self.regime,
            "difficulty": self.difficulty,
            "frame": None if self.frame is None else self.frame.to_dict(),
            "answer": self.answer,
            "choices": list(self.choices),
            "evidence": self.evidence.to_dict(),
            "provenance": {key: self.provenance[key] for key in sorted(self.provenance)},
        }
        return values if self.tokens == "meant" else {**values, "tokens": self.tokens}

    @classmethod
    def from_dict(cls, values: object, name: str = "record") -> PerceptionRecord:
        """Read a record from JSON types, as `to_dict` gives them; missing keys take their default.

        Rows of `datasets` are read too, of JSON lines and of the Parquet files that `write_records` writes: None counts
        as missing, since `datasets` fills keys in that another row has, and columns of JSON text are parsed.

        Args:
            values: The record as JSON types.
            name: Where it comes from, for messages.

        Raises:
            RecordError: A key is unknown or missing, or a value has another type or is out of range; the message gives
                the name, the record's id and the field.
        """
        try:
            line = json.dumps(_clean_row(values, name))
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(f"{name}: expected JSON types; {error}") from error
        return cls.from_json(line, name)

    def to_json(self) -> str:
        """Convert to one line of JSON, the same bytes for the same record."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes, name: str = "record") -> PerceptionRecord:
        """Read a record from one line of JSON, as `to_json` gives it; missing keys take their default.

        Args:
            line: The text; bytes are UTF-8.
            name: Where it comes from, for messages.

        Raises:
            RecordError: Not valid JSON, a key is unknown or missing, or a value has another type or is out of range;
                the message gives the name, the record's id and the field.
        """
        text = line.encode(errors="surrogatepass") if isinstance(line, str) else line
        text = text.removeprefix(codecs.BOM_UTF8)
        try:
            return validate_json(cls, text, name, RecordError)
        except RecordError as error:
            raise RecordError(f"{name}{_describe_id(text)}: {str(error).removeprefix(f'{name}: ')}") from error

    def to_llava(self, *, lossless: bool = True) -> dict[str, Any]:
        """Convert to the LLaVA format, which AURORA reads too: `id`, `image`, `conversations`, a line `<image>` first.

        Args:
            lossless: Keep the other fields under the key "perceptok", which trainers ignore.
        """
        texts = self._portable_texts()
        texts[0] = f"{IMAGE_TAG}\n" * len(self.images) + texts[0]
        entry: dict[str, Any] = {"id": self.id}
        if self.images:
            entry["image"] = self.images[0] if len(self.images) == 1 else list(self.images)
        entry["conversations"] = [
            {"from": _LLAVA_ROLES[turn.role], "value": text} for turn, text in zip(self.turns, texts, strict=True)
        ]
        return {**entry, "perceptok": self._remaining_fields()} if lossless else entry

    def to_messages(self, folder: str | Path | None = None) -> list[dict[str, Any]]:
        """Convert to chat messages for a processor's chat template.

        Args:
            folder: The records' folder; with it every image part has the `path` that processors read, absolute, so that
                the messages can be used from any directory.

        Returns:
            One message for each turn; `content` is a list of parts, with the images before the first text.
        """
        images: list[dict[str, str]] = [
            {"type": "image"} if folder is None else {"type": "image", "path": str(Path(folder).absolute() / image)}
            for image in self.images
        ]
        messages: list[dict[str, Any]] = []
        for index, (turn, text) in enumerate(zip(self.turns, self._portable_texts(), strict=True)):
            content = [*(images if index == 0 else ()), {"type": "text", "text": text}]
            messages.append({"role": turn.role, "content": content})
        return messages

    def to_chat(self, folder: str | Path | None = None) -> dict[str, Any]:
        """Convert to a row for TRL's trainers: `messages` and `images`, and the other fields under "perceptok".

        Args:
            folder: The records' folder; with it the images are absolute paths, which a column of `datasets.Image` loads
                from any directory.
        """
        images = [image if folder is None else str(Path(folder).absolute() / image) for image in self.images]
        row = {"id": self.id, "images": images, "messages": self.to_messages()}
        return {**row, "perceptok": self._remaining_fields()}

    def _portable_texts(self) -> list[str]:
        """The turns' texts for other programs, with the user's perception tokens escaped unless they are meant."""
        return [
            sanitize_text(turn.text) if turn.role == "user" and self.tokens == "text" else turn.text
            for turn in self.turns
        ]

    def _remaining_fields(self) -> dict[str, Any]:
        return {key: value for key, value in self.to_dict().items() if key not in ("id", "images", "turns")}


_JSON_COLUMNS = ("frame", "evidence", "provenance")
"""Columns that are JSON text in Parquet, where the values of all rows would need one type."""


def _clean_row(values: object, name: str) -> object:
    """A row of `datasets` as `to_dict` would have it: without None for missing keys, and with parsed JSON columns."""
    if not isinstance(values, Mapping):
        return values
    row = dict(values)
    for column in _JSON_COLUMNS:
        value = row.get(column)
        if isinstance(value, str):
            row[column] = parse_json(value, f"{name}: {column}", RecordError)
        elif isinstance(value, Mapping) and column != "frame":
            row[column] = {key: inner for key, inner in value.items() if inner is not None}
    return {key: value for key, value in row.items() if value is not None}


def _read_frame(values: Any) -> ImageFrame:
    """Read a frame, every key of which is required: a guessed offset would move the markers."""
    try:
        return ImageFrame.from_dict(values)
    except (PerceptokError, TypeError) as error:
        raise RecordError(f"frame: {error}") from error


def _check_image_path(image: str) -> None:
    path = PurePosixPath(image)
    has_drive = len(image) > 1 and image[1] == ":"
    if not image or "\0" in image or "\\" in image or path.is_absolute() or ".." in path.parts or has_drive:
        _refuse("images", "a path relative to the records' folder, with / and without ..", image)


def _refuse(name: str, expected: str, value: object) -> NoReturn:
    raise RecordError(f"{name}: expected {expected}; got {value!r:.80}")


def _describe_id(text: bytes) -> str:
    """Describe an invalid record by its id, for messages."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    identity = values.get("id") if isinstance(values, dict) else None
    return f", record {identity!r}" if isinstance(identity, str) else ""
