"""Runs the experiments on reading without images, one JSON line each; an interrupted queue continues.

    python examples/reading/run_text.py --output reading-results --seeds 3

Several processes may work on one folder: each takes the next experiment that no other has taken.
"""

from __future__ import annotations

import argparse
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from counting import Listing
from lessons import measure_rule, procedural_lessons
from training import Data, Setting, prepare_base, train

import perceptok as pt
from perceptok.precision import choose_dtype

POINTS = Setting()
COUNTING = Setting(task="counting", updates=400)


def change_form(**changes: object) -> Setting:
    """The default with another text."""
    return replace(POINTS, form=replace(POINTS.form, **changes))  # type: ignore[arg-type]


GROUPS: dict[str, dict[str, Setting]] = {
    "curriculum and block": {
        "all sizes at once": replace(POINTS, curriculum="all"),
        "keyed": change_form(block="keyed"),
        "keyed, all sizes at once": replace(change_form(block="keyed"), curriculum="all"),
    },
    "evidence": {
        "no evidence": change_form(evidence="none"),
        "ten steps": change_form(evidence="bins"),
        "digits": change_form(evidence="digits"),
        "code and digits": change_form(evidence="code_digits"),
    },
    "running conclusion": {
        "nearest so far": change_form(leader=True),
        "code and digits, nearest so far": change_form(evidence="code_digits", leader=True),
        "keyed, code and digits, nearest so far": change_form(block="keyed", evidence="code_digits", leader=True),
        "Eq. 1, code and digits, nearest so far": replace(
            change_form(evidence="code_digits", leader=True), codes_loss="soft"
        ),
    },
    "names of points": {
        "no places": change_form(naming="none"),
        "PIXEL tokens": change_form(naming="pixel"),
        "row and column": change_form(naming="cell"),
        "x and y": change_form(naming="xy"),
    },
    "layers and model": {
        "1 layer": replace(POINTS, layers=1),
        "3 layers": replace(POINTS, layers=3),
        "4 layers": replace(POINTS, layers=4),
        "SmolLM2": replace(POINTS, model="smollm2", learning_rate=1e-3),
        "SmolLM2, random weights": replace(POINTS, model="smollm2_random", learning_rate=1e-3),
        "SmolLM2, 8 layers": replace(POINTS, model="smollm2", layers=8, learning_rate=1e-3),
    },
    "embeddings": {
        "normal": replace(POINTS, init="normal"),
        "mean": replace(POINTS, init="mean"),
        "ordinal": replace(POINTS, init="ordinal"),
        "ordinal, ids sorted": replace(POINTS, init="ordinal", ids="sorted"),
    },
    "loss": {
        "conclusion 5": replace(POINTS, conclusion_weight=5),
        "conclusion 20": replace(POINTS, conclusion_weight=20),
        "block in the loss": replace(POINTS, block_loss="one_hot"),
        "block in the loss, conclusion 20": replace(POINTS, block_loss="one_hot", conclusion_weight=20),
        "Eq. 1 in place of cross entropy": replace(POINTS, codes_loss="soft"),
        "Eq. 1 beside cross entropy": replace(POINTS, codes_loss="beside"),
    },
    "order of the text": {
        "question after the block": change_form(order="block_question"),
        "the same, not restated": change_form(order="block_question", restated=False),
        "question before the block": change_form(order="question_block"),
        "AURORA's texts": change_form(
            naming="xy", evidence="none", order="question_block", restated=False, wording="aurora"
        ),
    },
    "counting": {
        f"counting: {name}": replace(COUNTING, listing=Listing(name))  # type: ignore[arg-type]
        for name in ("plain", "sorted", "numbered", "total", "aurora")
    },
}
"""What is varied -> name -> setting; each differs from the default in what its name says."""
EXPERIMENTS = {"default": POINTS, **{name: value for group in GROUPS.values() for name, value in group.items()}}


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Whether this process may run an experiment; a lock that ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def read_results(folder: Path) -> list[dict[str, object]]:
    """The finished experiments; an incomplete last line is left out."""
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append_result(folder: Path, result: dict[str, object]) -> None:
    """Append a line; the rest of a line that was interrupted is removed."""
    path = folder / "results.jsonl"
    path.touch()
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, 2)
        file.write(f"{json.dumps(result)}\n".encode())


def run(
    folder: Path,
    seeds: int,
    names: list[str],
    data: Data,
    changes: dict[str, object],
    *,
    eval_steps: int = 100,
    device: str = "cpu",
) -> None:
    """Run every experiment that is not finished: seed 0 of all first, then the next seed."""
    layers = max([replace(EXPERIMENTS[name], **changes).layers for name in names])  # type: ignore[arg-type]
    base = prepare_base(folder / f"base-{8 if layers <= 8 else 30}", 8 if layers <= 8 else 30)
    for seed in range(seeds):
        for name in names:
            setting = replace(EXPERIMENTS[name], seed=seed, **changes)  # type: ignore[arg-type]
            with claim(folder / "claims" / f"{name} {seed}".replace("/", "-")) as is_ours:
                done = any((result["name"], result["seed"]) == (name, seed) for result in read_results(folder))
                if done or not is_ours:
                    continue
                print(f"{name}, seed {seed}", flush=True)
                bf16 = setting.model != "small" and choose_dtype(device) == torch.bfloat16
                outcome = train(
                    setting,
                    data,
                    base,
                    eval_steps=eval_steps,
                    bf16=bf16,
                    device=device,
                    report=lambda line: print(line, flush=True),
                )
                append_result(
                    folder, {"name": name, "seed": seed, "setting": asdict(setting), **outcome.to_dict(), "bf16": bf16}
                )


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="Folder for results.jsonl and cached lessons.")
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds of each experiment.")
    parser.add_argument("--only", nargs="*", default=list(EXPERIMENTS), help="Names of experiments.")
    parser.add_argument("--maps", type=int, default=500, help="Procedural maps for training; also mirrored.")
    parser.add_argument("--heldout", type=int, default=200, help="Procedural maps of other scenes; also mirrored.")
    parser.add_argument("--model", choices=("smollm2", "smollm2_random", "small"), help="Another model.")
    parser.add_argument("--layers", type=int, help="Another number of layers; SmolLM2 has 30.")
    parser.add_argument("--device", default="cpu", help="Where to train, such as cuda.")
    parser.add_argument("--updates", type=int, help="Another number of updates.")
    parser.add_argument("--blocks", type=int, help="Another number of blocks in a batch.")
    parser.add_argument("--learning-rate", type=float, help="Another learning rate.")
    parser.add_argument("--eval-steps", type=int, default=100, help="Updates between two evaluations.")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    codec = pt.DepthCodec.from_pretrained()
    data = Data(
        procedural_lessons(1, options.maps, codec, options.output),
        procedural_lessons(2, options.heldout, codec, options.output),
        codec,
    )
    rule, chance = measure_rule(data.heldout, data.train.levels)
    print(
        f"{len(data.train)} blocks, {len(data.heldout)} held out; right by each code's mean nearness {rule:.1%}, by "
        f"guessing {chance:.1%}",
        flush=True,
    )
    given = {
        key: value
        for key in ("model", "layers", "updates", "blocks", "learning_rate")
        if (value := getattr(options, key)) is not None
    }
    run(
        options.output,
        options.seeds,
        options.only,
        data,
        given,
        eval_steps=options.eval_steps,
        device=options.device,
    )


if __name__ == "__main__":
    main()
