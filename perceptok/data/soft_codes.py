"""Soft codes: the nearest codes of each cell of a depth map with their distances, for training with a soft teacher."""

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

__all__ = ["SoftCodes", "code_spread", "find_soft_codes"]

_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]


@dataclass(frozen=True)
class SoftCodes:
    """The k nearest codes of each cell of a depth map and their distances.

    `probabilities` turns them into the teacher distribution of AURORA's Eq. 1 (arXiv 2412.03548).

    Attributes:
        codes: k different codes in 0..127 for each of 100 cells, row-major, the nearest first.
        distances: For each code the squared distance to the cell's feature minus that of the nearest code, in units of
            the mean squared distance between two vectors of the codebook; >= 0, ascending within a cell.

    Raises:
        RecordError: Their numbers differ or are not multiples of 100, or values are out of range or order.
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
                raise RecordError(f"evidence.soft.codes: expected integers 0..{DEPTH.size - 1}; got {code!r:.80}")
        for distance in self.distances:
            if not 0 <= distance < math.inf:
                raise RecordError(f"evidence.soft.distances: expected finite numbers >= 0; got {distance!r:.80}")
        codes, distances = self._to_arrays()
        if (np.diff(np.sort(codes, axis=1), axis=1) == 0).any():
            raise RecordError("evidence.soft.codes: a cell lists a code twice")
        if (np.diff(distances, axis=1) < 0).any() or distances[:, 0].any():
            raise RecordError("evidence.soft.distances: expected 0 for a cell's nearest code, then ascending distances")

    @property
    def nearest(self) -> tuple[int, ...]:
        """The nearest code of each cell, (100,): the codes of the map's block."""
        return self.codes[:: len(self.codes) // _CELLS]

    def probabilities(self, temperature: float) -> NDArray[np.float32]:
        """Compute the distribution of `DepthCodec.encode_soft` over the k nearest codes.

        Args:
            temperature: Positive, in units of the mean squared distance between two code vectors.

        Returns:
            (100, 128) float32, rows sum to 1.
        """
        codes, distances = self._to_arrays()
        weights = np.exp(-distances / temperature)
        probabilities = np.zeros((_CELLS, DEPTH.size), dtype=np.float32)
        np.put_along_axis(probabilities, codes, weights / weights.sum(axis=1, keepdims=True), axis=1)
        return probabilities

    def _to_arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Codes and distances, (100, k) each."""
        codes = np.array(self.codes, dtype=np.int64).reshape(_CELLS, -1)
        return codes, np.array(self.distances, dtype=np.float64).reshape(_CELLS, -1)


def code_spread(codebook: Tensor) -> float:
    """Compute the mean squared distance between two vectors of a codebook, the unit of a soft teacher's temperature.

    Args:
        codebook: (K, D) float32.
    """
    vectors = codebook.detach().double()
    return float(torch.cdist(vectors, vectors).square().sum() / (len(vectors) * (len(vectors) - 1)))


def find_soft_codes(codec: DepthCodec, maps: Depth, codes: NDArray[np.int64], count: int) -> list[SoftCodes]:
    """Find the nearest codes of each cell of depth maps.

    Args:
        codec: The codec of the codes.
        maps: B depth maps, in any form that `DepthCodec.encode` takes.
        codes: (B, 10, 10) int64, the codec's codes of the maps; they are listed first in their cells.
        count: Number of codes of each cell, 1..128.

    Raises:
        DepthMapError: A map cannot be encoded.
    """
    # At this temperature no probability underflows, and the distances are their negative logarithms.
    soft = codec.encode_soft(maps, temperature=code_spread(codec.codebook)).reshape(-1, _CELLS, codec.codebook.shape[0])
    distances = -np.log(soft.astype(np.float64))
    first = codes.reshape(len(soft), _CELLS, 1)
    # Equal distances may differ by rounding, so that a difference may fall below 0.
    distances = np.maximum(distances - np.take_along_axis(distances, first, axis=2), 0)
    np.put_along_axis(distances, first, -1.0, axis=2)
    order = np.argsort(distances, axis=2, kind="stable")[:, :, :count]
    nearest = np.maximum(np.take_along_axis(distances, order, axis=2), 0).round(5)
    return [
        SoftCodes(tuple(cells.ravel().tolist()), tuple(values.ravel().tolist()))
        for cells, values in zip(order, nearest, strict=True)
    ]
