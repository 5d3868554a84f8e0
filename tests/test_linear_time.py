"""Readers of text take linear time: four times the text, not sixteen times the work, whatever a model repeats."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import process_time

import pytest

from perceptok.boxes import boxes_from_text, parse_boxes
from perceptok.config import parse_yaml
from perceptok.data.record_files import parse_llava_entry
from perceptok.decoding import parse_generation, read_answer
from perceptok.depth import recover_blocks
from perceptok.errors import PerceptokError

ROOT = Path(__file__).parents[1]


def make_entry(question: str, answer: str) -> dict[str, object]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "x", "image": "a.png", "conversations": turns}


READERS: dict[str, Callable[[str], object]] = {
    "recover_blocks": recover_blocks,
    "boxes_from_text": boxes_from_text,
    "parse_boxes": parse_boxes,
    "parse_generation": parse_generation,
    "read_answer, letters": lambda text: read_answer(text, choices=("A", "B", "C")),
    "read_answer, counts": read_answer,
    "parse_llava_entry, answer": lambda text: parse_llava_entry(make_entry("<image>\nHow many?", text)),
    "parse_llava_entry, question": lambda text: parse_llava_entry(make_entry(text, "(A)")),
    "parse_yaml": lambda text: parse_yaml(text, "x"),
}
REPEATED = (
    "\n", " ", "\t", "1", "1 ", "1, ", "1 + ", "<", "( ", "(<PIXEL_1>,", "<DEPTH_1>", "<answer>", "The answer is:",
    "A, ", "A or B ", "a", "one ", "$", "\\boxed{", "\n1. ", "there are ",
    "<DEPTH_START>", "<image>", "There are no dogs in the image. We conclude there are 0 ", "1:",
)  # fmt: skip
BEFORE = ("", "The answer is:")


def measure(read: Callable[[str], object], text: str) -> float:
    start = process_time()
    with suppress(PerceptokError):
        read(text)
    return process_time() - start


@pytest.mark.parametrize("name", READERS)
def test_repetitions(name: str) -> None:
    read = READERS[name]
    measure(read, "The answer is: A or 1 <DEPTH_START>" if name == "recover_blocks" else "")
    for before in BEFORE:
        for repeated in REPEATED:
            # Short ones first: exponential time shows there already, and does not stop the tests.
            for size in (24, 400, 3_000):
                short, long = (before + repeated * (n // len(repeated) + 1) + "x" for n in (size, 4 * size))
                fast = min(measure(read, short) for _ in range(2))
                slow = measure(read, long)
                if slow > 0.1:
                    slow = min(slow, measure(read, long))
                assert slow < 0.1 + 10 * fast, (before, repeated, size, fast, slow)


@pytest.mark.parametrize("repeated", ["\n", " ", "<answer>", "1"])
def test_a_megabyte(repeated: str) -> None:
    """What once took minutes; these end at all."""
    text = "The answer is:" + repeated * (1_000_000 // len(repeated)) + "x"
    assert read_answer(text, choices=("A", "B")).value is None
    with pytest.raises(PerceptokError):
        boxes_from_text(text)
    with pytest.raises(PerceptokError):
        recover_blocks(text)


def test_groups_are_not_repeated_possessively() -> None:
    """Before Python 3.11.5 such a group keeps what a failed attempt has taken (gh-106052); atomic groups do not."""
    repeated = re.compile(r"(?<!\\)\)(?:[*+?]|\{+[0-9,]+\}+)\+(?!\s)")
    assert repeated.search(r"(?:a)*+b")
    assert repeated.search(r"(?:a){{2,}}+b")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "perceptok").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if repeated.search(line)
    ]
    assert found == []
