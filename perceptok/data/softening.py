"""Depth maps -> soft codes: the codec's own doubt about each cell, kept beside the codes for a soft teacher."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceptok.data.records.soft import SoftCodes
from perceptok.depth.codec import DepthCodec
from perceptok.depth.inputs import Depth

__all__ = ["code_spread", "soft_codes"]


def code_spread(codebook: Tensor) -> float:
    """The mean squared distance between two vectors of a codebook (K, D): the unit of a soft teacher's temperature."""
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
