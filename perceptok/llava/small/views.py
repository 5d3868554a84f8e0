"""Views of the yard as a model trains on them: features of the frozen tower, and what the depth codec says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceptok.depth.codec import DepthCodec
from perceptok.files import atomic_write
from perceptok.llava.small.towers import GridTower
from perceptok.llava.small.world import view_yard

__all__ = ["Views", "make_views", "normalised"]

_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
_CHUNK = 32


@dataclass(frozen=True, eq=False)
class Views:
    """Scenes in arrays, one entry each.

    Attributes:
        pictures: (N, S, S, 3) uint8.
        nearness: (N, 160, 160) float16, every second row and column.
        codes: (N, 100) int64.
        features: (N, 100, C) float16, of the tower.
        teacher: (N, 100, 128) float16, the codec's probabilities (`encode_soft`); rows sum to 1 as far as float16 goes.
    """

    pictures: NDArray[np.uint8]
    nearness: NDArray[np.float16]
    codes: Tensor
    features: Tensor
    teacher: Tensor

    def __len__(self) -> int:
        return len(self.codes)


def normalised(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures (N, S, S, 3) -> what the tower sees, (N, 3, S, S) float32; as the processor does it."""
    values = (pictures.astype(np.float32) / 255 - _MEAN) / _STD
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def make_views(
    seed: int,
    count: int,
    tower: GridTower,
    codec: DepthCodec,
    *,
    temperature: float,
    cache: str | os.PathLike[str] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Views:
    """Render scenes, and pass them through tower and codec once.

    Args:
        seed: Names the family of scenes.
        count: How many.
        tower: Frozen and calibrated.
        codec: The teacher.
        temperature: Of the teacher, see `DepthCodec.encode_soft`.
        cache: A file (`.npz`) to keep them in; what is there already is read instead. Its name must tell what is in it.
        advance: Called after each scene.
    """
    path = None if cache is None else Path(cache)
    if path is not None and path.is_file():
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        for _ in range(count):
            advance()
        return _views(arrays)
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, count, _CHUNK):
        seen = []
        for index in range(start, min(count, start + _CHUNK)):
            seen.append(view_yard(seed, index, tower.config.image_size))
            advance()
        pictures, nearness = np.stack([one.picture for one in seen]), np.stack([one.nearness for one in seen])
        with torch.no_grad():
            features = tower(normalised(pictures)).last_hidden_state
        soft = codec.encode_soft(nearness, temperature=temperature)
        parts.append(
            {
                "pictures": pictures,
                "nearness": nearness[:, ::2, ::2].astype(np.float16),
                "codes": codec.encode(nearness).reshape(-1, 100),
                "features": features.half().numpy(),
                "teacher": soft.reshape(len(seen), 100, -1).astype(np.float16),
            }
        )
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if path is not None:
        with atomic_write(path, force=True) as file:
            np.savez(file, **arrays)
    return _views(arrays)


def _views(arrays: dict[str, np.ndarray]) -> Views:
    return Views(
        arrays["pictures"],
        arrays["nearness"],
        torch.from_numpy(arrays["codes"]),
        torch.from_numpy(arrays["features"]),
        torch.from_numpy(arrays["teacher"]),
    )
