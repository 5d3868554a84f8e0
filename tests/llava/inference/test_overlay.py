"""Overlays: everything is drawn where it is, at any size, whatever the strings hold."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.boxes import ImageFrame
from perceptok.errors import InferenceError, OutputError
from perceptok.llava import PerceptionAnswer
from perceptok.llava.inference.overlay import draw_annotations, draw_overlay
from tests.llava.answering import make_image

Answered = Callable[..., PerceptionAnswer]

BOX = "(<PIXEL_84>,<PIXEL_84>,<PIXEL_167>,<PIXEL_251>)"
"""A quarter to a half of the width, a quarter to three quarters of the height."""


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


def touched(drawn: Image.Image) -> np.ndarray:
    return (np.asarray(drawn).astype(int) != 128).any(axis=2)


def test_a_box_is_drawn_around_its_pixels(answered: Answered) -> None:
    drawn = draw_annotations(answered(BOX, grey(800, 600)).overlay_content())
    height, width = touched(drawn).shape
    rows, columns = np.nonzero(touched(drawn))
    assert abs(columns.min() / width - 0.25) < 0.01
    assert abs(columns.max() / width - 0.5) < 0.01
    assert abs(rows.min() / height - 0.25) < 0.01
    assert abs(rows.max() / height - 0.75) < 0.01


def test_a_point_is_drawn_at_its_place(answered: Answered) -> None:
    drawn = np.asarray(
        draw_annotations(answered("Point A is located at (x = 84 y = 252)", grey(800, 600)).overlay_content())
    )
    height, width = drawn.shape[:2]
    red = (drawn[..., 0].astype(int) - drawn[..., 1] > 100).nonzero()
    assert abs(red[0].mean() / height - 0.75) < 0.01
    assert abs(red[1].mean() / width - 0.25) < 0.01


def test_no_evidence_leaves_the_image_alone(answered: Answered) -> None:
    assert not touched(draw_annotations(answered("nothing", grey(800, 600)).overlay_content())).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (20_000, 3), (4000, 3000), (17, 900)])
def test_any_size(answered: Answered, block: str, size: tuple[int, int]) -> None:
    text = f"Point A is located at (x = 0 y = 336) {block}{BOX}"
    drawn = answered(text, make_image(*size), markers={"Z": (size[0], size[1])}).overlay()
    assert 400 <= drawn.width <= 2000
    assert 100 <= drawn.height <= 1600


def test_boxes_in_the_padding_are_drawn_inside(answered: Answered) -> None:
    text = "(<PIXEL_0>,<PIXEL_0>,<PIXEL_335>,<PIXEL_10>)(<PIXEL_0>,<PIXEL_0>,<PIXEL_0>,<PIXEL_0>)"
    assert answered(text, make_image(300, 100), ImageFrame.letterbox((300, 100))).overlay().height > 100


def test_what_a_crop_hides_has_no_colour(answered: Answered, block: str) -> None:
    sheet = answered(block, make_image(600, 300), ImageFrame.center_crop((600, 300)))
    assert sheet.depth is not None
    drawn = np.asarray(sheet.overlay())
    assert (drawn == (225, 228, 232)).all(axis=2).any()


HOSTILE = [
    "\x1b[31mred\x07\x00",
    "<script>alert(1)</script>",
    "a\u202egnp.exe\u2066",
    "line\nbreak\r\n\ttab",
    "x" * 100_000,
    "word " * 5000,
    "\n" * 500,
    "\ud800 lone surrogate",
    "日本語 العربية 😀 \U0001f9d1\u200d\U0001f680",
    "",
    "%s %d {0} {name}",
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_strings(answered: Answered, block: str, hostile: str) -> None:
    """As question, answer, label and problem: a sheet of a bounded size, every time."""
    sheet = answered(f"{block}{BOX}", make_image(300, 200)).overlay_content()
    drawn = draw_overlay(
        replace(sheet, question=hostile, text=hostile, answer=hostile, labels=[hostile], problems=[hostile] * 40)
    )
    assert drawn.width == draw_overlay(sheet).width
    assert drawn.height < 1600


def test_writing(answered: Answered, block: str, tmp_path: Path) -> None:
    answer = answered(block)
    for name, kind in (("a.png", "PNG"), ("b.JPG", "JPEG")):
        answer.save_overlay(tmp_path / name)
        with Image.open(io.BytesIO((tmp_path / name).read_bytes())) as opened:
            assert opened.format == kind
    with pytest.raises(OutputError, match="exists already"):
        answer.save_overlay(tmp_path / "a.png")
    answer.save_overlay(tmp_path / "a.png", force=True)
    with pytest.raises(InferenceError, match=r"written to \.png, \.jpg, \.jpeg"):
        answer.save_overlay(tmp_path / "a.gif")
