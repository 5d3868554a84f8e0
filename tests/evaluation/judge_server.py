"""A judge's endpoint: a small server, compatible with OpenAI's API, whose replies a function chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.http_server import JsonHandler, run_http_server

Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class JudgeServer:
    """What an endpoint replies, and what it was asked.

    Attributes:
        url: Its address.
        answer: Body of a request -> HTTP status, and the reply's text or a whole body.
        requests: The bodies that came.
        keys: The `Authorization` of each.
    """

    url: str

    def __init__(self) -> None:
        self.answer: Answer = lambda body: (200, "none")
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []


@contextmanager
def run_judge_server() -> Iterator[JudgeServer]:
    """A server that replies "none" until told otherwise, for as long as the `with` block."""
    server = JudgeServer()

    class Handler(JsonHandler):
        def answer_post(self) -> None:
            body = self.read_json()
            server.requests.append(body)
            server.keys.append(self.headers["Authorization"])
            status, reply = server.answer(body)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
            completion = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            self.send_json(status, completion if isinstance(reply, str) else reply)

    with run_http_server(Handler) as server.url:
        yield server
