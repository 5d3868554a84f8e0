"""Depth of the frame, pixel for pixel in the image, against a slow and obvious reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings, strategies as st

from perceptok.boxes import ImageFrame
from perceptok.llava.inference.answer import resample_to_image, sample_frame_nearness

FRAMES = (ImageFrame.squash, ImageFrame.letterbox, ImageFrame.center_crop)


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2), st.integers(8, 40), st.integers(2, 30))
def test_every_pixel_takes_what_its_centre_falls_into(width: int, height: int, crop: int, size: int, side: int) -> None:
    frame = FRAMES[crop]((width, height), size)
    nearness = np.random.default_rng(width).random((side, side)).astype(np.float32)
    found = resample_to_image(nearness, frame)
    assert found.kind == "inverse"
    assert found.values.shape == (height, width)
    for y in range(height):
        for x in range(width):
            point = frame.to_frame([x + 0.5, y + 0.5])
            inside = bool((point >= 0).all() and (point < size).all())
            assert found.valid[y, x] == inside
            if inside:
                row, column = frame.to_depth_map(point, side)
                assert found.values[y, x] == nearness[row, column]
                assert sample_frame_nearness(nearness, frame, point[None])[0] == nearness[row, column]


def test_a_crop_hides_the_sides() -> None:
    found = resample_to_image(np.ones((320, 320), np.float32), ImageFrame.center_crop((40, 20), 20))
    assert found.valid[:, 10:30].all()
    assert not found.valid[:, :10].any()
    assert not found.valid[:, 30:].any()


def test_points_outside_have_no_nearness() -> None:
    frame = ImageFrame.squash((40, 20))
    found = sample_frame_nearness(
        np.ones((320, 320), np.float32), frame, np.array([[0, 0], [336, 336], [337, 0], [-1, 5]])
    )
    np.testing.assert_array_equal(found, [1, 1, np.nan, np.nan])
    assert sample_frame_nearness(np.ones((2, 2), np.float32), frame, np.zeros((0, 2))).shape == (0,)
