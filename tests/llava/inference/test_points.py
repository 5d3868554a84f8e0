"""Points in AURORA's words."""

from __future__ import annotations

from perceptok.llava.inference.overlay import FramePoint, find_points


def test_the_released_chain_of_thought() -> None:
    text = "Point A is located at (x = 73 y = 188),Point B is located at (x = 191 y = 77).The depth map for the"
    assert find_points(text) == [FramePoint("A", 73, 188), FramePoint("B", 191, 77)]


def test_a_letter_named_twice_and_what_is_no_point() -> None:
    text = "point A is located at (x = 1.5 y = 2) Point A is located at (x = 9 y = 9) Point B is located at (x = y = 3)"
    assert find_points(text) == [FramePoint("A", 1.5, 2)]
    assert find_points("x" * 100_000 + "Point A is located at (x = " + "9" * 100_000) == []
