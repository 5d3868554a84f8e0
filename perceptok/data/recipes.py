"""What a data set is made of: sources, sets, prompts, seed; read from YAML or JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from perceptok.boxes import FrameMode
from perceptok.config import config_from_dict, read_config
from perceptok.data.prompts import PromptSet
from perceptok.data.sources import DepthFolder, FolderSource, ProceduralSource, Source
from perceptok.data.specialists.specialist import BoxSpecialist, CachedBoxes, CachedDepth, DepthSpecialist
from perceptok.data.tasks import Plurals, SetConfig, TaskContext
from perceptok.depth import DepthCodec, Kind, Unit
from perceptok.errors import ConfigError
from perceptok.scenes import Difficulty, SplitName
from perceptok.tokens import DEPTH

__all__ = ["DataRecipe", "RecipeResources", "SourceConfig", "SpecialistConfig", "open_recipe"]


@dataclass(frozen=True)
class SpecialistConfig:
    """A network that sees depth or boxes.

    Attributes:
        form: "onnx_depth", "transformers_depth", "yolox_onnx" or "transformers_boxes".
        model: A file, or for transformers a folder or hub id.
        kind: Depth: what its output says, "inverse" or "metric".
        unit: Depth: of a metric output.
        mean: `onnx_depth`: subtracted from channels in 0..255.
        std: `onnx_depth`: what they are divided by then.
        classes: `yolox_onnx`: a text file with a class a line.
        score: Boxes: least confidence.
        device: "cpu" or "cuda".
        batch_size: transformers: pictures that go through at once.
    """

    form: Literal["onnx_depth", "transformers_depth", "yolox_onnx", "transformers_boxes"]
    model: str
    kind: Kind | None = None
    unit: Unit | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    classes: str | None = None
    score: float = 0.5
    device: Literal["cpu", "cuda"] = "cpu"
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.form.endswith("depth") and self.kind is None:
            raise ConfigError(f"specialist {self.model}: say kind: inverse or kind: metric, what its numbers mean")
        if self.form == "yolox_onnx" and self.classes is None:
            raise ConfigError(f"specialist {self.model}: say classes:, a text file with the name of a class a line")


@dataclass(frozen=True)
class SourceConfig:
    """Where pictures, depth and boxes come from. Paths are relative to the recipe's file.

    Attributes:
        images: A folder of images; None for the procedural world.
        depth: A folder of depth maps with the images' names.
        depth_kind: Of these maps: "metric" or "inverse", where the files do not say it.
        depth_unit: Of metric maps: "m", "mm", ...
        depth_scale: Instead of a unit.
        depth_invalid: Values that mark holes.
        depth_specialist: Instead of a folder of maps.
        annotations: A COCO or LVIS file.
        box_specialist: Instead of annotations.
        scenes: Number of procedural scenes, instead of images.
        scene_seed: Which family of scenes.
        scene_split: "train" or "heldout".
        scene_difficulty: Counts, occlusion and depth gaps of scenes with gathered things.
    """

    images: str | None = None
    depth: str | None = None
    depth_kind: Kind | None = None
    depth_unit: Unit | None = None
    depth_scale: float | None = None
    depth_invalid: tuple[float, ...] = ()
    depth_specialist: SpecialistConfig | None = None
    annotations: str | None = None
    box_specialist: SpecialistConfig | None = None
    scenes: int | None = None
    scene_seed: int = 0
    scene_split: SplitName = "train"
    scene_difficulty: Difficulty = field(default_factory=Difficulty)

    def __post_init__(self) -> None:
        if (self.images is None) == (self.scenes is None):
            raise ConfigError("a source has images: a folder, or scenes: a number; and not both")
        if self.scenes is not None and any((self.depth, self.depth_specialist, self.annotations, self.box_specialist)):
            raise ConfigError("the procedural world knows its depth and boxes; leave the others out")
        if self.depth is not None and self.depth_specialist is not None:
            raise ConfigError("depth comes from a folder or from a specialist; got both")
        if self.annotations is not None and self.box_specialist is not None:
            raise ConfigError("boxes come from annotations or from a specialist; got both")
        for one, part, wanted in (
            (self.depth_specialist, "depth_specialist", "depth"),
            (self.box_specialist, "box_specialist", "box"),
        ):
            if one is not None and ("depth" in one.form) != (wanted == "depth"):
                raise ConfigError(f"{part} cannot be of the form {one.form}")


@dataclass(frozen=True)
class DataRecipe:
    """A data set, exactly: the same recipe over the same files gives the same bytes.

    Attributes:
        sources: Name -> where pictures come from.
        sets: What is built, in this order.
        seed: Of everything that is drawn.
        frame: How pictures are brought into the square.
        size: Side of the square; records have tokens for 336.
        prompts: "aurora", "no_coordinates", "no_depth", "numerals" or "box_numerals".
        templates: Texts that replace those of the prompts.
        codec: A codec's folder; None for the weights that come with perceptok.
        soft_codes: Depth: how many of the codec's nearest codes each cell keeps, with their distances, for training
            with a soft teacher (32, say: 8 leave out 29 % of its weight at the default temperature, measured on smooth
            noise); 0 for none.
        plurals: A JSON table of plurals.
        image_format: "jpg" (quality 95) or "png".
        cache: A folder for what specialists say, shared between runs; None for none.
        also: Further files of the same records: "llava", "chat", "parquet".
        folder: Where its paths lead from; `read` puts the folder of the recipe's file before it. Neither compared nor
            part of `to_dict` and `fingerprint`, which are the same on every machine.

    Raises:
        ConfigError: A value out of range, two sets of one name, a set of a source that is not there.
    """

    sources: Mapping[str, SourceConfig]
    sets: tuple[SetConfig, ...]
    seed: int = 0
    frame: FrameMode = "squash"
    size: int = 336
    prompts: str = "aurora"
    templates: Mapping[str, str] = field(default_factory=dict)
    codec: str | None = None
    soft_codes: int = 0
    plurals: str | None = None
    image_format: Literal["jpg", "png"] = "jpg"
    cache: str | None = None
    also: tuple[Literal["llava", "chat", "parquet"], ...] = ()
    folder: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.seed < 0 or not 64 <= self.size <= 336:
            raise ConfigError(f"need seed >= 0 and size 64..336; got {self.seed} and {self.size}")
        if not 0 <= self.soft_codes <= DEPTH.size:
            raise ConfigError(f"soft_codes is a number of codes, 0..{DEPTH.size}; got {self.soft_codes}")
        names = [config.name for config in self.sets]
        if not names or len({*names}) != len(names):
            raise ConfigError(f"a recipe has sets of different names; got {names}")
        for config in self.sets:
            if config.source not in self.sources:
                raise ConfigError(
                    f"set {config.name}: unknown source {config.source!r}, only {', '.join(self.sources)}"
                )
        PromptSet.named(self.prompts, self.templates)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> DataRecipe:
        """A recipe from YAML or JSON; its paths lead from its folder.

        Raises:
            ConfigError: As `read_config`.
        """
        recipe = read_config(cls, path)
        return replace(recipe, folder=str(Path(path).parent / recipe.folder))

    @classmethod
    def from_dict(cls, values: object) -> DataRecipe:
        """A recipe of JSON types; raises ConfigError as `config_from_dict`."""
        return config_from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, paths as the recipe says them."""
        values = dict(json.loads(json.dumps(asdict(self))))
        del values["folder"]
        return values

    @property
    def fingerprint(self) -> str:
        """A hash of everything in it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def located(self) -> DataRecipe:
        """The same recipe with absolute paths, for this machine and any process on it."""
        folder = Path(self.folder).resolve()

        def led(path: str | None) -> str | None:
            return None if path is None else str(folder / path)

        def led_specialist(one: SpecialistConfig | None) -> SpecialistConfig | None:
            if one is None:
                return None
            # A hub id is not a path.
            here = one.form.endswith("onnx") or one.form == "onnx_depth" or (folder / one.model).exists()
            return replace(one, model=str(folder / one.model) if here else one.model, classes=led(one.classes))

        sources = {
            name: replace(
                source,
                images=led(source.images),
                depth=led(source.depth),
                annotations=led(source.annotations),
                depth_specialist=led_specialist(source.depth_specialist),
                box_specialist=led_specialist(source.box_specialist),
            )
            for name, source in self.sources.items()
        }
        parts = {name: led(getattr(self, name)) for name in ("codec", "plurals", "cache")}
        return replace(self, sources=sources, folder="", **parts)  # type: ignore[arg-type] # strings stay strings


class RecipeResources:
    """A recipe with its codec, prompts, plurals and sources."""

    def __init__(self, recipe: DataRecipe) -> None:
        self.recipe = recipe
        codec = DepthCodec.from_pretrained(None if recipe.codec is None else Path(recipe.codec))
        prompts = PromptSet.named(recipe.prompts, recipe.templates)
        self.setting = TaskContext(prompts, codec, recipe.frame, recipe.size, recipe.soft_codes)
        self.plurals = Plurals(recipe.plurals)
        self._sources: dict[str, Source] = {}

    def source(self, name: str) -> Source:
        """One of the recipe's sources."""
        if name not in self._sources:
            self._sources[name] = _source(self.recipe.sources[name], self.recipe)
        return self._sources[name]


@lru_cache(maxsize=2)
def open_recipe(recipe: str) -> RecipeResources:
    """What a recipe, as JSON text, opens; the same object at every call in one process."""
    return RecipeResources(DataRecipe.from_dict(json.loads(recipe)))


def _source(config: SourceConfig, recipe: DataRecipe) -> Source:
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
        depth = DepthFolder(
            config.depth,
            kind=config.depth_kind,
            unit=config.depth_unit,
            scale=config.depth_scale,
            invalid=config.depth_invalid,
        )
    elif config.depth_specialist is not None:
        depth = _depth_specialist(config.depth_specialist)
        depth = depth if recipe.cache is None else CachedDepth(depth, recipe.cache)
    detector: BoxSpecialist | None = None
    if config.box_specialist is not None:
        detector = _box_specialist(config.box_specialist)
        detector = detector if recipe.cache is None else CachedBoxes(detector, recipe.cache)
    return FolderSource(config.images, depth=depth, annotations=config.annotations, detector=detector)


def _depth_specialist(config: SpecialistConfig) -> DepthSpecialist:
    assert config.kind is not None
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


def _box_specialist(config: SpecialistConfig) -> BoxSpecialist:
    if config.form == "yolox_onnx":
        from perceptok.data.specialists.onnx_models import YoloxOnnx

        assert config.classes is not None
        try:
            lines = Path(config.classes).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config.classes}: the classes cannot be read ({error})") from error
        classes = [line.strip() for line in lines if line.strip()]
        return YoloxOnnx(config.model, classes=classes, score=config.score, device=config.device)
    from perceptok.data.specialists.transformers_models import TransformersBoxes

    return TransformersBoxes(config.model, score=config.score, device=config.device, batch_size=config.batch_size)
