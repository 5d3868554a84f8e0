"""The state of a run to go on from: adapter, optimiser, rate and random numbers, in safetensors and JSON."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from perceptok.errors import TrainingError
from perceptok.files import atomic_write, parse_json

__all__ = [
    "last_checkpoint",
    "random_state",
    "read_state",
    "remove_old",
    "set_random_state",
    "write_state",
]

_TENSORS = "state.safetensors"
_VALUES = "state.json"
_TENSOR = "__tensor__"
_TUPLE = "__tuple__"


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of numbers, text, None and tensors as two files, without pickling anything."""
    tensors: dict[str, Tensor] = {}
    values = _flat(state, tensors)
    save_file(tensors, folder / _TENSORS)
    with atomic_write(folder / _VALUES) as file:
        file.write(json.dumps(values).encode())


def read_state(folder: Path) -> dict[str, Any]:
    """The inverse of `write_state`; raises TrainingError where a file is missing or damaged."""
    try:
        tensors = load_file(folder / _TENSORS)
        text = (folder / _VALUES).read_bytes()
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{folder}: no state to go on from ({error}); remove it to go on from the one before"
        ) from error
    return cast("dict[str, Any]", _whole(parse_json(text, str(folder / _VALUES), TrainingError), tensors))


def _flat(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON types; its tensors and arrays go into `tensors`, a mark in their place."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {str(key): _flat(one, tensors) for key, one in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_flat(one, tensors) for one in value]}
    if isinstance(value, list):
        return [_flat(one, tensors) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state holds numbers, text and tensors; got {type(value).__name__}")


def _whole(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        if _TUPLE in value:
            return tuple(_whole(one, tensors) for one in value[_TUPLE])
        return {key: _whole(one, tensors) for key, one in value.items()}
    return [_whole(one, tensors) for one in value] if isinstance(value, list) else value


def random_state() -> dict[str, Any]:
    """The state of every generator that training draws from in this process."""
    state = {"python": random.getstate(), "numpy": _numpy_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _numpy_state() -> Any:
    # The global generator: images are augmented, and workers seeded, by libraries that draw from it.
    return np.random.get_state()  # noqa: NPY002


def set_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of most steps in a folder, or None."""
    found = list(_checkpoints(folder))
    return max(found)[1] if found else None


def remove_old(folder: Path, keep: int) -> None:
    """Remove all checkpoints of a folder but the last ones."""
    for _, path in sorted(_checkpoints(folder))[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if number.isdigit() and path.is_dir():
            yield int(number), path
