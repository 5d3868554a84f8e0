"""`perceptok llava eval` on a tiny model: asked, kept, scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from perceptok.errors import OutputError
from perceptok_cli.main import app


def test_asked_and_scored(tiny_adapter: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "3").mkdir(parents=True)
    questions, answers = [], []
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "images/3" / f"{number}.png")
        questions.append({"question_id": number, "image": f"{number}.png", "text": "Which point is closest?"})
        answers.append({"question_id": number, "text": "(A)"})
    for name, rows in (("questions_3.jsonl", questions), ("answers_3.jsonl", answers)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["llava", "eval", tiny_adapter, "--benchmark", "hardblink-3", "--data", tmp_path]
    words += ["-o", tmp_path / "out", "--max-new-tokens", 110, "--batch-size", 2]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["overall"]["items"] == 3
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["0", "1", "2"]
    assert isinstance(CliRunner().invoke(app, list(map(str, words))).exception, OutputError)
