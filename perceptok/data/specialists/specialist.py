"""Specialists: networks that estimate depth or detect boxes in RGB images, and caches of their results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from PIL import Image

from perceptok.boxes import BoxLabels, ImageBoxes
from perceptok.depth import DepthMap
from perceptok.errors import DepthMapError, OutputError, SpecialistError
from perceptok.files import atomic_write, open_input, parse_json, read_input

__all__ = [
    "BoxSpecialist",
    "CachedBoxes",
    "CachedDepth",
    "DepthSpecialist",
    "Device",
    "estimate_each",
    "hash_file_and_settings",
    "make_test_image",
    "require_rgb",
]


Device = Literal["cpu", "cuda"]

Result = TypeVar("Result")


@runtime_checkable
class DepthSpecialist(Protocol):
    """Estimates depth.

    Attributes:
        fingerprint: Hash of weights and settings: equal fingerprints mean equal maps of equal images.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of weights and settings."""

    def estimate(self, images: Sequence[Image.Image]) -> list[DepthMap]:
        """Estimate a depth map of each RGB image, in the declared kind; its resolution may differ from the image's."""


@runtime_checkable
class BoxSpecialist(Protocol):
    """Detects objects.

    Attributes:
        fingerprint: Hash of weights and settings: equal fingerprints mean equal boxes in equal images.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of weights and settings."""

    def detect(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[ImageBoxes]:
        """Detect the boxes of each RGB image, in its pixels, with categories and scores, the highest score first."""


def hash_file_and_settings(path: Path, settings: str) -> str:
    """Hash a file's bytes and settings; raises SpecialistError where the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_input(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise SpecialistError(f"{path}: cannot be read ({error.strerror})") from error
    return hashlib.sha256(f"{digest.hexdigest()} {settings}".encode()).hexdigest()[:16]


def require_rgb(images: Sequence[Image.Image]) -> None:
    """Raise SpecialistError unless every image has mode RGB."""
    for index, image in enumerate(images):
        if image.mode != "RGB":
            raise SpecialistError(f'specialists take images of mode RGB; image {index} is {image.mode}: convert("RGB")')


def make_test_image(size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Make an RGB image of that width and height to check a network with: a floor that grows brighter, a dark box."""
    width, height = size
    grey = np.tile(np.linspace(40, 220, height)[:, None], (1, width))
    grey[height // 3 : 2 * height // 3, width // 3 : width // 2] = 20
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def estimate_each(specialist: DepthSpecialist, images: Sequence[Image.Image]) -> list[DepthMap | str]:
    """Estimate a depth map of each RGB image; the reason instead where a network's numbers are not a map.

    Raises:
        SpecialistError: The network cannot be loaded or run.
    """
    try:
        return list(specialist.estimate(images))
    except DepthMapError as error:
        if len(images) == 1:
            return [f"the network's estimate is not a depth map: {error}"]
        return [result for image in images for result in estimate_each(specialist, [image])]


class CachedDepth:
    """A depth specialist that runs once for each image content.

    Args:
        specialist: Estimates what is not in the cache.
        folder: Of the cache, NPZ files; several processes and specialists may share it.
    """

    def __init__(self, specialist: DepthSpecialist, folder: str | Path) -> None:
        self.specialist, self.folder = specialist, Path(folder)

    @property
    def fingerprint(self) -> str:
        """The specialist's."""
        return self.specialist.fingerprint

    def estimate(self, images: Sequence[Image.Image]) -> list[DepthMap]:
        """Estimate a depth map of each RGB image; raises OutputError where the folder cannot be written."""

        def read(path: Path) -> DepthMap | None:
            try:
                return DepthMap.read(path)
            except DepthMapError:
                return None  # damaged by another program: estimated again

        def write(path: Path, depth: DepthMap) -> None:
            depth.write(path, force=True)

        def compute(indices: list[int]) -> list[DepthMap]:
            return self.specialist.estimate([images[index] for index in indices])

        return _use_cache(_find_cache_paths(images, self.folder, self.fingerprint, ".npz"), read, write, compute)


class CachedBoxes:
    """A box specialist that runs once for each image content.

    Args:
        specialist: Detects what is not in the cache.
        folder: Of the cache, JSON files; several processes and specialists may share it.
    """

    def __init__(self, specialist: BoxSpecialist, folder: str | Path) -> None:
        self.specialist, self.folder = specialist, Path(folder)

    @property
    def fingerprint(self) -> str:
        """The specialist's."""
        return self.specialist.fingerprint

    def detect(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[ImageBoxes]:
        """Detect the boxes of each RGB image; raises OutputError where the folder cannot be written."""

        def read(path: Path) -> dict[str, Any] | None:
            try:
                values = parse_json(read_input(path), str(path), SpecialistError)
            except (SpecialistError, OSError):
                return None
            return values if isinstance(values, dict) else None

        def write(path: Path, values: dict[str, Any]) -> None:
            with atomic_write(path, force=True) as file:
                file.write(json.dumps(values).encode())

        def compute(indices: list[int]) -> list[dict[str, Any]]:
            chosen = [images[index] for index in indices]
            return [_to_json(boxes) for boxes in self.specialist.detect(chosen, [names[index] for index in indices])]

        paths = _find_cache_paths(images, self.folder, self.fingerprint, ".json")
        results = _use_cache(paths, read, write, compute)
        return [
            _from_json(values, name, image.size) for values, name, image in zip(results, names, images, strict=True)
        ]


def _find_cache_paths(images: Sequence[Image.Image], folder: Path, fingerprint: str, suffix: str) -> list[Path]:
    hashes = [_hash_content(image) for image in images]
    return [folder / fingerprint / content[:2] / f"{content}{suffix}" for content in hashes]


def _use_cache(
    paths: Sequence[Path],
    read: Callable[[Path], Result | None],
    write: Callable[[Path, Result], None],
    compute: Callable[[list[int]], list[Result]],
) -> list[Result]:
    """Read the results that are in the cache; compute the others by their indices and write them."""
    results = [read(path) if path.is_file() else None for path in paths]
    missing = [index for index, result in enumerate(results) if result is None]
    for index, result in zip(missing, compute(missing) if missing else (), strict=True):
        try:
            paths[index].parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {paths[index].parent}: {error.strerror}") from error
        write(paths[index], result)
        results[index] = result
    return [result for result in results if result is not None]


def _hash_content(image: Image.Image) -> str:
    header = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def _to_json(image: ImageBoxes) -> dict[str, Any]:
    labels = image.labels
    return {
        "boxes": image.boxes.tolist(),
        "category_ids": labels.category_ids,
        "scores": labels.scores,
        "categories": {str(number): name for number, name in labels.categories.items()},
    }


def _from_json(values: dict[str, Any], name: str, size: tuple[int, int]) -> ImageBoxes:
    labels = BoxLabels(
        category_ids=tuple(values["category_ids"]),
        scores=tuple(values["scores"]),
        categories={int(number): label for number, label in values["categories"].items()},
    )
    return ImageBoxes(name, *size, np.array(values["boxes"], dtype=np.float64).reshape(-1, 4), labels)
