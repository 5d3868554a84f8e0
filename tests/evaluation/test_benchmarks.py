"""Benchmarks in the layouts that their authors publish."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perceptok.boxes import ImageFrame
from perceptok.data import Evidence, Marker, PerceptionRecord, Turn, write_records
from perceptok.depth import block_to_text
from perceptok.errors import EvaluationError, MissingExtraError
from perceptok.evaluation import Benchmark, load_benchmark
from perceptok.evaluation.benchmarks import BENCHMARKS, WHOLE_BLOCK, BenchmarkItem

CVBENCH: list[dict[str, Any]] = [
    {"idx": 1, "type": "2D", "task": "Count", "question": "How many organs are there?", "choices": ["3", "2", "1"],
     "answer": "(C)", "filename": "a.png", "source": "ADE20K", "prompt": "..."},
    {"idx": 2, "type": "3D", "task": "Depth", "question": "Which object is closer to the camera?",
     "choices": ["chair", "table"], "answer": "(B)", "filename": "a.png", "source": "Omni3D", "prompt": "..."},
    {"idx": 3, "type": "2D", "task": "Relation", "question": "Where is it?", "choices": ["above", "below"],
     "answer": "(A)", "filename": "a.png", "source": "COCO", "prompt": "..."},
]  # fmt: skip

SEED: list[dict[str, Any]] = [
    {"question_id": "101669", "question": "How many towels are in the image?", "question_type_id": 5, "answer": "A",
     "choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four", "data_id": "a.png"},
    {"question_id": "1", "question": "What is it?", "question_type_id": 1, "answer": "A", "choice_a": "a dog",
     "choice_b": "b", "choice_c": "c", "choice_d": "d", "data_id": "a.png"},
]  # fmt: skip


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(out, "PNG")
    return out.getvalue()


def blink_rows(task: str) -> list[dict[str, Any]]:
    choices = ["A is closer", "B is closer"] if task == "Relative_Depth" else ["0", "3", "2", "1"]
    return [
        {
            "idx": f"val_{task}_{number}",
            "question": "Which point is closer to the camera?",
            "image_1": {"bytes": png(), "path": "1.png"},
            "choices": choices,
            "answer": f"({'AB'[number % 2]})",
        }
        for number in range(4)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def hardblink(tmp_path: Path) -> Path:
    folder = tmp_path / "hardblink"
    (folder / "images" / "3").mkdir(parents=True)
    rows = [{"question_id": n, "image": f"{n}.png", "text": "Which is closest?", "category": "count"} for n in range(3)]
    write_lines(folder / "questions_3.jsonl", rows)
    write_lines(folder / "answers_3.jsonl", [{"question_id": n, "text": f"({'ABC'[n]})"} for n in range(3)])
    for number in range(3):
        Image.new("RGB", (336, 336)).save(folder / "images" / "3" / f"{number}.jpg")
    return folder


def test_hardblink(hardblink: Path) -> None:
    benchmark = load_benchmark("hardblink-3", hardblink)
    assert [item.answer for item in benchmark.items] == ["A", "B", "C"]
    assert list(benchmark.items[0].choices) == ["A", "B", "C"]
    assert benchmark.items[1].groups == {"markers": "3"}
    # The questions name .png, the folder has .jpg.
    assert benchmark.items[2].image == hardblink / "images" / "3" / "2.jpg"
    assert benchmark.items[2].open_image().size == (336, 336)
    assert benchmark.published["AURORA"] == 66.9


def test_the_layout_of_the_repository(tmp_path: Path) -> None:
    """HardBLINK, BLINK counting and SEED as the authors' repository has them, all three in one folder."""
    for markers in (3, 4, 5):
        name = f"blink_{markers}pointscenter"
        for kind in ("questions", "answers", f"images/blink{markers}pointscenter"):
            (tmp_path / "hardblink" / kind).mkdir(parents=True, exist_ok=True)
        rows = [{"question_id": n, "image": f"{n}.png", "text": "Which?", "category": "depth"} for n in range(2)]
        write_lines(tmp_path / "hardblink" / "questions" / f"{name}_questions.jsonl", rows)
        answers = [{"question_id": n, "text": f"({'ABCDE'[markers - 1 - n]})"} for n in range(2)]
        write_lines(tmp_path / "hardblink" / "answers" / f"{name}_answers.jsonl", answers)
        for number in range(2):
            image = Image.new("RGB", (336, 336), (markers, number, 0))
            image.save(tmp_path / "hardblink" / "images" / f"blink{markers}pointscenter" / f"{number}.png")
    for folder, name in (("blink_counting", "blinkcounting"), ("seedbench", "seedbench")):
        (tmp_path / folder / "images").mkdir(parents=True)
        (tmp_path / folder / "images" / "a.png").write_bytes(png())
        write_lines(
            tmp_path / folder / f"{name}_questions.jsonl", [{"question_id": "7", "image": "a.png", "text": "?"}]
        )
        write_lines(tmp_path / folder / f"{name}_answers.jsonl", [{"question_id": "7", "text": "4"}])
    for markers in (3, 4, 5):
        one_file = tmp_path / "hardblink" / "questions" / f"blink_{markers}pointscenter_questions.jsonl"
        for data in (tmp_path, tmp_path / "hardblink", one_file):
            items = load_benchmark(f"hardblink-{markers}", data).items
            assert [item.answer for item in items] == ["ABCDE"[markers - 1], "ABCDE"[markers - 2]]
            assert items[1].open_image().getpixel((0, 0)) == (markers, 1, 0)
    for name, folder, file in (
        ("blink-count", "blink_counting", "blinkcounting_questions.jsonl"),
        ("seed-count", "seedbench", "seedbench_questions.jsonl"),
    ):
        for data in (tmp_path, tmp_path / folder, tmp_path / folder / file):
            (item,) = load_benchmark(name, data).items
            assert (item.id, item.answer, item.open_image().size) == ("7", "4", (20, 10))


def test_answers_of_another_length_are_refused(hardblink: Path) -> None:
    answers = hardblink / "answers_3.jsonl"
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[:2]))
    with pytest.raises(EvaluationError, match=r"questions_3\.jsonl has 3 questions and .*answers_3\.jsonl 2 .* is '2'"):
        load_benchmark("hardblink-3", hardblink)
    answers.write_text("".join(lines) + json.dumps({"question_id": 9, "text": "(A)"}) + "\n")
    with pytest.raises(EvaluationError, match=r"has 3 questions and .* 4 answers, .* the first without is '9'"):
        load_benchmark("hardblink-3", hardblink)


def test_a_folder_without_the_questions_says_which_files_it_needs(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"a folder with questions_4\.jsonl or questions/blink_4pointscenter_"):
        load_benchmark("hardblink-4", tmp_path)


def test_atomic_records(tmp_path: Path) -> None:
    """A block is scored as whole or not; boxes by their number."""
    block = block_to_text(np.zeros((10, 10), dtype=np.int64))
    box = "Bounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)"
    rows = (
        ("depth", f"The depth map for the image is {block}.", Evidence(codes=(0,) * 100)),
        ("counting", f"Here are the bounding boxes for the cars:\n{box}", Evidence(boxes=((1, 2, 3, 4),))),
        ("counting", "There are no cars in the image.", Evidence(boxes=(), plural="cars")),
        ("counting", "(3)", Evidence()),
    )
    records = [
        PerceptionRecord(
            str(number), ("a.png",), (Turn("user", "?"), Turn("assistant", text)), task, "atomic", evidence=evidence
        )  # type: ignore[arg-type]
        for number, (task, text, evidence) in enumerate(rows)
    ]
    write_records(tmp_path / "records.jsonl", records[:3])
    items = load_benchmark("atomic", tmp_path / "records.jsonl").items
    assert [(item.target, item.answer) for item in items] == [("block", WHOLE_BLOCK), ("boxes", "1"), ("boxes", "0")]
    for item, (_, text, _) in zip(items, rows, strict=False):
        assert item.read(text).value == item.answer
    assert items[0].read(block + block).value is None
    assert items[0].read("No map.").value is None
    assert items[0].read(block.replace("<DEPTH_0>", "", 1)).reason is not None
    assert items[1].read(f"{box}\n{box.replace('1', '2', 1)}").value == "2"
    assert items[1].read("Bounding box 1: (<PIXEL_1>,<PIXEL_2>)").value is None
    write_records(tmp_path / "none.jsonl", records[3:])
    with pytest.raises(EvaluationError, match="record 3 has neither an answer nor the codes or boxes"):
        load_benchmark("atomic", tmp_path / "none.jsonl")
    with pytest.raises(EvaluationError, match="records has no items"):
        load_benchmark("records", tmp_path / "records.jsonl")


def test_answers_that_contradict_each_other_are_refused(hardblink: Path) -> None:
    answers = hardblink / "answers_3.jsonl"
    lines = answers.read_text()
    answers.write_text(lines + json.dumps({"question_id": 0, "text": "(A)"}) + "\n")
    assert len(load_benchmark("hardblink-3", hardblink)) == 3
    answers.write_text(lines + json.dumps({"question_id": 0, "text": "(C)"}) + "\n")
    with pytest.raises(EvaluationError, match="line 4: question 0 has two answers"):
        load_benchmark("hardblink-3", hardblink)


def test_the_real_files(shared: Path) -> None:
    for markers in (3, 4, 5):
        benchmark = load_benchmark(f"hardblink-{markers}", shared / "data" / "hardblink")
        assert len(benchmark) == 124
        assert benchmark.items[0].open_image().size == (336, 336)
    blink = load_benchmark("blink-count", shared / "data" / "counting" / "blinkcounting_questions.jsonl")
    assert (len(blink), blink.items[0].answer) == (120, "1")
    seed = load_benchmark("seed-count", shared / "data" / "counting" / "seedbench_questions.jsonl")
    assert (len(seed), seed.items[1].answer) == (2298, "4")


def test_blink_from_json_lines_and_parquet(tmp_path: Path) -> None:
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    for task, name, answers in (
        ("Relative_Depth", "blink-depth", ["A", "B", "A", "B"]),
        ("Counting", "blink-count", ["0", "3", "0", "3"]),
    ):
        folder = tmp_path / task
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(blink_rows(task)), folder / "val-00000-of-00001.parquet")
        pq.write_table(pa.Table.from_pylist(blink_rows(task)[:1]), folder / "test-00000-of-00001.parquet")
        for place in (folder / "val-00000-of-00001.parquet", folder, tmp_path):
            benchmark = load_benchmark(name, place)
            assert [item.answer for item in benchmark.items] == answers
        assert benchmark.items[0].open_image().size == (20, 10)
    (tmp_path / "a.png").write_bytes(png())
    rows = [{**row, "image_1": "a.png"} for row in blink_rows("Counting")]
    assert load_benchmark("blink-count", write_lines(tmp_path / "rows.jsonl", rows)).items[0].open_image().size == (
        20,
        10,
    )


def test_a_saved_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "image_1": Image.new("RGB", (20, 10))} for row in blink_rows("Relative_Depth")]
    datasets.DatasetDict({"val": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "saved"))
    benchmark = load_benchmark("blink-depth", tmp_path / "saved")
    assert len(benchmark) == 4
    assert benchmark.items[0].open_image().size == (20, 10)


def test_cvbench_and_seedbench(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    cvbench = write_lines(tmp_path / "cv.jsonl", CVBENCH)
    (count,) = load_benchmark("cvbench-count", cvbench).items
    assert (count.answer, dict(count.choices), count.groups["source"]) == ("1", {}, "ADE20K")
    (depth,) = load_benchmark("cvbench-depth", cvbench).items
    assert depth.answer == depth.read("The table.").value == depth.read("(B)").value == "B"
    seed = tmp_path / "SEED-Bench.json"
    seed.write_text(json.dumps({"questions": SEED, "question_type": {"Instances Counting": 5}}))
    (towels,) = load_benchmark("seed-count", seed).items
    assert (towels.id, towels.answer) == ("101669", "1")
    assert towels.open_image().size == (20, 10)


def test_rows_in_the_folder_of_all_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "cvbench").mkdir()
    (tmp_path / "cvbench" / "a.png").write_bytes(png())
    write_lines(tmp_path / "cvbench" / "test.jsonl", CVBENCH)
    for data in (tmp_path, tmp_path / "cvbench"):
        (item,) = load_benchmark("cvbench-depth", data).items
        assert (item.answer, item.open_image().size) == ("B", (20, 10))
    write_lines(tmp_path / "cvbench" / "other.jsonl", CVBENCH)
    with pytest.raises(EvaluationError, match="neither Parquet files, a saved dataset nor one file of JSON"):
        load_benchmark("cvbench-depth", tmp_path)


def test_records(tmp_path: Path) -> None:
    turns = (Turn("user", "Which point is the closest to the camera?"), Turn("assistant", "(B)"))
    frame = ImageFrame.squash((20, 10))
    evidence = Evidence(markers=(Marker("A", 168.0, 168.0), Marker("B", 84.0, 168.0)))
    record = PerceptionRecord(
        "one", ("a.png",), turns, "depth", "direct", frame=frame, answer="B", choices=("A", "B"), evidence=evidence
    )
    write_records(tmp_path / "records.jsonl", [record])
    (item,) = load_benchmark("records", tmp_path / "records.jsonl").items
    assert item.answer == "B"
    assert item.markers["A"] == pytest.approx((10, 5))
    assert item.groups["markers"] == "2"


def test_unknown_names_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="hardblink-3"):
        load_benchmark("hardblink-6", tmp_path)
    for name in BENCHMARKS:
        with pytest.raises(EvaluationError):
            load_benchmark(name, tmp_path / "nothing.jsonl")
    with pytest.raises(EvaluationError, match="not a file, a folder or a hub id"):
        load_benchmark("blink-depth", "./not/there")


def test_a_file_of_fewer_points_is_not_taken_for_another(tmp_path: Path, shared: Path) -> None:
    source = shared / "data" / "hardblink"
    for kind in ("questions", "answers"):
        shutil.copy(source / f"{kind}_3.jsonl", tmp_path / f"{kind}_5.jsonl")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "5").symlink_to(source / "images" / "3")
    with pytest.raises(EvaluationError, match=r"all 124 answers are among A, B, C, .*3 points, not 5; .*hardblink-3"):
        load_benchmark("hardblink-5", tmp_path)
    for points in (3, 4, 5):
        assert len(load_benchmark(f"hardblink-{points}", source)) == 124


def test_other_layouts_are_told(tmp_path: Path, hardblink: Path) -> None:
    with pytest.raises(EvaluationError, match="another layout"):
        load_benchmark("blink-depth", write_lines(tmp_path / "cv.jsonl", CVBENCH))
    with pytest.raises(EvaluationError, match="no items"):
        load_benchmark("cvbench-depth", write_lines(tmp_path / "none.jsonl", CVBENCH[:1]))
    write_lines(hardblink / "answers_3.jsonl", [{"question_id": 0, "text": "(A)"}])
    with pytest.raises(EvaluationError, match=r"an answer in answers_3\.jsonl"):
        load_benchmark("hardblink-3", hardblink)
    write_lines(hardblink / "answers_3.jsonl", [{"question_id": n, "text": "(E)"} for n in range(3)])
    with pytest.raises(EvaluationError, match="its answer is 'E'"):
        load_benchmark("hardblink-3", hardblink)


def test_missing_images_cost_only_where_they_are_needed(hardblink: Path) -> None:
    (hardblink / "images" / "3" / "1.jpg").unlink()
    item = load_benchmark("hardblink-3", hardblink).items[1]
    with pytest.raises(EvaluationError, match=r"1\.png: image file not found"):
        item.open_image()


def test_ids_stand_once() -> None:
    item = BenchmarkItem("1", "q", "5")
    with pytest.raises(EvaluationError, match="more than once"):
        Benchmark("x", (item, item))


@pytest.mark.parametrize(
    "image", ["/etc/passwd", "../secret/s.jpg", "b/../../secret/s.jpg", "", ".", "a\0.png", "n" * 5000 + ".png"]
)
@pytest.mark.parametrize("name", ["blink-count", "cvbench-depth", "seed-count", "hardblink-3"])
def test_names_of_images_stay_in_their_folder(tmp_path: Path, hardblink: Path, name: str, image: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.jpg").write_bytes(png())
    data, row = tmp_path / "rows" / "rows.jsonl", r"row (val_Counting_0|2|101669)"
    data.parent.mkdir()
    if name == "hardblink-3":
        rows = [json.loads(line) for line in (hardblink / "questions_3.jsonl").read_text().splitlines()]
        data, row = write_lines(hardblink / "questions_3.jsonl", [rows[0] | {"image": image}, *rows[1:]]), "line 1"
    elif name == "blink-count":
        write_lines(data, [{**blink_rows("Counting")[0], "image_1": {"bytes": None, "path": image or "."}}])
    elif name == "cvbench-depth":
        write_lines(data, [{**CVBENCH[1], "filename": image or "."}])
    else:
        write_lines(data, [{**SEED[0], "image": [image]}])
    with pytest.raises(EvaluationError, match=rf"{row}: the image .* (is not a file inside|cannot be looked up)"):
        load_benchmark(name, data)


def test_images_may_be_links_in_their_folder(tmp_path: Path) -> None:
    """As in a snapshot of the hub's cache."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "rows").mkdir()
    (tmp_path / "blobs" / "1").write_bytes(png())
    (tmp_path / "rows" / "a.png").symlink_to("../blobs/1")
    (item,) = load_benchmark("cvbench-depth", write_lines(tmp_path / "rows" / "rows.jsonl", CVBENCH)).items
    assert item.open_image().size == (20, 10)


def test_rows_of_another_task_are_refused(tmp_path: Path) -> None:
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    (tmp_path / "blink" / "Counting").mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(blink_rows("Counting")), tmp_path / "blink" / "Counting" / "val-00000-of-00001.parquet"
    )
    for data in (tmp_path, tmp_path / "blink"):
        assert len(load_benchmark("blink-count", data)) == 4
        with pytest.raises(EvaluationError, match=r"blink-depth: .* are of other tasks, .* expected Relative_Depth/"):
            load_benchmark("blink-depth", data)
    with pytest.raises(EvaluationError, match=r"blink-depth has no items: no row of .* is of its task"):
        load_benchmark("blink-depth", tmp_path / "blink" / "Counting")
    for kind in ({"idx": 7, "sub_task": "Counting"}, {"idx": "7"}):
        rows = write_lines(tmp_path / "rows.jsonl", [{**blink_rows("Counting")[0], "image_1": "a.png", **kind}])
        with pytest.raises(
            EvaluationError, match=r"blink-depth has no items|blink-depth: row 7: .* two choices; got 4"
        ):
            load_benchmark("blink-depth", rows)
    both = [{**row, "image_1": None} for task in ("Counting", "Relative_Depth") for row in blink_rows(task)]
    for name in ("blink-depth", "blink-count"):
        assert len(load_benchmark(name, write_lines(tmp_path / "rows.jsonl", both))) == 4


def test_questions_of_another_benchmark_are_refused(tmp_path: Path) -> None:
    for name, answer in (("blink_3pointscenter", "(A)"), ("blink_5pointscenter", "(A)"), ("seedbench", "4")):
        write_lines(tmp_path / f"{name}_questions.jsonl", [{"question_id": 0, "image": "a.png", "text": "?"}])
        write_lines(tmp_path / f"{name}_answers.jsonl", [{"question_id": 0, "text": answer}])
    for name, file, own in (
        ("hardblink-5", "blink_3pointscenter_questions.jsonl", "questions_5.jsonl or blink_5pointscenter_questions"),
        ("blink-count", "seedbench_questions.jsonl", "blinkcounting_questions"),
    ):
        with pytest.raises(EvaluationError, match=f"the questions of {name} were not found; .* a file named {own}"):
            load_benchmark(name, tmp_path / file)
    assert len(load_benchmark("hardblink-5", tmp_path / "blink_5pointscenter_questions.jsonl")) == 1
    assert len(load_benchmark("seed-count", tmp_path / "seedbench_questions.jsonl")) == 1
    with pytest.raises(EvaluationError, match="blink-depth: a row of another layout"):
        load_benchmark("blink-depth", tmp_path / "seedbench_questions.jsonl")


def test_a_relative_path_of_questions(hardblink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hardblink)
    for data in ("questions_3.jsonl", ".", "../hardblink/questions_3.jsonl"):
        assert load_benchmark("hardblink-3", data).items[2].open_image().size == (336, 336)
    (hardblink / "questions").mkdir()
    (hardblink / "answers").mkdir()
    name = "blink_4pointscenter"
    write_lines(hardblink / "questions" / f"{name}_questions.jsonl", [{"question_id": 0, "text": "?"}])
    write_lines(hardblink / "answers" / f"{name}_answers.jsonl", [{"question_id": 0, "text": "(D)"}])
    monkeypatch.chdir(hardblink / "questions")
    assert len(load_benchmark("hardblink-4", f"{name}_questions.jsonl")) == 1


def test_a_benchmark_missing_from_the_folder_of_all_is_named(hardblink: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "stray.jsonl", [{"id": "a", "points": []}])
    for name, expected in (
        ("blink-depth", "expected blink/ with its rows"),
        ("blink-count", r"blinkcounting_questions\.jsonl, or with blink_counting/ .* or blink/ with its rows"),
        ("cvbench-count", "expected cvbench/ with its rows"),
        ("seed-count", "or with seedbench/ that has it, or seed/ or seedbench/ with its rows"),
    ):
        with pytest.raises(EvaluationError, match=f"{name} was not found beside hardblink/; .*{expected}"):
            load_benchmark(name, tmp_path)
    with pytest.raises(EvaluationError, match=r"questions of hardblink-4 were not found; .* with hardblink/"):
        load_benchmark("hardblink-4", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"^blink-depth: .*empty: neither Parquet files"):
        load_benchmark("blink-depth", tmp_path / "empty")
    (tmp_path / "seedbench").mkdir()
    (tmp_path / "seedbench" / "SEED-Bench.json").write_text(json.dumps({"questions": SEED}))
    assert len(load_benchmark("seed-count", tmp_path)) == 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B", "3"),
        ("<s> (B) 3", "3"),
        ("There are three. The correct answer is (B) 3.", "3"),
        ("three", "3"),
        ("7", None),
    ],
)
def test_letters_are_read_where_a_count_has_options(tmp_path: Path, text: str, answer: str | None) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [{**row, "image_1": None} for row in blink_rows("Counting")])
    item = load_benchmark("blink-count", file).items[1]
    assert item.choices == {}
    assert item.options == {"A": "0", "B": "3", "C": "2", "D": "1"}
    assert item.answer == "3"
    assert item.read(text).value == answer


def test_options_of_other_layouts(tmp_path: Path) -> None:
    counts = load_benchmark("cvbench-count", write_lines(tmp_path / "cv.jsonl", CVBENCH)).items
    assert [(item.answer, item.read("(C)").value) for item in counts] == [("1", "1")]
    (seed,) = load_benchmark("seed-count", write_lines(tmp_path / "seed.jsonl", SEED)).items
    assert (seed.answer, seed.read("B").value) == ("1", "2")


def test_a_missing_package_is_said_with_the_benchmark_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"^blink-depth: loading .* needs datasets; install it with"):
        load_benchmark("blink-depth", "owner/name")
