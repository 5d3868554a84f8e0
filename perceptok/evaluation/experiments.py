"""The experiments of AURORA, from the data sets on disk to the table beside the paper's figures (arXiv 2412.03548).

Every stage is the function of a single command with the settings of a preset; this module only chains them, so that an
experiment is one call that can be interrupted, and says beforehand how much there is to do.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from perceptok.config import apply_overrides, config_from_dict, list_presets, read_mapping, resolve_paths
from perceptok.data import DataRecipe, FolderSource, SpecialistConfig, estimate_maps, make_depth_specialist
from perceptok.depth import (
    DepthCodec,
    MapDataset,
    MapFiles,
    NearnessRange,
    ReadOptions,
    TrainingConfig,
    encode_files,
    evaluate_depth_codec,
    find_maps,
    train_depth_codec,
)
from perceptok.errors import ConfigError, DataError, OutputError
from perceptok.evaluation.ablation import (
    ABLATION_HEADER,
    CellScores,
    Processes,
    ablation_rows,
    run_ablation,
    write_ablation,
)
from perceptok.evaluation.ablation_recipe import AblationRecipe
from perceptok.evaluation.reports import PUBLISHED_NOTE, to_markdown_table
from perceptok.files import atomic_write, parse_json, read_input
from perceptok.llava import FinetuneConfig, count_samples
from perceptok.locks import lock_output

__all__ = ["AuroraExperiment", "AuroraStage", "aurora_rows", "measure_aurora", "plan_aurora", "run_aurora"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.onnx)(?<!\.yaml)(?<!\.yml)")
_TABLES = {"depth": "aurora-table-1", "counting": "aurora-table-2"}
_HELD_OUT = 40
"""One of so many maps is left out of the codec's training, to measure its error."""

_PREPARED = ("task", "images", "include", "annotations", "estimator", "scale", "codec", "data")
"""Settings that the maps, the codec and the records depend on: an experiment continues with the same ones only."""

_PILOT_RECORDS = 4
"""Records of the largest set in a pilot; with fewer the passes of the curriculum hold no chain of thought."""


@dataclass(frozen=True)
class AuroraExperiment:
    """One experiment of AURORA.

    Attributes:
        task: "depth" or "counting": two separate models, as released.
        images: Folder of the training images: ADE20K's for depth, COCO's for counting.
        base: Folder or hub id of the model to start from.
        output: Folder of all outputs.
        benchmarks: Folder of all benchmarks, in the layout of AURORA's repository.
        estimator: Depth: an ONNX file, a folder or hub id of transformers, or a YAML file of `SpecialistConfig`.
        annotations: Counting: the LVIS (or COCO) file of the images.
        include: Patterns of names of the images that are used; None for those of the data preset.
        tables: Names of ablation presets, each a table of the paper; by default the first of the task.
        tests: Names of the tables' tests to run; empty for all.
        scale: Fraction of the preset's numbers of images, records and steps, for a run in a reduced setting.
        train: Settings of `FinetuneConfig` that replace those of the preset.
        data: Settings of `DataRecipe` that replace those of the preset.
        codec: Depth: settings of `TrainingConfig` that replace those of the preset.
        inference: Settings of `InferenceConfig` that replace those of the tables.
        limit: Maximum number of questions of each benchmark.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: A task without its estimator or annotations, or a scale out of range.
    """

    task: Literal["depth", "counting"]
    images: str
    base: str
    output: str
    benchmarks: str
    estimator: str | None = None
    annotations: str | None = None
    include: tuple[str, ...] | None = None
    tables: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    scale: float = 1.0
    train: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    codec: Mapping[str, Any] = field(default_factory=dict)
    inference: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        if self.task == "depth" and self.estimator is None:
            raise ConfigError("aurora depth needs an estimator of relative depth (--estimator)")
        if self.task == "counting" and self.annotations is None:
            raise ConfigError("aurora counting needs the annotations of the images (--annotations)")
        if self.task == "counting" and (self.estimator is not None or self.codec):
            raise ConfigError("aurora counting has neither an estimator nor a codec; leave their settings out")
        if self.task == "depth" and self.annotations is not None:
            raise ConfigError("aurora depth has no annotations; leave them out")
        if not 0 < self.scale <= 1:
            raise ConfigError(f"scale is a fraction above 0 and at most 1; got {self.scale}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return dict(json.loads(json.dumps(asdict(self))))


class AuroraStage(NamedTuple):
    """One part of an experiment.

    Attributes:
        name: "estimate", "codec", "encode", "build", "train" or "evaluate".
        amount: How much there is to do.
        unit: What is counted.
        seconds: Time that the part has taken, or is expected to take; None where it is not known.
    """

    name: str
    amount: int
    unit: str
    seconds: float | None = None


def plan_aurora(config: AuroraExperiment) -> list[AuroraStage]:
    """List the parts of an experiment in their order, with the time that finished ones took.

    Raises:
        ConfigError: A setting is not valid, or the output belongs to another experiment.
        DataError: There are fewer images than the preset asks for.
    """
    return _PreparedExperiment(config).plan()


def measure_aurora(
    config: AuroraExperiment, report: Callable[[str, str], object] = lambda *_: None
) -> list[AuroraStage]:
    """Estimate how long each part takes, from a pilot of the whole chain with a few images.

    The pilot runs in a temporary folder and is removed. Its time for each unit includes loading, so that estimates of
    long parts are upper bounds.
    """
    with tempfile.TemporaryDirectory(prefix="perceptok-pilot-") as folder:
        train = {**config.train, "max_steps": 1, "gradient_accumulation_steps": 1, "effective_batch_size": None}
        largest = max(part.count for part in DataRecipe.read(f"aurora-{config.task}").sets)
        pilot = replace(config, output=folder, scale=min(config.scale, _PILOT_RECORDS / largest), train=train, limit=1)
        run_aurora(pilot, report)
        units = {part.name: (part.seconds or 0.0) / max(part.amount, 1) for part in plan_aurora(pilot)}
    return [
        part if part.seconds is not None else part._replace(seconds=units[part.name] * part.amount)
        for part in plan_aurora(config)
    ]


def run_aurora(config: AuroraExperiment, report: Callable[[str, str], object] = lambda *_: None) -> list[CellScores]:
    """Run an experiment of AURORA, or continue it: finished parts are kept, interrupted ones resumed.

    In `output`: `maps/`, `codec/`, `codes.jsonl`, `codec.json` (depth); `data/`, `base/` and `runs/`, which are made
    once, however often tests, `limit` or the asking change; a folder of answers for each table and settings, as
    `run_ablation` writes it; `table.md` and `scores.json`, our figures with their intervals beside the paper's;
    `aurora.json`, the experiment; and `times.json`, the seconds that each part took.

    Args:
        config: The experiment.
        report: Called with the name of a stage and a message when it begins.

    Returns:
        The scores of every cell of the tables.

    Raises:
        ConfigError: A setting is not valid.
        DataError: There are fewer images than the preset asks for.
        OutputError: The folder holds another experiment, another process works in it, or it cannot be written.
        PerceptokError: What the parts raise.
    """
    return _PreparedExperiment(config).run(report)


class _PreparedExperiment:
    """An experiment with its presets read and its paths chosen."""

    def __init__(self, config: AuroraExperiment) -> None:
        self.config = config
        self.folder = Path(config.output)
        self.base = str(Path(config.base).resolve()) if Path(config.base).exists() else config.base
        self._check_inputs()
        self._refuse_other_experiment()
        self.preset = DataRecipe.read(f"aurora-{config.task}").scale_counts(config.scale)
        self.names = self._find_images()
        self.data_settings = self._choose_data_settings()
        self.grids = {table: self._read_table(table) for table in config.tables or (_TABLES[config.task],)}

    def plan(self) -> list[AuroraStage]:
        """List the parts in their order."""
        records = sum(part.count for part in self.preset.sets)
        sizes = Counter[str]()
        for part in self.preset.sets:
            sizes[part.regime] += part.count
        recipes, runs, questions = set(), {}, 0
        for grid in self.grids.values():
            for cell in grid.resolved_cells:
                questions += sum(len(grid.load_test(test)) for test in grid.tests_for(cell))
                if not cell.untrained:
                    data = grid.data_recipe(cell, grid.data).fingerprint
                    settings = grid.finetune_config(cell, grid.base, ("records.jsonl",), "run")
                    recipes.add(data)
                    runs[json.dumps([data, settings.to_dict()])] = _count_samples(settings, sizes)
        stages = [
            AuroraStage("build", len(recipes) * records, "records"),
            AuroraStage("train", sum(runs.values()), "samples of all cells"),
            AuroraStage("evaluate", questions, "questions of all cells"),
        ]
        if self.config.task == "depth":
            codec = self._codec_config()
            stages = [
                AuroraStage("estimate", len(self.names), "images"),
                AuroraStage("codec", codec.count_steps(len(self.names)) * codec.batch_size, "maps of all epochs"),
                AuroraStage("encode", len(self.names), "maps"),
                *stages,
            ]
        seconds = _read_seconds(self.folder)
        return [stage._replace(seconds=seconds.get(stage.name)) for stage in stages]

    def run(self, report: Callable[[str, str], object]) -> list[CellScores]:
        """Run what is not finished."""
        processes = Processes(cpu=self.config.device == "cpu")
        results: list[CellScores] = []
        with ExitStack() as stack:
            begin: Callable[[str, str], object] = _report_nothing
            if processes.is_first:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock_output(self.folder))
                self._write_settings()
                begin = stack.enter_context(_measure_stages(self.folder, report))
            if self.config.task == "depth":
                self._prepare_codec(begin, processes)
            for grid in self.grids.values():
                scores = run_ablation(grid, begin, shared=self.folder)
                if processes.is_first:
                    write_ablation(scores, grid.resolve(grid.output))
                results += scores
            if processes.is_first:
                self._write_table(results)
        return results

    def _write_settings(self) -> None:
        path, text = self.folder / "images.txt", "".join(f"{name}\n" for name in self.names)
        if path.exists() and read_input(path) != text.encode():
            raise OutputError(
                f"the images in {self.config.images} have changed since {path} was written; restore them, "
                "or choose another output"
            )
        with atomic_write(path, force=True) as file:
            file.write(text.encode())
        _write_json(self.folder / "aurora.json", self.config.to_dict())

    def _find_images(self) -> list[str]:
        """The images that take part: as many as the largest set needs, and a tenth more for those that are rejected."""
        config, (source,) = self.config, self.preset.sources.values()
        include = source.include if config.include is None else config.include
        names = list(FolderSource(config.images, include=include, annotations=config.annotations).names)
        largest = max(part.count for part in self.preset.sets)
        if len(names) < largest:
            raise DataError(
                f"{config.images} has {len(names)} images for this task, and with scale {config.scale:g} aurora-"
                f"{config.task} asks for {largest}: add images, or use a smaller --scale, such as "
                f"{0.9 * config.scale * len(names) / largest:.1g}"
            )
        count = min(len(names), math.ceil(1.1 * largest) + 2)
        return [names[index] for index in np.random.default_rng(0).choice(len(names), count, replace=False)]

    def _choose_data_settings(self) -> dict[str, Any]:
        """The settings that replace those of the data preset: files, codec and numbers of records."""
        config, preset = self.config, self.preset.to_dict()
        files: dict[str, Any] = {"images": str(Path(config.images).resolve())}
        if config.include is not None:
            files["include"] = list(config.include)
        if config.annotations is not None:
            files["annotations"] = str(Path(config.annotations).resolve())
        settings: dict[str, Any] = {}
        if config.task == "depth":
            files |= {"depth": str((self.folder / "maps").resolve()), "depth_options": {"kind": "inverse"}}
            files["names"] = str((self.folder / "images.txt").resolve())
            settings["codec"] = str((self.folder / "codec").resolve())
        settings["sources"] = {name: {**source, **files} for name, source in preset["sources"].items()}
        settings["sets"] = preset["sets"]
        apply_overrides(settings, config.data)
        return settings

    def _read_table(self, table: str) -> AblationRecipe:
        """The preset of a table, with the experiment's base, data, codec and benchmarks."""
        config = self.config
        overrides = {
            "base": self.base,
            "data_settings": self.data_settings,
            "output": str((self.folder / f"{table}-{self._hash_settings()}").resolve()),
            "benchmarks": str(Path(config.benchmarks).resolve()),
            "device": config.device,
            **{f"train.{name}": value for name, value in config.train.items()},
            **{f"inference.{name}": value for name, value in config.inference.items()},
        }
        if config.task == "depth":
            overrides["codec"] = str((self.folder / "codec").resolve())
        recipe = AblationRecipe.read(table, overrides)
        names = [test.name for test in recipe.tests]
        if unknown := [name for name in config.tests if name not in names]:
            raise ConfigError(f"{table} has no test {unknown[0]}; its tests are {', '.join(names)}")
        tests = [
            replace(test, limit=config.limit) for test in recipe.tests if not config.tests or test.name in config.tests
        ]
        return replace(recipe, tests=tuple(tests))

    def _hash_settings(self) -> str:
        """A name for what is trained and how it is asked: other settings have a folder of their own.

        Data, bases and trained models are shared by all of them, each under a name of its own settings.
        """
        config = self.config
        values = [self.base, dict(config.train), dict(config.inference), config.limit]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

    def _check_inputs(self) -> None:
        """Refuse what would stop the experiment after hours: a base or an estimator that is not there."""
        config = self.config
        for name, source in (("base", config.base), ("estimator", config.estimator)):
            if source is not None and not Path(source).exists() and not _HUB_ID.fullmatch(source):
                raise ConfigError(f"{name} {source}: neither a file, a folder nor a hub id such as owner/name")
        if config.estimator is not None:
            _read_estimator(config.estimator, config.device)
        shipped = list_presets("evaluation")
        if unknown := [table for table in config.tables if table not in shipped]:
            raise ConfigError(f"{unknown[0]} is not a table; they are {', '.join(n for n in shipped if 'table' in n)}")

    def _refuse_other_experiment(self) -> None:
        path = self.folder / "aurora.json"
        if not path.exists():
            return
        before, now = parse_json(read_input(path), str(path), OutputError), self.config.to_dict()
        if not isinstance(before, Mapping):
            raise OutputError(f"{path} is not a list of settings; choose another output")
        for name in _PREPARED:
            if before.get(name) != now[name]:
                raise OutputError(
                    f"{self.folder} holds an experiment with another {name} ({_describe(before.get(name))}, now "
                    f"{_describe(now[name])}); choose another output"
                )

    def _codec_config(self) -> TrainingConfig:
        settings = self.config.codec
        return TrainingConfig.read(
            "aurora", {"num_train_epochs": None, **settings} if "max_steps" in settings else settings
        )

    def _prepare_codec(self, begin: Callable[[str, str], object], processes: Processes) -> None:
        """Estimate the maps, train the codec on them, and encode them all; every process trains."""
        processes.run_in_first(lambda: self._estimate(begin))
        files = find_maps([self.folder / "maps"], ReadOptions(kind="inverse", range=NearnessRange("whole")))
        held_out = files[::_HELD_OUT]
        training = [file for index, file in enumerate(files) if index % _HELD_OUT]
        folder = self.folder / "codec"
        if processes.run_in_first(lambda: not (folder / "config.json").exists()):
            begin("codec", f"training on {len(training)} maps")
            maps = MapDataset.build({"maps": MapFiles(tuple(training))})
            train_depth_codec(self._codec_config(), maps, output=folder, cpu=self.config.device == "cpu")
        if processes.is_first and not (self.folder / "codec.json").exists():
            begin("encode", f"{len(files)} maps; errors of the {len(held_out)} that the codec was not trained on")
            codec = DepthCodec.from_pretrained(folder)
            encode_files(codec, files, self.folder / "codes.jsonl", force=True)
            _write_json(self.folder / "codec.json", evaluate_depth_codec(codec, held_out).to_dict())

    def _estimate(self, begin: Callable[[str, str], object]) -> None:
        assert self.config.estimator is not None
        known = sum((self.folder / "maps" / name).with_suffix(".png").exists() for name in self.names)
        begin("estimate", f"depth of {len(self.names)} images, {known} of them known")
        estimator = make_depth_specialist(_read_estimator(self.config.estimator, self.config.device))
        failures = estimate_maps(estimator, self.config.images, self.folder / "maps", names=self.names)
        if len(failures) > 0.1 * len(self.names):
            raise DataError(
                f"{len(failures)} of {len(self.names)} maps could not be estimated; {failures[0].name}: "
                f"{failures[0].reason}"
            )

    def _write_table(self, results: Sequence[CellScores]) -> None:
        rows = aurora_rows(results)
        _write_json(self.folder / "scores.json", [dict(zip(ABLATION_HEADER, row, strict=True)) for row in rows])
        with atomic_write(self.folder / "table.md", force=True) as file:
            note = f"{PUBLISHED_NOTE}\nSettings of this run: {json.dumps(self.config.to_dict())}"
            file.write(f"{to_markdown_table(ABLATION_HEADER, rows)}\n{note}\n".encode())


def aurora_rows(results: Sequence[CellScores]) -> list[tuple[str, ...]]:
    """Table rows below `ABLATION_HEADER`: ours test by test, each followed by the published figures of that test."""
    published = {result.test.name: result.scores.published for result in results}
    rows = ablation_rows(results)
    for test, systems in published.items():
        last = max(index for index, row in enumerate(rows) if row[0] == test)
        rows[last + 1 : last + 1] = [
            (test, f"(published) {system}", "", "", f"{accuracy:.1f}", *[""] * (len(ABLATION_HEADER) - 5))
            for system, accuracy in systems.items()
        ]
    return rows


def _read_estimator(source: str, device: Literal["cpu", "cuda"]) -> SpecialistConfig:
    """A specialist from a YAML file of its settings, an ONNX file, or a folder or hub id of transformers."""
    if source.endswith((".yaml", ".yml")):
        values = read_mapping(source)
        resolve_paths(values, Path(source).parent, ["classes"], sources=["model"])
        config = config_from_dict(SpecialistConfig, values, name=source)
        if config.kind != "inverse" or not config.form.endswith("depth"):
            raise ConfigError(f"{source}: expected an estimator of relative depth, kind: inverse; got {config.form}")
        return config
    form: Literal["onnx_depth", "transformers_depth"] = (
        "onnx_depth" if source.endswith(".onnx") else "transformers_depth"
    )
    return SpecialistConfig(form=form, model=source, kind="inverse", device=device)


def _count_samples(config: FinetuneConfig, sizes: Mapping[str, int]) -> int:
    """Number of samples that a run draws, for these numbers of records of each regime."""
    if config.max_steps > 0:
        return config.max_steps * config.count_step_samples(1)
    return math.ceil(config.num_train_epochs * count_samples(config, sizes))


def _report_nothing(stage: str, message: str) -> None:
    """What the other processes report."""


@contextmanager
def _measure_stages(folder: Path, report: Callable[[str, str], object]) -> Iterator[Callable[[str, str], None]]:
    """Yield a function that a stage calls when it begins; the time of each is added to `times.json`."""
    seconds = _read_seconds(folder)
    current: tuple[str, float] | None = None

    def stop() -> None:
        nonlocal current
        if current is not None:
            name, start = current
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
            _write_json(folder / "times.json", seconds)
            current = None

    def begin(stage: str, message: str) -> None:
        nonlocal current
        stop()
        report(stage, message)
        current = stage, time.perf_counter()

    try:
        yield begin
    finally:
        stop()


def _read_seconds(folder: Path) -> dict[str, float]:
    path = folder / "times.json"
    values = parse_json(read_input(path), str(path), OutputError) if path.exists() else {}
    if not isinstance(values, dict) or not all(isinstance(value, int | float) for value in values.values()):
        raise OutputError(f"{path} is not a list of times; remove it")
    return values


def _describe(value: object) -> str:
    return "none" if value is None else f"{value!r:.80}"


def _write_json(path: Path, values: object) -> None:
    with atomic_write(path, force=True) as file:
        file.write((json.dumps(values, indent=1) + "\n").encode())
