"""Colours of nearness: far is blue, near is red, and order is visible."""

from __future__ import annotations

import numpy as np

from perceptok.images import colorize_nearness


def test_ends_and_shape() -> None:
    colours = colorize_nearness(np.array([[0.0, 1.0], [-3.0, 7.0]], dtype=np.float32))
    assert colours.shape == (2, 2, 3)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours[0], colours[1])
    far, near = colours[0].astype(int)
    assert far[2] > far[0]
    assert near[0] > near[2]


def test_equal_steps_are_told_apart() -> None:
    colours = colorize_nearness(np.linspace(0, 1, 64)).astype(int)
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() >= 4
