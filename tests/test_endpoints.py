"""Requests at a time to an endpoint: their results, and that none outlives the one who waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from perceptok.endpoints import Send, map_requests
from tests.http_server import JsonHandler, run_http_server

openai = pytest.importorskip("openai", reason="needs perceptok[client]")


class Echo(JsonHandler):
    """Answers with the question; "hold" is never answered."""

    questions: list[str]
    held: threading.Semaphore
    dropped: threading.Semaphore
    failures: list[int]

    def answer_post(self) -> None:
        question = self.read_json()["messages"][0]["content"]
        self.questions.append(question)
        if question == "hold":
            self.held.release()
            self.connection.recv(1)  # returns when the client closes the connection
            self.dropped.release()
            self.close_connection = True
        elif self.failures:
            self.send_json(self.failures.pop(), {"error": {"message": "later"}})
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": question}, "finish_reason": "stop"}
            body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            self.send_json(200, body)


@pytest.fixture
def server() -> Iterator[tuple[str, Any]]:
    fields = {"questions": [], "failures": [], "held": threading.Semaphore(0), "dropped": threading.Semaphore(0)}
    handler: Any = type("Handler", (Echo,), fields)
    with run_http_server(handler) as url:
        yield url, handler


def ask(send: Send, question: str) -> str:
    response = send(model="m", messages=[{"role": "user", "content": question}])
    return str(response.choices[0].message.content)


def map_questions(url: str, questions: Any, **settings: Any) -> Any:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=settings.pop("max_retries", 0))
    return map_requests(ask, questions, client, **{"concurrency": 4, **settings})


@pytest.mark.parametrize("concurrency", [1, 3, 20])
def test_every_item_has_its_result(server: tuple[str, Any], concurrency: int) -> None:
    questions = [f"{number}" for number in range(10)]
    for in_order in (True, False):
        results = list(map_questions(server[0], iter(questions), concurrency=concurrency, in_order=in_order))
        assert sorted(results) == list(enumerate(questions))
        assert results == sorted(results) or not in_order
    assert list(map_questions(server[0], [])) == []


def test_results_come_as_they_are_completed_and_running_requests_are_cancelled(server: tuple[str, Any]) -> None:
    url, handler = server
    with closing(map_questions(url, ["hold", *"abc", "hold"])) as results:
        assert sorted(next(results) for _ in range(3)) == [(1, "a"), (2, "b"), (3, "c")]
        for _ in range(2):
            assert handler.held.acquire(timeout=30)
    for _ in range(2):
        assert handler.dropped.acquire(timeout=30), "the connection is still open"
    assert not [thread for thread in threading.enumerate() if thread.name == "perceptok-requests"]


def test_an_error_cancels_the_others(server: tuple[str, Any]) -> None:
    url, handler = server
    handler.failures.append(400)
    with pytest.raises(openai.BadRequestError):
        list(map_questions(url, ["hold", "hold", "x", *"never sent"], concurrency=3))
    held = sum(question == "hold" for question in handler.questions)
    assert all(handler.dropped.acquire(timeout=30) for _ in range(held))
    assert len(handler.questions) < 8


def test_a_request_that_waits_to_be_sent_again_is_cancelled(server: tuple[str, Any]) -> None:
    """The client waits for seconds between its attempts; Ctrl-C does not."""
    url, handler = server
    handler.failures += [503] * 100
    with pytest.raises(KeyboardInterrupt):
        for _ in map_questions(url, iter(InterruptedItems(handler)), max_retries=90):
            pass
    asked = len(handler.questions)
    assert handler.dropped.acquire(timeout=30)
    assert len(handler.questions) == asked < 50


class InterruptedItems:
    """Two questions, and Ctrl-C once the server has both."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __iter__(self) -> Iterator[str]:
        yield "hold"
        yield "busy"
        assert self.handler.held.acquire(timeout=30)
        while "busy" not in self.handler.questions:
            time.sleep(0.01)
        raise KeyboardInterrupt


def test_items_are_drawn_as_they_are_asked(server: tuple[str, Any]) -> None:
    drawn: list[int] = []

    def draw() -> Iterator[str]:
        for number in range(100):
            drawn.append(number)
            yield str(number)

    for in_order in (True, False):
        drawn.clear()
        with closing(map_questions(server[0], draw(), concurrency=2, in_order=in_order)) as results:
            next(results)
            assert len(drawn) <= 6
