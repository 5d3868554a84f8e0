"""Boxes of other models in what they really wrote: prose around, a cut end, a pixel too many; each with its place."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from perceptok.boxes.text.answers import labels_before
from perceptok.boxes.text.parsing import Flaw, MalformedPiece, parse_boxes
from perceptok.boxes.text.spellings import default_label
from perceptok.errors import BoxError

__all__ = ["ParsedSpelling", "Scheme", "Size", "parse_spelling"]

Scheme = Literal["aurora", "compact", "numeral", "paligemma", "florence2", "kosmos2", "qwen"]
Size = tuple[int, int]

_PATCHES = 32


@dataclass(frozen=True)
class ParsedSpelling:
    """What was found in a text.

    Attributes:
        codes: The well-formed boxes in the scheme's own numbers and order, int64 (N, 4), for Kosmos-2 (N, 2).
        labels: One for each, "" for none.
        spans: Where each stands, (N, 2) int64: first character and one past the last.
        malformed: The pieces that are no boxes, in the order of the text.
        repaired: Pieces that were read as boxes although something small was wrong with them: fractions of a pixel
            (rounded), numbers written as text, or an edge one step beyond the last (put on the last).
    """

    codes: np.ndarray
    labels: tuple[str, ...]
    spans: np.ndarray
    malformed: tuple[MalformedPiece, ...]
    repaired: tuple[MalformedPiece, ...] = ()


def parse_spelling(text: str, scheme: Scheme, *, image_size: Size | None = None) -> ParsedSpelling:
    """Find the boxes that a model wrote in its own spelling, as `parse_boxes` does for ours; takes linear time.

    Special tokens, the prompt's echo, prose, a trailing separator and a cut end may stand around them. Nothing raises
    for what the text says.

    Args:
        text: Anything.
        scheme: Whose spelling it is; see `convert`.
        image_size: Width and height in pixels; Qwen only: its boxes are held to them.

    Raises:
        BoxError: Qwen without a valid image size.
        ValueError: Another scheme.
    """
    if scheme not in get_args(Scheme):
        raise ValueError(f"schemes are {', '.join(get_args(Scheme))}; got {scheme!r}")
    if scheme in ("aurora", "compact", "numeral"):
        parsed = parse_boxes(text, numerals=scheme == "numeral")
        labels = _labels_of_lines(text, labels_before(text, parsed), parsed.spans)
        return ParsedSpelling(parsed.boxes, labels, parsed.spans, parsed.malformed)
    found = _Found()
    if scheme == "paligemma":
        _tokens(found, text, _LOC_RUN, _LOC, 4, 1023, _after)
    elif scheme == "florence2":
        _tokens(found, text, _FLORENCE_RUN, _FLORENCE, 4, 999, _before)
    elif scheme == "kosmos2":
        _tokens(found, text, _PATCH_RUN, _PATCH, 2, _PATCHES**2 - 1, _phrase)
    else:
        if image_size is None or min(image_size) < 1:
            raise BoxError(f"Qwen's boxes are pixels: give image_size=(width, height) of at least 1; got {image_size}")
        _objects(found, text, image_size)
    return found.parsed(2 if scheme == "kosmos2" else 4)


@dataclass
class _Found:
    boxes: list[list[int]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    malformed: list[MalformedPiece] = field(default_factory=list)
    repaired: list[MalformedPiece] = field(default_factory=list)

    def box(self, box: list[int], label: str, start: int, end: int) -> None:
        self.boxes.append(box)
        self.labels.append(label)
        self.spans.append((start, end))

    def parsed(self, columns: int) -> ParsedSpelling:
        return ParsedSpelling(
            np.array(self.boxes, dtype=np.int64).reshape(-1, columns),
            tuple(self.labels),
            np.array(self.spans, dtype=np.int64).reshape(-1, 2),
            tuple(self.malformed),
            tuple(self.repaired),
        )


def _labels_of_lines(text: str, before: tuple[str, ...], spans: np.ndarray) -> tuple[str, ...]:
    """Of what stands before each box, what a colon makes its label; numbered boxes have none."""
    labels = []
    for label, (start, _) in zip(before, spans.tolist(), strict=True):
        named = text[:start].rstrip(" \t").endswith(":") if label else False
        labels.append(label if named and not default_label(label) else "")
    return tuple(labels)


# ------------------------------------------------------------------------- tokens: PaliGemma, Florence-2, Kosmos-2

_LOC, _FLORENCE, _PATCH = (re.compile(rf"<{stem}([0-9]{{1,9}})>") for stem in ("loc", "loc_", "patch_index_"))
_LOC_RUN, _FLORENCE_RUN, _PATCH_RUN = (
    re.compile(rf"<{stem}[0-9]{{1,9}}>(?:\s*+<{stem}[0-9]{{1,9}}>)*+") for stem in ("loc", "loc_", "patch_index_")
)
_LABEL_AFTER = re.compile(r"[^<>;\n]*+")
_PHRASE = re.compile(r"<phrase>([^<>]*+)</phrase>\s*+(?:<object>\s*+)?+\Z")
_MORE = re.compile(r"</delimiter_of_multi_objects/>\s*+\Z")
_REACH = 400
"""Characters before a box in which its label is looked for."""


def _after(text: str, _start: int, end: int, _last: str) -> str:
    match = _LABEL_AFTER.match(text, end)
    assert match is not None
    return match.group().strip()


def _before(text: str, start: int, _end: int, _last: str) -> str:
    head = text[max(0, start - _REACH) : start]
    at = max(head.rfind("<"), head.rfind(">"), head.rfind("\n")) + 1
    return head[at:].strip()


def _phrase(text: str, start: int, _end: int, last: str) -> str:
    head = text[max(0, start - _REACH) : start]
    if _MORE.search(head, max(0, len(head) - 60)):
        return last
    at = head.rfind("<phrase>")
    match = _PHRASE.match(head, at) if at >= 0 else None
    return match.group(1).strip() if match else ""


def _tokens(
    found: _Found, text: str, run: re.Pattern[str], token: re.Pattern[str], width: int, highest: int, label_of: Any
) -> None:
    """Boxes of `width` tokens each, in runs."""
    label = ""
    for match in run.finditer(text):
        tokens = list(token.finditer(text, *match.span()))
        label = label_of(text, *match.span(), label)
        for at in range(0, len(tokens), width):
            part = tokens[at : at + width]
            start, end = part[0].start(), part[-1].end()
            numbers = [int(one.group(1)) for one in part]
            flaw = _flaw(numbers, width, highest)
            if flaw is not None:
                found.malformed.append(MalformedPiece(start, end, text[start:end], *flaw))
                continue
            if max(numbers) > highest:
                reason = f"{highest + 1} is one beyond 0..{highest}; taken for {highest}"
                found.repaired.append(MalformedPiece(start, end, text[start:end], "range", reason))
            found.box([min(number, highest) for number in numbers], label, start, end)


def _flaw(numbers: list[int], width: int, highest: int) -> tuple[Flaw, str] | None:
    if len(numbers) != width:
        return "coordinates", f"{len(numbers)} tokens where a box has {width}"
    # One step beyond is what rounding gives for an edge of the image; a patch beyond the last is another row.
    allowed = highest + (1 if width == 4 else 0)
    if max(numbers) > allowed:
        return "range", f"{max(numbers)} is outside 0..{highest}"
    if width == 2:
        (row, column), (last_row, last_column) = (divmod(number, _PATCHES) for number in numbers)
        numbers = [column, row, last_column, last_row]
    if numbers[2] < numbers[0] or numbers[3] < numbers[1]:
        return "order", "its far edge is before its near one"
    return None


# ---------------------------------------------------------------------------------------------- JSON: Qwen

_KEY = '"bbox'
_BRACE = re.compile(r"[{}]")


def _objects(found: _Found, text: str, image_size: Size) -> None:
    """Every JSON object with a `bbox_2d`, wherever it stands."""
    decode = json.JSONDecoder().raw_decode
    position = text.find("{")
    while position >= 0:
        try:
            item, end = decode(text, position)
        except (ValueError, RecursionError):
            item, end = None, position + 1
        if isinstance(item, dict) and "bbox_2d" in item:
            _take(found, text, item, position, end, image_size)
        elif isinstance(item, dict) and _KEY not in text[position:end]:
            pass
        else:
            following = _BRACE.search(text, position + 1)
            stop = following.start() + (following.group() == "}") if following else len(text)
            if item is None and _KEY in text[position:stop]:
                reason = "no JSON object that can be read" + ("" if following else ", cut off at the end of the text")
                flaw: Flaw = "token" if following else "bracket"
                found.malformed.append(MalformedPiece(position, stop, text[position:stop], flaw, reason))
            end = position + 1
        position = text.find("{", end)


def _take(found: _Found, text: str, item: dict[str, Any], start: int, end: int, image_size: Size) -> None:
    label = item.get("label")
    name = "" if label is None else str(label).strip()
    piece = text[start:end]
    box = item["bbox_2d"]
    several = isinstance(box, list) and box and all(isinstance(one, list) for one in box)
    for one in box if several else [box]:
        numbers, flaw, repairs = _pixels(one, image_size)
        if flaw is not None:
            found.malformed.append(MalformedPiece(start, end, piece, *flaw))
            continue
        found.repaired += [MalformedPiece(start, end, piece, *repair) for repair in repairs]
        found.box(numbers, name, start, end)


def _pixels(box: Any, image_size: Size) -> tuple[list[int], tuple[Flaw, str] | None, list[tuple[Flaw, str]]]:
    """Whole pixels of a list that says a box, or what is wrong with it, and what was repaired."""
    if not isinstance(box, list) or len(box) != 4:
        count = len(box) if isinstance(box, list) else 0
        return [], ("coordinates", f"{count} numbers where a box has four"), []
    values = [_number(value) for value in box]
    if None in values:
        return [], ("token", f"{box[values.index(None)]!r:.40} is no number"), []
    numbers = [value for value in values if value is not None]
    repairs: list[tuple[Flaw, str]] = []
    if any(isinstance(value, str) for value in box):
        repairs.append(("token", "numbers written as text"))
    whole = [math.floor(number + 0.5) for number in numbers]
    if whole != numbers:
        repairs.append(("token", f"fractions of a pixel, rounded to {whole}"))
    limits = [*image_size, *image_size]
    for number, limit in zip(numbers, limits, strict=True):
        if not -1 <= number <= limit + 1:
            return [], ("range", f"{number:g} is outside 0..{limit}"), []
    inside = [min(max(number, 0), limit) for number, limit in zip(whole, limits, strict=True)]
    if inside != whole:
        repairs.append(("range", f"one pixel beyond the image of {image_size}, put on its edge"))
    if inside[2] < inside[0] or inside[3] < inside[1]:
        return [], ("order", "its far edge is before its near one"), []
    return inside, None, repairs


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
