"""Questions about images: worded as a regime was trained, and turned into prompts of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from perceptok.data import (
    PROMPTS,
    PromptSet,
    Task,
    TokenReading,
    Turn,
    check_known_tokens,
    make_messages,
    render_messages,
)
from perceptok.decoding import read_answer
from perceptok.errors import ConfigError, EvaluationError, InferenceError, RecordError
from perceptok.images import ImageSource, open_image
from perceptok.llava.loading import encode_inputs, suffix_ids
from perceptok.tokens import PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = [
    "IMAGE",
    "Ask",
    "Markers",
    "ParsedMessages",
    "Request",
    "build_prompt",
    "build_question",
    "check_ask",
    "check_request",
    "encode_prompts",
    "parse_messages",
    "word_question",
]

IMAGE = "<image>"
"""Place of the image in a question; without it the image comes first."""

Ask = Literal["published", "direct", "cot", "depth", "boxes"]
"""How a question is worded: as it is, or as the questions of a training regime are."""

_COUNT_QUESTION = re.compile(
    r"how many (?P<plural>\S.*?) (?:are|is) (?:there )?(?:visible |shown |present )?"
    r"(?:in|on) (?:the|this) (?:image|picture|photo)\s*\?\.?",
    re.IGNORECASE,
)
_NOUN_PHRASE = re.compile(
    r"how many (?P<plural>\S.*?)(?: (?:are|is|can|do|does|did|have|has|were|was|in|on)\b|\s*\?)", re.IGNORECASE
)
"""The first noun phrase of a count question in other words: what it counts."""

_MAX_COUNT_QUESTION = 300
"""Number of characters in which a question has to say what is counted."""

_POINT_QUESTION = re.compile(
    r"which (?:of the )?(?:\w+ )?points? (?:is|lies) (?:the )?(?P<degree>closer|closest|nearest)", re.I
)
_DISTANCE = re.compile(r"\b(?:closer|closest|nearer|nearest) to the (?:camera|viewer)", re.IGNORECASE)

Markers = Mapping[str, tuple[float, float]]


class Request(NamedTuple):
    """One question of a conversation about one or several images.

    Attributes:
        images: The images, in RGB and upright, as `open_image` returns them. Depth map, boxes and markers are those of
            the first.
        question: The question; may contain `<image>` at the place of an image. It may be empty where `ask` gives the
            trained question.
        choices: The allowed answers, single letters or whole numbers; empty for any.
        markers: Letter -> x, y in the first image's pixels, of points that the question is about.
        name: Name of the answer in files and pages.
        task: "depth" or "counting"; by default found in the question, markers and plural.
        plural: What is counted, such as "dogs"; by default found in the question.
        history: The turns before the question. Without `<image>` in any of the user's texts the images come first in
            the first turn, as in training; otherwise it stands at the place of each.
        tokens: Whether perception tokens in the user's texts, such as `(<PIXEL_3>,...)` in a question about a region,
            are "meant" as tokens, or are "text". Control tokens (`</s>`) are always text.
        system: A system text instead of that of training; None for that of training.
    """

    images: tuple[Image.Image, ...]
    question: str = ""
    choices: tuple[str, ...] = ()
    markers: Markers = {}  # noqa: RUF012 - not modified
    name: str = ""
    task: Task | None = None
    plural: str | None = None
    history: tuple[Turn, ...] = ()
    tokens: TokenReading = "text"
    system: str | None = None

    @classmethod
    def from_messages(
        cls, messages: Sequence[Mapping[str, Any]], images: Sequence[ImageSource] = (), **fields: Any
    ) -> Request:
        """Make a request of a conversation in the chat format of transformers.

        Args:
            messages: Each has a `role` ("user", "assistant", or "system" for the first) and a `content`: text, or a
                list of parts `{"type": "text", "text": ...}` and `{"type": "image"}`. An image part may hold its image
                under `image` or `path`; others take the next of `images`. The last message is the question.
            images: The images of parts without their own: files, bytes, Pillow images or arrays (H, W, 3)
                of uint8 in 0..255; where no part is an image, they come first in the first turn.
            **fields: Other attributes of the request.

        Raises:
            InferenceError: A message of another form, roles that do not alternate, or more or fewer images than parts.
            ImageError: An image cannot be read.
        """
        parsed = parse_messages(messages, images)
        *history, question = parsed.turns
        _check_roles(parsed.turns)
        opened = tuple(open_image(source) for source in parsed.images)
        return cls(opened, question.text, history=tuple(history), **{"system": parsed.system, **fields})


class ParsedMessages(NamedTuple):
    """Chat messages as turns.

    Attributes:
        turns: Texts with `<image>` at the place of each image.
        images: The images in the order of their places.
        system: The system message's text; None without one.
    """

    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...]
    system: str | None


def parse_messages(messages: Sequence[Mapping[str, Any]], images: Sequence[ImageSource] = ()) -> ParsedMessages:
    """Parse chat messages; `<image>` in their texts is ordinary text. Arguments and errors: `Request.from_messages`."""
    if not isinstance(messages, list | tuple) or not messages:
        raise InferenceError(f"a conversation is a list of messages that is not empty; got {messages!r:.80}")
    remaining = list(images)
    placed: list[ImageSource] = []
    turns: list[Turn] = []
    system = None
    for index, message in enumerate(messages):
        where = f"message {index}"
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise InferenceError(f"{where}: expected an object with role and content; got {message!r:.80}")
        role, text = message["role"], ""
        for part in _list_parts(message["content"], where):
            if part.get("type") == "text" and isinstance(part.get("text"), str):
                text += part["text"].replace(IMAGE, f"{IMAGE[0]}\\{IMAGE[1:]}")
            elif part.get("type") == "image" and role == "user":
                placed.append(_take_image(part, remaining, where))
                text += IMAGE
            else:
                raise InferenceError(
                    f"{where}: expected parts of text (type and text) or, of the user, images (type, and image or "
                    f"path); got {part!r:.80}"
                )
        if role == "system" and index == 0:
            if not text.strip():
                raise InferenceError(f"{where}: the system text is empty; leave the message out for that of training")
            system = text
        elif role in ("user", "assistant"):
            turns.append(Turn(role, text))
        else:
            raise InferenceError(f"{where}: expected the role user or assistant, or system first; got {role!r:.40}")
    if not turns:
        raise InferenceError("a conversation needs a message of the user")
    if placed and remaining:
        raise InferenceError(f"{len(remaining)} images have no place: the messages have {len(placed)} image parts")
    return ParsedMessages(tuple(turns), (*placed, *remaining), system)


def _list_parts(content: object, where: str) -> Sequence[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple) or not all(isinstance(part, Mapping) for part in content):
        raise InferenceError(f"{where}: content is text or a list of parts; got {content!r:.80}")
    return content


def _take_image(part: Mapping[str, Any], remaining: list[ImageSource], where: str) -> ImageSource:
    if unknown := sorted(part.keys() - {"type", "image", "path"}):
        raise InferenceError(
            f"{where}: an image part has its image under image or path, nothing is downloaded; got {', '.join(unknown)}"
        )
    for key in ("image", "path"):
        if part.get(key) is not None:
            image: ImageSource = part[key]
            return image
    if not remaining:
        raise InferenceError(f"{where}: an image part without its image; give one under image or path, or in images")
    return remaining.pop(0)


def build_question(
    question: str = "",
    ask: Ask = "published",
    *,
    task: Task | None = None,
    plural: str | None = None,
    size: int = PIXEL.size,
    prompts: PromptSet = PROMPTS["aurora"],
) -> str:
    """Word a question as a model was trained on it.

    Args:
        question: A question, such as a benchmark's; empty for the trained one.
        ask: "published": the question as it is. "direct": the trained question that a letter or a number answers; a
            question about something else (the depth of two boxes) keeps its own words. "cot": the same, followed by the
            text that asks for the chain of thought. "depth": the question for the depth map. "boxes": the question for
            the boxes of what is counted.
        task: "depth" or "counting"; by default found in the question.
        plural: What is counted, such as "dogs"; by default found in the question.
        size: Side of the frame in pixels, which the chain-of-thought text of depth states.
        prompts: The templates that the model was trained with.

    Raises:
        ConfigError: An unknown `ask`.
        InferenceError: The question is not a string or is empty under "published", or task or plural are needed
            and not known.
    """
    check_ask(ask)
    if not isinstance(question, str) or (ask == "published" and not question.strip()):
        raise InferenceError(
            f"a question must be a string that is not empty, or be worded by ask (direct, cot, depth, boxes); got "
            f"{question!r}"
        )
    if ask == "published":
        return question
    question = question.replace(IMAGE, "").strip("\n")
    if ask == "depth":
        return prompts.ask("depth_atomic")
    subject = plural or _find_plural(question, prompts)
    if ask == "boxes":
        return prompts.ask("boxes_atomic", plural=_require_plural(subject, question))
    if (task or _find_task(question, plural, prompts)) == "depth":
        trained = _word_depth_question(question, prompts, size)
        return trained + (prompts.write("depth_thinking", size=size) if ask == "cot" else "")
    trained = _word_count_question(question, subject, prompts)
    if ask == "direct":
        return trained
    return trained + prompts.write("count_thinking", plural=_require_plural(subject, question))


def check_request(request: Request) -> None:
    """Raise InferenceError unless a request has an image, and choices and markers that an answer can name."""
    try:
        for choices in (request.choices, tuple(request.markers)):
            read_answer("?", choices)
    except EvaluationError as error:
        raise InferenceError(str(error)) from error
    if not request.images:
        raise InferenceError("a question needs at least one image; got none")


def word_question(request: Request, ask: Ask, *, size: int, prompts: PromptSet) -> str:
    """Word the question of a request; arguments and errors are those of `build_question`.

    A question about markers alone is about depth. In a conversation the places of the last turn's images are kept.
    """
    task = request.task or ("depth" if request.markers and not request.question.strip() else None)
    question = build_question(request.question, ask, task=task, plural=request.plural, size=size, prompts=prompts)
    if ask != "published" and request.history:
        question = IMAGE * request.question.count(IMAGE) + question
    return question


def check_ask(ask: str) -> None:
    """Raise ConfigError for an unknown way to ask."""
    if ask not in get_args(Ask):
        raise ConfigError(f"ask must be one of {', '.join(get_args(Ask))}; got {ask!r}")


def _word_depth_question(question: str, prompts: PromptSet, size: int) -> str:
    text = question.removesuffix(prompts.write("depth_thinking", size=size))
    match = _POINT_QUESTION.search(text)
    if text.strip() and match is None:
        return text  # about something else than lettered points
    is_pair = match is not None and match["degree"].lower() == "closer"
    return prompts.ask("pair_question" if is_pair else "depth_question")


def _word_count_question(question: str, plural: str | None, prompts: PromptSet) -> str:
    text = question.removesuffix(prompts.write("count_thinking", plural=plural)) if plural else question
    is_other = text.strip() and not _COUNT_QUESTION.fullmatch(text.strip()) and not _match_wordings(text, prompts)
    return text if is_other else prompts.ask("count_question", plural=_require_plural(plural, question))


def _match_wordings(question: str, prompts: PromptSet) -> str | None:
    """What a question in one of the trained wordings counts; None for another question."""
    for template in (prompts.count_question, *prompts.wordings.get("count_question", ())):
        first, *rest = map(re.escape, template.split("{plural}"))
        # The released chain-of-thought text begins with a stop, right behind the question.
        pattern = rf"{first}(.+?)" + r"\1".join(rest) + r"\.?"
        if match := re.fullmatch(pattern, question.strip(), re.IGNORECASE):
            return match[1]
    return None


def _find_plural(question: str, prompts: PromptSet) -> str | None:
    # The chain-of-thought text on the next line counts bounding boxes; the limit keeps the search short.
    first_line = question.partition("\n")[0][:_MAX_COUNT_QUESTION]
    if plural := _match_wordings(first_line, prompts):
        return plural
    match = _COUNT_QUESTION.search(first_line) or _NOUN_PHRASE.search(first_line)
    return match["plural"] if match else None


def _require_plural(plural: str | None, question: str) -> str:
    if not plural:
        raise InferenceError(
            f"the question {question[:80]!r} does not say what is counted; ask `How many dogs are in the image?`, or "
            "give the plural (--plural dogs)"
        )
    return plural


def _find_task(question: str, plural: str | None, prompts: PromptSet) -> Task:
    if plural or _find_plural(question, prompts):
        return "counting"
    if _POINT_QUESTION.search(question) or _DISTANCE.search(question):
        return "depth"
    raise InferenceError(
        f"the question {question[:80]!r} is neither about the depth of points nor about a number of objects, so no "
        "question of training corresponds to it; ask it as it is (published), or give its task (depth or counting)"
    )


def build_prompt(
    processor: Any,
    question: str,
    vocab: PerceptionVocabulary,
    system: str | None = None,
    *,
    history: Sequence[Turn] = (),
    images: int = 1,
    tokens: TokenReading = "text",
) -> str:
    """The text of a prompt, up to where the answer begins, as a training sample of the same conversation has it.

    Args:
        processor: The model's processor; its chat template is used, or LLaVA-1.5's `USER: ... ASSISTANT:`.
        question: The question; may contain `<image>` at the place of each image.
        vocab: Perception tokens of the model.
        system: The system text that the model was trained with, or None.
        history: The turns before the question.
        images: Number of images of the conversation.
        tokens: Whether perception tokens in the user's texts are "meant" or "text". Control tokens are always text.

    Raises:
        InferenceError: An empty text, turns that do not alternate, `<image>` not once for each image, a perception
            token that the vocabulary does not have, or a chat template that does not write every image and turn, or
            not the system text.
    """
    turns = (*history, Turn("user", question))
    _check_roles(turns)
    for turn in turns:
        _check_text(turn, turn.text)
    if tokens not in get_args(TokenReading):
        raise InferenceError(f"tokens must be one of {', '.join(get_args(TokenReading))}; got {tokens!r}")
    name = "the question"
    try:
        messages = make_messages(turns, processor, vocab, images=images, tokens=tokens, name=name)
        for turn, message in zip(turns, messages, strict=True):
            _check_text(turn, "".join(part.get("text", "") for part in message["content"]))
        rendered = render_messages(messages, processor, system=system, name=name)
        for turn in turns:
            if turn.role == "assistant" or tokens == "meant":
                check_known_tokens(turn.text, vocab.tokens, name)
    except RecordError as error:
        raise InferenceError(str(error)) from error
    token = str(getattr(processor, "image_token", None) or IMAGE)
    if (count := rendered.text.count(token)) != images:
        raise InferenceError(
            f"the model's chat template writes the image token {token} {count} times; expected {images}: check "
            "processor.chat_template"
        )
    return rendered.text


def _check_roles(turns: Sequence[Turn]) -> None:
    for index, turn in enumerate(turns):
        role = ("user", "assistant")[(len(turns) - 1 - index) % 2]
        if turn.role != role or (index == 0 and role != "user"):
            raise InferenceError(
                "user and assistant alternate in a conversation, which begins and ends with the user; got the roles "
                f"{', '.join(turn.role for turn in turns)}"
            )


def _check_text(turn: Turn, text: object) -> None:
    if not isinstance(text, str) or not text.strip():
        kind = "a question" if turn.role == "user" else "an answer of the conversation"
        raise InferenceError(f"{kind} must be a string that is not empty; got {turn.text!r}")


def encode_prompts(processor: Any, prompts: Sequence[str], images: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Inputs of the model's `generate`: prompts padded on the left, each with its images.

    Raises:
        InferenceError: The processor rejects them, or tokenises a prompt with an image differently.
    """
    suffixes = [suffix_ids(processor, prompt) for prompt in prompts]
    try:
        inputs = encode_inputs(processor, prompts, images, suffixes, padding_side="left")
    except (ValueError, TypeError, RuntimeError) as error:
        raise InferenceError(f"{type(processor).__name__} rejects the prompts and images ({error})") from error
    for ids, suffix in zip(inputs["input_ids"].numpy(), suffixes, strict=True):
        if not np.array_equal(ids[len(ids) - len(suffix) :], suffix):
            raise InferenceError(
                f"{type(processor).__name__} tokenises a prompt differently with an image than without, so that the "
                "prompt is not that of training; check that its chat template and tokenizer belong together"
            )
    return inputs
