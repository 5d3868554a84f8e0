"""`perceptok box` with rotated photos, lists of results, and byte order marks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from perceptok.errors import AnnotationError
from tests.cli.test_box import annotations, process, run

RESULTS = [
    {"image_id": 1, "category_id": 4, "bbox": [10, 20, 100, 50], "score": 0.9},
    {"image_id": 2, "category_id": 5, "bbox": [5, 5, 20, 30], "score": 0.5},
]


@pytest.fixture
def header(tmp_path: Path) -> Path:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(annotations()))
    return path


def written(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


class TestPhotosOnTheirSide:
    """Orientation 6: the stored image is shown a quarter turn clockwise."""

    def drawn(
        self, tmp_path: Path, stored: tuple[int, int], expected_size: tuple[int, int], *words: str
    ) -> tuple[Any, Any, str]:
        """The image that `draw` writes, the expected image without boxes, and what was noted."""
        width, height = expected_size
        values = annotations(
            images=[{"id": 1, "file_name": "a.png", "width": width, "height": height}],
            annotations=[{"id": 1, "image_id": 1, "category_id": 4, "bbox": [0, 0, width // 2, height // 2]}],
        )
        (tmp_path / "images").mkdir()
        image = Image.fromarray(np.random.default_rng(0).integers(0, 99, (stored[1], stored[0], 3), np.uint8))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "images" / "a.png", exif=exif)
        run("encode", written(tmp_path / "a.json", values), "-o", tmp_path / "a.jsonl")
        done = run("draw", tmp_path / "a.jsonl", "--images", tmp_path / "images", "-o", tmp_path / "drawn", *words)
        assert done.exit_code == 0, done.output
        with Image.open(tmp_path / "drawn" / "a.png") as result, Image.open(tmp_path / "images" / "a.png") as source:
            turned = (
                ImageOps.exif_transpose(source)
                if source.size != expected_size or stored[0] == stored[1]
                else source.copy()
            )
            assert result.size == turned.size == expected_size
            return np.asarray(result.convert("RGB")), np.asarray(turned.convert("RGB")), done.stderr

    @pytest.mark.parametrize(
        ("stored", "expected_size", "note"),
        [
            ((160, 120), (120, 160), "turned as its EXIF orientation says"),
            ((160, 120), (160, 120), "of the image as it is stored"),
            ((140, 140), (140, 140), "turned as its EXIF orientation says"),
        ],
    )
    def test_the_boxes_lie_where_the_file_means(
        self, tmp_path: Path, stored: tuple[int, int], expected_size: tuple[int, int], note: str
    ) -> None:
        result, plain, noted = self.drawn(tmp_path, stored, expected_size)
        assert note in " ".join(noted.split())
        # The far quarter is untouched, so the image is turned as it should be; the near one has the box on it.
        middle_y, middle_x = expected_size[1] // 2 + 8, expected_size[0] // 2 + 8
        np.testing.assert_array_equal(result[middle_y:, middle_x:], plain[middle_y:, middle_x:])
        assert (
            result[: expected_size[1] // 2, : expected_size[0] // 2]
            != plain[: expected_size[1] // 2, : expected_size[0] // 2]
        ).any()


class TestResults:
    def test_encode(self, tmp_path: Path, header: Path) -> None:
        results = written(tmp_path / "results.json", RESULTS)
        done = run("encode", results, "-o", tmp_path / "boxes.jsonl", "--header", header)
        assert done.exit_code == 0, done.output
        assert "2 boxes of 2 images" in done.stderr
        lines = [json.loads(line) for line in (tmp_path / "boxes.jsonl").read_text().splitlines()]
        assert [(line["name"], line["image_id"], line["scores"]) for line in lines] == [
            ("a.jpg", 1, [0.9]),
            ("sub/b.png", 2, [0.5]),
        ]
        # 10, 20, 110, 70 of 200 x 100 pixels in 336 bins.
        assert lines[0]["codes"] == [[16, 67, 184, 235]]
        assert lines[0]["categories"] == {"4": "cat"}
        piped = run("encode", "-", "-o", "-", "--header", header, stdin="\ufeff" + json.dumps(RESULTS, indent=1))
        assert piped.stdout == (tmp_path / "boxes.jsonl").read_text()

    def test_entries_that_are_wrong_cost_only_themselves(self, tmp_path: Path, header: Path) -> None:
        results = written(tmp_path / "results.json", [*RESULTS, {**RESULTS[0], "image_id": 99}, 7])
        done = run("encode", results, "-o", tmp_path / "boxes.jsonl", "--header", header)
        assert done.exit_code == 1
        assert "2 of 4 failed" in done.stderr
        errors = " ".join(done.stderr.split())
        assert "result 2: names image 99" in errors
        assert "result 3: expected an object" in errors
        assert len((tmp_path / "boxes.jsonl").read_text().splitlines()) == 2

    def test_without_the_sizes_and_with_a_header_too_many(self, tmp_path: Path, header: Path) -> None:
        results = written(tmp_path / "results.json", RESULTS)
        packed = tmp_path / "results.json.gz"
        packed.write_bytes(gzip.compress(results.read_bytes()))
        for path in (results, packed):
            error = run("encode", path, "-o", tmp_path / "boxes.jsonl").exception
            assert isinstance(error, AnnotationError)
            assert "perceptok box encode --header" in str(error)
        error = run("encode", header, "-o", tmp_path / "boxes.jsonl", "--header", header).exception
        assert isinstance(error, AnnotationError)
        assert "not a list of results" in str(error)
        assert not (tmp_path / "boxes.jsonl").exists()
        done = process("encode", results, "-o", "-")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1

    def test_eval(self, tmp_path: Path, header: Path) -> None:
        wrong = {**RESULTS[1], "category_id": 4}
        for name, results, hits, failed in (
            ("right", RESULTS, 2, 0),
            ("category", [RESULTS[0], wrong], 1, 0),
            ("image", [*RESULTS, {**RESULTS[0], "image_id": 99}], 2, 1),
        ):
            path = written(tmp_path / f"{name}.json", results)
            report = tmp_path / f"{name}.report.json"
            done = run("eval", path, "--truth", header, "-o", report)
            assert done.exit_code == failed, done.output
            values = json.loads(report.read_text())
            assert values["total"]["hits_75"] == hits, name
            assert len(values["failures"]) == failed
        piped = run("eval", "-", "--truth", header, stdin="\ufeff" + json.dumps(RESULTS))
        assert piped.exit_code == 0, piped.output


def test_a_byte_order_mark_on_standard_input(tmp_path: Path, header: Path) -> None:
    encoded = process("encode", "-", "-o", "-", stdin="\ufeff" + header.read_text())
    assert encoded.returncode == 0, encoded.stderr
    assert encoded.stdout == process("encode", header, "-o", "-").stdout
    decoded = process("decode", "-", "-o", "-", stdin="\ufeff" + encoded.stdout + "\n")
    assert decoded.returncode == 0, decoded.stderr
    assert len(json.loads(decoded.stdout)["annotations"]) == 3
    scored = process("eval", "-", "--truth", header, stdin="\ufeff" + encoded.stdout)
    assert scored.returncode == 0, scored.stderr
