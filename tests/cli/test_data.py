"""`perceptok data` through its real entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = {
    "size": 64,
    "sources": {"world": {"scenes": 12}},
    "sets": [
        {"name": "depth", "source": "world", "task": "depth", "regime": "cot", "count": 2, "markers": [2]},
        {"name": "count", "source": "world", "task": "counting", "regime": "cot", "count": 2},
    ],
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perceptok_cli.main", "data", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("cli")
    (home / "recipe.json").write_text(json.dumps(RECIPE))
    done = run("build", home / "recipe.json", "-o", home / "out")
    assert done.returncode == 0, done.stderr
    assert "4 records" in done.stdout
    return home


def test_statistics(folder: Path) -> None:
    done = run("stats", folder / "out", "-o", folder / "stats.json")
    assert done.returncode == 0, done.stderr
    for part in ("answers: counting", "answers: depth", "markers per image", "rejected"):
        assert part in done.stdout
    assert "depth codes used" in done.stderr
    told = json.loads((folder / "stats.json").read_text())
    assert told["records"] == 4
    assert told["kinds"] == {"counting cot": 2, "depth cot": 2}
    assert sum(told["codes"]) == 200


def test_the_page_shows_every_record(folder: Path) -> None:
    done = run("show", folder / "out", "-o", folder / "page.html")
    assert done.returncode == 0, done.stderr
    page = (folder / "page.html").read_text(encoding="utf-8")
    for part in ("depth-000000", "count-000001", "closer to the camera"):
        assert part in page
    again = run("show", folder / "out", "-o", folder / "page.html")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_check_names_what_is_wrong(folder: Path) -> None:
    assert run("check", folder / "out").returncode == 0
    lines = (folder / "out" / "records.jsonl").read_text().splitlines()
    (folder / "twice.jsonl").write_text("\n".join([*lines, lines[0]]))
    done = run("check", folder / "twice.jsonl", "--no-images")
    assert done.returncode == 1
    assert "occurs twice" in done.stderr


def test_what_is_refused(folder: Path) -> None:
    done = run("build", folder / "recipe.json", "-o", folder / "out")
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "has a data set already" in done.stderr
    done = run("build", folder / "recipe.json", "-o", folder / "more", "--address", "10.0.0.1:6379")
    assert done.returncode == 2
    assert "add --engine ray" in done.stderr
    done = run("stats", folder / "gone.jsonl")
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
