"""Clips: one range for all frames of a camera, and codes that stay where the scene stays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import torch

from perceptok.depth.codec import DepthCodec
from perceptok.depth.depth_records import DepthRecord, restore_frames
from perceptok.depth.map_files import MapFailure, MapFile, try_reading
from perceptok.depth.maps import DepthMap, Nearness, NearnessRange, invert_scale
from perceptok.depth.preprocessing import to_float32
from perceptok.errors import ConfigError, DepthMapError

__all__ = [
    "ClipEncoder",
    "ClipSettings",
    "SequenceFrame",
    "compute_clip_range",
    "encode_clip",
    "encode_sequence",
    "find_reusable_frames",
    "group_clips",
]


class SequenceFrame(NamedTuple):
    """One frame: codes (10, 10) int64, changed (10, 10) bool (all of the first frame), and the nearness encoded."""

    codes: np.ndarray
    changed: np.ndarray
    nearness: Nearness


_HOLD = 0.02
"""Default of `hold`."""


@dataclass(frozen=True)
class ClipSettings:
    """How frames of clips are encoded, at the shell and in Python. With both thresholds 0 every frame is encoded alone.

    Attributes:
        hold: A cell keeps its code while that code's squared distance to the cell's feature exceeds the nearest code's
            by less than this. In units of squared distance between code vectors.
        deadband: A cell keeps its code, too, while its own pixels stay: each of its 4x4 tiles' mean nearness within
            this of what it was when the code was chosen. Every code depends on the whole map, so that codes change in
            cells that stay wherever something moves beside them; this keeps them.
        frames: Number of first frames, of those that can be read, that decide the range.

    Raises:
        ConfigError: `hold` or `deadband` is negative, or `frames` less than 1.
    """

    hold: float = _HOLD
    deadband: float = 0.0
    frames: int = 8

    def __post_init__(self) -> None:
        if not (self.hold >= 0 and self.deadband >= 0) or self.frames < 1:
            raise ConfigError(
                "need hold >= 0, deadband >= 0 and at least one frame; got "
                f"{self.hold}, {self.deadband} and {self.frames}"
            )


def encode_sequence(
    codec: DepthCodec,
    maps: Iterable[DepthMap],
    *,
    range: NearnessRange | None = None,  # noqa: A002 - the name of the thing
    hold: float = _HOLD,
    deadband: float = 0.0,
    frames: int = 8,
) -> Iterator[SequenceFrame]:
    """Encode the frames of a clip one by one, in constant memory; a cell keeps its code while that is nearly the best.

    Args:
        codec: The codec.
        maps: Frames in order, of one kind.
        range: The clip's range. Percentiles, by default 1 and 99, and extremes are those of the first frames together,
            which wait until then; `NearnessRange.running` begins so and then moves, in inverse depth, a
            `rate` of the way to each frame's own percentiles. Fixed ranges and "whole" are used as they are.
        hold: A cell keeps its code while that code's squared distance to the cell's feature exceeds the nearest code's
            by less than this.
        deadband: A cell keeps its code while the mean nearness of each of its 4x4 tiles moves by less than this.
        frames: Number of first frames that decide the range.

    Yields:
        Codes, which cells changed since the frame before, and the nearness that was encoded.

    Raises:
        ConfigError: `hold` or `deadband` is negative, or `frames` less than 1.
        DepthMapError: A frame has nothing to encode, or the first frames give no range.
    """
    return _encode_frames(codec, iter(maps), range, ClipSettings(hold, deadband, frames))


def _encode_frames(
    codec: DepthCodec, maps: Iterator[DepthMap], chosen: NearnessRange | None, settings: ClipSettings
) -> Iterator[SequenceFrame]:
    first = [] if _is_constant(chosen) else list(islice(maps, settings.frames))
    if not first and not _is_constant(chosen):
        return
    encoder = ClipEncoder(codec, _find_initial_range(first, chosen), settings, running=chosen)
    while first:  # one by one, so that no frame stays in memory longer than needed
        yield encoder.encode(first.pop(0))
    for depth in maps:
        yield encoder.encode(depth)


def _is_constant(chosen: NearnessRange | None) -> bool:
    """Whether a range is known before the first frame."""
    return chosen is not None and chosen.mode in ("fixed", "whole")


def _find_initial_range(first: Sequence[DepthMap], chosen: NearnessRange | None) -> NearnessRange:
    """The range in which a clip begins, fixed or whole: the one chosen, or that of its first frames together."""
    if chosen is None:
        return compute_clip_range(first)
    if _is_constant(chosen):
        return chosen
    if chosen.low is None or chosen.high is None:
        return compute_clip_range(first, low=0, high=100)
    return compute_clip_range(first, low=chosen.low, high=chosen.high)


def compute_clip_range(first: Iterable[DepthMap], *, low: float = 1.0, high: float = 99.0) -> NearnessRange:
    """Compute one fixed range for a clip: percentiles of the first frames' nearness, over all their pixels together.

    Args:
        first: Frames of one kind.
        low: Percentile, 0..100, that becomes nearness 0.
        high: Percentile that becomes 1.

    Raises:
        DepthMapError: No frames, frames of several kinds, without a valid pixel, or all of one value.
    """
    frames = list(first)
    if not frames or len({frame.kind for frame in frames}) != 1:
        raise DepthMapError("a clip's range needs at least one frame, all of one kind")
    kind = frames[0].kind
    seen = np.concatenate([frame.values[frame.valid] for frame in frames]).astype(np.float64)
    if not seen.size:
        raise DepthMapError(
            "none of the first frames has a valid pixel; give a fixed range (near and far, --near and --far)"
        )
    far, near = (float(end) for end in np.percentile(invert_scale(seen, kind), (low, high)))
    if not far < near:
        raise DepthMapError("the first frames have no relief; give a fixed range (near and far, --near and --far)")
    return NearnessRange.fixed(float(invert_scale(near, kind)), float(invert_scale(far, kind)))


class ClipEncoder:
    """Encodes a clip frame by frame; its state is the range and the codes of the frame before.

    Args:
        codec: The codec.
        range: The range in which the clip begins or is continued, fixed or whole.
        settings: When cells keep their codes.
        running: The running range that the clip's range follows; any other range is ignored.
        codes: (10, 10) of the frame before; None at the clip's beginning. A deadband begins with the next frame.
    """

    def __init__(
        self,
        codec: DepthCodec,
        range: NearnessRange,  # noqa: A002 - the name of the thing
        settings: ClipSettings,
        *,
        running: NearnessRange | None = None,
        codes: np.ndarray | None = None,
    ) -> None:
        self.codec, self.range, self.settings = codec, range, settings
        self.running = running if running is not None and running.mode == "running" else None
        self.codes = codes
        self._inputs: np.ndarray | None = None

    def encode(self, depth: DepthMap) -> SequenceFrame:
        """Encode the next frame; where it raises DepthMapError, as it has nothing to encode, the clip is unchanged."""
        chosen = self.range
        if self.running is not None and self.codes is not None:
            chosen = _move_range(chosen, depth, self.running)
        nearness = depth.to_nearness(chosen)
        square = self.codec.preprocessing.squash(torch.from_numpy(to_float32(nearness.values))[None])
        nearest, distances = self.codec.find_nearest(square)
        codes = nearest[0].cpu().numpy()
        stays = self._find_still_cells(square[0].numpy()) | self._find_close_codes(distances[0].cpu().numpy())
        if self.codes is None:
            changed = np.ones(codes.shape, np.bool_)
        else:
            codes = np.where(stays, self.codes, codes)
            changed = codes != self.codes
        self.range, self.codes = chosen, codes
        if self.running is not None:
            nearness = replace(nearness, range=self.running)
        return SequenceFrame(codes, changed, nearness)

    def _find_close_codes(self, distances: np.ndarray) -> np.ndarray:
        """(10, 10) bool, True where the code of the frame before is nearly the nearest."""
        if self.codes is None or self.settings.hold == 0:
            return np.zeros(distances.shape[:-1], np.bool_)
        current = np.take_along_axis(distances, self.codes[..., None], -1)[..., 0]
        return np.asarray(current - distances.min(-1) < self.settings.hold)

    def _find_still_cells(self, square: np.ndarray) -> np.ndarray:
        """(10, 10) bool, True where a cell's input is nearly that for which its code was chosen."""
        if self.settings.deadband == 0:
            return np.zeros((10, 10), np.bool_)
        inputs = _average_tiles(square)
        if self._inputs is None:
            self._inputs = inputs
            return np.zeros((10, 10), np.bool_)
        still = np.abs(inputs - self._inputs).max(-1) < self.settings.deadband
        self._inputs = np.where(still[..., None], self._inputs, inputs)
        return np.asarray(still)


def _average_tiles(square: np.ndarray) -> np.ndarray:
    """Mean nearness of each cell's 4x4 tiles, (10, 10, 16), which removes the noise of pixels and shows motion."""
    side = square.shape[0] // 40
    tiles = square.reshape(10, 4, side, 10, 4, side).mean((2, 5))
    return np.asarray(tiles.transpose(0, 2, 1, 3).reshape(10, 10, 16))


def _move_range(before: NearnessRange, depth: DepthMap, running: NearnessRange) -> NearnessRange:
    """The range of the frame before, moved towards the frame's own; unchanged where the frame has no relief."""
    assert running.low is not None
    assert running.high is not None
    try:
        own = compute_clip_range([depth], low=running.low, high=running.high)
    except DepthMapError:
        return before

    def move(old: float | None, new: float | None) -> float:
        start, end = invert_scale(old, depth.kind), invert_scale(new, depth.kind)
        return float(invert_scale(start + running.rate * (end - start), depth.kind))

    return NearnessRange.fixed(move(before.near, own.near), move(before.far, own.far))


# --------------------------------------------------------------------------------------------- clips of files


def group_clips(maps: Sequence[MapFile]) -> list[list[int]]:
    """Group the indices of frames by clip: frames whose names have the same folder are one clip."""
    clips: dict[str, list[int]] = {}
    for index, file in enumerate(maps):
        clips.setdefault(_find_clip(file), []).append(index)
    return list(clips.values())


def _find_clip(file: MapFile) -> str:
    return str(PurePosixPath(file.name).parent)


def _find_clip_range(file: MapFile) -> NearnessRange | None:
    """A clip's range as `encode_sequence` takes it."""
    return None if file.options.range.mode == "extremes" else file.options.range


def find_reusable_frames(
    maps: Sequence[MapFile], done: Mapping[int, DepthRecord | MapFailure], settings: ClipSettings
) -> set[int]:
    """Find the results that a continued run can build on, by index.

    These are whole clips, and a clip's frames up to its first gap if the state of the clip follows from them: they must
    decide its range, and there must not be a deadband, which compares with inputs that are not in records. What follows
    a gap depends on the frame that is missing.
    """
    reusable: set[int] = set()
    for indices in group_clips(maps):
        beginning = indices[: next((n for n, index in enumerate(indices) if index not in done), len(indices))]
        records = sum(isinstance(done[index], DepthRecord) for index in beginning)
        needed = 1 if _is_constant(_find_clip_range(maps[indices[0]])) else settings.frames
        if len(beginning) == len(indices) or (records >= needed and settings.deadband == 0):
            reusable.update(beginning)
    return reusable


def encode_clip(
    codec: DepthCodec, files: Sequence[MapFile], before: Sequence[DepthRecord], settings: ClipSettings
) -> Iterator[DepthRecord | MapFailure]:
    """Encode the frames of a clip in order; a frame that cannot be read is a failure, and the next one goes on.

    Args:
        codec: The codec.
        files: The frames that are not encoded yet.
        before: The records of the clip's frames so far.
        settings: How frames are encoded.
    """
    if not files:
        return
    fingerprint, number, chosen = codec.fingerprint, len(before), _find_clip_range(files[0])
    size = (before[0].width, before[0].height) if before else None
    frames = ((file, try_reading(file, MapFile.read)) for file in files)
    first: list[tuple[MapFile, DepthMap | MapFailure]] = []
    try:
        if before:
            encoder = _continue_clip(codec, before, settings, chosen)
        else:
            first = _read_first(frames, 0 if _is_constant(chosen) else settings.frames)
            known = [depth for _, depth in first if isinstance(depth, DepthMap)]
            encoder = ClipEncoder(codec, _find_initial_range(known, chosen), settings, running=chosen)
    except DepthMapError as error:
        for file, depth in chain(first, frames):
            yield depth if isinstance(depth, MapFailure) else MapFailure(file.name, f"its clip has no range: {error}")
        return
    while pair := first.pop(0) if first else next(frames, None):
        file, depth = pair
        if isinstance(depth, MapFailure):
            yield depth
            continue
        try:
            frame = encoder.encode(depth)
        except DepthMapError as error:
            yield MapFailure(file.name, f"{file.path}: {error}")
            continue
        record = _record_frame(file, frame, number, fingerprint)
        size = size or (record.width, record.height)
        yield _compare_size(record, size)
        number += 1


def _compare_size(record: DepthRecord, size: tuple[int, int]) -> DepthRecord:
    """Add a warning to the record of a frame that has not the size of the clip's first frame."""
    if (record.width, record.height) == size:
        return record
    warning = (
        f"{record.width}x{record.height} pixels, the first frame of its clip {size[0]}x{size[1]}: its cells show other "
        "places; turn it, or put it into another folder"
    )
    return replace(record, warning="; ".join(filter(None, (record.warning, warning))))


def _read_first(
    frames: Iterator[tuple[MapFile, DepthMap | MapFailure]], count: int
) -> list[tuple[MapFile, DepthMap | MapFailure]]:
    """Take frames until `count` of them could be read."""
    first: list[tuple[MapFile, DepthMap | MapFailure]] = []
    while count > 0 and (pair := next(frames, None)):
        first.append(pair)
        count -= isinstance(pair[1], DepthMap)
    return first


def _continue_clip(
    codec: DepthCodec, before: Sequence[DepthRecord], settings: ClipSettings, chosen: NearnessRange | None
) -> ClipEncoder:
    (last,) = deque(restore_frames(before), maxlen=1)
    current = chosen if chosen is not None and _is_constant(chosen) else NearnessRange.fixed(last.near, last.far)
    return ClipEncoder(codec, current, settings, running=chosen, codes=last.grid)


def _record_frame(file: MapFile, frame: SequenceFrame, number: int, fingerprint: str) -> DepthRecord:
    record = DepthRecord.from_codes(file.name, frame.codes, frame.nearness, fingerprint)
    cells = tuple(np.flatnonzero(frame.changed).tolist())
    codes = tuple(record.codes[cell] for cell in cells)
    return replace(record, codes=codes, clip=_find_clip(file), frame=number, changed=cells)
