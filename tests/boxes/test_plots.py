"""Boxes on images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from perceptok.boxes import BoxCodec, BoxLabels, BoxRecord, ImageBoxes, ImageFrame, draw_boxes, draw_records
from perceptok.errors import BoxError
from perceptok.files import spell_name

GREY = (100, 100, 100)
NOTHING = BoxLabels()


def drawn(boxes: list[list[float]], labels: BoxLabels = NOTHING, side: int = 60) -> np.ndarray:
    image = Image.new("RGB", (side, side), GREY)
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return np.asarray(draw_boxes(image, ImageBoxes("x", side, side, array, labels)))


def test_the_outline_covers_the_edge_pixels_inside() -> None:
    image = drawn([[10, 20, 30, 50]])
    touched = (image != GREY).any(axis=2)
    rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (20, 49, 10, 29)
    assert not touched[24:46, 14:26].any()
    assert touched[20, 10:30].all()


def test_edges_of_the_image_and_boxes_without_area() -> None:
    whole = (drawn([[0, 0, 60, 60]]) != GREY).any(axis=2)
    assert whole[0].all()
    assert whole[-1].all()
    assert whole[:, -1].all()
    assert (drawn([[60, 60, 60, 60]])[59, 59] != GREY).any()
    assert (drawn([[-5, -5, 70, 3]]) != GREY).any()
    assert (drawn([]) == GREY).all()


def test_categories_have_colours_and_names() -> None:
    labels = BoxLabels((1, 2), categories={1: "dog", 2: "cat"})
    image = drawn([[0, 0, 20, 59], [40, 0, 60, 59]], labels)
    assert (image[50, 0] != image[50, 59]).any()
    plain = drawn([[0, 0, 20, 59], [40, 0, 60, 59]])
    assert (image != GREY).any(axis=2).sum() > (plain != GREY).any(axis=2).sum()


def test_another_picture() -> None:
    with pytest.raises(BoxError, match="x: the boxes are of an image of 60 x 60 pixels, this one has 30 x 60"):
        draw_boxes(Image.new("L", (30, 60)), ImageBoxes("x", 60, 60, np.zeros((0, 4))))


class TestOrientation:
    """A phone's photo is stored on its side; loaders turn it, data sets give either size."""

    def photo(self, size: tuple[int, int], orientation: int = 6) -> Image.Image:
        image = Image.new("RGB", size, "white")
        image.getexif()[0x0112] = orientation
        return image

    @pytest.mark.parametrize("size", [(60, 40), (40, 40)])
    def test_turned(self, size: tuple[int, int]) -> None:
        """The box in the turned image's upper left corner is there, also where nothing but the content tells."""
        width, height = size[::-1]
        boxes = np.array([[0.0, 0, 10, 10]])
        drawn = draw_boxes(self.photo(size), ImageBoxes("a.jpg", width, height, boxes))
        assert drawn.size == (width, height)
        assert drawn.getpixel((0, 0)) != (255, 255, 255)
        framed = ImageFrame.squash((width, height), 20).apply(self.photo(size))
        expected = ImageFrame.squash((width, height), 20).apply(ImageOps.exif_transpose(self.photo(size)))
        assert framed.tobytes() == expected.tobytes()

    def test_as_it_is_stored(self) -> None:
        drawn = draw_boxes(self.photo((60, 40)), ImageBoxes("a.jpg", 60, 40, np.array([[0.0, 0, 10, 10]])))
        assert drawn.size == (60, 40)
        assert ImageFrame.squash((60, 40), 20).apply(self.photo((60, 40))).size == (20, 20)

    def test_neither(self) -> None:
        with pytest.raises(BoxError, match=r"this one has 40 x 60 \(stored as 60 x 40, turned by its EXIF orientation"):
            draw_boxes(self.photo((60, 40)), ImageBoxes("a.jpg", 61, 40, np.zeros((0, 4))))


def test_images_of_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """Records have such names as %XX."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (60, 60), GREY).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "images" / os.fsdecode(b"100% caf\xe9.png"))
    name = spell_name(os.fsdecode(b"100% caf\xe9.png"))
    boxes = ImageBoxes(name, 60, 60, np.array([[10.0, 20, 30, 50]]), BoxLabels((1,), categories={1: "<dog>\n"}))
    missing = ImageBoxes("100%25 x.png", 60, 60, np.zeros((0, 4)))
    records = [BoxRecord.from_boxes(image, BoxCodec()) for image in (boxes, missing)]
    report = draw_records(records, tmp_path / "images", tmp_path / "drawn")
    assert report.drawn == 1
    assert [failure.name for failure in report.failures] == ["100%25 x.png"]
    assert (tmp_path / "drawn" / "100%25 caf%E9.png").is_file()
