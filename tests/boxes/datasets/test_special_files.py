"""Annotation files that are pipes, devices or compressed: an error at once, or read; never waited for."""

from __future__ import annotations

import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perceptok.boxes import read_annotations
from perceptok.errors import AnnotationError
from perceptok_cli.main import app

TINY = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
    "annotations": [{"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 40]}],
    "categories": [{"id": 3, "name": "dog"}],
}


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_devices(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(AnnotationError, match=r"cannot be read \(is a device, not a regular file\)"):
        read_annotations(tmp_path / name)
    done = CliRunner().invoke(app, ["box", "decode", str(tmp_path / name), "-o", str(tmp_path / "out.json")])
    assert "is a device, not a regular file" in str(done.exception)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_pipe_that_the_user_named(tmp_path: Path, compress: type[bytes]) -> None:
    path, data = tmp_path / "pipe", compress(json.dumps(TINY).encode())
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(path.write_bytes, data)
        (image,) = read_annotations(path).images
    assert (image.name, image.boxes.tolist()) == ("a.jpg", [[1, 2, 31, 42]])
