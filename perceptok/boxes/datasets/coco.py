"""COCO and LVIS annotation files, read and written entry by entry, and lists of COCO results."""

from __future__ import annotations

import gzip
import io
import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

import numpy as np

from perceptok.boxes.codec import to_corners
from perceptok.boxes.datasets.box_records import BoxFailure, BoxLabels, ImageBoxes
from perceptok.errors import AnnotationError
from perceptok.files import open_input, parse_json, stream_json

__all__ = ["AnnotationFile", "read_annotations", "read_results", "rewrite_annotations", "write_annotations"]

_LISTS = {"images": "image", "annotations": "annotation", "categories": "category"}
"""The lists of every file, and what their entries are called."""

_LIST_HINT = (
    "A list of COCO results does not have its images' sizes: give the annotation file that has them "
    "(`perceptok box encode --header`, `read_results`)"
)
"""Added to the message where a file is a list."""

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
"""Keys of an image that only LVIS has."""

_INTEGERS = {"id": None, "image_id": "image", "category_id": "category", "width": None, "height": None, "iscrowd": None}
"""Keys of integers, and for ids of other entries, of what."""

_IDS = ("id", "image_id", "category_id")
_FIRST_TEXT_ID = 1 << 40

_MIN_PIXELS = 8
"""In smaller images, boxes within the first pixel are not taken for fractions of the image."""


@dataclass(frozen=True)
class AnnotationFile:
    """The content of an annotation file.

    Attributes:
        images: In the file's order, each with its boxes in the file's order.
        header: Everything but images and annotations: the categories with all their keys, info, licences.
        failures: Entries that were left out, where reading was not strict.
        repairs: What does not follow the COCO format and was read all the same, each with how often.
        incomplete: Ids of images with a box that was left out, or that may be another image's.
    """

    images: tuple[ImageBoxes, ...]
    header: dict[str, Any]
    failures: tuple[BoxFailure, ...] = ()
    repairs: tuple[str, ...] = ()
    incomplete: frozenset[int] = frozenset()


def read_annotations(file: str | Path | TextIO, *, strict: bool = True) -> AnnotationFile:
    """Read a COCO or LVIS file entry by entry, whatever the order of its lists.

    Only the numbers of an annotation are held (some 100 bytes), so that files with gigabytes of outlines can be read.
    LVIS's `neg_category_ids` and `not_exhaustive_category_ids` and COCO's `iscrowd` are read; outlines, and keys of an
    image other than id, size and name, are not. What exporters write and pycocotools loads although it is not in the
    format is read too, and reported in `repairs`: integers as floats or as text, an area of null, ids of text that are
    not numbers (they get numbers from 2**40 on), and ids of annotations that are unique in their image only (Mapillary;
    they get the next free numbers).

    Args:
        file: A path, also of a gzip file, or an open text file.
        strict: Raise for the first invalid entry; otherwise leave such entries out and list them in `failures`.

    Raises:
        AnnotationError: Not JSON, cut off or empty; without `images`, `annotations` or `categories`; boxes in fractions
            of the image in most images; and, if strict, a repeated id, an annotation of an image or a category that is
            missing, an image without a size, a box that is not four finite numbers with width and height from 0, or in
            fractions of the image.
    """
    with _open_annotations(file) as (opened, where):
        return _Reader(strict, where).read(opened)


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
        AnnotationError: Not JSON, or not a list.
    """
    items = parse_json(text, where, AnnotationError)
    if not isinstance(items, list):
        raise AnnotationError(f"{where}: expected a list of results; got {type(items).__name__}")
    images = {image.image_id: image for image in known if image.image_id is not None}
    names = {number: name for image in images.values() for number, name in image.labels.categories.items()}
    results: list[ImageBoxes | BoxFailure] = []
    rows_of_image: dict[int, list[tuple[int, list[float], float]]] = {}
    for index, item in enumerate(items):
        try:
            image_id, row = _read_result(item)
            if image_id not in images:
                raise AnnotationError(f"names image {image_id}, which is not among the known ones")
        except AnnotationError as error:
            results.append(BoxFailure(f"{where}, result {index}", str(error)))
            continue
        rows_of_image.setdefault(image_id, []).append(row)
    for image_id, rows in rows_of_image.items():
        image = images[image_id]
        category_ids, xywh, scores = zip(*rows, strict=True)
        categories = {number: names.get(number, f"category {number}") for number in sorted(set(category_ids))}
        labels = BoxLabels(category_ids, scores=scores, categories=categories)
        boxes = np.ascontiguousarray(to_corners(np.array(xywh), "xywh"))
        results.append(ImageBoxes(image.name, image.width, image.height, boxes, labels, image_id))
    return results


def write_annotations(file: BinaryIO, images: Sequence[ImageBoxes], header: Mapping[str, Any] | None = None) -> None:
    """Write boxes as a COCO file, or, where images have negative categories, as an LVIS file.

    Args:
        file: An open binary file; the same boxes give the same bytes.
        images: The boxes. Those without an id get the next free one; a box without an area gets its own.
        header: The header that `read_annotations` gave, for categories that no image has, their other keys, info and
            licences.

    Raises:
        AnnotationError: A repeated image or annotation id, a category with two names, or boxes without a category.
    """
    entries, output = _Entries(images), _JsonWriter(file)
    values = {"info": {}, **(header or {})}
    values["categories"] = _merge_categories(images, values.get("categories", []))
    for key, value in values.items():
        output.write_value(key, value)
    output.write_list("images", map(entries.make_image, entries.images))
    output.write_list("annotations", map(entries.make_annotation, entries.annotations))
    output.close()


def rewrite_annotations(file: BinaryIO, images: Sequence[ImageBoxes], original: str | Path | TextIO) -> int:
    """Write the file that boxes came from with these boxes, reading it entry by entry.

    Everything else in the file is kept in its order: outlines, licences, addresses and any other key of images and
    annotations whose ids are given here. New entries come last; entries that are not given here are left out.

    Args:
        file: An open binary file; the same boxes give the same bytes.
        images: The boxes. Those without an id get the next free one; a box without an area gets its own.
        original: A path, or an open text file.

    Returns:
        How many annotations of the file were left out.

    Raises:
        AnnotationError: A repeated image or annotation id, a category with two names, or boxes without a category; a
            file that cannot be read, lacks `images`, `annotations` or `categories`, or has another size of an image or
            another image of an annotation.
    """
    entries, output = _Entries(images), _JsonWriter(file)
    found: set[str] = set()
    left_out: list[Any] = []
    with _open_annotations(original) as (source, where):
        for key, value in stream_json(source, _LISTS, where, AnnotationError, list_hint=_LIST_HINT):
            found.add(key)
            if key == "images":
                output.write_list(key, _merge(value, entries.images, entries.given_images, entries.make_image, []))
            elif key == "annotations":
                given, make = entries.given_annotations, entries.make_annotation
                output.write_list(key, _merge(value, entries.annotations, given, make, left_out))
            elif key == "categories":
                output.write_value(key, _merge_categories(images, [*map(_check_category, value)]))
            else:
                output.write_value(key, value)
        _check_lists(found, where)
    output.close()
    return len(left_out)


# ------------------------------------------------------------------------------------------------------ reading


@contextmanager
def _open_annotations(file: str | Path | TextIO) -> Iterator[tuple[TextIO, str]]:
    """A path or an open text file as an open text file, and its name for messages; raises AnnotationError."""
    if not isinstance(file, str | Path):
        yield file, getattr(file, "name", "the file")
        return
    try:
        opened = open_input(file, allow_pipe=True)
    except OSError as error:
        raise AnnotationError(f"{file}: cannot be read ({error.strerror})") from error
    with opened:
        is_gzip = opened.peek(2)[:2] == b"\x1f\x8b"
        yield io.TextIOWrapper(gzip.GzipFile(fileobj=opened) if is_gzip else opened, encoding="utf-8-sig"), str(file)


class _Reader:
    """Collects a file's entries, in whatever order they come."""

    def __init__(self, strict: bool, where: str) -> None:
        self._strict = strict
        self._where = where
        self._failures: list[BoxFailure] = []
        self._header: dict[str, Any] = {}
        self._categories: dict[int, str] = {}
        self._images: dict[int, _Image] = {}
        self._annotations = _Annotations()
        self._repairs: Counter[str] = Counter()
        self._text_ids: dict[tuple[str, str], int] = {}
        self._incomplete: set[int] = set()

    def read(self, file: TextIO) -> AnnotationFile:
        add = {"images": self._add_image, "annotations": self._annotations.add, "categories": self._add_category}
        found = set()
        for key, value in stream_json(file, _LISTS, self._where, AnnotationError, list_hint=_LIST_HINT):
            found.add(key)
            if key not in _LISTS:
                self._header[key] = value
                continue
            if key == "categories":
                self._header[key] = []
            for index, item in enumerate(value):
                self._add(add[key], item, _LISTS[key], index)
        _check_lists(found, self._where)
        return self._assemble()

    def _add(self, add: Callable[[dict[str, Any]], None], item: Any, kind: str, index: int) -> None:
        number = item.get("id") if isinstance(item, dict) else None
        failures = len(self._failures)
        name = f"{kind} {number}" if type(number) is int else f"{kind} at index {index}"
        try:
            if not isinstance(item, dict):
                raise AnnotationError(f"expected an object, found {json.dumps(item):.40}")
            for key in _NAMES:
                if isinstance(text := item.get(key), str) and not _is_encodable(text):
                    raise AnnotationError(f"{key} has half a surrogate pair, which no file can hold: {text!r:.80}")
            add(self._repair(item, kind))
        except KeyError as error:
            self._fail(name, f"has no {error}")
        except AnnotationError as error:
            self._fail(name, str(error))
        if len(self._failures) > failures and kind == "annotation" and isinstance(item, dict):
            image = _parse_integer(item.get("image_id"))
            self._incomplete |= set() if image is None else {image}

    def _fail(self, name: str, reason: str) -> None:
        if self._strict:
            raise AnnotationError(f"{self._where}: {name}: {reason}")
        self._failures.append(BoxFailure(name, reason))

    def _repair(self, item: dict[str, Any], kind: str) -> dict[str, Any]:
        """An entry as COCO writes it; the very same where it follows the format."""
        repaired: dict[str, Any] = {}
        for key, target in _INTEGERS.items():
            if key not in item or type(item[key]) is int:
                continue
            value, number = item[key], _parse_integer(item[key])
            is_text = isinstance(value, str)
            if number is not None:
                written_as = "text" if is_text else "a float"
                self._repairs[f"{kind}: {key} is an integer written as {written_as}"] += 1
            elif is_text and value.strip() and key in _IDS:
                number = self._text_ids.setdefault((target or kind, value), _FIRST_TEXT_ID + len(self._text_ids))
                self._repairs[f"{kind}: {key} is text and not a number; numbered"] += 1
            if number is not None:
                repaired[key] = number
        box = item.get("bbox")
        if isinstance(box, list) and any(isinstance(value, str) for value in box):
            numbers = [_parse_number(value) for value in box]
            if None not in numbers:
                repaired["bbox"] = numbers
                self._repairs[f"{kind}: bbox has numbers written as text"] += 1
        if isinstance(item.get("area"), str) and (area := _parse_number(item["area"])) is not None:
            repaired["area"] = area
            self._repairs[f"{kind}: area is a number written as text"] += 1
        elif "area" in item and item["area"] is None:
            item = {key: value for key, value in item.items() if key != "area"}
            self._repairs[f"{kind}: area is null; that of the box is used"] += 1
        return {**item, **repaired} if repaired else item

    def _add_category(self, item: dict[str, Any]) -> None:
        number, name = _check_category(item)["id"], item["name"]
        if number in self._categories:
            raise AnnotationError("repeated id; the first is kept")
        self._categories[number] = name
        self._header["categories"].append(item)

    def _add_image(self, item: dict[str, Any]) -> None:
        number, width, height = (_check_integers([item[key]], key)[0] for key in ("id", "width", "height"))
        name, folder = item.get("file_name"), ""
        if isinstance(item.get("coco_url"), str):  # LVIS 1.0
            address = PurePosixPath(item["coco_url"])
            name, folder = name or address.name, address.parent.name
        if number in self._images:
            if self._images[number].name != name:
                self._incomplete.add(number)
            raise AnnotationError("repeated id; the first is kept")
        if width < 1 or height < 1:
            raise AnnotationError(f"an image has at least one pixel; got {width} x {height}")
        if not isinstance(name, str) or not name:
            raise AnnotationError("has neither file_name nor coco_url")
        _check_unicode(name, "file_name")
        negative, not_exhaustive = (
            tuple(_check_integers(item[key], key)) if key in item else None for key in _FEDERATED
        )
        self._images[number] = _Image(name, width, height, negative, not_exhaustive, folder)

    def _assemble(self) -> AnnotationFile:
        rows_of_image: dict[int, list[int]] = {number: [] for number in self._images}
        columns = self._annotations
        rows_of_id: dict[int, int] = {}
        free_ids = count(max(columns.ids, default=0) + 1)
        corners = columns.make_corners()
        for row, (number, image, category) in enumerate(
            zip(columns.ids, columns.images, columns.categories, strict=True)
        ):
            if image not in rows_of_image:
                self._fail(f"annotation {number}", f"names image {image}, which is missing or was refused")
            elif category not in self._categories:
                self._fail(f"annotation {number}", f"names category {category}, which is missing or was refused")
            elif (first := rows_of_id.get(number)) is not None and columns.images[first] == image:
                self._fail(f"annotation {number}", "repeated id; the first is kept")
                if category != columns.categories[first] or (corners[row] != corners[first]).any():
                    self._incomplete.add(image)
            else:
                if number in rows_of_id:
                    columns.ids[row] = next(free_ids)
                    self._repairs["annotation: id is that of another image's annotation; numbered"] += 1
                rows_of_id.setdefault(number, row)
                rows_of_image[image].append(row)
        self._leave_out_fractions(rows_of_image, corners)
        images = tuple(self._make_image(number, rows, corners[rows]) for number, rows in rows_of_image.items())
        repairs = tuple(f"{repair} ({times} times)" for repair, times in sorted(self._repairs.items()))
        return AnnotationFile(images, self._header, tuple(self._failures), repairs, frozenset(self._incomplete))

    def _leave_out_fractions(self, rows_of_image: dict[int, list[int]], corners: np.ndarray) -> None:
        """Leave out the boxes of images whose boxes are all fractions of the image; raises where most images are so."""
        annotated = {number: rows for number, rows in rows_of_image.items() if rows}
        fractional = [number for number, rows in annotated.items() if self._is_fractional(number, corners[rows])]
        if 2 * len(fractional) > len(annotated):
            raise AnnotationError(
                f"{self._where}: the boxes of {len(fractional)} of {len(annotated)} images lie in 0..1, as fractions "
                "of the image; a COCO file has pixels: multiply x and width by its width, y and height by its height"
            )
        for number in fractional:
            for row in annotated[number]:
                self._fail(
                    f"annotation {self._annotations.ids[row]}",
                    f"its box and all others of image {number} lie in 0..1, as fractions of the image; COCO has pixels",
                )
            self._incomplete.add(number)
            rows_of_image[number] = []

    def _is_fractional(self, number: int, boxes: np.ndarray) -> bool:
        image = self._images[number]
        is_small = boxes.min() >= 0 and boxes.max() <= 1 and bool((boxes[:, 2:] > boxes[:, :2]).all())
        return is_small and bool((boxes != np.round(boxes)).any()) and min(image.width, image.height) >= _MIN_PIXELS

    def _make_image(self, number: int, rows: Sequence[int], boxes: np.ndarray) -> ImageBoxes:
        image, columns = self._images[number], self._annotations
        category_ids = tuple(columns.categories[row] for row in rows)
        unknown = {*(image.negative or ()), *(image.not_exhaustive or ())} - self._categories.keys()
        if unknown:
            self._fail(f"image {number}", f"lists category {min(unknown)}, which is missing; left out of its lists")
        negative, not_exhaustive = (
            None if listed is None else tuple(category for category in listed if category not in unknown)
            for listed in (image.negative, image.not_exhaustive)
        )
        used = {*category_ids, *(negative or ()), *(not_exhaustive or ())}
        labels = BoxLabels(
            category_ids=category_ids,
            # LVIS has no crowds: the key is not written back where the file does not have it.
            crowd=tuple(columns.crowd[row] == 1 for row in rows) if columns.has_crowd else (),
            annotation_ids=tuple(columns.ids[row] for row in rows),
            areas=tuple(columns.areas[row] for row in rows),
            negative_category_ids=negative,
            not_exhaustive_category_ids=not_exhaustive,
            categories={category: self._categories[category] for category in sorted(used)},
        )
        return ImageBoxes(image.name, image.width, image.height, boxes, labels, number, image.folder)


@dataclass(frozen=True)
class _Image:
    name: str
    width: int
    height: int
    negative: tuple[int, ...] | None
    not_exhaustive: tuple[int, ...] | None
    folder: str


@dataclass
class _Annotations:
    """Annotations as columns of plain numbers."""

    ids: array[int] = field(default_factory=lambda: array("q"))
    images: array[int] = field(default_factory=lambda: array("q"))
    categories: array[int] = field(default_factory=lambda: array("q"))
    xywh: array[float] = field(default_factory=lambda: array("d"))
    areas: array[float] = field(default_factory=lambda: array("d"))
    crowd: array[int] = field(default_factory=lambda: array("b"))
    has_crowd: bool = False

    def add(self, item: dict[str, Any]) -> None:
        """Add one annotation; raises AnnotationError, KeyError."""
        number, image, category = (_check_integers([item[key]], key)[0] for key in _IDS)
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
        self.xywh.extend(map(float, box))
        self.areas.append(float(area))
        self.crowd.append(int(crowd))

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


def _check_lists(found: Collection[str], where: str) -> None:
    missing = [key for key in _LISTS if key not in found]
    if missing:
        raise AnnotationError(
            f"{where}: has no list {' and no list '.join(missing)}; a COCO or LVIS file has images, annotations and "
            f"categories. It has {', '.join(sorted(found)) or 'nothing'}"
        )


def _check_category(item: Any) -> dict[str, Any]:
    """An entry of `categories` with an integer id and a name."""
    if not isinstance(item, dict):
        raise AnnotationError(f"expected an object, found {json.dumps(item):.40}")
    number = _check_integers([item.get("id")], "id")[0]
    if not isinstance(item.get("name"), str):
        raise AnnotationError(f"name is text; got {item.get('name')!r:.40}")
    _check_unicode(item["name"], "name")
    return {**item, "id": number}


def _check_unicode(text: str, key: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AnnotationError(f"{key} is not valid Unicode: {text!r:.80}") from error


def _check_integers(values: Any, key: str) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int and abs(value) < 2**63 for value in values):
        raise AnnotationError(f"{key}: expected integers, found {json.dumps(values):.60}")
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


def _parse_integer(value: Any) -> int | None:
    """An integer however it is written (7, 7.0, "7"), or None."""
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
        except ValueError:
            return None
    if type(value) is float and math.isfinite(value) and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


def _read_result(item: Any) -> tuple[int, tuple[int, list[float], float]]:
    """Image id, and category id, box (x, y, width, height) and score of one result."""
    if not isinstance(item, dict):
        raise AnnotationError(f"expected an object, found {json.dumps(item):.40}")
    image, category = _parse_integer(item.get("image_id")), _parse_integer(item.get("category_id"))
    if image is None or category is None:
        raise AnnotationError("image_id and category_id must be integers")
    box = item.get("bbox")
    try:
        numbers = [float(number) for number in box] if isinstance(box, list) and len(box) == 4 else []
        score = float(item.get("score", 1.0))
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"bbox and score are numbers ({error})") from error
    if not numbers or not np.isfinite([*numbers, score]).all() or min(numbers[2:]) < 0:
        raise AnnotationError(f"bbox is four finite numbers, x, y and lengths from 0; got {json.dumps(box):.80}")
    return image, (category, numbers, score)


# ------------------------------------------------------------------------------------------------------ writing


class _JsonWriter:
    """An object written member by member, one entry of a list to a line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._separator = "{"

    def write_value(self, key: str, value: object) -> None:
        """Write a whole member."""
        self._write(f"{self._separator}{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
        self._separator = ",\n"

    def write_list(self, key: str, items: Iterable[dict[str, Any]]) -> None:
        """Write a list that comes entry by entry."""
        self._write(f"{self._separator}{json.dumps(key)}: [")
        for index, item in enumerate(items):
            self._write(("," if index else "") + "\n" + json.dumps(item, ensure_ascii=False))
        self._write("]")
        self._separator = ",\n"

    def close(self) -> None:
        """Close the object."""
        self._write("}\n")

    def _write(self, text: str) -> None:
        self._file.write(text.encode())


class _Entries:
    """The entries of images and of annotations by id, made on demand.

    Attributes:
        given_images: The ids that images came with.
        given_annotations: The ids that boxes came with.
    """

    def __init__(self, images: Sequence[ImageBoxes]) -> None:
        image_ids = _assign_ids([image.image_id for image in images], "image")
        given = [number for image in images for number in image.labels.annotation_ids or [None] * len(image.boxes)]
        annotation_ids = iter(_assign_ids(given, "annotation"))
        self.given_images = {image.image_id for image in images}
        self.given_annotations = set(given)
        self.images = dict(zip(image_ids, images, strict=True))
        self.annotations: dict[int, tuple[int, int]] = {}
        for image_id, image in self.images.items():
            if len(image.labels.category_ids) != len(image.boxes):
                raise AnnotationError(f"{image.name}: boxes without a category cannot be written to an annotation file")
            self.annotations.update((next(annotation_ids), (image_id, row)) for row in range(len(image.boxes)))

    def make_image(self, number: int) -> dict[str, Any]:
        """An entry of `images`."""
        image = self.images[number]
        listed = (image.labels.negative_category_ids, image.labels.not_exhaustive_category_ids)
        return {
            "id": number,
            "file_name": image.name,
            "width": image.width,
            "height": image.height,
            **{key: list(value) for key, value in zip(_FEDERATED, listed, strict=True) if value is not None},
        }

    def make_annotation(self, number: int) -> dict[str, Any]:
        """An entry of `annotations`."""
        image_id, row = self.annotations[number]
        labels = self.images[image_id].labels
        x1, y1, x2, y2 = self.images[image_id].boxes[row].tolist()
        width, height = x2 - x1, y2 - y1
        return {
            "id": number,
            "image_id": image_id,
            "category_id": labels.category_ids[row],
            "bbox": [x1, y1, width, height],
            "area": labels.areas[row] if labels.areas else width * height,
            **({"iscrowd": int(labels.crowd[row])} if labels.crowd else {}),
            **({"score": labels.scores[row]} if labels.scores else {}),
        }


def _merge(
    items: Iterable[Any],
    numbers: Iterable[int],
    given: Collection[int | None],
    make: Callable[[int], dict[str, Any]],
    left_out: list[Any],
) -> Iterator[dict[str, Any]]:
    """The entries of a file whose ids are given, updated, then the new ones; other ids are added to `left_out`."""
    waiting = dict.fromkeys(numbers)
    for item in items:
        number = _parse_integer(item.get("id")) if isinstance(item, dict) else None
        if number is None or number not in waiting or number not in given:
            left_out.append(number)
            continue
        del waiting[number]
        written = make(number)
        for key in ("width", "height", "image_id"):
            if key in written and item.get(key) != written[key] and _parse_integer(item.get(key)) != written[key]:
                kind = "image" if "file_name" in written else "annotation"
                raise AnnotationError(
                    f"{kind} {number}: its {key} is {written[key]} here and {item.get(key)} in the file; "
                    "are the boxes of this file?"
                )
        yield {**item, **written}
    yield from map(make, waiting)


def _assign_ids(given: Sequence[int | None], kind: str) -> list[int]:
    """The given ids, the next free one instead of None."""
    used = Counter(number for number in given if number is not None)
    if used and (most_common := used.most_common(1)[0])[1] > 1:
        raise AnnotationError(f"repeated {kind} id {most_common[0]}; records of one image or file were given twice")
    free = (number for number in count(1) if number not in used)
    return [next(free) if number is None else number for number in given]


def _merge_categories(images: Sequence[ImageBoxes], known: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    entries = {entry["id"]: dict(entry) for entry in known}
    for image in images:
        for number, name in image.labels.categories.items():
            if entries.setdefault(number, {"id": number, "name": name})["name"] != name:
                raise AnnotationError(
                    f"{image.name}: category {number} is called {name!r} here and {entries[number]['name']!r} elsewhere"
                )
    return [*entries.values()] if known else [entries[number] for number in sorted(entries)]
