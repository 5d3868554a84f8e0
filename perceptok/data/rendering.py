"""Rendering: a record as text and token ids, with a loss mask of the supervised tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from perceptok.data.records import PerceptionRecord
from perceptok.errors import RecordError
from perceptok.tokens import DEPTH, PIXEL

if TYPE_CHECKING:
    from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["LLAVA_SYSTEM", "RenderedRecord", "RenderedText", "render_record", "render_text"]

LLAVA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
"""The system text that LLaVA-1.5 was trained with; the chat template of transformers' LLaVA-1.5 has none."""


class RenderedText(NamedTuple):
    """A conversation as text.

    Attributes:
        text: The text, with one image token for each image.
        spans: Start and end of each supervised span in characters: from the end of the generation prompt to the end of
            the assistant's turn, its closing token included.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


class RenderedRecord(NamedTuple):
    """A conversation as token ids.

    Attributes:
        ids: Token ids; one for each image, which the processor expands.
        loss_mask: True for supervised tokens; as long as ids.
        text: The text that was tokenized.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    text: str


def render_record(
    record: PerceptionRecord, processor: Any, vocab: PerceptionVocabulary, *, system: str | None = None
) -> RenderedRecord:
    """Render a record as token ids with a loss mask.

    Supervised are exactly the tokens that a model has to generate after the generation prompt: the text of each
    assistant's turn and the token that closes it, and nothing of questions, images and roles.

    Args:
        record: A record that ends with the assistant's turn.
        processor: A processor, or a fast tokenizer for a record without images. Without a chat template the form of
            LLaVA-1.5 is used.
        vocab: The vocabulary of the same tokenizer, with the perception tokens of the record.
        system: A system text to begin with; `LLAVA_SYSTEM` is the one that LLaVA-1.5 was trained with.

    Raises:
        RecordError: The record has no answer; a perception token of its text is not one token of this tokenizer; the
            tokenizer gives no offsets or has no end token where one is needed; or the template omits or changes an
            answer.
    """
    if record.turns[-1].role != "assistant":
        raise RecordError(f"record {record.id!r}: turns: expected an answer at the end to supervise")
    rendered = render_text(record, processor, system=system)
    tokenizer = getattr(processor, "tokenizer", processor)
    if not getattr(tokenizer, "is_fast", False):
        raise RecordError(f"{type(tokenizer).__name__} gives no offsets of its tokens; load the fast tokenizer")
    has_start_token = bool(tokenizer.bos_token) and rendered.text.startswith(tokenizer.bos_token)
    encoded = tokenizer(rendered.text, add_special_tokens=not has_start_token, return_offsets_mapping=True)
    ids = tuple(encoded["input_ids"])
    _require_whole_tokens(record, rendered.text, ids, vocab.tokens)
    spans = iter(rendered.spans)
    start, end = next(spans)
    mask = []
    for first, last in encoded["offset_mapping"]:
        while first >= end and (following := next(spans, None)):
            start, end = following
        if first < start < last and rendered.text[first:start].strip():
            raise RecordError(
                f"record {record.id!r}: the tokenizer joins {rendered.text[first:last]!r} across the start of the "
                "answer; end the generation prompt at a token's edge"
            )
        mask.append(first < last and first < end and last > start)
    return RenderedRecord(ids, tuple(mask), rendered.text)


def render_text(record: PerceptionRecord, processor: Any, *, system: str | None = None) -> RenderedText:
    """Render a record as text, and find its supervised spans.

    Args:
        record: Any record.
        processor: A processor or tokenizer with a chat template; without one the form of LLaVA-1.5 is used:
            `USER: <image>` newline `question ASSISTANT: answer</s>USER: ...`. Where the template does not close the
            assistant's turns (that of transformers' LLaVA-1.5 does not), the tokenizer's end token is added.
        system: A system text to begin with; `LLAVA_SYSTEM` is the one that LLaVA-1.5 was trained with.

    Raises:
        RecordError: The template omits or changes an answer, or the tokenizer has no end token where one is needed.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if getattr(processor, "chat_template", None) is None:
        return _render_llava(record, tokenizer, system)
    messages = _make_messages(record, plain=processor is tokenizer)
    if system is not None:
        content: Any = system if processor is tokenizer else [{"type": "text", "text": system}]
        messages.insert(0, {"role": "system", "content": content})
    text, rendered_end = "", 0
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = processor.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
        closed = processor.apply_chat_template(messages[: index + 1], tokenize=False)
        answer = record.turns[index - len(messages) + len(record.turns)].text
        answer_start = closed.find(answer, len(prompt))
        if not closed.startswith(prompt) or answer_start < 0 or closed[len(prompt) : answer_start].strip():
            raise RecordError(
                f"record {record.id!r}: the chat template does not write the answer after its own generation prompt, "
                f"so that the supervised text would not be what a model is asked for; it wrote {closed[-80:]!r}"
            )
        closing = closed[answer_start + len(answer) :].rstrip()
        # What the template wrote since the last answer, then the answer and its closing token.
        text += prompt[rendered_end:]
        start = len(text)
        text += closed[len(prompt) : answer_start + len(answer)] + (closing or _get_end_token(tokenizer, record))
        spans.append((start, len(text)))
        rendered_end = answer_start + len(answer) + len(closing)
    whole = processor.apply_chat_template(messages, tokenize=False)
    return RenderedText((text + whole[rendered_end:]).rstrip() if spans else whole, tuple(spans))


def _make_messages(record: PerceptionRecord, *, plain: bool) -> list[dict[str, Any]]:
    """Make messages for a processor, or plain ones for a text tokenizer's chat template."""
    if not plain:
        return record.to_messages()
    if record.images:
        raise RecordError(
            f"record {record.id!r}: images: a tokenizer's chat template does not take images; pass the processor"
        )
    return [{"role": turn.role, "content": turn.text} for turn in record.turns]


def _render_llava(record: PerceptionRecord, tokenizer: Any, system: str | None) -> RenderedText:
    text = f"{system} " if system else ""
    spans: list[tuple[int, int]] = []
    for index, turn in enumerate(record.turns):
        if turn.role == "user":
            text += "USER: " + "<image>\n" * (len(record.images) if index == 0 else 0) + turn.text + " ASSISTANT:"
        else:
            start = len(text)
            text += f" {turn.text}{_get_end_token(tokenizer, record)}"
            spans.append((start, len(text)))
    return RenderedText(text, tuple(spans))


def _get_end_token(tokenizer: Any, record: PerceptionRecord) -> str:
    if not tokenizer.eos_token:
        raise RecordError(f"record {record.id!r}: {type(tokenizer).__name__} has no end token, so no turn ever ends")
    return str(tokenizer.eos_token)


def _require_whole_tokens(record: PerceptionRecord, text: str, ids: tuple[int, ...], known: Mapping[str, int]) -> None:
    """Raise RecordError unless every perception token of the text is one id: others would be split silently."""
    pieces = [match[0] for pattern in (DEPTH.pattern, PIXEL.pattern) for match in pattern.finditer(text)]
    missing = next((piece for piece in pieces if piece not in known), None)
    if missing:
        raise RecordError(
            f"record {record.id!r}: the vocabulary has no {missing}; extend the tokenizer with extend_vocabulary, or "
            "sanitize text that only looks like a token"
        )
    perception_ids = {*known.values()}
    found = sum(index in perception_ids for index in ids)
    if found != len(pieces):
        raise RecordError(
            f"record {record.id!r}: {len(pieces)} perception tokens became {found} ids; the vocabulary is that of "
            "another tokenizer"
        )
