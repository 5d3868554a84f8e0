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

__all__ = [
    "BOTH_SIDES",
    "FOUR_FLAGS",
    "box_array",
    "compared_sides",
    "coordinate_array",
    "corner_array",
    "four_flags",
    "is_tensor",
    "number_array",
    "same_kind",
    "upside_down",
]

FOUR_FLAGS, BOTH_SIDES = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=np.uint8).view(np.uint32)[:, 0]
"""All four flags of a box as one number, and the first two."""


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


def four_flags(flags: np.ndarray) -> np.ndarray:
    """Booleans (N, 4), contiguous -> one number for each box, (N,) uint32; a hundredth of the time of `all(axis=1)`."""
    return flags.view(np.uint32)[:, 0]


def compared_sides(compare: np.ufunc, corners: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Compare x1 with x2 and y1 with y2 of contiguous corners (N, 4): the flags `BOTH_SIDES` of the numbers (N,).

    The whole is compared with itself two numbers further on, in a twentieth of the time of taking the columns apart;
    the other two flags of a box say nothing. They are kept in `flags`, (N, 4) bool.
    """
    flat = corners.reshape(-1)
    compare(flat[:-2], flat[2:], out=flags.reshape(-1)[:-2])
    return four_flags(flags)


def upside_down(corners: np.ndarray) -> int | None:
    """The first box, of contiguous corners (N, 4), with x2 < x1 or y2 < y1."""
    sides = compared_sides(np.greater, corners, np.empty(corners.shape, dtype=bool))
    if not np.bitwise_or.reduce(sides) & BOTH_SIDES:
        return None
    return int(np.argmax(sides & BOTH_SIDES != 0))


def corner_array(boxes: ArrayLike | Tensor, what: str = "box") -> np.ndarray:
    """Corners (N, 4) as contiguous float64, finite and upright; raises BoxError for any other."""
    corners = np.ascontiguousarray(coordinate_array(box_array(boxes, f"{what}es"), (4,)))
    index = upside_down(corners)
    if index is not None:
        raise BoxError(f"{what} {index} is upside down: {corners[index].tolist()}; boxes are x1, y1, x2, y2")
    return corners
