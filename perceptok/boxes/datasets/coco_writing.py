"""COCO and LVIS annotation files, written, and rewritten with other boxes, entry by entry."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from perceptok.boxes.datasets.box_records import ImageBoxes
from perceptok.boxes.datasets.coco import (
    FEDERATED,
    LIST_HINT,
    LISTS,
    EntryIndex,
    check_category,
    find_rotation,
    index_entries,
    open_annotations,
)
from perceptok.boxes.datasets.entry_ids import EntryId, parse_integer, sort_ids
from perceptok.errors import AnnotationError
from perceptok.json_streams import stream_json

__all__ = ["rewrite_annotations", "write_annotations"]


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
    known = values.get("categories", [])
    values["categories"] = _merge_categories(images, known, {place: item["id"] for place, item in enumerate(known)})
    for key, value in values.items():
        output.write_value(key, value)
    output.write_list("images", map(entries.make_image, entries.images))
    output.write_list("annotations", map(entries.make_annotation, entries.annotations))
    output.close()


def rewrite_annotations(file: BinaryIO, images: Sequence[ImageBoxes], original: str | Path | TextIO) -> int:
    """Write the file that boxes came from with these boxes, reading it entry by entry.

    Everything else in the file is kept in its order, and ids as they are written there: outlines, licences, attributes
    and any other key of images and annotations whose ids are given here. Of a rotated box (CVAT), of which the upright
    box around it was read, `attributes.rotation` becomes 0. New entries come last; entries that are not given here are
    left out. The file is read twice; pipes and open files are held in memory.

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
    source = original if isinstance(original, str | Path) and Path(original).is_file() else _hold(original)
    index = index_entries(source)
    entries.written = index.written
    left_out: list[int] = []
    with open_annotations(_rewind(source)) as (opened, where):
        for key, value in stream_json(opened, LISTS, where, AnnotationError, list_hint=LIST_HINT):
            if key == "images":
                output.write_list(key, _merge_images(value, entries, index))
            elif key == "annotations":
                output.write_list(key, _merge_annotations(value, entries, index, left_out))
            elif key == "categories":
                output.write_value(key, _merge_categories(images, [*map(check_category, value)], index.categories))
            else:
                output.write_value(key, value)
    output.close()
    return len(left_out)


def _hold(original: str | Path | TextIO) -> io.StringIO:
    """The text of a pipe or an open file, which can be read once only."""
    with open_annotations(original) as (opened, where):
        try:
            return io.StringIO(opened.read())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise AnnotationError(f"{where}: cannot be read ({reason})") from error


def _rewind(source: str | Path | io.StringIO) -> str | Path | io.StringIO:
    if isinstance(source, io.StringIO):
        source.seek(0)
    return source


class _JsonWriter:
    """An object written member by member, one entry of a list to a line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._separator = "{"
        self._encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes an encoder for each call

    def write_value(self, key: str, value: object) -> None:
        """Write a whole member."""
        self._write(f"{self._separator}{json.dumps(key)}: {self._encode(value)}")
        self._separator = ",\n"

    def write_list(self, key: str, items: Iterable[dict[str, Any]]) -> None:
        """Write a list that comes entry by entry."""
        self._write(f"{self._separator}{json.dumps(key)}: [")
        for index, item in enumerate(items):
            self._write(("," if index else "") + "\n" + self._encode(item))
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
        written: (Kind, id) -> the id as it is written, of images and categories that are not written by their ids.
    """

    def __init__(self, images: Sequence[ImageBoxes]) -> None:
        image_ids = _assign_ids([image.image_id for image in images], "image")
        given = [number for image in images for number in image.labels.annotation_ids or [None] * len(image.boxes)]
        annotation_ids = iter(_assign_ids(given, "annotation"))
        self.given_images = {image.image_id for image in images}
        self.given_annotations = set(given)
        self.images = dict(zip(image_ids, images, strict=True))
        self.annotations: dict[EntryId, tuple[EntryId, int]] = {}
        self.written: Mapping[tuple[str, EntryId], EntryId] = {}
        for image_id, image in self.images.items():
            if len(image.labels.category_ids) != len(image.boxes):
                raise AnnotationError(f"{image.name}: boxes without a category cannot be written to an annotation file")
            self.annotations.update((next(annotation_ids), (image_id, row)) for row in range(len(image.boxes)))

    def find_category(self, number: EntryId) -> EntryId:
        """The category of an annotation."""
        image_id, row = self.annotations[number]
        return self.images[image_id].labels.category_ids[row]

    def make_image(self, number: EntryId) -> dict[str, Any]:
        """An entry of `images`."""
        image = self.images[number]
        listed = (image.labels.negative_category_ids, image.labels.not_exhaustive_category_ids)
        return {
            "id": self.written.get(("image", number), number),
            "file_name": image.name,
            "width": image.width,
            "height": image.height,
            **{
                key: [self.written.get(("category", number), number) for number in value]
                for key, value in zip(FEDERATED, listed, strict=True)
                if value is not None
            },
        }

    def make_annotation(self, number: EntryId) -> dict[str, Any]:
        """An entry of `annotations`."""
        image_id, row = self.annotations[number]
        labels = self.images[image_id].labels
        x1, y1, x2, y2 = self.images[image_id].boxes[row].tolist()
        width, height = x2 - x1, y2 - y1
        category_id = labels.category_ids[row]
        return {
            "id": number,
            "image_id": self.written.get(("image", image_id), image_id),
            "category_id": self.written.get(("category", category_id), category_id),
            "bbox": [x1, y1, width, height],
            "area": labels.areas[row] if labels.areas else width * height,
            **({"iscrowd": int(labels.crowd[row])} if labels.crowd else {}),
            **({"score": labels.scores[row]} if labels.scores else {}),
        }


def _merge_images(items: Iterable[Any], entries: _Entries, index: EntryIndex) -> Iterator[dict[str, Any]]:
    """The file's images that are given, then the new ones."""
    waiting = dict.fromkeys(entries.images)
    for place, item in enumerate(items):
        image_id = index.images.get(place)
        if image_id not in waiting or image_id not in entries.given_images:
            continue
        del waiting[image_id]
        updated = entries.make_image(image_id)
        for key in ("width", "height"):
            if parse_integer(item[key]) != updated[key]:
                raise AnnotationError(
                    f"image {image_id}: its {key} is {updated[key]} here and {item[key]} in the file; "
                    "are the boxes of this file?"
                )
        yield {**item, **{key: value for key, value in updated.items() if key not in ("id", "width", "height")}}
    yield from map(entries.make_image, waiting)


def _merge_annotations(
    items: Iterable[Any], entries: _Entries, index: EntryIndex, left_out: list[int]
) -> Iterator[dict[str, Any]]:
    """The file's annotations that are given, then the new ones; the places of others are added to `left_out`."""
    waiting = dict.fromkeys(entries.annotations)
    for place, item in enumerate(items):
        number, image_id, category_id = index.annotations.get(place, (None, None, None))
        if number not in waiting or number not in entries.given_annotations:
            left_out.append(place)
            continue
        del waiting[number]
        updated = entries.make_annotation(number)
        given_image = entries.annotations[number][0]
        if given_image != image_id:
            raise AnnotationError(
                f"annotation {number}: its image_id is {given_image} here and {item['image_id']} in the file; "
                "are the boxes of this file?"
            )
        unchanged = {"id", "image_id"}
        if entries.find_category(number) == category_id:
            unchanged.add("category_id")
        if parse_integer(item.get("iscrowd")) == updated.get("iscrowd"):
            unchanged.add("iscrowd")
        merged = {**item, **{key: value for key, value in updated.items() if key not in unchanged}}
        if find_rotation(item) is not None:
            merged["attributes"] = {**item["attributes"], "rotation": 0}
        yield merged
    yield from map(entries.make_annotation, waiting)


def _assign_ids(given: Sequence[EntryId | None], kind: str) -> list[EntryId]:
    """The given ids, the next free one instead of None."""
    used = Counter(number for number in given if number is not None)
    if used and (most_common := used.most_common(1)[0])[1] > 1:
        raise AnnotationError(f"repeated {kind} id {most_common[0]}; records of one image or file were given twice")
    free = (number for number in count(1) if number not in used)
    return [next(free) if number is None else number for number in given]


def _merge_categories(
    images: Sequence[ImageBoxes], known: Sequence[Mapping[str, Any]], ids: Mapping[int, EntryId]
) -> list[Mapping[str, Any]]:
    """Known categories, whose ids are given by their place, and those that images have besides."""
    names = {number: str(known[place]["name"]) for place, number in ids.items()}
    added: list[EntryId] = []
    for image in images:
        for number, name in image.labels.categories.items():
            if number not in names:
                added.append(number)
            if names.setdefault(number, name) != name:
                raise AnnotationError(
                    f"{image.name}: category {number} is called {name!r} here and {names[number]!r} elsewhere"
                )
    return [*known, *({"id": number, "name": names[number]} for number in (added if known else sort_ids(added)))]
