"""Boxes as Qwen's vision models write them: JSON, or Qwen2-VL's own tokens."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from perceptok.boxes.spelling_base import (
    Collector,
    ImageSize,
    ParsedSpelling,
    Spelling,
    check_code_columns,
    check_edges,
    check_range,
)
from perceptok.boxes.text import Flaw, MalformedPiece, quote
from perceptok.errors import BoxError, MalformedBoxError
from perceptok.files import parse_json

__all__ = ["Qwen"]


class Qwen(Spelling):
    """A JSON list of `{"bbox_2d": [x1, y1, x2, y2], "label": ...}`, fenced or not; other keys are ignored."""

    _KEY = '"bbox'
    _BRACE = re.compile(r"[{}]")
    _RAW = re.compile(
        r"(?:<\|object_ref_start\|>([^<>]{0,200})<\|object_ref_end\|>\s*)?"
        r"<\|box_start\|>\s*\(([^()]{1,40})\)\s*,\s*\(([^()]{1,40})\)\s*<\|box_end\|>"
    )

    def __init__(self, image_size: ImageSize | None) -> None:
        if image_size is None or min(image_size) < 1:
            raise BoxError(f"Qwen's boxes are pixels: give image_size=(width, height) of at least 1; got {image_size}")
        self._limits = [*image_size, *image_size]

    def read(self, text: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Codes and labels of a JSON list of boxes and nothing else."""
        stripped = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
        expected = f"expected a JSON list of boxes, found {quote(text)}"
        items = parse_json(stripped, expected, MalformedBoxError)
        if not isinstance(items, list):
            raise MalformedBoxError(expected)
        boxes = [self._read_item(item) for item in items]
        labels = [_read_label(item) for item in items]
        if None in labels:
            found = items[labels.index(None)]["label"]
            raise MalformedBoxError(f"expected a label that is text, or a list of one; found {quote(str(found))}")
        return check_code_columns(boxes, 4), tuple(label or "" for label in labels)

    @staticmethod
    def _read_item(item: Any) -> list[int]:
        box = item.get("bbox_2d") if isinstance(item, dict) else None
        if not isinstance(box, list) or len(box) != 4 or any(type(number) is not int for number in box):
            found = quote(str(item))
            raise MalformedBoxError(f'expected {{"bbox_2d": [x1, y1, x2, y2]}} in whole pixels, found {found}')
        if max(map(abs, box)) >= 2**31:
            raise MalformedBoxError(f"a pixel is less than 2**31; found {quote(str(box))}")
        return box

    def parse(self, text: str) -> ParsedSpelling:
        """Every JSON object with a `bbox_2d`, wherever it stands, or else every box in Qwen2-VL's own form."""
        if "<|box_start|>" in text:
            return self._parse_raw(text)
        found = Collector()
        decode = json.JSONDecoder().raw_decode
        position = text.find("{")
        while position >= 0:
            try:
                item, end = decode(text, position)
            except (ValueError, RecursionError):
                item, end = None, position + 1
            if isinstance(item, dict) and "bbox_2d" in item:
                self._read_object(found, item, (position, end, text[position:end]))
            elif item is None or self._KEY in text[position:end]:
                brace = self._BRACE.search(text, position + 1)
                stop = brace.start() + (brace.group() == "}") if brace else len(text)
                if item is None and self._KEY in text[position:stop]:
                    reason = "not a valid JSON object" + ("" if brace else ", cut off at the end of the text")
                    flaw: Flaw = "token" if brace else "bracket"
                    found.malformed.append(MalformedPiece(position, stop, text[position:stop], flaw, reason))
                end = position + 1
            position = text.find("{", end)
        return found.to_parsed(4)

    def _parse_raw(self, text: str) -> ParsedSpelling:
        """The boxes between `<|box_start|>` and `<|box_end|>`."""
        found, place = Collector(), 0
        for match in self._RAW.finditer(text):
            self._report_unread(found, text, place, match.start())
            numbers = [part.strip() for part in f"{match[2]},{match[3]}".split(",")]
            values = [
                float(number) if re.fullmatch(r"-?\d{1,9}(?:\.\d{1,9})?", number) else number for number in numbers
            ]
            item = {"bbox_2d": values, "label": match[1]}
            self._read_object(found, item, (*match.span(), match.group()))
            place = match.end()
        self._report_unread(found, text, place, len(text))
        return found.to_parsed(4)

    @staticmethod
    def _report_unread(found: Collector, text: str, start: int, end: int) -> None:
        place = text.find("<|box_start|>", start, end)
        if place >= 0:
            reason = "expected <|box_start|>(x1,y1),(x2,y2)<|box_end|>"
            found.malformed.append(MalformedPiece(place, end, text[place:end], "bracket", reason))

    def _read_object(self, found: Collector, item: dict[str, Any], place: tuple[int, int, str]) -> None:
        """Collect the boxes of an object; `place` is its start, end and text."""
        label = _read_label(item)
        if label is None:
            reason = f"expected a label that is text, or a list of one; found {quote(str(item['label']))}"
            found.malformed.append(MalformedPiece(*place, "token", reason))
            return
        boxes = item["bbox_2d"]
        if not (isinstance(boxes, list) and boxes and all(isinstance(box, list) for box in boxes)):
            boxes = [boxes]
        for box in boxes:
            numbers, flaw, repairs = _read_pixels(box, self._limits)
            if flaw is not None:
                found.malformed.append(MalformedPiece(*place, *flaw))
                continue
            found.repaired += [MalformedPiece(*place, *repair) for repair in repairs]
            found.add_box(numbers, label.strip(), place[0], place[1])

    def write(self, codes: np.ndarray, labels: Sequence[str]) -> str:
        """The boxes as a JSON list."""
        pairs = zip(codes.tolist(), labels, strict=True)
        items = [{"bbox_2d": box, **({"label": label} if label else {})} for box, label in pairs]
        return json.dumps(items, ensure_ascii=False)

    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        """Codes -> fractions of the image."""
        check_range(codes, self._limits)
        check_edges(codes)
        return np.asarray(codes / np.array(self._limits))

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        """Fractions of the image -> codes."""
        return np.asarray(np.floor(fractions * np.array(self._limits) + 0.5), dtype=np.int64)

    def compute_error(self) -> tuple[float, float]:
        """Half a step of the image along x and y."""
        return 0.5 / self._limits[0], 0.5 / self._limits[1]


def _read_label(item: dict[str, Any]) -> str | None:
    """The label of a box, "" where it has none; None for one that is not text, a number or a list of one of them."""
    label = item.get("label")
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if label is None or label == []:
        return ""
    return str(label) if isinstance(label, str | int | float) and not isinstance(label, bool) else None


def _read_pixels(box: Any, limits: list[int]) -> tuple[list[int], tuple[Flaw, str] | None, list[tuple[Flaw, str]]]:
    """A box in whole pixels, or what is wrong with it, and what was repaired."""
    if not isinstance(box, list) or len(box) != 4:
        count = len(box) if isinstance(box, list) else 0
        return [], ("coordinates", f"{count} numbers where a box has four"), []
    numbers = []
    for value in box:
        number = _to_number(value)
        if number is None:
            return [], ("token", f"{value!r:.40} is not a number"), []
        numbers.append(number)
    repairs: list[tuple[Flaw, str]] = []
    if any(isinstance(value, str) for value in box):
        repairs.append(("token", "numbers written as text"))
    if all(0 <= number <= 1 for number in numbers) and not all(number.is_integer() for number in numbers):
        return [], ("range", "fractions of the image, 0..1; expected pixels"), []
    whole = [math.floor(number + 0.5) for number in numbers]
    if whole != numbers:
        repairs.append(("token", f"fractions of a pixel, rounded to {whole}"))
    for number, limit in zip(numbers, limits, strict=True):
        if not -1 <= number <= limit + 1:
            return [], ("range", f"{number:g} is outside 0..{limit}"), []
    inside = [min(max(number, 0), limit) for number, limit in zip(whole, limits, strict=True)]
    if inside != whole:
        repairs.append(("range", f"one pixel beyond the image of {limits[0]} x {limits[1]} pixels, moved to its edge"))
    if inside[2] < inside[0] or inside[3] < inside[1]:
        return [], ("order", "its far edge is before its near one"), []
    return inside, None, repairs


def _to_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
