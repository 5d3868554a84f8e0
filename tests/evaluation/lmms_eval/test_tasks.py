"""What the task files name, on rows in the published layouts, without lmms-eval."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from perceptok.errors import EvaluationError, OutputError
from perceptok.evaluation import Benchmark, evaluate, tasks_folder, write_task
from perceptok.evaluation.benchmarks import BenchmarkItem, item_from_row
from perceptok.evaluation.lmms_eval import tasks as functions
from perceptok.evaluation.lmms_eval.tasks import docs_from_benchmark, docs_from_rows, item_from_doc

datasets = pytest.importorskip("datasets")

TASKS = sorted(tasks_folder().glob("*.yaml"))
NAMES = {"blink_depth", "blink_count", "cvbench_depth", "cvbench_count", "seed_count"}


def make_image(shade: int) -> Image.Image:
    return Image.new("RGB", (20, 10), (shade, 0, 0))


def published(name: str) -> Any:
    """Six rows as the hub has them; of CV-Bench and SEED-Bench every other one is of another task."""
    rows: list[dict[str, Any]] = []
    for number in range(6):
        letter, shown = "AB"[number // 2 % 2], make_image(40 * number)
        if name.startswith("blink"):
            choices = ["A is closer", "B is closer"] if name == "blink_depth" else ["0", "3", "2", "1"]
            row = {"idx": f"val_{number}", "question": f"Question {number}?", "choices": choices}
            rows.append({**row, "answer": f"({letter})", "image_1": shown, "image_2": None})
        elif name.startswith("cvbench"):
            task, choices = ("Depth", ["chair", "table"]) if name == "cvbench_depth" else ("Count", ["3", "2", "1"])
            row = {"idx": number, "question": f"Question {number}?", "choices": choices, "answer": f"({letter})"}
            rows.append({**row, "task": "Relation" if number % 2 else task, "source": "COCO", "image": shown})
        else:
            row = {"question_id": f"q{number}", "question": f"Question {number}?", "answer": letter}
            words = {"choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four"}
            rows.append({**row, **words, "question_type_id": "1" if number % 2 else "5", "image": [shown]})
    dataset = datasets.Dataset.from_list(rows)
    if name.startswith("blink"):
        dataset = dataset.cast_column("image_2", datasets.Image())
    return dataset


EXPECTED = {
    "blink_depth": ["A", "A", "B", "B", "A", "A"],
    "blink_count": ["0", "0", "3", "3", "0", "0"],
    "cvbench_depth": ["A", "B", "A"],
    "cvbench_count": ["3", "2", "3"],
    "seed_count": ["1", "2", "1"],
}


def loaded(path: Path) -> dict[str, Any]:
    """A task file with what it includes; `!function NAME` as the function."""

    class Loader(yaml.SafeLoader):
        pass

    def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
        module, _, name = str(node.value).rpartition(".")
        assert module == functions.__name__
        assert name in functions.__all__
        return getattr(functions, name)

    Loader.add_constructor("!function", function)
    config: dict[str, Any] = yaml.load(path.read_bytes(), Loader)  # noqa: S506
    included = config.pop("include", None)
    return {**loaded(path.with_name(included)), **config} if included else config


def test_every_published_benchmark_has_its_task() -> None:
    assert {path.stem for path in TASKS} == NAMES


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_file_names_what_exists(path: Path) -> None:
    config = loaded(path)
    assert config["task"] == f"perceptok_{path.stem}"
    assert config["process_docs"] is getattr(functions, f"{path.stem}_docs")
    assert "/" in config["dataset_path"]
    for field in ("doc_to_visual", "doc_to_text", "doc_to_target", "process_results"):
        assert config[field] is getattr(functions, field)
    metrics = [metric["metric"] for metric in config["metric_list"]]
    doc = config["process_docs"](published(path.stem))[0]
    assert list(config["process_results"](doc, ["A"])) == metrics == ["accuracy", "unparsed", "invalid"]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_rows_become_docs(name: str) -> None:
    docs = getattr(functions, f"{name}_docs")(published(name))
    assert [functions.doc_to_target(doc) for doc in docs] == EXPECTED[name]
    step = 1 if name.startswith("blink") else 2
    for number, doc in enumerate(docs):
        assert functions.doc_to_text(doc) == f"Question {step * number}?"
        (shown,) = functions.doc_to_visual(doc)
        assert (shown.mode, shown.size, shown.getpixel((0, 0))) == ("RGB", (20, 10), (40 * step * number, 0, 0))
        item = item_from_doc(doc)
        # As lmms-eval calls it: the doc without its image.
        bare = {key: value for key, value in doc.items() if key != "image"}
        assert functions.process_results(bare, [f"The answer is {item.answer}."])["accuracy"] == 1.0


def test_words_around_a_question() -> None:
    doc = functions.blink_depth_docs(published("blink_depth"))[0]
    around = {"pre_prompt": "Look. ", "post_prompt": " Answer with a letter."}
    assert functions.doc_to_text(doc, around) == "Look. Question 0? Answer with a letter."


TEXTS = ["A", "(B)", "The closest is A", "no idea", "<DEPTH_START> A", "the table", "", "three", "A or B", "**2**"]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_figures_are_those_of_perceptok_eval(name: str) -> None:
    """BenchmarkItem by item and in sum, whatever is written."""
    benchmark_name = name.replace("_", "-")
    rows = published(name)
    items = [item_from_row(benchmark_name, {**dict.fromkeys(["image_1", "image_2"]), **row}) for row in rows]
    benchmark = Benchmark(benchmark_name, tuple(item for item in items if item))
    docs = docs_from_rows(benchmark_name, rows)
    for text in TEXTS:
        score = evaluate({item.id: text for item in benchmark.items}, benchmark).overall
        results = [functions.process_results(doc, [text]) for doc in docs]
        assert score.items == len(results)
        assert score.right == sum(result["accuracy"] for result in results)
        assert score.unparsed == sum(result["unparsed"] for result in results)
        assert score.invalid == sum(result["invalid"] for result in results)


def png() -> bytes:
    out = io.BytesIO()
    make_image(9).save(out, "PNG")
    return out.getvalue()


def hardblink() -> Benchmark:
    letters = dict.fromkeys("ABC", "")
    return Benchmark(
        "hardblink-3", tuple(BenchmarkItem(str(n), "Which?", "ABC"[n % 3], letters, png()) for n in range(6))
    )


def test_a_written_task(tmp_path: Path) -> None:
    assert write_task(hardblink(), tmp_path / "tasks") == "perceptok_hardblink_3"
    config = loaded(tmp_path / "tasks" / "perceptok_hardblink_3.yaml")
    data = config["dataset_kwargs"]["data_files"]["test"]
    docs = datasets.load_dataset(
        "parquet", data_files={"test": str(tmp_path / "tasks" / data)}, cache_dir=str(tmp_path / "cache")
    )["test"]
    assert [item_from_doc(doc).answer for doc in docs] == list("ABCABC")
    assert list(item_from_doc(docs[0]).choices) == ["A", "B", "C"]
    assert functions.doc_to_visual(docs[5])[0].getpixel((0, 0)) == (9, 0, 0)
    with pytest.raises(OutputError, match="exists already"):
        write_task(hardblink(), tmp_path / "tasks")
    write_task(hardblink(), tmp_path / "tasks", force=True)


def test_what_is_no_row_and_no_doc() -> None:
    with pytest.raises(EvaluationError, match="another layout"):
        functions.blink_depth_docs(published("seed_count"))
    with pytest.raises(EvaluationError, match="no column image or image_1 holds images"):
        functions.blink_depth_docs(published("blink_depth").remove_columns(["image_1", "image_2"]))
    with pytest.raises(EvaluationError, match="has no items"):
        functions.cvbench_count_docs(published("cvbench_depth"))
    twice = datasets.concatenate_datasets([published("blink_count")] * 2)
    with pytest.raises(EvaluationError, match="more than once"):
        functions.blink_count_docs(twice)
    with pytest.raises(EvaluationError, match="published as rows"):
        docs_from_rows("hardblink-3", published("blink_depth"))
    with pytest.raises(EvaluationError, match="as many words"):
        functions.process_results({"id": "1", "question": "?", "answer": "A", "letters": ["A"], "words": []}, ["A"])
    with pytest.raises(EvaluationError, match="has no image"):
        docs_from_benchmark(Benchmark("records", (BenchmarkItem("1", "?", "3"),)))
