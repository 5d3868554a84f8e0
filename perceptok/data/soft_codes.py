"""The soft codes of a depth map: what a teacher says of each cell beside its nearest code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceptok.depth import Depth, DepthCodec
from perceptok.errors import RecordError
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = ["SoftCodes", "code_spread", "soft_codes"]


_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]


@dataclass(frozen=True)
class SoftCodes:
    """Of each cell of a map the nearest codes of a codec, and how much farther than the nearest each of them is.

    A temperature makes them the teacher of AURORA's Eq. 1: see `probabilities`.

    Attributes:
        codes: 100 cells row by row, k codes each, the nearest first, all different.
        distances: Of each the squared distance to the cell's feature less that of the nearest, in units of the mean
            squared distance between two of the codec's vectors: from 0, not falling within a cell.

    Raises:
        RecordError: Another number of them, or values out of range or order.
    """

    codes: tuple[int, ...]
    distances: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.codes)
        if not count or count % _CELLS or count != len(self.distances):
            raise RecordError(
                f"evidence.soft: expected k codes and k distances for each of {_CELLS} cells; got {count} and "
                f"{len(self.distances)}"
            )
        for code in self.codes:
            if type(code) is not int or not 0 <= code < DEPTH.size:
                raise RecordError(f"evidence.soft.codes: expected integers 0..{DEPTH.size - 1}, got {code!r:.80}")
        for value in self.distances:
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                raise RecordError(f"evidence.soft.distances: expected numbers from 0, got {value!r:.80}")
        codes, distances = self._cells()
        if any(len({*cell}) < len(cell) for cell in codes.tolist()):
            raise RecordError("evidence.soft.codes: a cell names a code twice")
        if (np.diff(distances, axis=1) < 0).any() or distances[:, 0].any():
            raise RecordError(
                "evidence.soft.distances: expected 0 for a cell's nearest code, and none nearer than that"
            )

    @property
    def nearest(self) -> tuple[int, ...]:
        """The nearest code of each cell: those of the map's block."""
        return self.codes[:: len(self.codes) // _CELLS]

    def probabilities(self, temperature: float) -> NDArray[np.float32]:
        """What `DepthCodec.encode_soft` says of the map, of its k nearest codes: (100, 128), rows sum to 1.

        Args:
            temperature: Positive, in units of the mean squared distance between two code vectors.
        """
        codes, distances = self._cells()
        odds = np.exp(-distances / temperature)
        found = np.zeros((_CELLS, DEPTH.size), dtype=np.float32)
        np.put_along_axis(found, codes, odds / odds.sum(axis=1, keepdims=True), axis=1)
        return found

    def _cells(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Codes and distances, (100, k) each."""
        codes = np.array(self.codes, dtype=np.int64).reshape(_CELLS, -1)
        return codes, np.array(self.distances, dtype=np.float64).reshape(_CELLS, -1)


def code_spread(codebook: Tensor) -> float:
    """The mean squared distance between two vectors of a codebook (K, D) float32.

    It is the unit of a soft teacher's temperature.
    """
    vectors = codebook.detach().double()
    return float(torch.cdist(vectors, vectors).square().sum() / (len(vectors) * (len(vectors) - 1)))


def soft_codes(codec: DepthCodec, maps: Depth, codes: NDArray[np.int64], most: int) -> list[SoftCodes]:
    """The soft codes of depth maps.

    Args:
        codec: Whose codes.
        maps: As for `DepthCodec.encode`.
        codes: (B, 10, 10), what it gave for them: each comes first in its cell.
        most: Codes of a cell that are kept, 1..128.

    Raises:
        DepthMapError: As `DepthCodec.encode`.
    """
    # At the spread's own temperature no probability vanishes: their logarithms are the distances.
    found = codec.encode_soft(maps, temperature=code_spread(codec.codebook)).reshape(-1, 100, codec.codebook.shape[0])
    distances = -np.log(found.astype(np.float64))
    first = codes.reshape(len(found), 100, 1)
    distances = np.maximum(distances - np.take_along_axis(distances, first, axis=2), 0)  # equals may round otherwise
    np.put_along_axis(distances, first, -1.0, axis=2)
    order = np.argsort(distances, axis=2, kind="stable")[:, :, :most]
    away = np.maximum(np.take_along_axis(distances, order, axis=2), 0).round(5)
    return [
        SoftCodes(tuple(kept.ravel().tolist()), tuple(near.ravel().tolist()))
        for kept, near in zip(order, away, strict=True)
    ]
