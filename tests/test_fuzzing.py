"""Mutated files for every reader: the correct result or a clear `PerceptokError`, within a limit of time.

Seeded, so that failures are reproducible; PERCEPTOK_FUZZ multiplies the number of cases.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceptok as pt
from perceptok.boxes import read_box_records
from perceptok.boxes.text import boxes_from_text
from perceptok.data import read_records as read_training_records
from perceptok.depth import DepthRecord, read_depth_records
from perceptok.depth.depth_records import write_depth_records
from perceptok.errors import PerceptokError
from tests.mutations import limit_call, mutate_bytes

FACTOR = int(os.environ.get("PERCEPTOK_FUZZ", "1"))
CASES = 120 * FACTOR

Reader = Callable[[Path], object]


def depth_map_files(folder: Path) -> dict[Path, Reader]:
    values = np.linspace(0.5, 9, 24 * 18, dtype=np.float32).reshape(18, 24)
    depth = pt.DepthMap.from_array(values, kind="metric", unit="m")
    readers: dict[Path, Reader] = {}
    for suffix in (".png", ".npy", ".npz", ".pfm", ".tiff", ".exr"):
        path = folder / f"map{suffix}"
        depth.write(path)
        readers[path] = _read_map
    return readers


def _read_map(path: Path) -> object:
    unit = "mm" if path.suffix == ".png" else "m"
    kind: Any = None if path.suffix == ".npz" else "metric"
    return pt.DepthMap.read(path, kind=kind, unit=None if path.suffix == ".npz" else unit).to_nearness()  # type: ignore[arg-type]


def depth_record_files(folder: Path) -> dict[Path, Reader]:
    records = [
        DepthRecord(f"a/{index}.png", tuple(range(100)), "metric", 0.5, 9.0, 24, 18, "fingerprint")
        for index in range(3)
    ]
    readers: dict[Path, Reader] = {}
    for suffix in (".jsonl", ".npz", ".parquet"):
        path = folder / f"records{suffix}"
        buffer = io.BytesIO()
        write_depth_records(buffer, suffix, records)
        path.write_bytes(buffer.getvalue())
        readers[path] = lambda path: [record.grid for record in read_depth_records(path, [])]
    return readers


def text_files(folder: Path) -> dict[Path, Reader]:
    boxes = [[12.0, 30.0, 198.0, 430.0], [300.0, 100.0, 120.0, 230.0]]
    coco = {
        "images": [{"id": 1, "file_name": "street.jpg", "width": 640, "height": 480}],
        "annotations": [
            {"id": index, "image_id": 1, "category_id": 18, "bbox": box, "area": 5.0, "iscrowd": 0}
            for index, box in enumerate(boxes)
        ],
        "categories": [{"id": 18, "name": "dog"}],
    }
    _write(folder / "coco.json", json.dumps(coco))
    read = pt.boxes.read_annotations(str(folder / "coco.json"))
    records = [pt.boxes.BoxRecord.from_boxes(image, pt.BoxCodec()) for image in read.images]
    _write(folder / "boxes.jsonl", "\n".join(record.to_json() for record in records) + "\n")
    text = "Here: (<PIXEL_1>,<PIXEL_2>,<PIXEL_30>,<PIXEL_40>)(<PIXEL_5>,<PIXEL_6>,<PIXEL_7>,<PIXEL_8>)."
    _write(folder / "boxes.txt", text[6:-1])
    _write(folder / "answer.txt", text)
    _write(folder / "block.txt", pt.DepthCodec.from_pretrained().to_text(np.arange(100).reshape(10, 10)))
    pt.vocabulary.VocabularyAlignment.identity(16).save(folder / "alignment.json")
    turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "2"}]
    _write(folder / "llava.json", json.dumps([{"id": "1", "image": "a.jpg", "conversations": turns}]))
    codec = pt.DepthCodec.from_pretrained()
    return {
        folder / "coco.json": lambda path: pt.boxes.read_annotations(str(path), strict=False).images,
        folder / "boxes.jsonl": lambda path: list(read_box_records(_lines(path), str(path))),
        folder / "boxes.txt": lambda path: boxes_from_text(_text(path)),
        folder / "answer.txt": lambda path: pt.boxes.parse_boxes(_text(path)),
        folder / "block.txt": lambda path: codec.from_text(_text(path)),
        folder / "alignment.json": pt.vocabulary.VocabularyAlignment.load,
        folder / "llava.json": lambda path: list(read_training_records(path)),
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Reader]]:
    folder = tmp_path_factory.mktemp("fuzzing")
    files = {**depth_map_files(folder), **depth_record_files(folder), **text_files(folder)}
    return {path.name: (path, reader) for path, reader in files.items()}


NAMES = [
    *(f"map{suffix}" for suffix in (".png", ".npy", ".npz", ".pfm", ".tiff", ".exr")),
    *(f"records{suffix}" for suffix in (".jsonl", ".npz", ".parquet")),
    *("coco.json", "boxes.jsonl", "boxes.txt", "answer.txt", "block.txt", "alignment.json", "llava.json"),
]


@pytest.mark.filterwarnings("ignore")  # of decoders in other libraries
@pytest.mark.parametrize("name", NAMES)
def test_a_mutated_file_is_read_or_refused(
    name: str, readers: dict[str, tuple[Path, Reader]], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    source, reader = readers[name]
    reader(source)  # the original is valid
    data, rng = source.read_bytes(), np.random.default_rng(sum(name.encode()))
    path = tmp_path / name
    refused = without_message = 0
    for _ in range(CASES):
        path.write_bytes(mutate_bytes(data, rng))
        try:
            with limit_call():
                reader(path)
        except PerceptokError as error:
            refused += bool(str(error))
            without_message += not str(error)
    record_property("refused", refused)
    assert not without_message
    assert 0 < refused <= CASES or name in ("answer.txt", "boxes.jsonl", "coco.json", "records.jsonl")
