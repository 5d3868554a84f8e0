"""COCO and LVIS annotation files, read entry by entry, and lists of COCO results."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import numpy as np

from perceptok.boxes.codec import to_corners
from perceptok.boxes.datasets.box_records import BoxFailure, BoxLabels, ImageBoxes
from perceptok.boxes.datasets.entry_ids import FIRST_CODE, EntryId, EntryIds, IdCodes, parse_id, parse_integer, sort_ids
from perceptok.errors import AnnotationError
from perceptok.files import open_text, parse_json
from perceptok.json_streams import stream_json

__all__ = [
    "FEDERATED",
    "LISTS",
    "LIST_HINT",
    "AnnotationFile",
    "EntryIndex",
    "check_category",
    "find_rotation",
    "index_entries",
    "open_annotations",
    "read_annotations",
    "read_results",
]

LISTS = {"images": "image", "annotations": "annotation", "categories": "category"}
"""The lists of every file, and what their entries are called."""

LIST_HINT = (
    "Exports of Label Studio, CreateML and others are not read (export COCO there), and a list of COCO results does "
    "not have its images' sizes: give the annotation file that has them "
    "(`perceptok box encode --header`, `read_results`)"
)
"""Added to the message where a file is a list."""

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
"""Keys of an image that only LVIS has."""

_IDS = ("id", "image_id", "category_id")
_INTEGERS = (*_IDS, "width", "height", "iscrowd")

_FRACTIONS = (
    "lie in 0..1, as fractions of the image; a COCO file has pixels: multiply x and width by its width, y and height "
    "by its height"
)

_SLACK = 0.1
"""Boxes in fractions of the image may leave it by so much, as detectors' do."""

_NUMBERS = (int, float)
_ANGLES = ("rotation", "angle", "theta")
_MODES = ("bbox_mode", "bbox_format")
_XYWH = (1, "xywh", "xywh_abs", "coco", "boxmode.xywh_abs")
"""Values of `bbox_mode` (Detectron2) and `bbox_format` that say what COCO's boxes are."""
_UNUSUAL = frozenset((*_ANGLES, *_MODES, "width", "height", *FEDERATED))
"""Keys that annotations of COCO do not have, and that are repaired or reported in others."""

_MIN_PIXELS = 8
"""In smaller images, boxes within the first pixel are not taken for fractions of the image."""


@dataclass(frozen=True)
class AnnotationFile:
    """The content of an annotation file.

    Attributes:
        images: In the file's order, each with its boxes in the file's order, none of them twice.
        header: Everything but images and annotations: the categories with all their keys, info, licences.
        failures: Entries that were left out, where reading was not strict.
        repairs: What does not follow the COCO format and was read all the same, and boxes that repeat another, each
            with how often.
        incomplete: Ids of images with a box that was left out, or that may be another image's.
    """

    images: tuple[ImageBoxes, ...]
    header: dict[str, Any]
    failures: tuple[BoxFailure, ...] = ()
    repairs: tuple[str, ...] = ()
    incomplete: frozenset[EntryId] = frozenset()


@dataclass(frozen=True)
class EntryIndex:
    """The ids that `read_annotations` gives the entries of a file, by their place in their list.

    Attributes:
        images: Place -> id, of the images that were read.
        annotations: Place -> the ids of the annotation, its image and its category.
        categories: Place -> id.
        written: Ids of images and categories that the file writes otherwise ("7" for 7), as it writes them.
    """

    images: dict[int, EntryId]
    annotations: dict[int, tuple[EntryId, EntryId, EntryId]]
    categories: dict[int, EntryId]
    written: dict[tuple[str, EntryId], EntryId]


def read_annotations(
    file: str | Path | TextIO,
    *,
    strict: bool = True,
    find_size: Callable[[str, str], tuple[int, int] | None] | None = None,
) -> AnnotationFile:
    """Read a COCO or LVIS file entry by entry, whatever the order of its lists.

    Only the numbers of an annotation are held (some 100 bytes), so that files with gigabytes of outlines can be read.
    LVIS's `neg_category_ids` and `not_exhaustive_category_ids` and COCO's `iscrowd` are read; outlines, and keys of an
    image other than id, size and name, are not. What exporters write and pycocotools loads although it is not in the
    format is read too, and reported in `repairs`: integers as floats or as text, an area of null, ids that are text
    (UUIDs; they stay as they are), ids of annotations that are unique in their image only (Mapillary; they get the next
    free numbers), and boxes with CVAT's `attributes.rotation`, clockwise degrees around the centre (the upright box
    around the rotated one is read). A `rotation` beside the box is reported, and the box read as it is: some tools
    write there what the box includes already. A box that repeats another of its image and category exactly, as some in
    LVIS and Objects365 do, is left out with a count.

    Args:
        file: A path, also of a gzip file, or an open text file.
        strict: Raise for the first invalid entry; otherwise leave such entries out and list them in `failures`.
        find_size: Finds the width and height in pixels of an image that the file gives no size of, by its name and the
            folder in its address; None where it has none.

    Raises:
        AnnotationError: Not JSON, cut off or empty; without `images`, `annotations` or `categories`; boxes in fractions
            of the image in most images; and, if strict, a repeated id, an annotation of an image or a category that is
            missing, an image without a size, a box that is not four finite numbers with width and height from 0, or in
            fractions of the image.
    """
    with open_annotations(file) as (opened, where):
        return _Reader(strict, where, find_size).read(opened)


def index_entries(file: str | Path | TextIO) -> EntryIndex:
    """The ids of the entries that `read_annotations` reads where not strict; raises AnnotationError as it does."""
    with open_annotations(file) as (opened, where):
        reader = _Reader(False, where, None)
        return reader.make_index(reader.read(opened))


_Result = tuple[EntryId, list[float], float]
"""Category id, box (x, y, width, height) and score."""


def read_results(text: str, where: str, known: Iterable[ImageBoxes]) -> list[ImageBoxes | BoxFailure]:
    """The boxes of each image in a list of COCO results; the image's name and size come from known images.

    Args:
        text: JSON: `[{"image_id": ..., "category_id": ..., "bbox": [x, y, width, height], "score": ...}, ...]`.
        where: The file's name, for messages.
        known: Images with ids, of one data set: they give names, sizes and the categories' names.

    Returns:
        An image with its boxes, or a failure for each invalid entry. Categories that no known image names are called
        "category 7".

    Raises:
        AnnotationError: Not JSON, not a list, or boxes in fractions of the image in most images.
    """
    items = parse_json(text, where, AnnotationError)
    if not isinstance(items, list):
        raise AnnotationError(f"{where}: expected a list of results; got {type(items).__name__}")
    images = {image.image_id: image for image in known if image.image_id is not None}
    names = {number: name for image in images.values() for number, name in image.labels.categories.items()}
    image_ids, category_ids = EntryIds(images), EntryIds(names)
    has_text = any(isinstance(number, str) for number in names)
    results: list[ImageBoxes | BoxFailure] = []
    rows_of_image: dict[EntryId, list[_Result]] = {}
    for index, item in enumerate(items):
        try:
            image_id, row = _read_result(item)
            image_id, row = image_ids.find(image_id), (category_ids.find(row[0]), *row[1:])
            if image_id not in images:
                raise AnnotationError(f"names image {image_id}, which is not among the known ones")
            if isinstance(row[0], str) and row[0] not in names and not has_text:
                raise AnnotationError(f"category_id is {row[0]!r:.60}; the ids of the known categories are integers")
        except AnnotationError as error:
            results.append(BoxFailure(f"{where}, result {index}", str(error)))
            continue
        rows_of_image.setdefault(image_id, []).append(row)
    fractional = 0
    for image_id, rows in rows_of_image.items():
        image = images[image_id]
        box_categories, xywh, scores = zip(*rows, strict=True)
        categories = {number: names.get(number, f"category {number}") for number in sort_ids(set(box_categories))}
        labels = BoxLabels(box_categories, scores=scores, categories=categories)
        boxes = np.ascontiguousarray(to_corners(np.array(xywh), "xywh"))
        if _are_fractions(boxes, image.width, image.height):
            fractional += 1
            results.append(BoxFailure(f"{where}, image {image_id}", f"its boxes {_FRACTIONS}"))
            continue
        results.append(ImageBoxes(image.name, image.width, image.height, boxes, labels, image_id))
    if 2 * fractional > len(rows_of_image):
        raise AnnotationError(f"{where}: the boxes of {fractional} of {len(rows_of_image)} images {_FRACTIONS}")
    return results


@contextmanager
def open_annotations(file: str | Path | TextIO) -> Iterator[tuple[TextIO, str]]:
    """A path or an open text file as an open text file, and its name for messages; raises AnnotationError."""
    if not isinstance(file, str | Path):
        yield open_text(file), getattr(file, "name", "the file")
        return
    try:
        opened = open_text(file, allow_pipe=True)
    except OSError as error:
        raise AnnotationError(f"{file}: cannot be read ({error.strerror})") from error
    with opened:
        yield opened, str(file)


class _Reader:
    """Collects a file's entries, in whatever order they come."""

    def __init__(
        self, strict: bool, where: str, find_size: Callable[[str, str], tuple[int, int] | None] | None
    ) -> None:
        self._strict = strict
        self._where = where
        self._find_size = find_size
        self._failures: list[BoxFailure] = []
        self._header: dict[str, Any] = {}
        self._categories: dict[int, _Category] = {}
        self._images: dict[int, _Image] = {}
        self._annotations = _Annotations()
        self._repairs: Counter[str] = Counter()
        self._codes = IdCodes()
        """Of all ids, until the file is read."""
        self._incomplete: set[int] = set()
        self._index = 0
        """Place of the entry that is read, in its list."""

    def read(self, file: TextIO) -> AnnotationFile:
        add = {"images": self._add_image, "annotations": self._add_annotation, "categories": self._add_category}
        found = set()
        for key, value in stream_json(file, LISTS, self._where, AnnotationError, list_hint=LIST_HINT):
            found.add(key)
            if key not in LISTS:
                self._header[key] = value
                continue
            if key == "categories":
                self._header[key] = []
            for index, item in enumerate(value):
                if index == 0 and isinstance(item, dict) and "segments_info" in item:
                    raise AnnotationError(
                        f"{self._where}: a COCO panoptic file, whose annotations are segments of mask images; give the "
                        "file of boxes (instances_*.json)"
                    )
                self._index = index
                self._add(add[key], item, LISTS[key], index)
        _check_lists(found, self._where)
        return self._assemble()

    def _add(self, add: Callable[[dict[str, Any]], None], item: Any, kind: str, index: int) -> None:
        try:
            if not isinstance(item, dict):
                raise AnnotationError(f"expected an object, found {json.dumps(item):.40}")
            for key in _NAMES:
                if key in item and isinstance(text := item[key], str) and not _is_encodable(text):
                    raise AnnotationError(
                        f"{key} is not valid Unicode: half a surrogate pair, which no file can hold: {text!r:.80}"
                    )
            add(item if kind == "annotation" and _is_plain(item) else self._repair(item, kind))
        except (AnnotationError, KeyError) as error:
            number = item.get("id") if isinstance(item, dict) else None
            is_id = type(number) is int or (isinstance(number, str) and parse_id(number) is not None)
            name = f"{kind} {number}" if is_id else f"{kind} at index {index}"
            self._fail(name, f"has no {error}" if isinstance(error, KeyError) else str(error))
            image = parse_id(item.get("image_id")) if kind == "annotation" and isinstance(item, dict) else None
            self._incomplete |= set() if image is None else {self._codes.encode(image)}

    def _fail(self, name: str, reason: str) -> None:
        if self._strict:
            raise AnnotationError(f"{self._where}: {name}: {reason}")
        self._failures.append(BoxFailure(name, reason))

    def _fail_row(self, row: int, reason: str) -> None:
        self._fail(f"annotation {self._name('annotation', self._annotations.ids[row])}", reason)

    def _repair(self, item: dict[str, Any], kind: str) -> dict[str, Any]:
        """An entry as COCO writes it, with codes for its ids."""
        repaired: dict[str, Any] = {}
        for key in _INTEGERS:
            value = item.get(key)
            if value is None or (type(value) is int and abs(value) < FIRST_CODE):  # its own code
                continue
            parsed = parse_id(value) if key in _IDS else parse_integer(value)
            if parsed is None:
                continue
            repaired[key] = self._codes.encode(parsed) if key in _IDS else parsed
            if parse_integer(value) is None:
                self._repairs[f"{kind}: {key} is text and not an integer"] += 1
            elif type(value) is not int:
                written_as = "text" if isinstance(value, str) else "a float"
                self._repairs[f"{kind}: {key} is an integer written as {written_as}"] += 1
        for key in FEDERATED:
            if isinstance(item.get(key), list):
                ids = [parse_id(value) for value in item[key]]
                repaired[key] = [None if value is None else self._codes.encode(value) for value in ids]
        box = item.get("bbox")
        if isinstance(box, list) and any(isinstance(value, str) for value in box):
            numbers = [_parse_number(value) for value in box]
            if None not in numbers:
                repaired["bbox"] = numbers
                self._repairs[f"{kind}: bbox has numbers written as text"] += 1
        if isinstance(item.get("area"), str) and (area := _parse_number(item["area"])) is not None:
            repaired["area"] = area
            self._repairs[f"{kind}: area is a number written as text"] += 1
        for key, default in (("area", "that of the box"), ("iscrowd", "0")):
            if key in item and item[key] is None:
                item = {name: value for name, value in item.items() if name != key}
                self._repairs[f"{kind}: {key} is null; {default} is used"] += 1
        item = {**item, **repaired} if repaired else item
        return self._turn(item) if kind == "annotation" else item

    def _turn(self, item: dict[str, Any]) -> dict[str, Any]:
        """An annotation with the upright box around a rotated one."""
        box: Any = item.get("bbox")
        rotation = find_rotation(item)
        attributes = item.get("attributes")
        for key in _ANGLES:
            is_read = key == "rotation"  # CVAT's
            is_turned = not is_read and isinstance(attributes, dict) and _is_angle(attributes.get(key))
            if _is_angle(item.get(key)) or is_turned:
                named = f"{'an' if key == 'angle' else 'a'} {key}"
                self._repairs[f"annotation: has {named}; its box is read as it is, upright"] += 1
        for key in _MODES:
            mode = item.get(key, 1)
            if (mode.casefold() if isinstance(mode, str) else mode) not in _XYWH:
                raise AnnotationError(f"{key} is {mode!r:.40}; a COCO file has x, y, width, height: convert the boxes")
        if rotation is None or not _is_box(box):
            return item
        self._repairs["annotation: box is rotated (attributes.rotation); the upright box around it is read"] += 1
        return {"area": box[2] * box[3], **item, "bbox": _enclose(box, rotation)}

    def _add_annotation(self, item: dict[str, Any]) -> None:
        self._annotations.add(item, self._index)

    def _add_category(self, item: dict[str, Any]) -> None:
        name = check_category(item)["name"]
        number = _check_integers([item["id"]], "id")[0]
        if number in self._categories:
            raise AnnotationError("repeated id; the first is kept")
        self._categories[number] = _Category(name, item, self._index)

    def _add_image(self, item: dict[str, Any]) -> None:
        name, folder = item.get("file_name"), ""
        if isinstance(item.get("coco_url"), str):  # LVIS 1.0
            address = PurePosixPath(item["coco_url"])
            name, folder = name or address.name, address.parent.name
        has_size = bool(item.get("width") and item.get("height"))
        size = self._find_size(name, folder) if self._find_size and isinstance(name, str) and not has_size else None
        if size is not None:
            item = {**item, "width": size[0], "height": size[1]}
            self._repairs["image: has no size; that of its file is used"] += 1
        number, width, height = (_check_integers([item[key]], key)[0] for key in ("id", "width", "height"))
        if number in self._images:
            if self._images[number].name != name:
                self._incomplete.add(number)
            raise AnnotationError("repeated id; the first is kept")
        if width < 1 or height < 1:
            raise AnnotationError(f"an image has at least one pixel; got {width} x {height}")
        if not isinstance(name, str) or not name:
            raise AnnotationError("has neither file_name nor coco_url")
        listed = tuple(tuple(_check_integers(item[key], key)) if key in item else None for key in FEDERATED)
        self._images[number] = _Image(name, width, height, listed, folder, self._index)

    def _resolve_ids(self) -> None:
        """Find the entries that annotations and LVIS's lists name, and decide which texts are integers."""
        columns, codes = self._annotations, self._codes
        listed = {"image": self._images, "annotation": columns.ids, "category": self._categories}
        self._ids = {kind: EntryIds(map(codes.decode, entries)) for kind, entries in listed.items()} if codes else {}
        if codes:
            columns.images = array("q", (self._find("image", code) for code in columns.images))
            columns.categories = array("q", (self._find("category", code) for code in columns.categories))
            self._incomplete = {self._find("image", code) for code in self._incomplete}

    def _find(self, kind: str, code: int) -> int:
        return self._codes.encode(self._ids[kind].find(self._codes.decode(code))) if self._codes else code

    def _name(self, kind: str, code: int) -> EntryId:
        """The id of a code, as labels have it."""
        return self._ids[kind].normalize(self._codes.decode(code)) if self._codes else code

    def _name_all(self, kind: str, codes: Iterable[int]) -> tuple[EntryId, ...]:
        return tuple(self._name(kind, code) for code in codes) if self._codes else tuple(codes)

    def _assemble(self) -> AnnotationFile:
        self._resolve_ids()
        rows_of_image: dict[int, list[int]] = {number: [] for number in self._images}
        columns = self._annotations
        rows_of_id: dict[int, int] = {}
        integers = (number for number in self._name_all("annotation", columns.ids) if isinstance(number, int))
        free_ids = count(max(integers, default=0) + 1)
        corners = columns.make_corners()
        for row, (number, image, category) in enumerate(
            zip(columns.ids, columns.images, columns.categories, strict=True)
        ):
            if image not in rows_of_image:
                self._fail_row(row, f"names image {self._codes.decode(image)}, which is missing or was refused")
            elif category not in self._categories:
                self._fail_row(row, f"names category {self._codes.decode(category)}, which is missing or was refused")
            elif (first := rows_of_id.get(number)) is not None and columns.images[first] == image:
                self._fail_row(row, "repeated id; the first is kept")
                if category != columns.categories[first] or (corners[row] != corners[first]).any():
                    self._incomplete.add(image)
            else:
                if number in rows_of_id:
                    columns.ids[row] = self._codes.encode(next(free_ids))
                    self._repairs["annotation: id is that of another image's annotation; numbered"] += 1
                rows_of_id.setdefault(number, row)
                rows_of_image[image].append(row)
        for image, rows in rows_of_image.items():
            rows_of_image[image] = self._drop_repeated(rows)
        self._leave_out_fractions(rows_of_image, corners)
        self._category_names = {self._name("category", code): entry.name for code, entry in self._categories.items()}
        self._rows = tuple(rows_of_image.values())
        images = tuple(self._make_image(number, rows, corners[rows]) for number, rows in rows_of_image.items())
        repairs = tuple(f"{repair} ({times} times)" for repair, times in sorted(self._repairs.items()))
        categories = [{**entry.item, "id": self._name("category", code)} for code, entry in self._categories.items()]
        incomplete = frozenset(self._name("image", code) for code in self._incomplete)
        return AnnotationFile(
            images, {**self._header, "categories": categories}, tuple(self._failures), repairs, incomplete
        )

    def make_index(self, file: AnnotationFile) -> EntryIndex:
        """The index of the file that was read."""
        images = {entry.index: self._name("image", code) for code, entry in self._images.items()}
        categories = {entry.index: self._name("category", code) for code, entry in self._categories.items()}
        written = {}
        for kind, codes in (("image", self._images), ("category", self._categories)):
            written.update({(kind, self._name(kind, code)): self._codes.decode(code) for code in codes})
        annotations = {}
        for image, rows in zip(file.images, self._rows, strict=True):
            assert image.image_id is not None
            labels = image.labels
            for row, number, category in zip(rows, labels.annotation_ids, labels.category_ids, strict=True):
                annotations[self._annotations.indices[row]] = number, image.image_id, category
        written = {key: entry for key, entry in written.items() if key[1] != entry}
        return EntryIndex(images, annotations, categories, written)

    def _drop_repeated(self, rows: list[int]) -> list[int]:
        """Drop the boxes of an image that repeat another one of its category exactly, which would be counted twice."""
        if len(rows) < 2:
            return rows
        columns = self._annotations
        first: dict[tuple[float, ...], int] = {}
        for row in rows:
            box = columns.xywh[4 * row : 4 * row + 4]
            first.setdefault((columns.categories[row], columns.crowd[row], *box), row)
        if len(first) < len(rows):
            repair = "annotation: its box repeats another of its image and category exactly; left out"
            self._repairs[repair] += len(rows) - len(first)
        return list(first.values())

    def _leave_out_fractions(self, rows_of_image: dict[int, list[int]], corners: np.ndarray) -> None:
        """Leave out the boxes of images whose boxes are all fractions of the image; raises where most images are so."""
        annotated = {number: rows for number, rows in rows_of_image.items() if rows}
        fractional = [
            number
            for number, rows in annotated.items()
            if _are_fractions(corners[rows], self._images[number].width, self._images[number].height)
        ]
        if 2 * len(fractional) > len(annotated):
            raise AnnotationError(
                f"{self._where}: the boxes of {len(fractional)} of {len(annotated)} images {_FRACTIONS}"
            )
        for number in fractional:
            image = self._name("image", number)
            for row in annotated[number]:
                self._fail_row(
                    row,
                    f"its box and all others of image {image} lie in 0..1, as fractions of the image; COCO has pixels",
                )
            self._incomplete.add(number)
            rows_of_image[number] = []

    def _make_image(self, number: int, rows: Sequence[int], boxes: np.ndarray) -> ImageBoxes:
        image, columns = self._images[number], self._annotations
        image_id = self._name("image", number)
        listed = [None if ids is None else [self._find("category", code) for code in ids] for ids in image.listed]
        unknown = {code for codes in listed for code in codes or ()} - self._categories.keys()
        if unknown:
            missing = sort_ids(map(self._codes.decode, unknown))[0]
            self._fail(f"image {image_id}", f"lists category {missing}, which is missing; left out of its lists")
        negative, not_exhaustive = (
            None if codes is None else tuple(self._name("category", code) for code in codes if code not in unknown)
            for codes in listed
        )
        category_ids = self._name_all("category", [columns.categories[row] for row in rows])
        used = {*category_ids, *(negative or ()), *(not_exhaustive or ())}
        labels = BoxLabels(
            category_ids=category_ids,
            # LVIS has no crowds: the key is not written back where the file does not have it.
            crowd=tuple(columns.crowd[row] == 1 for row in rows) if columns.has_crowd else (),
            annotation_ids=self._name_all("annotation", [columns.ids[row] for row in rows]),
            areas=tuple(columns.areas[row] for row in rows),
            negative_category_ids=negative,
            not_exhaustive_category_ids=not_exhaustive,
            categories={category: self._category_names[category] for category in sort_ids(used)},
        )
        return ImageBoxes(image.name, image.width, image.height, boxes, labels, image_id, image.folder)


def _are_fractions(boxes: np.ndarray, width: int, height: int) -> bool:
    """Whether the boxes (N, 4) of an image of that size, as corners, are fractions of it rather than pixels."""
    is_small = boxes.min() >= -_SLACK and boxes.max() <= 1 + _SLACK and bool((boxes[:, 2:] > boxes[:, :2]).all())
    return is_small and bool((boxes != np.round(boxes)).any()) and min(width, height) >= _MIN_PIXELS


@dataclass(frozen=True)
class _Image:
    name: str
    width: int
    height: int
    listed: tuple[tuple[int, ...] | None, ...]
    """Codes of the categories that are known to be absent, and of those that may have objects without a box."""
    folder: str
    index: int


@dataclass(frozen=True)
class _Category:
    name: str
    item: dict[str, Any]
    index: int


@dataclass
class _Annotations:
    """Annotations as columns of plain numbers."""

    indices: array[int] = field(default_factory=lambda: array("q"))
    ids: array[int] = field(default_factory=lambda: array("q"))
    images: array[int] = field(default_factory=lambda: array("q"))
    categories: array[int] = field(default_factory=lambda: array("q"))
    xywh: array[float] = field(default_factory=lambda: array("d"))
    areas: array[float] = field(default_factory=lambda: array("d"))
    crowd: array[int] = field(default_factory=lambda: array("b"))
    has_crowd: bool = False

    def add(self, item: dict[str, Any], index: int) -> None:
        """Add the annotation at a place of the list; raises AnnotationError, KeyError."""
        number, image, category = (item[key] for key in _IDS)
        for key, value in zip(_IDS, (number, image, category), strict=True):
            if type(value) is not int or abs(value) >= 2**63:
                _check_integers([value], key)
        box = item["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
            raise AnnotationError(f"bbox is four finite numbers; got {json.dumps(box):.80}")
        if box[2] < 0 or box[3] < 0:
            raise AnnotationError(f"bbox is x, y, width, height, lengths from 0; got {json.dumps(box):.80}")
        area = item.get("area", box[2] * box[3])
        if not _is_finite(area):
            raise AnnotationError(f"area is a finite number; got {json.dumps(area):.40}")
        crowd = item.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise AnnotationError(f"iscrowd is 0 or 1; got {json.dumps(crowd):.40}")
        self.has_crowd |= "iscrowd" in item
        self.ids.append(number)
        self.images.append(image)
        self.categories.append(category)
        self.xywh.extend(box)
        self.areas.append(area)
        self.crowd.append(int(crowd))
        self.indices.append(index)

    def make_corners(self) -> np.ndarray:
        """Boxes (N, 4) float64 as x1, y1, x2, y2."""
        return np.ascontiguousarray(to_corners(np.array(self.xywh).reshape(-1, 4), "xywh"))


_NAMES = ("file_name", "coco_url", "name")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_plain(item: Mapping[str, Any]) -> bool:
    """Whether an annotation has nothing to repair: integers where COCO has them, and an upright box."""
    for key in _IDS:
        number = item.get(key)
        if type(number) is not int or not -FIRST_CODE < number < FIRST_CODE:
            return False
    box, attributes = item.get("bbox"), item.get("attributes")
    return (
        type(item.get("iscrowd", 0)) is int
        and type(item.get("area", 0)) in _NUMBERS
        and isinstance(box, list)
        and all(type(value) in _NUMBERS for value in box)
        and not (isinstance(attributes, dict) and not attributes.keys().isdisjoint(_ANGLES))
        and item.keys().isdisjoint(_UNUSUAL)
    )


def _check_lists(found: Collection[str], where: str) -> None:
    missing = [key for key in LISTS if key not in found]
    if missing:
        raise AnnotationError(
            f"{where}: has no list {' and no list '.join(missing)}; a COCO or LVIS file has images, annotations and "
            f"categories. It has {', '.join(sorted(found)) or 'nothing'}"
        )


def check_category(item: Any) -> dict[str, Any]:
    """An entry of `categories` with a name; raises AnnotationError."""
    if not isinstance(item, dict):
        raise AnnotationError(f"expected an object, found {json.dumps(item):.40}")
    if not isinstance(item.get("name"), str):
        raise AnnotationError(f"name is text; got {item.get('name')!r:.40}")
    return item


def _check_integers(values: Any, key: str) -> list[int]:
    is_id = key in (*_IDS, *FEDERATED)
    if not isinstance(values, list) or not all(type(value) is int and abs(value) < 2**63 for value in values):
        raise AnnotationError(f"{key}: expected integers{' or text' * is_id}, found {json.dumps(values):.60}")
    return values


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _parse_number(value: Any) -> Any:
    """The number in a text, None if it is not a finite one; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def find_rotation(item: Mapping[str, Any]) -> float | None:
    """CVAT's rotation of an annotation's box in degrees, clockwise around its centre; None for an upright box."""
    attributes = item.get("attributes")
    rotation = _parse_number(attributes.get("rotation")) if isinstance(attributes, dict) else None
    return rotation if _is_angle(rotation) else None


def _is_angle(value: Any) -> bool:
    """Whether a value is an angle in degrees that turns a rectangle into another one."""
    value = _parse_number(value)
    return value is not None and _is_finite(value) and value % 180 != 0


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box)) and min(box[2:]) >= 0


def _enclose(box: Sequence[float], rotation: float) -> list[float]:
    """The upright box around a rotated one, as x, y, width, height."""
    x, y, width, height = box
    angle = math.radians(rotation)
    cosine, sine = (0.0, 1.0) if rotation % 180 == 90 else (abs(math.cos(angle)), abs(math.sin(angle)))
    outer_width, outer_height = width * cosine + height * sine, width * sine + height * cosine
    return [x + (width - outer_width) / 2, y + (height - outer_height) / 2, outer_width, outer_height]


def _read_result(item: Any) -> tuple[EntryId, _Result]:
    """Image id, and category id, box and score of one result."""
    if not isinstance(item, dict):
        raise AnnotationError(f"expected an object, found {json.dumps(item):.40}")
    image, category = parse_id(item.get("image_id")), parse_id(item.get("category_id"))
    if isinstance(category, str):
        category = EntryIds([category]).normalize(category)
    if image is None or category is None:
        raise AnnotationError("image_id and category_id must be integers or text")
    box = item.get("bbox")
    try:
        numbers = [float(number) for number in box] if isinstance(box, list) and len(box) == 4 else []
        score = float(item.get("score", 1.0))
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"bbox and score are numbers ({error})") from error
    if not numbers or not np.isfinite([*numbers, score]).all() or min(numbers[2:]) < 0:
        raise AnnotationError(f"bbox is four finite numbers, x, y and lengths from 0; got {json.dumps(box):.80}")
    return image, (category, numbers, score)
