"""Detections as COCO's results lists have them: one object a box, images and categories by id."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from perceptok.boxes.datasets.annotations import whole_number
from perceptok.boxes.datasets.records import BoxFailure, BoxLabels, ImageBoxes
from perceptok.errors import AnnotationError
from perceptok.files import parse_json

__all__ = ["read_results"]


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
