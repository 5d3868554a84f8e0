"""`perceptok data` through its real entry point."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from perceptok_cli.main import app, run_command

RECIPE = {
    "size": 64,
    "sources": {"world": {"scenes": 12}},
    "sets": [
        {"name": "depth", "source": "world", "task": "depth", "regime": "cot", "count": 2, "markers": [2]},
        {"name": "count", "source": "world", "task": "counting", "regime": "cot", "count": 2},
    ],
}


def run_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perceptok_cli.main", "data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, as the entry point does: errors become exit code 2."""
    words = ["data", *map(str, arguments)]
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        code = run_command(lambda: app(words))
    return subprocess.CompletedProcess(words, code, output.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    process = run_process("build", folder / "recipe.json", "-o", folder / "out")
    assert process.returncode == 0, process.stderr
    assert "4 records" in process.stdout
    return folder


def test_statistics(folder: Path) -> None:
    process = run("stats", folder / "out", "-o", folder / "stats.json")
    assert process.returncode == 0, process.stderr
    for part in ("answers: counting", "answers: depth", "markers per image", "rejected"):
        assert part in process.stdout
    assert "depth codes used" in process.stderr
    counts = json.loads((folder / "stats.json").read_text())
    assert counts["records"] == 4
    assert counts["kinds"] == {"counting cot": 2, "depth cot": 2}
    assert sum(counts["codes"]) == 200


def test_page_shows_every_record(folder: Path) -> None:
    process = run("show", folder / "out", "-o", folder / "page.html")
    assert process.returncode == 0, process.stderr
    page = (folder / "page.html").read_text(encoding="utf-8")
    for part in ("depth-000000", "count-000001", "closer to the camera"):
        assert part in page
    again = run("show", folder / "out", "-o", folder / "page.html")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_check_reports_problems(folder: Path) -> None:
    assert run("check", folder / "out").returncode == 0
    lines = (folder / "out" / "records.jsonl").read_text().splitlines()
    (folder / "twice.jsonl").write_text("\n".join([*lines, lines[0]]))
    process = run("check", folder / "twice.jsonl", "--no-images")
    assert process.returncode == 1
    assert "occurs twice" in process.stderr


def test_invalid_arguments(folder: Path) -> None:
    process = run_process("build", folder / "recipe.json", "-o", folder / "out")
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert "error:" in process.stderr
    assert "has a data set already" in process.stderr
    process = run("build", folder / "recipe.json", "-o", folder / "more", "--address", "10.0.0.1:6379")
    assert process.returncode == 2
    assert "add --engine ray" in process.stderr
    process = run("stats", folder / "gone.jsonl")
    assert process.returncode == 2
    assert "cannot be read" in process.stderr


def test_presets_are_listed_printed_and_built(folder: Path) -> None:
    process = run("presets")
    assert process.returncode == 0, process.stderr
    for name in ("aurora-depth", "aurora-counting", "perceptok-depth", "procedural"):
        assert name in process.stdout
    (folder / "copy.yaml").write_text(run("presets", "procedural").stdout)
    settings = ("--scale", "0.0001", "--size", "64", "--sources.world.scenes", "40")
    for name, output in (("procedural", "preset"), (folder / "copy.yaml", "copy")):
        process = run("build", name, "-o", folder / output, *settings)
        assert process.returncode == 0, process.stderr
        assert "7 records in" in process.stdout
    first, second = ((folder / name / "records.jsonl").read_bytes() for name in ("preset", "copy"))
    assert first == second


def test_invalid_presets_and_settings(folder: Path) -> None:
    output = folder / "refused"
    for arguments, message in (
        (["aurora"], "aurora: no such file, and not a preset: aurora-counting"),
        (["aurora-depth", "--sources.ade20k.image", "x"], "unknown key"),
        (["aurora-depth", "--scale", "0"], "scale: expected a positive number"),
        (["aurora-depth"], "needs a depth map: set sources.ade20k.depth"),
        (["aurora-counting", "--sources.lvis.images", folder / "out"], "lvis_v1_train.json: cannot be read"),
    ):
        process = run("build", *arguments, "-o", output)
        assert process.returncode == 2
        assert message in process.stderr
    assert not output.exists()
