"""Markers keep the protocol, whatever the map; and their drawing is that of the published pictures."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image
from scipy import ndimage

from perceptok.data import Marker, MarkerProtocol, place_markers
from perceptok.data.markers import MIDDLE_BAND, draw_markers
from perceptok.errors import ConfigError, DataError

SLOPE = np.tile(np.linspace(0, 1, 128, dtype=np.float32), (128, 1))
ALL = np.ones((128, 128), dtype=bool)


@given(
    st.integers(0, 2**32),
    st.integers(2, 5),
    st.sampled_from(["anywhere", "middle"]),
    st.floats(0, 30),
    st.integers(0, 40),
)
def test_markers_keep_the_protocol(seed: int, count: int, area: str, distance: float, gap: int) -> None:
    rng = np.random.default_rng(seed)
    nearness = ndimage.gaussian_filter(rng.random((128, 128)), 6)
    nearness = ((nearness - nearness.min()) / np.ptp(nearness)).astype(np.float32)
    valid = ndimage.gaussian_filter(rng.random((128, 128)), 4) > 0.49
    protocol = MarkerProtocol(distance, gap, area)  # type: ignore[arg-type]
    try:
        markers = place_markers(nearness, valid, count, rng, protocol)
    except DataError:
        return
    grey = np.rint(nearness * 255).astype(int)
    assert [marker.letter for marker in markers] == list("ABCDE"[:count])
    for one in markers:
        x, y = int(one.x), int(one.y)
        assert valid[y, x]
        assert grey[y, x] > 0
        assert one.level == grey[y, x] / 255
        assert 5 <= x < 123
        assert 5 <= y < 123
        if area == "middle":
            assert round(MIDDLE_BAND[0] * 128) <= y < round(MIDDLE_BAND[1] * 128)
    for one, other in combinations(markers, 2):
        assert np.hypot(one.x - other.x, one.y - other.y) >= distance
        assert abs(grey[int(one.y), int(one.x)] - grey[int(other.y), int(other.x)]) >= max(gap, 1)


def test_the_same_state_gives_the_same_markers_and_letters_tell_nothing() -> None:
    def placed(seed: int) -> tuple[Marker, ...]:
        return place_markers(SLOPE, ALL, 4, np.random.default_rng(seed))

    assert placed(3) == placed(3)
    nearest = [max(placed(seed), key=lambda one: one.level or 0).letter for seed in range(200)]
    assert all(30 <= nearest.count(letter) <= 70 for letter in "ABCD")


@pytest.mark.parametrize(
    ("nearness", "valid", "message"),
    [
        (SLOPE, ~ALL, "the pixels allowed have none"),
        (np.full_like(SLOPE, 0.5), ALL, r"levels 128\.\.128"),
        (np.zeros_like(SLOPE), ALL, "have none"),
        (np.where(SLOPE > 0.5, np.float32(0.6), np.float32(0.55)), ALL, r"levels 140\.\.153"),
    ],
)
def test_maps_that_admit_none(nearness: np.ndarray, valid: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        place_markers(nearness, valid, 2, np.random.default_rng(0))


def test_a_map_whose_points_are_all_too_near_each_other() -> None:
    """Enough grey levels, but all of them within a few pixels."""
    corner = ALL.copy()
    corner[:] = False
    corner[60:70, 50:70] = True
    steep = np.tile((np.arange(128) % 20 / 20).astype(np.float32), (128, 1))
    with pytest.raises(DataError, match="no 2 markers at least 40 pixels and 20 grey levels apart"):
        place_markers(steep, corner, 2, np.random.default_rng(0), MarkerProtocol(min_distance=40))
    with pytest.raises(ConfigError, match="2 to 8 markers"):
        place_markers(SLOPE, ALL, 1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="min_distance >= 0"):
        MarkerProtocol(min_distance=-1)


def rings(picture: Image.Image) -> tuple[np.ndarray, list[tuple[slice, slice]]]:
    pixels = np.asarray(picture).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 70) & (pixels[..., 2] < 70)
    found = ndimage.find_objects(ndimage.label(ndimage.binary_dilation(red))[0])
    return red, [where for where in found if red[where].sum() == 40]


def test_the_look_is_the_published_one(shared: Path) -> None:
    """Beside HardBLINK's own pictures: the ring's pixels are the same, and so is the box above it."""
    published = Image.open(shared / "data" / "hardblink" / "images" / "3" / "0.jpg").convert("RGB")
    red, where = rings(published)
    assert len(where) == 3
    for rows, columns in where:
        ring = red[rows, columns]
        x, y = (columns.start + columns.stop - 1) // 2, (rows.start + rows.stop - 1) // 2
        plain = Image.new("RGB", published.size, "white")
        ours = draw_markers(plain, (Marker("B", x, y),))
        mine, _ = rings(ours)
        np.testing.assert_array_equal(mine[rows, columns], ring)
        theirs = np.asarray(published.convert("L"))[y - 28 : y - 8, x - 4 : x + 12] < 60
        box = np.asarray(ours.convert("L"))[y - 28 : y - 8, x - 4 : x + 12] < 60
        # JPEG and another font: the black of the box, not each pixel of the letter.
        assert (theirs & box).sum() >= 0.85 * box.sum()


@pytest.mark.parametrize(("x", "y"), [(0, 0), (127, 0), (0, 127), (127, 127), (64, 10)])
def test_a_letter_is_always_in_the_picture(x: int, y: int) -> None:
    plain = Image.new("RGB", (128, 128), "grey")
    drawn = np.asarray(draw_markers(plain, (Marker("D", x, y),))).astype(int)
    assert (drawn.sum(axis=2) == 0).sum() > 60
    assert (drawn.min(axis=2) > 200).sum() > 8
    assert np.asarray(plain).min() == 128
