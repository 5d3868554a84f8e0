"""The demo: the whole way of a depth map, through the real entry point, with the shipped weights."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

import perceptok as pt
from perceptok.depth import block_from_text


def test_demo_prints_tokens_and_errors_and_draws(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "perceptok_cli.main", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    blocks = re.findall(r"<DEPTH_START>.*<DEPTH_END>", done.stdout)
    assert len(blocks) == 4
    assert len({block_from_text(block).tobytes() for block in blocks}) == 4
    errors = [float(error) for error in re.findall(r"png\s+│ (0\.\d+)", done.stdout)]
    assert len(errors) == 4
    # Measured 0.02 to 0.06 on these maps; codes that mean nothing give 0.2 and more.
    assert max(errors) < 0.09
    with Image.open(tmp_path / "perceptok-demo" / "depth.png") as picture:
        assert picture.width > 4 * 320
        assert picture.height > 4 * 320
    boxes = pt.BoxCodec().from_text(re.search(r"\(<PIXEL_.*", done.stdout)[0])  # type: ignore[index]
    rows = re.findall(r"│\s+(\d+\.\d+) │ (\d\.\d+)", done.stdout.partition("largest error")[2])
    assert len(rows) == len(boxes) >= 5
    # Half a bin of 336 is 0.95 pixels of 640; the table rounds to hundredths.
    assert max(float(error) for error, _ in rows) <= 0.96
    assert min(float(overlap) for _, overlap in rows) > 0.8
    with Image.open(tmp_path / "perceptok-demo" / "boxes.png") as picture:
        assert picture.size == (640, 480)


def test_demo_where_nothing_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "perceptok-demo").write_text("a file where the folder should be")
    done = subprocess.run(
        [sys.executable, "-m", "perceptok_cli.main", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "error: cannot make the folder" in done.stderr


def test_shipped_weights_are_small_and_sound(tmp_path: Path) -> None:
    weights = Path(pt.__file__).parent / "depth" / "weights" / "model.safetensors"
    assert weights.stat().st_size < 16e6
    codec = pt.DepthCodec.from_pretrained()
    assert codec.codebook.shape[0] == 128
    codec.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 1.01 * weights.stat().st_size
    assert pt.DepthCodec.from_pretrained(tmp_path).fingerprint == codec.fingerprint
