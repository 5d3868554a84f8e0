"""lmms-eval tasks scored by perceptok: the functions that the YAML files name, and writing a task of any benchmark.

lmms-eval calls a row of its data a doc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks import Benchmark, BenchmarkItem, item_from_row
from perceptok.evaluation.dataset_rows import import_datasets
from perceptok.evaluation.scoring import score_text
from perceptok.files import atomic_write
from perceptok.images import open_image

__all__ = [
    "blink_count_docs",
    "blink_depth_docs",
    "cvbench_count_docs",
    "cvbench_depth_docs",
    "doc_to_target",
    "doc_to_text",
    "doc_to_visual",
    "docs_from_benchmark",
    "docs_from_rows",
    "item_from_doc",
    "process_results",
    "seed_count_docs",
    "tasks_folder",
    "write_task",
]


_PURPOSE = "tasks of lmms-eval"


def docs_from_rows(name: str, rows: Any) -> Any:
    """Convert a `datasets.Dataset` in the published layout to docs: id, question, answer, letters, words, image.

    Args:
        name: A benchmark that is published as rows, such as "blink-depth".
        rows: The data set. Rows of its other tasks are left out; images stay undecoded.

    Raises:
        EvaluationError: Another layout, no row of this benchmark, or an id that occurs twice.
    """
    datasets = import_datasets(_PURPOSE)
    image_columns = [column for column, feature in rows.features.items() if _is_image_column(datasets, feature)]
    found = [column for column in ("image", "image_1") if column in image_columns]
    if not found:
        raise EvaluationError(
            f"{name}: no column image or image_1 holds images; the columns are {', '.join(rows.features)}"
        )
    # Parsing a row needs the image columns to exist, not the images.
    parsed = [
        item_from_row(name, {**dict.fromkeys(image_columns), **row}) for row in rows.remove_columns(image_columns)
    ]
    selected = [number for number, item in enumerate(parsed) if item is not None]
    benchmark = Benchmark(name, tuple(item for item in parsed if item is not None))
    images = rows.select(selected).select_columns([found[0]])
    if found[0] != "image":
        images = images.rename_column(found[0], "image")
    return datasets.concatenate_datasets([_text_columns(datasets, benchmark.items), images], axis=1)


def docs_from_benchmark(benchmark: Benchmark) -> Any:
    """Convert a benchmark to docs; raises EvaluationError where an item has no image."""
    datasets = import_datasets(_PURPOSE)
    images = []
    for item in benchmark.items:
        data = item.image_bytes()
        if data is None:
            raise EvaluationError(f"item {item.id} has no image; name the folder of the benchmark's images")
        images.append({"bytes": data, "path": None})
    features = datasets.Features({"image": datasets.Image()})
    image_column = datasets.Dataset.from_dict({"image": images}, features=features)
    return datasets.concatenate_datasets([_text_columns(datasets, benchmark.items), image_column], axis=1)


def item_from_doc(doc: Mapping[str, Any]) -> BenchmarkItem:
    """The item of a doc, without its image; raises EvaluationError where the doc has other keys."""
    try:
        choices = dict(zip(doc["letters"], doc["words"], strict=True))
        asks_count = doc["answer"] not in choices
        kind: dict[str, Any] = {"options": choices} if asks_count else {"choices": choices}
        return BenchmarkItem(doc["id"], doc["question"], doc["answer"], **kind)
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"a doc has id, question, answer, letters and as many words; got {', '.join(map(str, doc))}"
        ) from error


def _text_columns(datasets: Any, items: Sequence[BenchmarkItem]) -> Any:
    text = datasets.Value("string")
    many = datasets.Sequence(text)
    return datasets.Dataset.from_dict(
        {
            "id": [item.id for item in items],
            "question": [item.question for item in items],
            "answer": [item.answer for item in items],
            "letters": [list(item.choices or item.options) for item in items],
            "words": [list((item.choices or item.options).values()) for item in items],
        },
        features=datasets.Features({"id": text, "question": text, "answer": text, "letters": many, "words": many}),
    )


def _is_image_column(datasets: Any, feature: Any) -> bool:
    return isinstance(feature, datasets.Image) or isinstance(getattr(feature, "feature", None), datasets.Image)


def blink_depth_docs(rows: Any) -> Any:
    """Docs of BLINK's relative depth."""
    return docs_from_rows("blink-depth", rows)


def blink_count_docs(rows: Any) -> Any:
    """Docs of BLINK's counting."""
    return docs_from_rows("blink-count", rows)


def cvbench_depth_docs(rows: Any) -> Any:
    """Docs of CV-Bench's depth questions."""
    return docs_from_rows("cvbench-depth", rows)


def cvbench_count_docs(rows: Any) -> Any:
    """Docs of CV-Bench's counting questions."""
    return docs_from_rows("cvbench-count", rows)


def seed_count_docs(rows: Any) -> Any:
    """Docs of SEED-Bench's instance counting."""
    return docs_from_rows("seed-count", rows)


def doc_to_visual(doc: Mapping[str, Any]) -> list[Image.Image]:
    """The image of a doc in RGB, upright; the first of a list, as SEED-Bench's counting has it."""
    image = doc["image"]
    return [open_image(image[0] if isinstance(image, list) else image)]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The question as `perceptok llava eval` asks it, without choices, between pre_prompt and post_prompt."""
    around = lmms_eval_specific_kwargs or {}
    return f"{around.get('pre_prompt', '')}{doc['question']}{around.get('post_prompt', '')}"


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """The correct answer: a letter, or a count in digits."""
    return item_from_doc(doc).answer


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Accuracy, unparsed and invalid, each 1 or 0, as `perceptok eval score` counts them."""
    outcome = score_text(item_from_doc(doc), results[0])
    return {
        "accuracy": float(outcome.right),
        "unparsed": float(outcome.reading.value is None),
        "invalid": float(bool(outcome.problems)),
    }


def tasks_folder() -> Path:
    """The folder of the task files for benchmarks on the Hugging Face hub."""
    return Path(__file__).resolve().parent


def write_task(benchmark: Benchmark, folder: str | Path, *, force: bool = False) -> str:
    """Write a task of any benchmark: `NAME.yaml`, and beside it `NAME.parquet` with questions, answers and images.

    The first names the second by a relative path, so that the folder may be moved.

    Returns:
        The task's name, such as "perceptok_hardblink_5".

    Raises:
        EvaluationError: An item without an image, or an atomic one.
        MissingExtraError: `datasets` is not installed.
        OutputError: A file exists already, or cannot be written.
    """
    if any(item.target != "answer" for item in benchmark.items):
        raise EvaluationError(
            f"{benchmark.name} asks for perception tokens alone, which lmms-eval does not score; use `perceptok llava "
            "eval`"
        )
    docs, path = docs_from_benchmark(benchmark), Path(folder)
    task = f"perceptok_{benchmark.name.replace('-', '_')}"
    common = (tasks_folder() / "_common_yaml").read_text(encoding="utf-8")
    head = f"task: {task}\ndataset_path: parquet\ndataset_kwargs:\n  data_files:\n    test: {task}.parquet\n"
    path.mkdir(parents=True, exist_ok=True)
    with atomic_write(path / f"{task}.parquet", force=force) as file:
        docs.to_parquet(file)
    with atomic_write(path / f"{task}.yaml", force=force) as file:
        file.write((head + common).encode())
    return task
