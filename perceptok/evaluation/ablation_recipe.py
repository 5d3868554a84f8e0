"""The recipe of an ablation: a grid of runs in which each cell changes one setting."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from perceptok.config import (
    apply_overrides,
    config_from_dict,
    find_config_file,
    parse_yaml,
    read_mapping,
    resolve_overrides,
    resolve_paths,
)
from perceptok.data import DataRecipe
from perceptok.errors import ConfigError, EvaluationError, add_place
from perceptok.evaluation.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from perceptok.llava import FinetuneConfig, InferenceConfig

__all__ = ["AblationCell", "AblationRecipe", "AblationTest", "shipped_cells"]


Changes = Mapping[str, bool | object]
"""Names of settings -> their values; nested settings are mappings."""

_TRAIN_PATHS = ("monitoring.records", "instruction_records")
"""Paths of a train.yaml that the recipe does not set itself."""

_PATHS = (
    *("output", "benchmarks", "tests.*.images"),
    *(f"train.{name}" for name in _TRAIN_PATHS),
    *(f"data_settings.{name}" for name in DataRecipe.path_settings),
)
_SOURCES = (
    *("base", "codec", "data", "train_config", "tests.*.data", "tests.*.recipe"),
    *(f"data_settings.{name}" for name in DataRecipe.source_settings),
)
"""Settings of a recipe that are paths, and that are paths, hub ids or presets."""

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
        untrained: Whether the base is asked as it is, extended and not trained.

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
    untrained: bool = False

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ConfigError(f"a cell's name has letters, digits, - and _; got {self.name!r}")
        if taken := sorted({*_RESERVED} & {*self.train}):
            raise ConfigError(f"cell {self.name}: {taken[0]} is set by the recipe, not by a cell")
        if self.untrained and (self.train or self.data or self.sets):
            raise ConfigError(f"cell {self.name}: an untrained cell has settings of inference alone")


@dataclass(frozen=True)
class AblationTest:
    """A benchmark that every cell is evaluated on.

    Attributes:
        name: Its name in tables and folders; letters, digits, - and _.
        benchmark: One of `BENCHMARKS`; "records" for records, "atomic" for those that ask for tokens alone.
        data: The benchmark's files, relative to the recipe's file, or a hub id; by default the recipe's `benchmarks`.
        recipe: Instead of `data`: a data recipe of held-out records, built for each cell that changes its questions.
        images: Folder of the benchmark's images.
        limit: Maximum number of questions, the first ones.

    Raises:
        ConfigError: A name with other characters, an unknown benchmark, or both `data` and `recipe`.
    """

    name: str
    benchmark: str = "records"
    data: str | None = None
    recipe: str | None = None
    images: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"test {self.name}: limit is at least 1; got {self.limit}")
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ConfigError(f"a test's name has letters, digits, - and _; got {self.name!r}")
        if self.benchmark not in BENCHMARKS:
            raise ConfigError(
                f"test {self.name}: {self.benchmark!r} is not a benchmark; they are {', '.join(BENCHMARKS)}"
            )
        if self.data is not None and self.recipe is not None:
            raise ConfigError(f"test {self.name} has either data (files) or recipe (of held-out records), not both")
        if self.recipe is not None and self.benchmark not in ("records", "atomic"):
            raise ConfigError(f"test {self.name}: a recipe builds records; leave benchmark out, or set it to atomic")


@dataclass(frozen=True)
class AblationRecipe:
    """A grid of runs. Paths are relative to the recipe's file, those of a preset to the working directory.

    Attributes:
        base: Folder or hub id of the model that every cell starts from.
        data: The data recipe (`DataRecipe`) of the training records: a file, or a preset's name.
        tests: The benchmarks that every cell is evaluated on.
        output: Folder of all outputs.
        cells: Names of shipped cells (see `shipped_cells`), or cells written out; the others are compared with the
            first.
        data_settings: Settings of every data recipe, such as `sources`.
        scale: Factor of the numbers of records of every data recipe, for a smaller run.
        train_config: A train.yaml, or a preset's name, that `train` changes.
        train: Settings of every run, as in a train.yaml, without model_name_or_path, records, output_dir, codec and
            use_cpu.
        inference: Settings of every pipeline.
        benchmarks: Folder of all benchmarks, for tests without `data` and `recipe`, as `load_benchmark` reads it.
        codec: Folder or hub id of a codec; none for the shipped one.
        device: "cpu" or "cuda".
        folder: The folder that its paths are relative to; `read` sets it.

    Raises:
        ConfigError: An unknown cell or setting, two cells or tests of one name, a cell whose benchmark has no test, a
            test without data.
    """

    base: str
    data: str
    tests: tuple[AblationTest, ...]
    output: str
    cells: tuple[str | AblationCell, ...]
    data_settings: Changes = field(default_factory=dict)
    scale: float = 1.0
    train_config: str | None = None
    train: Changes = field(default_factory=dict)
    inference: Changes = field(default_factory=dict)
    benchmarks: str | None = None
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
        for test in self.tests:
            if (test.data, test.recipe, self.benchmarks) == (None, None, None):
                raise ConfigError(
                    f"test {test.name} has neither data nor recipe; set benchmarks, the folder of all benchmarks"
                )
        for cell in self.resolved_cells:
            if not self.tests_for(cell):
                raise ConfigError(
                    f"cell {cell.name} is evaluated on {', '.join(cell.benchmarks)}; add a test with that benchmark"
                )
            self.inference_config(cell)

    @property
    def resolved_cells(self) -> tuple[AblationCell, ...]:
        """The cells, with the names of shipped ones replaced by the cells."""
        known = shipped_cells()
        return tuple(known[cell] if isinstance(cell, str) else cell for cell in self.cells)

    @classmethod
    def read(cls, path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> AblationRecipe:
        """Read a recipe from YAML or JSON.

        Args:
            path: The file, or the name of a preset (`perceptok llava presets`).
            overrides: Settings that replace those of the file, nested ones by dotted names. Paths among them are
                relative to the current directory.

        Raises:
            ConfigError: The file is missing or malformed, or a setting of it or of a run is unknown or not valid.
        """
        file = find_config_file(path, "evaluation")
        values = read_mapping(file)
        changes = dict(overrides or {})
        if file == Path(path):  # the file's own paths are resolved when they are used
            changes = resolve_overrides(changes, _PATHS, _SOURCES)
        apply_overrides(values, changes)
        try:
            recipe = config_from_dict(cls, values, name=str(path))
        except ConfigError as error:
            raise ConfigError(add_place(path, error)) from error
        recipe = replace(recipe, folder=str(Path(path).parent) if Path(path).is_file() else "")
        for cell in recipe.resolved_cells:
            recipe.finetune_config(cell, "base", ("records.jsonl",), "run")
        return recipe

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

    def load_test(self, test: AblationTest, data: Path | None = None) -> Benchmark:
        """Load the benchmark of a test; `data` is the file of records of a test with a recipe.

        Raises:
            EvaluationError: The benchmark is missing or damaged.
        """
        source: str | Path | None = data or test.data or self.benchmarks
        assert source is not None
        local = self.resolve(str(source))
        images = None if test.images is None else self.resolve(test.images)
        try:
            benchmark = load_benchmark(test.benchmark, local if local.exists() else source, images=images)
        except EvaluationError as error:
            raise EvaluationError(f"test {test.name}: {error}; or leave it out of the recipe's tests") from error
        return replace(benchmark, items=benchmark.items[: test.limit])

    def find_file(self, source: str, package: str) -> Path:
        """The file of a path of the recipe, or of a package's preset; raises ConfigError where there is neither."""
        return path if (path := self.resolve(source)).is_file() else find_config_file(source, package)

    def data_recipe(self, cell: AblationCell, path: str) -> DataRecipe:
        """A data recipe with the changes of a cell; raises ConfigError for unknown settings."""
        recipe = DataRecipe.read(self.find_file(path, "data"))
        if not self.resolve(path).is_file():
            recipe = replace(recipe, folder=self.folder)
        scaled = _merge(recipe.scale_counts(self.scale).to_dict(), self._rebase(self.data_settings, recipe.folder))
        try:
            values = DataRecipe.from_dict(scaled).to_dict()
        except ConfigError as error:
            raise ConfigError(f"data_settings, with {path}: {error}") from error
        for config in values["sets"]:
            if config["task"] == "depth" and config["regime"] != "atomic":
                config |= cell.sets
        values = _merge(values, self._rebase(cell.data, recipe.folder))
        return replace(DataRecipe.from_dict(values), folder=recipe.folder)

    def _rebase(self, settings: Mapping[str, Any], folder: str) -> dict[str, Any]:
        """Settings of a data recipe, whose paths are relative to this recipe, for a data recipe in a folder."""
        values = dict(json.loads(json.dumps(dict(settings))))
        if Path(folder).resolve() != Path(self.folder).resolve():
            resolve_paths(values, self.folder or ".", DataRecipe.path_settings, DataRecipe.source_settings)
        return values

    def finetune_config(self, cell: AblationCell, base: str, records: tuple[str, ...], output: str) -> FinetuneConfig:
        """The settings of a run with the changes of a cell; raises ConfigError for unknown settings."""
        config: dict[str, Any] = {}
        if self.train_config is not None:
            file = self.find_file(self.train_config, "llava")
            config = read_mapping(file)
            resolve_paths(config, file.parent, _TRAIN_PATHS)
        changes = json.loads(json.dumps(dict(self.train)))
        resolve_paths(changes, self.folder or ".", _TRAIN_PATHS)
        values = _merge(_merge(config, changes), cell.train)
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
    cells = {}
    for file in sorted(files("perceptok.evaluation").joinpath("ablations").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            name = file.name.removesuffix(".yaml")
            values = cast("dict[str, Any]", parse_yaml(file.read_text(encoding="utf-8"), file.name))
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
