"""From a map of any size to the square that the networks see, and the size back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from perceptok.config import config_from_dict
from perceptok.depth.maps import DepthMap, Nearness
from perceptok.errors import ConfigError, DepthMapError

__all__ = ["MAP_SIZE", "Depth", "Preprocessing", "checked_nearness", "nearest_resize", "owned"]


Depth = ArrayLike | DepthMap | Nearness | Sequence[DepthMap | Nearness]
"""What is encoded, besides tensors."""


def checked_nearness(maps: Tensor | ArrayLike) -> Tensor:
    """Nearness of any accepted form as (B, H, W) float32; raises DepthMapError."""
    tensor = maps if isinstance(maps, Tensor) else torch.from_numpy(_numeric(maps))
    if not tensor.is_floating_point():
        raise DepthMapError(
            f"nearness is a float in [0, 1]; got {tensor.dtype}. Say what the integers mean: "
            "DepthMap.from_array(array, kind='inverse' or 'metric', ...)"
        )
    tensor = _batch(tensor)
    tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise DepthMapError(
            "the map has NaN or infinite values; DepthMap.from_array(...) turns them into a mask and fills the holes"
        )
    if len(tensor) and not (float(tensor.min()) >= 0 and float(tensor.max()) <= 1):
        raise DepthMapError(
            f"nearness lies in [0, 1]; got {float(tensor.min()):g}..{float(tensor.max()):g}. "
            "DepthMap.from_array(array, kind='inverse' or 'metric', ...) converts other scales"
        )
    return tensor


def _batch(tensor: Tensor) -> Tensor:
    """Any accepted shape as (B, H, W); one that can be read in two ways is refused with both."""
    shape = tuple(tensor.shape)
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif tensor.ndim == 3:
        if shape[2] == 1:
            tensor = tensor[None, :, :, 0]
        elif shape[1] == 1 and shape[0] > 1:
            raise DepthMapError(
                f"{shape} is one map with an axis of length 1, or {shape[0]} maps of height 1; "
                "take the axis out (array[:, 0]), or pass (B, 1, H, W)"
            )
        elif 2 <= shape[2] <= 4 and min(shape[:2]) > 4:
            raise DepthMapError(
                f"{shape} is one picture with {shape[2]} channels, or {shape[0]} maps of width {shape[2]}; a depth map "
                "has one channel (array[..., 0]), and so narrow maps are passed as (B, 1, H, W)"
            )
    elif tensor.ndim == 4 and 1 in (shape[1], shape[3]):
        if shape[1] == shape[3] == 1 and shape[2] != 1:
            raise DepthMapError(f"{shape} is (B, 1, H, 1) or (B, 1, W, 1); pass (B, H, W)")
        tensor = tensor[:, 0] if shape[1] == 1 else tensor[..., 0]
    if tensor.ndim != 3 or 0 in tensor.shape[1:]:
        raise DepthMapError(f"maps have shape (H, W), (H, W, 1), (B, H, W), (B, H, W, 1) or (B, 1, H, W); got {shape}")
    return tensor


def _numeric(maps: ArrayLike) -> np.ndarray:
    if isinstance(maps, np.ma.MaskedArray) or (
        isinstance(maps, list | tuple) and any(isinstance(one, np.ma.MaskedArray) for one in maps)
    ):
        raise DepthMapError(
            "a masked array has holes, which nearness has not; DepthMap.from_array(...) takes its mask and fills them"
        )
    try:
        array = np.asarray(maps)
    except (TypeError, ValueError) as error:
        raise DepthMapError(
            f"not an array of numbers ({error}); maps of several sizes are passed as a list of DepthMap"
        ) from error
    if array.dtype.kind not in "fiu":
        raise DepthMapError(f"a depth map is an array of numbers; got {array.dtype}")
    return owned(array) if array.dtype.kind == "f" else array.astype(np.int64)


def owned(array: np.ndarray) -> np.ndarray:
    """A float32 copy that PyTorch can hold: it takes no read-only memory, reversed axes or foreign byte order."""
    return np.array(array, dtype=np.float32, order="C")


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
        """Nearness (B, H, W) in [0, 1] -> the networks' scale."""
        return self.low + (self.high - self.low) * maps

    def from_network(self, maps: torch.Tensor) -> torch.Tensor:
        """The networks' scale, (B, H, W) float -> nearness, not clamped."""
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
