"""Codes of a camera's frames that stay where the scene stays: one range for the clip, and codes that hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from perceptok.depth.inputs import owned
from perceptok.depth.maps.depth_map import DepthMap, Nearness, NearnessRange
from perceptok.depth.maps.ranges import nearness_scale
from perceptok.depth.preprocessing import Preprocessing
from perceptok.errors import ConfigError, DepthMapError

__all__ = ["SequenceCodec", "SequenceFrame", "clip_range", "encode_sequence"]


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


def encode_sequence(
    codec: SequenceCodec,
    maps: Iterable[DepthMap],
    *,
    range: NearnessRange | None = None,  # noqa: A002 - the name of the thing
    hold: float = 0.0,
    frames: int = 8,
) -> Iterator[SequenceFrame]:
    """Encode the frames of a clip one by one, in constant memory; a cell keeps its code while that is nearly the best.

    Args:
        codec: The codec.
        maps: Frames in order, of one kind.
        range: The clip's range; by default from the first frames (`clip_range`), which are held back until then. A
            range that each map decides anew ("extremes", "percentiles") is allowed, and lets one pixel move every code.
        hold: A cell keeps its code while that code's squared distance to the cell's feature exceeds the nearest code's
            by less than this; 0 encodes every frame alone. In units of squared distance between code vectors.
        frames: How many first frames decide the range.

    Yields:
        Codes, which cells changed since the frame before, and the nearness that was encoded.

    Raises:
        ConfigError: `hold` is negative, or `frames` less than 1.
        DepthMapError: A frame has nothing to encode.
    """
    if not hold >= 0 or frames < 1:
        raise ConfigError(f"need hold >= 0 and frames >= 1; got {hold} and {frames}")
    return _frames(codec, iter(maps), range, hold, frames)


def _frames(
    codec: SequenceCodec, maps: Iterator[DepthMap], chosen: NearnessRange | None, hold: float, frames: int
) -> Iterator[SequenceFrame]:
    waiting: list[DepthMap] = []
    if chosen is None:
        for frame in maps:
            waiting.append(frame)
            if len(waiting) == frames:
                break
        if not waiting:
            return
        chosen = clip_range(waiting)
    before: torch.Tensor | None = None
    for frame in _chained(waiting, maps):
        nearness = frame.to_nearness(chosen)
        square = codec.preprocessing.square(torch.from_numpy(owned(nearness.values))[None])
        best, distances = codec.nearest(square)
        codes = best
        if before is not None and hold > 0:
            kept = distances.gather(-1, before[..., None])[..., 0]
            codes = torch.where(kept - distances.amin(-1) < hold, before, best)
        changed = torch.ones_like(codes, dtype=torch.bool) if before is None else codes != before
        before = codes
        yield SequenceFrame(codes[0].cpu().numpy(), changed[0].cpu().numpy(), nearness)


def _chained(waiting: list[DepthMap], maps: Iterator[DepthMap]) -> Iterator[DepthMap]:
    while waiting:
        yield waiting.pop(0)
    yield from maps
