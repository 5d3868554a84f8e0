"""Fixtures that every room's tests share."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is not a failed property.
settings.register_profile("perceptok", deadline=None)
settings.load_profile("perceptok")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the repository, or PERCEPTOK_SHARED; skips where there is none."""
    beside = Path(__file__).resolve().parents[1] / ".." / "shared"
    folder = Path(os.environ.get("PERCEPTOK_SHARED", beside)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture
def cpu_seconds() -> Callable[[Callable[[], object]], float]:
    """Processor seconds of one call, the least of three; collected before and not during.

    A full collection walks every module that the test run has loaded: 0.2 s and more, whatever the call itself does.
    """

    def once(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    def measured(work: Callable[[], object]) -> float:
        gc.collect()
        gc.disable()
        try:
            return min(once(work) for _ in range(3))
        finally:
            gc.enable()

    return measured


@pytest.fixture
def in_two_processes(tmp_path: Path) -> Callable[[Path], list[Any]]:
    """Runs a script under torch's launcher, with a folder as its argument; gives what each wrote there as JSON."""

    def run(script: Path) -> list[Any]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [*launcher, str(script), str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]

    return run
