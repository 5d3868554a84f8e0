"""Points: there and back within a bin, as tokens and as Molmo's tags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from perceptok.boxes import BoxCodec, ImageFrame, PointCodec, points_from_molmo, points_to_molmo
from perceptok.errors import BoxError, MalformedBoxError

SIDES = st.tuples(st.floats(0, 640), st.floats(0, 427))


@given(st.lists(SIDES, max_size=6), st.sampled_from(["corner", "center"]), st.sampled_from(["xyxy", "yxyx"]))
def test_there_and_back(points: list[tuple[float, float]], decode: str, order: str) -> None:
    codec = PointCodec(BoxCodec(decode=decode, order=order))  # type: ignore[arg-type]
    given_ = np.array(points).reshape(-1, 2)
    codes = codec.encode(given_, image_size=(640, 427))
    corners = BoxCodec().encode(np.tile(given_, 2), image_size=(640, 427))
    np.testing.assert_array_equal(codes, corners[:, :2])
    back = codec.decode(codes, image_size=(640, 427))
    assert (np.abs(back - given_) <= np.array([640, 427]) / 336 + 1e-6).all()
    np.testing.assert_array_equal(codec.encode(back, image_size=(640, 427)), codes)
    np.testing.assert_array_equal(codec.from_text(codec.to_text(codes)), codes)


def test_texts() -> None:
    codec = PointCodec()
    assert codec.to_text([[1, 2], [335, 0]]) == "(<PIXEL_1>,<PIXEL_2>)(<PIXEL_335>,<PIXEL_0>)"
    spaced = " ( <PIXEL_1> , <PIXEL_2> )\n(<PIXEL_3>,<PIXEL_4>) "
    assert codec.from_text(spaced).tolist() == [[1, 2], [3, 4]]
    free = "Point A is at (<PIXEL_1>,<PIXEL_2>) and not at (<PIXEL_1>,<PIXEL_400>)."
    assert codec.from_text(free, strict=False).tolist() == [[1, 2]]
    for text in (free, "(<PIXEL_1>,<PIXEL_2>", "(<PIXEL_1>,<PIXEL_02>)", "(<PIXEL_1>,<PIXEL_400>)"):
        with pytest.raises(MalformedBoxError, match=r"expected \(<PIXEL_x>,<PIXEL_y>\) at character"):
            codec.from_text(text)


def test_frames_and_what_lies_outside() -> None:
    frame = ImageFrame.letterbox((640, 320))
    codes = PointCodec().encode([[0, 0], [640, 320]], frame=frame)
    assert codes.tolist() == [[0, 84], [335, 252]]
    with pytest.raises(BoxError, match="lies outside"):
        PointCodec().encode([[700, 10]], image_size=(640, 427))
    dropping = PointCodec(BoxCodec(outside="drop"))
    assert dropping.encode([[700, 10], [0, 0]], image_size=(640, 427)).tolist() == [[0, 0]]
    with pytest.raises(BoxError, match=r"shape \(N, 2\)"):
        PointCodec().encode([[1, 2, 3]], image_size=(640, 427))


def test_bad_codes_and_tags() -> None:
    with pytest.raises(BoxError, match="codes are integers; encode coordinates first"):
        PointCodec().to_text([[1.5, 2]])
    with pytest.raises(MalformedBoxError, match=r"codes are 0\.\.335; got 1\.\.336"):
        PointCodec().to_text([[1, 336]])
    assert len(points_from_molmo('<point x="1.2.3" y="4">').malformed) == 1


def test_molmo() -> None:
    parsed = points_from_molmo(
        'Here: <point x="50.1" y="20.0" alt="a dog">a dog</point> and <points x1="1" y1="2" x2="3.5" y2="4" alt="cats">'
        'cats</points> <point x="101" y="2" alt="no">no</point> <point x="5">'
    )
    np.testing.assert_allclose(parsed.points, [[0.501, 0.2], [0.01, 0.02], [0.035, 0.04]])
    assert parsed.labels == ("a dog", "cats", "cats")
    assert len(parsed.malformed) == 2
    assert points_to_molmo([[0.501, 0.2]], "a dog") == '<point x="50.1" y="20.0" alt="a dog">a dog</point>'
    assert points_to_molmo([], "cats") == ""
    two = points_to_molmo([[0.5, 0.25], [1, 0]], "R&D")
    back = points_from_molmo(two)
    np.testing.assert_allclose(back.points, [[0.5, 0.25], [1, 0]])
    assert back.labels == ("R&D", "R&D")
    with pytest.raises(BoxError, match="fractions of the image"):
        points_to_molmo([[20, 30]], "pixels")
