"""Markers: placement follows the protocol on any map, and the drawing matches the published images."""

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
def test_markers_follow_the_protocol(seed: int, count: int, area: str, distance: float, gap: int) -> None:
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
    for marker in markers:
        x, y = int(marker.x), int(marker.y)
        assert valid[y, x]
        assert grey[y, x] > 0
        assert marker.level == grey[y, x] / 255
        assert 5 <= x < 123
        assert 5 <= y < 123
        if area == "middle":
            assert round(MIDDLE_BAND[0] * 128) <= y < round(MIDDLE_BAND[1] * 128)
    for first, second in combinations(markers, 2):
        assert np.hypot(first.x - second.x, first.y - second.y) >= distance
        assert abs(grey[int(first.y), int(first.x)] - grey[int(second.y), int(second.x)]) >= max(gap, 1)


def test_markers_are_reproducible_and_letters_are_shuffled() -> None:
    def place(seed: int) -> tuple[Marker, ...]:
        return place_markers(SLOPE, ALL, 4, np.random.default_rng(seed))

    assert place(3) == place(3)
    nearest = [max(place(seed), key=lambda marker: marker.level or 0).letter for seed in range(200)]
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
def test_maps_without_placement(nearness: np.ndarray, valid: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        place_markers(nearness, valid, 2, np.random.default_rng(0))


def test_map_whose_valid_pixels_are_too_close() -> None:
    """Enough grey levels, but all within a few pixels."""
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


def find_rings(image: Image.Image) -> tuple[np.ndarray, list[tuple[slice, slice]]]:
    pixels = np.asarray(image).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 70) & (pixels[..., 2] < 70)
    found = ndimage.find_objects(ndimage.label(ndimage.binary_dilation(red))[0])
    return red, [region for region in found if red[region].sum() == 40]


def test_drawing_matches_published_images(shared: Path) -> None:
    """Compared with HardBLINK's images, the ring has the same pixels, and so has the box above it."""
    published = Image.open(shared / "data" / "hardblink" / "images" / "3" / "0.jpg").convert("RGB")
    red, regions = find_rings(published)
    assert len(regions) == 3
    for rows, columns in regions:
        ring = red[rows, columns]
        x, y = (columns.start + columns.stop - 1) // 2, (rows.start + rows.stop - 1) // 2
        plain = Image.new("RGB", published.size, "white")
        drawn = draw_markers(plain, (Marker("B", x, y),))
        drawn_red, _ = find_rings(drawn)
        np.testing.assert_array_equal(drawn_red[rows, columns], ring)
        published_box = np.asarray(published.convert("L"))[y - 28 : y - 8, x - 4 : x + 12] < 60
        drawn_box = np.asarray(drawn.convert("L"))[y - 28 : y - 8, x - 4 : x + 12] < 60
        # JPEG and another font: the black of the box, not each pixel of the letter.
        assert (published_box & drawn_box).sum() >= 0.85 * drawn_box.sum()


@pytest.mark.parametrize(("x", "y"), [(0, 0), (127, 0), (0, 127), (127, 127), (64, 10)])
def test_letter_is_inside_the_image(x: int, y: int) -> None:
    plain = Image.new("RGB", (128, 128), "grey")
    drawn = np.asarray(draw_markers(plain, (Marker("D", x, y),))).astype(int)
    assert (drawn.sum(axis=2) == 0).sum() > 60
    assert (drawn.min(axis=2) > 200).sum() > 8
    assert np.asarray(plain).min() == 128


def find_labels(image: Image.Image) -> np.ndarray:
    """The black pixels of a white image that markers were drawn on."""
    return np.asarray((np.asarray(image) == 0).all(axis=2))


def test_labels_do_not_cover_other_rings_and_labels() -> None:
    """A second marker where the label of the first would lie, in each of many arrangements."""
    white = Image.new("RGB", (128, 128), "white")
    for offset in ((0, -20), (4, -26), (-8, -22), (10, -14), (0, 26), (8, 26), (26, 0)):
        pair = (Marker("A", 64, 64, 0.5), Marker("B", 64 + offset[0], 64 + offset[1], 0.9))
        alone = [draw_markers(white, (marker,)) for marker in pair]
        together = draw_markers(white, pair)
        red = (np.asarray(together) == (255, 0, 0)).all(axis=2)
        for image in alone:
            assert red[(np.asarray(image) == (255, 0, 0)).all(axis=2)].all()
        assert find_labels(together).sum() >= 0.95 * sum(find_labels(image).sum() for image in alone)


def test_markers_far_apart_are_drawn_as_before() -> None:
    white = Image.new("RGB", (128, 128), "white")
    pair = (Marker("A", 20, 100, 0.5), Marker("B", 100, 100, 0.9))
    one_by_one = draw_markers(draw_markers(white, pair[:1]), pair[1:])
    np.testing.assert_array_equal(np.asarray(draw_markers(white, pair)), np.asarray(one_by_one))
