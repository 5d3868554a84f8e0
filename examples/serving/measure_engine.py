"""Measure what constraints cost in a serving engine: tokens per second, free and constrained, and the first token.

    python examples/serving/measure_engine.py vllm|sglang|llama.cpp|onnxruntime-genai [--smollm2] [--rounds 5]
    python examples/serving/measure_engine.py vllm --server-arguments --structured-outputs-config.backend guidance
    python examples/serving/measure_engine.py vllm --server http://localhost:8000 --model merged

Every request writes the same number of tokens: under a constraint a block, without one whatever comes, with the end of
sequence ignored. Rounds alternate between the two, so that each ratio compares neighbours in time. Where other work
runs, tokens per processor second of the engine's processes on this machine say more than tokens per second.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import openai
import psutil
from engine_server import find_engine_python, find_free_port, run_server
from make_model import extend_smollm2, make_tiny_model
from transformers import AutoTokenizer

import perceptok as pt
from perceptok.decoding import GrammarConfig, build_request_constraint, find_grammar_backend

SCRIPTS = {"vllm": "serve_vllm", "sglang": "serve_sglang", "llama.cpp": "serve_llama_cpp"}
BLOCK = GrammarConfig(force_block="first", max_blocks=1)
NUM_TOKENS = 102
"""Of an answer that is a block."""
MIN_SECONDS = 2.0
"""Of each rate: processor time is read in steps of 0.01 s."""


def find_server_process(url: str) -> psutil.Process:
    """The process of this machine that listens on a server's port."""
    port = urlsplit(url).port
    listening = (item for item in psutil.net_connections("tcp") if item.status == psutil.CONN_LISTEN)
    return psutil.Process(next(item.pid for item in listening if item.laddr.port == port))


def read_processor_seconds(process: psutil.Process) -> float:
    """The processor time of a process and those that it started."""
    return sum(sum(item.cpu_times()[:2]) for item in (process, *process.children(recursive=True)))


class Asker(Protocol):
    """Lets an engine generate answers of a fixed length."""

    def ask(self, constraint: Any, batch: int = 1, max_tokens: int = NUM_TOKENS) -> int:
        """Generate a batch of answers with other seeds, `constraint` None for free ones; returns their tokens."""

    def read_processor_seconds(self) -> float:
        """The processor time that the engine has taken so far, of all its processes."""


class ServerAsker:
    """Sends requests to a server, those of a batch at once.

    Args:
        url: Address of the server.
    """

    def __init__(self, url: str) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=1800, max_retries=0)
        self.model = self.client.models.list().data[0].id
        self.seed = 0
        self.process = find_server_process(url)

    def read_processor_seconds(self) -> float:
        """The processor time of the server and the processes that it started."""
        return read_processor_seconds(self.process)

    def ask(self, constraint: dict[str, Any] | None, batch: int = 1, max_tokens: int = NUM_TOKENS) -> int:
        """Send the requests of a batch; returns the number of tokens of their answers."""
        seeds = range(self.seed, self.seed + batch)
        self.seed += batch
        with ThreadPoolExecutor(batch) as pool:
            return sum(pool.map(lambda seed: self._send(seed, constraint or {}, max_tokens), seeds))

    def _send(self, seed: int, constraint: dict[str, Any], max_tokens: int) -> int:
        reply = self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": f"{seed} The depth map"}],
            max_tokens=max_tokens,
            temperature=1.0,
            seed=seed,
            extra_body={"ignore_eos": True, **constraint},
        )
        return reply.usage.completion_tokens if reply.usage else 0


class OnnxAsker:
    """Generates in this process by onnxruntime-genai, a batch as one call.

    Args:
        folder: The converted model.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai

        self.library = onnxruntime_genai
        self.model = onnxruntime_genai.Model(str(folder))
        self.tokenizer = onnxruntime_genai.Tokenizer(self.model)
        self.seed = 0

    def read_processor_seconds(self) -> float:
        """The processor time of this process."""
        return time.process_time()

    def ask(self, constraint: str | None, batch: int = 1, max_tokens: int = NUM_TOKENS) -> int:
        """Generate a batch; returns the number of its tokens."""
        self.seed += 1
        prompt = self.tokenizer.encode(f"{self.seed % 10} The depth map")
        parameters, length = self.library.GeneratorParams(self.model), len(prompt) + max_tokens
        parameters.set_search_options(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, random_seed=self.seed, batch_size=batch,
            max_length=length, min_length=length,
        )  # fmt: skip
        if constraint is not None:
            parameters.set_guidance("lark_grammar", constraint)
        generator = self.library.Generator(self.model, parameters)
        generator.append_tokens([prompt] * batch if batch > 1 else prompt)
        while not generator.is_done():
            generator.generate_next_token()
        return sum(len(generator.get_sequence(index)) - len(prompt) for index in range(batch))


def measure_seconds(asker: Asker, constraint: Any) -> float:
    """Wall time of a request for one token."""
    start = time.perf_counter()
    asker.ask(constraint, max_tokens=1)
    return time.perf_counter() - start


def measure_rate(asker: Asker, constraint: Any, batch: int) -> tuple[float, float]:
    """Tokens per second of batches, and per processor second of the engine."""
    start, processor = time.perf_counter(), asker.read_processor_seconds()
    tokens, seconds = 0, 0.0
    while seconds < MIN_SECONDS:
        tokens += asker.ask(constraint, batch)
        seconds = time.perf_counter() - start
    processor = asker.read_processor_seconds() - processor
    return tokens / seconds, tokens / max(processor, 0.01)


def measure_rates(asker: Asker, constraint: Any, batch: int, rounds: int) -> Iterator[str]:
    """Median rates, free and constrained, and the median and range of their ratio: by the clock, by the processor."""
    pairs = [(measure_rate(asker, None, batch), measure_rate(asker, constraint, batch)) for _ in range(rounds)]
    for index in range(2):
        free, constrained = ([pair[kind][index] for pair in pairs] for kind in range(2))
        ratios = [second / first for first, second in zip(free, constrained, strict=True)]
        yield f"{statistics.median(free):.0f} / {statistics.median(constrained):.0f} ({format_spread(ratios)})"


def measure_first_token(asker: Asker, build: Callable[[GrammarConfig], Any], rounds: int) -> tuple[str, ...]:
    """Seconds to the first token: free, with a grammar that the server has not seen, and with the same one again."""
    free, cold, cached = [], [], []
    for number in range(rounds):
        constraint = build(GrammarConfig(first="box", max_boxes=10 + number))  # each round has a grammar of its own
        free.append(measure_seconds(asker, None))
        cold.append(measure_seconds(asker, constraint))
        cached.append(measure_seconds(asker, constraint))
    return tuple(format_spread(values) for values in (free, cold, cached))


def format_spread(values: Sequence[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}"


@contextmanager
def open_engine(
    name: str, model: Path, server: str | None, arguments: Sequence[str], folder: Path
) -> Iterator[tuple[str, Asker, Callable[[GrammarConfig], Any]]]:
    """An engine and its version, what asks it, and what builds a constraint; it is started unless there is a server."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    vocab = pt.PerceptionVocabulary.from_pretrained(model, tokenizer)
    if name == "onnxruntime-genai":
        converted = pt.llava.convert_checkpoint(model, folder / "onnx", format="onnx")
        build: Callable[[GrammarConfig], Any] = partial(pt.decoding.build_lark_grammar, vocab, tokenizer=tokenizer)
        yield f"{name} {metadata.version('onnxruntime-genai')}", OnnxAsker(converted), build
        return
    with ExitStack() as stack:
        if server is None:
            build_command, port = importlib.import_module(SCRIPTS[name]).build_command, find_free_port()
            command = [*build_command(find_engine_python(name), model.resolve(), port), *arguments]
            server = f"http://127.0.0.1:{port}"
            stack.enter_context(run_server(command, server, folder / "server.log"))
        engine = pt.decoding.detect_engine(server)
        backend = find_grammar_backend(engine, vocab)
        build = partial(build_request_constraint, engine.name, vocab, tokenizer=tokenizer, grammar_backend=backend)
        yield f"{engine.name} {engine.version}", ServerAsker(server), build


def main() -> None:
    """Serve a model, measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=[*SCRIPTS, "onnxruntime-genai"])
    parser.add_argument("--model", type=Path, help="folder of a checkpoint with perception tokens; default: a tiny one")
    parser.add_argument("--server", help="address of a server that runs already and serves --model")
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M-Instruct, extended")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument(
        "--server-arguments", nargs=argparse.REMAINDER, default=[], help="further ones; the last option"
    )
    arguments = parser.parse_args()
    if arguments.server and not arguments.model:
        parser.error("--server needs the folder of the model that it serves: --model")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or folder / "model"
        if arguments.model is None:
            (extend_smollm2 if arguments.smollm2 else make_tiny_model)(model)
        engine = open_engine(arguments.engine, model, arguments.server, arguments.server_arguments, folder)
        with engine as (title, asker, build):
            size = len(str(build(GrammarConfig(first="box", max_boxes=10)))) / 1e3
            print(f"{title}, constraint of {size:.0f} kB; median, range", flush=True)
            block = build(BLOCK)
            for constraint in (None, block):
                asker.ask(constraint)
            free, cold, cached = measure_first_token(asker, build, arguments.rounds)
            print(f"  seconds to the first token: free {free}; cold {cold}; cached {cached}", flush=True)
            for batch in arguments.batch_sizes:
                rate, processor = measure_rates(asker, block, batch, arguments.rounds)
                print(f"  {batch} at once, tokens/s free / constrained (ratio): {rate}")
                print(f"    per processor second: {processor}", flush=True)


if __name__ == "__main__":
    main()
