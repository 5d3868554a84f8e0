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
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceptok.boxes import AnnotationFile, BoxLabels, ImageBoxes, read_annotations
from perceptok.data.depth_folders import DepthFolder, ImageView, join_inside, quote_name
from perceptok.data.image_selection import ImageSelection, select_images
from perceptok.data.npy_files import DepthCodesFile, get_stem, read_npy
from perceptok.data.orientation import Exif, choose_turn, turn_boxes
from perceptok.data.specialists.specialist import (
    BoxSpecialist,
    DepthSpecialist,
    estimate_each,
    hash_file_and_settings,
    make_test_image,
)
from perceptok.depth import DepthMap, NearnessRange
from perceptok.errors import DataError, ImageError
from perceptok.files import find_suffix, parse_json, read_input, spell_name
from perceptok.images import find_images, open_image, read_image_size, read_orientation
from perceptok.jobs import Stamp, count_reasons, stamp_of
from perceptok.scenes import PLURALS, Difficulty, SceneImage, render_image

__all__ = ["FolderSource", "ProceduralSource", "Sample", "Source", "read_names"]

_MAX_PROBES = 100
"""Images of annotations that are looked for before a folder is taken for one of another split."""

_MAX_SCENES, _MAX_SCENE_SIDE = 10_000_000, 4096
"""Procedural images of a source, and the side of each in pixels."""

_MIN_SIDE, _MIN_CONTRAST = 8, 3
"""An image has sides of so many pixels, and values of 0..255 that differ by so much, in at least one channel."""

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
        depth_range: Which values of the map become nearness 0 and 1; None for its own extremes.
        warnings: What is odd about the sample, in words.
    """

    name: str
    image: Image.Image
    depth: DepthMap | None = None
    boxes: ImageBoxes | None = None
    complete: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    codes: NDArray[np.int64] | None = None
    depth_range: NearnessRange | None = None
    warnings: tuple[str, ...] = ()


class Source(Protocol):
    """A source of samples."""

    @property
    def names(self) -> Sequence[str]:
        """Names of all samples, in a stable order; cheap."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that the samples depend on besides the files themselves, for the manifest."""

    @property
    def remarks(self) -> Sequence[str]:
        """What was left out of the source's files, in sentences."""

    def find_stamp(self, name: str) -> Stamp:
        """The stamp of a sample's files, which changes with them."""

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

    remarks: Sequence[str] = ()

    def find_stamp(self, name: str) -> Stamp:  # noqa: ARG002
        """The same for every sample: there are no files."""
        return 0, 0

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


class FolderSource:
    """A folder of images, with depth from files or a specialist, and boxes from annotations or a detector.

    Depth maps, masks and label maps that lie among the images are not used as images (`select_images`); those that the
    annotations or `names` list are. Annotations are read with the tolerance of `perceptok box encode`: an entry that is
    not valid is left out, and an image with such a box has no boxes.

    Args:
        images: The folder. With annotations, their file names are relative to it, or lie anywhere in it: LVIS names
            images without the folder of their split.
        include: Patterns of image names, such as "*.jpg"; `*` matches `/` too. Empty for all images.
        exclude: Patterns of image names that are left out.
        names: Only these images: relative or absolute names, names without folders or ids of the annotations; None for
            all.
        depth: A folder of maps, or a specialist; None where depth is not asked for.
        depth_range: Which values of maps become nearness 0 and 1; by default that of the folder's options.
        codes: Depth codes that were made before.
        annotations: A COCO or LVIS file: then its images are the samples.
        exif: What the annotations of photos with an EXIF orientation are of, where their size does not tell.
        detector: Detects boxes where there are no annotations; what it does not find is not known to be absent.

    Raises:
        DataError: The folder is missing.
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
        depth_range: NearnessRange | None = None,
        codes: DepthCodesFile | None = None,
        annotations: str | Path | None = None,
        exif: Exif | None = None,
        detector: BoxSpecialist | None = None,
    ) -> None:
        self.images, self.depth, self.codes, self.detector = Path(images), depth, codes, detector
        self.include, self.exclude, self.exif = tuple(include), tuple(exclude), exif
        self.depth_range = depth_range or (depth.options.range if isinstance(depth, DepthFolder) else None)
        self._listed = None if names is None else {self._make_relative(name) for name in names}
        if not self.images.is_dir():
            raise DataError(f"{self.images}: folder of images not found")
        self._annotations = annotations
        self._without_size: set[str] = set()
        self._file: AnnotationFile | None = None
        if annotations is not None:
            self._file = read_annotations(Path(annotations), strict=False, find_size=self._find_size)
        self._boxes: dict[str, ImageBoxes] = {}
        self._repeated: list[str] = []
        for image in self._file.images if self._file else ():
            if image.name in self._boxes:
                self._repeated.append(image.name)
            else:
                self._boxes[image.name] = image

    def _find_size(self, name: str, folder: str) -> tuple[int, int] | None:
        """Width and height of the upright image that annotations name without a size; None where it cannot be read."""
        try:
            path = self._locate(name, folder)
            size = None if path is None else read_image_size(path)
        except (DataError, ImageError):
            return None
        if size:
            self._without_size.add(name)
        return size

    def _make_relative(self, name: str | int) -> str | int:
        """A listed name relative to the folder, where it is an absolute path in it."""
        if isinstance(name, int) or not Path(name).is_absolute():
            return name
        path, folder = Path(os.path.abspath(name)), Path(os.path.abspath(self.images))  # noqa: PTH100 - not links
        return spell_name(path.relative_to(folder).as_posix()) if path.is_relative_to(folder) else name

    @cached_property
    def names(self) -> Sequence[str]:
        """Sorted names of the images; with annotations those that they list, whether or not the files exist.

        Raises:
            DataError: No image has a name that is asked for, listed images are missing, or no file of the annotations'
                images exists; the message names what is there.
        """
        if self._file:
            available = sorted(self._boxes)
        else:
            available = sorted(self._every_file if self._listed is not None else self._selection.files)
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

    @cached_property
    def remarks(self) -> list[str]:
        """What was left out of the folder and the annotations, in sentences without paths of this machine."""
        remarks = (
            []
            if self._file or self._listed is not None
            else self._selection.describe("; to use them all the same, list the images in a file (names:)")
        )
        if self._file is None:
            return remarks
        remarks += [f"repaired in the annotations: {repair}" for repair in self._file.repairs]
        failures = count_reasons([f"{failure.name}: {failure.reason}" for failure in self._file.failures])
        remarks += [f"left out of the annotations: {reason} ({times} times)" for reason, times in failures.items()]
        if self._repeated:
            remarks.append(
                f"left out of the annotations: {len(self._repeated)} images whose file name another image has, such as "
                f"{self._repeated[0]}; the first is kept"
            )
        return remarks

    @cached_property
    def _selection(self) -> ImageSelection:
        try:
            return select_images(self.images, self.depth if isinstance(self.depth, DepthFolder) else None)
        except ImageError as error:
            raise DataError(str(error)) from error

    @cached_property
    def _every_file(self) -> dict[str, str]:
        """Spelled name -> name of every image file in the folder."""
        try:
            return {spell_name(name): name for name in find_images(self.images)}
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
        for name, file in self._every_file.items():
            files.setdefault(PurePosixPath(name).name, []).append(self.images / file)
        return files

    def _find_file(self, name: str) -> Path | None:
        """Find the file of an image; None where it is missing.

        LVIS 0.5 has names of COCO 2014 (`COCO_val2014_000000266409.jpg`) for the files of COCO 2017; LVIS 1.0 names the
        folder of the split in an address.

        Raises:
            DataError: The name leads out of the folder or cannot be that of a file, or several files have it.
        """
        if self._file is None:
            return self.images / self._get_file_name(name)
        return self._locate(name, self._boxes[name].folder)

    def _locate(self, name: str, folder: str) -> Path | None:
        """Find the file of an image of the annotations by its name and the folder in its address."""
        if "\\" in name and name not in self._every_file:  # written on Windows
            name = name.replace("\\", "/")
        if "%" in name:
            name = self._every_file.get(name, name)
        path = join_inside(self.images, name)
        try:
            in_folder = join_inside(self.images, f"{folder}/{name}") if folder else path
            for candidate in (in_folder, path):
                if candidate.is_file():
                    return candidate
        except OSError as error:
            raise DataError(f"the name {quote_name(name)} cannot be that of a file ({error.strerror})") from error
        file_name = PurePosixPath(name).name
        for file_candidate in (file_name, _COCO_2014.sub("", file_name, count=1)):
            files = self._files_by_name.get(file_candidate, [])
            for ending in (f"/{folder}/{file_candidate}", f"/{name}"):
                files = [file for file in files if file.as_posix().endswith(ending)] or files
            if len({file.resolve() for file in files}) > 1:
                first, second = (file.relative_to(self.images).as_posix() for file in files[:2])
                raise DataError(
                    f"{name} may be {first} or {second}, {len(files)} files in {self.images}; name it with its folder, "
                    "or give the folder of its split"
                )
            if files:
                return files[0]
        return None

    def _get_file_name(self, name: str) -> str:
        """The name of an image as it is on disk, where it is not valid UTF-8."""
        return name if self._file else self._every_file.get(name, name)

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
        """Hash of the names, the files of annotations and codes, and the specialists' fingerprints."""
        parts = [str(len(self.names)), *self.names]
        if self.codes is not None:
            parts.append(hash_file_and_settings(self.codes.path, "codes"))
        if self._annotations is not None:
            parts.append(hash_file_and_settings(Path(self._annotations), "annotations"))
        for specialist in (self.depth, self.detector):
            if isinstance(specialist, DepthSpecialist | BoxSpecialist):
                parts.append(specialist.fingerprint)
        return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def find_stamp(self, name: str) -> Stamp:
        """The stamp of an image's file and of its map's together."""
        try:
            image = self._find_file(name)
        except DataError:
            image = None
        paths = [] if image is None else [image]
        if (
            image is not None
            and isinstance(self.depth, DepthFolder)
            and (path := self.depth.find_path(self._get_file_name(name), image))
        ):
            paths.append(path)
        return stamp_of(*paths) or (0, 0)

    def check_specialist(self, task: str) -> None:
        """Run the network that a task needs, where it needs one, on a test image; raises SpecialistError."""
        image = make_test_image()
        if task == "depth" and isinstance(self.depth, DepthSpecialist):
            estimate_each(self.depth, [image])
        elif task == "counting" and self._file is None and self.detector is not None:
            self.detector.detect([image], ["test image"])

    def read(self, names: Sequence[str], *, depth: bool, boxes: bool) -> list[Sample | str]:
        """Read samples by name; for each name the sample, or the reason why it cannot be read."""
        results: dict[str, Sample | str] = {}
        views: dict[str, ImageView] = {}
        for name in names:
            try:
                results[name], views[name] = self._open_image(name)
            except (DataError, ImageError) as error:
                results[name] = str(error)
        for is_asked, add in ((boxes, self._add_boxes), (depth, self._add_depth), (depth, self._add_codes)):
            samples = [sample for sample in results.values() if isinstance(sample, Sample)]
            completed = add(samples, views) if is_asked else samples
            results |= {sample.name: result for sample, result in zip(samples, completed, strict=True)}
        return [results[name] for name in names]

    def _open_image(self, name: str) -> tuple[Sample, ImageView]:
        path = self._find_file(name)
        if path is None:
            folder = self._boxes[name].folder
            hint = f"; its address names the folder {folder}" if folder and folder != self.images.name else ""
            raise DataError(f"{self.images / name}: image file not found{hint}")
        image = open_image(path)
        _check_texture(image, path)
        if name in self._boxes:
            _check_size(self._boxes[name], image, path)
        view = ImageView(path, image.size, read_orientation(path))
        return Sample(name, image, complete=self._file is not None, depth_range=self.depth_range), view

    def _add_depth(self, samples: list[Sample], views: Mapping[str, ImageView]) -> Sequence[Sample | str]:
        if self.depth is None:
            return samples
        if isinstance(self.depth, DepthFolder):
            return [self._add_stored_depth(sample, views[sample.name], self.depth) for sample in samples]
        maps = estimate_each(self.depth, [sample.image for sample in samples])
        provenance = {"depth_specialist": self.depth.fingerprint}
        return [
            depth
            if isinstance(depth, str)
            else replace(sample, depth=depth, provenance={**sample.provenance, **provenance})
            for sample, depth in zip(samples, maps, strict=True)
        ]

    def _add_boxes(self, samples: list[Sample], views: Mapping[str, ImageView]) -> Sequence[Sample | str]:
        if self._file is not None:
            return [self._add_annotations(sample, views[sample.name], self._file) for sample in samples]
        if self.detector is None:
            return samples
        detected = self.detector.detect([sample.image for sample in samples], [sample.name for sample in samples])
        provenance = {"box_specialist": self.detector.fingerprint}
        return [
            replace(sample, boxes=boxes, provenance=provenance) for sample, boxes in zip(samples, detected, strict=True)
        ]

    def _add_annotations(self, sample: Sample, view: ImageView, file: AnnotationFile) -> Sample | str:
        """Add the boxes of the annotations, turned upright where they are of the stored photo."""
        image = self._boxes[sample.name]
        if image.image_id in file.incomplete:
            return "a box of this image was left out of the annotations, so that a count would be wrong"
        try:
            orientation = self._choose_turn(image, view)
        except DataError as error:
            return str(error)
        warnings = sample.warnings
        if orientation != 1:
            corners = turn_boxes(image.boxes, view.size, orientation)
            image = replace(image, boxes=corners, width=view.size[0], height=view.size[1])
            warnings = (*warnings, "the boxes are those of the stored photo; turned by its EXIF orientation")
        return replace(sample, boxes=_add_categories(image, file), warnings=warnings)

    def _choose_turn(self, image: ImageBoxes, view: ImageView) -> int:
        """Decide by which orientation boxes are turned; raises DataError where neither their size nor `exif` tells."""
        if image.name in self._without_size and view.orientation != 1:
            if self.exif is None:
                raise DataError(
                    f"its EXIF orientation is {view.orientation}, and the annotations do not give its size: set exif: "
                    "apply for the source if they were made on upright photos, or exif: ignore"
                )
            return 1 if self.exif == "apply" else view.orientation
        orientation = choose_turn((image.width, image.height), view.size, view.orientation, self.exif, "boxes")
        assert orientation is not None, "the size was checked when the image was opened"
        return orientation

    def _add_stored_depth(self, sample: Sample, view: ImageView, folder: DepthFolder) -> Sample | str:
        namesakes = self._find_namesakes(sample.name)
        try:
            return replace(sample, depth=folder.read(self._get_file_name(sample.name), view, namesakes=namesakes))
        except DataError as error:
            return str(error)

    def _add_codes(self, samples: list[Sample], _: Mapping[str, ImageView]) -> Sequence[Sample | str]:
        if self.codes is None:
            return samples
        return [self._add_stored_codes(sample, self.codes) for sample in samples]

    def _add_stored_codes(self, sample: Sample, codes: DepthCodesFile) -> Sample | str:
        try:
            return replace(sample, codes=codes.read(sample.name, namesakes=self._find_namesakes(sample.name)))
        except DataError as error:
            return str(error)


def _check_texture(image: Image.Image, path: Path) -> None:
    """Raise DataError for an image that shows nothing: a few pixels, or one colour."""
    if min(image.size) < _MIN_SIDE:
        raise DataError(f"{path} has {image.width}x{image.height} pixels; an image has sides of {_MIN_SIDE} or more")
    extrema = cast("tuple[tuple[int, int], ...]", image.getextrema())
    if all(high - low < _MIN_CONTRAST for low, high in extrema):
        raise DataError(f"{path} shows nothing: all its pixels have one colour")


def _check_size(boxes: ImageBoxes, image: Image.Image, path: Path) -> None:
    """Raise DataError for annotations of another size than the image has, upright or as it is stored."""
    size, orientation = (boxes.width, boxes.height), read_orientation(path)
    stored = image.size[::-1] if orientation >= 5 else image.size
    if size not in (image.size, stored):
        turned = f", stored as {stored[0]}x{stored[1]} with the EXIF orientation {orientation}"
        raise DataError(
            f"the annotations are of an image of {boxes.width}x{boxes.height} pixels, but {path} has "
            f"{image.width}x{image.height}{turned if orientation != 1 else ''}; is this another image of the same name?"
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
        elif find_suffix(source) == ".json":
            values = parse_json(read_input(source), str(source), DataError)
        else:
            text = read_input(source, allow_pipe=True).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
            values = [spell_name(line.strip()) for line in text.splitlines() if line.strip()]
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
