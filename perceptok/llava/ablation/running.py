"""A grid of runs: what several cells share is made once, and what is there already is not made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perceptok.data.recipes import build_data
from perceptok.depth.codec import DepthCodec
from perceptok.errors import OutputError
from perceptok.evaluation.benchmarks.catalogue import load_benchmark
from perceptok.evaluation.benchmarks.items import Benchmark
from perceptok.evaluation.benchmarks.pages import write_report
from perceptok.evaluation.benchmarks.predictions import read_predictions
from perceptok.evaluation.benchmarks.scoring import Scores, evaluate
from perceptok.evaluation.benchmarks.tables import to_json, to_markdown
from perceptok.evaluation.checks import check_evidence
from perceptok.files import atomic_folder, atomic_write, locked, parse_json
from perceptok.llava.ablation.recipe import AblationRecipe, AblationTest, Cell, digest
from perceptok.llava.folders.benchmarks import answer_benchmark, model_stamp
from perceptok.llava.loading import load_llava
from perceptok.llava.pipeline import PerceptionPipeline
from perceptok.llava.training.finetuning import finetune

__all__ = ["CellScores", "run_ablation"]

Say = Callable[[str], object]


@dataclass(frozen=True)
class CellScores:
    """One cell's scores on one test."""

    cell: Cell
    test: AblationTest
    scores: Scores


def run_ablation(recipe: AblationRecipe, say: Say = lambda _: None) -> list[CellScores]:
    """Build, train, ask and score every cell; what is finished is read, what was interrupted goes on.

    In `output`: `data/` (a folder for each data recipe that differs), `base/` (the extended base, for each start that
    differs), `runs/` (a fine-tuning for each that differs: cells that differ in inference alone share one), and
    `cells/CELL/TEST/` with answers, scores and page.

    Args:
        recipe: The grid. Cells may be added to one that was run; anything else is refused.
        say: Told what begins, and what is there already.

    Raises:
        OutputError: The folder holds another ablation, or another process works in it.
        ConfigError: Settings that contradict each other.
    """
    output = recipe.place(recipe.output)
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / ".perceptok.lock", output):
        _require_same(recipe, output)
        return [result for cell in recipe.chosen for result in _cell(recipe, cell, output, say)]


def _require_same(recipe: AblationRecipe, output: Path) -> None:
    """Hold the folder to its recipe, the files that it names included; further cells may come."""
    files = {one: recipe.place(one).read_text(encoding="utf-8", errors="replace") for one in _recipes(recipe)}
    now: dict[str, Any] = {**recipe.to_dict(), "files": files}
    path = output / "ablation.json"
    if path.exists():
        found = parse_json(path.read_bytes(), str(path), OutputError)
        for key in sorted({*found, *now} - {"cells"}):
            if found.get(key) != now.get(key):
                raise OutputError(
                    f"{output} holds an ablation of another recipe ({key} differs); choose another output"
                )
        known = {one["name"]: one for one in now["cells"]}
        for one in found["cells"]:
            if known.get(one["name"]) != one:
                raise OutputError(
                    f"{output} holds an ablation of another recipe (cell {one['name']} differs or is gone); choose"
                    " another output, or the same recipe with further cells"
                )
    with atomic_write(path, force=True) as file:
        file.write((json.dumps(now, indent=1) + "\n").encode())


def _recipes(recipe: AblationRecipe) -> list[str]:
    return [recipe.data, *(one.recipe for one in recipe.tests if one.recipe is not None)]


def _cell(recipe: AblationRecipe, cell: Cell, output: Path, say: Say) -> list[CellScores]:
    adapter: Path | None = None
    pipe: PerceptionPipeline | None = None
    found = []
    for test in recipe.tests_of(cell):
        place = output / "cells" / cell.name / test.name
        benchmark = _benchmark(recipe, cell, test, output, say)
        answers = place / "predictions.jsonl"
        if (place / "scores.json").exists():
            say(f"{cell.name}, {test.name}: finished already")
            found.append(CellScores(cell, test, evaluate(read_predictions(answers), benchmark)))
            continue
        adapter = adapter or _trained(recipe, cell, output, say)
        if pipe is None:
            pipe = PerceptionPipeline.from_pretrained(adapter, device=recipe.device, config=recipe.inferring(cell))
        say(f"{cell.name}, {test.name}: {len(benchmark)} questions")
        place.mkdir(parents=True, exist_ok=True)
        texts = answer_benchmark(pipe, benchmark, answers, model=model_stamp(adapter))
        scores = evaluate(texts, benchmark)
        _write(scores, f"{cell.name}, {test.name}", place, pipe.codec)
        answers.with_name(answers.name + ".partial").unlink(missing_ok=True)
        found.append(CellScores(cell, test, scores))
    return found


def _benchmark(recipe: AblationRecipe, cell: Cell, test: AblationTest, output: Path, say: Say) -> Benchmark:
    if test.recipe is not None:
        return load_benchmark("records", _built(recipe, cell, test.recipe, output, say))
    assert test.data is not None
    data = recipe.place(test.data)
    images = None if test.images is None else recipe.place(test.images)
    return load_benchmark(test.benchmark, data if data.exists() else test.data, images=images)


def _built(recipe: AblationRecipe, cell: Cell, path: str, output: Path, say: Say) -> Path:
    """The records of a data recipe, built where they are not there yet."""
    data = recipe.building(cell, path)
    folder = output / "data" / data.fingerprint
    if not (folder / "manifest.json").exists():
        say(f"{cell.name}: building {sum(one.count for one in data.sets)} records of {path}")
        build_data(data, folder)
    return folder / "records.jsonl"


def _trained(recipe: AblationRecipe, cell: Cell, output: Path, say: Say) -> Path:
    """The adapter of a cell; one for all cells of the same training."""
    records = _built(recipe, cell, recipe.data, output, say)
    start = recipe.finetuning(cell, recipe.base, (str(records),), "run")
    values = start.to_dict()
    base = _extended(recipe, values, output, say)
    run = output / "runs" / digest(values, records.parent.name)
    if (run / "adapter").exists():
        say(f"{cell.name}: trained already")
        return run / "adapter"
    say(f"{cell.name}: training")
    return finetune(recipe.finetuning(cell, str(base), (str(records),), str(run))).adapter


def _extended(recipe: AblationRecipe, values: dict[str, Any], output: Path, say: Say) -> Path:
    """The base with its new rows, saved once for all runs that start from the same."""
    named = recipe.place(recipe.base)
    source = str(named) if named.exists() else recipe.base
    codec = DepthCodec.from_pretrained(recipe.codec_place)
    start = {name: values[name] for name in ("frame", "init", "seed")}
    folder = output / "base" / digest(source, codec.fingerprint, start)
    if not folder.exists():
        say("extending the base")
        model, processor, vocab = load_llava(source, codec=codec, **start)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as partial:
            for part in (model, processor, vocab):
                part.save_pretrained(partial)
    return folder


def _write(scores: Scores, title: str, place: Path, codec: DepthCodec) -> None:
    evidence = check_evidence(scores, codec)
    case, tables = (None, []) if evidence is None else (evidence.case, evidence.tables())
    write_report(scores, place / "page.html", title=title, case=case, tables=tables, force=True)
    texts = {
        "scores.md": to_markdown(scores, title),
        "scores.json": to_json(scores, title, None if evidence is None else evidence.to_json()),
    }
    for name, text in texts.items():
        with atomic_write(place / name, force=True) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
