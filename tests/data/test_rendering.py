"""Rendering: which tokens are supervised, with Llama's tokenizer, chat templates and the form of LLaVA-1.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceptok as pt
from perceptok.data import PerceptionRecord, Turn, render_record
from perceptok.data.rendering import LLAVA_SYSTEM, RenderedRecord, render_text
from perceptok.depth import block_to_text
from perceptok.errors import RecordError

BLOCK = block_to_text(np.arange(100).reshape(10, 10) % 7)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_HF = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The template of llava-hf/llava-1.5: no system text, and no token at the end of the assistant's turn."""


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Any:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(shared / "models" / "llama2_tokenizer")
    loaded.add_tokens(["<image>", "<|im_start|>", "<|im_end|>"], special_tokens=True)
    pt.extend_vocabulary(loaded)
    return loaded


class Processor:
    """Like LlavaProcessor, a tokenizer and a chat template over message parts."""

    def __init__(self, tokenizer: Any, chat_template: str | None) -> None:
        self.tokenizer, self.chat_template = tokenizer, chat_template

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, **options)


def record(*texts: str, images: tuple[str, ...] = ("a.png",)) -> PerceptionRecord:
    turns = tuple(Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(texts))
    return PerceptionRecord("r", images, turns, "depth", "cot")


def render(example: PerceptionRecord, processor: Any) -> RenderedRecord:
    vocab = pt.PerceptionVocabulary.from_tokenizer(getattr(processor, "tokenizer", processor))
    return render_record(example, processor, vocab)


def supervised(rendered: RenderedRecord, tokenizer: Any) -> list[str]:
    assert len(rendered.ids) == len(rendered.loss_mask)
    token_ids = [token_id for token_id, has_loss in zip(rendered.ids, rendered.loss_mask, strict=True) if has_loss]
    return tokenizer.convert_ids_to_tokens(token_ids)


CODES = [f"<DEPTH_{code % 7}>" for code in range(100)]


def test_depth_block_in_llava_form(tokenizer: Any) -> None:
    rendered = render(record("Which?", f"It is {BLOCK}."), tokenizer)
    assert rendered.text == f"USER: <image>\nWhich? ASSISTANT: It is {BLOCK}.</s>"
    assert supervised(rendered, tokenizer) == [
        "▁It",
        "▁is",
        "▁",
        "<DEPTH_START>",
        *CODES,
        "<DEPTH_END>",
        ".",
        "</s>",
    ]
    first = rendered.loss_mask.index(True)
    assert tokenizer.decode(rendered.ids[:first]) == "<s> USER: <image>\nWhich? ASSISTANT:"
    assert all(rendered.loss_mask[first:])


def test_block_alone_supervises_the_space_before_it(tokenizer: Any) -> None:
    """After "ASSISTANT:" a model has to generate the space before it can open the block."""
    rendered = render(record("Q", BLOCK), tokenizer)
    assert supervised(rendered, tokenizer) == ["▁", "<DEPTH_START>", *CODES, "<DEPTH_END>", "</s>"]


def test_boxes_in_llava_form(tokenizer: Any) -> None:
    answer = "Here:\nBounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_30>,<PIXEL_335>)"
    pixels = ["▁(", "<PIXEL_1>", ",", "<PIXEL_2>", ",", "<PIXEL_30>", ",", "<PIXEL_335>", ")", "</s>"]
    words = ["▁Here", ":", "<0x0A>", "B", "ounding", "▁box", "▁", "1", ":"]
    assert supervised(render(record("Q", answer), tokenizer), tokenizer) == words + pixels


def test_every_answer_and_no_question_is_supervised(tokenizer: Any) -> None:
    rendered = render(record("One?", "Yes.", "Two?", "(B)"), tokenizer)
    assert rendered.text == "USER: <image>\nOne? ASSISTANT: Yes.</s>USER: Two? ASSISTANT: (B)</s>"
    assert supervised(rendered, tokenizer) == ["▁Yes", ".", "</s>", "▁(", "B", ")", "</s>"]


def test_tokens_in_question_are_not_supervised(tokenizer: Any) -> None:
    rendered = render(record(f"Here is {BLOCK}. Which?", "(A)"), tokenizer)
    assert supervised(rendered, tokenizer) == ["▁(", "A", ")", "</s>"]


def test_system_text_is_not_supervised(tokenizer: Any) -> None:
    text, spans = render_text(record("Q", "A"), tokenizer, system=LLAVA_SYSTEM)
    assert text == f"{LLAVA_SYSTEM} USER: <image>\nQ ASSISTANT: A</s>"
    assert [text[first:last] for first, last in spans] == [" A</s>"]


def test_template_with_end_of_turn(tokenizer: Any) -> None:
    rendered = render(record("One?", f"{BLOCK}", "Two?", "(B)"), Processor(tokenizer, CHATML))
    assert rendered.text == (
        f"<|im_start|>user\n<image>One?<|im_end|>\n<|im_start|>assistant\n{BLOCK}<|im_end|>\n"
        "<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n(B)<|im_end|>"
    )
    answers = ["<DEPTH_START>", *CODES, "<DEPTH_END>", "<|im_end|>"]
    assert supervised(rendered, tokenizer) == [*answers, "(", "B", ")", "<|im_end|>"]


def test_template_without_end_of_turn_gets_end_token(tokenizer: Any) -> None:
    processor = Processor(tokenizer, LLAVA_HF)
    rendered = render(record("One?", "Yes.", "Two?", "(B)"), processor)
    assert rendered.text == "USER: <image>\nOne? ASSISTANT: Yes.</s> USER: Two? ASSISTANT: (B)</s>"
    assert supervised(rendered, tokenizer) == ["▁Yes", ".", "</s>", "▁(", "B", ")", "</s>"]


def test_supervision_starts_after_generation_prompt(tokenizer: Any) -> None:
    """The prompt of inference is, id for id, what precedes the first supervised token."""
    for template in (CHATML, LLAVA_HF):
        processor = Processor(tokenizer, template)
        example = record("Which point?", f"Point A is at (x = 1 y = 2).{BLOCK}")
        rendered = render(example, processor)
        prompt = processor.apply_chat_template(example.to_messages()[:1], tokenize=False, add_generation_prompt=True)
        assert rendered.ids[: rendered.loss_mask.index(True)] == tuple(tokenizer(prompt)["input_ids"])


def test_one_token_per_image(tokenizer: Any) -> None:
    example = record("Q", "A", images=("a.png", "b.png"))
    for processor in (tokenizer, Processor(tokenizer, CHATML), Processor(tokenizer, LLAVA_HF)):
        assert render(example, processor).ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 2


def test_records_that_cannot_be_rendered(tokenizer: Any, shared: Path) -> None:
    from transformers import AutoTokenizer

    vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)
    with pytest.raises(RecordError, match="expected an answer at the end"):
        render_record(record("Q"), tokenizer, vocab)
    with pytest.raises(RecordError, match="the vocabulary has no <DEPTH_128>"):
        render_record(record("Q", "<DEPTH_128>"), tokenizer, vocab)
    bare = AutoTokenizer.from_pretrained(shared / "models" / "llama2_tokenizer")
    with pytest.raises(RecordError, match="102 perception tokens became 0 ids"):
        render_record(record("Q", BLOCK), bare, vocab)
    silent = "{% for message in messages %}{{ message['role'] }}{% endfor %}"
    with pytest.raises(RecordError, match="does not write the answer"):
        render_record(record("Q", "(A)"), Processor(tokenizer, silent), vocab)
    bare.chat_template = CHATML
    with pytest.raises(RecordError, match="pass the processor"):
        render_record(record("Q", "(A)"), bare, vocab)
