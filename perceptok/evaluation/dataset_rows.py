"""Rows of data sets: from JSON lines, JSON, Parquet, folders, what `datasets` saved, and the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perceptok.errors import EvaluationError, MissingExtraError, quote_error
from perceptok.files import decompress_input, find_suffix, open_input, parse_json, read_input
from perceptok.hub import can_reach_dataset, is_hub_id
from perceptok.parquet import iterate_rows

__all__ = ["import_datasets", "read_json_lines", "read_rows"]


def read_rows(source: str | Path, *, config: str | None = None, split: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set as mappings.

    Args:
        source: A .jsonl, .json (a list, or an object with `questions`) or .parquet file; a folder of Parquet files, of
            one such file of JSON, or one that `Dataset.save_to_disk` wrote; or a hub id, which is downloaded.
        config: The configuration of a hub id; in a folder: read only paths that contain it, if any does,
            else those that name no other task of BLINK.
        split: The split of a hub id or a saved dataset.

    Raises:
        EvaluationError: The source is missing, or its rows cannot be read.
        MissingExtraError: `datasets` or pyarrow are not installed.
    """
    path = Path(source)
    if path.is_file():
        yield from _read_file(path)
    elif path.is_dir():
        yield from _read_folder(path, config, split)
    elif is_hub_id(str(source)):
        yield from _read_hub(str(source), config, split)
    else:
        raise EvaluationError(f"{source}: not a file, a folder or a hub id (owner/name)")


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file, line n", object) for each JSON line; raises EvaluationError that names the line."""
    try:
        with decompress_input(open_input(path, allow_pipe=True)) as file:
            for number, line in enumerate(file, 1):
                place = f"{path}, line {number}"
                if line.strip():
                    value = parse_json(line, place, EvaluationError)
                    if not isinstance(value, dict):
                        raise EvaluationError(f"{place}: expected an object; got {str(value)[:60]!r}")
                    yield place, value
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from error


_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


def _read_file(path: Path) -> Iterator[dict[str, Any]]:
    suffix = find_suffix(path)
    if suffix == ".parquet":
        yield from iterate_rows(path, EvaluationError)
    elif suffix in (".jsonl", ".ndjson"):
        yield from (row for _, row in read_json_lines(path))
    elif suffix == ".json":
        values = parse_json(read_input(path), str(path), EvaluationError)
        if isinstance(values, Mapping) and "questions" in values:
            values = values["questions"]  # SEED-Bench's own file
        if not isinstance(values, list) or not all(isinstance(row, dict) for row in values):
            raise EvaluationError(f"{path}: expected a list of objects, or an object with `questions`")
        yield from values
    else:
        raise EvaluationError(f"{path}: rows come from .jsonl, .json and .parquet files; got {suffix or 'no suffix'}")


_BLINK_TASKS = (
    "art_style",
    "counting",
    "forensic_detection",
    "functional_correspondence",
    "iq_test",
    "jigsaw",
    "multi-view_reasoning",
    "object_localization",
    "relative_depth",
    "relative_reflectance",
    "semantic_correspondence",
    "spatial_relation",
    "visual_correspondence",
    "visual_similarity",
)
"""Folders of the data set, in lower case."""


def _names_other_task(path: Path) -> bool:
    """Whether a folder of a path is that of a task of BLINK."""
    return any(part.lower() in _BLINK_TASKS for part in path.parts[:-1])


def _read_folder(folder: Path, config: str | None, split: str | None) -> Iterator[dict[str, Any]]:
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        datasets = import_datasets()
        try:
            loaded = datasets.load_from_disk(str(folder))
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{folder}: not a readable saved dataset ({quote_error(error)})") from error
        yield from _keep_images_encoded(datasets, _select_split(loaded, split, folder))
        return
    found = sorted(folder.rglob("*.parquet"))
    files = [file for file in found if config and config.lower() in str(file.relative_to(folder)).lower()]
    files = files or [file for file in found if not (config and _names_other_task(file.relative_to(folder)))]
    if found and not files:
        raise EvaluationError(f"{folder}: its Parquet files are of other tasks, such as {found[0]}; expected {config}/")
    for file in [file for file in files if split and file.name.startswith(split)] or files:
        yield from iterate_rows(file, EvaluationError)
    if not files:
        files = sorted(path for path in folder.iterdir() if find_suffix(path) in _JSON_SUFFIXES)
        if len(files) != 1:
            raise EvaluationError(
                f"{folder}: neither Parquet files, a saved dataset nor one file of JSON; name a file, or another folder"
            )
        yield from _read_file(files[0])


def _read_hub(name: str, config: str | None, split: str | None) -> Iterator[dict[str, Any]]:
    datasets = import_datasets()
    is_online = can_reach_dataset(name, error=EvaluationError)
    try:
        with _stay_offline(datasets, not is_online):
            loaded = datasets.load_dataset(name, config)
    except Exception as error:  # the hub's errors share no base class
        if not is_online:
            raise EvaluationError(
                f"{name}: not a local file or folder, the Hugging Face Hub cannot be reached, and the cache does not "
                "have it; check the path and the network, or give the folder of a copy"
            ) from error
        raise EvaluationError(f"{name}: cannot be loaded from the hub ({quote_error(error)})") from error
    yield from _keep_images_encoded(datasets, _select_split(loaded, split, name))


@contextmanager
def _stay_offline(datasets: Any, offline: bool) -> Iterator[None]:
    """Let `datasets` read its cache alone: without a network it repeats each request, for 23 seconds altogether."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _select_split(loaded: Any, split: str | None, name: object) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    if split in loaded:
        return loaded[split]
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise EvaluationError(f"{name} has the splits {', '.join(loaded)}; got {split!r}")


def _keep_images_encoded(datasets: Any, rows: Any) -> Iterator[dict[str, Any]]:
    """Rows whose images stay as bytes: decoding and encoding them again would cost time and change them."""
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    yield from rows


def import_datasets(purpose: str = "loading a benchmark from the Hugging Face hub") -> Any:
    """Import the package `datasets`; raises MissingExtraError where it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "test", purpose) from error
    return datasets
