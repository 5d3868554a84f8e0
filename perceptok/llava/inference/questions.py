"""Questions about images: worded as a regime was trained, and turned into prompts of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from perceptok.data import PROMPTS, PromptSet, Task
from perceptok.errors import ConfigError, InferenceError
from perceptok.llava.loading import encode_inputs, suffix_ids
from perceptok.tokens import PIXEL
from perceptok.vocabulary import PerceptionVocabulary, sanitize_text

__all__ = ["IMAGE", "Ask", "Markers", "Request", "build_prompt", "build_question", "check_ask", "encode_prompts"]

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
    """One question about one image.

    Attributes:
        image: The image, in RGB and upright, as `open_image` returns it.
        question: The question; may contain `<image>` once, at the place of the image. It may be empty where `ask` gives
            the trained question.
        choices: The allowed answers, single letters or whole numbers; empty for any.
        markers: Letter -> x, y in the image's pixels, of points that the question is about.
        name: Name of the answer in files and pages.
        task: "depth" or "counting"; by default found in the question, markers and plural.
        plural: What is counted, such as "dogs"; by default found in the question.
    """

    image: Image.Image
    question: str = ""
    choices: tuple[str, ...] = ()
    markers: Markers = {}  # noqa: RUF012 - not modified
    name: str = ""
    task: Task | None = None
    plural: str | None = None


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


def build_prompt(processor: Any, question: str, vocab: PerceptionVocabulary, system: str | None = None) -> str:
    """The text of a prompt with one image and one question, up to where the answer begins.

    Perception tokens and control tokens that a user typed are escaped, so that they are tokenised as plain text.

    Args:
        processor: The model's processor; its chat template is used, or LLaVA-1.5's `USER: ... ASSISTANT:`.
        question: The question; may contain `<image>` once, at the place of the image.
        vocab: Perception tokens of the model.
        system: The system text that the model was trained with, or None.

    Raises:
        InferenceError: An empty question, `<image>` more than once, or a chat template that does not write exactly one
            image, or not the system text.
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
        messages = [{"role": "user", "content": content}]
        if system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
    else:
        texts = [part["text"] for part in content if part["type"] == "text"]
        text = f"{f'{system} ' if system else ''}USER: {token}\n{' '.join(texts)} ASSISTANT:"
    if system and system not in text:
        raise InferenceError(
            f"the model was trained with the system text {system[:40]!r}..., which its chat template leaves out: check "
            "processor.chat_template"
        )
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
