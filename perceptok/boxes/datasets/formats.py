"""One image's boxes in the formats of YOLO, torchvision and supervision; none of them is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from perceptok.boxes.arrays import check_corners, check_numbers
from perceptok.boxes.codec import from_corners, to_corners
from perceptok.boxes.datasets.box_records import BoxLabels, ImageBoxes
from perceptok.errors import AnnotationError

__all__ = ["from_supervision", "from_torchvision", "from_yolo", "to_supervision", "to_torchvision", "to_yolo"]

_TOLERANCE = 1e-3
"""How far a fraction of YOLO's may lie outside 0..1 by its writer's rounding: it counts as the border then."""

Names = Sequence[str] | Mapping[int, str]


def from_yolo(text: str, *, name: str, image_size: tuple[int, int], names: Names) -> ImageBoxes:
    """The boxes of a YOLO text file: lines of `class cx cy w h`, fractions of the image, with or without a confidence.

    Args:
        text: The file's content; blank lines are skipped.
        name: The image's file name.
        image_size: Width and height of the image in pixels.
        names: The classes in the order of their numbers, or by number.

    Raises:
        AnnotationError: A line of another length (outlines have more numbers) or with other text, a class without a
            name, or a fraction out of 0..1 by more than a thousandth; the message gives the line.
    """
    _check_arguments(name, image_size, names)
    if not isinstance(text, str):
        raise AnnotationError(f"{name}: text is the content of the file; got {type(text).__name__}")
    rows: list[list[float]] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError as error:
            raise AnnotationError(f"{name}, line {number}: expected numbers, found {line[:60]!r}") from error
        if len(row) not in (5, 6) or (rows and len(row) != len(rows[0])):
            raise AnnotationError(
                f"{name}, line {number}: expected class cx cy w h, and a confidence on every line or on none; "
                f"found {len(row)} numbers (outlines, rotated boxes and keypoints are not read)"
            )
        if not all(-_TOLERANCE <= fraction <= 1 + _TOLERANCE for fraction in row[1:]):
            raise AnnotationError(f"{name}, line {number}: expected fractions in 0..1, found {line[:60]!r}")
        row[1:] = [min(max(fraction, 0.0), 1.0) for fraction in row[1:]]
        if not row[0].is_integer() or not _has_name(names, int(row[0])):
            raise AnnotationError(f"{name}, line {number}: class {words[0]} has no name among {len(names)}")
        rows.append(row)
    fractions = np.array([row[1:5] for row in rows], dtype=np.float64).reshape(-1, 4)
    classes = tuple(int(row[0]) for row in rows)
    scores = tuple(row[5] for row in rows if len(row) == 6)
    labels = BoxLabels(classes, scores=scores, categories={number: names[number] for number in sorted(set(classes))})
    boxes = np.ascontiguousarray(to_corners(fractions, "cxcywh") * np.tile(image_size, 2))
    return ImageBoxes(name, *image_size, boxes, labels)


def to_yolo(image: ImageBoxes, *, crowd: bool = False, outside: Literal["raise", "clip"] = "raise") -> str:
    """The inverse of `from_yolo`; six decimals: exact to a millionth of the image.

    Args:
        image: The boxes; category ids are the classes.
        crowd: Write crowds as if they were objects, which YOLO cannot distinguish; otherwise they are refused.
        outside: "clip" clips boxes that reach out of the image. "raise" writes them as they are where their centre lies
            inside and their lengths are at most the image's (within a thousandth), and refuses others.

    Raises:
        AnnotationError: Boxes without a category, a crowd, or a box that reaches too far out of the image
            (with "clip": lies outside).
    """
    labels = image.labels
    _check_categories(image)
    if any(labels.crowd) and not crowd:
        raise AnnotationError(f"{image.name}: YOLO has no crowds; remove them or write them as objects (crowd=True)")
    corners = image.boxes / np.tile((image.width, image.height), 2)
    if outside == "clip":
        missed = (corners[:, 2:] < 0).any(axis=1) | (corners[:, :2] > 1).any(axis=1)
        _refuse_beyond(image, missed, "no part of it is inside; remove it")
        corners = corners.clip(0, 1)
    fractions = from_corners(corners, "cxcywh")
    beyond = ((fractions < -_TOLERANCE) | (fractions > 1 + _TOLERANCE)).any(axis=1)
    _refuse_beyond(image, np.asarray(beyond), 'clip such boxes with outside="clip"')
    fractions = fractions.clip(0, 1)
    lines = [
        " ".join([str(labels.category_ids[row]), *(f"{fraction:.6f}" for fraction in fractions[row])])
        + (f" {labels.scores[row]:.6f}" if labels.scores else "")
        for row in range(len(fractions))
    ]
    return "".join(line + "\n" for line in lines)


def _refuse_beyond(image: ImageBoxes, beyond: np.ndarray, remedy: str) -> None:
    if beyond.any():
        row = int(beyond.argmax())
        box = image.boxes[row].tolist()
        raise AnnotationError(f"{image.name}: box {row}, {box}, reaches out of the image too far for YOLO; {remedy}")


def from_torchvision(target: Mapping[str, Any], *, name: str, image_size: tuple[int, int], names: Names) -> ImageBoxes:
    """The boxes of a torchvision target or detection.

    Args:
        target: `boxes` (N, 4) as x1, y1, x2, y2 in pixels and `labels` (N,); `scores`, `area`, `iscrowd` and `image_id`
            where given. Tensors or arrays; other keys (masks, keypoints) are ignored.
        name: The image's file name.
        image_size: Width and height of the image in pixels.
        names: The classes in the order of their numbers, or by number.

    Raises:
        AnnotationError: A key is missing, a class has no name, or an entry has another length than `boxes`.
        BoxError: Boxes of another shape, NaN or infinity, or inverted boxes.
    """
    _check_arguments(name, image_size, names)
    if "boxes" not in target or "labels" not in target:
        raise AnnotationError(f"{name}: a torchvision target has boxes and labels; got {', '.join(map(str, target))}")
    boxes = check_corners(target["boxes"], f"{name}: box")
    image_id = target.get("image_id")
    labels = _make_labels(
        name,
        len(boxes),
        names,
        category_ids=target["labels"],
        scores=target.get("scores"),
        areas=target.get("area"),
        crowd=target.get("iscrowd"),
    )
    number = None if image_id is None else check_numbers(image_id, "image_id", AnnotationError).reshape(-1).tolist()
    if number is not None and (len(number) != 1 or not float(number[0]).is_integer()):
        raise AnnotationError(f"{name}: image_id is one integer; got {number!r:.60}")
    return ImageBoxes(name, *image_size, boxes, labels, None if number is None else int(number[0]))


def to_torchvision(image: ImageBoxes) -> dict[str, Any]:
    """The inverse of `from_torchvision`: tensors, boxes in float32; raises AnnotationError without categories."""
    import torch

    _check_categories(image)
    labels = image.labels
    target: dict[str, Any] = {
        "boxes": torch.from_numpy(image.boxes.astype(np.float32)),
        "labels": torch.tensor(labels.category_ids, dtype=torch.int64),
    }
    if labels.scores:
        target["scores"] = torch.tensor(labels.scores, dtype=torch.float32)
    if labels.areas:
        target["area"] = torch.tensor(labels.areas, dtype=torch.float32)
    if labels.crowd:
        target["iscrowd"] = torch.tensor(labels.crowd, dtype=torch.int64)
    if image.image_id is not None:
        target["image_id"] = image.image_id
    return target


def from_supervision(
    detections: Any, *, name: str, image_size: tuple[int, int], names: Names | None = None
) -> ImageBoxes:
    """The boxes of a `supervision.Detections`, or of any object with its fields.

    Args:
        detections: `xyxy` (N, 4) in pixels and `class_id` (N,); `confidence`, and `data["class_name"]`, which names the
            classes where `names` does not, and defines them where `class_id` is None (numbered by `names`, or in their
            order). Masks and tracks are ignored.
        name: The image's file name.
        image_size: Width and height of the image in pixels.
        names: The classes in the order of their numbers, or by number.

    Raises:
        AnnotationError: No classes or no names for them, two names for one class, or a field of another length than
            `xyxy`.
        BoxError: Boxes of another shape, NaN or infinity, or inverted boxes.
    """
    _check_arguments(name, image_size, {} if names is None else names)
    boxes = check_corners(detections.xyxy, f"{name}: box")
    data = getattr(detections, "data", None) or {}
    if not isinstance(data, Mapping):
        raise AnnotationError(f"{name}: data of detections is a dictionary; got {type(data).__name__}")
    class_names = None if data.get("class_name") is None else [_check_name(name, label) for label in data["class_name"]]
    if detections.class_id is not None:
        classes = check_numbers(detections.class_id, "class_id").tolist()
    elif class_names is not None and len(class_names) == len(boxes):
        classes, names = _number_classes(name, class_names, names)
    elif len(boxes):
        raise AnnotationError(f"{name}: these detections have no class_id, and no class_name for each box")
    else:
        classes = []
    if names is None:
        if len(class_names or []) != len(classes):
            raise AnnotationError(f"{name}: give names=, or detections with a class_name for each box")
        names = {}
        for number, class_name in zip(classes, class_names or [], strict=True):
            if names.setdefault(number, class_name) != class_name:
                raise AnnotationError(
                    f"{name}: class {number} is called {names[number]!r} and {class_name!r}; give names="
                )
    labels = _make_labels(name, len(boxes), names, category_ids=classes, scores=getattr(detections, "confidence", None))
    return ImageBoxes(name, *image_size, boxes, labels)


def _number_classes(name: str, class_names: list[str], names: Names | None) -> tuple[list[int], Names]:
    """The numbers of class names in `names`, or in their order of appearance."""
    if names is None:
        names = dict(enumerate(dict.fromkeys(class_names)))
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    numbers = {class_name: number for number, class_name in pairs}
    unknown = [class_name for class_name in class_names if class_name not in numbers]
    if unknown:
        raise AnnotationError(f"{name}: the class {unknown[0]!r} is not in names")
    return [numbers[class_name] for class_name in class_names], names


def to_supervision(image: ImageBoxes) -> dict[str, Any]:
    """The arguments of `supervision.Detections(**arguments)`; raises AnnotationError without categories."""
    _check_categories(image)
    labels = image.labels
    return {
        "xyxy": image.boxes.astype(np.float32),
        "class_id": np.array(labels.category_ids, dtype=np.int64),
        "confidence": np.array(labels.scores, dtype=np.float32) if labels.scores else None,
        "data": {"class_name": np.array(labels.names, dtype=np.str_)},
    }


def _check_arguments(name: str, image_size: tuple[int, int], names: Names) -> None:
    if not isinstance(image_size, Sequence) or len(image_size) != 2:
        raise AnnotationError(f"{name}: image_size is the width and height in pixels; got {image_size!r:.60}")
    if not isinstance(names, Sequence | Mapping) or isinstance(names, str):
        raise AnnotationError(f"{name}: names are a list of the classes, or a dictionary by number; got {names!r:.60}")


def _check_name(name: str, label: object) -> str:
    if not isinstance(label, str):
        raise AnnotationError(f"{name}: class_name is text for each box; got {label!r:.60}")
    return str(label)


def _make_labels(name: str, count: int, names: Names, **parts: Any) -> BoxLabels:
    columns = {}
    for key, part in parts.items():
        column = [] if part is None else check_numbers(part, key).reshape(-1).tolist()
        if part is not None and len(column) != count:
            raise AnnotationError(f"{name}: {key} has {len(column)} entries for {count} boxes")
        if not all(map(math.isfinite, column)) or (key == "crowd" and not set(column) <= {0, 1}):
            raise AnnotationError(f"{name}: {key} are {'0 or 1' if key == 'crowd' else 'finite'}; got {column!r:.60}")
        columns[key] = column
    numbers = sorted(set(columns["category_ids"]))
    unnamed = [number for number in numbers if number != int(number) or not _has_name(names, int(number))]
    if unnamed:
        raise AnnotationError(f"{name}: class {unnamed[0]} has no name among {len(names)}")
    return BoxLabels(
        category_ids=tuple(map(int, columns["category_ids"])),
        scores=tuple(map(float, columns["scores"])),
        areas=tuple(map(float, columns.get("areas", []))),
        crowd=tuple(map(bool, columns.get("crowd", []))),
        categories={int(number): names[int(number)] for number in numbers},
    )


def _has_name(names: Names, number: int) -> bool:
    return number in names if isinstance(names, Mapping) else 0 <= number < len(names)


def _check_categories(image: ImageBoxes) -> None:
    if len(image.labels.category_ids) != len(image.boxes):
        raise AnnotationError(f"{image.name}: boxes without a category cannot be written in this format")
    if texts := [number for number in image.labels.category_ids if isinstance(number, str)]:
        raise AnnotationError(
            f"{image.name}: the category id {texts[0]!r:.60} is text; this format has integers, number the categories"
        )
