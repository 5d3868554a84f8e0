"""Folders of maps through a codec: interruptible, continued where they stopped, and one bad file costs only itself."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch

from perceptok import jobs as journal
from perceptok.depth.code_files import RECORD_SUFFIXES, DepthRecord, MapFailure, whole_records, write_code_records
from perceptok.depth.codec import DepthCodec
from perceptok.depth.formats.stored import MOST_PIXELS
from perceptok.depth.map_files import MapFile
from perceptok.depth.maps import DepthMap, Nearness
from perceptok.depth.preprocessing import nearest_resize
from perceptok.depth.units import Unit
from perceptok.errors import CheckpointError, ConfigError, DepthMapError, OutputError, PerceptokError
from perceptok.files import atomic_write, distinct_targets, inside, locked
from perceptok.jobs import RayEngine

__all__ = [
    "MapFailure",
    "RecordJournal",
    "decode_records",
    "encode_files",
    "encode_maps",
    "journalled_run",
    "ray_encoder",
]


class RecordJournal:
    """Results by the index of their map; see `perceptok.jobs.Journal`, which keeps them.

    Args:
        output: The file that the run will write.
        codec: Fingerprint of the codec.
        maps: The inputs, in order.
        settings: Further settings of the run, as JSON types.
        start_over: Forget another run's results instead of refusing them.

    Raises:
        OutputError: As the journal, or a result in it is no record of its map.
    """

    def __init__(
        self,
        output: Path,
        codec: str,
        maps: Sequence[MapFile],
        settings: Mapping[str, Any] | None = None,
        *,
        start_over: bool,
    ) -> None:
        self.maps = maps
        inputs = hashlib.sha256("\n".join(f"{file.name}\t{file!r}" for file in maps).encode("utf-8", "surrogatepass"))
        run = {"codec": codec, "inputs": inputs.hexdigest(), "maps": len(maps), **(settings or {})}
        self._kept = journal.Journal(output, run, [journal.stamp_of(file.path) for file in maps], start_over=start_over)
        try:
            self.results = {index: self._restored(index, result) for index, result in self._kept.results.items()}
        except BaseException:
            self._kept.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kept.__exit__(kind, error, at)

    @property
    def todo(self) -> list[int]:
        """Indices of the maps without a result."""
        return self._kept.todo

    def add(self, index: int, result: DepthRecord | MapFailure) -> None:
        """Keep a result, on disk when this returns."""
        shown = json.loads(result.to_json()) if isinstance(result, DepthRecord) else {"failure": list(result)}
        self._kept.add(index, shown)
        self.results[index] = result

    def forget(self, index: int) -> None:
        """Do a map again, whether it was done or not."""
        self._kept.results.pop(index, None)
        self.results.pop(index, None)

    def in_order(self) -> list[DepthRecord | MapFailure]:
        """The result of every map, in the order of the maps."""
        ordered = [self.results[index] for index in range(len(self.maps))]
        assert [one.name for one in ordered] == [file.name for file in self.maps], "results of other inputs"
        return ordered

    def remove(self) -> None:
        """The run is done."""
        self._kept.remove()

    def _restored(self, index: int, result: Mapping[str, Any]) -> DepthRecord | MapFailure:
        name = self.maps[index].name
        try:
            restored = MapFailure(*result["failure"]) if "failure" in result else DepthRecord.from_dict(result)
            if restored.name != name:
                raise ValueError(f"the result {index} is of {restored.name}, not of {name}")
        except (ValueError, TypeError, PerceptokError) as error:
            raise OutputError(f"{self._kept.path} is damaged ({error}); remove it and encode again") from error
        return restored


_PIXELS_AT_ONCE = 2**24
_Read = tuple[MapFile, "Nearness | MapFailure"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def encode_maps(
    codec: DepthCodec, maps: Sequence[MapFile], *, batch_size: int = 16
) -> Iterator[DepthRecord | MapFailure]:
    """Encode files in order, one result each; a file that cannot be read becomes a `MapFailure`."""
    fingerprint = codec.fingerprint

    def encoded(batch: list[MapFile]) -> list[DepthRecord | MapFailure]:
        results: list[DepthRecord | MapFailure] = []
        for piece in _within_memory((file, _read(file)) for file in batch):
            read = [one for _, one in piece if isinstance(one, Nearness)]
            codes = iter(codec.encode(read, batch_size=batch_size))
            results += [
                one if isinstance(one, MapFailure) else DepthRecord.of(file.name, next(codes), one, fingerprint)
                for file, one in piece
            ]
        return results

    for results in _side_by_side(encoded, _batches(maps, batch_size)):
        yield from results


def encode_files(
    codec: DepthCodec,
    maps: Sequence[MapFile],
    output: str | Path,
    *,
    batch_size: int = 16,
    text: bool = False,
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
    engine: Callable[[Sequence[MapFile]], Iterable[DepthRecord | MapFailure]] | None = None,
    warn: Callable[[str, str], object] = lambda *_: None,
) -> list[MapFailure]:
    """Encode files to one file of records.

    Results gather in `OUTPUT.partial`, which is locked while it is written. A run that was interrupted, killed or out
    of disk is continued by the same call, and the output is then byte for byte that of an uninterrupted run; inputs
    that changed in between (size or time of modification) are done again.

    Args:
        codec: The codec.
        maps: What to encode; see `find_maps`.
        output: `.jsonl`, `.npz` or `.parquet`.
        batch_size: Maps that go through the networks at once; the codes do not depend on it.
        text: JSON lines only: the block of tokens too.
        force: Replace an existing output, and the unfinished one of another run.
        advance: Called after every map.
        engine: Encodes the files that are left, in order; `encode_maps` in this process where None (see `ray_jobs`).
        warn: Called with a map's name and what is odd about its range, once per map, continued runs included.

    Returns:
        The files that could not be read; all others are in the output.

    Raises:
        OutputError: The output exists, cannot be written, is being written by another process, or a partial one
            belongs to other inputs.
    """

    def work(journal: RecordJournal) -> Iterator[tuple[int, DepthRecord | MapFailure]]:
        todo = journal.todo
        left = [maps[index] for index in todo]
        encoded = engine(left) if engine else encode_maps(codec, left, batch_size=batch_size)
        return zip(todo, encoded, strict=True)

    return journalled_run(codec, maps, output, work, text=text, force=force, advance=advance, warn=warn)


def journalled_run(
    codec: DepthCodec,
    maps: Sequence[MapFile],
    output: str | Path,
    work: Callable[[RecordJournal], Iterable[tuple[int, DepthRecord | MapFailure]]],
    *,
    prepare: Callable[[RecordJournal], object] = lambda _: None,
    settings: Mapping[str, Any] | None = None,
    text: bool = False,
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
    warn: Callable[[str, str], object] = lambda *_: None,
) -> list[MapFailure]:
    """A run over maps that is kept as it goes, and written as one file of records at its end.

    Args:
        codec: The codec.
        maps: The inputs.
        output: `.jsonl`, `.npz` or `.parquet`.
        work: Does what is not in the journal yet; gives the index of each map and its result.
        prepare: Forgets what is in the journal of an earlier run and cannot be built on.
        settings: What else makes it this run and no other.
        text: As for `encode_files`, and so are `force`, `advance` and `warn`.
        force: Replace an existing output.
        advance: Called after every map.
        warn: Called with odd maps.

    Returns:
        The maps that failed.

    Raises:
        OutputError: As for `encode_files`.
    """
    output = Path(output)
    if output.suffix not in RECORD_SUFFIXES:
        raise OutputError(f"{output}: records are written to {', '.join(RECORD_SUFFIXES)}")
    if text and output.suffix != ".jsonl":
        raise OutputError(f"{output}: only .jsonl has room for the text of blocks")
    if output.exists() and not force:
        raise OutputError(f"{output} exists already; choose another path, or replace it with force (--force)")
    with RecordJournal(output, codec.fingerprint, maps, settings, start_over=force) as journal:
        prepare(journal)
        for done in journal.results.values():
            advance()
            _pass_on(done, warn)
        for index, result in work(journal):
            journal.add(index, result)
            advance()
            _pass_on(result, warn)
        results = journal.in_order()
        with atomic_write(output, force=force) as file:
            write_code_records(file, output.suffix, [one for one in results if isinstance(one, DepthRecord)], text=text)
        journal.remove()
    return [one for one in results if isinstance(one, MapFailure)]


def _pass_on(result: DepthRecord | MapFailure, warn: Callable[[str, str], object]) -> None:
    if isinstance(result, DepthRecord) and result.warning:
        warn(result.name, result.warning)


def decode_records(
    codec: DepthCodec,
    records: Iterable[DepthRecord],
    folder: str | Path,
    *,
    form: Literal["depth", "nearness"] = "nearness",
    suffix: str = ".png",
    batch_size: int = 16,
    force: bool = False,
    unit: Unit | None = None,
    scale: float | None = None,
    max_pixels: int = MOST_PIXELS,
    advance: Callable[[], object] = lambda: None,
) -> list[MapFailure]:
    """Decode records to a folder of depth maps that mirrors the names, each in its map's own size.

    A file is called as its record with another suffix; where that would be one name for two records, as of `x.pfm`
    beside `x.png`, both keep the suffix that they had: `x.pfm.png`, `x.png.png`.

    Args:
        codec: The codec that encoded them.
        records: What to decode; see `read_records`. Frames of clips are restored from their changes (`whole_records`).
        folder: Where to; subfolders are made as the names need them.
        form: "nearness" (1 = nearest; 16-bit PNG: 65535), or "depth": metres of metric maps (PNG: millimetres), the own
            scale of inverse ones.
        suffix: Format of the files, such as ".npy" or "npy".
        batch_size: Maps that go through the networks at once.
        force: Replace existing files; without it they are kept, so that an interrupted run goes on where it stopped.
        max_pixels: A record of a larger map is one failure; the default takes about 0.5 GB.
        unit: Of metric depth in the files, instead of millimetres in PNG and metres elsewhere.
        scale: Instead of a unit, metres per value in the files.
        advance: Called after every map.

    Returns:
        The records that could not be decoded or written.

    Raises:
        ConfigError: A unit or scale for nearness, which has none.
        CheckpointError: A record was encoded by another codec.
        OutputError: Two records have one name, or another process writes into the folder; nothing is written then.
    """
    if form == "nearness" and (unit, scale) != (None, None):
        raise ConfigError("nearness has no unit; a unit or scale (--unit, --scale) goes with depth (--as depth)")
    folder, fingerprint = Path(folder), codec.fingerprint
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    failures: list[MapFailure] = []
    good: list[DepthRecord] = []
    for record in whole_records(records, failures):
        if problem := _problem(record, folder, fingerprint, max_pixels):
            failures.append(MapFailure(record.name, problem))
            advance()
        else:
            good.append(record)
    names = _targets([one.name for one in good], suffix)
    targets = dict(zip(names, distinct_targets(names.values(), folder), strict=True))

    def save(record: DepthRecord, nearness: np.ndarray) -> MapFailure | None:
        try:
            target = targets[record.name]
            target.parent.mkdir(parents=True, exist_ok=True)
            _restored(record, nearness, form).write(target, unit=unit, scale=scale, force=force)
        except (PerceptokError, OSError, MemoryError) as error:
            return MapFailure(record.name, str(error) or type(error).__name__)
        return None

    def decoded(batch: list[DepthRecord]) -> list[MapFailure | None]:
        todo = [one for one in batch if force or not targets[one.name].exists()]
        maps = codec.decode(np.stack([one.grid for one in todo]), batch_size=batch_size) if todo else ()
        there: list[MapFailure | None] = [None] * (len(batch) - len(todo))
        return there + [save(record, nearness) for record, nearness in zip(todo, maps, strict=True)]

    with _held(folder):
        for results in _side_by_side(decoded, _batches(good, batch_size)):
            for failure in results:
                failures += [failure] if failure else []
                advance()
    return failures


def _problem(record: DepthRecord, folder: Path, fingerprint: str, max_pixels: int) -> str | None:
    """Why a record cannot be decoded into a folder; records of another codec are refused together."""
    if record.codec != fingerprint:
        raise CheckpointError(
            f"{record.name} was encoded by codec {record.codec}, this one is {fingerprint}: "
            "decode it with the same weights"
        )
    if record.width * record.height > max_pixels:
        return f"{record.width}x{record.height} pixels; the limit is {max_pixels} (--max-pixels)"
    try:
        record.grid, inside(folder, record.name)
    except (PerceptokError, ValueError) as error:
        return str(error)
    return None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A folder that one process writes into at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    with locked(folder / ".perceptok.lock", folder):
        yield


def _within_memory(read: Iterable[_Read]) -> Iterator[list[_Read]]:
    """Maps as they are read, as many at once as have some 16 million pixels together; a larger one alone."""
    piece: list[_Read] = []
    pixels = 0
    for one in read:
        piece.append(one)
        pixels += one[1].values.size if isinstance(one[1], Nearness) else 0
        if pixels > _PIXELS_AT_ONCE:
            yield piece
            piece, pixels = [], 0
    if piece:
        yield piece


def _read(file: MapFile) -> Nearness | MapFailure:
    try:
        return file.nearness()
    except DepthMapError as error:
        return MapFailure(file.name, str(error))
    except MemoryError:
        return MapFailure(file.name, "there is not enough memory for it")


def _restored(record: DepthRecord, nearness: np.ndarray, form: Literal["depth", "nearness"]) -> DepthMap:
    values = nearest_resize(nearness, record.height, record.width)
    valid = np.ones(values.shape, dtype=bool)
    if form == "nearness":
        return DepthMap(values, valid, "inverse")
    return DepthMap.from_nearness(Nearness(values, valid, record.near, record.far, record.kind))


def _targets(names: Sequence[str], suffix: str) -> dict[str, str]:
    """Name of each record -> name of its file; no two are the same, as far as another suffix can keep them apart."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise OutputError(
            f"{len(twice)} names stand in several records, such as {twice[0]!r}, and would share one file; "
            "decode each file of records into a folder of its own, or rename them"
        )
    short = {name: str(PurePosixPath(name).with_suffix(suffix)) for name in names}
    takers = Counter(short.values())
    targets = {name: target if takers[target] == 1 else name + suffix for name, target in short.items()}
    # `x.png.pfm` alone becomes x.png.png, too.
    taken = Counter(targets.values())
    return {name: target if taken[target] == 1 else name + suffix for name, target in targets.items()}


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _side_by_side(work: Callable[[Item], Result], batches: Iterable[Item]) -> Iterator[Result]:
    """The result of every batch, in order, a few batches at once.

    PyTorch's threads are divided among the workers instead of all serving one network at a time: reading and writing
    then never wait for it, and on a busy machine no thread spins until a late one has done its part (a fourth of the
    wall clock where another process kept both cores busy).
    """
    threads = torch.get_num_threads()
    workers = min(8, threads)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(work, batch))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # whoever stops listening, at a closed pipe or an error, does not wait for what was still to come
            for one in waiting:
                one.cancel()


def ray_encoder(
    codec: DepthCodec, *, batch_size: int = 16, workers: int = 2, address: str | None = None
) -> Callable[[Sequence[MapFile]], Iterator[DepthRecord | MapFailure]]:
    """What `encode_files` takes as its engine: an actor pool in which every worker holds the codec.

    Args:
        codec: Sent to each worker once; on a GPU, each worker has one of its own.
        batch_size: Maps that go through the networks at once.
        workers: Actors.
        address: Of a running cluster; see `RayEngine`.

    Raises:
        ConfigError: Fewer than one worker.
        MissingExtraError: Ray is not installed (when the first map is asked for).
        ClusterError: The cluster cannot be reached, or a worker died again and again.
    """
    device = str(codec.device)
    engine = RayEngine(workers, address, gpus=1.0 if device.startswith("cuda") else 0.0)

    def encode(maps: Sequence[MapFile]) -> Iterator[DepthRecord | MapFailure]:
        # Weights cross in main memory: a machine may have no GPU of that number.
        sent = copy.deepcopy(codec).to("cpu")
        settings = {"codec": sent, "device": "cuda" if engine.gpus else device, "batch_size": batch_size}
        return engine.run(_Encoder, settings, maps, batch_size=batch_size)

    return encode


class _Encoder:
    """One worker: a codec, and files as they come."""

    def __init__(self, codec: DepthCodec, device: str, batch_size: int) -> None:
        self._codec, self._batch_size = codec.to(device), batch_size

    def __call__(self, maps: list[MapFile]) -> list[DepthRecord | MapFailure]:
        return list(encode_maps(self._codec, maps, batch_size=self._batch_size))
