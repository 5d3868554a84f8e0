"""OpenAI's chat completions: requests checked and converted to questions, answers converted to responses.

A field that OpenAI's API does not know is refused, as there; a field that it knows and this server does not honour is
refused by name, unless its value asks for nothing.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from perceptok.data import Task, TokenReading
from perceptok.decoding import GrammarConfig
from perceptok.depth import DepthMap
from perceptok.errors import ImageError, ImageSizeError, InferenceError, OutputError, PerceptokError
from perceptok.files import parse_json, read_input, resolve_inside
from perceptok.images import read_image_format, read_image_size
from perceptok.llava.inference.answer import PerceptionAnswer
from perceptok.llava.inference.pipeline import InferenceConfig, PerceptionPipeline
from perceptok.llava.inference.questions import Ask, Request, parse_messages
from perceptok.llava.inference.rows import TokenLogprob
from perceptok.llava.inference.streaming import Update
from perceptok.llava.serving.settings import ServingConfig
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL

__all__ = [
    "ApiError",
    "ChatQuestion",
    "ChatRequest",
    "PerceptionOptions",
    "convert_request",
    "describe_answer",
    "describe_logprobs",
    "describe_update",
    "parse_request",
]

MAX_MAP_SIDE = 640
"""Maximum side, in pixels, of a depth map in a response; the codec decodes 320 x 320."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "parallel_tool_calls": (None, False, True),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "prompt_cache_key": (None,),
    "prompt_cache_options": (None,),
    "prompt_cache_retention": (None,),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "structured_outputs": (None,),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Fields of a request that other servers know and this one does not honour, with the values that ask for nothing."""

_NEUTRAL_IN_MESSAGES: dict[str, tuple[Any, ...]] = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "name": (None,),
    "refusal": (None,),
    "tool_calls": (None, []),
}
"""The same of a message: OpenAI's client writes them into the message of a response, which the next request repeats."""

_NEUTRAL_IN_PARTS: dict[str, tuple[Any, ...]] = {"prompt_cache_breakpoint": (None,)}
_NEUTRAL_IN_IMAGES: dict[str, tuple[Any, ...]] = {"detail": (None, "auto")}
_NEUTRAL_IN_STREAM_OPTIONS: dict[str, tuple[Any, ...]] = {"include_obfuscation": (None, False)}

_BLOCK = DEPTH.start + f"<{DEPTH.name}_0>" * math.prod(DEPTH_GRID) + DEPTH.end
"""Text of a depth block of zeros."""

_MAX_VALUES = 10_000
"""Maximum number of values in a request's body: its conversation has some hundred."""

_MAX_MESSAGE = 1000
"""Maximum number of characters of an error message, which may quote a request."""

_IMAGE_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that are decoded; others, such as EPS, would be passed to another program."""


class ApiError(PerceptokError):
    """A request that is refused or failed, as OpenAI's API reports it.

    Args:
        message: What is wrong and what to do.
        status: HTTP status.
        code: Machine-readable reason.
        param: Name of the field.
        retry_after: Seconds after which the client may try again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_value",
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    def to_dict(self) -> dict[str, Any]:
        """The body of the response."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        message = str(self)
        message = message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "..."
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ImageUrl(_Model):
    url: str


class _Part(_Model):
    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: _ImageUrl | None = None


class _Message(_Model):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]


class _StreamOptions(_Model):
    include_usage: bool = False


class PerceptionOptions(_Model):
    """The field `perception` of a request: what perceptok adds to OpenAI's API.

    Attributes:
        constraints: Constrain the answer to the grammar.
        force_block: The answer begins with a depth block ("first") or contains one ("somewhere").
        grammar: Keys of a `GrammarConfig`: what an answer may contain.
        consistency: Constrain the conclusion to its evidence: "count", "list", "marker".
        ask: How the question is worded: "published", "direct", "cot", "depth" or "boxes".
        task: "depth" or "counting"; by default found in the question.
        plural: What is counted, such as "dogs".
        tokens: Whether perception tokens in the user's texts, such as a region's `(<PIXEL_3>,...)`, are "meant" as
            tokens or are "text".
        choices: The allowed answers, single letters or whole numbers.
        markers: Letter -> x, y in the first image's pixels, of points that the question is about.
        map: Return the decoded depth map as PNG.
        row_maps: Return the map so far with each row of a streamed block.
    """

    constraints: bool | None = None
    force_block: Literal["first", "somewhere"] | None = None
    grammar: dict[str, Any] | None = None
    consistency: list[Literal["count", "list", "marker"]] | None = None
    ask: Ask | None = None
    task: Task | None = None
    plural: str | None = None
    tokens: TokenReading = "text"
    choices: list[str] = []
    markers: dict[str, list[float]] = {}
    map: bool = True
    row_maps: bool = False


class ChatRequest(_Model):
    """A request for a chat completion: OpenAI's fields, and `perception`.

    `return_token_ids` is vLLM's. `perceptok` (true, false, or the keys of a `GrammarConfig`) constrains as in requests
    to other engines, which `perceptok.decoding.build_request_constraint` makes.
    """

    model: str
    messages: list[_Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    return_token_ids: bool | None = None
    perceptok: bool | dict[str, Any] | None = None
    perception: PerceptionOptions | None = None


class ChatQuestion(NamedTuple):
    """A checked request, ready to be answered.

    Attributes:
        messages: The conversation in the chat format of transformers.
        images: The bytes of its image files.
        fields: Other attributes of the pipeline's request.
        image_size: Width and height of the first image.
        config: Settings of the answer.
        seed: Seed of sampling; None for a random one.
        choices: Number of choices.
        stop: Texts that end an answer.
        top_logprobs: Number of most likely tokens to report; None reports no log probabilities.
    """

    messages: Sequence[Mapping[str, Any]]
    images: tuple[bytes, ...]
    fields: Mapping[str, Any]
    image_size: tuple[int, int]
    config: InferenceConfig
    seed: int | None
    choices: int
    stop: tuple[str, ...]
    top_logprobs: int | None

    def open_request(self) -> Request:
        """The pipeline's request with decoded images.

        Raises:
            ImageError: An image is damaged.
            InferenceError: The roles of the messages do not alternate.
        """
        return Request.from_messages(self.messages, self.images, **self.fields)


def parse_request(body: bytes) -> ChatRequest:
    """Parse the body of a request.

    Raises:
        ApiError: The body is not valid JSON, has unknown fields or values of another type, or asks for something that
            this server does not do.
    """
    try:
        values = parse_json(body.decode("utf-8"), "the request body", InferenceError)
    except UnicodeDecodeError as error:
        raise ApiError("the request body is not valid UTF-8", code="invalid_json") from error
    except InferenceError as error:
        raise ApiError(str(error), code="invalid_json") from error
    if not isinstance(values, dict):
        raise ApiError(f"the request body must be a JSON object; got {type(values).__name__}", code="invalid_json")
    _check_number_of_values(values)
    _drop_neutral_fields(values)
    try:
        return ChatRequest.model_validate(values)
    except ValidationError as error:
        raise _convert_validation_error(error) from error


def _check_number_of_values(request: dict[str, Any]) -> None:
    """Raise ApiError for a body whose validation would take seconds."""
    count = 0
    remaining: list[Any] = [request]
    while remaining:
        values = remaining.pop()
        count += len(values)
        if count > _MAX_VALUES:
            raise ApiError(f"the request body has more than {_MAX_VALUES:,} values", code="invalid_json")
        items = values.values() if isinstance(values, dict) else values
        remaining += [item for item in items if isinstance(item, dict | list)]


def _drop_neutral_fields(request: dict[str, Any]) -> None:
    """Remove the fields that are known and not honoured; raises ApiError for one that asks for something."""

    def drop(values: object, neutral: Mapping[str, tuple[Any, ...]], where: str = "") -> None:
        if not isinstance(values, dict):
            return
        for name in sorted(values.keys() & neutral.keys()):
            if values.pop(name) not in neutral[name]:
                message = f"{where + name!r} is not supported by this server; leave it out"
                raise ApiError(message, code="unsupported_parameter", param=where + name)

    drop(request, _NEUTRAL)
    drop(request.get("stream_options"), _NEUTRAL_IN_STREAM_OPTIONS, "stream_options.")
    for where, message in _list_objects(request.get("messages"), "messages"):
        drop(message, _NEUTRAL_IN_MESSAGES, f"{where}.")
        for place, part in _list_objects(message.get("content"), f"{where}.content"):
            drop(part, _NEUTRAL_IN_PARTS, f"{place}.")
            drop(part.get("image_url"), _NEUTRAL_IN_IMAGES, f"{place}.image_url.")


def _list_objects(values: object, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a list with their paths; empty for anything else than a list."""
    items = values if isinstance(values, list) else []
    return [(f"{name}.{index}", item) for index, item in enumerate(items) if isinstance(item, dict)]


def _convert_validation_error(error: ValidationError) -> ApiError:
    """A problem of a request, by the path of its field; the value itself is left out.

    Of the branches of a union the one that matched furthest says what is wrong.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    path, problem = max(((_spell_path(problem["loc"]), problem) for problem in problems), key=lambda pair: len(pair[0]))
    name = ".".join(path)[:200]
    if problem["type"] == "extra_forbidden":
        return ApiError(f"unknown field {name!r}; leave it out", code="unknown_parameter", param=name)
    if problem["type"] == "missing":
        return ApiError(f"the field {name!r} is missing", code="missing_required_parameter", param=name)
    reason = "Input should be a JSON object" if problem["type"] in ("model_type", "dict_type") else problem["msg"]
    return ApiError(f"{name}: {reason}", code="invalid_type", param=name)


def _spell_path(location: Sequence[str | int]) -> list[str]:
    """The parts of a field's path, without the labels of a union's branches."""
    return [str(part) for part in location if part not in ("str", "bool") and "[" not in str(part)]


def convert_request(chat: ChatRequest, pipe: PerceptionPipeline, config: ServingConfig) -> ChatQuestion:
    """Check a request against the model and the limits, and read its image.

    Raises:
        ApiError: Another model, a value out of range, not one question about one image, or an image that is not
            allowed, too large, or not an image.
    """
    if chat.model != config.served_model_name:
        message = f"the model {chat.model[:200]!r} does not exist; this server serves {config.served_model_name!r}"
        raise ApiError(message, status=404, code="model_not_found", param="model")
    options = chat.perception or PerceptionOptions()
    messages, urls = _convert_messages(chat.messages)
    if not urls:
        raise ApiError("a question is about an image; the messages have no image_url part", param="messages")
    images = _read_images(urls, config)
    markers = {letter: _read_point(letter, values) for letter, values in options.markers.items()}
    contents = tuple(image.content for image in images)
    try:
        parse_messages(messages, contents)
    except InferenceError as error:
        raise ApiError(str(error), param="messages") from error
    fields = {
        "choices": tuple(options.choices),
        "markers": markers,
        "task": options.task,
        "plural": options.plural,
        "tokens": options.tokens,
    }
    settings = _make_config(chat, options, pipe, config)
    count = _check_range("n", chat.n, 1, 1, config.max_batch_size)
    stop = (chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop or ())
    _check_stop(stop, settings, pipe)
    top = None
    if chat.logprobs:
        top = _check_range("top_logprobs", chat.top_logprobs, 0, 0, 20)
    elif chat.top_logprobs is not None:
        raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
    if chat.stream_options is not None and not chat.stream:
        raise ApiError("stream_options needs stream: true", param="stream_options")
    return ChatQuestion(messages, contents, fields, images[0].size, settings, chat.seed, count, stop, top)


def _check_stop(stop: Sequence[str], settings: InferenceConfig, pipe: PerceptionPipeline) -> None:
    """Raise ApiError for texts of `stop` that are not valid, or that may cut a block which the answer must contain."""
    if len(stop) > 4 or not all(stop):
        raise ApiError("stop must be up to 4 texts that are not empty", param="stop")
    if not stop or not settings.constraints:
        return
    try:
        grammar = settings.resolve_grammar(pipe.vocab.has(DEPTH), "aurora" if pipe.vocab.has(PIXEL) else None)
    except PerceptokError as error:
        raise ApiError(str(error)) from error
    is_first = grammar.force_block == "first" or grammar.first == "block"
    if grammar.force_block == "somewhere" or (is_first and any(map(_may_begin_in_block, stop))):
        message = "stop may end an answer before the end of its forced block; leave out stop, or what forces the block"
        raise ApiError(message, param="stop")


def _may_begin_in_block(stop: str) -> bool:
    """Whether a text may begin inside a depth block's text."""
    text = re.sub(r"\d+", "0", stop)
    return text in _BLOCK or any(_BLOCK.endswith(text[:count]) for count in range(1, len(text)))


def _check_range(name: str, value: int | None, default: int, low: int, high: int) -> int:
    value = default if value is None else value
    if not low <= value <= high:
        raise ApiError(f"{name} must be between {low} and {high}; got {value}", param=name)
    return value


def _read_point(letter: str, values: list[float]) -> tuple[float, float]:
    if len(values) != 2 or not np.isfinite(values).all():
        raise ApiError(f"the marker {letter[:20]!r} must be x, y in the image's pixels", param="perception.markers")
    return values[0], values[1]


def _make_config(
    chat: ChatRequest, options: PerceptionOptions, pipe: PerceptionPipeline, config: ServingConfig
) -> InferenceConfig:
    """The settings of the pipeline, with those that the request changes."""
    given = (chat.max_tokens, chat.max_completion_tokens)
    if None not in given and given[0] != given[1]:
        raise ApiError(f"max_tokens {given[0]} and max_completion_tokens {given[1]} contradict each other; pass one")
    default = min(pipe.config.max_new_tokens, config.max_tokens)
    budget = next((value for value in given if value is not None), default)
    name = "max_tokens" if chat.max_tokens is not None else "max_completion_tokens"
    _check_range(name, budget, budget, 1, config.max_tokens)
    if chat.temperature is not None and not 0 <= chat.temperature <= 2:
        raise ApiError(f"temperature must be between 0 and 2; got {chat.temperature}", param="temperature")
    changes: dict[str, Any] = {
        "max_new_tokens": budget,
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "constraints": options.constraints,
        "force_block": options.force_block,
        "consistency": None if options.consistency is None else tuple(options.consistency),
        "ask": options.ask,
    }
    grammar = options.grammar
    if isinstance(chat.perceptok, dict):
        grammar = chat.perceptok if grammar is None else grammar
    elif chat.perceptok is not None and options.constraints is None:
        changes["constraints"] = chat.perceptok
    try:
        changes["grammar"] = None if grammar is None else GrammarConfig.from_dict(grammar)
        return pipe.config.override({name: value for name, value in changes.items() if value is not None})
    except PerceptokError as error:
        raise ApiError(str(error)) from error


def _convert_messages(messages: Sequence[_Message]) -> tuple[list[dict[str, Any]], list[str]]:
    """The messages in the chat format of transformers, and the URLs of their images in order."""
    converted: list[dict[str, Any]] = []
    urls: list[str] = []
    for index, message in enumerate(messages):
        content: Any = message.content
        if isinstance(message.content, list):
            content = []
            for number, part in enumerate(message.content):
                _check_part(part, f"messages.{index}.content.{number}")
                if part.image_url is not None:
                    urls.append(part.image_url.url)
                    content.append({"type": "image"})
                else:
                    content.append({"type": "text", "text": part.text})
        converted.append({"role": "system" if message.role == "developer" else message.role, "content": content})
    return converted, urls


def _check_part(part: _Part, where: str) -> None:
    """Raise ApiError unless a part of a message has the field of its type, and not that of the other."""
    other = "text" if part.type == "image_url" else "image_url"
    if getattr(part, part.type) is None:
        name = f"{where}.{part.type}"
        raise ApiError(f"the field {name!r} is missing", code="missing_required_parameter", param=name)
    if getattr(part, other) is not None:
        name = f"{where}.{other}"
        raise ApiError(f"unknown field {name!r} in a part of type {part.type!r}; leave it out", param=name)


class _ImageFile(NamedTuple):
    content: bytes
    size: tuple[int, int]


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def _read_images(urls: Sequence[str], config: ServingConfig) -> list[_ImageFile]:
    """The images of a request, which are within the limits together."""
    if len(urls) > config.max_images:
        raise ApiError(
            f"the messages have {len(urls)} images; at most {config.max_images} are allowed",
            code="too_many_images",
            param="messages",
        )
    images: list[_ImageFile] = []
    for url in urls:
        images.append(_read_image(url, config))
        size = sum(len(image.content) for image in images)
        pixels = sum(image.size[0] * image.size[1] for image in images)
        if size > config.max_image_bytes:
            raise _make_size_error(size, config)
        if pixels > config.max_image_pixels:
            limit = f"at most {config.max_image_pixels:,} pixels are allowed: scale them down first"
            message = f"the images have {pixels:,} pixels together; {limit}"
            raise ApiError(message, code="image_too_large", param="messages")
    return images


def _read_image(url: str, config: ServingConfig) -> _ImageFile:
    """The bytes of an image from its data URL or its name in the folder of images."""
    param = "messages"
    if url.startswith("data:"):
        content = _decode_data_url(url, config)
    elif _SCHEME.match(url) or url.startswith(("//", "\\\\")):
        scheme = url.partition(":")[0][:20]
        raise ApiError(
            f"images are not fetched from URLs ({scheme}:); send a data URL: data:image/png;base64,...",
            code="invalid_image_url",
            param=param,
        )
    elif config.images is None:
        raise ApiError(
            "the image is neither a data URL (data:image/png;base64,...) nor may it name a file: the server was "
            "started without a folder of images (--images)",
            code="invalid_image_url",
            param=param,
        )
    else:
        content = _read_image_file(url, config)
    try:
        size = read_image_size(content, max_pixels=config.max_image_pixels)
        kind = read_image_format(content)
    except ImageSizeError as error:
        raise ApiError(str(error), code="image_too_large", param=param) from error
    except ImageError as error:
        raise ApiError(str(error), code="invalid_image", param=param) from error
    if kind not in _IMAGE_FORMATS:
        message = f"images in the format {kind} are not read; send PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
        raise ApiError(message, code="invalid_image", param=param)
    return _ImageFile(content, size)


def _decode_data_url(url: str, config: ServingConfig) -> bytes:
    header, comma, data = url.partition(",")
    if not comma or not re.fullmatch(r"data:image/[\w.+-]+(;[\w=.-]+)*;base64", header, re.ASCII | re.IGNORECASE):
        raise ApiError(
            "the image's data URL must begin with data:image/FORMAT;base64,", code="invalid_image_url", param="messages"
        )
    if len(data) * 3 // 4 > config.max_image_bytes + 2:
        raise _make_size_error(len(data) * 3 // 4, config)
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        reason = (
            "it has white space; encode without line breaks, as base64 -w0 does" if data.split() != [data] else error
        )
        raise ApiError(
            f"the image's data URL is not valid base64: {reason}", code="invalid_image_url", param="messages"
        ) from error
    if len(content) > config.max_image_bytes:
        raise _make_size_error(len(content), config)
    return content


def _read_image_file(name: str, config: ServingConfig) -> bytes:
    assert config.images is not None
    try:
        return read_input(resolve_inside(config.images, name), max_bytes=config.max_image_bytes)
    except (OutputError, ValueError) as error:
        message = (
            f"the image {name[:200]!r} does not lie in the folder of images; names are relative, without '..', and the "
            "content of an image is sent as a data URL (data:image/png;base64,...)"
        )
        raise ApiError(message, code="invalid_image_url", param="messages") from error
    except OSError as error:
        message = f"the image {name[:200]!r} cannot be read ({error.strerror})"
        raise ApiError(message, code="invalid_image_url", param="messages") from error


def _make_size_error(size: int, config: ServingConfig) -> ApiError:
    message = f"the image files have {size:,} bytes; at most {config.max_image_bytes:,} are allowed"
    return ApiError(message, code="image_too_large", param="messages")


def describe_answer(answer: PerceptionAnswer, *, with_map: bool) -> dict[str, Any]:
    """The evidence of an answer, as the field `perception` of a choice.

    Returns:
        `PerceptionAnswer.to_dict` without name and text, and `depth`: `width`, `height` and `url`, a PNG of nearness
        (white = nearest) of the whole image, with its longer side at most 640 pixels; transparent where a crop hid the
        image from the model.
    """
    values = answer.to_dict()
    del values["name"], values["text"]
    depth = answer.depth_within(MAX_MAP_SIDE) if with_map else None
    return {**values, "depth": None if depth is None else _describe_map(depth)}


def describe_update(update: Update, *, with_map: bool) -> dict[str, Any] | None:
    """An update of a streamed answer, as the field `perception` of a chunk; None for text and the whole answer."""
    if update.kind == "problem":
        return {"event": "problem", "message": update.text}
    if update.kind not in ("row", "depth", "box") or update.codes is None:
        return None
    values: dict[str, Any] = {"event": update.kind, "codes": update.codes.ravel().tolist()}
    if update.kind == "row":
        values["row"] = update.row
    if update.box is not None:
        values["box"] = update.box.round(3).tolist()
    if with_map and update.kind == "row" and update.depth is not None:
        values["depth"] = _describe_map(update.depth)
    return values


def _describe_map(depth: DepthMap) -> dict[str, Any]:
    grey = (depth.values * 255).round().clip(0, 255).astype(np.uint8)
    image = Image.fromarray(grey)
    if not depth.valid.all():
        image.putalpha(Image.fromarray(np.where(depth.valid, 255, 0).astype(np.uint8)))
    file = io.BytesIO()
    image.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"width": image.width, "height": image.height, "url": url}


def describe_logprobs(entries: Sequence[TokenLogprob], tokenizer: Any, start: int = 0) -> dict[str, Any]:
    """The field `logprobs` of a choice.

    Args:
        entries: Those of the answer from its first token on, whose texts joined are its text.
        tokenizer: The model's.
        start: The first entry to describe.
    """

    def decode(token_ids: list[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def describe(before: list[int], token_id: int, logprob: float) -> dict[str, Any]:
        # SentencePiece drops the space in front of the first token that is decoded.
        text, context = decode([*before, token_id]), decode(before)
        text = text[len(context) :] if "\ufffd" not in text + context else decode([token_id])
        piece = re.fullmatch("<0x([0-9A-F]{2})>", str(tokenizer.convert_ids_to_tokens(token_id)))
        content = bytes.fromhex(piece[1]) if piece else text.encode()
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(content)}

    content = []
    for position, entry in enumerate(entries[start:], start):
        before = [entries[position - 1].token_id] if position else []
        top = [describe(before, *pair) for pair in entry.top]
        content.append({**describe(before, entry.token_id, entry.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}
