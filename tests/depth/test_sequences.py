"""Frames of a clip: one range, codes that hold, and what changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from perceptok.depth import DepthCodec, DepthMap, NearnessRange, compute_clip_range, encode_sequence
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
    for frame, depth in zip(encode_sequence(codec, maps, range=chosen, hold=0), maps, strict=True):
        assert np.array_equal(frame.codes, codec.encode(depth.to_nearness(chosen))[0])


def test_held_codes_stay_under_noise_and_follow_the_scene(codec: DepthCodec) -> None:
    alone = list(encode_sequence(codec, frames(6), hold=0))
    held = list(encode_sequence(codec, frames(6)))
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


def test_bad_input(codec: DepthCodec) -> None:
    assert list(encode_sequence(codec, [])) == []
    for options in ({"hold": -1.0}, {"hold": float("nan")}, {"frames": 0}):
        with pytest.raises(ConfigError, match="hold >= 0"):
            encode_sequence(codec, [], **options)  # type: ignore[arg-type]
    with pytest.raises(DepthMapError, match="no relief"):
        compute_clip_range([DepthMap.from_array(np.ones((4, 4)), kind="metric", unit="m")])
    with pytest.raises(DepthMapError, match="one kind"):
        compute_clip_range([])


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


def test_a_running_range_follows_slowly(codec: DepthCodec) -> None:
    """Each frame's ends go a tenth of the way to its own percentiles, in inverse depth; records can say them."""
    maps = [DepthMap.from_array(ROOM * (1 + 0.1 * index), kind="metric", unit="m") for index in range(4)]
    chosen = NearnessRange.running(0.1, 2, 98)
    out = [one.nearness for one in encode_sequence(codec, maps, range=chosen, frames=1)]
    first = np.percentile(1 / ROOM.astype(np.float64), (2, 98))
    low, high = first
    for index, nearness in enumerate(out):
        own_low, own_high = first / (1 + 0.1 * index)
        if index:
            low, high = low + 0.1 * (own_low - low), high + 0.1 * (own_high - high)
        assert (nearness.near, nearness.far) == (pytest.approx(1 / high, rel=1e-5), pytest.approx(1 / low, rel=1e-5))
        assert nearness.range == chosen
    assert NearnessRange.parse(str(chosen)) == chosen
    with pytest.raises(DepthMapError, match="frames of a clip"):
        maps[0].to_nearness(chosen)
    for wrong in (0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="rate"):
            NearnessRange.running(wrong)


def test_percentiles_and_extremes_are_the_first_frames_together(codec: DepthCodec) -> None:
    one, two = (DepthMap.from_array(ROOM * scale, kind="metric", unit="m") for scale in (1, 2))
    for chosen, ends in ((NearnessRange(), (1, 8)), (NearnessRange.of_percentiles(0, 100), (1, 8))):
        for frame in encode_sequence(codec, [one, two], range=chosen, frames=2):
            assert (frame.nearness.near, frame.nearness.far) == pytest.approx(ends)


def test_a_deadband_holds_what_stays_beside_what_moves(codec: DepthCodec) -> None:
    """Codes depend on the whole map: with `hold` alone cells change beside a moving thing, whose own depth stays."""
    chosen = NearnessRange.fixed(0.9, 5)
    moving = []
    for index in range(4):
        depth = ROOM.copy()
        depth[:40, 10 * index : 30 + 10 * index] = 1.2
        moving.append(DepthMap.from_array(depth, kind="metric", unit="m"))

    def changed_below(**options: float) -> int:
        out = list(encode_sequence(codec, moving, range=chosen, **options))
        return sum(int(one.changed[5:].sum()) for one in out[1:])

    assert changed_below() > 0
    assert changed_below(deadband=0.001) == 0


def test_a_deadband_measures_from_the_input_that_the_code_was_chosen_for(codec: DepthCodec) -> None:
    """A slow drift adds up: what moves by less than the deadband each frame is encoded anew all the same."""
    chosen = NearnessRange.fixed(0.5, 20)
    drift = [DepthMap.from_array(ROOM * 1.01**index, kind="metric", unit="m") for index in range(40)]
    out = list(encode_sequence(codec, drift, range=chosen, hold=0, deadband=0.02))
    alone = list(encode_sequence(codec, drift, range=chosen, hold=0))
    assert 0 < sum(one.changed.sum() for one in out[1:]) < sum(one.changed.sum() for one in alone[1:])
    assert sum(one.changed[:5].any() for one in out[1:]) > 2
