"""Items as rows of a data set, which lmms-eval calls docs, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks.catalogue import item_of_row
from perceptok.evaluation.benchmarks.items import Benchmark, Item
from perceptok.evaluation.benchmarks.rows import datasets_library

__all__ = ["docs_of_benchmark", "docs_of_rows", "item_of_doc"]

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
