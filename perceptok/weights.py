"""Weights of foreign folders: safetensors files, checked by their header, and pickled ones that hold tensors only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from perceptok.errors import PerceptokError, translate_errors
from perceptok.files import open_input

__all__ = ["TensorInfo", "load_pickled_tensors", "load_tensors", "read_tensor_infos"]

_MAX_SHARED = 4
"""How often the bytes of a pickled file may be those of a tensor: tied weights share them."""


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
    _check_values(tensors, path, error)
    return tensors


def load_pickled_tensors(
    path: str | os.PathLike[str], error: type[PerceptokError], *, key: str | None = None
) -> dict[str, Tensor]:
    """Load the tensors of a file that `torch.save` wrote (.bin, .pt); anything else that a pickle can hold is refused.

    Args:
        path: The file.
        error: The error to raise.
        key: Where the dictionary of tensors is, if it is not the whole file.

    Raises:
        PerceptokError: Of the type `error`: the file is missing, not a regular file, damaged, would run code, or holds
            something else than a dictionary of dense tensors of finite values.
    """
    problem = f"{path}: tensors cannot be read safely"
    with translate_errors(error, problem, "fetch the file again"), open_input(path) as file:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except UnpicklingError as cause:
            raise error(
                f"{problem}: refused, as the file is damaged or would run code; expected a file of tensors only, as "
                "torch.save writes a state dict"
            ) from cause
    tensors = loaded.get(key, loaded) if isinstance(loaded, dict) and key is not None else loaded
    expected = "a dictionary of names and tensors" + ("" if key is None else f", bare or under {key!r}")
    if not isinstance(tensors, dict) or not tensors:
        kind = "an empty one" if isinstance(tensors, dict) else type(tensors).__name__
        raise error(f"{path}: expected {expected}; got {kind}")
    num_bytes = 0
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise error(f"{path}: expected {expected}; got {name!r:.80}: {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise error(f"{path}: the tensor {name} is not dense: {tensor.layout}, {tensor.dtype}, {tensor.device}")
        num_bytes += tensor.numel() * tensor.element_size()
    # Views can claim any number of values of a storage of one, and any number of tensors can share a storage.
    if num_bytes > _MAX_SHARED * Path(path).stat().st_size:
        raise error(f"{path}: its tensors claim {num_bytes:,} bytes, several times as many as the file has")
    _check_values(tensors, path, error)
    return tensors


def _check_values(tensors: Mapping[str, Tensor], path: str | os.PathLike[str], error: type[PerceptokError]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise error(f"{path}: the tensor {name} has values that are NaN or infinite; train or fetch it again")


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
