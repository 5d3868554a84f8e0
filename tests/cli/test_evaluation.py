"""`perceptok eval` through its entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from perceptok.errors import PerceptokError
from perceptok_cli.main import app


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, words)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    questions, answers, first, second = "questions_3.jsonl", "answers_3.jsonl", "first.jsonl", "second.jsonl"
    lines: dict[str, list[dict[str, Any]]] = {questions: [], answers: [], first: [], second: []}
    (tmp_path / "images" / "3").mkdir(parents=True)
    for number in range(6):
        right = "ABC"[number % 3]
        lines[questions].append({"question_id": number, "image": f"{number}.png", "text": "Which is closest?"})
        lines[answers].append({"question_id": number, "text": f"({right})"})
        lines[first].append({"question_id": number, "text": f"The closest is {right}."})
        lines[second].append({"question_id": number, "text": "A" if number < 5 else "<DEPTH_START> no idea"})
        Image.new("RGB", (30, 30)).save(tmp_path / "images" / "3" / f"{number}.png")
    for name, rows in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_score(folder: Path) -> None:
    words = ["score", folder / "second.jsonl", "--benchmark", "hardblink-3", "--data", folder]
    done = run(*words, "-o", folder / "out")
    assert done.exit_code == 0, done.output
    assert "33.3" in done.stdout
    assert "AURORA" in done.stdout
    assert "not measured here" in done.stderr.replace("\n", " ")
    values = json.loads((folder / "out" / "scores.json").read_text())
    assert (values["overall"]["unparsed"], values["overall"]["invalid"]) == (1, 1)
    written = sorted(path.name for path in (folder / "out").iterdir())
    assert written == ["page.html", "scores.csv", "scores.json", "scores.md"]
    assert isinstance(run(*words, "-o", folder / "out").exception, PerceptokError)
    assert run(*words, "-o", folder / "out", "--force").exit_code == 0


def test_compare(folder: Path) -> None:
    words = ["--benchmark", "hardblink-3", "--data", folder]
    done = run("compare", folder / "first.jsonl", folder / "second.jsonl", *words)
    assert done.exit_code == 0, done.output
    assert "+66.7 points" in done.stdout
    assert "0.125" in done.stdout  # McNemar: four items of four


def test_refusals_are_one_line(folder: Path) -> None:
    lines = (folder / "first.jsonl").read_text().splitlines()
    (folder / "some.jsonl").write_text("\n".join(lines[:4]))
    command = [sys.executable, "-m", "perceptok_cli.main", "eval", "score", str(folder / "some.jsonl")]
    words = ["--benchmark", "hardblink-3", "--data", str(folder)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: 2 of 6 questions of hardblink-3 have no prediction")
    assert len(done.stderr.splitlines()) == 1
    assert run("score", folder / "some.jsonl", *words, "--missing").exit_code == 0


def test_a_damaged_image_leaves_its_neighbours(folder: Path) -> None:
    """Images are opened where a block is checked at their markers, and for the page."""
    words = ["score", folder / "second.jsonl", "--benchmark", "hardblink-3", "--data", folder]
    assert run(*words, "-o", folder / "whole").exit_code == 0
    (folder / "images" / "3" / "2.png").write_bytes(b"not an image")
    done = run(*words, "-o", folder / "out")
    assert done.exit_code == 0, done.output
    assert (folder / "out" / "scores.csv").read_text() == (folder / "whole" / "scores.csv").read_text()
    assert "not a readable image" in (folder / "out" / "page.html").read_text()


def test_a_specialist_reads_the_markers(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    real = shared / "data" / "hardblink"
    for name in ("questions_3.jsonl", "answers_3.jsonl"):
        lines = (real / name).read_text().splitlines()[:3]
        (tmp_path / name).write_text("\n".join(lines))
    words = [
        "--benchmark",
        "hardblink-3",
        "--data",
        tmp_path,
        "--images",
        real / "images" / "3",
        "-o",
        tmp_path / "out",
    ]
    done = run("specialist", shared / "models" / "tcmonodepth_small_192x320.onnx", *words)
    assert done.exit_code == 0, done.output
    assert "What the tokens lose" in done.stdout
    values = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (values["overall"]["items"], values["overall"]["unparsed"], values["overall"]["invalid"]) == (3, 0, 0)
    page = (tmp_path / "out" / "page.html").read_text()
    assert page.count('id="teacher-') == page.count('id="depth-') == 3


def test_tasks_for_lmms_eval(folder: Path) -> None:
    done = run("lmms-eval")
    assert done.exit_code == 0, done.output
    assert (Path(done.stdout.strip()) / "blink_depth.yaml").is_file()
    words = ["lmms-eval", "--benchmark", "hardblink-3", "--data", folder]
    done = run(*words, "-o", folder / "tasks")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(folder / "tasks")
    assert "perceptok_hardblink_3" in done.stderr
    written = sorted(path.name for path in (folder / "tasks").iterdir())
    assert written == ["perceptok_hardblink_3.parquet", "perceptok_hardblink_3.yaml"]
    assert isinstance(run(*words, "-o", folder / "tasks").exception, PerceptokError)
    assert run(*words).exit_code == 2
