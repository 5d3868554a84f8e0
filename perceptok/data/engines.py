"""Engines: how work on many items is spread; every engine gives the same results in the same order."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, Self, TypeVar

from perceptok.errors import ConfigError, DataError

__all__ = ["Engine", "LocalEngine"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Spreads work over processes or machines."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The result of every item, in order, as they are asked for.

        Args:
            work: Pickled once for each item; what it needs to load, it loads in its process on first use.
            items: Pickled too; drawn from only a little ahead of the results.
        """


class LocalEngine:
    """This process alone, or a pool of processes on this machine, started once and kept until `close`.

    Args:
        workers: Processes; 0 and 1 work in this one.

    Raises:
        ConfigError: A negative number.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 0:
            raise ConfigError(f"workers is a number of processes from 0; got {workers}")
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; a later `map` starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Engine.map`; raises DataError if a process of the pool dies."""
        if self.workers <= 1:
            yield from map(work, items)
            return
        if self._pool is None:
            # Spawned: a fork would copy the threads' locks of numpy and torch in whatever state they are.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_one_thread)
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(work, item))
                if len(waiting) > 2 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            self.close()
            raise DataError(
                "a worker process died (killed, or out of memory); what was done is kept: run the same command again, "
                "with fewer workers if memory was short"
            ) from error
        finally:
            for one in waiting:
                one.cancel()


def _one_thread() -> None:
    """As many threads as processes and cores would be in each other's way."""
    import torch

    torch.set_num_threads(1)
