"""One picture and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from perceptok.boxes.datasets.records import ImageBoxes
from perceptok.depth.maps.depth_map import DepthMap

__all__ = ["Sample", "Source"]


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
