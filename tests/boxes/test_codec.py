"""The codec's promises: half a bin, stable codes, every convention, and nothing dropped or cut in silence."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from perceptok.boxes import BoxCodec, ImageFrame
from perceptok.boxes.codec import from_corners, to_corners
from perceptok.errors import BoxError, ConfigError, MalformedBoxError
from tests.boxes.drawn_frames import frames

SIZES = st.sampled_from([10, 336, 1000, 1024])
CONVENTIONS = st.sampled_from(["xyxy", "xywh", "cxcywh"])
ROUNDINGS = st.sampled_from(["floor", "round"])
ORDERS = st.sampled_from(["xyxy", "yxyx"])
SEEDS = st.integers(0, 2**32 - 1)
VGA = (640, 480)


def some_boxes(frame: ImageFrame, seed: int, count: int = 30) -> np.ndarray:
    """Boxes inside what the frame shows, in original pixels; some touch its edges, some lie on whole pixels."""
    rng = np.random.default_rng(seed)
    low, high = frame.to_image(np.reshape(frame.window, (2, 2)))
    low, high = np.maximum(low, 0), np.minimum(high, frame.image_size)
    corners = rng.uniform(low, high, (count, 2, 2))
    corners[::5] = np.clip(np.round(corners[::5]), low, high)
    corners[::7, 1], corners[::11, 0] = high, low
    corners.sort(axis=1)
    return corners.reshape(count, 4)


def half_a_bin(codec: BoxCodec, frame: ImageFrame) -> np.ndarray:
    """In original pixels, for x1, y1, x2, y2; with the rounding of float64."""
    return np.tile(0.5 * frame.size / codec.size / np.array(frame.scale), 2) * (1 + 1e-9) + 1e-9


class TestRoundTrip:
    @given(frames(), SIZES, CONVENTIONS, ROUNDINGS, ORDERS, st.booleans(), st.booleans(), SEEDS)
    @settings(max_examples=300)
    def test_half_a_bin_at_most(
        self,
        frame: ImageFrame,
        size: int,
        convention: Any,
        rounding: Any,
        order: Any,
        normalized: bool,
        inclusive: bool,
        seed: int,
    ) -> None:
        codec = BoxCodec(size, decode="center", rounding=rounding, order=order, inclusive=inclusive)
        corners = some_boxes(frame, seed)
        lengths = np.tile(frame.image_size, 2) if normalized else np.ones(4)
        last = np.array([0, 0, 1, 1]) * (inclusive and convention == "xyxy")
        boxes = from_corners(corners - last, convention) / lengths
        codes = codec.encode(boxes, frame=frame, convention=convention, normalized=normalized)
        assert codes.dtype == np.int64
        assert ((codes >= 0) & (codes < size)).all()
        decoded = codec.decode(codes, frame=frame, convention=convention, normalized=normalized)
        back = to_corners(decoded * lengths, convention) + last
        assert (np.abs(back - corners) <= half_a_bin(codec, frame)).all()
        again = codec.encode(decoded, frame=frame, convention=convention, normalized=normalized)
        np.testing.assert_array_equal(again, codes)

    @given(frames(), SIZES, CONVENTIONS, st.booleans(), SEEDS)
    def test_corners_lie_within_one_bin_to_the_top_left(
        self, frame: ImageFrame, size: int, convention: Any, normalized: bool, seed: int
    ) -> None:
        codec, corners = BoxCodec(size), some_boxes(frame, seed)
        lengths = np.tile(frame.image_size, 2) if normalized else np.ones(4)
        boxes = from_corners(corners, convention) / lengths
        codes = codec.encode(boxes, frame=frame, convention=convention, normalized=normalized)
        decoded = codec.decode(codes, frame=frame, convention=convention, normalized=normalized)
        back = to_corners(decoded * lengths, convention)
        bins = 2 * half_a_bin(codec, frame)
        assert (back <= corners + 1e-6 * bins).all()
        assert (corners - back <= bins).all()
        again = codec.encode(decoded, frame=frame, convention=convention, normalized=normalized)
        np.testing.assert_array_equal(again, codes)

    @pytest.mark.parametrize("rounding", ["floor", "round"])
    @pytest.mark.parametrize("decode", ["corner", "center"])
    @pytest.mark.parametrize("size", [1, 2, 7, 336, 1000, 1024])
    def test_every_code_is_stable(self, rounding: Any, decode: Any, size: int) -> None:
        """Corners decode to bin edges exactly: the rounding of floats must not push them into the bin before."""
        codec = BoxCodec(size, rounding=rounding, decode=decode)
        codes = np.arange(size).repeat(4).reshape(size, 4)
        for width in (1, 2, 3, 333, 336, 500, 639, 640, 641, 1023, 4961, 10_000):
            for convention, normalized in itertools.product(("xyxy", "xywh", "cxcywh"), (False, True)):
                where: dict[str, Any] = {
                    "image_size": (width, width + 3),
                    "convention": convention,
                    "normalized": normalized,
                }
                boxes = codec.decode(codes, **where)
                np.testing.assert_array_equal(codec.encode(boxes, **where), codes)
                np.testing.assert_array_equal(codec.encode(boxes.astype(np.float32), **where), codes)

    @given(SEEDS, SIZES)
    def test_nearest_edge_is_half_a_bin_but_for_the_last(self, seed: int, size: int) -> None:
        codec = BoxCodec(size, rounding="round")
        boxes = some_boxes(ImageFrame.squash(VGA), seed)
        back = codec.decode(codec.encode(boxes, image_size=VGA), image_size=VGA)
        bins = np.tile(VGA, 2) / size
        last = boxes > (size - 0.5) * bins
        assert (np.abs(back - boxes)[~last] <= np.broadcast_to(bins / 2 + 1e-9, boxes.shape)[~last]).all()
        assert (np.abs(back - boxes) <= bins + 1e-9).all()


class TestSlowAndObvious:
    @given(SEEDS, SIZES, ROUNDINGS, st.sampled_from(["corner", "center"]))
    def test_one_number_at_a_time(self, seed: int, size: int, rounding: Any, decode: Any) -> None:
        codec = BoxCodec(size, rounding=rounding, decode=decode)
        boxes = some_boxes(ImageFrame.squash(VGA), seed)
        expected = []
        for box in boxes:
            places = [value / side * size for value, side in zip(box, VGA * 2, strict=True)]
            if rounding == "round" and decode == "corner":
                places = [place + 0.5 for place in places]
            expected.append([min(math.floor(place + 1e-9), size - 1) for place in places])
        np.testing.assert_array_equal(codec.encode(boxes, image_size=VGA), expected)

    def test_chunks_are_of_no_consequence(self) -> None:
        rng = np.random.default_rng(0)
        boxes = np.sort(rng.uniform(0, 480, (40_000, 2, 2)), axis=1).reshape(-1, 4)
        for codec in (BoxCodec(), BoxCodec(decode="center", order="yxyx"), BoxCodec(rounding="round")):
            whole = codec.encode(boxes, image_size=VGA)
            parts = [codec.encode(part, image_size=VGA) for part in np.array_split(boxes, 7)]
            np.testing.assert_array_equal(whole, np.concatenate(parts))

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint64, np.float16, np.float32])
    def test_number_types(self, dtype: Any) -> None:
        boxes = np.array([[0, 0, 64, 48], [100, 50, 200, 100], [0, 0, 255, 255]])
        expected = BoxCodec().encode(boxes.astype(float), image_size=VGA)
        np.testing.assert_array_equal(BoxCodec().encode(boxes.astype(dtype), image_size=VGA), expected)

    def test_views_and_lists(self) -> None:
        boxes = np.random.default_rng(0).uniform(0, 200, (50, 8))
        boxes[:, 4:] += 250
        expected = BoxCodec().encode(np.ascontiguousarray(boxes[::2, ::2]), image_size=VGA)
        for form in (boxes[::2, ::2], np.asfortranarray(boxes[::2, ::2]), boxes[::2, ::2].tolist()):
            np.testing.assert_array_equal(BoxCodec().encode(form, image_size=VGA), expected)
            np.testing.assert_array_equal(BoxCodec().encode(form, image_size=VGA, convention="xyxy"), expected)


class TestGolden:
    def test_aurora(self) -> None:
        codec = BoxCodec()
        codes = codec.encode([[0, 0, 640, 480], [320, 240, 321, 241], [10.5, 20.25, 100, 200.75]], image_size=VGA)
        assert codes.tolist() == [[0, 0, 335, 335], [168, 168, 168, 168], [5, 14, 52, 140]]
        corners = codec.decode([[0, 0, 335, 335], [168, 84, 252, 168]], image_size=VGA)
        np.testing.assert_allclose(corners, [[0, 0, 335 / 336 * 640, 335 / 336 * 480], [320, 120, 480, 240]])

    def test_center(self) -> None:
        corners = BoxCodec(decode="center").decode([[0, 0, 335, 335]], image_size=(336, 672))
        np.testing.assert_allclose(corners, [[0.5, 1, 335.5, 671]])

    @pytest.mark.parametrize(
        ("convention", "box"),
        [("xyxy", [64, 48, 192, 240]), ("xywh", [64, 48, 128, 192]), ("cxcywh", [128, 144, 128, 192])],
    )
    def test_conventions(self, convention: Any, box: list[float]) -> None:
        where: dict[str, Any] = {"image_size": VGA, "convention": convention}
        codes = BoxCodec(1000).encode([box], **where)
        assert codes.tolist() == [[100, 100, 300, 500]]
        np.testing.assert_allclose(BoxCodec(1000).decode(codes, **where), [box])
        shares = np.array([box]) / np.tile(VGA, 2)
        assert BoxCodec(1000).encode(shares, normalized=True, convention=convention).tolist() == codes.tolist()
        decoded = BoxCodec(1000).decode(codes, normalized=True, **where)
        np.testing.assert_allclose(decoded, shares)

    def test_y_first(self) -> None:
        codec = BoxCodec(1024, order="yxyx")
        codes = codec.encode([[64, 48, 192, 240]], image_size=VGA)
        assert codes.tolist() == [[102, 102, 512, 307]]
        assert codec.encode(codec.decode(codes, image_size=VGA), image_size=VGA).tolist() == codes.tolist()
        assert codec.decode(codes, image_size=VGA)[0, 0] == pytest.approx(102 / 1024 * 640)

    def test_last_pixel_inside(self) -> None:
        """Pascal VOC: pixels 0..639 are the whole width, and pixel 100 alone is one pixel wide."""
        codec = BoxCodec(640, inclusive=True, degenerate="raise")
        codes = codec.encode([[0, 0, 639, 479], [100, 0, 100, 479]], image_size=VGA)
        assert codes.tolist() == [[0, 0, 639, 639], [100, 0, 101, 639]]
        np.testing.assert_allclose(codec.decode(codes[1:], image_size=VGA), [[100, 0, 100, 478.25]])
        lengths = codec.encode([[0, 0, 640, 480]], image_size=VGA, convention="xywh")
        assert lengths.tolist() == [[0, 0, 639, 639]]

    def test_nearest_edge(self) -> None:
        boxes = [[0.49, 0.5, 99.51, 335.6]]
        assert BoxCodec(rounding="round").encode(boxes, image_size=(336, 336)).tolist() == [[0, 1, 100, 335]]
        centre = BoxCodec(rounding="round", decode="center").encode(boxes, image_size=(336, 336))
        assert centre.tolist() == BoxCodec().encode(boxes, image_size=(336, 336)).tolist() == [[0, 0, 99, 335]]

    def test_a_frame_of_another_size_than_the_bins(self) -> None:
        frame = ImageFrame.center_crop(VGA)
        assert BoxCodec(1000).encode([[80, 0, 560, 480]], frame=frame).tolist() == [[0, 0, 999, 999]]
        np.testing.assert_allclose(BoxCodec(1000).decode([[500, 500, 500, 500]], frame=frame), [[320, 240, 320, 240]])

    def test_padding_decodes_to_outside(self) -> None:
        frame = ImageFrame.letterbox(VGA)
        corners = BoxCodec(decode="center").decode([[0, 0, 335, 42], [0, 41, 335, 293]], frame=frame)
        # The image starts at row 42 of the frame.
        assert corners[0, 1] < 0 < corners[0, 3]
        assert corners[1, 3] < 480


class TestTensors:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
    def test_in_and_out(self, dtype: torch.dtype) -> None:
        boxes = torch.tensor([[0, 0, 64, 48], [128, 64, 256, 96]]).to(dtype)
        codes = BoxCodec().encode(boxes, image_size=VGA)
        assert isinstance(codes, torch.Tensor)
        assert codes.dtype == torch.int64
        expected = BoxCodec().encode(boxes.double().numpy(), image_size=VGA)
        np.testing.assert_array_equal(codes.numpy(), expected)
        decoded = BoxCodec().decode(codes, image_size=VGA)
        assert isinstance(decoded, torch.Tensor)
        assert decoded.dtype == torch.float64
        assert torch.equal(BoxCodec().encode(decoded.float(), image_size=VGA), codes)

    def test_kept_and_empty(self) -> None:
        codec = BoxCodec(outside="drop")
        encoded = codec.encode_with_indices(torch.tensor([[700.0, 0, 710, 10], [0, 0, 10, 10]]), image_size=VGA)
        assert torch.equal(encoded.indices, torch.tensor([1]))
        assert codec.encode(torch.empty(0, 4), image_size=VGA).shape == (0, 4)
        assert codec.decode(torch.empty(0, 4, dtype=torch.int64), image_size=VGA).shape == (0, 4)


class TestPolicies:
    partly, outside, inside = [600.0, 10, 700, 20], [650.0, 10, 700, 20], [1.0, 2, 30, 40]

    def test_clip_cuts_and_refuses_what_is_wholly_outside(self) -> None:
        assert BoxCodec().encode([self.partly], image_size=VGA).tolist() == [[315, 7, 335, 14]]
        with pytest.raises(BoxError, match=r'box 1, \[650.*lies outside what is shown of the image; .*outside="drop"'):
            BoxCodec().encode([self.inside, self.outside], image_size=VGA)

    def test_raise(self) -> None:
        codec = BoxCodec(outside="raise")
        assert codec.encode([self.inside, [0, 0, 640, 480]], image_size=VGA).shape == (2, 4)
        assert codec.encode([[-1e-7, 0, 640 + 1e-7, 480.0001]], image_size=VGA).tolist() == [[0, 0, 335, 335]]
        for box in (self.partly, self.outside, [-0.01, 0, 5, 5], [0, 0, 640.01, 1]):
            with pytest.raises(BoxError, match=r"box 1, .*reaches out of the image"):
                codec.encode([self.inside, box], image_size=VGA)

    def test_drop_says_which_are_left(self) -> None:
        codec = BoxCodec(outside="drop")
        boxes = [self.outside, self.inside, [-9.0, -9, -1, -1], self.partly, [10.0, 480, 20, 490]]
        encoded = codec.encode_with_indices(boxes, image_size=VGA)
        assert encoded.indices.tolist() == [1, 3]
        assert encoded.indices.dtype == np.int64
        np.testing.assert_array_equal(encoded.codes, codec.encode([self.inside, self.partly], image_size=VGA))
        np.testing.assert_array_equal(codec.encode(boxes, image_size=VGA), encoded.codes)

    def test_dropping_across_chunks(self) -> None:
        rng = np.random.default_rng(0)
        boxes = np.sort(rng.uniform(-300, 900, (50_000, 2, 2)), axis=1).reshape(-1, 4)
        encoded = BoxCodec(outside="drop").encode_with_indices(boxes, image_size=VGA)
        shown = (boxes[:, 0] < 640) & (boxes[:, 1] < 480) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
        np.testing.assert_array_equal(encoded.indices, np.flatnonzero(shown))
        clipped = boxes[shown].clip(0, [640, 480, 640, 480])
        np.testing.assert_array_equal(encoded.codes, BoxCodec().encode(clipped, image_size=VGA))

    def test_every_box_dropped(self) -> None:
        encoded = BoxCodec(outside="drop").encode_with_indices([self.outside], image_size=VGA)
        assert encoded.codes.shape == (0, 4)
        assert encoded.indices.shape == (0,)

    def test_least_visible_share(self) -> None:
        frame = ImageFrame.center_crop(VGA)  # shows x = 80..560
        boxes = [[0.0, 0, 100, 100], [30.0, 0, 130, 100], [70.0, 0, 170, 100], [200.0, 0, 300, 100]]
        np.testing.assert_allclose(frame.visible_fraction(boxes), [0.2, 0.5, 0.9, 1])
        for share, left in [(0.0, [0, 1, 2, 3]), (0.5, [1, 2, 3]), (0.51, [2, 3]), (1.0, [3])]:
            assert BoxCodec().encode_with_indices(boxes, frame=frame, min_visible=share).indices.tolist() == left
        for share in (-0.1, 1.1, math.nan):
            with pytest.raises(BoxError, match="min_visible is a fraction"):
                BoxCodec().encode(boxes, frame=frame, min_visible=share)

    def test_what_a_crop_hides_is_outside(self) -> None:
        frame = ImageFrame.center_crop(VGA)
        with pytest.raises(BoxError, match="outside what is shown"):
            BoxCodec().encode([[0, 0, 80, 10]], frame=frame)
        with pytest.raises(BoxError, match="reaches out"):
            BoxCodec(outside="raise").encode([[79, 0, 90, 10]], frame=frame)
        assert BoxCodec(outside="drop").encode([[0, 0, 80, 10]], frame=frame).shape == (0, 4)

    def test_the_padding_is_outside_too(self) -> None:
        frame = ImageFrame.letterbox(VGA)
        with pytest.raises(BoxError, match="outside what is shown"):
            BoxCodec().encode([[0, -30, 10, -20]], frame=frame)
        assert BoxCodec().encode([[0, -30, 640, 10]], frame=frame).tolist() == [[0, 42, 335, 47]]

    @pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 5, 9, 5], [5, 5, 5, 5], [640, 0, 640, 480]])
    def test_degenerate(self, box: list[int]) -> None:
        boxes = [self.inside, box]
        keep, drop = BoxCodec(), BoxCodec(degenerate="drop")
        assert keep.encode_with_indices(boxes, image_size=VGA).indices.tolist() == [0, 1]
        assert drop.encode_with_indices(boxes, image_size=VGA).indices.tolist() == [0]
        with pytest.raises(BoxError, match=r"box 1, .* has no width or no height"):
            BoxCodec(degenerate="raise").encode(boxes, image_size=VGA)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("convention", ["xyxy", "xywh", "cxcywh"])
    def test_rounding_moves_no_box_over_an_edge(self, convention: Any, dtype: Any) -> None:
        """A box without area on an edge is shown, whole; one that touches the image from outside is not."""
        for width in range(300, 340):
            frame = ImageFrame.letterbox((width, 3 * width + 1), 127)
            corners = [[0, 0, 0, 0], [width, 3 * width + 1] * 2, [-9, 0, 0, 9], [width, 0, width + 9, 9]]
            boxes = from_corners(np.array(corners, dtype=np.float64), convention).astype(dtype)
            np.testing.assert_allclose(frame.visible_fraction(corners), [1, 1, 0, 0], atol=1e-9)
            for codec in (BoxCodec(127, outside="drop"), BoxCodec(7, outside="drop"), BoxCodec(1000, outside="drop")):
                encoded = codec.encode_with_indices(boxes, frame=frame, convention=convention, min_visible=1.0)
                assert encoded.indices.tolist() == [0, 1]
                assert BoxCodec(outside="raise").encode(boxes[:2], frame=frame, convention=convention).shape == (2, 4)

    def test_small_is_not_degenerate(self) -> None:
        codec = BoxCodec(degenerate="raise")
        assert codec.encode([[5, 5, 5.001, 5.001]], image_size=VGA).tolist() == [[2, 3, 2, 3]]


class TestBadInput:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("column", range(4))
    @pytest.mark.parametrize("convention", ["xyxy", "xywh", "cxcywh"])
    @pytest.mark.parametrize("outside", ["clip", "drop", "raise"])
    def test_not_finite(self, value: float, column: int, convention: Any, outside: Any) -> None:
        boxes = np.array([[10.0, 20, 30, 40]] * 3)
        boxes[2, column] = value
        with pytest.raises(BoxError, match=r"box 2, .* is not finite"):
            BoxCodec(outside=outside, degenerate="drop").encode(boxes, image_size=VGA, convention=convention)

    def test_not_finite_behind_many(self) -> None:
        boxes = np.tile([10.0, 20, 30, 40], (40_000, 1))
        boxes[35_000, 3] = math.nan
        with pytest.raises(BoxError, match=r"box 35000, \[10.0, 20.0, 30.0, nan\], is not finite"):
            BoxCodec().encode(boxes, image_size=VGA)

    @pytest.mark.parametrize(
        ("convention", "box"),
        [
            ("xyxy", [30, 20, 10, 40]),
            ("xyxy", [10, 40, 30, 20]),
            ("xywh", [30, 20, -5, 5]),
            ("xywh", [30, 20, 5, -0.001]),
            ("cxcywh", [30, 20, -5, 5]),
        ],
    )
    def test_negative_lengths(self, convention: Any, box: list[float]) -> None:
        for codec in (BoxCodec(), BoxCodec(outside="drop", degenerate="drop")):
            with pytest.raises(BoxError, match=r"box 1, .* is inverted .*; give its convention"):
                codec.encode([[1, 2, 3, 4], box], image_size=VGA, convention=convention)

    def test_the_right_edge(self) -> None:
        """x = width is inside the image and belongs to the last bin."""
        for dtype in (np.float64, np.float32, np.int64):
            codec = BoxCodec(outside="raise", degenerate="raise")
            codes = codec.encode(np.array([[0, 0, 640, 480]], dtype=dtype), image_size=VGA)
            assert codes.tolist() == [[0, 0, 335, 335]]
        assert BoxCodec(outside="raise").encode([[0, 0, 1, 1]], normalized=True).tolist() == [[0, 0, 335, 335]]

    def test_huge_numbers(self) -> None:
        for huge in (10**30, 2**63, 2**63 - 1, 1e308):
            boxes = [[0, 0, huge, huge]]
            assert BoxCodec().encode(boxes, image_size=VGA).tolist() == [[0, 0, 335, 335]]
            with pytest.raises(BoxError, match="reaches out"):
                BoxCodec(outside="raise").encode(boxes, image_size=VGA)
            assert BoxCodec(outside="drop").encode([[huge, 0, huge, 9]], image_size=VGA).shape == (0, 4)
        assert BoxCodec().encode([[1, 1, 1e308, 1e308]], image_size=VGA, convention="xywh").tolist()[0][2:] == [
            335,
            335,
        ]
        with pytest.raises(BoxError, match="regular array"):
            BoxCodec().encode([[0, 0, 10**400, 5]], image_size=VGA)

    @pytest.mark.parametrize("boxes", [[], np.empty((0, 4)), np.empty((0, 4), np.int64), ()])
    def test_no_boxes(self, boxes: Any) -> None:
        encoded = BoxCodec(order="yxyx").encode_with_indices(boxes, image_size=VGA)
        assert encoded.codes.shape == (0, 4)
        assert encoded.codes.dtype == np.int64
        assert encoded.indices.shape == (0,)
        assert BoxCodec(order="yxyx").decode(boxes, image_size=VGA, convention="cxcywh").shape == (0, 4)

    @pytest.mark.parametrize(
        ("boxes", "message"),
        [
            ([1, 2, 3, 4], r"shape \(N, 4\); got \(4,\); put one box into a list"),
            ([[1, 2, 3]], r"got \(1, 3\)"),
            (np.zeros((2, 3, 4)), r"got \(2, 3, 4\)"),
            (np.zeros((4, 0)), r"got \(4, 0\)"),
            (5, r"got \(\)"),
            ([["1", "2", "3", "4"]], "integers or floats"),
            ([[1, 2, 3, None]], "integers or floats; got object"),
            ([[1, 2], [3]], "regular array"),
            ([[True, False, True, True]], "got bool"),
            (None, "integers or floats; got object"),
        ],
    )
    def test_wrong_shapes(self, boxes: Any, message: str) -> None:
        with pytest.raises(BoxError, match=message):
            BoxCodec().encode(boxes, image_size=VGA)

    @pytest.mark.parametrize("image_size", [(0, 480), (640, 0), (640.0, 480.0), (640,), "VGA"])
    def test_images_without_area(self, image_size: Any) -> None:
        with pytest.raises(BoxError, match="at least one pixel"):
            BoxCodec().encode([[1, 2, 3, 4]], image_size=image_size)

    def test_image_size_and_frame_exclude_each_other(self) -> None:
        boxes = [[0, 0, 1, 1]]
        with pytest.raises(BoxError, match=r"give either image_size=.* or frame=; got neither"):
            BoxCodec().encode(boxes)
        with pytest.raises(BoxError, match="got both"):
            BoxCodec().encode(boxes, image_size=VGA, frame=ImageFrame.squash(VGA))
        with pytest.raises(BoxError, match="got neither"):
            BoxCodec(inclusive=True).encode(boxes, normalized=True)
        with pytest.raises(BoxError, match="got neither"):
            BoxCodec().decode(boxes)
        with pytest.raises(ConfigError, match="convention is one of xyxy, xywh, cxcywh; got 'yxyx'"):
            BoxCodec().encode(boxes, image_size=VGA, convention="yxyx")  # type: ignore[call-overload]

    @pytest.mark.parametrize(
        ("codes", "message"),
        [
            ([[0, 0, 336, 5]], r"codes are 0..335; found 336 in box 0, \[0, 0, 336, 5\]"),
            ([[0, 0, 5, 5], [-1, 0, 5, 5]], "box 1"),
            (np.array([[2**63, 0, 5, 5]], np.uint64), "codes are 0..335"),
            ([[9, 0, 5, 5]], "box 0 is inverted: x2 = 5 < x1 = 9"),
            ([[0.0, 0, 5, 5]], "codes are integers; got float64"),
            ([1, 2, 3, 4], r"codes have shape \(N, 4\)"),
            ([[1, 2, 3]], r"codes have shape \(N, 4\)"),
        ],
    )
    def test_codes(self, codes: Any, message: str) -> None:
        with pytest.raises(BoxError, match=message):
            BoxCodec().decode(codes, image_size=VGA)

    def test_the_input_is_left_alone(self) -> None:
        boxes = np.array([[-5.0, 2, 3, 4]])
        kept = boxes.copy()
        BoxCodec().encode(boxes, image_size=VGA)
        np.testing.assert_array_equal(boxes, kept)


class TestText:
    @pytest.mark.parametrize("form", ["aurora", "compact", "numeral"])
    def test_there_and_back(self, form: Any) -> None:
        codec = BoxCodec(1000, order="yxyx")
        text = codec.to_text([[1, 999, 3, 999], [0, 0, 0, 0]], form=form)
        assert codec.from_text(text).tolist() == [[1, 999, 3, 999], [0, 0, 0, 0]]
        assert codec.from_text(f"Here: {text}.", strict=False).tolist() == [[1, 999, 3, 999], [0, 0, 0, 0]]

    def test_refused(self) -> None:
        codec = BoxCodec(order="yxyx")
        for codes, message in (([[5, 0, 4, 9]], "y2 = 4 < y1 = 5"), ([[0, 0, 0, 336]], "found 336 in box 0")):
            with pytest.raises(MalformedBoxError, match=message):
                codec.to_text(codes)
        with pytest.raises(MalformedBoxError, match="y2 = 4 < y1 = 5"):
            codec.from_text("(5,0,4,9)")
        with pytest.raises(ConfigError, match="at most 1048576 codes"):
            BoxCodec(2**20 + 1).to_text([[0, 0, 1, 1]])


class TestSettings:
    def test_decode_is_a_setting_and_a_method(self) -> None:
        codec = BoxCodec(size=336, decode="center")
        assert codec.position == "center"
        assert callable(codec.decode)
        assert repr(codec) == (
            "BoxCodec(size=336, rounding='floor', decode='center', order='xyxy', inclusive=False, outside='clip', "
            "degenerate='keep')"
        )
        assert eval(repr(codec)) == codec  # noqa: S307

    def test_equal_hashable_frozen(self) -> None:
        assert BoxCodec() == BoxCodec(np.int64(336))  # type: ignore[arg-type]
        assert BoxCodec() != BoxCodec(outside="drop")
        assert len({BoxCodec(), BoxCodec(), BoxCodec(1000)}) == 2
        with pytest.raises(AttributeError):
            BoxCodec().size = 5  # type: ignore[misc]

    @given(SIZES, ROUNDINGS, ORDERS, st.booleans(), st.sampled_from(["corner", "center"]))
    def test_dict_round_trip(self, size: int, rounding: Any, order: Any, inclusive: bool, decode: Any) -> None:
        codec = BoxCodec(size, rounding=rounding, order=order, inclusive=inclusive, decode=decode, outside="drop")
        values = codec.to_dict()
        assert values["decode"] == decode
        assert BoxCodec.from_dict(json.loads(json.dumps(values))) == codec

    def test_unknown_keys_are_refused(self) -> None:
        assert BoxCodec.from_dict({"size": 1000}) == BoxCodec(1000)
        with pytest.raises(ConfigError, match="got position"):
            BoxCodec.from_dict({"position": "center"})

    @pytest.mark.parametrize(
        "changed",
        [
            {"size": 0},
            {"size": 336.0},
            {"size": True},
            {"rounding": "ceil"},
            {"decode": "centre"},
            {"order": "xywh"},
            {"inclusive": 1},
            {"outside": "ignore"},
            {"degenerate": None},
            {"degenerate": ["keep"]},
        ],
    )
    def test_values(self, changed: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=f"{next(iter(changed))} is .*; got"):
            BoxCodec(**changed)
