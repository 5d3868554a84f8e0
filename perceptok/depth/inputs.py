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
    if tensor.ndim == 4 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or 0 in tensor.shape[1:]:
        raise DepthMapError(f"maps have shape (H, W), (B, H, W) or (B, 1, H, W); got {tuple(tensor.shape)}")
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


def _numeric(maps: ArrayLike) -> np.ndarray:
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
