"""What a specialist is: pictures in, depth maps or boxes out, and a name for what exactly it computes."""

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
from perceptok.files import atomic_write, parse_json

__all__ = [
    "BoxSpecialist",
    "CachedBoxes",
    "CachedDepth",
    "DepthSpecialist",
    "Device",
    "file_fingerprint",
    "require_rgb",
]


Device = Literal["cpu", "cuda"]


@runtime_checkable
class DepthSpecialist(Protocol):
    """Estimates depth.

    Attributes:
        fingerprint: Of weights and settings: equal fingerprints mean equal maps of equal pictures.
    """

    @property
    def fingerprint(self) -> str:
        """Of weights and settings."""

    def estimate(self, pictures: Sequence[Image.Image]) -> list[DepthMap]:
        """A depth map of each RGB picture, in the specialist's declared kind; its size may be another."""


@runtime_checkable
class BoxSpecialist(Protocol):
    """Detects objects; `fingerprint` as for `DepthSpecialist`."""

    @property
    def fingerprint(self) -> str:
        """Of weights and settings."""

    def detect(self, pictures: Sequence[Image.Image], names: Sequence[str]) -> list[ImageBoxes]:
        """The boxes of each RGB picture in its pixels, with categories and scores, best first."""


def file_fingerprint(path: Path, settings: str) -> str:
    """A hash of a file's bytes and of settings; raises SpecialistError where the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise SpecialistError(f"{path}: cannot be read ({error.strerror})") from error
    return hashlib.sha256(f"{digest.hexdigest()} {settings}".encode()).hexdigest()[:16]


def require_rgb(pictures: Sequence[Image.Image]) -> None:
    """Raises SpecialistError unless every picture has mode RGB."""
    for index, picture in enumerate(pictures):
        if picture.mode != "RGB":
            raise SpecialistError(
                f'specialists see pictures of mode RGB; picture {index} is {picture.mode}: convert("RGB")'
            )


Answer = TypeVar("Answer")


class CachedDepth:
    """A depth specialist that is asked once for each picture.

    Args:
        specialist: Who is asked.
        folder: Where answers are kept, as NPZ; several processes and specialists may share it.
    """

    def __init__(self, specialist: DepthSpecialist, folder: str | Path) -> None:
        self.specialist, self.folder = specialist, Path(folder)

    @property
    def fingerprint(self) -> str:
        """The specialist's."""
        return self.specialist.fingerprint

    def estimate(self, pictures: Sequence[Image.Image]) -> list[DepthMap]:
        """As the specialist; raises OutputError where the folder cannot be written."""

        def kept(path: Path) -> DepthMap | None:
            try:
                return DepthMap.read(path)
            except DepthMapError:
                return None  # damaged, by another program: asked for again

        def keep(path: Path, answer: DepthMap) -> None:
            answer.write(path, force=True)

        def asked(indices: list[int]) -> list[DepthMap]:
            return self.specialist.estimate([pictures[index] for index in indices])

        return _query(pictures, self.folder, self.fingerprint, ".npz", kept, keep, asked)


class CachedBoxes:
    """A box specialist that is asked once for each picture; as `CachedDepth`, answers are kept as JSON."""

    def __init__(self, specialist: BoxSpecialist, folder: str | Path) -> None:
        self.specialist, self.folder = specialist, Path(folder)

    @property
    def fingerprint(self) -> str:
        """The specialist's."""
        return self.specialist.fingerprint

    def detect(self, pictures: Sequence[Image.Image], names: Sequence[str]) -> list[ImageBoxes]:
        """As the specialist; raises OutputError where the folder cannot be written."""

        def kept(path: Path) -> dict[str, Any] | None:
            try:
                values = parse_json(path.read_bytes(), str(path), SpecialistError)
            except (SpecialistError, OSError):
                return None
            return values if isinstance(values, dict) else None

        def keep(path: Path, answer: dict[str, Any]) -> None:
            with atomic_write(path, force=True) as file:
                file.write(json.dumps(answer).encode())

        def asked(indices: list[int]) -> list[dict[str, Any]]:
            chosen = [pictures[index] for index in indices]
            return [_to_json(boxes) for boxes in self.specialist.detect(chosen, [names[index] for index in indices])]

        answers = _query(pictures, self.folder, self.fingerprint, ".json", kept, keep, asked)
        return [
            _from_json(answer, name, picture.size)
            for answer, name, picture in zip(answers, names, pictures, strict=True)
        ]


def _query(
    pictures: Sequence[Image.Image],
    folder: Path,
    fingerprint: str,
    suffix: str,
    kept: Callable[[Path], Answer | None],
    keep: Callable[[Path, Answer], None],
    asked: Callable[[list[int]], list[Answer]],
) -> list[Answer]:
    """The kept answers, and those of the specialist for the rest, which are then kept."""
    paths = [
        folder / fingerprint / _hash_content(picture)[:2] / f"{_hash_content(picture)}{suffix}" for picture in pictures
    ]
    answers = [kept(path) if path.is_file() else None for path in paths]
    missing = [index for index, answer in enumerate(answers) if answer is None]
    for index, answer in zip(missing, asked(missing) if missing else (), strict=True):
        try:
            paths[index].parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {paths[index].parent}: {error.strerror}") from error
        keep(paths[index], answer)
        answers[index] = answer
    return [answer for answer in answers if answer is not None]


def _hash_content(picture: Image.Image) -> str:
    header = f"{picture.mode} {picture.width} {picture.height} ".encode()
    return hashlib.sha256(header + picture.tobytes()).hexdigest()


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
