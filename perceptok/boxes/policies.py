"""What becomes of boxes that are not plainly inside the image: refused, cut or dropped, and never in silence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.frames.geometry import shown_share
from perceptok.errors import BoxError

__all__ = ["BoxPolicies"]


TOLERANCE = 1e-6
"""How far a box may reach out, as a share of what is shown, and still be inside for "raise": others' rounding."""


@dataclass(frozen=True)
class BoxPolicies:
    """See `perceptok.boxes.codec.BoxCodec`; `min_visible` is a share in 0..1."""

    outside: Literal["clip", "raise", "drop"]
    degenerate: Literal["keep", "drop", "raise"]
    min_visible: float

    def settle(
        self, corners: np.ndarray, given: np.ndarray, window: np.ndarray, slack: float, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the policies to some boxes.

        Args:
            corners: (N, 4) x1, y1, x2, y2 in bins.
            given: (N, 4) the same as they came, for messages.
            window: (4,) x1, y1, x2, y2 of what is shown, in bins.
            slack: Bins by which rounding may have moved a corner.
            indices: (N,) their indices among all boxes, for messages.

        Returns:
            The corners (M, 4) of the boxes kept, cut to the window, and which those are, (N,) bool.

        Raises:
            BoxError: A box that cannot be, or one that a policy refuses.
        """

        def refuse(which: ArrayLike, reason: str) -> None:
            if np.any(which):
                index = int(np.argmax(which))
                raise BoxError(f"box {indices[index]}, {given[index].tolist()}, {reason}")

        refuse(~np.isfinite(given).all(axis=1), "is not finite; remove it, or repair the annotation")
        low, high = corners[:, :2], corners[:, 2:]
        refuse(
            (high < low - slack).any(axis=1),
            "is upside down (x2 < x1, y2 < y1, or a negative length); name its convention: xyxy, xywh or cxcywh",
        )
        high = np.maximum(high, low)
        flat = high - low <= 0
        before, behind = low < window[:2] - slack, high > window[2:] + slack
        # Rounding alone brings no box in that ends where the window begins, and takes none out that lies on its edge.
        missed = ((before & (high <= window[:2] + slack)) | (behind & (low >= window[2:] - slack))).any(axis=1)
        if self.outside == "raise":
            slight = TOLERANCE * (window[2:] - window[:2])
            beyond = ((low < window[:2] - slight) | (high > window[2:] + slight)).any(axis=1) | missed
            refuse(beyond, 'reaches out of the image; cut such boxes with outside="clip"')
        if self.outside == "clip":
            refuse(missed, 'lies outside what is shown of the image; drop such boxes with outside="drop"')
        if self.degenerate == "raise":
            refuse(flat.any(axis=1), 'has no width or no height; allow it with degenerate="keep"')
        kept = ~missed
        if self.degenerate == "drop":
            kept &= ~flat.any(axis=1)
        corners = np.concatenate([low, high], axis=1)
        if self.min_visible > 0:
            kept &= shown_share(corners, window, slack) >= self.min_visible
        return np.clip(corners, np.tile(window[:2], 2), np.tile(window[2:], 2))[kept], kept
