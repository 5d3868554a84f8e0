"""Ablations: each choice changes what it names, cells share what they can, and a grid goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from perceptok.config import list_presets
from perceptok.data import PerceptionRecord, build_data, read_records
from perceptok.data.rendering import render_text
from perceptok.errors import ConfigError, EvaluationError, OutputError
from perceptok.evaluation import AblationCell, AblationRecipe, run_ablation, shipped_cells, write_ablation
from perceptok_cli.main import app
from tests.llava.training.test_distributed import launch_two

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_llava: Path) -> Path:
    """A recipe of two cells over a tiny LLaVA and four images with depth and boxes."""
    place = tmp_path_factory.mktemp("ablation")
    (place / "images").mkdir()
    (place / "depth").mkdir()
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(4):
        ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64) * rng.uniform(0.6, 1)
        Image.fromarray(ramp.astype(np.uint16)).save(place / "depth" / f"{number}.png")
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(place / "images" / f"{number}.png")
        annotations += [
            {"id": 9 * number + k, "image_id": number, "category_id": 1, "bbox": [4 + 20 * k, 8, 12, 30], "iscrowd": 0}
            for k in range(number % 2 + 1)
        ]
    boxes = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 64} for n in range(4)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cup"}],
    }
    (place / "boxes.json").write_text(json.dumps(boxes))
    source = {"images": "images", "depth": "depth", "depth_options": {"kind": "inverse"}, "annotations": "boxes.json"}
    depth = {"source": "s", "task": "depth", "count": 2, "markers": [2, 3]}
    counting = {"source": "s", "task": "counting", "count": 2, "zero_share": 0.0}
    sets = [
        {**task, "name": f"{task['task']}-{regime}", "regime": regime}
        for task in (depth, counting)
        for regime in ("atomic", "cot", "direct")
    ]
    (place / "data.yaml").write_text(yaml.safe_dump({"size": 128, "sources": {"s": source}, "sets": sets}))
    held_out = {"size": 128, "seed": 9, "sources": {"s": source}, "sets": [sets[1]]}
    (place / "test.yaml").write_text(yaml.safe_dump(held_out))
    recipe = {
        "base": str(tiny_llava), "data": "data.yaml", "output": "out", "cells": ["full", "no_constraints"],
        "tests": [{"name": "held-out", "recipe": "test.yaml"}],
        "train": {
            "max_steps": 1, "per_device_train_batch_size": 2, "dataloader_num_workers": 0, "bf16": False,
            "lora": {"r": 2},            "monitoring": {"generate_steps": 0}, "gradient_checkpointing": False,
        },
        "inference": {"max_new_tokens": 12, "batch_size": 2},
    }  # fmt: skip
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return place


def changed(folder: Path, *cells: object, **more: object) -> Path:
    values = {**yaml.safe_load((folder / "recipe.yaml").read_text()), **more}
    values["cells"] = list(cells) or values["cells"]
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def built(folder: Path, cell: str, tmp_path: Path) -> list[PerceptionRecord]:
    """The training records of a shipped cell."""
    grid = AblationRecipe.read(folder / "recipe.yaml")
    build_data(grid.data_recipe(shipped_cells()[cell], grid.data), tmp_path / cell)
    return list(read_records(tmp_path / cell / "records.jsonl"))


def texts(records: list[PerceptionRecord], task: str, regime: str) -> list[str]:
    class Plain:
        eos_token = "</s>"  # noqa: S105

    found = [record for record in records if (record.task, record.regime) == (task, regime)]
    assert found
    return [render_text(record, Plain()).text for record in found]


def test_choices_of_data_change_what_they_name(folder: Path, tmp_path: Path) -> None:
    full = built(folder, "full", tmp_path)
    for text in texts(full, "depth", "cot"):
        assert "is located at" in text
        assert text.count("<DEPTH_START>") == 1
        assert "coordinates of points" in text
    for text in texts(full, "counting", "cot"):
        assert "<PIXEL_" in text
    for text in texts(built(folder, "no_coordinates", tmp_path), "depth", "cot"):
        assert "located" not in text
        assert "coordinates" not in text
        assert text.count("<DEPTH_START>") == 1
    without = built(folder, "no_depth", tmp_path)
    for text in texts(without, "depth", "cot"):
        assert "<DEPTH" not in text
        assert "depth map" not in text
        assert "is located at" in text
    assert all("<DEPTH_START>" in text for text in texts(without, "depth", "atomic"))
    numerals = built(folder, "numerals", tmp_path)
    for regime in ("atomic", "cot"):
        for text in texts(numerals, "counting", regime):
            assert "PIXEL" not in text
            assert "Bounding box 1: (" in text
    assert all("<DEPTH_START>" in text for text in texts(numerals, "depth", "cot"))
    pairs = built(folder, "blink_style", tmp_path)
    for record in pairs:
        if record.task == "depth" and record.regime != "atomic":
            assert record.choices == ("A", "B")
    questions = {text.partition("ASSISTANT")[0] for text in texts(pairs, "depth", "direct")}
    assert questions.isdisjoint({text.partition("ASSISTANT")[0] for text in texts(full, "depth", "direct")})


def test_choices_of_training_and_inference_change_what_they_name(folder: Path) -> None:
    grid, known = AblationRecipe.read(folder / "recipe.yaml"), shipped_cells()
    runs = {name: grid.finetune_config(cell, "b", ("r",), "o") for name, cell in known.items()}
    full = runs["full"]
    assert (full.objective.distillation, full.objective.reconstruction, full.curriculum.kind) == (1.0, 0.0, "linear")
    assert runs["no_distillation"].objective.distillation == 0
    assert runs["with_reconstruction"].objective.reconstruction > 0
    assert runs["with_reconstruction"].objective.distillation == full.objective.distillation
    assert runs["no_curriculum"].curriculum.kind == "proportional"
    assert runs["no_constraints"].to_dict() == full.to_dict()
    assert grid.inference_config(known["full"]).constraints
    assert not grid.inference_config(known["no_constraints"]).constraints
    assert known["blink_style"].benchmarks == ("cvbench-depth",)
    for name in ("direct", "atomic", "cot"):
        assert runs[f"{name}_only"].regimes == (name,)
    assert runs["soft_teacher"].objective.teacher == "soft"
    assert known["untrained"].untrained
    assert grid.inference_config(known["read_off"]).ask == "depth"
    assert grid.inference_config(known["asked_to_think"]).ask == "cot"


def test_a_grid_shares_resumes_and_grows(folder: Path) -> None:
    messages: list[str] = []
    recipe = folder / "recipe.yaml"

    class StopError(Exception):
        pass

    def stop(part: str, text: str) -> None:
        messages.append(text)
        if part == "evaluate" and text.startswith("no_constraints, held-out"):
            raise StopError

    with pytest.raises(StopError):
        run_ablation(AblationRecipe.read(recipe), stop)
    assert messages.count("full: training") == 1
    assert "no_constraints: trained already" in messages
    messages.clear()
    results = run_ablation(AblationRecipe.read(recipe), lambda _, text: messages.append(text))
    assert messages[0] == "full, held-out: finished already"
    assert not any(word in message for word in ("training", "building", "extending") for message in messages)
    assert [result.cell.name for result in results] == ["full", "no_constraints"]
    out = folder / "out"
    assert len(list((out / "base").iterdir())) == len(list((out / "runs").iterdir())) == 1
    assert len(list((out / "data").iterdir())) == 2
    own = {"name": "wide", "description": "a higher rank", "train": {"lora": {"r": 3}}}
    done: Result = CliRunner().invoke(app, ["llava", "ablate", str(changed(folder, "full", "no_constraints", own))])
    assert done.exit_code == 0, done.output
    assert len(list((out / "base").iterdir())) == 1
    assert len(list((out / "runs").iterdir())) == 2
    table = json.loads((out / "ablation-table.json").read_text())
    assert [row["cell"] for row in table] == ["full", "no_constraints", "wide"]
    assert table[0]["against the first cell"] is None
    assert table[1]["against the first cell"]["items"] == table[1]["items"] == 2
    assert len((out / "ablation-table.csv").read_text().splitlines()) == 4
    assert "wide: a higher rank" in (out / "ablation-table.md").read_text()
    assert "Ablation" in (out / "page.html").read_text()
    with pytest.raises(OutputError, match="another recipe"):
        run_ablation(AblationRecipe.read(changed(folder, "full", inference={"max_new_tokens": 13})))
    with pytest.raises(OutputError, match="cell wide differs or is gone"):
        run_ablation(AblationRecipe.read(recipe))


@pytest.mark.parametrize("name", [f"aurora-table-{number}" for number in range(1, 8)])
def test_each_table_of_the_paper_is_a_preset(name: str) -> None:
    recipe = AblationRecipe.read(name, {"base": "llava", "output": "out", "benchmarks": "benchmarks"})
    assert recipe.resolved_cells[0].name in ("full", "blink_style")
    assert list_presets("evaluation")[name].startswith("Ablation of AURORA's Table ")
    for cell in recipe.resolved_cells:
        config = recipe.finetune_config(cell, "base", ("r.jsonl",), "run")
        assert (config.rows, config.effective_batch_size, config.objective.distillation) == ("full", 128, 0)
        assert not recipe.inference_config(cell).constraints
        data = recipe.data_recipe(cell, recipe.data)
        assert sum(config.count for config in data.sets) in (21_000, 5_500)
        assert data.prompts == cell.data.get("prompts", "aurora")
    with pytest.raises(ConfigError, match=rf"{name}: base: missing; output: missing"):
        AblationRecipe.read(name)


def test_baselines_and_atomic_tests_in_one_grid(folder: Path) -> None:
    """The base as it is, direct labels alone and atomic records alone, on held-out atomic records of both tasks."""
    cells = [{"name": "untrained", "untrained": True}, "direct_only", "atomic_only"]
    held_out = yaml.safe_load((folder / "data.yaml").read_text())
    held_out |= {"seed": 9, "sets": [config for config in held_out["sets"] if config["regime"] == "atomic"]}
    (folder / "atomic.yaml").write_text(yaml.safe_dump(held_out))
    tests = [{"name": "atomic", "recipe": "atomic.yaml", "benchmark": "atomic"}]
    inference = {"max_new_tokens": 110, "batch_size": 2, "force_block": "first"}
    path = changed(folder, *cells, tests=tests, output="baselines", inference=inference)
    results = run_ablation(AblationRecipe.read(path))
    assert [result.cell.name for result in results] == ["untrained", "direct_only", "atomic_only"]
    assert len(list((folder / "baselines" / "runs").iterdir())) == 2
    for result in results:
        assert result.scores.overall.items == 4
        valid, share = result.figures["answers with one whole block"]
        assert (valid, share) == (2, 1.0)  # forced
        assert 0 < result.figures["RMSE of the block against the teacher"][1] < 1
    write_ablation(results, folder / "baselines")
    table = json.loads((folder / "baselines" / "ablation-table.json").read_text())
    assert "mean IoU of boxes" in table[0]["evidence"]
    assert (
        "| atomic | RMSE of the block against the teacher | atomic_only | 2 |"
        in (folder / "baselines" / "ablation-table.md").read_text()
    )


def test_a_missing_benchmark_is_found_before_training(folder: Path) -> None:
    parts: list[str] = []
    tests = [{"name": "t", "benchmark": "hardblink-3", "data": "nothing"}]
    with pytest.raises(EvaluationError, match=r"test t: .*questions of hardblink-3 were not found.*; or leave it out"):
        run_ablation(AblationRecipe.read(changed(folder, "full", tests=tests, output="none")), parts.append)
    assert parts == []


def test_the_scale_of_the_data(folder: Path) -> None:
    recipe = AblationRecipe.read(changed(folder, "full", scale=0.5))
    assert {config.count for config in recipe.data_recipe(recipe.resolved_cells[0], recipe.data).sets} == {1}
    with pytest.raises(ConfigError, match="scale: expected a positive number; got 0"):
        AblationRecipe.read(changed(folder, "full", scale=0.0)).data_recipe(recipe.resolved_cells[0], recipe.data)


@pytest.mark.parametrize("sets", [1, [1], [{}], {"a": 1}])
def test_malformed_settings_of_data_are_told(folder: Path, sets: object) -> None:
    recipe = AblationRecipe.read(changed(folder, "full", data_settings={"sets": sets}))
    with pytest.raises(ConfigError, match=r"data_settings, with data\.yaml: .*sets"):
        recipe.data_recipe(recipe.resolved_cells[0], recipe.data)


def test_two_processes_train_each_cell_together(folder: Path) -> None:
    """By `accelerate launch`: the second process neither waits for the lock of the first nor runs cells of its own."""
    train = {**yaml.safe_load((folder / "recipe.yaml").read_text())["train"], "max_steps": 2}
    own = {"name": "wide", "train": {"lora": {"r": 3}}}
    path = changed(folder, "full", own, "no_constraints", output="two", train=train)
    command = ["-m", "perceptok_cli.main", "llava", "ablate", str(path)]
    printed = launch_two("ddp", *command, folder=folder)
    assert printed.count("full: training") == printed.count("wide: training") == 1
    assert printed.count("table and page in") == 1
    assert "no_constraints: trained already" in printed
    runs = list((folder / "two" / "runs").iterdir())
    assert len(runs) == 2
    for run in runs:
        lines = [json.loads(line) for line in (run / "logs" / "log.jsonl").read_text().splitlines()]
        assert lines[-1]["step"] == 2
        assert (run / "adapter" / "perception_adapter.json").exists()
    table = json.loads((folder / "two" / "ablation-table.json").read_text())
    assert [row["cell"] for row in table] == ["full", "wide", "no_constraints"]
    again = launch_two("ddp", *command, folder=folder)
    assert again.count("finished already") == 3


def test_refusals(folder: Path) -> None:
    for message, cells, more in (
        ("'no_luck' is not a shipped cell", ["no_luck"], {}),
        ("add a test with that benchmark", ["blink_style"], {}),
        ("unknown key in FinetuneConfig: stepz", ["full"], {"train": {"stepz": 1}}),
        ("model_name_or_path is set by the recipe", ["full"], {"train": {"model_name_or_path": "x"}}),
        ("cells of different names", ["full", "full"], {}),
        ("test t has neither data nor recipe; set benchmarks", ["full"], {"tests": [{"name": "t"}]}),
        (
            "leave benchmark out, or set it to atomic",
            ["full"],
            {
                "tests": [{"name": "t", "recipe": "test.yaml", "benchmark": "seed-count"}],
            },
        ),
        ("an untrained cell has settings of inference alone", [{"name": "x", "untrained": True, "sets": {"a": 1}}], {}),
        ("train: unknown|no such file, and not a preset", ["full"], {"train_config": "aurora-deep"}),
        ("'mmlu' is not a benchmark", ["full"], {"tests": [{"name": "t", "benchmark": "mmlu", "data": "x"}]}),
    ):
        with pytest.raises(ConfigError, match=message):
            AblationRecipe.read(changed(folder, *cells, **more))
    with pytest.raises(ConfigError, match="not by a cell"):
        AblationCell("x", train={"output_dir": "y"})
    done = CliRunner().invoke(app, ["llava", "ablate", "--choices"])
    assert all(name in done.stdout for name in shipped_cells())
    assert CliRunner().invoke(app, ["llava", "ablate", str(folder / "recipe.yaml"), "--plan"]).exit_code == 0
    assert isinstance(CliRunner().invoke(app, ["llava", "ablate"]).exception, ConfigError)


def test_overrides_are_relative_to_the_current_directory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held").mkdir()
    recipe = AblationRecipe.read(folder / "recipe.yaml", {"output": "out", "benchmarks": "held", "base": "owner/name"})
    assert recipe.resolve(recipe.output) == tmp_path / "out"
    assert recipe.resolve(str(recipe.benchmarks)) == tmp_path / "held"
    assert recipe.base == "owner/name"
    assert AblationRecipe.read(folder / "recipe.yaml").resolve("x") == folder / "x"
