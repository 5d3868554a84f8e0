"""Boxes in sentences: numbered and labelled lists, and the answers that AURORA teaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.text.forms import Form, boxes_from_lines, boxes_from_text, boxes_to_lines, checked_boxes
from perceptok.boxes.text.parsing import Order, ParsedBoxes, parse_boxes, shown
from perceptok.errors import MalformedBoxError
from perceptok.tokens import PIXEL

__all__ = [
    "BoxAnswer",
    "answer_from_text",
    "answer_to_text",
    "labelled_from_text",
    "labelled_to_text",
    "labels_before",
]

_LABEL = "Bounding box"
_FOUND = ("Here are the bounding boxes for the ", ":")
_NONE = ("There are no ", " in the image.")
_NEXT = "\n "
"""Between lines. The released samples have the space, which tokenizers and people lose: reading does without."""


class BoxAnswer(NamedTuple):
    """What an answer says.

    Attributes:
        plural: What was asked for, e.g. "dogs".
        boxes: Codes (N, 4) int64; (0, 4) where there are none.
    """

    plural: str
    boxes: np.ndarray


def labelled_to_text(
    codes: ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    form: Form = "aurora",
    order: Order = "xyxy",
    size: int = PIXEL.size,
) -> str:
    """Codes of boxes (N, 4) -> one line each, `label: box`; no box gives "".

    Args:
        codes: See `boxes_to_text`.
        labels: One for each box, without line breaks; default: "Bounding box 1", "Bounding box 2", ...
        form: See `boxes_to_text`.
        order: See `boxes_to_text`.
        size: See `boxes_to_text`.

    Raises:
        MalformedBoxError: The codes are no boxes, or the labels do not fit them.
    """
    boxes = checked_boxes(codes, size=size, order=order)
    names = [f"{_LABEL} {number}" for number in range(1, len(boxes) + 1)] if labels is None else list(labels)
    if len(names) != len(boxes):
        raise MalformedBoxError(f"expected a label for each of {len(boxes)} boxes; got {len(names)}")
    for name in names:
        if name != name.strip() or not name or len(name.splitlines()) != 1:
            raise MalformedBoxError(f"a label is one line without space around it; got {shown(name)}")
    written = boxes_to_lines(boxes, form=form, order=order, size=size)
    return "\n".join(f"{name}: {box}" for name, box in zip(names, written, strict=True))


def labelled_from_text(
    text: str, *, size: int = PIXEL.size, order: Order = "xyxy"
) -> tuple[tuple[str, ...], np.ndarray]:
    """The exact inverse of `labelled_to_text`; for free text see `parse_boxes` and `labels_before`.

    Returns:
        The labels, and codes (N, 4) int64.

    Raises:
        MalformedBoxError: A line is not `label: box`; the message gives the character position and what was found.
    """
    labels: list[str] = []
    pieces: list[tuple[int, str, str]] = []
    position = 0
    for line in text.split("\n") if text else ():
        label, colon, box = line.rpartition(": ")
        if not colon or not label or label != label.strip():
            raise MalformedBoxError(f"expected `label: box` at character {position}, found {shown(line)}")
        labels.append(label)
        pieces.append((position, line, box))
        position += len(line) + 1
    boxes = boxes_from_lines([box for _, _, box in pieces], size=size)
    if boxes is None:
        boxes = np.concatenate([_one_box(*piece, size, order) for piece in pieces])
    return tuple(labels), boxes


def _one_box(position: int, line: str, box: str, size: int, order: Order) -> np.ndarray:
    try:
        one = boxes_from_text(box, size=size, order=order)
    except MalformedBoxError as error:
        raise MalformedBoxError(f"in the line at character {position}, {shown(line)}: {error}") from error
    if len(one) != 1:
        raise MalformedBoxError(f"expected one box in the line at character {position}, found {len(one)}")
    return one


def labels_before(text: str, parsed: ParsedBoxes) -> tuple[str, ...]:
    """The label of each box found in free text: what stands before it on its line, after an earlier box on it.

    Args:
        text: The text that `parse_boxes` read.
        parsed: What it found.

    Returns:
        N labels without the colon and space around; "" where nothing stands before a box.
    """
    labels: list[str] = []
    end = 0
    for start, next_end in parsed.spans.tolist():
        labels.append(text[end:start].rpartition("\n")[2].strip().removesuffix(":").strip(" \t,;-*"))
        end = next_end
    return tuple(labels)


def answer_to_text(
    codes: ArrayLike, plural: str, *, form: Form = "aurora", order: Order = "xyxy", size: int = PIXEL.size
) -> str:
    """The answer of AURORA's atomic box samples to "Return the bounding boxes of {plural}.".

    `Here are the bounding boxes for the {plural}:`, then a line for each, after a space, `Bounding box 1: (...)`;
    without a box `There are no {plural} in the image.`

    Args:
        codes: See `boxes_to_text`.
        plural: What was asked for.
        form: See `boxes_to_text`.
        order: See `boxes_to_text`.
        size: See `boxes_to_text`.

    Raises:
        MalformedBoxError: The codes are no boxes, or the plural is empty or longer than a line.
    """
    if not plural.strip() or len(plural.splitlines()) != 1:
        raise MalformedBoxError(f"a plural is a word or more on one line; got {shown(plural)}")
    lines = labelled_to_text(codes, form=form, order=order, size=size)
    if not lines:
        return plural.join(_NONE)
    return _NEXT.join([plural.join(_FOUND), *lines.split("\n")])


def answer_from_text(text: str, *, size: int = PIXEL.size, order: Order = "xyxy", strict: bool = True) -> BoxAnswer:
    """The inverse of `answer_to_text`; also without the spaces before "Bounding box".

    Args:
        text: One answer.
        size: Number of codes along a side.
        order: What the columns are; only messages depend on it.
        strict: Without it, space may differ, text may follow, and numbers may be missing or wrong; malformed boxes are
            left out (`parse_boxes` tells which).

    Raises:
        MalformedBoxError: Not one of the two sentences, a malformed box, or boxes that are not numbered 1, 2, 3, ...
    """
    stripped = text if strict else text.strip()
    if stripped.startswith(_NONE[0]) and (end := stripped.find(_NONE[1])) > len(_NONE[0]):
        if strict and end + len(_NONE[1]) != len(text):
            raise MalformedBoxError(f"expected the end of the text at character {end + len(_NONE[1])}, found more")
        return BoxAnswer(stripped[len(_NONE[0]) : end], np.zeros((0, 4), dtype=np.int64))
    plural, colon, lines = stripped.removeprefix(_FOUND[0]).partition(_FOUND[1] + "\n" if strict else _FOUND[1])
    if not stripped.startswith(_FOUND[0]) or not colon or not plural:
        raise MalformedBoxError(
            f"expected {_FOUND[0] + '...:'!r} or {_NONE[0] + '...' + _NONE[1]!r}, found {shown(text)}"
        )
    if not strict:
        return BoxAnswer(plural, parse_boxes(lines, size=size, order=order).boxes)
    if not lines.strip(" "):
        raise MalformedBoxError(f"expected a box or more after the colon, found none; {_NONE[0] + '...'!r} says so")
    labels, boxes = labelled_from_text(lines.removeprefix(" ").replace(_NEXT, "\n"), size=size, order=order)
    expected = [f"{_LABEL} {number}" for number in range(1, len(boxes) + 1)]
    if list(labels) != expected:
        wrong = next(at for at, (label, name) in enumerate(zip(labels, expected, strict=True)) if label != name)
        raise MalformedBoxError(f"expected {expected[wrong]!r}, found {shown(labels[wrong])}")
    return BoxAnswer(plural, boxes)
