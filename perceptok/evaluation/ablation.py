"""Ablations: a grid of runs in which each cell changes one setting of a recipe, compared on the same tests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from perceptok.config import config_from_dict, read_config
from perceptok.data import DataRecipe, build_data
from perceptok.depth import DepthCodec
from perceptok.errors import ConfigError, OutputError
from perceptok.evaluation.asking import PREDICTIONS, evaluate_pipeline, model_stamp
from perceptok.evaluation.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from perceptok.evaluation.reports import outcome_case, to_csv, to_markdown_table, write_texts
from perceptok.evaluation.scoring import Comparison, Scores, compare_scores, evaluate, read_predictions
from perceptok.files import atomic_folder, atomic_write, lock_output, parse_json
from perceptok.llava import FinetuneConfig, InferenceConfig, PerceptionPipeline, finetune, load_llava
from perceptok.pages import Case, Fact, Table, write_page

__all__ = [
    "ABLATION_HEADER",
    "AblationCell",
    "AblationRecipe",
    "AblationTest",
    "CellScores",
    "ablation_rows",
    "run_ablation",
    "shipped_cells",
    "write_ablation",
]


Changes = Mapping[str, bool | object]
"""Names of settings -> their values; nested settings are mappings."""

_RESERVED = ("model_name_or_path", "records", "output_dir", "codec", "use_cpu")


@dataclass(frozen=True)
class AblationCell:
    """One cell of the grid: the settings that differ from the recipe.

    Attributes:
        name: Its name in tables and folders; letters, digits, - and _.
        description: What it changes, in one sentence.
        data: Settings of the data recipes, for training and held-out records alike, such as `prompts`.
        sets: Settings of every set of depth questions (not of atomic ones), such as `markers`.
        train: Settings of `FinetuneConfig`; nested ones are merged.
        inference: Settings of `InferenceConfig`.
        benchmarks: Evaluate only on these benchmarks; empty for all tests.

    Raises:
        ConfigError: A name with other characters, or a setting that the recipe itself states.
    """

    name: str
    description: str = ""
    data: Changes = field(default_factory=dict)
    sets: Changes = field(default_factory=dict)
    train: Changes = field(default_factory=dict)
    inference: Changes = field(default_factory=dict)
    benchmarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ConfigError(f"a cell's name has letters, digits, - and _; got {self.name!r}")
        if taken := sorted({*_RESERVED} & {*self.train}):
            raise ConfigError(f"cell {self.name}: {taken[0]} is set by the recipe, not by a cell")


@dataclass(frozen=True)
class AblationTest:
    """A benchmark that every cell is evaluated on.

    Attributes:
        name: Its name in tables and folders; letters, digits, - and _.
        benchmark: One of `BENCHMARKS`; "records" for records.
        data: The benchmark's files, relative to the recipe's file, or a hub id.
        recipe: Instead of `data`: a data recipe of held-out records, built for each cell that changes its questions.
        images: Folder of the benchmark's images.

    Raises:
        ConfigError: A name with other characters, an unknown benchmark, or not exactly one of `data` and `recipe`.
    """

    name: str
    benchmark: str = "records"
    data: str | None = None
    recipe: str | None = None
    images: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ConfigError(f"a test's name has letters, digits, - and _; got {self.name!r}")
        if self.benchmark not in BENCHMARKS:
            raise ConfigError(
                f"test {self.name}: {self.benchmark!r} is not a benchmark; they are {', '.join(BENCHMARKS)}"
            )
        if (self.data is None) == (self.recipe is None):
            raise ConfigError(
                f"test {self.name} has either data (files) or recipe (of held-out records), not both and not none"
            )
        if self.recipe is not None and self.benchmark != "records":
            raise ConfigError(f"test {self.name}: a recipe builds records; leave benchmark out")


@dataclass(frozen=True)
class AblationRecipe:
    """A grid of runs. Paths are relative to the recipe's file.

    Attributes:
        base: Folder or hub id of the model that every cell starts from.
        data: The file of the data recipe (`DataRecipe`) of the training records.
        tests: The benchmarks that every cell is evaluated on.
        output: Folder of all outputs.
        cells: Names of shipped cells (see `shipped_cells`), or cells written out; the others are compared with the
            first.
        train: Settings of every run, as in a train.yaml, without model_name_or_path, records, output_dir, codec and
            use_cpu.
        inference: Settings of every pipeline.
        codec: Folder or hub id of a codec; none for the shipped one.
        device: "cpu" or "cuda".
        folder: The folder that its paths are relative to; `read` sets it.

    Raises:
        ConfigError: An unknown cell or setting, two cells or tests of one name, a cell whose benchmark has no test.
    """

    base: str
    data: str
    tests: tuple[AblationTest, ...]
    output: str
    cells: tuple[str | AblationCell, ...]
    train: Changes = field(default_factory=dict)
    inference: Changes = field(default_factory=dict)
    codec: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    folder: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if taken := sorted({*_RESERVED} & {*self.train}):
            raise ConfigError(f"train: {taken[0]} is set by the recipe itself")
        known = shipped_cells()
        for cell in self.cells:
            if isinstance(cell, str) and cell not in known:
                raise ConfigError(f"{cell!r} is not a shipped cell; they are {', '.join(known)}, or write a cell out")
        for what, names in (
            ("cells", [cell.name for cell in self.resolved_cells]),
            ("tests", [test.name for test in self.tests]),
        ):
            if not names or len({*names}) != len(names):
                raise ConfigError(f"an ablation has {what} of different names; got {names}")
        for cell in self.resolved_cells:
            if not self.tests_for(cell):
                raise ConfigError(
                    f"cell {cell.name} is evaluated on {', '.join(cell.benchmarks)}; add a test with that benchmark"
                )
            self.finetune_config(cell, "base", ("records.jsonl",), "run")
            self.inference_config(cell)

    @property
    def resolved_cells(self) -> tuple[AblationCell, ...]:
        """The cells, with the names of shipped ones replaced by the cells."""
        known = shipped_cells()
        return tuple(known[cell] if isinstance(cell, str) else cell for cell in self.cells)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> AblationRecipe:
        """Read a recipe from YAML or JSON; raises ConfigError where it is missing, malformed or has unknown keys."""
        recipe = read_config(cls, path)
        return replace(recipe, folder=str(Path(path).parent))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; cells written out, without `folder`."""
        values = json.loads(json.dumps(asdict(replace(self, cells=self.resolved_cells))))
        del values["folder"]
        return dict(values)

    def resolve(self, path: str) -> Path:
        """A path of the recipe, relative to its file."""
        return Path(self.folder) / path

    def tests_for(self, cell: AblationCell) -> tuple[AblationTest, ...]:
        """The tests that a cell is evaluated on."""
        return tuple(test for test in self.tests if not cell.benchmarks or test.benchmark in cell.benchmarks)

    def data_recipe(self, cell: AblationCell, path: str) -> DataRecipe:
        """A data recipe with the changes of a cell; raises ConfigError for unknown settings."""
        recipe = DataRecipe.read(self.resolve(path))
        values = recipe.to_dict()
        for config in values["sets"]:
            if config["task"] == "depth" and config["regime"] != "atomic":
                config |= cell.sets
        return replace(DataRecipe.from_dict(_merge(values, cell.data)), folder=recipe.folder)

    def finetune_config(self, cell: AblationCell, base: str, records: tuple[str, ...], output: str) -> FinetuneConfig:
        """The settings of a run with the changes of a cell; raises ConfigError for unknown settings."""
        values = _merge(dict(self.train), cell.train)
        reserved = {
            "model_name_or_path": base,
            "records": list(records),
            "output_dir": output,
            "codec": self.codec_source,
            "use_cpu": self.device == "cpu",
        }
        return FinetuneConfig.from_dict({**values, **reserved})

    def inference_config(self, cell: AblationCell) -> InferenceConfig:
        """The settings of a pipeline with the changes of a cell; raises ConfigError for unknown settings."""
        return config_from_dict(InferenceConfig, _merge(dict(self.inference), cell.inference))

    @property
    def codec_source(self) -> str | None:
        """The codec's folder where it exists, else its hub id; None for the shipped codec."""
        if self.codec is None:
            return None
        return str(self.resolve(self.codec)) if self.resolve(self.codec).exists() else self.codec


def shipped_cells() -> dict[str, AblationCell]:
    """The cells that come with perceptok, by name; "full" changes nothing."""
    import yaml

    cells = {}
    for file in sorted(files("perceptok.evaluation").joinpath("ablations").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            name = file.name.removesuffix(".yaml")
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
            cells[name] = config_from_dict(AblationCell, {"name": name, **values})
    return cells


def _merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes applied, nested ones too."""
    result = dict(values)
    for name, value in changes.items():
        inner = result.get(name)
        nested = isinstance(inner, Mapping | None) and isinstance(value, Mapping)
        result[name] = _merge(inner or {}, value) if nested else value
    return result


def _digest(*values: object) -> str:
    """A short name for plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


Report = Callable[[str], object]


@dataclass(frozen=True)
class CellScores:
    """The scores of one cell on one test."""

    cell: AblationCell
    test: AblationTest
    scores: Scores


def run_ablation(recipe: AblationRecipe, report: Report = lambda _: None) -> list[CellScores]:
    """Build data, fine-tune and evaluate every cell; finished parts are read, interrupted parts are resumed.

    In `output`: `data/` (one folder for each different data recipe), `base/` (one extended base for each different
    initialization), `runs/` (one fine-tuning for each different training: cells that differ in inference alone share
    one), and `cells/CELL/TEST/` with answers, scores and page.

    Args:
        recipe: The grid. Cells may be added to a grid that was run; any other change is refused.
        report: Called with a message when a part begins or is found finished.

    Raises:
        OutputError: The folder holds another ablation, or another process works in it.
        ConfigError: Settings contradict each other.
    """
    output = recipe.resolve(recipe.output)
    output.mkdir(parents=True, exist_ok=True)
    with lock_output(output):
        _require_same(recipe, output)
        return [result for cell in recipe.resolved_cells for result in _run_cell(recipe, cell, output, report)]


def _require_same(recipe: AblationRecipe, output: Path) -> None:
    """Refuse a folder of another recipe, the files that it names included; further cells may be added."""
    paths = [recipe.data, *(test.recipe for test in recipe.tests if test.recipe is not None)]
    files = {path: recipe.resolve(path).read_text(encoding="utf-8", errors="replace") for path in paths}
    now: dict[str, Any] = {**recipe.to_dict(), "files": files}
    path = output / "ablation.json"
    if path.exists():
        found = parse_json(path.read_bytes(), str(path), OutputError)
        for key in sorted({*found, *now} - {"cells"}):
            if found.get(key) != now.get(key):
                raise OutputError(
                    f"{output} holds an ablation of another recipe ({key} differs); choose another output"
                )
        cells = {cell["name"]: cell for cell in now["cells"]}
        for cell in found["cells"]:
            if cells.get(cell["name"]) != cell:
                raise OutputError(
                    f"{output} holds an ablation of another recipe (cell {cell['name']} differs or is gone); choose"
                    " another output, or the same recipe with further cells"
                )
    with atomic_write(path, force=True) as file:
        file.write((json.dumps(now, indent=1) + "\n").encode())


def _run_cell(recipe: AblationRecipe, cell: AblationCell, output: Path, report: Report) -> list[CellScores]:
    adapter: Path | None = None
    pipe: PerceptionPipeline | None = None
    results = []
    for test in recipe.tests_for(cell):
        folder = output / "cells" / cell.name / test.name
        benchmark = _load_test(recipe, cell, test, output, report)
        title = f"{cell.name}, {test.name}"
        if (folder / "scores.json").exists():
            report(f"{title}: finished already")
            results.append(CellScores(cell, test, evaluate(read_predictions(folder / PREDICTIONS), benchmark)))
            continue
        if adapter is None or pipe is None:
            adapter = _finetune_cell(recipe, cell, output, report)
            config = recipe.inference_config(cell)
            pipe = PerceptionPipeline.from_pretrained(adapter, device=recipe.device, config=config)
        report(f"{title}: {len(benchmark)} questions")
        scores, _ = evaluate_pipeline(pipe, benchmark, folder, system=title, model=model_stamp(adapter))
        results.append(CellScores(cell, test, scores))
    return results


def _load_test(
    recipe: AblationRecipe, cell: AblationCell, test: AblationTest, output: Path, report: Report
) -> Benchmark:
    if test.recipe is not None:
        return load_benchmark("records", _build_records(recipe, cell, test.recipe, output, report))
    assert test.data is not None
    data = recipe.resolve(test.data)
    images = None if test.images is None else recipe.resolve(test.images)
    return load_benchmark(test.benchmark, data if data.exists() else test.data, images=images)


def _build_records(recipe: AblationRecipe, cell: AblationCell, path: str, output: Path, report: Report) -> Path:
    """The file of a data recipe's records, built where they do not exist yet."""
    data = recipe.data_recipe(cell, path)
    folder = output / "data" / data.fingerprint
    if not (folder / "manifest.json").exists():
        report(f"{cell.name}: building {sum(config.count for config in data.sets)} records of {path}")
        build_data(data, folder)
    return folder / "records.jsonl"


def _finetune_cell(recipe: AblationRecipe, cell: AblationCell, output: Path, report: Report) -> Path:
    """The adapter of a cell, shared by all cells of the same training."""
    records = _build_records(recipe, cell, recipe.data, output, report)
    start = recipe.finetune_config(cell, recipe.base, (str(records),), "run")
    base = _extend_base(recipe, start, output, report)
    run = output / "runs" / _digest(start.to_dict(), records.parent.name)
    if (run / "adapter").exists():
        report(f"{cell.name}: trained already")
        return run / "adapter"
    report(f"{cell.name}: training")
    return finetune(recipe.finetune_config(cell, str(base), (str(records),), str(run))).adapter


def _extend_base(recipe: AblationRecipe, config: FinetuneConfig, output: Path, report: Report) -> Path:
    """The base model with its new rows, saved once for all runs with the same initialization."""
    local = recipe.resolve(recipe.base)
    source = str(local) if local.exists() else recipe.base
    codec = DepthCodec.from_pretrained(recipe.codec_source)
    folder = output / "base" / _digest(source, codec.fingerprint, config.frame, config.init, config.seed)
    if not folder.exists():
        report("extending the base")
        model, processor, vocab = load_llava(
            source, codec=codec, frame=config.frame, init=config.init, seed=config.seed
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as partial:
            for part in (model, processor, vocab):
                part.save_pretrained(partial)
    return folder


ABLATION_HEADER = (
    "test", "cell", "items", "right", "accuracy", "95 % interval", "unparsed", "invalid", "difference",
    "95 % interval of it", "p",
)  # fmt: skip
_NOTE = (
    "Accuracies in percent, differences from the first cell in points, on the same items: bootstrap 95 % intervals, "
    "paired for differences; p is McNemar's exact test."
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
            }
        )
    bullets = "".join(f"- {name}: {text}\n" for name, text in descriptions.items())
    texts = {
        "ablation-table.csv": to_csv([ABLATION_HEADER, *rows]),
        "ablation-table.md": f"{to_markdown_table(ABLATION_HEADER, rows)}\n{_NOTE}\n\n{bullets}",
        "ablation-table.json": json.dumps(values, indent=1) + "\n",
    }
    write_texts(folder, texts, force=True)
    tables = [
        Table("Ablation", ABLATION_HEADER, rows, _NOTE),
        Table("Cells", ("cell", "what it changes"), list(descriptions.items())),
    ]
    write_page(folder / "page.html", _cases(results), title="Ablation", tables=tables, force=True)


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
