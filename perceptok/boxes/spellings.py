"""Boxes as several models spell them: texts to numbers and labels, and back, no geometry."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import upside_down
from perceptok.boxes.text import (
    Flaw,
    Form,
    MalformedPiece,
    boxes_from_text,
    boxes_to_text,
    labelled_from_text,
    labelled_to_text,
    labels_before,
    parse_boxes,
    shown,
)
from perceptok.errors import BoxError, MalformedBoxError
from perceptok.files import parse_json
from perceptok.tokens import PIXEL

__all__ = [
    "Conversion",
    "Labels",
    "ParsedSpelling",
    "Said",
    "Scheme",
    "Size",
    "as_codes",
    "convert",
    "default_label",
    "parse_spelling",
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


_CELLS = 32
"""Patches along a side of Kosmos-2."""


@dataclass(frozen=True)
class Conversion:
    """Boxes in another model's spelling.

    Attributes:
        text: As the target writes them.
        codes: The target's own numbers in its own order, int64: (N, 4), for Kosmos-2 (N, 2) patch indices.
        labels: One for each box, "" where the source has none.
        added: No coordinate that the target's text says is farther than this from what the source's text says, as a
            fraction of the image's (width, height).
        total: The same from the box that the source's writer had in mind: the source's own quantisation included.
        malformed: What in the source's text was no box, where it was not read strictly.
        repaired: What was read as a box with something small put right, likewise.
    """

    text: str
    codes: np.ndarray
    labels: Labels
    added: tuple[float, float]
    total: tuple[float, float]
    malformed: tuple[MalformedPiece, ...] = ()
    repaired: tuple[MalformedPiece, ...] = ()


def convert(
    boxes: str | ArrayLike,
    *,
    source: Scheme,
    target: Scheme,
    labels: Sequence[str] | None = None,
    image_size: Size | None = None,
    strict: bool = True,
) -> Conversion:
    """Boxes from one model's spelling to another's.

    Every scheme but Qwen's divides the image, squashed to a square, into bins, and reads as follows; `added` is half a
    bin of the target (Kosmos-2: a whole patch), `total` that and as much of the source.

    - "aurora", "compact", "numeral": the forms of `boxes_to_text`; 336 bins, read at their centres.
    - "paligemma": `<loc0000>`, y first; 1024 points from edge to edge, 1/1023 apart (big_vision).
    - "florence2": `<loc_0>`; 1000 bins, read at their centres.
    - "kosmos2": two of 32x32 patches, top left and bottom right, read as `patch_index_to_coordinate` does: their
      centres (then 1/64), or their outer edges where they share a row or column.
    - "qwen": JSON, `{"bbox_2d": [x1, y1, x2, y2], "label": ...}`, whole pixels of the image that the model saw, which
      is seldom the original: `ImageFrame.smart_resize(size).shape`, or (1000, 1000) for Qwen3-VL, which writes
      thousandths.

    Args:
        boxes: Text of boxes and nothing else, labelled or not, or the codes in the source's own order. Numbered boxes
            ("Bounding box 1") and a label of null have no label.
        source: What they are.
        target: What they become.
        labels: One for each of the codes; a text brings its own.
        image_size: Width and height in pixels; Qwen only.
        strict: Without it, the text may be anything a model wrote: the boxes that `parse_spelling` finds in it are
            converted, and what it found wrong is in `malformed` and `repaired`.

    Raises:
        MalformedBoxError: The text or the codes are not the source's, or the target cannot hold a label.
        BoxError: Qwen without a valid image size.
        ValueError: Another scheme.
    """
    reader, writer = _scheme(source), _scheme(target)
    if "qwen" in (source, target) and (image_size is None or min(image_size) < 1):
        raise BoxError(f"Qwen's boxes are pixels: give image_size=(width, height) of at least 1; got {image_size}")
    if isinstance(boxes, str):
        if labels is not None:
            raise MalformedBoxError("a text has its own labels; give labels with codes only")
        parsed = None if strict else parse_spelling(boxes, source, image_size=image_size)
        read = reader.read(boxes) if parsed is None else Said(parsed.codes, parsed.labels)
    else:
        parsed = None
        array = as_codes(boxes, 2 if source == "kosmos2" else 4)
        read = Said(array, tuple(labels) if labels is not None else ("",) * len(array))
        if len(read.labels) != len(array):
            raise MalformedBoxError(f"expected a label for each of {len(array)} boxes; got {len(read.labels)}")
    fractions = reader.to_fractions(read.codes, image_size)
    codes = writer.from_fractions(fractions, image_size)
    added, own = writer.error(image_size), reader.error(image_size)
    total = (added[0] + own[0], added[1] + own[1])
    text, wrong = writer.write(codes, read.labels), parsed or _NOTHING
    return Conversion(text, codes, read.labels, added, total, wrong.malformed, wrong.repaired)


_NOTHING = ParsedSpelling(np.zeros((0, 4), dtype=np.int64), (), np.zeros((0, 2), dtype=np.int64), ())


class _Model(NamedTuple):
    """One scheme; fractions are (N, 4) float64, x1, y1, x2, y2 in 0..1."""

    read: Callable[[str], Said]
    write: Callable[[np.ndarray, Labels], str]
    to_fractions: Callable[[np.ndarray, Size | None], np.ndarray]
    from_fractions: Callable[[np.ndarray, Size | None], np.ndarray]
    error: Callable[[Size | None], tuple[float, float]]


def _scheme(name: Scheme) -> _Model:
    if name not in get_args(Scheme):
        raise ValueError(f"schemes are {', '.join(get_args(Scheme))}; got {name!r}")
    return _SCHEMES[name]


def _in_range(codes: np.ndarray, highest: ArrayLike) -> None:
    outside = (codes < 0) | (codes > np.asarray(highest))
    if outside.any():
        row, column = (int(index) for index in np.argwhere(outside)[0])
        limit = np.broadcast_to(highest, codes.shape)[row, column]
        raise MalformedBoxError(f"box {row}: {codes[row, column]} is outside 0..{limit}")


def _upright(boxes: np.ndarray) -> None:
    turned = upside_down(boxes)
    if turned is not None:
        raise MalformedBoxError(f"box {turned} has its far edge before its near one")


def _from_bins(codes: np.ndarray, _: Size | None, bins: int) -> np.ndarray:
    _in_range(codes, bins - 1)
    _upright(codes)
    return (codes.astype(np.float64) + 0.5) / bins


def _to_bins(fractions: np.ndarray, _: Size | None, bins: int) -> np.ndarray:
    codes: np.ndarray = np.floor(fractions * bins).astype(np.int64)
    return codes.clip(max=bins - 1)


def _half(_: Size | None, steps: int) -> tuple[float, float]:
    return (0.5 / steps, 0.5 / steps)


def _form(form: Form) -> _Model:
    bins = PIXEL.size
    return _Model(
        read_form,
        partial(write_form, form=form),
        partial(_from_bins, bins=bins),
        partial(_to_bins, bins=bins),
        partial(_half, steps=bins),
    )


_LOC_STEPS = 1023


def _from_locs(codes: np.ndarray, _: Size | None) -> np.ndarray:
    _in_range(codes, _LOC_STEPS)
    _upright(codes)
    return codes[:, [1, 0, 3, 2]].astype(np.float64) / _LOC_STEPS


def _to_locs(fractions: np.ndarray, _: Size | None) -> np.ndarray:
    return np.floor(fractions[:, [1, 0, 3, 2]] * _LOC_STEPS + 0.5).astype(np.int64)


_FLORENCE_BINS = 1000


def _from_patches(codes: np.ndarray, _: Size | None) -> np.ndarray:
    _in_range(codes, _CELLS**2 - 1)
    near = np.stack([codes[:, 0] % _CELLS, codes[:, 0] // _CELLS], axis=1)
    far = np.stack([codes[:, 1] % _CELLS, codes[:, 1] // _CELLS], axis=1)
    _upright(np.concatenate([near, far], axis=1))
    narrow = (near == far).any(axis=1, keepdims=True)
    inset = np.where(narrow, 0.0, 0.5)
    fractions: np.ndarray = np.concatenate([near + inset, far + 1 - inset], axis=1) / _CELLS
    return fractions


def _to_patches(fractions: np.ndarray, _: Size | None) -> np.ndarray:
    near = np.minimum(np.floor(fractions[:, :2] * _CELLS), _CELLS - 1).astype(np.int64)
    # A box without width that lies on the border of two patches would end before it begins.
    far = np.maximum(np.ceil(fractions[:, 2:] * _CELLS - 1).astype(np.int64), near)
    return np.stack([near[:, 1] * _CELLS + near[:, 0], far[:, 1] * _CELLS + far[:, 0]], axis=1)


def _from_pixels(codes: np.ndarray, size: Size | None) -> np.ndarray:
    assert size is not None
    _in_range(codes, (*size, *size))
    _upright(codes)
    fractions: np.ndarray = codes / np.array([*size, *size])
    return fractions


def _to_pixels(fractions: np.ndarray, size: Size | None) -> np.ndarray:
    assert size is not None
    codes: np.ndarray = np.floor(fractions * np.array([*size, *size]) + 0.5).astype(np.int64)
    return codes


def _half_pixel(size: Size | None) -> tuple[float, float]:
    assert size is not None
    return (0.5 / size[0], 0.5 / size[1])


_SCHEMES: dict[Scheme, _Model] = {
    "aurora": _form("aurora"),
    "compact": _form("compact"),
    "numeral": _form("numeral"),
    "paligemma": _Model(read_paligemma, write_paligemma, _from_locs, _to_locs, partial(_half, steps=_LOC_STEPS)),
    "florence2": _Model(
        read_florence2,
        write_florence2,
        partial(_from_bins, bins=_FLORENCE_BINS),
        partial(_to_bins, bins=_FLORENCE_BINS),
        partial(_half, steps=_FLORENCE_BINS),
    ),
    "kosmos2": _Model(read_kosmos2, write_kosmos2, _from_patches, _to_patches, lambda _: (1 / _CELLS, 1 / _CELLS)),
    "qwen": _Model(read_qwen, write_qwen, _from_pixels, _to_pixels, _half_pixel),
}
