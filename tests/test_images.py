"""Images are opened with the pixels that a viewer shows, or refused with the reason; colors of nearness."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.errors import ImageError
from perceptok.images import colorize_nearness, find_images, open_image, read_image_size

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_a_file_its_bytes_and_its_array_give_the_same_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(pixels)))
    sources = (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), pixels)
    for source in (*sources, Image.fromarray(pixels)):
        opened = open_image(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(orientation: int, tmp_path: Path) -> None:
    upright = Image.fromarray(PIXELS)
    # The transformation of the stored image that the orientation undoes.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), PIXELS)
    assert read_image_size(tmp_path / "a.png") == upright.size
    as_stored = open_image(tmp_path / "a.png", apply_orientation=False)
    np.testing.assert_array_equal(np.asarray(as_stored), np.asarray(stored))
    assert as_stored.getexif()[0x0112] == orientation


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr", "HSV", "LAB"])
def test_modes(mode: str) -> None:
    image = Image.new("RGB", (3, 2), (250, 0, 0)).convert("RGB" if mode == "LAB" else mode)
    assert open_image(image).mode == "RGB"


def test_transparent_pixels_are_white() -> None:
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert open_image(encode(clear)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert open_image(encode(palette, transparency=1)).getpixel((0, 0)) == (255, 255, 255)


def test_the_first_frame_of_an_animation() -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    animation = encode(first, "GIF", save_all=True, append_images=[second])
    assert open_image(animation).getpixel((0, 0)) == (254, 0, 0) or open_image(animation).getpixel((0, 0))[0] > 250


def test_one_pixel_and_a_long_strip() -> None:
    assert open_image(encode(Image.new("RGB", (1, 1)))).size == (1, 1)
    assert open_image(encode(Image.new("L", (20_000, 3)))).size == (20_000, 3)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    header = encode(Image.new("1", (8, 8)))
    # The size is in bytes 16 to 24 of a PNG; the checksum is recomputed.
    for side in (10_000, 20_000):
        body = header[12:16] + struct.pack(">II", side, side) + header[24:29]
        bomb = header[:12] + body + struct.pack(">I", zlib.crc32(body)) + header[33:]
        with pytest.raises(ImageError, match="scale it down first"):
            open_image(bomb)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "not a readable image"),
        (b"GIF89a nonsense", "not a readable image"),
        ("no/such/file.png", "image file not found"),
        ("null\0character.png", "cannot be read"),
        (np.zeros((3, 3), dtype=np.float32), "an image is an array"),
        (np.zeros((3, 3, 4), dtype=np.uint8), "an image is an array"),
        (np.zeros((0, 3, 3), dtype=np.uint8), "no pixels"),
        (Image.new("F", (3, 3)), "floating point"),
        (Image.fromarray(np.full((3, 3), 70_000, dtype=np.int32)), "at most 16 bits"),
    ],
)
def test_other_sources_are_refused(source: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(source)  # type: ignore[arg-type]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = encode(Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)))
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"half\.png: not a readable image"):
        open_image(tmp_path / "half.png")
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(tmp_path)


def test_cmyk_palette_grey_and_opaque_layers_become_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(np.asarray(open_image(tmp_path / "cmyk.jpg")).astype(int) - PIXELS).mean() < 60
    for mode, name in (("P", "p.png"), ("L", "l.png"), ("RGBA", "rgba.png"), ("LA", "la.png"), ("1", "one.png")):
        image.convert(mode).save(tmp_path / name)
        assert open_image(tmp_path / name).mode == "RGB"
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "rgba.png")), PIXELS)


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    grey = RNG.integers(0, 65536, (24, 32), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png"))[..., 0], grey >> 8)


def test_a_transparent_color_without_an_alpha_channel_is_white() -> None:
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (200, 0, 0))
    opened = open_image(encode(image, transparency=(9, 9, 9)))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (200, 0, 0)]


def test_a_half_transparent_layer_is_composited_over_white() -> None:
    assert open_image(encode(Image.new("RGBA", (1, 1), (0, 0, 0, 51)))).getpixel((0, 0)) == (204, 204, 204)
    assert open_image(encode(Image.new("LA", (1, 1), (0, 51)))).getpixel((0, 0)) == (204, 204, 204)


def test_images_are_found_by_name_in_order(tmp_path: Path) -> None:
    for name in ("b/ä ö.png", "a.PNG", "b/c.jpg", "b.gif", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path) == ["a.PNG", "b.gif", "b/c.jpg", "b/ä ö.png"]
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "b")
    linked = ["c/c.jpg", "c/up/a.PNG", "c/up/b.gif", "c/ä ö.png"]
    assert find_images(tmp_path) == ["a.PNG", "b.gif", "b/c.jpg", "b/ä ö.png", *linked[:1], *linked[3:]]
    with pytest.raises(ImageError, match="image folder not found"):
        find_images(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images found"):
        find_images(tmp_path / "empty")


def test_far_is_blue_and_near_is_red() -> None:
    colors = colorize_nearness(np.array([[0.0, 1.0], [-3.0, 7.0]], dtype=np.float32))
    assert colors.shape == (2, 2, 3)
    assert colors.dtype == np.uint8
    np.testing.assert_array_equal(colors[0], colors[1])
    far, near = colors[0].astype(int)
    assert far[2] > far[0]
    assert near[0] > near[2]


def test_equal_steps_of_nearness_have_different_colors() -> None:
    colors = colorize_nearness(np.linspace(0, 1, 64)).astype(int)
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() >= 4
