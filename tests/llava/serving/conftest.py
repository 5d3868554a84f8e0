"""A server on a free port of this machine, in a thread, over the tiny model that writes blocks."""

from __future__ import annotations

import base64
import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import perceptok as pt
from perceptok.llava import PerceptionPipeline, ServingConfig, create_app
from perceptok.llava.serving.server import open_listening_socket
from tests.llava.answering import leaning_pipeline, make_image

uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")
openai = pytest.importorskip("openai", reason="openai is not installed")

from perceptok.llava.serving.connections import ClientConnection  # noqa: E402 - it needs uvicorn


@dataclass
class Served:
    """A running server: its URL, its application and an OpenAI client without retries."""

    url: str
    app: Any
    client: Any

    @property
    def batcher(self) -> Any:
        return self.app.state.batcher


@contextmanager
def run_server(pipe: PerceptionPipeline, config: ServingConfig, *, send_buffer: int | None = None) -> Iterator[Served]:
    """A server; with a small `send_buffer`, in bytes, it notices soon that a client does not read."""
    config = replace(config, port=0)
    with open_listening_socket(config) as opened:
        if send_buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        url = f"http://127.0.0.1:{opened.getsockname()[1]}"
        app = create_app(pipe, config)
        connection = partial(ClientConnection, client_timeout=config.client_timeout)
        settings = uvicorn.Config(app, http=connection, ws="none", log_config=None, timeout_graceful_shutdown=20)
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            with openai.OpenAI(base_url=f"{url}/v1", api_key=config.api_key or "none", max_retries=0) as client:
                yield Served(url, app, client)
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="session")
def pipe(tiny_llava: Path, codec: pt.DepthCodec) -> PerceptionPipeline:
    return leaning_pipeline(tiny_llava, codec)


@pytest.fixture(scope="session")
def served(pipe: PerceptionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a folder of one image, `rooms/kitchen.png`, and a wait that lets requests meet."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "rooms").mkdir()
    make_image(60, 40).save(folder / "rooms" / "kitchen.png")
    (folder.parent / "outside.png").write_bytes((folder / "rooms" / "kitchen.png").read_bytes())
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "self").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    with run_server(pipe, ServingConfig(images=folder, batch_wait=0.2, max_image_pixels=1_000_000)) as running:
        yield running


def to_data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def make_messages(image: Image.Image | str, question: str = "Why?") -> list[dict[str, Any]]:
    url = image if isinstance(image, str) else to_data_url(image)
    return [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}],
        }
    ]


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Waits for a condition; fails after a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "the condition did not become true"
            time.sleep(0.01)

    return wait
