"""Extending a model by 466 tokens, against transformers' resize with its default, in one run.

Run by hand: python -m pytest tests/benchmarks/test_vocabulary.py --benchmark-enable --benchmark-only -o addopts=""
The size is 8192x1280; PERCEPTOK_LARGE=1 takes LLaVA-1.5-13B's two matrices of 32064x5120 instead (minutes for
transformers). Memory is how far the resident set of a fresh process rises while it resizes
(VmHWM above the VmRSS of before).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from perceptok.vocabulary import extend_vocabulary

LARGE = bool(os.environ.get("PERCEPTOK_LARGE"))
ROWS, WIDTH = (32064, 5120) if LARGE else (8192, 1280)
GROUP = f"two {ROWS}x{WIDTH} bfloat16 matrices + 466 rows"


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(WordLevel({f"t{index}": index for index in range(ROWS)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="t0")


def model() -> LlamaForCausalLM:
    """The two matrices and nothing between them; rows as in a real model, of standard deviation 0.02."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ROWS, hidden_size=WIDTH, num_hidden_layers=0, num_attention_heads=8, dtype="bfloat16"
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def resize(init: str) -> None:
    """In a separate process: the increase of the resident set, in copies of the two matrices."""
    llama, fast = model(), tokenizer()
    if init == "transformers":
        extend_vocabulary(fast)
    resident = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    if init == "transformers":
        llama.resize_token_embeddings(len(fast))
    else:
        extend_vocabulary(fast, llama, init=init)  # type: ignore[arg-type]
    print((memory("VmHWM") - resident) / (2 * ROWS * WIDTH * 2))


def memory(which: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("init", ["normal", "ordinal", "mean", "transformers"])
def test_resize(benchmark, init: str) -> None:  # type: ignore[no-untyped-def]
    def setup() -> tuple[tuple[LlamaForCausalLM, PreTrainedTokenizerFast], dict[str, object]]:
        fast = tokenizer()
        if init == "transformers":
            extend_vocabulary(fast)
        return (model(), fast), {}

    def ours(model: LlamaForCausalLM, fast: PreTrainedTokenizerFast) -> None:
        extend_vocabulary(fast, model, init=init)  # type: ignore[arg-type]

    def theirs(model: LlamaForCausalLM, fast: PreTrainedTokenizerFast) -> None:
        model.resize_token_embeddings(len(fast))

    rounds = 1 if LARGE and init == "transformers" else 3
    benchmark.pedantic(theirs if init == "transformers" else ours, setup=setup, rounds=rounds, warmup_rounds=0)
    command = [sys.executable, __file__, init]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    benchmark.extra_info["peak memory, copies of both matrices"] = float(done.stdout)
    print(f"\n{init}: peak memory grew by {float(done.stdout):.2f} copies of both matrices")


if __name__ == "__main__":
    resize(sys.argv[1])
