"""Rendering: a record as text and token ids, with a loss mask of the supervised tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from perceptok.data.records import IMAGE_TAG, PerceptionRecord, TokenReading, Turn
from perceptok.errors import RecordError
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import sanitize_text

if TYPE_CHECKING:
    from perceptok.vocabulary import PerceptionVocabulary

__all__ = [
    "LLAVA_SYSTEM",
    "RenderedRecord",
    "RenderedText",
    "check_known_tokens",
    "make_messages",
    "render_messages",
    "render_record",
    "render_text",
]

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
    rendered = render_text(record, processor, vocab, system=system)
    tokenizer = getattr(processor, "tokenizer", processor)
    if not getattr(tokenizer, "is_fast", False):
        raise RecordError(f"{type(tokenizer).__name__} gives no offsets of its tokens; load the fast tokenizer")
    has_start_token = bool(tokenizer.bos_token) and rendered.text.startswith(tokenizer.bos_token)
    encoded = tokenizer(rendered.text, add_special_tokens=not has_start_token, return_offsets_mapping=True)
    ids = tuple(encoded["input_ids"])
    meant = rendered.text
    if record.tokens == "text":
        meant = "\n".join(rendered.text[first:last] for first, last in rendered.spans)
    _require_whole_tokens(record, meant, ids, vocab.tokens)
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


def render_text(
    record: PerceptionRecord, processor: Any, vocab: PerceptionVocabulary | None = None, *, system: str | None = None
) -> RenderedText:
    """Render a record as text, and find its supervised spans.

    Args:
        record: Any record.
        processor: A processor or tokenizer with a chat template; without one the form of LLaVA-1.5 is used:
            `USER: <image>` newline `question ASSISTANT: answer</s>USER: ...`. Where the template does not close the
            assistant's turns (that of transformers' LLaVA-1.5 does not), the tokenizer's end token is added.
        vocab: The vocabulary of the same tokenizer, for token sets other than DEPTH and PIXEL.
        system: A system text to begin with; `LLAVA_SYSTEM` is the one that LLaVA-1.5 was trained with.

    Raises:
        RecordError: The template omits or changes an answer, an answer contains a control token, or the tokenizer has
            no end token where one is needed.
    """
    name = f"record {record.id!r}"
    messages = make_messages(record.turns, processor, vocab, images=len(record.images), tokens=record.tokens, name=name)
    for index, (turn, message) in enumerate(zip(record.turns, messages, strict=True)):
        if turn.role == "assistant" and _join_text(message) != turn.text:
            raise RecordError(
                f"{name}: turns.{index}.text contains a control token of the tokenizer, such as its end of sequence, "
                "which only the chat template writes; remove it from the answer"
            )
    return render_messages(messages, processor, system=system, name=name)


def make_messages(
    turns: Sequence[Turn],
    processor: Any,
    vocab: PerceptionVocabulary | None = None,
    *,
    images: int,
    tokens: TokenReading,
    name: str = "the conversation",
) -> list[dict[str, Any]]:
    r"""Make chat messages of a conversation, for training and for inference alike.

    Control tokens in texts (end of sequence, image token, markers of the chat template) become ordinary text: `</s>`
    is written `<\/s>`. So do perception tokens in the user's texts under "text"; those of the assistant are always
    meant.

    Args:
        turns: The conversation. `<image>` in a user's text is the place of an image; where no text has it, the images
            come first in the first turn.
        processor: The processor, or a tokenizer for conversations without images.
        vocab: The vocabulary of its tokenizer, for token sets other than DEPTH and PIXEL.
        images: Number of images of the conversation.
        tokens: Whether perception tokens in the user's texts are "meant" or "text".
        name: What the conversation is of, for messages.

    Returns:
        One message for each turn: `role`, and `content` as a list of parts of type "image" and "text".

    Raises:
        RecordError: `<image>` occurs, but not once for each image.
    """
    control = _find_control_tokens(processor)
    sets = tuple(dict.fromkeys((DEPTH, PIXEL, *(vocab.token_sets if vocab is not None else ()))))

    def escape(text: str, role: str) -> str:
        text = sanitize_text(text, sets) if role == "user" and tokens == "text" else text
        return control.sub(lambda match: f"{match[0][0]}\\{match[0][1:]}", text) if control else text

    marks = sum(turn.text.count(IMAGE_TAG) for turn in turns if turn.role == "user")
    if marks not in (0, images):
        raise RecordError(
            f"{name}: texts have {IMAGE_TAG} once for each image or not at all, but this one has {IMAGE_TAG} {marks} "
            f"times and {images} images: write it at the place of each image, or ask about each image separately"
        )
    messages: list[dict[str, Any]] = []
    for index, turn in enumerate(turns):
        has_marks = turn.role == "user" and IMAGE_TAG in turn.text
        texts = [text.strip("\n") for text in turn.text.split(IMAGE_TAG)] if has_marks else [turn.text]
        content: list[dict[str, Any]] = [{"type": "image"}] * (images if index == 0 and not marks else 0)
        for number, text in enumerate(texts):
            content += [{"type": "image"}] * (number > 0)
            if text.strip() or not has_marks:
                content.append({"type": "text", "text": escape(text, turn.role)})
        messages.append({"role": turn.role, "content": content})
    return messages


def render_messages(
    messages: Sequence[Mapping[str, Any]],
    processor: Any,
    *,
    system: str | None = None,
    name: str = "the conversation",
) -> RenderedText:
    """Render chat messages as text, and find the spans of the assistant's turns.

    Every answer follows the template's generation prompt, whatever white space the template puts before an answer that
    it repeats: what is supervised is what a model is asked for, in every turn, in training and inference.

    Args:
        messages: As `make_messages` returns them; the text of a conversation that ends with the user's turn ends with
            the generation prompt.
        processor: A processor or tokenizer with a chat template; without one the form of LLaVA-1.5 is used.
        system: A system text to begin with.
        name: What the conversation is of, for messages.

    Raises:
        RecordError: The template omits the system text, or omits or changes an answer; or the tokenizer has no end
            token where one is needed.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if getattr(processor, "chat_template", None) is None:
        return _render_llava(messages, processor, system, name)
    plain = processor is tokenizer
    messages = [_flatten_message(message, name) for message in messages] if plain else list(messages)
    if system:
        content: Any = system if plain else [{"type": "text", "text": system}]
        messages.insert(0, {"role": "system", "content": content})
    text, rendered_end = "", 0
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = processor.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
        closed = processor.apply_chat_template(messages[: index + 1], tokenize=False)
        answer = _join_text(message)
        # LLaVA-OneVision's template asks with "assistant\n" and repeats with "assistant \n": what it asks with counts.
        header = prompt if closed.startswith(prompt) else prompt.rstrip()
        answer_start = closed.find(answer, len(header))
        if not closed.startswith(header) or answer_start < 0 or closed[len(header) : answer_start].strip():
            raise RecordError(
                f"{name}: the chat template does not write the answer after its own generation prompt, so that the "
                f"supervised text would not be what a model is asked for; it wrote {closed[-80:]!r}"
            )
        closing = closed[answer_start + len(answer) :].rstrip()
        # What the template wrote since the last answer, then the answer and its closing token.
        text += prompt[rendered_end:]
        start = len(text)
        space = closed[len(header) : answer_start] if header == prompt else ""
        text += space + answer + (closing or _get_end_token(tokenizer, name))
        spans.append((start, len(text)))
        rendered_end = answer_start + len(answer) + len(closing)
    is_question = bool(messages) and messages[-1]["role"] == "user"
    whole = str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_question))
    if system and system not in whole:
        raise RecordError(
            f"{name}: the model was trained with the system text {system[:40]!r}..., which its chat template leaves "
            "out: check processor.chat_template"
        )
    text += whole[rendered_end:]
    return RenderedText(text if is_question else text.rstrip(), tuple(spans))


def _join_text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _flatten_message(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A message for a text tokenizer's chat template."""
    if any(part["type"] == "image" for part in message["content"]):
        raise RecordError(f"{name}: images: a tokenizer's chat template does not take images; pass the processor")
    return {"role": message["role"], "content": _join_text(message)}


def _render_llava(messages: Sequence[Mapping[str, Any]], processor: Any, system: str | None, name: str) -> RenderedText:
    tokenizer = getattr(processor, "tokenizer", processor)
    image = str(getattr(processor, "image_token", None) or IMAGE_TAG)
    text = f"{system} " if system else ""
    spans: list[tuple[int, int]] = []
    for message in messages:
        if message["role"] == "user":
            images = sum(part["type"] == "image" for part in message["content"])
            words = " ".join(part["text"] for part in message["content"] if part["type"] == "text")
            text += "USER: " + f"{image}\n" * images + words + " ASSISTANT:"
        else:
            start = len(text)
            text += f" {_join_text(message)}{_get_end_token(tokenizer, name)}"
            spans.append((start, len(text)))
    return RenderedText(text, tuple(spans))


def _get_end_token(tokenizer: Any, name: str) -> str:
    if not tokenizer.eos_token:
        raise RecordError(f"{name}: {type(tokenizer).__name__} has no end token, so no turn ever ends")
    return str(tokenizer.eos_token)


class _ControlTokens(NamedTuple):
    """The pattern of a tokenizer's control tokens, and what it was made from."""

    key: tuple[int, str]
    pattern: re.Pattern[str] | None


_control_tokens: WeakKeyDictionary[Any, _ControlTokens] = WeakKeyDictionary()


def _find_control_tokens(processor: Any) -> re.Pattern[str] | None:
    """Matches the tokens that only a chat template or a processor may write; None where there are none.

    These are the special tokens, and the added tokens that the chat template names.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    template = str(getattr(processor, "chat_template", None) or "")
    key = (len(tokenizer) if hasattr(tokenizer, "__len__") else 0, template)
    try:
        known = _control_tokens.get(tokenizer)
    except TypeError:  # a tokenizer that cannot be referenced weakly
        known = None
    if known is not None and known.key == key:
        return known.pattern
    control = {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}
    control |= {str(getattr(processor, kind, None) or "") for kind in ("image_token", "video_token")}
    perception = {token for token_set in (DEPTH, PIXEL) for token in token_set.tokens}
    for token in getattr(tokenizer, "added_tokens_decoder", {}).values():
        if token.special or (token.content in template and token.content not in perception):
            control.add(token.content)
    control = {token for token in control if len(token) > 1 and not token.isspace()}
    longest_first = sorted(control, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first))) if control else None
    with suppress(TypeError):
        _control_tokens[tokenizer] = _ControlTokens(key, pattern)
    return pattern


def check_known_tokens(text: str, known: Mapping[str, int], name: str) -> int:
    """The number of perception tokens of a text; raises RecordError for one that the vocabulary does not have."""
    pieces = [match[0] for pattern in (DEPTH.pattern, PIXEL.pattern) for match in pattern.finditer(text)]
    missing = next((piece for piece in pieces if piece not in known), None)
    if missing:
        raise RecordError(
            f"{name}: the vocabulary has no {missing}; extend the tokenizer with extend_vocabulary, or say that tokens "
            'in the user\'s texts are not meant (tokens="text")'
        )
    return len(pieces)


def _require_whole_tokens(record: PerceptionRecord, text: str, ids: tuple[int, ...], known: Mapping[str, int]) -> None:
    """Raise RecordError unless every perception token of the text is one id: others would be split silently."""
    count = check_known_tokens(text, known, f"record {record.id!r}")
    perception_ids = {*known.values()}
    found = sum(index in perception_ids for index in ids)
    if found != count:
        raise RecordError(
            f"record {record.id!r}: {count} perception tokens became {found} ids; the vocabulary is that of another "
            "tokenizer"
        )
