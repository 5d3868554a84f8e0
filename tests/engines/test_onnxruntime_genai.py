"""onnxruntime-genai itself: conversion to ONNX, and generation under the Lark grammar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import perceptok as pt
from perceptok.decoding import GrammarConfig, build_lark_grammar, compile_grammar
from perceptok.decoding.grammar.token_symbols import classify_tokens
from perceptok.errors import CheckpointError

og = pytest.importorskip("onnxruntime_genai", reason="needs perceptok[onnx]")
pytest.importorskip("onnx_ir", reason="needs perceptok[onnx]")


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pt.llava.convert_checkpoint(tiny_model, tmp_path_factory.mktemp("onnx") / "model", format="onnx")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return og.Model(str(folder))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def vocab(tiny_model: Path, tokenizer: Any) -> pt.PerceptionVocabulary:
    return pt.PerceptionVocabulary.from_pretrained(tiny_model, tokenizer)


def generate(model: Any, grammar: str | None, seed: int, max_new_tokens: int = 240) -> list[int]:
    from generate_onnxruntime_genai import generate

    return generate(model, "The depth map", grammar, seed=seed, max_new_tokens=max_new_tokens)


@pytest.mark.parametrize(
    "config",
    [
        GrammarConfig(),
        GrammarConfig(force_block="first", max_blocks=1),
        GrammarConfig(first="box", max_boxes=3),
        GrammarConfig(boxes="compact", first="box"),
        GrammarConfig(depth=False),
    ],
    ids=["any", "block", "box", "compact box", "boxes alone"],
)
def test_every_answer_is_in_the_language(
    model: Any, tokenizer: Any, vocab: pt.PerceptionVocabulary, config: GrammarConfig
) -> None:
    text = build_lark_grammar(vocab, config, tokenizer=tokenizer)
    ends = [tokenizer.eos_token_id]
    symbols = classify_tokens(vocab, config, tokenizer=tokenizer, eos_token_ids=ends)
    grammar = compile_grammar(config)
    found = 0
    for seed in range(3):
        ids = generate(model, text, seed)
        assert grammar.run(symbols[ids].tolist()) is not None, tokenizer.decode(ids)
        answer = pt.parse_generation(tokenizer.decode(ids))
        assert all(block.size == 100 for block in answer.blocks)
        assert all(len(ids) == 240 for problem in answer.problems), "only the budget cuts"
        found += len(answer.blocks) + len(answer.boxes)
    assert found > 0


def test_without_a_grammar_the_model_writes_none_of_it(model: Any, tokenizer: Any) -> None:
    """The model prefers perception tokens everywhere: what is whole above is so because of the grammar."""
    answers = [pt.parse_generation(tokenizer.decode(generate(model, None, seed))) for seed in range(3)]
    assert not any(answer.blocks for answer in answers)
    assert sum(len(answer.problems) for answer in answers) > 50


def test_a_model_with_other_ids_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        pt.llava.convert_checkpoint(tmp_path, tmp_path / "out", format="onnx")
