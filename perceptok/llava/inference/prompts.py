"""A question as the model's own chat template puts it, and nothing in it that a user could not have meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from perceptok.errors import InferenceError
from perceptok.llava.processors import model_inputs, tail_ids
from perceptok.vocabulary.lookup import PerceptionVocabulary
from perceptok.vocabulary.sanitising import sanitise_text

__all__ = ["IMAGE", "chat_prompt", "prompt_inputs"]

IMAGE = "<image>"
"""Where the picture stands in a question; a question without it gets the picture first."""


def chat_prompt(processor: Any, question: str, vocab: PerceptionVocabulary) -> str:
    """The text of a prompt with one picture and one question, up to where the answer begins.

    Perception tokens and the tokenizer's control tokens that a user typed are kept from becoming tokens.

    Args:
        processor: The model's; its chat template, or LLaVA-1.5's `USER: ... ASSISTANT:` where it has none.
        question: May hold `<image>` once, where the picture shall stand.
        vocab: The perception tokens.

    Raises:
        InferenceError: An empty question, `<image>` more than once, or a template that leaves the picture out.
    """
    if not isinstance(question, str) or not question.strip():
        raise InferenceError(f"a question is a text that is not empty; got {question!r}")
    before, image, after = question.partition(IMAGE)
    if IMAGE in after:
        count = question.count(IMAGE)
        raise InferenceError(f"a question has one picture; this one says {IMAGE} {count} times: ask of each by itself")
    parts = [before, after] if image else ["", question]
    said = [_harmless(part.strip("\n") if image else part, processor.tokenizer, vocab) for part in parts]
    content = [{"type": "text", "text": said[0]}] if said[0].strip() else []
    content += [{"type": "image"}, *([{"type": "text", "text": said[1]}] if said[1].strip() else [])]
    token = str(getattr(processor, "image_token", None) or IMAGE)
    if getattr(processor, "chat_template", None):
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:
        texts = [part["text"] for part in content if part["type"] == "text"]
        text = f"USER: {token}\n{' '.join(texts)} ASSISTANT:"
    if str(text).count(token) != 1:
        raise InferenceError(
            f"the model's chat template writes the picture's place, {token}, {str(text).count(token)} times; expected "
            "once: look at processor.chat_template"
        )
    return str(text)


def prompt_inputs(processor: Any, prompts: Sequence[str], pictures: Sequence[Any]) -> dict[str, Any]:
    """What the model's `generate` takes: prompts of any lengths padded on the left, each with its picture.

    Raises:
        InferenceError: The processor refuses them; the message is its own.
    """
    tails = [tail_ids(processor, one) for one in prompts]
    try:
        inputs = model_inputs(processor, prompts, [[picture] for picture in pictures], tails, side="left")
    except (ValueError, TypeError, RuntimeError) as error:
        raise InferenceError(f"{type(processor).__name__} takes no such prompts and pictures ({error})") from error
    for ids, tail in zip(inputs["input_ids"].numpy(), tails, strict=True):
        if not np.array_equal(ids[len(ids) - len(tail) :], tail):
            raise InferenceError(
                f"{type(processor).__name__} tokenises a prompt otherwise with pictures than without, so that it is "
                "not the one of training; its template and tokenizer contradict each other"
            )
    return inputs


def _harmless(text: str, tokenizer: Any, vocab: PerceptionVocabulary) -> str:
    r"""Text in which no token stands that only we or the template may write: `</s>` becomes `<\/s>`."""
    control = {str(one) for one in getattr(tokenizer, "all_special_tokens", ())}
    control |= {one.content for one in getattr(tokenizer, "added_tokens_decoder", {}).values() if one.special}
    named = sorted((one for one in control if len(one) > 1 and not one.isspace()), key=len, reverse=True)
    kept = sanitise_text(text, vocab)
    if not named or not any(one in kept for one in named):
        return kept
    return re.sub("|".join(map(re.escape, named)), lambda found: f"{found[0][0]}\\{found[0][1:]}", kept)
