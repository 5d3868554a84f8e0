"""Pictures as data URIs: small, upright, and grey levels that mean nearness."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from perceptok.errors import EvaluationError
from perceptok.pages.page import EmbeddedImage, embed_image, embed_map


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def read(embedded: EmbeddedImage) -> Image.Image:
    head, _, data = embedded.uri.partition(",")
    assert head.endswith(";base64")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_small_file_is_kept_byte_for_byte() -> None:
    data = saved(Image.new("RGB", (30, 20), "red"), "PNG")
    embedded = embed_image(data, "x")
    assert base64.b64decode(embedded.uri.partition(",")[2]) == data
    assert embedded[1:] == (30, 20)


def test_a_large_one_is_made_smaller_and_keeps_its_size_in_mind() -> None:
    embedded = embed_image(saved(Image.new("RGB", (2000, 1000), "red"), "JPEG"), "x")
    assert embedded[1:] == (2000, 1000)
    assert read(embedded).size == (512, 256)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16", "RGBA"])
def test_every_mode_becomes_one_that_browsers_show(mode: str) -> None:
    embedded = embed_image(saved(Image.new(mode, (12, 9)), "TIFF"), "x")
    assert embedded.uri.startswith("data:image/webp")
    assert read(embedded).size == (12, 9)


def test_floating_point_values_are_refused_as_everywhere() -> None:
    with pytest.raises(EvaluationError, match="floating point values"):
        embed_image(saved(Image.new("F", (12, 9)), "TIFF"), "x")


def test_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    embedded = embed_image(saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif), "x")
    assert embedded[1:] == (20, 40)
    assert read(embedded).size == (20, 40)


def test_levels_are_nearness() -> None:
    ramp = np.linspace(0, 1, 100, dtype=np.float32)[None].repeat(50, 0)
    embedded = embed_map(ramp)
    grey = np.asarray(read(embedded).convert("L"), dtype=np.float64) / 255
    np.testing.assert_allclose(grey, ramp, atol=0.02)
    assert len(embedded.uri) < 4000


def test_holes_are_transparent_and_the_rest_exact() -> None:
    holed = np.linspace(0, 1, 100, dtype=np.float32)[None].repeat(50, 0)
    holed[10:20, 30:40] = np.nan
    levels, alpha = read(embed_map(holed)).split()
    known = np.isfinite(holed)
    np.testing.assert_array_equal(np.asarray(alpha) == 255, known)
    np.testing.assert_array_equal(np.asarray(levels)[known], np.rint(holed[known] * 255).astype(np.uint8))


def test_a_map_of_holes_alone() -> None:
    assert np.asarray(read(embed_map(np.full((3, 3), np.nan, dtype=np.float32))).split()[1]).max() == 0
