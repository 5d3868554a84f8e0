"""Fixtures that the tests of every package share, and the selection of quick tests."""

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
    r"tests/(test_(configs|docstrings|files|images|layers|limits|public_api|tokens)\.py|files/|boxes/|"
    r"decoding/(grammar|reading|test_)|depth/(test_(blocks|preprocessing|precision|units|metrics|codec)|maps/(?!test_sizes))|"
    r"vocabulary/test_(alignment|lookup|manifest|remapping|initialization)|losses/|"
    r"data/(records|test_)|evaluation/(benchmarks|test_)|llava/training/test_config|scenes/test_primitives)"
)
"""Tests of the most important rules that need no training, subprocess, browser or model: `pytest -m quick`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick tests; whatever starts processes among them is left out."""
    for item in items:
        if QUICK.match(item.nodeid) and not re.search(r"process|accelerate|real|shell", item.name):
            item.add_marker("quick")


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
    """Processor seconds of one call, the least of three, without garbage collection.

    A full collection walks every module that the test run has loaded: 0.2 s and more, whatever the call itself does.
    """

    def once(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    def measured(work: Callable[[], object]) -> float:
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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of playwright's; skips where there is no browser."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on the path")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file as a page; at the end of the test nothing may have been complained of, nor fetched."""
    complaints: list[str] = []
    pages = []

    def open_page(path: Path, theme: str = "light", fragment: str = "") -> Any:
        page = chromium.new_page(viewport={"width": 1400, "height": 900}, color_scheme=theme)
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda sent: sent.url.startswith(("file:", "data:")) or complaints.append(sent.url))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of two workers on this machine, for the whole session: it takes seconds to start."""
    ray = pytest.importorskip("ray", reason="Ray (extra ray) is not installed")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()
