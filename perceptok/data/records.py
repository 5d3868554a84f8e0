"""One sample of training or test data: images, a conversation, what it rests on, and where it came from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias, get_args

from perceptok.boxes import ImageFrame
from perceptok.data.soft_codes import SoftCodes
from perceptok.errors import PerceptokError, RecordError
from perceptok.files import parse_json
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL

__all__ = ["IMAGE_TAG", "JSON", "Evidence", "Marker", "PerceptionRecord", "Regime", "Task", "Turn"]


JSON: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None
"""What a JSON text can say."""

Task = Literal["depth", "counting"]
Regime = Literal["atomic", "cot", "direct"]

IMAGE_TAG = "<image>"
"""An image in a text of LLaVA's form. Turns never hold it: a record's images stand before its first turn."""

_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]
_ROLES = {"user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation, without image tags."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Marker:
    """A lettered point that is drawn on the image.

    Attributes:
        letter: Its label, "A", "B", ...
        x: Frame pixels, 0..frame.size.
        y: Frame pixels, 0..frame.size.
        level: Nearness of its pixel, 0..1, 1 = nearest; None where it is not known.
    """

    letter: str
    x: float
    y: float
    level: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What an answer rests on; what does not apply is None or empty.

    Attributes:
        codes: 100 depth codes, row-major.
        codec: Fingerprint of the codec that made them.
        markers: Drawn on the image.
        boxes: Coordinate codes x1, y1, x2, y2 of each instance, in the order of the answer; () says that there is none.
        plural: What is counted, e.g. "dogs".
        soft: What the codec says of the map's cells beside their codes; None where the map was not at hand.
    """

    codes: tuple[int, ...] | None = None
    codec: str | None = None
    markers: tuple[Marker, ...] = ()
    boxes: tuple[tuple[int, int, int, int], ...] | None = None
    plural: str | None = None
    soft: SoftCodes | None = None


@dataclass(frozen=True)
class PerceptionRecord:
    """One training or test sample.

    Attributes:
        id: Unique within its file.
        images: Paths relative to the records' folder, with `/`; they stand before the first turn.
        turns: "user" and "assistant" in turn, beginning with the user. A test record may end with the user.
        task: "depth" or "counting".
        regime: "atomic" (perception tokens alone), "cot" (tokens, then the answer) or "direct" (the answer alone).
        difficulty: Larger = harder, >= 0.
        frame: How the image lies in the model's square; None where it is not known.
        answer: The right answer, a letter or a number; None where the tokens are all that is asked.
        choices: Answers to choose from; empty for an open question.
        evidence: What the answer rests on.
        provenance: Where it came from: source, specialist, seed, template, ...

    Raises:
        RecordError: A field has another type, is out of range, or contradicts another; the message names it.
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    task: Task
    regime: Regime
    difficulty: float = 0.0
    frame: ImageFrame | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()
    evidence: Evidence = Evidence()
    provenance: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def to_dict(self) -> dict[str, JSON]:
        """The record as JSON types, in a fixed order of keys."""
        evidence = self.evidence
        return {
            "id": self.id,
            "images": list(self.images),
            "turns": [{"role": turn.role, "text": turn.text} for turn in self.turns],
            "task": self.task,
            "regime": self.regime,
            "difficulty": self.difficulty,
            "frame": None if self.frame is None else self.frame.to_dict(),
            "answer": self.answer,
            "choices": list(self.choices),
            "evidence": {
                "codes": None if evidence.codes is None else list(evidence.codes),
                "codec": evidence.codec,
                "markers": [{"letter": m.letter, "x": m.x, "y": m.y, "level": m.level} for m in evidence.markers],
                "boxes": None if evidence.boxes is None else [list(box) for box in evidence.boxes],
                "plural": evidence.plural,
                **({} if evidence.soft is None else {"soft": _soft_dict(evidence.soft)}),
            },
            "provenance": {key: self.provenance[key] for key in sorted(self.provenance)},
        }

    @classmethod
    def from_dict(cls, values: object, name: str = "record") -> PerceptionRecord:
        """The inverse of `to_dict`; what is missing takes its default.

        Args:
            values: The record as JSON types.
            name: Where it comes from, for messages.

        Raises:
            RecordError: A key is unknown or missing, or a value is not what it should be; the message gives the name,
                the record's id and the field.
        """
        try:
            return _read_record(values)
        except RecordError as error:
            known = values.get("id") if isinstance(values, Mapping) else None
            raise RecordError(f"{name}{f', record {known!r}' if isinstance(known, str) else ''}: {error}") from error

    def to_json(self) -> str:
        """The record as one line of JSON: the same bytes for the same record."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes, name: str = "record") -> PerceptionRecord:
        """The inverse of `to_json`; raises as `from_dict`, also for what is no JSON."""
        return cls.from_dict(parse_json(line, name, RecordError), name)

    def to_llava(self, *, whole: bool = True) -> dict[str, JSON]:
        """The form that LLaVA's and AURORA's trainers read: `id`, `image`, `conversations`, a line `<image>` first.

        Args:
            whole: Keep what this form has no room for under the key "perceptok", which trainers pass over.
        """
        texts = [turn.text for turn in self.turns]
        texts[0] = f"{IMAGE_TAG}\n" * len(self.images) + texts[0]
        entry: dict[str, JSON] = {"id": self.id}
        if self.images:
            entry["image"] = self.images[0] if len(self.images) == 1 else list(self.images)
        entry["conversations"] = [
            {"from": _ROLES[turn.role], "value": text} for turn, text in zip(self.turns, texts, strict=True)
        ]
        return {**entry, "perceptok": self._rest()} if whole else entry

    def to_messages(self, folder: str | Path | None = None) -> list[dict[str, Any]]:
        """Chat messages for a processor's chat template.

        Args:
            folder: Of the records; with it every image part has the `path` that processors read.

        Returns:
            One message a turn, `content` a list of parts, the images before the first text.
        """
        images: list[dict[str, str]] = [
            {"type": "image"} if folder is None else {"type": "image", "path": str(Path(folder) / image)}
            for image in self.images
        ]
        messages: list[dict[str, Any]] = []
        for index, turn in enumerate(self.turns):
            content = [*(images if index == 0 else ()), {"type": "text", "text": turn.text}]
            messages.append({"role": turn.role, "content": content})
        return messages

    def to_chat(self) -> dict[str, JSON]:
        """A row for TRL's trainers: `messages` beside `images`, and the rest under "perceptok"."""
        return {"id": self.id, "images": list(self.images), "messages": self.to_messages(), "perceptok": self._rest()}

    def _rest(self) -> dict[str, JSON]:
        return {key: value for key, value in self.to_dict().items() if key not in ("id", "images", "turns")}


def _check(record: PerceptionRecord) -> None:
    _require(isinstance(record.id, str) and bool(record.id.strip()), "id", "text that is not empty", record.id)
    for image in record.images:
        _check_path(image)
    _require(bool(record.turns), "turns", "a turn or more", record.turns)
    for index, turn in enumerate(record.turns):
        role = "assistant" if index % 2 else "user"
        _require(turn.role == role, f"turns[{index}].role", f"{role!r} (user and assistant in turn)", turn.role)
        _require(isinstance(turn.text, str) and bool(turn.text), f"turns[{index}].text", "text", turn.text)
        _require(IMAGE_TAG not in turn.text, f"turns[{index}].text", f"text without {IMAGE_TAG}", turn.text)
    _require(record.task in get_args(Task), "task", f"one of {', '.join(get_args(Task))}", record.task)
    _require(record.regime in get_args(Regime), "regime", f"one of {', '.join(get_args(Regime))}", record.regime)
    _require(_number(record.difficulty) and record.difficulty >= 0, "difficulty", "a number from 0", record.difficulty)
    answer = record.answer
    _require(answer is None or isinstance(answer, str), "answer", "text or null", answer)
    if record.choices:
        _require(len({*record.choices}) == len(record.choices), "choices", "different answers", record.choices)
        _require(answer is None or answer in record.choices, "answer", f"one of {record.choices}", answer)
    _check_evidence(record.evidence, math.inf if record.frame is None else record.frame.size)


def _check_evidence(evidence: Evidence, side: float) -> None:
    codes, boxes = evidence.codes, evidence.boxes
    if codes is not None:
        _require(len(codes) == _CELLS, "evidence.codes", f"{_CELLS} codes", f"{len(codes)} of them")
        for code in codes:
            _require(_whole(code, DEPTH.size), "evidence.codes", f"integers 0..{DEPTH.size - 1}", code)
    if evidence.soft is not None:
        _require(codes == evidence.soft.nearest, "evidence.soft.codes", "the block's own codes first", "others")
    letters = [marker.letter for marker in evidence.markers]
    _require(len({*letters}) == len(letters), "evidence.markers", "different letters", letters)
    for index, marker in enumerate(evidence.markers):
        place, level = f"evidence.markers[{index}]", marker.level
        _require(isinstance(marker.letter, str) and bool(marker.letter), f"{place}.letter", "text", marker.letter)
        for axis in ("x", "y"):
            value = getattr(marker, axis)
            _require(_number(value) and 0 <= value <= side, f"{place}.{axis}", f"frame pixels 0..{side}", value)
        _require(level is None or (_number(level) and 0 <= level <= 1), f"{place}.level", "0..1 or null", level)
    for index, box in enumerate(boxes or ()):
        place = f"evidence.boxes[{index}]"
        whole = len(box) == 4 and all(_whole(code, PIXEL.size) for code in box)
        _require(whole, place, f"four integers 0..{PIXEL.size - 1}", box)
        _require(box[0] <= box[2] and box[1] <= box[3], place, "x1 <= x2 and y1 <= y2", box)


def _check_path(image: object) -> None:
    if isinstance(image, str) and image and "\0" not in image:
        path = PurePosixPath(image)
        drive = len(image) > 1 and image[1] == ":"
        if not path.is_absolute() and ".." not in path.parts and "\\" not in image and not drive:
            return
    raise RecordError(f"images: expected a path relative to the records' folder, with / and without ..; got {image!r}")


def _read_record(values: object) -> PerceptionRecord:
    record = _object(values, "the record", _FIELDS)
    for key in ("id", "images", "turns", "task", "regime"):
        if key not in record:
            raise RecordError(f"{key}: missing")
    turns = []
    for index, turn in enumerate(_list(record["turns"], "turns")):
        parts = _object(turn, f"turns[{index}]", ("role", "text"))
        turns.append(Turn(parts.get("role"), parts.get("text")))  # type: ignore[arg-type] # checked by the record
    frame = record.get("frame")
    try:
        placed = None if frame is None else ImageFrame.from_dict(frame)
    except PerceptokError as error:
        raise RecordError(f"frame: {error}") from error
    except TypeError as error:
        raise RecordError(f"frame: {error}") from error
    provenance = record.get("provenance", {})
    return PerceptionRecord(
        record["id"],
        tuple(_list(record["images"], "images")),
        tuple(turns),
        record["task"],
        record["regime"],
        record.get("difficulty", 0.0),
        placed,
        record.get("answer"),
        tuple(_list(record.get("choices", []), "choices")),
        _read_evidence(record.get("evidence", {})),
        _object(provenance, "provenance", None),
    )


_FIELDS = (
    "id",
    "images",
    "turns",
    "task",
    "regime",
    "difficulty",
    "frame",
    "answer",
    "choices",
    "evidence",
    "provenance",
)


def _read_evidence(values: object) -> Evidence:
    parts = _object(values, "evidence", ("codes", "codec", "markers", "boxes", "plural", "soft"))
    codes, boxes = parts.get("codes"), parts.get("boxes")
    markers = []
    for index, marker in enumerate(_list(parts.get("markers", []), "evidence.markers")):
        point = _object(marker, f"evidence.markers[{index}]", ("letter", "x", "y", "level"))
        markers.append(Marker(point.get("letter"), point.get("x"), point.get("y"), point.get("level")))  # type: ignore[arg-type]
    for key in ("codec", "plural"):
        _require(isinstance(parts.get(key), str | None), f"evidence.{key}", "text or null", parts.get(key))
    return Evidence(
        None if codes is None else tuple(_list(codes, "evidence.codes")),
        parts.get("codec"),
        tuple(markers),
        None
        if boxes is None
        else tuple(
            tuple(_list(box, f"evidence.boxes[{index}]")) for index, box in enumerate(_list(boxes, "evidence.boxes"))
        ),
        parts.get("plural"),
        None if parts.get("soft") is None else _read_soft(parts["soft"]),
    )


def _soft_dict(soft: SoftCodes) -> dict[str, JSON]:
    return {"codes": list(soft.codes), "distances": list(soft.distances)}


def _read_soft(values: object) -> SoftCodes:
    parts = _object(values, "evidence.soft", ("codes", "distances"))
    codes, distances = (_list(parts.get(key), f"evidence.soft.{key}") for key in ("codes", "distances"))
    return SoftCodes(tuple(codes), tuple(distances))


def _object(values: object, name: str, known: tuple[str, ...] | None) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise RecordError(f"{name}: expected an object, got {values!r:.60}")
    if known is not None and (unknown := sorted(values.keys() - {*known})):
        raise RecordError(f"{name}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    return values


def _list(values: object, name: str) -> list[Any]:
    if not isinstance(values, list):
        raise RecordError(f"{name}: expected a list, got {values!r:.60}")
    return values


def _require(fine: bool, name: str, expected: str, got: object) -> None:
    if not fine:
        raise RecordError(f"{name}: expected {expected}, got {got!r:.80}")


def _number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _whole(value: object, size: int) -> bool:
    return type(value) is int and 0 <= value < size
