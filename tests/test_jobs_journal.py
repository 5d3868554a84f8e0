"""Journals: results survive a kill, and belong to a run and to unchanged inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perceptok.errors import OutputError
from perceptok.jobs import Journal, Stamp, stamp_of

RUN = {"what": "a test", "inputs": ["a", "b", "c"]}
STAMPS: list[Stamp] = [(1, 10), (2, 20), None]


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with Journal(output, RUN, STAMPS) as journal:
        assert journal.todo == [0, 1, 2]
        journal.add(1, {"value": "é\n"})
    with journal.path.open("ab") as file:
        file.write(b'{"index": 0, "stamp": [1, 1')  # a truncated line
    with Journal(output, RUN, STAMPS) as journal:
        assert journal.todo == [0, 2]
        journal.add(0, {"value": 0})
        journal.add(2, {"value": 2})
        assert list(journal.results()) == [{"value": 0}, {"value": "é\n"}, {"value": 2}]
    with Journal(output, RUN, STAMPS) as journal:
        assert journal.todo == [2]  # inputs without a stamp are processed again
        journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_changed_inputs_are_processed_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", RUN, STAMPS) as journal:
        journal.add(0, {})
        journal.add(1, {})
    with Journal(tmp_path / "out", RUN, [(1, 10), (2, 21), None]) as journal:
        assert journal.todo == [1, 2]


def test_the_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", RUN, STAMPS) as journal:
        journal.add(0, {})
    with pytest.raises(OutputError, match="the unfinished output of another run"):
        Journal(tmp_path / "out", {"what": "else"}, STAMPS)
    with Journal(tmp_path / "out", {"what": "else"}, STAMPS, start_over=True) as journal:
        assert journal.todo == [0, 1, 2]


@pytest.mark.parametrize(
    "line",
    [
        "not valid JSON",
        "[]",
        "{}",
        json.dumps({"index": 7, "stamp": [1, 10], "result": {}}),
        json.dumps({"index": 0, "stamp": [1, 10], "result": "text"}),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "out.partial").write_text(json.dumps(RUN) + "\n" + line + "\n")
    with pytest.raises(OutputError, match="line 2: "):
        Journal(tmp_path / "out", RUN, STAMPS)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", RUN, STAMPS), pytest.raises(OutputError):
        Journal(tmp_path / "out", RUN, STAMPS)
    with pytest.raises(OutputError, match="does not exist; create it first"):
        Journal(tmp_path / "none" / "out", RUN, STAMPS)


def test_stamps_of_files(tmp_path: Path) -> None:
    assert stamp_of(tmp_path / "none") is None
    assert stamp_of("null\0") is None
    (tmp_path / "a").write_text("abc")
    stamp = stamp_of(tmp_path / "a")
    assert stamp is not None
    assert stamp[0] == 3
