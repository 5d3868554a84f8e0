"""The work on a few candidates of one set, done wherever an engine puts it."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from perceptok.data.recipes.opening import opened
from perceptok.data.records import PerceptionRecord
from perceptok.data.sources.sample import Sample
from perceptok.data.tasks.counting import counting_record
from perceptok.data.tasks.depth import depth_records
from perceptok.data.tasks.setting import Made, SetConfig

__all__ = ["Candidate", "MakeRecords", "drawn_from"]


class Candidate(NamedTuple):
    """What became of one sample: a record with the bytes of its picture, or the reason why there is none."""

    name: str
    record: PerceptionRecord | None
    picture: bytes
    reason: str


@dataclass(frozen=True)
class MakeRecords:
    """Makes the records of some samples of one set; pickled with the recipe's text and little else."""

    recipe: str
    set_name: str

    def __call__(self, names: tuple[str, ...]) -> list[Candidate]:
        """A candidate for each name. What comes out depends on recipe, set and names only."""
        here = opened(self.recipe)
        config = next(one for one in here.recipe.sets if one.name == self.set_name)
        depth = config.task == "depth"
        samples = here.source(config.source).read(names, depth=depth, boxes=not depth)
        results: list[Made | str] = [one if isinstance(one, str) else "" for one in samples]
        known = [(at, one, drawn_from(here.recipe.seed, config, one.name)) for at, one in _samples(samples)]
        if depth:
            made = depth_records([(one, rng) for _, one, rng in known], config, here.setting)
        else:
            made = [counting_record(one, rng, config, here.setting, here.plurals) for _, one, rng in known]
        for (at, _, _), one in zip(known, made, strict=True):
            results[at] = one
        return [
            Candidate(name, None, b"", one)
            if isinstance(one, str)
            else Candidate(name, one.record, _encoded(one.picture, here.recipe.image_format), "")
            for name, one in zip(names, results, strict=True)
        ]


def _samples(samples: list[Sample | str]) -> list[tuple[int, Sample]]:
    return [(at, one) for at, one in enumerate(samples) if not isinstance(one, str)]


def drawn_from(seed: int, config: SetConfig, *names: str) -> np.random.Generator:
    """What is drawn from for one sample, or for a set's order: the same whatever else is built, and in any process."""
    key = "\0".join([config.source, config.stream or config.name, *names])
    words = np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), dtype=np.uint32)
    return np.random.default_rng([seed, *words.tolist()])


def _encoded(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "png":
        picture.save(buffer, format="PNG")
    else:
        picture.save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
