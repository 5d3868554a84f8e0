"""Serve a model with SGLang, ask for blocks and boxes under a structural tag, and print what came.

examples/serving/install_engine.sh sglang
python examples/serving/serve_sglang.py [--llava | --smollm2]
"""

from __future__ import annotations

from pathlib import Path

from engine_server import try_engine

import perceptok as pt


def build_command(python: Path, model: Path, port: int) -> list[str]:
    """SGLang's server on CPU; a LLaVA is converted to the layout of its original code first."""
    dtype = "float32"
    if "vision_config" in (model / "config.json").read_text(encoding="utf-8"):
        model = pt.llava.convert_checkpoint(model, model.with_name(f"{model.name}-sglang"), format="llava", force=True)
        dtype = "float16"  # the one that SGLang has for LLaVA's vision tower
    return [
        *(str(python), "-m", "sglang.launch_server", "--model-path", str(model), "--served-model-name", "perception"),
        *("--device", "cpu", "--dtype", dtype, "--max-total-tokens", "8192", "--grammar-backend", "xgrammar"),
        *("--disable-overlap-schedule", "--skip-server-warmup", "--host", "127.0.0.1", "--port", str(port)),
    ]


if __name__ == "__main__":
    try_engine("sglang", build_command, has_images=True)
