"""Results of a long run, kept as they come, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from perceptok.errors import ClusterError, ConfigError, DataError, MissingExtraError, OutputError, PerceptokError
from perceptok.files import open_locked, parse_json

__all__ = ["Engine", "Journal", "LocalEngine", "RayEngine", "Stamp", "map_in_order", "stamp_of"]


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
        try:
            yield from map_in_order(self._pool, work, items, ahead=2 * self.workers)
        except BrokenProcessPool as error:
            self.close()
            raise DataError(
                "a worker process died (killed, or out of memory); what was done is kept: run the same command again, "
                "with fewer workers if memory was short"
            ) from error


def map_in_order(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """The result of every item, in order; at most `ahead` items are submitted beyond the one that is waited for."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # a caller that stops early, at a closed pipe or an error, does not wait for the rest
        for future in waiting:
            future.cancel()


def _one_thread() -> None:
    """As many threads as processes and cores would be in each other's way."""
    import torch

    torch.set_num_threads(1)


# Ray: the same work on many processes or machines, in order, with nothing lost when a worker dies.
#
# Results equal those of doing the work here; see https://docs.ray.io/en/latest/data for the machinery.


_RESTARTS = 4


class RayEngine:
    """Spreads work over a pool of Ray actors.

    Without an address, and where RAY_ADDRESS is not set, a cluster of `workers` processes is started on this machine
    and stopped again after the work; a cluster that this process has joined already is used and left running. On other
    machines perceptok must be installed, and the files that items name must have the same paths. In a `with` block the
    cluster is kept from the first work to the end of the block.

    Args:
        workers: Actors; each loads what it needs once.
        address: Of a running cluster, such as "auto", "10.0.0.1:6379" or "ray://10.0.0.1:10001".
        gpus: GPUs for each actor; a fraction lets several share one.
        window: Items that are drawn and handed to Ray at once. Memory grows with it and not with their number; each
            window starts its actors anew (some seconds).

    Raises:
        ConfigError: Fewer than one worker or item, or fewer than no GPUs.
    """

    def __init__(
        self, workers: int = 2, address: str | None = None, *, gpus: float = 0.0, window: int = 20_000
    ) -> None:
        if workers < 1 or gpus < 0 or window < 1:
            raise ConfigError(
                f"a Ray engine has at least one worker, no less than 0 GPUs and a window of at least one item; "
                f"got {workers}, {gpus} and {window}"
            )
        self.workers, self.address, self.gpus, self.window = workers, address, gpus, window
        self._kept: ExitStack | None = None

    def __enter__(self) -> Self:
        self._kept = ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The result of every item, in order.

        Args:
            work: Sent to each actor once; what it needs to load, it loads there on first use.
            items: Pickled; drawn a window ahead of the results.

        Raises:
            PerceptokError: What `work` raised for an item.
            ClusterError: See `run`.
        """
        return self.run(_Each, {"work": work}, items, batch_size=1)

    def run(
        self,
        worker: Callable[..., Callable[[list[Item]], Sequence[Result]]],
        settings: dict[str, Any],
        items: Iterable[Item],
        *,
        batch_size: int,
    ) -> Iterator[Result]:
        """The results of items in order, from workers that take them by batches.

        Args:
            worker: Called with `settings` once in every actor; gives what turns a list of items into as many results.
            settings: Sent to each actor.
            items: Pickled.
            batch_size: Items a worker gets at once.

        Raises:
            MissingExtraError: Ray is not installed.
            PerceptokError: What a worker raised for an item.
            ClusterError: The cluster cannot be reached, a worker raised another error, or a batch killed its worker
                again and again. A worker that dies is started anew, and its batch is done again.
        """
        queue = iter(items)
        window = list(islice(queue, self.window))
        if not window:
            return
        with ExitStack() as alone:
            (alone if self._kept is None else self._kept).enter_context(_joined(self.address, self.workers))
            while window:
                yield from self._window(worker, settings, window, batch_size)
                window = list(islice(queue, self.window))

    def _window(
        self,
        worker: Callable[..., Callable[[list[Any]], Sequence[Any]]],
        settings: dict[str, Any],
        items: list[Any],
        batch_size: int,
    ) -> Iterator[Any]:
        import ray.cloudpickle
        import ray.data

        pack: Callable[[object], bytes] = ray.cloudpickle.dumps
        blocks = min(max(4 * self.workers, len(items) // 256), -(-len(items) // batch_size))
        rows = ray.data.from_items([{"item": pack(item)} for item in items], override_num_blocks=blocks)
        results = rows.map_batches(
            _Actor,
            batch_size=batch_size,
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            fn_constructor_kwargs={"made": pack((worker, settings))},
            num_cpus=1,
            num_gpus=self.gpus or None,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
        )
        returned = 0
        try:
            for row in results.iter_rows():
                result = pickle.loads(row["result"])  # noqa: S301 (written by our own workers)
                if isinstance(result, _Refusal):
                    raise result.error
                returned += 1
                yield result
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"the work on Ray stopped after {returned} of {len(items)} items: {_last_line(error)}; "
                "what was done is kept: run the same command again"
            ) from error


class _Each:
    """A worker for work on single items."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def __call__(self, items: list[Any]) -> list[Any]:
        return [self._work(item) for item in items]


class _Refusal:
    """An error of ours on its way back."""

    def __init__(self, error: PerceptokError) -> None:
        self.error = error


class _Actor:
    """What Ray runs: items and results cross as bytes, so that no table has to understand them."""

    def __init__(self, made: bytes) -> None:
        worker, settings = pickle.loads(made)  # noqa: S301 (written by `RayEngine`)
        self._work = worker(**settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        items = [pickle.loads(item) for item in batch["item"]]  # noqa: S301 (written by `RayEngine`)
        try:
            results = list(self._work(items))
        except PerceptokError as error:
            # The place where it was raised stays here; its kind and its words are what a caller needs.
            results = [_Refusal(_portable(error))] * len(items)
        except Exception as error:  # noqa: BLE001 (Ray would do it again and again, and bury what it says)
            results = [_Refusal(ClusterError(f"a worker raised {type(error).__name__}: {error}"))] * len(items)
        return {"result": [pickle.dumps(result) for result in results]}


def _portable(error: PerceptokError) -> PerceptokError:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (our own, a moment ago)
    except Exception:  # noqa: BLE001 (whatever keeps an error from being pickled)
        return ClusterError(f"{type(error).__name__}: {error}")
    return error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _joined(address: str | None, workers: int) -> Iterator[None]:
    """A cluster to work on: the one this process has joined, that of the address, or one of this machine's own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray's own old names
            import ray
            import ray.data

            context = ray.data.DataContext.get_current()
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "the engine ray") from error
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None and "RAY_ADDRESS" not in os.environ:
            ray.init(num_cpus=workers, include_dashboard=False, **quiet)
        else:
            _knock(address or os.environ["RAY_ADDRESS"])
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"no Ray cluster at {address or os.environ.get('RAY_ADDRESS') or 'this machine'} ({_last_line(error)}); "
            "start one with `ray start --head`, or leave the address out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody answers: Ray itself would wait for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


Stamp = tuple[int, int] | None
"""Size in bytes and time of modification in nanoseconds of an input; None where it cannot be told."""


class Journal:
    """Results, JSON objects by the index of their input, in `OUTPUT.partial`, which belongs to one process at a time.

    The first line says which run it is. Each other line holds an index, the stamp of the input, and the result; a
    result whose input has another stamp by now is forgotten, and done again.

    Attributes:
        path: The file of the journal.
        lines: Each result as one line of JSON, by index; results of inputs that changed since are not among them.

    Args:
        output: The file that the run will write.
        run: What makes it this run: inputs, options, weights, as JSON types.
        stamps: Of each input, as it is now.
        start_over: Forget another run's results instead of refusing them.

    Raises:
        OutputError: Another process holds the file, it belongs to another run, is damaged, or cannot be written.
    """

    def __init__(
        self, output: Path, run: Mapping[str, Any], stamps: Sequence[Stamp], *, start_over: bool = False
    ) -> None:
        self.path = output.with_name(output.name + ".partial")
        self._stamps = list(stamps)
        self.lines: dict[int, str] = {}
        header = json.dumps(run).encode()
        try:
            self._file = open(open_locked(self.path, output), "r+b", buffering=0)  # noqa: SIM115, PTH123
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            whole = self._begun(header, start_over=start_over)
            for number, line in enumerate(whole[1:], 2):
                self._restore(line, f"{self.path}, line {number}")
            self._write(b"".join(whole) or header + b"\n", from_start=True)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    @property
    def results(self) -> dict[int, dict[str, Any]]:
        """The results as JSON types, by index."""
        return {index: json.loads(line) for index, line in self.lines.items()}

    @property
    def todo(self) -> list[int]:
        """Indices of the inputs without a result."""
        return [index for index in range(len(self._stamps)) if index not in self.lines]

    def add(self, index: int, result: Mapping[str, Any] | str) -> None:
        """Keep a result, a JSON object or one line of JSON that holds one; it is in the file when this returns."""
        line = result if isinstance(result, str) else json.dumps(result)
        self._write(f'{{"index": {index}, "stamp": {json.dumps(self._stamps[index])}, "result": {line}}}\n'.encode())
        self.lines[index] = line

    def forget(self, index: int) -> None:
        """Drop a result, so that its input is done again."""
        self.lines.pop(index, None)

    def in_order(self) -> list[dict[str, Any]]:
        """The result of every input, in the order of the inputs."""
        return [json.loads(self.lines[index]) for index in range(len(self._stamps))]

    def remove(self) -> None:
        """The run is done."""
        self.path.unlink()

    def _begun(self, header: bytes, *, start_over: bool) -> list[bytes]:
        """The lines of the run so far, the header first; none at its start."""
        found = self._file.readall()
        # A killed run can leave half a line.
        whole = found[: found.rfind(b"\n") + 1].splitlines(keepends=True)
        if not whole or whole[0].rstrip() == header:
            return whole
        if start_over:
            return []
        raise OutputError(
            f"{self.path} is the unfinished output of another run (other inputs, options or weights); remove it, or "
            "finish that run first"
        )

    def _restore(self, line: bytes, name: str) -> None:
        """Take up a result, unless its input has changed since."""
        try:
            values = parse_json(line, name, OutputError)
            index, stamp, result = values["index"], values["stamp"], values["result"]
            now = self._stamps[index]
            if not isinstance(result, dict):
                raise TypeError("its result is not an object")
        except (ValueError, TypeError, KeyError, IndexError, PerceptokError) as error:
            raise OutputError(f"{name}: damaged ({error}); remove the file and start again") from error
        self.lines.pop(index, None)
        if now is not None and stamp == list(now):
            self.lines[index] = json.dumps(result)

    def _write(self, data: bytes, *, from_start: bool = False) -> None:
        try:
            if from_start:
                self._file.seek(0)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            if from_start:
                self._file.truncate()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        if isinstance(error, OutputError):
            return error
        if isinstance(error, FileNotFoundError):
            folder = self.path.parent
            return OutputError(f"cannot write {self.path}: the folder {folder} does not exist; create it first")
        return OutputError(
            f"cannot write {self.path}: {error.strerror or error}; what was done so far is in it: make room and run "
            "the command again"
        )


def stamp_of(path: str | os.PathLike[str]) -> Stamp:
    """What tells an input from what stood under its name before; a file that is not there has none."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns
