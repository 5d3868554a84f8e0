"""Convert a model to GGUF, serve it with llama.cpp, ask for blocks and boxes under a GBNF grammar, and print what came.

    pip install 'perceptok[gguf]'
    examples/serving/install_engine.sh llama.cpp
    python examples/serving/serve_llama_cpp.py [--smollm2]

With a build of llama.cpp of your own the command is
`llama-server -m model.gguf -c 8192 --parallel 4 --port 8080`.
"""

from __future__ import annotations

import json
from pathlib import Path

from engine_server import try_engine

import perceptok as pt

SERVER = """
import os, sys, threading, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.port = sys.argv[1], int(sys.argv[2])
parameters.hostnames, parameters.n_ctx, parameters.n_parallel = ["127.0.0.1"], 8192, 4
parameters.endpoint_props = True
# Threads wait for each other several times a layer: where other work runs, more than one costs seconds a token.
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(os.environ["OMP_NUM_THREADS"])
server = xllamacpp.Server(parameters)
threading.Event().wait()
"""
"""llama.cpp's own HTTP server, as the package xllamacpp carries it."""


def build_command(python: Path, model: Path, port: int) -> list[str]:
    """llama.cpp's server for a checkpoint, which is converted first."""
    pre_tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["pre_tokenizer"]
    # make_model.py trains a tokenizer that splits text as GPT-2's does, which the converter cannot know.
    is_tiny = pre_tokenizer is not None and pre_tokenizer["type"] == "ByteLevel"
    folder = pt.llava.convert_checkpoint(
        model,
        model.with_name(f"{model.name}-gguf"),
        format="gguf",
        converter=python.parents[1] / "converter/convert_hf_to_gguf.py",
        pre_tokenizer="gpt-2" if is_tiny else None,
        force=True,
    )
    return [str(python), "-c", SERVER, str(folder / "model.gguf"), str(port)]


if __name__ == "__main__":
    try_engine("llama.cpp", build_command)
