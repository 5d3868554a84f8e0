"""Sources of samples: folders of images with depth and boxes, and the procedural world."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceptok.boxes import AnnotationFile, BoxLabels, ImageBoxes, read_annotations
from perceptok.data.npy_files import DepthCodesFile, get_stem, read_npy
from perceptok.data.specialists.specialist import BoxSpecialist, DepthSpecialist, hash_file_and_settings
from perceptok.depth import FORMATS, DepthMap, Kind, Unit
from perceptok.errors import DataError, DepthMapError, ImageError
from perceptok.files import parse_json, read_input
from perceptok.images import find_images, open_image
from perceptok.scenes import PLURALS, Difficulty, SceneImage, render_image

__all__ = ["DepthFolder", "FolderSource", "ProceduralSource", "Sample", "Source", "read_names"]

_MAX_PROBES = 100
"""Images of annotations that are looked for before a folder is taken for one of another split."""

_MAX_SCENES, _MAX_SCENE_SIDE = 10_000_000, 4096
"""Procedural images of a source, and the side of each in pixels."""

_MAX_QUOTED = 100
"""Characters of a name that a message quotes."""

_COCO_2014 = re.compile(r"COCO_(?:train|val|test)2014_")
"""What LVIS 0.5 and COCO 2014 put before the names of COCO 2017."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with its depth, codes and boxes.

    Attributes:
        name: Unique in its source, with `/`.
        image: RGB, upright.
        depth: A map of the same view, of any resolution; None if unknown.
        boxes: In the image's pixels; None if unknown.
        complete: Whether every instance of every category in `boxes.labels.categories` has a box, except for the
            categories listed as not exhaustive: then a category without a box is absent from the image.
        provenance: JSON types by name.
        codes: (10, 10) int64 in 0..127, depth codes of the squashed image that were made before; None for none.
    """

    name: str
    image: Image.Image
    depth: DepthMap | None = None
    boxes: ImageBoxes | None = None
    complete: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    codes: NDArray[np.int64] | None = None


class Source(Protocol):
    """A source of samples."""

    @property
    def names(self) -> Sequence[str]:
        """Names of all samples, in a stable order; cheap."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that the samples depend on besides the files themselves, for the manifest."""

    def read(self, names: Sequence[str], *, depth: bool, boxes: bool) -> list[Sample | str]:
        """Read samples by name.

        Args:
            names: Some of `names`.
            depth: Whether depth is asked for.
            boxes: Whether boxes are asked for.

        Returns:
            For each name the sample, or the reason why it cannot be read.
        """


_CATEGORY_IDS = {name: number for number, name in enumerate(sorted(PLURALS))}


class ProceduralSource:
    """Procedural images of a seed, with exact depth, boxes and counts.

    The sky is infinitely far: nearness 0. Boxes are those of the categories that are clearly visible throughout; absent
    are the categories without any instance in the image.

    Args:
        seed: Images of different seeds are different.
        count: Number of images.
        size: Side of the square images in pixels.
        split: "train" or "heldout", which share no texture, lens or arrangement.
        difficulty: Counts, occlusion and depth gaps of scenes with many objects.

    Raises:
        DataError: A number is out of range.
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
        if seed < 0 or not 1 <= count <= _MAX_SCENES or not 64 <= size <= _MAX_SCENE_SIDE:
            raise DataError(
                f"scenes need a seed from 0, a count from 1 to {_MAX_SCENES} and a size from 64 to {_MAX_SCENE_SIDE}; "
                f"got {seed}, {count} and {size}"
            )
        self.seed, self.count, self.size, self.split = seed, count, size, split
        self.difficulty = difficulty or Difficulty()

    @property
    def names(self) -> Sequence[str]:
        """`SPLIT-SEED-NUMBER` for each image."""
        return [f"{self.split}-{self.seed}-{index:06d}" for index in range(self.count)]

    @property
    def fingerprint(self) -> str:
        """The settings that the images depend on."""
        return f"procedural {self.split} {self.seed} {self.count} {self.size} {self.difficulty}"

    def read(self, names: Sequence[str], *, depth: bool, boxes: bool) -> list[Sample | str]:  # noqa: ARG002
        """Render the images of some names; they always have depth and boxes."""
        return [self._render(name) for name in names]

    def _render(self, name: str) -> Sample:
        index = int(name.rpartition("-")[2])
        scene = render_image(self.seed, index, self.size, split=self.split, difficulty=self.difficulty)
        nearness, valid = scene.nearness()
        return Sample(
            name,
            Image.fromarray(scene.image),
            DepthMap(nearness, valid, "inverse"),
            _find_boxes(name, scene),
            complete=True,
            provenance={
                "layout": scene.kind,
                "split": scene.split,
                "scene_seed": scene.seed,
                "scene": scene.index,
            },
        )


def _find_boxes(name: str, scene: SceneImage) -> ImageBoxes:
    boxes = [(category, box) for category in scene.countable for box in scene.boxes(category)]
    labels = BoxLabels(
        category_ids=tuple(_CATEGORY_IDS[category] for category, _ in boxes),
        negative_category_ids=tuple(_CATEGORY_IDS[category] for category in scene.absent),
        categories={number: category for category, number in _CATEGORY_IDS.items()},
    )
    height, width = scene.depth.shape
    corners = np.array([box for _, box in boxes], dtype=np.float64).reshape(-1, 4)
    return ImageBoxes(name, width, height, corners, labels)


class DepthFolder:
    """A folder of depth maps with the names of a folder of images, except for the suffix.

    Maps may also lie in the folder itself and be called `NAME_depth`, as Depth Anything writes them: AURORA's do.

    Args:
        folder: Of the maps.
        kind: "metric" or "inverse"; None where the files state it.
        unit: Unit of metric maps.
        scale: Metres per stored number, instead of a unit.
        invalid: Stored numbers that mark missing values.

    Raises:
        DataError: The folder is missing.
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

    def read(self, name: str, size: tuple[int, int], *, namesakes: Sequence[str] = ()) -> DepthMap | None:
        """Read the map of an image; None where it has none.

        Args:
            name: Of the image.
            size: Width and height of the image; the map may have another resolution, but not another aspect ratio.
            namesakes: Other images with the same name except for folder and suffix; a map that may be of one of them
                is refused.

        Raises:
            DataError: The map cannot be read, there are two, it may be of another image, its aspect ratio differs by
                more than a pixel, or the name leads out of the folder.
        """
        stem = _join_inside(self.folder, name).with_suffix("")
        paths = _find_maps(stem)
        if paths:
            namesakes = [other for other in namesakes if (self.folder / other).with_suffix("") == stem]
        else:
            paths = _find_maps(self.folder / f"{PurePosixPath(name).stem}_depth")
        if not paths:
            return None
        if namesakes:
            raise DataError(
                f"the depth map {paths[0].relative_to(self.folder)} may be of this image or of {namesakes[0]}; give "
                "each its own map, with the image's relative name except for the suffix, or exclude one of the images"
            )
        if len(paths) > 1:
            raise DataError(f"two depth maps: {paths[0].name} and {paths[1].name}")
        try:
            depth = DepthMap.read(paths[0], **self.options)
        except DepthMapError as error:
            raise DataError(str(error)) from error
        (rows, columns), (width, height) = depth.values.shape, size
        if abs(columns * height - rows * width) > max(width, height, rows, columns):
            raise DataError(
                f"the depth map has {columns}x{rows} pixels, the image {width}x{height}: another shape, so another view"
            )
        return depth


def _find_maps(stem: Path) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in FORMATS]
    return [path for path in paths if os.path.isfile(path)]  # noqa: PTH113 - False for a name that is too long


def _join_inside(folder: Path, name: str) -> Path:
    """Join a relative name to a folder; links in the folder are followed, as `find_images` does.

    Raises:
        DataError: The name is empty, absolute, or contains NUL or `..`.
    """
    path = Path(name)
    if not path.name or "\0" in name or path.anchor or ".." in path.parts:
        raise DataError(
            f"the name {_quote_name(name)} is not that of a file inside {folder}; names are relative, without '..'"
        )
    return folder / path


def _quote_name(name: str) -> str:
    return repr(name) if len(name) <= _MAX_QUOTED else f"{name[:_MAX_QUOTED]!r}... ({len(name)} characters)"


class FolderSource:
    """A folder of images, with depth from files or a specialist, and boxes from annotations or a detector.

    Args:
        images: The folder. With annotations, their file names are relative to it, or lie anywhere in it: LVIS names
            images without the folder of their split.
        include: Patterns of image names, such as "*.jpg"; `*` matches `/` too. Empty for all images.
        exclude: Patterns of image names that are left out.
        names: Only these images: relative names, names without folders or ids of the annotations; None for all.
        depth: A folder of maps, or a specialist; None where depth is not asked for.
        codes: Depth codes that were made before.
        annotations: A COCO or LVIS file: then its images are the samples.
        detector: Detects boxes where there are no annotations; what it does not find is not known to be absent.

    Raises:
        DataError: The folder is missing, or the annotations name an image twice.
        AnnotationError: The annotations cannot be read.
    """

    def __init__(
        self,
        images: str | Path,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        names: Sequence[str | int] | None = None,
        depth: DepthFolder | DepthSpecialist | None = None,
        codes: DepthCodesFile | None = None,
        annotations: str | Path | None = None,
        detector: BoxSpecialist | None = None,
    ) -> None:
        self.images, self.depth, self.codes, self.detector = Path(images), depth, codes, detector
        self.include, self.exclude = tuple(include), tuple(exclude)
        self._listed = None if names is None else {*names}
        self._file = None if annotations is None else read_annotations(Path(annotations))
        self._annotations = annotations
        self._boxes: dict[str, ImageBoxes] = {}
        for image in self._file.images if self._file else ():
            if image.name in self._boxes:
                raise DataError(f"{annotations}: two images are called {image.name}")
            self._boxes[image.name] = image
        if not self.images.is_dir():
            raise DataError(f"{self.images}: folder of images not found")

    @cached_property
    def names(self) -> Sequence[str]:
        """Sorted names of the images; with annotations those that they list, whether or not the files exist.

        Raises:
            DataError: No image has a name that is asked for, listed images are missing, or no file of the annotations'
                images exists; the message names what is there.
        """
        available = sorted(self._boxes) if self._file else self._find_images()
        if not available:
            raise DataError(f"{self._annotations}: no images; a file of annotations lists the images to use")
        names = [name for name in available if self._is_selected(name)]
        if not names:
            raise DataError(
                f"{self.images}: none of its {len(available)} images, such as {available[0]}, is selected by include "
                f"{list(self.include)} and exclude {list(self.exclude)}; is this the folder of another split?"
            )
        if self._listed is not None:
            names = self._select_listed(names)
        if self._file is not None:
            self._check_split(names)
        return names

    def _find_images(self) -> list[str]:
        try:
            return find_images(self.images)
        except ImageError as error:
            raise DataError(str(error)) from error

    def _is_selected(self, name: str) -> bool:
        is_included = not self.include or any(fnmatchcase(name, pattern) for pattern in self.include)
        return is_included and not any(fnmatchcase(name, pattern) for pattern in self.exclude)

    def _select_listed(self, names: list[str]) -> list[str]:
        assert self._listed is not None
        if not self._listed:
            raise DataError(f"{self.images}: the list of its images is empty; name one or more, or leave the list out")
        keys = {name: {name, PurePosixPath(name).name} for name in names}
        ids = {name: image.image_id for name, image in self._boxes.items()}
        selected = [name for name in names if self._listed & {*keys[name], ids.get(name)}]
        found = {key for name in selected for key in (*keys[name], ids.get(name))}
        if missing := sorted(map(str, self._listed - found)):
            raise DataError(
                f"{len(missing)} of {len(self._listed)} listed images are not in {self._annotations or self.images}, "
                f"such as {missing[0]}; is this another split?"
            )
        return selected

    def _check_split(self, names: list[str]) -> None:
        """Raise DataError where the folder seems to be that of another split, or no name is valid."""
        probes = names[:: -(-len(names) // _MAX_PROBES)]
        reasons: list[str] = []
        for name in probes:
            try:
                if self._find_file(name):
                    return
            except DataError as error:
                reasons.append(str(error))
        if reasons:
            raise DataError(f"{self._annotations}: {reasons[0]}")
        raise DataError(
            f"{self.images}: none of {len(probes)} images that {self._annotations} names was found, such as "
            f"{probes[0]}; is this the folder of another split?"
        )

    @cached_property
    def _files_by_name(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for name in self._find_images():
            files.setdefault(PurePosixPath(name).name, []).append(self.images / name)
        return files

    def _find_file(self, name: str) -> Path | None:
        """Find the file of an image; None where it is missing.

        LVIS 0.5 has names of COCO 2014 (`COCO_val2014_000000266409.jpg`) for the files of COCO 2017.

        Raises:
            DataError: The name leads out of the folder or cannot be that of a file, or several files have it.
        """
        path = _join_inside(self.images, name)
        try:
            is_file = path.is_file()
        except OSError as error:
            raise DataError(f"the name {_quote_name(name)} cannot be that of a file ({error.strerror})") from error
        if is_file or self._file is None:
            return path
        file_name = PurePosixPath(name).name
        for candidate in (file_name, _COCO_2014.sub("", file_name, count=1)):
            files = self._files_by_name.get(candidate, [])
            files = [file for file in files if file.as_posix().endswith(f"/{name}")] or files
            if len({file.resolve() for file in files}) > 1:
                first, second = (file.relative_to(self.images).as_posix() for file in files[:2])
                raise DataError(
                    f"{name} may be {first} or {second}, {len(files)} files in {self.images}; name it with its folder, "
                    "or give the folder of its split"
                )
            if files:
                return files[0]
        return None

    @cached_property
    def _names_by_stem(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in self.names:
            names.setdefault(get_stem(name), []).append(name)
        return names

    def _find_namesakes(self, name: str) -> list[str]:
        """Other images of the source with the same name except for folder and suffix."""
        return [other for other in self._names_by_stem.get(get_stem(name), []) if other != name]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the names, the file of codes and the specialists' fingerprints."""
        parts = [str(len(self.names)), *self.names]
        if self.codes is not None:
            parts.append(hash_file_and_settings(self.codes.path, "codes"))
        for specialist in (self.depth, self.detector):
            if isinstance(specialist, DepthSpecialist | BoxSpecialist):
                parts.append(specialist.fingerprint)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def read(self, names: Sequence[str], *, depth: bool, boxes: bool) -> list[Sample | str]:
        """Read samples by name; for each name the sample, or the reason why it cannot be read."""
        results: dict[str, Sample | str] = {name: self._open_image(name) for name in names}
        samples = [sample for sample in results.values() if isinstance(sample, Sample)]
        if boxes:
            samples = self._add_boxes(samples)
        completed = self._add_depth(samples) if depth else samples
        if depth and self.codes is not None:
            completed = [self._add_codes(result, self.codes) for result in completed]
        results |= {sample.name: result for sample, result in zip(samples, completed, strict=True)}
        return [results[name] for name in names]

    def _open_image(self, name: str) -> Sample | str:
        try:
            name.encode()
        except UnicodeEncodeError:
            return "the file name is not valid UTF-8; rename the file"
        try:
            path = self._find_file(name)
            if path is None:
                return f"{self.images / name}: image file not found"
            image = open_image(path)
            if name in self._boxes:
                _check_size(self._boxes[name], image, path)
        except (DataError, ImageError) as error:
            return str(error)
        return Sample(name, image, complete=self._file is not None)

    def _add_depth(self, samples: list[Sample]) -> Sequence[Sample | str]:
        if self.depth is None:
            return samples
        if isinstance(self.depth, DepthFolder):
            return [self._add_stored_depth(sample, self.depth) for sample in samples]
        maps = self.depth.estimate([sample.image for sample in samples])
        provenance = {"depth_specialist": self.depth.fingerprint}
        return [
            replace(sample, depth=depth, provenance={**sample.provenance, **provenance})
            for sample, depth in zip(samples, maps, strict=True)
        ]

    def _add_boxes(self, samples: list[Sample]) -> list[Sample]:
        if self._file is not None:
            return [replace(sample, boxes=_add_categories(self._boxes[sample.name], self._file)) for sample in samples]
        if self.detector is None:
            return samples
        detected = self.detector.detect([sample.image for sample in samples], [sample.name for sample in samples])
        provenance = {"box_specialist": self.detector.fingerprint}
        return [
            replace(sample, boxes=boxes, provenance=provenance) for sample, boxes in zip(samples, detected, strict=True)
        ]

    def _add_stored_depth(self, sample: Sample, folder: DepthFolder) -> Sample | str:
        namesakes = self._find_namesakes(sample.name)
        try:
            return replace(sample, depth=folder.read(sample.name, sample.image.size, namesakes=namesakes))
        except DataError as error:
            return str(error)

    def _add_codes(self, sample: Sample | str, codes: DepthCodesFile) -> Sample | str:
        if isinstance(sample, str):
            return sample
        try:
            return replace(sample, codes=codes.read(sample.name, namesakes=self._find_namesakes(sample.name)))
        except DataError as error:
            return str(error)


def _check_size(boxes: ImageBoxes, image: Image.Image, path: Path) -> None:
    """Raise DataError for annotations of another size than the image has, upright or as it is stored."""
    size = (boxes.width, boxes.height)
    if size == image.size:
        return
    if size != image.size[::-1] or open_image(path, apply_orientation=False).size != size:
        raise DataError(
            f"the annotations are of an image of {boxes.width}x{boxes.height} pixels, but {path} has "
            f"{image.width}x{image.height}; is this another image of the same name?"
        )


def read_names(path: str | Path) -> list[str | int]:
    """Read a list of images: text with one name a line, a JSON list (`.json`) or a NumPy array (`.npy`).

    Returns:
        File names, or integers for image ids.

    Raises:
        DataError: The file cannot be read, or does not list names or ids.
    """
    source = Path(path)
    try:
        if source.suffix == ".npy":
            values = read_npy(source)
            values = values.tolist() if isinstance(values, np.ndarray) else values
        elif source.suffix == ".json":
            values = parse_json(read_input(source), str(source), DataError)
        else:
            text = read_input(source, allow_pipe=True).decode("utf-8-sig")
            values = [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from error
    if not isinstance(values, list) or not all(type(value) in (str, int) for value in values):
        raise DataError(f"{source}: expected a list of image names or ids")
    return values


def _add_categories(image: ImageBoxes, file: AnnotationFile) -> ImageBoxes:
    """Add all categories of a COCO file, whose images are annotated with every category; LVIS lists the absent ones."""
    if image.labels.negative_category_ids is not None:
        return image
    categories = {item["id"]: item["name"] for item in file.header["categories"]}
    return replace(image, labels=replace(image.labels, categories=categories))
