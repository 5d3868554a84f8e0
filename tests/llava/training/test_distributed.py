"""Two processes train what one does: the same losses, the same adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import perceptok as pt
from perceptok.llava.training.finetuning import finetune
from tests.llava.records import write_some_records
from tests.llava.training.test_finetuning import config, losses

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture(scope="module")
def alone(tiny_llava: Path, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("alone")
    records = write_some_records(folder / "data", codec)
    settings = {"steps": 3, "lora": {"r": 4, "dropout": 0.0}, "save_every": 2, "batch_size": 4}
    made = config(tiny_llava, records, folder / "run", **settings)
    finetune(made)
    return made.to_dict()


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_the_same_in_two(
    alone: dict[str, Any], in_two_processes: Callable[[Path], list[Any]], tmp_path: Path, sharded: bool
) -> None:
    settings = {**alone, "output": str(tmp_path / "run"), "batch_size": 2, "sharded": sharded}
    if sharded:
        settings["gradient_checkpointing"] = False
    (tmp_path / "train.json").write_text(json.dumps(settings))
    found = in_two_processes(Path(__file__).with_name("train_in_two.py"))
    assert found == [{"steps": 3, "sharded": sharded}] * 2
    assert losses(tmp_path / "run") == pytest.approx(losses(Path(alone["output"])), rel=1e-4)
    ours, theirs = (
        load_file(run / "adapter" / "adapter_model.safetensors") for run in (tmp_path / "run", Path(alone["output"]))
    )
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        assert torch.allclose(one, theirs[name], atol=2e-3), name
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-2" / "state.safetensors").exists()


def test_launch_files_are_whole() -> None:
    folder = files("perceptok.llava.training") / "launch"
    kinds = {path.name: yaml.safe_load(path.read_text())["distributed_type"] for path in folder.iterdir()}
    assert kinds == {"ddp.yaml": "MULTI_GPU", "fsdp2.yaml": "FSDP", "deepspeed.yaml": "DEEPSPEED"}
