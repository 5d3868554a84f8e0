"""COCO and LVIS files to boxes, records, text and back, and what is wrong with bad ones."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from perceptok.boxes import (
    AnnotationFile,
    BoxCodec,
    BoxFailure,
    BoxForm,
    BoxLabels,
    BoxRecord,
    FrameMode,
    ImageBoxes,
    boxes_from_text,
    read_annotations,
    read_results,
    write_annotations,
)
from perceptok.errors import AnnotationError

COCO_FILE: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 100, "height": 50, "license": 3},
        {"id": 2, "file_name": "b/c.jpg", "width": 10, "height": 20},
    ],
    "annotations": [
        {"id": 7, "image_id": 2, "category_id": 5, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 1},
        {"id": 8, "image_id": 1, "category_id": 4, "bbox": [0, 0, 100, 50], "area": 5000, "iscrowd": 0},
        {"id": 9, "image_id": 2, "category_id": 4, "bbox": [0.5, 0.5, 0, 0], "area": 0, "iscrowd": 0},
    ],
    "categories": [
        {"id": 4, "name": "cat", "supercategory": "animal"},
        {"id": 5, "name": "dog"},
        {"id": 6, "name": "cat"},
    ],
}


def read(values: Any, *, strict: bool = True) -> AnnotationFile:
    return read_annotations(io.StringIO(values if isinstance(values, str) else json.dumps(values)), strict=strict)


def written(images: Any, header: Any = None) -> dict[str, Any]:
    file = io.BytesIO()
    write_annotations(file, images, header)
    return json.loads(file.getvalue())  # type: ignore[no-any-return]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The COCO file with one entry replaced, e.g. `annotations.0.bbox`; None takes it out."""
    copy = json.loads(json.dumps(COCO_FILE))
    *way, last = path.split(".")
    at = copy
    for step in way:
        at = at[int(step) if step.isdecimal() else step]
    key = int(last) if last.isdecimal() else last
    if value is None:
        del at[key]
    else:
        at[key] = value
    return copy


class TestReading:
    def test_coco(self) -> None:
        file = read(COCO_FILE)
        first, second = file.images
        assert (first.name, first.width, first.height, first.image_id) == ("a.jpg", 100, 50, 1)
        np.testing.assert_array_equal(second.boxes, [[1, 2, 4, 6], [0.5, 0.5, 0.5, 0.5]])
        assert second.labels == BoxLabels(
            category_ids=(5, 4),
            crowd=(True, False),
            annotation_ids=(7, 9),
            areas=(9.5, 0.0),
            categories={4: "cat", 5: "dog"},
        )
        assert second.labels.names == ("dog", "cat")
        assert file.header == {"info": {"year": 2017}, "categories": COCO_FILE["categories"]}
        assert file.failures == ()

    def test_the_order_of_the_lists_is_free(self) -> None:
        turned = dict(reversed(COCO_FILE.items()))
        entry, other = written(read(COCO_FILE).images), written(read(turned).images)
        assert entry == other

    def test_lvis_1(self) -> None:
        values = changed("images.0.file_name", None)
        values["images"][0] |= {
            "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
            "neg_category_ids": [6],
            "not_exhaustive_category_ids": [4, 5],
        }
        for item in values["annotations"]:
            del item["iscrowd"]
        first, second = read(values).images
        assert first.name == "000000397133.jpg"
        assert first.labels.negative_category_ids == (6,)
        assert first.labels.not_exhaustive_category_ids == (4, 5)
        assert first.labels.categories == {4: "cat", 5: "dog", 6: "cat"}
        assert second.labels.negative_category_ids is None
        assert first.labels.crowd == ()

    def test_no_annotations_at_all(self) -> None:
        images = read({**COCO_FILE, "annotations": []}).images
        assert [image.boxes.shape for image in images] == [(0, 4), (0, 4)]
        assert read({"images": [], "annotations": [], "categories": []}).images == ()

    def test_a_path_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(COCO_FILE).encode())
        assert len(read_annotations(tmp_path / "x.json").images) == 2


class TestAsExportersWrite:
    """What pycocotools loads is loaded, and said."""

    def as_text(self, entry: Any) -> Any:
        return (
            {key: self.as_text(value) for key, value in entry.items()}
            if isinstance(entry, dict)
            else (
                [self.as_text(value) for value in entry]
                if isinstance(entry, list)
                else str(entry)
                if isinstance(entry, int | float)
                else entry
            )
        )

    def as_floats(self, entry: Any) -> Any:
        return (
            {key: self.as_floats(value) for key, value in entry.items()}
            if isinstance(entry, dict)
            else (
                [self.as_floats(value) for value in entry]
                if isinstance(entry, list)
                else float(entry)
                if isinstance(entry, int)
                else entry
            )
        )

    @pytest.mark.parametrize("way", ["as_text", "as_floats"])
    def test_numbers(self, way: str) -> None:
        file, plain = read(getattr(self, way)(COCO_FILE)), read(COCO_FILE)
        assert [(entry.name, entry.width, entry.height, entry.image_id, entry.labels) for entry in file.images] == [
            (entry.name, entry.width, entry.height, entry.image_id, entry.labels) for entry in plain.images
        ]
        for ours, theirs in zip(file.images, plain.images, strict=True):
            np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        what = "text" if way == "as_text" else "a float"
        assert f"annotation: image_id is an integer written as {what} (3 times)" in file.repairs
        assert plain.repairs == ()

    def test_ids_that_are_text(self) -> None:
        values = json.loads(json.dumps(COCO_FILE))
        for key, lists in (("id", ("images", "annotations", "categories")), ("image_id", ("annotations",))):
            for item in (entry for name in lists for entry in values[name]):
                item[key] = f"{'i' if key == 'image_id' or 'width' in item else 'x'}-{item[key]}"
        for entry in values["annotations"]:
            entry["category_id"] = f"x-{entry['category_id']}"
        for keys in (None, ("categories", "annotations", "images")):
            file = read(values if keys is None else {key: values[key] for key in keys})
            assert [entry.labels.names for entry in file.images] == [("cat",), ("dog", "cat")]
            assert len({entry.image_id for entry in file.images}) == 2

    def test_an_area_of_null(self) -> None:
        values = changed("annotations.0.area", None)
        values["annotations"][0]["area"] = None
        file = read(values)
        assert file.images[1].labels.areas == (12.0, 0.0)
        assert file.repairs == ("annotation: area is null; that of the box is used (1 times)",)

    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_packed_and_marked(self, mark: str, tmp_path: Path) -> None:
        text = mark + json.dumps(COCO_FILE) + "\n\n"
        (tmp_path / "a.json.gz").write_bytes(gzip.compress(text.encode()))
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        for source in (tmp_path / "a.json.gz", tmp_path / "a.json", io.StringIO(text)):
            assert len(read_annotations(source).images) == 2
        (tmp_path / "cut.json.gz").write_bytes(gzip.compress(text.encode())[:-30])
        with pytest.raises(AnnotationError, match="not valid JSON"):
            read_annotations(tmp_path / "cut.json.gz")


class TestBadFiles:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({key: value for key, value in COCO_FILE.items() if key != "images"}, "has no list images; a COCO or LVIS"),
            ({"images": []}, "has no list annotations and no list categories"),
            ({}, "It has nothing"),
            ("", "found the end of the file at character 0"),
            (json.dumps(COCO_FILE)[:400], "at character 4"),
            (json.dumps(COCO_FILE)[:-1], "found the end of the file"),
            ("[]", "expected an object"),
            ({**COCO_FILE, "images": {}}, "expected the list of images"),
        ],
    )
    def test_not_an_annotation_file(self, values: Any, message: str) -> None:
        for strict in (True, False):
            with pytest.raises(AnnotationError) as refused:
                read(values, strict=strict)
            assert message in str(refused.value)

    @pytest.mark.parametrize(
        ("path", "value", "name", "reason", "left"),
        [
            ("annotations.0.image_id", 99, "annotation 7", "names image 99, which is missing", (1, 1)),
            ("annotations.0.category_id", 99, "annotation 7", "names category 99, which is missing", (1, 1)),
            ("annotations.2.id", 7, "annotation 7", "repeated id", (1, 1)),
            (
                "annotations.0.bbox",
                [1, 2, float("nan"), 4],
                "annotation 7",
                "four finite numbers; got [1, 2, NaN",
                (1, 1),
            ),
            ("annotations.0.bbox", [1, 2, float("inf"), 4], "annotation 7", "four finite numbers", (1, 1)),
            ("annotations.0.bbox", [1, 2, 10**400, 4], "annotation 7", "four finite numbers", (1, 1)),
            ("annotations.0.bbox", [1, 2, -3, 4], "annotation 7", "lengths from 0; got [1, 2, -3, 4]", (1, 1)),
            ("annotations.0.bbox", [1, 2, 3], "annotation 7", "four finite numbers", (1, 1)),
            ("annotations.0.bbox", "1 2 3 4", "annotation 7", "four finite numbers", (1, 1)),
            ("annotations.0.bbox", [1, 2, True, 4], "annotation 7", "four finite numbers", (1, 1)),
            ("annotations.0.bbox", None, "annotation 7", "has no 'bbox'", (1, 1)),
            ("annotations.0.id", None, "annotation at index 0", "has no 'id'", (1, 1)),
            ("annotations.0.id", 7.5, "annotation at index 0", "id: expected integers", (1, 1)),
            ("images.1.width", 10.5, "image 2", "width: expected integers", (1,)),
            ("annotations.0.bbox", [1, 2, "wide", 4], "annotation 7", "four finite numbers", (1, 1)),
            ("annotations.0.id", 2**128, f"annotation {2**128}", "id: expected integers", (1, 1)),
            ("annotations.0.area", "big", "annotation 7", "area is a finite number", (1, 1)),
            ("annotations.0.iscrowd", 2, "annotation 7", "iscrowd is 0 or 1", (1, 1)),
            ("annotations.0", [1, 2], "annotation at index 0", "expected an object, found [1, 2]", (1, 1)),
            ("images.1.id", 1, "image 1", "repeated id; the first is kept", (1,)),
            ("images.1.width", 0, "image 2", "at least one pixel; got 0 x 20", (1,)),
            ("images.1.height", None, "image 2", "has no 'height'", (1,)),
            ("images.1.file_name", None, "image 2", "neither file_name nor coco_url", (1,)),
            ("images.1.neg_category_ids", [99], "image 2", "lists category 99, which is missing", (1, 2)),
            ("images.1.neg_category_ids", 5, "image 2", "neg_category_ids: expected integers", (1,)),
            ("categories.1.id", 4, "category 4", "repeated id", (1, 1)),
            ("categories.1.name", 4, "category 5", "name is text; got 4", (1, 1)),
        ],
    )
    def test_one_bad_entry(self, path: str, value: Any, name: str, reason: str, left: tuple[int, ...]) -> None:
        values = changed(path, value)
        with pytest.raises(AnnotationError) as refused:
            read(values)
        assert f"{name}: " in str(refused.value)
        assert reason in str(refused.value)
        file = read(values, strict=False)
        assert file.failures[0].name == name
        assert reason in file.failures[0].reason
        assert tuple(len(image.boxes) for image in file.images) == left

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match="cannot be read"):
            read_annotations(tmp_path / "none.json")


class TestWriting:
    def test_back_to_the_same_file(self) -> None:
        file = read(COCO_FILE)
        back = written(file.images, file.header)
        assert back["info"] == COCO_FILE["info"]
        assert back["categories"] == COCO_FILE["categories"]
        assert sorted(back["annotations"], key=lambda entry: entry["id"]) == COCO_FILE["annotations"]
        # What an image has besides id, size and name is not kept.
        kept = [{key: value for key, value in entry.items() if key != "license"} for entry in COCO_FILE["images"]]
        assert back["images"] == kept

    def test_ids_that_are_missing(self) -> None:
        labels = BoxLabels(category_ids=(3,), categories={3: "x"})
        images = [ImageBoxes(name, 9, 9, np.array([[0.0, 0, 4, 5]]), labels) for name in "ab"]
        images.append(ImageBoxes("c", 9, 9, np.zeros((0, 4)), image_id=1))
        back = written(images)
        assert [entry["id"] for entry in back["images"]] == [2, 3, 1]
        assert [(entry["id"], entry["image_id"], entry["area"]) for entry in back["annotations"]] == [
            (1, 2, 20.0),
            (2, 3, 20.0),
        ]
        assert back["categories"] == [{"id": 3, "name": "x"}]

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([ImageBoxes("a", 9, 9, np.zeros((0, 4)), image_id=1)] * 2, "repeated image id 1"),
            (
                [
                    ImageBoxes(
                        "a", 9, 9, np.zeros((2, 4)), BoxLabels((1, 1), annotation_ids=(4, 4), categories={1: "x"})
                    )
                ],
                "repeated annotation id 4",
            ),
            ([ImageBoxes("a", 9, 9, np.zeros((1, 4)))], "a: boxes without a category"),
            (
                [ImageBoxes(name, 9, 9, np.zeros((0, 4)), BoxLabels(categories={1: name})) for name in "ab"],
                "b: category 1 is called 'b' here and 'a' elsewhere",
            ),
        ],
    )
    def test_what_is_no_file(self, images: Any, message: str) -> None:
        with pytest.raises(AnnotationError, match=message):
            written(images)


class TestRealFiles:
    """Every box of both files: file -> records -> text -> records -> file."""

    @pytest.mark.parametrize("which", ["coco/instances.json", "counting/lvis_val_100.json"])
    @pytest.mark.parametrize(
        ("frame", "form"),
        [("squash", "aurora"), ("squash", "compact"), ("squash", "numeral"), ("letterbox", "aurora")],
    )
    def test_within_half_a_bin(self, shared: Path, which: str, frame: FrameMode, form: BoxForm) -> None:
        path = shared / "data" / which
        original = json.loads(path.read_text())
        file = read_annotations(path)
        codec = BoxCodec(decode="center")
        back = []
        for image in file.images:
            record = BoxRecord.from_boxes(image, codec, frame=frame)
            values = json.loads(record.to_json(form=form))
            del values["codes"]  # what comes back comes from the text
            again = BoxRecord.from_json(json.dumps(values))
            assert again == record
            np.testing.assert_array_equal(boxes_from_text(values["text"]), record.array)
            back.append(again.decode())
        result = written(back, file.header)
        assert len(result["annotations"]) == len(original["annotations"]) > 900
        sizes = {image["id"]: (image["width"], image["height"]) for image in original["images"]}
        theirs = {entry["id"]: entry for entry in original["annotations"]}
        for ours in result["annotations"]:
            true = theirs[ours["id"]]
            assert {key: ours[key] for key in ("image_id", "category_id", "area")} == {
                key: true[key] for key in ("image_id", "category_id", "area")
            }
            assert ours.get("iscrowd") == true.get("iscrowd")
            width, height = sizes[ours["image_id"]]
            # A letterbox has bins of one size along both axes: those of the longer one, but for rounding its side.
            bins = np.array([width, height]) if frame == "squash" else np.full(2, max(width, height))
            half = bins / 336 / 2 * (1 if frame == "squash" else 1.01)
            entry, other = (
                np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]]) for box in (ours["bbox"], true["bbox"])
            )
            # A few true boxes reach a hundredth of a pixel out of their image: they are clipped there.
            other = np.clip(other, 0, [width, height, width, height])
            assert (np.abs(entry - other) <= np.tile(half, 2) + 1e-9).all()
        assert result["categories"] == original["categories"]
        assert result["info"] == original["info"]
        for ours, true in zip(result["images"], original["images"], strict=True):
            assert ours == {key: true[key] for key in ours}
            assert {"neg_category_ids", "not_exhaustive_category_ids"} & true.keys() <= ours.keys()

    def test_pycocotools_reads_what_is_written(self, shared: Path, tmp_path: Path) -> None:
        path = shared / "data/coco/instances.json"
        file = read_annotations(path)
        codec = BoxCodec(decode="center")
        images = [BoxRecord.from_boxes(image, codec).decode() for image in file.images]
        with (tmp_path / "back.json").open("wb") as out:
            write_annotations(out, images, file.header)
        truth, back = COCO(str(path)), COCO(str(tmp_path / "back.json"))
        detections = [{**entry, "score": 1.0} for entry in back.loadAnns(back.getAnnIds())]
        scored = COCOeval(truth, truth.loadRes(detections), "bbox")
        scored.params.imgIds = truth.getImgIds()[:60]
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        # AP at IoU 0.50 of boxes that went through 336 bins.
        assert scored.stats[1] > 0.98


def make_file(boxes: list[tuple[int, int, list[float]]], **images: Any) -> dict[str, Any]:
    """A file with two images of 100 x 50 and annotations (id, image id, box) of cats."""
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 50, **images} for n in (1, 2)],
        "annotations": [{"id": i, "image_id": image, "category_id": 4, "bbox": box} for i, image, box in boxes],
        "categories": [{"id": 4, "name": "cat"}],
    }


def test_annotation_ids_that_are_unique_in_their_image_only() -> None:
    """As Mapillary Vistas has them."""
    file = read(make_file([(1, 1, [0, 0, 9, 9]), (2, 1, [5, 5, 9, 9]), (1, 2, [7, 7, 9, 9]), (2, 2, [8, 8, 9, 9])]))
    assert [image.labels.annotation_ids for image in file.images] == [(1, 2), (3, 4)]
    assert file.repairs == ("annotation: id is that of another image's annotation; numbered (2 times)",)
    assert file.incomplete == frozenset()


def test_images_with_a_box_that_was_left_out() -> None:
    values = make_file([(1, 1, [0, 0, 9, 9]), (1, 1, [5, 5, 9, 9]), (2, 2, [0, 0, -1, 9])])
    assert read(values, strict=False).incomplete == {1, 2}
    assert read(make_file([(1, 1, [0, 0, 9, 9]), (1, 1, [0, 0, 9, 9])]), strict=False).incomplete == frozenset()
    values = make_file([(1, 1, [0, 0, 9, 9])])
    values["images"].append({"id": 1, "file_name": "other.jpg", "width": 100, "height": 50})
    assert read(values, strict=False).incomplete == {1}
    values["images"][-1]["file_name"] = "1.jpg"
    assert read(values, strict=False).incomplete == frozenset()


@pytest.mark.parametrize("strict", [True, False])
def test_boxes_in_fractions_of_the_image(strict: bool) -> None:
    fractions = [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(AnnotationError, match=r"the boxes of 2 of 2 images lie in 0\.\.1, .*multiply x and width"):
        read(make_file([(1, 1, fractions), (2, 2, fractions)]), strict=strict)
    mixed = make_file([(1, 1, fractions), (2, 2, [0, 0, 9, 9])])
    if strict:
        with pytest.raises(AnnotationError, match=r"annotation 1: .* lie in 0\.\.1"):
            read(mixed)
        return
    file = read(mixed, strict=False)
    assert [len(image.boxes) for image in file.images] == [0, 1]
    assert file.incomplete == {1}
    file = read(make_file([(1, 1, fractions), (3, 1, [5, 5, 9, 9]), (2, 2, [0, 0, 1, 1])]))
    assert [len(image.boxes) for image in file.images] == [2, 1]


def test_boxes_in_fractions_that_leave_the_image_a_little() -> None:
    values = make_file([(1, 1, [-0.01, 0.2, 0.5, 0.83]), (2, 2, [0.5, 0.2, 0.51, 0.4])])
    with pytest.raises(AnnotationError, match=r"the boxes of 2 of 2 images lie in 0\.\.1"):
        read(values)
    known = read(make_file([])).images
    results = [{"image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4], "score": 0.5}]
    with pytest.raises(AnnotationError, match=r"the boxes of 1 of 1 images lie in 0\.\.1"):
        read_results(json.dumps(results), "results.json", known)
    results.append({"image_id": 2, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5})
    first, second = sorted(read_results(json.dumps(results), "results.json", known), key=str)
    assert isinstance(first, BoxFailure)
    assert "as fractions of the image" in first.reason
    assert isinstance(second, ImageBoxes)


def test_boxes_that_repeat_another_are_left_out_with_a_count() -> None:
    box = [1, 2, 30, 40]
    values = make_file([(1, 1, box), (2, 1, box), (3, 2, box), (4, 2, [1, 2, 30, 41])])
    values["annotations"].append({**values["annotations"][0], "id": 99, "iscrowd": 1})
    values["annotations"].append({**values["annotations"][0], "id": 98, "category_id": 77})
    values["categories"].append({"id": 77, "name": "cup"})
    for strict in (True, False):
        file = read(values, strict=strict)
        assert [len(image.boxes) for image in file.images] == [3, 2]
        assert file.repairs == (
            "annotation: its box repeats another of its image and category exactly; left out (1 times)",
        )
        assert file.incomplete == frozenset()


def test_a_panoptic_file_is_named() -> None:
    values = make_file([])
    values["annotations"] = [{"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 7, "category_id": 1}]}]
    for strict in (True, False):
        with pytest.raises(AnnotationError, match=r"a COCO panoptic file.*instances_\*\.json"):
            read(values, strict=strict)


def test_images_without_a_size() -> None:
    values = make_file([(1, 1, [1, 2, 30, 40]), (2, 2, [1, 2, 30, 40])])
    del values["images"][0]["width"]
    values["images"][1] |= {"width": None, "height": 0}
    sizes = {"1.jpg": (640, 480)}
    file = read_annotations(io.StringIO(json.dumps(values)), strict=False, find_size=lambda name, _: sizes.get(name))
    assert [(image.name, image.width, image.height) for image in file.images] == [("1.jpg", 640, 480)]
    assert file.repairs == ("image: has no size; that of its file is used (1 times)",)
    assert len(file.failures) == 2


def test_the_folder_of_an_address() -> None:
    values = make_file([], coco_url="http://images.cocodataset.org/val2017/000000000139.jpg")
    del values["images"][0]["file_name"]
    first, second = read(values).images
    assert (first.name, first.folder) == ("000000000139.jpg", "val2017")
    assert (second.name, second.folder) == ("2.jpg", "val2017")


def test_names_that_are_not_unicode() -> None:
    values = make_file([])
    values["images"][0]["file_name"] = "\udce9.jpg"
    file = read(values, strict=False)
    assert [image.name for image in file.images] == ["2.jpg"]
    assert "is not valid Unicode" in file.failures[0].reason


@pytest.mark.parametrize(
    "part",
    [{"angle": 30}, {"theta": 0.5}, {"rotation": 30}, {"attributes": {"angle": 30}}, {"attributes": {"theta": 1}}],
)
def test_other_angles_are_reported(part: dict[str, Any]) -> None:
    values = {**COCO_FILE, "annotations": [{**COCO_FILE["annotations"][1], **part}]}
    assert "its box is read as it is, upright (1 times)" in " ".join(read(values).repairs)


@pytest.mark.parametrize(
    "part", [{"bbox_mode": 0}, {"bbox_mode": "XYXY_ABS"}, {"bbox_format": "xyxy"}, {"bbox_mode": []}]
)
def test_boxes_that_say_that_they_are_no_coco_boxes_are_refused(part: dict[str, Any]) -> None:
    values = {**COCO_FILE, "annotations": [{**COCO_FILE["annotations"][1], **part}]}
    with pytest.raises(AnnotationError, match="a COCO file has x, y, width, height"):
        read(values)


@pytest.mark.parametrize("part", [{"bbox_mode": 1}, {"bbox_format": "xywh"}, {"iscrowd": None}])
def test_what_is_usual_is_read(part: dict[str, Any]) -> None:
    values = {**COCO_FILE, "annotations": [{**COCO_FILE["annotations"][1], **part}]}
    assert read(values).images[0].boxes.tolist() == [[0, 0, 100, 50]]
