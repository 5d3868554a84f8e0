"""`perceptok llava eval` on a tiny model: asked, kept, scored; by presets, and with the answer read off the map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import perceptok as pt
from perceptok.config import list_presets
from perceptok.decoding import read_evidence
from perceptok.errors import ConfigError, OutputError
from perceptok.evaluation import BENCHMARKS, EvaluationConfig, evaluate, load_benchmark, read_predictions
from perceptok.evaluation.specialists import find_markers, nearest_marker, sample_nearness
from perceptok_cli.main import app


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def hardblink(tmp_path: Path) -> Path:
    """Three questions about images of noise."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "hardblink"
    (folder / "images" / "3").mkdir(parents=True)
    questions, answers = [], []
    for number in range(3):
        image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
        image.save(folder / "images" / "3" / f"{number}.png")
        questions.append({"question_id": number, "image": f"{number}.png", "text": "Which point is closest?"})
        answers.append({"question_id": number, "text": "(A)"})
    for name, rows in (("questions_3.jsonl", questions), ("answers_3.jsonl", answers)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_asked_and_scored(tiny_adapter: Path, hardblink: Path, tmp_path: Path) -> None:
    words = ["llava", "eval", tiny_adapter, "--benchmark", "hardblink-3", "--data", hardblink]
    words += ["-o", tmp_path / "out", "--max-new-tokens", 110, "--batch-size", 2]
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["overall"]["items"] == 3
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["0", "1", "2"]
    assert isinstance(run(*words).exception, OutputError)


@pytest.mark.parametrize("name", [name for name in list_presets("evaluation") if "table" not in name])
def test_the_presets_ask_as_aurora_did(name: str) -> None:
    config = EvaluationConfig.read(name, {"data": "benchmarks"})
    assert config.benchmark == name.removeprefix("aurora-")
    assert config.benchmark in BENCHMARKS
    inference = config.inference
    assert (inference.ask, inference.constraints, inference.temperature) == ("published", False, 0)
    assert (inference.max_new_tokens, inference.batch_size) == (1024, 1)
    with pytest.raises(ConfigError, match=rf"data of {config.benchmark} is required"):
        EvaluationConfig.read(name)


def test_a_preset_and_its_overrides(tiny_adapter: Path, hardblink: Path, tmp_path: Path) -> None:
    words = ("llava", "eval", tiny_adapter, "--config", "aurora-hardblink-3", "--data", hardblink.parent)
    done = run(*words, "-o", tmp_path / "out", "--max-new-tokens", 5)
    assert done.exit_code == 0, done.output
    free = read_predictions(tmp_path / "out" / "predictions.jsonl")
    (tmp_path / "own.yaml").write_text("benchmark: hardblink-3\ninference: {constraints: false, max_new_tokens: 5}\n")
    own = ("llava", "eval", tiny_adapter, "--config", tmp_path / "own.yaml", "--data", hardblink)
    assert run(*own, "-o", tmp_path / "own").exit_code == 0
    assert read_predictions(tmp_path / "own" / "predictions.jsonl") == free
    assert "unknown key 'bench'" in str(run(*own[:3], "--config", write(tmp_path, "bench: x\n"), "-o", "x").exception)
    assert "benchmark: missing" in str(run("llava", "eval", tiny_adapter, "-o", tmp_path / "x").exception)
    other = run(*own[:3], "--benchmark", "hardblink-9", "--data", "x", "-o", tmp_path / "x")
    assert "'hardblink-9' is not a benchmark" in str(other.exception)
    assert "not a preset: aurora-blink-count" in str(run(*own[:3], "--config", "nothing", "-o", "x").exception)


def write(folder: Path, text: str) -> Path:
    (folder / "other.yaml").write_text(text)
    return folder / "other.yaml"


def test_the_answer_read_off_the_map(tiny_adapter: Path, codec: pt.DepthCodec, shared: Path, tmp_path: Path) -> None:
    """HardBLINK says no coordinates: its markers are found, and the answer is the nearest in the decoded block."""
    source = shared / "data" / "hardblink"
    data = tmp_path / "hardblink"
    (data / "images" / "3").mkdir(parents=True)
    for name in ("questions_3.jsonl", "answers_3.jsonl"):
        (data / name).write_text("".join((source / name).read_text().splitlines(keepends=True)[:3]))
    for number in range(3):
        (data / "images" / "3" / f"{number}.jpg").write_bytes((source / f"images/3/{number}.jpg").read_bytes())
    words = ("llava", "eval", tiny_adapter, "--benchmark", "hardblink-3", "--data", data, "--max-new-tokens", 110)
    done = run(*words, "--ask", "depth", "--force-block", "first", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    benchmark = load_benchmark("hardblink-3", data)
    predictions = read_predictions(tmp_path / "out" / "predictions.jsonl")
    for item in benchmark.items:
        prediction = predictions[item.id]
        assert not isinstance(prediction, str)
        block = read_evidence(prediction.text).block
        assert block is not None
        image = item.open_image()
        markers = find_markers(image, list(item.choices))
        assert prediction.read == nearest_marker(sample_nearness(codec.decode(block)[0], markers, image.size))
    scores = evaluate(predictions, benchmark)
    right = json.loads((tmp_path / "out" / "scores.json").read_text())["overall"]["right"]
    assert (
        right
        == scores.overall.right
        == sum(
            item.answer == predictions[item.id].read  # type: ignore[union-attr]
            for item in benchmark.items
        )
    )
    # Without a block there is no answer, and none is forced.
    done = run(*words, "--ask", "depth", "--no-constraints", "--max-new-tokens", 3, "-o", tmp_path / "free")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "free" / "scores.json").read_text())["overall"]["unparsed"] == 3
