"""llama.cpp: conversion to GGUF by its converter, and its server under GBNF grammars."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from perceptok.decoding import GrammarConfig, detect_engine
from tests.engines.served_checks import (
    ask,
    build_constraint,
    check_budget_cuts,
    check_constrained_answers,
    check_ten_requests_at_once,
    open_client,
)

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
ENGINE = "llama.cpp"


def build_command(python: Path, model: Path, port: int) -> list[str]:
    from serve_llama_cpp import build_command

    return build_command(python, model, port)


def test_the_engine_is_recognised(server: str) -> None:
    engine = detect_engine(server)
    assert engine.name == "llama.cpp"
    assert engine.version


def test_blocks_and_boxes_are_whole(server: str, tiny_model: Path) -> None:
    check_constrained_answers(server, tiny_model)


def test_ten_requests_at_once(server: str, tiny_model: Path) -> None:
    check_ten_requests_at_once(server, tiny_model)


def test_the_budget_cuts_a_block(server: str, tiny_model: Path) -> None:
    check_budget_cuts(server, tiny_model)


def test_a_compact_box_first(server: str, tiny_model: Path) -> None:
    body = build_constraint(server, tiny_model, GrammarConfig(boxes="compact", first="box"))
    text, _ = ask(open_client(server), 1, 40, body)
    assert text.count("<PIXEL_", 0, text.find(">", 40)) >= 3
    assert text.startswith("<PIXEL_")


def test_a_grammar_that_is_not_valid_is_a_bad_request(server: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(open_client(server), 0, 50, {"grammar": "root ::= missing"})
    assert caught.value.status_code == 400
