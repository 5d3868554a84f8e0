"""One call: a colour picture with its exact depth, instances, boxes and counts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from perceptok.errors import ConfigError
from perceptok.scenes.images.materials import dress
from perceptok.scenes.images.shading import develop, hang_lights, shade
from perceptok.scenes.images.splits import Split, find_split
from perceptok.scenes.layouts.gatherings import GATHERINGS, Difficulty, gather
from perceptok.scenes.layouts.sampling import ASPECTS, LAYOUTS, worth_seeing
from perceptok.scenes.primitives import Primitive
from perceptok.scenes.procedural import nearness_of
from perceptok.scenes.raycast import Camera, Rendering, Scene, SceneObject, render

__all__ = [
    "HOLDERS",
    "PLURALS",
    "ProceduralImages",
    "SceneImage",
    "Sight",
    "hash_image",
    "render_image",
    "sights",
]


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
"""Category -> plural, of everything that is ever asked for."""

HOLDERS = frozenset({"shelf", "rack", "cabinet"})
"""Categories that have small things within them, which are not instances of their own."""

SMALL_THINGS = frozenset(
    {"ball", "banana", "book", "bottle", "bowl", "box", "can", "cup", "laptop", "plate", "pot", "vase"}
)
"""Categories that may lie unnamed within holders."""

LEAST_PIXELS = 48 / 336**2
LEAST_SHARE = 0.3


class Sight(NamedTuple):
    """How one object is seen.

    Attributes:
        instance: Its number.
        category: What it is.
        xyxy: Box of its visible pixels.
        pixels: How many those are.
        share: That box over the box of the whole object within the picture's frame, 0 .. 1.
        clear: Whether a person would count it: `pixels` at least 48 of 336 x 336 and `share` at least 0.3.
    """

    instance: int
    category: str
    xyxy: tuple[int, int, int, int]
    pixels: int
    share: float
    clear: bool


def sights(seen: Rendering) -> list[Sight]:
    """All objects that are seen at all, in the order of their numbers."""
    height, width = seen.depth.shape
    boxes = seen.boxes()
    whole = _whole_boxes(seen, [box.instance for box in boxes])
    least = max(2.0, LEAST_PIXELS * height * width)
    found = []
    for box, (x0, y0, x1, y1) in zip(boxes, whole.tolist(), strict=True):
        a, b, c, d = box.xyxy
        share = (c - a) * (d - b) / max((x1 - x0) * (y1 - y0), (c - a) * (d - b))
        clear = box.pixels >= least and share >= LEAST_SHARE
        found.append(Sight(box.instance, box.category, box.xyxy, box.pixels, share, clear))
    return found


def _whole_boxes(seen: Rendering, instances: list[int]) -> NDArray[np.float64]:
    """Boxes of whole objects within the frame as if nothing stood before them, (n, 4).

    The corners of every part's box are projected, pulled in as a round part fills but the middle of its box.
    """
    height, width = seen.depth.shape
    camera = seen.scene.camera
    result = np.zeros((len(instances), 4))
    if not instances:
        return result
    things = [seen.scene.objects[number].primitives for number in instances]
    parts = [part for thing in things for part in thing]
    starts = np.cumsum([0, *(len(thing) for thing in things[:-1])])
    signs = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    corners = signs * np.array([part.shape.extents for part in parts])[:, None, :] * 0.8
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


_ATTEMPTS = 60
_COARSE = 112
_LEAST_SIZE = 64


@dataclass(frozen=True, eq=False)
class SceneImage:
    """A picture and the whole truth about it.

    Attributes:
        image: (H, W, 3) uint8, sRGB.
        depth: (H, W) float32, z-depth in metres, exact; inf where there is sky.
        instance: (H, W) int32, number of the object seen; -1 sky.
        sights: What is seen of each object, in the order of their numbers.
        kind: The layout family.
        split: "train" or "heldout".
        seed: The number that names the family of pictures.
        index: Which one of that family.
        target: The class that gathers there by design; None in other layouts.
        scene: The geometry, for who wants more.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    instance: NDArray[np.int32]
    sights: tuple[Sight, ...]
    kind: str
    split: str
    seed: int
    index: int
    target: str | None
    scene: Scene

    @cached_property
    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """Instance number -> its visible pixels, (H, W) bool, of all that are seen."""
        return {sight.instance: np.equal(self.instance, sight.instance) for sight in self.sights}

    @cached_property
    def countable(self) -> tuple[str, ...]:
        """The classes of which every instance in sight is clearly seen, so that the count is unambiguous."""
        names = {sight.category for sight in self.sights} & PLURALS.keys()
        unclear = {sight.category for sight in self.sights if not sight.clear}
        return tuple(sorted(names - unclear - self._unnamed))

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Class -> number of its instances, for the countable ones."""
        numbers = Counter(sight.category for sight in self.sights)
        return {name: numbers[name] for name in self.countable}

    @cached_property
    def absent(self) -> tuple[str, ...]:
        """Classes of `PLURALS` that are nowhere in the picture, for questions whose answer is 0."""
        names = {sight.category for sight in self.sights}
        return tuple(sorted(PLURALS.keys() - names - self._unnamed))

    def boxes(self, category: str) -> list[tuple[int, int, int, int]]:
        """Exact boxes [x_min, y_min, x_max + 1, y_max + 1] of the visible pixels, in the order of instances."""
        return [sight.xyxy for sight in self.sights if sight.category == category]

    def nearness(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Inverse depth stretched to [0, 1], 1 = nearest, (H, W) float32, and the valid pixels (H, W) bool.

        The sky is infinitely far: nearness 0 and valid.
        """
        return nearness_of(self.depth)

    @property
    def _unnamed(self) -> frozenset[str]:
        """Classes of which some may lie on shelves without being instances."""
        holders = any(sight.category in HOLDERS for sight in self.sights)
        unnamed = SMALL_THINGS if holders or self.kind == "people" else frozenset()
        stacked = any(
            sight.category == "book" and len(self.scene.objects[sight.instance].primitives) > 1 for sight in self.sights
        )
        return unnamed | ({"book"} if stacked else set())


def render_image(
    seed: int,
    index: int,
    size: int = 336,
    *,
    split: str = "train",
    kind: str | None = None,
    difficulty: Difficulty | None = None,
) -> SceneImage:
    """The picture of a pair of numbers; the same in any process and in any order.

    Args:
        seed: Names a family of pictures, >= 0.
        index: Which picture of that family, >= 0.
        size: Edge length in pixels, at least 64. A view of any aspect is squashed into its square.
        split: "train" or "heldout"; they share neither texture nor lens nor arrangement (`splits.SPLITS`).
        kind: A layout family of that split; drawn by their shares where None.
        difficulty: Of the gatherings; the defaults where None.

    Raises:
        ConfigError: A number is out of range, or the split or the kind is unknown.
    """
    if seed < 0 or index < 0 or size < _LEAST_SIZE:
        raise ConfigError(
            f"seed and index must be >= 0 and size >= {_LEAST_SIZE}; got seed {seed}, index {index}, size {size}"
        )
    world = find_split(split)
    if kind is not None and kind not in LAYOUTS and kind not in GATHERINGS:
        raise ConfigError(f"kind must be one of {', '.join([*GATHERINGS, *LAYOUTS])}; got {kind!r}")
    rng = np.random.default_rng([seed, index, world.number, 336])
    scene, target = _sample(rng, world, kind, difficulty or Difficulty())
    seen = render(scene, size, size)
    dressing = dress(scene.objects, rng, world)
    rig = hang_lights(scene, seen.surfaces.points, rng)
    image = develop(shade(seen, dressing, rig, rng), rng)
    return SceneImage(
        image, seen.depth, seen.instance, tuple(sights(seen)), scene.kind, split, seed, index, target, scene
    )


def hash_image(picture: SceneImage) -> str:
    """SHA-256 of a picture's image, depth, instances and sights: equal for equal pictures."""
    parts = (
        picture.image.tobytes(),
        picture.depth.tobytes(),
        picture.instance.tobytes(),
        repr(picture.sights).encode(),
    )
    return hashlib.sha256(b"".join(parts)).hexdigest()


class ProceduralImages(Sequence[SceneImage]):
    """A sequence of pictures, made anew at every access; item i depends on seed, i, size and split only.

    Args:
        seed: Names the family of pictures, >= 0.
        length: Number of pictures.
        size: Edge length in pixels, at least 64.
        split: "train" or "heldout".
        difficulty: Of the gatherings.

    Raises:
        ConfigError: For arguments out of range.
    """

    def __init__(
        self, seed: int, length: int, size: int = 336, *, split: str = "train", difficulty: Difficulty | None = None
    ) -> None:
        if seed < 0 or length < 0 or size < _LEAST_SIZE:
            raise ConfigError(
                f"seed and length must be >= 0 and size >= {_LEAST_SIZE}; got {seed}, {length} and {size}"
            )
        self.seed, self.length, self.size, self.split = seed, length, size, find_split(split).name
        self.difficulty = difficulty

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> SceneImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[SceneImage]: ...
    def __getitem__(self, index: int | slice) -> SceneImage | list[SceneImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        number = index + self.length if index < 0 else index
        if not 0 <= number < self.length:
            raise IndexError(f"index {index} is outside a sequence of {self.length} pictures")
        return render_image(self.seed, number, self.size, split=self.split, difficulty=self.difficulty)


def _sample(rng: Generator, world: Split, kind: str | None, difficulty: Difficulty) -> tuple[Scene, str | None]:
    names, shares = list(world.families), list(world.families.values())
    best: tuple[int, Scene, str] | None = None
    drawn = kind or names[rng.choice(len(names), p=shares)]
    for attempt in range(_ATTEMPTS):
        aspect = float(rng.choice([a for a, _ in ASPECTS], p=[share for _, share in ASPECTS]))
        fov = rng.uniform(*world.fov)
        stretch = rng.uniform(*world.stretch)
        if drawn not in GATHERINGS:
            scene = LAYOUTS[drawn][0](rng, aspect)
            scene = _stretched(replace(scene, camera=_upright(scene.camera, fov, rng)), stretch)
            if worth_seeing(scene, plain=False):
                return scene, None
            continue
        scene, target, count = gather(rng, aspect, drawn, difficulty, world.arrangements, fov)
        scene = replace(scene, camera=_upright(scene.camera, fov, rng))
        scene, left = _cleared(_stretched(scene, stretch), target, count)
        if left == count:
            return scene, target
        if left >= difficulty.count[0] and (best is None or count - left < best[0]):
            best = (count - left, scene, target)
        if best is not None and attempt >= 3:
            return best[1], best[2]
    raise AssertionError(f"{_ATTEMPTS} degenerate scenes in a row")


def _cleared(scene: Scene, target: str, count: int) -> tuple[Scene, int]:
    """The scene without the gathered things that are not clearly seen, cut to `count` of the target.

    What goes only uncovers others, so those that were clear stay so.
    """
    seen = sights(render(scene, _COARSE, _COARSE))
    clear = {sight.instance for sight in seen if sight.clear}
    visible = {sight.instance for sight in seen}
    kept: list[SceneObject] = []
    number = 0
    for instance, thing in enumerate(scene.objects):
        if thing.category in PLURALS and instance not in clear and (instance in visible or thing.category == target):
            continue
        if thing.category == target:
            number += 1
            if number > count:
                continue
        kept.append(thing)
    return replace(scene, objects=tuple(kept)), min(number, count)


def _upright(camera: Camera, fov: float, rng: Generator) -> Camera:
    """The same view with another lens, held upright: sensors hang in any way, photographers do not."""
    x, y, z = camera.rotation[:, 2].tolist()
    yaw, pitch = math.degrees(math.atan2(y, x)), math.degrees(math.asin(max(-1.0, min(1.0, z))))
    roll = float(np.clip(rng.normal() * 2, -6, 6))
    return Camera.aimed(camera.position, yaw=yaw, pitch=pitch, roll=roll, fov=fov, aspect=camera.aspect)


def _stretched(scene: Scene, factor: float) -> Scene:
    """The whole world drawn out upwards: other proportions of everything, still exact."""
    up = np.array([1.0, 1.0, factor])
    objects = tuple(
        replace(
            thing,
            primitives=tuple(
                Primitive(part.shape, part.center * up, part.axes * up[:, None]) for part in thing.primitives
            ),
        )
        for thing in scene.objects
    )
    return replace(scene, objects=objects, camera=replace(scene.camera, position=scene.camera.position * up))
