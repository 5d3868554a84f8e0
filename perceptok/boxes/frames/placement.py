"""What a frame is made of, before any arithmetic on coordinates: the fields of its placement, and their checks."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import numpy as np

from perceptok.errors import BoxError, ConfigError

__all__ = ["Mode", "Placement", "checked_image_size", "patched_size", "whole_numbers"]

Mode = Literal["squash", "letterbox", "center_crop"]


class Placement(Protocol):
    """Where the pixels of an image go; the fields are `ImageFrame`'s, which document them."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the original."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height of the frame in pixels."""
        ...

    @property
    def resized(self) -> tuple[int, int]:
        """Width and height of the (padded) image after resizing."""
        ...

    @property
    def offset(self) -> tuple[int, int]:
        """Where its top left corner lies in the frame, x and y."""
        ...

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Original pixels added at left, top, right, bottom before resizing."""
        ...

    @property
    def fill(self) -> tuple[int, ...]:
        """Colour of what the image does not cover."""
        ...

    @property
    def resample(self) -> str:
        """Pillow's filter in lower case."""
        ...

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels per original pixel, along x and y."""
        ...

    @property
    def window(self) -> tuple[float, float, float, float]:
        """The part of the frame that shows the image: x1, y1, x2, y2 in frame pixels."""
        ...


def checked_image_size(image_size: object) -> tuple[int, int]:
    """Width and height as two positive integers; raises BoxError for anything else."""
    try:
        width, height = whole_numbers("image_size", image_size, 2, least=1)
    except ConfigError as error:
        raise BoxError(f"an image has a width and a height of at least one pixel; got {image_size!r}") from error
    return width, height


def patched_size(image_size: tuple[int, int], factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Width and height that Qwen2-VL's `smart_resize` gives an image; raises BoxError, ConfigError."""
    whole_numbers("factor, min_pixels and max_pixels", [factor, min_pixels, max_pixels], 3, least=1)
    if max(image_size) / min(image_size) > 200:
        raise BoxError(f"an image is at most 200 times as long as it is wide here; got {image_size}")
    width, height = (round(side / factor) * factor for side in image_size)
    area = image_size[0] * image_size[1]
    if width * height > max_pixels:
        shrink = math.sqrt(area / max_pixels)
        width, height = (max(factor, math.floor(side / shrink / factor) * factor) for side in image_size)
    elif width * height < min_pixels:
        grow = math.sqrt(min_pixels / area)
        width, height = (math.ceil(side * grow / factor) * factor for side in image_size)
    return width, height


def whole_numbers(name: str, values: object, count: int, *, least: int | None = None, most: int | None = None) -> Any:
    """`count` integers in a range, as a tuple of int; raises ConfigError."""
    numbers = tuple(values) if isinstance(values, tuple | list | np.ndarray) else ()
    good = all(isinstance(number, int | np.integer) and not isinstance(number, bool) for number in numbers)
    good = good and len(numbers) == count
    good = good and all((least is None or number >= least) and (most is None or number <= most) for number in numbers)
    if not good:
        limits = f" from {least}" if least is not None else ""
        limits += f" to {most}" if most is not None else ""
        raise ConfigError(f"{name}: expected {count} integer{'s' if count > 1 else ''}{limits}; got {values!r}")
    return tuple(int(number) for number in numbers)
