"""From a recipe's words to the things themselves, opened once in each process."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from perceptok.data.prompts import PromptSet
from perceptok.data.recipes.recipe import DataRecipe, SourceConfig, SpecialistConfig
from perceptok.data.sources.folders import DepthFolder, FolderSource
from perceptok.data.sources.procedural import ProceduralSource
from perceptok.data.sources.sample import Source
from perceptok.data.specialists.cache import CachedBoxes, CachedDepth
from perceptok.data.specialists.protocol import BoxSpecialist, DepthSpecialist
from perceptok.data.tasks.plurals import Plurals
from perceptok.data.tasks.setting import Setting
from perceptok.depth.codec import DepthCodec
from perceptok.errors import ConfigError

__all__ = ["Opened", "opened"]


class Opened:
    """A recipe with its codec, prompts, plurals and sources."""

    def __init__(self, recipe: DataRecipe) -> None:
        self.recipe = recipe
        codec = DepthCodec.from_pretrained(None if recipe.codec is None else Path(recipe.codec))
        prompts = PromptSet.named(recipe.prompts, recipe.templates)
        self.setting = Setting(prompts, codec, recipe.frame, recipe.size, recipe.soft_codes)
        self.plurals = Plurals(recipe.plurals)
        self._sources: dict[str, Source] = {}

    def source(self, name: str) -> Source:
        """One of the recipe's sources."""
        if name not in self._sources:
            self._sources[name] = _source(self.recipe.sources[name], self.recipe)
        return self._sources[name]


@lru_cache(maxsize=2)
def opened(recipe: str) -> Opened:
    """What a recipe, as JSON text, opens; the same object at every call in one process."""
    return Opened(DataRecipe.from_dict(json.loads(recipe)))


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
        from perceptok.data.specialists.onnx_files import OnnxDepth

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
        from perceptok.data.specialists.onnx_files import YoloxOnnx

        assert config.classes is not None
        try:
            lines = Path(config.classes).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config.classes}: the classes cannot be read ({error})") from error
        classes = [line.strip() for line in lines if line.strip()]
        return YoloxOnnx(config.model, classes=classes, score=config.score, device=config.device)
    from perceptok.data.specialists.transformers_models import TransformersBoxes

    return TransformersBoxes(config.model, score=config.score, device=config.device, batch_size=config.batch_size)
