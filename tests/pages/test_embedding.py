"""Images and nearness maps as data URIs: small, upright, with grey levels for nearness."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from perceptok.errors import EvaluationError
from perceptok.pages.page import EmbeddedImage, embed_image, embed_map


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def decode(embedded: EmbeddedImage) -> Image.Image:
    head, _, data = embedded.uri.partition(",")
    assert head.endswith(";base64")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_small_file_is_kept_byte_for_byte() -> None:
    data = encode(Image.new("RGB", (30, 20), "red"), "PNG")
    embedded = embed_image(data, "x")
    assert base64.b64decode(embedded.uri.partition(",")[2]) == data
    assert embedded[1:] == (30, 20)


def test_a_large_image_is_scaled_down_and_its_size_recorded() -> None:
    embedded = embed_image(encode(Image.new("RGB", (2000, 1000), "red"), "JPEG"), "x")
    assert embedded[1:] == (2000, 1000)
    assert decode(embedded).size == (512, 256)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16", "RGBA"])
def test_every_mode_is_converted_for_browsers(mode: str) -> None:
    embedded = embed_image(encode(Image.new(mode, (12, 9)), "TIFF"), "x")
    assert embedded.uri.startswith("data:image/webp")
    assert decode(embedded).size == (12, 9)


def test_floating_point_values_are_refused() -> None:
    with pytest.raises(EvaluationError, match="floating point values"):
        embed_image(encode(Image.new("F", (12, 9)), "TIFF"), "x")


def test_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    embedded = embed_image(encode(Image.new("RGB", (40, 20)), "JPEG", exif=exif), "x")
    assert embedded[1:] == (20, 40)
    assert decode(embedded).size == (20, 40)


def test_grey_levels_are_nearness() -> None:
    ramp = np.linspace(0, 1, 100, dtype=np.float32)[None].repeat(50, 0)
    embedded = embed_map(ramp)
    grey = np.asarray(decode(embedded).convert("L"), dtype=np.float64) / 255
    np.testing.assert_allclose(grey, ramp, atol=0.02)
    assert len(embedded.uri) < 4000


def test_holes_are_transparent_and_valid_pixels_exact() -> None:
    nearness = np.linspace(0, 1, 100, dtype=np.float32)[None].repeat(50, 0)
    nearness[10:20, 30:40] = np.nan
    levels, alpha = decode(embed_map(nearness)).split()
    valid = np.isfinite(nearness)
    np.testing.assert_array_equal(np.asarray(alpha) == 255, valid)
    np.testing.assert_array_equal(np.asarray(levels)[valid], np.rint(nearness[valid] * 255).astype(np.uint8))


def test_a_map_of_holes_only_is_transparent() -> None:
    assert np.asarray(decode(embed_map(np.full((3, 3), np.nan, dtype=np.float32))).split()[1]).max() == 0
