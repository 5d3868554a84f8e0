"""Records: validation, formats, and messages that name file, record and field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from perceptok.boxes import ImageFrame
from perceptok.boxes.text import box_answer_to_text
from perceptok.data import Evidence, Marker, PerceptionRecord, Turn, write_records
from perceptok.data.record_files import parse_chat_entry, parse_llava_entry
from perceptok.depth import block_to_text
from perceptok.errors import RecordError

FRAME = ImageFrame.squash((640, 480))
CODES = tuple(range(100))


def depth_record(**changes: Any) -> PerceptionRecord:
    record = PerceptionRecord(
        id="depth-cot-0",
        images=("images/küche 1.png",),
        turns=(Turn("user", "Which point is closest?"), Turn("assistant", "The answer is B.")),
        task="depth",
        regime="cot",
        difficulty=2.0,
        frame=FRAME,
        answer="B",
        choices=("A", "B"),
        evidence=Evidence(CODES, "abc", (Marker("A", 10, 20, 0.25), Marker("B", 300.5, 335, 0.75))),
        provenance={"source": "x.jpg", "seed": 3, "nested": {"a": [1, None, True]}},
    )
    return replace(record, **changes)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: "<image>" not in text)
boxes = st.tuples(*[st.integers(0, 335)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
records = st.builds(
    PerceptionRecord,
    id=texts.filter(str.strip),
    images=st.lists(st.from_regex(r"\A[a-zä ]{1,5}/[0-9]+\.png\Z"), max_size=2).map(tuple),
    turns=st.lists(texts, min_size=1, max_size=4).map(
        lambda texts: tuple(Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(texts))
    ),
    task=st.sampled_from(["depth", "counting"]),
    regime=st.sampled_from(["atomic", "cot", "direct"]),
    difficulty=st.floats(0, 1e6),
    frame=st.sampled_from([None, FRAME, ImageFrame.letterbox((100, 50))]),
    answer=st.none() | texts,
    evidence=st.builds(
        Evidence,
        codes=st.none() | st.lists(st.integers(0, 127), min_size=100, max_size=100).map(tuple),
        boxes=st.none() | st.lists(boxes, max_size=3).map(tuple),
        plural=st.none() | texts,
    ),
    provenance=st.dictionaries(texts, st.none() | st.integers() | texts),
)


@given(records)
def test_json_round_trip(record: PerceptionRecord) -> None:
    line = record.to_json()
    parsed = PerceptionRecord.from_json(line)
    assert parsed == record
    assert parsed.to_json() == line


@given(records)
def test_llava_and_chat_round_trip(record: PerceptionRecord) -> None:
    assert parse_llava_entry(json.loads(json.dumps(record.to_llava()))) == record
    assert parse_chat_entry(json.loads(json.dumps(record.to_chat()))) == record


def test_llava_format() -> None:
    assert depth_record().to_llava(lossless=False) == {
        "id": "depth-cot-0",
        "image": "images/küche 1.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhich point is closest?"},
            {"from": "gpt", "value": "The answer is B."},
        ],
    }


def test_messages_for_processors() -> None:
    assert depth_record().to_messages("set") == [
        {
            "role": "user",
            "content": [
                {"type": "image", "path": str(Path.cwd() / "set/images/küche 1.png")},
                {"type": "text", "text": "Which point is closest?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "The answer is B."}]},
    ]


BLOCK = block_to_text(np.arange(100).reshape(10, 10))
BOXES = ((1, 2, 30, 40), (5, 6, 335, 335))


@pytest.mark.parametrize(
    ("answer", "task", "regime", "value", "evidence"),
    [
        (BLOCK, "depth", "atomic", None, Evidence(CODES)),
        (f"The depth map for the image is {BLOCK}.", "depth", "atomic", None, Evidence(CODES)),
        (
            f"Point A is located at (x = 73 y = 188).The depth map for the image is {BLOCK}. Since point B has a "
            "higher pixel value on the depth map, the answer is that point B is closer to the camera.",
            "depth",
            "cot",
            "B",
            Evidence(CODES),
        ),
        ("(C)", "depth", "direct", "C", Evidence()),
        ("12", "counting", "direct", "12", Evidence()),
        (box_answer_to_text(BOXES, "dogs"), "counting", "atomic", None, Evidence(boxes=BOXES, plural="dogs")),
        ("There are no dogs in the image.", "counting", "atomic", None, Evidence(boxes=(), plural="dogs")),
        (
            "There are no dogs in the image. We conclude there are 0 dogs.",
            "counting",
            "cot",
            "0",
            Evidence(boxes=(), plural="dogs"),
        ),
        (
            "Based on the analysis, here are the bounding boxes for the dogs:\n"
            "Bounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_30>,<PIXEL_40>)\n"
            "Since there are 1 distinct bounding boxes and masks, we conclude there are 1 dogs.",
            "counting",
            "cot",
            "1",
            Evidence(boxes=BOXES[:1], plural="dogs"),
        ),
    ],
)
def test_released_samples(answer: str, task: str, regime: str, value: str | None, evidence: Evidence) -> None:
    entry = {
        "id": 7,
        "image": "a/1.jpg",
        "conversations": [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": answer}],
    }
    record = parse_llava_entry(entry)
    assert (record.id, record.task, record.regime, record.answer) == ("7", task, regime, value)
    assert record.evidence == evidence
    assert record.turns[0].text == "Q?"


def entry_with(**changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "(A)"}]
    return {"id": "x", "image": "a.jpg", "conversations": turns, **changes}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "expected an object with `conversations`"),
        (entry_with(conversations=[{"from": "robot", "value": ""}]), r"conversations\.0\.from: expected one of"),
        (entry_with(conversations=[{"from": "human"}]), r"conversations\.0: expected an object with `from`"),
        (entry_with(image=["a.jpg", "b.jpg"]), "once for each of 2 images"),
        (entry_with(image="../a.jpg"), "images: expected a path relative"),
        (entry_with(conversations=[{"from": "human", "value": "<image>\nQ?"}]), "ends with an answer"),
        (
            entry_with(conversations=[entry_with()["conversations"][0], {"from": "gpt", "value": "Blue."}]),
            "none of AURORA's forms; pass task= and regime=",
        ),
        (
            entry_with(
                conversations=[entry_with()["conversations"][0], {"from": "gpt", "value": "<DEPTH_START><DEPTH_END>"}]
            ),
            "the answer's depth block",
        ),
    ],
)
def test_invalid_entries(entry: object, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_llava_entry(entry, "f.json, item 3")


def test_task_and_regime_can_be_given() -> None:
    turns = [{"from": "human", "value": "Q?\n<image>"}, {"from": "gpt", "value": "Blue."}]
    record = parse_llava_entry(entry_with(conversations=turns), task="depth", regime="direct")
    assert (record.task, record.regime, record.turns[0].text) == ("depth", "direct", "Q?")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": " "}, "id: expected text"),
        ({"images": ["/a.png"]}, "images: expected a path relative"),
        ({"images": ["a/../../b.png"]}, "images: expected a path relative"),
        ({"images": [r"a\b.png"]}, "images: expected a path relative"),
        ({"images": [3]}, r"images\.0: expected a valid string; got 3"),
        ({"images": "a.png"}, "images: expected a valid array; got 'a.png'"),
        ({"turns": []}, "turns: expected one turn or more"),
        ({"turns": [{"role": "assistant", "text": "x"}]}, r"turns\.0\.role: expected 'user'"),
        ({"turns": [{"role": "user", "text": "a <image> b"}]}, r"turns\.0\.text: expected text without <image>"),
        ({"turns": [{"role": "user", "txt": "a"}]}, r"unknown key 'turns\.0\.txt'; known keys are role, text"),
        ({"turns": [{"role": "user", "text": None}]}, r"turns\.0\.text: expected a valid string; got None"),
        ({"task": "segmentation"}, "task: expected 'depth', 'counting' or 'other'"),
        ({"regime": "few-shot"}, "regime: expected 'atomic', 'cot', 'direct', 'reading' or 'instruction'"),
        ({"difficulty": -1}, "difficulty: expected a finite number >= 0; got -1"),
        ({"difficulty": True}, r"difficulty\.float: expected a valid number; got True"),
        ({"answer": 3}, "answer: expected a valid string; got 3"),
        ({"answer": "C"}, "answer: expected one of"),
        ({"choices": ["B", "B"]}, "choices: expected different answers"),
        ({"frame": {"mode": "squash"}}, "frame: an image frame has the keys"),
        ({"evidence": {"codes": [1, 2]}}, "evidence.codes: expected 100 codes; got 2"),
        ({"evidence": {"codes": [*range(99), 128]}}, r"evidence.codes: expected integers 0..127; got 128"),
        ({"evidence": {"codes": [*range(99), True]}}, r"evidence\.codes\.99: expected a valid integer; got True"),
        ({"evidence": {"markers": [{"letter": "A", "x": 337, "y": 0}]}}, r"evidence\.markers\.0\.x: expected frame"),
        (
            {"evidence": {"markers": [{"letter": "A", "x": None, "y": 0}]}},
            r"evidence\.markers\.0\.x\.float: expected a valid number",
        ),
        (
            {"evidence": {"markers": [{"letter": "A", "x": 1, "y": 0}, {"letter": "A", "x": 2, "y": 0}]}},
            "evidence.markers: expected different letters",
        ),
        (
            {"evidence": {"markers": [{"letter": "A", "x": 1, "y": 0, "level": 2}]}},
            r"evidence\.markers\.0\.level: expected 0..1",
        ),
        ({"evidence": {"boxes": [[1, 2, 3]]}}, r"evidence\.boxes\.0\.3: missing"),
        ({"evidence": {"boxes": [[5, 2, 3, 4]]}}, r"evidence\.boxes\.0: expected x1 <= x2"),
        ({"evidence": {"plural": 3}}, "evidence.plural: expected a valid string; got 3"),
        ({"evidence": {"mask": 3}}, "unknown key 'evidence.mask'; known keys are codes, codec"),
        ({"evidence": {"boxes": [[1, 2, 3, 336]]}}, r"evidence\.boxes\.0: expected four integers 0..335"),
        ({"evidence": {"codes": [*range(99), 1.0]}}, r"evidence\.codes\.99: expected a valid integer; got 1.0"),
        ({"difficulty": 10**400}, "difficulty: expected a finite number >= 0"),
        ({"difficulty": float("nan")}, r"difficulty\.float: expected a finite number"),
        ({"provenance": []}, "provenance: expected an object"),
        ({"colour": 1}, "unknown key 'colour'; known keys are id, images"),
    ],
)
def test_errors_name_the_invalid_field(change: dict[str, Any], message: str) -> None:
    values = {**depth_record().to_dict(), **change}
    with pytest.raises(RecordError, match=rf"^set\.jsonl, line 4(, record .*)?: .*{message}"):
        PerceptionRecord.from_json(json.dumps(values), "set.jsonl, line 4")


def test_errors_name_the_missing_field() -> None:
    with pytest.raises(RecordError, match="line 1, record 'x': turns: missing"):
        PerceptionRecord.from_json('{"id": "x", "images": []}', "line 1")
    with pytest.raises(RecordError, match="line 2: not valid JSON"):
        PerceptionRecord.from_json('{"id": "x"', "line 2")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_rows_of_datasets(form: str, tmp_path: Path) -> None:
    """Rows that `datasets` reads are records again: what it fills in with None counts as missing."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    depth = depth_record()
    other = replace(
        depth,
        id="counting-1",
        images=("a.jpg", "b.jpg"),
        task="counting",
        answer="2",
        choices=(),
        evidence=Evidence(boxes=BOXES, plural="cars"),
        provenance={"annotations": "lvis", "seed": 3},
    )
    bare = PerceptionRecord("bare", (), (Turn("user", "How many?"),), "counting", "direct")
    path = tmp_path / f"records.{form}"
    write_records(path, [depth, other, bare])
    rows = datasets.Dataset.from_json if form == "jsonl" else datasets.Dataset.from_parquet
    loaded = list(rows(str(path), cache_dir=str(tmp_path / "cache")))
    assert [PerceptionRecord.from_dict(row) for row in loaded] == [depth, other, bare]


def test_rows_that_are_not_records() -> None:
    row = depth_record().to_dict()
    with pytest.raises(RecordError, match=r"row 3, record 'depth-cot-0': turns: missing"):
        PerceptionRecord.from_dict({**row, "turns": None}, "row 3")
    with pytest.raises(RecordError, match=r"row 3: evidence: not valid JSON"):
        PerceptionRecord.from_dict({**row, "evidence": "{codes"}, "row 3")
    with pytest.raises(RecordError, match=r"unknown key 'mask'"):
        PerceptionRecord.from_dict({**row, "mask": 3})


def test_rows_for_trl_have_absolute_paths(tmp_path: Path) -> None:
    row = depth_record().to_chat(tmp_path)
    assert row["images"] == [str(tmp_path / "images/küche 1.png")]
    assert [part["type"] for part in row["messages"][0]["content"]] == ["image", "text"]
    assert parse_chat_entry({**row, "images": list(depth_record().images)}) == depth_record()
