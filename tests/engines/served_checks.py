"""What every engine with OpenAI's API has to do under a constraint, asked over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
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


def check_constrained_answers(url: str, folder: Path, *, num_requests: int = 9) -> None:
    constrained = check_server(url, tokenizer=folder, num_requests=num_requests)
    assert constrained.is_enforced, constrained
    assert constrained.blocks.whole >= num_requests // 3
    assert constrained.boxes.whole + constrained.boxes.unordered >= num_requests // 3
    assert constrained.is_vocabulary_checked
    free = check_server(url, tokenizer=folder, num_requests=3, is_constrained=False)
    assert not free.is_enforced
    assert free.stray_tokens > 0


def check_ten_requests_at_once(url: str, folder: Path) -> None:
    client, body = open_client(url), build_constraint(url, folder, GrammarConfig(force_block="first", max_blocks=1))
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda seed: ask(client, seed, 130, body), range(10)))
    for text, _ in answers:
        assert len(pt.parse_generation(text).blocks) == 1
        assert text.startswith(pt.tokens.DEPTH.start)
    assert len({text for text, _ in answers}) > 1


def check_budget_cuts(url: str, folder: Path) -> None:
    """A grammar does not know the budget: the block is cut, and the reader says so."""
    body = build_constraint(url, folder, GrammarConfig(force_block="first", max_blocks=1))
    text, reason = ask(open_client(url), 0, 50, body)
    assert reason == "length"
    (problem,) = pt.parse_generation(text).problems
    assert "unclosed depth block of 49 codes" in problem.message
