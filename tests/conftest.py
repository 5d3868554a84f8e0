"""Fixtures that every room's tests share."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

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
