"""Records -> text and token ids with a loss mask: which tokens a model is taught to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from perceptok.data.records import PerceptionRecord
from perceptok.errors import RecordError
from perceptok.tokens import DEPTH, PIXEL

__all__ = ["LLAVA_SYSTEM", "RenderedRecord", "RenderedText", "render_record", "render_text"]

LLAVA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
"""The system text that LLaVA-1.5 was trained with; transformers' template of the same model has none."""


class Tokens(Protocol):
    """What is asked of a vocabulary."""

    @property
    def tokens(self) -> dict[str, int]:
        """Token -> id of every perception token."""


class RenderedText(NamedTuple):
    """A conversation as text.

    Attributes:
        text: All of it, with one image token for each image.
        spans: First character and one past the last of each stretch that is taught: from behind the generation prompt
            to the end of the assistant's turn, its closing token included.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


class RenderedRecord(NamedTuple):
    """A conversation as token ids.

    Attributes:
        ids: Token ids; one for each image, which the processor expands.
        loss_mask: True for the tokens that are taught; as long as ids.
        text: What was tokenised.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    text: str


def render_record(
    record: PerceptionRecord, processor: Any, vocab: Tokens, *, system: str | None = None
) -> RenderedRecord:
    """Token ids and loss mask of one record.

    Taught are exactly the tokens that a model has to write after the generation prompt: of each assistant's turn the
    text and the token that closes it, nothing of questions, images and roles.

    Args:
        record: What is taught; it ends with the assistant's turn.
        processor: A processor or fast tokenizer; see `render_text`.
        vocab: Of the same tokenizer, with the perception tokens of the record.
        system: See `render_text`.

    Raises:
        RecordError: The record has no answer; a perception token of its text is not one token of this tokenizer; the
            tokenizer gives no offsets; or as `render_text`.
    """
    if record.turns[-1].role != "assistant":
        raise RecordError(f"record {record.id!r}: turns: expected an answer at the end, which would be taught")
    rendered = render_text(record, processor, system=system)
    tokenizer = getattr(processor, "tokenizer", processor)
    if not getattr(tokenizer, "is_fast", False):
        raise RecordError(f"{type(tokenizer).__name__} gives no offsets of its tokens; load the fast tokenizer")
    starts_whole = bool(tokenizer.bos_token) and rendered.text.startswith(tokenizer.bos_token)
    encoded = tokenizer(rendered.text, add_special_tokens=not starts_whole, return_offsets_mapping=True)
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
    """One record as text, and the stretches of it that are taught.

    Args:
        record: Any record.
        processor: Anything with a chat template; without one the form of LLaVA-1.5 is used:
            `USER: <image>` newline `question ASSISTANT: answer</s>USER: ...`. Where a template closes no turn of the
            assistant (as that of transformers' LLaVA-1.5), the tokenizer's end token does.
        system: A system text to begin with; `LLAVA_SYSTEM` for what LLaVA-1.5 was trained with.

    Raises:
        RecordError: The template leaves out or changes an answer, or the tokenizer has no end token where one is
            needed.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if getattr(processor, "chat_template", None) is None:
        return _llava_text(record, tokenizer, system)
    messages = _messages(record, plain=processor is tokenizer)
    if system is not None:
        content: Any = system if processor is tokenizer else [{"type": "text", "text": system}]
        messages.insert(0, {"role": "system", "content": content})
    text, shown = "", 0
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        opened = processor.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
        closed = processor.apply_chat_template(messages[: index + 1], tokenize=False)
        answer = record.turns[index - len(messages) + len(record.turns)].text
        at = closed.find(answer, len(opened))
        if not closed.startswith(opened) or at < 0 or closed[len(opened) : at].strip():
            raise RecordError(
                f"record {record.id!r}: the chat template does not write the answer after its own generation prompt, "
                f"so that what is taught would not be what is asked for; it wrote {closed[-80:]!r}"
            )
        ended = closed[at + len(answer) :].rstrip()
        # What the template wrote since the last answer, then the answer and what closes it.
        text += opened[shown:]
        begin = len(text)
        text += closed[len(opened) : at + len(answer)] + (ended or _end_token(tokenizer, record))
        spans.append((begin, len(text)))
        shown = at + len(answer) + len(ended)
    whole = processor.apply_chat_template(messages, tokenize=False)
    return RenderedText((text + whole[shown:]).rstrip() if spans else whole, tuple(spans))


def _messages(record: PerceptionRecord, *, plain: bool) -> list[dict[str, Any]]:
    """Messages for a processor, or for a text tokenizer's template, whose contents are plain text."""
    if not plain:
        return record.to_messages()
    if record.images:
        raise RecordError(
            f"record {record.id!r}: images: a tokenizer's chat template has no place for them; pass the processor"
        )
    return [{"role": turn.role, "content": turn.text} for turn in record.turns]


def _llava_text(record: PerceptionRecord, tokenizer: Any, system: str | None) -> RenderedText:
    text = f"{system} " if system else ""
    spans: list[tuple[int, int]] = []
    for index, turn in enumerate(record.turns):
        if turn.role == "user":
            text += "USER: " + "<image>\n" * (len(record.images) if index == 0 else 0) + turn.text + " ASSISTANT:"
        else:
            begin = len(text)
            text += f" {turn.text}{_end_token(tokenizer, record)}"
            spans.append((begin, len(text)))
    return RenderedText(text, tuple(spans))


def _end_token(tokenizer: Any, record: PerceptionRecord) -> str:
    if not tokenizer.eos_token:
        raise RecordError(f"record {record.id!r}: {type(tokenizer).__name__} has no end token, so no turn ever ends")
    return str(tokenizer.eos_token)


def _require_whole_tokens(record: PerceptionRecord, text: str, ids: tuple[int, ...], known: Mapping[str, int]) -> None:
    """Every perception token of the text is one id: a tokenizer that was not extended would split it silently."""
    pieces = [match[0] for pattern in (DEPTH.pattern, PIXEL.pattern) for match in pattern.finditer(text)]
    missing = next((piece for piece in pieces if piece not in known), None)
    if missing:
        raise RecordError(
            f"record {record.id!r}: the vocabulary has no {missing}; extend the tokenizer with extend_vocabulary, or "
            "sanitise text that only looks like a token"
        )
    ours = {*known.values()}
    found = sum(index in ours for index in ids)
    if found != len(pieces):
        raise RecordError(
            f"record {record.id!r}: {len(pieces)} perception tokens became {found} ids; the vocabulary is not of this "
            "tokenizer"
        )
