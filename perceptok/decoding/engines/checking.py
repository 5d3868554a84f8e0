"""What a server enforces, found out by asking it: blocks and boxes that came, were broken, cut, or out of order."""

from __future__ import annotations

import base64
import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from perceptok.decoding.engines.detection import (
    EngineName,
    ServedEngine,
    build_request_constraint,
    check_served_vocabulary,
    detect_engine,
    find_grammar_backend,
)
from perceptok.decoding.engines.structural_tag import OrderedAxes
from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.reading.generation import Problem, parse_generation
from perceptok.endpoints import Send, import_openai, map_requests
from perceptok.errors import ConfigError, EngineError, quote_error, translate_errors
from perceptok.hub import download_repository, is_hub_id
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from transformers import PreTrainedTokenizerBase

__all__ = ["FormCount", "ServerCheck", "check_server", "find_violations"]

_QUESTIONS = {
    "block": "What is the depth map for the image?",
    "box": "Return the bounding boxes of the dogs.",
    "any": "Which point is closest to the camera, and where are the dogs?",
}
"""What a request asks for -> its question."""

_PIXEL_TOKEN = re.compile(rf"<{PIXEL.name}_\d+>")
_TOKENIZER_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
_CUT = re.compile(r"[\s,]*(<\w*)?")
"""What may follow an unfinished block or box at the end of a text: a comma, the beginning of a token."""


@dataclass(frozen=True)
class FormCount:
    """How many blocks, or boxes, a server's answers have.

    Attributes:
        whole: In the grammar: 100 codes and both delimiters, or four coordinates in order.
        cut: Unfinished where the token budget ended the answer.
        broken: Malformed elsewhere: another number of codes or coordinates, a delimiter or bracket missing.
        unordered: Boxes of four coordinates with x2 < x1 or y2 < y1.
    """

    whole: int = 0
    cut: int = 0
    broken: int = 0
    unordered: int = 0


@dataclass(frozen=True)
class ServerCheck:
    """What came back from a server.

    Attributes:
        engine: The server.
        model: Id of the model that was asked.
        is_constrained: Whether requests had a constraint.
        is_vocabulary_checked: Whether the server's tokenizer could be asked for its ids.
        answers: Texts of the answers, in the order of the requests that were answered.
        failures: Why the other requests have none.
        blocks: Depth blocks of the answers.
        boxes: Boxes of the answers.
        stray_tokens: Places with perception tokens outside of blocks and boxes.
        tokens: Tokens of all answers, as the server counts them.
        seconds: Wall time of all requests.
    """

    engine: ServedEngine
    model: str
    is_constrained: bool
    is_vocabulary_checked: bool
    answers: tuple[str, ...]
    failures: tuple[str, ...]
    blocks: FormCount
    boxes: FormCount
    stray_tokens: int
    tokens: int
    seconds: float

    @property
    def is_enforced(self) -> bool:
        """Whether every request was answered, at least one block or box is whole, and none broken or stray.

        Cut and unordered ones do not count: which engine prevents them is a property of its constraint.
        """
        has_whole = self.blocks.whole + self.boxes.whole > 0
        return has_whole and not (self.failures or self.blocks.broken or self.boxes.broken or self.stray_tokens)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {**asdict(self), "is_enforced": self.is_enforced}


class _Answer(NamedTuple):
    text: str
    is_cut: bool
    tokens: int


def check_server(
    url: str,
    *,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    engine: EngineName | None = None,
    model: str | None = None,
    api_key: str | None = None,
    config: GrammarConfig | None = None,
    is_constrained: bool = True,
    ordered_axes: OrderedAxes = "coarse",
    has_image: bool | None = None,
    num_requests: int = 12,
    concurrency: int = 4,
    max_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    timeout: float = 600.0,
) -> ServerCheck:
    """Ask a server for blocks and boxes by OpenAI's API, with the constraint of its engine, and parse the answers.

    A third of the requests force a block first, a third a box, and a third leave the answer free within the grammar.

    Args:
        url: Address of the server, such as "http://localhost:8000".
        tokenizer: The served model's tokenizer, or its folder; by default the folder that the server names, if it is
            on this machine. Not needed for `perceptok llava serve`.
        engine: The engine, where a server is not recognised.
        model: Id of the served model; by default the first.
        api_key: Sent as a bearer token.
        config: One grammar for all requests instead of the three.
        is_constrained: Send the constraint; False shows what the model writes without.
        ordered_axes: How much of the order of coordinates a structural tag enforces.
        has_image: Whether requests contain an image (a small gradient); by default those to `perceptok llava serve`.
        num_requests: Number of requests.
        concurrency: Number of requests at a time.
        max_tokens: Token budget of each answer.
        temperature: Of the sampling; answers of one seed are the same for most engines.
        seed: Of the first request; the others count up from it.
        timeout: Seconds that a request may take.

    Raises:
        ConfigError: A number is out of range, or the address is not valid.
        ConstraintError: Vocabulary, tokenizer and grammar do not fit together.
        EngineError: No server answers, it is not recognised, or its tokenizer is not known.
        MissingExtraError: The package openai is not installed.
        VocabularyError: The served tokenizer gives the perception tokens other ids, or was never extended.
    """
    for name, value in (("num_requests", num_requests), ("concurrency", concurrency), ("max_tokens", max_tokens)):
        if value < 1:
            raise ConfigError(f"{name} is at least 1; got {value}")
    served = detect_engine(url, api_key=api_key, engine=engine)
    model = model or served.models[0]
    if model not in served.models:
        raise ConfigError(f"the server has no model {model!r}; it serves {', '.join(map(repr, served.models))}")
    import_openai("asking a server")
    loaded = None if served.name == "perceptok" and tokenizer is None else _load_tokenizer(tokenizer, served)
    vocab = PerceptionVocabulary.from_tokenizer(loaded) if loaded is not None else None
    is_checked = vocab is not None and check_served_vocabulary(served, vocab, model=model, api_key=api_key)
    grammars = _list_grammars(config, vocab)
    image_url = _make_image_url() if (served.name == "perceptok" if has_image is None else has_image) else None
    kinds = [list(grammars)[number % len(grammars)] for number in range(num_requests)]

    def build_constraints() -> dict[str, dict[str, Any]]:
        settings: dict[str, Any] = {"ordered_axes": ordered_axes, "grammar_backend": served.grammar_backend}
        return {
            kind: build_request_constraint(served.name, vocab, grammar, tokenizer=loaded, **settings)
            for kind, grammar in grammars.items()
            if is_constrained
        }

    def ask_all() -> list[_Answer | str]:
        constraints = build_constraints()

        def ask(send: Send, number: int) -> _Answer | str:
            question = _QUESTIONS[kinds[number]]
            content: Any = question
            if image_url:
                content = [{"type": "image_url", "image_url": {"url": image_url}}, {"type": "text", "text": question}]
            settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed + number}
            return _ask(send, model, content, settings, constraints.get(kinds[number]))

        client = _open_client(served, api_key, timeout)
        answers = map_requests(ask, range(num_requests), client, concurrency=concurrency, in_order=True)
        return [answer for _, answer in answers]

    start = time.perf_counter()
    replies = ask_all()
    if is_constrained and vocab is not None and all(isinstance(reply, str) for reply in replies):
        backend = find_grammar_backend(served, vocab, model=model, api_key=api_key)
        if backend not in (None, "xgrammar", served.grammar_backend):
            served, start = replace(served, grammar_backend=backend), time.perf_counter()
            replies = ask_all()
    seconds = time.perf_counter() - start
    answers = [reply for reply in replies if isinstance(reply, _Answer)]
    counts = [_count_forms(answer) for answer in answers]
    return ServerCheck(
        engine=served,
        model=model,
        is_constrained=is_constrained,
        is_vocabulary_checked=is_checked,
        answers=tuple(answer.text for answer in answers),
        failures=tuple(reply for reply in replies if isinstance(reply, str)),
        blocks=_sum_counts([count["block"] for count in counts]),
        boxes=_sum_counts([count["box"] for count in counts]),
        stray_tokens=sum(count["stray"].broken for count in counts),
        tokens=sum(answer.tokens for answer in answers),
        seconds=seconds,
    )


def _open_client(served: ServedEngine, api_key: str | None, timeout: float) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=served.api_url, api_key=api_key or "none", timeout=timeout, max_retries=1)


def _load_tokenizer(source: Any, served: ServedEngine) -> Any:
    if source is not None and not isinstance(source, str | os.PathLike):
        return source
    if source is None:
        if served.root is None or not Path(served.root).is_dir():
            raise EngineError(
                f"the server at {served.url} names no folder of this machine as its model's; pass the folder of the "
                "served model as tokenizer"
            )
        source = served.root
    from transformers import AutoTokenizer

    if is_hub_id(source):
        source = download_repository(str(source), patterns=_TOKENIZER_FILES, error=EngineError)
    with translate_errors(EngineError, f"{source}: the tokenizer cannot be loaded"):
        return AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)


def _list_grammars(config: GrammarConfig | None, vocab: PerceptionVocabulary | None) -> dict[str, GrammarConfig | None]:
    """What is asked for -> its grammar."""
    if config is not None:
        return dict.fromkeys(_QUESTIONS, config)
    has_depth, has_pixels = (vocab is None or vocab.has(token_set) for token_set in (DEPTH, PIXEL))
    boxes = GrammarConfig().boxes if has_pixels else None
    grammars: dict[str, GrammarConfig | None] = {}
    if has_depth:
        grammars["block"] = GrammarConfig(boxes=boxes, force_block="first", max_blocks=1)
    if has_pixels:
        grammars["box"] = GrammarConfig(depth=has_depth, first="box")
    return {**grammars, "any": GrammarConfig(depth=has_depth, boxes=boxes)}


def _make_image_url() -> str:
    """A gradient of 64 x 64 pixels as a data URL."""
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _ask(
    send: Send, model: str, content: Any, settings: Mapping[str, Any], constraint: Mapping[str, Any] | None
) -> _Answer | str:
    """The answer to one request, or why there is none."""
    from openai import OpenAIError

    try:
        reply = send(
            model=model,
            messages=[{"role": "user", "content": content}],
            extra_body=dict(constraint or {}),
            **settings,
        )
    except (OpenAIError, ValueError) as error:  # ValueError: a reply that is not JSON
        return quote_error(error)
    if not getattr(reply, "choices", None):  # a server may send any JSON
        return "the reply is not a completion: it has no choices"
    choice = reply.choices[0]
    tokens = reply.usage.completion_tokens if reply.usage else 0
    return _Answer(choice.message.content or "", choice.finish_reason == "length", tokens)


def find_violations(text: str, *, is_cut: bool) -> list[Problem]:
    """The problems of an answer that constraints exclude: whoever wrote it did not enforce one.

    What the token budget cut is not among them, nor are boxes whose coordinates are out of order, for not every engine
    can enforce the order.

    Args:
        text: The answer.
        is_cut: Whether the token budget ended it.
    """
    return [
        problem for problem in parse_generation(text).problems if _classify_problem(text, problem, is_cut) == "broken"
    ]


def _classify_problem(text: str, problem: Problem, is_cut: bool) -> Literal["unordered", "cut", "broken"]:
    codes = [PIXEL.codes.get(token, -1) for token in _PIXEL_TOKEN.findall(text, problem.start, problem.end)]
    if len(codes) == 4 and -1 not in codes and (codes[2] < codes[0] or codes[3] < codes[1]):
        return "unordered"
    return "cut" if is_cut and _CUT.fullmatch(text, problem.end) else "broken"


def _count_forms(answer: _Answer) -> dict[str, FormCount]:
    """Blocks, boxes and stray tokens (as broken) of one answer."""
    generation = parse_generation(answer.text)
    counts = {"block": [FormCount(whole=1)] * len(generation.blocks), "box": [], "stray": []}
    counts["box"] += [FormCount(whole=1)] * len(generation.boxes)
    for problem in generation.problems:
        is_block = answer.text.startswith(DEPTH.start, problem.start)
        has_pixels = _PIXEL_TOKEN.search(answer.text, problem.start, problem.end) is not None
        kind = "block" if is_block else "box" if has_pixels else "stray"
        counts[kind].append(FormCount(**{_classify_problem(answer.text, problem, answer.is_cut): 1}))
    return {kind: _sum_counts(found) for kind, found in counts.items()}


def _sum_counts(counts: Sequence[FormCount]) -> FormCount:
    return FormCount(
        whole=sum(count.whole for count in counts),
        cut=sum(count.cut for count in counts),
        broken=sum(count.broken for count in counts),
        unordered=sum(count.unordered for count in counts),
    )
