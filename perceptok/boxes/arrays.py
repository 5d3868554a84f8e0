"""Checks of boxes, points and codes given as arrays, lists or tensors; torch is never imported for an array."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from perceptok.errors import BoxError, PerceptokError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Order",
    "check_box_shape",
    "check_codes",
    "check_coordinates",
    "check_corners",
    "check_numbers",
    "convert_like",
    "find_inverted",
    "is_tensor",
]

Order = Literal["xyxy", "yxyx"]
"""Order of a box's four codes."""


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a torch tensor; False where torch was never imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def convert_like(array: np.ndarray, original: object) -> np.ndarray | Tensor:
    """The array, or, where `original` is a tensor, the array as a tensor on its device."""
    if not is_tensor(original):
        return array
    import torch

    return torch.from_numpy(array).to(original.device)


def check_numbers(value: ArrayLike | Tensor, what: str, error: type[PerceptokError] = BoxError) -> np.ndarray:
    """Integers or floats of any shape as a NumPy array, float16 and bfloat16 widened to float32, not copied otherwise.

    Raises:
        PerceptokError: Of the type `error`: a ragged list, or anything but real numbers that fit into float64.
    """
    if is_tensor(value):
        tensor = value.detach().cpu()
        value = (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).numpy()
    try:
        array = np.asarray(value)
        if array.dtype == object and all(isinstance(number, int | float) for number in array.flat):
            array = array.astype(np.float64)  # integers beyond 64 bits
    except (ValueError, OverflowError) as reason:
        raise error(f"{what} are numbers of float64's range in a regular array ({reason})") from reason
    if array.dtype.kind not in "iuf":
        raise error(f"{what} are integers or floats; got {array.dtype}")
    return array.astype(np.float32) if array.dtype == np.float16 else array


def check_box_shape(
    boxes: ArrayLike | Tensor, what: str = "boxes", error: type[PerceptokError] = BoxError
) -> np.ndarray:
    """Boxes (N, 4); an empty list is (0, 4). Raises an error of the type `error` for any other shape."""
    array = check_numbers(boxes, what, error)
    if array.shape == (0,):
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        hint = "; put one box into a list: [box]" if array.shape == (4,) else ""
        raise error(f"{what} have shape (N, 4); got {array.shape}{hint}")
    return array


def check_coordinates(coordinates: ArrayLike | Tensor, lengths: Sequence[int]) -> np.ndarray:
    """Points (..., 2) or boxes (..., 4), whichever `lengths` allows, as float64; every number finite.

    Raises:
        BoxError: Another shape, or NaN or infinity; the message gives its index.
    """
    array = check_numbers(coordinates, "coordinates").astype(np.float64, copy=False)
    if array.ndim == 0 or array.shape[-1] not in lengths:
        shapes = " or ".join(f"(..., {length})" for length in lengths)
        raise BoxError(f"coordinates have shape {shapes}; got {array.shape}")
    if not np.isfinite(array).all():
        index = tuple(int(position) for position in np.argwhere(~np.isfinite(array))[0])
        raise BoxError(f"coordinates are finite; found {array[index]} at {index}")
    return array


def check_corners(boxes: ArrayLike | Tensor, what: str = "box") -> np.ndarray:
    """Corners x1, y1, x2, y2 (N, 4) as float64, finite and not inverted; raises BoxError otherwise."""
    corners = check_coordinates(check_box_shape(boxes, f"{what}es"), (4,))
    index = find_inverted(corners)
    if index is not None:
        raise BoxError(f"{what} {index} is inverted: {corners[index].tolist()}; boxes are x1, y1, x2, y2")
    return corners


def check_codes(
    codes: ArrayLike | Tensor,
    *,
    size: int,
    order: Order = "xyxy",
    error: type[PerceptokError] = BoxError,
    allow_single: bool = False,
) -> np.ndarray:
    """Codes of boxes (N, 4), or (4,) if a single box is allowed, in 0..size - 1 as int64 (N, 4), none inverted.

    Raises:
        PerceptokError: Of the type `error`: another shape or type, a code out of range, or an inverted box; the
            message gives the index of the first one.
    """
    array = check_numbers(codes, "codes", error)
    array = check_box_shape(array[None] if allow_single and array.shape == (4,) else array, "codes", error)
    if not array.size:
        return np.zeros((0, 4), dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise error(f"codes are integers; got {array.dtype}: encode coordinates with a BoxCodec first")
    if array.min() < 0 or array.max() >= size:
        row, column = (int(index) for index in np.argwhere((array < 0) | (array >= size))[0])
        raise error(f"codes are 0..{size - 1}; found {array[row, column]} in box {row}, {array[row].tolist()}")
    array = np.ascontiguousarray(array, dtype=np.int64)
    inverted = find_inverted(array)
    if inverted is not None:
        column = int(array[inverted, 2] >= array[inverted, 0])
        near, far, axis = array[inverted, column], array[inverted, column + 2], order[column]
        raise error(f"box {inverted} is inverted: {axis}2 = {far} < {axis}1 = {near}; give the near edges first")
    return array


def find_inverted(corners: np.ndarray) -> int | None:
    """Index of the first of boxes (N, 4) whose far edges lie before the near ones, None without one."""
    inverted = (corners[:, 2] < corners[:, 0]) | (corners[:, 3] < corners[:, 1])
    return int(inverted.argmax()) if inverted.any() else None
