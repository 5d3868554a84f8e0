"""Values of other types and out of range, in every public reader of JSON: read, or an error of ours; never another one.

Seeded, so that failures are reproducible; PERCEPTOK_FUZZ multiplies the number of cases.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import perceptok as pt
from perceptok.boxes import ImageFrame
from perceptok.config import read_config
from perceptok.data import Evidence, Marker, PerceptionRecord, Turn, read_records
from perceptok.data.record_files import parse_chat_entry, parse_llava_entry
from perceptok.depth import read_depth_records
from perceptok.errors import PerceptokError
from perceptok.evaluation import load_benchmark, read_predictions
from perceptok.llava import find_questions
from tests.mutations import mutate_value

CASES = 250 * int(os.environ.get("PERCEPTOK_FUZZ", "1"))

RECORD = PerceptionRecord(
    "room/1",
    ("images/a.png",),
    (Turn("user", "Which point is closest to the camera?"), Turn("assistant", "(B)")),
    "depth",
    "direct",
    0.5,
    ImageFrame.squash((640, 480)),
    "B",
    ("A", "B"),
    Evidence(tuple(range(100)), "codec", (Marker("A", 10, 20, 0.5), Marker("B", 100.5, 20)), ((1, 2, 3, 4),), "dogs"),
    {"source": "x", "seed": 1},
)
COCO = {
    "info": {},
    "images": [{"id": 1, "file_name": "street.jpg", "width": 640, "height": 480, "neg_category_ids": [18]}],
    "annotations": [
        {"id": index, "image_id": 1, "category_id": 18, "bbox": [1.0, 2.0, 30.0, 40.0], "area": 5.0, "iscrowd": 0}
        for index in range(2)
    ],
    "categories": [{"id": 18, "name": "dog"}],
}
CVBENCH = {"idx": 1, "type": "2D", "task": "Count", "question": "How many organs?", "choices": ["3", "2", "1"],
           "answer": "(C)", "filename": "a.png", "source": "ADE20K"}  # fmt: skip
SEED = {"question_id": "101669", "question": "How many towels?", "question_type_id": 5, "answer": "A",
        "choice_a": "One", "choice_b": "Two", "data_id": "a.png"}  # fmt: skip
BLINK = {"idx": "val_Counting_1", "question": "How many?", "image_1": "a.png", "choices": ["0", "3"], "answer": "(B)"}
QUESTION = {"question_id": 0, "image": "0.png", "text": "Which is closest? (A) A (B) B (C) C", "category": "x"}
ANSWER = {"question_id": 0, "text": "(A)"}


def write(folder: Path, name: str, value: Any) -> Path:
    """A file of JSON, or of one JSON line; half surrogates as escapes, as JSON allows."""
    path = folder / name
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")
    return path


def read_cvbench(folder: Path, row: Any) -> object:
    return [item.image for item in load_benchmark("cvbench-count", write(folder, "rows.jsonl", row)).items]


def read_question_files(folder: Path, rows: Any) -> object:
    write(folder, "questions_3.jsonl", rows.get("question") if isinstance(rows, dict) else rows)
    write(folder, "answers_3.jsonl", rows.get("answer") if isinstance(rows, dict) else rows)
    return load_benchmark("hardblink-3", folder)


def read_parquet_rows(folder: Path, row: Any) -> object:
    try:
        pq.write_table(pa.Table.from_pylist([row]), folder / "rows.parquet")
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        return None  # not a row
    return list(read_records(folder / "rows.parquet"))


def read_predicted(folder: Path, row: Any) -> object:
    benchmark = load_benchmark("cvbench-count", write(folder, "rows.jsonl", CVBENCH))
    return pt.evaluation.evaluate(read_predictions(write(folder, "predictions.jsonl", row)), benchmark)


def read_config_of(kind: Any) -> Callable[[Path, Any], object]:
    return lambda folder, value: read_config(kind, write(folder, "config.json", value))


def parquet_row() -> dict[str, Any]:
    row = RECORD.to_dict()
    return row | {name: json.dumps(row[name]) for name in ("frame", "evidence", "provenance")}


def box_record() -> dict[str, Any]:
    text = io.StringIO(json.dumps(COCO))
    (image,) = pt.boxes.read_annotations(text).images
    return json.loads(pt.boxes.BoxRecord.from_boxes(image, pt.BoxCodec()).to_json())  # type: ignore[no-any-return]


def manifest() -> dict[str, Any]:
    vocab = pt.PerceptionVocabulary.from_tokenizer(_Tokenizer())
    return json.loads(vocab._manifest().to_json())  # type: ignore[no-any-return]


def alignment() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        pt.vocabulary.VocabularyAlignment.identity(4).save(Path(folder) / "a.json")
        return json.loads((Path(folder) / "a.json").read_text())  # type: ignore[no-any-return]


def depth_record() -> dict[str, Any]:
    return {
        "name": "a/0.png", "codes": list(range(100)), "kind": "metric", "near": 0.5, "far": 9.0, "width": 24,
        "height": 18, "codec": "fingerprint",
    }  # fmt: skip


READERS: dict[str, tuple[Any, Callable[[Path, Any], object]]] = {
    "PerceptionRecord.from_dict": (RECORD.to_dict(), lambda _, value: PerceptionRecord.from_dict(value)),
    "PerceptionRecord.from_json": (RECORD.to_dict(), lambda _, value: PerceptionRecord.from_json(json.dumps(value))),
    "parse_llava_entry": (RECORD.to_llava(), lambda _, value: parse_llava_entry(value)),
    "parse_llava_entry, foreign": (RECORD.to_llava(lossless=False), lambda _, value: parse_llava_entry(value)),
    "parse_chat_entry": (RECORD.to_chat(), lambda _, value: parse_chat_entry(value)),
    "read_records, JSON lines": (RECORD.to_dict(), lambda at, value: [*read_records(write(at, "r.jsonl", value))]),
    "read_records, LLaVA": ([RECORD.to_llava()], lambda at, value: [*read_records(write(at, "r.json", value))]),
    "read_records, chat": (RECORD.to_chat(), lambda at, value: [*read_records(write(at, "r.jsonl", value))]),
    "read_records, Parquet": (parquet_row(), read_parquet_rows),
    "ImageFrame.from_dict": (RECORD.frame.to_dict(), lambda _, value: ImageFrame.from_dict(value)),  # type: ignore[union-attr]
    "ImageFrame": (RECORD.frame.to_dict(), lambda _, value: isinstance(value, dict) and make_frame(value)),  # type: ignore[union-attr]
    "read_annotations": (COCO, lambda at, value: pt.boxes.read_annotations(write(at, "coco.json", value))),
    "read_annotations, lenient": (
        COCO,
        lambda at, value: pt.boxes.read_annotations(write(at, "coco.json", value), strict=False),
    ),
    "read_box_records": (
        box_record(),
        lambda _, value: raise_failures(pt.boxes.read_box_records([json.dumps(value)], "x")),
    ),
    "read_depth_records": (depth_record, lambda at, value: read_depth(write(at, "d.jsonl", value))),
    "load_benchmark, rows": (CVBENCH, read_cvbench),
    "load_benchmark, seed": (SEED, lambda at, value: load_benchmark("seed-count", write(at, "rows.jsonl", value))),
    "load_benchmark, blink": (BLINK, lambda at, value: load_benchmark("blink-count", write(at, "rows.jsonl", value))),
    "load_benchmark, question files": ({"question": QUESTION, "answer": ANSWER}, read_question_files),
    "load_benchmark, records": (
        RECORD.to_dict(),
        lambda at, value: load_benchmark("records", write(at, "records.jsonl", value)),
    ),
    "read_predictions": ({"question_id": 1, "text": "(A)", "read": "A"}, read_predicted),
    "find_questions": (
        {"image": "a.png", "question": "How many?", "name": "x", "choices": ["A"], "markers": {"A": [1, 2]}},
        lambda at, value: raise_failures(find_questions([write(at, "q.jsonl", value)], question="")[1]),
    ),
    "DataRecipe": (
        lambda: make_settings("data", "procedural"),
        lambda at, value: pt.data.DataRecipe.read(write(at, "recipe.json", value)),
    ),
    "FinetuneConfig": (
        lambda: {
            **make_settings("llava", "perceptok-depth"),
            "model_name_or_path": "a",
            "records": ["b"],
            "output_dir": "c",
        },
        lambda at, value: pt.llava.FinetuneConfig.read(write(at, "train.json", value)),
    ),
    "InferenceConfig": (
        lambda: pt.llava.InferenceConfig().to_dict(),
        lambda at, value: pt.llava.InferenceConfig.read(write(at, "infer.json", value)),
    ),
    "Manifest": (manifest, lambda at, value: read_manifest(at, value)),
    "VocabularyAlignment": (
        alignment,
        lambda at, value: pt.vocabulary.VocabularyAlignment.load(write(at, "a.json", value)),
    ),
}


def raise_failures(items: Iterable[Any]) -> None:
    """Raise the first failure that a reader of many lines returns."""
    for item in items:
        if hasattr(item, "reason"):
            raise PerceptokError(item.reason)


def read_depth(path: Path) -> None:
    failures: list[Any] = []
    for record in read_depth_records(path, failures):
        assert record.to_json()
    raise_failures(failures)


def make_frame(values: dict[str, Any]) -> object:
    known = {"mode", "image_size", "size", "resized"}
    return ImageFrame(**{key: values.get(key) for key in known})  # type: ignore[arg-type]


def read_manifest(folder: Path, value: Any) -> object:
    write(folder, "perception_tokens.json", value)
    return pt.vocabulary.PerceptionVocabulary.from_pretrained(folder, tokenizer=_Tokenizer())


class _Tokenizer:
    def get_vocab(self) -> dict[str, int]:
        return {token: index for index, token in enumerate((*pt.tokens.DEPTH.tokens, *pt.tokens.PIXEL.tokens))}

    def __len__(self) -> int:
        return len(self.get_vocab())


def make_settings(package: str, preset: str) -> dict[str, Any]:
    from perceptok.config import find_config_file, read_mapping

    return read_mapping(find_config_file(preset, package))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_changed_value_is_read_or_refused(name: str, tmp_path: Path) -> None:
    original, read = READERS[name]
    original = original() if callable(original) else original
    read(tmp_path, original)  # the original is valid
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    rng = np.random.default_rng(sum(name.encode()))
    messages = []
    for case in range(CASES):
        value = mutate_value(original, rng)
        if rng.random() < 0.3:
            value = mutate_value(value, rng)
        try:
            read(tmp_path, value)
        except PerceptokError as error:
            messages.append(str(error))
        except Exception as error:
            error.add_note(f"case {case}: {value!r:.2000}")
            raise
    assert len(messages) > CASES // 20
    assert all(message.strip() and message.encode() for message in messages)  # half surrogates cannot be printed
