"""The pinhole camera. World: metres, z up. Camera: x right, y down, z forward; depth is z, not the distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perceptok.errors import ConfigError
from perceptok.scenes.primitives import Floats

__all__ = ["Camera"]


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        position: (3,) float64, metres.
        rotation: (3, 3) float64, world from camera; its columns are the camera's right, down and forward.
        fov: Horizontal field of view in degrees, 1 .. 170.
        aspect: Width / height of the view. It need not be that of the picture: a square picture of a 4:3 view
            is the squash that square codecs see.
    """

    position: Floats
    rotation: Floats
    fov: float = 60.0
    aspect: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.fov <= 170:
            raise ConfigError(f"fov must be 1 .. 170 degrees; got {self.fov}")
        if not self.aspect > 0:
            raise ConfigError(f"aspect (width / height) must be positive; got {self.aspect}")

    @classmethod
    def aimed(
        cls,
        position: tuple[float, float, float] | Floats,
        *,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
        fov: float = 60.0,
        aspect: float = 1.0,
    ) -> Camera:
        """A camera by its angles in degrees.

        Yaw 0 looks along +x and grows towards +y; pitch -90 looks straight down; roll is clockwise.
        """
        a, p, r = math.radians(yaw), math.radians(pitch), math.radians(roll)
        forward = np.array([math.cos(a) * math.cos(p), math.sin(a) * math.cos(p), math.sin(p)])
        right = np.array([math.sin(a), -math.cos(a), 0.0])
        down = np.cross(forward, right)
        turned = (
            right * math.cos(r) + down * math.sin(r),
            down * math.cos(r) - right * math.sin(r),
            forward,
        )
        return cls(np.asarray(position, dtype=np.float64), np.stack(turned, axis=1), fov, aspect)

    @property
    def half_view(self) -> tuple[float, float]:
        """Tangents of half the horizontal and half the vertical field of view."""
        half = math.tan(math.radians(self.fov) / 2)
        return half, half / self.aspect

    def project(self, points: Floats, height: int, width: int) -> Floats:
        """World points (..., 3) -> (..., 3): x and y in pixels (0 is the edge), and z-depth in metres."""
        local = (points - self.position) @ self.rotation
        half_x, half_y = self.half_view
        x = (local[..., 0] / local[..., 2] / half_x + 1) * width / 2
        y = (local[..., 1] / local[..., 2] / half_y + 1) * height / 2
        return np.stack([x, y, local[..., 2]], axis=-1)

    def unproject(self, pixels: Floats, height: int, width: int) -> Floats:
        """The inverse of `project`: (..., 3) of x, y in pixels and z-depth -> world points (..., 3)."""
        half_x, half_y = self.half_view
        x = (2 * pixels[..., 0] / width - 1) * half_x
        y = (2 * pixels[..., 1] / height - 1) * half_y
        return np.asarray(
            (np.stack([x, y, np.ones_like(x)], axis=-1) * pixels[..., 2:]) @ self.rotation.T + self.position
        )
