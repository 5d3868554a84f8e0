"""Pipes and devices where records, images, benchmarks and vocabularies are read: an error at once, never waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import perceptok as pt
from perceptok.data import read_records
from perceptok.errors import EvaluationError, ImageError, RecordError, VocabularyError
from perceptok.evaluation import load_benchmark
from perceptok.images import open_image, read_image_size


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.fixture(params=[os.mkfifo, link_to_zeros], ids=["pipe", "device"])
def make(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    made: Callable[[Path], None] = request.param
    return made


def test_images(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.png")
    for read in (open_image, read_image_size):
        with pytest.raises(ImageError, match=r"cannot be read \(is a (pipe|device), not a regular file\)"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_records(tmp_path: Path, suffix: str) -> None:
    link_to_zeros(tmp_path / f"a{suffix}")
    with pytest.raises(RecordError, match="is a device"):
        list(read_records(tmp_path / f"a{suffix}"))


def test_images_of_benchmarks(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "images" / "3").mkdir(parents=True)
    make(tmp_path / "images" / "3" / "0.png")
    question = '{"question_id": 0, "image": "0.png", "text": "Which is closest? (A) A (B) B (C) C", "category": "x"}'
    (tmp_path / "questions_3.jsonl").write_text(question + "\n")
    (tmp_path / "answers_3.jsonl").write_text('{"question_id": 0, "text": "(A)"}\n')
    (item,) = load_benchmark("hardblink-3", tmp_path).items
    with pytest.raises((EvaluationError, ImageError), match=r"is a (pipe|device)"):
        item.open_image()
    with pytest.raises(EvaluationError, match=r"is a (pipe|device)"):
        item.image_bytes()


def test_vocabularies(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "perception_tokens.json")
    with pytest.raises(VocabularyError, match=r"perception_tokens\.json"):
        pt.PerceptionVocabulary.from_pretrained(tmp_path)
