"""An answer to look at: the image with boxes and points, its depth map beside it, question and answer below."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perceptok.depth import DepthMap
from perceptok.errors import InferenceError
from perceptok.files import atomic_write
from perceptok.images import colorize_nearness

__all__ = [
    "FramePoint",
    "ImagePoint",
    "OverlayContent",
    "draw_annotations",
    "draw_overlay",
    "find_points",
    "write_image",
]


_POINT = re.compile(r"\b[Pp]oint ([A-Z]) is located at \(x = (\d{1,6}(?:\.\d{1,6})?),? y = (\d{1,6}(?:\.\d{1,6})?)\)")


class FramePoint(NamedTuple):
    """A lettered point in pixels of the frame."""

    letter: str
    x: float
    y: float


class ImagePoint(NamedTuple):
    """A lettered point in the image's own pixels, with the nearness that the answer's depth block gives it."""

    letter: str
    x: float
    y: float
    nearness: float | None


def find_points(text: str) -> list[FramePoint]:
    """The points of a text in their order, in pixels of the frame; of a letter named twice the first."""
    found: dict[str, FramePoint] = {}
    for match in _POINT.finditer(text):
        found.setdefault(match[1], FramePoint(match[1], float(match[2]), float(match[3])))
    return list(found.values())


Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_LONGEST, _SHORTEST = 900, 420
"""Sides of a drawn image: a larger one is scaled down, a smaller one up, so that lines and letters can be read."""

_MOST_STRETCHED = 6
"""Images longer than this many times their width are drawn squashed."""

_GAP = 14
_INK, _GREY, _PAPER, _RED = "#1b1f24", "#6a737d", "#ffffff", "#b3261e"
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075")
_MOST_PROBLEMS = 5
_NUMBERED = re.compile(r"\W*(?:bounding )?box \d+\W*", re.IGNORECASE)


class _Canvas(NamedTuple):
    """A drawn image, and how many of its pixels one of the image's makes, along x and y."""

    picture: Image.Image
    scale: tuple[float, float]


@dataclass(frozen=True, eq=False)
class OverlayContent:
    """What is drawn.

    Attributes:
        image: In RGB.
        depth: The image's depth map, 1 = nearest, or None.
        boxes: (N, 4): x1, y1, x2, y2 in the image's pixels.
        labels: A label for each box, "" for none.
        points: In the image's pixels.
        question: Below the image.
        text: The same.
        answer: The same; None where there is none.
        problems: The same, in red.
    """

    image: Image.Image
    depth: DepthMap | None
    boxes: np.ndarray
    labels: Sequence[str]
    points: Sequence[ImagePoint]
    question: str
    text: str
    answer: str | None
    problems: Sequence[str]


def draw_overlay(sheet: OverlayContent) -> Image.Image:
    """Image and depth map side by side, then question, answer and what is wrong, in RGB."""
    panels = [draw_annotations(sheet)]
    if sheet.depth is not None:
        panels.append(_drawn_depth(sheet, sheet.depth))
    width = max(sum(one.width + _GAP for one in panels) + _GAP, 640)
    lines = _caption(sheet, width - 2 * _GAP)
    top = panels[0].height + 2 * _GAP
    drawn = Image.new("RGB", (width, top + sum(line.height for line in lines) + _GAP), _PAPER)
    left = _GAP
    for panel in panels:
        drawn.paste(panel, (left, _GAP))
        left += panel.width + _GAP
    draw = ImageDraw.Draw(drawn)
    for line in lines:
        draw.text((_GAP, top), line.text, fill=line.colour, font=line.font)
        top += line.height
    return drawn


def draw_annotations(sheet: OverlayContent) -> Image.Image:
    """The image alone, with its boxes and points."""
    canvas = _scaled(sheet.image)
    _draw_boxes(canvas, sheet.boxes, sheet.labels)
    for point in sheet.points:
        _draw_point(canvas, point)
    return canvas.picture


def write_image(picture: Image.Image, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a picture as PNG, or JPEG by its suffix; raises InferenceError for another, OutputError as usual."""
    target = Path(path)
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    kind = formats.get(target.suffix.lower())
    if kind is None:
        raise InferenceError(f"{target}: overlays are written to {', '.join(formats)}")
    with atomic_write(target, force=force) as file:
        picture.save(file, format=kind, quality=92)


def _scaled(image: Image.Image) -> _Canvas:
    width, height = image.size
    # A strip of 20,000 x 10 pixels, drawn in its own shape, would be a line.
    shape = (min(width, _MOST_STRETCHED * height), min(height, _MOST_STRETCHED * width))
    factor = min(_LONGEST / max(shape), max(1.0, _SHORTEST / min(shape)))
    size = (max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)))
    filtering = Image.Resampling.NEAREST if factor > 4 else Image.Resampling.LANCZOS
    return _Canvas(image.resize(size, filtering).convert("RGB"), (size[0] / width, size[1] / height))


def _drawn_depth(sheet: OverlayContent, depth: DepthMap) -> Image.Image:
    colours = colorize_nearness(depth.values if depth.values.size <= 4_000_000 else depth.values[::4, ::4])
    valid = depth.valid if depth.values.size <= 4_000_000 else depth.valid[::4, ::4]
    colours[~valid] = (225, 228, 232)  # what the model did not see has no colour of depth
    canvas = _scaled(sheet.image)
    picture = Image.fromarray(colours).resize(canvas.picture.size, Image.Resampling.NEAREST)
    drawn = _Canvas(picture, canvas.scale)
    for point in sheet.points:
        _draw_point(drawn, point)
    _draw_scale(picture)
    return picture


def _draw_scale(picture: Image.Image) -> None:
    """A bar from far to near in the lower left corner."""
    width = min(150, picture.width - 20)
    if width < 90 or picture.height < 60:
        return
    draw = ImageDraw.Draw(picture, "RGBA")
    left, top = 8, picture.height - 34
    draw.rounded_rectangle((left, top, left + width + 12, top + 28), radius=6, fill=(20, 23, 28, 190))
    ramp = colorize_nearness(np.linspace(0, 1, width - 70)[None].repeat(8, axis=0))
    picture.paste(Image.fromarray(ramp), (left + 38, top + 10))
    font = _font(13)
    draw.text((left + 8, top + 14), "far", fill="white", font=font, anchor="lm")
    draw.text((left + width + 4, top + 14), "near", fill="white", font=font, anchor="rm")


def _draw_boxes(canvas: _Canvas, boxes: np.ndarray, labels: Sequence[str]) -> None:
    draw = ImageDraw.Draw(canvas.picture)
    size = canvas.picture.size
    thick = 3
    font = _font(16)
    places = []
    for index, box in enumerate(boxes.tolist()):
        corners = [value * canvas.scale[axis % 2] for axis, value in enumerate(box)]
        left, top = (min(max(round(corners[axis]), 0), size[axis] - 1) for axis in (0, 1))
        right, bottom = (min(max(round(corners[axis + 2]) - 1, (left, top)[axis]), size[axis] - 1) for axis in (0, 1))
        colour = _COLOURS[index % len(_COLOURS)]
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="white", width=thick + 2)
        draw.rectangle((left, top, right, bottom), outline=colour, width=thick)
        places.append((left, top, colour, _said_of_box(index, labels)))
    for left, top, colour, said in places:  # after all boxes: no outline crosses a number
        _pill(draw, (left, top), said, colour, font, size)


def _said_of_box(index: int, labels: Sequence[str]) -> str:
    """A box's number, and what the text calls it, unless that is a number again."""
    label = _legible(labels[index]).strip() if index < len(labels) else ""
    if not label or _NUMBERED.fullmatch(label):
        return str(index + 1)
    return f"{index + 1} {label}" if len(label) <= 24 else f"{index + 1} {label[:23]}…"


def _pill(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    said: str,
    colour: str,
    font: Font,
    size: tuple[int, int],
) -> None:
    """White letters on a colour with their top left corner at a place, kept inside the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), said, font=font)
    width, height = right - left + 12, bottom - top + 8
    x = min(max(place[0], 0), max(size[0] - width, 0))
    y = min(max(place[1], 0), max(size[1] - height, 0))
    draw.rounded_rectangle((x, y, x + width, y + height), radius=4, fill=colour, outline="white", width=1)
    draw.text((x + 6 - left, y + 4 - top), said, fill="white", font=font)


def _draw_point(canvas: _Canvas, point: ImagePoint) -> None:
    draw = ImageDraw.Draw(canvas.picture)
    x, y = point.x * canvas.scale[0], point.y * canvas.scale[1]
    for radius, colour in ((9, "white"), (7, _RED), (4, "white")):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    said = point.letter if point.nearness is None else f"{point.letter}  {point.nearness:.2f}"
    _pill(draw, (x + 12, y - 26), said, _INK, _font(15), canvas.picture.size)


class _Line(NamedTuple):
    text: str
    font: Font
    colour: str
    height: int


def _caption(sheet: OverlayContent, width: int) -> list[_Line]:
    problems = list(sheet.problems[:_MOST_PROBLEMS])
    if len(sheet.problems) > _MOST_PROBLEMS:
        problems.append(f"{len(sheet.problems) - _MOST_PROBLEMS} more")
    answer = [] if sheet.answer is None else [f"Answer: {sheet.answer}"]
    lines: list[_Line] = []
    for text, size, colour, most in (
        (sheet.question, 16, _GREY, 4),
        (sheet.text, 17, _INK, 14),
        *((one, 20, _INK, 1) for one in answer),
        *((f"Problem: {one}", 15, _RED, 2) for one in problems),
    ):
        font = _font(size)
        lines += [_Line(one, font, colour, round(size * 1.45)) for one in _wrapped(_legible(text), font, width, most)]
    return lines


def _legible(text: str) -> str:
    """Text without what turns, hides or breaks a line of print: control characters become `?`."""
    kept = text[:5000].replace("\r\n", "\n").replace("\t", " ")
    return "".join(one if one == "\n" or unicodedata.category(one)[0] != "C" else "?" for one in kept)


def _wrapped(text: str, font: Font, width: int, most: int) -> list[str]:
    """Lines that fit a width, `most` of them; what is left out is shown by an ellipsis."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        rest = paragraph.strip()
        while rest and len(lines) <= most:
            fits = _fitting(rest, font, width)
            space = rest.rfind(" ", 0, fits + 1) if fits < len(rest) else fits
            cut = space if space > fits // 2 else fits
            lines.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        if len(lines) > most:
            return [*lines[: most - 1], lines[most - 1] + " …"]
    return lines


def _fitting(text: str, font: Font, width: int) -> int:
    """How many characters of a text fit into a width; at least one."""
    low, high = 1, min(len(text), 400)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)
