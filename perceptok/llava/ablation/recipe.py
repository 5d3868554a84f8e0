"""What an ablation is made of: a base run, and cells that each change one thing of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from perceptok.configs import config_from_dict, read_config
from perceptok.data.recipes import DataRecipe
from perceptok.errors import ConfigError
from perceptok.evaluation.benchmarks.catalogue import BENCHMARKS
from perceptok.llava.inference.settings import InferenceConfig
from perceptok.llava.training.recipe import FinetuneConfig

__all__ = ["AblationRecipe", "AblationTest", "Cell", "shipped_cells"]

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
    for one in sorted(files("perceptok.llava.ablation").joinpath("choices").iterdir(), key=lambda file: file.name):
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


def digest(*values: object) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]
