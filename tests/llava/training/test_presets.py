"""The training presets: complete but for what is the user's, and AURORA's as published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import perceptok as pt
from perceptok.config import list_presets
from perceptok.data.rendering import LLAVA_SYSTEM
from perceptok.errors import ConfigError, TrainingError
from perceptok.llava import FinetuneConfig, FrameRule, dry_run, finetune
from perceptok_cli.main import app
from tests.llava.records import write_some_records

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

OWN = {"model_name_or_path": "base", "records": "r.jsonl", "output_dir": "run"}


@pytest.mark.parametrize("name", list_presets("llava"))
def test_a_preset_needs_a_base_records_and_a_folder(name: str) -> None:
    config = FinetuneConfig.read(name, OWN)
    assert config.records == ("r.jsonl",)
    assert config.effective_batch_size == 128
    with pytest.raises(ConfigError, match=rf"{name}\.yaml: model_name_or_path is required"):
        FinetuneConfig.read(name)
    with pytest.raises(ConfigError, match="aurora-deep: no such file, and not a preset: aurora-counting, aurora-depth"):
        FinetuneConfig.read("aurora-deep", OWN)


@pytest.mark.parametrize(("name", "count"), [("aurora-depth", 130), ("aurora-counting", 336)])
def test_what_aurora_published(name: str, count: int) -> None:
    config = FinetuneConfig.read(name, OWN)
    assert sum(len(tokens.tokens) for tokens in config.token_sets) == count
    assert (config.rows, config.objective.distillation, config.objective.cross_entropy) == ("full", 0.0, 1.0)
    assert (config.lora.r, config.lora.lora_alpha, config.learning_rate) == (128, 256, 2e-4)
    assert (config.projector_learning_rate, config.weight_decay, config.max_length) == (2e-5, 0.0, 2048)
    assert (str(config.lr_scheduler_type.value), config.warmup_ratio) == ("cosine", 0.03)  # type: ignore[attr-defined]
    curriculum = config.curriculum
    assert (curriculum.kind, curriculum.first, curriculum.last, curriculum.passes) == ("aurora", 1.0, 0.1, 10)
    assert config.system == LLAVA_SYSTEM
    assert config.frame_rule == FrameRule("squash", 336, "nearest")


def test_the_effective_batch_size_follows_from_the_processes() -> None:
    config = FinetuneConfig.read("aurora-depth", OWN)
    assert (config.gradient_accumulation_steps, config.count_step_samples(4)) == (8, 128)
    with pytest.raises(ConfigError, match=r"128 is not a multiple of .* 16 x 3 processes"):
        config.count_step_samples(3)
    with pytest.raises(ConfigError, match="set one of them"):
        FinetuneConfig.read("aurora-depth", {**OWN, "gradient_accumulation_steps": 2})
    # Another number of processes is the same run.
    assert "gradient_accumulation_steps" not in config.to_dict()
    assert FinetuneConfig.from_dict(config.to_dict()).difference(config.to_dict()) is None
    assert (
        FinetuneConfig.read("aurora-depth", {**OWN, "per_device_train_batch_size": 8}).gradient_accumulation_steps == 16
    )


def test_a_run_is_not_continued_with_another_preset(tmp_path: Path) -> None:
    own = {**OWN, "output_dir": str(tmp_path)}
    (tmp_path / "train.json").write_text(json.dumps(FinetuneConfig.read("aurora-depth", own).to_dict()))
    with pytest.raises(TrainingError, match=r"holds a run of another configuration: system was .A chat.*, now None"):
        finetune(FinetuneConfig.read("perceptok-depth", own))


def test_the_depth_preset_trains(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    """Chains of thought alone, beside 12 atomic records that say how long a pass is; all as in the preset but sizes."""
    records = write_some_records(tmp_path / "data", codec, 18, regimes=("atomic", "atomic", "cot"))
    own = {
        "model_name_or_path": str(tiny_llava), "records": str(records), "output_dir": str(tmp_path / "run"),
        "lora.r": 2, "per_device_train_batch_size": 4, "effective_batch_size": 8, "dataloader_num_workers": 0,
        "monitoring.generate_steps": 0, "regimes": "cot",
    }  # fmt: skip
    config = FinetuneConfig.read("aurora-depth", own)
    plan = dry_run(config)
    # The rests of the passes are 0, 2, 3, 4, 5, 6, 8, 9, 10 and 11: the list of 6 fits once into each of the last five.
    assert dict(plan.facts)["steps"] == "4 of 8 samples"
    assert plan.text.startswith(LLAVA_SYSTEM)
    loaded = pt.llava.load_adapter(finetune(config).adapter)
    assert len(loaded.vocab.all_ids) == 130
    assert loaded.config["curriculum"]["kind"] == "aurora"
    assert loaded.system == LLAVA_SYSTEM
    assert loaded.frame.interpolation == "nearest"


def test_presets_are_listed() -> None:
    printed = CliRunner().invoke(app, ["llava", "presets"], env={"COLUMNS": "300"}).stdout
    for name, text in {**list_presets("llava"), **list_presets("evaluation")}.items():
        assert name in printed
        assert text
        assert CliRunner().invoke(app, ["llava", "presets", name]).stdout.startswith(f"# {text}\n")
