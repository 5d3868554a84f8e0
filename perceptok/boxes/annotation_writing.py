"""Boxes of images -> a COCO or LVIS annotation file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, BinaryIO

from perceptok.boxes.annotations import FEDERATED
from perceptok.boxes.records import ImageBoxes
from perceptok.errors import AnnotationError

__all__ = ["write_annotations"]


def write_annotations(file: BinaryIO, images: Sequence[ImageBoxes], header: Mapping[str, Any] | None = None) -> None:
    """Write boxes as a COCO file, or, where images name negative categories, as an LVIS file.

    Args:
        file: An open binary file; the same boxes give the same bytes.
        images: The boxes. What has no id gets the next free one; a box without an area gets its own.
        header: What `read_annotations` gave, for categories that no image names, their other keys, info and licences.

    Raises:
        AnnotationError: An image or annotation id twice, a category with two names, or boxes without a category.
    """
    values = {"info": {}, **(header or {})}
    values["categories"] = _categories(images, values.get("categories", []))
    image_ids = _ids([image.image_id for image in images], "image")
    annotation_ids = _ids([one for image in images for one in _numbered(image)], "annotation")
    file.write(json.dumps(values, ensure_ascii=False)[:-1].encode())
    _write_list(file, "images", (_image_entry(image, number) for image, number in zip(images, image_ids, strict=True)))
    taken = iter(annotation_ids)
    _write_list(
        file,
        "annotations",
        (entry for image, number in zip(images, image_ids, strict=True) for entry in _entries(image, number, taken)),
    )
    file.write(b"}\n")


def _write_list(file: BinaryIO, key: str, items: Iterator[dict[str, Any]]) -> None:
    file.write(f', "{key}": ['.encode())
    for index, item in enumerate(items):
        file.write(((",\n" if index else "\n") + json.dumps(item, ensure_ascii=False)).encode())
    file.write(b"]")


def _image_entry(image: ImageBoxes, number: int) -> dict[str, Any]:
    labels = image.labels
    listed = (labels.negative_category_ids, labels.not_exhaustive_category_ids)
    return {
        "id": number,
        "file_name": image.name,
        "width": image.width,
        "height": image.height,
        **{key: list(value) for key, value in zip(FEDERATED, listed, strict=True) if value is not None},
    }


def _entries(image: ImageBoxes, image_id: int, numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
    labels = image.labels
    if len(labels.category_ids) != len(image.boxes):
        raise AnnotationError(f"{image.name}: boxes without a category cannot be written to an annotation file")
    for index, (x1, y1, x2, y2) in enumerate(image.boxes.tolist()):
        width, height = x2 - x1, y2 - y1
        yield {
            "id": next(numbers),
            "image_id": image_id,
            "category_id": labels.category_ids[index],
            "bbox": [x1, y1, width, height],
            "area": labels.areas[index] if labels.areas else width * height,
            **({"iscrowd": int(labels.crowd[index])} if labels.crowd else {}),
            **({"score": labels.scores[index]} if labels.scores else {}),
        }


def _numbered(image: ImageBoxes) -> Sequence[int | None]:
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
