"""The yard: the same scene each time, another for another number, and a picture that fades with the true distance."""

from __future__ import annotations

import numpy as np

from perceptok.llava.small import view_yard


def test_a_pair_of_numbers_is_one_scene() -> None:
    first, again, other = view_yard(1, 5), view_yard(1, 5), view_yard(2, 5)
    assert np.array_equal(first.picture, again.picture)
    assert np.array_equal(first.nearness, again.nearness)
    assert not np.array_equal(first.nearness, other.nearness)
    assert first.picture.shape == (160, 160, 3)
    assert first.nearness.shape == (320, 320)
    assert (float(first.nearness.min()), float(first.nearness.max())) == (0.0, 1.0)


def test_nearness_is_the_inverse_of_the_depth() -> None:
    view = view_yard(3, 0)
    depth = view.rendering.depth.astype(np.float64)
    order = np.argsort(depth, axis=None)
    assert (np.diff(view.nearness.reshape(-1)[order]) <= 1e-6).all()


def test_haze_hides_what_is_far() -> None:
    """Contrast between things and haze falls with distance."""
    view = view_yard(4, 1, 320)
    gap = np.abs(view.picture.astype(np.float64) - [225, 230, 235]).mean(axis=-1)
    near, far = view.nearness > 0.5, view.nearness < 0.05
    assert gap[near].mean() > 2 * gap[far].mean()
