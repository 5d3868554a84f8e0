"""One client for `perceptok llava serve`, vLLM and SGLang: a served model in the place of a loaded one."""

from __future__ import annotations

import base64
import copy
import io
import json
import operator
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from perceptok.boxes import BoxCodec
from perceptok.data import PROMPTS, Turn, make_messages
from perceptok.decoding import (
    ServedEngine,
    build_request_constraint,
    check_served_vocabulary,
    detect_engine,
    find_grammar_backend,
    find_violations,
    parse_generation,
)
from perceptok.depth import DepthCodec
from perceptok.endpoints import Send, import_openai, map_requests
from perceptok.errors import (
    CheckpointError,
    ConfigError,
    EngineError,
    InferenceError,
    PerceptokError,
    quote_error,
)
from perceptok.files import parse_json, read_input
from perceptok.jobs import stamp_folder
from perceptok.llava.adapter_record import ADAPTER_FILE, find_adapter_folder, read_adapter_frame
from perceptok.llava.framing import FrameRule
from perceptok.llava.inference.answer import PerceptionAnswer, parse_answer
from perceptok.llava.inference.pipeline import InferenceConfig
from perceptok.llava.inference.questions import Request, check_request, word_question
from perceptok.llava.loading import load_processor
from perceptok.llava.saving import load_saved_codec
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import MANIFEST, PerceptionVocabulary

__all__ = ["ServedPipeline"]


class ServedPipeline:
    """Asks a served model what `PerceptionPipeline` asks a loaded one, and parses its answers in the same way.

    Images are framed and questions worded here, as in training; a constraint is added in the form that the engine
    reads. Requests run concurrently; one that the server refuses for the moment (429, 5xx) or that does not reach it is
    sent again with exponential back-off.

    Args:
        engine: The server, as `detect_engine` finds it.
        processor: The served model's processor.
        vocab: Perception tokens of the model.
        codec: The depth codec that the model was trained with.
        frame: How images are framed.
        config: The settings; `consistency` only with `perceptok llava serve`.
        system: The system text that the model was trained with; None for none.
        model: Id of the model on the server; by default its first.
        api_key: Sent as a bearer token.
        concurrency: Number of requests at a time.
        max_retries: How often a request is sent again.
        timeout: Seconds that a request may take.

    Raises:
        ConfigError: A setting that the engine does not have, or a model that it does not serve.
        MissingExtraError: openai is not installed (extra `client`).
    """

    def __init__(
        self,
        engine: ServedEngine,
        processor: Any,
        vocab: PerceptionVocabulary,
        *,
        codec: DepthCodec,
        frame: FrameRule,
        config: InferenceConfig | None = None,
        system: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        concurrency: int = 8,
        max_retries: int = 6,
        timeout: float = 600.0,
    ) -> None:
        self.engine, self.processor, self.vocab, self.codec, self.frame = engine, processor, vocab, codec, frame
        self.config = config or InferenceConfig()
        self.system = system
        self.model = engine.models[0] if model is None else model
        self.concurrency = concurrency
        self.box_codec = BoxCodec(decode="center")
        self.stamps: list[Any] = [engine.name, self.model]
        # Requests are prepared and answers parsed in several threads; padding would change the tokenizer's state.
        self._tokenizer = copy.deepcopy(processor.tokenizer)
        if self.model not in engine.models:
            raise ConfigError(
                f"the server at {engine.url} does not serve {self.model!r}; it serves {', '.join(engine.models)}"
            )
        if concurrency < 1 or max_retries < 0 or not timeout > 0:
            raise ConfigError(
                f"concurrency must be at least 1, max_retries at least 0 and timeout above 0; got {concurrency}, "
                f"{max_retries} and {timeout}"
            )
        if engine.name == "llama.cpp":
            raise ConfigError("images are not sent to llama.cpp; serve the model with perceptok, vLLM or SGLang")
        self._fields = self._build_fields(self.config)
        self._openai: Any = import_openai("a served model")
        self._client_settings = {
            "base_url": engine.api_url,
            "api_key": api_key or "none",
            "max_retries": max_retries,
            "timeout": timeout,
        }
        self._fingerprint = self._check_model(api_key)

    @classmethod
    def connect(
        cls,
        url: str,
        folder: str | os.PathLike[str],
        *,
        codec: DepthCodec | None = None,
        api_key: str | None = None,
        **settings: Any,
    ) -> Self:
        """Connect to a server, with tokenizer, manifest, codec, frame and system text of a folder; no weights are read.

        Args:
            url: Address of the server, such as "http://localhost:8000".
            folder: The served model's folder: one that `save_adapter`, `merge_adapter` or `finetune` wrote.
            codec: Used instead of the saved copy.
            api_key: Sent as a bearer token.
            **settings: Other arguments of the class.

        Raises:
            CheckpointError: The folder does not exist, or its model was not trained on perception tokens.
            EngineError: No server answers there, or it is not one that is recognised.
            VocabularyError: The served tokenizer gives the perception tokens other ids than the folder's.
        """
        engine = detect_engine(url, api_key=api_key)
        path = find_adapter_folder(folder)
        frame, system = _read_frame_and_system(path)
        codec = codec or load_saved_codec(path) or DepthCodec.from_pretrained()
        processor: Any = load_processor(path)
        vocab = PerceptionVocabulary.from_pretrained(path, processor.tokenizer, codec_fingerprint=codec.fingerprint)
        backend = find_grammar_backend(engine, vocab, model=settings.get("model"), api_key=api_key)
        engine = replace(engine, grammar_backend=backend)
        pipe = cls(engine, processor, vocab, codec=codec, frame=frame, system=system, api_key=api_key, **settings)
        pipe.stamps.append(stamp_folder(path))
        return pipe

    def _check_model(self, api_key: str | None) -> str | None:
        """Check that codec, frame and token ids are those of the served model, as far as the server states them.

        Returns:
            What identifies the served model; None where the server does not state it.
        """
        if self.engine.name != "perceptok":
            check_served_vocabulary(self.engine, self.vocab, model=self.model, api_key=api_key)
            return None
        with self._openai.OpenAI(**self._client_settings) as client:
            served = self._send_and_convert(lambda: client.models.retrieve(self.model))
        stated = (getattr(served, "model_extra", None) or {}).get("perception")
        if not isinstance(stated, Mapping):
            raise EngineError(
                f"the server at {self.engine.url} does not state codec and frame of its model; serve it with the "
                "version of perceptok that asks it"
            )
        own = {"codec": self.codec.fingerprint, "frame": json.loads(json.dumps(self.frame.to_dict()))}
        for name, value in own.items():
            if stated.get(name) != value:
                raise ConfigError(
                    f"the {name} of the model that {self.engine.url} serves is {stated.get(name)}, that of the folder "
                    f"{value}: name the folder of the served model"
                )
        fingerprint = stated.get("fingerprint")
        self.stamps.append(fingerprint)
        return fingerprint if isinstance(fingerprint, str) else None

    def answers(self, requests: Sequence[Request], **changes: Any) -> Iterator[PerceptionAnswer]:
        """Yield answers in the order of the requests, asked concurrently.

        Raises:
            InferenceError: The server refuses a request as not valid, or a question or choice is not valid.
            EngineError: The server cannot be reached, refuses the key, or fails again and again.
            ConfigError: An unknown setting, or a value out of range.
        """
        for answer in self.try_answers(requests, **changes):
            if isinstance(answer, PerceptokError):
                raise answer
            yield answer

    def try_answers(self, requests: Iterable[Request], **changes: Any) -> Iterator[PerceptionAnswer | PerceptokError]:
        """Yield answers in the order of the requests; for a request that is not valid, the error.

        Where the generator ends before the requests do, by Ctrl-C too, requests that are running are cancelled.

        Raises:
            EngineError: The server cannot be reached, refuses the key, or fails again and again.
        """
        for _, answer in self._answer(requests, changes, in_order=True):
            yield answer

    def answers_as_completed(
        self, requests: Iterable[Request], **changes: Any
    ) -> Generator[tuple[int, PerceptionAnswer | PerceptokError], None, None]:
        """Yield answers as they come, each with the index of its request; otherwise as `try_answers`.

        Args:
            requests: The requests, which are drawn as they are sent.
            **changes: Settings of `InferenceConfig` for this call.

        Raises:
            EngineError: The server cannot be reached, refuses the key, or fails again and again.
        """
        return self._answer(requests, changes, in_order=False)

    def _answer(
        self, requests: Iterable[Request], changes: Mapping[str, Any], *, in_order: bool
    ) -> Generator[tuple[int, PerceptionAnswer | PerceptokError], None, None]:
        config = self.config.override(changes)
        fields = self._fields if config == self.config else self._build_fields(config)

        def ask(send: Send, request: Request) -> PerceptionAnswer | PerceptokError:
            try:
                return self._ask(send, request, config, fields)
            except EngineError:
                raise
            except PerceptokError as error:
                return error

        client = self._openai.AsyncOpenAI(**self._client_settings)
        return map_requests(ask, requests, client, concurrency=self.concurrency, in_order=in_order)

    def _build_fields(self, config: InferenceConfig) -> dict[str, Any]:
        """The fields of every request that constrain it."""
        if config.consistency and self.engine.name != "perceptok":
            raise ConfigError(f"{self.engine.name} has no consistency constraints; leave consistency out")
        if not config.constraints:
            return {"perceptok": False} if self.engine.name == "perceptok" else {}
        grammar = config.resolve_grammar(self.vocab.has(DEPTH), "aurora" if self.vocab.has(PIXEL) else None)
        return build_request_constraint(
            self.engine.name,
            self.vocab,
            grammar,
            tokenizer=self._tokenizer,
            grammar_backend=self.engine.grammar_backend,
        )

    def _ask(
        self, send: Send, request: Request, config: InferenceConfig, fields: Mapping[str, Any]
    ) -> PerceptionAnswer:
        check_request(request)
        question = word_question(request, config.ask, size=self.frame.size, prompts=PROMPTS[config.prompts])
        extra = {**fields, **({"return_token_ids": True} if self.engine.name in ("perceptok", "vllm") else {})}
        if self.engine.name == "perceptok":
            extra["perception"] = {
                "map": False,
                "tokens": request.tokens,
                "consistency": list(config.consistency),
                **({"markers": self._frame_markers(request)} if config.consistency else {}),
            }
        sampling: dict[str, Any] = {"temperature": config.temperature, "max_tokens": config.max_new_tokens}
        if config.temperature:
            # Of the question, so that answers depend neither on their order nor on an interruption.
            number = zlib.crc32(json.dumps([config.seed, request.name, question]).encode())
            sampling |= {"top_p": config.top_p, "seed": number}
        response = self._complete(send, self._make_messages(request, question), sampling, extra)
        return self._parse(response, request, question, config)

    def _frame_markers(self, request: Request) -> dict[str, list[float]]:
        """The markers in the pixels of the first image as it is sent."""
        points = np.array(list(request.markers.values()), dtype=np.float64).reshape(-1, 2)
        if self.frame.mode != "processor":
            points = self.frame.make_frame(request.images[0].size).to_frame(points)
        return dict(zip(request.markers, points.tolist(), strict=True))

    def _make_messages(self, request: Request, question: str) -> list[dict[str, Any]]:
        """The conversation as OpenAI's messages, its images framed as in training."""
        turns = (*request.history, Turn("user", question))
        # `perceptok llava serve` escapes perception tokens itself, as the request's `tokens` says.
        tokens = "meant" if self.engine.name == "perceptok" else request.tokens
        messages = make_messages(
            turns, self.processor, self.vocab, images=len(request.images), tokens=tokens, name="the question"
        )
        images = iter(request.images)
        # Unless each part says that there are several, SGLang leaves out all images of a LLaVA-1.5 but the first.
        kind = {"modalities": "multi-images"} if self.engine.name == "sglang" and len(request.images) > 1 else {}
        converted: list[dict[str, Any]] = []
        own = None if self.engine.name == "perceptok" else self.system  # that server adds it itself
        system = own if request.system is None else request.system
        if system:
            converted.append({"role": "system", "content": system})
        for message in messages:
            parts = [
                {"type": "image_url", "image_url": {"url": _to_data_url(self.frame.apply(next(images)))}, **kind}
                if part["type"] == "image"
                else {"type": "text", "text": part["text"]}
                for part in message["content"]
            ]
            is_text = all(part["type"] == "text" for part in parts)
            content: Any = "".join(str(part["text"]) for part in parts) if is_text else parts
            converted.append({"role": message["role"], "content": content})
        return converted

    def _complete(
        self, send: Send, messages: list[dict[str, Any]], sampling: dict[str, Any], extra: dict[str, Any]
    ) -> Any:
        """The response to a request; raises the errors of `_send_and_convert`, and EngineError for another model's."""
        response = self._send_and_convert(
            lambda: send(model=self.model, messages=messages, extra_body=extra, **sampling)
        )
        if self._fingerprint not in (None, getattr(response, "system_fingerprint", None)):
            raise EngineError(
                f"the server at {self.engine.url} now serves another model than the one that was asked before; serve "
                f"that one again{_RESUME}"
            )
        return response

    def _send_and_convert(self, send: Callable[[], Any]) -> Any:
        """What the client returns, with errors of ours.

        Raises:
            InferenceError: The server refuses the request as not valid.
            EngineError: Anything else that keeps it from being answered.
        """
        openai = self._openai
        try:
            return send()
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            body = error.body if isinstance(error.body, Mapping) else {}
            raise InferenceError(
                f"the server refuses the request: {body.get('message', quote_error(error))}"
            ) from error
        except openai.APIStatusError as error:
            reason = f"HTTP {error.status_code}: {quote_error(error)}"
            raise EngineError(f"the server at {self.engine.url} does not answer ({reason}){_RESUME}") from error
        except (openai.OpenAIError, ValueError) as error:  # the client leaves malformed JSON to its caller
            raise EngineError(f"no answer from {self.engine.url} ({quote_error(error)}){_RESUME}") from error

    def _parse(self, response: Any, request: Request, question: str, config: InferenceConfig) -> PerceptionAnswer:
        try:
            choice = response.choices[0]
            ended, extra = choice.finish_reason == "stop", choice.model_extra or {}
            ids = extra.get("token_ids")
            if ids is None:
                ids = self._tokenizer.encode(choice.message.content or "", add_special_tokens=False)
            ids = [operator.index(token_id) for token_id in ids]
            overruled = operator.index(extra["perception"]["overruled"]) if config.consistency else 0
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise EngineError(f"the response of {self.engine.url} is not a chat completion{_RESUME}") from error
        is_enforced = not (
            config.constraints
            and parse_generation(ids, self.vocab).problems
            and find_violations(choice.message.content or "", is_cut=choice.finish_reason == "length")
        )
        answer = parse_answer(
            ids[:-1] if ids and ids[-1] == self._tokenizer.eos_token_id else ids,
            ended=ended,
            question=question,
            image=request.images[0],
            frame=self.frame.make_frame(request.images[0].size, self.processor),
            vocab=self.vocab,
            tokenizer=self._tokenizer,
            codec=self.codec,
            box_codec=self.box_codec,
            constrained=config.constraints and is_enforced,
            ask=config.ask,
            choices=request.choices,
            markers=request.markers,
            name=request.name,
        )
        if not is_enforced:
            problem = f"the server ({self.engine.name} {self.engine.version}) did not enforce the constraint"
            answer = replace(answer, problems=(*answer.problems, problem))
        return replace(answer, overruled=overruled)


_RESUME = "; finished answers are kept: run the same command again"


def _to_data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _read_frame_and_system(folder: Path) -> tuple[FrameRule, str | None]:
    """The frame and system text of an adapter or a merged model; raises CheckpointError."""
    if (folder / ADAPTER_FILE).is_file():
        return read_adapter_frame(folder)
    try:
        config = parse_json(read_input(folder / "config.json"), str(folder / "config.json"), CheckpointError)
        settings = config["perception_settings"]
        if not (folder / MANIFEST).is_file():
            raise KeyError(MANIFEST)
        return FrameRule.parse(settings["frame"]), settings.get("system")
    except (OSError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder} holds neither {ADAPTER_FILE} nor {MANIFEST} and a config with its frame: name the folder of the "
            "served model, which `perceptok llava train` or `merge` wrote"
        ) from error
