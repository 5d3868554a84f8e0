"""Rows of a published data set: JSON lines, JSON, Parquet, folders of these, `datasets` folders, or a hub id."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perceptok.errors import EvaluationError, MissingExtraError
from perceptok.files import parse_json

__all__ = ["datasets_library", "read_lines", "read_rows"]

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


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
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
        yield from (row for _, row in read_lines(path))
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
