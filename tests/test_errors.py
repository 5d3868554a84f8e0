"""Quotes of library exceptions: one line, no terminal sequences, no advice to run code."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from perceptok.errors import quote_error


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


def test_torchs_advice_to_load_pickles_is_not_quoted(tmp_path: Path) -> None:
    torch.save({"weight": Command()}, tmp_path / "model.bin")
    with pytest.raises(pickle.UnpicklingError) as refusal:
        torch.load(tmp_path / "model.bin", weights_only=True)
    assert "still be loaded" in str(refusal.value)
    assert quote_error(refusal.value) == "Weights only load failed."
