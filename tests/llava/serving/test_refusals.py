"""Requests that are refused: each with its status, in OpenAI's form, and nothing is generated."""

from __future__ import annotations

import json
import struct
import zlib
from base64 import b64encode
from typing import Any

import httpx
import pytest
from PIL import Image

from perceptok.errors import ConfigError
from perceptok.llava import PerceptionPipeline, ServingConfig
from tests.llava.answering import make_image
from tests.llava.serving.conftest import Served, make_messages, run_server, to_data_url

IMAGE = make_image(60, 40)
URL = to_data_url(IMAGE)


def post(served: Served, body: Any, **options: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **options.pop("headers", {})}
    return httpx.post(f"{served.url}/v1/chat/completions", content=content, headers=headers, timeout=60, **options)


def make_body(image: str = URL, question: str = "Why?", **fields: Any) -> dict[str, Any]:
    return {"model": "perceptok", "messages": make_messages(image, question), "max_tokens": 3, **fields}


def make_parts(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def make_image_part(width: int, height: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": to_data_url(Image.new("1", (width, height)))}}


def make_huge_png(side: int) -> str:
    """The header of an image with side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return "data:image/png;base64," + b64encode(b"\x89PNG\r\n\x1a\n" + chunk + data).decode()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
"""Pillow would have Ghostscript run it."""


def check_error(response: httpx.Response, status: int, message: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    return error


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.com/a.png", "images are not fetched from URLs (http:)"),
        ("https://example.com/a.png", "images are not fetched from URLs"),
        ("file:///etc/passwd", "images are not fetched from URLs (file:)"),
        ("FILE:rooms/kitchen.png", "images are not fetched"),
        ("ftp://example.com/a.png", "images are not fetched"),
        ("//example.com/a.png", "images are not fetched"),
        ("/etc/hostname", "does not lie in the folder of images"),
        ("../outside.png", "does not lie in the folder of images"),
        ("rooms/../../outside.png", "does not lie in the folder of images"),
        ("link.png", "does not lie in the folder of images"),
        ("a\0b.png", "does not lie in the folder of images"),
        ("", "does not lie in the folder of images"),
        ("rooms", "cannot be read (is a folder"),
        ("nowhere.png", "cannot be read (No such file"),
        ("x" * 5000, "the image 'xxxx"),
        ("data:image/png;base64,####", "not valid base64"),
        ("data:image/png;base64,abc", "not valid base64"),
        ("data:image/png;base64,ü", "not valid base64"),
        ("data:image/png;base64,", "not a readable image"),
        ("data:image/png;base64," + b64encode(b"hello world").decode(), "not a readable image"),
        (URL[: len(URL) // 2 // 4 * 4 + 2], "not a readable image"),
        ("data:image/png,rawbytes", "must begin with data:image/FORMAT;base64,"),
        ("data:text/html;base64,PGI+", "must begin with data:image/FORMAT;base64,"),
        ("data:image/png;base64", "must begin with data:image/FORMAT;base64,"),
        (make_huge_png(10_000), "10000 x 10000 pixels; at most 1,000,000 pixels are allowed: scale it down first"),
        (make_huge_png(30_000), "at most 1,000,000 pixels are allowed: scale it down first"),
        (to_data_url(Image.new("RGB", (2000, 1000))), "at most 1,000,000 pixels are allowed"),
        (make_huge_png(0), "not a readable image"),
        ("data:image/svg+xml;base64," + b64encode(b"<svg/>").decode(), "not a readable image"),
        ("data:image/png;base64," + b64encode(POSTSCRIPT).decode(), "images in the format EPS are not read"),
        ("self/../../outside.png", "does not lie in the folder of images"),
        ("%2e%2e/outside.png", "cannot be read (No such file"),
        ("pipe.png", "cannot be read (is a pipe"),
    ],
)  # fmt: skip
def test_images(served: Served, url: str, message: str) -> None:
    error = check_error(post(served, make_body(url)), 400, message)
    assert len(error["message"]) < 500
    assert "pytest" not in error["message"]  # the folder of images stays unknown


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be between 1 and 2048"),
        ({"max_tokens": 100_000}, "max_tokens must be between 1 and 2048"),
        ({"max_tokens": None, "max_completion_tokens": 100_000}, "max_completion_tokens must be"),
        ({"max_completion_tokens": 9}, "contradict each other"),
        ({"max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
        ({"temperature": -1}, "temperature must be between 0 and 2"),
        ({"temperature": 3}, "temperature must be between 0 and 2"),
        ({"temperature": True}, "temperature: Input should be a valid number"),
        ({"top_p": 0}, "top_p must be a probability"),
        ({"n": 0}, "n must be between 1 and 8"),
        ({"n": 1000}, "n must be between 1 and 8"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop must be up to 4 texts"),
        ({"stop": ""}, "stop must be up to 4 texts"),
        ({"stop": "x", "max_tokens": 200, "perception": {"force_block": "somewhere"}}, "before the end of its forced"),
        *[
            ({"stop": ["ok", stop], "max_tokens": 200, "perception": {"force_block": "first"}}, "of its forced block")
            for stop in (">", "A", "<DEPTH_5><DEPTH_17>", "7", "<DEPTH_END>", "> So")
        ],
        ({"stop": ">", "max_tokens": 200, "perceptok": {"first": "block"}}, "before the end of its forced block"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream"),
        ({"perception": {"force_block": "first"}}, "needs at least 102 tokens"),
        ({"perception": {"force_block": "last"}}, "perception.force_block"),
        ({"perception": {"constraints": False, "force_block": "first"}}, "force_block is a constraint"),
        ({"perception": {"colour": 1}}, "unknown field 'perception.colour'"),
        ({"perception": {"grammar": {"blocks": 2}}}, "blocks"),
        ({"perception": {"choices": ["yes"]}}, "single letters or whole numbers"),
        ({"perception": {"markers": {"A": [1]}}}, "must be x, y"),
        ({"perception": {"ask": "boxes"}}, "does not say what is counted"),
        ({"tools": [{"type": "function"}]}, "'tools' is not supported"),
        ({"response_format": {"type": "json_object"}}, "'response_format' is not supported"),
        ({"presence_penalty": 0.5}, "'presence_penalty' is not supported"),
        ({"logit_bias": {"1": 2}}, "'logit_bias' is not supported"),
        ({"structured_outputs": {"json": {}}}, "'structured_outputs' is not supported"),
        ({"temprature": 1}, "unknown field 'temprature'"),
        ({"messages": []}, "the messages have no image_url part"),
        (
            {"messages": [*make_messages(URL), {"role": "assistant", "content": "A room."}]},
            "begins and ends with the user",
        ),
        ({"messages": make_messages(URL) * 2}, "user and assistant alternate"),
        ({"messages": [{"role": "user", "content": "Why?"}]}, "have no image_url part"),
        ({"messages": make_messages(URL)[0]["content"]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": "Why?"}, "messages"),
        ({"messages": make_parts({"type": "text"})}, "the field 'messages.0.content.0.text' is missing"),
        ({"messages": make_parts({"type": "image_url"})}, "the field 'messages.0.content.0.image_url' is missing"),
        (
            {"messages": make_parts({"type": "text", "text": "a", "image_url": {"url": URL}})},
            "in a part of type 'text'",
        ),
        (
            {"messages": make_parts({"type": "image_url", "image_url": URL})},
            "messages.0.content.0.image_url: Input should be a JSON object",
        ),
        ({"messages": make_parts({"type": "input_audio"})}, "messages.0.content.0.type: Input should be 'text'"),
        ({"messages": make_parts({"text": "a"})}, "the field 'messages.0.content.0.type' is missing"),
        (
            {"messages": make_parts({"type": "image_url", "image_url": {"url": URL, "detail": "high"}})},
            "'messages.0.content.0.image_url.detail' is not supported",
        ),
        ({"messages": [{**make_messages(URL)[0], "name": "Ann"}]}, "'messages.0.name' is not supported"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
            "'messages.0.tool_calls' is not supported",
        ),
        ({"messages": make_parts(*[make_messages(URL)[0]["content"][0]] * 9)}, "have 9 images; at most 8 are allowed"),
        ({"messages": make_parts(*[make_image_part(800, 800)] * 2)}, "1,280,000 pixels together; at most 1,000,000"),
        ({"perception": 5}, "perception: Input should be a JSON object"),
        ({"perceptok": "yes"}, "perceptok: Input should be a"),
        ({"messages": make_messages(URL, "")}, "must be a string that is not empty"),
        (
            {"messages": [{"role": "system", "content": " "}, *make_messages(URL)]},
            "message 0: the system text is empty",
        ),
        ({"messages": make_messages(URL, "w" * 9000)}, "no tokens are left for an answer"),
    ],
)
def test_fields(served: Served, fields: dict[str, Any], message: str) -> None:
    check_error(post(served, make_body() | fields), 400, message)
    if "stream_options" not in fields:
        check_error(post(served, make_body(stream=True) | fields), 400, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"\xff{}", "not valid UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"model": NaN}', ""),
        (b"{}", "the field 'model' is missing"),
        (json.dumps({str(number): 1 for number in range(20_000)}).encode(), "more than 10,000 values"),
        (json.dumps(make_body() | {"perception": {"choices": ["A"] * 9000}}).encode(), "choice"),
    ],
)
def test_bodies(served: Served, body: bytes, message: str) -> None:
    error = check_error(post(served, body), 400, message)
    assert len(error["message"]) <= 1003


def test_other_paths_and_content_types(served: Served) -> None:
    check_error(httpx.get(f"{served.url}/nowhere"), 404, "unknown path; there are POST /v1/chat/completions")
    for path in ("/", "/health"):
        assert httpx.head(f"{served.url}{path}").status_code == 200
    other_method = httpx.get(f"{served.url}/v1/chat/completions")
    check_error(other_method, 405, "method not allowed")
    assert other_method.headers["allow"] == "POST"
    compressed = {"content-encoding": "gzip"}
    check_error(post(served, make_body(), headers=compressed), 415, "compressed bodies are not read")
    check_error(post(served, make_body(), headers={"content-type": "text/plain"}), 415, "application/json")
    check_error(httpx.get(f"{served.url}/v1/models/other"), 404, "does not exist")
    check_error(httpx.get(f"{served.url}/health", headers={"host": "evil.example"}), 403, "not allowed")
    check_error(httpx.get(f"{served.url}/docs"), 404, "unknown path")


def test_limits_key_and_no_folder(pipe: PerceptionPipeline) -> None:
    config = ServingConfig(api_key="geheim-ü", max_body_bytes=20_000, max_image_bytes=8_000, max_tokens=50)
    key = {"authorization": "Bearer geheim-ü".encode()}
    with run_server(pipe, config) as served:
        check_error(post(served, make_body()), 401, "the API key is missing or wrong")
        wrong = check_error(post(served, make_body(), headers={"authorization": "Bearer x"}), 401, "missing or wrong")
        assert wrong["type"] == "authentication_error"
        assert httpx.get(f"{served.url}/health").status_code == 200
        content = json.dumps(make_body()).encode()

        def send(body: bytes) -> httpx.Response:
            headers = [(b"content-type", b"application/json"), (b"authorization", key["authorization"])]
            return httpx.post(f"{served.url}/v1/chat/completions", content=body, headers=headers, timeout=60)

        assert send(content).status_code == 200
        check_error(send(b'{"a": "' + b"x" * 60_000 + b'"}'), 413, "more than 20,000 bytes")
        check_error(send(json.dumps(make_body("rooms/kitchen.png")).encode()), 400, "without a folder of images")
        large = "data:image/png;base64," + b64encode(b"x" * 9_000).decode()
        check_error(send(json.dumps(make_body(large)).encode()), 400, "at most 8,000 are allowed")
        check_error(send(json.dumps(make_body(max_tokens=51)).encode()), 400, "between 1 and 50")
        # Without max_tokens the default is what the server allows.
        default = json.loads(content)
        del default["max_tokens"]
        assert send(json.dumps(default).encode()).json()["usage"]["completion_tokens"] <= 50


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": 70_000}, "port must be"),
        ({"max_queue": 0}, "max_queue must be at least 1"),
        ({"timeout": 0.0}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"batch_wait": -1.0}, "batch_wait must be"),
        ({"api_key": " "}, "api_key must not be empty"),
        ({"served_model_name": ""}, "served_model_name"),
        ({"max_image_pixels": 0}, "max_image_pixels"),
    ],
)
def test_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServingConfig(**values)
