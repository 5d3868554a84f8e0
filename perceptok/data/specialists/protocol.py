"""What a specialist is: pictures in, depth maps or boxes out, and a name for what exactly it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from PIL import Image

from perceptok.boxes.datasets.records import ImageBoxes
from perceptok.depth.maps.depth_map import DepthMap
from perceptok.errors import SpecialistError

__all__ = ["BoxSpecialist", "DepthSpecialist", "Device", "file_fingerprint", "require_rgb"]

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
