"""Images of answers that cannot be written: the answers are kept, the images reported, and a rerun writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import perceptok as pt
from perceptok.errors import OutputError
from perceptok.llava import FileQuestion, OutputFolders, answer_files


@pytest.fixture
def pipe(tiny_adapter: Path, tiny_llava: Path) -> pt.PerceptionPipeline:
    config = pt.llava.InferenceConfig(max_new_tokens=8)
    return pt.PerceptionPipeline.from_pretrained(tiny_adapter, base=tiny_llava, config=config)


@pytest.fixture
def questions(tmp_path: Path) -> list[FileQuestion]:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path in paths:
        Image.new("RGB", (20, 10), "red").save(path)
    return [FileQuestion((path,), "How many?", path.name) for path in paths]


def read_names(path: Path) -> list[str]:
    return [json.loads(line)["name"] for line in path.read_text().splitlines()]


def test_answers_are_kept(pipe: pt.PerceptionPipeline, questions: list[FileQuestion], tmp_path: Path) -> None:
    output, overlays = tmp_path / "out.jsonl", tmp_path / "overlays"
    (overlays / "b.png").mkdir(parents=True)  # no file can have this name
    folders = OutputFolders(overlay=overlays)
    (failure,) = answer_files(pipe, questions, output, folders=folders)
    assert failure.name == "b.png"
    assert "answered, but its images are not written" in failure.reason
    assert read_names(output) == ["a.png", "b.png", "c.png"]
    assert "unwritten" not in output.read_text()
    (overlays / "b.png").rmdir()
    asked: list[int] = []
    assert not answer_files(pipe, questions, output, folders=folders, advance=lambda: asked.append(1))
    assert sorted(path.name for path in overlays.iterdir()) == ["a.png", "b.png", "c.png"]
    assert read_names(output) == ["a.png", "b.png", "c.png"]
    assert not output.with_name("out.jsonl.partial").exists()
    with pytest.raises(OutputError, match="exists already"):
        answer_files(pipe, questions, output, folders=folders)


def test_answers_of_an_adapter_that_has_changed_are_not_mixed(
    pipe: pt.PerceptionPipeline, questions: list[FileQuestion], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_files(pipe, questions, output, advance=stop)
    assert output.with_name("out.jsonl.partial").exists()
    pipe.stamps = [[["adapter_model.safetensors", 1, 2]], []]
    with pytest.raises(OutputError, match="unfinished output of another run"):
        answer_files(pipe, questions, output)


def test_the_stamps_of_a_model_change_with_its_files(
    tiny_adapter: Path, tiny_llava: Path, pipe: pt.PerceptionPipeline, tmp_path: Path
) -> None:
    assert [len(stamps) > 3 for stamps in pipe.stamps] == [True, True]
    changed = Path(shutil.copytree(tiny_adapter, tmp_path / "adapter"))
    (changed / "adapter_config.json").write_bytes((changed / "adapter_config.json").read_bytes() + b"\n")
    again = pt.PerceptionPipeline.from_pretrained(changed, base=tiny_llava)
    assert again.stamps[0] != pipe.stamps[0]
    assert again.stamps[1] == pipe.stamps[1]
