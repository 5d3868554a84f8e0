"""Requests to an OpenAI-compatible endpoint: several at a time, and cancelled as soon as nobody waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from perceptok.errors import MissingExtraError
from perceptok.jobs import map_as_completed, map_in_order

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Send", "import_openai", "map_requests"]

Item = TypeVar("Item")
Result = TypeVar("Result")

Send = Callable[..., Any]
"""Sends a chat completion request, whose fields are those of `chat.completions.create`, and returns its response.

Raises the errors of openai, and CancelledError where the request is cancelled.
"""


def import_openai(feature: str) -> ModuleType:
    """Import openai for a feature that needs it; raises MissingExtraError, which names the extra `client`."""
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError("openai", "client", feature) from error
    return openai


def map_requests(
    work: Callable[[Send, Item], Result],
    items: Iterable[Item],
    client: AsyncOpenAI,
    *,
    concurrency: int,
    in_order: bool = False,
) -> Generator[tuple[int, Result], None, None]:
    """Compute the result of every item in threads that ask an endpoint.

    Where the generator is closed before its end, or an error or Ctrl-C ends it, requests that are running are
    cancelled: their connections are closed, and no thread waits for the server.

    Args:
        work: Called with a function that sends a request, and an item. What it raises ends the generator.
        items: The items; at most twice `concurrency` of them are drawn beyond the results.
        client: The client of the endpoint, closed at the end.
        concurrency: Number of threads, and so of requests at a time.
        in_order: Yield results in the order of the items, not as they are completed.

    Yields:
        The index of an item, and its result.
    """
    with _Sender(client) as sender, ThreadPoolExecutor(concurrency) as pool:
        run, ahead = partial(work, sender.send), 2 * concurrency
        try:
            if in_order:
                with closing(map_in_order(pool, run, items, ahead=ahead)) as results:
                    yield from enumerate(results)
            else:
                yield from map_as_completed(pool, run, items, ahead=ahead)
        finally:
            sender.cancel()  # before the pool waits for its threads


class _Sender:
    """Sends requests in an event loop of its own, where those that wait for the server can be cancelled."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._requests: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="perceptok-requests", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        async with self._client:
            await self._ended.wait()
            requests = tuple(self._requests)  # not the tasks that these have started: they end them in their own way
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

    async def _ask(self, fields: dict[str, Any]) -> Any:
        request = asyncio.current_task()
        assert request is not None
        self._requests.add(request)
        try:
            return await self._client.chat.completions.create(**fields)
        finally:
            self._requests.discard(request)

    def send(self, **fields: Any) -> Any:
        """Send a request and wait for its response."""
        with self._lock:
            if self._is_cancelled:
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(self._ask(fields), self._loop)
        return future.result()

    def cancel(self) -> None:
        """Cancel the requests that are running; later ones are cancelled before they are sent."""
        with self._lock:
            if not self._is_cancelled:
                self._is_cancelled = True
                self._loop.call_soon_threadsafe(self._ended.set)
