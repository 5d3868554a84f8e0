"""Images of yards: reproducible, with true nearness, and with haze that grows with the distance."""

from __future__ import annotations

import numpy as np

from perceptok.llava.small import render_yard


def test_equal_numbers_give_equal_scenes() -> None:
    first, again, other = render_yard(1, 5), render_yard(1, 5), render_yard(2, 5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.nearness, again.nearness)
    assert not np.array_equal(first.nearness, other.nearness)
    assert first.image.shape == (160, 160, 3)
    assert first.nearness.shape == (320, 320)
    assert (float(first.nearness.min()), float(first.nearness.max())) == (0.0, 1.0)


def test_nearness_is_the_inverse_of_the_depth() -> None:
    view = render_yard(3, 0)
    depth = view.rendering.depth.astype(np.float64)
    order = np.argsort(depth, axis=None)
    assert (np.diff(view.nearness.reshape(-1)[order]) <= 1e-6).all()


def test_haze_reduces_the_contrast_of_far_objects() -> None:
    view = render_yard(4, 1, 320)
    gap = np.abs(view.image.astype(np.float64) - [225, 230, 235]).mean(axis=-1)
    near, far = view.nearness > 0.5, view.nearness < 0.05
    assert gap[near].mean() > 2 * gap[far].mean()
