"""Folders of depth maps through a codec: resumable runs, bad files that cost only themselves, and clips of cameras."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from perceptok.depth.codec import DepthCodec
from perceptok.depth.depth_records import (
    DepthRecord,
    check_output,
    restore_frames,
    write_depth_records,
)
from perceptok.depth.formats.registry import FORMATS
from perceptok.depth.map_files import MapFailure, MapFile, try_reading
from perceptok.depth.maps import DepthMap, Nearness
from perceptok.depth.preprocessing import resize_nearest
from perceptok.depth.sequences import ClipSettings, encode_clip, find_reusable_frames, group_clips
from perceptok.depth.stored_maps import MAX_PIXELS, Unit
from perceptok.errors import CheckpointError, ConfigError, DepthMapError, OutputError, PerceptokError
from perceptok.files import atomic_write, resolve_distinct, resolve_inside
from perceptok.jobs import Engine, Journal, find_common_reason, map_in_order, split_into_batches, stamp_of
from perceptok.locks import lock_output

__all__ = ["decode_records", "encode_files", "encode_maps"]

Item = TypeVar("Item")
Result = TypeVar("Result")
_Encoded = DepthRecord | MapFailure


def encode_maps(
    codec: DepthCodec,
    maps: Sequence[MapFile],
    *,
    batch_size: int | None = None,
    clips: ClipSettings | None = None,
    engine: Engine | None = None,
) -> Iterator[DepthRecord | MapFailure]:
    """Encode files one by one, in constant memory; a file that cannot be read becomes a `MapFailure`.

    Args:
        codec: The codec.
        maps: The files (see `find_maps`); results come in this order, those of clips clip after clip.
        batch_size: Maps that go through the networks at once, by default `codec.choose_batch_size()`; the codes do not
            depend on it.
        clips: The maps are frames of clips; see `encode_files`.
        engine: Spreads the batches; by default threads of this process do.

    Raises:
        ConfigError: An engine for clips, whose frames are encoded one after another.
    """
    if clips is not None and engine is not None:
        raise ConfigError("clips do not take an engine: each frame needs the one before it")
    return (result for _, result in _encode(codec, maps, {}, batch_size, clips, engine))


def encode_files(
    codec: DepthCodec,
    maps: Sequence[MapFile],
    output: str | Path,
    *,
    batch_size: int | None = None,
    text: bool = False,
    clips: ClipSettings | None = None,
    engine: Engine | None = None,
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
    warn: Callable[[str, str], object] = lambda *_: None,
) -> list[MapFailure]:
    """Encode files to one file of records.

    Results are kept in `OUTPUT.partial`, which is locked while it is written. A run that was interrupted, killed or out
    of disk is continued by the same call, and the output is then byte for byte that of an uninterrupted run; inputs
    whose size or time of modification changed in between are encoded again.

    With `clips`, frames whose names have the same folder are a clip, in the order given (`find_maps(..., frames=True)`
    sorts by the numbers in names). The range of a clip is its files' `range`, as in `encode_sequence`, where
    the extremes stand for percentiles 1 and 99 of the first frames. A frame that cannot be read is a failure, and its
    clip goes on with the next. The records hold only what changed; see `restore_frames`.

    Args:
        codec: The codec.
        maps: The files; see `find_maps`.
        output: `.jsonl`, `.npz` or `.parquet`.
        batch_size: Maps that go through the networks at once, by default `codec.choose_batch_size()`; the codes do not
            depend on it.
        text: JSON lines only: write the block of tokens too.
        clips: The maps are frames of clips, encoded with these settings.
        engine: Spreads the batches, such as a `RayEngine` (with `gpus` for a codec on a GPU); by default threads of
            this process do.
        force: Replace an existing output, and the unfinished one of another run.
        advance: Called after every map.
        warn: Called with a map's name and what is odd about its range, once per map, continued runs included.

    Returns:
        The files that could not be read; all others are in the output. Where that is all of them, nothing is written.

    Raises:
        ConfigError: Clips with `text` or an engine.
        DepthMapError: The first maps, and some of the others, all fail for one reason; nothing is written.
        OutputError: The output exists, cannot be written, is being written by another process, or a partial one
            belongs to other inputs, options or weights.
    """
    if clips is not None and (text or engine is not None):
        raise ConfigError(
            "clips take neither text nor an engine: records hold what changed, not whole blocks, and each frame needs "
            "the one before it"
        )
    output = Path(output)
    check_output(output, text=text, force=force)
    failures: dict[int, MapFailure] = {}

    def report(index: int, result: _Encoded) -> None:
        advance()
        if isinstance(result, MapFailure):
            failures[index] = result
        elif result.warning:
            warn(result.name, result.warning)

    with _open_journal(codec, maps, output, text=text, clips=clips, force=force) as journal:
        done = {index: journal[index] for index in journal}
        if clips is not None:
            for index in done.keys() - find_reusable_frames(maps, done, clips):
                journal.forget(index)
                del done[index]
        for index, result in done.items():
            report(index, result)
        for index, result in _encode(codec, maps, done, batch_size, clips, engine):
            journal.add(index, result)
            report(index, result)
            if len(failures) == len(journal) < len(maps) and (reason := _find_common_failure(failures, maps)):
                journal.remove()
                raise DepthMapError(
                    f"the first {len(failures)} of {len(maps)} maps, and some of the others, all fail for one reason, "
                    f"so the rest is not tried: {reason}. Correct the setting, or leave these files out"
                )
        encoded = [index for index in journal if index not in failures]
        if encoded or not failures:
            _write_output(output, journal, encoded, force=force)
        journal.remove()
    return [failures[index] for index in sorted(failures)]


def _find_common_failure(failures: Mapping[int, MapFailure], maps: Sequence[MapFile]) -> str | None:
    """The one reason of all failures, where some of the maps that were not tried fail for it too; else None."""
    if len(failures) % _CHECK_EVERY:
        return None
    reasons = [failure.reason.replace(str(maps[index].path), "/") for index, failure in failures.items()]
    if find_common_reason(reasons) is None:
        return None
    todo = [file for index, file in enumerate(maps) if index not in failures]
    for file in todo[:: -(-len(todo) // _CHECKED)]:
        result = try_reading(file, MapFile.read_nearness)
        if not isinstance(result, MapFailure):
            return None
        reasons.append(result.reason.replace(str(file.path), "/"))
    return next(iter(failures.values())).reason if find_common_reason(reasons) else None


_CHECK_EVERY = 64
"""Failures after which other maps are tried."""

_CHECKED = 8
"""Maps that are tried, evenly spread over those that are left."""


def _write_output(output: Path, journal: Journal[_Encoded], indices: Sequence[int], *, force: bool) -> None:
    with atomic_write(output, force=force) as file:
        if output.suffix == ".jsonl":
            file.writelines(f"{journal.read_text(index)}\n".encode() for index in indices)
        else:
            records = [result for index in indices if isinstance(result := journal[index], DepthRecord)]
            write_depth_records(file, output.suffix, records)


def _open_journal(
    codec: DepthCodec,
    maps: Sequence[MapFile],
    output: Path,
    *,
    text: bool,
    clips: ClipSettings | None,
    force: bool,
) -> Journal[_Encoded]:
    inputs = hashlib.sha256("\n".join(f"{file.name}\t{file!r}" for file in maps).encode("utf-8", "surrogatepass"))
    run = {
        "codec": codec.fingerprint,
        "inputs": inputs.hexdigest(),
        "maps": len(maps),
        "text": text,
        "clips": None if clips is None else asdict(clips),
    }

    def encode(result: _Encoded) -> str:
        return json.dumps({"failure": result}) if isinstance(result, MapFailure) else result.to_json(text=text)

    def decode(index: int, values: Any) -> _Encoded:
        result = MapFailure(*values["failure"]) if "failure" in values else DepthRecord.from_dict(values)
        if result.name != maps[index].name:
            raise ValueError(f"a result is of {result.name}, not of {maps[index].name}")
        return result

    stamps = [stamp_of(file.path) for file in maps]
    return Journal(output, run, stamps, encode=encode, decode=decode, start_over=force)


def _encode(
    codec: DepthCodec,
    maps: Sequence[MapFile],
    done: Mapping[int, _Encoded],
    batch_size: int | None,
    clips: ClipSettings | None,
    engine: Engine | None,
) -> Iterator[tuple[int, _Encoded]]:
    """Encode the maps that are not done; yields index and result."""
    if clips is not None:
        for indices in group_clips(maps):
            before = [result for index in indices if isinstance(result := done.get(index), DepthRecord)]
            todo = [index for index in indices if index not in done]
            yield from zip(todo, encode_clip(codec, [maps[index] for index in todo], before, clips), strict=True)
        return
    todo = [index for index in range(len(maps)) if index not in done]
    batches = split_into_batches([maps[index] for index in todo], codec.choose_batch_size(batch_size))
    map_batches = _map_in_threads if engine is None else engine.map
    yield from zip(todo, chain.from_iterable(map_batches(_BatchEncoder(codec), batches)), strict=True)


class _BatchEncoder:
    """Reads and encodes batches of files; in another process, with a codec of its own on a device of the same type."""

    def __init__(self, codec: DepthCodec) -> None:
        self.codec, self.fingerprint = codec, codec.fingerprint

    def __getstate__(self) -> dict[str, Any]:
        # Weights are sent in main memory: the other machine may not have a GPU of that number.
        return {"codec": copy.deepcopy(self.codec).to("cpu"), "device": self.codec.device.type}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.codec = state["codec"].to(state["device"])
        self.fingerprint = self.codec.fingerprint

    def __call__(self, batch: list[MapFile]) -> list[_Encoded]:
        results: list[_Encoded] = []
        for piece in _split_by_pixels((file, try_reading(file, MapFile.read_nearness)) for file in batch):
            maps = [nearness for _, nearness in piece if isinstance(nearness, Nearness)]
            codes = iter(self.codec.encode(maps, batch_size=len(batch)))
            results += [
                nearness
                if isinstance(nearness, MapFailure)
                else DepthRecord.from_codes(file.name, next(codes), nearness, self.fingerprint)
                for file, nearness in piece
            ]
        return results


_PIXELS_AT_ONCE = 2**24


def _split_by_pixels(
    read: Iterable[tuple[MapFile, Nearness | MapFailure]],
) -> Iterator[list[tuple[MapFile, Nearness | MapFailure]]]:
    """Maps in pieces of some 16 million pixels, which bounds the memory of a batch; a larger map alone."""
    piece: list[tuple[MapFile, Nearness | MapFailure]] = []
    pixels = 0
    for file, nearness in read:
        piece.append((file, nearness))
        pixels += nearness.values.size if isinstance(nearness, Nearness) else 0
        if pixels > _PIXELS_AT_ONCE:
            yield piece
            piece, pixels = [], 0
    if piece:
        yield piece


def _map_in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The result of every item, in order.

    PyTorch's threads are divided among the workers instead of all serving one network at a time: reading and writing
    then never wait for it, and on a busy machine no thread spins until a late one has done its part (a fourth of the
    wall clock where another process kept both cores busy).
    """
    threads = torch.get_num_threads()
    workers = min(8, threads)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
        yield from map_in_order(pool, work, items, ahead=2 * workers)


def decode_records(
    codec: DepthCodec,
    records: Iterable[DepthRecord],
    folder: str | Path,
    *,
    form: Literal["depth", "nearness"] = "nearness",
    suffix: str = ".png",
    batch_size: int | None = None,
    force: bool = False,
    unit: Unit | None = None,
    scale: float | None = None,
    max_pixels: int = MAX_PIXELS,
    advance: Callable[[], object] = lambda: None,
) -> list[MapFailure]:
    """Decode records to a folder of depth maps that mirrors their names, each in its map's own size.

    A file has its record's name with another suffix; where two records would have one name, as `x.pfm` beside `x.png`,
    both keep the suffix that they had: `x.pfm.png`, `x.png.png`.

    Args:
        codec: The codec that encoded them.
        records: The records; see `read_depth_records`. Frames of clips are restored (`restore_frames`).
        folder: The output folder; subfolders are made as the names need them.
        form: "nearness" (1 = nearest; 16-bit PNG: 65535), or "depth": metres of metric maps (PNG: millimetres), the own
            scale of inverse ones.
        suffix: Format of the files, such as ".npy" or "npy".
        batch_size: Maps that go through the networks at once, by default `codec.choose_batch_size()`.
        force: Replace existing files; without it they are kept, so that an interrupted run goes on where it stopped.
        unit: Of metric depth in the files, instead of millimetres in PNG and metres elsewhere.
        scale: Instead of a unit, metres per value in the files.
        max_pixels: A record of a larger map is a failure; the default takes about 0.5 GB.
        advance: Called after every map.

    Returns:
        The records that could not be decoded or written.

    Raises:
        ConfigError: A unit or scale for nearness, which has none, or for NPZ, which keeps metres; or an unknown format.
        CheckpointError: A record was encoded by another codec.
        OutputError: Two records have one name, or another process writes into the folder; nothing is written then.
    """
    if form == "nearness" and (unit, scale) != (None, None):
        raise ConfigError("nearness has no unit; a unit or scale (--unit, --scale) goes with depth (--as depth)")
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    if suffix.lower() not in FORMATS:
        raise ConfigError(f"depth maps are written as {', '.join(sorted(FORMATS))} (--format); got {suffix}")
    if FORMATS[suffix.lower()].states_kind and (unit, scale) != (None, None):
        raise ConfigError(
            f"{suffix} keeps metres: leave out the unit or scale (--unit, --scale), or choose another --format"
        )
    batch_size = codec.choose_batch_size(batch_size)
    folder, fingerprint = Path(folder), codec.fingerprint
    failures: list[MapFailure] = []
    decodable: list[DepthRecord] = []
    for record in restore_frames(records, failures):
        if problem := _find_problem(record, folder, fingerprint, max_pixels, suffix):
            failures.append(MapFailure(record.name, problem))
            advance()
        else:
            decodable.append(record)
    names = _choose_names([record.name for record in decodable], suffix)
    targets = dict(zip(names, resolve_distinct(names.values(), folder), strict=True))

    def save(record: DepthRecord, nearness: np.ndarray) -> MapFailure | None:
        try:
            target = targets[record.name]
            target.parent.mkdir(parents=True, exist_ok=True)
            _restore_map(record, nearness, form).write(target, unit=unit, scale=scale, force=force)
        except (PerceptokError, OSError, MemoryError) as error:
            return MapFailure(record.name, str(error) or type(error).__name__)
        return None

    def decode(batch: list[DepthRecord]) -> list[MapFailure | None]:
        todo = [record for record in batch if force or not targets[record.name].exists()]
        maps = codec.decode(np.stack([record.grid for record in todo]), batch_size=batch_size) if todo else ()
        existing: list[MapFailure | None] = [None] * (len(batch) - len(todo))
        return existing + [save(record, nearness) for record, nearness in zip(todo, maps, strict=True)]

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    with lock_output(folder):
        for failure in chain.from_iterable(_map_in_threads(decode, split_into_batches(decodable, batch_size))):
            failures += [failure] if failure else []
            advance()
    return failures


def _find_problem(record: DepthRecord, folder: Path, fingerprint: str, max_pixels: int, suffix: str) -> str | None:
    """Why a record cannot be decoded into a folder; raises CheckpointError for a record of another codec."""
    if record.codec != fingerprint:
        raise CheckpointError(
            f"{record.name} was encoded by codec {record.codec}, this one is {fingerprint}: "
            "decode it with the same weights"
        )
    if record.width * record.height > max_pixels:
        return f"{record.width}x{record.height} pixels; the limit is {max_pixels} (--max-pixels)"
    try:
        # With the longest name that the file may get.
        record.grid, resolve_inside(folder, record.name), resolve_inside(folder, f"{record.name}{suffix}")
    except (PerceptokError, ValueError) as error:
        return str(error)
    return None


def _choose_names(names: Sequence[str], suffix: str) -> dict[str, str]:
    """Name of each record -> name of its file, distinct as far as keeping the old suffix makes them so."""
    if duplicates := [name for name, count in Counter(names).items() if count > 1]:
        raise OutputError(
            f"{len(duplicates)} names stand in several records, such as {duplicates[0]!r}, and would share one file; "
            "decode each file of records into a folder of its own, or rename them"
        )
    targets = {name: str(PurePosixPath(name).with_suffix(suffix)) for name in names}
    for _ in range(2):  # a second time, as `x.png.pfm` alone becomes x.png.png, too
        counts = Counter(targets.values())
        targets = {name: target if counts[target] == 1 else name + suffix for name, target in targets.items()}
    return targets


def _restore_map(record: DepthRecord, nearness: np.ndarray, form: Literal["depth", "nearness"]) -> DepthMap:
    values = resize_nearest(nearness, record.height, record.width)
    valid = np.ones(values.shape, dtype=bool)
    if form == "nearness":
        return DepthMap(values, valid, "inverse")
    return DepthMap.from_nearness(Nearness(values, valid, record.near, record.far, record.kind))
