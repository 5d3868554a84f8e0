"""The file that boxes came from, with other boxes in it: all else stays."""

from __future__ import annotations

import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceptok.boxes import BoxCodec, BoxLabels, BoxRecord, ImageBoxes, read_annotations, rewrite_annotations
from perceptok.errors import AnnotationError

ORIGINAL: dict[str, Any] = {
    "images": [
        {"file_name": "a.jpg", "id": 1, "width": 100, "height": 50, "license": 3, "coco_url": "http://x/a.jpg"},
        {"file_name": "b.jpg", "id": 2, "width": 10, "height": 20, "date_captured": "2013"},
    ],
    "licenses": [{"id": 3, "name": "free"}],
    "annotations": [
        {"id": 8, "segmentation": [[0, 0, 1, 1]], "image_id": 2, "category_id": 4, "bbox": [1, 2, 3, 4], "area": 9},
        {"id": 7, "keypoints": [1, 2, 2], "image_id": 1, "category_id": 5, "bbox": [0, 0, 9, 9], "area": 81},
    ],
    "categories": [{"id": 4, "name": "cat", "skeleton": [[1, 2]]}, {"id": 5, "name": "dog"}, {"id": 6, "name": "cow"}],
    "extra": {"any": "thing"},
}


def rewritten(images: Any, original: Any = ORIGINAL) -> tuple[dict[str, Any], int]:
    file = io.BytesIO()
    text = original if isinstance(original, str) else json.dumps(original)
    left_out = rewrite_annotations(file, images, io.StringIO(text))
    return json.loads(file.getvalue()), left_out


def images_of(values: Any) -> tuple[ImageBoxes, ...]:
    return read_annotations(io.StringIO(json.dumps(values))).images


def test_the_same_boxes_give_the_same_file() -> None:
    back, left_out = rewritten(images_of(ORIGINAL))
    assert back == ORIGINAL
    assert [list(entry) for entry in (back, back["images"][0])] == [list(ORIGINAL), list(ORIGINAL["images"][0])]
    assert left_out == 0


def test_other_boxes_replace_the_boxes_only() -> None:
    images = [replace(image, boxes=image.boxes + 1.5) for image in images_of(ORIGINAL)]
    expected = json.loads(json.dumps(ORIGINAL))
    expected["annotations"][0]["bbox"], expected["annotations"][1]["bbox"] = [2.5, 3.5, 3, 4], [1.5, 1.5, 9, 9]
    assert rewritten(images) == (expected, 0)


def test_what_only_one_side_has() -> None:
    _, second = images_of(ORIGINAL)
    labels = BoxLabels((5, 9), categories={5: "dog", 9: "yak"})
    new = ImageBoxes("new.jpg", 30, 30, np.array([[0.0, 0, 4, 5], [1, 1, 2, 2]]), labels)
    back, left_out = rewritten([new, second])
    # Ids that are given come first; image 1 and annotation 7 of the file are left out, so that their numbers are free.
    assert [(entry["id"], entry["file_name"]) for entry in back["images"]] == [(2, "b.jpg"), (1, "new.jpg")]
    assert "license" not in back["images"][1]
    assert [(entry["id"], entry["image_id"], entry["bbox"]) for entry in back["annotations"]] == [
        (8, 2, [1, 2, 3, 4]),
        (1, 1, [0, 0, 4, 5]),
        (2, 1, [1, 1, 1, 1]),
    ]
    assert back["categories"] == [*ORIGINAL["categories"], {"id": 9, "name": "yak"}]
    assert left_out == 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images", 0, "width"), 101, "image 1: its width is 100 here and 101 in the file"),
        (("annotations", 1, "image_id"), 2, "annotation 7: its image_id is 1 here and 2 in the file"),
        (("categories", 0, "name"), "lynx", "category 4 is called 'cat' here and 'lynx' elsewhere"),
        (("categories", 0, "name"), None, "name is text; got None"),
        (("categories", 0), 5, "expected an object, found 5"),
        (("images",), {}, "expected the list of images"),
    ],
)
def test_another_file(path: tuple[Any, ...], value: Any, message: str) -> None:
    values = json.loads(json.dumps(ORIGINAL))
    at = values
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(AnnotationError, match=message):
        rewritten(images_of(ORIGINAL), values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "end of the file"),
        (json.dumps(ORIGINAL)[:500], "at character"),
        ('{"images": []}', "no list annotations and no list categories"),
    ],
)
def test_no_file(text: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        rewritten(images_of(ORIGINAL), text)


def test_entries_that_are_none_are_left_out() -> None:
    values = json.loads(json.dumps(ORIGINAL))
    values["annotations"] += [5, {"id": "8"}, {"id": [8]}, values["annotations"][0]]
    assert rewritten(images_of(ORIGINAL), values) == (ORIGINAL, 4)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="cannot be read"):
        rewrite_annotations(io.BytesIO(), [], tmp_path / "none.json")


def test_outlines_are_not_held(tmp_path: Path) -> None:
    values = json.loads(json.dumps(ORIGINAL))
    outline = [[round(number * 0.1, 1) for number in range(2_000)]]
    entry = {**ORIGINAL["annotations"][0], "segmentation": outline}
    values["annotations"] = [{**entry, "id": number, "bbox": [0, 0, 1 + number / 10, 5]} for number in range(300)]
    path = tmp_path / "large.json"
    path.write_text(json.dumps(values))
    images = read_annotations(path).images
    with (tmp_path / "back.json").open("wb") as file:
        tracemalloc.start()
        assert rewrite_annotations(file, images, path) == 0
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert path.stat().st_size > 3_000_000
    assert peak < 1_500_000
    assert json.loads((tmp_path / "back.json").read_text()) == values


@pytest.mark.parametrize("which", ["coco/instances.json", "counting/lvis_val_100.json"])
def test_real_files_differ_in_boxes_only(shared: Path, which: str) -> None:
    path = shared / "data" / which
    original = json.loads(path.read_text())
    codec = BoxCodec(decode="center")
    images = [BoxRecord.from_boxes(image, codec).decode() for image in read_annotations(path).images]
    back, left_out = rewritten(images, path.read_text())
    assert left_out == 0
    for file in (back, original):
        for entry in file["annotations"]:
            entry["bbox"] = None
    assert back == original
