"""Ids of any kind: read, encoded, decoded and written back with everything else in their file."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner, Result

from perceptok.boxes import (
    BoxCodec,
    BoxLabels,
    BoxRecord,
    ImageBoxes,
    read_annotations,
    read_results,
    rewrite_annotations,
    to_yolo,
    write_annotations,
)
from perceptok.errors import AnnotationError, BoxError
from perceptok_cli.main import app

UUIDS = ["3f2504e0-4f89-41d3-9a0c-0305e82c3301", "9b2e-7e10", "1e3"]


def make_file(images: list[Any], annotations: list[Any], categories: list[Any], **references: list[Any]) -> Any:
    """A file of entries with these ids; annotation n is of image n and category n, both counted in turn."""
    image_ids = references.get("image_ids", images)
    category_ids = references.get("category_ids", categories)
    return {
        "images": [{"id": n, "file_name": f"{i}.jpg", "width": 336, "height": 336} for i, n in enumerate(images)],
        "annotations": [
            {
                "id": number,
                "image_id": image_ids[index % len(image_ids)],
                "category_id": category_ids[index % len(category_ids)],
                "bbox": [8 * index, 2, 30, 40],
                "area": 900,
                "segmentation": [[0, 0, index, 9, 9, 9]],
                "attributes": {"occluded": bool(index % 2)},
                "note": f"note {index}",
            }
            for index, number in enumerate(annotations)
        ],
        "categories": [{"id": number, "name": f"name {i}", "color": i} for i, number in enumerate(categories)],
        "info": {"year": 2026},
    }


def read(values: Any, *, strict: bool = True) -> Any:
    return read_annotations(io.StringIO(json.dumps(values)), strict=strict)


def recode(image: ImageBoxes) -> ImageBoxes:
    """An image's boxes after they went through a line of JSON."""
    return BoxRecord.from_json(BoxRecord.from_boxes(image, BoxCodec()).to_json()).decode()


def rewrite(values: Any) -> tuple[Any, int]:
    file = io.BytesIO()
    left_out = rewrite_annotations(file, [*map(recode, read(values).images)], io.StringIO(json.dumps(values)))
    return json.loads(file.getvalue()), left_out


def run(*words: object, stdin: bytes | str | None = None) -> Result:
    return CliRunner().invoke(app, ["box", *map(str, words)], input=stdin)


KINDS: dict[str, tuple[list[Any], list[Any], list[Any]]] = {
    "uuid": (UUIDS[:2], UUIDS, UUIDS[:2]),
    "text numbers": (["1", "2"], ["1", "2", "3"], ["1", "2"]),
    "floats": ([1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0]),
    "mixed": ([1, "b"], [1, "x", 7.0], ["dog", 2]),
    "1 and text 1": ([1, "1"], [1, "1", "01"], ["1", 1]),
    "zeros in front": (["000001", "000002"], ["01", "1", "001"], ["007", "7"]),
    "large": ([2**63, 2**64], [2**53 + 1, 2**62, 2**127], [2**62, 2**100]),
    "negative and zero": ([-1, 0], [-7, 0, 7], [0, -1]),
    "like floats": (["1e3", "1000"], ["1e5", "100000", "nan"], ["inf", "1.5"]),
    "not ASCII": (["ä", "\u0661"], ["é", "1", "\u0661"], ["犬", "猫"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_comes_back(kind: str) -> None:
    values = make_file(*KINDS[kind])
    assert rewrite(values) == (values, 0)
    without_header = io.BytesIO()
    file = read(values)
    write_annotations(without_header, [*map(recode, file.images)], file.header)
    again = read(json.loads(without_header.getvalue()))
    for first, second in zip(file.images, again.images, strict=True):
        assert (first.image_id, first.labels) == (second.image_id, second.labels)
        np.testing.assert_allclose(first.boxes, second.boxes)


@pytest.mark.parametrize("key", ["image_ids", "category_ids"])
@pytest.mark.parametrize(
    ("entries", "references"), [([1, 2], ["1", "2"]), (["1", "2"], [1, 2.0]), ([1, 2], ["1.0", 2])]
)
def test_references_that_are_written_otherwise(key: str, entries: list[Any], references: list[Any]) -> None:
    values = make_file(entries, ["a", "b"], entries, **{key: references})
    assert [len(image.boxes) for image in read(values).images] == [1, 1]
    assert rewrite(values) == (values, 0)


def test_text_ids_are_kept_in_labels() -> None:
    first, second = read(make_file(UUIDS[:2], ["u1", "u2", "u3"], ["dog", "7"])).images
    assert (first.image_id, second.image_id) == tuple(UUIDS[:2])
    assert first.labels.annotation_ids == ("u1", "u3")
    assert first.labels.category_ids == ("dog", "dog")
    assert second.labels.category_ids == (7,)
    assert second.labels.categories == {7: "name 1"}


@pytest.mark.parametrize("bad", ["", "  ", None, True, 1.5, [1], {"id": 1}, 2**128, "\ud800"])
@pytest.mark.parametrize("key", ["id", "image_id", "category_id"])
def test_what_is_not_an_id_is_refused_alone(key: str, bad: Any) -> None:
    values = make_file([1, 2], ["a", "b", "c"], [1, 2])
    values["annotations"][0][key] = bad
    with pytest.raises(AnnotationError, match=f"{key}: expected integers or text"):
        read(values)
    file = read(values, strict=False)
    assert len(file.failures) == 1
    assert [image.labels.annotation_ids for image in file.images] == [("c",), ("b",)]


def test_annotation_ids_that_repeat_in_another_image_keep_what_is_theirs() -> None:
    values = make_file([1, 2], [5, 5, 6, 6], [1])
    assert rewrite(values) == (values, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(-(2**70), 2**70), st.text("01-.eab ", min_size=1, max_size=4).filter(str.strip)),
        min_size=2,
        max_size=6,
        unique=True,
    )
)
def test_any_ids_come_back(ids: list[Any]) -> None:
    values = make_file(ids, ids, ids)
    assert rewrite(values) == (values, 0)


def test_new_entries_name_images_and_categories_as_the_file_does() -> None:
    values = make_file(["1", "2"], ["a"], ["1", "2"])
    (first, second) = read(values).images
    labels = BoxLabels((2,), categories={2: "name 1"})
    added = ImageBoxes(second.name, 336, 336, np.array([[0.0, 0, 4, 5]]), labels, second.image_id)
    file = io.BytesIO()
    rewrite_annotations(file, [first, added], io.StringIO(json.dumps(values)))
    new = json.loads(file.getvalue())["annotations"][1]
    assert (new["image_id"], new["category_id"]) == ("2", "2")


def test_results_name_images_of_any_id() -> None:
    known = read(make_file([*UUIDS[:2], 3, "4"], [1], ["dog", 2])).images
    results = [
        {"image_id": image_id, "category_id": category_id, "bbox": [1, 2, 3, 4], "score": 0.5}
        for image_id, category_id in ((UUIDS[0], "dog"), ("3", 2), (4, "2"), ("none", 2), (["x"], 2))
    ]
    read_back = read_results(json.dumps(results), "r.json", known)
    failures, images = read_back[:2], read_back[2:]
    assert [image.image_id for image in images] == [UUIDS[0], 3, 4]  # type: ignore[union-attr]
    assert images[0].labels.names == ("name 0",)  # type: ignore[union-attr]
    assert ["names image none" in failures[0].reason, "integers or text" in failures[1].reason] == [True, True]  # type: ignore[union-attr]


def test_formats_of_integers_refuse_text() -> None:
    image = ImageBoxes("a", 9, 9, np.array([[0.0, 0, 4, 5]]), BoxLabels(("dog",), categories={"dog": "dog"}))
    with pytest.raises(AnnotationError, match="category id 'dog' is text"):
        to_yolo(image)


def test_names_of_categories_are_text() -> None:
    with pytest.raises(BoxError, match=r"name of category 1 is text; got \['dog', 'cat'\]"):
        ImageBoxes("a", 9, 9, np.zeros((1, 4)), BoxLabels((1,), categories={1: ["dog", "cat"]}))  # type: ignore[dict-item]


class TestRotation:
    def file(self, angle: Any, **item: Any) -> Any:
        values = make_file([1], [1, 2], [1])
        values["annotations"][0] |= {"bbox": [100, 100, 40, 20], "attributes": {"rotation": angle, "k": 1}, **item}
        return values

    @pytest.mark.parametrize(
        ("rotation", "expected"),
        [
            (90, [110, 90, 130, 130]),
            ("270.0", [110, 90, 130, 130]),
            (-90.0, [110, 90, 130, 130]),
            (45, [98.7868, 88.7868, 141.2132, 131.2132]),
            (180, [100, 100, 140, 120]),
            (0.0, [100, 100, 140, 120]),
            (None, [100, 100, 140, 120]),
            ("left", [100, 100, 140, 120]),
        ],
    )
    def test_the_box_around(self, rotation: Any, expected: list[float]) -> None:
        file = read(self.file(rotation))
        np.testing.assert_allclose(file.images[0].boxes[0], expected, atol=1e-4)
        is_turned = expected[0] != 100
        assert any("box is rotated" in repair and "(1 times)" in repair for repair in file.repairs) == is_turned
        assert file.images[0].labels.areas[0] == 900

    def test_the_area_is_that_of_the_rectangle(self) -> None:
        values = self.file(45)
        del values["annotations"][0]["area"]
        assert read(values).images[0].labels.areas[0] == 800

    def test_it_is_not_rotated_twice(self) -> None:
        back, _ = rewrite(self.file(90))
        assert back["annotations"][0]["bbox"] == [110, 90, 20, 40]
        assert back["annotations"][0]["attributes"] == {"rotation": 0, "k": 1}
        assert rewrite(back) == (back, 0)

    def test_a_rotation_of_another_tool_is_reported(self) -> None:
        file = read(self.file(0, rotation=30))
        assert file.repairs == ("annotation: has a rotation; its box is read as it is, upright (1 times)",)


class TestCommandLine:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "a.json").write_text(json.dumps(make_file(UUIDS[:2], ["u1", "u2", "u3"], ["dog", "cat"])))
        return tmp_path

    def test_round_trip(self, folder: Path) -> None:
        encoded = run("encode", folder / "a.json", "-o", folder / "a.jsonl", "--decode", "corner")
        assert (encoded.exit_code, encoded.exception) == (0, None)
        decoded = run("decode", folder / "a.jsonl", "-o", folder / "back.json", "--header", folder / "a.json")
        assert (decoded.exit_code, decoded.exception) == (0, None)
        assert json.loads((folder / "back.json").read_text()) == json.loads((folder / "a.json").read_text())
        assert run("decode", folder / "a.jsonl", "-o", folder / "plain.json").exit_code == 0
        plain = json.loads((folder / "plain.json").read_text())
        assert [entry["id"] for entry in plain["annotations"]] == ["u1", "u3", "u2"]
        scored = run("eval", folder / "a.jsonl", "--truth", folder / "a.json")
        assert (scored.exit_code, scored.exception) == (0, None)

    def test_gzip_of_any_name(self, folder: Path) -> None:
        packed = gzip.compress((folder / "a.json").read_bytes())
        (folder / "packed.json").write_bytes(packed)
        piped = run("encode", "-", "-o", folder / "a.jsonl", "--decode", "corner", stdin=packed)
        assert (piped.exit_code, piped.exception) == (0, None)
        records = gzip.compress((folder / "a.jsonl").read_bytes())
        (folder / "a.jsonl.gz").write_bytes(records)
        for words in (("decode", "-"), ("decode", folder / "a.jsonl.gz")):
            done = run(*words, "-o", "-", "--header", folder / "packed.json", stdin=records)
            assert json.loads(done.stdout) == json.loads((folder / "a.json").read_text())
        results = [{"image_id": UUIDS[0], "category_id": "dog", "bbox": [0, 2, 30, 40], "score": 1}]
        (folder / "r.json.gz").write_bytes(gzip.compress(json.dumps(results).encode()))
        done = run("encode", folder / "r.json.gz", "-o", folder / "r.jsonl", "--header", folder / "packed.json")
        assert (done.exit_code, done.exception) == (0, None)
        for truth in ("packed.json", "a.jsonl.gz"):
            done = run("eval", "-", "--truth", folder / truth, stdin=records)
            assert (done.exit_code, done.exception) == (0, None)

    @pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz"])
    def test_damaged_gzip(self, folder: Path, name: str) -> None:
        data = gzip.compress((folder / "a.json").read_bytes() * 20)
        (folder / name).write_bytes(data[: len(data) // 2])
        command = "encode" if name == "a.json.gz" else "decode"
        done = run(command, folder / name, "-o", folder / "out")
        assert isinstance(done.exception, AnnotationError)
        assert "is a damaged gzip file" in str(done.exception)
        assert not (folder / "out").exists()
