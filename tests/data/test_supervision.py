"""Answers that a model must not be taught: malformed blocks and boxes, and what contradicts the evidence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perceptok.data import (
    Evidence,
    Marker,
    PerceptionRecord,
    Turn,
    check_records,
    find_supervision_problems,
    read_records,
    write_records,
)
from perceptok.errors import EvaluationError, RecordError
from perceptok.evaluation import load_benchmark

CODES = tuple(range(100))
BLOCK = "<DEPTH_START>" + "".join(f"<DEPTH_{code}>" for code in CODES) + "<DEPTH_END>"
BOXES = ((1, 2, 3, 4), (5, 6, 7, 8))
LISTED = (
    "Here are the bounding boxes for the cars:\nBounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)\n"
    "Bounding box 2: (<PIXEL_5>,<PIXEL_6>,<PIXEL_7>,<PIXEL_8>)"
)


def depth(text: str, **more: Any) -> PerceptionRecord:
    turns = (Turn("user", "What is the depth map?"), Turn("assistant", text))
    return PerceptionRecord(
        "d", ("a.png",), turns, "depth", **{"regime": "atomic", "evidence": Evidence(CODES, "codec"), **more}
    )


def counting(text: str, **more: Any) -> PerceptionRecord:
    turns = (Turn("user", "Return the bounding boxes of cars."), Turn("assistant", text))
    return PerceptionRecord(
        "c", ("a.png",), turns, "counting", **{"regime": "atomic", "evidence": Evidence(boxes=BOXES), **more}
    )


MARKERS = (Marker("A", 10, 20, 0.9), Marker("B", 100.5, 200, 0.1))
POINTS = "Point A is located at (x = 10 y = 20),Point B is located at (x = 100 y = 200)."
CLOSER = "the answer is that point A is closer to the camera."


def points(text: str = f"{POINTS}{BLOCK} {CLOSER}", **more: Any) -> PerceptionRecord:
    evidence = Evidence(CODES, "codec", MARKERS)
    turns = (Turn("user", "Which point is the closest?"), Turn("assistant", text))
    settings = {"regime": "cot", "answer": "A", "choices": ("A", "B"), "evidence": evidence, **more}
    return replace(depth(text, **settings), turns=turns)


VALID = {
    "points": points(),
    "the farthest point": replace(
        points("(B)", regime="direct", answer="B"), turns=(Turn("user", "Which is farthest?"), Turn("assistant", "(B)"))
    ),
    "a letter alone": points("A.", regime="direct"),
    "no cars": counting(
        "There are no cars in the image. We conclude there are 0 cars.",
        regime="cot",
        answer="0",
        evidence=Evidence(boxes=(), plural="cars"),
    ),
    "a block": depth(f"The depth map for the image is {BLOCK}."),
    "spaces between tokens": depth(BLOCK.replace("><", "> <")),
    "a block without evidence": depth(BLOCK, evidence=Evidence()),
    "a block in numerals": depth(" ".join(map(str, CODES))),
    "direct with evidence": depth("(B)", regime="direct", answer="B", choices=("A", "B")),
    "two blocks": replace(
        depth(BLOCK), turns=(*depth(BLOCK).turns, Turn("user", "And without?"), Turn("assistant", BLOCK))
    ),
    "tokens in a question": replace(
        depth(BLOCK), turns=(Turn("user", "<DEPTH_5> (<PIXEL_3>)?"), depth(BLOCK).turns[1])
    ),
    "boxes": counting(LISTED),
    "compact boxes": counting("".join(f"<PIXEL_{code}>" for box in BOXES for code in box)),
    "boxes in numerals": counting("(1,2,3,4) (5,6,7,8)"),
    "none": counting("There are no cars in the image.", evidence=Evidence(boxes=())),
    "a count": counting(f"{LISTED} we conclude there are 2 cars.", regime="cot", answer="2"),
    "cot without its block": depth("The answer is B.", regime="cot"),
    "cot without its boxes": counting("2", regime="cot", answer="2"),
    "a test record": replace(depth(BLOCK), turns=(Turn("user", "What?"),)),
}
INVALID = {
    "99 codes": (depth(BLOCK.replace("<DEPTH_99>", "")), "turns.1.text: the block at character 0: .* after 99 of 100"),
    "101 codes": (depth(BLOCK.replace("<DEPTH_5>", "<DEPTH_5><DEPTH_5>")), "expected <DEPTH_END> .* after 100 of 100"),
    "unclosed": (depth(f"It is {BLOCK.removesuffix('<DEPTH_END>')}."), "the block at character 6: .*<DEPTH_END>"),
    "unopened": (depth(BLOCK.removeprefix("<DEPTH_START>")), "101 depth tokens outside a block at character 0"),
    "a start in a block": (depth(BLOCK.replace("<DEPTH_50>", "<DEPTH_START>")), "after 50 of 100"),
    "a word in a block": (depth(BLOCK.replace("<DEPTH_50>", "fifty")), "found 'fifty'"),
    "a code that does not exist": (depth(BLOCK.replace("<DEPTH_50>", "<DEPTH_128>")), r"found '<DEPTH_128>' \(codes"),
    "another spelling": (depth(BLOCK.replace("<DEPTH_5>", "<DEPTH_05>")), "found '<DEPTH_05>'"),
    "a stray code": (depth(f"{BLOCK} <DEPTH_3>"), "1 depth token outside a block at character"),
    "a stray code without evidence": (depth("It is <DEPTH_3>.", evidence=Evidence()), "1 depth token outside a block"),
    "a stray end": (depth(f"{BLOCK}<DEPTH_END>"), "1 depth token outside a block"),
    "other codes": (depth(BLOCK.replace("<DEPTH_7>", "<DEPTH_8>")), "evidence.codes: 1 of 100 codes differ"),
    "no block": (depth("It is far."), "evidence.codes: the answer has no depth block"),
    "another letter": (
        depth("(A)", regime="direct", answer="B", choices=("A", "B")), "answer: the text says 'A', the record 'B'"
    ),
    "three coordinates": (counting(LISTED.replace(",<PIXEL_8>", "")), "turns.1.text: malformed box at character .*3"),
    "five coordinates": (counting(LISTED.replace("<PIXEL_8>", "<PIXEL_8>,<PIXEL_9>")), "malformed box .* 5"),
    "x2 before x1": (counting(LISTED.replace("<PIXEL_1>,", "<PIXEL_4>,")), "malformed box .*x1"),
    "an unclosed box": (counting(LISTED.removesuffix(")")), "malformed box"),
    "a stray coordinate": (counting(f"{LISTED} <PIXEL_9>"), "malformed box"),
    "a coordinate that does not exist": (counting(LISTED.replace("<PIXEL_8>", "<PIXEL_336>")), "malformed box"),
    "stray in a depth answer": (depth(f"{BLOCK} <PIXEL_9>"), "malformed box"),
    "other boxes": (counting(LISTED.replace("<PIXEL_8>", "<PIXEL_9>")), "evidence.boxes: the answer's boxes differ"),
    "a box less": (counting(LISTED.partition("\nBounding box 2")[0]), "1 in the text, 2 in the evidence"),
    "another order": (counting(LISTED, evidence=Evidence(boxes=BOXES[::-1])), "boxes are in another order"),
    "boxes of none": (counting(LISTED, evidence=Evidence(boxes=())), "2 in the text, 0 in the evidence"),
    "another count": (
        counting(f"{LISTED} we conclude there are 3 cars.", regime="cot", answer="3"), "the text counts 3, .* has 2"
    ),
    "another place": (points(f"{POINTS.replace('x = 10 ', 'x = 11 ')}{BLOCK}"), r"1.text: point A is at \(11, 20\)"),
    "another point": (points(f"{POINTS.replace('Point B', 'Point C')}{BLOCK}"), "point C is not a marker"),
    "99 numerals": (depth(" ".join(map(str, CODES[1:])), regime="cot"), "99 numerals in place of 100"),
    "other numerals": (depth(" ".join(map(str, CODES[::-1])), regime="cot"), "100 of 100 codes differ"),
    "a letter without brackets": (points("B", regime="direct"), "answer: the text says 'B', the record 'A'"),
    "a letter that is not a choice": (points("(C)", regime="direct", answer=None), "choices: the text says 'C'"),
    "a choice without a marker": (points(choices=("A", "C")), "choices: 'C' is not a marker"),
    "not the nearest": (
        points(CLOSER.replace("point A", "point B"), answer="B"), "answer: it is 'B', by the levels .* 'A' is nearest"
    ),
    "not the nearest, without a text": (
        replace(points(answer="B"), turns=(Turn("user", "Which is the nearest?"),)), "by the levels .* 'A' is nearest"
    ),
    "a count of other boxes": (counting("3", regime="direct", answer="3"), "the text counts 3, the evidence has 2"),
    "none of two": (
        counting("There are no cars in the image. We conclude there are 0 cars.", regime="cot"), "counts 0, .* has 2"
    ),
    "a count without a text": (
        replace(counting(LISTED, answer="3"), turns=(Turn("user", "How many?"),)), "answer: it is '3', .* has 2 boxes"
    ),
    "another category": (
        counting(LISTED.replace("cars", "dogs"), evidence=Evidence(boxes=BOXES, plural="cars")), "'dogs', .* 'cars'"
    ),
    "another answer": (
        counting(f"{LISTED} we conclude there are 2 cars.", regime="cot", answer="3"), "says '2', the record '3'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_valid(name: str) -> None:
    assert find_supervision_problems(VALID[name]) == []


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str) -> None:
    record, message = INVALID[name]
    problems = find_supervision_problems(record)
    assert len(problems) == (2 if name == "a start in a block" else 1), problems
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problems[0])


def test_a_file_is_checked_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records = [replace(record, id=name) for name, record in VALID.items()]
    records += [replace(record, id=f"bad {name}") for name, (record, _) in INVALID.items()]
    write_records(path, records)
    found = list(check_records(path, images=False))
    problems = list({problem.name: problem for problem in reversed(found)}.values())[::-1]
    assert len(problems) == len(INVALID)
    for problem, (number, name) in zip(problems, enumerate(INVALID, len(VALID) + 1), strict=True):
        assert problem.name.endswith(f"line {number}")
        assert problem.reason.startswith(f"record 'bad {name}': ")


@pytest.mark.parametrize("name", ["99 codes", "three coordinates", "another place", "not the nearest, without a text"])
def test_readers_that_train_or_measure_refuse_it_by_file_and_record(name: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    record, message = INVALID[name]
    write_records(path, [replace(VALID["points"], id="good"), record])
    with pytest.raises(RecordError, match=rf"records\.jsonl, record '{record.id}': .*{message}"):
        list(read_records(path, check_supervision=True))
    with pytest.raises(EvaluationError, match=rf"records\.jsonl, record '{record.id}': .*{message}"):
        load_benchmark("records", path)
    assert len(list(read_records(path))) == 2


def test_an_id_that_occurs_twice(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [VALID["points"], VALID["points"]])
    with pytest.raises(RecordError, match="record 'd': the id occurs twice"):
        list(read_records(path, check_supervision=True))
    entries = [{**VALID["a block"].to_llava(lossless=False), "id": 7}] * 2  # as AURORA's files repeat their passes
    (tmp_path / "aurora.json").write_text(json.dumps(entries))
    assert len(list(read_records(tmp_path / "aurora.json", check_supervision=True))) == 2
