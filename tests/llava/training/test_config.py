"""The configuration of a run: transformers' names, unknown and fixed settings refused, overrides, what is saved."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

import perceptok as pt
from perceptok.config import parse_overrides
from perceptok.errors import ConfigError
from perceptok.llava import FinetuneConfig, LoraSettings, explain, finetune
from perceptok.llava.training.launch_checks import check_launch
from perceptok.precision import choose_dtype
from tests.llava.records import write_some_records

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

REQUIRED = {"model_name_or_path": "base", "records": ["r.jsonl"], "output_dir": "run"}


def config(**more: Any) -> FinetuneConfig:
    return FinetuneConfig.from_dict({**REQUIRED, **more})


def test_it_is_a_training_arguments_with_every_one_of_its_settings() -> None:
    made = config(save_steps=7, optim="adafactor", adam_beta2=0.98)
    assert isinstance(made, TrainingArguments)
    assert {field.name for field in dataclasses.fields(TrainingArguments)} <= {
        field.name for field in dataclasses.fields(made)
    }
    assert (made.save_steps, made.optim, made.adam_beta2) == (7, "adafactor", 0.98)
    assert {setting.name.split(".")[0] for setting in explain()} == {
        field.name for field in dataclasses.fields(made) if field.init
    }


def test_defaults_of_its_own() -> None:
    made = config()
    assert (made.learning_rate, made.per_device_train_batch_size, made.num_train_epochs) == (2e-4, 16, 1.0)
    assert made.precision == ("bf16" if choose_dtype() == torch.bfloat16 else "no")
    assert made.gradient_checkpointing
    assert made.get_warmup_steps(100) == 3
    assert config(warmup_steps=7).get_warmup_steps(100) == 7
    assert config(warmup_ratio=0.0).get_warmup_steps(100) == 0
    assert not config(fp16=True, use_cpu=True).bf16


DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "dynamo_backend 'inductor', .* torch_compile: false"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "a parallelism of sequences or layers"),
        ({"ACCELERATE_USE_MEGATRON_LM": "1"}, "a parallelism of sequences or layers"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "fsdp_activation_checkpointing, .* gradient_checkpointing: true",
        ),
        ({**DEEPSPEED, "ACCELERATE_GRADIENT_CLIPPING": "0.5"}, "gradient_clipping is '0.5', .* max_grad_norm: 1.0"),
        (
            {**DEEPSPEED, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"},
            "gradient_accumulation_steps is '2', the configuration has gradient_accumulation_steps: 4",
        ),
    ],
)
def test_what_accelerate_is_told_has_to_agree(environment: dict[str, str], message: str) -> None:
    made = config(gradient_accumulation_steps=4, bf16=False)
    agreeing = {
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_GRADIENT_CLIPPING": "1.0",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    }
    check_launch(made, 64, {})
    check_launch(made, 64, agreeing)
    with pytest.raises(ConfigError, match=message):
        check_launch(made, 64, environment)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bf16": {"enabled": True}}, "bf16.enabled is True, the configuration has bf16: False"),
        ({"fp16": {"enabled": "true"}}, "fp16.enabled is 'true'"),
        ({"train_micro_batch_size_per_gpu": 8}, "per_device_train_batch_size: 16"),
        ({"train_batch_size": 32}, "the samples of a step: 16"),
        ({"gradient_clipping": 0.3}, "max_grad_norm: 1.0"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1}}}, "optimizer would replace optim and the learning rates"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler would replace lr_scheduler_type"),
    ],
)
def test_a_file_of_deepspeed_has_to_agree(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **settings}))
    with pytest.raises(ConfigError, match=message):
        config(bf16=False, deepspeed=settings)
    with pytest.raises(ConfigError, match=message):
        config(bf16=False, deepspeed=str(path))
    with pytest.raises(ConfigError, match=rf"ds\.json: .*{message}"):
        check_launch(config(bf16=False), 16, {**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)})
    path.write_text('{"bf16": {"enabled": "auto"}, "train_batch_size": "auto", "gradient_clipping": 1}')
    check_launch(config(bf16=False), 16, {**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}}, "perceptok makes the batches"),
        ({"remove_unused_columns": True}, "remove_unused_columns is fixed to False"),
        ({"label_names": ["a"]}, "label_names is fixed"),
        ({"eval_strategy": "steps"}, "eval_strategy is fixed to 'no'"),
        ({"save_strategy": "epoch"}, "save_strategy is fixed to 'steps'"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy is fixed to 'random'"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end is fixed to False"),
        ({"resume_from_checkpoint": "run/checkpoint-2"}, "resume_from_checkpoint is fixed to None"),
        ({"hub_strategy": "every_save"}, "hub_strategy is fixed to 'end'"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is fixed"),
        ({"bf16": True, "fp16": True}, "At most one of fp16 and bf16"),
        ({"learning_rat": 1}, "unknown key in FinetuneConfig: learning_rat; did you mean learning_rate"),
        ({"lora": {"rank": 4}}, "unknown key 'lora.rank'"),
        ({"learning_rate": "fast"}, "learning_rate is of type float; got 'fast'"),
        ({"learning_rate": -1.0}, "learning_rate has to be positive"),
        ({"gradient_checkpointing": 3}, "gradient_checkpointing is of type bool; got 3"),
        ({"save_steps": True}, "save_steps is of type float; got True"),
        ({"optim": "galore_adamw"}, "optim: galore_adamw selects its parameters itself"),
        ({"optim": "adam"}, "adam"),
        ({"lr_scheduler_type": "sawtooth"}, "sawtooth"),
        ({"max_steps": 0}, "max_steps is at least 1"),
        ({"records": []}, "records is required"),
        ({"output_dir": None}, "output_dir is required"),
        ({"model_name_or_path": ""}, "model_name_or_path is required"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "exclude each other"),
    ],
)
def test_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**setting)


def test_python_types_are_taken_as_those_of_files(tmp_path: Path) -> None:
    """A path, a single value for a list, and nested settings as dictionaries; checked as strictly as in a file."""
    given: dict[str, Any] = {"model_name_or_path": Path("base"), "records": "r.jsonl", "output_dir": "run"}
    made = FinetuneConfig(**given, regimes="direct", lora={"r": 3, "target_modules": "q_proj"})  # type: ignore[arg-type]
    assert (made.model_name_or_path, made.records, made.regimes) == ("base", ("r.jsonl",), ("direct",))
    assert made.lora == LoraSettings(r=3, target_modules=("q_proj",))
    assert FinetuneConfig(**{**given, "records": [Path("a.jsonl"), "b.json"]}).records == ("a.jsonl", "b.json")
    assert dataclasses.replace(made, learning_rate=1e-3).lora == made.lora
    for wrong, message in [
        ({"lora": {"rank": 3}}, "lora.rank"),
        ({"records": 3}, "records"),
        ({"instruction_share": 1.0}, "instruction_share is a share"),
        ({"regimes": "instruction"}, "instruction data is mixed in by instruction_records"),
    ]:
        with pytest.raises(ConfigError, match=message):
            FinetuneConfig(**{**given, **wrong})
    (tmp_path / "train.yaml").write_text(
        "model_name_or_path: b\nrecords: r.jsonl\noutput_dir: o\nlearning_rate: 2e-4\n"
    )
    read = FinetuneConfig.read(tmp_path / "train.yaml", {"lora.target_modules": "v_proj"})
    assert (read.learning_rate, read.records, read.lora.target_modules) == (
        2e-4,
        (str(tmp_path / "r.jsonl"),),
        ("v_proj",),
    )


def test_gradient_checkpointing_has_one_name() -> None:
    made = config(gradient_checkpointing=False)
    assert not made.gradient_checkpointing
    assert not dataclasses.replace(made, learning_rate=1.0).gradient_checkpointing
    for contradiction in ({"gradient_checkpointing": True}, {"gradient_checkpointing_kwargs": {"use_reentrant": True}}):
        with pytest.raises(ConfigError, match="is another name of gradient_checkpointing"):
            dataclasses.replace(made, **contradiction)
    with pytest.raises(ConfigError, match="set gradient_checkpointing alone"):
        config(activation_checkpointing=False)


def test_the_precision_of_accelerate_has_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perceptok.llava.training.config._LAUNCH_PRECISION", "fp16")
    with pytest.raises(ConfigError, match="launched with mixed_precision 'fp16', the configuration has 'bf16'"):
        config(bf16=True)
    assert (config(use_cpu=True).bf16, config(use_cpu=True).fp16) == (False, True)
    monkeypatch.setattr("perceptok.llava.training.config._LAUNCH_PRECISION", "bf16")
    assert config().bf16
    with pytest.raises(ConfigError, match="launched with mixed_precision 'bf16', the configuration has 'no'"):
        config(bf16=False)
    with pytest.raises(ConfigError, match="launched with mixed_precision 'bf16', the configuration has 'fp16'"):
        config(fp16=True)
    monkeypatch.setattr("perceptok.llava.training.config._LAUNCH_PRECISION", "fp8")
    with pytest.raises(ConfigError, match="launched with mixed_precision 'fp8', the configuration has 'bf16'"):
        config(bf16=True)


def test_what_is_saved_reads_back_the_same() -> None:
    made = config(learning_rate=1e-3, lora={"r": 3}, hub_token="secret", deepspeed=None, report_to=["tensorboard"])
    values = json.loads(json.dumps(made.to_dict()))
    assert "secret" not in json.dumps(values)
    again = FinetuneConfig.from_dict(values)
    assert again.to_dict() == values
    assert "warmup_steps" not in values
    assert again.difference(values) is None
    assert config(lora={"r": 4}).difference(values) == ("lora", values["lora"], {**values["lora"], "r": 4})
    assert config(learning_rate=1e-3, lora={"r": 3}, save_steps=3, dataloader_num_workers=0).difference(values) is None


def test_overrides_as_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(
        "model_name_or_path: b\nrecords: [r]\noutput_dir: o\nlora: {r: 8, lora_dropout: 1e-1}\n"
        "projector_learning_rate: 2e-6\n"
    )
    words = "--learning_rate 1e-4 --lora.r 64 --gradient_checkpointing false --tf32=false --records a b --save_steps 9"
    made = FinetuneConfig.read(tmp_path / "train.yaml", parse_overrides(words.split()))
    assert (made.learning_rate, made.lora.r, made.lora.lora_dropout) == (1e-4, 64, 0.1)
    assert made.projector_learning_rate == 2e-6
    assert (made.gradient_checkpointing, made.records, made.save_steps) == (False, ("a", "b"), 9)
    assert FinetuneConfig.read(tmp_path / "train.yaml", parse_overrides(["--records", "a"])).records == ("a",)
    assert FinetuneConfig.read(tmp_path / "train.yaml", parse_overrides(["--push_to_hub"])).push_to_hub
    with pytest.raises(ConfigError, match=r"train.yaml: unknown key in FinetuneConfig: learning_rates; did you mean"):
        FinetuneConfig.read(tmp_path / "train.yaml", parse_overrides(["--learning_rates", "1"]))
    with pytest.raises(ConfigError, match="records has no setting x"):
        FinetuneConfig.read(tmp_path / "train.yaml", {"records.x": 1})


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "models" / "base").mkdir(parents=True)
    (project / "train.yaml").write_text(
        "model_name_or_path: models/base\nrecords: [data/r.jsonl]\noutput_dir: run\ncodec: owner/codec\n"
        "monitoring: {records: data/held-out.jsonl}\n"
    )
    monkeypatch.chdir(tmp_path)
    made = FinetuneConfig.read("project/train.yaml", {"monitoring.num_records": 3})
    assert made.model_name_or_path == str(project / "models" / "base")
    assert made.records == (str(project / "data" / "r.jsonl"),)
    assert made.monitoring.records == str(project / "data" / "held-out.jsonl")
    assert (made.output_dir, made.codec) == (str(project / "run"), "owner/codec")
    # Overrides are relative to the current directory, those of a preset too; either is the same run.
    other = FinetuneConfig.read("project/train.yaml", {"records": ["project/data/r.jsonl"], "output_dir": "out"})
    assert (other.records, other.output_dir) == (("project/data/r.jsonl",), "out")
    assert other.difference({**made.to_dict(), "output_dir": "out"}) is None
    assert other.difference({**made.to_dict(), "records": ["other.jsonl"]}) is not None


def test_two_runs_in_one_process_with_other_precision(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    records = write_some_records(tmp_path / "data", codec, 6)
    shared = {
        "model_name_or_path": str(tiny_llava), "records": [str(records)], "max_steps": 1, "use_cpu": True,
        "per_device_train_batch_size": 2, "dataloader_num_workers": 0, "lora": {"r": 2},
        "monitoring": {"generate_steps": 0},
    }  # fmt: skip
    both = [
        FinetuneConfig.from_dict({**shared, "bf16": bf16, "output_dir": str(tmp_path / str(bf16))})
        for bf16 in (True, False)
    ]
    for made in both:
        assert finetune(made).steps == 1
        saved = json.loads((Path(str(made.output_dir)) / "train.json").read_text())
        assert saved.get("bf16", False) == made.bf16
