"""AURORA's experiments in a reduced setting: real photos, a real estimator, a tiny base; resumed, refused clearly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perceptok.errors import ConfigError, DataError, OutputError
from perceptok.evaluation import AuroraExperiment, aurora_rows, measure_aurora, plan_aurora, run_aurora
from perceptok_cli.main import app

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

TRAIN = {"max_steps": 1, "per_device_train_batch_size": 2, "effective_batch_size": None, "bf16": False,
         "dataloader_num_workers": 0, "lora": {"r": 2}, "monitoring": {"generate_steps": 0}}  # fmt: skip


@pytest.fixture
def depth(tiny_llava: Path, shared: Path, tmp_path: Path) -> AuroraExperiment:
    """Depth with 3 records of each set, one step of each training, two questions."""
    return AuroraExperiment(
        task="depth",
        images=str(shared / "data" / "coco" / "images"),
        include=("*.jpg",),
        base=str(tiny_llava),
        output=str(tmp_path / "run"),
        benchmarks=str(shared / "data" / "hardblink"),
        estimator=str(shared / "models" / "tcmonodepth_small_192x320.onnx"),
        tests=("hardblink-3",),
        scale=0.0001,
        train=TRAIN,
        codec={"num_train_epochs": 1, "eval_steps": 1},
        inference={"max_new_tokens": 4},
        limit=2,
    )


def test_depth_from_photos_to_the_table_and_again_without_any_work(depth: AuroraExperiment) -> None:
    plan = {part.name: part for part in plan_aurora(depth)}
    assert list(plan) == ["estimate", "codec", "encode", "build", "train", "evaluate"]
    assert (plan["estimate"].amount, plan["build"].amount, plan["evaluate"].amount) == (5, 4, 6)
    assert all(part.seconds is None for part in plan.values())
    begun: list[str] = []
    results = run_aurora(depth, lambda part, message: begun.append(f"{part}: {message}"))
    assert [(result.cell.name, len(result.scores.outcomes)) for result in results] == [
        ("full", 2), ("direct_only", 2), ("untrained", 2)
    ]  # fmt: skip
    folder = Path(depth.output)
    assert len(list((folder / "maps").glob("*.png"))) == len((folder / "codes.jsonl").read_text().splitlines()) == 5
    scores = json.loads((folder / "codec.json").read_text(), parse_constant=pytest.fail)["codec"]["all"]
    assert (scores["maps"], scores["abs_rel"]) == (1, None)
    assert "depth codec of perceptok" in (folder / "codec" / "README.md").read_text()
    rows = aurora_rows(results)
    assert rows[-1][:5] == ("hardblink-3", "(published) AURORA", "", "", "66.9")
    assert "66.9" in (folder / "table.md").read_text()
    seconds = {part.name: part.seconds for part in plan_aurora(depth)}
    assert all(value is not None and value > 0 for value in seconds.values())

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    begun.clear()
    again = run_aurora(depth, lambda part, message: begun.append(message))
    assert aurora_rows(again) == rows
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    assert not any("training" in message or "building" in message for message in begun)

    # Other tests, limits and ways of asking repeat no training.
    asked = {"limit": 1, "tests": ("hardblink-3", "hardblink-4"), "inference": {"max_new_tokens": 3, "batch_size": 2}}
    results = run_aurora(replace(depth, **asked), lambda part, message: begun.append(message))
    assert [len(result.scores.outcomes) for result in results] == [1] * 6
    assert not any(message.endswith("training") or "building" in message for message in begun)
    begun.clear()
    results = run_aurora(
        replace(depth, **{**asked, "tests": ("hardblink-4",)}), lambda part, message: begun.append(message)
    )
    assert [result.test.name for result in results] == ["hardblink-4"] * 3
    assert sum("finished already" in message for message in begun) == 3, "its answers are kept"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before

    with pytest.raises(OutputError, match="an experiment with another scale"):
        run_aurora(replace(depth, scale=0.0002))
    # Another training or other tests use the same maps and codec.
    begun.clear()
    run_aurora(replace(depth, train={**TRAIN, "learning_rate": 1e-3}), lambda part, _: begun.append(part))
    assert "codec" not in begun
    assert "train" in begun
    assert len(list(folder.glob("aurora-table-1-*"))) == 3
    (folder / "images.txt").write_text("other.jpg\n")
    with pytest.raises(OutputError, match="have changed"):
        run_aurora(depth)
    (folder / "aurora.json").write_text("[]")
    with pytest.raises(OutputError, match="not a list of settings"):
        plan_aurora(depth)


def test_counting_from_annotations_to_the_table(tiny_llava: Path, shared: Path, tmp_path: Path) -> None:
    coco = shared / "data" / "coco"
    rows = tmp_path / "benchmarks" / "cvbench"
    rows.mkdir(parents=True)
    shutil.copy(coco / "images" / "000000000139.jpg", rows / "0.jpg")
    row = {"image": "0.jpg", "question": "How many clocks are in the image?", "choices": ["1", "2"], "answer": "(A)"}
    (rows / "test.jsonl").write_text(json.dumps({**row, "task": "Count", "source": "COCO", "idx": 0}) + "\n")
    experiment = AuroraExperiment(
        task="counting",
        images=str(coco / "images"),
        annotations=str(coco / "instances.json"),
        base=str(tiny_llava),
        output=str(tmp_path / "run"),
        benchmarks=str(tmp_path / "benchmarks"),
        tests=("cvbench-count",),
        scale=0.0008,
        train=TRAIN,
        inference={"max_new_tokens": 4},
    )
    results = run_aurora(experiment)
    assert [(result.cell.name, result.scores.benchmark) for result in results] == [
        (name, "cvbench-count") for name in ("full", "direct_only", "untrained")
    ]
    assert [part.name for part in plan_aurora(experiment)] == ["build", "train", "evaluate"]
    assert "56.0" in (tmp_path / "run" / "table.md").read_text()


def test_a_pilot_says_how_long_each_part_takes(depth: AuroraExperiment) -> None:
    parts = measure_aurora(replace(depth, scale=0.001))
    assert [part.name for part in parts] == ["estimate", "codec", "encode", "build", "train", "evaluate"]
    assert all(part.seconds is not None and part.seconds > 0 for part in parts)
    assert not Path(depth.output).exists()


def test_bad_experiments_are_refused_before_any_work(depth: AuroraExperiment, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"318 images.*aurora-depth asks for 20000.*--scale, such as 0\.01"):
        plan_aurora(replace(depth, scale=1.0))
    with pytest.raises(DataError, match="another split"):
        plan_aurora(replace(depth, include=None))
    with pytest.raises(ConfigError, match="aurora-table-1 has no test seed-count"):
        plan_aurora(replace(depth, tests=("seed-count",)))
    for table in ("aurora-table-9", "../table.yaml", "aurora-hardblink"):
        with pytest.raises(ConfigError, match=f"{table} is not a table; they are aurora-table-1"):
            plan_aurora(replace(depth, tables=(table,)))
    with pytest.raises(ConfigError, match="base missing: neither a file, a folder nor a hub id"):
        plan_aurora(replace(depth, base="missing"))
    with pytest.raises(ConfigError, match=r"estimator models/none\.onnx: neither a file"):
        plan_aurora(replace(depth, estimator="models/none.onnx"))
    (tmp_path / "boxes.yaml").write_text("{form: transformers_boxes, model: a/b}")
    with pytest.raises(ConfigError, match=r"boxes\.yaml: expected an estimator of relative depth"):
        plan_aurora(replace(depth, estimator=str(tmp_path / "boxes.yaml")))
    with pytest.raises(ConfigError, match="needs an estimator"):
        replace(depth, estimator=None)
    with pytest.raises(ConfigError, match="needs the annotations"):
        replace(depth, task="counting")
    with pytest.raises(ConfigError, match="neither an estimator nor a codec"):
        replace(depth, task="counting", annotations="a.json")
    with pytest.raises(ConfigError, match="scale is a fraction"):
        replace(depth, scale=0.0)
    assert not Path(depth.output).exists()


def test_the_command_prints_a_plan(depth: AuroraExperiment) -> None:
    words = [
        "aurora", "depth", "--images", depth.images, "--include", "*.jpg", "--base", depth.base,
        "--estimator", str(depth.estimator), "--benchmarks", depth.benchmarks, "--test", "hardblink-3",
        "-o", depth.output, "--scale", "0.001", "--plan", "--codec.num_train_epochs", "2", "--learning_rate", "1e-4",
    ]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "24 images" in done.output
    assert CliRunner().invoke(app, [*words, "--learning_rates", "1"]).exit_code != 0
