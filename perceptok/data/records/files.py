"""Files of records: JSON lines, LLaVA's JSON, chat rows and Parquet, read and written one record at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from perceptok.boxes.datasets.streaming import stream_list
from perceptok.data.records.llava import record_from_chat, record_from_llava
from perceptok.data.records.record import PerceptionRecord, Regime, Task
from perceptok.errors import AnnotationError, MissingExtraError, RecordError
from perceptok.files import atomic_write, parse_json

__all__ = ["Form", "RecordProblem", "check_records", "read_records", "write_records"]

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
    for name, entry in _entries(source):
        record = _record(entry, name, task, regime)
        if check_images:
            for image in _missing_images(record, source.parent):
                raise RecordError(f"{name}, record {record.id!r}: images: there is no file {image}")
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
    for name, entry in _entries(source):
        try:
            record = _record(entry, name, None, None)
        except RecordError as error:
            yield RecordProblem(name, str(error))
            continue
        if hash(record.id) in seen:
            yield RecordProblem(name, f"the id {record.id!r} stands twice")
        seen.add(hash(record.id))
        if images:
            for image in _missing_images(record, source.parent):
                yield RecordProblem(name, f"record {record.id!r}: there is no file {image}")


def _missing_images(record: PerceptionRecord, folder: Path) -> list[Path]:
    return [folder / image for image in record.images if not (folder / image).is_file()]


def _record(entry: Any, name: str, task: Task | None, regime: Regime | None) -> PerceptionRecord:
    if isinstance(entry, bytes):
        entry = parse_json(entry, name, RecordError)
    if isinstance(entry, dict) and "conversations" in entry:
        return record_from_llava(entry, name, task=task, regime=regime)
    if isinstance(entry, dict) and "messages" in entry:
        return record_from_chat(entry, name, task=task, regime=regime)
    return PerceptionRecord.from_dict(entry, name)


def _entries(source: Path) -> Iterator[tuple[str, Any]]:
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
                for number, entry in enumerate(stream_list(text, str(source))):
                    yield f"{source}, item {number}", entry
        else:
            yield from _read_parquet(source)
    except OSError as error:
        raise RecordError(f"{source}: cannot be read ({error.strerror or error})") from error
    except AnnotationError as error:
        raise RecordError(str(error)) from error


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
        while rows := [_row(record) for record in islice(waiting, _ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _row(record: PerceptionRecord) -> dict[str, Any]:
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
