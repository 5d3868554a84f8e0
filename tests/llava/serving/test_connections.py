"""Clients that do not read, or do not send what is due: their connections are dropped, others' are not."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from perceptok.llava import PerceptionPipeline, ServingConfig
from tests.llava.answering import make_image
from tests.llava.serving.conftest import ClientConnection, make_messages, run_server, uvicorn

REQUEST = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
Wait = Callable[[Callable[[], bool]], None]
SIZE = 1_000_000
CHUNKS = 40


async def send_bytes(scope: Any, receive: Any, send: Any) -> None:
    """An application that sends a million bytes, whole or as a stream; for "/body" the size of the request's body."""
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message["more_body"]:
            break
    content = b"%d" % size if scope["path"] == "/body" else b"x" * SIZE
    length = str(len(content)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    step = SIZE // CHUNKS if scope["path"] == "/stream" else SIZE
    for start in range(0, len(content), step):
        is_last = start + step >= len(content)
        await send({"type": "http.response.body", "body": content[start : start + step], "more_body": not is_last})


@contextmanager
def run_application(client_timeout: float) -> Iterator[tuple[Any, Callable[[], socket.socket]]]:
    """A server, and what connects to it: with small buffers, so that the server notices a client that waits."""
    connection = partial(ClientConnection, client_timeout=client_timeout)
    settings = uvicorn.Config(
        send_bytes, http=connection, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1
    )
    server = uvicorn.Server(settings)
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        while not server.started:
            time.sleep(0.01)

        def connect() -> socket.socket:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(60)
            client.connect(opened.getsockname())
            return client

        try:
            yield server, connect
        finally:
            server.should_exit = True
            thread.join(30)


def read_to_end(client: socket.socket, size: int = 65536) -> bytes:
    """What a server sends until it closes the connection."""
    received = b""
    try:
        while data := client.recv(size):
            received += data
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("path", [b"stream", b"whole"])
def test_a_client_that_does_not_read_is_dropped(path: bytes, wait_until: Wait) -> None:
    with run_application(0.2) as (server, connect), connect() as client:
        client.sendall(REQUEST % path)
        assert client.recv(1)
        wait_until(lambda: not server.server_state.connections)
        assert len(read_to_end(client)) < SIZE


@pytest.mark.parametrize("path", [b"stream", b"whole"])
def test_a_client_that_reads_slowly_is_not(path: bytes) -> None:
    with run_application(0.5) as (_, connect), connect() as client:
        client.sendall(REQUEST % path)
        received, start = b"", time.monotonic()
        while len(received) < SIZE:
            data = client.recv(SIZE // 20)
            assert data, f"dropped after {len(received)} bytes"
            received += data
            if time.monotonic() < start + 2:
                time.sleep(0.02)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_a_client_that_sends_no_whole_request_is_dropped(sent: bytes, is_first: bool) -> None:
    with run_application(0.2) as (_, connect), connect() as client:
        if not is_first:
            client.sendall(POST + b"0123456789")
            response = client.recv(1000)
            while not response.endswith(b"\r\n\r\n10"):
                response += client.recv(1000)
        client.sendall(sent)
        assert read_to_end(client) == b""


def test_a_body_that_takes_longer_is_read() -> None:
    with run_application(0.2) as (_, connect), connect() as client:
        client.sendall(POST)
        for _ in range(10):
            time.sleep(0.05)
            client.sendall(b"x")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_stream_that_is_not_read_frees_its_place(pipe: PerceptionPipeline, wait_until: Wait) -> None:
    request = {
        "model": "perceptok",
        "messages": make_messages(make_image(60, 40)),
        "max_tokens": 1900,
        "stream": True,
        "temperature": 1.0,
        "logprobs": True,
        "top_logprobs": 20,
        "perception": {"grammar": {"boxes": None}, "row_maps": True},
    }
    body = json.dumps(request).encode()
    fields = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n\r\n".encode()
    with run_server(pipe, ServingConfig(client_timeout=0.3), send_buffer=4096) as served, socket.socket() as client:
        # Both buffers are small: a machine's default may hold the whole stream, which nobody then has to read.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", int(served.url.rsplit(":", 1)[1])))
        client.sendall(head + body)
        received = client.recv(15)
        wait_until(lambda: served.batcher.running == 0)
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65536):
                received += part
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"[DONE]" not in received
