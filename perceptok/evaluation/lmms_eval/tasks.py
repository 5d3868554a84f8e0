"""Items as rows of a data set, which lmms-eval calls docs, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks import Benchmark, Item, datasets_library, item_of_row
from perceptok.evaluation.scoring import outcome_of
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
    "docs_of_benchmark",
    "docs_of_rows",
    "item_of_doc",
    "process_results",
    "seed_count_docs",
    "tasks_folder",
    "write_task",
]


_PURPOSE = "tasks of lmms-eval"


def docs_of_rows(name: str, rows: Any) -> Any:
    """A `datasets.Dataset` in the published layout as one of docs: id, question, answer, letters, words, image.

    Args:
        name: A benchmark that is published as rows, such as "blink-depth".
        rows: The data set. Rows of its other tasks are left out; pictures stay as they are, undecoded.

    Raises:
        EvaluationError: Another layout, no row of this benchmark, or an id that stands twice.
    """
    datasets = datasets_library(_PURPOSE)
    pictured = [column for column, feature in rows.features.items() if _is_picture(datasets, feature)]
    found = [column for column in ("image", "image_1") if column in pictured]
    if not found:
        raise EvaluationError(f"{name}: no column of pictures named image or image_1 in {', '.join(rows.features)}")
    told = rows.remove_columns(pictured)
    # The readers of rows want the columns of pictures, not the pictures.
    made = [item_of_row(name, {**dict.fromkeys(pictured), **row}) for row in told]
    kept = [number for number, item in enumerate(made) if item is not None]
    benchmark = Benchmark(name, tuple(item for item in made if item is not None))
    pictures = rows.select(kept).select_columns([found[0]])
    if found[0] != "image":
        pictures = pictures.rename_column(found[0], "image")
    return datasets.concatenate_datasets([_told(datasets, benchmark.items), pictures], axis=1)


def docs_of_benchmark(benchmark: Benchmark) -> Any:
    """The same docs of any benchmark whose pictures are at hand; raises EvaluationError where one is not."""
    datasets = datasets_library(_PURPOSE)
    pictures = []
    for item in benchmark.items:
        data = item.picture()
        if data is None:
            raise EvaluationError(f"item {item.id} has no picture; name the benchmark's images")
        pictures.append({"bytes": data, "path": None})
    features = datasets.Features({"image": datasets.Image()})
    shown = datasets.Dataset.from_dict({"image": pictures}, features=features)
    return datasets.concatenate_datasets([_told(datasets, benchmark.items), shown], axis=1)


def item_of_doc(doc: Mapping[str, Any]) -> Item:
    """The item of a doc, without its picture; raises EvaluationError where it is no doc of these."""
    try:
        choices = dict(zip(doc["letters"], doc["words"], strict=True))
        return Item(doc["id"], doc["question"], doc["answer"], choices)
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"a doc has id, question, answer, letters and as many words; got {', '.join(map(str, doc))}"
        ) from error


def _told(datasets: Any, items: Sequence[Item]) -> Any:
    text = datasets.Value("string")
    many = datasets.Sequence(text)
    return datasets.Dataset.from_dict(
        {
            "id": [item.id for item in items],
            "question": [item.question for item in items],
            "answer": [item.answer for item in items],
            "letters": [list(item.choices) for item in items],
            "words": [list(item.choices.values()) for item in items],
        },
        features=datasets.Features({"id": text, "question": text, "answer": text, "letters": many, "words": many}),
    )


def _is_picture(datasets: Any, feature: Any) -> bool:
    return isinstance(feature, datasets.Image) or isinstance(getattr(feature, "feature", None), datasets.Image)


def blink_depth_docs(rows: Any) -> Any:
    """Docs of BLINK's relative depth."""
    return docs_of_rows("blink-depth", rows)


def blink_count_docs(rows: Any) -> Any:
    """Docs of BLINK's counting."""
    return docs_of_rows("blink-count", rows)


def cvbench_depth_docs(rows: Any) -> Any:
    """Docs of CV-Bench's depth questions."""
    return docs_of_rows("cvbench-depth", rows)


def cvbench_count_docs(rows: Any) -> Any:
    """Docs of CV-Bench's counting questions."""
    return docs_of_rows("cvbench-count", rows)


def seed_count_docs(rows: Any) -> Any:
    """Docs of SEED-Bench's instance counting."""
    return docs_of_rows("seed-count", rows)


def doc_to_visual(doc: Mapping[str, Any]) -> list[Image.Image]:
    """The one picture of a doc in RGB; of a list its first, as SEED-Bench's counting has it."""
    image = doc["image"]
    return [open_image(image[0] if isinstance(image, list) else image)]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The question as `perceptok llava eval` asks it, without options, between pre_prompt and post_prompt."""
    around = lmms_eval_specific_kwargs or {}
    return f"{around.get('pre_prompt', '')}{doc['question']}{around.get('post_prompt', '')}"


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """The right answer: a letter, or a count in digits."""
    return item_of_doc(doc).answer


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 or 0 of accuracy, unparsed and invalid, as `perceptok eval score` counts them (see `evaluate`)."""
    outcome = outcome_of(item_of_doc(doc), results[0])
    return {
        "accuracy": float(outcome.right),
        "unparsed": float(outcome.reading.value is None),
        "invalid": float(bool(outcome.problems)),
    }


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
