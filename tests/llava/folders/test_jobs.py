"""Many questions: their images, interruptions, and bad images that fail alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import perceptok as pt
from perceptok.errors import OutputError
from perceptok.llava import FileQuestion, OutputFolders, PerceptionPipeline, answer_files, find_questions
from perceptok.llava.inference.batch import assign_file_names
from tests.llava.answering import leaning_pipeline, make_image


@pytest.fixture(scope="module")
def pipe(tiny_llava: Path, codec: pt.DepthCodec) -> PerceptionPipeline:
    found = leaning_pipeline(tiny_llava, codec)
    found.config = pt.llava.InferenceConfig(max_new_tokens=104, batch_size=2, force_block="first")
    return found


@pytest.fixture
def asked(tmp_path: Path) -> list[FileQuestion]:
    (tmp_path / "in").mkdir()
    for number in range(4):
        make_image(30, 20, number).save(tmp_path / "in" / f"{number}.png")
    return find_questions([tmp_path / "in"], question="What is the depth map?")[0]


def test_lines_depth_maps_and_overlays(pipe: PerceptionPipeline, asked: list[FileQuestion], tmp_path: Path) -> None:
    where = OutputFolders(depth=tmp_path / "depth", overlay=tmp_path / "seen")
    assert answer_files(pipe, asked, tmp_path / "out.jsonl", folders=where) == []
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["0.png", "1.png", "2.png", "3.png"]
    for line in lines:
        assert len(line["codes"]) == 100
        assert pt.DepthMap.read(line["depth"], kind="inverse").values.shape == (20, 30)
        assert Path(line["overlay"]).is_file()
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_an_interrupted_run_goes_on(
    pipe: PerceptionPipeline, asked: list[FileQuestion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.jsonl"
    answer_files(pipe, asked, whole)
    done = 0

    def interrupted() -> None:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_files(pipe, asked, tmp_path / "out.jsonl", advance=interrupted)
    partial = tmp_path / "out.jsonl.partial"
    assert len(partial.read_text().splitlines()) == 4
    with partial.open("a") as file:
        file.write('{"name": "half a li')  # what a kill leaves
    make_image(31, 20).save(asked[0].images[0])  # changed since: its answer is not the one in the file any more
    calls: list[int] = []
    generate = pipe.model.generate
    monkeypatch.setattr(
        pipe.model, "generate", lambda *args, **given: calls.append(len(given["input_ids"])) or generate(*args, **given)
    )
    answer_files(pipe, asked, tmp_path / "out.jsonl")
    assert calls == [2]
    new, old = ((tmp_path / "out.jsonl").read_text().splitlines(), whole.read_text().splitlines())
    assert new[1:] == old[1:]
    assert json.loads(new[0])["image_size"] == [31, 20]


def test_another_run_does_not_go_on_from_it(
    pipe: PerceptionPipeline, asked: list[FileQuestion], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.partial").write_text('{"model": "another"}\n')
    with pytest.raises(OutputError, match="the unfinished output of another run"):
        answer_files(pipe, asked, output)
    output.write_text("there")
    (tmp_path / "out.jsonl.partial").unlink()
    with pytest.raises(OutputError, match="exists already"):
        answer_files(pipe, asked, output)
    with pytest.raises(OutputError, match=r"written to \.jsonl"):
        answer_files(pipe, asked, tmp_path / "out.txt")


def test_bad_images_cost_only_themselves(pipe: PerceptionPipeline, asked: list[FileQuestion], tmp_path: Path) -> None:
    asked[1].images[0].write_bytes(b"no image")
    asked[2].images[0].unlink()
    more = [
        *asked,
        FileQuestion(asked[0].images, "<image><image>", "two"),
        FileQuestion(asked[0].images, "Why?", "last"),
    ]
    failures = answer_files(pipe, more, tmp_path / "out.jsonl")
    assert [failure.name for failure in failures] == ["1.png", "2.png", "two"]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["0.png", "3.png", "last"]


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../b.png", "null\0.png", "x" * 300 + ".png"])
def test_names_that_lead_elsewhere(
    pipe: PerceptionPipeline, asked: list[FileQuestion], tmp_path: Path, name: str
) -> None:
    bad = FileQuestion(asked[0].images, "Why?", name)
    failures = answer_files(pipe, [bad], tmp_path / "out.jsonl", folders=OutputFolders(overlay=tmp_path / "seen"))
    assert [failure.name for failure in failures] == [name]
    assert not list(tmp_path.rglob("out.png")) + list(tmp_path.rglob("b.png"))


def test_hostile_names_stay_one_line_each(pipe: PerceptionPipeline, asked: list[FileQuestion], tmp_path: Path) -> None:
    names = ["a\nb.png", '"}{.png', "\x1b[2J.png", "\u2028.png", "é😀.png", "-rf.png"]
    more = [FileQuestion(asked[0].images, "Why? \n \x00 \u2028", name) for name in names]
    assert answer_files(pipe, more, tmp_path / "o.jsonl", folders=OutputFolders(overlay=tmp_path / "seen")) == []
    lines = (tmp_path / "o.jsonl").read_bytes().split(b"\n")[:-1]
    assert [json.loads(line)["name"] for line in lines] == names
    assert all(line.isascii() for line in lines)
    assert len(list((tmp_path / "seen").iterdir())) == len(names)


def test_names_of_pictures_never_meet() -> None:
    asked = [FileQuestion((Path(),), "?", name) for name in ("a.png", "b.png", "b.jpg", "c/b.png", "d")]
    assert assign_file_names(asked) == {"a.png": "a", "b.png": "b.png", "b.jpg": "b.jpg", "c/b.png": "c/b", "d": "d"}
