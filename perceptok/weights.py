"""Weights of foreign folders: safetensors files, whose header is checked before any tensor is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from safetensors import safe_open
from torch import Tensor

from perceptok.errors import PerceptokError, translate_errors
from perceptok.files import open_input

__all__ = ["TensorInfo", "load_tensors", "read_tensor_infos"]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file that is not loaded yet.

    Attributes:
        dtype: In the words of safetensors, such as "F32" or "BF16".
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of values."""
        return prod(self.shape)


def read_tensor_infos(
    path: str | os.PathLike[str], error: type[PerceptokError], what: str = "weights"
) -> dict[str, TensorInfo]:
    """Read the names, types and shapes of the tensors in a safetensors file, without its values.

    Args:
        path: The file.
        error: The error to raise.
        what: What messages call the weights.

    Raises:
        PerceptokError: Of the type `error`: the file is missing, not a regular file, damaged, or not complete.
    """
    with _open_file(path, error, what) as file:
        infos = {}
        for name in file.keys():  # noqa: SIM118 - not a mapping
            values = file.get_slice(name)
            infos[name] = TensorInfo(str(values.get_dtype()), tuple(values.get_shape()))
        return infos


def load_tensors(path: str | os.PathLike[str], error: type[PerceptokError], what: str = "weights") -> dict[str, Tensor]:
    """Load the tensors of a safetensors file to the CPU.

    Args:
        path: The file.
        error: The error to raise.
        what: What messages call the weights.

    Raises:
        PerceptokError: Of the type `error`: as `read_tensor_infos`, or a tensor has values that are not finite.
    """
    with _open_file(path, error, what) as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise error(f"{path}: the tensor {name} has values that are NaN or infinite; train or fetch it again")
    return tensors


@contextmanager
def _open_file(path: str | os.PathLike[str], error: type[PerceptokError], what: str = "weights") -> Iterator[Any]:
    """Open a regular file as safetensors; whatever goes wrong while it is open becomes an error of ours."""
    problem, advice = f"{path}: {what} cannot be read", "they have to be complete safetensors, never pickled"
    try:
        open_input(path).close()  # safetensors would wait for a pipe
    except (OSError, ValueError) as reason:
        text = getattr(reason, "strerror", None) or str(reason)
        raise error(f"{problem} ({text}); {advice}") from reason
    with translate_errors(error, problem, advice), safe_open(path, "pt") as file:
        yield file
