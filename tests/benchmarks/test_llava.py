"""A training step of ours against the same step of the stock Trainer with plain cross entropy; sizes of adapters.

Run by hand: python -m pytest tests/benchmarks/test_llava.py -s -o addopts="" --import-mode=importlib (three minutes).
The model has random weights: 4 Llama layers of 576, 32,064 + 466 rows, 576 image tokens, LoRA r 128 on every linear
layer, new rows and projector. Each kind of step has a process of its own; both get the same batches of 2 from the same
records. Measured are processor seconds of a step, data and sampler included, and the most memory that the process ever
held.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import perceptok as pt
from perceptok.llava import save_adapter
from perceptok.llava.training.finetuning import prepare_run
from tests.llava.records import write_some_records
from tests.llava.tiny import save_llava_of

STEPS = int(os.environ.get("PERCEPTOK_STEPS", "5"))


def cost(kind: str) -> dict[str, float]:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(Path(__file__).with_name("train_step.py")), kind, str(STEPS)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_step_costs_no_more_than_plain_cross_entropy() -> None:
    ours, plain = cost("ours"), cost("plain")
    time = ours["least"] / plain["least"] - 1
    memory = ours["peak"] / plain["peak"] - 1
    print(f"\na step: {ours['least']:.2f} s against {plain['least']:.2f} s of the stock Trainer ({time:+.1%})")
    print(f"peak memory: {ours['peak'] / 1e9:.2f} GB against {plain['peak'] / 1e9:.2f} GB ({memory:+.1%})")
    assert time <= 0.05
    assert memory <= 0.10


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_size_of_adapters(tmp_path: Path) -> None:
    codec = pt.DepthCodec.from_pretrained()
    shape: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4}
    base = save_llava_of(tmp_path / "base", {**shape, "num_attention_heads": 9, "num_key_value_heads": 9}, rows=32_064)
    records = write_some_records(tmp_path / "data", codec, 6)
    sizes = {}
    for rows in ("new_rows", "full"):
        config = pt.llava.FinetuneConfig.from_dict(
            {
                "model_name_or_path": str(base),
                "records": [str(records)],
                "output_dir": str(tmp_path / rows),
                "rows": rows,
            }
            | {"bf16": False, "use_cpu": True, "lora": {"r": 8, "alpha": 16}}
        )
        ready = prepare_run(config)
        folder = save_adapter(tmp_path / rows, ready.model, ready.processor, ready.vocab, codec, verify="file")
        sizes[rows] = (folder / "adapter_model.safetensors").stat().st_size
    print(f"\nadapter with r 8: new_rows {sizes['new_rows'] / 1e6:.1f} MB, full {sizes['full'] / 1e6:.1f} MB")
    assert sizes["new_rows"] < 0.1 * sizes["full"]
