"""What every task needs besides the picture: frame, codec, prompts, and the rules of one set of records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from perceptok.boxes.datasets.records import FrameKind
from perceptok.boxes.frames.geometry import ImageFrame
from perceptok.data.markers import LETTERS, MarkerProtocol
from perceptok.data.prompts import PromptSet
from perceptok.data.records import PerceptionRecord, Regime, Task
from perceptok.depth.codec import DepthCodec
from perceptok.errors import ConfigError
from perceptok.tokens import PIXEL

__all__ = ["Made", "SetConfig", "Setting", "frame_of"]

BoxOrder = Literal["annotation", "left_to_right", "top_to_bottom", "largest_first"]


@dataclass(frozen=True)
class SetConfig:
    """One set of records of one task and regime.

    Attributes:
        name: Begins its records' ids; letters, digits, - and _.
        source: Which of the recipe's sources it draws from.
        task: "depth" or "counting".
        regime: "atomic", "cot" or "direct".
        count: Records wanted.
        stream: Sets of one stream and source draw the same pictures in the same order, with the same markers; by
            default each set is a stream of its own.
        wording: "fixed", or "pool" for a wording drawn for each record.
        markers: Depth: how many markers, one of these for each record.
        placement: Depth: where they lie and how far apart.
        question: Depth: "closest" (AURORA, HardBLINK), or "pair" (BLINK; two markers).
        most: Counting: at most so many instances; what has more is not asked.
        zeros: Counting: the share of pictures that are asked for something they do not show, 0..1.
        most_of_a_count: Counting: no count is the answer more often.
        order: Counting: of the boxes in the answer.
        least_pixels: Counting: a category is only asked where each of its boxes has this area in the frame.
        categories: Counting: only these are asked; empty for all.

    Raises:
        ConfigError: A value out of range.
    """

    name: str
    source: str
    task: Task
    regime: Regime
    count: int
    stream: str = ""
    wording: Literal["fixed", "pool"] = "fixed"
    markers: tuple[int, ...] = (2, 3, 4, 5)
    placement: MarkerProtocol = field(default_factory=MarkerProtocol)
    question: Literal["closest", "pair"] = "closest"
    most: int = 15
    zeros: float = 0.1
    most_of_a_count: int = 1000
    order: BoxOrder = "annotation"
    least_pixels: float = 0.0
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not all(one.isalnum() or one in "-_" for one in self.name):
            raise ConfigError(f"a set's name has letters, digits, - and _; got {self.name!r}")
        if self.count < 0 or self.most < 1 or not 0 <= self.zeros <= 1 or self.most_of_a_count < 1:
            raise ConfigError(
                f"set {self.name}: need count >= 0, most >= 1, zeros in 0..1, most_of_a_count >= 1; got {self.count}, "
                f"{self.most}, {self.zeros}, {self.most_of_a_count}"
            )
        if not self.markers or not all(2 <= one <= len(LETTERS) for one in self.markers):
            raise ConfigError(f"set {self.name}: markers are numbers from 2 to {len(LETTERS)}; got {self.markers}")
        if self.question == "pair" and self.markers != (2,):
            raise ConfigError(f"set {self.name}: the question 'pair' goes with markers: [2]; got {self.markers}")
        for key, kind in (("task", Task), ("regime", Regime), ("order", BoxOrder)):
            if getattr(self, key) not in get_args(kind):
                raise ConfigError(f"set {self.name}: {key} is one of {get_args(kind)}; got {getattr(self, key)!r}")


@dataclass(frozen=True, eq=False)
class Setting:
    """What is the same for every record of a recipe."""

    prompts: PromptSet
    codec: DepthCodec
    frame: FrameKind = "squash"
    size: int = PIXEL.size
    soft_codes: int = 0


class Made(NamedTuple):
    """A record without its place in a set, and its picture in the frame."""

    record: PerceptionRecord
    picture: Image.Image


def frame_of(setting: Setting, size: tuple[int, int]) -> ImageFrame:
    """The frame of a picture of this size."""
    make = {"squash": ImageFrame.squash, "letterbox": ImageFrame.letterbox, "center_crop": ImageFrame.center_crop}
    return make[setting.frame](size, setting.size)


def wording_of(config: SetConfig, rng: np.random.Generator) -> np.random.Generator | None:
    """What wordings are drawn from; None where they are fixed."""
    return rng if config.wording == "pool" else None
