"""Folders of maps through a codec: interruptible, continued where they stopped, and one bad file costs only itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from perceptok.depth.codec import DepthCodec
from perceptok.depth.collection import MapFile
from perceptok.depth.maps import DepthMap, Nearness
from perceptok.depth.preprocessing import nearest_resize
from perceptok.depth.records import RECORD_SUFFIXES, DepthRecord, write_records
from perceptok.errors import CheckpointError, DepthMapError, OutputError, PerceptokError
from perceptok.files import atomic_write

__all__ = ["Failure", "decode_records", "encode_files", "encode_maps"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failure(NamedTuple):
    """A map that could not be processed, and why."""

    name: str
    reason: str


def encode_maps(
    codec: DepthCodec, maps: Sequence[MapFile], *, batch_size: int = 16
) -> Iterator[DepthRecord | Failure]:
    """Encode files in order, one result each; a file that cannot be read becomes a `Failure`."""
    fingerprint = codec.fingerprint
    for batch, read in _ahead(_read, _batches(maps, batch_size)):
        good = [one for one in read if isinstance(one, Nearness)]
        codes = iter(codec.encode(good, batch_size=batch_size))
        for file, one in zip(batch, read, strict=True):
            yield one if isinstance(one, Failure) else DepthRecord.of(file.name, next(codes), one, fingerprint)


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

    Results gather in `OUTPUT.partial`. A run that was interrupted, killed or out of disk is continued by the same call, and
    the output is then byte for byte that of an uninterrupted run.

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
    for batch in _batches(list(encode_maps(codec, todo, batch_size=batch_size)) if False else (), 1):
        del batch
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

    Args:
        codec: The codec that encoded them.
        records: What to decode; see `read_records`.
        folder: Where to; subfolders are made as the names need them.
        form: "nearness" (1 = nearest; 16-bit PNG: 65535), or "depth": metres of metric maps (PNG: millimetres), the own
            scale of inverse ones.
        suffix: Format of the files.
        batch_size: Maps that go through the networks at once.
        force: Replace existing files; without it they are kept, so that an interrupted run goes on where it stopped.
        advance: Called after every map.

    Returns:
        The records that could not be decoded or written.

    Raises:
        CheckpointError: A record was encoded by another codec.
    """
    folder, fingerprint = Path(folder), codec.fingerprint
    failures: list[Failure] = []

    def save(job: tuple[DepthRecord, np.ndarray]) -> Failure | None:
        record, nearness = job
        try:
            target = _inside(folder, record.name).with_suffix(suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            _restored(record, nearness, form).write(target, force=force)
        except (PerceptokError, OSError) as error:
            return Failure(record.name, str(error))
        return None

    def decoded() -> Iterator[tuple[DepthRecord, np.ndarray]]:
        for batch in _batches(records, batch_size):
            for record in batch:
                if record.codec != fingerprint:
                    raise CheckpointError(
                        f"{record.name} was encoded by codec {record.codec}, this one is {fingerprint}: decode it with the "
                        "same weights"
                    )
            todo = [r for r in batch if force or not _inside(folder, r.name).with_suffix(suffix).exists()]
            for _ in range(len(batch) - len(todo)):
                advance()
            if todo:
                yield from zip(todo, codec.decode(np.stack([one.grid for one in todo])), strict=True)

    for _, failure in _ahead(save, decoded()):
        failures += [failure] if failure else []
        advance()
    return failures
