"""Perception tokens against direct labels: the same small model, the same pictures, as many updates.

    python examples/aurora_small/compare.py perceptok-demo/compare

Four models start from the same weights: taught to write blocks, boxes and a chain of thought, or the bare answers; with
the answers of 500 scenes, or of all. Each is asked about unseen scenes through `PerceptionPipeline`; then the blocks of
the first are replaced. What is in the folder already is used again, so that a killed run goes on by the same command.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from learning import Course, Encoder, teach
from lessons import SIDE, Lessons, make_lessons

import perceptok as pt
from perceptok.decoding import read_evidence
from perceptok.evaluation import Scores, compare_scores, evaluate, load_benchmark
from perceptok.files import atomic_folder, atomic_write
from perceptok.images import open_image
from perceptok.llava import Request, small
from perceptok_cli.console import progress_bar

TRAINING_SEED, HELD_OUT_SEED = 1, 2
"""Families of scenes that share none."""


def asked_of(
    pipe: pt.PerceptionPipeline, held_out: Lessons, kind: str, **changes: Any
) -> dict[str, pt.llava.PerceptionAnswer]:
    """Answers to every record of a kind."""
    records = held_out.records[kind]
    requests = [
        Request(open_image(held_out.folder / record.images[0]), record.turns[0].text, record.choices)
        for record in records
    ]
    answers = pipe.answers(requests, max_new_tokens=230, batch_size=32, **changes)
    return {record.id: answer for record, answer in zip(records, answers, strict=True)}


def scores_of(answers: Mapping[str, pt.llava.PerceptionAnswer], held_out: Lessons, kind: str) -> Scores:
    """By the one rule of every benchmark."""
    return evaluate(
        {name: answer.text for name, answer in answers.items()},
        load_benchmark("records", held_out.folder / f"{kind}.jsonl"),
    )


def evidence_of(
    answers: Mapping[str, pt.llava.PerceptionAnswer], lessons: Lessons, held_out: Lessons, codec: pt.DepthCodec
) -> dict[str, Any]:
    """How good the written maps are, and what follows from them by rule alone."""
    records = held_out.records["depth-cot"]
    scenes = [int(str(record.provenance["scene"])) for record in records]
    truth = held_out.nearness[scenes].astype(np.float32)
    mean = lessons.nearness.mean(axis=0, dtype=np.float32)
    true_codes = np.array([record.evidence.codes for record in records]).reshape(-1, 10, 10)
    maps = {
        "written": np.stack(
            [mean if (seen := answers[record.id].nearness) is None else seen[::2, ::2] for record in records]
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
        right = [small.point_order(*row) for row in zip(values, points, truth, strict=True)]
        order[name] = {
            str(count): float(np.mean([ordered for ordered, at in zip(right, points, strict=True) if len(at) == count]))
            for count in sorted({len(at) for at in points})
        }
    agreeing = [
        str(answers[record.id].answer) == record.choices[int(np.argmax(values[at[:, 1], at[:, 0]]))]
        for record, values, at in zip(records, maps["written"], points, strict=True)
    ]
    return {
        "rmse": {name: small.map_error(values, truth) for name, values in maps.items()},
        "closest by rule": order,
        "answer agrees with own block": float(np.mean(agreeing)),
        "valid": whole_blocks(answers),
    }


def whole_blocks(answers: Mapping[str, pt.llava.PerceptionAnswer]) -> float:
    """The share of answers with one whole block and nothing malformed about it."""
    return float(
        np.mean([len(answer.blocks) == 1 and read_evidence(answer.text).problems == () for answer in answers.values()])
    )


def taught_model(folder: Path, course: Course, lessons: Lessons, held_out: Lessons, codec: pt.DepthCodec) -> Path:
    """The folder of a taught model; taught where it is not there yet."""
    place = folder / f"{course.regime}-{course.labels}"
    if not place.is_dir():
        model, processor, vocab = small.starting_model(folder, codec, small.DemoConfig())
        with progress_bar(place.name, course.training.steps) as advance:
            curve = teach(model, Encoder(processor), vocab, lessons, held_out, course, advance)
        with atomic_folder(place) as building:
            for part in (model, processor, vocab):
                part.save_pretrained(building)
            (building / "curve.json").write_text(json.dumps({"course": asdict(course), "curve": curve}, indent=2))
    return place


def measured(
    place: Path, course: Course, lessons: Lessons, held_out: Lessons, codec: pt.DepthCodec
) -> tuple[dict[str, Any], dict[str, Scores]]:
    """Everything that is asked of one taught model."""
    pipe = pt.PerceptionPipeline.from_pretrained(place, codec=codec)
    found: dict[str, Any] = {}
    scores: dict[str, Scores] = {}
    for task in ("depth", "counting"):
        kind = f"{task}-{course.regime}"
        block = {"force_block": "somewhere"} if kind == "depth-cot" else {}
        answers = asked_of(pipe, held_out, kind, **block)
        scores[task] = evaluate_and_note(found, task, answers, held_out, kind)
        if course.regime == "cot" and task == "depth":
            found["evidence"] = evidence_of(answers, lessons, held_out, codec)
            free = asked_of(pipe, held_out, kind, constraints=False)
            found["valid without constraints"] = whole_blocks(free)
    return found, scores


def evaluate_and_note(
    found: dict[str, Any], task: str, answers: Mapping[str, pt.llava.PerceptionAnswer], held_out: Lessons, kind: str
) -> Scores:
    """Scores, entered among what was found."""
    scores = scores_of(answers, held_out, kind)
    groups = {name: {key: score._asdict() for key, score in group.items()} for name, group in scores.groups.items()}
    found[task] = {"overall": scores.overall._asdict(), **groups}
    return scores


def replaced(place: Path, held_out: Lessons, codec: pt.DepthCodec, most: int) -> dict[str, Any]:
    """Accuracy with other blocks in the place of the model's own."""
    pipe = pt.PerceptionPipeline.from_pretrained(place, codec=codec)
    kinds = ("own", "oracle", "random", "constant", "other", "shuffled", "none")
    replacement = pt.evaluation.replacement_test(
        pipe, held_out.records["depth-cot"][:most], kinds, folder=held_out.folder
    )
    return {
        "accuracy": {kind: score._asdict() for kind, score in replacement.scores.items()},
        "changed": dict(replacement.changed),
        "skipped": len(replacement.skipped),
    }


def table(results: Mapping[str, Any]) -> str:
    """Accuracy in percent as Markdown, with 95 % intervals."""
    lines = ["| taught | 2 | 3 | 4 | 5 points | all | counting |", "|---|---|---|---|---|---|---|"]
    for name, result in results.items():
        groups = result["depth"]["markers"]
        cells = [f"{groups[count]['accuracy']:.0%}" if count in groups else "" for count in "2345"]
        for task in ("depth", "counting"):
            whole = result[task]["overall"]
            cells.append(f"{whole['accuracy']:.0%} ({whole['low']:.0%} to {whole['high']:.0%})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Teach, ask, replace, and write compare.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=900, help="updates of every model")
    parser.add_argument("--scenes", type=int, default=2400, help="to train on")
    parser.add_argument("--few", type=int, default=500, help="scenes with labels in the smaller budget")
    parser.add_argument("--held-out", type=int, default=200, help="scenes to be asked about")
    parser.add_argument("--replaced", type=int, default=100, help="scenes whose blocks are replaced")
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    codec = pt.DepthCodec.from_pretrained()
    model, processor, _ = small.starting_model(folder, codec, small.DemoConfig())
    lessons = make_lessons(folder / "train", TRAINING_SEED, options.scenes, model, processor, codec)
    held_out = make_lessons(folder / "held_out", HELD_OUT_SEED, options.held_out, model, processor, codec)
    every = max(1, options.steps // 12)
    training = small.SmallTraining(options.steps, options.batch_size, 1.5e-3, every)
    results: dict[str, Any] = {}
    scores: dict[str, dict[str, Scores]] = {}
    for regime in ("cot", "direct"):
        for labels in (options.scenes, options.few):
            course = Course(regime, labels, training=training)
            place = taught_model(folder, course, lessons, held_out, codec)
            results[place.name], scores[place.name] = measured(place, course, lessons, held_out, codec)
            print(place.name, json.dumps(results[place.name].get("evidence", {})), flush=True)
    report: dict[str, Any] = {"models": results, "compared": {}}
    for labels in (options.scenes, options.few):
        for task in ("depth", "counting"):
            pair = scores[f"cot-{labels}"][task], scores[f"direct-{labels}"][task]
            report["compared"][f"{task}, {labels} labels"] = compare_scores(*map(_same_ids, pair))._asdict()
    report["replaced"] = replaced(folder / f"cot-{options.scenes}", held_out, codec, options.replaced)
    print(table(results))
    print(json.dumps(report["replaced"]["accuracy"]))
    with atomic_write(folder / "compare.json", force=True) as file:
        file.write((json.dumps(report, indent=2) + os.linesep).encode())


def _same_ids(scores: Scores) -> Scores:
    """Items named by their scenes alone, so that chains and bare answers can be compared."""
    outcomes = tuple(
        replace(outcome, item=replace(outcome.item, id=outcome.item.id.rpartition("-")[2]))
        for outcome in scores.outcomes
    )
    return replace(scores, outcomes=outcomes)


if __name__ == "__main__":
    main()
