"""Worker processes end when their parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import os, sys, time
from perceptok.jobs import LocalEngine

def report(number):
    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
    time.sleep(600)

if __name__ == "__main__":
    list(LocalEngine(2).map(report, range(2)))
"""


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "pids").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(tmp_path / "pids")], env=environment)
    try:
        wait_for(lambda: bool(list((tmp_path / "pids").iterdir())) or parent.poll() is not None)
        workers = [int(path.name) for path in (tmp_path / "pids").iterdir()]
        assert workers
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not any(map(is_alive, workers)))
    assert not any(map(is_alive, workers))


def wait_for(condition: object, seconds: float = 120) -> None:
    """Wait until a condition holds, or for a time that no machine needs."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
