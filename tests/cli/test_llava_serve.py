"""`perceptok llava serve` as a process: it answers, logs JSON, holds its port, and finishes at SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import perceptok as pt
from perceptok_cli.main import app
from tests.llava.answering import make_image
from tests.llava.conftest import codec, tiny_adapter, tiny_llava

openai = pytest.importorskip("openai", reason="openai is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from tests.llava.serving.conftest import make_messages  # noqa: E402 - it needs what is looked for above

__all__ = ["codec", "tiny_adapter", "tiny_llava"]

COMMAND = [sys.executable, "-m", "perceptok_cli.main", "llava", "serve"]


def wait_for_url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("{") and json.loads(line)["event"] == "listening":
            return str(json.loads(line)["url"])
    raise AssertionError("the server did not start")


def test_a_second_signal_ends_the_server_at_once(tiny_adapter: Path) -> None:
    words = [*COMMAND, str(tiny_adapter), "--port", "0", "--served-model-name", "tiny"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = wait_for_url(process)
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                grammar = {"perception": {"grammar": {"depth": False, "boxes": None}}}
                stream = client.chat.completions.create(
                    model="tiny",
                    messages=make_messages(make_image(60, 40)),
                    max_tokens=1900,
                    temperature=2.0,
                    seed=1,
                    extra_body=grammar,
                    stream=True,
                )
                next(iter(stream))
                process.send_signal(signal.SIGINT)
                next(line for line in process.stderr or () if "Shutting down" in line)
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == -signal.SIGINT
        finally:
            process.kill()


def test_a_server_from_start_to_end(tiny_adapter: Path, codec: pt.DepthCodec) -> None:
    words = [*COMMAND, str(tiny_adapter), "--port", "0", "--served-model-name", "tiny"]
    environment = {**os.environ, "PERCEPTOK_API_KEY": "key"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = wait_for_url(process)
            second = subprocess.run(
                [*COMMAND, str(tiny_adapter), "--port", url.rpartition(":")[2]],
                capture_output=True,
                text=True,
                check=False,
            )
            assert second.returncode == 2
            assert "is in use; stop the other server, or choose another port (--port)" in second.stderr
            assert "Traceback" not in second.stderr
            with openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as client:
                results: list[Any] = []

                def ask() -> None:
                    results.append(
                        client.chat.completions.create(
                            model="tiny", messages=make_messages(make_image(60, 40)), max_tokens=300
                        )
                    )

                thread = threading.Thread(target=ask)
                thread.start()
                while "perceptok_running 1.0" not in httpx.get(f"{url}/metrics").text:
                    assert thread.is_alive()
                process.send_signal(signal.SIGTERM)
                thread.join(60)
                assert results[0].choices[0].message.content  # what ran was finished
            rest = [json.loads(line) for line in process.stderr or () if line.startswith("{")]
            assert process.wait(30) == 0
        finally:
            process.kill()
    request = next(line for line in rest if line.get("path") == "/v1/chat/completions")
    assert request["status"] == 200
    assert rest[-1]["event"] == "stopped"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "99999"], "port must be between"),
        (["--images", "nowhere"], "no such folder of images"),
        (["--host", "no such host"], "cannot listen on"),
        (["--port", "0", "--bits", "3"], "--bits is 4 or 8"),
    ],
)
def test_a_wrong_option_is_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["llava", "serve", str(tmp_path), *options])
    assert isinstance(result.exception, pt.errors.PerceptokError)
    assert message in str(result.exception)
