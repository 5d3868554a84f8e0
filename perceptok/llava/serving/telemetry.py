"""What the server reports about itself: Prometheus metrics, and log lines of JSON without the users' contents."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from perceptok.llava.inference.answer import PerceptionAnswer
from perceptok.llava.serving.batching import AnswerBatcher

__all__ = ["JsonFormatter", "ServerMetrics", "configure_logging"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class ServerMetrics:
    """The metrics of one server.

    Attributes:
        registry: What /metrics exposes.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"namespace": "perceptok", "registry": self.registry}
        self._requests = Counter("requests", "Requests by path and HTTP status.", ["path", "status"], **common)
        self._seconds = Histogram("request_seconds", "Seconds of chat completions.", buckets=_SECONDS, **common)
        self._first = Histogram(
            "time_to_first_token_seconds", "Seconds to the first token of streamed answers.", buckets=_SECONDS, **common
        )
        self._batches = Histogram("batch_size", "Answers in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), **common)
        self._tokens = Counter("tokens", "Tokens by kind: prompt or generated.", ["kind"], **common)
        self._answers = Counter("answers", "Complete answers, by whether they have problems.", ["valid"], **common)
        self._evidence = Counter("evidence", "Depth blocks and boxes in answers.", ["kind"], **common)
        self._cancelled = Counter("cancelled", "Answers given up, by reason.", ["reason"], **common)
        self._waiting = Gauge("waiting", "Answers in the queue.", **common)
        self._running = Gauge("running", "Answers that are being generated.", **common)

    def observe_batcher(self, batcher: AnswerBatcher) -> None:
        """Report the queue of a batcher."""
        self._waiting.set_function(lambda: batcher.waiting)
        self._running.set_function(lambda: batcher.running)

    def count_request(self, path: str, status: int) -> None:
        """Count a response."""
        self._requests.labels(path, str(status)).inc()

    def count_batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    def count_first_token(self, seconds: float) -> None:
        """Count the time to the first token of a streamed answer."""
        self._first.observe(seconds)

    def count_cancelled(self, reason: str, answers: int) -> None:
        """Count answers that were given up: "disconnect" or "timeout"."""
        self._cancelled.labels(reason).inc(answers)

    def count_answer(self, answer: PerceptionAnswer) -> None:
        """Count an answer and its evidence."""
        self._answers.labels(str(answer.valid).lower()).inc()
        self._tokens.labels("generated").inc(answer.tokens)
        self._evidence.labels("block").inc(len(answer.blocks))
        self._evidence.labels("box").inc(len(answer.boxes))

    def count_completion(self, seconds: float, prompt_tokens: int) -> None:
        """Count a completed request."""
        self._seconds.observe(seconds)
        self._tokens.labels("prompt").inc(prompt_tokens)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, event, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        values: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            values["error"] = record.exc_info[0].__name__  # the message might quote a request
        return json.dumps(values, default=str)


def configure_logging() -> None:
    """Write the log lines of the server and of uvicorn to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("perceptok.serving", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = ([handler] if name != "uvicorn.error" else []), name == "uvicorn.error"
        logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").disabled = True
