"""Files of records: JSON lines, LLaVA's JSON, chat rows and Parquet, read and written one record at a time."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from perceptok.boxes import parse_boxes
from perceptok.data.records import IMAGE_TAG, Evidence, PerceptionRecord, Regime, Task, Turn
from perceptok.depth import block_from_text
from perceptok.errors import MalformedBlockError, MissingExtraError, RecordError
from perceptok.files import atomic_write, parse_json, stream_list
from perceptok.tokens import DEPTH, PIXEL

__all__ = [
    "Form",
    "RecordProblem",
    "RecordStatistics",
    "check_records",
    "read_records",
    "record_from_chat",
    "record_from_llava",
    "record_statistics",
    "write_records",
]


_PARTS = 4
"""Marker positions are counted in this many rows and columns of the frame."""


@dataclass(frozen=True)
class RecordStatistics:
    """Counts over records.

    Attributes:
        records: How many.
        kinds: (task, regime) -> how many.
        answers: Task -> answer -> how many, over records that have one.
        markers: Number of markers -> how many images.
        instances: Number of boxes -> how many images.
        codes: (128,) how often each depth code stands in the evidence.
        positions: (4, 4) how many markers lie in each part of the frame, rows first.
        sources: Layout or file extension -> how many.
    """

    records: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    markers: Counter[int] = field(default_factory=Counter)
    instances: Counter[int] = field(default_factory=Counter)
    codes: tuple[int, ...] = (0,) * DEPTH.size
    positions: tuple[tuple[int, ...], ...] = ((0,) * _PARTS,) * _PARTS

    @property
    def codes_used(self) -> int:
        """How many of the 128 codes stand in the evidence at all."""
        return sum(count > 0 for count in self.codes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "records": self.records,
            "kinds": {f"{task} {regime}": count for (task, regime), count in sorted(self.kinds.items())},
            "answers": {task: dict(sorted(counts.items())) for task, counts in sorted(self.answers.items())},
            "markers": {str(number): count for number, count in sorted(self.markers.items())},
            "instances": {str(number): count for number, count in sorted(self.instances.items())},
            "codes": list(self.codes),
            "codes_used": self.codes_used,
            "positions": [list(row) for row in self.positions],
        }


def record_statistics(records: Iterable[PerceptionRecord]) -> RecordStatistics:
    """Count what records hold, one at a time.

    Args:
        records: Any; see `read_records`.
    """
    total = 0
    kinds: Counter[tuple[str, str]] = Counter()
    answers: dict[str, Counter[str]] = {}
    markers: Counter[int] = Counter()
    instances: Counter[int] = Counter()
    codes: Counter[int] = Counter()
    positions = [[0] * _PARTS for _ in range(_PARTS)]
    for record in records:
        total += 1
        kinds[record.task, record.regime] += 1
        if record.answer is not None:
            answers.setdefault(record.task, Counter())[record.answer] += 1
        evidence = record.evidence
        codes.update(evidence.codes or ())
        if evidence.boxes is not None:
            instances[len(evidence.boxes)] += 1
        if evidence.markers:
            markers[len(evidence.markers)] += 1
        if record.frame is not None:
            for marker in evidence.markers:
                row, column = (min(int(at * _PARTS / record.frame.size), _PARTS - 1) for at in (marker.y, marker.x))
                positions[row][column] += 1
    return RecordStatistics(
        total,
        kinds,
        answers,
        markers,
        instances,
        tuple(codes[code] for code in range(DEPTH.size)),
        tuple(tuple(row) for row in positions),
    )


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_BLOCK = re.compile(f"{DEPTH.start}.*?{DEPTH.end}", re.DOTALL)
_ATOMIC_DEPTH = re.compile(rf"(The depth map (for|of) the image is )?{_BLOCK.pattern}\.?", re.DOTALL)
_NONE = re.compile(r"There are no (.+?) in the image\.( We conclude there are 0 .+\.)?")
_LISTED = re.compile(r"(Here are|Based on the analysis, here are) the bounding boxes for the (.+?):")
_COUNT = re.compile(r"we conclude there are ([0-9]+) ")
_CLOSEST = re.compile(r"point (\w+) is closer to the camera")


def record_from_llava(
    entry: object, name: str = "entry", *, task: Task | None = None, regime: Regime | None = None
) -> PerceptionRecord:
    """A record of one entry of a LLaVA JSON file: `id`, `image`, `conversations` with `from` and `value`.

    What `PerceptionRecord.to_llava` wrote comes back whole. Of other entries task, regime, evidence and answer are read
    out of the text where it is in one of AURORA's forms (arXiv 2412.03548); the frame stays unknown.

    Args:
        entry: The entry as JSON types.
        name: Where it comes from, for messages.
        task: Of entries whose text is in no known form.
        regime: As `task`.

    Raises:
        RecordError: Not such an entry; or task and regime are neither known nor said.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
        raise RecordError(f"{name}: expected an object with `conversations`, got {entry!r:.60}")
    turns = []
    for index, turn in enumerate(entry["conversations"]):
        place = f"{name}: conversations[{index}]"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise RecordError(f"{place}: expected an object with `from` and `value`, got {turn!r:.60}")
        role = _ROLES.get(str(turn.get("from")))
        if role is None:
            raise RecordError(f"{place}.from: expected one of {', '.join(_ROLES)}, got {turn.get('from')!r}")
        turns.append({"role": role, "text": turn["value"]})
    image = entry.get("image", [])
    images = image if isinstance(image, list) else [image]
    if turns:
        turns[0]["text"] = _remove_tags(turns[0]["text"], len(images), name)
    return _parse_llava_entry(entry, turns, images, name, task, regime)


def record_from_chat(
    entry: object, name: str = "entry", *, task: Task | None = None, regime: Regime | None = None
) -> PerceptionRecord:
    """A record of one row of chat form: `messages` and `images`; as `record_from_llava` otherwise."""
    if not isinstance(entry, dict) or not isinstance(entry.get("messages"), list):
        raise RecordError(f"{name}: expected an object with `messages`, got {entry!r:.60}")
    turns, tags = [], 0
    for index, message in enumerate(entry["messages"]):
        place = f"{name}: messages[{index}]"
        if not isinstance(message, dict):
            raise RecordError(f"{place}: expected an object with `role` and `content`, got {message!r:.60}")
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise RecordError(f"{place}.content: expected text or a list of parts, got {content!r:.60}")
        texts = [part.get("text") for part in parts if part.get("type") == "text"]
        tags += sum(part.get("type") == "image" for part in parts)
        if len(texts) != 1 or not isinstance(texts[0], str):
            raise RecordError(f"{place}.content: expected one text, got {len(texts)}")
        turns.append({"role": message.get("role"), "text": texts[0]})
    images = entry.get("images", [])
    if not isinstance(images, list) or len(images) != tags:
        raise RecordError(f"{name}: images: the messages show {tags} images, the entry names {images!r:.60}")
    return _parse_llava_entry(entry, turns, images, name, task, regime)


def _parse_llava_entry(
    entry: Mapping[str, Any],
    turns: list[dict[str, Any]],
    images: list[Any],
    name: str,
    task: Task | None,
    regime: Regime | None,
) -> PerceptionRecord:
    identity = entry.get("id")
    values: dict[str, Any] = {
        "id": str(identity) if isinstance(identity, int) else identity,
        "images": images,
        "turns": turns,
    }
    if "perceptok" in entry:
        rest = entry["perceptok"]
        if not isinstance(rest, dict):
            raise RecordError(f"{name}: perceptok: expected an object, got {rest!r:.60}")
        return PerceptionRecord.from_dict({**rest, **values}, name)
    if not turns or turns[-1]["role"] != "assistant":
        raise RecordError(f"{name}: expected a conversation that ends with an answer")
    known, kind, answer, evidence = _read_answer(turns[-1]["text"], name)
    if (task or known) is None or (regime or kind) is None:
        raise RecordError(
            f"{name}: the answer {turns[-1]['text']!r:.60} is in none of AURORA's forms; say task= and regime="
        )
    try:
        return PerceptionRecord(
            values["id"],
            tuple(images),
            tuple(Turn(turn["role"], turn["text"]) for turn in turns),
            task or known,  # type: ignore[arg-type]
            regime or kind,  # type: ignore[arg-type]
            answer=answer,
            evidence=evidence,
            provenance={"read_from": "LLaVA form"},
        )
    except RecordError as error:
        raise RecordError(f"{name}, record {identity!r}: {error}") from error


def _remove_tags(text: str, count: int, name: str) -> str:
    """The first turn's text without its image tags, which may stand before or behind it."""
    rest, found = text, 0
    while rest.startswith(IMAGE_TAG):
        rest, found = rest.removeprefix(IMAGE_TAG).removeprefix("\n"), found + 1
    while rest.endswith(IMAGE_TAG):
        rest, found = rest.removesuffix(IMAGE_TAG).removesuffix("\n"), found + 1
    if found != count or IMAGE_TAG in rest:
        raise RecordError(
            f"{name}: conversations[0].value: expected {IMAGE_TAG} once for each of {count} images, before or behind "
            f"the question; got {text!r:.60}"
        )
    return rest


def _read_answer(text: str, name: str) -> tuple[Task | None, Regime | None, str | None, Evidence]:
    """Task, regime, answer and evidence, as far as the text is in one of AURORA's forms."""
    blocks = _BLOCK.findall(text)
    if len(blocks) == 1:
        try:
            codes = tuple(int(code) for code in block_from_text(blocks[0]).ravel())
        except MalformedBlockError as error:
            raise RecordError(f"{name}: the answer's depth block: {error}") from error
        atomic = _ATOMIC_DEPTH.fullmatch(text) is not None
        closest = _CLOSEST.search(text)
        return "depth", "atomic" if atomic else "cot", closest and closest[1], Evidence(codes)
    if none := _NONE.fullmatch(text):
        cot = none[2] is not None
        return "counting", "cot" if cot else "atomic", "0" if cot else None, Evidence(boxes=(), plural=none[1])
    if listed := _LISTED.match(text):
        parsed = parse_boxes(text, size=PIXEL.size)
        if parsed.malformed:
            raise RecordError(f"{name}: the answer's boxes: {parsed.malformed[0].to_error()}")
        boxes: tuple[Any, ...] = tuple(tuple(box) for box in parsed.boxes.tolist())
        count = _COUNT.search(text)
        regime: Regime = "atomic" if listed[1] == "Here are" else "cot"
        return "counting", regime, count and count[1], Evidence(boxes=boxes, plural=listed[2])
    if re.fullmatch(r"\([A-Z]\)", text):
        return "depth", "direct", text[1], Evidence()
    if re.fullmatch(r"[0-9]+", text):
        return "counting", "direct", text, Evidence()
    return None, None, None, Evidence()


Form = Literal["records", "llava", "chat"]
"""What a line or list item holds: `PerceptionRecord.to_dict`, `to_llava` or `to_chat`."""

_ROWS = 1000
"""Records in a row group of Parquet, the most that is held at once."""

_JSON_COLUMNS = ("frame", "evidence", "provenance")
"""Columns of Parquet whose values are JSON texts: their shape varies from record to record."""


class RecordProblem(NamedTuple):
    """A record that cannot be used, and why."""

    name: str
    reason: str


def write_records(
    path: str | Path, records: Iterable[PerceptionRecord], *, form: Form | None = None, force: bool = False
) -> int:
    """Write records as they come; memory does not grow with their number.

    Args:
        path: `.jsonl` (a record a line), `.json` (a list, LLaVA's form) or `.parquet` (readable by `datasets`; turns
            are a column of (role, text)). The folder must exist; images are relative to it.
        records: What to write.
        form: Of `.jsonl` and `.json`: "records" (default of `.jsonl`), "llava" (default of `.json`) or "chat" for TRL.
        force: Replace an existing file.

    Returns:
        How many were written.

    Raises:
        RecordError: Another suffix, or a form that the suffix has no room for.
        OutputError: The file exists or cannot be written; no partial file is left behind.
        MissingExtraError: Parquet without the extra `parquet`.
    """
    target = Path(path)
    suffix = _suffix(target)
    if suffix == ".parquet" and form not in (None, "records"):
        raise RecordError(f"{target}: Parquet holds records, not the form {form!r}; leave form out")
    writers: dict[str, Callable[[PerceptionRecord], Any]] = {
        "records": PerceptionRecord.to_dict,
        "llava": PerceptionRecord.to_llava,
        "chat": PerceptionRecord.to_chat,
    }
    chosen = form or ("llava" if suffix == ".json" else "records")
    if chosen not in writers:
        raise RecordError(f"forms of records are {', '.join(writers)}; got {form!r}")
    with atomic_write(target, force=force) as file:
        if suffix == ".parquet":
            return _write_parquet(file, records)
        entry_of, count = writers[chosen], 0
        start, between, end = ("[\n", ",\n", "\n]\n") if suffix == ".json" else ("", "\n", "\n")
        file.write(start.encode())
        for count, record in enumerate(records, 1):
            line = json.dumps(entry_of(record), ensure_ascii=False, allow_nan=False)
            try:
                file.write(f"{between if count > 1 else ''}{line}".encode())
            except UnicodeEncodeError as error:
                raise RecordError(f"record {record.id!r}: text that is no Unicode ({error.reason})") from error
        file.write((end if count or suffix == ".json" else "").encode())
    return count


def read_records(
    path: str | Path, *, task: Task | None = None, regime: Regime | None = None, check_images: bool = False
) -> Iterator[PerceptionRecord]:
    """Records of a file, one at a time; the form of each line or item shows by its keys.

    Args:
        path: `.jsonl`, `.json` or `.parquet`; see `write_records`. Files of LLaVA's form by others are read too.
        task: Of foreign entries whose text does not tell; see `record_from_llava`.
        regime: As `task`.
        check_images: Raise for an image that is not in the folder of the file.

    Raises:
        RecordError: The file cannot be read, or a record is wrong; the message names file, line or item, and field.
        MissingExtraError: Parquet without the extra `parquet`.
    """
    source = Path(path)
    for name, entry in _read_entries(source):
        record = _record(entry, name, task, regime)
        if check_images:
            for image in _find_missing_images(record, source.parent):
                raise RecordError(f"{name}, record {record.id!r}: images: {image} not found")
        yield record


def check_records(path: str | Path, *, images: bool = True) -> Iterator[RecordProblem]:
    """Everything that is wrong with a file of records: damaged ones, ids that stand twice, images that are missing.

    Args:
        path: See `read_records`.
        images: Look for the images too.

    Raises:
        RecordError: The file itself cannot be read to its end; the problems before were given already.
    """
    source = Path(path)
    seen: set[int] = set()  # hashes: some 60 bytes a record, the one thing here that grows with their number
    for name, entry in _read_entries(source):
        try:
            record = _record(entry, name, None, None)
        except RecordError as error:
            yield RecordProblem(name, str(error))
            continue
        if hash(record.id) in seen:
            yield RecordProblem(name, f"the id {record.id!r} stands twice")
        seen.add(hash(record.id))
        if images:
            for image in _find_missing_images(record, source.parent):
                yield RecordProblem(name, f"record {record.id!r}: {image} not found")


def _find_missing_images(record: PerceptionRecord, folder: Path) -> list[Path]:
    return [folder / image for image in record.images if not (folder / image).is_file()]


def _record(entry: Any, name: str, task: Task | None, regime: Regime | None) -> PerceptionRecord:
    if isinstance(entry, bytes):
        entry = parse_json(entry, name, RecordError)
    if isinstance(entry, dict) and "conversations" in entry:
        return record_from_llava(entry, name, task=task, regime=regime)
    if isinstance(entry, dict) and "messages" in entry:
        return record_from_chat(entry, name, task=task, regime=regime)
    return PerceptionRecord.from_dict(entry, name)


def _read_entries(source: Path) -> Iterator[tuple[str, Any]]:
    """(name for messages, entry) of a file; of JSON lines the entry is still bytes."""
    suffix = _suffix(source)
    try:
        if suffix == ".jsonl":
            with source.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{source}, line {number}", line
        elif suffix == ".json":
            with source.open(encoding="utf-8-sig") as text:
                for number, entry in enumerate(stream_list(text, str(source), RecordError)):
                    yield f"{source}, item {number}", entry
        else:
            yield from _read_parquet(source)
    except OSError as error:
        raise RecordError(f"{source}: cannot be read ({error.strerror or error})") from error


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in (".jsonl", ".json", ".parquet"):
        raise RecordError(f"{path}: records are in .jsonl, .json (LLaVA) or .parquet")
    return path.suffix.lower()


def _write_parquet(file: BinaryIO, records: Iterable[PerceptionRecord]) -> int:
    pa, pq = _arrow()
    text = pa.string()
    schema = pa.schema(
        [
            ("id", text),
            ("images", pa.list_(text)),
            ("turns", pa.list_(pa.struct([("role", text), ("text", text)]))),
            ("task", text),
            ("regime", text),
            ("difficulty", pa.float64()),
            ("answer", text),
            ("choices", pa.list_(text)),
            *((name, text) for name in _JSON_COLUMNS),
        ]
    )
    count = 0
    with pq.ParquetWriter(file, schema) as writer:
        waiting = iter(records)
        while rows := [_to_row(record) for record in islice(waiting, _ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _to_row(record: PerceptionRecord) -> dict[str, Any]:
    values = record.to_dict()
    values.update({name: json.dumps(values[name], ensure_ascii=False, allow_nan=False) for name in _JSON_COLUMNS})
    return values


def _read_parquet(source: Path) -> Iterator[tuple[str, Any]]:
    pa, pq = _arrow()
    try:
        with pq.ParquetFile(source) as file:
            number = 0
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    name = f"{source}, row {number}"
                    for column in _JSON_COLUMNS:
                        if row.get(column) is not None:
                            row[column] = parse_json(row[column], f"{name}, {column}", RecordError)
                    yield name, row
                    number += 1
    except pa.ArrowException as error:
        raise RecordError(f"{source}: not a readable Parquet file ({error})") from error


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "a Parquet file of records") from error
    return pa, pq
