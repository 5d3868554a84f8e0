"""A ray caster for scenes of analytic primitives: depth, instances, boxes, normals and plain colour pictures.

World: metres, z up. Camera: x right, y down, z forward; depth is z, not the distance along the ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from perceptok.errors import ConfigError
from perceptok.scenes.camera import Camera
from perceptok.scenes.casting import NEAREST, cast
from perceptok.scenes.primitives import Primitive
from perceptok.scenes.surfaces import Surfaces, surfaces_of

__all__ = ["NEAREST", "Camera", "InstanceBox", "Rendering", "Scene", "SceneObject", "render"]


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One thing of a scene, made of one or more primitives.

    Attributes:
        category: What it is, in the singular ("chair").
        primitives: Its parts.
        color: Red, green, blue in 0 .. 1.
    """

    category: str
    primitives: tuple[Primitive, ...]
    color: tuple[float, float, float] = (0.6, 0.6, 0.6)


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects before a camera.

    Attributes:
        objects: The position in this tuple is the object's instance number.
        camera: The view.
        kind: The layout family, such as "room".
        light: Direction towards the light, of any length.
    """

    objects: tuple[SceneObject, ...]
    camera: Camera
    kind: str = "custom"
    light: tuple[float, float, float] = (0.3, -0.4, 0.8)


class InstanceBox(NamedTuple):
    """The box of one visible object: [x_min, y_min, x_max + 1, y_max + 1] of its visible pixels."""

    instance: int
    category: str
    xyxy: tuple[int, int, int, int]
    pixels: int


@dataclass(frozen=True, eq=False)
class Rendering:
    """What the camera of a scene sees.

    Attributes:
        scene: The scene.
        depth: (H, W) float32, z-depth in metres; inf where nothing was hit.
        primitive: (H, W) int32, number of the primitive hit, counted through all objects; -1 nothing.
        instance: (H, W) int32, number of the object hit; -1 nothing.
    """

    scene: Scene
    depth: NDArray[np.float32]
    primitive: NDArray[np.int32]
    instance: NDArray[np.int32]

    def mask(self, instance: int) -> NDArray[np.bool_]:
        """The visible pixels of one object, (H, W) bool."""
        if not 0 <= instance < len(self.scene.objects):
            raise ConfigError(f"the scene's instances are 0 .. {len(self.scene.objects) - 1}; got {instance}")
        return np.equal(self.instance, instance)

    @cached_property
    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """Instance number -> visible pixels (H, W) bool, for every object that is seen at all."""
        return {box.instance: self.mask(box.instance) for box in self.boxes()}

    def boxes(self, category: str | None = None, min_pixels: int = 1) -> list[InstanceBox]:
        """Exact boxes of the visible objects, in the order of their instance numbers.

        Args:
            category: Only objects of this category; all where None.
            min_pixels: Objects with fewer visible pixels are left out.
        """
        found = []
        pixels = np.bincount(self.instance.ravel() + 1, minlength=len(self.scene.objects) + 1)[1:]
        windows = ndimage.find_objects(self.instance + 1, len(self.scene.objects))
        for number in np.flatnonzero(pixels >= max(min_pixels, 1)).tolist():
            name = self.scene.objects[number].category
            if category in (None, name):
                rows, columns = windows[number]
                xyxy = (columns.start, rows.start, columns.stop, rows.stop)
                found.append(InstanceBox(number, name, xyxy, int(pixels[number])))
        return found

    @cached_property
    def surfaces(self) -> Surfaces:
        """Where on which primitive every pixel's ray ended, and the normal there."""
        parts = [part for thing in self.scene.objects for part in thing.primitives]
        return surfaces_of(self.scene.camera, parts, self.depth, self.primitive)

    @cached_property
    def normals(self) -> NDArray[np.float32]:
        """(H, W, 3) float32 unit normals in the world, turned towards the camera; 0 where nothing was hit."""
        normals = np.zeros((self.depth.size, 3), dtype=np.float32)
        surfaces = self.surfaces
        normals[surfaces.pixels] = surfaces.normals.T
        return normals.reshape(*self.depth.shape, 3)

    def rgb(self, ambient: float = 0.35) -> NDArray[np.uint8]:
        """A Lambert-shaded picture (H, W, 3) uint8; the sky is a pale blue gradient.

        Args:
            ambient: Share of the light that comes from everywhere, 0 .. 1.
        """
        light = np.asarray(self.scene.light, dtype=np.float32)
        light = light / np.linalg.norm(light)
        diffuse = np.maximum(self.normals @ light, 0)
        colors = np.array([thing.color for thing in self.scene.objects], dtype=np.float32).reshape(-1, 3)
        shade = np.float32(ambient) + np.float32(1 - ambient) * diffuse
        down = np.linspace(0, 1, self.depth.shape[0], dtype=np.float32)[:, None, None]
        sky = np.array([0.55, 0.7, 0.9], np.float32) * (1 - down) + np.array([0.85, 0.9, 0.95], np.float32) * down
        picture = np.broadcast_to(sky, (*self.depth.shape, 3)).copy()
        hit = self.instance >= 0
        picture[hit] = colors[self.instance[hit]] * shade[hit][:, None]
        return np.asarray(np.rint(picture.clip(0, 1) * 255), dtype=np.uint8)


def render(scene: Scene, height: int, width: int, *, cull: bool = True) -> Rendering:
    """Cast one ray through every pixel centre.

    Args:
        scene: The objects and the camera.
        height: Rows of the picture.
        width: Columns of the picture.
        cull: Only look at the pixels that a primitive's bounding box covers; the result is the same without.

    Raises:
        ConfigError: For a picture without pixels.
    """
    if height < 1 or width < 1:
        raise ConfigError(f"a picture needs at least one row and one column; got {height} x {width}")
    depth = np.full((height, width), np.inf, dtype=np.float32)
    primitive = np.full((height, width), -1, dtype=np.int32)
    parts = [part for thing in scene.objects for part in thing.primitives]
    owners = np.repeat(np.arange(len(scene.objects)), [len(thing.primitives) for thing in scene.objects])
    if parts:
        cast(scene.camera, parts, depth, primitive, cull)
    instance = np.append(owners, -1).astype(np.int32)[primitive]
    return Rendering(scene, depth, primitive, instance)
