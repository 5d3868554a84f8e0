"""Shared fixtures, and the selection of quick tests."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# One thread for each test process: several processes share the machine, and small tensors gain nothing from threads.
# Before torch and numpy are imported; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

QUICK = re.compile(
    r"tests/(test_(config|docstrings|errors|files|images|layers|limits|public_api|tokens)\.py|boxes/|losses/|"
    r"decoding/(grammar|reading|test_)|depth/test_(blocks|codec|maps|metrics|nearness|preprocessing)|"
    r"vocabulary/test_(alignment|initialization|lookup|remapping)|data/test_|evaluation/test_|"
    r"llava/training/test_config|scenes/test_primitives)"
)
"""Tests of the most important rules that need no training, subprocess, browser or model: `pytest -m quick`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick tests, without those that start processes."""
    for item in items:
        if QUICK.match(item.nodeid) and not re.search(r"process|accelerate|real|shell", item.name):
            item.add_marker("quick")


# Examples may be slow on a loaded machine.
settings.register_profile("perceptok", deadline=None)
settings.load_profile("perceptok")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the repository, or PERCEPTOK_SHARED; skips where it is missing."""
    beside = Path(__file__).resolve().parents[1] / ".." / "shared"
    folder = Path(os.environ.get("PERCEPTOK_SHARED", beside)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture
def cpu_seconds() -> Callable[[Callable[[], object]], float]:
    """Processor seconds of a call, the minimum of three, without garbage collection.

    A full collection walks every module that the test run has loaded: 0.2 s and more, whatever the call itself does.
    """

    def measure_once(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    def measure(work: Callable[[], object]) -> float:
        gc.disable()
        try:
            return min(measure_once(work) for _ in range(3))
        finally:
            gc.enable()

    return measure


@pytest.fixture
def in_two_processes(tmp_path: Path) -> Callable[[Path], list[Any]]:
    """Runs a script under torch's launcher, with a folder as its argument; returns the JSON that each process wrote."""

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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of playwright; skips where there is no browser."""
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("no Chromium on the path")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file in the browser; after the test there must be no errors, dialogs or requests to other places."""
    problems: list[str] = []
    pages = []

    def open_file(path: Path, theme: str = "light", fragment: str = "") -> Any:
        page = chromium.new_page(viewport={"width": 1400, "height": 900}, color_scheme=theme)
        pages.append(page)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda sent: sent.url.startswith(("file:", "data:")) or problems.append(sent.url))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_file
    for page in pages:
        page.close()
    assert problems == []


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of two workers on this machine, for the whole session: it takes seconds to start."""
    ray = pytest.importorskip("ray", reason="Ray (extra ray) is not installed")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()
