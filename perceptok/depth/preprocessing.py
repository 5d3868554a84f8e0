"""From a map of any size to the square that the networks see, and the size back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from perceptok.configs import config_from_dict
from perceptok.errors import ConfigError

__all__ = ["MAP_SIZE", "Preprocessing", "nearest_resize"]

MAP_SIZE = 320
"""Side in pixels of the square map that the networks see and produce."""

Resize = Literal["area", "nearest", "pillow-bilinear"]


@dataclass(frozen=True)
class Preprocessing:
    """How a map becomes the networks' input; saved beside the weights.

    Attributes:
        size: Side of the square in pixels; the map is squashed to it, as in AURORA (arXiv 2412.03548).
        resize: "nearest" is the reference recipe and never invents a depth between two surfaces; "area" averages what
            falls into a pixel (antialiased bilinear), for maps much finer than the square; "pillow-bilinear" rounds to
            8 bits and resizes by Pillow's integer arithmetic, bit for bit.
        low: The networks' value for nearness 0.
        high: The networks' value for nearness 1.
    """

    size: int = MAP_SIZE
    resize: Resize = "nearest"
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.resize not in get_args(Resize):
            raise ConfigError(f"resize is one of {', '.join(get_args(Resize))}; got {self.resize!r}")
        if self.size < 1 or not self.low < self.high:
            raise ConfigError(f"need size >= 1 and low < high; got {self.size}, {self.low}, {self.high}")

    @classmethod
    def named(cls, name: str) -> Preprocessing:
        """What a published checkpoint expects.

        Args:
            name: "aurora" (arXiv 2412.03548): nearest pixels, [-1, 1]. "molmoact" (arXiv 2508.07917): the same networks
                trained on 8-bit pictures that Pillow resized, [0, 1].

        Raises:
            ConfigError: Another name.
        """
        if name not in _NAMED:
            raise ConfigError(f"preprocessing is one of {', '.join(_NAMED)}, or a Preprocessing(...); got {name!r}")
        return cls(**_NAMED[name])

    @classmethod
    def from_dict(cls, values: object) -> Preprocessing:
        """The inverse of `to_dict`; raises ConfigError as `config_from_dict`."""
        return config_from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    def square(self, maps: torch.Tensor) -> torch.Tensor:
        """Squash maps (B, H, W) of nearness to (B, size, size)."""
        if self.resize == "pillow-bilinear":
            return _by_pillow(maps, self.size)
        if maps.shape[-2:] == (self.size, self.size):
            return maps
        if self.resize == "nearest":
            return maps[:, _picked(maps.shape[-2], self.size)][:, :, _picked(maps.shape[-1], self.size)]
        target = (self.size, self.size)
        return F.interpolate(maps[:, None], target, mode="bilinear", antialias=True, align_corners=False)[:, 0]

    def to_network(self, maps: torch.Tensor) -> torch.Tensor:
        """Nearness [0, 1] -> the networks' scale."""
        return self.low + (self.high - self.low) * maps

    def from_network(self, maps: torch.Tensor) -> torch.Tensor:
        """The networks' scale -> nearness, not clamped."""
        return (maps - self.low) / (self.high - self.low)


_NAMED: dict[str, dict[str, Any]] = {
    "aurora": {},
    "molmoact": {"resize": "pillow-bilinear", "low": 0.0, "high": 1.0},
}


def _by_pillow(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Maps (B, H, W) in [0, 1] as 8-bit pictures through Pillow's BILINEAR, and back to [0, 1]."""
    pictures = np.rint(maps.cpu().numpy() * np.float32(255)).astype(np.uint8)
    small = [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BILINEAR)) for one in pictures]
    stacked = np.stack(small) if small else np.empty((0, size, size), np.uint8)
    return torch.from_numpy(stacked).to(maps.device).float() / 255


def nearest_resize(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an (H, W) array of any type by its nearest pixels."""
    return np.asarray(array[np.ix_(_picked(array.shape[0], height), _picked(array.shape[1], width))])


def _picked(length: int, size: int) -> np.ndarray:
    """Source index of each target pixel: the pixel under its centre, as Pillow's NEAREST picks it.

    Where a centre falls on the edge of two pixels, rounding may decide otherwise than in Pillow.
    """
    return np.asarray(np.floor((np.arange(size) + 0.5) * (length / size)), dtype=np.int64)
