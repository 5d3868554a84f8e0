"""Measure what constraints cost in a serving engine: tokens per second, free and constrained, and the first token.

    python examples/serving/measure_engine.py vllm|sglang|llama.cpp [--smollm2] [--rounds 5]
    python examples/serving/measure_engine.py vllm --server-arguments --structured-outputs-config.backend guidance

Every request writes the same number of tokens: under a constraint a block, without one whatever comes, with the end of
sequence ignored. Rounds alternate between the two, so that each ratio compares neighbours in time.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai
from engine_server import find_engine_python, find_free_port, run_server
from make_model import extend_smollm2, make_tiny_model
from transformers import AutoTokenizer

import perceptok as pt
from perceptok.decoding import GrammarConfig, build_request_constraint, find_grammar_backend

SCRIPTS = {"vllm": "serve_vllm", "sglang": "serve_sglang", "llama.cpp": "serve_llama_cpp"}
BLOCK = GrammarConfig(force_block="first", max_blocks=1)
NUM_TOKENS = 102
"""Of an answer that is a block."""


class Asker:
    """Sends requests of a fixed length to a server.

    Args:
        url: Address of the server.
    """

    def __init__(self, url: str) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=1800, max_retries=0)
        self.model = self.client.models.list().data[0].id
        self.seed = 0

    def ask(self, body: dict[str, Any], max_tokens: int = NUM_TOKENS) -> int:
        """Send one request with another seed; returns the number of tokens of its answer."""
        self.seed += 1
        reply = self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": f"{self.seed} The depth map"}],
            max_tokens=max_tokens,
            temperature=1.0,
            seed=self.seed,
            extra_body={"ignore_eos": True, **body},
        )
        return reply.usage.completion_tokens if reply.usage else 0

    def measure_seconds(self, body: dict[str, Any]) -> float:
        """Wall time of a request for one token."""
        start = time.perf_counter()
        self.ask(body, 1)
        return time.perf_counter() - start

    def measure_rate(self, body: dict[str, Any], batch: int) -> float:
        """Tokens per second of some requests at once."""
        start = time.perf_counter()
        with ThreadPoolExecutor(batch) as pool:
            tokens = sum(pool.map(lambda _: self.ask(body), range(batch)))
        return tokens / (time.perf_counter() - start)


def measure_rates(asker: Asker, constrained: dict[str, Any], batch: int, rounds: int) -> str:
    """Median rates, free and constrained, and the median and range of their ratio in neighbouring rounds."""
    pairs = [(asker.measure_rate({}, batch), asker.measure_rate(constrained, batch)) for _ in range(rounds)]
    ratios = [with_grammar / free for free, with_grammar in pairs]
    free, with_grammar = (statistics.median(values) for values in zip(*pairs, strict=True))
    return f"{free:.0f} / {with_grammar:.0f} ({format_spread(ratios)})"


def measure_first_token(asker: Asker, build: Callable[[GrammarConfig], dict[str, Any]], rounds: int) -> tuple[str, ...]:
    """Seconds to the first token: free, with a grammar that the server has not seen, and with the same one again."""
    free, cold, cached = [], [], []
    for number in range(rounds):
        body = build(GrammarConfig(first="box", max_boxes=10 + number))  # each round has a grammar of its own
        free.append(asker.measure_seconds({}))
        cold.append(asker.measure_seconds(body))
        cached.append(asker.measure_seconds(body))
    return tuple(format_spread(values) for values in (free, cold, cached))


def format_spread(values: Sequence[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}"


def main() -> None:
    """Serve a model, measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=SCRIPTS)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint with perception tokens; default: a tiny one")
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M-Instruct, extended")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument(
        "--server-arguments", nargs=argparse.REMAINDER, default=[], help="further ones; the last option"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model, port = arguments.model or Path(name) / "model", find_free_port()
        if arguments.model is None:
            (extend_smollm2 if arguments.smollm2 else make_tiny_model)(model)
        tokenizer = AutoTokenizer.from_pretrained(model)
        vocab = pt.PerceptionVocabulary.from_pretrained(model, tokenizer)
        build_command = importlib.import_module(SCRIPTS[arguments.engine]).build_command
        command = build_command(find_engine_python(arguments.engine), model.resolve(), port)
        command += arguments.server_arguments
        url = f"http://127.0.0.1:{port}"
        with run_server(command, url, Path(name) / "server.log"):
            engine, asker = pt.decoding.detect_engine(url), Asker(url)
            build = partial(
                build_request_constraint,
                engine.name,
                vocab,
                tokenizer=tokenizer,
                grammar_backend=find_grammar_backend(engine, vocab),
            )
            size = len(str(build(GrammarConfig(first="box", max_boxes=10)))) / 1e3
            print(f"{engine.name} {engine.version}, {vocab.size} ids, constraint of {size:.0f} kB; median, range")
            asker.ask({})
            asker.ask(build(BLOCK))
            free, cold, cached = measure_first_token(asker, build, arguments.rounds)
            print(f"  seconds to the first token: free {free}; cold {cold}; cached {cached}", flush=True)
            for batch in arguments.batch_sizes:
                rates = measure_rates(asker, build(BLOCK), batch, arguments.rounds)
                print(f"  {batch} at once, tokens/s free / constrained (ratio): {rates}", flush=True)


if __name__ == "__main__":
    main()
