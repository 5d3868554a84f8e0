"""Every image that people hand over is seen as they see it, or refused in words."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.errors import InferenceError
from perceptok.images import open_picture


def saved(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def test_a_file_its_bytes_and_its_array_are_one_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(pixels)))
    sources = (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), pixels)
    for source in (*sources, Image.fromarray(pixels)):
        opened = open_picture(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_a_turned_photo_is_seen_upright() -> None:
    photo = Image.new("RGB", (30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert open_picture(saved(photo, "JPEG", exif=exif)).size == (10, 30)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr", "HSV", "LAB"])
def test_modes(mode: str) -> None:
    image = Image.new("RGB", (3, 2), (250, 0, 0)).convert("RGB" if mode == "LAB" else mode)
    assert open_picture(image).mode == "RGB"


def test_transparent_pixels_are_white() -> None:
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert open_picture(saved(clear)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert open_picture(saved(palette, transparency=1)).getpixel((0, 0)) == (255, 255, 255)


def test_the_first_picture_of_an_animation() -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    animation = saved(first, "GIF", save_all=True, append_images=[second])
    assert open_picture(animation).getpixel((0, 0)) == (254, 0, 0) or open_picture(animation).getpixel((0, 0))[0] > 250


def test_one_pixel_and_a_long_strip() -> None:
    assert open_picture(saved(Image.new("RGB", (1, 1)))).size == (1, 1)
    assert open_picture(saved(Image.new("L", (20_000, 3)))).size == (20_000, 3)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    header = saved(Image.new("1", (8, 8)))
    # The size stands in bytes 16 to 24 of a PNG; its checksum is made anew.
    for side in (10_000, 20_000):
        body = header[12:16] + struct.pack(">II", side, side) + header[24:29]
        bomb = header[:12] + body + struct.pack(">I", zlib.crc32(body)) + header[33:]
        with pytest.raises(InferenceError, match="scale it down first"):
            open_picture(bomb)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "not a readable image"),
        (b"GIF89a nonsense", "not a readable image"),
        ("no/such/file.png", "there is no such image"),
        ("null\0character.png", "cannot be read"),
        (np.zeros((3, 3), dtype=np.float32), "an image is an array"),
        (np.zeros((3, 3, 4), dtype=np.uint8), "an image is an array"),
        (np.zeros((0, 3, 3), dtype=np.uint8), "no pixels"),
        (Image.new("I;16", (3, 3)), "more than 8 bits"),
        (Image.new("F", (3, 3)), "more than 8 bits"),
    ],
)
def test_what_is_no_image(source: object, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        open_picture(source)  # type: ignore[arg-type]


def test_half_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = saved(Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)))
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InferenceError, match=r"half\.png: not a readable image"):
        open_picture(tmp_path / "half.png")
    with pytest.raises(InferenceError, match="cannot be read"):
        open_picture(tmp_path)
