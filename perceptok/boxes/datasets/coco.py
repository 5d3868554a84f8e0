"""COCO and LVIS annotation files -> the boxes of each image, entry by entry."""

from __future__ import annotations

import gzip
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

from perceptok.boxes.datasets.box_records import BoxFailure, BoxLabels, ImageBoxes
from perceptok.errors import AnnotationError
from perceptok.files import parse_json, stream_json

__all__ = [
    "FEDERATED",
    "LISTS",
    "AnnotationFile",
    "check_lists",
    "checked_category",
    "opened_annotations",
    "read_annotations",
    "read_results",
    "rewrite_annotations",
    "whole_number",
    "write_annotations",
]


LISTS = ("images", "annotations", "categories")
"""What every file has."""

LIST_HINT = (
    "A list of COCO results does not say its images' sizes: give the annotation file that has them "
    "(`perceptok box encode --header`, `read_results`)"
)
"""Added to the message where a file holds a list."""

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
"""What only LVIS says of an image."""


@dataclass(frozen=True)
class AnnotationFile:
    """What a file says.

    Attributes:
        images: In the file's order, each with its boxes in the file's order.
        header: Everything but images and annotations: the categories with all their keys, info, licences.
        failures: Entries that were left out, where the reader was not strict.
        repairs: What is written otherwise than COCO has it and was read all the same, each with how often.
    """

    images: tuple[ImageBoxes, ...]
    header: dict[str, Any]
    failures: tuple[BoxFailure, ...] = ()
    repairs: tuple[str, ...] = ()


def read_annotations(file: str | Path | TextIO, *, strict: bool = True) -> AnnotationFile:
    """Read a COCO or LVIS file entry by entry, whatever the order of its lists.

    Only numbers are kept of an annotation (some 100 bytes), so that files with gigabytes of outlines can be read.
    LVIS's `neg_category_ids` and `not_exhaustive_category_ids` and COCO's `iscrowd` are kept; outlines, and what
    an image has besides id, size and name, are not. What exporters write otherwise and pycocotools loads is read too,
    and said in `repairs`: whole numbers as floats or as text, an area of null, ids that are text and no numbers (they
    get numbers from 2**40 on).

    Args:
        file: A path, of a gzip file too, or an open text file.
        strict: Raise for the first entry that is wrong; otherwise leave such entries out and list them in `failures`.

    Raises:
        AnnotationError: Not JSON, cut off or empty; without `images`, `annotations` or `categories`; and, if strict,
            an id twice, an annotation of an image or a category that is missing, an image without a size, a box that
            is not four finite numbers with width and height from 0.
    """
    with opened_annotations(file) as (opened, where):
        return _Reader(strict, where).read(opened)


@contextmanager
def opened_annotations(file: str | Path | TextIO) -> Iterator[tuple[TextIO, str]]:
    """A path or an open text file as an open text file, and what messages call it; raises AnnotationError."""
    if not isinstance(file, str | Path):
        yield file, getattr(file, "name", "the file")
        return
    try:
        with Path(file).open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        opened: TextIO = (
            gzip.open(file, "rt", encoding="utf-8-sig") if packed else Path(file).open(encoding="utf-8-sig")  # noqa: SIM115
        )
    except OSError as error:
        raise AnnotationError(f"{file}: cannot be read ({error.strerror})") from error
    with opened:
        yield opened, str(file)


def check_lists(found: Collection[str], where: str) -> None:
    """Raises AnnotationError unless the keys of a file are those of an annotation file."""
    missing = [key for key in LISTS if key not in found]
    if missing:
        raise AnnotationError(
            f"{where}: has no list {' and no list '.join(missing)}; a COCO or LVIS file has images, annotations and "
            f"categories. It has {', '.join(sorted(found)) or 'nothing'}"
        )


def checked_category(item: Any) -> dict[str, Any]:
    """An entry of `categories`, if it has an id and a name; raises AnnotationError."""
    if not isinstance(item, dict):
        raise AnnotationError(f"expected an object, found {json.dumps(item):.40}")
    if not isinstance(item.get("name"), str):
        _integers([item.get("id")], "id")
        raise AnnotationError(f"name is text; got {item.get('name')!r:.40}")
    return {**item, "id": _integers([item.get("id")], "id")[0]}


def whole_number(value: Any) -> int | None:
    """A whole number however it is written (7, 7.0, "7"), or None."""
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
        except ValueError:
            return None
    if type(value) is float and math.isfinite(value) and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


class _Reader:
    """Gathers a file's entries, in whatever order they come."""

    def __init__(self, strict: bool, where: str) -> None:
        self._strict = strict
        self._where = where
        self._failures: list[BoxFailure] = []
        self._header: dict[str, Any] = {}
        self._categories: dict[int, str] = {}
        self._images: dict[int, _Image] = {}
        self._repairs: Counter[str] = Counter()
        self._texts: dict[tuple[str, str], int] = {}
        self._boxes = _Boxes()

    def read(self, file: TextIO) -> AnnotationFile:
        found = set()
        for key, value in stream_json(file, LISTS, self._where, AnnotationError, list_hint=LIST_HINT):
            found.add(key)
            if key in LISTS:
                take = {"images": self._image, "annotations": self._boxes.add, "categories": self._category}[key]
                self._header.update({key: []} if key == "categories" else {})
                for index, item in enumerate(value):
                    self._tried(take, item, f"{key[:-1] if key != 'categories' else 'category'} {_id_of(item, index)}")
            else:
                self._header[key] = value
        check_lists(found, self._where)
        return self._assembled()

    def _tried(self, take: Any, item: Any, name: str) -> None:
        try:
            if not isinstance(item, dict):
                raise AnnotationError(f"expected an object, found {json.dumps(item):.40}")
            take(self._mended(item, name.partition(" ")[0]))
        except KeyError as error:
            self._failed(name, f"has no {error}")
        except AnnotationError as error:
            self._failed(name, str(error))

    def _mended(self, item: dict[str, Any], kind: str) -> dict[str, Any]:
        """An entry as COCO writes it; the very same where it is so already."""
        mended: dict[str, Any] = {}
        for key, owner in _WHOLE.items():
            if key not in item or type(item[key]) is int:
                continue
            value, number = item[key], whole_number(item[key])
            text = isinstance(value, str)
            if number is None and text and value.strip() and (owner or kind) in _OWNERS and key in _IDS:
                number = self._texts.setdefault((owner or kind, value), _FIRST_OF_TEXTS + len(self._texts))
                self._repairs[f"{kind}: {key} is text and no number; numbered"] += 1
            elif number is not None:
                self._repairs[f"{kind}: {key} is a whole number written as {'text' if text else 'a float'}"] += 1
            if number is not None:
                mended[key] = number
        box = item.get("bbox")
        if isinstance(box, list) and any(isinstance(one, str) for one in box):
            numbers = [_as_number(one) for one in box]
            if None not in numbers:
                mended["bbox"] = numbers
                self._repairs[f"{kind}: bbox has numbers written as text"] += 1
        if "area" in item and (item["area"] is None or isinstance(item["area"], str)):
            area = _as_number(item["area"])
            if area is not None:
                mended["area"] = area
                self._repairs[f"{kind}: area is a number written as text"] += 1
            elif item["area"] is None:
                item = {key: value for key, value in item.items() if key != "area"}
                self._repairs[f"{kind}: area is null; that of the box stands for it"] += 1
        return {**item, **mended} if mended else item

    def _failed(self, name: str, reason: str) -> None:
        if self._strict:
            raise AnnotationError(f"{self._where}: {name}: {reason}")
        self._failures.append(BoxFailure(name, reason))

    def _category(self, item: dict[str, Any]) -> None:
        number, name = checked_category(item)["id"], item["name"]
        if number in self._categories:
            raise AnnotationError("this id stands twice; the first is kept")
        self._categories[number] = name
        self._header["categories"].append(item)

    def _image(self, item: dict[str, Any]) -> None:
        number, width, height = (_integer(item, key) for key in ("id", "width", "height"))
        if number in self._images:
            raise AnnotationError("this id stands twice; the first is kept")
        if width < 1 or height < 1:
            raise AnnotationError(f"an image has at least one pixel; got {width} x {height}")
        name = item.get("file_name")
        if name is None and isinstance(item.get("coco_url"), str):  # LVIS 1.0
            name = PurePosixPath(item["coco_url"]).name
        if not isinstance(name, str) or not name:
            raise AnnotationError("has neither file_name nor coco_url")
        listed = [tuple(_integers(item[key], key)) if key in item else None for key in FEDERATED]
        self._images[number] = _Image(name, width, height, listed[0], listed[1])

    def _assembled(self) -> AnnotationFile:
        rows: dict[int, list[int]] = {number: [] for number in self._images}
        seen: set[int] = set()
        boxes = self._boxes
        for row, (number, image, category) in enumerate(zip(boxes.ids, boxes.images, boxes.categories, strict=True)):
            reason = None
            if number in seen:
                reason = "this id stands twice; the first is kept"
            elif image not in rows:
                reason = f"names image {image}, which is missing or was refused"
            elif category not in self._categories:
                reason = f"names category {category}, which is missing or was refused"
            if reason:
                self._failed(f"annotation {number}", reason)
            else:
                seen.add(number)
                rows[image].append(row)
        corners = boxes.corners()
        images = tuple(self._with_boxes(number, image, rows[number], corners) for number, image in self._images.items())
        repairs = tuple(f"{what} ({count} times)" for what, count in sorted(self._repairs.items()))
        return AnnotationFile(images, self._header, tuple(self._failures), repairs)

    def _with_boxes(self, number: int, image: _Image, rows: Sequence[int], corners: np.ndarray) -> ImageBoxes:
        boxes = self._boxes
        crowd = tuple(boxes.crowd[row] == 1 for row in rows)
        ids = tuple(boxes.categories[row] for row in rows)
        unknown = ({*(image.negative or ()), *(image.not_exhaustive or ())}) - self._categories.keys()
        if unknown:
            self._failed(f"image {number}", f"lists category {min(unknown)}, which is missing; left out of its lists")
        negative, partial = (
            None if listed is None else tuple(one for one in listed if one not in unknown)
            for listed in (image.negative, image.not_exhaustive)
        )
        named = {*ids, *(negative or ()), *(partial or ())}
        labels = BoxLabels(
            category_ids=ids,
            # LVIS has no crowds: nothing is written back where nothing was said.
            crowd=crowd if boxes.says_crowd else (),
            annotation_ids=tuple(boxes.ids[row] for row in rows),
            areas=tuple(boxes.areas[row] for row in rows),
            negative_category_ids=negative,
            not_exhaustive_category_ids=partial,
            categories={one: self._categories[one] for one in sorted(named)},
        )
        return ImageBoxes(image.name, image.width, image.height, corners[list(rows)], labels, number)


_WHOLE = {"id": None, "image_id": "image", "category_id": "category", "width": None, "height": None, "iscrowd": None}
"""Keys of whole numbers, and for ids of other entries, whose."""

_IDS = ("id", "image_id", "category_id")
_OWNERS = ("image", "category", "annotation")
_FIRST_OF_TEXTS = 1 << 40


def _as_number(value: Any) -> Any:
    """What a text says, None if that is no finite number; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class _Image:
    name: str
    width: int
    height: int
    negative: tuple[int, ...] | None
    not_exhaustive: tuple[int, ...] | None


@dataclass
class _Boxes:
    """Annotations as columns of plain numbers."""

    ids: array[int] = field(default_factory=lambda: array("q"))
    images: array[int] = field(default_factory=lambda: array("q"))
    categories: array[int] = field(default_factory=lambda: array("q"))
    xywh: array[float] = field(default_factory=lambda: array("d"))
    areas: array[float] = field(default_factory=lambda: array("d"))
    crowd: array[int] = field(default_factory=lambda: array("b"))
    says_crowd: bool = False

    def add(self, item: dict[str, Any]) -> None:
        """Take one annotation; raises AnnotationError, KeyError."""
        number, image, category = (_integer(item, key) for key in ("id", "image_id", "category_id"))
        box = item["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):
            raise AnnotationError(f"bbox is four finite numbers; got {json.dumps(box):.80}")
        if box[2] < 0 or box[3] < 0:
            raise AnnotationError(f"bbox is x, y, width, height, lengths from 0; got {json.dumps(box):.80}")
        area = item.get("area", box[2] * box[3])
        if not _finite(area):
            raise AnnotationError(f"area is a finite number; got {json.dumps(area):.40}")
        crowd = item.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise AnnotationError(f"iscrowd is 0 or 1; got {json.dumps(crowd):.40}")
        self.says_crowd |= "iscrowd" in item
        self.ids.append(number)
        self.images.append(image)
        self.categories.append(category)
        self.xywh.extend(map(float, box))
        self.areas.append(float(area))
        self.crowd.append(int(crowd))

    def corners(self) -> np.ndarray:
        """Boxes (N, 4) float64 as x1, y1, x2, y2."""
        xywh = np.array(self.xywh, dtype=np.float64).reshape(-1, 4)
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _id_of(item: Any, index: int) -> str:
    number = item.get("id") if isinstance(item, dict) else None
    return f"{number}" if type(number) is int else f"at index {index}"


def _integer(item: Mapping[str, Any], key: str) -> int:
    return _integers([item[key]], key)[0]


def _integers(values: Any, key: str) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int and abs(value) < 2**63 for value in values):
        raise AnnotationError(f"{key}: expected integers, found {json.dumps(values):.60}")
    return values


def _finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def read_results(text: str, where: str, known: Iterable[ImageBoxes]) -> list[ImageBoxes | BoxFailure]:
    """The boxes of each image that a list of results names; what the list does not say is that of known images.

    Args:
        text: JSON: `[{"image_id": ..., "category_id": ..., "bbox": [x, y, width, height], "score": ...}, ...]`.
        where: What messages call it.
        known: Images with ids, of one data set: they give names, sizes and the categories' names.

    Returns:
        An image with its boxes, or a failure for each entry that is wrong. Categories that no known image names are
        called "category 7".

    Raises:
        AnnotationError: No JSON, or no list.
    """
    items = parse_json(text, where, AnnotationError)
    if not isinstance(items, list):
        raise AnnotationError(f"{where}: expected a list of results; got {type(items).__name__}")
    images = {image.image_id: image for image in known if image.image_id is not None}
    names = {number: name for image in images.values() for number, name in image.labels.categories.items()}
    failures: list[BoxFailure] = []
    found: dict[int, list[tuple[int, list[float], float]]] = {}
    for index, item in enumerate(items):
        try:
            number, row = _row(item)
            if number not in images:
                raise AnnotationError(f"names image {number}, which is none of the known ones")
        except AnnotationError as error:
            failures.append(BoxFailure(f"{where}, result {index}", str(error)))
            continue
        found.setdefault(number, []).append(row)
    read: list[ImageBoxes | BoxFailure] = [*failures]
    for number, rows in found.items():
        image, ids = images[number], tuple(row[0] for row in rows)
        xywh = np.array([row[1] for row in rows], dtype=np.float64)
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        categories = {one: names.get(one, f"category {one}") for one in sorted(set(ids))}
        labels = BoxLabels(ids, scores=tuple(row[2] for row in rows), categories=categories)
        read.append(ImageBoxes(image.name, image.width, image.height, boxes, labels, number))
    return read


def _row(item: Any) -> tuple[int, tuple[int, list[float], float]]:
    if not isinstance(item, dict):
        raise AnnotationError(f"expected an object, found {json.dumps(item):.40}")
    image, category = whole_number(item.get("image_id")), whole_number(item.get("category_id"))
    if image is None or category is None:
        raise AnnotationError("has no whole image_id and category_id")
    box = item.get("bbox")
    try:
        numbers = [float(one) for one in box] if isinstance(box, list) and len(box) == 4 else []
        score = float(item.get("score", 1.0))
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"bbox and score are numbers ({error})") from error
    if not numbers or not np.isfinite([*numbers, score]).all() or min(numbers[2:]) < 0:
        raise AnnotationError(f"bbox is four finite numbers, x, y and lengths from 0; got {json.dumps(box):.80}")
    return image, (category, numbers, score)


def write_annotations(file: BinaryIO, images: Sequence[ImageBoxes], header: Mapping[str, Any] | None = None) -> None:
    """Write boxes as a COCO file, or, where images name negative categories, as an LVIS file.

    Args:
        file: An open binary file; the same boxes give the same bytes.
        images: The boxes. What has no id gets the next free one; a box without an area gets its own.
        header: What `read_annotations` gave, for categories that no image names, their other keys, info and licences.

    Raises:
        AnnotationError: An image or annotation id twice, a category with two names, or boxes without a category.
    """
    entries, output = _Entries(images), _JsonObject(file)
    values = {"info": {}, **(header or {})}
    values["categories"] = _categories(images, values.get("categories", []))
    for key, value in values.items():
        output.value(key, value)
    output.items("images", map(entries.image, entries.images))
    output.items("annotations", map(entries.annotation, entries.annotations))
    output.end()


def rewrite_annotations(file: BinaryIO, images: Sequence[ImageBoxes], original: str | Path | TextIO) -> int:
    """Write the file that boxes came from with these boxes, reading it entry by entry.

    All else that the file says is kept in its order: of images and annotations whose ids are given here, outlines,
    licences, addresses and any other key. What it does not have comes last; entries that have none here are left out.

    Args:
        file: An open binary file; the same boxes give the same bytes.
        images: The boxes; see `write_annotations`.
        original: A path, or an open text file.

    Returns:
        How many annotations of the file were left out.

    Raises:
        AnnotationError: As `write_annotations`; a file that cannot be read, lacks `images`, `annotations` or
            `categories`, or says another size of an image or another image of an annotation.
    """
    entries, output = _Entries(images), _JsonObject(file)
    found, left_out = set(), 0
    with opened_annotations(original) as (source, where):
        for key, value in stream_json(source, LISTS, where, AnnotationError, list_hint=LIST_HINT):
            found.add(key)
            if key == "images":
                output.items(key, _Merged(value, entries.images, entries.image, entries.has_image))
            elif key == "annotations":
                merged = _Merged(value, entries.annotations, entries.annotation, entries.has_annotation)
                output.items(key, merged)
                left_out = merged.left_out
            elif key == "categories":
                output.value(key, _categories(images, [*map(checked_category, value)]))
            else:
                output.value(key, value)
        check_lists(found, where)
    output.end()
    return left_out


class _JsonObject:
    """An object written member by member, one entry of a list to a line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._before = "{"

    def value(self, key: str, value: object) -> None:
        """A whole member."""
        self._write(f"{self._before}{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
        self._before = ",\n"

    def items(self, key: str, items: Iterable[dict[str, Any]]) -> None:
        """A list that comes entry by entry."""
        self._write(f"{self._before}{json.dumps(key)}: [")
        for index, item in enumerate(items):
            self._write(("," if index else "") + "\n" + json.dumps(item, ensure_ascii=False))
        self._write("]")
        self._before = ",\n"

    def end(self) -> None:
        """Close the object."""
        self._write("}\n")

    def _write(self, text: str) -> None:
        self._file.write(text.encode())


class _Entries:
    """The entries of images and of annotations by id, made when they are asked for."""

    def __init__(self, images: Sequence[ImageBoxes]) -> None:
        image_ids = _ids([image.image_id for image in images], "image")
        numbers = iter(_ids([one for image in images for one in _annotation_ids(image)], "annotation"))
        self.images = dict(zip(image_ids, images, strict=True))
        self.annotations: dict[int, tuple[int, int]] = {}
        for image_id, image in self.images.items():
            if len(image.labels.category_ids) != len(image.boxes):
                raise AnnotationError(f"{image.name}: boxes without a category cannot be written to an annotation file")
            self.annotations.update((next(numbers), (image_id, row)) for row in range(len(image.boxes)))

    def image(self, number: int) -> dict[str, Any]:
        """An entry of `images`."""
        image = self.images[number]
        listed = (image.labels.negative_category_ids, image.labels.not_exhaustive_category_ids)
        return {
            "id": number,
            "file_name": image.name,
            "width": image.width,
            "height": image.height,
            **{key: list(value) for key, value in zip(FEDERATED, listed, strict=True) if value is not None},
        }

    def annotation(self, number: int) -> dict[str, Any]:
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

    def has_image(self, number: int) -> bool:
        """Whether there is an image that came with this id."""
        return number in self.images and self.images[number].image_id is not None

    def has_annotation(self, number: int) -> bool:
        """Whether there is a box that came with this id."""
        return number in self.annotations and bool(self.images[self.annotations[number][0]].labels.annotation_ids)


class _Merged:
    """The entries of a file that we have too, with what we say of them; then what only we have.

    Attributes:
        left_out: How many entries of the file we do not have.
    """

    def __init__(
        self,
        items: Iterable[Any],
        numbers: Iterable[int],
        make: Callable[[int], dict[str, Any]],
        has: Callable[[int], bool],
    ) -> None:
        self._items, self._make, self._has = items, make, has
        self._waiting = dict.fromkeys(numbers)
        self.left_out = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for item in self._items:
            number = item.get("id") if isinstance(item, dict) else None
            number = whole_number(number)
            if number is None or number not in self._waiting or not self._has(number):
                self.left_out += 1
                continue
            del self._waiting[number]
            ours = self._make(number)
            for key in ("width", "height", "image_id"):
                if key in ours and item.get(key) != ours[key] and whole_number(item.get(key)) != ours[key]:
                    what = "image" if "file_name" in ours else "annotation"
                    raise AnnotationError(
                        f"{what} {number}: its {key} is {ours[key]} here and {item.get(key)} in the file; "
                        "are the boxes of this file?"
                    )
            yield {**item, **ours}
        yield from map(self._make, self._waiting)


def _annotation_ids(image: ImageBoxes) -> Sequence[int | None]:
    return image.labels.annotation_ids or [None] * len(image.boxes)


def _ids(given: Sequence[int | None], what: str) -> list[int]:
    taken = [number for number in given if number is not None]
    used = set(taken)
    if len(used) < len(taken):
        twice = Counter(taken).most_common(1)[0][0]
        raise AnnotationError(f"{what} id {twice} stands twice; records of one image or file were given twice")
    free = (number for number in count(1) if number not in used)
    return [next(free) if number is None else number for number in given]


def _categories(images: Sequence[ImageBoxes], known: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    entries = {entry["id"]: dict(entry) for entry in known}
    for image in images:
        for number, name in image.labels.categories.items():
            if entries.setdefault(number, {"id": number, "name": name})["name"] != name:
                raise AnnotationError(
                    f"{image.name}: category {number} is called {name!r} here and {entries[number]['name']!r} elsewhere"
                )
    return [*entries.values()] if known else [entries[number] for number in sorted(entries)]
