"""Benchmarks named by an id of the Hub: without a network they are refused after one request."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import huggingface_hub.constants
import pytest

from perceptok.errors import EvaluationError
from perceptok.evaluation import load_benchmark
from tests.llava.fake_hub import serve_fake_hub

datasets = pytest.importorskip("datasets")


@pytest.fixture
def connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Connections to a Hub that closes each of them at once, as a firewall does."""
    taken: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                taken.append(address)
                connection.close()

        Thread(target=refuse, daemon=True).start()
        use_address(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path)
        yield taken


def use_address(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    for module in (huggingface_hub.constants, datasets.config):
        for name in ("ENDPOINT", "HF_ENDPOINT"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")


@pytest.mark.parametrize("name", ["blink-depth", "cvbench-count", "seed-count"])
def test_without_a_network(connections: list[object], name: str) -> None:
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(
        EvaluationError, match=r"owner/rows: not a local file or folder, the Hugging Face Hub cannot be"
    ):
        load_benchmark(name, "owner/rows")
    assert len(connections) <= 2  # 12 with the repetitions
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_data_set_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_fake_hub() as hub:
        use_address(monkeypatch, hub.url, tmp_path)
        with pytest.raises(EvaluationError, match=r"owner/rows .*there is no such repository, or it is private"):
            load_benchmark("blink-depth", "owner/rows")
        assert len(hub.requests) == 1
