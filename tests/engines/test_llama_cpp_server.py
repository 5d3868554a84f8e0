"""llama.cpp: conversion to GGUF by its converter, and its server under GBNF grammars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import AutoTokenizer

from perceptok import PerceptionVocabulary
from perceptok.decoding import GrammarConfig, build_gbnf_grammar
from tests.engines.served_checks import (
    ServedEngineTests,
    ask,
    build_constraint,
    open_client,
)

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
ENGINE, SCRIPT = "llama.cpp", "serve_llama_cpp"


class TestServer(ServedEngineTests):
    """The tests of every engine."""

    def constrain_block(self, server: str, model: Path) -> dict[str, Any]:
        # By default an untrained model may spell a code in several tokens.
        tokenizer = AutoTokenizer.from_pretrained(model)
        vocab = PerceptionVocabulary.from_pretrained(model, tokenizer)
        grammar = GrammarConfig(force_block="first", max_blocks=1)
        return {"grammar": build_gbnf_grammar(vocab, grammar, tokenizer=tokenizer, spelled=False)}


def test_a_compact_box_first(server: str, tiny_model: Path) -> None:
    body = build_constraint(server, tiny_model, GrammarConfig(boxes="compact", first="box"))
    text, _ = ask(open_client(server), 1, 40, body)
    assert text.count("<PIXEL_", 0, text.find(">", 40)) >= 3
    assert text.startswith("<PIXEL_")


def test_a_grammar_that_is_not_valid_is_a_bad_request(server: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(open_client(server), 0, 50, {"grammar": "root ::= missing"})
    assert caught.value.status_code == 400
