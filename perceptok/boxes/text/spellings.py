"""Boxes as several models spell them: texts to numbers and labels, and back, no geometry."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.text.answers import labelled_from_text, labelled_to_text
from perceptok.boxes.text.forms import Form, boxes_from_text, boxes_to_text
from perceptok.boxes.text.parsing import shown
from perceptok.errors import MalformedBoxError
from perceptok.files import parse_json

__all__ = [
    "Labels",
    "Said",
    "as_codes",
    "default_label",
    "read_florence2",
    "read_form",
    "read_kosmos2",
    "read_paligemma",
    "read_qwen",
    "write_florence2",
    "write_form",
    "write_kosmos2",
    "write_paligemma",
    "write_qwen",
]

Labels = tuple[str, ...]


class Said(NamedTuple):
    """What a text says: the model's own numbers, int64 (N, 4) or (N, 2), and a label for each box, "" for none."""

    codes: np.ndarray
    labels: Labels


def as_codes(codes: ArrayLike, columns: int) -> np.ndarray:
    """Codes as int64 (N, columns); raises MalformedBoxError for another shape or type."""
    array = np.asarray(codes)
    if array.size == 0:
        return np.zeros((0, columns), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iu":
        raise MalformedBoxError(f"codes are integers of shape (N, {columns}); got {array.dtype} {array.shape}")
    return array.astype(np.int64)


_NUMBERED = re.compile(r"Bounding box [0-9]++")


def default_label(label: str) -> bool:
    """Whether it is what `labelled_to_text` calls a box without a label of its own."""
    return _NUMBERED.fullmatch(label) is not None


def read_form(text: str) -> Said:
    """One of the forms of `boxes_to_text`, or a list with labels; numbered boxes have none."""
    if ": " in text:
        labels, boxes = labelled_from_text(text)
        return Said(boxes, tuple("" if default_label(label) else label for label in labels))
    boxes = boxes_from_text(text)
    return Said(boxes, ("",) * len(boxes))


def write_form(codes: np.ndarray, labels: Labels, form: Form) -> str:
    """Boxes in one of our forms, on lines with labels where there are any."""
    return labelled_to_text(codes, labels, form=form) if any(labels) else boxes_to_text(codes, form=form)


_LOC_BOX = re.compile(r"\s*+((?:(?:<loc\d{4}>){4}\s*+)+)([^<>;]*+)", re.ASCII)


def read_paligemma(text: str) -> Said:
    """`<loc0000><loc0000><loc0000><loc0000> label ; ...`, y first; several boxes may stand before one label."""
    found = [(piece, _LOC_BOX.fullmatch(piece)) for piece in text.split(";")] if text.strip() else []
    boxes, labels = [], []
    for piece, match in found:
        if match is None:
            raise MalformedBoxError(f"expected four <loc0000> tokens and a label, found {shown(piece)}")
        numbers = [int(number) for number in re.findall(r"\d{4}", match.group(1))]
        boxes += [numbers[at : at + 4] for at in range(0, len(numbers), 4)]
        labels += [match.group(2).strip()] * (len(numbers) // 4)
    return Said(as_codes(boxes, 4), tuple(labels))


def write_paligemma(codes: np.ndarray, labels: Labels) -> str:
    """The inverse of `read_paligemma`."""
    _refuse(labels, ";<>", "PaliGemma")
    tokens = ("".join(f"<loc{code:04}>" for code in box) for box in codes.tolist())
    return " ; ".join(f"{box} {label}".rstrip() for box, label in zip(tokens, labels, strict=True))


_FLORENCE_BOX = re.compile(r"([^<>]*)((?:<loc_\d{1,9}>)+)", re.ASCII)


def read_florence2(text: str) -> Said:
    """`label<loc_0><loc_0><loc_0><loc_0>...`; several boxes may follow one label."""
    boxes, labels, position = [], [], 0
    while position < len(text):
        match = _FLORENCE_BOX.match(text, position)
        numbers = [int(number) for number in re.findall(r"\d+", match.group(2))] if match else []
        if match is None or len(numbers) % 4:
            raise MalformedBoxError(
                f"expected a label and four <loc_0> tokens for each box at character {position}, "
                f"found {shown(text[position:])}"
            )
        boxes += [numbers[at : at + 4] for at in range(0, len(numbers), 4)]
        labels += [match.group(1).strip()] * (len(numbers) // 4)
        position = match.end()
    return Said(as_codes(boxes, 4), tuple(labels))


def write_florence2(codes: np.ndarray, labels: Labels) -> str:
    """The inverse of `read_florence2`: a label, and the boxes that follow one another under it."""
    _refuse(labels, "<>", "Florence-2")
    if any(labels) and not all(labels):
        raise MalformedBoxError("Florence-2 gives a box without label its predecessor's: label all boxes or none")
    tokens = ("".join(f"<loc_{code}>" for code in box) for box in codes.tolist())
    written = zip(tokens, labels, ("", *labels), strict=False)
    return "".join(box if label == before else label + box for box, label, before in written)


_PAIR = r"<patch_index_(\d{4})><patch_index_(\d{4})>"
_MANY = "</delimiter_of_multi_objects/>"
_PAIRS = rf"(?:<patch_index_\d{{4}}>){{2}}(?:{_MANY}(?:<patch_index_\d{{4}}>){{2}})*+"
_KOSMOS_BOX = re.compile(rf"(?:<phrase>([^<>]*)</phrase>)?+<object>({_PAIRS})</object>", re.ASCII)
_KOSMOS_TOKEN = re.compile(rf"(?<! ) *+(</?(?:object|phrase)>|<patch_index_\d{{4}}>|{_MANY}) *+", re.ASCII)


def read_kosmos2(text: str) -> Said:
    """`<phrase>label</phrase><object><patch_index_0000><patch_index_0000></object>...`, phrases optional."""
    # The processor's own writer puts spaces between these tokens, the tokenizer's decoder none.
    text = _KOSMOS_TOKEN.sub(r"\1", text)
    pairs, labels, position = [], [], 0
    while position < len(text):
        match = _KOSMOS_BOX.match(text, position)
        if match is None:
            raise MalformedBoxError(
                f"expected <phrase>...</phrase><object> and two <patch_index_0000>, found {shown(text[position:])}"
            )
        these = [(int(one), int(other)) for one, other in re.findall(_PAIR, match.group(2))]
        pairs += these
        labels += [(match.group(1) or "").strip()] * len(these)
        position = match.end()
    return Said(as_codes(pairs, 2), tuple(labels))


def write_kosmos2(codes: np.ndarray, labels: Labels) -> str:
    """The inverse of `read_kosmos2`, an object for every box."""
    _refuse(labels, "<>", "Kosmos-2")
    tokens = ("".join(f"<patch_index_{code:04}>" for code in pair) for pair in codes.tolist())
    phrases = (f"<phrase>{label}</phrase>" if label else "" for label in labels)
    return "".join(f"{phrase}<object>{box}</object>" for phrase, box in zip(phrases, tokens, strict=True))


def read_qwen(text: str) -> Said:
    """A JSON list of `{"bbox_2d": [x1, y1, x2, y2], "label": ...}`, fenced or not; other keys are left out."""
    stripped = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    items = parse_json(stripped, f"expected a JSON list of boxes, found {shown(text)}", MalformedBoxError)
    if not isinstance(items, list):
        raise MalformedBoxError(f"expected a JSON list of boxes, found {shown(text)}")
    return Said(as_codes([_qwen_box(item) for item in items], 4), tuple(_qwen_label(item) for item in items))


def _qwen_label(item: dict[str, Any]) -> str:
    label = item.get("label")
    return "" if label is None else str(label)


def _qwen_box(item: Any) -> list[int]:
    box = item.get("bbox_2d") if isinstance(item, dict) else None
    if not isinstance(box, list) or len(box) != 4 or any(type(number) is not int for number in box):
        raise MalformedBoxError(f'expected {{"bbox_2d": [x1, y1, x2, y2]}} in whole pixels, found {shown(str(item))}')
    if max(map(abs, box)) >= 2**31:
        raise MalformedBoxError(f"a pixel is less than 2**31; found {shown(str(box))}")
    return box


def write_qwen(codes: np.ndarray, labels: Labels) -> str:
    """The inverse of `read_qwen`."""
    boxes = codes.tolist()
    return json.dumps(
        [{"bbox_2d": box, **({"label": label} if label else {})} for box, label in zip(boxes, labels, strict=True)],
        ensure_ascii=False,
    )


def _refuse(labels: Labels, characters: str, model: str) -> None:
    for label in labels:
        if any(character in label for character in characters) or label != label.strip():
            raise MalformedBoxError(
                f"{model}'s labels have no {' or '.join(characters)} and no space around; got {label!r}"
            )
