"""`perceptok llava infer`: printed and written answers, settings, refused arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import perceptok as pt
from perceptok_cli.main import app
from tests.llava.answering import make_image
from tests.llava.conftest import codec, tiny_adapter, tiny_llava

__all__ = ["codec", "tiny_adapter", "tiny_llava"]


def run(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["llava", "infer", *(str(word) for word in words)], input=stdin)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(3):
        make_image(30, 20, number).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


def test_an_adapter_answers_a_folder(tiny_adapter: Path, images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"not an image")
    options = ["-q", "What is the depth map?", "--force-block", "first", "--max-new-tokens", "104"]
    folders = [
        "--save-depth",
        tmp_path / "depth",
        "--save-overlay",
        tmp_path / "overlays",
        "--html",
        tmp_path / "p.html",
    ]
    done = run(tiny_adapter, images, "-o", tmp_path / "out.jsonl", *options, *folders)
    assert done.exit_code == 1, done.output
    assert "1 of 4 failed; the others are done" in done.stderr
    assert "broken.png: " in done.stderr
    assert done.stdout == ""
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["0.png", "1.png", "2.png"]
    assert all(len(line["codes"]) == 100 for line in lines)
    assert sorted(path.name for path in (tmp_path / "depth").iterdir()) == ["0.png", "1.png", "2.png"]
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == ["0.png", "1.png", "2.png"]
    page = (tmp_path / "p.html").read_text()
    assert page.count('id="depth-') == page.count('id="image-') == 3
    again = run(tiny_adapter, images, "-o", tmp_path / "out.jsonl", *options)
    assert isinstance(again.exception, pt.errors.OutputError)


def test_an_image_a_line_and_standard_input(tiny_adapter: Path, images: Path) -> None:
    done = run(tiny_adapter, images / "0.png", "-q", "Why?", "--max-new-tokens", "5")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("0.png: ")
    request = json.dumps({"image": str(images / "1.png"), "question": "How many?"})
    done = run(tiny_adapter, "-", "-o", "-", "--max-new-tokens", "5", stdin=request)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["question"] == "How many?"


def test_settings_of_a_file_and_options(tiny_adapter: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "infer.yaml").write_text("max_new_tokens: 3\nconstraints: false\n")
    done = run(tiny_adapter, images / "0.png", "-q", "Why?", "-o", "-", "--config", tmp_path / "infer.yaml")
    values = json.loads(done.stdout)
    assert values["tokens"] <= 3
    assert not values["constrained"]
    done = run(
        tiny_adapter, images / "0.png", "-q", "Why?", "-o", "-", "--config", tmp_path / "infer.yaml", "--constraints"
    )
    assert json.loads(done.stdout)["constrained"]


def test_refusals_are_one_line_and_exit_code_2(tiny_adapter: Path, tiny_llava: Path, images: Path) -> None:
    for words, message in (
        ([tiny_llava, images, "-q", "Why?"], "was not trained on perception tokens"),
        ([tiny_adapter, images], "no question about this input; give one (--question)"),
        ([tiny_adapter, images, "-q", "Why?", "-o", "out.csv"], "answers are written to .jsonl"),
    ):
        command = [sys.executable, "-m", "perceptok_cli.main", "llava", "infer", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert message in last
        assert "Traceback" not in done.stderr


def test_questions_as_in_training(tiny_adapter: Path, images: Path, tmp_path: Path) -> None:
    def ask(*options: str) -> list[dict[str, object]]:
        done = run(tiny_adapter, images, "-o", tmp_path / "out.jsonl", "--max-new-tokens", 3, "--force", *options)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    assert {answer["question"] for answer in ask("--ask", "depth")} == {"What is the depth map for the image?"}
    answers = ask("--ask", "boxes", "--plural", "dogs")
    assert {answer["question"] for answer in answers} == {pt.llava.build_question(ask="boxes", plural="dogs")}
    answers = ask("--ask", "cot", "-q", "How many dogs are in the image?")
    assert {answer["question"] for answer in answers} == {pt.llava.build_question(ask="cot", plural="dogs")}
    (tmp_path / "in.jsonl").write_text(json.dumps({"image": "in/0.png", "plural": "cats", "choices": ["1", "2"]}))
    done = run(tiny_adapter, tmp_path / "in.jsonl", "-o", "-", "--ask", "direct", "--max-new-tokens", 3)
    assert json.loads(done.stdout)["question"] == pt.llava.build_question(ask="direct", plural="cats")


def test_questions_that_cannot_be_built(tiny_adapter: Path, images: Path, tmp_path: Path) -> None:
    done = run(tiny_adapter, images, "-o", tmp_path / "out.jsonl", "--ask", "boxes")
    assert done.exit_code == 1
    assert "3 of 3 failed" in done.stderr
    assert "does not say what is counted" in done.stderr
    assert run(tiny_adapter, images, "--ask", "loud").exit_code == 2
    (tmp_path / "settings.yaml").write_text("ask: depth\nmax_new_tokens: 3\n")
    done = run(tiny_adapter, images / "0.png", "-o", "-", "--config", tmp_path / "settings.yaml")
    assert json.loads(done.stdout)["question"] == "What is the depth map for the image?"
