"""Frames of cameras through a codec: one range for a clip, codes that hold, and records of what changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from perceptok.depth.code_files import DepthRecord, MapFailure, whole_records
from perceptok.depth.codec import DepthCodec
from perceptok.depth.folders import RecordJournal, journalled_run
from perceptok.depth.map_files import MapFile
from perceptok.depth.maps import DepthMap, NearnessRange
from perceptok.depth.sequences import ClipEncoder, SequenceFrame, check_clip, first_range, settled
from perceptok.errors import DepthMapError

__all__ = ["ClipSettings", "clip_records", "encode_clips"]


_Result = DepthRecord | MapFailure


@dataclass(frozen=True)
class ClipSettings:
    """How the codes of a clip hold; see `DepthCodec.encode_sequence`.

    Attributes:
        hold: How much farther than the nearest code a kept code may be.
        deadband: How much nearness a cell's input may move before its code may change.
        frames: How many first frames, of those that can be read, decide the range.

    Raises:
        ConfigError: One is negative, or there are no frames.
    """

    hold: float = 0.0
    deadband: float = 0.0
    frames: int = 8

    def __post_init__(self) -> None:
        check_clip(self.hold, self.deadband, self.frames)


class _Clip(NamedTuple):
    """The frames of one folder, and where they stand among all maps."""

    name: str
    indices: list[int]


def encode_clips(
    codec: DepthCodec,
    maps: Sequence[MapFile],
    output: str | Path,
    *,
    settings: ClipSettings | None = None,
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
    warn: Callable[[str, str], object] = lambda *_: None,
) -> list[MapFailure]:
    """Encode clips to one file of records; interrupted and continued as `encode_files` is.

    Frames whose names have one folder are a clip, in the order given (`find_maps(..., frames=True)` reads numbers in
    names as numbers). A clip's range is its files' `range`, as in `DepthCodec.encode_sequence`, where None and the
    extremes stand for percentiles 1 and 99 of the first frames. A frame that cannot be read is a failure, and its clip
    goes on with the next.

    Args:
        codec: The codec.
        maps: The frames.
        output: `.jsonl`, `.npz` or `.parquet`.
        settings: How codes hold.
        force: As for `encode_files`.
        advance: Called after every frame.
        warn: As for `encode_files`.

    Raises:
        OutputError: As for `encode_files`.
    """
    chosen = settings or ClipSettings()
    clips = _clips_of(maps)

    def keep_whole_beginnings(journal: RecordJournal) -> None:
        # What follows a frame that is done again rests on it.
        for clip in clips:
            kept = _beginning(clip, journal.results, _range_of(maps[clip.indices[0]]), chosen)
            for index in clip.indices[kept:]:
                journal.forget(index)

    def work(journal: RecordJournal) -> Iterator[tuple[int, _Result]]:
        for clip in clips:
            done = [journal.results[index] for index in clip.indices if index in journal.results]
            left = clip.indices[len(done) :]
            files = [maps[index] for index in left]
            before = [one for one in done if isinstance(one, DepthRecord)]
            yield from zip(left, _encoded(codec, clip.name, files, before, chosen), strict=True)

    return journalled_run(
        codec,
        maps,
        output,
        work,
        prepare=keep_whole_beginnings,
        settings={"sequence": asdict(chosen)},
        force=force,
        advance=advance,
        warn=warn,
    )


def clip_records(
    codec: DepthCodec, maps: Sequence[MapFile], settings: ClipSettings | None = None
) -> Iterator[DepthRecord | MapFailure]:
    """The records of `encode_clips` one by one, clip after clip, in constant memory."""
    return chain.from_iterable(
        _encoded(codec, clip.name, [maps[index] for index in clip.indices], [], settings or ClipSettings())
        for clip in _clips_of(maps)
    )


def _clips_of(maps: Sequence[MapFile]) -> list[_Clip]:
    clips: dict[str, _Clip] = {}
    for index, file in enumerate(maps):
        name = str(PurePosixPath(file.name).parent)
        clips.setdefault(name, _Clip(name, [])).indices.append(index)
    return list(clips.values())


def _range_of(file: MapFile) -> NearnessRange | None:
    return None if file.range.mode == "extremes" else file.range


def _beginning(
    clip: _Clip, results: Mapping[int, _Result], chosen: NearnessRange | None, settings: ClipSettings
) -> int:
    """How many first results of a clip a continued run can build on: all up to a gap, if its state follows from them.

    That is so where they settle the range; and never with a deadband, which compares with inputs that no record has.
    """
    kept = next((count for count, index in enumerate(clip.indices) if index not in results), len(clip.indices))
    if kept == len(clip.indices):
        return kept
    good = sum(isinstance(results[index], DepthRecord) for index in clip.indices[:kept])
    return kept if good >= (1 if settled(chosen) else settings.frames) and settings.deadband == 0 else 0


def _encoded(
    codec: DepthCodec, clip: str, files: Sequence[MapFile], before: Sequence[DepthRecord], settings: ClipSettings
) -> Iterator[_Result]:
    """The results of a clip's files, in order; `before` are the records of its frames so far."""
    if not files:
        return
    fingerprint, chosen, number = codec.fingerprint, _range_of(files[0]), len(before)
    read: Iterator[tuple[MapFile, DepthMap | MapFailure]] = ((file, _read(file)) for file in files)
    first: list[tuple[MapFile, DepthMap | MapFailure]] = []
    try:
        if before:
            encoder = _continued(codec, before, chosen, settings)
        else:
            while not settled(chosen) and len(_maps(first)) < settings.frames and (one := next(read, None)):
                first.append(one)
            beginning = first_range(_maps(first), chosen)
            encoder = ClipEncoder(codec, beginning, hold=settings.hold, deadband=settings.deadband, running=chosen)
    except DepthMapError as error:
        reason = f"its clip has no range: {error}"
        yield from (
            one if isinstance(one, MapFailure) else MapFailure(file.name, reason) for file, one in chain(first, read)
        )
        return
    for file, depth in _in_turn(first, read):
        if isinstance(depth, MapFailure):
            yield depth
            continue
        try:
            frame = encoder.encode(depth)
        except DepthMapError as error:
            yield MapFailure(file.name, f"{file.path}: {error}")
            continue
        yield _record(file.name, frame, fingerprint, clip, number)
        number += 1


def _in_turn(
    first: list[tuple[MapFile, DepthMap | MapFailure]], read: Iterator[tuple[MapFile, DepthMap | MapFailure]]
) -> Iterator[tuple[MapFile, DepthMap | MapFailure]]:
    """What was held back, which is let go one by one, and the rest."""
    while first:
        yield first.pop(0)
    yield from read


def _maps(read: Iterable[tuple[MapFile, DepthMap | MapFailure]]) -> list[DepthMap]:
    return [one for _, one in read if isinstance(one, DepthMap)]


def _continued(
    codec: DepthCodec, before: Sequence[DepthRecord], chosen: NearnessRange | None, settings: ClipSettings
) -> ClipEncoder:
    """A clip's state after its frames so far, which their records hold."""
    (last,) = deque(whole_records(before), maxlen=1)
    current = chosen if chosen is not None and settled(chosen) else NearnessRange.fixed(last.near, last.far)
    return ClipEncoder(codec, current, hold=settings.hold, running=chosen, codes=last.grid)


def _record(name: str, frame: SequenceFrame, fingerprint: str, clip: str, number: int) -> DepthRecord:
    whole = DepthRecord.of(name, frame.codes, frame.nearness, fingerprint)
    cells = tuple(int(cell) for cell in np.flatnonzero(frame.changed))
    codes = tuple(whole.codes[cell] for cell in cells)
    return replace(whole, codes=codes, clip=clip, frame=number, changed=cells)


def _read(file: MapFile) -> DepthMap | MapFailure:
    try:
        return file.read()
    except DepthMapError as error:
        return MapFailure(file.name, str(error))
    except MemoryError:
        return MapFailure(file.name, "there is not enough memory for it")
