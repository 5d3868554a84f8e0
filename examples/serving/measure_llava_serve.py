"""Measure `perceptok llava serve`: concurrent clients against one at a time, and a load above what the queue takes.

    python examples/serving/measure_llava_serve.py [--model my-adapter] [--rounds 3]

Every request is about an image of its own and forces a depth block: 104 tokens. Rounds alternate between the numbers of
clients, so that each gain compares neighbours in time. Where other work runs, tokens per processor second of the server
say more than tokens per second.
"""

from __future__ import annotations

import argparse
import base64
import io
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
from engine_server import find_free_port, run_server
from make_model import make_tiny_llava
from measure_engine import find_server_process, format_spread, read_processor_seconds
from PIL import Image

MAX_QUEUE = 16
NUM_CLIENTS = 24
"""Of the load; 16 of them are answered, as many wait, and the rest are refused."""


class Client:
    """Asks the server about images.

    Args:
        url: Address of the server.
    """

    def __init__(self, url: str) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=1800, max_retries=0)
        self.model = self.client.models.list().data[0].id

    def ask(self, number: int) -> str:
        """Send one request; returns what came: a block, another answer, or the status of a refusal."""
        url = make_image_url(number)
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": f"{number}: Why?"}]
        messages: Any = [{"role": "user", "content": content}]
        fields = {"perception": {"force_block": "first", "map": False}}
        try:
            reply: Any = self.client.chat.completions.create(
                model=self.model, messages=messages, max_tokens=104, extra_body=fields
            )
        except openai.APIStatusError as error:
            return f"refused with {error.status_code}"
        codes = reply.choices[0].perception["codes"]
        return "answered with a whole block" if codes and len(codes) == 100 else "answered without a whole block"

    def ask_all(self, numbers: Iterable[int], clients: int) -> Counter[str]:
        """Send requests by a number of clients at once; returns how many had which outcome."""
        with ThreadPoolExecutor(clients) as pool:
            return Counter(pool.map(self.ask, numbers))


def make_image_url(number: int) -> str:
    """A gradient, turned by an angle of its own, as a data URL."""
    file = io.BytesIO()
    Image.linear_gradient("L").rotate(7 * number).resize((90, 60)).convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def measure_clients(client: Client, server: psutil.Process, numbers: list[int], rounds: int, requests: int) -> None:
    """Print requests per second, and per processor second of the server, and their gains over the first number."""
    rates: dict[int, list[tuple[float, float]]] = {clients: [] for clients in numbers}
    for _ in range(rounds):
        for clients in numbers:
            start, processor = time.perf_counter(), read_processor_seconds(server)
            outcomes = client.ask_all(range(requests), clients)
            seconds, processor = time.perf_counter() - start, read_processor_seconds(server) - processor
            assert outcomes == {"answered with a whole block": requests}, outcomes
            rates[clients].append((requests / seconds, requests / processor))
    for clients in numbers:
        for index, unit in enumerate(("s", "processor second")):
            values = [rate[index] for rate in rates[clients]]
            gains = [value / rate[index] for value, rate in zip(values, rates[numbers[0]], strict=True)]
            rate = f"{104 * statistics.median(values):.0f} tokens per {unit}"
            print(f"{clients} clients: {rate}, gain {format_spread(gains)}", flush=True)


def measure_load(client: Client, server: psutil.Process, rounds: int) -> None:
    """Print the outcomes of a hundred requests at once, round by round, and the server's memory after each."""
    for number in range(rounds):
        outcomes = client.ask_all(range(100 * number, 100 * (number + 1)), NUM_CLIENTS)
        memory = server.memory_info().rss / 2**20
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(f"load, round {number + 1}: {counts}; {sum(outcomes.values())} in all; {memory:.0f} MiB", flush=True)


def main() -> None:
    """Serve a model, measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model or an adapter; default: a tiny LLaVA")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16, help="per round and number of clients")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), find_free_port()
        if arguments.model is None:
            make_tiny_llava(folder / "model")
        model = (arguments.model or folder / "model").resolve()
        command = [sys.executable, "-m", "perceptok_cli.main", "llava", "serve", str(model), "--port", str(port)]
        command += ["--max-batch-size", "16", "--batch-wait", "0.02", "--max-queue", str(MAX_QUEUE)]
        url = f"http://127.0.0.1:{port}"
        with run_server(command, url, folder / "server.log"):
            client, server = Client(url), find_server_process(url)
            client.ask_all(range(16), 16)
            measure_clients(client, server, arguments.clients, arguments.rounds, arguments.requests)
            measure_load(client, server, arguments.rounds)


if __name__ == "__main__":
    main()
