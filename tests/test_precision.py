"""The default precision follows the hardware: measured on CPUs, with kernels that are forced to be another CPU's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perceptok.precision import choose_dtype, choose_loading_dtype, computes_fast

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
SCRIPT = """
import torch
from perceptok.llava import FinetuneConfig
from perceptok.precision import choose_dtype, choose_loading_dtype
config = FinetuneConfig(model_name_or_path="b", records=("r.jsonl",), output_dir="run", use_cpu=True)
assert config.precision == ("bf16" if choose_dtype() == torch.bfloat16 else "no"), config.precision
print(choose_dtype(), choose_loading_dtype(torch.bfloat16, "cpu"), choose_loading_dtype(torch.float16, "cpu"))
"""


@pytest.mark.skipif(torch.backends.mkldnn.is_available() is False, reason="this build has no kernels to limit")
def test_a_cpu_without_bfloat16_computes_in_float32() -> None:
    environment = {**os.environ, **AVX2, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["torch.float32"] * 3


@pytest.mark.skipif(
    not torch.cpu._is_amx_tile_supported() or AVX2.keys() & os.environ.keys(), reason="needs a CPU with AMX"
)
def test_a_cpu_with_amx_computes_in_bfloat16() -> None:
    assert choose_dtype() == torch.bfloat16
    assert choose_loading_dtype(torch.bfloat16, "cpu") == torch.bfloat16


def test_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_loading_dtype(torch.float32, "cpu") == torch.float32
    assert computes_fast(torch.float32, "mps")
    assert choose_dtype("mps") == torch.float32
    assert choose_dtype("xpu") == torch.bfloat16
    for native, expected in ((True, torch.bfloat16), (False, torch.float16)):  # Ampere and later; before
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert choose_dtype("cuda") == expected
        assert choose_loading_dtype(torch.bfloat16, "cuda:0") == expected
        assert choose_loading_dtype(torch.float16, "cuda:0") == torch.float16


def test_measuring_leaves_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    choose_dtype()
    assert torch.get_num_threads() == before
