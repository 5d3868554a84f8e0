"""`perceptok box`: results, exit codes, streams, bad files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from perceptok.errors import AnnotationError, OutputError, PerceptokError
from perceptok_cli.main import app


def run(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["box", *(str(word) for word in words)], input=stdin)


def process(*words: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perceptok_cli.main", "box", *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=stdin)


def annotations(**changes: Any) -> dict[str, Any]:
    return {
        "info": {"year": 2017},
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100},
            {"id": 2, "file_name": "sub/b.png", "width": 50, "height": 60},
        ],
        "annotations": [
            {
                "id": 7,
                "image_id": 1,
                "category_id": 4,
                "bbox": [10, 20, 100, 50],
                "area": 4000.0,
                "iscrowd": 0,
                "segmentation": [[10, 20, 110, 20, 110, 70]],
            },
            {"id": 8, "image_id": 1, "category_id": 5, "bbox": [0, 0, 200, 100], "area": 20000.0, "iscrowd": 1},
            {"id": 9, "image_id": 2, "category_id": 5, "bbox": [5, 5, 20, 30], "area": 600.0, "iscrowd": 0},
        ],
        "categories": [{"id": 4, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 6, "name": "cow"}],
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "instances.json").write_text(json.dumps(annotations()))
    (tmp_path / "images" / "sub").mkdir(parents=True)
    Image.new("RGB", (200, 100), "grey").save(tmp_path / "images" / "a.jpg")
    Image.new("L", (50, 60), 99).save(tmp_path / "images" / "sub" / "b.png")
    return tmp_path


@pytest.fixture
def records(folder: Path) -> Path:
    done = run("encode", folder / "instances.json", "-o", folder / "boxes.jsonl")
    assert done.exit_code == 0, done.output
    assert "3 boxes of 2 images" in done.stderr
    return folder / "boxes.jsonl"


def boxes_of(file: dict[str, Any]) -> np.ndarray:
    return np.array([entry["bbox"] for entry in file["annotations"]], dtype=np.float64)


def test_encode_and_decode_round_trip(folder: Path, records: Path) -> None:
    done = run("decode", records, "-o", folder / "back.json", "--header", folder / "instances.json")
    assert done.exit_code == 0, done.output
    back, true = json.loads((folder / "back.json").read_text()), annotations()
    assert back["categories"] == true["categories"]
    assert back["info"] == true["info"]
    assert back["images"] == true["images"]
    without_boxes = [[{**entry, "bbox": 0} for entry in file["annotations"]] for file in (back, true)]
    assert without_boxes[0] == without_boxes[1]
    # Two edges of half a bin of 200 / 336 pixels make a length.
    np.testing.assert_allclose(boxes_of(back), boxes_of(true), atol=200 / 336)
    first = records.read_text().splitlines()[0]
    done = run("decode", "-", "-o", folder / "first.json", "--header", folder / "instances.json", stdin=first)
    assert "2 boxes of 1 images" in done.stderr
    assert "1 annotations of" in done.stderr
    run("decode", records, "-o", folder / "plain.json")
    assert json.loads((folder / "plain.json").read_text())["categories"] == true["categories"][:2]


def test_options_reach_the_codec(folder: Path) -> None:
    words = ["--frame", "letterbox", "--size", 1000, "--order", "yxyx", "--decode", "corner", "--text", "compact"]
    done = run("encode", folder / "instances.json", "-o", "-", *words)
    assert done.exit_code == 0, done.output
    first = json.loads(done.stdout.splitlines()[0])
    assert first["frame"]["mode"] == "letterbox"
    assert (first["codec"]["size"], first["codec"]["order"], first["codec"]["decode"]) == (1000, "yxyx", "corner")
    # y first: 20 * 5 + 250 of padding.
    assert first["text"].startswith("<PIXEL_350><PIXEL_50><PIXEL_600><PIXEL_550>")


def test_standard_input_and_output(folder: Path) -> None:
    encoded = run("encode", "-", "-o", "-", stdin=json.dumps(annotations()))
    assert encoded.exit_code == 0, encoded.output
    assert [json.loads(line)["name"] for line in encoded.stdout.splitlines()] == ["a.jpg", "sub/b.png"]
    decoded = run("decode", "-", "-o", "-", stdin=encoded.stdout)
    assert decoded.exit_code == 0, decoded.output
    assert len(json.loads(decoded.stdout)["annotations"]) == 3
    scored = run("eval", "-", "--truth", folder / "instances.json", stdin=encoded.stdout)
    assert scored.exit_code == 0, scored.output
    drawn = run("draw", "-", "--images", folder / "images", "-o", folder / "drawn", stdin=encoded.stdout)
    assert drawn.exit_code == 0, drawn.output


def test_bad_annotations_do_not_affect_others(folder: Path) -> None:
    values = annotations()
    box = values["annotations"][0]
    values["annotations"] += [
        {**box, "id": 10, "bbox": [1, 2, float("nan"), 4]},
        {**box, "id": 11, "image_id": 99},
        {**box, "id": 7},
        {**box, "id": 12, "bbox": [500, 500, 10, 10]},
        {**box, "id": 13, "bbox": [1, 2, -3, 4]},
        {**box, "id": 14, "bbox": [1, 2, 5, 6]},
        {**box, "id": 15},
    ]
    (folder / "bad.json").write_text(json.dumps(values))
    done = process("encode", folder / "bad.json", "-o", folder / "boxes.jsonl")
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "5 of 9 failed; the others are done" in done.stderr
    assert "its box repeats another of its image and category exactly; left out (1 times)" in done.stderr
    for name in (
        "annotation 10: ",
        "annotation 11: names image 99",
        "annotation 7: ",
        "a.jpg, annotation 12: ",
        "annotation 13: ",
    ):
        assert f"  {name}" in done.stderr
    lines = [json.loads(line) for line in (folder / "boxes.jsonl").read_text().splitlines()]
    assert [line["annotation_ids"] for line in lines] == [[7, 8, 14], [9]]


def test_dropped_boxes_are_counted(folder: Path) -> None:
    values = annotations()
    values["annotations"][2]["bbox"] = [5, 5, 0, 30]
    (folder / "flat.json").write_text(json.dumps(values))
    done = run("encode", folder / "flat.json", "-o", folder / "flat.jsonl", "--degenerate", "drop")
    assert done.exit_code == 0
    assert "2 boxes of 2 images" in done.stderr
    assert "1 dropped" in done.stderr
    done = run("encode", folder / "flat.json", "-o", "-", "--degenerate", "raise")
    assert done.exit_code == 1
    assert "sub/b.png, annotation 9: " in done.stderr


def test_bad_records_do_not_affect_others(folder: Path, records: Path) -> None:
    good = records.read_text().splitlines()
    records.write_text("\n".join([good[0], "{", "", good[1]]))
    done = run("decode", records, "-o", folder / "back.json")
    assert done.exit_code == 1
    assert "2 of 4 failed" in done.stderr
    assert "boxes.jsonl, line 2: not a record" in done.stderr.replace("\n", "")
    assert len(json.loads((folder / "back.json").read_text())["annotations"]) == 3


def test_draw(folder: Path, records: Path) -> None:
    done = run("draw", records, "--images", folder / "images", "-o", folder / "drawn")
    assert done.exit_code == 0, done.output
    with Image.open(folder / "drawn" / "a.png") as image:
        assert image.size == (200, 100)
        assert np.ptp(np.asarray(image)) > 0
    assert (folder / "drawn" / "sub" / "b.png").exists()
    # A file that is there is kept, and replaced with --force.
    (folder / "drawn" / "a.png").write_bytes(b"mine")
    run("draw", records, "--images", folder / "images", "-o", folder / "drawn")
    assert (folder / "drawn" / "a.png").read_bytes() == b"mine"
    done = run("draw", records, "--images", folder / "images", "-o", folder / "drawn", "--framed", "--force")
    assert done.exit_code == 0, done.output
    with Image.open(folder / "drawn" / "a.png") as image:
        assert image.size == (336, 336)


def test_unreadable_images_do_not_affect_others(folder: Path, records: Path) -> None:
    (folder / "images" / "a.jpg").write_bytes(b"\xff\xd8 no image")
    lines = records.read_text().splitlines()
    extra = [lines[1].replace("sub/b.png", name) for name in ("none.png", "../../outside.png", "sub/b.jpg")]
    Image.new("L", (51, 60)).save(folder / "images" / "sub" / "c.png")
    extra.append(lines[1].replace("sub/b.png", "sub/c.png"))
    records.write_text("\n".join([*lines, *extra]))
    done = run("draw", records, "--images", folder / "images", "-o", folder / "drawn")
    assert done.exit_code == 1
    errors = done.stderr.replace("\n", " ")
    assert "5 of 6 failed" in errors
    for reason in (
        "not a readable image",
        "image file not found",
        "is not a file inside",
        "already drawn",
        "this one has 51 x 60",
    ):
        assert reason in errors, reason
    assert [path.name for path in sorted((folder / "drawn").rglob("*.png"))] == ["b.png"]
    assert not (folder.parent / "outside.png").exists()


def test_eval(folder: Path, records: Path) -> None:
    done = run("eval", records, "--truth", folder / "instances.json", "-o", folder / "report.json")
    assert done.exit_code == 0, done.output
    report = json.loads((folder / "report.json").read_text())
    assert report["total"]["true"] == report["total"]["predicted"] == report["total"]["hits_75"] == 2
    assert report["crowds"] == 1
    assert "1 crowds left out" in done.stderr
    assert f"{report['total']['mean_iou']:.3f}" in done.stdout
    assert isinstance(run("eval", records, "--truth", records, "-o", folder / "report.json").exception, OutputError)
    answers = [
        {
            "name": "a.jpg",
            "text": "a cat at (<PIXEL_17>,<PIXEL_67>,<PIXEL_184>,<PIXEL_235>) and (<PIXEL_1>)",
            "label": "cat",
        },
        {"name": "nowhere.jpg", "text": ""},
        {"name": "sub/b.png"},
    ]
    lines = "\n".join(map(json.dumps, answers))
    done = run("eval", "-", "--truth", records, "-o", folder / "report.json", "--force", stdin=lines)
    assert done.exit_code == 1
    assert "2 of 3 failed" in done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert (report["total"]["invalid"], report["total"]["total"], report["total"]["hits_75"]) == (1, 2, 1)
    assert len(report["failures"]) == 2
    twice = folder / "twice.jsonl"
    twice.write_text(records.read_text() * 2)
    done = run("eval", records, "--truth", twice)
    assert done.exit_code == 1
    assert "a.jpg: repeated in" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found the end of the file"),
        (json.dumps(annotations())[:300].encode(), "at character"),
        (
            json.dumps({key: value for key, value in annotations().items() if key != "images"}).encode(),
            "has no list images",
        ),
        (b"\xff\xfe{", "not UTF-8"),
    ],
)
def test_invalid_annotation_files_are_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "bad.json").write_bytes(content)
    error = run("encode", folder / "bad.json", "-o", folder / "x.jsonl").exception
    assert isinstance(error, AnnotationError)
    assert message in str(error)
    assert not (folder / "x.jsonl").exists()


def test_refusals_are_one_line_and_exit_code_2(folder: Path, records: Path) -> None:
    done = process("encode", folder / "none.json", "-o", "x.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    for words, message in (
        (["decode", folder / "none.jsonl", "-o", folder / "x.json"], "cannot be read"),
        (["eval", records, "--truth", folder / "none.json"], "cannot be read"),
        (["decode", records, "-o", folder / "no" / "x.json"], "does not exist"),
    ):
        error = run(*words).exception
        assert isinstance(error, PerceptokError)
        assert message in str(error)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(folder: Path, records: Path) -> None:
    for words in (["encode", folder / "instances.json"], ["decode", records]):
        command = [sys.executable, "-m", "perceptok_cli.main", "box", *map(str, words), "-o", "-"]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == "error: cannot write standard output: No space left on device\n"


def test_invalid_folders_are_refused(folder: Path, records: Path) -> None:
    for images, output in ((folder / "none", folder / "drawn"), (folder / "images", records)):
        done = run("draw", records, "--images", images, "-o", output)
        assert done.exit_code == 2
        assert "Invalid value" in done.stderr


def test_existing_outputs_are_kept(folder: Path, records: Path) -> None:
    before = records.read_bytes()
    assert isinstance(run("encode", folder / "instances.json", "-o", records).exception, PerceptokError)
    assert records.read_bytes() == before
    done = run("encode", folder / "instances.json", "-o", records, "--force", "--size", 100)
    assert done.exit_code == 0
    assert json.loads(records.read_text().splitlines()[0])["codec"]["size"] == 100


def test_the_same_annotations_give_the_same_bytes(folder: Path, records: Path) -> None:
    run("encode", folder / "instances.json", "-o", folder / "again.jsonl")
    assert (folder / "again.jsonl").read_bytes() == records.read_bytes()
    for name in ("one.json", "two.json"):
        run("decode", records, "-o", folder / name)
    assert (folder / "one.json").read_bytes() == (folder / "two.json").read_bytes()


def test_real_files_through_the_command(shared: Path, tmp_path: Path) -> None:
    for which in ("coco/instances.json", "counting/lvis_val_100.json"):
        path = shared / "data" / which
        done = run("encode", path, "-o", tmp_path / "b.jsonl", "--force")
        assert done.exit_code == 0, done.output
        done = run("decode", tmp_path / "b.jsonl", "-o", tmp_path / "b.json", "--header", path, "--force")
        assert done.exit_code == 0, done.output
        back, true = json.loads((tmp_path / "b.json").read_text()), json.loads(path.read_text())
        assert {entry["id"] for entry in back["annotations"]} == {entry["id"] for entry in true["annotations"]}
        assert len(back["images"]) == len(true["images"])
