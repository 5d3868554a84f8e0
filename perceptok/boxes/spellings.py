"""Boxes as other models write them: found in free text, and converted from one model's spelling to another's."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.qwen import Qwen
from perceptok.boxes.spelling_base import (
    Binned,
    Collector,
    ImageSize,
    ParsedSpelling,
    Spelling,
    check_code_columns,
    check_edges,
    check_labels,
    check_range,
)
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
from perceptok.errors import MalformedBoxError
from perceptok.tokens import PIXEL

__all__ = ["BoxScheme", "Conversion", "convert_spelling", "parse_spelling"]

BoxScheme = Literal["aurora", "compact", "numeral", "paligemma", "florence2", "kosmos2", "qwen"]
"""Whose spelling it is; `convert_spelling` describes each."""


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
        codes = check_code_columns(boxes, reader.columns)
        box_labels = tuple(labels) if labels is not None else ("",) * len(codes)
        if len(box_labels) != len(codes):
            raise MalformedBoxError(f"expected a label for each of {len(codes)} boxes; got {len(box_labels)}")
    elif labels is not None:
        raise MalformedBoxError("a text has its own labels; give labels with codes only")
    elif strict:
        codes, box_labels = reader.read(boxes)
    else:
        parsed = _parse(reader, boxes, source)
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
    in the text raises an error. Where the text has no box of the scheme, what looks like another model's is malformed.

    Args:
        text: Any text.
        scheme: Whose spelling it is; `convert_spelling` describes each.
        image_size: Width and height in pixels; Qwen only: its boxes must lie inside.

    Raises:
        BoxError: Qwen without a valid image size.
        ValueError: Another scheme.
    """
    return _parse(_make_spelling(scheme, image_size), text, scheme)


_NUMBER = r"\s*+-?[0-9]{1,6}(?:\.[0-9]{0,9})?\s*+"
_FOURS = rf"{_NUMBER}(?:,{_NUMBER}){{3}}"
_SIGNS: tuple[tuple[str, str], ...] = (
    (rf"<{PIXEL.name}_[0-9]", "AURORA's tokens: scheme aurora or compact"),
    (r"<loc[0-9]{4}>", "PaliGemma's tokens: scheme paligemma"),
    (r"<loc_[0-9]", "Florence-2's tokens: scheme florence2"),
    (r"<patch_index_[0-9]", "Kosmos-2's tokens: scheme kosmos2"),
    (r"<\|box_start\|>|\"bbox_2d\"\s*+:", "Qwen's boxes: scheme qwen"),
    (r"'bbox_2d'\s*+:", "Qwen's boxes, but JSON has double quotes"),
    (r"<box>", "InternVL's boxes, thousandths of the image"),
    (r"<\|det\|>", "DeepSeek-VL2's boxes, 0..999 of the image"),
    (r"<\|begin_of_box\|>", "GLM-4V's boxes, thousandths of the image"),
    (r"<points?\s", "Molmo's points: points_from_molmo"),
    (rf"\[\[{_FOURS}[\];]", "boxes in double brackets, as CogVLM writes thousandths of the image"),
    (r"['\"](?:bbox|box|box_2d|bounding_box)['\"]\s*+:", 'boxes in JSON with another key than "bbox_2d"'),
    (
        rf"[\[(]{_FOURS}[\])]",
        "four numbers in brackets, whose unit the text does not name: codes are scheme numeral",
    ),
)
"""What the boxes of other models look like, and what they are."""


def _parse(spelling: Spelling, text: str, scheme: BoxScheme) -> ParsedSpelling:
    """The boxes of a text; where it has none of the scheme's, what looks like another spelling is malformed."""
    parsed = spelling.parse(text)
    if len(parsed.codes) or parsed.malformed:
        return parsed
    for sign, meaning in _SIGNS:
        if found := re.search(sign, text):
            reason = f"not in scheme {scheme}; it looks like {meaning}"
            return replace(parsed, malformed=(MalformedPiece(*found.span(), found.group(), "token", reason),))
    return parsed


class _Aurora(Binned):
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


class _TokenSpelling(Spelling):
    """Boxes of location tokens `<stem...>`, 0..highest."""

    stem: str
    highest: int

    def __init__(self) -> None:
        token = rf"<{self.stem}([0-9]{{1,9}})>"
        self._token = re.compile(token)
        self._run = re.compile(rf"{token}(?>(?:\s*+{token})*)")

    def parse(self, text: str) -> ParsedSpelling:
        found, label = Collector(), ""
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
    _BOX = re.compile(r"\s*+((?:(?:<loc\d{4}>){4}\s*+)+)(?>(?:<seg\d{3}>\s*+)*)([^<>;]*+)", re.ASCII)
    _SEGMENT = re.compile(r"[ \t]*+((?>(?:<seg\d{3}>)*))", re.ASCII)
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
        return check_code_columns(boxes, 4), tuple(labels)

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
        check_labels(labels, ";<>", "PaliGemma")
        boxes = ("".join(f"<loc{code:04}>" for code in box) for box in codes.tolist())
        return " ; ".join(f"{box} {label}".rstrip() for box, label in zip(boxes, labels, strict=True))

    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        check_range(codes, self.highest)
        check_edges(codes)
        return np.asarray(codes[:, [1, 0, 3, 2]] / self.highest)

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        return np.floor(fractions[:, [1, 0, 3, 2]] * self.highest + 0.5).astype(np.int64)

    def compute_error(self) -> tuple[float, float]:
        return 0.5 / self.highest, 0.5 / self.highest


class _Florence2(_TokenSpelling, Binned):
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
        return check_code_columns(boxes, 4), tuple(labels)

    def find_label(self, run: re.Match[str]) -> str:
        head = self._find_text_before(run)
        return head[max(head.rfind("<"), head.rfind(">"), head.rfind("\n")) + 1 :].strip()

    def write(self, codes: np.ndarray, labels: Sequence[str]) -> str:
        check_labels(labels, "<>", "Florence-2")
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
        rf"(?>(?:<phrase>([^<>]*)</phrase>)?)<object>({_PAIR}(?>(?:{_SEPARATOR}{_PAIR})*))</object>", re.ASCII
    )
    _SPACED = re.compile(rf"(?<! ) *+(</?(?:object|phrase)>|<patch_index_\d{{4}}>|{_SEPARATOR}) *+", re.ASCII)
    _PHRASE = re.compile(r"<phrase>([^<>]*+)</phrase>\s*+(?>(?:<object>\s*+)?)\Z")
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
        return check_code_columns(boxes, 2), tuple(labels)

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
        check_labels(labels, "<>", "Kosmos-2")
        boxes = ("".join(f"<patch_index_{code:04}>" for code in pair) for pair in codes.tolist())
        phrases = (f"<phrase>{label}</phrase>" if label else "" for label in labels)
        return "".join(f"{phrase}<object>{box}</object>" for phrase, box in zip(phrases, boxes, strict=True))

    def to_fractions(self, codes: np.ndarray) -> np.ndarray:
        check_range(codes, self.highest)
        near, far = (np.stack([patch % self.cells, patch // self.cells], axis=1) for patch in codes.T)
        check_edges(np.concatenate([near, far], axis=1))
        inset = np.where((near == far).any(axis=1, keepdims=True), 0.0, 0.5)
        return np.concatenate([near + inset, far + 1 - inset], axis=1) / self.cells

    def from_fractions(self, fractions: np.ndarray) -> np.ndarray:
        near = np.minimum(np.floor(fractions[:, :2] * self.cells), self.cells - 1).astype(np.int64)
        # A box without width that lies on the border of two patches would end before it begins.
        far = np.maximum(np.ceil(fractions[:, 2:] * self.cells - 1).astype(np.int64), near)
        return np.stack([near[:, 1] * self.cells + near[:, 0], far[:, 1] * self.cells + far[:, 0]], axis=1)

    def compute_error(self) -> tuple[float, float]:
        return 1 / self.cells, 1 / self.cells


def _split_into_fours(numbers: list[str]) -> list[list[int]]:
    values = [int(number) for number in numbers]
    return [values[index : index + 4] for index in range(0, len(values), 4)]


def _make_spelling(scheme: BoxScheme, image_size: ImageSize | None) -> Spelling:
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
            return Qwen(image_size)
        case _:
            raise ValueError(f"schemes are {', '.join(get_args(BoxScheme))}; got {scheme!r}")
