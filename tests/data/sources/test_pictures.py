"""Image files of every odd kind: shown faithfully, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.errors import DataError
from perceptok.images import find_images, read_picture

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_an_exif_rotation_is_undone(tmp_path: Path) -> None:
    upright = Image.fromarray(COLOURS)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.png")), COLOURS)


def test_cmyk_palette_grey_and_opaque_layers_become_rgb(tmp_path: Path) -> None:
    picture = Image.fromarray(COLOURS)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(np.asarray(read_picture(tmp_path / "cmyk.jpg")).astype(int) - COLOURS).mean() < 60
    for mode, name in (("P", "p.png"), ("L", "l.png"), ("RGBA", "rgba.png"), ("LA", "la.png"), ("1", "one.png")):
        picture.convert(mode).save(tmp_path / name)
        assert read_picture(tmp_path / name).mode == "RGB"
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "rgba.png")), COLOURS)


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    grey = RNG.integers(0, 65536, (24, 32), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.png"))[..., 0], grey >> 8)


def test_pictures_that_are_refused(tmp_path: Path) -> None:
    picture = Image.fromarray(COLOURS)
    picture.save(tmp_path / "moving.webp", save_all=True, append_images=[picture.rotate(90)], lossless=True)
    layered = picture.convert("RGBA")
    layered.putalpha(100)
    layered.save(tmp_path / "clear.png")
    Image.fromarray(COLOURS[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    whole = tmp_path / "whole.jpg"
    picture.resize((320, 240)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:-2000])
    (tmp_path / "text.png").write_text("no picture")
    for name, reason in (
        ("moving.webp", "2 frames"),
        ("clear.png", "partly transparent"),
        ("float.tif", "mode F"),
        ("cut.jpg", "not a readable image"),
        ("text.png", "not a readable image"),
        ("gone.png", "no such image"),
    ):
        with pytest.raises(DataError, match=reason):
            read_picture(tmp_path / name)


def test_images_are_found_by_name_in_order(tmp_path: Path) -> None:
    for name in ("b/ä ö.png", "a.PNG", "b/c.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path) == ["a.PNG", "b/c.jpg", "b/ä ö.png"]
    with pytest.raises(DataError, match="no such folder"):
        find_images(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in it"):
        find_images(tmp_path / "empty")
