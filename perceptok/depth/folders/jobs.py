"""Folders of maps through a codec: interruptible, continued where they stopped, and one bad file costs only itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch

from perceptok.depth.codec import DepthCodec
from perceptok.depth.folders.collection import MapFile
from perceptok.depth.folders.records import RECORD_SUFFIXES, DepthRecord, write_records
from perceptok.depth.maps.depth_map import DepthMap, Nearness
from perceptok.depth.preprocessing import nearest_resize
from perceptok.errors import CheckpointError, DepthMapError, OutputError, PerceptokError
from perceptok.files import atomic_write

__all__ = ["Failure", "decode_records", "encode_files", "encode_maps"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failure(NamedTuple):
    """A map that could not be processed, and why."""

    name: str
    reason: str


def encode_maps(codec: DepthCodec, maps: Sequence[MapFile], *, batch_size: int = 16) -> Iterator[DepthRecord | Failure]:
    """Encode files in order, one result each; a file that cannot be read becomes a `Failure`."""
    fingerprint = codec.fingerprint

    def encoded(batch: list[MapFile]) -> list[DepthRecord | Failure]:
        read = [_read(file) for file in batch]
        codes = iter(codec.encode([one for one in read if isinstance(one, Nearness)], batch_size=batch_size))
        return [
            one if isinstance(one, Failure) else DepthRecord.of(file.name, next(codes), one, fingerprint)
            for file, one in zip(batch, read, strict=True)
        ]

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
) -> list[Failure]:
    """Encode files to one file of records.

    Results gather in `OUTPUT.partial`. A run that was interrupted, killed or out of disk is continued by the same call,
    and the output is then byte for byte that of an uninterrupted run.

    Args:
        codec: The codec.
        maps: What to encode; see `find_maps`.
        output: `.jsonl`, `.npz` or `.parquet`.
        batch_size: Maps that go through the networks at once; the codes do not depend on it.
        text: JSON lines only: the block of tokens too.
        force: Replace an existing output, and start over.
        advance: Called after every map.

    Returns:
        The files that could not be read; all others are in the output.

    Raises:
        OutputError: The output exists, cannot be written, or a partial one belongs to other inputs.
    """
    output = Path(output)
    if output.suffix not in RECORD_SUFFIXES:
        raise OutputError(f"{output}: records are written to {', '.join(RECORD_SUFFIXES)}")
    if text and output.suffix != ".jsonl":
        raise OutputError(f"{output}: only .jsonl has room for the text of blocks")
    if output.exists() and not force:
        raise OutputError(f"{output} exists already; choose another path, or replace it with force (--force)")
    journal = _Journal(output.with_name(output.name + ".partial"), codec, maps, start_over=force and output.exists())
    for _ in journal.results:
        advance()
    todo = maps[len(journal.results) :]
    for result in encode_maps(codec, todo, batch_size=batch_size):
        journal.add(result)
        advance()
    with atomic_write(output, force=force) as file:
        records = [one for one in journal.results if isinstance(one, DepthRecord)]
        write_records(file, output.suffix, records, text=text)
    journal.remove()
    return [one for one in journal.results if isinstance(one, Failure)]


def decode_records(
    codec: DepthCodec,
    records: Iterable[DepthRecord],
    folder: str | Path,
    *,
    form: Literal["depth", "nearness"] = "nearness",
    suffix: str = ".png",
    batch_size: int = 16,
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> list[Failure]:
    """Decode records to a folder of depth maps that mirrors the names, each in its map's own size.

    A file is called as its record with another suffix; where that would be one name for two records, as of `x.pfm`
    beside `x.png`, both keep the suffix that they had: `x.pfm.png`, `x.png.png`.

    Args:
        codec: The codec that encoded them.
        records: What to decode; see `read_records`.
        folder: Where to; subfolders are made as the names need them.
        form: "nearness" (1 = nearest; 16-bit PNG: 65535), or "depth": metres of metric maps (PNG: millimetres), the own
            scale of inverse ones.
        suffix: Format of the files, such as ".npy" or "npy".
        batch_size: Maps that go through the networks at once.
        force: Replace existing files; without it they are kept, so that an interrupted run goes on where it stopped.
        advance: Called after every map.

    Returns:
        The records that could not be decoded or written.

    Raises:
        CheckpointError: A record was encoded by another codec.
        OutputError: Two records have one name, or a name leads out of the folder.
    """
    folder, fingerprint = Path(folder), codec.fingerprint
    records = list(records)
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    targets = {name: folder / target for name, target in _targets([one.name for one in records], suffix).items()}

    def save(record: DepthRecord, nearness: np.ndarray) -> Failure | None:
        try:
            target = targets[record.name]
            target.parent.mkdir(parents=True, exist_ok=True)
            _restored(record, nearness, form).write(target, force=force)
        except (PerceptokError, OSError) as error:
            return Failure(record.name, str(error))
        return None

    def missing(batch: list[DepthRecord]) -> list[DepthRecord]:
        for record in batch:
            if record.codec != fingerprint:
                raise CheckpointError(
                    f"{record.name} was encoded by codec {record.codec}, this one is {fingerprint}: "
                    "decode it with the same weights"
                )
        return [one for one in batch if force or not targets[one.name].exists()]

    def decoded(batch: list[DepthRecord]) -> list[Failure | None]:
        todo = missing(batch)
        maps = codec.decode(np.stack([one.grid for one in todo]), batch_size=batch_size) if todo else ()
        there: list[Failure | None] = [None] * (len(batch) - len(todo))
        return there + [save(record, nearness) for record, nearness in zip(todo, maps, strict=True)]

    failures: list[Failure] = []
    for results in _side_by_side(decoded, _batches(records, batch_size)):
        for failure in results:
            failures += [failure] if failure else []
            advance()
    return failures


class _Journal:
    """Results of a run so far, one JSON line each, behind a line that says which run it is."""

    def __init__(self, path: Path, codec: DepthCodec, maps: Sequence[MapFile], *, start_over: bool) -> None:
        self.path = path
        self.results: list[DepthRecord | Failure] = []
        names = hashlib.sha256("\n".join(f"{file.name}\t{file!r}" for file in maps).encode()).hexdigest()
        header = json.dumps({"codec": codec.fingerprint, "inputs": names})
        try:
            found = b"" if start_over or not path.exists() else path.read_bytes()
        except OSError as error:
            raise _unwritable(path, error) from error
        # A killed run can leave half a line.
        whole = found[: found.rfind(b"\n") + 1].splitlines(keepends=True)
        if whole and whole[0].rstrip() != header.encode():
            raise OutputError(
                f"{path} is the unfinished output of another run (other maps, options or weights); "
                "remove it, or finish that run first"
            )
        try:
            self.results = [_result(line) for line in whole[1:]]
        except (ValueError, TypeError, AttributeError, PerceptokError) as error:
            raise OutputError(f"{path} is damaged ({error}); remove it and encode again") from error
        try:
            path.write_bytes(b"".join(whole) or (header + "\n").encode())
        except OSError as error:
            raise _unwritable(path, error) from error

    def add(self, result: DepthRecord | Failure) -> None:
        line = result.to_json() if isinstance(result, DepthRecord) else json.dumps({"failure": list(result)})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.results.append(result)

    def remove(self) -> None:
        self.path.unlink()


def _result(line: bytes) -> DepthRecord | Failure:
    values = json.loads(line)
    return Failure(*values["failure"]) if "failure" in values else DepthRecord.from_json(line)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror}; what was encoded so far is in it: make room and run the command again"
    )


def _read(file: MapFile) -> Nearness | Failure:
    try:
        return file.read().to_nearness()
    except DepthMapError as error:
        return Failure(file.name, str(error))


def _restored(record: DepthRecord, nearness: np.ndarray, form: Literal["depth", "nearness"]) -> DepthMap:
    values = nearest_resize(nearness, record.height, record.width)
    valid = np.ones(values.shape, dtype=bool)
    if form == "nearness":
        return DepthMap(values, valid, "inverse")
    return DepthMap.from_nearness(Nearness(values, valid, record.near, record.far, record.kind))


def _targets(names: Sequence[str], suffix: str) -> dict[str, str]:
    """Name of each record -> name of its file; no two are the same, and none leads out of the folder."""
    if outside := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise OutputError(
            f"the name {outside[0]!r} of a record leads out of the folder; names are relative, without .."
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise OutputError(
            f"{len(twice)} names stand in several records, such as {twice[0]!r}, and would share one file; "
            "decode each file of records into a folder of its own, or rename them"
        )
    short = {name: str(PurePosixPath(name).with_suffix(suffix)) if PurePosixPath(name).name else name for name in names}
    takers = Counter(short.values())
    targets = {name: target if takers[target] == 1 else name + suffix for name, target in short.items()}
    # `x.png.pfm` alone becomes x.png.png, too.
    taken = Counter(targets.values())
    targets = {name: target if taken[target] == 1 else name + suffix for name, target in targets.items()}
    if clash := next((target for target, count in Counter(targets.values()).items() if count > 1), None):
        raise OutputError(f"several records would be written to {clash}; decode them into folders of their own")
    return targets


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
        for batch in batches:
            waiting.append(pool.submit(work, batch))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
