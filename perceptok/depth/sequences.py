"""Codes of a camera's frames that stay where the scene stays: one range for the clip, and codes that hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch

from perceptok.depth.maps import DepthMap, Nearness, NearnessRange, nearness_scale
from perceptok.depth.preprocessing import Preprocessing, owned
from perceptok.errors import ConfigError, DepthMapError

__all__ = [
    "ClipEncoder",
    "SequenceCodec",
    "SequenceFrame",
    "check_clip",
    "clip_range",
    "encode_sequence",
    "first_range",
    "settled",
]


class SequenceCodec(Protocol):
    """What a sequence needs of a codec (`DepthCodec`, which imports this file): its preprocessing and its distances."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How maps become squares."""

    def nearest(self, squares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes (B, 10, 10) and squared distances (B, 10, 10, 128); see `DepthCodec.nearest`."""


class SequenceFrame(NamedTuple):
    """One frame: codes (10, 10) int64, changed (10, 10) bool (all of the first frame), and the nearness encoded."""

    codes: np.ndarray
    changed: np.ndarray
    nearness: Nearness


def clip_range(first: Iterable[DepthMap], *, low: float = 1.0, high: float = 99.0) -> NearnessRange:
    """One fixed range for a clip: percentiles of the first frames' nearness, over all their pixels together.

    Args:
        first: Some frames of one kind.
        low: Percentile that becomes nearness 0.
        high: Percentile that becomes 1.

    Raises:
        DepthMapError: There are no frames, several kinds, no valid pixel, or only one value.
    """
    frames = list(first)
    if not frames or len({frame.kind for frame in frames}) != 1:
        raise DepthMapError("a clip's range needs at least one frame, all of one kind")
    kind = frames[0].kind
    seen = np.concatenate([frame.values[frame.valid] for frame in frames]).astype(np.float64)
    if not seen.size:
        raise DepthMapError("none of the first frames has a valid pixel; give a fixed range (near and far)")
    far, near = (float(edge) for edge in np.percentile(nearness_scale(seen, kind), (low, high)))
    if not far < near:
        raise DepthMapError("the first frames have no relief; give a fixed range (near and far)")
    return NearnessRange.fixed(float(nearness_scale(near, kind)), float(nearness_scale(far, kind)))


def first_range(first: Sequence[DepthMap], chosen: NearnessRange | None) -> NearnessRange:
    """The range in which a clip begins, fixed or whole: the one chosen, or that of its first frames together.

    Args:
        first: The first frames; needed where `settled(chosen)` is False.
        chosen: As for `encode_sequence`.

    Raises:
        DepthMapError: As for `clip_range`.
    """
    if chosen is not None and settled(chosen):
        return chosen
    if chosen is None:
        return clip_range(first)
    if chosen.low is None or chosen.high is None:
        return clip_range(first, low=0, high=100)
    return clip_range(first, low=chosen.low, high=chosen.high)


def settled(chosen: NearnessRange | None) -> bool:
    """Whether a range needs no frame to be known."""
    return chosen is not None and chosen.mode in ("fixed", "whole")


class ClipEncoder:
    """What one clip's next frame needs of the frames before it: its range and their last codes.

    Args:
        codec: The codec.
        range: The range in which the clip begins or goes on, fixed or whole; see `first_range`.
        hold: As for `encode_sequence`.
        deadband: As for `encode_sequence`.
        running: The running range that the clip's range follows, where it does.
        codes: (10, 10) of the frame before; None at the clip's beginning. A deadband begins with the next frame.

    Raises:
        ConfigError: `hold` or `deadband` is negative.
    """

    def __init__(
        self,
        codec: SequenceCodec,
        range: NearnessRange,  # noqa: A002 - the name of the thing
        *,
        hold: float = 0.0,
        deadband: float = 0.0,
        running: NearnessRange | None = None,
        codes: np.ndarray | None = None,
    ) -> None:
        check_clip(hold, deadband, 1)
        self.codec, self.range, self.hold, self.deadband = codec, range, hold, deadband
        self.running = running if running is not None and running.mode == "running" else None
        self.codes = codes
        self._inputs: np.ndarray | None = None

    def encode(self, depth: DepthMap) -> SequenceFrame:
        """The next frame; one that raises DepthMapError, as it has nothing to encode, leaves the clip as it was."""
        chosen = self.range
        if self.running is not None and self.codes is not None:
            chosen = _followed(chosen, depth, self.running)
        nearness = depth.to_nearness(chosen)
        square = self.codec.preprocessing.square(torch.from_numpy(owned(nearness.values))[None])
        found, distances = self.codec.nearest(square)
        codes = found[0].cpu().numpy()
        keep = np.zeros(codes.shape, np.bool_)
        if self.codes is not None and self.hold > 0:
            table = distances[0].cpu().numpy()
            kept = np.take_along_axis(table, self.codes[..., None], -1)[..., 0]
            keep |= kept - table.min(-1) < self.hold
        if self.deadband > 0:
            inputs = _tiles(square[0].numpy())
            still = (
                np.zeros_like(keep) if self._inputs is None else np.abs(inputs - self._inputs).max(-1) < self.deadband
            )
            keep |= still
            # What a cell is compared with is the input that its code was chosen for.
            self._inputs = inputs if self._inputs is None else np.where(still[..., None], self._inputs, inputs)
        if self.codes is not None:
            codes = np.where(keep, self.codes, codes)
        changed = np.ones(codes.shape, np.bool_) if self.codes is None else codes != self.codes
        self.range, self.codes = chosen, codes
        if self.running is not None:
            nearness = replace(nearness, range=self.running)
        return SequenceFrame(codes, changed, nearness)


def encode_sequence(
    codec: SequenceCodec,
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
            `rate` of the way to each frame's own percentiles. Fixed ranges and "whole" are what they are.
        hold: A cell keeps its code while that code's squared distance to the cell's feature exceeds the nearest code's
            by less than this. In units of squared distance between code vectors.
        deadband: A cell keeps its code, too, while its own pixels stay: each of its 4x4 tiles' mean nearness within
            this of what it was when the code was chosen. Every code depends on the whole map, so that codes change in
            cells that stay wherever something moves beside them; this holds them. With both 0 every frame is encoded
            alone.
        frames: How many first frames decide the range.

    Yields:
        Codes, which cells changed since the frame before, and the nearness that was encoded.

    Raises:
        ConfigError: `hold` or `deadband` is negative, or `frames` less than 1.
        DepthMapError: A frame has nothing to encode, or the first frames give no range.
    """
    check_clip(hold, deadband, frames)
    return _frames(codec, iter(maps), range, hold, deadband, frames)


def check_clip(hold: float, deadband: float, frames: int) -> None:
    """Raise ConfigError unless a clip can be encoded so."""
    if not (hold >= 0 and deadband >= 0) or frames < 1:
        raise ConfigError(f"need hold >= 0, deadband >= 0 and at least one frame; got {hold}, {deadband} and {frames}")


def _frames(
    codec: SequenceCodec,
    maps: Iterator[DepthMap],
    chosen: NearnessRange | None,
    hold: float,
    deadband: float,
    frames: int,
) -> Iterator[SequenceFrame]:
    waiting = [] if settled(chosen) else list(islice(maps, frames))
    if not waiting and not settled(chosen):
        return
    encoder = ClipEncoder(codec, first_range(waiting, chosen), hold=hold, deadband=deadband, running=chosen)
    while waiting:
        yield encoder.encode(waiting.pop(0))
    for depth in maps:
        yield encoder.encode(depth)


def _tiles(square: np.ndarray) -> np.ndarray:
    """Mean nearness of each cell's 4x4 tiles, (10, 10, 16), of a square map: noise of pixels goes, what moves stays."""
    side = square.shape[0] // 40
    tiles = square.reshape(10, 4, side, 10, 4, side).mean((2, 5))
    return np.asarray(tiles.transpose(0, 2, 1, 3).reshape(10, 10, 16))


def _followed(before: NearnessRange, depth: DepthMap, running: NearnessRange) -> NearnessRange:
    """The range of the frame before, moved towards the frame's own; where that has no relief, as it was."""
    assert running.low is not None
    assert running.high is not None
    assert running.rate is not None
    try:
        own = clip_range([depth], low=running.low, high=running.high)
    except DepthMapError:
        return before
    near, far = (
        float(nearness_scale(old + running.rate * (new - old), depth.kind))
        for old, new in (
            (nearness_scale(one, depth.kind), nearness_scale(other, depth.kind))
            for one, other in ((before.near, own.near), (before.far, own.far))
        )
    )
    return NearnessRange.fixed(near, far)
