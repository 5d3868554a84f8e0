"""What every engine with OpenAI's API has to do under a constraint, asked over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import AutoTokenizer

import perceptok as pt
from perceptok.decoding import GrammarConfig, build_request_constraint, check_server, detect_engine


def open_client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=600, max_retries=0)


def build_constraint(url: str, folder: Path, config: GrammarConfig, **settings: Any) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocab = pt.PerceptionVocabulary.from_pretrained(folder, tokenizer)
    return build_request_constraint(detect_engine(url).name, vocab, config, tokenizer=tokenizer, **settings)


def ask(client: openai.OpenAI, seed: int, max_tokens: int, body: dict[str, Any]) -> tuple[str, str]:
    """The text of an answer, and why it ended."""
    model = client.models.list().data[0].id
    messages: Any = [{"role": "user", "content": "The depth map"}]
    reply = client.chat.completions.create(
        model=model, messages=messages, max_tokens=max_tokens, temperature=1.0, seed=seed, extra_body=body
    )
    return reply.choices[0].message.content or "", reply.choices[0].finish_reason


class ServedEngineTests:
    """The tests that every engine has to pass; each engine's module has a subclass."""

    def constrain_block(self, server: str, model: Path) -> dict[str, Any]:
        """A block at the beginning, each code of which is one token."""
        return build_constraint(server, model, GrammarConfig(force_block="first", max_blocks=1))

    def test_the_engine_is_recognised(self, server: str, request: pytest.FixtureRequest) -> None:
        engine = detect_engine(server)
        assert engine.name == request.module.ENGINE
        assert engine.version

    def test_blocks_and_boxes_are_whole(self, server: str, tiny_model: Path) -> None:
        constrained = check_server(server, tokenizer=tiny_model, num_requests=9)
        assert constrained.is_enforced, constrained
        assert constrained.blocks.whole >= 3
        assert constrained.boxes.whole + constrained.boxes.unordered >= 3
        assert constrained.is_vocabulary_checked
        free = check_server(server, tokenizer=tiny_model, num_requests=3, is_constrained=False)
        assert not free.is_enforced
        assert free.stray_tokens > 0

    def test_ten_requests_at_once(self, server: str, tiny_model: Path) -> None:
        client, body = open_client(server), self.constrain_block(server, tiny_model)
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda seed: ask(client, seed, 130, body), range(10)))
        for text, _ in answers:
            assert len(pt.parse_generation(text).blocks) == 1
            assert text.startswith(pt.tokens.DEPTH.start)
        assert len({text for text, _ in answers}) > 1

    def test_the_budget_cuts_a_block(self, server: str, tiny_model: Path) -> None:
        """A grammar does not know the budget: the block is cut, and the reader says so."""
        body = self.constrain_block(server, tiny_model)
        text, reason = ask(open_client(server), 0, 50, body)
        assert reason == "length"
        (problem,) = pt.parse_generation(text).problems
        assert "unclosed depth block of 49 codes" in problem.message
