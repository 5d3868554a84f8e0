"""Arrays and tensors of coordinates in, the same kind out; torch is never imported for an array."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from perceptok.errors import BoxError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["box_array", "coordinate_array", "is_tensor", "number_array", "same_kind"]


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a torch tensor; where torch was never imported, nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def number_array(value: ArrayLike | Tensor, what: str) -> np.ndarray:
    """Integers or floats of any shape as a NumPy array, float16 and bfloat16 widened to float32, not copied otherwise.

    Raises:
        BoxError: A ragged list, or anything but real numbers that fit into float64.
    """
    if is_tensor(value):
        tensor = value.detach().cpu()
        value = (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).numpy()
    try:
        array = np.asarray(value)
        if array.dtype == object and all(isinstance(number, int | float) for number in array.flat):
            array = array.astype(np.float64)  # integers beyond 64 bits
    except (ValueError, OverflowError) as error:
        raise BoxError(f"{what} are numbers of float64's range in a regular array ({error})") from error
    if array.dtype.kind not in "iuf":
        raise BoxError(f"{what} are integers or floats; got {array.dtype}")
    return array.astype(np.float32) if array.dtype == np.float16 else array


def box_array(boxes: ArrayLike | Tensor, what: str = "boxes") -> np.ndarray:
    """Boxes (N, 4); an empty list is (0, 4). Raises BoxError for any other shape."""
    array = number_array(boxes, what)
    if array.shape == (0,):
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        hint = "; put one box into a list: [box]" if array.shape == (4,) else ""
        raise BoxError(f"{what} have shape (N, 4); got {array.shape}{hint}")
    return array


def coordinate_array(points: ArrayLike | Tensor, last: Sequence[int]) -> np.ndarray:
    """Points (..., 2) or boxes (..., 4) as float64, whichever `last` allows; every number finite.

    Raises:
        BoxError: Another shape, or NaN or infinity, named by its place.
    """
    array = number_array(points, "coordinates").astype(np.float64, copy=False)
    if array.ndim == 0 or array.shape[-1] not in last:
        shapes = " or ".join(f"(..., {length})" for length in last)
        raise BoxError(f"coordinates have shape {shapes}; got {array.shape}")
    if not np.isfinite(array).all():
        place = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise BoxError(f"coordinates are finite; found {array[place]} at {place}")
    return array


def same_kind(array: np.ndarray, original: object) -> np.ndarray | Tensor:
    """The array as it is, or, where a tensor came in, as a tensor on the same device."""
    if not is_tensor(original):
        return array
    import torch

    return torch.from_numpy(array).to(original.device)
