"""Questions about images and the prompts that a model gets for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from perceptok.errors import InferenceError
from perceptok.llava.loading import encode_inputs, suffix_ids
from perceptok.vocabulary import PerceptionVocabulary, sanitize_text

__all__ = ["IMAGE", "Markers", "Request", "build_prompt", "encode_prompts"]

IMAGE = "<image>"
"""Place of the image in a question; without it the image comes first."""

Markers = Mapping[str, tuple[float, float]]


class Request(NamedTuple):
    """One question about one image.

    Attributes:
        image: The image, in RGB and upright, as `open_image` returns it.
        question: The question; may contain `<image>` once, at the place of the image.
        choices: The allowed answers, single letters or whole numbers; empty for any.
        markers: Letter -> x, y in the image's pixels, of points that the question is about.
        name: Name of the answer in files and pages.
    """

    image: Image.Image
    question: str
    choices: tuple[str, ...] = ()
    markers: Markers = {}  # noqa: RUF012 - not modified
    name: str = ""


def build_prompt(processor: Any, question: str, vocab: PerceptionVocabulary) -> str:
    """The text of a prompt with one image and one question, up to where the answer begins.

    Perception tokens and control tokens that a user typed are escaped, so that they are tokenised as plain text.

    Args:
        processor: The model's processor; its chat template is used, or LLaVA-1.5's `USER: ... ASSISTANT:`.
        question: The question; may contain `<image>` once, at the place of the image.
        vocab: Perception tokens of the model.

    Raises:
        InferenceError: An empty question, `<image>` more than once, or a chat template without exactly one image.
    """
    if not isinstance(question, str) or not question.strip():
        raise InferenceError(f"a question must be a string that is not empty; got {question!r}")
    before, image, after = question.partition(IMAGE)
    if IMAGE in after:
        count = question.count(IMAGE)
        raise InferenceError(
            f"a question has one image, but this one has {IMAGE} {count} times: ask about each image separately"
        )
    parts = [before, after] if image else ["", question]
    first, last = (_escape_tokens(part.strip("\n") if image else part, processor.tokenizer, vocab) for part in parts)
    content = [{"type": "text", "text": first}] if first.strip() else []
    content += [{"type": "image"}, *([{"type": "text", "text": last}] if last.strip() else [])]
    token = str(getattr(processor, "image_token", None) or IMAGE)
    if getattr(processor, "chat_template", None):
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:
        texts = [part["text"] for part in content if part["type"] == "text"]
        text = f"USER: {token}\n{' '.join(texts)} ASSISTANT:"
    if str(text).count(token) != 1:
        raise InferenceError(
            f"the model's chat template writes the image token {token} {str(text).count(token)} times; expected once: "
            "check processor.chat_template"
        )
    return str(text)


def encode_prompts(processor: Any, prompts: Sequence[str], images: Sequence[Any]) -> dict[str, Any]:
    """Inputs of the model's `generate`: prompts padded on the left, each with its image.

    Raises:
        InferenceError: The processor rejects them, or tokenises a prompt with an image differently.
    """
    suffixes = [suffix_ids(processor, prompt) for prompt in prompts]
    try:
        inputs = encode_inputs(processor, prompts, [[image] for image in images], suffixes, padding_side="left")
    except (ValueError, TypeError, RuntimeError) as error:
        raise InferenceError(f"{type(processor).__name__} rejects the prompts and images ({error})") from error
    for ids, suffix in zip(inputs["input_ids"].numpy(), suffixes, strict=True):
        if not np.array_equal(ids[len(ids) - len(suffix) :], suffix):
            raise InferenceError(
                f"{type(processor).__name__} tokenises a prompt differently with an image than without, so that the "
                "prompt is not that of training; check that its chat template and tokenizer belong together"
            )
    return inputs


def _escape_tokens(text: str, tokenizer: Any, vocab: PerceptionVocabulary) -> str:
    r"""Escape perception tokens and control tokens, which only the template may write: `</s>` becomes `<\/s>`."""
    control = {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}
    control |= {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special}
    control = {token for token in control if len(token) > 1 and not token.isspace()}
    text = sanitize_text(text, vocab)
    if not control:
        return text
    longest_first = sorted(control, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: f"{match[0][0]}\\{match[0][1:]}", text)
