"""Scores against what can be worked out by hand, and predictions as they arrive from outside."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import norm

from perceptok.errors import EvaluationError
from perceptok.evaluation import (
    Benchmark,
    BenchmarkItem,
    Prediction,
    compare_scores,
    compute_interval,
    evaluate,
    outcome_case,
    read_predictions,
    score_rows,
    write_report,
    write_scores,
)

CHOICES = dict.fromkeys("ABC", "")
BLOCK = "<DEPTH_START>" + "<DEPTH_5>" * 100 + "<DEPTH_END>"


def benchmark(count: int = 6) -> Benchmark:
    items = tuple(
        BenchmarkItem(str(n), "Which is closest?", "ABC"[n % 3], CHOICES, groups={"markers": str(3 + n % 2)})
        for n in range(count)
    )
    return Benchmark("small", items, {"Other": 50.0})


def test_by_hand() -> None:
    texts = ["(A)", "B", "no idea", BLOCK + " (A)", BLOCK[:-11] + " (B)", BLOCK * 2 + "C"]
    scores = evaluate({str(n): text for n, text in enumerate(texts)}, benchmark())
    assert scores.overall[:3] == (6, 5, 5 / 6)
    assert (scores.overall.unparsed, scores.overall.invalid) == (1, 2)
    assert scores.groups["markers"]["3"][:3] == (3, 2, 2 / 3)
    assert scores.groups["markers"]["4"][:3] == (3, 3, 1.0)
    cases = [outcome_case(outcome) for outcome in scores.outcomes]
    # The page's chips count what the table counts.
    for name, count in (("right", scores.overall.right), ("unparsed", scores.overall.unparsed), ("wrong", 0)):
        assert sum(case.verdict == name for case in cases) == count
    assert [case.invalid for case in cases] == [bool(outcome.problems) for outcome in scores.outcomes]
    assert sum(case.invalid for case in cases) == scores.overall.invalid


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_interval_is_wilsons(items: int, share: float) -> None:
    right = round(items * share)
    named = Benchmark("b", tuple(BenchmarkItem(str(n), "q", "1") for n in range(items)))
    scores = evaluate({str(n): "1" if n < right else "2" for n in range(items)}, named)
    # Wilson, 1927: the shares p of which the observed one is 1.96 standard errors of p away.
    z, observed = norm.ppf(0.975), right / items
    centre = (observed + z**2 / (2 * items)) / (1 + z**2 / items)
    half = z / (1 + z**2 / items) * np.sqrt(observed * (1 - observed) / items + z**2 / (4 * items**2))
    np.testing.assert_allclose(scores.overall[3:5], np.clip((centre - half, centre + half), 0, 1), atol=1e-9)
    assert 0 <= scores.overall.low <= scores.overall.accuracy <= scores.overall.high <= 1


def test_no_interval_has_a_length_of_zero() -> None:
    assert compute_interval(0, 8) == (0.0, pytest.approx(0.324, abs=1e-3))
    assert compute_interval(8, 8) == (pytest.approx(0.676, abs=1e-3), 1.0)
    assert compute_interval(1, 1)[0] == pytest.approx(0.2065, abs=1e-3)
    for count, items in ((0, 0), (9, 8), (-1, 8)):
        with pytest.raises(EvaluationError, match=f"got {count} of {items}"):
            compute_interval(count, items)


def test_comparison_by_hand() -> None:
    named = Benchmark("b", tuple(BenchmarkItem(str(n), "q", "1") for n in range(100)))
    first = evaluate({str(n): "1" if n < 70 else "2" for n in range(100)}, named)
    second = evaluate({str(n): "1" if 10 <= n < 62 else "2" for n in range(100)}, named)
    comparison = compare_scores(first, second)
    assert (comparison.a, comparison.b, comparison.only_a, comparison.only_b) == (0.7, 0.52, 18, 0)
    assert comparison.difference == pytest.approx(0.18)
    assert comparison.p_value == pytest.approx(2 * 0.5**18)
    # The difference's standard error: sqrt(0.18 - 0.18^2) / 10.
    assert comparison.low == pytest.approx(0.18 - 1.96 * 0.0384, abs=0.012)
    assert compare_scores(first, first)[3:] == (0.0, 0.0, 0.0, 0, 0, 1.0)
    with pytest.raises(EvaluationError, match="same items"):
        compare_scores(first, evaluate({"0": "1"}, Benchmark("c", named.items[:1])))


def test_predictions_have_to_fit() -> None:
    named = benchmark()
    texts = {str(n): "A" for n in range(6)}
    with pytest.raises(EvaluationError, match="another benchmark's file"):
        evaluate({**texts, "99": "A"}, named)
    some = {key: texts[key] for key in "01234"}
    with pytest.raises(EvaluationError, match=r"1 of 6 questions .* such as '5'"):
        evaluate(some, named)
    scores = evaluate(some, named, missing=True)
    assert (scores.overall.items, scores.overall.unparsed) == (6, 1)
    assert scores.outcomes[5].reading.reason == "no prediction"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1, "text": "A"}\n{"id": 1, "text": "B"}\n', "line 2: the id 1 occurs twice"),
        (b'{"id": 1, "text": "A"}\n\xff\xfe\n', "line 2: not valid JSON"),
        (b'{"id": 1, "text": "A"}\n{"id": 2}\n', "line 2: a prediction has an id"),
        (b'{"text": "A"}\n', "line 1: a prediction has an id"),
        (b"[1, 2]\n", "line 1: expected an object"),
        (b'{"id": 1, "text": {"a": 1}}\n', "line 1: a prediction"),
        (b"\n", "contains no predictions"),
        (b"", "contains no predictions"),
    ],
)
def test_damaged_predictions_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(EvaluationError, match=message):
        read_predictions(tmp_path / "p.jsonl")


def test_predictions_of_other_systems(tmp_path: Path) -> None:
    lines = [
        {"question_id": 7, "text": "A"},
        {"id": "x", "prediction": ""},
        {"idx": 0, "output": "B" * 100_000},
        {"name": "n", "response": 5},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_predictions(tmp_path / "p.jsonl") == {"7": "A", "x": "", "0": "B" * 100_000, "n": "5"}
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_predictions(tmp_path / "none.jsonl")


def test_tables_say_what_is_published(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    scores = evaluate({str(n): "A" for n in range(6)}, benchmark())
    assert score_rows(scores)[-1][:2] == ("(published)", "Other")
    write_scores(scores, tmp_path, system="ours|<b>")
    markdown = (tmp_path / "scores.md").read_text()
    assert "ours\\|" in markdown
    assert "were not measured here" in markdown
    rows = list(csv.reader(io.StringIO((tmp_path / "scores.csv").read_text())))
    assert {len(row) for row in rows} == {12}
    values = json.loads((tmp_path / "scores.json").read_text())
    assert values["overall"]["right"] == 2
    expected = {
        "id": "1",
        "expected": "B",
        "read": "A",
        "reason": "declared",
        "reader": "rules",
        "right": False,
        "problems": [],
    }
    assert values["items"][1] == expected


def test_the_page_of_scores(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    scores = evaluate({str(n): "A" for n in range(6)}, benchmark())
    assert write_report(scores, tmp_path / "page.html") == 6
    page = (tmp_path / "page.html").read_text()
    assert "were not measured here" in page
    assert "image/svg+xml" in page


def test_names_of_groups_are_no_formulas(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ("$a_{$", "<!-- -->", "\x00", r"\$x$$")
    items = tuple(
        BenchmarkItem(str(n), "?", "A", {"A": "", "B": ""}, groups={"source": name}) for n, name in enumerate(names)
    )
    scores = evaluate({item.id: "A" for item in items}, Benchmark("strange", items))
    assert write_report(scores, tmp_path / "page.html") == 4
    svg = re.search(r"data:image/svg\+xml;base64,([\w+/=]+)", (tmp_path / "page.html").read_text())
    assert svg is not None
    assert b"\0" not in base64.b64decode(svg[1])


def test_answers_that_were_read_otherwise(tmp_path: Path) -> None:
    """A line with `read` is scored by that answer; its text is checked all the same."""
    lines = [
        {"id": "0", "text": BLOCK, "read": "A"},
        {"id": "1", "text": "(B)", "read": None},
        {"id": "2", "text": "C"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    predictions = read_predictions(tmp_path / "p.jsonl")
    assert predictions == {"0": Prediction(BLOCK, "A"), "1": Prediction("(B)", None), "2": "C"}
    scores = evaluate(predictions, benchmark(3))
    assert [outcome.right for outcome in scores.outcomes] == [True, False, True]
    assert scores.outcomes[0].text == BLOCK
    assert scores.overall.unparsed == 1
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "0", "text": BLOCK, "read": 3}))
    with pytest.raises(EvaluationError, match="line 1: read is an answer in text, or null; got 3"):
        read_predictions(tmp_path / "p.jsonl")
