"""One image's boxes in the forms of YOLO, torchvision and supervision; none of them is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from perceptok.boxes.arrays import corner_array, number_array
from perceptok.boxes.codec import from_corners, to_corners
from perceptok.boxes.datasets.box_records import BoxLabels, ImageBoxes
from perceptok.errors import AnnotationError

__all__ = ["from_supervision", "from_torchvision", "from_yolo", "to_supervision", "to_torchvision", "to_yolo"]

TOLERANCE = 1e-3
"""How far a share of YOLO's may lie outside 0..1, from its writer's rounding: it counts as the border then."""

Names = Sequence[str] | Mapping[int, str]


def from_yolo(text: str, *, name: str, image_size: tuple[int, int], names: Names) -> ImageBoxes:
    """The boxes of a YOLO text file: lines of `class cx cy w h`, shares of the image, with a confidence or without.

    Args:
        text: What the file holds; blank lines are skipped.
        name: The image's file name.
        image_size: Width and height of the image in pixels.
        names: The classes in the order of their numbers, or by number.

    Raises:
        AnnotationError: A line of another length (outlines have more numbers), no numbers, a class without a name, or a
            share out of 0..1 by more than a thousandth; the message gives the line.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
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
                f"found {len(row)} numbers (outlines are not read)"
            )
        if not all(-TOLERANCE <= share <= 1 + TOLERANCE for share in row[1:]):
            raise AnnotationError(f"{name}, line {number}: expected shares in 0..1, found {line[:60]!r}")
        row[1:] = [min(max(share, 0.0), 1.0) for share in row[1:]]
        if not row[0].is_integer() or not _named(names, int(row[0])):
            raise AnnotationError(f"{name}, line {number}: class {words[0]} has no name among {len(names)}")
        rows.append(row)
    shares = np.array([row[1:5] for row in rows], dtype=np.float64).reshape(-1, 4)
    classes = [int(row[0]) for row in rows]
    scores = tuple(row[5] for row in rows if len(row) == 6)
    labels = BoxLabels(tuple(classes), scores=scores, categories={one: names[one] for one in sorted(set(classes))})
    return ImageBoxes(name, *image_size, to_corners(shares, "cxcywh") * np.tile(image_size, 2), labels)


def to_yolo(image: ImageBoxes, *, crowd: bool = False, outside: Literal["raise", "clip"] = "raise") -> str:
    """The inverse of `from_yolo`, which reads all that is written; six decimals: exact to a millionth of the image.

    Args:
        image: The boxes; category ids are the classes.
        crowd: Write crowds as if they were objects, which YOLO cannot tell apart; otherwise they are refused.
        outside: "clip" cuts boxes that reach out of the image. Otherwise they are written as they are, which YOLO can
            as long as their centre lies inside and their lengths are the image's at most (within a thousandth).

    Raises:
        AnnotationError: Boxes without a category, a crowd, or a box that reaches out of the image (wholly, if cut).
    """
    labels = image.labels
    _with_categories(image)
    if any(labels.crowd) and not crowd:
        raise AnnotationError(f"{image.name}: YOLO has no crowds; take them out or write them as objects (crowd=True)")
    corners = image.boxes / np.tile((image.width, image.height), 2)
    if outside == "clip":
        missed = (corners[:, 2:] < 0).any(axis=1) | (corners[:, :2] > 1).any(axis=1)
        _refuse_beyond(image, missed, "no part of it is inside; take it out")
        corners = corners.clip(0, 1)
    shares = from_corners(corners, "cxcywh")
    beyond = ((shares < -TOLERANCE) | (shares > 1 + TOLERANCE)).any(axis=1)
    _refuse_beyond(image, np.asarray(beyond), 'cut such boxes with outside="clip"')
    shares = shares.clip(0, 1)
    lines = [
        " ".join([str(labels.category_ids[row]), *(f"{share:.6f}" for share in shares[row])])
        + (f" {labels.scores[row]:.6f}" if labels.scores else "")
        for row in range(len(shares))
    ]
    return "".join(line + "\n" for line in lines)


def _refuse_beyond(image: ImageBoxes, which: np.ndarray, remedy: str) -> None:
    if which.any():
        row = int(which.argmax())
        box = image.boxes[row].tolist()
        raise AnnotationError(f"{image.name}: box {row}, {box}, reaches out of the image too far for YOLO; {remedy}")


def from_torchvision(target: Mapping[str, Any], *, name: str, image_size: tuple[int, int], names: Names) -> ImageBoxes:
    """The boxes of a torchvision target or detection.

    Args:
        target: `boxes` (N, 4) as x1, y1, x2, y2 in pixels and `labels` (N,); `scores`, `area`, `iscrowd` and `image_id`
            where given. Tensors or arrays; other keys (masks, keypoints) are left out.
        name: The image's file name.
        image_size: Width and height of the image in pixels.
        names: The classes in the order of their numbers, or by number.

    Raises:
        AnnotationError: A key is missing, a class has no name, or an entry has another length than `boxes`.
        BoxError: Boxes of another shape, NaN or infinity, or upside down.
    """
    if "boxes" not in target or "labels" not in target:
        raise AnnotationError(f"{name}: a torchvision target has boxes and labels; got {', '.join(map(str, target))}")
    boxes = corner_array(target["boxes"], f"{name}: box")
    image_id = target.get("image_id")
    labels = _labels(
        name,
        len(boxes),
        names,
        category_ids=target["labels"],
        scores=target.get("scores"),
        areas=target.get("area"),
        crowd=target.get("iscrowd"),
    )
    number = None if image_id is None else int(number_array(image_id, "image_id").reshape(-1)[0])
    return ImageBoxes(name, *image_size, boxes, labels, number)


def to_torchvision(image: ImageBoxes) -> dict[str, Any]:
    """The inverse of `from_torchvision`: tensors, boxes in float32; raises AnnotationError without categories."""
    import torch

    _with_categories(image)
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
    """The boxes of a `supervision.Detections`, or of anything with its fields.

    Args:
        detections: `xyxy` (N, 4) in pixels and `class_id` (N,); `confidence`, and `data["class_name"]`, which names the
            classes where `names` does not, and tells them apart where `class_id` is None (numbered by `names`, or as
            they come). Masks and tracks are left out.
        name: The image's file name.
        image_size: Width and height of the image in pixels.
        names: The classes in the order of their numbers, or by number.

    Raises:
        AnnotationError: No classes or no names for them, two names for one class, or a field of another length than
            `xyxy`.
        BoxError: Boxes of another shape, NaN or infinity, or upside down.
    """
    boxes = corner_array(detections.xyxy, f"{name}: box")
    data = getattr(detections, "data", None) or {}
    called = None if data.get("class_name") is None else [str(one) for one in data["class_name"]]
    if detections.class_id is not None:
        classes = number_array(detections.class_id, "class_id").tolist()
    elif called is not None and len(called) == len(boxes):
        classes, names = _numbered(name, called, names)
    elif len(boxes):
        raise AnnotationError(f"{name}: these detections have no class_id, and no class_name for each box")
    else:
        classes = []
    if names is None:
        if len(called or []) != len(classes):
            raise AnnotationError(f"{name}: give names=, or detections with a class_name for each box")
        names = {}
        for number, one in zip(classes, called or [], strict=True):
            if names.setdefault(number, one) != one:
                raise AnnotationError(f"{name}: class {number} is called {names[number]!r} and {one!r}; give names=")
    labels = _labels(name, len(boxes), names, category_ids=classes, scores=getattr(detections, "confidence", None))
    return ImageBoxes(name, *image_size, boxes, labels)


def _numbered(name: str, called: list[str], names: Names | None) -> tuple[list[int], Names]:
    """Classes by their names: their numbers in `names`, or in the order in which they come."""
    if names is None:
        names = dict(enumerate(dict.fromkeys(called)))
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    numbers = {one: number for number, one in pairs}
    unknown = [one for one in called if one not in numbers]
    if unknown:
        raise AnnotationError(f"{name}: the class {unknown[0]!r} is none of names")
    return [numbers[one] for one in called], names


def to_supervision(image: ImageBoxes) -> dict[str, Any]:
    """The arguments of `supervision.Detections(**arguments)`; raises AnnotationError without categories."""
    _with_categories(image)
    labels = image.labels
    return {
        "xyxy": image.boxes.astype(np.float32),
        "class_id": np.array(labels.category_ids, dtype=np.int64),
        "confidence": np.array(labels.scores, dtype=np.float32) if labels.scores else None,
        "data": {"class_name": np.array(labels.names, dtype=np.str_)},
    }


def _labels(name: str, count: int, names: Names, **parts: Any) -> BoxLabels:
    columns = {}
    for key, part in parts.items():
        column = [] if part is None else number_array(part, key).reshape(-1).tolist()
        if part is not None and len(column) != count:
            raise AnnotationError(f"{name}: {key} has {len(column)} entries for {count} boxes")
        columns[key] = column
    numbers = sorted(set(columns["category_ids"]))
    unnamed = [number for number in numbers if number != int(number) or not _named(names, int(number))]
    if unnamed:
        raise AnnotationError(f"{name}: class {unnamed[0]} has no name among {len(names)}")
    return BoxLabels(
        category_ids=tuple(map(int, columns["category_ids"])),
        scores=tuple(map(float, columns["scores"])),
        areas=tuple(map(float, columns.get("areas", []))),
        crowd=tuple(map(bool, columns.get("crowd", []))),
        categories={int(number): names[int(number)] for number in numbers},
    )


def _named(names: Names, number: int) -> bool:
    return number in names if isinstance(names, Mapping) else 0 <= number < len(names)


def _with_categories(image: ImageBoxes) -> None:
    if len(image.labels.category_ids) != len(image.boxes):
        raise AnnotationError(f"{image.name}: boxes without a category cannot be written so")
