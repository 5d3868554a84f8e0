"""Files of records: JSON lines, LLaVA JSON, chat rows and Parquet, read and written one record at a time."""

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
from perceptok.data.records import IMAGE_TAG, Evidence, PerceptionRecord, Regime, Task
from perceptok.data.supervision import find_supervision_problems
from perceptok.depth import block_from_text
from perceptok.errors import ImageError, MalformedBlockError, RecordError
from perceptok.files import atomic_write, decompress_input, find_suffix, open_input, open_text, parse_json
from perceptok.images import check_image_header
from perceptok.json_streams import stream_list
from perceptok.parquet import import_parquet, iterate_rows
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import restore_text

__all__ = [
    "RECORDS_FILE",
    "RecordForm",
    "RecordProblem",
    "RecordStatistics",
    "check_records",
    "compute_statistics",
    "find_records_file",
    "parse_chat_entry",
    "parse_llava_entry",
    "read_records",
    "write_records",
]

RECORDS_FILE = "records.jsonl"
"""Name of the file of records in a folder that `build_data` made."""

RecordForm = Literal["records", "llava", "chat"]
"""Form of a line or list item: that of `PerceptionRecord.to_dict`, `to_llava` or `to_chat`."""

_ROWS = 1000
"""Records in a row group of Parquet, which is in memory as a whole."""

_JSON_COLUMNS = ("frame", "evidence", "provenance")
"""Columns of Parquet with JSON text, since their fields vary from record to record."""


def write_records(
    path: str | Path, records: Iterable[PerceptionRecord], *, form: RecordForm | None = None, force: bool = False
) -> int:
    """Write records one at a time; memory does not grow with their number.

    Args:
        path: `.jsonl` (one record a line), `.json` (a list in the LLaVA format) or `.parquet` (readable by `datasets`;
            turns are a column of (role, text)). The folder must exist; the images' paths are relative to it.
        records: The records.
        form: Form of `.jsonl` and `.json`: "records" (default of `.jsonl`), "llava" (default of `.json`) or "chat" for
            TRL.
        force: Replace an existing file.

    Returns:
        The number of records.

    Raises:
        RecordError: The suffix or the form is unknown, they do not fit, or a text is not valid Unicode.
        OutputError: The file exists or cannot be written; no partial file is left behind.
        MissingExtraError: Parquet without the extra `parquet`.
    """
    target = Path(path)
    suffix = _check_suffix(target)
    if suffix == ".parquet" and form not in (None, "records"):
        raise RecordError(f"{target}: Parquet files have records, not the form {form!r}; leave form out")
    serializers: dict[str, Callable[[PerceptionRecord], Any]] = {
        "records": PerceptionRecord.to_dict,
        "llava": PerceptionRecord.to_llava,
        "chat": PerceptionRecord.to_chat,
    }
    form = form or ("llava" if suffix == ".json" else "records")
    if form not in serializers:
        raise RecordError(f"forms of records are {', '.join(serializers)}; got {form!r}")
    with atomic_write(target, force=force) as file:
        if suffix == ".parquet":
            return _write_parquet(file, records)
        count = 0
        start, between, end = ("[\n", ",\n", "\n]\n") if suffix == ".json" else ("", "\n", "\n")
        file.write(start.encode())
        for count, record in enumerate(records, 1):
            line = json.dumps(serializers[form](record), ensure_ascii=False, allow_nan=False)
            try:
                file.write(f"{between if count > 1 else ''}{line}".encode())
            except UnicodeEncodeError as error:
                raise RecordError(f"record {record.id!r}: text that is not valid Unicode ({error.reason})") from error
        file.write((end if count or suffix == ".json" else "").encode())
    return count


def read_records(
    path: str | Path,
    *,
    task: Task | None = None,
    regime: Regime | None = None,
    check_images: bool = False,
    check_supervision: bool = False,
) -> Iterator[PerceptionRecord]:
    """Read the records of a file, one at a time; the form of each line or item is recognized by its keys.

    Args:
        path: `.jsonl`, `.json` or `.parquet`, or a folder that `build_data` made. LLaVA JSON of other programs is read
            too.
        task: Task of entries of other programs whose answer is in an unknown form; "other", with the regime
            "instruction", reads all as general instruction data.
        regime: Regime of such entries.
        check_images: Raise for an image file that is missing.
        check_supervision: Raise for a record that nothing should be trained on or measured against: an answer that is
            malformed or contradicts its evidence (`find_supervision_problems`), or an id that occurs twice (in
            perceptok's own form; AURORA's files repeat their samples).

    Raises:
        RecordError: The file cannot be read, or a record is not valid; the message names file, line or item, and field.
        MissingExtraError: Parquet without the extra `parquet`.
    """
    source = find_records_file(path)
    seen: set[int] = set()
    for name, entry in _read_entries(source):
        record = _parse_entry(entry, name, task, regime)
        if check_supervision and (reason := _find_first_problem(record, seen)):
            raise RecordError(
                f"{source}, record {record.id!r}: {reason}; correct or remove the record (`perceptok data check` lists "
                "all problems)"
            )
        if check_images:
            for image in record.images:
                if not (source.parent / image).is_file():
                    raise RecordError(f"{name}, record {record.id!r}: images: {source.parent / image} not found")
        yield record


def _find_first_problem(record: PerceptionRecord, seen: set[int]) -> str | None:
    """Why nothing should be trained on a record; `seen` has the hashes of the ids before it, and gets its own."""
    if "read_from" not in record.provenance:
        key = hash(record.id)
        if key in seen:
            return "the id occurs twice"
        seen.add(key)
    return next(iter(find_supervision_problems(record)), None)


class RecordProblem(NamedTuple):
    """A problem of a record.

    Attributes:
        name: File, and line or item.
        reason: The problem.
    """

    name: str
    reason: str


def check_records(
    path: str | Path, *, images: bool = True, advance: Callable[[], object] = lambda: None
) -> Iterator[RecordProblem]:
    """Find every problem of a file of records: malformed or contradictory ones, repeated ids, unreadable images.

    Args:
        path: `.jsonl`, `.json` or `.parquet`, or a folder that `build_data` made.
        images: Report image files too that are missing, or have no readable header.
        advance: Called with each record.

    Raises:
        RecordError: The file itself cannot be read to its end, after the problems before it were yielded.
    """
    source = find_records_file(path)
    seen: set[int] = set()  # hashes of ids: some 60 bytes for each record
    checked: set[int] = set()  # and of images
    for name, entry in _read_entries(source):
        advance()
        try:
            record = _parse_entry(entry, name, None, None)
        except RecordError as error:
            yield RecordProblem(name, str(error))
            continue
        if hash(record.id) in seen:
            yield RecordProblem(name, f"the id {record.id!r} occurs twice")
        seen.add(hash(record.id))
        for reason in find_supervision_problems(record):
            yield RecordProblem(name, f"record {record.id!r}: {reason}")
        if images:
            for image in record.images:
                try:
                    if hash(image) not in checked:
                        check_image_header(source.parent / image)
                        checked.add(hash(image))
                except ImageError as error:
                    yield RecordProblem(name, f"record {record.id!r}: images: {error}")


def find_records_file(path: str | Path) -> Path:
    """The file of records that a path names: itself, or `records.jsonl` of a folder."""
    return Path(path) / RECORDS_FILE if Path(path).is_dir() else Path(path)


def _read_entries(source: Path) -> Iterator[tuple[str, Any]]:
    """Read (name for messages, entry) of a file; entries of JSON lines are bytes that are not parsed yet."""
    if not source.suffix and not source.exists():
        raise RecordError(f"{source}: no such file or folder")
    suffix = _check_suffix(source)
    try:
        if suffix == ".jsonl":
            with decompress_input(open_input(source, allow_pipe=True)) as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{source}, line {number}", line
        elif suffix == ".json":
            with open_text(source, allow_pipe=True) as text:
                for number, entry in enumerate(stream_list(text, str(source), RecordError)):
                    yield f"{source}, item {number}", entry
        else:
            yield from _read_parquet(source)
    except OSError as error:
        raise RecordError(f"{source}: cannot be read ({error.strerror or error})") from error


def _check_suffix(path: Path) -> str:
    suffix = find_suffix(path)
    if suffix not in (".jsonl", ".json", ".parquet"):
        raise RecordError(f"{path}: files of records are .jsonl, .json (LLaVA) or .parquet")
    return suffix


def _parse_entry(entry: Any, name: str, task: Task | None, regime: Regime | None) -> PerceptionRecord:
    if isinstance(entry, bytes):
        if b'"conversations"' not in entry and b'"messages"' not in entry:
            return PerceptionRecord.from_json(entry, name)
        entry = parse_json(entry, name, RecordError)
    if isinstance(entry, dict) and "conversations" in entry:
        return parse_llava_entry(entry, name, task=task, regime=regime)
    if isinstance(entry, dict) and "messages" in entry:
        return parse_chat_entry(entry, name, task=task, regime=regime)
    return PerceptionRecord.from_json(json.dumps(entry), name)


def _write_parquet(file: BinaryIO, records: Iterable[PerceptionRecord]) -> int:
    pq = import_parquet("a Parquet file of records")
    import pyarrow as pa

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
            ("tokens", text),
            *((name, text) for name in _JSON_COLUMNS),
        ]
    )
    count = 0
    remaining = iter(records)
    with pq.ParquetWriter(file, schema) as writer:
        while rows := [record.to_dict() for record in islice(remaining, _ROWS)]:
            for row in rows:
                row.setdefault("tokens", "meant")
                row |= {name: json.dumps(row[name], ensure_ascii=False, allow_nan=False) for name in _JSON_COLUMNS}
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _read_parquet(source: Path) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(iterate_rows(source, RecordError)):
        name = f"{source}, row {number}"
        for column in _JSON_COLUMNS:
            if isinstance(row.get(column), str | bytes):
                row[column] = parse_json(row[column], f"{name}, {column}", RecordError)
        yield name, row


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def parse_llava_entry(
    entry: object, name: str = "entry", *, task: Task | None = None, regime: Regime | None = None
) -> PerceptionRecord:
    """Read a record from an entry of a LLaVA JSON file: `id`, `image`, `conversations` with `from` and `value`.

    An entry of `PerceptionRecord.to_llava` is restored completely. For other entries task, regime, evidence and answer
    are read from an answer in one of AURORA's forms (arXiv 2412.03548); their frame is unknown.

    Args:
        entry: The entry as JSON types.
        name: File and item, for messages.
        task: Task of an entry whose answer is in an unknown form.
        regime: Regime of such an entry.

    Raises:
        RecordError: Not a valid entry; or its answer is in an unknown form, and task and regime are not given.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
        raise RecordError(f"{name}: expected an object with `conversations`; got {entry!r:.60}")
    turns = []
    for index, turn in enumerate(entry["conversations"]):
        field_name = f"{name}: conversations.{index}"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise RecordError(f"{field_name}: expected an object with `from` and `value`; got {turn!r:.60}")
        role = _ROLES.get(str(turn.get("from")))
        if role is None:
            raise RecordError(f"{field_name}.from: expected one of {', '.join(_ROLES)}; got {turn.get('from')!r}")
        turns.append({"role": role, "text": turn["value"]})
    image = entry.get("image", [])
    images = image if isinstance(image, list) else [image]
    if turns:
        turns[0]["text"] = _remove_image_tags(turns[0]["text"], len(images), name)
    return _make_record(entry, turns, images, name, task, regime)


def parse_chat_entry(
    entry: object, name: str = "entry", *, task: Task | None = None, regime: Regime | None = None
) -> PerceptionRecord:
    """Read a record from a chat row: `id`, `messages` and `images`.

    A row of `PerceptionRecord.to_chat` is restored completely; others as by `parse_llava_entry`.

    Args:
        entry: The row as JSON types.
        name: File and item, for messages.
        task: Task of a row whose answer is in an unknown form.
        regime: Regime of such a row.

    Raises:
        RecordError: Not a valid row; or its answer is in an unknown form, and task and regime are not given.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("messages"), list):
        raise RecordError(f"{name}: expected an object with `messages`; got {entry!r:.60}")
    turns, tags = [], 0
    for index, message in enumerate(entry["messages"]):
        field_name = f"{name}: messages.{index}"
        if not isinstance(message, dict):
            raise RecordError(f"{field_name}: expected an object with `role` and `content`; got {message!r:.60}")
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise RecordError(f"{field_name}.content: expected text or a list of parts; got {content!r:.60}")
        texts = [part.get("text") for part in parts if part.get("type") == "text"]
        tags += sum(part.get("type") == "image" for part in parts)
        if len(texts) != 1 or not isinstance(texts[0], str):
            raise RecordError(f"{field_name}.content: expected one text; got {len(texts)}")
        turns.append({"role": message.get("role"), "text": texts[0]})
    images = entry.get("images", [])
    if not isinstance(images, list) or len(images) != tags:
        raise RecordError(f"{name}: images: the messages show {tags} images, the entry names {images!r:.60}")
    return _make_record(entry, turns, images, name, task, regime)


def _make_record(
    entry: Mapping[str, Any],
    turns: list[dict[str, Any]],
    images: list[Any],
    name: str,
    task: Task | None,
    regime: Regime | None,
) -> PerceptionRecord:
    identity = entry.get("id")
    values = {"id": str(identity) if isinstance(identity, int) else identity, "images": images, "turns": turns}
    if "perceptok" in entry:
        rest = entry["perceptok"]
        if not isinstance(rest, dict):
            raise RecordError(f"{name}: perceptok: expected an object; got {rest!r:.60}")
        if rest.get("tokens") == "text":  # escaped for other programs
            for turn in turns:
                turn["text"] = restore_text(turn["text"]) if turn["role"] == "user" else turn["text"]
        return PerceptionRecord.from_json(json.dumps({**rest, **values}), name)
    if not turns or turns[-1]["role"] != "assistant":
        raise RecordError(f"{name}: expected a conversation that ends with an answer")
    parsed = _ParsedAnswer() if task == "other" else _parse_answer(turns[-1]["text"], name)
    task, regime = task or parsed.task, regime or parsed.regime
    if task is None or regime is None:
        raise RecordError(
            f"{name}: the answer {turns[-1]['text']!r:.60} is in none of AURORA's forms; pass task= and regime= to "
            "read_records in Python"
        )
    values |= {"task": task, "regime": regime, "answer": parsed.answer, "evidence": parsed.evidence.to_dict()}
    if task == "other":
        values["tokens"] = "text"  # people who write such data do not know of the tokens
    return PerceptionRecord.from_dict({**values, "provenance": {"read_from": "LLaVA form"}}, name)


def _remove_image_tags(text: str, count: int, name: str) -> str:
    """Remove the image tags before or after the first turn's text."""
    start, end, found = 0, len(text), 0
    while text.startswith(IMAGE_TAG, start):
        start, found = start + len(IMAGE_TAG), found + 1
        start += text.startswith("\n", start)
    while text.endswith(IMAGE_TAG, start, end):
        end, found = end - len(IMAGE_TAG), found + 1
        end -= text.endswith("\n", start, end)
    rest = text[start:end]
    if found != count or IMAGE_TAG in rest:
        raise RecordError(
            f"{name}: conversations.0.value: expected {IMAGE_TAG} once for each of {count} images, before or after "
            f"the question; got {text!r:.60}"
        )
    return rest


_ATOMIC_DEPTH = re.compile(rf"(The depth map (for|of) the image is )?{DEPTH.start}.*?{DEPTH.end}\.?", re.DOTALL)
_NONE = re.compile(r"There are no (.+?) in the image\.")
_CONCLUDED = re.compile(r" We conclude there are 0 .+\.")
_LISTED = re.compile(r"(Here are|Based on the analysis, here are) the bounding boxes for the (.+?):")
_COUNT = re.compile(r"we conclude there are ([0-9]+) ")
_CLOSEST = re.compile(r"point (\w+) is closer to the camera")


class _ParsedAnswer(NamedTuple):
    task: Task | None = None
    regime: Regime | None = None
    answer: str | None = None
    evidence: Evidence = Evidence()


def _find_blocks(text: str) -> Iterator[str]:
    """The pieces of a text from a start of a depth block to the next end of one."""
    start = text.find(DEPTH.start)
    while start >= 0 and (end := text.find(DEPTH.end, start)) >= 0:
        yield text[start : end + len(DEPTH.end)]
        start = text.find(DEPTH.start, end)


def _parse_answer(text: str, name: str) -> _ParsedAnswer:
    """Parse task, regime, answer and evidence of an answer in one of AURORA's forms; None where it is in another."""
    regime: Regime
    blocks = list(_find_blocks(text))
    if len(blocks) == 1:
        try:
            codes = tuple(int(code) for code in block_from_text(blocks[0]).ravel())
        except MalformedBlockError as error:
            raise RecordError(f"{name}: the answer's depth block: {error}") from error
        closest = _CLOSEST.search(text)
        regime = "atomic" if _ATOMIC_DEPTH.fullmatch(text) else "cot"
        return _ParsedAnswer("depth", regime, closest and closest[1], Evidence(codes))
    if none := _NONE.match(text):
        is_concluded = _CONCLUDED.fullmatch(text, none.end()) is not None
        if is_concluded or none.end() == len(text):
            regime = "cot" if is_concluded else "atomic"
            answer = "0" if is_concluded else None
            return _ParsedAnswer("counting", regime, answer, Evidence(boxes=(), plural=none[1]))
    if listed := _LISTED.match(text):
        parsed = parse_boxes(text, size=PIXEL.size)
        if parsed.malformed:
            raise RecordError(f"{name}: the answer's boxes: {parsed.malformed[0].to_error()}")
        boxes: tuple[Any, ...] = tuple(tuple(box) for box in parsed.boxes.tolist())
        count = _COUNT.search(text)
        regime = "atomic" if listed[1] == "Here are" else "cot"
        return _ParsedAnswer("counting", regime, count and count[1], Evidence(boxes=boxes, plural=listed[2]))
    if re.fullmatch(r"\([A-Z]\)", text):
        return _ParsedAnswer("depth", "direct", text[1])
    if re.fullmatch(r"[0-9]+", text):
        return _ParsedAnswer("counting", "direct", text)
    return _ParsedAnswer()


_GRID = 4
"""Number of rows and columns of the frame in which marker positions are counted."""


@dataclass(frozen=True)
class RecordStatistics:
    """Counts over records.

    Attributes:
        records: Number of records.
        kinds: (task, regime) -> number of records.
        answers: Task -> answer -> number of records, over records that have an answer.
        markers: Number of markers -> number of records.
        instances: Number of boxes -> number of records.
        codes: (128,) occurrences of each depth code in the evidence.
        positions: (4, 4) number of markers in each cell of a grid over the frame, row-major.
    """

    records: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    markers: Counter[int] = field(default_factory=Counter)
    instances: Counter[int] = field(default_factory=Counter)
    codes: tuple[int, ...] = (0,) * DEPTH.size
    positions: tuple[tuple[int, ...], ...] = ((0,) * _GRID,) * _GRID

    @property
    def num_used_codes(self) -> int:
        """Number of the 128 depth codes that occur in the evidence."""
        return sum(count > 0 for count in self.codes)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return {
            "records": self.records,
            "kinds": {f"{task} {regime}": count for (task, regime), count in sorted(self.kinds.items())},
            "answers": {task: dict(sorted(counts.items())) for task, counts in sorted(self.answers.items())},
            "markers": {str(number): count for number, count in sorted(self.markers.items())},
            "instances": {str(number): count for number, count in sorted(self.instances.items())},
            "codes": list(self.codes),
            "num_used_codes": self.num_used_codes,
            "positions": [list(row) for row in self.positions],
        }


def compute_statistics(records: Iterable[PerceptionRecord]) -> RecordStatistics:
    """Count tasks, answers, markers, instances and codes of records; they are read one at a time."""
    total = 0
    kinds: Counter[tuple[str, str]] = Counter()
    answers: dict[str, Counter[str]] = {}
    markers: Counter[int] = Counter()
    instances: Counter[int] = Counter()
    codes: Counter[int] = Counter()
    positions = [[0] * _GRID for _ in range(_GRID)]
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
                row, column = (min(int(value * _GRID / record.frame.size), _GRID - 1) for value in (marker.y, marker.x))
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
