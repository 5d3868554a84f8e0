"""Prompts: the model's own template, one image, and no token from a user's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from transformers import LlavaProcessor

import perceptok as pt
from perceptok.data import PerceptionRecord, Turn
from perceptok.data.rendering import render_text
from perceptok.errors import InferenceError
from perceptok.llava.inference.questions import build_prompt, encode_prompts
from tests.llava.answering import make_image


@pytest.fixture(scope="module")
def processor(tiny_llava: Path) -> Any:
    found = LlavaProcessor.from_pretrained(tiny_llava)
    pt.extend_vocabulary(found.tokenizer)
    return found


@pytest.fixture(scope="module")
def words(processor: Any) -> pt.PerceptionVocabulary:
    return pt.PerceptionVocabulary.from_tokenizer(processor.tokenizer)


def test_the_image_comes_first(processor: Any, words: pt.PerceptionVocabulary) -> None:
    expected = "USER: <image>\nHow many cars? ASSISTANT:"
    for question in ("How many cars?", "<image>\nHow many cars?"):
        assert build_prompt(processor, question, words) == expected


@pytest.mark.parametrize("templated", [True, False])
def test_a_model_is_asked_as_it_was_taught(processor: Any, words: pt.PerceptionVocabulary, templated: bool) -> None:
    question = "Which point is closest?\nSelect from the following choices.\n(A) A is closer\n(B) B is closer"
    record = PerceptionRecord("a", ("a.png",), (Turn("user", question), Turn("assistant", "(B)")), "depth", "direct")
    asked = processor
    if not templated:
        asked = LlavaProcessor(processor.image_processor, processor.tokenizer, patch_size=14)
    rendered = render_text(record, asked)
    assert rendered.text[: rendered.spans[0][0]] == build_prompt(asked, question, words)


def test_without_a_template(processor: Any, words: pt.PerceptionVocabulary) -> None:
    plain = LlavaProcessor(processor.image_processor, processor.tokenizer, patch_size=14)
    assert build_prompt(plain, "How many cars?", words) == "USER: <image>\nHow many cars? ASSISTANT:"


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "not empty"),
        (" \n", "not empty"),
        (None, "not empty"),
        ("<image> and <image>", "this one has <image> 2 times"),
    ],
)
def test_what_cannot_be_asked(
    processor: Any, words: pt.PerceptionVocabulary, question: str | None, message: str
) -> None:
    with pytest.raises(InferenceError, match=message):
        build_prompt(processor, question, words)  # type: ignore[arg-type]


def test_a_template_that_leaves_the_image_out(processor: Any, words: pt.PerceptionVocabulary) -> None:
    blind = LlavaProcessor(
        processor.image_processor, processor.tokenizer, patch_size=14, chat_template="{{ messages | length }}"
    )
    with pytest.raises(InferenceError, match="writes the image token <image> 0 times"):
        build_prompt(blind, "How many cars?", words)


SMUGGLED = ["<DEPTH_5>", "<DEPTH_START>", "<PIXEL_9>", "</s>", "<pad>", "<s>", "a ", "\\", "<", "é"]


@given(st.lists(st.sampled_from(SMUGGLED)))
def test_users_write_no_token_but_text(processor: Any, words: pt.PerceptionVocabulary, parts: list[str]) -> None:
    prompt = build_prompt(processor, "Why? " + "".join(parts), words)
    ids = processor.tokenizer.encode(prompt, add_special_tokens=False)
    special = set(processor.tokenizer.all_special_ids) | set(words.tokens.values())
    assert [token_id for token_id in ids if token_id in special] == [processor.image_token_id]


def test_prompts_are_padded_on_the_left(processor: Any, words: pt.PerceptionVocabulary) -> None:
    prompts = [
        build_prompt(processor, question, words)
        for question in ("Why?", "How many cars are there, and where are they?")
    ]
    inputs = encode_prompts(processor, prompts, [[make_image(56, 56)], [make_image(56, 56, 1)]])
    mask = inputs["attention_mask"]
    assert mask[0, 0] == 0
    assert mask[:, -1].tolist() == [1, 1]
    assert (mask[0].diff() >= 0).all()
    assert inputs["pixel_values"].shape[0] == 2
    with pytest.raises(InferenceError, match="rejects the prompts"):
        encode_prompts(processor, prompts[:1], [[object()]])
