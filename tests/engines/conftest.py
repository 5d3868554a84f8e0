"""Models for the tests of engines, and the engines' environments."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "examples/serving"
sys.path.insert(0, str(SCRIPTS))

import make_model  # noqa: E402


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model whose head prefers perception tokens."""
    folder = tmp_path_factory.mktemp("engines") / "model"
    make_model.make_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the tiny model, served by the engine that the module names, by the command of its script."""
    import engine_server

    try:
        python = engine_server.find_engine_python(request.module.ENGINE)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    port = engine_server.find_free_port()
    url, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("server") / "server.log"
    command = importlib.import_module(request.module.SCRIPT).build_command(python, tiny_model, port)
    with engine_server.run_server(command, url, log):
        yield url
