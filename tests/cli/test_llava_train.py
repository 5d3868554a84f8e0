"""`perceptok llava train`: settings, a run, refused configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import perceptok as pt
from perceptok.errors import ConfigError
from perceptok.llava import FinetuneConfig, explain
from perceptok_cli.main import app
from tests.llava.records import write_some_records
from tests.llava.tiny import save_tiny_llava

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["llava", *(str(word) for word in words)])


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train.json of a short run, with base and records."""
    folder = tmp_path_factory.mktemp("train")
    base = save_tiny_llava(folder / "base")
    records = write_some_records(folder / "data", pt.DepthCodec.from_pretrained(), 6)
    values = {
        "model_name_or_path": str(base), "records": [str(records)], "output_dir": str(folder / "run"), "max_steps": 3,
        "per_device_train_batch_size": 2, "dataloader_num_workers": 0, "use_cpu": True, "bf16": False,
        "max_length": 155, "lora": {"r": 2}, "monitoring": {"generate_steps": 0},
    }  # fmt: skip
    (folder / "train.json").write_text(json.dumps(values))
    return folder / "train.json"


def test_every_setting_is_explained() -> None:
    done = run("train", "--explain")
    assert done.exit_code == 0
    for setting in explain():
        assert f"{setting.name}: " in done.output
        assert setting.help in done.output
    assert "objective.teacher_temperature" in done.output
    assert {setting.name.split(".")[0] for setting in explain()} == set(FinetuneConfig.__dataclass_fields__)


def test_dry_run_trains_nothing(settings: Path) -> None:
    done = run("train", settings, "--dry-run")
    assert done.exit_code == 0, done.exception
    assert not (settings.parent / "run").exists()
    for words in ("dropped as too long", "3 of 2 samples", "are trained", "trained: projector", "GB: weights"):
        assert words in done.output, words
    # What is taught, and nothing of the question, stands between the marks.
    sample = done.output.partition("»:\n")[2]
    taught = sample.partition("«")[2].partition("»")[0]
    assert taught.startswith(" ")
    assert taught.endswith("</s>")
    assert "USER: <image>" in sample.partition("«")[0]


def test_train(settings: Path) -> None:
    done = run("train", settings, "--max_steps", "2", "--save_total_limit", "-1", "--optim=adafactor")
    assert "save_total_limit has to be positive; got -1" in str(done.exception)
    done = run("train", settings, "--max_steps", 2, "--optim=adafactor", "--lora.lora_alpha", "4")
    assert done.exit_code == 0, done.exception
    assert "records were too long and left out" in done.stderr
    assert pt.llava.load_adapter(settings.parent / "run").config["max_steps"] == 2
    assert pt.llava.load_adapter(settings.parent / "run").config["optim"] == "adafactor"


def test_invalid_configurations_are_refused(settings: Path, tmp_path: Path) -> None:
    for words in ((), ("--learning_rate", "1e-4", settings)):
        assert "train needs a file of settings, such as train.yaml, before" in str(run("train", *words).exception)
    assert "aurora-depth.yaml: model_name_or_path is required" in str(
        run("train", "aurora-depth", "--dry-run").exception
    )
    unknown = str(run("train", "aurora-dept", "--output_dir", "x").exception)
    assert "aurora-dept: no such file, and not a preset: aurora-counting, aurora-depth" in unknown
    (tmp_path / "t.yaml").write_text("model_name_or_path: x\nrecords: [y]\noutput_dir: z\nlearning_rat: 1\n")
    found = run("train", tmp_path / "t.yaml").exception
    assert isinstance(found, ConfigError)
    assert "unknown key in FinetuneConfig: learning_rat; did you mean learning_rate?" in str(found)
