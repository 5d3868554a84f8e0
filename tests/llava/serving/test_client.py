"""The client: a served model answers as a loaded one; other engines get their own constraint; retries, resuming."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perceptok.data import Turn
from perceptok.decoding import detect_engine
from perceptok.errors import ConfigError, EngineError, InferenceError, OutputError, PerceptokError, VocabularyError
from perceptok.llava import (
    FileQuestion,
    FrameRule,
    InferenceConfig,
    PerceptionPipeline,
    QuestionFailure,
    Request,
    ServedPipeline,
    ServingConfig,
    answer_files,
)
from perceptok.tokens import DEPTH, PIXEL
from perceptok_cli.main import app
from tests.http_server import JsonHandler, run_http_server
from tests.llava.answering import make_image
from tests.llava.serving.conftest import Served, run_server


def connect(url: str, pipe: PerceptionPipeline, **settings: Any) -> ServedPipeline:
    config = InferenceConfig(**{"max_new_tokens": 110, **settings.pop("config", {})})
    return ServedPipeline(
        detect_engine(url), pipe.processor, pipe.vocab, codec=pipe.codec, frame=pipe.frame, config=config, **settings
    )


def test_a_served_model_answers_as_a_loaded_one(served: Served, pipe: PerceptionPipeline) -> None:
    requests = [
        Request(
            (make_image(40 + 9 * seed, 30, seed),), f"Why {seed}? </s><DEPTH_4>", name=str(seed), markers={"A": (3, 4)}
        )
        for seed in range(4)
    ]
    client = connect(served.url, pipe, config={"force_block": "first"}, concurrency=4)
    expected = list(pipe.answers(requests, max_new_tokens=110, force_block="first"))
    assert [answer.to_dict() for answer in client.answers(requests)] == [answer.to_dict() for answer in expected]
    free = connect(served.url, pipe, config={"constraints": False, "max_new_tokens": 20})
    (answer,) = free.answers(requests[:1])
    assert answer.to_dict() == next(pipe.answers(requests[:1], max_new_tokens=20, constraints=False)).to_dict()


def test_samples_follow_the_question_and_the_seed(served: Served, pipe: PerceptionPipeline) -> None:
    requests = [Request((make_image(40, 30),), "Why?", name=str(number)) for number in range(3)]
    client = connect(served.url, pipe, config={"temperature": 1.3, "seed": 4, "max_new_tokens": 20})
    texts = [answer.text for answer in client.answers(requests)]
    assert [answer.text for answer in client.answers(requests[::-1])] == texts[::-1]
    assert len(set(texts)) == 3


def test_a_conversation_is_asked_as_of_a_loaded_model(served: Served, pipe: PerceptionPipeline) -> None:
    """Worded by `ask`, the last turn keeps the place of its image; settings of a call hold for its constraint too."""
    history = (Turn("user", "<image>What is this?"), Turn("assistant", "A house."))
    images = (make_image(40, 30), make_image(30, 40, 1))
    request = Request(images, "How far is <image>?", name="a", history=history, system="Be brief.")
    client = connect(served.url, pipe)
    for changes in ({"ask": "depth", "max_new_tokens": 20}, {"constraints": False, "max_new_tokens": 20}):
        (answer,) = client.answers([request], **changes)
        assert answer.to_dict() == next(pipe.answers([request], **changes)).to_dict()
    with pytest.raises(ConfigError, match="unknown settings: colour"):
        list(client.answers([request], colour=1))
    with pytest.raises(InferenceError, match="at least one image"):
        list(client.answers([request._replace(images=())]))


def test_markers_are_those_of_the_image_before_it_is_framed(served: Served, pipe: PerceptionPipeline) -> None:
    """A question about markers of a large image, whose evidence decides: conclusions and interventions agree."""
    markers = {"A": (5.0, 5.0), "B": (500.0, 20.0), "C": (610.0, 395.0)}
    request = Request((make_image(640, 400),), "Which point is closest?", name="a", markers=markers)
    config = {"consistency": ("marker", "count"), "force_block": "first", "max_new_tokens": 110}
    (answer,) = connect(served.url, pipe, config=config).answers([request])
    assert answer.to_dict() == next(pipe.answers([request], **config)).to_dict()
    outside = request._replace(markers={"A": (700.0, 5.0)})
    with pytest.raises(InferenceError, match=r"marker A at .* lies outside"):
        list(connect(served.url, pipe, config=config).answers([outside]))


def test_another_model_than_that_of_the_folder(pipe: PerceptionPipeline, served: Served, tmp_path: Path) -> None:
    engine = detect_engine(served.url)
    parts = (engine, pipe.processor, pipe.vocab)
    with pytest.raises(ConfigError, match=r"the frame of the model that .* serves is .*name the folder"):
        ServedPipeline(*parts, codec=pipe.codec, frame=FrameRule("letterbox"))
    with run_engine("vllm") as (url, handler):
        handler.token_ids = [1, 2]
        with pytest.raises(VocabularyError, match="as one that was never extended"):
            connect(url, pipe)


def test_a_server_that_serves_another_model_later(pipe: PerceptionPipeline, tiny_adapter: Path, tmp_path: Path) -> None:
    """Neither in the middle of a run nor when it is resumed are the answers of two models mixed."""
    make_image(20, 20).save(tmp_path / "a.png")
    questions = [FileQuestion((tmp_path / "a.png",), "Why?", str(number)) for number in range(4)]
    other = PerceptionPipeline.from_pretrained(tiny_adapter)
    with run_server(pipe, ServingConfig()) as first, run_server(other, ServingConfig()) as second:
        assert connect(first.url, pipe).stamps != connect(second.url, pipe).stamps
        client = connect(first.url, pipe, concurrency=1)
        client._fingerprint = connect(second.url, pipe)._fingerprint
        with pytest.raises(EngineError, match="now serves another model"):
            answer_files(client, questions, tmp_path / "out.jsonl")
        with pytest.raises(OutputError, match="another run"):
            answer_files(connect(second.url, pipe), questions, tmp_path / "out.jsonl")
        assert answer_files(connect(first.url, pipe), questions, tmp_path / "out.jsonl") == []


@pytest.mark.parametrize(
    "reply",
    [
        b"<html>Log in</html>", b"[]", b'"text"', b"null", b"{}", b'{"choices": null}', b'{"choices": []}',
        b'{"choices": [null]}', b'{"choices": [{"message": null}]}', b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop", "token_ids": ["a"]}]}',
        b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop", "token_ids": 5}]}',
    ],
)  # fmt: skip
def test_a_reply_that_is_not_a_completion(reply: bytes, pipe: PerceptionPipeline) -> None:
    with run_engine("vllm") as (url, engine):
        client = connect(url, pipe, max_retries=0)
        engine.reply = reply
        with pytest.raises(EngineError, match=r"no answer from|is not a chat completion"):
            list(client.answers([Request((make_image(9, 9),), "Why?")]))


def test_a_connection_that_is_reset_is_tried_again(pipe: PerceptionPipeline) -> None:
    with run_engine("vllm") as (url, engine):
        client = connect(url, pipe)
        engine.resets = 2
        assert len(list(client.answers([Request((make_image(9, 9),), "Why?")]))) == 1
        assert engine.resets == 0


def test_one_bad_question_fails_alone(served: Served, pipe: PerceptionPipeline) -> None:
    good = Request((make_image(9, 9),), "Why?")
    client = connect(served.url, pipe, config={"max_new_tokens": 3})
    results = list(client.try_answers([good, good._replace(question="w" * 9000), good._replace(question=" "), good]))
    assert [isinstance(result, PerceptokError) for result in results] == [False, True, True, False]
    assert "no tokens are left for an answer" in str(results[1])
    with pytest.raises(InferenceError, match="the server refuses the request"):
        list(client.answers([good._replace(question="w" * 9000)]))


class Engine(JsonHandler):
    """Speaks as vLLM or SGLang do, and answers every question with the same text."""

    owner, text, finish_reason = "vllm", "(<PIXEL_1>,<PIXEL_2>,<PIXEL_30>,<PIXEL_40>) one", "stop"
    failures: list[int]
    bodies: list[dict[str, Any]]
    token_ids: list[int] | None = None
    reply: bytes | None = None
    resets = 0
    held_text: str | None = None
    """In a request that is not answered."""
    dropped: threading.Semaphore

    def answer_get(self) -> None:
        models = {"data": [{"id": "m", "object": "model", "owned_by": self.owner, "created": 0}]}
        self.send_json(200, models if self.path == "/v1/models" else {"version": "0.32.0"})

    def answer_post(self) -> None:
        body = self.read_json()
        if self.path != "/v1/chat/completions":
            found = self.path == "/tokenize" and self.token_ids is not None
            self.send_json(200 if found else 404, {"tokens": self.token_ids})
            return
        if self.held_text is not None and self.held_text in json.dumps(body["messages"]):
            self.connection.recv(1)  # returns when the client closes the connection
            self.dropped.release()
            self.close_connection = True
            return
        if self.resets:
            type(self).resets -= 1
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if self.reply is not None:
            self.send_json(200, self.reply)
            return
        if self.failures:
            self.send_json(self.failures.pop(), {"error": {"message": "later"}})
            return
        self.bodies.append(body)
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        self.send_json(200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


@contextmanager
def run_engine(owner: str, failures: tuple[int, ...] = ()) -> Iterator[tuple[str, type[Engine]]]:
    fields = {"owner": owner, "failures": list(failures), "bodies": [], "dropped": threading.Semaphore(0)}
    handler = type("Handler", (Engine,), fields)
    with run_http_server(handler) as url:
        yield url, handler


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
def test_other_engines_get_their_own_constraint(owner: str, pipe: PerceptionPipeline) -> None:
    with run_engine(owner) as (url, engine):
        client = connect(url, pipe)
        (answer,) = client.answers([Request((make_image(336, 336),), "Where is <DEPTH_4>?", name="a")])
        (body,) = engine.bodies
        field = "response_format" if owner == "sglang" else "structured_outputs"
        tag = body[field] if owner == "sglang" else json.loads(body[field]["structural_tag"])
        assert str(pipe.vocab.ids(PIXEL)[0].item()) in tag["format"]["grammar"]
        assert ("return_token_ids" in body) == (owner == "vllm")
        assert "perception" not in body
        parts = body["messages"][0]["content"]
        assert [part["type"] for part in parts] == ["image_url", "text"]
        assert "<DEPTH_4>" not in parts[1]["text"]
        assert "modalities" not in parts[0]
        list(client.answers([Request((make_image(9, 9), make_image(8, 8)), "Which is nearer?")]))
        parts = engine.bodies[-1]["messages"][0]["content"]
        assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
        # SGLang takes the first image alone unless each part has this field.
        expected = "multi-images" if owner == "sglang" else None
        assert [part.get("modalities") for part in parts[:2]] == [expected] * 2
        assert answer.boxes.shape == (1, 4)
        assert answer.boxes[0].round().tolist() == [2, 2, 30, 40] or answer.boxes[0][0] == pytest.approx(1.5)
        assert answer.ended
        with pytest.raises(ConfigError, match="no consistency constraints"):
            connect(url, pipe, config={"consistency": ("count",)})
        with pytest.raises(ConfigError, match="no consistency constraints"):
            list(client.answers([Request((make_image(9, 9),), "Why?")], consistency=("count",)))
        with pytest.raises(ConfigError, match="does not serve 'other'; it serves m"):
            connect(url, pipe, model="other")


@pytest.mark.parametrize(
    ("text", "finish_reason", "is_enforced"),
    [
        ("<DEPTH_3> is near", "stop", False),
        (DEPTH.start + DEPTH.token(3) * 99 + DEPTH.end, "stop", False),
        (DEPTH.start + DEPTH.token(3) * 99, "stop", False),
        (DEPTH.start + DEPTH.token(3) * 99, "length", True),
        (DEPTH.start + DEPTH.token(3) * 100 + DEPTH.end, "stop", True),
        ("(<PIXEL_9>,<PIXEL_9>,<PIXEL_3>,<PIXEL_9>)", "stop", True),
        ("text alone", "stop", True),
    ],
)
def test_a_server_that_ignores_the_constraint_is_reported(
    text: str, finish_reason: str, is_enforced: bool, pipe: PerceptionPipeline
) -> None:
    with run_engine("vllm") as (url, engine):
        engine.text, engine.finish_reason = text, finish_reason
        for constraints in (True, False):
            client = connect(url, pipe, config={"constraints": constraints})
            (answer,) = client.answers([Request((make_image(9, 9),), "Why?")])
            assert answer.constrained == (constraints and is_enforced)
            reported = "the server (vllm 0.32.0) did not enforce the constraint" in answer.problems
            assert reported == (constraints and not is_enforced)


def test_a_busy_server_is_asked_again(pipe: PerceptionPipeline) -> None:
    request = Request((make_image(9, 9),), "Why?")
    with run_engine("vllm", (429, 500, 503)) as (url, engine):
        assert len(list(connect(url, pipe).answers([request]))) == 1
        engine.failures = [503, 503]
        with pytest.raises(EngineError, match=r"HTTP 503.*run the same command again"):
            list(connect(url, pipe, max_retries=1).answers([request]))
        engine.failures = [401]
        with pytest.raises(EngineError, match="HTTP 401"):
            list(connect(url, pipe).answers([request]))
        client = connect(url, pipe, max_retries=1)
    with pytest.raises(EngineError, match="no answer from"):
        list(client.answers([request]))
    with pytest.raises(EngineError, match="no server answers at"):
        connect(url, pipe)


def test_an_interrupted_run_is_resumed(pipe: PerceptionPipeline, tmp_path: Path) -> None:
    questions = []
    for number in range(5):
        make_image(20, 20, number).save(tmp_path / f"{number}.png")
        questions.append(FileQuestion((tmp_path / f"{number}.png",), "Why?", str(number)))
    with run_engine("vllm") as (url, engine):
        client = connect(url, pipe, max_retries=0, concurrency=1)
        answers = iter([False, False, True])

        def interrupt() -> None:
            if next(answers):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            answer_files(client, questions, tmp_path / "out.jsonl", advance=interrupt)
        assert not (tmp_path / "out.jsonl").exists()
        engine.bodies.clear()
        assert answer_files(client, questions, tmp_path / "out.jsonl") == []
        assert len(engine.bodies) == 2
        (tmp_path / "4.png").write_bytes(b"no image")
        failures = answer_files(client, questions, tmp_path / "other.jsonl")
        assert [failure.name for failure in failures] == ["4"]
        assert isinstance(failures[0], QuestionFailure)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["0", "1", "2", "3", "4"]


def test_an_interrupted_run_keeps_what_is_complete_and_waits_for_nothing(
    pipe: PerceptionPipeline, tmp_path: Path
) -> None:
    questions = []
    for number in range(4):
        make_image(20, 20, number).save(tmp_path / f"{number}.png")
        questions.append(FileQuestion((tmp_path / f"{number}.png",), "Hold" if number == 0 else "Why?", str(number)))
    with run_engine("vllm") as (url, engine):
        engine.held_text = "Hold"
        advances = iter(range(9))

        def interrupt() -> None:
            if next(advances) == 2:  # the first question is not answered, the others are
                raise KeyboardInterrupt

        client = connect(url, pipe, concurrency=2)
        with pytest.raises(KeyboardInterrupt):
            answer_files(client, questions, tmp_path / "out.jsonl", advance=interrupt)
        assert engine.dropped.acquire(timeout=30), "the request still waits"
        engine.held_text = None
        engine.bodies.clear()
        # The number of requests at a time is not part of what a run is.
        assert answer_files(connect(url, pipe, concurrency=1), questions, tmp_path / "out.jsonl") == []
        assert len(engine.bodies) == 1
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["0", "1", "2", "3"]


def test_the_command_line_writes_what_local_inference_writes(tiny_adapter: Path, tmp_path: Path) -> None:
    for number in range(3):
        make_image(20 + number, 20, number).save(tmp_path / f"{number}.png")
    pipe = PerceptionPipeline.from_pretrained(tiny_adapter)
    run: Callable[..., Any] = lambda *words: CliRunner().invoke(app, ["llava", *map(str, words)])  # noqa: E731
    options = ("--max-new-tokens", 12, "-q", "Why?")
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / f"{number}.png").rename(tmp_path / "images" / f"{number}.png")
    with run_server(pipe, ServingConfig(api_key="key")) as served:
        words = ("infer", tiny_adapter, tmp_path / "images", *options, "--save-depth", tmp_path / "d")
        done = run(*words, "-o", tmp_path / "served.jsonl", "--server", served.url, "--api-key", "key")
        assert done.exit_code == 0, done.output
        wrong = run(*words, "-o", tmp_path / "x.jsonl", "--server", served.url, "--api-key", "wrong")
        assert "asks for a valid API key" in str(wrong.exception)
    assert run(*words, "-o", tmp_path / "local.jsonl").exit_code == 0
    assert (tmp_path / "served.jsonl").read_text() == (tmp_path / "local.jsonl").read_text()
    missing = run("infer", tiny_adapter, tmp_path / "images", *options, "--server", "ftp://x")
    assert isinstance(missing.exception, ConfigError)
