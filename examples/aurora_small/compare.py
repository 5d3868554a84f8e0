r"""Perception tokens against direct labels: the same small model, the same images, the same number of updates.

    python examples/aurora_small/compare.py perceptok-demo/compare

Models start from the same weights: trained to write blocks, boxes and a chain of thought ("cot"), the same after
reading lessons and with the cells of the points in the answer ("cells"), or answers alone ("direct"); with the answers
of 500 scenes, or of all. Each answers questions about held-out scenes through `PerceptionPipeline`; then the blocks of
those that write them are replaced. The same command continues an interrupted run, in the middle of a training.

On an accelerator, with all of SmolLM2-135M:

    python examples/aurora_small/compare.py OUTPUT --device cuda --layers 30 --pieces 49152 --scenes 20000 \
        --steps 12000 --batch-size 32 --learning-rate 5e-4 --save-steps 500 --regimes cells direct
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from page import write_reading_page
from samples import SIDE, YardSamples, average_cells, find_cell, make_samples
from training import Encoder, Setup, train

import perceptok as pt
from perceptok.data import PerceptionRecord
from perceptok.decoding import read_evidence
from perceptok.evaluation import Outcome, Scores, compare_scores, evaluate, load_benchmark
from perceptok.files import atomic_folder, atomic_write
from perceptok.images import open_image
from perceptok.llava import Request, small
from perceptok_cli.console import progress_bar

TRAINING_SEED, HELD_OUT_SEED = 1, 2
"""Seeds of families of scenes, which share no scene."""
REGIMES = ("cot", "cells", "direct")
QUESTIONS = {"depth": "depth-direct", "counting": "counting-direct"}
"""Task -> the kind of the records that every model is asked: all regimes have the same questions."""


def answer_questions(
    pipe: pt.PerceptionPipeline, held_out: YardSamples, records: Sequence[PerceptionRecord], **changes: Any
) -> dict[str, pt.llava.PerceptionAnswer]:
    """Answers to records of held-out scenes, by id."""
    requests = [
        Request((open_image(held_out.folder / record.images[0]),), record.question, record.choices)
        for record in records
    ]
    answers = pipe.answers(requests, max_new_tokens=230, batch_size=32, **changes)
    return {record.id: answer for record, answer in zip(records, answers, strict=True)}


def score_answers(answers: Mapping[str, pt.llava.PerceptionAnswer], held_out: YardSamples, kind: str) -> Scores:
    """Scores by the rule of all benchmarks."""
    return evaluate(
        {name: answer.text for name, answer in answers.items()},
        load_benchmark("records", held_out.folder / f"{kind}.jsonl"),
    )


def measure_evidence(
    answers: Mapping[str, pt.llava.PerceptionAnswer],
    samples: YardSamples,
    held_out: YardSamples,
    codec: pt.DepthCodec,
    records: Sequence[PerceptionRecord],
) -> dict[str, Any]:
    """The error of the generated maps, the answers read from them by rule, and the share that agrees with its map."""
    scenes = [int(str(record.provenance["scene"])) for record in records]
    truth = held_out.nearness[scenes].astype(np.float32)
    mean = samples.nearness.mean(axis=0, dtype=np.float32)
    true_codes = np.array([record.evidence.codes for record in records]).reshape(-1, 10, 10)
    maps = {
        "written": np.stack(
            [mean if (depth := answers[record.id].nearness) is None else depth[::2, ::2] for record in records]
        ),
        "codec": np.asarray(codec.decode(true_codes))[:, ::2, ::2],
        "mean map": np.broadcast_to(mean, truth.shape),
    }
    points = [
        (np.array([(marker.x, marker.y) for marker in record.evidence.markers]) * len(truth[0]) // SIDE).astype(
            np.int64
        )
        for record in records
    ]
    order: dict[str, dict[str, float]] = {}
    for name, values in maps.items():
        correct = [small.finds_nearest(*row) for row in zip(values, points, truth, strict=True)]
        order[name] = {
            str(count): float(np.mean([hit for hit, at in zip(correct, points, strict=True) if len(at) == count]))
            for count in sorted({len(at) for at in points})
        }
    return {
        "rmse": {name: small.compute_rmse(values, truth) for name, values in maps.items()},
        "closest by rule": order,
        "answer agrees with own block": measure_agreement(
            {name: answer.answer for name, answer in answers.items()}, records, maps["written"]
        ),
        "valid": measure_valid_blocks(answers),
    }


def measure_agreement(
    answers: Mapping[str, str | None], records: Sequence[PerceptionRecord], maps: NDArray[np.floating[Any]]
) -> float:
    """The share of answers that name the point whose cell is the nearest, by its mean, on maps (N, H, H)."""
    nearest = [
        max(record.evidence.markers, key=lambda marker: values[find_cell(marker)]).letter
        for record, values in zip(records, average_cells(maps), strict=True)
    ]
    return float(np.mean([answers[record.id] == letter for record, letter in zip(records, nearest, strict=True)]))


def measure_valid_blocks(answers: Mapping[str, pt.llava.PerceptionAnswer]) -> float:
    """The share of answers with exactly one block and nothing malformed."""
    return float(
        np.mean([len(answer.blocks) == 1 and read_evidence(answer.text).problems == () for answer in answers.values()])
    )


def train_model(
    folder: Path,
    setup: Setup,
    samples: YardSamples,
    held_out: YardSamples,
    codec: pt.DepthCodec,
    config: small.DemoConfig,
    device: str = "cpu",
) -> Path:
    """The folder of a trained model; trained where it is not there yet, and continued where it was interrupted."""
    path = folder / f"{setup.regime}-{setup.labels}"
    if not path.is_dir():
        model, processor, vocab = small.prepare_model(folder, codec, config)
        model.to(device)
        checkpoint = folder / f"{path.name}.checkpoint"
        with progress_bar(path.name, setup.training.max_steps) as advance:
            curve = train(
                model, Encoder(processor), vocab, samples, held_out, setup, codec, advance, checkpoint=checkpoint
            )
        with atomic_folder(path) as building:
            for part in (model, processor, vocab):
                part.save_pretrained(building)
            (building / "curve.json").write_text(json.dumps({"setup": asdict(setup), "curve": curve}, indent=2))
        for leftover in folder.glob(f"{path.name}.checkpoint*"):
            leftover.unlink()
    return path


def evaluate_model(
    path: Path,
    setup: Setup,
    samples: YardSamples,
    held_out: YardSamples,
    codec: pt.DepthCodec,
    device: str = "cpu",
) -> tuple[dict[str, Any], dict[str, Scores]]:
    """Figures and scores of a trained model."""
    pipe = pt.PerceptionPipeline.from_pretrained(path, codec=codec, device=device)
    figures: dict[str, Any] = {}
    scores: dict[str, Scores] = {}
    for task, kind in QUESTIONS.items():
        records = held_out.records[kind]
        writes_block = task == "depth" and setup.regime != "direct"
        block = {"force_block": "somewhere"} if writes_block else {}
        answers = answer_questions(pipe, held_out, records, **block)
        scores[task] = add_scores(figures, task, answers, held_out, kind)
        if writes_block:
            figures["evidence"] = measure_evidence(answers, samples, held_out, codec, records)
            free = answer_questions(pipe, held_out, records, constraints=False)
            figures["valid without constraints"] = measure_valid_blocks(free)
    return figures, scores


def add_scores(
    figures: dict[str, Any],
    task: str,
    answers: Mapping[str, pt.llava.PerceptionAnswer],
    held_out: YardSamples,
    kind: str,
) -> Scores:
    """Score answers, and add the scores to the figures."""
    scores = score_answers(answers, held_out, kind)
    groups = {name: {key: score._asdict() for key, score in group.items()} for name, group in scores.groups.items()}
    figures[task] = {"overall": scores.overall._asdict(), **groups}
    return scores


def replace_blocks(
    path: Path, held_out: YardSamples, codec: pt.DepthCodec, count: int, device: str = "cpu"
) -> dict[str, Any]:
    """Accuracy with other blocks in place of the model's own; also written as a page beside the model."""
    pipe = pt.PerceptionPipeline.from_pretrained(path, codec=codec, device=device)
    kinds = ("own", "oracle", "random", "constant", "other", "shuffled", "none")
    records = held_out.records[QUESTIONS["depth"]][:count]
    replacement = pt.evaluation.replacement_test(pipe, records, kinds, folder=held_out.folder, max_new_tokens=100)
    answers = answer_questions(pipe, held_out, records, force_block="somewhere")
    write_reading_page(path.with_suffix(".html"), records, answers, replacement, f"{path.name}, held-out scenes.")
    return {
        "accuracy": {kind: score._asdict() for kind, score in replacement.scores.items()},
        "agrees with the given block": {
            kind: measure_given_agreement(outcomes, records, codec)
            for kind, outcomes in replacement.outcomes.items()
            if kind != "none"
        },
        "changed": dict(replacement.changed),
        "skipped": len(replacement.skipped),
    }


def measure_given_agreement(
    outcomes: Sequence[Outcome], records: Sequence[PerceptionRecord], codec: pt.DepthCodec
) -> float:
    """The share of conclusions that agree with the block that was put before them."""
    answers = {outcome.item.id: outcome.reading.value for outcome in outcomes}
    blocks = np.stack([read_evidence(str(outcome.text)).block for outcome in outcomes])
    asked = [record for record in records if record.id in answers]
    return measure_agreement(answers, asked, np.asarray(codec.decode(blocks)))


def format_table(results: Mapping[str, Any]) -> str:
    """Accuracy in percent as Markdown, with 95 % intervals."""
    lines = ["| trained on | 2 | 3 | 4 | 5 points | all | counting |", "|---|---|---|---|---|---|---|"]
    for name, result in results.items():
        groups = result["depth"]["markers"]
        cells = [f"{groups[count]['accuracy']:.0%}" if count in groups else "" for count in "2345"]
        for task in ("depth", "counting"):
            whole = result[task]["overall"]
            cells.append(f"{whole['accuracy']:.0%} ({whole['low']:.0%} to {whole['high']:.0%})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate, replace, and write compare.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=900, help="updates of every model")
    parser.add_argument("--scenes", type=int, default=2400, help="to train on")
    parser.add_argument("--few", type=int, default=500, help="scenes with labels in the smaller budget")
    parser.add_argument("--held-out", type=int, default=200, help="held-out scenes")
    parser.add_argument("--replaced", type=int, default=100, help="scenes whose blocks are replaced")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--save-steps", type=int, default=100, help="updates between two checkpoints")
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=REGIMES, help="what to train")
    parser.add_argument("--layers", type=int, default=2, help="of SmolLM2's 30")
    parser.add_argument("--pieces", type=int, default=4096, help="of SmolLM2's vocabulary of 49,152")
    parser.add_argument("--hidden-size", type=int, help="random weights of this width in place of SmolLM2's")
    parser.add_argument("--counting", type=float, default=0.25, help="share of updates about counting")
    parser.add_argument("--lessons", type=float, default=0.5, help="share of updates with reading lessons, for cells")
    parser.add_argument("--device", default="cpu", help="where to train and to answer, such as cuda")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    codec = pt.DepthCodec.from_pretrained()
    # Heads that are aligned to the image from the start are lost for reading; narrow models need all of theirs.
    is_aligned = options.hidden_size is None
    config = small.DemoConfig(
        small.SmallLlavaConfig(options.layers, options.pieces, aligned=is_aligned, hidden_size=options.hidden_size)
    )
    model, processor, _ = small.prepare_model(folder, codec, config)
    samples = make_samples(folder / "train", TRAINING_SEED, options.scenes, model, processor, codec)
    held_out = make_samples(folder / "held_out", HELD_OUT_SEED, options.held_out, model, processor, codec)
    training = small.SmallTraining(
        options.steps,
        options.batch_size,
        options.learning_rate,
        eval_steps=max(1, options.steps // 12),
        save_steps=options.save_steps,
    )
    budgets = (options.scenes, options.few)
    report: dict[str, Any] = {"models": {}, "comparisons": {}, "replacement": {}}
    scores: dict[str, dict[str, Scores]] = {}
    for regime, labels in product(options.regimes, budgets):
        setup = Setup(regime, labels, options.counting, options.lessons, training)
        path = train_model(folder, setup, samples, held_out, codec, config, options.device)
        report["models"][path.name], scores[path.name] = evaluate_model(
            path, setup, samples, held_out, codec, options.device
        )
        print(path.name, json.dumps(report["models"][path.name].get("evidence", {})), flush=True)
        if setup.regime != "direct" and setup.labels == options.scenes:
            report["replacement"][path.name] = replace_blocks(path, held_out, codec, options.replaced, options.device)
    if "direct" in options.regimes:
        report["comparisons"] = compare_with_direct(scores)
    print(format_table(report["models"]))
    print(json.dumps({name: result["accuracy"] for name, result in report["replacement"].items()}))
    with atomic_write(folder / "compare.json", force=True) as file:
        file.write((json.dumps(report, indent=2) + os.linesep).encode())


def compare_with_direct(
    scores: Mapping[str, Mapping[str, Scores]],
) -> dict[str, dict[str, Any]]:
    """McNemar's test of each regime against direct labels, for each task and number of answers."""
    comparisons = {}
    for name in scores:
        regime, _, labels = name.rpartition("-")
        for task in ("depth", "counting") if regime != "direct" else ():
            direct = scores[f"direct-{labels}"][task]
            comparisons[f"{regime}, {task}, {labels} labels"] = compare_scores(scores[name][task], direct)._asdict()
    return comparisons


if __name__ == "__main__":
    main()
