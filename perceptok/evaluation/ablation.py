"""What an ablation is made of: a base run, and cells that each change one thing of it."""

from __future__ import annotations

import csv
import hashlib
import io
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
from perceptok.evaluation.asking import answer_benchmark, model_stamp
from perceptok.evaluation.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from perceptok.evaluation.evidence import check_evidence
from perceptok.evaluation.scoring import (
    Comparison,
    Scores,
    case_of,
    compare,
    evaluate,
    markdown_rows,
    read_predictions,
    to_json,
    to_markdown,
    write_report,
)
from perceptok.files import atomic_folder, atomic_write, locked, parse_json
from perceptok.llava import FinetuneConfig, InferenceConfig, PerceptionPipeline, finetune, load_llava
from perceptok.pages import Case, Fact, Table, write_page

__all__ = [
    "ABLATION_HEADER",
    "AblationRecipe",
    "AblationTest",
    "Cell",
    "CellScores",
    "ablation_rows",
    "run_ablation",
    "shipped_cells",
    "write_ablation",
]


Changes = Mapping[str, bool | object]
_OURS = ("base", "records", "output", "codec", "cpu")


@dataclass(frozen=True)
class Cell:
    """One column of the grid: what differs from the recipe.

    Attributes:
        name: For tables and folders; letters, digits, - and _.
        means: In a sentence.
        data: Fields of the data recipes, of training and of held-out records alike, such as `prompts`.
        sets: Fields of every set of depth questions (not of atomic ones), such as `markers`.
        train: Fields of `FinetuneConfig`; nested ones are merged.
        inference: Fields of `InferenceConfig`.
        benchmarks: Ask these benchmarks alone; none for all tests.
    """

    name: str
    means: str = ""
    data: Changes = field(default_factory=dict)
    sets: Changes = field(default_factory=dict)
    train: Changes = field(default_factory=dict)
    inference: Changes = field(default_factory=dict)
    benchmarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not all(one.isalnum() or one in "-_" for one in self.name):
            raise ConfigError(f"a cell's name has letters, digits, - and _; got {self.name!r}")
        if taken := sorted({*_OURS} & {*self.train}):
            raise ConfigError(f"cell {self.name}: {taken[0]} is the recipe's to say, no cell's")


@dataclass(frozen=True)
class AblationTest:
    """What every cell is asked.

    Attributes:
        name: For tables and folders.
        benchmark: Of the catalogue; "records" for records.
        data: Of a benchmark: its files; relative to the recipe's file, or a hub id.
        recipe: Instead: a data recipe of held-out records, built anew wherever a cell changes what is asked.
        images: Folder of a benchmark's images.
    """

    name: str
    benchmark: str = "records"
    data: str | None = None
    recipe: str | None = None
    images: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not all(one.isalnum() or one in "-_" for one in self.name):
            raise ConfigError(f"a test's name has letters, digits, - and _; got {self.name!r}")
        if self.benchmark not in BENCHMARKS:
            raise ConfigError(f"test {self.name}: benchmarks are {', '.join(BENCHMARKS)}; got {self.benchmark!r}")
        if (self.data is None) == (self.recipe is None):
            raise ConfigError(f"test {self.name} has data: files, or recipe: of held-out records; and not both")
        if self.recipe is not None and self.benchmark != "records":
            raise ConfigError(f"test {self.name}: a recipe builds records; leave benchmark out")


@dataclass(frozen=True)
class AblationRecipe:
    """A grid of runs. Paths are relative to the recipe's file.

    Attributes:
        base: Folder or hub id of the model that every cell starts from.
        data: A data recipe (see `DataRecipe`): what is trained on.
        tests: What every cell is asked.
        output: Folder of everything.
        cells: Names of shipped choices (see `shipped_cells`), or cells of one's own; the first is what the others are
            compared with.
        train: Settings of every run, as in a train.yaml, without base, records, output, codec and cpu.
        inference: Switches of every pipeline.
        codec: Folder or hub id; none for the shipped one.
        device: "cpu" or "cuda".
        folder: Where its paths lead from; `read` sets it.

    Raises:
        ConfigError: An unknown cell or field, two cells or tests of one name, a cell whose benchmark no test asks.
    """

    base: str
    data: str
    tests: tuple[AblationTest, ...]
    output: str
    cells: tuple[str | Cell, ...]
    train: Changes = field(default_factory=dict)
    inference: Changes = field(default_factory=dict)
    codec: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    folder: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if taken := sorted({*_OURS} & {*self.train}):
            raise ConfigError(f"train: {taken[0]} is said by the recipe itself")
        known = shipped_cells()
        for one in self.cells:
            if isinstance(one, str) and one not in known:
                raise ConfigError(f"there is no choice {one!r}; there are {', '.join(known)}, or write a cell out")
        for what, names in (
            ("cells", [cell.name for cell in self.chosen]),
            ("tests", [test.name for test in self.tests]),
        ):
            if not names or len({*names}) != len(names):
                raise ConfigError(f"an ablation has {what} of different names; got {names}")
        for cell in self.chosen:
            if not self.tests_of(cell):
                raise ConfigError(
                    f"cell {cell.name} is asked {', '.join(cell.benchmarks)}; add a test of it and its data"
                )
            self.finetuning(cell, "base", ("records.jsonl",), "run")
            self.inferring(cell)

    @property
    def chosen(self) -> tuple[Cell, ...]:
        """The cells, shipped ones looked up."""
        known = shipped_cells()
        return tuple(known[one] if isinstance(one, str) else one for one in self.cells)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> AblationRecipe:
        """From YAML or JSON; raises ConfigError as `read_config`."""
        recipe = read_config(cls, path)
        return replace(recipe, folder=str(Path(path).parent))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; cells written out, without `folder`."""
        values = json.loads(json.dumps(asdict(replace(self, cells=self.chosen))))
        del values["folder"]
        return dict(values)

    def place(self, path: str) -> Path:
        """A path of the recipe, on this machine."""
        return Path(self.folder) / path

    def tests_of(self, cell: Cell) -> tuple[AblationTest, ...]:
        """What a cell is asked."""
        return tuple(one for one in self.tests if not cell.benchmarks or one.benchmark in cell.benchmarks)

    def building(self, cell: Cell, path: str) -> DataRecipe:
        """A data recipe as a cell changes it; raises ConfigError for fields that are none."""
        recipe = DataRecipe.read(self.place(path))
        values = recipe.to_dict()
        for one in values["sets"]:
            if one["task"] == "depth" and one["regime"] != "atomic":
                one |= cell.sets
        return replace(DataRecipe.from_dict(merged(values, cell.data)), folder=recipe.folder)

    def finetuning(self, cell: Cell, base: str, records: tuple[str, ...], output: str) -> FinetuneConfig:
        """A run as a cell changes it; raises ConfigError for fields that are none."""
        values = merged(dict(self.train), cell.train)
        ours = {"base": base, "records": list(records), "output": output, "codec": self.codec_place}
        return config_from_dict(FinetuneConfig, {**values, **ours, "cpu": self.device == "cpu"})

    def inferring(self, cell: Cell) -> InferenceConfig:
        """The pipeline's switches as a cell changes them; raises ConfigError for fields that are none."""
        return config_from_dict(InferenceConfig, merged(dict(self.inference), cell.inference))

    @property
    def codec_place(self) -> str | None:
        """The codec's folder where there is one, else its id."""
        if self.codec is None:
            return None
        return str(self.place(self.codec)) if self.place(self.codec).exists() else self.codec


def shipped_cells() -> dict[str, Cell]:
    """The choices that come with perceptok, by name: "full" changes nothing."""
    found = {}
    for one in sorted(files("perceptok.evaluation").joinpath("ablations").iterdir(), key=lambda file: file.name):
        if one.name.endswith(".yaml"):
            import yaml

            name = one.name.removesuffix(".yaml")
            found[name] = config_from_dict(Cell, {"name": name, **yaml.safe_load(one.read_text(encoding="utf-8"))})
    return found


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes in them, nested ones too."""
    result = dict(values)
    for name, value in changes.items():
        inner = result.get(name)
        nested = isinstance(inner, Mapping | None) and isinstance(value, Mapping)
        result[name] = merged(inner or {}, value) if nested else value
    return result


def recipe_digest(*values: object) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


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
    run = output / "runs" / recipe_digest(values, records.parent.name)
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
    folder = output / "base" / recipe_digest(source, codec.fingerprint, start)
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


ABLATION_HEADER = (
    "test", "cell", "items", "right", "accuracy", "95 % interval", "unparsed", "invalid", "difference",
    "95 % interval of it", "p",
)  # fmt: skip
_NOTE = (
    "Accuracies in percent, differences from the first cell in points, on the same items: bootstrap 95 % intervals, "
    "paired for differences; p is McNemar's exact test."
)


def ablation_rows(results: Sequence[CellScores]) -> list[tuple[str, ...]]:
    """Cells below `ABLATION_HEADER`, test by test."""
    rows: list[tuple[str, ...]] = []
    for one in _by_test(results):
        score, pair = one.scores.overall, _against_first(one, results)
        told = ("", "", "")
        if pair is not None:
            told = (
                f"{100 * pair.difference:+.1f}",
                f"{100 * pair.low:+.1f} to {100 * pair.high:+.1f}",
                f"{pair.p_value:.3g}",
            )
        shares = (f"{100 * score.accuracy:.1f}", f"{100 * score.low:.1f} to {100 * score.high:.1f}")
        counts = (str(score.unparsed), str(score.invalid))
        rows.append((one.test.name, one.cell.name, str(score.items), str(score.right), *shares, *counts, *told))
    return rows


def write_ablation(results: Sequence[CellScores], folder: str | Path) -> None:
    """Write `ablation-table.json`, `.csv`, `.md` and `page.html`; what stands there is replaced."""
    place, rows = Path(folder), ablation_rows(results)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([ABLATION_HEADER, *rows])
    means = "".join(f"- {name}: {text}\n" for name, text in _means(results).items())
    lines = []
    for one in _by_test(results):
        pair = _against_first(one, results)
        lines.append(
            {
                "test": one.test.name,
                "cell": one.cell.name,
                **one.scores.overall._asdict(),
                "against the first cell": None if pair is None else pair._asdict(),
            }
        )
    texts = {
        "ablation-table.csv": out.getvalue(),
        "ablation-table.md": f"{markdown_rows(ABLATION_HEADER, rows)}\n{_NOTE}\n\n{means}",
        "ablation-table.json": json.dumps(lines, indent=1) + "\n",
    }
    for name, text in texts.items():
        with atomic_write(place / name, force=True) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    tables = [
        Table("Ablation", ABLATION_HEADER, rows, _NOTE),
        Table("Cells", ("cell", "what it changes"), list(_means(results).items())),
    ]
    write_page(place / "page.html", _cases(results), title="Ablation", tables=tables, force=True)


def _means(results: Sequence[CellScores]) -> dict[str, str]:
    return {one.cell.name: one.cell.means for one in results}


def _by_test(results: Sequence[CellScores]) -> list[CellScores]:
    order = list(dict.fromkeys(one.test.name for one in results))
    return sorted(results, key=lambda one: order.index(one.test.name))


def _first(one: CellScores, results: Sequence[CellScores]) -> CellScores:
    return next(other for other in results if other.test.name == one.test.name)


def _against_first(one: CellScores, results: Sequence[CellScores]) -> Comparison | None:
    """The comparison; None for the first itself, and where the items are not the same."""
    first = _first(one, results)
    items, others = ([(o.item.id, o.item.answer) for o in x.scores.outcomes] for x in (one, first))
    return None if one is first or items != others else compare(one.scores, first.scores)


def _cases(results: Sequence[CellScores]) -> Iterator[Case]:
    """The items of each test with the first cell's text and every cell's answer."""
    for first in (one for one in _by_test(results) if _first(one, results) is one):
        told: dict[str, dict[str, Fact]] = {}
        for one in results:
            if one.test.name == first.test.name:
                for outcome in one.scores.outcomes:
                    verdict = "right" if outcome.right else "wrong"
                    told.setdefault(outcome.item.id, {})[one.cell.name] = f"{outcome.reading.value} ({verdict})"
        for outcome in first.scores.outcomes:
            yield case_of(outcome, facts={"test": first.test.name, **told[outcome.item.id]})
