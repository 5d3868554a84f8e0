"""Boxes to text and back, against a per-box f-string and one compiled `re.findall`, in one run.

Measured is processor time: others may work on the machine.

Run by hand: python -m pytest tests/benchmarks/test_box_text.py --benchmark-enable --benchmark-only -o addopts=""
"""

from __future__ import annotations

import re
from time import process_time

import numpy as np
import pytest

from perceptok.boxes import parse_boxes
from perceptok.boxes.text import box_answer_to_text, boxes_from_text, boxes_to_text

BOXES = 250_000
_BOX = re.compile(r"\(<PIXEL_(\d+)>,<PIXEL_(\d+)>,<PIXEL_(\d+)>,<PIXEL_(\d+)>\)")


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.sort(rng.integers(0, 336, (BOXES, 2, 2)), axis=1).reshape(-1, 4)


def per_box(codes: np.ndarray) -> str:
    return "".join(f"(<PIXEL_{a}>,<PIXEL_{b}>,<PIXEL_{c}>,<PIXEL_{d}>)" for a, b, c, d in codes.tolist())


def found(text: str) -> np.ndarray:
    return np.array(_BOX.findall(text), dtype=np.int64)


@pytest.mark.benchmark(group="1: 250,000 boxes -> text", timer=process_time)
def test_writing(benchmark, codes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    boxes_to_text(codes[:1])  # the table of tokens is made once
    assert benchmark.pedantic(lambda: boxes_to_text(codes), rounds=15) == per_box(codes)


@pytest.mark.benchmark(group="1: 250,000 boxes -> text", timer=process_time)
def test_writing_per_box(benchmark, codes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    benchmark.pedantic(lambda: per_box(codes), rounds=7)


@pytest.mark.benchmark(group="2: text -> 250,000 boxes", timer=process_time)
def test_reading(benchmark, codes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    text = boxes_to_text(codes)
    np.testing.assert_array_equal(benchmark.pedantic(lambda: boxes_from_text(text), rounds=15), codes)


@pytest.mark.benchmark(group="2: text -> 250,000 boxes", timer=process_time)
def test_reading_with_findall(benchmark, codes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """The matches as an array; unlike ours it ignores everything between them."""
    text = per_box(codes)
    np.testing.assert_array_equal(benchmark.pedantic(lambda: found(text), rounds=7), codes)


@pytest.mark.benchmark(group="2: text -> 250,000 boxes", timer=process_time)
def test_reading_with_findall_only(benchmark, codes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """The bare call: tuples of strings, no numbers yet."""
    text = per_box(codes)
    assert len(benchmark.pedantic(lambda: _BOX.findall(text), rounds=7)) == BOXES


@pytest.mark.benchmark(group="3: there and back", timer=process_time)
def test_both(benchmark, codes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    benchmark.pedantic(lambda: boxes_from_text(boxes_to_text(codes)), rounds=15)


@pytest.mark.benchmark(group="3: there and back", timer=process_time)
def test_both_per_box(benchmark, codes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    benchmark.pedantic(lambda: found(per_box(codes)), rounds=7)


ANSWERS = 20_000


@pytest.fixture(scope="module")
def answers(codes: np.ndarray) -> list[str]:
    """What a model writes: three boxes each, and a sentence behind them."""
    conclusion = "\nSince there are 3 distinct bounding boxes and masks, we conclude there are 3 dogs."
    return [box_answer_to_text(three, "dogs") + conclusion for three in codes[: 3 * ANSWERS].reshape(-1, 3, 4)]


@pytest.mark.benchmark(group="4: 20,000 answers of three boxes", timer=process_time)
def test_answers(benchmark, answers: list[str]) -> None:  # type: ignore[no-untyped-def]
    """Boxes, spans and malformed pieces."""
    benchmark.pedantic(lambda: [parse_boxes(text) for text in answers], rounds=7)


@pytest.mark.benchmark(group="4: 20,000 answers of three boxes", timer=process_time)
def test_answers_with_findall(benchmark, answers: list[str]) -> None:  # type: ignore[no-untyped-def]
    benchmark.pedantic(lambda: [found(text) for text in answers], rounds=7)
