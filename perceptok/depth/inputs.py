"""What a codec encodes: depth maps, or nearness as arrays and tensors of several shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from perceptok.depth.maps.depth_map import DepthMap, Nearness
from perceptok.errors import DepthMapError

__all__ = ["Depth", "checked_nearness", "owned"]

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
