"""A judge behind a small server: what it is told, which replies count, and servers that fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perceptok.errors import ConfigError, OutputError
from perceptok.evaluation import Benchmark, BenchmarkItem, Judge, Prediction, evaluate, score_rows, write_scores
from perceptok_cli.main import app
from tests.evaluation.judge_server import JudgeServer, run_judge_server

pytest.importorskip("openai")

WORDS = {"A": "the red mug", "B": "the plate"}


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with run_judge_server() as server:
        yield server


def judge_of(server: JudgeServer, **settings: Any) -> Judge:
    return Judge(server.url, "reader", **{"max_retries": 0, "timeout": 5.0, **settings})


ITEMS = (
    BenchmarkItem("words", "Which is closer?", "B", WORDS),
    BenchmarkItem("count", "How many cats are there?", "731"),
    BenchmarkItem("options", "How many dogs?", "642", options={"A": "642", "B": "853"}),
    BenchmarkItem("read", "Which is closer?", "A", dict.fromkeys("AB", "")),
)
TEXTS: dict[str, str | Prediction] = {
    "words": "The crockery on the left edge comes before the drink.",
    "count": "Some in the garden and a few inside.",
    "options": "Quite a lot of them.",
    "read": "(A)",
}
BENCHMARK = Benchmark("small", ITEMS, {})


def evaluate_replies(server: JudgeServer, replies: dict[str, str]) -> dict[str, str | None]:
    """Id -> what was read, where the server replies to a question by its words."""

    def answer(body: dict[str, Any]) -> tuple[int, str]:
        prompt = body["messages"][-1]["content"]
        return 200, next((reply for words, reply in replies.items() if words in prompt), "none")

    server.answer = answer
    scores = evaluate(TEXTS, BENCHMARK, judge=judge_of(server))
    return {outcome.item.id: outcome.reading.value for outcome in scores.outcomes}


def test_what_stays_unread_is_read_by_the_judge_and_counted_apart(server: JudgeServer, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    server.answer = lambda body: (200, "B" if "mug" in body["messages"][-1]["content"] else "none")
    plain = evaluate(TEXTS, BENCHMARK)
    assert server.requests == []
    assert (plain.judge, plain.by_rules, plain.overall.judged) == (None, None, 0)
    scores = evaluate(TEXTS, BENCHMARK, judge=judge_of(server))
    assert len(server.requests) == 3
    assert scores.judge is not None
    assert scores.judge[1:] == (3, 1, 0, "")
    assert scores.by_rules == plain.overall
    assert (scores.overall.right, scores.overall.judged, scores.overall.unparsed) == (2, 1, 2)
    assert [outcome.reader for outcome in scores.outcomes] == ["judge", "rules", "rules", "rules"]
    assert score_rows(scores)[0][6:9] == ("1", "1", "2")
    assert score_rows(scores)[1][1:3] + score_rows(scores)[1][6:9] == ("without the judge", "4", "1", "0", "3")
    write_scores(scores, tmp_path, system="s")
    values = json.loads((tmp_path / "scores.json").read_text())
    assert values["judge"] == {"model": "reader", "asked": 3, "read": 1, "failed": 0, "failure": ""}
    assert values["without the judge"]["right"] == 1
    assert values["items"][0]["reader"] == "judge"
    for name in ("scores.md", "page.html"):
        assert "The judge reader read 1 of the 3 texts that the rules left unread." in (tmp_path / name).read_text()


def test_the_judge_is_not_told_the_answer(server: JudgeServer) -> None:
    evaluate({**TEXTS, "words": ""}, BENCHMARK, judge=judge_of(server))
    assert len(server.requests) == 2  # an empty text is not sent
    sent = "".join(message["content"] for body in server.requests for message in body["messages"])
    assert "731" not in sent
    assert "Some in the garden" in sent
    assert "Choices:\nA: 642\nB: 853\n" in sent
    assert {body["model"] for body in server.requests} == {"reader"}


@pytest.mark.parametrize(
    ("question", "reply", "value"),
    [
        ("mug", "A", "A"),
        ("mug", " B\n", "B"),
        ("mug", "<think>A or B?</think>\n\nB", "B"),
        ("cats", "4", "4"),
        ("cats", "0", "0"),
        ("dogs", "B", "853"),
        ("dogs", "642", "642"),
    ],
)
def test_replies_that_count(server: JudgeServer, question: str, reply: str, value: str) -> None:
    read = evaluate_replies(server, {question: reply})
    assert value in read.values()
    assert sum(found is None for found in read.values()) == 2


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("mug", "C"),
        ("mug", "a"),
        ("mug", "(A)"),
        ("mug", "A."),
        ("mug", "A or B"),
        ("mug", "the red mug"),
        ("mug", "The answer is A"),
        ("mug", ""),
        ("mug", "None"),
        ("mug", "1"),
        ("cats", "about 4"),
        ("cats", "4.5"),
        ("cats", "-4"),
        ("cats", "four"),
        ("cats", "٤"),
        ("cats", "9" * 5000),
        ("dogs", "7"),
        ("dogs", "C"),
    ],
)
def test_other_replies_leave_the_text_unread(server: JudgeServer, question: str, reply: str) -> None:
    read = evaluate_replies(server, {question: reply})
    assert read == {"words": None, "count": None, "options": None, "read": "A"}


def test_atomic_questions_and_answers_read_off_are_not_sent(server: JudgeServer) -> None:
    items = (BenchmarkItem("b", "Boxes?", "2", target="boxes"), BenchmarkItem("p", "How many?", "2"))
    predictions: dict[str, str | Prediction] = {"b": "<PIXEL_1> none", "p": Prediction("some", None)}
    scores = evaluate(predictions, Benchmark("b", items, {}), judge=judge_of(server))
    assert server.requests == []
    assert scores.overall.unparsed == 2


def test_replies_are_kept(server: JudgeServer, tmp_path: Path) -> None:
    server.answer = lambda body: (200, "A")
    cache = tmp_path / "new" / "judge.jsonl"
    first = evaluate(TEXTS, BENCHMARK, judge=judge_of(server, cache=cache))
    assert len(server.requests) == 3
    content = cache.read_bytes()
    assert evaluate(TEXTS, BENCHMARK, judge=judge_of(server, cache=cache)) == first
    assert len(server.requests) == 3
    cache.write_bytes(content[:-20])  # a killed run
    assert evaluate(TEXTS, BENCHMARK, judge=judge_of(server, cache=cache)) == first
    assert len(server.requests) == 4
    evaluate(TEXTS, BENCHMARK, judge=Judge(server.url, "another", cache=cache))
    assert len(server.requests) == 7
    evaluate({**TEXTS, "count": "More than a few, inside."}, BENCHMARK, judge=judge_of(server, cache=cache))
    assert len(server.requests) == 8
    cache.write_text("something else\n")
    with pytest.raises(OutputError, match=r"judge\.jsonl"):
        evaluate(TEXTS, BENCHMARK, judge=judge_of(server, cache=cache))
    assert cache.read_text() == "something else\n"


@pytest.mark.parametrize(
    ("status", "reply"),
    [
        (500, {"error": {"message": "broken"}}),
        (401, {"error": {"message": "wrong key"}}),
        (404, {"error": {"message": "no such model"}}),
        (400, {"error": {"message": "too long"}}),
        (200, {}),
        (200, {"choices": []}),
        (200, {"choices": [{"message": None}]}),
        (200, {"choices": [{"message": {"content": [1]}}]}),
        (200, ["not a completion"]),
    ],
)
def test_a_server_that_fails_leaves_texts_unread(server: JudgeServer, tmp_path: Path, status: int, reply: Any) -> None:
    cache = tmp_path / "judge.jsonl"
    server.answer = lambda body: (status, reply) if "mug" in body["messages"][-1]["content"] else (200, "none")
    with pytest.warns(UserWarning, match=r"the judge reader failed for [123] of 3 texts, which stay unread: "):
        scores = evaluate(TEXTS, BENCHMARK, judge=judge_of(server, cache=cache))
    assert scores.overall.unparsed == 3
    assert scores.judge is not None
    assert scores.judge.failed >= 1
    server.answer = lambda body: (200, "B")  # only what failed is asked again
    count = len(server.requests)
    again = evaluate(TEXTS, BENCHMARK, judge=judge_of(server, cache=cache))
    assert again.outcomes[0].reading.value == "B"
    assert len(server.requests) - count == scores.judge.failed


def test_a_request_is_sent_again(server: JudgeServer) -> None:
    statuses = iter([503, 429])
    server.answer = lambda body: (next(statuses, 200), "B")
    items = Benchmark("one", ITEMS[:1], {})
    scores = evaluate({"words": TEXTS["words"]}, items, judge=judge_of(server, max_retries=3))
    assert scores.overall.judged == 1
    assert len(server.requests) == 3


def test_a_dead_or_slow_server_is_given_up(server: JudgeServer) -> None:
    items = tuple(BenchmarkItem(str(n), "How many?", "1") for n in range(100))
    texts: dict[str, str | Prediction] = {str(n): f"a few, or so {'x' * n}" for n in range(100)}
    server.answer = lambda body: (500, {})
    with pytest.warns(UserWarning, match="failed for 100 of 100 texts"):
        evaluate(texts, Benchmark("b", items, {}), judge=judge_of(server))
    assert len(server.requests) < 30
    released = threading.Event()
    server.answer = lambda body: (200 if released.wait(20) else 500, "none")
    with pytest.warns(UserWarning, match=r"failed for 1 of 1 texts.*[Tt]imed out"):
        evaluate({"0": texts["0"]}, Benchmark("b", items[:1], {}), judge=judge_of(server, timeout=0.2))
    released.set()


def test_a_model_that_takes_no_temperature(server: JudgeServer) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        message = "Unsupported value: 'temperature' does not support 0.0"
        return (400, {"error": {"message": message, "param": "temperature"}}) if "temperature" in body else (200, "B")

    server.answer = answer
    scores = evaluate({"words": TEXTS["words"]}, Benchmark("one", ITEMS[:1], {}), judge=judge_of(server))
    assert scores.overall.judged == 1


def test_the_key(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, items = {"words": TEXTS["words"]}, Benchmark("one", ITEMS[:1], {})
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    evaluate(texts, items, judge=judge_of(server))
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    evaluate(texts, items, judge=judge_of(server))
    judge = judge_of(server, api_key="given")
    evaluate(texts, items, judge=judge)
    assert server.keys == ["Bearer none", "Bearer from-the-environment", "Bearer given"]
    assert "given" not in repr(judge)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://host:port", "file:///x"])
def test_addresses_that_are_not_urls(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the URL of an OpenAI-compatible endpoint"):
        Judge(url, "reader")


def test_settings_out_of_range() -> None:
    for settings, message in (
        ({"model": " "}, "name of a model"),
        ({"timeout": 0.0}, "timeout above 0"),
        ({"timeout": float("nan")}, "timeout above 0"),
        ({"max_retries": -1}, "max_retries must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            Judge(**{"url": "http://localhost", "model": "reader", **settings})  # type: ignore[arg-type]


def test_the_command(server: JudgeServer, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    server.answer = lambda body: (200, "2")
    (tmp_path / "blinkcounting_questions.jsonl").write_text(
        '{"question_id": 1, "image": "1.png", "text": "How many?"}\n'
    )
    (tmp_path / "blinkcounting_answers.jsonl").write_text('{"question_id": 1, "text": "2"}\n')
    (tmp_path / "p.jsonl").write_text('{"id": 1, "text": "Several of them."}\n')
    words = ["eval", "score", tmp_path / "p.jsonl", "--benchmark", "blink-count", "--data", tmp_path]
    words += ["--judge", f"{server.url}/v1", "-o", tmp_path / "out"]
    done = CliRunner().invoke(app, [*map(str, words)])
    assert "--judge-model NAME" in done.output
    words += ["--judge-model", "reader"]
    done = CliRunner().invoke(app, [*map(str, words)], env={"OPENAI_API_KEY": "k"})
    assert done.exit_code == 0, done.output
    assert "The judge reader read 1 of the 1 texts" in done.stderr
    assert server.keys == ["Bearer k"]
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["overall"]["judged"] == 1
    assert (tmp_path / "out" / "judge.jsonl").is_file()
    assert CliRunner().invoke(app, [*map(str, words), "--force"]).exit_code == 0
    assert len(server.requests) == 1
