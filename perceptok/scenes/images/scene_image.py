"""Color images of procedural scenes with their exact depth, instances, boxes and counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from perceptok.errors import ConfigError
from perceptok.scenes.images.materials import sample_materials
from perceptok.scenes.images.shading import expose, sample_lighting, shade
from perceptok.scenes.images.splits import Split, find_split
from perceptok.scenes.layouts.gatherings import GATHERINGS, Difficulty, sample_gathering
from perceptok.scenes.layouts.scene_sampling import LAYOUTS, is_informative, sample_aspect
from perceptok.scenes.primitives import Floats, Primitive
from perceptok.scenes.procedural import ProceduralSequence, compute_nearness
from perceptok.scenes.raycast import CORNERS, Camera, Rendering, Scene, SceneObject, render

PLURALS: dict[str, str] = {
    "ball": "balls",
    "banana": "bananas",
    "bed": "beds",
    "book": "books",
    "bottle": "bottles",
    "bowl": "bowls",
    "box": "boxes",
    "bush": "bushes",
    "can": "cans",
    "car": "cars",
    "chair": "chairs",
    "cup": "cups",
    "door": "doors",
    "house": "houses",
    "ladder": "ladders",
    "lamp": "lamps",
    "laptop": "laptops",
    "person": "people",
    "plate": "plates",
    "pole": "poles",
    "pot": "pots",
    "potted plant": "potted plants",
    "rock": "rocks",
    "screen": "screens",
    "sofa": "sofas",
    "stool": "stools",
    "table": "tables",
    "tree": "trees",
    "vase": "vases",
}
"""Category -> plural, of all classes that can be counted."""

_HOLDERS = frozenset({"shelf", "rack", "cabinet"})
"""Categories that contain small things, which are not instances of their own."""
_SMALL = frozenset({"ball", "banana", "book", "bottle", "bowl", "box", "can", "cup", "laptop", "plate", "pot", "vase"})
"""Categories of the small things that holders contain."""

_MIN_PIXELS = 48 / 336**2
_MIN_SHARE = 0.3
_MIN_SIZE = 64
_ATTEMPTS = 60
_COARSE = 112


class VisibleObject(NamedTuple):
    """What an image shows of an object.

    Attributes:
        instance: Its instance number.
        category: Its class.
        xyxy: Box of its visible pixels.
        pixels: Number of visible pixels.
        share: Area of that box over the area of the whole object's box within the frame, 0 .. 1.
        clear: Whether a person would count it: `pixels` at least 48 of 336 x 336 and `share` at least 0.3.
    """

    instance: int
    category: str
    xyxy: tuple[int, int, int, int]
    pixels: int
    share: float
    clear: bool


def list_visible(view: Rendering) -> list[VisibleObject]:
    """All objects with visible pixels, in the order of their instance numbers."""
    boxes = view.boxes()
    whole = _find_whole_boxes(view, [box.instance for box in boxes])
    min_pixels = max(2.0, _MIN_PIXELS * view.depth.size)
    visible = []
    for box, (x0, y0, x1, y1) in zip(boxes, whole.tolist(), strict=True):
        a, b, c, d = box.xyxy
        share = (c - a) * (d - b) / max((x1 - x0) * (y1 - y0), (c - a) * (d - b))
        clear = box.pixels >= min_pixels and share >= _MIN_SHARE
        visible.append(VisibleObject(box.instance, box.category, box.xyxy, box.pixels, share, clear))
    return visible


def _find_whole_boxes(view: Rendering, instances: list[int]) -> Floats:
    """Boxes of objects within the frame as if nothing occluded them, (N, 4).

    The corners of every part's box are projected, scaled down because round parts do not fill their boxes.
    """
    height, width = view.depth.shape
    camera = view.scene.camera
    result = np.zeros((len(instances), 4))
    if not instances:
        return result
    objects = [view.scene.objects[number].primitives for number in instances]
    parts = [part for primitives in objects for part in primitives]
    starts = np.cumsum([0, *(len(primitives) for primitives in objects[:-1])])
    corners = CORNERS * np.array([part.shape.extents for part in parts])[:, None, :] * 0.8
    axes = np.stack([part.axes for part in parts])
    points = np.einsum("nij,nkj->nki", axes, corners) + np.stack([part.center for part in parts])[:, None]
    local = (points - camera.position) @ camera.rotation
    behind = np.logical_or.reduceat((local[..., 2] < 0.05).any(axis=1), starts)
    z = np.maximum(local[..., 2], 0.05)
    for axis, (half, size) in enumerate(zip(camera.half_view, (width, height), strict=True)):
        pixel = np.clip((local[..., axis] / z / half + 1) * size / 2, 0, size)
        low, high = np.minimum.reduceat(pixel.min(axis=1), starts), np.maximum.reduceat(pixel.max(axis=1), starts)
        result[:, axis], result[:, axis + 2] = np.where(behind, 0, low), np.where(behind, size, high)
    return result


@dataclass(frozen=True, eq=False)
class SceneImage:
    """An image and its ground truth.

    Attributes:
        image: (H, W, 3) uint8, sRGB.
        depth: (H, W) float32, z-depth in metres, exact; inf where there is sky.
        instance: (H, W) int32, instance number of the visible object; -1 sky.
        visible: The visible objects, in the order of their instance numbers.
        kind: The layout.
        split: "train" or "heldout".
        seed: The seed of the family of images.
        index: Number of the image in that family.
        target: The class that gathers by design; None in other layouts.
        scene: The geometry.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    instance: NDArray[np.int32]
    visible: tuple[VisibleObject, ...]
    kind: str
    split: str
    seed: int
    index: int
    target: str | None
    scene: Scene

    @cached_property
    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """Instance number -> its visible pixels, (H, W) bool, of all visible objects."""
        return {item.instance: np.equal(self.instance, item.instance) for item in self.visible}

    @cached_property
    def countable(self) -> tuple[str, ...]:
        """The classes of which every visible instance is clear, so that the count is unambiguous."""
        names = {item.category for item in self.visible} & PLURALS.keys()
        unclear = {item.category for item in self.visible if not item.clear}
        return tuple(sorted(names - unclear - self._unlabelled))

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Class -> number of its instances, for the countable ones."""
        numbers = Counter(item.category for item in self.visible)
        return {name: numbers[name] for name in self.countable}

    @cached_property
    def absent(self) -> tuple[str, ...]:
        """Classes of `PLURALS` that are nowhere in the image, for questions whose answer is 0."""
        names = {item.category for item in self.visible}
        return tuple(sorted(PLURALS.keys() - names - self._unlabelled))

    def boxes(self, category: str) -> list[tuple[int, int, int, int]]:
        """Exact boxes [x_min, y_min, x_max + 1, y_max + 1] of the visible pixels, in the order of instances."""
        return [item.xyxy for item in self.visible if item.category == category]

    def nearness(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Inverse depth scaled to [0, 1], 1 = nearest, (H, W) float32, and the valid pixels (H, W) bool.

        The sky is infinitely far: nearness 0 and valid.
        """
        return compute_nearness(self.depth)

    @property
    def _unlabelled(self) -> frozenset[str]:
        """Classes that may be visible, within holders or stacks, without being instances."""
        holders = any(item.category in _HOLDERS for item in self.visible)
        books = (self.scene.objects[item.instance] for item in self.visible if item.category == "book")
        stacked = any(len(book.primitives) > 1 for book in books)
        return (_SMALL if holders or self.kind == "people" else frozenset()) | ({"book"} if stacked else set())


def render_image(
    seed: int,
    index: int,
    size: int = 336,
    *,
    split: str = "train",
    kind: str | None = None,
    difficulty: Difficulty | None = None,
) -> SceneImage:
    """Render an image with its ground truth; equal arguments give equal images in any process and in any order.

    Args:
        seed: The seed of a family of images, >= 0.
        index: Number of the image in that family, >= 0.
        size: Edge length in pixels, at least 64. A view of any aspect is squashed into the square.
        split: "train" or "heldout"; they share no texture, field of view, proportion or arrangement.
        kind: A layout; drawn with the split's probabilities where None.
        difficulty: Of gatherings; the defaults where None.

    Raises:
        ConfigError: A number is out of range, or the split or the kind is unknown.
    """
    if seed < 0 or index < 0 or size < _MIN_SIZE:
        raise ConfigError(
            f"seed and index must be >= 0 and size >= {_MIN_SIZE}; got seed {seed}, index {index}, size {size}"
        )
    settings = find_split(split)
    if kind is not None and kind not in LAYOUTS and kind not in GATHERINGS:
        raise ConfigError(f"kind must be one of {', '.join([*GATHERINGS, *LAYOUTS])}; got {kind!r}")
    rng = np.random.default_rng([seed, index, settings.number, 336])
    scene, target = _sample_scene(rng, settings, kind, difficulty or Difficulty())
    view = render(scene, size, size)
    materials = sample_materials(scene.objects, rng, settings)
    lighting = sample_lighting(scene, view.surfaces.points, rng)
    image = expose(shade(view, materials, lighting, rng), rng)
    visible = tuple(list_visible(view))
    return SceneImage(image, view.depth, view.instance, visible, scene.kind, split, seed, index, target, scene)


class ProceduralImages(ProceduralSequence[SceneImage]):
    """A sequence of images, rendered at every access; item i depends on seed, i, size, split and difficulty only.

    Args:
        seed: The seed of the family of images, >= 0.
        length: Number of images.
        size: Edge length in pixels, at least 64.
        split: "train" or "heldout".
        difficulty: Of gatherings.

    Raises:
        ConfigError: For arguments out of range.
    """

    def __init__(
        self, seed: int, length: int, size: int = 336, *, split: str = "train", difficulty: Difficulty | None = None
    ) -> None:
        super().__init__(seed, length, size, _MIN_SIZE)
        self.split, self.difficulty = find_split(split).name, difficulty

    def _make(self, index: int) -> SceneImage:
        return render_image(self.seed, index, self.size, split=self.split, difficulty=self.difficulty)


def _sample_scene(rng: Generator, split: Split, kind: str | None, difficulty: Difficulty) -> tuple[Scene, str | None]:
    """A scene of a split, and the class that gathers in it."""
    best: tuple[int, Scene, str] | None = None
    drawn = kind or list(split.layouts)[rng.choice(len(split.layouts), p=list(split.layouts.values()))]
    for attempt in range(_ATTEMPTS):
        aspect, fov, stretch = sample_aspect(rng), rng.uniform(*split.fov), rng.uniform(*split.stretch)
        if drawn not in GATHERINGS:
            scene = _stretch(_replace_camera(LAYOUTS[drawn][0](rng, aspect), fov, rng), stretch)
            if is_informative(scene, plain=False):
                return scene, None
            continue
        scene, target, count = sample_gathering(rng, aspect, drawn, difficulty, split.arrangements, fov)
        scene, remaining = _remove_unclear(_stretch(_replace_camera(scene, fov, rng), stretch), target, count)
        if remaining == count:
            return scene, target
        if remaining >= difficulty.count[0] and (best is None or count - remaining < best[0]):
            best = (count - remaining, scene, target)
        if best is not None and attempt >= 3:
            return best[1], best[2]
    raise AssertionError(f"{_ATTEMPTS} degenerate scenes in a row")


def _remove_unclear(scene: Scene, target: str, count: int) -> tuple[Scene, int]:
    """The scene without countable objects that are not clear, and with at most `count` of the target; their number.

    Removing an object only uncovers others, so those that were clear remain clear.
    """
    visible = list_visible(render(scene, _COARSE, _COARSE))
    clear = {item.instance: item.clear for item in visible}
    objects: list[SceneObject] = []
    number = 0
    for instance, item in enumerate(scene.objects):
        if item.category in PLURALS and not clear.get(instance, item.category != target):
            continue
        number += item.category == target
        if item.category != target or number <= count:
            objects.append(item)
    return replace(scene, objects=tuple(objects)), min(number, count)


def _replace_camera(scene: Scene, fov: float, rng: Generator) -> Scene:
    """The same view with another lens, held upright: sensors are mounted at any roll, photographers keep it small."""
    x, y, z = scene.camera.rotation[:, 2].tolist()
    yaw, pitch = math.degrees(math.atan2(y, x)), math.degrees(math.asin(max(-1.0, min(1.0, z))))
    roll = float(np.clip(rng.normal() * 2, -6, 6))
    camera = Camera.aimed(scene.camera.position, yaw=yaw, pitch=pitch, roll=roll, fov=fov, aspect=scene.camera.aspect)
    return replace(scene, camera=camera)


def _stretch(scene: Scene, factor: float) -> Scene:
    """The whole scene stretched upwards, which changes all proportions and stays exact."""
    up = np.array([1.0, 1.0, factor])

    def stretch(item: SceneObject) -> SceneObject:
        parts = (Primitive(part.shape, part.center * up, part.axes * up[:, None]) for part in item.primitives)
        return replace(item, primitives=tuple(parts))

    camera = replace(scene.camera, position=scene.camera.position * up)
    return replace(scene, objects=tuple(stretch(item) for item in scene.objects), camera=camera)
