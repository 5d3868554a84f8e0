"""Draws an answer: the image with boxes and points, its depth map beside it, question and answer below."""

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
from perceptok.images import colorize_nearness, load_font

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
    """Find the points that a text locates, in order, in pixels of the frame; of a repeated letter only the first."""
    found: dict[str, FramePoint] = {}
    for match in _POINT.finditer(text):
        found.setdefault(match[1], FramePoint(match[1], float(match[2]), float(match[3])))
    return list(found.values())


Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MAX_LONG_SIDE, _MIN_SHORT_SIDE = 900, 420
"""Sides of a drawn image: a larger one is scaled down, a smaller one up, so that lines and letters are legible."""

_MAX_ASPECT_RATIO = 6
"""Images with a larger ratio of their sides are drawn squashed to it."""

_MAX_DEPTH_PIXELS = 4_000_000
"""Larger depth maps are drawn from every fourth pixel."""

_GAP = 14
_INK, _GREY, _PAPER, _RED = "#1b1f24", "#6a737d", "#ffffff", "#b3261e"
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075")
_MAX_PROBLEMS = 5
_NUMBERED = re.compile(r"\W*(?:bounding )?box \d+\W*", re.IGNORECASE)


class _Canvas(NamedTuple):
    """A scaled image to draw on, and its scale along x and y."""

    image: Image.Image
    scale: tuple[float, float]


@dataclass(frozen=True, eq=False)
class OverlayContent:
    """What an overlay shows.

    Attributes:
        image: The image in RGB.
        depth: The image's depth map, 1 = nearest; None for none.
        boxes: (N, 4): x1, y1, x2, y2 in the image's pixels.
        labels: A label for each box, "" for none.
        points: Points in the image's pixels.
        question: The question, below the image.
        text: The generated text, below the question.
        answer: The answer, below the text; None for none.
        problems: Problems of the answer, in red.
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


def draw_overlay(content: OverlayContent) -> Image.Image:
    """Draw image and depth map side by side, and question, answer and problems below; RGB."""
    panels = [draw_annotations(content)]
    if content.depth is not None:
        panels.append(_draw_depth(content, content.depth))
    width = max(sum(panel.width + _GAP for panel in panels) + _GAP, 640)
    lines = _make_caption(content, width - 2 * _GAP)
    top = panels[0].height + 2 * _GAP
    overlay = Image.new("RGB", (width, top + sum(line.height for line in lines) + _GAP), _PAPER)
    left = _GAP
    for panel in panels:
        overlay.paste(panel, (left, _GAP))
        left += panel.width + _GAP
    draw = ImageDraw.Draw(overlay)
    for line in lines:
        draw.text((_GAP, top), line.text, fill=line.colour, font=line.font)
        top += line.height
    return overlay


def draw_annotations(content: OverlayContent) -> Image.Image:
    """Draw the image alone, with its boxes and points."""
    canvas = _make_canvas(content.image)
    _draw_boxes(canvas, content.boxes, content.labels)
    for point in content.points:
        _draw_point(canvas, point)
    return canvas.image


def write_image(image: Image.Image, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write an image as PNG or JPEG, by its suffix; raises InferenceError for another suffix, and OutputError."""
    target = Path(path)
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    image_format = formats.get(target.suffix.lower())
    if image_format is None:
        raise InferenceError(f"{target}: overlays are written to {', '.join(formats)}")
    with atomic_write(target, force=force) as file:
        image.save(file, format=image_format, quality=92)


def _make_canvas(image: Image.Image) -> _Canvas:
    width, height = image.size
    # A strip of 20,000 x 10 pixels, drawn in its own aspect ratio, would be a line.
    shape = (min(width, _MAX_ASPECT_RATIO * height), min(height, _MAX_ASPECT_RATIO * width))
    factor = min(_MAX_LONG_SIDE / max(shape), max(1.0, _MIN_SHORT_SIDE / min(shape)))
    size = (max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)))
    resample = Image.Resampling.NEAREST if factor > 4 else Image.Resampling.LANCZOS
    return _Canvas(image.resize(size, resample).convert("RGB"), (size[0] / width, size[1] / height))


def _draw_depth(content: OverlayContent, depth: DepthMap) -> Image.Image:
    step = 1 if depth.values.size <= _MAX_DEPTH_PIXELS else 4
    colours = colorize_nearness(depth.values[::step, ::step])
    colours[~depth.valid[::step, ::step]] = (225, 228, 232)
    background = _make_canvas(content.image)
    canvas = background._replace(image=Image.fromarray(colours).resize(background.image.size, Image.Resampling.NEAREST))
    for point in content.points:
        _draw_point(canvas, point)
    _draw_colour_bar(canvas.image)
    return canvas.image


def _draw_colour_bar(image: Image.Image) -> None:
    """Draw a colour bar from far to near in the lower left corner."""
    width = min(150, image.width - 20)
    if width < 90 or image.height < 60:
        return
    draw = ImageDraw.Draw(image, "RGBA")
    left, top = 8, image.height - 34
    draw.rounded_rectangle((left, top, left + width + 12, top + 28), radius=6, fill=(20, 23, 28, 190))
    ramp = colorize_nearness(np.linspace(0, 1, width - 70)[None].repeat(8, axis=0))
    image.paste(Image.fromarray(ramp), (left + 38, top + 10))
    font = load_font(13)
    draw.text((left + 8, top + 14), "far", fill="white", font=font, anchor="lm")
    draw.text((left + width + 4, top + 14), "near", fill="white", font=font, anchor="rm")


def _draw_boxes(canvas: _Canvas, boxes: np.ndarray, labels: Sequence[str]) -> None:
    draw = ImageDraw.Draw(canvas.image)
    size = canvas.image.size
    line_width = 3
    font = load_font(16, "".join(labels))
    corners_drawn = []
    for index, box in enumerate(boxes.tolist()):
        corners = [value * canvas.scale[axis % 2] for axis, value in enumerate(box)]
        left, top = (min(max(round(corners[axis]), 0), size[axis] - 1) for axis in (0, 1))
        right, bottom = (min(max(round(corners[axis + 2]) - 1, (left, top)[axis]), size[axis] - 1) for axis in (0, 1))
        colour = _COLOURS[index % len(_COLOURS)]
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="white", width=line_width + 2)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line_width)
        corners_drawn.append((left, top, colour))
    for index, (left, top, colour) in enumerate(corners_drawn):  # after all boxes: no outline crosses a label
        _draw_label(draw, (left, top), _make_box_label(index, labels), colour, font, size)


def _make_box_label(index: int, labels: Sequence[str]) -> str:
    """The box's number, and its label unless that is a number again."""
    label = _replace_control_characters(labels[index]).strip() if index < len(labels) else ""
    if not label or _NUMBERED.fullmatch(label):
        return str(index + 1)
    return f"{index + 1} {label}" if len(label) <= 24 else f"{index + 1} {label[:23]}…"


def _draw_label(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    colour: str,
    font: Font,
    size: tuple[int, int],
) -> None:
    """Draw white letters on a coloured rectangle whose top left corner is given, moved to lie inside the image."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 12, bottom - top + 8
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = min(max(corner[1], 0), max(size[1] - height, 0))
    draw.rounded_rectangle((x, y, x + width, y + height), radius=4, fill=colour, outline="white", width=1)
    draw.text((x + 6 - left, y + 4 - top), text, fill="white", font=font)


def _draw_point(canvas: _Canvas, point: ImagePoint) -> None:
    draw = ImageDraw.Draw(canvas.image)
    x, y = point.x * canvas.scale[0], point.y * canvas.scale[1]
    for radius, colour in ((9, "white"), (7, _RED), (4, "white")):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    label = point.letter if point.nearness is None else f"{point.letter}  {point.nearness:.2f}"
    _draw_label(draw, (x + 12, y - 26), label, _INK, load_font(15), canvas.image.size)


class _Line(NamedTuple):
    text: str
    font: Font
    colour: str
    height: int


def _make_caption(content: OverlayContent, width: int) -> list[_Line]:
    problems = list(content.problems[:_MAX_PROBLEMS])
    if len(content.problems) > _MAX_PROBLEMS:
        problems.append(f"{len(content.problems) - _MAX_PROBLEMS} more")
    answers = [] if content.answer is None else [f"Answer: {content.answer}"]
    lines: list[_Line] = []
    for text, size, colour, max_lines in (
        (content.question, 16, _GREY, 4),
        (content.text, 17, _INK, 14),
        *((answer, 20, _INK, 1) for answer in answers),
        *((f"Problem: {problem}", 15, _RED, 2) for problem in problems),
    ):
        font = load_font(size, text)
        wrapped = _wrap_text(_replace_control_characters(text), font, width, max_lines)
        lines += [_Line(line, font, colour, round(size * 1.45)) for line in wrapped]
    return lines


def _replace_control_characters(text: str) -> str:
    """Replace characters that turn, hide or break a line of print by `?`."""
    text = text[:5000].replace("\r\n", "\n").replace("\t", " ")
    return "".join(char if char == "\n" or unicodedata.category(char)[0] != "C" else "?" for char in text)


def _wrap_text(text: str, font: Font, width: int, max_lines: int) -> list[str]:
    """Break a text into lines of a width; an ellipsis stands for lines beyond the maximum."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        rest = paragraph.strip()
        while rest and len(lines) <= max_lines:
            count = _count_fitting(rest, font, width)
            space = rest.rfind(" ", 0, count + 1) if count < len(rest) else count
            end = space if space > count // 2 else count
            lines.append(rest[:end].rstrip())
            rest = rest[end:].lstrip()
        if len(lines) > max_lines:
            return [*lines[: max_lines - 1], lines[max_lines - 1] + " …"]
    return lines


def _count_fitting(text: str, font: Font, width: int) -> int:
    """The number of characters of a text that fit into a width; at least one."""
    low, high = 1, min(len(text), 400)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low
