"""Exactly which tokens are taught, with Llama's tokenizer, chat templates and LLaVA-1.5's form."""

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
"""As llava-hf/llava-1.5 has it: no system text, and nothing closes the assistant's turn."""


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Any:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(shared / "models" / "llama2_tokenizer")
    loaded.add_tokens(["<image>", "<|im_start|>", "<|im_end|>"], special_tokens=True)
    pt.extend_vocabulary(loaded)
    return loaded


class Processor:
    """What LlavaProcessor is to this room: a tokenizer and a chat template over message parts."""

    def __init__(self, tokenizer: Any, chat_template: str | None) -> None:
        self.tokenizer, self.chat_template = tokenizer, chat_template

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, **options)


def record(*said: str, images: tuple[str, ...] = ("a.png",)) -> PerceptionRecord:
    turns = tuple(Turn("assistant" if at % 2 else "user", text) for at, text in enumerate(said))
    return PerceptionRecord("r", images, turns, "depth", "cot")


def rendered(one: PerceptionRecord, processor: Any) -> RenderedRecord:
    vocab = pt.PerceptionVocabulary.from_tokenizer(getattr(processor, "tokenizer", processor))
    return render_record(one, processor, vocab)


def taught(done: RenderedRecord, tokenizer: Any) -> list[str]:
    assert len(done.ids) == len(done.loss_mask)
    chosen = [index for index, wanted in zip(done.ids, done.loss_mask, strict=True) if wanted]
    return tokenizer.convert_ids_to_tokens(chosen)


DEPTHS = [f"<DEPTH_{code % 7}>" for code in range(100)]


def test_a_depth_block_in_llavas_form(tokenizer: Any) -> None:
    done = rendered(record("Which?", f"It is {BLOCK}."), tokenizer)
    assert done.text == f"USER: <image>\nWhich? ASSISTANT: It is {BLOCK}.</s>"
    assert taught(done, tokenizer) == ["▁It", "▁is", "▁", "<DEPTH_START>", *DEPTHS, "<DEPTH_END>", ".", "</s>"]
    first = done.loss_mask.index(True)
    assert tokenizer.decode(done.ids[:first]) == "<s> USER: <image>\nWhich? ASSISTANT:"
    assert all(done.loss_mask[first:])


def test_a_block_alone_teaches_the_piece_before_it(tokenizer: Any) -> None:
    """After "ASSISTANT:" a model has to write the lone space before it can open the block."""
    done = rendered(record("Q", BLOCK), tokenizer)
    assert taught(done, tokenizer) == ["▁", "<DEPTH_START>", *DEPTHS, "<DEPTH_END>", "</s>"]


def test_boxes_in_llavas_form(tokenizer: Any) -> None:
    answer = "Here:\nBounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_30>,<PIXEL_335>)"
    pixels = ["▁(", "<PIXEL_1>", ",", "<PIXEL_2>", ",", "<PIXEL_30>", ",", "<PIXEL_335>", ")", "</s>"]
    words = ["▁Here", ":", "<0x0A>", "B", "ounding", "▁box", "▁", "1", ":"]
    assert taught(rendered(record("Q", answer), tokenizer), tokenizer) == words + pixels


def test_every_answer_of_a_conversation_is_taught_and_no_question(tokenizer: Any) -> None:
    done = rendered(record("One?", "Yes.", "Two?", "(B)"), tokenizer)
    assert done.text == "USER: <image>\nOne? ASSISTANT: Yes.</s>USER: Two? ASSISTANT: (B)</s>"
    assert taught(done, tokenizer) == ["▁Yes", ".", "</s>", "▁(", "B", ")", "</s>"]


def test_tokens_in_a_question_are_not_taught(tokenizer: Any) -> None:
    done = rendered(record(f"Here is {BLOCK}. Which?", "(A)"), tokenizer)
    assert taught(done, tokenizer) == ["▁(", "A", ")", "</s>"]


def test_the_system_text_is_not_taught(tokenizer: Any) -> None:
    text, spans = render_text(record("Q", "A"), tokenizer, system=LLAVA_SYSTEM)
    assert text == f"{LLAVA_SYSTEM} USER: <image>\nQ ASSISTANT: A</s>"
    assert [text[first:last] for first, last in spans] == [" A</s>"]


def test_a_template_that_closes_turns(tokenizer: Any) -> None:
    done = rendered(record("One?", f"{BLOCK}", "Two?", "(B)"), Processor(tokenizer, CHATML))
    assert done.text == (
        f"<|im_start|>user\n<image>One?<|im_end|>\n<|im_start|>assistant\n{BLOCK}<|im_end|>\n"
        "<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n(B)<|im_end|>"
    )
    answers = ["<DEPTH_START>", *DEPTHS, "<DEPTH_END>", "<|im_end|>"]
    assert taught(done, tokenizer) == [*answers, "(", "B", ")", "<|im_end|>"]


def test_a_template_that_closes_none_gets_the_end_token(tokenizer: Any) -> None:
    processor = Processor(tokenizer, LLAVA_HF)
    done = rendered(record("One?", "Yes.", "Two?", "(B)"), processor)
    assert done.text == "USER: <image>\nOne? ASSISTANT: Yes.</s> USER: Two? ASSISTANT: (B)</s>"
    assert taught(done, tokenizer) == ["▁Yes", ".", "</s>", "▁(", "B", ")", "</s>"]


def test_generation_prompt_and_taught_ids_meet(tokenizer: Any) -> None:
    """What inference feeds is, id for id, what stands before the first taught token."""
    for template in (CHATML, LLAVA_HF):
        processor = Processor(tokenizer, template)
        one = record("Which point?", f"Point A is at (x = 1 y = 2).{BLOCK}")
        done = rendered(one, processor)
        prompt = processor.apply_chat_template(one.to_messages()[:1], tokenize=False, add_generation_prompt=True)
        assert done.ids[: done.loss_mask.index(True)] == tuple(tokenizer(prompt)["input_ids"])


def test_images_have_a_token_each(tokenizer: Any) -> None:
    one = record("Q", "A", images=("a.png", "b.png"))
    for processor in (tokenizer, Processor(tokenizer, CHATML), Processor(tokenizer, LLAVA_HF)):
        assert rendered(one, processor).ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 2


def test_what_cannot_be_rendered(tokenizer: Any, shared: Path) -> None:
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
