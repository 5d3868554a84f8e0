"""Which engine serves, from replies that the engines themselves gave, and the constraint in its form."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from perceptok.decoding import (
    GrammarConfig,
    ServedEngine,
    build_lark_grammar,
    build_request_constraint,
    build_structural_tag,
    detect_engine,
    find_grammar_backend,
)
from perceptok.errors import ConfigError, ConstraintError, EngineError
from tests.decoding.engines.engine_cases import tokenizer, vocabulary
from tests.http_server import JsonHandler, run_http_server

REPLIES: dict[str, dict[str, Any]] = {
    "vllm": {
        "/v1/models": {
            "object": "list",
            "data": [{"id": "tiny", "object": "model", "owned_by": "vllm", "root": "tiny", "max_model_len": 2048}],
        },
        "/version": {"version": "0.32.0"},
    },
    "sglang": {
        "/v1/models": {"data": [{"id": "tiny", "owned_by": "sglang", "root": "tiny", "max_model_len": 4096}]},
        "/server_info": {"version": "0.5.23", "model_path": "tiny"},
    },
    "llama.cpp": {
        "/v1/models": {"data": [{"id": "tiny.gguf", "owned_by": "llamacpp", "meta": {"n_vocab": 800, "n_ctx": 512}}]},
        "/props": {"build_info": "b11434", "model_path": "tiny.gguf"},
    },
    "perceptok": {
        "/v1/models": {"data": [{"id": "my-adapter", "owned_by": "perceptok"}]},
        "/health": {"status": "ok", "version": "0.1.0"},
    },
}


@contextmanager
def serve(replies: dict[str, Any], api_key: str | None = None) -> Iterator[str]:
    """The address of a server that answers GET requests: a JSON value, bytes as they are, or an int as a status."""

    class Handler(JsonHandler):
        def answer_get(self) -> None:
            reply = replies.get(self.path, 404)
            if api_key is not None and self.headers.get("Authorization") != f"Bearer {api_key}":
                reply = 401
            self.send_json(reply if isinstance(reply, int) else 200, reply)

    with run_http_server(Handler) as url:
        yield url


@pytest.mark.parametrize(
    ("name", "model", "version", "max_model_len"),
    [
        ("vllm", "tiny", "0.32.0", 2048),
        ("sglang", "tiny", "0.5.23", 4096),
        ("llama.cpp", "tiny.gguf", "b11434", 512),
        ("perceptok", "my-adapter", "0.1.0", None),
    ],
)
def test_every_engine_is_recognised(name: Any, model: str, version: str, max_model_len: int | None) -> None:
    with serve(REPLIES[name]) as url:
        root = "tiny" if name in ("vllm", "sglang") else None
        expected = ServedEngine(name, url, (model,), version, max_model_len, root)
        for address in (url, f"{url}/", f"{url}/v1", f" {url}/v1/ "):
            assert detect_engine(address) == expected
        assert expected.api_url == f"{url}/v1"


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama.cpp"])
def test_an_engine_behind_a_gateway_is_recognised_by_its_endpoints(name: str) -> None:
    listing = {"data": [{"id": "alias", "owned_by": "our-company"}, {"id": "other"}]}
    with serve({**REPLIES[name], "/v1/models": listing, "/health": {"version": "7"}}) as url:
        engine = detect_engine(url)
        assert (engine.name, engine.models) == (name, ("alias", "other"))


@pytest.mark.parametrize(
    "reply", [["?"], {}, {"version": None}, {"version": ["?"]}, {"version": {}}, b"0.32.0", 404, 500]
)
def test_a_version_that_is_not_stated_is_unknown(reply: Any) -> None:
    with serve({"/v1/models": REPLIES["vllm"]["/v1/models"], "/version": reply}) as url:
        engine = detect_engine(url)
        assert (engine.name, engine.version) == ("vllm", None)
        assert "does not state its version" in (engine.version_warning or "")


def test_a_key_is_sent() -> None:
    with serve(REPLIES["vllm"], api_key="secret") as url:
        assert detect_engine(url, api_key="secret").name == "vllm"
        for key in (None, "wrong"):
            with pytest.raises(EngineError, match="asks for a valid API key") as caught:
                detect_engine(url, api_key=key)
            assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (
            {"data": [{"id": "gpt", "owned_by": "openai"}]},
            r"not recognised as one of perceptok, vllm, sglang, llama\.cpp",
        ),
        ({"data": []}, "serves no model"),
        ({"data": [{"name": "x"}]}, "not a list of models"),
        ({"models": []}, "not a list of models"),
        ([], "not a list of models"),
        (b"<html>hello</html>", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (503, "HTTP 503"),
        (404, "HTTP 404"),
        (b" " * (16 * 2**20 + 1), "more than"),
    ],
)
def test_other_servers_are_refused(listing: Any, message: str) -> None:
    with serve({"/v1/models": listing}) as url, pytest.raises(EngineError, match=message):
        detect_engine(url)


def test_no_server_and_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(EngineError, match="no server answers"):
            detect_engine(f"http://127.0.0.1:{port}", timeout=0.2)
    with pytest.raises(EngineError, match="start it, or correct the address"):
        detect_engine(f"http://127.0.0.1:{port}", timeout=5)


def test_a_reply_that_is_not_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(EngineError, match="not valid HTTP"):
            detect_engine(f"http://127.0.0.1:{other.getsockname()[1]}", timeout=5)
        thread.join()


@pytest.mark.parametrize(
    "url", ["localhost:8000", "file:///etc/passwd", "ftp://host", "http://", "", "http://h:99999", "http://[::1", "h"]
)
def test_addresses_that_are_not_of_a_server(url: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        detect_engine(url)


def test_a_key_does_not_belong_into_the_address() -> None:
    for url in ("http://user:secret@host", "http://host/?key=secret"):
        with pytest.raises(ConfigError, match="api_key") as caught:
            detect_engine(url)
        assert "secret" not in str(caught.value)


def test_the_constraint_has_the_engines_form() -> None:
    config = GrammarConfig(force_block="first", max_blocks=1)
    own = build_request_constraint("perceptok", vocabulary(), config)
    assert own == {"perceptok": config.to_dict()}
    assert build_request_constraint("perceptok", vocabulary()) == {"perceptok": True}
    vllm = build_request_constraint("vllm", vocabulary(), config, tokenizer=tokenizer())
    tag = json.loads(vllm["structured_outputs"]["structural_tag"])
    assert tag["type"] == "structural_tag"
    assert build_request_constraint("sglang", vocabulary(), config, tokenizer=tokenizer()) == {"response_format": tag}
    gbnf = build_request_constraint("llama.cpp", vocabulary(), config, tokenizer=tokenizer())["grammar"]
    assert gbnf.startswith("root ::= block")


def test_the_constraint_has_the_form_of_the_grammar_backend() -> None:
    build = partial(build_request_constraint, vocab=vocabulary(), tokenizer=tokenizer())
    tag = build_structural_tag(vocabulary(), tokenizer=tokenizer(), ordered_axes="x")
    assert build("sglang", ordered_axes="x", grammar_backend="xgrammar") == {"response_format": tag}
    lark = build_lark_grammar(vocabulary(), tokenizer=tokenizer())
    assert build("sglang", grammar_backend="llguidance") == {"ebnf": lark}
    assert build("vllm", grammar_backend="llguidance") == {"structured_outputs": {"grammar": lark}}
    for backend in ("outlines", "none", ""):
        with pytest.raises(ConstraintError, match=f"the server compiles grammars by '{backend}'"):
            build("sglang", grammar_backend=backend)


@pytest.mark.parametrize(
    ("refused", "expected"),
    [((), "xgrammar"), (("structural_tag",), "llguidance"), (("structural_tag", "grammar"), None)],
)
@pytest.mark.parametrize("status", [400, 500])
def test_the_grammar_backend_of_vllm_is_found(refused: tuple[str, ...], expected: str | None, status: int) -> None:
    bodies: list[Any] = []

    class Handler(JsonHandler):
        def answer_get(self) -> None:
            self.send_json(200, REPLIES["vllm"].get(self.path, {}))

        def answer_post(self) -> None:
            bodies.append(self.read_json())
            (form,) = bodies[-1]["structured_outputs"]
            self.send_json(status if form in refused else 200, {})

    with run_http_server(Handler) as url:
        assert find_grammar_backend(detect_engine(url), vocabulary()) == expected
    assert len(bodies) == min(2, 1 + len(refused))
    assert all(body["max_tokens"] == 1 for body in bodies)
    for engine in (ServedEngine("llama.cpp", url, ("m",)), ServedEngine("sglang", url, ("m",))):
        assert find_grammar_backend(engine, vocabulary()) is None, "nothing is sent"
    assert find_grammar_backend(ServedEngine("vllm", url, ("m",), grammar_backend="x"), vocabulary()) == "x"


def test_the_backend_of_grammars_is_read_where_it_is_stated() -> None:
    replies = {**REPLIES["sglang"], "/server_info": {"version": "0.5.23", "grammar_backend": "llguidance"}}
    for stated, expected in (("llguidance", "llguidance"), (None, None), (["?"], None)):
        replies["/server_info"]["grammar_backend"] = stated
        with serve(replies) as url:
            assert detect_engine(url).grammar_backend == expected


@pytest.mark.parametrize(
    ("name", "stated", "is_tried"),
    [
        ("vllm", "0.32.0", True),
        ("vllm", "0.32.0+cpu", True),
        ("vllm", "0.32.01", False),
        ("vllm", "0.9.2", False),
        ("vllm", "99.0.dev1+gabcdef", False),
        ("vllm", "", False),
        ("sglang", "0.5.23", True),
        ("sglang", "0.6", False),
        ("llama.cpp", "b11549-1a2b3c4", True),
        ("llama.cpp", "b9999-1a2b3c4", False),
        ("perceptok", "7", True),
    ],
)
def test_a_version_that_was_not_tried_is_a_warning(name: Any, stated: str, is_tried: bool) -> None:
    endpoint, key = {"vllm": ("/version", "version"), "sglang": ("/server_info", "version")}.get(
        name, ("/props", "build_info") if name == "llama.cpp" else ("/health", "version")
    )
    with serve({**REPLIES[name], endpoint: {key: stated}}) as url:
        engine = detect_engine(url)
    assert engine.version == stated
    if is_tried:
        assert engine.version_warning is None
    else:
        assert engine.version_warning is not None
        assert f"perceptok decoding check --server {url}" in engine.version_warning
        assert (f"states the version {stated}" if stated else "does not state its version") in engine.version_warning


def test_engines_without_such_a_field_are_refused() -> None:
    with pytest.raises(ConstraintError, match=r"'lmdeploy' is not one of 'perceptok', 'vllm', 'sglang', 'llama\.cpp'"):
        build_request_constraint("lmdeploy", vocabulary())  # type: ignore[arg-type]
    with pytest.raises(ConstraintError, match="spelled=True"):
        build_request_constraint("openvino", vocabulary())  # type: ignore[arg-type]
