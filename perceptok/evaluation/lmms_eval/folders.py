"""Folders for lmms-eval's `--include_path`: the one of the package, and written ones with the data inside."""

from __future__ import annotations

from pathlib import Path

from perceptok.evaluation.benchmarks.items import Benchmark
from perceptok.evaluation.lmms_eval.docs import docs_of_benchmark
from perceptok.files import atomic_write

__all__ = ["tasks_folder", "write_task"]


def tasks_folder() -> Path:
    """The folder with the tasks of the benchmarks that the Hugging Face hub has."""
    return Path(__file__).resolve().parent


def write_task(benchmark: Benchmark, folder: str | Path, *, force: bool = False) -> str:
    """Write a task of any benchmark: `NAME.yaml`, and beside it `NAME.parquet` with questions, answers and pictures.

    lmms-eval finds the second from the first, so that the folder may be moved.

    Returns:
        The task's name, such as "perceptok_hardblink_5".

    Raises:
        EvaluationError: An item without a picture.
        MissingExtraError: `datasets` is not installed.
        OutputError: As for `atomic_write`.
    """
    docs, place = docs_of_benchmark(benchmark), Path(folder)
    task = f"perceptok_{benchmark.name.replace('-', '_')}"
    common = (tasks_folder() / "_common_yaml").read_text(encoding="utf-8")
    head = f"task: {task}\ndataset_path: parquet\ndataset_kwargs:\n  data_files:\n    test: {task}.parquet\n"
    place.mkdir(parents=True, exist_ok=True)
    with atomic_write(place / f"{task}.parquet", force=force) as file:
        docs.to_parquet(file)
    with atomic_write(place / f"{task}.yaml", force=force) as file:
        file.write((head + common).encode())
    return task
