"""Boxes as other models write them: found in free text, and converted from one model's spelling to another's."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import find_inverted
from perceptok.boxes.text import (
    BoxForm,
    Flaw,
    MalformedPiece,
    boxes_from_text,
    boxes_to_text,
    find_labels,
    labelled_boxes_from_text,
    labelled_boxes_to_text,
    parse_boxes,
    quote,
)
from perceptok.errors import BoxError, MalformedBoxError
from perceptok.files import parse_json
from perceptok.tokens import PIXEL

__all__ = ["BoxScheme", "Conversion", "ParsedSpelling", "convert_spelling", "parse_spelling"]

BoxScheme = Literal["aurora", "compact", "numeral", "paligemma", "florence2", "kosmos2", "qwen"]
"""Whose spelling it is; `convert_spelling` describes each."""

ImageSize = tuple[int, int]


@dataclass(frozen=True)
class Conversion:
    """Boxes in another model's spelling.

    Attributes:
        text: The boxes as the target writes them.
        codes: The target's own numbers in its own order, int64: (N, 4), for Kosmos-2 (N, 2) patch indices.
        labels: One for each box, "" where the source has none.
        added: The largest distance of any coordinate of the target's text from that of the source's text, as a
            fraction of the image's (width, height).
        total: The same from the box before the source wrote it: the source's own quantization is included.
        malformed: Malformed boxes in the source's text, where it was not read strictly.
        repaired: What was read as a box after a small repair, likewise.
        segments: PaliGemma's `<seg000>` tokens of each box, as they were written, likewise; "" for none.
    """

    text: str
    codes: np.ndarray
    labels: tuple[str, ...]
    added: tuple[float, float]
    total: tuple[float, float]
    malformed: tuple[MalformedPiece, ...] = ()
    repaired: tuple[MalformedPiece, ...] = ()
    segments: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParsedSpelling:
    """The boxes of a text in a model's spelling.

    Attributes:
        codes: The well-formed boxes in the scheme's own numbers and order, int64 (N, 4), for Kosmos-2 (N, 2).
        labels: One for each, "" for none.
        spans: Where each stands, (N, 2) int64: first character and one past the last.
        malformed: The malformed pieces, in the order of the text.
        repaired: Pieces that were read as boxes after a small repair: fractions of a pixel (rounded), numbers written
            as text, an edge one step beyond the last (moved to the last), or Florence-2's polygons (the box around).
        segments: PaliGemma's `<seg000>` tokens of each box, as they were written; "" for none; () in other schemes.
    """

    codes: np.ndarray
    labels: tuple[str, ...]
    spans: np.ndarray
    malformed: tuple[MalformedPiece, ...]
    repaired: tuple[MalformedPiece, ...] = ()
    segments: tuple[str, ...] = ()


def convert_spelling(
    boxes: str | ArrayLike,
    *,
    source: BoxScheme,
    target: BoxScheme,
    labels: Sequence[str] | None = None,
    image_size: ImageSize | None = None,
    strict: bool = True,
) -> Conversion:
    """Convert boxes from one model's spelling to another's.

    Every scheme but Qwen's divides the image, squashed to a square, into bins; `added` is half a bin of the target
    (Kosmos-2: a whole patch), `total` is that plus the same of the source.

    - "aurora", "compact", "numeral": the forms of `boxes_to_text`; 336 bins, read at their centres.
    - "paligemma": `<loc0000>`, y first; 1024 points from edge to edge, 1/1023 apart (big_vision).
    - "florence2": `<loc_0>`; 1000 bins, read at their centres.
    - "kosmos2": two of 32x32 patches, top left and bottom right, read as `patch_index_to_coordinate` does: their
      centres (then 1/64), or their outer edges where they share a row or column.
    - "qwen": JSON, `{"bbox_2d": [x1, y1, x2, y2], "label": ...}`, in whole steps of `image_size`. That is (1000, 1000)
      for Qwen2-VL and Qwen3-VL, which write thousandths; for Qwen2.5-VL, which writes pixels of the image that it saw,
      `ImageFrame.smart_resize(size).shape`, seldom the original's size. Qwen2-VL's own form,
      `<|object_ref_start|>dog<|object_ref_end|><|box_start|>(10,20),(110,220)<|box_end|>`, is read where not strict.

    Args:
        boxes: Text of boxes and nothing else, labelled or not, or codes (N, 4), for Kosmos-2 (N, 2), in the source's
            own order. Numbered boxes ("Bounding box 1") and a label of null have no label.
        source: Their scheme.
        target: The scheme to convert to.
        labels: One for each of the codes; a text has its own.
        image_size: Width and height in pixels; Qwen only.
        strict: False reads any text that a model wrote: the boxes that `parse_spelling` finds in it are converted, and
            its `malformed` and `repaired` are passed on.

    Raises:
        MalformedBoxError: The text or the codes are not the source's, or the target cannot write a label.
        BoxError: Qwen without a valid image size.
        ValueError: Another scheme.
    """
    reader, writer = _make_spelling(source, image_size), _make_spelling(target, image_size)
    parsed = None
    if not isinstance(boxes, str):
        codes = _check_codes(boxes, reader.columns)
        box_labels = tuple(labels) if labels is not None else ("",) * len(codes)
        if len(box_labels) != len(codes):
            raise MalformedBoxError(f"expected a label for each of {len(codes)} boxes; got {len(box_labels)}")
    elif labels is not None:
        raise MalformedBoxError("a text has its own labels; give labels with codes only")
    elif strict:
        codes, box_labels = reader.read(boxes)
    else:
        parsed = reader.parse(boxes)
        codes, box_labels = parsed.codes, parsed.labels
    converted = writer.from_fractions(reader.to_fractions(codes))
    added, own = writer.compute_error(), reader.compute_error()
    return Conversion(
        text=writer.write(converted, box_labels),
        codes=converted,
        labels=box_labels,
        added=added,
        total=(added[0] + own[0], added[1] + own[1]),
        malformed=parsed.malformed if parsed else (),
        repaired=parsed.repaired if parsed else (),
        segments=parsed.segments if parsed else (),
    )


def parse_spelling(text: str, scheme: BoxScheme, *, image_size: ImageSize | None = None) -> ParsedSpelling:
    """Find the boxes that a model wrote in its own spelling, as `parse_boxes` does for AURORA's; takes linear time.

    Special tokens, a repeated prompt, prose, a trailing separator and a truncated end may stand around them. Nothing
    in the text raises an error.

    Args:
        text: Any text.
        scheme: Whose spelling it is; `convert_spelling` describes each.
        image_size: Width and height in pixels; Qwen only: its boxes must lie inside.

    Raises:
        BoxError: Qwen without a valid image size.
        ValueError: Another scheme.
    """
    return _make_spelling(scheme, image_size).parse(text)


def _check_codes(codes: ArrayLike, columns: int) -> np.ndarray:
    """Codes as int64 (N, columns); raises MalformedBoxError for another shape or type."""
    array = np.asarray(codes)
    if array.size == 0:
        return np.zeros((0, columns), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iu":
        raise MalformedBoxError(f"codes are integers of shape (N, {columns}); got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def _check_range(codes: np.ndarray, highest: ArrayLike) -> None:
    outside = (codes < 0) | (codes > np.asarray(highest))
    if outside.any():
        row, column = (int(index) for index in np.argwhere(outside)[0])
        limit = np.broadcast_to(highest, codes.shape)[row, column]
        raise MalformedBoxError(f"box {row}: {codes[row, column]} is outside 0..{limit}")


def _check_edges(boxes: np.ndarray) -> None:
    inverted = find_inverted(boxes)
    if inverted is not None:
        raise MalformedBoxError(f"box {inverted} has its far edge before its near one")


def _check_labels(labels: Sequence[str], forbidden: str, model: str) -> None:
    for label in labels:
        if any(character in label for character in forbidden) or label != label.strip():
            raise MalformedBoxError(
                f"{model}'s labels have no {' or '.join(forbidden)} and no space around; got {label!r}"
            )


class _Spelling(ABC):
    """One model's spelling: a text of boxes <-> codes and labels <-> fractions of the image.

    Codes are int64 (N, columns) in the model's own order; fractions are float64 (N, 4), x1, y1, x2, y2 in 0..1.
    """

    columns = 4

    @abstractmethod
    def read(self, text: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Codes and labels of a text of boxes and nothing else; raises MalformedBoxError."""

    @abstractmethod
    def parse(self, text: str) -> ParsedSpelling:
        """The boxes in any text."""

    @abstractmethod
    def write(self, codes: np.ndarray, labels: Sequence[str]) -> str:
        """The inverse of `read`; raises MalformedBoxError for a label that cannot be written."""

    @abstractmethod
    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        """Codes -> fractions; raises MalformedBoxError for a code out of range or an inverted box."""

    @abstractmethod
    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        """Fractions -> codes."""

    @abstractmethod
    def compute_error(self) -> tuple[float, float]:
        """The largest quantization error along x and y, in fractions of the image."""


class _Binned(_Spelling):
    """Codes are bins of the image, x first, read at their centres."""

    bins: int

    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        _check_range(codes, self.bins - 1)
        _check_edges(codes)
        return np.asarray((codes + 0.5) / self.bins)

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        return np.asarray(np.minimum(np.floor(fractions * self.bins), self.bins - 1), dtype=np.int64)

    def compute_error(self) -> tuple[float, float]:
        return 0.5 / self.bins, 0.5 / self.bins


class _Aurora(_Binned):
    """The forms of `boxes_to_text`, or lists with labels; numbered boxes have no label."""

    bins = PIXEL.size
    _NUMBERED = re.compile(r"Bounding box [0-9]++")

    def __init__(self, form: BoxForm) -> None:
        self._form = form

    def read(self, text: str) -> tuple[np.ndarray, tuple[str, ...]]:
        if ": " not in text:
            boxes = boxes_from_text(text)
            return boxes, ("",) * len(boxes)
        labels, boxes = labelled_boxes_from_text(text)
        return boxes, tuple("" if self._NUMBERED.fullmatch(label) else label for label in labels)

    def parse(self, text: str) -> ParsedSpelling:
        parsed = parse_boxes(text, numerals=self._form == "numeral")
        labels = []
        for label, (start, _) in zip(find_labels(text, parsed), parsed.spans.tolist(), strict=True):
            # What stands before a box is its label if it ends with a colon.
            is_label = label and text[:start].rstrip(" \t").endswith(":") and not self._NUMBERED.fullmatch(label)
            labels.append(label if is_label else "")
        return ParsedSpelling(parsed.boxes, tuple(labels), parsed.spans, parsed.malformed)

    def write(self, codes: np.ndarray, labels: Sequence[str]) -> str:
        if any(labels):
            return labelled_boxes_to_text(codes, labels, form=self._form)
        return boxes_to_text(codes, form=self._form)


@dataclass
class _Collector:
    """What is found in a text, piece by piece."""

    boxes: list[list[int]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    malformed: list[MalformedPiece] = field(default_factory=list)
    repaired: list[MalformedPiece] = field(default_factory=list)

    def add_box(self, box: list[int], label: str, start: int, end: int) -> None:
        self.boxes.append(box)
        self.labels.append(label)
        self.spans.append((start, end))

    def to_parsed(self, columns: int) -> ParsedSpelling:
        return ParsedSpelling(
            np.array(self.boxes, dtype=np.int64).reshape(-1, columns),
            tuple(self.labels),
            np.array(self.spans, dtype=np.int64).reshape(-1, 2),
            tuple(self.malformed),
            tuple(self.repaired),
        )


class _TokenSpelling(_Spelling):
    """Boxes of location tokens `<stem...>`, 0..highest."""

    stem: str
    highest: int

    def __init__(self) -> None:
        token = rf"<{self.stem}([0-9]{{1,9}})>"
        self._token = re.compile(token)
        self._run = re.compile(rf"{token}(?:\s*+{token})*+")

    def parse(self, text: str) -> ParsedSpelling:
        found, label = _Collector(), ""
        for run in self._run.finditer(text):
            tokens = list(self._token.finditer(text, *run.span()))
            found_label = self.find_label(run)
            label = label if found_label is None else found_label
            if (polygon := self.find_polygon([int(token.group(1)) for token in tokens])) is not None:
                reason = f"a polygon of {len(tokens) // 2} points, read as the box around it"
                found.repaired.append(MalformedPiece(*run.span(), run.group(), "coordinates", reason))
                found.add_box(polygon, label, *run.span())
                continue
            for index in range(0, len(tokens), self.columns):
                box = tokens[index : index + self.columns]
                start, end = box[0].start(), box[-1].end()
                numbers = [int(token.group(1)) for token in box]
                flaw = self._find_flaw(numbers)
                if flaw is not None:
                    found.malformed.append(MalformedPiece(start, end, text[start:end], *flaw))
                    continue
                if max(numbers) > self.highest:
                    reason = f"{self.highest + 1} is one beyond 0..{self.highest}; read as {self.highest}"
                    found.repaired.append(MalformedPiece(start, end, text[start:end], "range", reason))
                found.add_box([min(number, self.highest) for number in numbers], label, start, end)
        return found.to_parsed(self.columns)

    def _find_flaw(self, numbers: list[int]) -> tuple[Flaw, str] | None:
        if len(numbers) != self.columns:
            return "coordinates", f"{len(numbers)} tokens where a box has {self.columns}"
        # One step beyond is what rounding gives for an edge of the image; a patch beyond the last is another row.
        if max(numbers) > self.highest + (1 if self.columns == 4 else 0):
            return "range", f"{max(numbers)} is outside 0..{self.highest}"
        x1, y1, x2, y2 = self.to_edges(numbers)
        return ("order", "its far edge is before its near one") if x2 < x1 or y2 < y1 else None

    def to_edges(self, numbers: list[int]) -> list[int]:
        """Two near and two far edges in the order of their axes."""
        return numbers

    def find_polygon(self, _numbers: list[int]) -> list[int] | None:
        """The box around the points of a run, where it is a polygon; None where it is boxes."""
        return None

    @staticmethod
    def _find_text_before(run: re.Match[str]) -> str:
        """The 400 characters before a run, in which its label is searched."""
        return run.string[max(0, run.start() - 400) : run.start()]

    @abstractmethod
    def find_label(self, run: re.Match[str]) -> str | None:
        """The label of the boxes in a run of tokens; None if it is that of the run before."""


class _PaliGemma(_TokenSpelling):
    """`<loc0000><loc0000><loc0000><loc0000> label ; ...`, y first; several boxes may stand before one label."""

    stem, highest = "loc", 1023
    _BOX = re.compile(r"\s*+((?:(?:<loc\d{4}>){4}\s*+)+)(?:<seg\d{3}>\s*+)*+([^<>;]*+)", re.ASCII)
    _SEGMENT = re.compile(r"\s*+((?:<seg\d{3}>)*+)", re.ASCII)
    _LABEL = re.compile(r"[^<>;\n]*+")

    def read(self, text: str) -> tuple[np.ndarray, tuple[str, ...]]:
        boxes: list[list[int]] = []
        labels: list[str] = []
        for piece in text.split(";") if text.strip() else ():
            match = self._BOX.fullmatch(piece)
            if match is None:
                raise MalformedBoxError(f"expected four <loc0000> tokens and a label, found {quote(piece)}")
            read = _split_into_fours(re.findall(r"\d{4}", match.group(1)))
            boxes += read
            labels += [match.group(2).strip()] * len(read)
        return _check_codes(boxes, 4), tuple(labels)

    def find_label(self, run: re.Match[str]) -> str:
        segment = self._SEGMENT.match(run.string, run.end())
        assert segment is not None
        match = self._LABEL.match(run.string, segment.end())
        assert match is not None
        return match.group().strip()

    def parse(self, text: str) -> ParsedSpelling:
        parsed = super().parse(text)
        segments = []
        for end in parsed.spans[:, 1].tolist():
            segment = self._SEGMENT.match(text, end)
            segments.append(segment.group(1) if segment else "")
        return replace(parsed, segments=tuple(segments))

    def write(self, codes: np.ndarray, labels: Sequence[str]) -> str:
        _check_labels(labels, ";<>", "PaliGemma")
        boxes = ("".join(f"<loc{code:04}>" for code in box) for box in codes.tolist())
        return " ; ".join(f"{box} {label}".rstrip() for box, label in zip(boxes, labels, strict=True))

    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        _check_range(codes, self.highest)
        _check_edges(codes)
        return np.asarray(codes[:, [1, 0, 3, 2]] / self.highest)

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        return np.floor(fractions[:, [1, 0, 3, 2]] * self.highest + 0.5).astype(np.int64)

    def compute_error(self) -> tuple[float, float]:
        return 0.5 / self.highest, 0.5 / self.highest


class _Florence2(_TokenSpelling, _Binned):
    """`label<loc_0><loc_0><loc_0><loc_0>...`; several boxes may follow one label."""

    stem, highest, bins = "loc_", 999, 1000

    def find_polygon(self, numbers: list[int]) -> list[int] | None:
        """The box around a polygon: points in turn around it, so that some four of them are not a box."""
        fours = [numbers[index : index + 4] for index in range(0, len(numbers) - 3, 4)]
        are_boxes = all(box[0] <= box[2] and box[1] <= box[3] for box in fours)
        if len(numbers) < 6 or len(numbers) % 2 or max(numbers) > self.highest or are_boxes:
            return None
        xs, ys = numbers[::2], numbers[1::2]
        return [min(xs), min(ys), max(xs), max(ys)]

    _BOXES = re.compile(r"([^<>]*)((?:<loc_\d{1,9}>)+)", re.ASCII)

    def read(self, text: str) -> tuple[np.ndarray, tuple[str, ...]]:
        boxes: list[list[int]] = []
        labels: list[str] = []
        position = 0
        while position < len(text):
            match = self._BOXES.match(text, position)
            read = _split_into_fours(re.findall(r"\d+", match.group(2))) if match else []
            if match is None or len(read[-1]) < 4:
                raise MalformedBoxError(
                    f"expected a label and four <loc_0> tokens for each box at character {position}, "
                    f"found {quote(text[position:])}"
                )
            boxes += read
            labels += [match.group(1).strip()] * len(read)
            position = match.end()
        return _check_codes(boxes, 4), tuple(labels)

    def find_label(self, run: re.Match[str]) -> str:
        head = self._find_text_before(run)
        return head[max(head.rfind("<"), head.rfind(">"), head.rfind("\n")) + 1 :].strip()

    def write(self, codes: np.ndarray, labels: Sequence[str]) -> str:
        _check_labels(labels, "<>", "Florence-2")
        if any(labels) and not all(labels):
            raise MalformedBoxError("Florence-2 gives a box without label its predecessor's: label all boxes or none")
        boxes = ("".join(f"<loc_{code}>" for code in box) for box in codes.tolist())
        pairs = zip(boxes, labels, ("", *labels), strict=False)
        return "".join(box if label == previous else label + box for box, label, previous in pairs)


class _Kosmos2(_TokenSpelling):
    """`<phrase>label</phrase><object><patch_index_0000><patch_index_0000></object>...`, phrases optional.

    The patches at the top left and the bottom right, row by row among 32x32.
    """

    columns, stem, cells = 2, "patch_index_", 32
    highest = cells**2 - 1
    _SEPARATOR = "</delimiter_of_multi_objects/>"
    _PAIR = r"<patch_index_\d{4}><patch_index_\d{4}>"
    _BOXES = re.compile(
        rf"(?:<phrase>([^<>]*)</phrase>)?+<object>({_PAIR}(?:{_SEPARATOR}{_PAIR})*+)</object>", re.ASCII
    )
    _SPACED = re.compile(rf"(?<! ) *+(</?(?:object|phrase)>|<patch_index_\d{{4}}>|{_SEPARATOR}) *+", re.ASCII)
    _PHRASE = re.compile(r"<phrase>([^<>]*+)</phrase>\s*+(?:<object>\s*+)?+\Z")
    _CONTINUED = re.compile(rf"{_SEPARATOR}\s*+\Z")

    def read(self, text: str) -> tuple[np.ndarray, tuple[str, ...]]:
        # The processor's own writer puts spaces between these tokens, the tokenizer's decoder none.
        text = self._SPACED.sub(r"\1", text)
        boxes: list[list[int]] = []
        labels: list[str] = []
        position = 0
        while position < len(text):
            match = self._BOXES.match(text, position)
            if match is None:
                raise MalformedBoxError(
                    f"expected <phrase>...</phrase><object> and two <patch_index_0000>, found {quote(text[position:])}"
                )
            numbers = [int(number) for number in re.findall(r"\d{4}", match.group(2))]
            read = [numbers[index : index + 2] for index in range(0, len(numbers), 2)]
            boxes += read
            labels += [(match.group(1) or "").strip()] * len(read)
            position = match.end()
        return _check_codes(boxes, 2), tuple(labels)

    def find_label(self, run: re.Match[str]) -> str | None:
        head = self._find_text_before(run)
        if self._CONTINUED.search(head, max(0, len(head) - 60)):
            return None
        position = head.rfind("<phrase>")
        match = self._PHRASE.match(head, position) if position >= 0 else None
        return match.group(1).strip() if match else ""

    def to_edges(self, numbers: list[int]) -> list[int]:
        (row, column), (last_row, last_column) = (divmod(number, self.cells) for number in numbers)
        return [column, row, last_column, last_row]

    def write(self, codes: np.ndarray, labels: Sequence[str]) -> str:
        _check_labels(labels, "<>", "Kosmos-2")
        boxes = ("".join(f"<patch_index_{code:04}>" for code in pair) for pair in codes.tolist())
        phrases = (f"<phrase>{label}</phrase>" if label else "" for label in labels)
        return "".join(f"{phrase}<object>{box}</object>" for phrase, box in zip(phrases, boxes, strict=True))

    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        _check_range(codes, self.highest)
        near, far = (np.stack([patch % self.cells, patch // self.cells], axis=1) for patch in codes.T)
        _check_edges(np.concatenate([near, far], axis=1))
        inset = np.where((near == far).any(axis=1, keepdims=True), 0.0, 0.5)
        return np.concatenate([near + inset, far + 1 - inset], axis=1) / self.cells

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        near = np.minimum(np.floor(fractions[:, :2] * self.cells), self.cells - 1).astype(np.int64)
        # A box without width that lies on the border of two patches would end before it begins.
        far = np.maximum(np.ceil(fractions[:, 2:] * self.cells - 1).astype(np.int64), near)
        return np.stack([near[:, 1] * self.cells + near[:, 0], far[:, 1] * self.cells + far[:, 0]], axis=1)

    def compute_error(self) -> tuple[float, float]:
        return 1 / self.cells, 1 / self.cells


class _Qwen(_Spelling):
    """A JSON list of `{"bbox_2d": [x1, y1, x2, y2], "label": ...}`, fenced or not; other keys are ignored."""

    _KEY = '"bbox'
    _BRACE = re.compile(r"[{}]")
    _OTHER_KEY = re.compile(r"""['"](bbox|box|box_2d|bounding_box)['"]\s*:|'bbox_2d'\s*:""")
    _RAW = re.compile(
        r"(?:<\|object_ref_start\|>([^<>]{0,200})<\|object_ref_end\|>\s*)?"
        r"<\|box_start\|>\s*\(([^()]{1,40})\)\s*,\s*\(([^()]{1,40})\)\s*<\|box_end\|>"
    )

    def __init__(self, image_size: ImageSize | None) -> None:
        if image_size is None or min(image_size) < 1:
            raise BoxError(f"Qwen's boxes are pixels: give image_size=(width, height) of at least 1; got {image_size}")
        self._limits = [*image_size, *image_size]

    def read(self, text: str) -> tuple[np.ndarray, tuple[str, ...]]:
        stripped = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
        expected = f"expected a JSON list of boxes, found {quote(text)}"
        items = parse_json(stripped, expected, MalformedBoxError)
        if not isinstance(items, list):
            raise MalformedBoxError(expected)
        boxes = [self._read_item(item) for item in items]
        labels = ["" if item.get("label") is None else str(item["label"]) for item in items]
        return _check_codes(boxes, 4), tuple(labels)

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
        found = _Collector()
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
        if not found.boxes and not found.malformed and (key := self._OTHER_KEY.search(text)):
            reason = f'{key.group().rstrip(": ")} is not the key "bbox_2d" in double quotes: no box was read'
            found.malformed.append(MalformedPiece(*key.span(), key.group(), "token", reason))
        return found.to_parsed(4)

    def _parse_raw(self, text: str) -> ParsedSpelling:
        """The boxes between `<|box_start|>` and `<|box_end|>`."""
        found, place = _Collector(), 0
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
    def _report_unread(found: _Collector, text: str, start: int, end: int) -> None:
        place = text.find("<|box_start|>", start, end)
        if place >= 0:
            reason = "expected <|box_start|>(x1,y1),(x2,y2)<|box_end|>"
            found.malformed.append(MalformedPiece(place, end, text[place:end], "bracket", reason))

    def _read_object(self, found: _Collector, item: dict[str, Any], place: tuple[int, int, str]) -> None:
        """Collect the boxes of an object; `place` is its start, end and text."""
        label = "" if item.get("label") is None else str(item["label"]).strip()
        boxes = item["bbox_2d"]
        if not (isinstance(boxes, list) and boxes and all(isinstance(box, list) for box in boxes)):
            boxes = [boxes]
        for box in boxes:
            numbers, flaw, repairs = _read_pixels(box, self._limits)
            if flaw is not None:
                found.malformed.append(MalformedPiece(*place, *flaw))
                continue
            found.repaired += [MalformedPiece(*place, *repair) for repair in repairs]
            found.add_box(numbers, label, place[0], place[1])

    def write(self, codes: np.ndarray, labels: Sequence[str]) -> str:
        pairs = zip(codes.tolist(), labels, strict=True)
        items = [{"bbox_2d": box, **({"label": label} if label else {})} for box, label in pairs]
        return json.dumps(items, ensure_ascii=False)

    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        _check_range(codes, self._limits)
        _check_edges(codes)
        return np.asarray(codes / np.array(self._limits))

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        return np.asarray(np.floor(fractions * np.array(self._limits) + 0.5), dtype=np.int64)

    def compute_error(self) -> tuple[float, float]:
        return 0.5 / self._limits[0], 0.5 / self._limits[1]


def _split_into_fours(numbers: list[str]) -> list[list[int]]:
    values = [int(number) for number in numbers]
    return [values[index : index + 4] for index in range(0, len(values), 4)]


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


def _make_spelling(scheme: BoxScheme, image_size: ImageSize | None) -> _Spelling:
    match scheme:
        case "aurora" | "compact" | "numeral":
            return _Aurora(scheme)
        case "paligemma":
            return _PaliGemma()
        case "florence2":
            return _Florence2()
        case "kosmos2":
            return _Kosmos2()
        case "qwen":
            return _Qwen(image_size)
        case _:
            raise ValueError(f"schemes are {', '.join(get_args(BoxScheme))}; got {scheme!r}")
