"""The demo: depth maps and boxes to tokens and back, with the shipped weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import perceptok as pt
from perceptok.depth import block_from_text
from perceptok_cli.main import app, run_command


def test_demo_prints_tokens_and_errors_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(lambda: app(["demo"])) == 0
    output = capsys.readouterr().out
    blocks = re.findall(r"<DEPTH_START>.*<DEPTH_END>", output)
    assert len(blocks) == 4
    assert len({block_from_text(block).tobytes() for block in blocks}) == 4
    errors = [float(error) for error in re.findall(r"png\s+│ (0\.\d+)", output)]
    assert len(errors) == 4
    # Measured 0.02 to 0.06 on these maps; codes that mean nothing give 0.2 and more.
    assert max(errors) < 0.09
    with Image.open(tmp_path / "perceptok-demo" / "depth.png") as image:
        assert image.width > 4 * 320
        assert image.height > 4 * 320
    boxes = pt.BoxCodec().from_text(re.search(r"\(<PIXEL_.*", output)[0])  # type: ignore[index]
    rows = re.findall(r"│\s+(\d+\.\d+) │ (\d\.\d+)", output.partition("largest error")[2])
    assert len(rows) == len(boxes) >= 5
    # Half a bin of 336 is 0.95 pixels of 640; the table rounds to hundredths.
    assert max(float(error) for error, _ in rows) <= 0.96
    assert min(float(overlap) for _, overlap in rows) > 0.8
    with Image.open(tmp_path / "perceptok-demo" / "boxes.png") as image:
        assert image.size == (640, 480)


def test_demo_without_permission_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo").write_text("a file where the folder should be")
    assert run_command(lambda: app(["demo", "-o", str(tmp_path / "demo")])) == 2
    assert "error: cannot make the folder" in capsys.readouterr().err


def test_shipped_weights_are_small_and_valid(tmp_path: Path) -> None:
    weights = Path(pt.__file__).parent / "depth" / "weights" / "model.safetensors"
    assert weights.stat().st_size < 16e6
    codec = pt.DepthCodec.from_pretrained()
    assert codec.codebook.shape[0] == 128
    codec.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 1.01 * weights.stat().st_size
    assert pt.DepthCodec.from_pretrained(tmp_path).fingerprint == codec.fingerprint
