"""Frames: exact inverses, the image they promise, what a crop loses, and look-ups in depth maps."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from perceptok.boxes import BoxCodec, ImageFrame, convert_spelling
from perceptok.errors import BoxError, ConfigError
from tests.boxes.drawn_frames import frames


class TestMapping:
    @given(frames(), st.integers(0, 2**32 - 1))
    def test_to_image_is_the_inverse_of_to_frame(self, frame: ImageFrame, seed: int) -> None:
        points = np.random.default_rng(seed).uniform(-0.5, 1.5, (20, 2)) * frame.image_size
        back = frame.to_image(frame.to_frame(points))
        # float64 has 53 bits; a crop of a long panorama spends some of them on its offset.
        np.testing.assert_allclose(back, points, rtol=0, atol=1e-9)
        np.testing.assert_allclose(frame.to_frame(frame.to_image(points)), points, rtol=0, atol=1e-9)

    @given(frames())
    def test_one_pixel_at_a_time(self, frame: ImageFrame) -> None:
        """The slow and obvious way: pad, resize and place one coordinate."""
        for axis in (0, 1):
            for position in (0, 1, frame.image_size[axis] // 3, frame.image_size[axis]):
                before, behind = frame.padding[axis], frame.padding[axis + 2]
                share = (position + before) / (before + frame.image_size[axis] + behind)
                expected = share * frame.resized[axis] + frame.offset[axis]
                point = [0.0, 0.0]
                point[axis] = position
                assert frame.to_frame(point)[axis] == pytest.approx(expected, abs=1e-9)

    @given(frames())
    def test_where_nothing_is_cropped_the_whole_image_is_shown(self, frame: ImageFrame) -> None:
        x1, y1, x2, y2 = frame.to_frame([0, 0, *frame.image_size])
        inside = min(x1, y1) > -1e-9 and max(x2, y2) < frame.size + 1e-9
        assert inside is not frame.crops or frame.mode == "center_crop"
        if not frame.crops:
            assert inside
            assert frame.window == pytest.approx((x1, y1, x2, y2), abs=1e-9)
            assert frame.visible_fraction([[0, 0, *frame.image_size]])[0] == pytest.approx(1)

    def test_boxes_map_as_their_corners(self) -> None:
        frame = ImageFrame.center_crop((640, 480))
        boxes = np.random.default_rng(0).uniform(0, 480, (3, 5, 4))
        corners = frame.to_frame(boxes.reshape(3, 5, 2, 2))
        np.testing.assert_array_equal(frame.to_frame(boxes).reshape(3, 5, 2, 2), corners)

    @pytest.mark.parametrize(
        ("frame", "box", "expected"),
        [
            (ImageFrame.squash((640, 480)), [0, 0, 640, 480], [0, 0, 336, 336]),
            (ImageFrame.squash((640, 480)), [320, 120, 480, 240], [168, 84, 252, 168]),
            (ImageFrame.letterbox((640, 480)), [0, 0, 640, 480], [0, 42, 336, 294]),
            (ImageFrame.letterbox((480, 640), align="start"), [0, 0, 480, 640], [0, 0, 252, 336]),
            (ImageFrame.center_crop((640, 480)), [80, 0, 560, 480], [0, 0, 336, 336]),
            (ImageFrame.center_crop((640, 480), 224, resize=256), [0, 0, 640, 480], [-58, -16, 283, 240]),
        ],
    )
    def test_by_hand(self, frame: ImageFrame, box: list[int], expected: list[int]) -> None:
        np.testing.assert_allclose(frame.to_frame(box), expected, atol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
    def test_tensors_come_back_as_tensors(self, dtype: torch.dtype) -> None:
        frame = ImageFrame.center_crop((640, 480))
        points = torch.tensor([[0, 0], [64, 32]]).to(dtype).requires_grad_(dtype == torch.float32)
        mapped = frame.to_frame(points)
        assert isinstance(mapped, torch.Tensor)
        assert mapped.dtype == torch.float64
        np.testing.assert_array_equal(mapped.numpy(), frame.to_frame(points.detach().double().numpy()))
        assert torch.equal(frame.to_image(mapped), points.detach().double())

    @pytest.mark.parametrize(
        ("points", "message"),
        [
            ([[1.0, float("nan")]], "finite; found nan at .0, 1."),
            ([[float("inf"), 0.0]], "finite"),
            ([1.0, 2.0, 3.0], r"shape \(..., 2\) or \(..., 4\); got \(3,\)"),
            (5.0, "shape"),
            ([["a", "b"]], "integers or floats"),
            ([[1, 2], [3]], "regular array"),
            ([[True, False]], "got bool"),
            ([[1j, 2j]], "got complex"),
            ([[10**400, 0]], "regular array"),
        ],
    )
    def test_bad_coordinates(self, points: object, message: str) -> None:
        for turned in (ImageFrame.squash((640, 480)).to_frame, ImageFrame.squash((640, 480)).to_image):
            with pytest.raises(BoxError, match=message):
                turned(points)  # type: ignore[call-overload]

    def test_no_points_keep_their_shape(self) -> None:
        frame = ImageFrame.squash((640, 480))
        assert frame.to_frame(np.empty((0, 4))).shape == (0, 4)
        assert frame.to_image(torch.empty(0, 2)).shape == (0, 2)
        assert frame.visible_fraction([]).shape == (0,)


class TestVisibleFraction:
    @pytest.mark.parametrize(
        ("box", "share"),
        [
            ([80, 0, 560, 480], 1.0),  # just what the crop keeps
            ([0, 0, 160, 480], 0.5),
            ([0, 0, 80, 480], 0.0),
            ([600, 10, 640, 20], 0.0),
            ([40, 100, 120, 200], 0.5),
            ([100, 100, 100, 200], 1.0),  # no width, inside
            ([20, 100, 20, 200], 0.0),  # no width, cropped
            ([100, 460, 200, 500], 0.5),  # half of it below the image
            ([560, 480, 560, 480], 1.0),  # the last corner
        ],
    )
    def test_by_hand(self, box: list[float], share: float) -> None:
        assert ImageFrame.center_crop((640, 480)).visible_fraction([box])[0] == pytest.approx(share)

    @given(frames(st.tuples(st.integers(1, 400), st.integers(1, 400))), st.integers(0, 2**32 - 1))
    def test_pixels_counted_one_by_one(self, frame: ImageFrame, seed: int) -> None:
        rng = np.random.default_rng(seed)
        (x1, x2), (y1, y2) = (np.sort(rng.integers(-5, side + 6, 2)) for side in frame.image_size)
        got = frame.visible_fraction([[x1, y1, x2, y2]])[0]
        shown = []
        for axis, (low, high) in enumerate(((x1, x2), (y1, y2))):
            edges = frame.to_image(np.array([frame.window[:2], frame.window[2:]]))[:, axis]
            if low == high:
                shown.append(float(edges[0] - 1e-9 <= low <= edges[1] + 1e-9))
                continue
            pixels = [max(0.0, min(i + 1, edges[1]) - max(i, edges[0])) for i in range(low, high)]
            shown.append(sum(pixels) / (high - low))
        if x1 < x2 and y1 < y2:
            assert got == pytest.approx(shown[0] * shown[1], abs=1e-9)
        assert 0 <= got <= 1

    def test_tensor(self) -> None:
        share = ImageFrame.center_crop((640, 480)).visible_fraction(torch.tensor([[0.0, 0, 160, 480]]))
        assert torch.equal(share, torch.tensor([0.5], dtype=torch.float64))

    def test_upside_down(self) -> None:
        with pytest.raises(BoxError, match=r"box 1 is inverted: \[5.0, 0.0, 4.0, 9.0\]"):
            ImageFrame.squash((640, 480)).visible_fraction([[0, 0, 1, 1], [5, 0, 4, 9]])


class TestPicture:
    """A white dot in the original is where `to_frame` says, whatever the frame."""

    @pytest.mark.parametrize("image_size", [(640, 480), (480, 640), (333, 333), (101, 57), (64, 200)])
    @pytest.mark.parametrize("kind", ["squash", "letterbox", "start", "center_crop", "small crop"])
    def test_a_dot_lands_where_its_coordinates_say(self, image_size: tuple[int, int], kind: str) -> None:
        frame = {
            "squash": ImageFrame.squash(image_size),
            "letterbox": ImageFrame.letterbox(image_size, fill=0),
            "start": ImageFrame.letterbox(image_size, fill=0, align="start"),
            "center_crop": ImageFrame.center_crop(image_size, resample="bilinear"),
            "small crop": ImageFrame.center_crop(image_size, 200, resize=120),
        }[kind]
        width, height = image_size
        x, y = int(width * 0.55), int(height * 0.45)
        pixels = np.zeros((height, width), dtype=np.float32)
        pixels[y, x] = 1
        image = frame.apply(pixels)
        assert image.shape == (frame.size, frame.size)
        rows, columns = np.mgrid[: frame.size, : frame.size]
        centre = ((image * (columns + 0.5)).sum(), (image * (rows + 0.5)).sum()) / image.sum()
        np.testing.assert_allclose(centre, frame.to_frame([x + 0.5, y + 0.5]), atol=0.05)

    def test_fill_and_window(self) -> None:
        frame = ImageFrame.letterbox((640, 480), fill=(7, 8, 9))
        image = np.asarray(frame.apply(Image.new("RGB", (640, 480), (200, 100, 50))))
        assert (image[:42] == (7, 8, 9)).all()
        assert (image[294:] == (7, 8, 9)).all()
        assert (image[42:294] == (200, 100, 50)).all()

    def test_pillow_and_numpy_agree(self) -> None:
        rgb = np.random.default_rng(0).integers(0, 256, (57, 101, 3), dtype=np.uint8)
        frame = ImageFrame.center_crop((101, 57), 64)
        image = frame.apply(Image.fromarray(rgb))
        assert isinstance(image, Image.Image)
        np.testing.assert_array_equal(np.asarray(image), frame.apply(rgb))

    def test_channels_that_pillow_does_not_know_go_one_by_one(self) -> None:
        rgb = np.random.default_rng(0).integers(0, 256, (57, 101, 3), dtype=np.uint8)
        five = np.concatenate([rgb, rgb[..., :2]], axis=2)
        frame = ImageFrame.squash((101, 57), 64, resample="bilinear")  # bicubic overshoots, and bytes cut that off
        np.testing.assert_array_equal(frame.apply(five)[..., :3], frame.apply(rgb))
        floats = frame.apply(rgb.astype(np.float32))
        assert floats.dtype == np.float32
        assert np.abs(floats - frame.apply(rgb)).max() <= 1

    def test_the_image_itself_where_there_is_nothing_to_do(self) -> None:
        rgb = np.random.default_rng(0).integers(0, 256, (336, 336, 3), dtype=np.uint8)
        for frame in (ImageFrame.squash, ImageFrame.letterbox, ImageFrame.center_crop):
            np.testing.assert_array_equal(frame((336, 336)).apply(rgb), rgb)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (Image.new("RGB", (480, 640)), r"images of \(640, 480\) \(width, height\); got \(480, 640\)"),
            (Image.new("P", (640, 480)), r'got P: call image.convert\("RGB"\)'),
            (Image.new("RGBA", (640, 480)), "got RGBA"),
            (Image.new("L", (640, 480)), "has 3 channels, the image 1"),
            (np.zeros((480, 640, 3)), "uint8 or float32; got float64"),
            (np.zeros((3,), np.uint8), "uint8 or float32"),
        ],
    )
    def test_refused(self, image: Image.Image, message: str) -> None:
        with pytest.raises(BoxError, match=message):
            ImageFrame.letterbox((640, 480)).apply(image)


class TestLookUps:
    def test_points_in_a_decoded_map(self) -> None:
        """The reference's rule: a point of the 336 frame lies at 320/336 of it in the depth map."""
        frame = ImageFrame.squash((640, 480))
        rows, columns = frame.to_depth_map([[0, 0], [168, 84], [335.9, 1], [336, 336]])
        assert rows.tolist() == [0, 80, 0, 319]
        assert columns.tolist() == [0, 160, 319, 319]
        assert rows.dtype == np.int64

    @given(st.integers(0, 335), st.integers(0, 335))
    def test_the_cell_holds_the_pixel(self, x: int, y: int) -> None:
        frame = ImageFrame.squash((336, 336))
        rows, columns = frame.to_depth_map([x, y])
        row, column = frame.to_grid_cell([x, y])
        assert (row, column) == (rows // 32, columns // 32) == (y * 10 // 336, x * 10 // 336)

    def test_a_marker_is_looked_up(self) -> None:
        frame = ImageFrame.letterbox((640, 480))
        nearness = np.zeros((320, 320))
        nearness[160, 80] = 1
        marker = frame.to_image([84.1, 168.1])
        assert nearness[frame.to_depth_map(frame.to_frame(marker))] == 1

    def test_tensors(self) -> None:
        rows, columns = ImageFrame.squash((640, 480)).to_grid_cell(torch.tensor([[100, 200], [0, 336]]))
        assert torch.equal(rows, torch.tensor([5, 9]))
        assert torch.equal(columns, torch.tensor([2, 0]))

    @pytest.mark.parametrize("point", [[-0.1, 5], [5, 336.1], [1e300, 0]])
    def test_outside(self, point: list[float]) -> None:
        with pytest.raises(BoxError, match=r"points lie in the frame, 0..336; got"):
            ImageFrame.squash((640, 480)).to_depth_map([[1, 1], point])

    def test_boxes_are_no_points(self) -> None:
        with pytest.raises(BoxError, match=r"shape \(..., 2\); got \(1, 4\)"):
            ImageFrame.squash((640, 480)).to_depth_map([[1, 1, 2, 2]])


class TestJson:
    @given(frames())
    def test_round_trip(self, frame: ImageFrame) -> None:
        assert ImageFrame.from_json(frame.to_json()) == frame
        assert ImageFrame.from_dict(json.loads(json.dumps(frame.to_dict()))) == frame

    def test_golden(self) -> None:
        assert ImageFrame.letterbox((640, 480)).to_json() == (
            '{"mode": "letterbox", "image_size": [640, 480], "size": 336, "resized": [336, 252], "offset": [0, 42], '
            '"padding": [0, 0, 0, 0], "fill": [122, 116, 104], "resample": "bicubic"}'
        )

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"mode": "squash"}'])
    def test_no_frame(self, text: str) -> None:
        with pytest.raises(ConfigError, match="an image frame"):
            ImageFrame.from_json(text)

    def test_unknown_keys_are_refused(self) -> None:
        values = ImageFrame.squash((640, 480)).to_dict() | {"rotation": 90}
        with pytest.raises(ConfigError, match="rotation"):
            ImageFrame.from_dict(values)


class TestRefused:
    @pytest.mark.parametrize(
        "image_size",
        [(0, 480), (640, 0), (-1, 5), (640.5, 480), (640,), (1, 2, 3), 640, None, ("640", "480"), (True, 2)],
    )
    def test_images_without_area(self, image_size: object) -> None:
        for frame in (ImageFrame.squash, ImageFrame.letterbox, ImageFrame.center_crop):
            with pytest.raises(BoxError, match="a width and a height of at least one pixel; got"):
                frame(image_size)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"mode": "stretch"}, "mode is one of squash, letterbox, center_crop; got 'stretch'"),
            ({"size": 0}, "size: expected 1 integer from 1"),
            ({"size": 336.0}, "size"),
            ({"resized": (336, 0)}, "resized: expected 2 integers from 1"),
            ({"offset": (0.5, 0)}, "offset"),
            ({"padding": (0, 0, -1, 0)}, "padding: expected 4 integers from 0"),
            ({"fill": ()}, "fill"),
            ({"fill": (0, 0, 256)}, "fill: expected 3 integers from 0 to 255"),
            ({"resample": "cubic"}, "resample is one of nearest"),
        ],
    )
    def test_values(self, changed: dict[str, object], message: str) -> None:
        values = ImageFrame.squash((640, 480)).to_dict() | changed
        with pytest.raises(ConfigError, match=message):
            ImageFrame.from_dict(values)

    def test_align(self) -> None:
        with pytest.raises(ConfigError, match='align is "center" or "start"'):
            ImageFrame.letterbox((640, 480), align="end")  # type: ignore[arg-type]

    def test_frozen_and_hashable(self) -> None:
        frame = ImageFrame.squash([640, 480])  # type: ignore[arg-type]
        assert frame.image_size == (640, 480)
        assert {frame: 1}[ImageFrame.squash((np.int64(640), 480))] == 1
        with pytest.raises(AttributeError):
            frame.size = 3  # type: ignore[misc]


def test_arrays_need_no_torch() -> None:
    code = (
        "import sys; from perceptok.boxes.codec import BoxCodec; c = BoxCodec();"
        "print(c.decode(c.encode([[1, 2, 3, 4]], image_size=(9, 9)), image_size=(9, 9)).shape);"
        "assert not {'torch', 'transformers', 'scipy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("(1, 4)", "")


class TestNoSquare:
    """Qwen2-VL's frame has about the image's own shape."""

    FRAME = ImageFrame.smart_resize((1000, 300))

    def test_shape(self) -> None:
        assert self.FRAME.shape == (1008, 308)
        assert (self.FRAME.size, self.FRAME.size_y) == (1008, 308)
        assert self.FRAME.window == (0, 0, 1008, 308)
        assert not self.FRAME.crops
        assert ImageFrame.smart_resize((280, 280)).size_y is None
        assert ImageFrame.squash((5, 4), 336).shape == (336, 336)

    def test_there_and_back(self) -> None:
        boxes = np.array([[0, 0, 1000, 300], [100, 30, 500, 150.5]])
        framed = self.FRAME.to_frame(boxes)
        np.testing.assert_allclose(framed, boxes * np.tile([1.008, 308 / 300], 2))
        np.testing.assert_allclose(self.FRAME.to_image(framed), boxes)
        np.testing.assert_allclose(self.FRAME.visible_fraction(boxes), 1)

    def test_picture(self) -> None:
        image = self.FRAME.apply(Image.new("RGB", (1000, 300)))
        assert image.size == (1008, 308)
        assert self.FRAME.apply(np.zeros((300, 1000, 3), np.uint8)).shape == (308, 1008, 3)

    def test_look_ups_and_their_limits(self) -> None:
        rows, columns = self.FRAME.to_grid_cell([[0, 0], [1008, 308], [505, 155]])
        assert (rows.tolist(), columns.tolist()) == ([0, 9, 5], [0, 9, 5])
        with pytest.raises(BoxError, match=r"0\.\.1008 and 0\.\.308; got \[0.0, 309.0\]"):
            self.FRAME.to_grid_cell([[0, 309]])

    def test_records(self) -> None:
        assert ImageFrame.from_json(self.FRAME.to_json()) == self.FRAME
        assert "size_y" not in ImageFrame.squash((5, 4)).to_dict()
        with pytest.raises(ConfigError, match="and size_y if it is not square"):
            ImageFrame.from_dict({**self.FRAME.to_dict(), "depth": 3})

    def test_codes_are_those_of_the_squashed_image(self) -> None:
        """Bins divide each axis by itself, so that a frame which shows all of the image changes nothing."""
        boxes = np.array([[0, 0, 1000, 300], [100, 30, 500, 150.5]])
        codec = BoxCodec(decode="center")
        codes = codec.encode(boxes, frame=self.FRAME)
        np.testing.assert_array_equal(codes, codec.encode(boxes, image_size=(1000, 300)))
        decoded = codec.decode(codes, frame=self.FRAME)
        np.testing.assert_allclose(decoded, codec.decode(codes, image_size=(1000, 300)))

    def test_qwens_absolute_pixels(self) -> None:
        box = [[100, 30, 500, 150]]
        pixels = np.rint(self.FRAME.to_frame(np.array(box, float))).astype(int)
        text = json.dumps([{"bbox_2d": pixels[0].tolist()}])
        converted = convert_spelling(text, source="qwen", target="aurora", image_size=self.FRAME.shape)
        back = BoxCodec(decode="center").decode(converted.codes, image_size=(1000, 300))
        np.testing.assert_allclose(back, box, atol=1000 / 336)


@pytest.mark.parametrize(
    "frame",
    [ImageFrame.squash((4, 4), 60_000), ImageFrame.letterbox((4, 4), 60_000), ImageFrame.center_crop((4, 4), 60_000)],
)
def test_pictures_too_large_are_refused_before_they_are_made(frame: ImageFrame) -> None:
    np.testing.assert_allclose(frame.to_frame([[0, 0, 4, 4]]), [[0, 0, 60_000, 60_000]])
    for image in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32), Image.new("RGB", (4, 4))):
        with pytest.raises(BoxError, match="60000 x 60000 pixels is larger than the limit of 134217728"):
            frame.apply(image)  # type: ignore[type-var]
