"""Models for the tests of engines, and the engines' environments.

One command each; an engine that is not installed is skipped. Continuous integration runs vLLM's:

    examples/serving/install_engine.sh vllm && python -m pytest tests/engines -k vllm
    examples/serving/install_engine.sh sglang && python -m pytest tests/engines -k sglang
    examples/serving/install_engine.sh llama.cpp && python -m pytest tests/engines -k llama
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def run_engine_server(
    engine: str, script: str, model: Path, folder: Path, settings: Sequence[str] = ()
) -> Iterator[str]:
    """The address of a model that an engine serves by the command of its script; skips where it is not installed."""
    import engine_server

    try:
        python = engine_server.find_engine_python(engine)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    port = engine_server.find_free_port()
    url = f"http://127.0.0.1:{port}"
    command = importlib.import_module(script).build_command(python, model, port)
    with engine_server.run_server([*command, *settings], url, folder / "server.log"):
        yield url


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the tiny model, served by the engine that the module names."""
    folder = tmp_path_factory.mktemp("server")
    with run_engine_server(request.module.ENGINE, request.module.SCRIPT, tiny_model, folder) as url:
        yield url
