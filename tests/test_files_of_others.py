"""Files of others are never replaced or changed: not by --force, not through links, not where they have our names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

import perceptok as pt
from perceptok.data import DataRecipe, build_data
from perceptok.errors import OutputError
from perceptok.files import append_text, atomic_folder
from perceptok.jobs import Journal
from perceptok.llava import FileQuestion, OutputFolders
from perceptok.locks import find_hidden_path, lock_output
from tests.test_files import limit_file_size

RECIPE = {
    "sources": {"s": {"scenes": 8}},
    "sets": [{"name": "a", "source": "s", "task": "counting", "regime": "direct", "count": 1}],
}


def write_output(path: Path, **options: object) -> None:
    with atomic_folder(path, force=True, marker="m", **options) as folder:  # type: ignore[arg-type]
        (folder / "m").write_text("new")


@pytest.mark.parametrize("name", ["notes.txt", "other/m", "other/deep/model.bin"])
def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path, name: str) -> None:
    target = tmp_path / "out"
    write_output(target, patterns=["m", "*.bin"])
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name} is not a file of such an output, and would be lost"):
        write_output(target, patterns=["m", "*.bin"])
    assert (target / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_inputs_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_output(target)
    (tmp_path / "link").symlink_to(target)
    (target / "input").mkdir()
    for name in (target, target / "input", tmp_path / "link", str(target / ".." / "out")):
        with pytest.raises(OutputError, match="would be lost; choose another path"):
            write_output(target, inputs=["owner/name", name])
    write_output(target, inputs=["owner/name", tmp_path, tmp_path / "missing"])


@pytest.mark.parametrize("content", [b"mine", b"", b'{"a": 1}', b'{"a": 1}\n{"b": 2}\n', b"\x00" * 9, b"a\nb\n"])
def test_files_with_the_name_of_a_journal(tmp_path: Path, content: bytes) -> None:
    """Browsers and download tools call their unfinished files the same."""
    path = tmp_path / "a.jsonl.partial"
    path.write_bytes(content)
    for start_over in (False, True):
        if not content:
            continue  # an empty file loses nothing
        with (
            pytest.raises(OutputError, match="is not an unfinished output; move it"),
            Journal[dict[str, int]](tmp_path / "a.jsonl", {"run": 1}, start_over=start_over),
        ):
            pytest.fail("must not be reached")
        assert path.read_bytes() == content
    path.unlink()
    with Journal[dict[str, int]](tmp_path / "a.jsonl", {"run": 1}) as journal:
        journal.add(0, {"x": 1})
    with Journal[dict[str, int]](tmp_path / "a.jsonl", {"run": 2}, start_over=True) as journal:
        assert len(journal) == 0


def test_hard_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.link(victim, tmp_path / "a.jsonl.partial")
    os.link(victim, tmp_path / ".perceptok.lock")
    os.link(victim, tmp_path / "log.jsonl")
    with pytest.raises(OutputError, match="other names"), Journal[object](tmp_path / "a.jsonl", {}, start_over=True):
        pytest.fail("must not be reached")
    with pytest.raises(OutputError, match="is a link to another file"), lock_output(tmp_path):
        pytest.fail("must not be reached")
    with pytest.raises(OutputError, match="other names"):
        append_text(tmp_path / "log.jsonl", "line\n")
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").symlink_to(victim)
    with pytest.raises(OutputError, match="cannot write"):
        append_text(tmp_path / "log.jsonl", "line\n")
    assert victim.read_text() == "precious"


def test_a_log_on_a_full_disk_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_text(path, "a" * 100 + "\n")
    with limit_file_size(150), pytest.raises(OutputError, match=r"cannot write .*free space"):
        append_text(path, "b" * 100 + "\n")
    append_text(path, "c\n")
    assert path.read_text() == "a" * 100 + "\nc\n"


def test_hidden_names_of_others_stay(tmp_path: Path) -> None:
    for name in (".out.tmp", ".out.previous"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    write_output(tmp_path / "out")
    write_output(tmp_path / "out")
    assert (tmp_path / ".out.tmp" / "mine").exists()
    assert (tmp_path / ".out.previous" / "mine").exists()
    assert not find_hidden_path(tmp_path / "out", "previous").exists()


@pytest.mark.parametrize("name", ["records.jsonl", "rejected.jsonl", "images/a/000000.jpg", "records_llava.json"])
def test_a_folder_that_is_not_a_data_set(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match="is not a data set"):
            build_data(DataRecipe.from_dict(RECIPE), tmp_path / "out", force=force)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["images", "images/a"])
def test_images_are_not_written_through_links(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (outside / "a").mkdir(parents=True)
    for path in (outside / "000000.jpg", outside / "a" / "000000.jpg"):
        path.write_text("mine")
    link = tmp_path / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(OutputError, match=r"symbolic link|is not a data set"):
        build_data(DataRecipe.from_dict(RECIPE), tmp_path / "out", force=True)
    assert {path.read_text() for path in outside.rglob("*.jpg")} == {"mine"}


def test_images_that_are_asked_about_are_not_replaced(tmp_path: Path) -> None:
    photos, other = tmp_path / "photos", tmp_path / "other"
    other.mkdir()
    photos.mkdir()
    Image.new("RGB", (4, 4)).save(photos / "a.png")
    questions = [FileQuestion((photos / "a.png",), "How many?", "a.png")]
    for folders in (
        OutputFolders(depth=photos),
        OutputFolders(overlay=photos),
        OutputFolders(overlay=other / ".." / "photos"),
    ):
        with pytest.raises(OutputError, match="is an image that is asked about"):
            folders.check(questions, replace=True)
    OutputFolders(depth=other, overlay=tmp_path / "new").check(questions, replace=False)
    (other / "a.png").touch()
    with pytest.raises(OutputError, match="exists already"):
        OutputFolders(overlay=other).check(questions, replace=False)
    OutputFolders(overlay=other).check(questions, replace=True)
    with pytest.raises(OutputError, match="choose two folders"):
        OutputFolders(depth=other, overlay=other).check(questions, replace=True)


def test_boxes_are_not_drawn_over_their_images(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    image = pt.boxes.ImageBoxes("a.png", 40, 30, [[1, 2, 20, 20]], pt.boxes.BoxLabels())  # type: ignore[arg-type]
    record = pt.boxes.BoxRecord.from_boxes(image, pt.BoxCodec())
    report = pt.boxes.draw_records([record], tmp_path, tmp_path, force=True)
    assert "is the image that is drawn on" in report.failures[0].reason
    assert (tmp_path / "a.png").read_bytes() == before
