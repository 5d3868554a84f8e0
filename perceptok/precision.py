"""The floating-point precision that a device computes fastest: the default of training and inference."""

from __future__ import annotations

import time
from functools import cache

import torch

__all__ = ["choose_dtype", "choose_loading_dtype", "computes_fast"]

_ROUNDS = 5
_ADVANTAGE = 1.5
"""How many times faster than float32 a shorter type has to be: what it loses in precision has to be worth it."""


def choose_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """Choose the data type to compute in on a device, where nothing else is asked for.

    Args:
        device: A device, such as "cpu" or "cuda".

    Returns:
        bfloat16 where the hardware computes it natively; else float16 on CUDA (before Ampere), and float32 anywhere
        else, as on CPUs without AMX.
    """
    kind = torch.device(device).type
    if computes_fast(torch.bfloat16, device):
        return torch.bfloat16
    return torch.float16 if kind == "cuda" else torch.float32


def choose_loading_dtype(stored: torch.dtype, device: str | torch.device) -> torch.dtype:
    """Choose the data type of a checkpoint's weights for inference.

    Args:
        stored: The checkpoint's data type.
        device: Where it is going to run.

    Returns:
        `stored`, unless the device computes it slowly: then float16 on CUDA, and float32 elsewhere.
    """
    if computes_fast(stored, device):
        return stored
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


def computes_fast(dtype: torch.dtype, device: str | torch.device) -> bool:
    """Whether a device computes a data type in hardware, and a CPU faster than float32.

    CPUs differ too much to tell by their flags: bfloat16 takes an eighth of float32's time with AMX, as long with
    AVX512_BF16, and ten times as long with AVX2. So it is measured, once in a process, in a tenth of a second.
    """
    kind = torch.device(device).type
    if dtype not in (torch.bfloat16, torch.float16):
        return True
    if kind == "cpu":
        return _ADVANTAGE * _time_linear(dtype) < _time_linear(torch.float32)
    if kind == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    return kind != "mps" or dtype == torch.float16


@cache
@torch.no_grad()
def _time_linear(dtype: torch.dtype) -> float:
    """Processor seconds of a linear layer of a small language model on one CPU thread, the least of some rounds."""
    inputs, weight = torch.ones(256, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
    seconds = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processor time of several threads counts their waiting for each other
    try:
        for _ in range(_ROUNDS):
            start = time.thread_time()
            torch.nn.functional.linear(inputs, weight)
            seconds.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return min(seconds)
