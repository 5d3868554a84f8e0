"""Codes of a camera's frames that stay where the scene stays: one range for the clip, and codes that are held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from perceptok.depth.codec import DepthCodec
from perceptok.depth.maps import DepthMap, Nearness, NearnessRange, invert_scale
from perceptok.depth.preprocessing import copy_float32
from perceptok.errors import ConfigError, DepthMapError

__all__ = [
    "ClipEncoder",
    "SequenceFrame",
    "check_clip_settings",
    "clip_range",
    "encode_sequence",
    "initial_range",
    "is_settled",
]


class SequenceFrame(NamedTuple):
    """One frame: codes (10, 10) int64, changed (10, 10) bool (all of the first frame), and the nearness encoded."""

    codes: np.ndarray
    changed: np.ndarray
    nearness: Nearness


def encode_sequence(
    codec: DepthCodec,
    maps: Iterable[DepthMap],
    *,
    range: NearnessRange | None = None,  # noqa: A002 - the name of the thing
    hold: float = 0.0,
    deadband: float = 0.0,
    frames: int = 8,
) -> Iterator[SequenceFrame]:
    """Encode the frames of a clip one by one, in constant memory; a cell keeps its code while that is nearly the best.

    Args:
        codec: The codec.
        maps: Frames in order, of one kind.
        range: The clip's range. Percentiles, by default 1 and 99, and extremes are those of the first frames together,
            which are held back until then; `NearnessRange.running` begins so and then moves, in inverse depth, a
            `rate` of the way to each frame's own percentiles. Fixed ranges and "whole" are used as they are.
        hold: A cell keeps its code while that code's squared distance to the cell's feature exceeds the nearest code's
            by less than this. In units of squared distance between code vectors.
        deadband: A cell keeps its code, too, while its own pixels stay: each of its 4x4 tiles' mean nearness within
            this of what it was when the code was chosen. Every code depends on the whole map, so that codes change in
            cells that stay wherever something moves beside them; this holds them. With both 0 every frame is encoded
            alone.
        frames: Number of first frames that decide the range.

    Yields:
        Codes, which cells changed since the frame before, and the nearness that was encoded.

    Raises:
        ConfigError: `hold` or `deadband` is negative, or `frames` less than 1.
        DepthMapError: A frame has nothing to encode, or the first frames give no range.
    """
    check_clip_settings(hold, deadband, frames)
    return _encode_frames(codec, iter(maps), range, hold, deadband, frames)


def check_clip_settings(hold: float, deadband: float, frames: int) -> None:
    """Raise ConfigError for settings that `encode_sequence` does not take."""
    if not (hold >= 0 and deadband >= 0) or frames < 1:
        raise ConfigError(f"need hold >= 0, deadband >= 0 and at least one frame; got {hold}, {deadband} and {frames}")


def _encode_frames(
    codec: DepthCodec,
    maps: Iterator[DepthMap],
    chosen: NearnessRange | None,
    hold: float,
    deadband: float,
    frames: int,
) -> Iterator[SequenceFrame]:
    first = [] if is_settled(chosen) else list(islice(maps, frames))
    if not first and not is_settled(chosen):
        return
    encoder = ClipEncoder(codec, initial_range(first, chosen), hold=hold, deadband=deadband, running=chosen)
    while first:  # one by one, so that no frame is kept longer than needed
        yield encoder.encode(first.pop(0))
    for depth in maps:
        yield encoder.encode(depth)


def is_settled(chosen: NearnessRange | None) -> bool:
    """Whether a range is known before the first frame."""
    return chosen is not None and chosen.mode in ("fixed", "whole")


def initial_range(first: Sequence[DepthMap], chosen: NearnessRange | None) -> NearnessRange:
    """The range in which a clip begins, fixed or whole: the one chosen, or that of its first frames together.

    Args:
        first: The first frames; not needed where `is_settled(chosen)`.
        chosen: The clip's range as `encode_sequence` takes it.

    Raises:
        DepthMapError: The first frames give no range.
    """
    if chosen is None:
        return clip_range(first)
    if is_settled(chosen):
        return chosen
    if chosen.low is None or chosen.high is None:
        return clip_range(first, low=0, high=100)
    return clip_range(first, low=chosen.low, high=chosen.high)


def clip_range(first: Iterable[DepthMap], *, low: float = 1.0, high: float = 99.0) -> NearnessRange:
    """One fixed range for a clip: percentiles of the first frames' nearness, over all their pixels together.

    Args:
        first: Frames of one kind.
        low: Percentile, 0..100, that becomes nearness 0.
        high: Percentile that becomes 1.

    Raises:
        DepthMapError: The frames are none, of several kinds, without a valid pixel, or all of one value.
    """
    frames = list(first)
    if not frames or len({frame.kind for frame in frames}) != 1:
        raise DepthMapError("a clip's range needs at least one frame, all of one kind")
    kind = frames[0].kind
    seen = np.concatenate([frame.values[frame.valid] for frame in frames]).astype(np.float64)
    if not seen.size:
        raise DepthMapError("none of the first frames has a valid pixel; give a fixed range (near and far)")
    far, near = (float(end) for end in np.percentile(invert_scale(seen, kind), (low, high)))
    if not far < near:
        raise DepthMapError("the first frames have no relief; give a fixed range (near and far)")
    return NearnessRange.fixed(float(invert_scale(near, kind)), float(invert_scale(far, kind)))


class ClipEncoder:
    """Encodes a clip frame by frame: holds its range and the codes of the frame before.

    Args:
        codec: The codec.
        range: The range in which the clip begins or is continued, fixed or whole.
        hold: A cell keeps its code while that is farther than the nearest by less than this squared distance.
        deadband: A cell keeps its code while its input moves by less nearness than this.
        running: The running range that the clip's range follows; any other range is ignored.
        codes: (10, 10) of the frame before; None at the clip's beginning. A deadband begins with the next frame.

    Raises:
        ConfigError: `hold` or `deadband` is negative.
    """

    def __init__(
        self,
        codec: DepthCodec,
        range: NearnessRange,  # noqa: A002 - the name of the thing
        *,
        hold: float = 0.0,
        deadband: float = 0.0,
        running: NearnessRange | None = None,
        codes: np.ndarray | None = None,
    ) -> None:
        check_clip_settings(hold, deadband, 1)
        self.codec, self.range, self.hold, self.deadband = codec, range, hold, deadband
        self.running = running if running is not None and running.mode == "running" else None
        self.codes = codes
        self._inputs: np.ndarray | None = None

    def encode(self, depth: DepthMap) -> SequenceFrame:
        """Encode the next frame; where it raises DepthMapError, as it has nothing to encode, the clip is unchanged."""
        chosen = self.range
        if self.running is not None and self.codes is not None:
            chosen = _follow(chosen, depth, self.running)
        nearness = depth.to_nearness(chosen)
        square = self.codec.preprocessing.square(torch.from_numpy(copy_float32(nearness.values))[None])
        nearest, distances = self.codec.find_nearest(square)
        codes = nearest[0].cpu().numpy()
        keep = self._within_deadband(square[0].numpy()) | self._within_hold(distances[0].cpu().numpy())
        if self.codes is None:
            changed = np.ones(codes.shape, np.bool_)
        else:
            codes = np.where(keep, self.codes, codes)
            changed = codes != self.codes
        self.range, self.codes = chosen, codes
        if self.running is not None:
            nearness = replace(nearness, range=self.running)
        return SequenceFrame(codes, changed, nearness)

    def _within_hold(self, distances: np.ndarray) -> np.ndarray:
        """(10, 10) bool, True where the code of the frame before is nearly the nearest."""
        if self.codes is None or self.hold == 0:
            return np.zeros(distances.shape[:-1], np.bool_)
        current = np.take_along_axis(distances, self.codes[..., None], -1)[..., 0]
        return np.asarray(current - distances.min(-1) < self.hold)

    def _within_deadband(self, square: np.ndarray) -> np.ndarray:
        """(10, 10) bool, True where a cell's input is nearly that for which its code was chosen."""
        if self.deadband == 0:
            return np.zeros((10, 10), np.bool_)
        inputs = _average_tiles(square)
        if self._inputs is None:
            self._inputs = inputs
            return np.zeros((10, 10), np.bool_)
        still = np.abs(inputs - self._inputs).max(-1) < self.deadband
        self._inputs = np.where(still[..., None], self._inputs, inputs)
        return np.asarray(still)


def _average_tiles(square: np.ndarray) -> np.ndarray:
    """Mean nearness of each cell's 4x4 tiles, (10, 10, 16), which removes the noise of pixels and shows motion."""
    side = square.shape[0] // 40
    tiles = square.reshape(10, 4, side, 10, 4, side).mean((2, 5))
    return np.asarray(tiles.transpose(0, 2, 1, 3).reshape(10, 10, 16))


def _follow(before: NearnessRange, depth: DepthMap, running: NearnessRange) -> NearnessRange:
    """The range of the frame before, moved towards the frame's own; unchanged where the frame has no relief."""
    assert running.low is not None
    assert running.high is not None
    try:
        own = clip_range([depth], low=running.low, high=running.high)
    except DepthMapError:
        return before

    def move(old: float | None, new: float | None) -> float:
        start, end = invert_scale(old, depth.kind), invert_scale(new, depth.kind)
        return float(invert_scale(start + running.rate * (end - start), depth.kind))

    return NearnessRange.fixed(move(before.near, own.near), move(before.far, own.far))
