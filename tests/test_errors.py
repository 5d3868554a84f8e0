"""Quotes of library exceptions: one line, no terminal sequences, no advice to run code."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from perceptok.errors import add_place, quote_error


class Command:
    """A pickle of it would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


@pytest.mark.parametrize(
    ("message", "quote"),
    [
        ("no such file", "no such file"),
        ("first\nsecond", "first"),
        ("\n  \n third", "third"),
        ("", "ValueError"),
        ("\x1b[1mbold\x1b[0m and \x1b]0;title\x07plain\x07", "bold and plain"),
        ("a\tb\x00c\u202ed", "a b c d"),
        ("It has custom code. Please pass `trust_remote_code=True` to run it.", "It has custom code."),
        ("Pass weights_only=False; do so if you trust the file.", "ValueError"),
    ],
)
def test_a_quote_is_one_safe_line(message: str, quote: str) -> None:
    assert quote_error(ValueError(message)) == quote


def test_an_error_of_the_system_is_quoted_without_its_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "none").read_text()
    assert quote_error(error.value) == "No such file or directory"
    assert quote_error(OSError("closed")) == "closed"


@pytest.mark.parametrize(
    ("place", "reason", "expected"),
    [
        ("a.jpg", "damaged", "a.jpg: damaged"),
        ("a.jpg", "a.jpg: damaged", "a.jpg: damaged"),
        ("a.jpg", "photos/a.jpg: damaged", "photos/a.jpg: damaged"),
        ("a.jpg", "'photos/a.jpg': damaged", "'photos/a.jpg': damaged"),
        ("a.jpg", "C:\\photos\\a.jpg: damaged", "C:\\photos\\a.jpg: damaged"),
        ("data", "data/data: damaged", "data/data: damaged"),
        ("x.jsonl", "x.jsonl, line 3: damaged", "x.jsonl, line 3: damaged"),
        ("x.jsonl, line 3", "x.jsonl, line 3, record 'a': damaged", "x.jsonl, line 3, record 'a': damaged"),
        ("x.jsonl, line 1", "x.jsonl, line 12: damaged", "x.jsonl, line 1: x.jsonl, line 12: damaged"),
        ("a.jpg", "photos/aa.jpg: damaged", "a.jpg: photos/aa.jpg: damaged"),
        ("a", "a thing: damaged", "a: a thing: damaged"),
        ("a+b.(x", "a+b.(x: damaged", "a+b.(x: damaged"),
        (Path("p/a.jpg"), ValueError("p/a.jpg: damaged"), "p/a.jpg: damaged"),
        ("", "damaged", ": damaged"),
    ],
)
def test_a_place_is_named_once(place: str | Path, reason: object, expected: str) -> None:
    assert add_place(place, reason) == expected


def test_torchs_advice_to_load_pickles_is_not_quoted(tmp_path: Path) -> None:
    torch.save({"weight": Command()}, tmp_path / "model.bin")
    with pytest.raises(pickle.UnpicklingError) as refusal:
        torch.load(tmp_path / "model.bin", weights_only=True)
    assert "still be loaded" in str(refusal.value)
    assert quote_error(refusal.value) == "Weights only load failed."
