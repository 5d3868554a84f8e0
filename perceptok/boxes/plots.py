"""Boxes drawn on their image, for a person to look at."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from perceptok.boxes.datasets.box_records import BoxFailure, BoxRecord, ImageBoxes
from perceptok.boxes.frames import orient_image
from perceptok.errors import BoxError, OutputError, PerceptokError
from perceptok.files import atomic_write, resolve_inside, resolve_spelled
from perceptok.images import load_font, open_image

__all__ = ["DrawReport", "draw_boxes", "draw_record", "draw_records"]

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
    names = boxes.labels.names or ("",) * len(boxes.boxes)
    font = load_font(max(10, min(drawn.size) // 30), "".join(names))
    category_ids = boxes.labels.category_ids or (0,) * len(boxes.boxes)
    crowd = boxes.labels.crowd or (False,) * len(boxes.boxes)
    for index, corners in enumerate(boxes.boxes.tolist()):
        left, top = (_round_edge(low, side) for low, side in zip(corners[:2], drawn.size, strict=True))
        right, bottom = (_round_edge(high - 1, side) for high, side in zip(corners[2:], drawn.size, strict=True))
        category = category_ids[index]
        number = category if isinstance(category, int) else zlib.crc32(category.encode())
        colour = _COLOURS[number % len(_COLOURS)]
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


class DrawReport(NamedTuple):
    """The result of `draw_records`.

    Attributes:
        drawn: Number of images in the folder.
        failures: Records that could not be drawn.
        notes: (name, remark) of records whose image has an EXIF orientation.
    """

    drawn: int
    failures: tuple[BoxFailure, ...]
    notes: tuple[tuple[str, str], ...]


def draw_records(
    records: Sequence[BoxRecord],
    images: str | Path,
    output: str | Path,
    *,
    framed: bool = False,
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> DrawReport:
    """Draw the boxes of records on their images and write PNG files with the images' names.

    Args:
        records: The records.
        images: Folder of their images.
        output: Folder of the PNG files; it is made where missing.
        framed: Draw on the image in the record's frame, as the model sees it, instead of the original.
        force: Replace existing files instead of keeping them.
        advance: Called after each record.

    Returns:
        Counts, failures and remarks; a record that fails does not stop the others.
    """
    failures: list[BoxFailure] = []
    notes: list[tuple[str, str]] = []
    targets: set[Path] = set()
    for record in records:
        try:
            target = resolve_inside(output, record.name, suffix=".png")
            if target in targets:
                failures.append(BoxFailure(record.name, f"{target} was already drawn for another record"))
            elif force or not target.exists():
                note = _draw_file(record, resolve_spelled(images, record.name), target, framed)
                notes += [(record.name, note)] if note else []
            targets.add(target)
        except (PerceptokError, OSError) as error:
            failures.append(BoxFailure(record.name, str(error)))
        advance()
    return DrawReport(len(targets), tuple(failures), tuple(notes))


def _draw_file(record: BoxRecord, source: Path, target: Path, framed: bool) -> str:
    """Draw one record; returns a remark on the image's EXIF orientation, or ""."""
    if source.resolve() == target.resolve():
        raise OutputError(f"{target} is the image that is drawn on; choose another folder")
    image = open_image(source, apply_orientation=False)
    _, is_turned = orient_image(image, record.frame.image_size)
    drawn = draw_record(image, record, framed=framed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, force=True) as file:
        drawn.save(file, format="PNG")
    if is_turned:
        return "turned as its EXIF orientation says; its boxes are of the turned image"
    if image.getexif().get(0x0112, 1) != 1:
        return "has an EXIF orientation, but its boxes are of the image as it is stored"
    return ""


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
