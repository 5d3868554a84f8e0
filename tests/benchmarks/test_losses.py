"""The distillation loss against plain cross entropy, and the alignment against scipy alone, each in one run.

Run by hand: python -m pytest tests/benchmarks/test_losses.py --benchmark-enable --benchmark-only -s -o addopts=""
The checks of time and memory: python -m pytest tests/benchmarks/test_losses.py -k ratio -s -o addopts=""
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import perceptok as pt
from perceptok.losses import distillation_loss
from perceptok.vocabulary import VocabularyAlignment, align_vocabularies

SHAPE = (4, 2048, 32000)
KINDS = ("cross entropy", "hard teacher", "soft teacher", "soft, auxiliary", "soft, 100 of 2048")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class KnownTokens(dict[str, int]):
    def get_vocab(self) -> dict[str, int]:
        return self


def losses(logits: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Every kind of loss over the same logits."""
    width = logits.shape[-1]
    names = [f"word{index}" for index in range(width - 466)] + [*pt.tokens.DEPTH.tokens, *pt.tokens.PIXEL.tokens]
    vocab = pt.PerceptionVocabulary.from_tokenizer(KnownTokens({name: index for index, name in enumerate(names)}))
    alignment = VocabularyAlignment.identity(128)
    codes = torch.randint(0, 128, logits.shape[:2])
    soft = torch.softmax(torch.randn(*codes.shape, 128), -1)
    ids = vocab.ids(pt.tokens.DEPTH)[codes].flatten()
    block = torch.zeros_like(codes, dtype=torch.bool)
    block[:, 500:600] = True
    return {
        "cross entropy": lambda: F.cross_entropy(logits.flatten(0, 1), ids),
        "hard teacher": lambda: distillation_loss(logits, codes, alignment, vocab),
        "soft teacher": lambda: distillation_loss(logits, soft, alignment, vocab),
        "soft, auxiliary": lambda: distillation_loss(logits, soft, alignment, vocab, normalization="auxiliary"),
        "soft, 100 of 2048": lambda: distillation_loss(logits, soft, alignment, vocab, block),
    }


def kilobytes(name: str) -> int:
    """A line of this process's status, on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def random_logits(dtype: str) -> Tensor:
    torch.manual_seed(0)
    return torch.empty(SHAPE, dtype=DTYPES[dtype]).normal_().requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_loss(benchmark, kind: str, dtype: str) -> None:  # type: ignore[no-untyped-def]
    benchmark.group = f"forward and backward, {SHAPE} {dtype}"
    logits = random_logits(dtype)
    loss = losses(logits)[kind]

    def both() -> None:
        logits.grad = None
        loss().backward()

    benchmark.pedantic(both, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ratio_of_times(dtype: str) -> None:
    """Processor time of one thread, kinds in turn, minima of four rounds, which load disturbs least."""
    torch.set_num_threads(1)
    logits = random_logits(dtype)
    kinds = losses(logits)
    best = dict.fromkeys(kinds, float("inf"))
    for _ in range(4):
        for name, loss in kinds.items():
            logits.grad = None
            start = time.process_time()
            loss().backward()
            best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        print(f"{dtype} {name}: {seconds:.2f} s, {seconds / best['cross entropy']:.2f}x")
    assert all(seconds <= 1.1 * best["cross entropy"] for seconds in best.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_ratio_of_peak_memory(dtype: str) -> None:
    """The peak memory of each kind beside the logits, in separate processes."""
    peaks = {}
    for kind in KINDS:
        done = subprocess.run(
            [sys.executable, __file__, kind, dtype], capture_output=True, text=True, check=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        peaks[kind] = float(done.stdout)
        print(f"{dtype} {kind}: {peaks[kind]:.2f} GB, {peaks[kind] / peaks['cross entropy']:.2f}x")
    assert all(peak <= 1.1 * peaks["cross entropy"] for peak in peaks.values())


def hidden_costs(size: int) -> np.ndarray:
    """Noise, with one better column for every row."""
    rng = np.random.default_rng(0)
    cost = rng.standard_normal((size, size)) + 10
    cost[np.arange(size), rng.permutation(size)] -= 4
    return cost


SOLVERS: dict[str, Callable[[np.ndarray], float | None]] = {
    "scipy alone": lambda cost: float(cost[linear_sum_assignment(cost)].sum()),
    "whole matrix": lambda cost: align_vocabularies(cost).cost,
}


@pytest.mark.parametrize("size", [128, 1024, 8192])
@pytest.mark.parametrize("solver", SOLVERS)
def test_alignment(benchmark, solver: str, size: int) -> None:  # type: ignore[no-untyped-def]
    benchmark.group = f"one-to-one map, {size} x {size}"
    cost = hidden_costs(size)
    benchmark.pedantic(
        SOLVERS[solver], args=(cost,), rounds={128: 50, 1024: 3, 8192: 1}[size], warmup_rounds=int(size < 8192)
    )


def test_ratio_small_alignment_under_5_ms() -> None:
    cost = hidden_costs(128)
    seconds = []
    for _ in range(50):
        start = time.process_time()
        align_vocabularies(cost)
        seconds.append(time.process_time() - start)
    print(f"128 x 128: {1000 * min(seconds):.2f} ms at best, median {1000 * float(np.median(seconds)):.2f} ms")
    assert float(np.median(seconds)) < 0.005


if __name__ == "__main__":
    chosen, given = sys.argv[1:]
    values = random_logits(given)
    run = losses(values)[chosen]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; getrusage would inherit the parent's
    before = kilobytes("VmRSS")
    run().backward()
    sys.stdout.write(str((kilobytes("VmHWM") - before) / 2**20))
