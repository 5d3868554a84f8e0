"""What a check reports, of a server that gives known answers by OpenAI's API."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.decoding import FormCount, GrammarConfig, check_server, find_violations
from perceptok.errors import ConfigError, EngineError, VocabularyError
from tests.decoding.engines.engine_cases import tokenizer, vocabulary
from tests.http_server import JsonHandler, run_http_server

pytest.importorskip("openai", reason="needs perceptok[client]")

BLOCK = pt.tokens.DEPTH.start + pt.tokens.DEPTH.token(5) * 100 + pt.tokens.DEPTH.end
BOX = "(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)"
Reply = Callable[[dict[str, Any]], tuple[int, Any]]


def reply_with(text: str, finish_reason: str = "stop") -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return lambda request: (200, body)


@contextmanager
def serve(
    reply: Reply, owner: str = "vllm", find_ids: Callable[[str], Any] | None = None
) -> Iterator[tuple[str, list[Any]]]:
    """The address of a server with one model, and the requests that it gets."""
    requests: list[dict[str, Any]] = []

    class Handler(JsonHandler):
        protocol_version = "HTTP/1.1"

        def answer_get(self) -> None:
            known = self.path == "/v1/models"
            self.send_json(200 if known else 404, {"data": [{"id": "m", "owned_by": owner}]} if known else {})

        def answer_post(self) -> None:
            request = self.read_json()
            if self.path == "/tokenize":
                ids = find_ids and find_ids(request.get("prompt", request.get("content")))
                self.send_json(404 if ids is None else 200, {"tokens": ids})
            else:
                requests.append(request)
                self.send_json(*reply(request))

    with run_http_server(Handler) as url:
        yield url, requests


@pytest.mark.parametrize(
    ("text", "finish_reason", "blocks", "boxes", "stray"),
    [
        (f"a {BLOCK} b {BOX}", "stop", FormCount(whole=1), FormCount(whole=1), 0),
        (BLOCK + BLOCK, "stop", FormCount(whole=2), FormCount(), 0),
        (BLOCK.replace("_5>", "_5> "), "stop", FormCount(whole=1), FormCount(), 0),
        ("( <PIXEL_1> , <PIXEL_2> , <PIXEL_3> , <PIXEL_4> )", "stop", FormCount(), FormCount(whole=1), 0),
        (BLOCK[:200], "length", FormCount(cut=1), FormCount(), 0),
        (BLOCK[: 14 + 11 * 9 + 4], "length", FormCount(cut=1), FormCount(), 0),
        (BLOCK[:-11], "length", FormCount(cut=1), FormCount(), 0),
        (BLOCK[:-11], "stop", FormCount(broken=1), FormCount(), 0),
        (BLOCK[:-11] + " and", "length", FormCount(broken=1), FormCount(), 0),
        (BLOCK.replace("<DEPTH_5>", "", 1), "stop", FormCount(broken=1), FormCount(), 0),
        (f"{BOX}(<PIXEL_9>,<PIXEL_2>,<PIXEL_3>", "length", FormCount(), FormCount(whole=1, cut=1), 0),
        ("(<PIXEL_9>,<PIXEL_2>,", "length", FormCount(), FormCount(cut=1), 0),
        ("(<PIXEL_9>,<PIXEL_2>,", "stop", FormCount(), FormCount(broken=1), 0),
        ("(<PIXEL_9>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)", "stop", FormCount(), FormCount(unordered=1), 0),
        ("(<PIXEL_1>,<PIXEL_9>,<PIXEL_3>,<PIXEL_4>)", "stop", FormCount(), FormCount(unordered=1), 0),
        ("(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_336>)", "stop", FormCount(), FormCount(broken=1), 0),
        ("a <DEPTH_5> b <DEPTH_END>", "stop", FormCount(), FormCount(), 2),
        ("no tokens", "stop", FormCount(), FormCount(), 0),
        ("", "stop", FormCount(), FormCount(), 0),
    ],
)
def test_what_came_is_counted(text: str, finish_reason: str, blocks: FormCount, boxes: FormCount, stray: int) -> None:
    with serve(reply_with(text, finish_reason)) as (url, _):
        check = check_server(url, tokenizer=tokenizer(), num_requests=1)
    assert (check.blocks, check.boxes, check.stray_tokens, check.tokens) == (blocks, boxes, stray, 7)
    whole, broken = blocks.whole + boxes.whole, blocks.broken + boxes.broken + stray
    assert check.is_enforced == (whole > 0 and not broken)
    assert len(find_violations(text, is_cut=finish_reason == "length")) == broken
    assert check.answers == (text,)
    json.dumps(check.to_dict())


def test_requests_carry_the_constraint_of_the_engine() -> None:
    with serve(reply_with(BLOCK)) as (url, requests):
        check_server(url, tokenizer=tokenizer(), num_requests=6, seed=10, max_tokens=99, concurrency=2)
        assert sorted(request["seed"] for request in requests) == list(range(10, 16))
        assert all(request["max_tokens"] == 99 for request in requests)
        tags = {request["structured_outputs"]["structural_tag"] for request in requests}
        assert len(tags) == 3, "a block, a box, and anything"
        requests.clear()
        check_server(url, tokenizer=tokenizer(), num_requests=3, is_constrained=False)
        assert not any("structured_outputs" in request for request in requests)
        requests.clear()
        check_server(url, tokenizer=tokenizer(), num_requests=2, config=GrammarConfig(boxes=None))
        assert len({request["structured_outputs"]["structural_tag"] for request in requests}) == 1


def test_a_server_that_refuses_tags_gets_a_lark_grammar() -> None:
    """As vLLM does once its grammars are compiled by llguidance."""

    def reply(request: dict[str, Any]) -> tuple[int, Any]:
        refused = "structural_tag" in request.get("structured_outputs", {})
        return (500, {"error": {"message": "internal"}}) if refused else reply_with(BOX)(request)

    with serve(reply) as (url, requests):
        check = check_server(url, tokenizer=tokenizer(), num_requests=3)
        assert check.is_enforced
        assert check.engine.grammar_backend == "llguidance"
        assert len({request["structured_outputs"]["grammar"] for request in requests[-3:]}) == 3
        requests.clear()
        assert check_server(url, tokenizer=tokenizer(), num_requests=3, is_constrained=False).boxes.whole == 3
        assert len(requests) == 3


def test_a_server_of_perceptok_gets_an_image_and_needs_no_tokenizer() -> None:
    with serve(reply_with(BLOCK), owner="perceptok") as (url, requests):
        assert check_server(url, num_requests=3).is_enforced
        parts = [part["type"] for part in requests[0]["messages"][0]["content"]]
        assert parts == ["image_url", "text"]
        assert all(isinstance(request["perceptok"], dict) for request in requests)


def test_requests_that_fail_are_reported() -> None:
    def reply(request: dict[str, Any]) -> tuple[int, Any]:
        if request["seed"] == 1:
            return 400, {"error": {"message": "the tag is not valid", "type": "BadRequestError", "code": 400}}
        return reply_with(BLOCK)(request)

    with serve(reply) as (url, _):
        check = check_server(url, tokenizer=tokenizer(), num_requests=4)
    assert len(check.answers) == 3
    assert len(check.failures) == 1
    assert "the tag is not valid" in check.failures[0]
    assert not check.is_enforced


def test_a_reply_that_is_not_a_completion_is_a_failure() -> None:
    for body in ({"choices": []}, {"choices": None}, []):
        with serve(lambda request, body=body: (200, body)) as (url, _):  # type: ignore[misc]
            check = check_server(url, tokenizer=tokenizer(), num_requests=1)
        assert len(check.failures) == 1
        assert not check.answers


def ids_of(token: str) -> list[int]:
    return [vocabulary().tokens[token]]


def test_the_served_vocabulary_is_compared() -> None:
    with serve(reply_with(BLOCK), find_ids=ids_of) as (url, _):
        assert check_server(url, tokenizer=tokenizer(), num_requests=1).is_vocabulary_checked
    with serve(reply_with(BLOCK)) as (url, _):
        assert not check_server(url, tokenizer=tokenizer(), num_requests=1).is_vocabulary_checked
    for find_ids, message in (
        (lambda token: [1, 2, 3, 4], "4 ids, as one that was never extended"),
        (lambda token: [vocabulary().tokens[token] + 1], "the id "),
    ):
        with serve(reply_with(BLOCK), find_ids=find_ids) as (url, requests):
            with pytest.raises(VocabularyError, match=message):
                check_server(url, tokenizer=tokenizer())
            assert not requests


def test_a_tokenizer_that_was_never_extended_or_is_not_named() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with serve(reply_with(BLOCK)) as (url, _):
        with pytest.raises(VocabularyError):
            check_server(url, tokenizer=bare)
        with pytest.raises(EngineError, match="pass the folder of the served model as tokenizer"):
            check_server(url)
        with pytest.raises(EngineError, match="the tokenizer cannot be loaded"):
            check_server(url, tokenizer=Path(__file__).parent)


def test_settings_out_of_range() -> None:
    with serve(reply_with(BLOCK)) as (url, _):
        for settings in ({"num_requests": 0}, {"concurrency": 0}, {"max_tokens": 0}):
            with pytest.raises(ConfigError, match="is at least 1; got 0"):
                check_server(url, tokenizer=tokenizer(), **settings)
        with pytest.raises(ConfigError, match="the server has no model 'other'; it serves 'm'"):
            check_server(url, tokenizer=tokenizer(), model="other")
        with pytest.raises(ConfigError, match="engine is one of"):
            check_server(url, tokenizer=tokenizer(), engine="openai")  # type: ignore[arg-type]


def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perceptok_cli.main", *words], capture_output=True, text=True, check=False
    )


def test_the_command(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    arguments = ["decoding", "check", "--tokenizer", str(tmp_path), "--num-requests", "2", "--server"]
    with serve(reply_with(BLOCK + BOX)) as (url, _):
        done = run_cli(*arguments, url)
        assert done.returncode == 0, done.stderr
        assert "vllm" in done.stdout
        assert "2 answers, 14 tokens" in done.stdout
        found = json.loads(run_cli(*arguments, url, "--json").stdout)
        assert (found["blocks"]["whole"], found["boxes"]["whole"], found["is_enforced"]) == (2, 2, True)
    with serve(reply_with("<DEPTH_5>")) as (url, _):
        assert run_cli(*arguments, url).returncode == 1
    done = run_cli(*arguments, url)
    assert done.returncode == 2
    assert "no server answers" in done.stderr
