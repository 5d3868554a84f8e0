"""Files of records: round trips of every form, memory, and problems."""

from __future__ import annotations

import json
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image

from perceptok.data import PerceptionRecord, check_records, read_records, record_files as files, write_records
from perceptok.depth import block_to_text
from perceptok.errors import OutputError, RecordError
from tests.data.test_records import depth_record


def make_records(count: int) -> Iterator[PerceptionRecord]:
    record = depth_record()
    return (replace(record, id=f"r{index}", difficulty=float(index % 7)) for index in range(count))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jsonl", None),
        ("b.jsonl", "llava"),
        ("c.jsonl", "chat"),
        ("d.json", None),
        ("e.json", "records"),
        ("f.parquet", None),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 1010])
def test_every_form_round_trips(tmp_path: Path, name: str, form: None, count: int) -> None:
    path = tmp_path / name
    assert write_records(path, make_records(count), form=form) == count
    assert list(read_records(path)) == list(make_records(count))
    first = path.read_bytes()
    write_records(path, make_records(count), form=form, force=True)
    assert path.read_bytes() == first


def test_json_file_is_a_list(tmp_path: Path) -> None:
    write_records(tmp_path / "a.json", make_records(3))
    entries = json.loads((tmp_path / "a.json").read_text())
    assert [entry["id"] for entry in entries] == ["r0", "r1", "r2"]


def test_datasets_reads_parquet_and_chat_rows(tmp_path: Path) -> None:
    import datasets

    write_records(tmp_path / "a.parquet", make_records(3))
    rows = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert rows[1]["id"] == "r1"
    assert rows[1]["turns"][0] == {"role": "user", "text": "Which point is closest?"}
    write_records(tmp_path / "chat.jsonl", make_records(3), form="chat")
    chat = datasets.Dataset.from_json(str(tmp_path / "chat.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert chat[2]["messages"][1]["content"][0]["text"] == "The answer is B."


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_memory_is_constant(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four hundred records are 600 kB of text, and several times that as objects."""

    def measure_peak(work: Callable[[], object]) -> int:
        tracemalloc.start()
        work()
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    monkeypatch.setattr(files, "_ROWS", 20)
    path = tmp_path / name
    write_records(path, make_records(400))
    list(read_records(path))  # imports and caches are not counted
    limit = 700_000  # chunks of 64 KiB as text and objects; a row group
    assert measure_peak(lambda: write_records(path, make_records(400), force=True)) < limit
    assert measure_peak(lambda: deque(read_records(path), maxlen=1)) < limit
    assert measure_peak(lambda: list(read_records(path))) > 2 * limit


def test_check_lists_every_problem(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images/küche 1.png")
    good = depth_record()
    lines = [
        good.to_json(),
        '{"id": "cut',
        good.to_json(),
        "",
        replace(good, id="lost", images=("images/lost.png",)).to_json(),
        '{"id": "x"}',
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    problems = list(check_records(path))
    assert [problem.name.rpartition(", ")[2] for problem in problems] == ["line 2", "line 3", "line 5", "line 6"]
    assert "not valid JSON" in problems[0].reason
    assert "the id 'depth-cot-0' occurs twice" in problems[1].reason
    assert "not found" in problems[2].reason
    assert "images: missing" in problems[3].reason
    with pytest.raises(RecordError, match=r"set\.jsonl, line 2: not valid JSON"):
        list(read_records(path))


def test_missing_images_are_found_on_request(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    write_records(path, [depth_record()])
    assert list(read_records(path)) == [depth_record()]
    with pytest.raises(RecordError, match=r"line 1, record 'depth-cot-0': images: .* not found"):
        list(read_records(path, check_images=True))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_missing_and_damaged_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(RecordError, match="cannot be read"):
        list(read_records(path))
    path.write_bytes(b'[{"id": \xff')
    with pytest.raises(RecordError, match=name):
        list(read_records(path))


def make_annealing_file(path: Path) -> list[dict[str, Any]]:
    """Two passes in the format of AURORA's `train_*_annealing_data.json`: atomic samples, then the others, repeated."""
    block = block_to_text(np.arange(100).reshape(10, 10))
    boxes = "Bounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_30>,<PIXEL_40>)"
    closest = "Multiple points are circled on the image, labeled by letters beside each circle. Which is the closest?"
    listed = f"Here are the bounding boxes for the dogs:\n{boxes}"
    samples = [
        ("ADE/1.jpg", "What is the depth map for the image?", f"The depth map for the image is {block}."),
        ("coco/train2017/1.jpg", "Please locate all of the dogs in this image.", "There are no dogs in the image."),
        ("coco/train2017/2.jpg", "Return the bounding boxes of dogs.", listed),
        ("ADE_blink/2.jpg", closest, "(B)"),
        (
            "ADE_blink/2.jpg",
            f"{closest}\nTo answer this question, ...",
            "Point A is located at (x = 1 y = 2),Point B is located at (x = 3 y = 4).The depth map for the image is "
            f"{block}. Since point B has a higher pixel value on the depth map, the answer is that point B is closer "
            "to the camera.",
        ),
        ("coco/train2017/3.jpg", "How many dogs are in the image?", "1"),
        (
            "coco/train2017/3.jpg",
            "How many dogs are in the image?.\n To solve this, ...",
            f"Based on the analysis, here are the bounding boxes for the dogs:\n{boxes}\nSince there are 1 distinct "
            "bounding boxes and masks, we conclude there are 1 dogs.",
        ),
    ]
    entries = [
        {
            "id": str(UUID(int=number)),
            "image": image,
            "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}],
        }
        for number, (image, question, answer) in enumerate(samples)
    ]
    entries = entries + entries[:2] + entries[3:] * 2
    path.write_text(json.dumps(entries, indent=2))
    return entries


def test_annealing_data_is_read_in_file_order(tmp_path: Path) -> None:
    entries = make_annealing_file(tmp_path / "train_depth_annealing_data.json")
    records = list(read_records(tmp_path / "train_depth_annealing_data.json"))
    assert [record.id for record in records] == [entry["id"] for entry in entries]
    assert [record.turns[0].text for record in records] == [
        entry["conversations"][0]["value"].removeprefix("<image>\n") for entry in entries
    ]
    kinds = [(record.task, record.regime, record.answer) for record in records[:7]]
    assert kinds == [
        ("depth", "atomic", None),
        ("counting", "atomic", None),
        ("counting", "atomic", None),
        ("depth", "direct", "B"),
        ("depth", "cot", "B"),
        ("counting", "direct", "1"),
        ("counting", "cot", "1"),
    ]
    assert records[4].evidence.codes == tuple(range(100))
    assert records[6].evidence.boxes == ((1, 2, 30, 40),)
    assert records[1].evidence.boxes == ()


def test_invalid_outputs(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"files of records are .jsonl, .json \(LLaVA\) or .parquet"):
        write_records(tmp_path / "a.txt", [])
    with pytest.raises(RecordError, match="Parquet files have records"):
        write_records(tmp_path / "a.parquet", [], form="chat")
    with pytest.raises(RecordError, match="forms of records"):
        write_records(tmp_path / "a.jsonl", [], form="xml")  # type: ignore[arg-type]
    write_records(tmp_path / "a.jsonl", make_records(1))
    with pytest.raises(OutputError, match="exists already"):
        write_records(tmp_path / "a.jsonl", make_records(2))
    with pytest.raises(RecordError, match="text that is not valid Unicode"):
        write_records(tmp_path / "b.jsonl", [depth_record(images=("a\udce4.png",))])
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
