"""Depth maps as cases of a page: the map, and what its tokens say."""

from __future__ import annotations

import numpy as np

from perceptok.depth.codec import DepthCodec
from perceptok.depth.maps.depth_map import DepthMap, Nearness
from perceptok.depth.scores.panel import panel_row
from perceptok.evaluation.report.cases import Case

__all__ = ["depth_case"]


def depth_case(codec: DepthCodec, name: str, depth: DepthMap | Nearness, image: bytes | None = None) -> Case:
    """A map encoded and decoded: the map is the teacher, with its holes; the errors are as `panel_row` gives them.

    Args:
        codec: The codec.
        name: The map's name.
        depth: The map; a `DepthMap` in its own range.
        image: A photo of the same view.

    Raises:
        DepthMapError: The map has nothing to encode.
    """
    row = panel_row(codec, name, depth)
    nearness = depth.to_nearness() if isinstance(depth, DepthMap) else depth
    error = (row.decoded.astype(np.float64) - row.nearness)[row.valid]
    height, width = nearness.values.shape
    return Case(
        name,
        image,
        codes=row.codes.ravel().tolist(),
        depth=row.decoded,
        teacher=np.where(nearness.valid, nearness.values, np.float32(np.nan)),
        facts={
            "RMSE": float(np.sqrt(np.mean(error**2))) if error.size else None,
            "MAE": float(np.mean(np.abs(error))) if error.size else None,
            "size": f"{width} x {height}",
            "valid": f"{nearness.valid.mean():.1%}",
            "different codes": len(np.unique(row.codes)),
        },
    )
