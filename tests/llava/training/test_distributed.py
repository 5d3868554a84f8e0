"""Two processes train what one does: the same losses, the same adapter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

import perceptok as pt
from perceptok.llava import finetune
from tests.llava.records import write_some_records
from tests.llava.training.test_finetuning import config, losses

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture(scope="module")
def alone(tiny_llava: Path, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("alone")
    records = write_some_records(folder / "data", codec)
    settings = {
        "max_steps": 3,
        "lora": {"r": 4, "lora_dropout": 0.0},
        "save_steps": 2,
        "per_device_train_batch_size": 4,
    }
    made = config(tiny_llava, records, folder / "run", **settings)
    finetune(made)
    return made.to_dict()


def launch_two(kind: str, *command: str, folder: Path) -> str:
    """Start two processes by `accelerate launch` with a shipped configuration, on the CPU; returns what they print."""
    shipped = files("perceptok.llava.training") / "launch" / f"{kind}.yaml"
    # What differs on a machine of two CPUs than on one of eight GPUs.
    here = ["--num_processes", "2", "--main_process_port", "0"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(shipped), *here, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(launch, env=environment, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_the_same_in_two(alone: dict[str, Any], tmp_path: Path, kind: str) -> None:
    settings = {**alone, "output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 2}
    if kind == "fsdp2":
        settings["gradient_checkpointing"] = False
    (tmp_path / "train.json").write_text(json.dumps(settings))
    if kind == "ddp":
        printed = launch_two(kind, "-m", "perceptok_cli.main", "llava", "train", "train.json", folder=tmp_path)
        assert printed.count("adapter in ") == 1
        # Without a terminal there are neither bars nor dictionaries, but a line a minute; nor warnings of libraries.
        assert not [noise for noise in ("FutureWarning", "'loss'", "%|") if noise in printed], printed
        assert printed.count("step 1 of 3, loss ") == 1
    else:
        launch_two(kind, str(Path(__file__).with_name("train_in_two.py")), str(tmp_path), folder=tmp_path)
        found = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
        assert found == [{"steps": 3, "sharded": True, "resumed": 2}] * 2
    assert losses(tmp_path / "run") == pytest.approx(losses(Path(alone["output_dir"])), rel=1e-4)
    ours, theirs = (
        load_file(run / "adapter" / "adapter_model.safetensors")
        for run in (tmp_path / "run", Path(alone["output_dir"]))
    )
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.allclose(weight, theirs[name], atol=2e-3), name
    assert (tmp_path / "run" / "checkpoint-2" / "state.safetensors").exists()


def test_launch_files_are_what_accelerate_reads() -> None:
    folder = files("perceptok.llava.training") / "launch"
    found = {path.name: load_config_from_file(str(path)) for path in folder.iterdir()}
    kinds = {name: config.distributed_type.value for name, config in found.items()}
    assert kinds == {"ddp.yaml": "MULTI_GPU", "fsdp2.yaml": "FSDP", "deepspeed.yaml": "DEEPSPEED"}
    assert found["fsdp2.yaml"].fsdp_config["fsdp_version"] == 2
    # The machine decides on the number of processes, the run's configuration on the precision.
    assert {str(config.num_processes) for config in found.values()} == {"auto"}
    assert {config.mixed_precision for config in found.values()} == {None}


def test_what_accelerate_computes_in_is_what_is_written_down(alone: dict[str, Any], tmp_path: Path) -> None:
    """`accelerate launch --mixed_precision bf16` of a run in float32 is refused; without one it takes accelerate's."""
    settings = {**alone, "output_dir": str(tmp_path / "run"), "max_steps": 1}
    (tmp_path / "train.json").write_text(json.dumps(settings))
    (tmp_path / "unset.json").write_text(json.dumps({key: settings[key] for key in settings if key != "bf16"}))
    for name, code in (("train.json", 1), ("unset.json", 0)):
        command = ["-m", "perceptok_cli.main", "llava", "train", name]
        launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--mixed_precision", "bf16"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run(
            [sys.executable, *launch, *command],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr[-3000:]
        if code:
            assert "accelerate was launched with mixed_precision 'bf16', the configuration has 'no'" in done.stderr
            assert not (tmp_path / "run").exists()
    assert json.loads((tmp_path / "run" / "train.json").read_text())["bf16"] is True


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_deepspeed_takes_its_settings() -> None:
    """In a process of its own: deepspeed changes what it is imported into. A step was not run: gloo hangs in it."""
    script = """
import sys, accelerate, deepspeed
from accelerate.commands.config.config_args import load_config_from_file
from transformers.integrations import HfDeepSpeedConfig
settings = load_config_from_file(sys.argv[1]).deepspeed_config
plugin = accelerate.DeepSpeedPlugin(**settings)
config = HfDeepSpeedConfig(plugin.deepspeed_config)
assert not config.is_zero3() and config.get_value("zero_optimization.stage") == 2
assert config.get_value("gradient_clipping") == 1.0
"""
    shipped = files("perceptok.llava.training") / "launch" / "deepspeed.yaml"
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", script, str(shipped)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
