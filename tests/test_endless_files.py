"""Files that cost their author nothing and a reader all its memory or time: refused at once, by every reader."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import perceptok as pt
from perceptok.boxes import read_annotations
from perceptok.config import parse_yaml
from perceptok.data import PromptSet, read_records
from perceptok.data.npy_files import read_npy
from perceptok.data.sources import read_names
from perceptok.depth import find_maps, read_depth_records
from perceptok.errors import (
    ConfigError,
    DataError,
    DepthMapError,
    EvaluationError,
    ImageError,
    MalformedBlockError,
    PerceptokError,
    RecordError,
)
from perceptok.evaluation import read_predictions
from perceptok.files import MAX_LINE_BYTES, open_input, open_text
from perceptok.images import find_images, open_image
from perceptok.llava import find_questions
from tests.mutations import limit_call

LINES: dict[str, Callable[[Path], object]] = {
    "records": lambda path: list(read_records(path)),
    "depth records": lambda path: list(read_depth_records(path)),
    "predictions": read_predictions,
    "questions": lambda path: find_questions([path], question=""),
}


def make_sparse(path: Path, size: int = 2**36) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


@pytest.mark.parametrize("name", LINES)
def test_a_line_without_an_end(tmp_path: Path, name: str) -> None:
    """64 GB of NUL, which take no space on the disk."""
    path = make_sparse(tmp_path / "a.jsonl")
    with limit_call(seconds=60, megabytes=600), pytest.raises(PerceptokError, match="a line of more than"):
        LINES[name](path)


def test_lines_are_limited_in_text_and_in_gzip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perceptok.files.MAX_LINE_BYTES", 10)
    data = b"0123456789\n0123456789a\n"
    for name, content in (("a", data), ("b", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        with open_text(tmp_path / name) as file, pytest.raises(OSError, match="a line of more than the 10 bytes"):
            list(file)
    with open_input(tmp_path / "a") as file, pytest.raises(OSError, match="a line of more than the 10 bytes"):
        list(file)


def test_gzip_that_expands_too_much_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perceptok.files.MAX_BYTES", 2**20)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * 2**23))
    with pytest.raises(RecordError, match="holds more than 100 times its own bytes"):
        list(read_records(path))
    path.write_bytes(gzip.compress(os.urandom(2**21)))  # as large as it is
    with pytest.raises(RecordError, match="not valid JSON"):
        list(read_records(path))


@pytest.mark.parametrize("text", ['{"info": "', '{"images": ["', "[" + '["'])
def test_a_value_without_an_end(tmp_path: Path, text: str) -> None:
    path = make_sparse(tmp_path / "a.json")
    with path.open("r+b") as file:
        file.write(text.encode() + b"a" * (MAX_LINE_BYTES + 2**17))
    for read in (lambda: read_annotations(path), lambda: list(read_records(path))):
        with limit_call(seconds=60, megabytes=800), pytest.raises(PerceptokError):
            read()


def test_an_image_file_of_any_size(tmp_path: Path) -> None:
    path = make_sparse(tmp_path / "a.webp")
    with path.open("r+b") as file:
        file.write(b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WEBPVP8 ")
    with limit_call(megabytes=300), pytest.raises(ImageError, match="at most 1073741824 are read"):
        open_image(path)


def write_header(path: Path, shape: tuple[int, ...], dtype: str) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        file.write(bytes(64))
    return path


@pytest.mark.parametrize(("shape", "dtype"), [((10**12,), "<i8"), ((10**12,), "<U0"), ((2**40, 2**40), "|V0")])
def test_numpy_files_that_claim_more_than_they_have(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    path = write_header(tmp_path / "a.npy", shape, dtype)
    for read in (read_npy, read_names):
        with limit_call(megabytes=300), pytest.raises(DataError, match="not a NumPy file"):
            read(path)


def test_records_of_no_bytes(tmp_path: Path) -> None:
    """A billion rows without values, in a file of a kilobyte."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("name", "codes", "kind", "near", "far", "width", "height", "codec"):
            member = io.BytesIO()
            values = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 0)}
            np.lib.format.write_array_header_1_0(member, values)
            archive.writestr(f"{name}.npy", member.getvalue())
    with limit_call(megabytes=300), pytest.raises(MalformedBlockError, match="declares 1000000000 rows"):
        list(read_depth_records(path, []))


def test_parquet_files_of_too_many_rows_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": pa.nulls(3_000_000, pa.string())}), path)
    with pytest.raises(RecordError, match="declares 3000000 rows"):
        list(read_records(path))
    monkeypatch.setattr("perceptok.parquet._MAX_FILE_BYTES", 2**22)
    lists = pa.array([["x" * 100_000]] * 1000)  # nested, so that the dictionary is expanded
    pq.write_table(pa.table({"images": lists}), path, compression="zstd")
    assert path.stat().st_size < 2**18
    with pytest.raises(RecordError, match="its values take more than"):
        list(pt.data.read_records(path))


def test_links_that_lead_to_a_folder_again_and_again(tmp_path: Path) -> None:
    """Two links in each of forty folders: a trillion paths."""
    for number in range(40):
        (tmp_path / f"{number:02d}").mkdir()
    for number in range(39):
        for link in "ab":
            (tmp_path / f"{number:02d}" / link).symlink_to(tmp_path / f"{number + 1:02d}")
    for find, error in ((find_images, ImageError), (lambda folder: find_maps([folder]), DepthMapError)):
        with limit_call(), pytest.raises(error, match="links lead to it more than 100 times"):
            find(tmp_path / "00")


def test_a_link_to_itself_is_not_a_file(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "c").symlink_to(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert find_images(tmp_path) == ["a.png"]
    assert [file.name for file in find_maps([tmp_path])] == ["a.png"]


@pytest.mark.parametrize("text", ["a: " + "1:" * 100_000 + "1", "a: " + "1" * 5000, "a: 0x" + "f" * 100_000])
def test_numbers_of_yaml_are_short(text: str) -> None:
    with pytest.raises(ConfigError, match="a number of"):
        parse_yaml(text, "here")


def test_ratios_of_lists_are_floats(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    for scale in ("1e999999999", "1/1e-999999999", "1/0", "x"):
        path.write_text(f"file,kind,metres_per_value\na.png,metric,{scale}\n")
        with limit_call(), pytest.raises(DepthMapError):
            find_maps([path])[0].read()
    path.write_text("file,kind,metres_per_value\na.png,metric,1/5000\n")
    assert find_maps([path])[0].options.scale == 1 / 5000


@pytest.mark.parametrize("text", ["How many {plural:>999999999} are there?", "How many {plural!r} are there?"])
def test_templates_have_no_formats(text: str) -> None:
    with pytest.raises(ConfigError, match="the variable plural has a format"):
        PromptSet.from_name("aurora", {"count_question": text})


def test_names_of_categories_are_short() -> None:
    with limit_call(), pytest.raises(DataError, match="has 100000 characters"):
        pt.data.Plurals().pluralize("a" * 100_000)


def test_an_error_of_a_line_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"a\.jsonl: cannot be read \(has a line of more than"):
        read_predictions(make_sparse(tmp_path / "a.jsonl"))
