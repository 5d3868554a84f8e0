"""Many requests, slow ones, clients that go away, and the end of the server: nothing is lost, nothing stays behind."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from perceptok.errors import EngineError
from perceptok.llava import PerceptionPipeline, ServingConfig
from perceptok.llava.serving.server import open_listening_socket
from perceptok.llava.serving.telemetry import JsonFormatter
from tests.llava.answering import make_image
from tests.llava.serving.conftest import Served, make_messages, openai, run_server

IMAGE = make_image(60, 40)
Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture(autouse=True)
def slow_model(pipe: PerceptionPipeline) -> Iterator[None]:
    """A token takes 5 ms at least and no answer ends by itself, on a fast machine too, as with a large model."""
    end = torch.tensor(pipe.model.generation_config.eos_token_id).reshape(-1)

    def delay(*_: Any) -> None:
        time.sleep(0.005)

    def go_on(module: Any, inputs: Any, output: Any) -> None:
        output.logits[..., end] = -1e4

    hooks = [pipe.model.register_forward_pre_hook(delay), pipe.model.register_forward_hook(go_on)]
    yield
    for hook in hooks:
        hook.remove()


def ask(served: Served, max_tokens: int = 4, **fields: Any) -> Any:
    """Text alone, which goes on as long as it is allowed to."""
    body = {"perception": {"grammar": {"depth": False, "boxes": None}}}
    return served.client.chat.completions.create(
        model="perceptok", messages=make_messages(IMAGE), max_tokens=max_tokens, extra_body=body, **fields
    )


def test_a_hundred_requests_at_once(pipe: PerceptionPipeline) -> None:
    refusals: list[tuple[str, int]] = []
    with run_server(pipe, ServingConfig(max_queue=20, batch_wait=0.05)) as served:

        def send(_: int) -> str:
            try:
                return str(ask(served).choices[0].message.content)
            except openai.RateLimitError as error:
                refusals.append((str(error.code), int(error.response.headers["retry-after"])))
                return "refused"

        with ThreadPoolExecutor(100) as pool:
            outcomes = Counter(pool.map(send, range(100)))
        assert sum(outcomes.values()) == 100
        assert len(outcomes) == 2
        assert 0 < outcomes["refused"] < 80
        assert {code for code, _ in refusals} == {"queue_full"}
        assert all(seconds >= 1 for _, seconds in refusals)
        assert served.batcher.waiting == served.batcher.running == 0
        metrics = httpx.get(f"{served.url}/metrics").text
        assert "perceptok_answers_total{valid=" in metrics
        assert 'status="429"' in metrics


def test_a_client_that_goes_away_in_mid_stream(pipe: PerceptionPipeline, wait_until: Wait) -> None:
    with run_server(pipe, ServingConfig()) as served:
        stream = ask(served, 1800, stream=True, temperature=1.0)
        for _ in range(3):
            next(stream)
        assert served.batcher.running == 1
        stream.close()
        wait_until(lambda: served.batcher.running == 0)
        assert ask(served).choices[0].message.content
        assert 'perceptok_cancelled_total{reason="disconnect"} 1.0' in httpx.get(f"{served.url}/metrics").text


def test_a_client_that_goes_away_before_the_answer(pipe: PerceptionPipeline, wait_until: Wait) -> None:
    with run_server(pipe, ServingConfig(max_batch_size=1)) as served:
        with pytest.raises(openai.APITimeoutError):
            ask(served, 1800, temperature=1.0, timeout=0.5)
        wait_until(lambda: served.batcher.running == 0)
        # One that waits leaves the queue: the place is free.
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(ask, served, 400, temperature=1.0)
            wait_until(lambda: served.batcher.running == 1)
            with pytest.raises(openai.APITimeoutError):
                ask(served, timeout=0.2)
            wait_until(lambda: served.batcher.waiting == 0)
            assert running.result().choices


def test_time_limits(pipe: PerceptionPipeline, wait_until: Wait) -> None:
    with run_server(pipe, ServingConfig(timeout=0.7)) as served:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(served, 1900, temperature=1.0)
        assert caught.value.status_code == 504
        assert caught.value.code == "timeout"
        wait_until(lambda: served.batcher.running == 0)
        with pytest.raises(openai.APIError, match="the time for the request is over"):
            for _ in ask(served, 1900, temperature=1.0, stream=True):
                pass
        wait_until(lambda: served.batcher.running == 0)
        assert ask(served, 1).choices


def test_a_body_that_does_not_arrive(pipe: PerceptionPipeline) -> None:
    with run_server(pipe, ServingConfig(timeout=0.5)) as served:
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_closing_finishes_what_was_accepted(pipe: PerceptionPipeline, wait_until: Wait) -> None:
    with run_server(pipe, ServingConfig(max_batch_size=1)) as served, ThreadPoolExecutor(4) as pool:
        running = [pool.submit(ask, served, 60, temperature=1.0) for _ in range(3)]
        wait_until(lambda: served.batcher.running == 1 and served.batcher.waiting == 2)
        closing = threading.Thread(target=served.batcher.close, args=(60,))
        closing.start()
        wait_until(lambda: not served.batcher.is_alive)
        with pytest.raises(openai.InternalServerError, match="shutting down") as caught:
            ask(served)
        assert caught.value.status_code == 503
        assert httpx.get(f"{served.url}/health").status_code == 503
        assert all(future.result().choices for future in running)
        closing.join()


def test_closing_gives_up_what_takes_too_long(pipe: PerceptionPipeline, wait_until: Wait) -> None:
    with run_server(pipe, ServingConfig(max_batch_size=1)) as served, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask, served, 1900, temperature=1.0) for _ in range(2)]
        wait_until(lambda: served.batcher.running == 1 and served.batcher.waiting == 1)
        served.batcher.close(0.1)
        for future in running:
            with pytest.raises(openai.InternalServerError, match="was stopped before the answer was complete"):
                future.result()


def test_a_model_that_fails(pipe: PerceptionPipeline, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret words of a user")

    with run_server(pipe, ServingConfig()) as served:
        monkeypatch.setattr(pipe.model, "generate", fail)
        with caplog.at_level(logging.INFO, "perceptok.serving"), pytest.raises(openai.InternalServerError) as caught:
            ask(served)
        assert caught.value.code == "internal_error"
        monkeypatch.undo()
        assert ask(served).choices
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert any(json.loads(line).get("error") == "RuntimeError" for line in lines)
    assert not any("secret" in line for line in lines)


def test_log_lines_hold_no_contents(pipe: PerceptionPipeline, caplog: Any) -> None:
    question = "Where is the hidden treasure?"
    with run_server(pipe, ServingConfig()) as served, caplog.at_level(logging.INFO, "perceptok.serving"):
        messages = make_messages(IMAGE, question)
        response = served.client.chat.completions.create(model="perceptok", messages=messages, max_tokens=20)
        httpx.get(f"{served.url}/{question}")
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    line = next(line for line in lines if line.get("path") == "/v1/chat/completions")
    assert line["status"] == 200
    assert line["id"] == response.id
    assert line["tokens"] >= line["prompt_tokens"] > 0 or line["tokens"] > 0
    assert line["image_size"] == [60, 40]
    text = json.dumps(lines)
    assert "treasure" not in text
    assert str(response.choices[0].message.content) not in text
    assert "base64" not in text


def test_a_port_in_use() -> None:
    with open_listening_socket(ServingConfig(port=0)) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} on 127.0.0.1 is in use"):
            open_listening_socket(ServingConfig(port=port))
    open_listening_socket(ServingConfig(port=port)).close()
    with pytest.raises(EngineError, match="cannot listen on"):
        open_listening_socket(ServingConfig(host="192.0.2.1"))
    with pytest.raises(EngineError, match="cannot listen on"):
        open_listening_socket(ServingConfig(host="no such host"))
