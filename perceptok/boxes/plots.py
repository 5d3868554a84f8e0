"""Boxes drawn on their image, for a person to look at."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw, ImageFont

from perceptok.boxes.datasets.box_records import BoxRecord, ImageBoxes
from perceptok.boxes.frames import orient_image
from perceptok.errors import BoxError

__all__ = ["draw_boxes", "draw_record"]

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075")


def draw_boxes(image: Image.Image, boxes: ImageBoxes) -> Image.Image:
    """A copy of an image in RGB with its boxes, each with its category's name, a colour for each category.

    A box covers the pixels whose centres lie inside; one without area is drawn as a pixel beside it. Crowds have a thin
    outline.

    Args:
        image: The image that the boxes belong to. It is turned as its EXIF orientation says, unless the boxes are of
            the image as it is stored.
        boxes: The boxes (N, 4), in its pixels.

    Raises:
        BoxError: The image has another size than the one of the boxes.
    """
    drawn = _orient(image, boxes).convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    thick = max(2, round(min(drawn.size) / 200))
    font = ImageFont.load_default(size=max(10, min(drawn.size) // 30))
    names = boxes.labels.names or ("",) * len(boxes.boxes)
    category_ids = boxes.labels.category_ids or (0,) * len(boxes.boxes)
    crowd = boxes.labels.crowd or (False,) * len(boxes.boxes)
    for index, corners in enumerate(boxes.boxes.tolist()):
        left, top = (_round_edge(low, side) for low, side in zip(corners[:2], drawn.size, strict=True))
        right, bottom = (_round_edge(high - 1, side) for high, side in zip(corners[2:], drawn.size, strict=True))
        colour = _COLOURS[category_ids[index] % len(_COLOURS)]
        outline = (left, top, max(left, right), max(top, bottom))
        canvas.rectangle(outline, outline=colour, width=1 if crowd[index] else thick)
        if names[index]:
            canvas.rectangle(canvas.textbbox((left + thick, top + thick), names[index], font=font), fill=colour)
            canvas.text((left + thick, top + thick), names[index], fill="white", font=font)
    return drawn


def draw_record(image: Image.Image, record: BoxRecord, *, framed: bool = False) -> Image.Image:
    """A copy of an image in RGB with the boxes that a record's codes stand for.

    Args:
        image: The record's image, turned by `draw_boxes` where needed.
        record: The boxes as codes (N, 4).
        framed: Draw on the image in the record's frame, as the model sees it, instead of the original.

    Raises:
        BoxError: The image has another size than the record's.
    """
    boxes = record.decode()
    if not framed:
        return draw_boxes(image, boxes)
    framed_image = record.frame.apply(_orient(image, boxes).convert("RGB"))
    corners = record.frame.to_frame(boxes.boxes)
    return draw_boxes(framed_image, ImageBoxes(boxes.name, *framed_image.size, corners, boxes.labels))


def _orient(image: Image.Image, boxes: ImageBoxes) -> Image.Image:
    oriented, _ = orient_image(image, (boxes.width, boxes.height))
    if oriented.size != (boxes.width, boxes.height):
        stored = f" (stored as {image.size[0]} x {image.size[1]}, turned by its EXIF orientation)"
        raise BoxError(
            f"{boxes.name}: the boxes are of an image of {boxes.width} x {boxes.height} pixels, this one has "
            f"{oriented.size[0]} x {oriented.size[1]}{stored if oriented.size != image.size else ''}"
        )
    return oriented


def _round_edge(edge: float, side: int) -> int:
    return min(max(math.floor(edge + 0.5), 0), side - 1)
