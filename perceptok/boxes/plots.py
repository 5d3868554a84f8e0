"""Boxes drawn on their image, for a person to look at."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw, ImageFont

from perceptok.boxes.datasets.box_records import ImageBoxes
from perceptok.boxes.placement import upright
from perceptok.errors import BoxError

__all__ = ["draw_boxes"]


_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075")


def draw_boxes(picture: Image.Image, image: ImageBoxes) -> Image.Image:
    """A copy of a picture in RGB with its boxes, each with its category's name, a colour for each category.

    A box covers the pixels whose centres lie inside; one without area is drawn as a pixel beside it. Crowds have a thin
    outline.

    Args:
        picture: The image that the boxes belong to; turned as its EXIF orientation says, unless the boxes are of the
            image as it is stored.
        image: The boxes, in its pixels.

    Raises:
        BoxError: The picture has another size than the boxes' image.
    """
    stored = picture.size
    picture, _ = upright(picture, (image.width, image.height))
    if picture.size != (image.width, image.height):
        raise BoxError(
            f"{image.name}: the boxes are of an image of {image.width} x {image.height} pixels, this one has "
            f"{picture.size[0]} x {picture.size[1]}"
            + (
                ""
                if picture.size == stored
                else f" (stored as {stored[0]} x {stored[1]}, turned by its EXIF orientation)"
            )
        )
    drawn = picture.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    thick = max(2, round(min(picture.size) / 200))
    font = ImageFont.load_default(size=max(10, min(picture.size) // 30))
    names = image.labels.names or ("",) * len(image.boxes)
    colours = image.labels.category_ids or (0,) * len(image.boxes)
    for index, (x1, y1, x2, y2) in enumerate(image.boxes.tolist()):
        left, top = (_pixel(low, side) for low, side in zip((x1, y1), picture.size, strict=True))
        right, bottom = (_pixel(high - 1, side) for high, side in zip((x2, y2), picture.size, strict=True))
        colour = _COLOURS[colours[index] % len(_COLOURS)]
        crowd = bool(image.labels.crowd and image.labels.crowd[index])
        corners = (left, top, max(left, right), max(top, bottom))
        canvas.rectangle(corners, outline=colour, width=1 if crowd else thick)
        if names[index]:
            place = canvas.textbbox((left + thick, top + thick), names[index], font=font)
            canvas.rectangle(place, fill=colour)
            canvas.text((left + thick, top + thick), names[index], fill="white", font=font)
    return drawn


def _pixel(edge: float, side: int) -> int:
    return min(max(math.floor(edge + 0.5), 0), side - 1)
