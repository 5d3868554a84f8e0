"""Dynamic batching: answers asked for by many requests are generated together, each as if it were asked alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from perceptok.boxes import ImageFrame
from perceptok.errors import PerceptokError
from perceptok.llava.inference.answer import PerceptionAnswer
from perceptok.llava.inference.pipeline import InferenceConfig, PerceptionPipeline, PreparedBatch
from perceptok.llava.inference.questions import Request
from perceptok.llava.inference.rows import AnswerRow
from perceptok.llava.serving.protocol import ApiError

__all__ = ["AnswerBatcher", "AnswerJob", "JobListener"]

_LOG = logging.getLogger("perceptok.serving")


class JobListener(Protocol):
    """What is told about a job, from the threads of the batcher."""

    def begin(self, frame: ImageFrame) -> None:
        """The first token of the answer was generated."""

    def add_token(self, token_id: int) -> None:
        """A token was generated; called for streamed answers only."""

    def finish(self, answer: PerceptionAnswer) -> None:
        """The answer is complete."""

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""


class AnswerJob:
    """One answer that is waited for.

    Args:
        open_request: Makes the question with its decoded image; called in the generating thread.
        config: The settings; `seed` is that of this answer.
        listener: What is told.
        index: Number of the choice within its request.
        stop: Texts that end the answer; it does not contain them.
        top_logprobs: Number of most likely tokens to record at each position; None records nothing.
        streams: Whether the listener is told each token.

    Attributes:
        submitted: Time of submission, seconds of `time.monotonic`.
        waited: Seconds between submission and the start of its batch.
        batch_size: Number of answers in its batch.
        prompt_tokens: Number of tokens of its prompt.
        row: What was generated.
    """

    def __init__(
        self,
        open_request: Callable[[], Request],
        config: InferenceConfig,
        listener: JobListener,
        *,
        index: int = 0,
        stop: Sequence[str] = (),
        top_logprobs: int | None = None,
        streams: bool = False,
    ) -> None:
        self.open_request, self.config, self.listener = open_request, config, listener
        self.stop, self.streams = tuple(stop), streams
        self.row = AnswerRow(config.temperature, config.top_p, config.seed, index, top_logprobs)
        self.submitted = self.waited = 0.0
        self.batch_size = self.prompt_tokens = 0
        self.cancelled = False
        self._is_settled = False
        self._lock = threading.Lock()
        # Whatever else differs, answers are not generated together.
        self.batch_key = replace(config, temperature=0.0, top_p=1.0, seed=0, batch_size=1)

    @property
    def is_settled(self) -> bool:
        """Whether the listener was told the answer or an error, or nobody waits for it any more."""
        return self._is_settled or self.cancelled

    def settle(self, tell: Callable[[], None]) -> None:
        """Tell the listener the outcome, once."""
        with self._lock:
            if self.is_settled:
                return
            self._is_settled = True
        tell()


class AnswerBatcher:
    """Generates submitted answers batch by batch in one thread, first come first served.

    A batch holds answers of the same settings (sampling apart). It starts when it is full, or when its oldest answer
    has waited for `wait` seconds. An answer is complete when its own row is, whatever the others do; a cancelled one
    leaves the queue at once, and stops at its next token.

    Args:
        pipe: The pipeline, used by no one else at the same time.
        wait: Seconds that an answer waits for others.
        max_batch_size: Maximum number of answers in a batch.
        max_queue: Maximum number of answers that wait.
        on_batch: Called with the size of each batch.
    """

    def __init__(
        self,
        pipe: PerceptionPipeline,
        *,
        wait: float,
        max_batch_size: int,
        max_queue: int,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.pipe, self.wait, self.max_batch_size, self.max_queue = pipe, wait, max_batch_size, max_queue
        self._on_batch = on_batch
        self._condition = threading.Condition()
        self._queue: list[AnswerJob] = []
        self._running: list[AnswerJob] = []
        self._closed = False
        self._batch_seconds = 1.0
        self._parsing = ThreadPoolExecutor(1, thread_name_prefix="perceptok-parse")
        self._thread = threading.Thread(target=self._work, name="perceptok-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of answers that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Number of answers that are being generated."""
        return sum(not job.is_settled for job in self._running)

    @property
    def is_alive(self) -> bool:
        """Whether the generating thread runs and accepts answers."""
        return self._thread.is_alive() and not self._closed

    def submit(self, jobs: Sequence[AnswerJob]) -> None:
        """Queue the answers of one request, all or none.

        Raises:
            ApiError: The queue is full (429), or the batcher is closed (503).
        """
        with self._condition:
            if self._closed:
                raise ApiError("the server is shutting down", status=503, code="unavailable", retry_after=5)
            if len(self._queue) + len(jobs) > self.max_queue:
                raise self.make_queue_error()
            for job in jobs:
                job.submitted = time.monotonic()
                self._queue.append(job)
            self._condition.notify_all()

    def make_queue_error(self) -> ApiError:
        """The refusal of a request for which the queue is too full, with the time after which it may come again."""
        batches = 1 + len(self._queue) // self.max_batch_size
        return ApiError(
            f"the queue is full (at most {self.max_queue} answers wait); try again later",
            status=429,
            code="queue_full",
            retry_after=max(1, round(batches * self._batch_seconds)),
        )

    def cancel(self, job: AnswerJob) -> None:
        """Give up an answer: it leaves the queue, or stops at its next token."""
        with self._condition:
            job.cancelled = True
            with suppress(ValueError):
                self._queue.remove(job)
            self._condition.notify_all()

    def close(self, timeout: float) -> None:
        """Refuse new answers, finish those that were accepted within `timeout` seconds, and fail the rest (503)."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join(timeout)
        with self._condition:
            remaining = [*self._queue, *self._running]
            self._queue.clear()
        for job in remaining:
            error = ApiError("the server was stopped before the answer was complete", status=503, code="unavailable")
            job.settle(lambda job=job, error=error: job.listener.fail(error))  # type: ignore[misc]
            job.cancelled = True
        self._thread.join(timeout=5)
        self._parsing.shutdown(wait=False)

    def _work(self) -> None:
        while (jobs := self._take_batch()) is not None:
            started = time.monotonic()
            self._on_batch(len(jobs))
            for job in jobs:
                job.waited, job.batch_size = started - job.submitted, len(jobs)
            self._answer(jobs)
            with self._condition:
                self._running = []
            self._batch_seconds = 0.7 * self._batch_seconds + 0.3 * (time.monotonic() - started)

    def _take_batch(self) -> list[AnswerJob] | None:
        """Wait for answers and take those of the next batch from the queue; None when the batcher is closed."""
        with self._condition:
            while True:
                if not self._queue:
                    if self._closed:
                        return None
                    self._condition.wait()
                    continue
                first = self._queue[0]
                jobs = [job for job in self._queue if job.batch_key == first.batch_key][: self.max_batch_size]
                remaining = first.submitted + self.wait - time.monotonic()
                if len(jobs) == self.max_batch_size or remaining <= 0 or self._closed:
                    chosen = set(map(id, jobs))
                    self._queue = [job for job in self._queue if id(job) not in chosen]
                    self._running = jobs
                    return jobs
                self._condition.wait(remaining)

    def _answer(self, jobs: Sequence[AnswerJob]) -> None:
        """Answer a batch; where it cannot be answered together, each is answered alone."""
        opened: list[tuple[AnswerJob, Request]] = []
        for job in jobs:
            if job.is_settled:
                continue
            try:
                opened.append((job, job.open_request()))
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this answer alone
                self._fail(job, error)
        if not opened:
            return
        try:
            batch = self.pipe.prepare_batch([request for _, request in opened], opened[0][0].batch_key)
            if batch.budget < batch.config.max_new_tokens and len(opened) > 1:
                raise _ContextError  # the longest prompt would bound the answers of all
            self._generate([job for job, _ in opened], batch)
        except Exception as error:  # noqa: BLE001 - the server goes on; the error is reported by `_fail`
            unfinished = [job for job, _ in opened if not job.is_settled]
            for job in unfinished:
                if len(opened) > 1 and not job.row.ids:
                    self._answer([job])
                else:
                    self._fail(job, error)

    def _generate(self, jobs: Sequence[AnswerJob], batch: PreparedBatch) -> None:
        rows = []
        for index, job in enumerate(jobs):
            job.prompt_tokens = batch.count_prompt_tokens(index)
            job.row.watch = self._make_watch(job, batch, index)
            rows.append(job.row)
        self.pipe.generate_batch(batch, rows)
        for index, job in enumerate(jobs):
            if not job.row.done and not job.is_settled:  # ended by the token budget
                self._parsing.submit(self._finish, job, batch, index, None)

    def _make_watch(self, job: AnswerJob, batch: PreparedBatch, index: int) -> Callable[[int], bool]:
        """What is called with each token of a row: tells the listener, and stops the row where it has to."""
        ends = set(self.pipe.end_ids)

        def watch(token_id: int) -> bool:
            if job.is_settled:
                return True
            if len(job.row.ids) == 1:
                job.listener.begin(batch.frames[index])
            if job.streams:
                job.listener.add_token(token_id)
            position = self._find_stop(job) if job.stop else None
            if token_id in ends or position is not None:
                self._parsing.submit(self._finish, job, batch, index, position)
            return position is not None

        return watch

    def _find_stop(self, job: AnswerJob) -> int | None:
        """Where the first of the texts that end the answer begins in its text; None where there is none."""
        text = self._decode(job.row.ids)
        positions = [position for stop in job.stop if (position := text.find(stop)) >= 0]
        return min(positions, default=None)

    def _decode(self, ids: Sequence[int]) -> str:
        tokenizer: Any = self.pipe.reading_tokenizer
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _finish(self, job: AnswerJob, batch: PreparedBatch, index: int, stop: int | None) -> None:
        """Parse a complete row and tell the listener; the text from position `stop` on is left out."""
        try:
            ids = list(job.row.ids)
            if stop is not None:
                kept = next(count for count in range(len(ids), -1, -1) if len(self._decode(ids[:count])) <= stop)
                rest = self._decode(ids)[len(self._decode(ids[:kept])) : stop]
                job.row.ids = ids[:kept]
                ids = ids[:kept] + self._encode_after(ids[:kept], rest)
            answer = self.pipe.parse_row(batch, index, ids, ended=stop is not None)
            job.settle(lambda: job.listener.finish(answer))
        except Exception as error:  # noqa: BLE001 - reported by `_fail`
            self._fail(job, error)

    def _encode_after(self, before: list[int], text: str) -> list[int]:
        """The ids of a piece of text; SentencePiece may put a space before it, which is dropped."""
        tokenizer: Any = self.pipe.reading_tokenizer
        ids = list(tokenizer.encode(text, add_special_tokens=False)) if text else []
        expected = self._decode(before) + text
        return ids if self._decode([*before, *ids]) == expected else ids[1:]

    def _fail(self, job: AnswerJob, error: Exception) -> None:
        if not isinstance(error, PerceptokError):
            # The message might quote the user's text; where it was raised says enough.
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            place = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            _LOG.error("answer failed", extra={"fields": {"error": type(error).__name__, "place": place}})
        job.settle(lambda: job.listener.fail(error))


class _ContextError(Exception):
    """Answers do not fit into the context together."""
