"""From depth maps of any size and form to the square that the networks take."""

from __future__ import annotations

import math
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

__all__ = ["MAP_SIZE", "Depth", "Preprocessing", "resize_nearest", "to_float32", "validate_nearness"]

MAP_SIZE = 320
"""Side in pixels of the square map that the networks take and produce."""

Depth = ArrayLike | DepthMap | Nearness | Sequence[DepthMap | Nearness]
"""What `DepthCodec.encode` takes besides tensors."""

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

    Raises:
        ConfigError: A value is out of range.
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
    def from_name(cls, name: str) -> Preprocessing:
        """The preprocessing that a published checkpoint expects.

        Args:
            name: "aurora" (arXiv 2412.03548): nearest pixels, [-1, 1]. "molmoact" (arXiv 2508.07917): the same networks
                trained on 8-bit images that Pillow resized, [0, 1].

        Raises:
            ConfigError: Another name.
        """
        if name not in _PUBLISHED:
            raise ConfigError(f"preprocessing is one of {', '.join(_PUBLISHED)}, or a Preprocessing(...); got {name!r}")
        return cls(**_PUBLISHED[name])

    @classmethod
    def from_dict(cls, values: object) -> Preprocessing:
        """The inverse of `to_dict`; raises ConfigError for unknown keys and values of another type."""
        return config_from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        return asdict(self)

    def squash(self, maps: Tensor) -> Tensor:
        """Squash maps (B, H, W) of nearness to (B, size, size)."""
        if self.resize == "pillow-bilinear":
            return _resize_by_pillow(maps, self.size)
        if maps.shape[-2:] == (self.size, self.size):
            return maps
        if self.resize == "nearest":
            rows, columns = (_nearest_indices(length, self.size) for length in maps.shape[-2:])
            return maps[:, rows][:, :, columns]
        target = (self.size, self.size)
        return F.interpolate(maps[:, None], target, mode="bilinear", antialias=True, align_corners=False)[:, 0]

    def to_network(self, maps: Tensor, out: Tensor | None = None) -> Tensor:
        """Convert nearness in [0, 1] to the networks' scale; any shape. `out` is what the result is written to."""
        return torch.mul(maps, self.high - self.low, out=out).add_(self.low)

    def from_network(self, maps: Tensor, out: Tensor | None = None) -> Tensor:
        """Convert the networks' scale to nearness, not clamped; any shape. `out` is what the result is written to."""
        return torch.sub(maps, self.low, out=out).div_(self.high - self.low)


_PUBLISHED: dict[str, dict[str, Any]] = {
    "aurora": {},
    "molmoact": {"resize": "pillow-bilinear", "low": 0.0, "high": 1.0},
}


def _resize_by_pillow(maps: Tensor, size: int) -> Tensor:
    """Resize maps (B, H, W) in [0, 1] as 8-bit images by Pillow's BILINEAR."""
    levels = np.rint(maps.cpu().numpy() * np.float32(255)).astype(np.uint8)
    resized = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)) for image in levels]
    stacked = np.stack(resized) if resized else np.empty((0, size, size), np.uint8)
    return torch.from_numpy(stacked).to(maps.device).float() / 255


def resize_nearest(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an (H, W) array of any type to (height, width) pixels, each the nearest source pixel, as Pillow's NEAREST.

    Where a target pixel's centre falls on the edge of two source pixels, rounding may decide otherwise than in Pillow.
    """
    if array.shape == (height, width):
        return array.copy()
    return np.asarray(array[np.ix_(_nearest_indices(array.shape[0], height), _nearest_indices(array.shape[1], width))])


def _nearest_indices(length: int, size: int) -> np.ndarray:
    """Source index of each target pixel: the pixel under its centre."""
    return np.asarray(np.floor((np.arange(size) + 0.5) * (length / size)), dtype=np.int64)


def validate_nearness(maps: Tensor | ArrayLike) -> Tensor:
    """Convert nearness of any accepted form to (B, H, W) float32; raises DepthMapError."""
    tensor = maps if isinstance(maps, Tensor) else torch.from_numpy(_to_numbers(maps))
    if not tensor.is_floating_point():
        raise DepthMapError(
            f"nearness is a float in [0, 1]; got {tensor.dtype}. Say what the integers mean: "
            "DepthMap.from_array(array, kind='inverse' or 'metric', ...)"
        )
    tensor = _to_batch(tensor).float()
    low, high = (float(value) for value in tensor.aminmax()) if len(tensor) else (0.0, 1.0)  # NaN if any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DepthMapError(
            "the map has NaN or infinite values; DepthMap.from_array(...) turns them into a mask and fills the holes"
        )
    if not 0 <= low <= high <= 1:
        raise DepthMapError(
            f"nearness lies in [0, 1]; got {low:g}..{high:g}. "
            "DepthMap.from_array(array, kind='inverse' or 'metric', ...) converts other scales"
        )
    return tensor


def _to_numbers(maps: ArrayLike) -> np.ndarray:
    if isinstance(maps, np.ma.MaskedArray) or (
        isinstance(maps, list | tuple) and any(isinstance(item, np.ma.MaskedArray) for item in maps)
    ):
        raise DepthMapError(
            "a masked array has holes, but nearness does not; DepthMap.from_array(...) takes its mask and fills them"
        )
    try:
        array = np.asarray(maps)
    except (TypeError, ValueError) as error:
        raise DepthMapError(
            f"not an array of numbers ({error}); maps of several sizes are passed as a list of DepthMap"
        ) from error
    if array.dtype.kind not in "fiu":
        raise DepthMapError(f"a depth map is an array of numbers; got {array.dtype}")
    return to_float32(array) if array.dtype.kind == "f" else array.astype(np.int64)


def _to_batch(tensor: Tensor) -> Tensor:
    """Any accepted shape as (B, H, W); an ambiguous one is refused with both of its readings."""
    shape = tuple(tensor.shape)
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif tensor.ndim == 3:
        if shape[2] == 1:
            tensor = tensor[None, :, :, 0]
        elif shape[1] == 1 and shape[0] > 1:
            raise DepthMapError(
                f"{shape} is one map with an axis of length 1, or {shape[0]} maps of height 1; "
                "remove the axis (array[:, 0]), or pass (B, 1, H, W)"
            )
        elif 2 <= shape[2] <= 4 and min(shape[:2]) > 4:
            raise DepthMapError(
                f"{shape} is one image with {shape[2]} channels, or {shape[0]} maps of width {shape[2]}; a depth map "
                "has one channel (array[..., 0]), and maps this narrow are passed as (B, 1, H, W)"
            )
    elif tensor.ndim == 4 and 1 in (shape[1], shape[3]):
        if shape[1] == shape[3] == 1 and shape[2] != 1:
            raise DepthMapError(f"{shape} is (B, 1, H, 1) or (B, 1, W, 1); pass (B, H, W)")
        tensor = tensor[:, 0] if shape[1] == 1 else tensor[..., 0]
    if tensor.ndim != 3 or 0 in tensor.shape[1:]:
        raise DepthMapError(f"maps have shape (H, W), (H, W, 1), (B, H, W), (B, H, W, 1) or (B, 1, H, W); got {shape}")
    return tensor


def to_float32(array: np.ndarray) -> np.ndarray:
    """The array as float32 that PyTorch accepts, itself where it is.

    PyTorch takes neither read-only memory nor reversed axes or foreign byte order.
    """
    return np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED", "WRITEABLE"])
