"""One chat completion in the server's event loop: its answers are awaited, streamed, timed out or given up."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from perceptok.boxes import ImageFrame
from perceptok.errors import MissingExtraError, PerceptokError
from perceptok.llava.inference.answer import PerceptionAnswer
from perceptok.llava.inference.pipeline import PerceptionPipeline
from perceptok.llava.inference.streaming import Update, UpdateReader
from perceptok.llava.serving.batching import AnswerBatcher, AnswerJob
from perceptok.llava.serving.protocol import (
    MAX_MAP_SIDE,
    ApiError,
    ChatQuestion,
    ChatRequest,
    PerceptionOptions,
    describe_answer,
    describe_logprobs,
    describe_update,
)
from perceptok.llava.serving.telemetry import ServerMetrics

__all__ = ["ChatCompletion"]

_Event = ImageFrame | int | PerceptionAnswer | BaseException
"""The beginning of an answer, a token, the answer, or an error."""


class _Listener:
    """Passes what happens to one answer from the batcher's threads to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, events: asyncio.Queue[tuple[int, _Event]], index: int) -> None:
        self._loop, self._events, self._index = loop, events, index

    def _put(self, event: _Event) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._events.put_nowait, (self._index, event))

    def begin(self, frame: ImageFrame) -> None:
        self._put(frame)

    def add_token(self, token_id: int) -> None:
        self._put(token_id)

    def finish(self, answer: PerceptionAnswer) -> None:
        self._put(answer)

    def fail(self, error: BaseException) -> None:
        self._put(error)


class ChatCompletion:
    """One request and its answers.

    Args:
        request: The HTTP request, watched for a client that goes away.
        chat: The request's fields.
        question: The checked request.
        pipe: The pipeline, which parses what is streamed.
        batcher: Generates the answers.
        metrics: What is reported.
        deadline: Time by which the last token must be there, seconds of `time.monotonic`.
        fingerprint: Identifies the model, in the response.

    Raises:
        ApiError: The queue is full, or the server is shutting down.
    """

    def __init__(
        self,
        request: HttpRequest,
        chat: ChatRequest,
        question: ChatQuestion,
        pipe: PerceptionPipeline,
        batcher: AnswerBatcher,
        metrics: ServerMetrics,
        deadline: float,
        fingerprint: str,
    ) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.chat, self.options = chat, chat.perception or PerceptionOptions()
        self.answers: dict[int, PerceptionAnswer] = {}
        self._request, self._pipe, self._batcher, self._metrics = request, pipe, batcher, metrics
        self._question, self._deadline, self._fingerprint = question, deadline, fingerprint
        self._started, self._created = time.monotonic(), int(time.time())
        self._has_first_token = False
        self._events: asyncio.Queue[tuple[int, _Event]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        seed = secrets.randbits(63) if question.seed is None else question.seed
        config = replace(question.config, seed=seed)
        self.jobs = [
            AnswerJob(
                question.open_request,
                config,
                _Listener(loop, self._events, index),
                index=index,
                stop=question.stop,
                top_logprobs=question.top_logprobs,
                streams=bool(chat.stream),
            )
            for index in range(question.choices)
        ]
        self._listening = asyncio.create_task(self._wait_for_disconnect())
        try:
            batcher.submit(self.jobs)
        except ApiError:
            self._listening.cancel()
            raise

    async def _wait_for_disconnect(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def give_up(self, reason: str) -> None:
        """Cancel the answers that are not complete; `reason` is "disconnect", "timeout" or "error"."""
        self._listening.cancel()
        open_jobs = [job for job in self.jobs if not job.is_settled]
        for job in open_jobs:
            self._batcher.cancel(job)
        if open_jobs:
            self._metrics.count_cancelled(reason, len(open_jobs))

    async def _next_event(self) -> tuple[int, _Event]:
        """Wait for the next event; raises what an answer failed with.

        Raises:
            ApiError: The time is over (504), or the client has gone away (499).
        """
        getting = asyncio.ensure_future(self._events.get())
        remaining = self._deadline - time.monotonic()
        try:
            await asyncio.wait({getting, self._listening}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                index, event = getting.result()
                if isinstance(event, BaseException):
                    raise _convert_error(event)
                return index, event
            if self._listening.done() and not self._listening.cancelled():
                raise ApiError("the client has gone away", status=499, code="client_closed_request")
            raise ApiError(
                "the time for the request is over; ask for fewer tokens, or try again when the server is less busy",
                status=504,
                code="timeout",
            )
        finally:
            getting.cancel()

    def _give_up_for(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            self.give_up("disconnect")
        else:
            reasons = {499: "disconnect", 504: "timeout"}
            self.give_up(reasons.get(getattr(error, "status", 0), "error"))

    async def respond(self) -> dict[str, Any]:
        """Wait for all answers; the response."""
        try:
            while len(self.answers) < len(self.jobs):
                index, event = await self._next_event()
                if isinstance(event, PerceptionAnswer):
                    self._keep(index, event)
            choices = [await run_in_threadpool(self._describe_choice, index) for index in range(len(self.jobs))]
        except BaseException as error:
            self._give_up_for(error)
            raise
        self._finish()
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self._created,
            "model": self.chat.model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
            "usage": self._describe_usage(),
        }

    def _keep(self, index: int, answer: PerceptionAnswer) -> None:
        self.answers[index] = answer
        self._metrics.count_answer(answer)

    def _finish(self) -> None:
        self._listening.cancel()
        self._metrics.count_completion(time.monotonic() - self._started, self.jobs[0].prompt_tokens)

    def _describe_choice(self, index: int) -> dict[str, Any]:
        answer = self.answers[index]
        choice = {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._describe_logprobs(index, 0),
            "finish_reason": _finish_reason(answer),
            "perception": describe_answer(answer, with_map=self.options.map),
        }
        return choice | ({"token_ids": self._list_ids(index)} if self.chat.return_token_ids else {})

    def _list_ids(self, index: int) -> list[int]:
        """The ids of an answer without the end of sequence."""
        ids = list(self.jobs[index].row.ids)
        return ids[:-1] if ids and ids[-1] in self._pipe.end_ids else ids

    def _describe_logprobs(self, index: int, start: int, end: int | None = None) -> dict[str, Any] | None:
        if self._question.top_logprobs is None:
            return None
        end = len(self._list_ids(index)) if end is None else end
        entries = self.jobs[index].row.list_logprobs()[:end]
        return describe_logprobs(entries, self._pipe.reading_tokenizer, start)

    def _describe_usage(self) -> dict[str, int]:
        prompt = self.jobs[0].prompt_tokens
        generated = sum(answer.tokens for answer in self.answers.values())
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    def describe_for_log(self) -> dict[str, Any]:
        """Figures for the log: nothing that the user sent or the model wrote."""
        config = self._question.config
        return {
            "id": self.id,
            "stream": bool(self.chat.stream),
            "image_size": list(self._question.image_size),
            "choices": len(self.jobs),
            "constraints": config.constraints,
            "max_tokens": config.max_new_tokens,
            "prompt_tokens": self.jobs[0].prompt_tokens,
            "tokens": sum(len(job.row.ids) for job in self.jobs),
            "waited": round(self.jobs[0].waited, 3),
            "batch_size": self.jobs[0].batch_size,
            "problems": sum(len(answer.problems) for answer in self.answers.values()),
        }

    async def begin_stream(self) -> AsyncIterator[bytes]:
        """Wait until an answer begins, so that errors before that have their own HTTP status; then the stream."""
        try:
            first = await self._next_event()
        except BaseException as error:
            self._give_up_for(error)
            raise
        self._listening.cancel()  # the streaming response watches the connection from here on
        self._listening = asyncio.get_running_loop().create_future()  # type: ignore[assignment]
        return self._stream(first)

    async def _stream(self, first: tuple[int, _Event]) -> AsyncIterator[bytes]:
        """The server-sent events of a streamed response."""
        streams = [_ChoiceStream(self, index) for index in range(len(self.jobs))]
        event: tuple[int, _Event] = first
        try:
            for index in range(len(self.jobs)):
                yield self._encode_chunk([_make_choice(index, {"role": "assistant", "content": ""})])
            while True:
                for choice in await run_in_threadpool(streams[event[0]].read, self._take_tokens(event)):
                    yield self._encode_chunk([choice])
                if len(self.answers) == len(self.jobs):
                    break
                event = await self._next_event()
            if self.chat.stream_options is not None and self.chat.stream_options.include_usage:
                yield self._encode_chunk([], usage=self._describe_usage())
            yield b"data: [DONE]\n\n"
            self._finish()
        except ApiError as error:
            self._give_up_for(error)
            yield b"data: " + json.dumps(error.to_dict()).encode() + b"\n\n"
        finally:
            self.give_up("disconnect")

    def _take_tokens(self, event: tuple[int, _Event]) -> list[_Event]:
        """An event, and the tokens of the same answer that have come since, to be read together."""
        index, first = event
        events = [first]
        if isinstance(first, int):
            waiting: list[tuple[int, _Event]] = []
            while not self._events.empty():
                waiting.append(self._events.get_nowait())
            for other in waiting:
                if other[0] == index and isinstance(other[1], int):
                    events.append(other[1])
                else:
                    self._events.put_nowait(other)
            if not self._has_first_token:
                self._has_first_token = True
                self._metrics.count_first_token(time.monotonic() - self._started)
        return events

    def _encode_chunk(self, choices: Sequence[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        chunk: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self.chat.model,
            "system_fingerprint": self._fingerprint,
            "choices": list(choices),
        }
        if self.chat.stream_options is not None and self.chat.stream_options.include_usage:
            chunk["usage"] = usage
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class _ChoiceStream:
    """Converts the events of one answer to choices of chunks."""

    def __init__(self, completion: ChatCompletion, index: int) -> None:
        self._completion, self._index = completion, index
        self._reader: UpdateReader | None = None
        self._text = ""
        self._sent = 0
        self._tokens = 0
        self._described = 0

    def read(self, events: Sequence[_Event]) -> list[dict[str, Any]]:
        """The choices that events of this answer give rise to."""
        return [choice for event in events for choice in self._read_event(event)]

    def _read_event(self, event: _Event) -> Iterator[dict[str, Any]]:
        completion, index = self._completion, self._index
        if isinstance(event, ImageFrame):
            side = MAX_MAP_SIDE if completion.options.row_maps else 0
            self._reader = completion._pipe.make_reader(event, side)
        elif isinstance(event, PerceptionAnswer):
            completion._keep(index, event)
            yield from self._send_text(event.text, complete=True)
            evidence = describe_answer(event, with_map=completion.options.map)
            choice = _make_choice(index, {}, _finish_reason(event), {"event": "answer", **evidence})
            yield choice | ({"token_ids": completion._list_ids(index)} if completion.chat.return_token_ids else {})
        elif isinstance(event, int):
            assert self._reader is not None
            self._tokens += 1
            for update in self._reader.read(event):
                yield from self._send_update(update)

    def _send_update(self, update: Update) -> Iterator[dict[str, Any]]:
        if update.kind == "text":
            yield from self._send_text(self._text + update.text, complete=False)
        values = describe_update(update, with_map=self._completion.options.row_maps)
        if values is not None:
            yield _make_choice(self._index, {}, perception=values)

    def _send_text(self, text: str, *, complete: bool) -> Iterator[dict[str, Any]]:
        """What is new in a text; an end that may become a text of `stop` is held back."""
        self._text = text
        end = len(text) if complete else self._find_sendable_end(text)
        logprobs = None
        if self._completion._question.top_logprobs is not None:
            upto = None if complete else self._tokens
            logprobs = self._completion._describe_logprobs(self._index, self._described, upto)
            self._described = self._tokens if upto is None else upto
        if end > self._sent or (logprobs is not None and logprobs["content"]):
            yield _make_choice(self._index, {"content": text[self._sent : end]}, logprobs=logprobs)
            self._sent = max(end, self._sent)

    def _find_sendable_end(self, text: str) -> int:
        """Up to where an incomplete text is certain to belong to the answer."""
        stops = self._completion._question.stop
        ends = [position for stop in stops if (position := text.find(stop)) >= 0]
        if ends:
            return min(ends)
        longest = max(map(len, stops), default=1) - 1
        for count in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in stops):
                return len(text) - count
        return len(text)


def _make_choice(
    index: int,
    delta: dict[str, Any],
    finish_reason: str | None = None,
    perception: dict[str, Any] | None = None,
    logprobs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return choice if perception is None else choice | {"perception": perception}


def _finish_reason(answer: PerceptionAnswer) -> str:
    return "stop" if answer.ended else "length"


def _convert_error(error: BaseException) -> ApiError:
    """What the client is told of an error: our own errors concern its request, others are the server's."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PerceptokError) and not isinstance(error, MissingExtraError):
        return ApiError(str(error), code="invalid_request")
    return ApiError("the answer could not be generated; see the server's log", status=500, code="internal_error")
