"""Long jobs: work spread over processes or machines, and results kept in a journal so that the same call resumes.

An engine's `map` gives the results of a function in the order of its items. `LocalEngine` works in this process or in a
pool of processes, `RayEngine` on a Ray cluster; both give the same results. `Journal` keeps each result in a file as it
comes, and skips it when the job is started again.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import socket
import threading
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from perceptok.errors import ConfigError, EngineError, MissingExtraError, OutputError, PerceptokError
from perceptok.files import open_for_update, open_input, parse_json
from perceptok.locks import lock_output

__all__ = [
    "Engine",
    "Journal",
    "LocalEngine",
    "RayEngine",
    "Stamp",
    "count_reasons",
    "find_common_reason",
    "find_examples",
    "map_as_completed",
    "map_in_order",
    "prepare_worker",
    "read_run",
    "split_into_batches",
    "stamp_folder",
    "stamp_of",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

Stamp = tuple[int, int] | None
"""Size in bytes and modification time in nanoseconds of an input file; None if it is missing."""

_MAX_RESTARTS = 4
"""How often Ray restarts an actor that dies."""


_MIN_FAILURES = 64
"""Where so many first items all fail for one reason, a setting is wrong, and the others would fail too."""


def count_reasons(reasons: Sequence[str]) -> dict[str, int]:
    """Count like reasons together, the most frequent first: numbers and paths in them are replaced by #."""
    return dict(Counter(map(_generalize, reasons)).most_common())


def find_examples(reasons: Sequence[str]) -> dict[str, str]:
    """The first of like reasons, by the reason as `count_reasons` has it."""
    return {_generalize(reason): reason for reason in reversed(reasons)}


def find_common_reason(reasons: Sequence[str]) -> str | None:
    """The first reason why items failed, where there are 64 or more and all are alike; None otherwise."""
    return reasons[0] if len(reasons) >= _MIN_FAILURES and len(count_reasons(reasons)) == 1 else None


def _generalize(reason: str) -> str:
    words = [
        f"#{word[-1] if word[-1] in ',;:' else ''}" if any(map(str.isdigit, word)) or "/" in word else word
        for word in reason.split()
    ]
    return " ".join(words)


class Engine(Protocol):
    """Spreads work over processes or machines."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Compute the result of every item, in order, as the results are asked for.

        Args:
            work: Pickled; what it needs to load, it loads in the worker's process on first use.
            items: Pickled too; drawn only a bounded number ahead of the results.

        Raises:
            PerceptokError: What `work` raised for an item.
            EngineError: Workers cannot be started or reached, or one died.
        """


def split_into_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last of fewer; raises ValueError for a size below 1."""
    if size < 1:
        raise ValueError(f"the batch size must be at least 1; got {size}")
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def map_in_order(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Generator[Result, None, None]:
    """Compute the result of every item in a pool of threads or processes, in order.

    Args:
        pool: The executor.
        work: The function.
        items: Its arguments; at most `ahead` of them are submitted beyond the one whose result is waited for.
        ahead: See `items`.
    """
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


def map_as_completed(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[tuple[int, Result]]:
    """Compute the result of every item in a pool of threads or processes, in the order in which they are completed.

    Args:
        pool: The executor.
        work: The function.
        items: Its arguments; at most `ahead` of them are submitted at a time.
        ahead: See `items`.

    Yields:
        The index of an item, and its result.
    """
    numbered = enumerate(items)
    waiting: dict[Future[Result], int] = {}
    try:
        while True:
            for index, item in islice(numbered, ahead - len(waiting)):
                waiting[pool.submit(work, item)] = index
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=waiting.__getitem__):
                yield waiting.pop(future), future.result()
    finally:  # a caller that stops early does not wait for the rest
        for future in waiting:
            future.cancel()


class LocalEngine:
    """This process alone, or a pool of processes on this machine, started once and kept until `close`.

    Args:
        workers: Processes; with 0 or 1 the work is done in this one.

    Raises:
        ConfigError: A negative number of workers.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 0:
            raise ConfigError(f"workers: expected 0 or more processes; got {workers}")
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
        """Compute the result of every item, in order; see `Engine.map`."""
        if self.workers <= 1:
            yield from map(work, items)
            return
        if self._pool is None:
            # Spawned: a fork would copy the locks of the threads of numpy and torch in whatever state they are.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=prepare_worker)
        try:
            yield from map_in_order(self._pool, work, items, ahead=2 * self.workers)
        except BrokenProcessPool as error:
            self.close()
            raise EngineError(
                "a worker process died (killed, or out of memory); finished results are kept: run the same command "
                "again, with fewer workers if memory was short"
            ) from error


def prepare_worker() -> None:
    """Prepare a worker process: one thread of torch, and an end of its own when its parent is gone.

    The processes already use all cores. A parent that is killed cannot end them.
    """
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


class RayEngine:
    """Spreads work over a pool of Ray actors.

    Without an address, and where RAY_ADDRESS is not set, a cluster of `workers` processes is started on this machine
    and stopped again after the work; a cluster that this process has joined already is used and left running. On other
    machines perceptok must be installed, and the files that items name must have the same paths. In a `with` block the
    cluster is kept from the first work to the end of the block.

    Args:
        workers: Actors; each loads what it needs once.
        address: Of a running cluster, such as "auto", "10.0.0.1:6379" or "ray://10.0.0.1:10001".
        gpus: GPUs for each actor; with a fraction several share one.
        window: Items that are drawn and handed to Ray at once. Memory grows with it and not with the number of items;
            each window starts its actors anew (some seconds).

    Raises:
        ConfigError: Fewer than one worker or item in a window, or a negative number of GPUs.
    """

    def __init__(
        self, workers: int = 2, address: str | None = None, *, gpus: float = 0.0, window: int = 20_000
    ) -> None:
        if workers < 1 or gpus < 0 or window < 1:
            raise ConfigError(
                f"a Ray engine needs workers >= 1, gpus >= 0 and window >= 1; got {workers}, {gpus} and {window}"
            )
        self.workers, self.address, self.gpus, self.window = workers, address, gpus, window
        self._cluster: ExitStack | None = None

    def __enter__(self) -> Self:
        self._cluster = ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Compute the result of every item, in order; an actor that dies is restarted and its item done again.

        Args:
            work: Sent to each actor once; what it needs to load, it loads there on first use.
            items: Pickled; drawn a window ahead of the results.

        Raises:
            MissingExtraError: Ray is not installed.
            PerceptokError: What `work` raised for an item.
            EngineError: The cluster cannot be reached, `work` raised another error, or an item killed its worker again
                and again.
        """
        queue = iter(items)
        window = list(islice(queue, self.window))
        if not window:
            return
        with ExitStack() as temporary:
            cluster = temporary if self._cluster is None else self._cluster
            cluster.enter_context(_join_cluster(self.address, self.workers))
            while window:
                yield from self._map_window(work, window)
                window = list(islice(queue, self.window))

    def _map_window(self, work: Callable[[Item], Result], items: list[Item]) -> Iterator[Result]:
        import ray.cloudpickle
        import ray.data

        pack: Callable[[object], bytes] = ray.cloudpickle.dumps
        blocks = min(max(4 * self.workers, len(items) // 256), len(items))
        rows = ray.data.from_items([{"item": pack(item)} for item in items], override_num_blocks=blocks)
        results = rows.map_batches(
            _Actor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            fn_constructor_kwargs={"work": pack(work)},
            num_cpus=1,
            num_gpus=self.gpus or None,
            max_restarts=_MAX_RESTARTS,
            max_task_retries=_MAX_RESTARTS,
        )
        returned = 0
        try:
            for row in results.iter_rows():
                result = pickle.loads(row["result"])  # noqa: S301 (written by our own workers)
                if isinstance(result, _RaisedError):
                    raise result.error
                returned += 1
                yield result
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"the work on Ray stopped after {returned} of {len(items)} items: {_last_line(error)}; "
                "finished results are kept: run the same command again"
            ) from error


class _RaisedError:
    """Wraps an exception raised in a worker process."""

    def __init__(self, error: Exception) -> None:
        self.error: PerceptokError = EngineError(f"a worker raised {type(error).__name__}: {error}")
        if isinstance(error, PerceptokError):
            try:
                self.error = pickle.loads(pickle.dumps(error))  # noqa: S301 (pickled here)
            except Exception:  # noqa: BLE001 (whatever keeps an error from being pickled)
                self.error = EngineError(f"{type(error).__name__}: {error}")


class _Actor:
    """What Ray runs: items and results are sent as bytes, so that Ray's tables need not understand them."""

    def __init__(self, work: bytes) -> None:
        self._work = pickle.loads(work)  # noqa: S301 (written by `RayEngine`)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        try:
            result = self._work(pickle.loads(batch["item"][0]))  # noqa: S301 (written by `RayEngine`)
        except Exception as error:  # noqa: BLE001 (Ray would repeat it, and bury its message)
            result = _RaisedError(error)
        return {"result": [pickle.dumps(result)]}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _join_cluster(address: str | None, workers: int) -> Iterator[None]:
    """Use the cluster that this process has joined, join that of the address, or start one on this machine."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about Ray's own deprecations
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
            _check_address(address or os.environ["RAY_ADDRESS"])
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise EngineError(
            f"Ray cluster not found at {address or os.environ.get('RAY_ADDRESS') or 'this machine'} "
            f"({_last_line(error)}); start one with `ray start --head`, or leave the address out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself would wait for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


_LINE = re.compile(rb'\{"index": (\d+), "stamp": (null|\[-?\d+, -?\d+\]), "result": (.*)\}\n')


_MAX_LINE = 2**28
"""Bytes of a line of a journal."""


def _is_journal(first: bytes, second: bytes) -> bool:
    """Whether the first lines of a file are those of a journal: what identifies a run, and a result if there is one."""
    try:
        is_object = isinstance(parse_json(first, "the first line", OutputError), dict)
    except OutputError:
        return False
    return is_object and first.endswith(b"\n") and (not second or second.startswith(b'{"index": '))


def _decode_object(_: int, values: Any) -> Any:
    if not isinstance(values, dict):
        raise TypeError("the result is not an object")
    return values


class Journal(Generic[Result]):
    """The results of a job so far, in `OUTPUT.partial`, which one process at a time holds.

    The first line identifies the run. Each further line holds the index of an input, the stamp of its file, and its
    result as JSON; when the job is resumed, the result of an input with another stamp is dropped. A result is in the
    file when `add` returns. Only positions are kept in memory: results are read from the file.

    Attributes:
        path: The file of the journal.

    Args:
        output: The file that the job will write.
        run: What identifies the run, as JSON types: inputs, options, weights.
        stamps: The stamp of each input, as it is now (`stamp_of`), where results must not outlive a change of their
            input; None where `run` says it all.
        encode: Result -> one line of JSON.
        decode: Index and JSON values -> result, the inverse of `encode`; it may raise ValueError, TypeError, KeyError
            or PerceptokError for what is not a valid result. By default results are JSON objects as dict.
        start_over: Drop the results of another run instead of refusing them.
        suffix: What the journal's name has after the output's; empty where the journal is itself the output.

    Raises:
        OutputError: Another process holds the journal, it belongs to another run, is damaged, or cannot be written.
    """

    def __init__(
        self,
        output: Path,
        run: Mapping[str, Any],
        stamps: Sequence[Stamp] | None = None,
        *,
        encode: Callable[[Result], str] = json.dumps,
        decode: Callable[[int, Any], Result] = _decode_object,
        start_over: bool = False,
        suffix: str = ".partial",
    ) -> None:
        self.path = output.with_name(output.name + suffix)
        self._stamps = None if stamps is None else list(stamps)
        self._encode, self._decode = encode, decode
        self._spans: dict[int, tuple[int, int]] = {}
        """Index -> first byte and length of the JSON text of its result."""
        with ExitStack() as stack:
            stack.enter_context(lock_output(self.path, shown=output))
            try:
                self._file = stack.enter_context(open_for_update(self.path))
            except OSError as error:
                raise self._make_error(error) from error
            self._end = self._restore(json.dumps(run).encode() + b"\n", start_over)
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def __len__(self) -> int:
        return len(self._spans)

    def __contains__(self, index: int) -> bool:
        return index in self._spans

    def __iter__(self) -> Iterator[int]:
        """The indices of the results, in order."""
        return iter(sorted(self._spans))

    def __getitem__(self, index: int) -> Result:
        return self._decode(index, json.loads(self.read_text(index)))

    def read_text(self, index: int) -> str:
        """Read a result as `encode` wrote it."""
        start, length = self._spans[index]
        self._file.seek(start)
        return self._file.read(length).decode()

    def results(self) -> Iterator[Result]:
        """Read the results in the order of their inputs."""
        return (self[index] for index in self)

    @property
    def todo(self) -> list[int]:
        """Indices of the inputs without a result."""
        assert self._stamps is not None, "without stamps the inputs are not known"
        return [index for index in range(len(self._stamps)) if index not in self._spans]

    def add(self, index: int, result: Result) -> None:
        """Keep a result; it is in the file when this returns."""
        stamp = None if self._stamps is None else self._stamps[index]
        head = f'{{"index": {index}, "stamp": {json.dumps(stamp)}, "result": '.encode()
        text = self._encode(result).encode()
        start = self._end + len(head)
        self._write(head + text + b"}\n")
        self._spans[index] = start, len(text)

    def forget(self, index: int) -> None:
        """Drop a result, so that its input is done again."""
        self._spans.pop(index, None)

    def drop_from(self, first: int) -> None:
        """Drop the results of index `first` and above for good, from the file too.

        For a journal whose results were added in the order of their indices.
        """
        for index in [index for index in self._spans if index >= first]:
            self.forget(index)
        end = max((start + length + len(b"}\n") for start, length in self._spans.values()), default=self._start)
        try:
            self._file.truncate(end)
        except OSError as error:
            raise self._make_error(error) from error
        self._end = end

    def remove(self) -> None:
        """Delete the file, once the job is done."""
        self._file.close()  # Windows does not delete open files
        self.path.unlink()

    def _restore(self, header: bytes, start_over: bool) -> int:
        """Find the results in the file; returns the position where it goes on."""
        with open(self._file.fileno(), "rb", closefd=False) as file:
            first = file.readline(_MAX_LINE)
            if not header.startswith(first):  # a killed run can leave half a header
                if not _is_journal(first, file.readline(_MAX_LINE)):
                    raise OutputError(f"{self.path} is not an unfinished output; move it, or choose another output")
                if not start_over:
                    raise OutputError(
                        f"{self.path} is the unfinished output of another run (other inputs, options or weights); "
                        "finish that run first, or drop it: remove the file, or start over with force (--force)"
                    )
            end = len(first) if first == header else 0
            file.seek(len(first))
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b"") if end else (), 2):
                if not line.endswith(b"\n"):
                    break  # a killed run can leave half a line
                self._restore_line(line, number, end)
                end += len(line)
        try:
            self._file.truncate(end)
        except OSError as error:
            raise self._make_error(error) from error
        self._end = end
        if not end:
            self._write(header)
        self._start = len(header)
        return self._end

    def _restore_line(self, line: bytes, number: int, position: int) -> None:
        try:
            if (match := _LINE.fullmatch(line)) is None:
                raise ValueError("not an index with a stamp and a result")
            index, stamp = int(match[1]), json.loads(match[2])
            self._decode(index, parse_json(match[3], "its result", OutputError))
            current = None if self._stamps is None else self._stamps[index]
        except (ValueError, TypeError, KeyError, IndexError, PerceptokError) as error:
            raise OutputError(
                f"{self.path}, line {number}: damaged ({error}); remove the file and start again"
            ) from error
        self.forget(index)
        if self._stamps is None or (current is not None and stamp == list(current)):
            self._spans[index] = position + match.start(3), len(match[3])

    def _write(self, data: bytes) -> None:
        """Append at the end; what a failed write has written is overwritten by the next."""
        try:
            self._file.seek(self._end)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._make_error(error) from error
        self._end += len(data)

    def _make_error(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self.path}: {error.strerror or error}; finished results are kept in it: free some "
            "space and run the command again"
        )


def read_run(output: Path) -> dict[str, Any]:
    """Read what identifies the run of an unfinished output's journal; empty where there is none that can be read."""
    path = output.with_name(output.name + ".partial")
    try:
        with open_input(path) as file:
            values = parse_json(file.readline(), str(path), OutputError)
    except (OSError, OutputError):
        return {}
    return values if isinstance(values, dict) else {}


def stamp_folder(folder: str | os.PathLike[str]) -> list[list[Any]]:
    """Read the stamps of all files in a folder, which change with its content: name, size and time of each.

    Returns:
        JSON types, in the order of the names; empty for a folder that does not exist.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return [[path.relative_to(folder).as_posix(), *(stamp_of(path) or ())] for path in files]


def stamp_of(*paths: str | os.PathLike[str]) -> Stamp:
    """Read the stamp of an input file, or of several, which changes with their content; None if one is missing."""
    stamps = []
    for path in paths:
        try:
            status = Path(path).stat()
        except (OSError, ValueError):
            return None
        stamps.append((status.st_size, status.st_mtime_ns))
    if len(stamps) == 1:
        return stamps[0]
    return sum(size for size, _ in stamps), zlib.crc32(repr(stamps).encode())
