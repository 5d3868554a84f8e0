"""Every way to give questions, and malformed lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import perceptok as pt
from perceptok.data import Evidence, Marker, PerceptionRecord, Turn
from perceptok.errors import ImageError, InferenceError
from perceptok.llava import find_questions
from tests.llava.answering import make_image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "deep/a.png"):
        make_image(4, 3).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def lines(path: Path, *values: object) -> Path:
    path.write_text("".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values))
    return path


def test_folders_and_files(images: Path) -> None:
    questions, failures = find_questions([images, images / "b.png"], question="Why?", choices=("A", "B"))
    assert [question.name for question in questions] == ["a.JPG", "b.png", "deep/a.png", "b-2.png"]
    assert {question.question for question in questions} == {"Why?"}
    assert questions[0].choices == ("A", "B")
    assert failures == []


def test_lines(images: Path) -> None:
    path = lines(
        images / "questions.jsonl",
        {"image": "b.png"},
        {"image": "b.png", "question": "How many?", "id": 7, "choices": ["1", "2"]},
        "",
        {"image": "deep/a.png", "name": "x/y.png", "markers": {"A": [1, 2.5]}},
        {"image": "b.png"},
    )
    questions, failures = find_questions([path], question="Why?")
    assert failures == []
    assert [question.name for question in questions] == ["b.png", "7", "x/y.png", "b-2.png"]
    assert [question.question for question in questions] == ["Why?", "How many?", "Why?", "Why?"]
    assert questions[0].images == (images / "b.png",)
    assert questions[1].choices == ("1", "2")
    assert questions[2].markers == {"A": (1.0, 2.5)}


def test_records(images: Path) -> None:
    record = PerceptionRecord(
        "r1",
        ("b.png",),
        (Turn("user", "Which point?"), Turn("assistant", "(A)")),
        "depth",
        "direct",
        frame=pt.ImageFrame.squash((4, 3)),
        choices=("A", "B"),
        evidence=Evidence(markers=(Marker("A", 168.0, 112.0), Marker("B", 0.0, 0.0))),
    )
    twice = replace(record, id="r2", images=("b.png", "b.png"))
    lost = replace(record, id="r3", frame=None)
    blind = replace(record, id="r4", images=())
    more = (*record.turns, Turn("user", "And which is farthest?"), Turn("assistant", "(B)"))
    longer = replace(record, id="r5", turns=more, tokens="text")
    given = (record, twice, lost, blind, longer)
    path = lines(images / "records.jsonl", *(item.to_json() for item in given))
    questions, failures = find_questions([path])
    assert [question.name for question in questions] == ["r1", "r2", "r5"]
    assert questions[1].images == (images / "b.png", images / "b.png")
    assert questions[2].question == "And which is farthest?"
    assert questions[2].history == record.turns
    assert [question.tokens for question in questions] == ["meant", "meant", "text"]
    assert questions[0].question == "Which point?"
    assert questions[0].choices == ("A", "B")
    assert questions[0].markers == {"A": (2.0, 1.0), "B": (0.0, 0.0)}
    assert len(failures) == 2
    assert "no frame" in failures[0].reason
    assert "has no image" in failures[1].reason


def test_standard_input(images: Path) -> None:
    questions, _ = find_questions(["-"], question="Why?", lines=[json.dumps({"image": str(images / "b.png")})])
    assert questions[0].images == (images / "b.png",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object with an image"),
        ('{"image": ["a.png", "b.png"]}', "two images as two lines"),
        ('{"image": ""}', "expected an object with an image"),
        ('{"image": "a.png", "qestion": "?"}', "unknown keys qestion"),
        ('{"image": "a.png", "question": 5}', "has no question"),
        ('{"image": "a.png", "choices": "AB"}', "choices a list of strings"),
        ('{"image": "a.png", "markers": {"A": [1]}}', "markers map letters to points"),
        ('{"image": "a.png", "markers": {"A": [true, 1]}}', "markers map letters to points"),
        ('{"image": "a.png", "markers": {"A": [NaN, 1]}}', "markers map letters to points"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_line_costs_only_itself(images: Path, line: str, reason: str) -> None:
    path = lines(images / "questions.jsonl", {"image": "b.png"}, line, {"image": "deep/a.png"})
    questions, failures = find_questions([path], question="Why?")
    assert [question.name for question in questions] == ["b.png", "deep/a.png"]
    assert len(failures) == 1
    assert failures[0].name == f"{path}, line 2"
    assert reason in failures[0].reason


def test_refusals(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="no such file or folder; name an image"):
        find_questions([tmp_path / "none"], question="Why?")
    with pytest.raises(InferenceError, match="no question about this input"):
        find_questions([images])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images found"):
        find_questions([tmp_path / "empty"], question="Why?")
