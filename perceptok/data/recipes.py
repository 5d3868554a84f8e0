"""Recipes of data sets, in YAML or JSON: sources, sets, prompts and a seed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from perceptok.boxes import FrameMode
from perceptok.config import (
    apply_overrides,
    config_from_dict,
    find_config_file,
    read_mapping,
    resolve_overrides,
    resolve_paths,
)
from perceptok.data.depth_folders import DepthFolder
from perceptok.data.npy_files import DepthCodesFile
from perceptok.data.orientation import Exif
from perceptok.data.plurals import Plurals
from perceptok.data.prompts import PromptSet
from perceptok.data.sources import FolderSource, ProceduralSource, Source, read_names
from perceptok.data.specialists.specialist import BoxSpecialist, CachedBoxes, CachedDepth, DepthSpecialist
from perceptok.data.tasks import SetConfig, TaskContext
from perceptok.depth import DepthCodec, Kind, NearnessRange, ReadOptions, Unit
from perceptok.errors import ConfigError, DataError, add_place, quote_error
from perceptok.files import read_input
from perceptok.scenes import Difficulty, SplitName
from perceptok.tokens import DEPTH

__all__ = ["DataRecipe", "RecipeResources", "SourceConfig", "SpecialistConfig", "make_depth_specialist", "open_recipe"]


_LISTS = ("exclude", "export", "include", "invalid", "sky_values")
"""Settings that may be overridden by one value instead of a list of them."""


@dataclass(frozen=True)
class SpecialistConfig:
    """A network that estimates depth or detects boxes.

    Attributes:
        form: "onnx_depth", "transformers_depth", "yolox_onnx" or "transformers_boxes".
        model: A file, or for transformers a folder or hub id.
        kind: Depth: kind of its output, "inverse" or "metric".
        unit: Depth: unit of a metric output.
        mean: `onnx_depth`: subtracted from the channels, which are in 0..255.
        std: `onnx_depth`: the channels are divided by it after the subtraction.
        classes: `yolox_onnx`: a text file with one class a line.
        score_threshold: Boxes: minimum confidence.
        device: "cpu" or "cuda".
        batch_size: transformers: images of one size in a batch.

    Raises:
        ConfigError: A depth network without a kind, or a YOLOX network without its classes.
    """

    form: Literal["onnx_depth", "transformers_depth", "yolox_onnx", "transformers_boxes"]
    model: str
    kind: Kind | None = None
    unit: Unit | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    classes: str | None = None
    score_threshold: float = 0.5
    device: Literal["cpu", "cuda"] = "cpu"
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.form.endswith("depth") and self.kind is None:
            raise ConfigError(f"specialist {self.model}: set kind: inverse or kind: metric, what its numbers mean")
        if self.form == "yolox_onnx" and self.classes is None:
            raise ConfigError(f"specialist {self.model}: set classes:, a text file with the name of one class a line")


@dataclass(frozen=True)
class SourceConfig:
    """A source of images, depth and boxes. Paths are relative to the recipe's file.

    Attributes:
        images: A folder of images; None for the procedural world. With annotations, it has their images, also in
            subfolders.
        include: Patterns of image names that are used, such as "*.jpg"; `*` matches `/` too. Empty for all.
        exclude: Patterns of image names that are left out.
        names: A file that lists the images to use, by name or by the annotations' ids: text with one a line, a JSON
            list or a NumPy array (`.npy`).
        depth: A folder of depth maps with the images' names.
        depth_names: Pattern of image names -> pattern of map names, where maps have other names: each `*` of a map's
            stands for what the `*` at the same place of the image's matches, such as {"rgb_*.jpg": "depth_*.png"}.
        depth_options: How these maps are read: the options of `perceptok depth encode`. Of a specialist's maps only
            `range` is used.
        exif: What annotations and maps of photos with an EXIF orientation are of, where their size does not tell: the
            upright photo ("apply"), or the stored one ("ignore"); None refuses such images.
        depth_specialist: Estimates depth, instead of a folder of maps.
        depth_codes: A dictionary of depth codes by image name (`.npy`), as AURORA's `get_codes.py` saves it, used
            instead of encoding maps. Markers need maps too.
        annotations: A COCO or LVIS file.
        box_specialist: Detects boxes, instead of annotations.
        scenes: Number of procedural scenes, instead of images.
        scene_seed: Scenes of different seeds are different.
        scene_split: "train" or "heldout".
        scene_difficulty: Counts, occlusion and depth gaps of scenes with many objects.

    Raises:
        ConfigError: Two sources of images, depth or boxes, or a specialist of the wrong form.
    """

    images: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    names: str | None = None
    depth: str | None = None
    depth_names: Mapping[str, str] = field(default_factory=dict)
    depth_options: ReadOptions = field(default_factory=ReadOptions)
    exif: Exif | None = None
    depth_specialist: SpecialistConfig | None = None
    depth_codes: str | None = None
    annotations: str | None = None
    box_specialist: SpecialistConfig | None = None
    scenes: int | None = None
    scene_seed: int = 0
    scene_split: SplitName = "train"
    scene_difficulty: Difficulty = field(default_factory=Difficulty)

    def __post_init__(self) -> None:
        if (self.images is None) == (self.scenes is None):
            raise ConfigError("a source has images: a folder, or scenes: a number; and not both")
        others = (self.depth, self.depth_specialist, self.depth_codes, self.annotations, self.box_specialist)
        if self.scenes is not None and any(others):
            raise ConfigError("procedural scenes have their own depth and boxes; leave the other sources of them out")
        if self.depth is not None and self.depth_specialist is not None:
            raise ConfigError("depth comes from a folder or from a specialist; got both")
        is_of_files = self.depth_names or replace(self.depth_options, range=NearnessRange()) != ReadOptions()
        if self.depth_specialist is not None and is_of_files:
            raise ConfigError("depth_names and depth_options (except range) are for a folder of maps, not a specialist")
        if self.annotations is not None and self.box_specialist is not None:
            raise ConfigError("boxes come from annotations or from a specialist; got both")
        for name, specialist in (("depth", self.depth_specialist), ("box", self.box_specialist)):
            if specialist is not None and ("depth" in specialist.form) != (name == "depth"):
                raise ConfigError(f"{name}_specialist cannot be of the form {specialist.form}")


@dataclass(frozen=True)
class DataRecipe:
    """A recipe of a data set: the same recipe over the same files gives the same bytes.

    Attributes:
        sources: Name -> source of images.
        sets: The sets of records, in the order in which they are built.
        seed: Of all random draws.
        frame: How images are fitted into the square.
        size: Side of the square in pixels; records have coordinate tokens for 336.
        prompts: Name of a prompt set: "aurora", "varied", "evidence", "evidence_places", "evidence_cells",
            "evidence_running", "no_coordinates", "no_depth", "numerals" or "box_numerals".
        templates: Texts that replace those of the prompt set.
        codec: Folder or hub id of a codec; None for the weights that come with perceptok.
        interleave_streams: Write the records of sets with one source and stream image by image, in the order of the
            sets, instead of set by set: in AURORA's data the direct label of an image precedes its chain of thought.
        disjoint_streams: Use no image in two streams of a source; by default streams draw independently.
        soft_codes: Depth: number of nearest codes that each cell keeps, with their distances, for training with a soft
            teacher (32, say: 8 leave out 29 % of its weight at the default temperature, measured on smooth noise);
            0 for none.
        plurals: A table of plurals, a JSON object or a NumPy dictionary (`.npy`).
        image_format: "jpg" (quality 95) or "png".
        cache_dir: Folder where the results of specialists are cached, shared between runs; None for no cache.
        export: Further files of the same records: "llava", "chat", "parquet".
        folder: The folder that the paths are relative to; `read` sets it. It is not part of `to_dict`, `fingerprint`
            and comparisons, which are the same on every machine.
        path_settings: Names of the settings that are paths; `*` stands for any source.
        source_settings: Names of those that may also be hub ids.

    Raises:
        ConfigError: A value is out of range, two sets have one name, or a set names an unknown source.
    """

    sources: Mapping[str, SourceConfig]
    sets: tuple[SetConfig, ...]
    seed: int = 0
    frame: FrameMode = "squash"
    size: int = 336
    prompts: str = "aurora"
    templates: Mapping[str, str] = field(default_factory=dict)
    codec: str | None = None
    interleave_streams: bool = False
    disjoint_streams: bool = False
    soft_codes: int = 0
    plurals: str | None = None
    image_format: Literal["jpg", "png"] = "jpg"
    cache_dir: str | None = None
    export: tuple[Literal["llava", "chat", "parquet"], ...] = ()
    folder: str = field(default="", compare=False)

    path_settings: ClassVar[tuple[str, ...]] = (
        *("plurals", "cache_dir", "sources.*.images", "sources.*.names", "sources.*.annotations", "sources.*.depth"),
        *("sources.*.depth_options.mask", "sources.*.depth_codes"),
        *("sources.*.depth_specialist.classes", "sources.*.box_specialist.classes"),
    )
    source_settings: ClassVar[tuple[str, ...]] = (
        *("codec", "sources.*.depth_specialist.model", "sources.*.box_specialist.model"),
    )

    def __post_init__(self) -> None:
        if self.seed < 0 or not 64 <= self.size <= 336:
            raise ConfigError(f"need seed >= 0 and size 64..336; got {self.seed} and {self.size}")
        if not 0 <= self.soft_codes <= DEPTH.size:
            raise ConfigError(f"soft_codes is a number of codes in 0..{DEPTH.size}; got {self.soft_codes}")
        names = [config.name for config in self.sets]
        if not names or len({*names}) != len(names):
            raise ConfigError(f"a recipe has one or more sets with different names; got {names}")
        for config in self.sets:
            if config.source not in self.sources:
                raise ConfigError(
                    f"set {config.name}: unknown source {config.source!r}; sources are {', '.join(self.sources)}"
                )
        if self.frame != "squash" or self.soft_codes:
            for name, source in self.sources.items():
                if source.depth_codes is not None:
                    raise ConfigError(
                        f"source {name}: depth_codes are those of squashed images, without distances; they need "
                        f"frame: squash and soft_codes: 0, got {self.frame} and {self.soft_codes}"
                    )
        prompts = PromptSet.from_name(self.prompts, self.templates)
        reading = [config.name for config in self.sets if config.regime == "reading"]
        if reading and not prompts.point:
            raise ConfigError(
                f"set {reading[0]}: the regime reading names points in words, and the prompts {self.prompts} have an "
                "empty template point"
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> DataRecipe:
        """Read a recipe from YAML or JSON.

        Args:
            path: The file, or the name of a preset (`perceptok data presets`). Paths in a file are relative to its
                folder, those of a preset to the current directory.
            overrides: Settings that replace those of the file, nested ones by dotted names such as
                "sources.ade20k.images". Paths in them are relative to the current directory.

        Raises:
            ConfigError: The file cannot be read, or a setting is unknown, missing or not valid.
        """
        found = find_config_file(path, "data")
        values = read_mapping(found)
        overrides = {
            name: [value] if name.rpartition(".")[2] in _LISTS and not isinstance(value, list) else value
            for name, value in (overrides or {}).items()
        }
        is_preset = found != Path(path)
        if not is_preset:
            overrides = resolve_overrides(overrides, cls.path_settings, cls.source_settings)
        apply_overrides(values, overrides)
        try:
            recipe = cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(add_place(path, error)) from error
        return recipe if is_preset else replace(recipe, folder=str(found.parent))

    @classmethod
    def from_dict(cls, values: object) -> DataRecipe:
        """Build a recipe from JSON types; raises ConfigError for unknown, missing or invalid settings."""
        if isinstance(values, Mapping) and "folder" in values:
            raise ConfigError(
                "DataRecipe: unknown key 'folder'; paths are relative to the folder of the recipe's file, so leave it "
                "out, or set the paths themselves, such as sources.NAME.images"
            )
        return config_from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON types, with the paths as they are in the recipe."""
        values = dict(json.loads(json.dumps(asdict(self), default=os.fspath)))
        del values["folder"]
        return values

    @property
    def fingerprint(self) -> str:
        """Hash of all settings."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def scale_counts(self, factor: float) -> DataRecipe:
        """Multiply the numbers of records of all sets, for a smaller data set of the same kind.

        Args:
            factor: Positive; a set that has records keeps at least one.

        Raises:
            ConfigError: The factor is not a positive number.
        """
        if not 0 < factor < math.inf:
            raise ConfigError(f"scale: expected a positive number; got {factor}")
        sets = tuple(
            replace(config, count=max(1, round(config.count * factor)) if config.count else 0) for config in self.sets
        )
        return replace(self, sets=sets)

    def resolve_paths(self) -> DataRecipe:
        """Make the paths absolute, for this machine and any process on it."""
        values = self.to_dict()
        resolve_paths(values, Path(self.folder).resolve(), self.path_settings, self.source_settings)
        return self.from_dict(values)


class RecipeResources:
    """The codec, prompts, plurals and sources of a recipe."""

    def __init__(self, recipe: DataRecipe) -> None:
        self.recipe = recipe
        codec = DepthCodec.from_pretrained(recipe.codec)
        prompts = PromptSet.from_name(recipe.prompts, recipe.templates)
        self.context = TaskContext(prompts, codec, recipe.frame, recipe.size, recipe.soft_codes)
        self.plurals = Plurals(recipe.plurals)
        self._sources: dict[str, Source] = {}

    def open_source(self, name: str) -> Source:
        """Open one of the recipe's sources; the same object at every call.

        Raises:
            DataError: A folder is missing or does not have the images that the source asks for.
        """
        if name not in self._sources:
            try:
                self._sources[name] = _open_source(self.recipe.sources[name], self.recipe)
            except DataError as error:
                raise DataError(f"source {name}: {error}") from error
        return self._sources[name]

    def list_remarks(self, name: str) -> list[str]:
        """List what was left out of one of the recipe's sources, in sentences."""
        return [f"source {name}: {remark}" for remark in self.open_source(name).remarks]

    def check_specialists(self, configs: Sequence[SetConfig]) -> None:
        """Run the networks that some sets need on a test image.

        Raises:
            SpecialistError: A network cannot be loaded or run, or is of another task.
        """
        for name, task in dict.fromkeys((config.source, config.task) for config in configs):
            source = self.open_source(name)
            if isinstance(source, FolderSource):
                source.check_specialist(task)

    def list_images(self, name: str) -> Sequence[str]:
        """List the images of one of the recipe's sources; raises DataError as `open_source`."""
        source = self.open_source(name)
        try:
            return source.names
        except DataError as error:
            raise DataError(f"source {name}: {error}") from error


@lru_cache(maxsize=2)
def open_recipe(recipe: str) -> RecipeResources:
    """Open the resources of a recipe, given as JSON text; the same object at every call in one process."""
    return RecipeResources(DataRecipe.from_dict(json.loads(recipe)))


def _open_source(config: SourceConfig, recipe: DataRecipe) -> Source:
    if config.scenes is not None:
        return ProceduralSource(
            config.scene_seed,
            config.scenes,
            recipe.size,
            split=config.scene_split,
            difficulty=config.scene_difficulty,
        )
    assert config.images is not None
    depth: DepthFolder | DepthSpecialist | None = None
    if config.depth is not None:
        depth = DepthFolder(config.depth, config.depth_options, names=config.depth_names, exif=config.exif)
    elif config.depth_specialist is not None:
        depth = make_depth_specialist(config.depth_specialist)
        depth = depth if recipe.cache_dir is None else CachedDepth(depth, recipe.cache_dir)
    detector: BoxSpecialist | None = None
    if config.box_specialist is not None:
        detector = _make_box_specialist(config.box_specialist)
        detector = detector if recipe.cache_dir is None else CachedBoxes(detector, recipe.cache_dir)
    return FolderSource(
        config.images,
        include=config.include,
        exclude=config.exclude,
        names=None if config.names is None else read_names(config.names),
        depth=depth,
        depth_range=config.depth_options.range,
        codes=None if config.depth_codes is None else DepthCodesFile(config.depth_codes),
        annotations=config.annotations,
        exif=config.exif,
        detector=detector,
    )


def make_depth_specialist(config: SpecialistConfig) -> DepthSpecialist:
    """Make the depth specialist that a configuration describes; its network is loaded on first use.

    Raises:
        ConfigError: The configuration is that of a network that detects boxes.
    """
    if not config.form.endswith("depth") or config.kind is None:
        raise ConfigError(
            f"specialist {config.model}: the form {config.form} detects boxes; depth needs onnx_depth or "
            "transformers_depth, and kind: inverse or metric"
        )
    if config.form == "onnx_depth":
        from perceptok.data.specialists.onnx_models import OnnxDepth

        return OnnxDepth(
            config.model,
            kind=config.kind,
            unit=config.unit,
            mean=config.mean,
            std=config.std,
            device=config.device,
        )
    from perceptok.data.specialists.transformers_models import TransformersDepth

    return TransformersDepth(
        config.model, kind=config.kind, unit=config.unit, device=config.device, batch_size=config.batch_size
    )


def _make_box_specialist(config: SpecialistConfig) -> BoxSpecialist:
    if config.form == "yolox_onnx":
        from perceptok.data.specialists.onnx_models import YoloxOnnx

        assert config.classes is not None
        try:
            lines = read_input(config.classes).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config.classes}: the file of classes cannot be read ({quote_error(error)})") from error
        classes = [line.strip() for line in lines if line.strip()]
        return YoloxOnnx(config.model, classes=classes, score_threshold=config.score_threshold, device=config.device)
    from perceptok.data.specialists.transformers_models import TransformersBoxes

    return TransformersBoxes(
        config.model, score_threshold=config.score_threshold, device=config.device, batch_size=config.batch_size
    )
