"""Boxes of images -> a COCO or LVIS annotation file: a new one, or the one that they came from with these boxes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from perceptok.boxes.datasets.annotations import (
    FEDERATED,
    LISTS,
    check_lists,
    checked_category,
    opened_annotations,
    whole_number,
)
from perceptok.boxes.datasets.records import ImageBoxes
from perceptok.boxes.datasets.streaming import stream_json
from perceptok.errors import AnnotationError

__all__ = ["rewrite_annotations", "write_annotations"]


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
        for key, value in stream_json(source, LISTS, where):
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
