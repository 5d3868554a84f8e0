"""Runs an ablation: every cell of a recipe is trained and evaluated, and compared with the first on the same tests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from perceptok.data import build_data
from perceptok.depth import DepthCodec
from perceptok.errors import OutputError
from perceptok.evaluation.ablation_recipe import AblationCell, AblationRecipe, AblationTest
from perceptok.evaluation.asking import PREDICTIONS, evaluate_pipeline
from perceptok.evaluation.benchmarks import Benchmark
from perceptok.evaluation.reports import outcome_case, to_csv, to_markdown_table, write_texts
from perceptok.evaluation.scoring import Comparison, Scores, compare_scores, evaluate, read_predictions
from perceptok.files import atomic_folder, atomic_write, parse_json, read_input
from perceptok.llava import PerceptionPipeline, finetune, load_llava
from perceptok.locks import lock_output
from perceptok.pages import Case, Fact, Table, write_page

__all__ = [
    "ABLATION_HEADER",
    "CellScores",
    "ablation_rows",
    "run_ablation",
    "write_ablation",
]


def _digest(*values: object) -> str:
    """A short name for plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


Report = Callable[[str, str], object]
Result = TypeVar("Result")


@dataclass(frozen=True)
class CellScores:
    """The scores of one cell on one test.

    Attributes:
        cell: The cell.
        test: The test.
        scores: The scores of the answers.
        figures: Figures of the answers' evidence, such as the error of the decoded map: name -> (number of items that
            it is averaged over, value); empty where no answer has perception tokens.
    """

    cell: AblationCell
    test: AblationTest
    scores: Scores
    figures: Mapping[str, tuple[int, float]] = field(default_factory=dict)


def run_ablation(
    recipe: AblationRecipe, report: Report = lambda *_: None, *, shared: str | Path | None = None
) -> list[CellScores]:
    """Build data, fine-tune and evaluate every cell; finished parts are read, interrupted parts are resumed.

    In `output`: `data/` (one folder for each different data recipe), `base/` (one extended base for each different
    initialization), `runs/` (one fine-tuning for each different training: cells that differ in inference alone share
    one), and `cells/CELL/TEST/` with answers, scores and page.

    Started by `accelerate launch` in several processes, all of them train; the first one does everything else, while
    the others wait.

    Args:
        recipe: The grid. Cells may be added to a grid that was run, and tests added or left out; any other change is
            refused.
        report: Called in the first process with the name of a part ("build", "extend", "train" or "evaluate") and a
            message, when the part begins or is found finished.
        shared: Folder of `data/`, `base/` and `runs/`, instead of `output`: ablations that share it, one after the
            other, share what they build and train.

    Returns:
        The scores; in other processes than the first an empty list.

    Raises:
        OutputError: The folder holds another ablation, or another run works in it.
        ConfigError: Settings contradict each other.
        EvaluationError: A benchmark is missing or damaged; found before anything is trained.
    """
    output, processes = recipe.resolve(recipe.output), Processes(cpu=recipe.device == "cpu")
    work = output if shared is None else Path(shared)
    run = _AblationRun(recipe, output, work, report if processes.is_first else lambda *_: None, processes)
    with ExitStack() as stack:
        if processes.is_first:
            output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_output(output))
            _require_same(recipe, output)
            run.check_tests()
        return [result for cell in recipe.resolved_cells for result in run.run_cell(cell)]


class Processes:
    """The processes that run the same program; one, unless `accelerate launch` started several."""

    def __init__(self, *, cpu: bool) -> None:
        self.count, self.is_first = int(os.environ.get("WORLD_SIZE", "1")), True
        if self.count > 1:
            from accelerate import PartialState
            from torch import distributed

            # Joins the processes, unless a training configuration has done so.
            self.is_first = PartialState(cpu=cpu).process_index == 0
            # The others wait for as long as the first one builds data or asks questions.
            self._group = distributed.new_group(backend="gloo", timeout=timedelta(days=100))

    def run_in_first(self, work: Callable[[], Result]) -> Result:
        """Run a function in the first process, and return its result in all of them."""
        if self.count == 1:
            return work()
        from torch import distributed

        results: list[Any] = [work() if self.is_first else None]
        distributed.broadcast_object_list(results, src=0, group=self._group)
        return cast(Result, results[0])


def _require_same(recipe: AblationRecipe, output: Path) -> None:
    """Refuse a folder of another recipe, the files that it names included.

    Cells may be added, tests added or left out; `ablation.json` keeps the tests that are left out.
    """
    paths = [(recipe.data, "data"), *((test.recipe, "data") for test in recipe.tests), (recipe.train_config, "llava")]
    files = {
        path: recipe.find_file(path, package).read_text(encoding="utf-8", errors="replace")
        for path, package in paths
        if path is not None
    }
    now: dict[str, Any] = {**recipe.to_dict(), "files": files}
    path = output / "ablation.json"
    if path.exists():
        found = parse_json(read_input(path), str(path), OutputError)
        now["files"] = {**found.get("files", {}), **files}
        for key in sorted({*found, *now} - {"cells", "tests", "files"}):
            if found.get(key) != now.get(key):
                raise _make_difference_error(output, f"{key} differs")
        for name, text in found.get("files", {}).items():
            if now["files"][name] != text:
                raise _make_difference_error(output, "files differs")
        cells, tests = ({part["name"]: part for part in now[kind]} for kind in ("cells", "tests"))
        for cell in found["cells"]:
            if cells.get(cell["name"]) != cell:
                raise _make_difference_error(output, f"cell {cell['name']} differs or is gone")
        for test in found["tests"]:
            if tests.setdefault(test["name"], test) != test:
                raise _make_difference_error(output, f"test {test['name']} differs")
        now["tests"] = list(tests.values())
    with atomic_write(path, force=True) as file:
        file.write((json.dumps(now, indent=1) + "\n").encode())


def _make_difference_error(output: Path, difference: str) -> OutputError:
    return OutputError(
        f"{output} holds an ablation of another recipe ({difference}); choose another output, or the same recipe with "
        "further cells or tests"
    )


@dataclass(frozen=True)
class _AblationRun:
    """An ablation that runs: the recipe, its folder, that of data, bases and runs, and the processes that take part."""

    recipe: AblationRecipe
    output: Path
    work: Path
    report: Report
    processes: Processes

    def check_tests(self) -> None:
        """Load the benchmarks and an image of each, so that what is missing shows before hours of training."""
        for test in self.recipe.tests:
            if test.recipe is None:
                self._load_test(self.recipe.resolved_cells[0], test).items[0].open_image()

    def run_cell(self, cell: AblationCell) -> list[CellScores]:
        """Train a cell, unless all its tests are finished, and evaluate it; empty in other processes than the first."""
        run_in_first = self.processes.run_in_first
        finished = [self._find_scores(cell, test).exists() for test in self.recipe.tests_for(cell)]
        model = None
        if run_in_first(lambda: not all(finished)):
            base = run_in_first(lambda: self._extend_base(cell))
            model = base if cell.untrained else self._finetune(cell, base)
        results = list(self._evaluate(cell, model)) if self.processes.is_first else []
        run_in_first(lambda: None)
        return results

    def _find_scores(self, cell: AblationCell, test: AblationTest) -> Path:
        return self.output / "cells" / cell.name / test.name / "scores.json"

    def _evaluate(self, cell: AblationCell, model: Path | None) -> Iterator[CellScores]:
        """Evaluate a cell on its tests; what has scores is read again."""
        pipe: PerceptionPipeline | None = None
        for test in self.recipe.tests_for(cell):
            path = self._find_scores(cell, test)
            benchmark = self._load_test(cell, test)
            title = f"{cell.name}, {test.name}"
            if path.exists():
                self.report("evaluate", f"{title}: finished already")
                scores = evaluate(read_predictions(path.with_name(PREDICTIONS)), benchmark)
            else:
                assert model is not None
                pipe = pipe or self._load_pipeline(cell, model)
                self.report("evaluate", f"{title}: {len(benchmark)} questions")
                scores, _ = evaluate_pipeline(pipe, benchmark, path.parent, system=title, model=str(model.resolve()))
            yield CellScores(cell, test, scores, _read_figures(path))

    def _load_pipeline(self, cell: AblationCell, model: Path) -> PerceptionPipeline:
        recipe = self.recipe
        codec = DepthCodec.from_pretrained(recipe.codec_source) if cell.untrained else None
        config = recipe.inference_config(cell)
        pipe = PerceptionPipeline.from_pretrained(model, codec=codec, device=recipe.device, config=config)
        if cell.untrained:
            pipe.system = recipe.finetune_config(cell, recipe.base, ("records.jsonl",), "run").system
        return pipe

    def _load_test(self, cell: AblationCell, test: AblationTest) -> Benchmark:
        data = None if test.recipe is None else self._build_records(cell, test.recipe)
        return self.recipe.load_test(test, data)

    def _build_records(self, cell: AblationCell, path: str) -> Path:
        """The file of a data recipe's records, built where they do not exist yet."""
        data = self.recipe.data_recipe(cell, path)
        folder = self.work / "data" / data.fingerprint
        if not (folder / "manifest.json").exists():
            self.report("build", f"{cell.name}: building {sum(config.count for config in data.sets)} records of {path}")
            build_data(data, folder)
        return folder / "records.jsonl"

    def _finetune(self, cell: AblationCell, base: Path) -> Path:
        """The adapter of a cell, shared by all cells of the same training; every process trains."""
        recipe, run_in_first = self.recipe, self.processes.run_in_first
        records = run_in_first(lambda: self._build_records(cell, recipe.data))
        start = recipe.finetune_config(cell, recipe.base, (str(records),), "run")
        run = self.work / "runs" / _digest(start.to_dict(), records.parent.name)
        if run_in_first(lambda: (run / "adapter").exists()):
            self.report("train", f"{cell.name}: trained already")
            return run / "adapter"
        self.report("train", f"{cell.name}: training")
        return finetune(recipe.finetune_config(cell, str(base), (str(records),), str(run))).adapter

    def _extend_base(self, cell: AblationCell) -> Path:
        """The base model with its new rows, saved once for all runs with the same initialization."""
        recipe = self.recipe
        config = recipe.finetune_config(cell, recipe.base, ("records.jsonl",), "run")
        local = recipe.resolve(recipe.base)
        source = str(local) if local.exists() else recipe.base
        codec = DepthCodec.from_pretrained(recipe.codec_source)
        frame = config.frame_rule
        name = _digest(source, codec.fingerprint, frame.to_dict(), config.tokens, config.init, config.seed)
        folder = self.work / "base" / name
        if not folder.exists():
            self.report("extend", "extending the base")
            model, processor, vocab = load_llava(
                source, config.token_sets, codec=codec, frame=frame, init=config.init, seed=config.seed
            )
            folder.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(folder) as partial:
                for part in (model, processor, vocab):
                    part.save_pretrained(partial)
        return folder


def _read_figures(path: Path) -> dict[str, tuple[int, float]]:
    """Figures of the evidence in a scores.json that have a value."""
    values = parse_json(read_input(path), str(path), OutputError)
    figures = values.get("evidence", {}).get("figures", {})
    return {name: (row["items"], row["value"]) for name, row in figures.items() if row["value"] is not None}


ABLATION_HEADER = (
    "test", "cell", "items", "right", "accuracy", "95 % interval", "unparsed", "invalid", "difference",
    "95 % interval of it", "p",
)  # fmt: skip
_FIGURE_HEADER = ("test", "evidence", "cell", "items", "value")
_NOTE = (
    "Accuracies in percent, differences from the first cell in points, on the same items. 95 % intervals: Wilson, for "
    "differences paired bootstrap; p is McNemar's exact test."
)


def ablation_rows(results: Sequence[CellScores]) -> list[tuple[str, ...]]:
    """Table rows below `ABLATION_HEADER`, test by test."""
    rows: list[tuple[str, ...]] = []
    for result in _sort_by_test(results):
        score, pair = result.scores.overall, _compare_with_first(result, results)
        comparison = ("", "", "")
        if pair is not None:
            interval = f"{100 * pair.low:+.1f} to {100 * pair.high:+.1f}"
            comparison = (f"{100 * pair.difference:+.1f}", interval, f"{pair.p_value:.3g}")
        shares = (f"{100 * score.accuracy:.1f}", f"{100 * score.low:.1f} to {100 * score.high:.1f}")
        counts = (str(score.items), str(score.right), *shares, str(score.unparsed), str(score.invalid))
        rows.append((result.test.name, result.cell.name, *counts, *comparison))
    return rows


def write_ablation(results: Sequence[CellScores], folder: str | Path) -> None:
    """Write `ablation-table.json`, `.csv`, `.md` and `page.html`; existing files are replaced."""
    folder, rows = Path(folder), ablation_rows(results)
    figure_rows = _figure_rows(results)
    descriptions = {result.cell.name: result.cell.description for result in results}
    values = []
    for result in _sort_by_test(results):
        pair = _compare_with_first(result, results)
        values.append(
            {
                "test": result.test.name,
                "cell": result.cell.name,
                **result.scores.overall._asdict(),
                "against the first cell": None if pair is None else pair._asdict(),
                "evidence": {name: value for name, (_, value) in result.figures.items()},
            }
        )
    bullets = "".join(f"- {name}: {text}\n" for name, text in descriptions.items())
    texts = {
        "ablation-table.csv": to_csv([ABLATION_HEADER, *rows]),
        "ablation-table.md": (
            f"{to_markdown_table(ABLATION_HEADER, rows)}\n{_NOTE}\n\n"
            f"{to_markdown_table(_FIGURE_HEADER, figure_rows)}\n{bullets}"
        ),
        "ablation-table.json": json.dumps(values, indent=1) + "\n",
    }
    write_texts(folder, texts, force=True)
    tables = [
        Table("Ablation", ABLATION_HEADER, rows, _NOTE),
        Table("Evidence", _FIGURE_HEADER, figure_rows, "Shares and errors of nearness (0 to 1)."),
        Table("Cells", ("cell", "what it changes"), list(descriptions.items())),
    ]
    write_page(folder / "page.html", _cases(results), title="Ablation", tables=tables, force=True)


def _figure_rows(results: Sequence[CellScores]) -> list[tuple[str, ...]]:
    """Table rows below `_FIGURE_HEADER`: each figure of the evidence, by test, with its cells one below the other."""
    return sorted(
        (result.test.name, name, result.cell.name, str(items), f"{value:.4f}")
        for result in results
        for name, (items, value) in result.figures.items()
    )


def _sort_by_test(results: Sequence[CellScores]) -> list[CellScores]:
    order = list(dict.fromkeys(result.test.name for result in results))
    return sorted(results, key=lambda result: order.index(result.test.name))


def _first_of_test(result: CellScores, results: Sequence[CellScores]) -> CellScores:
    return next(other for other in results if other.test.name == result.test.name)


def _compare_with_first(result: CellScores, results: Sequence[CellScores]) -> Comparison | None:
    """The comparison with the first cell; None for that cell itself, and where the items differ."""
    first = _first_of_test(result, results)
    items, first_items = (
        [(outcome.item.id, outcome.item.answer) for outcome in cell.scores.outcomes] for cell in (result, first)
    )
    return None if result is first or items != first_items else compare_scores(result.scores, first.scores)


def _cases(results: Sequence[CellScores]) -> Iterator[Case]:
    """The items of each test with the first cell's text and every cell's answer."""
    for first in (result for result in _sort_by_test(results) if _first_of_test(result, results) is result):
        answers: dict[str, dict[str, Fact]] = {}
        for result in results:
            if result.test.name == first.test.name:
                for outcome in result.scores.outcomes:
                    verdict = "right" if outcome.right else "wrong"
                    by_cell = answers.setdefault(outcome.item.id, {})
                    by_cell[result.cell.name] = f"{outcome.reading.value} ({verdict})"
        for outcome in first.scores.outcomes:
            yield outcome_case(outcome, facts={"test": first.test.name, **answers[outcome.item.id]})
