"""Frames of a clip: one range, codes that hold, and what changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from perceptok.depth.codec import DepthCodec
from perceptok.depth.maps.depth_map import DepthMap, NearnessRange
from perceptok.depth.sequences import clip_range, encode_sequence
from perceptok.errors import ConfigError, DepthMapError

ROOM = (1 + 3 * np.indices((96, 128)).sum(0) / 222).astype(np.float32)
ROOM[30:70, 40:80] = 1.5


def frames(count: int, noise: float = 0.01) -> Iterator[DepthMap]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield DepthMap.from_array(ROOM * (1 + noise * rng.standard_normal(ROOM.shape)), kind="metric", unit="m")


@pytest.fixture(scope="module")
def codec() -> DepthCodec:
    return DepthCodec.from_pretrained()


def test_without_hold_every_frame_is_encoded_alone(codec: DepthCodec) -> None:
    chosen = NearnessRange.fixed(0.9, 5)
    maps = list(frames(3))
    for frame, depth in zip(encode_sequence(codec, maps, range=chosen), maps, strict=True):
        assert np.array_equal(frame.codes, codec.encode(depth.to_nearness(chosen))[0])


def test_held_codes_stay_under_noise_and_follow_the_scene(codec: DepthCodec) -> None:
    alone = list(encode_sequence(codec, frames(6)))
    held = list(encode_sequence(codec, frames(6), hold=0.02))
    assert held[0].changed.all()
    assert np.array_equal(held[0].codes, alone[0].codes)
    assert sum(one.changed.sum() for one in held[1:]) < sum(one.changed.sum() for one in alone[1:])
    assert np.mean([one.changed.mean() for one in held[1:]]) <= 0.02
    for one, other in pairwise(held):
        assert np.array_equal(one.codes != other.codes, other.changed)
    moved = ROOM.copy()
    moved[:40, :40] = 4
    chosen = NearnessRange.fixed(0.9, 5)
    both = [DepthMap.from_array(one, kind="metric", unit="m") for one in (ROOM, moved)]
    _, second = encode_sequence(codec, both, range=chosen, hold=0.02)
    assert second.changed[:3, :2].mean() > 0.9
    assert second.changed[6:, 5:].mean() < 0.1


def test_frames_are_drawn_one_at_a_time(codec: DepthCodec) -> None:
    drawn = 0

    def counted() -> Iterator[DepthMap]:
        nonlocal drawn
        for depth in frames(5):
            drawn += 1
            yield depth

    stream = encode_sequence(codec, counted(), frames=2, hold=0.02)
    next(stream)
    assert drawn == 2
    next(stream)
    next(stream)
    assert drawn == 3


def test_one_new_extreme_pixel_moves_nothing(codec: DepthCodec) -> None:
    stuck = ROOM.copy()
    stuck[90, 120] = 0.02
    maps = [DepthMap.from_array(one, kind="metric", unit="m") for one in (ROOM, stuck)]
    _, second = encode_sequence(codec, maps, frames=1, hold=0.02)
    assert second.changed.sum() <= 2


def test_the_codec_s_method_is_the_same_stream(codec: DepthCodec) -> None:
    free = list(encode_sequence(codec, frames(4), hold=0.02, frames=2))
    for one, other in zip(free, codec.encode_sequence(frames(4), hold=0.02, frames=2), strict=True):
        assert np.array_equal(one.codes, other.codes)
        assert np.array_equal(one.changed, other.changed)
        assert one.nearness.range == other.nearness.range
    with pytest.raises(ConfigError, match="hold >= 0"):
        codec.encode_sequence([], hold=-1)


def test_bad_input(codec: DepthCodec) -> None:
    assert list(encode_sequence(codec, [])) == []
    for options in ({"hold": -1.0}, {"hold": float("nan")}, {"frames": 0}):
        with pytest.raises(ConfigError, match="hold >= 0"):
            encode_sequence(codec, [], **options)  # type: ignore[arg-type]
    with pytest.raises(DepthMapError, match="no relief"):
        clip_range([DepthMap.from_array(np.ones((4, 4)), kind="metric", unit="m")])
    with pytest.raises(DepthMapError, match="one kind"):
        clip_range([])


def test_a_range_in_encode(codec: DepthCodec) -> None:
    chosen = NearnessRange.fixed(0.9, 5)
    one, two = frames(2)
    expected = np.concatenate([codec.encode(each.to_nearness(chosen)) for each in (one, two)])
    assert np.array_equal(codec.encode([one, two], range=chosen), expected)
    assert np.array_equal(codec.encode(one, range=chosen), expected[:1])
    assert not np.array_equal(codec.encode([one, two]), expected)
    assert np.array_equal(codec.encode_soft([one, two], range=chosen).argmax(-1), expected)
    with pytest.raises(ConfigError, match="a range is for DepthMaps"):
        codec.encode_soft(one.to_nearness(), range=chosen)
    for ranged in (one.to_nearness(), [one, two.to_nearness()], np.zeros((4, 4), np.float32)):
        with pytest.raises(ConfigError, match="a range is for DepthMaps"):
            codec.encode(ranged, range=chosen)
