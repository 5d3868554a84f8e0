"""The procedural world as a source: pictures with exact depth and boxes, any number of them, without a download."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from perceptok.boxes.datasets.records import BoxLabels, ImageBoxes
from perceptok.data.sources.sample import Sample
from perceptok.depth.maps.depth_map import DepthMap
from perceptok.errors import DataError
from perceptok.scenes.pictures import PLURALS, Difficulty, ScenePicture, render_picture

__all__ = ["ProceduralSource"]

_NUMBERS = {name: number for number, name in enumerate(sorted(PLURALS))}


class ProceduralSource:
    """Pictures 0 .. count - 1 of a seed; see `perceptok.scenes.pictures.render_picture`.

    Depth is exact; the sky is infinitely far, nearness 0. Boxes are those of classes that are clearly seen throughout;
    absent are those that are nowhere in the picture.

    Args:
        seed: Names the family of pictures; families of different seeds share none.
        count: How many.
        size: Side of the square pictures.
        split: "train" or "heldout", which share neither texture nor lens nor arrangement.
        difficulty: Of gatherings.

    Raises:
        DataError: Numbers out of range.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        size: int = 336,
        *,
        split: str = "train",
        difficulty: Difficulty | None = None,
    ) -> None:
        if seed < 0 or count < 1 or size < 64:
            raise DataError(f"scenes need seed >= 0, count >= 1 and size >= 64; got {seed}, {count} and {size}")
        self.seed, self.count, self.size, self.split = seed, count, size, split
        self.difficulty = difficulty or Difficulty()

    @property
    def names(self) -> Sequence[str]:
        """`SPLIT-SEED-NUMBER`."""
        return [f"{self.split}-{self.seed}-{index:06d}" for index in range(self.count)]

    @property
    def fingerprint(self) -> str:
        """Everything that a picture depends on."""
        return f"procedural {self.split} {self.seed} {self.count} {self.size} {self.difficulty}"

    def read(self, names: Sequence[str], *, depth: bool, boxes: bool) -> list[Sample | str]:  # noqa: ARG002
        """See `Source.read`; depth and boxes come in any case."""
        return [self._sample(name) for name in names]

    def _sample(self, name: str) -> Sample:
        index = int(name.rpartition("-")[2])
        seen = render_picture(self.seed, index, self.size, split=self.split, difficulty=self.difficulty)
        nearness, valid = seen.nearness()
        facts = {"layout": seen.kind, "split": seen.split, "scene_seed": seen.seed, "scene": seen.index}
        return Sample(
            name,
            Image.fromarray(seen.image),
            DepthMap(nearness, valid, "inverse"),
            _boxes(name, seen),
            complete=True,
            facts=facts,
        )


def _boxes(name: str, seen: ScenePicture) -> ImageBoxes:
    known = [(category, box) for category in seen.countable for box in seen.boxes(category)]
    labels = BoxLabels(
        category_ids=tuple(_NUMBERS[category] for category, _ in known),
        negative_category_ids=tuple(_NUMBERS[category] for category in seen.absent),
        categories={number: category for category, number in _NUMBERS.items()},
    )
    height, width = seen.depth.shape
    corners = np.array([box for _, box in known], dtype=np.float64).reshape(-1, 4)
    return ImageBoxes(name, width, height, corners, labels)
