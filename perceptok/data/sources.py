"""One picture and what is known of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from perceptok.boxes import AnnotationFile, BoxLabels, ImageBoxes, read_annotations
from perceptok.data.specialists.specialist import BoxSpecialist, DepthSpecialist
from perceptok.depth import FORMATS, DepthMap, Kind, Unit
from perceptok.errors import DataError, DepthMapError, ImageError
from perceptok.images import find_images, open_image
from perceptok.scenes import PLURALS, Difficulty, SceneImage, render_image

__all__ = ["DepthFolder", "FolderSource", "ProceduralSource", "Sample", "Source"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture and what is known of it.

    Attributes:
        name: Unique in its source, with `/`.
        picture: RGB, upright.
        depth: Of the same view, of any resolution; None where it is not known.
        boxes: In the picture's pixels; None where they are not known.
        complete: Whether every instance of every category that `boxes` names in `labels.categories` has a box, but for
            those listed as not exhaustive: then a category without a box is not in the picture.
        facts: JSON types, for provenance.
    """

    name: str
    picture: Image.Image
    depth: DepthMap | None = None
    boxes: ImageBoxes | None = None
    complete: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """Where samples come from."""

    @property
    def names(self) -> Sequence[str]:
        """Of every sample, in a stable order; cheap."""

    @property
    def fingerprint(self) -> str:
        """Of all that the samples depend on besides the files themselves, for the manifest."""

    def read(self, names: Sequence[str], *, depth: bool, boxes: bool) -> list[Sample | str]:
        """The samples of these names with what is asked for, or the reason why one cannot be had."""


_NUMBERS = {name: number for number, name in enumerate(sorted(PLURALS))}


class ProceduralSource:
    """Pictures 0 .. count - 1 of a seed; see `perceptok.scenes.images.render_image`.

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
        seen = render_image(self.seed, index, self.size, split=self.split, difficulty=self.difficulty)
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


def _boxes(name: str, seen: SceneImage) -> ImageBoxes:
    known = [(category, box) for category in seen.countable for box in seen.boxes(category)]
    labels = BoxLabels(
        category_ids=tuple(_NUMBERS[category] for category, _ in known),
        negative_category_ids=tuple(_NUMBERS[category] for category in seen.absent),
        categories={number: category for category, number in _NUMBERS.items()},
    )
    height, width = seen.depth.shape
    corners = np.array([box for _, box in known], dtype=np.float64).reshape(-1, 4)
    return ImageBoxes(name, width, height, corners, labels)


class DepthFolder:
    """A folder of depth maps that mirrors a folder of images: the same names but for the suffix.

    Args:
        folder: Of the maps.
        kind: As for `DepthMap.read`; so are the others.
        unit: See there.
        scale: See there.
        invalid: See there.

    Raises:
        DataError: No such folder.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        kind: Kind | None = None,
        unit: Unit | None = None,
        scale: float | None = None,
        invalid: Sequence[float] = (),
    ) -> None:
        self.folder = Path(folder)
        self.options: dict[str, Any] = {"kind": kind, "unit": unit, "scale": scale, "invalid": tuple(invalid)}
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: folder of depth maps not found")

    def read(self, name: str, size: tuple[int, int]) -> DepthMap | None:
        """The map of an image, None where there is none.

        Args:
            name: Of the image.
            size: Its width and height; the map may have another resolution, but not another shape.

        Raises:
            DataError: It cannot be read, there are two, or its aspect ratio differs by more than a pixel.
        """
        stem = self.folder / name
        found = [stem.with_suffix(suffix) for suffix in FORMATS if stem.with_suffix(suffix).is_file()]
        if not found:
            return None
        if len(found) > 1:
            raise DataError(f"two depth maps: {found[0].name} and {found[1].name}")
        try:
            depth = DepthMap.read(found[0], **self.options)
        except DepthMapError as error:
            raise DataError(str(error)) from error
        (rows, columns), (width, height) = depth.values.shape, size
        if abs(columns * height - rows * width) > max(width, height, rows, columns):
            raise DataError(
                f"the depth map has {columns}x{rows} pixels, the image {width}x{height}: another shape, so another view"
            )
        return depth


class FolderSource:
    """A folder of images.

    Args:
        images: The folder; or, with annotations, where their file names lead from.
        depth: A folder of maps, or a specialist; None where depth is not asked for.
        annotations: A COCO or LVIS file: then its images are the samples.
        detector: Boxes without annotations; what it does not find is not known to be absent.

    Raises:
        DataError: The folder is missing or empty, or the annotations name an image twice.
        AnnotationError: The annotations cannot be read.
    """

    def __init__(
        self,
        images: str | Path,
        *,
        depth: DepthFolder | DepthSpecialist | None = None,
        annotations: str | Path | None = None,
        detector: BoxSpecialist | None = None,
    ) -> None:
        self.images, self.depth, self.detector = Path(images), depth, detector
        self._file = None if annotations is None else read_annotations(Path(annotations))
        self._boxes: dict[str, ImageBoxes] = {}
        for image in self._file.images if self._file else ():
            if image.name in self._boxes:
                raise DataError(f"{annotations}: two images are called {image.name}")
            self._boxes[image.name] = image
        if not self.images.is_dir():
            raise DataError(f"{self.images}: folder of images not found")

    @cached_property
    def names(self) -> Sequence[str]:
        """Sorted; of the annotations where there are any, whether or not the file is there."""
        return sorted(self._boxes) if self._file else find_images(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """Of the names, the annotations' categories, and the specialists."""
        parts = [str(len(self.names)), *self.names]
        for one in (self.depth, self.detector):
            if isinstance(one, DepthSpecialist | BoxSpecialist):
                parts.append(one.fingerprint)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def read(self, names: Sequence[str], *, depth: bool, boxes: bool) -> list[Sample | str]:
        """See `Source.read`."""
        pictures: list[Image.Image | str] = [self._open_image(name) for name in names]
        good = [at for at, one in enumerate(pictures) if not isinstance(one, str)]
        shown = [one for one in pictures if not isinstance(one, str)]
        known = [names[at] for at in good]
        depths = self._read_depths(known, shown) if depth else [None] * len(good)
        seen = self._read_boxes(known, shown) if boxes else [None] * len(good)
        results: list[Sample | str] = [one if isinstance(one, str) else "" for one in pictures]
        for at, picture, one, found in zip(good, shown, depths, seen, strict=True):
            if isinstance(one, str):
                results[at] = one
            else:
                complete = self._file is not None
                results[at] = Sample(names[at], picture, one, found, complete, self._facts(depth, boxes))
        return results

    def _open_image(self, name: str) -> Image.Image | str:
        try:
            return open_image(self.images / name)
        except ImageError as error:
            return str(error)

    def _read_depths(self, names: list[str], pictures: list[Image.Image]) -> Sequence[DepthMap | str | None]:
        if isinstance(self.depth, DepthFolder):
            found: list[DepthMap | str | None] = []
            for name, picture in zip(names, pictures, strict=True):
                try:
                    found.append(self.depth.read(name, picture.size))
                except DataError as error:
                    found.append(str(error))
            return found
        return [None] * len(names) if self.depth is None else self.depth.estimate(pictures)

    def _read_boxes(self, names: list[str], pictures: list[Image.Image]) -> Sequence[ImageBoxes | None]:
        if self._file is not None:
            return [_with_every_category(self._boxes[name], self._file) for name in names]
        return [None] * len(names) if self.detector is None else self.detector.detect(pictures, names)

    def _facts(self, depth: bool, boxes: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if depth and isinstance(self.depth, DepthSpecialist):
            facts["depth_specialist"] = self.depth.fingerprint
        if boxes and self._file is None and self.detector is not None:
            facts["box_specialist"] = self.detector.fingerprint
        return facts


def _with_every_category(image: ImageBoxes, file: AnnotationFile) -> ImageBoxes:
    """COCO annotates every category of the file in every image: one without a box is absent. LVIS names those."""
    labels = image.labels
    if labels.negative_category_ids is not None:
        return image
    every = {item["id"]: item["name"] for item in file.header["categories"]}
    values = {name: getattr(labels, name) for name in labels.__dataclass_fields__}
    full = BoxLabels(**{**values, "categories": every})
    return ImageBoxes(image.name, image.width, image.height, image.boxes, full, image.image_id)
