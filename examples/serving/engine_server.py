"""Starting a serving engine from its own environment, asking it under the constraint, and the evidence of what came.

The scripts serve_vllm.py, serve_sglang.py and serve_llama_cpp.py state the command of their engine and call
`try_engine`. The environment is that of install_engine.sh.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from make_model import extend_smollm2, make_tiny_llava, make_tiny_model

import perceptok as pt

Command = Callable[[Path, Path, int], list[str]]
"""(the engine's Python, folder of the model, port) -> the command that serves the model."""


def find_engine_python(engine: str) -> Path:
    """The Python of an engine's environment; raises FileNotFoundError with the command that makes it."""
    root = Path(os.environ.get("PERCEPTOK_ENGINES", Path.home() / ".cache/perceptok/engines"))
    python = root / engine / "bin/python"
    if not python.exists():
        raise FileNotFoundError(f"{python} does not exist: run examples/serving/install_engine.sh {engine}")
    return python


def find_free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def run_server(command: list[str], url: str, log_file: Path, *, timeout: float = 900.0) -> Iterator[None]:
    """Start a server, wait until it serves a model, and end it with everything that it started."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
    }
    if command[0] != sys.executable:  # an engine's environment has packages of its own
        environment.pop("PYTHONPATH", None)
    with log_file.open("wb") as log:
        # A session of its own: engines start further processes, which are ended with them.
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=log_file.parent, start_new_session=True
        )
        try:
            _wait_for_server(process, url, log_file, timeout)
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_server(process: subprocess.Popen[bytes], url: str, log_file: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            pt.decoding.detect_engine(url, timeout=5)
        except pt.errors.EngineError:
            time.sleep(0.5)
        else:
            return
    log = log_file.read_text(encoding="utf-8", errors="replace")
    state = "does not answer" if process.poll() is None else f"ended with code {process.returncode}"
    raise RuntimeError(f"the server {state}; the end of its log:\n{log[-3000:]}")


def try_engine(engine: str, build_command: Command, *, has_images: bool = False) -> None:
    """Serve a model with an engine, ask it under the constraint and without, and print what came."""
    documentation = sys.modules["__main__"].__doc__
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint with perception tokens; default: a tiny one")
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M-Instruct, extended")
    if has_images:
        parser.add_argument("--llava", action="store_true", help="a tiny LLaVA, which is asked about an image")
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=256)
    arguments = parser.parse_args()
    python = find_engine_python(engine)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model
        if model is None:
            model = folder / "model"
            is_llava = has_images and arguments.llava
            (extend_smollm2 if arguments.smollm2 else make_tiny_llava if is_llava else make_tiny_model)(model)
        port = find_free_port()
        url, start = f"http://127.0.0.1:{port}", time.perf_counter()
        with run_server(build_command(python, model.resolve(), port), url, folder / "server.log"):
            print(f"started in {time.perf_counter() - start:.0f} s")
            for is_constrained in (True, False):
                check = pt.decoding.check_server(
                    url,
                    tokenizer=model,
                    num_requests=arguments.requests,
                    max_tokens=arguments.max_tokens,
                    is_constrained=is_constrained,
                    has_image="vision_config" in (model / "config.json").read_text(encoding="utf-8"),
                )
                print_evidence(check)


def print_evidence(check: pt.decoding.ServerCheck) -> None:
    """Print how many blocks and boxes came and what was wrong with the others."""
    engine, blocks, boxes = check.engine, check.blocks, check.boxes
    print(
        f"{engine.name} {engine.version}, {'constrained' if check.is_constrained else 'free'}: "
        f"{len(check.answers)} answers, {check.tokens} tokens, {check.tokens / check.seconds:.0f} tokens/s"
    )
    sizes = {str(block.size) for text in check.answers for block in pt.parse_generation(text).blocks}
    cut, broken = f"{blocks.cut} cut by the budget", f"{blocks.broken} broken"
    codes = f", all of {', '.join(sorted(sizes))} codes" if sizes else ""
    print(f"  {blocks.whole} blocks{codes}; {cut}, {broken}")
    cut, broken = f"{boxes.cut} cut by the budget", f"{boxes.broken} broken"
    print(f"  {boxes.whole} boxes; {cut}, {broken}, {boxes.unordered} out of order")
    print(f"  {check.stray_tokens} places with perception tokens outside of blocks and boxes")
    for failure in check.failures:
        print(f"  no answer: {failure}")
