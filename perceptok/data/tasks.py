"""What every task needs besides the picture: frame, codec, prompts, and the rules of one set of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceptok.boxes import BoxCodec, FrameMode, ImageBoxes, ImageFrame, labelled_boxes_to_text
from perceptok.data.markers import LETTERS, MarkerProtocol, draw_markers, place_markers
from perceptok.data.prompts import PromptSet
from perceptok.data.records import Evidence, Marker, PerceptionRecord, Regime, Task, Turn
from perceptok.data.soft_codes import SoftCodes, find_soft_codes
from perceptok.data.sources import Sample
from perceptok.depth import DepthCodec, DepthMap, Nearness, block_to_text
from perceptok.errors import BoxError, ConfigError, DataError, DepthMapError, MissingExtraError
from perceptok.files import parse_json
from perceptok.tokens import PIXEL

__all__ = [
    "Plurals",
    "SetConfig",
    "TaskContext",
    "TaskRecord",
    "frame_nearness",
    "make_counting_record",
    "make_depth_records",
    "make_frame",
]


_PLURAL_ALREADY = frozenset(
    {
        *("binoculars", "boxers", "clippers", "earphones", "eyeglasses", "glasses", "goggles", "headphones", "jeans"),
        *("leggings", "overalls", "pajamas", "pants", "pliers", "scissors", "shears", "shorts", "skis", "spectacles"),
        *("sprouts", "sunglasses", "suspenders", "tights", "tongs", "trousers", "tweezers", "underpants"),
    }
)
"""Pair nouns and names that data sets give in the plural; grammar cannot tell "scissors" from "bus"."""


class Plurals:
    """Names of categories as people write them, in the plural.

    Args:
        table: A JSON object singular -> plural; None for grammar alone. Its words win over grammar.

    Raises:
        ConfigError: The table cannot be read or is not such an object.
    """

    def __init__(self, table: str | Path | None = None) -> None:
        self._known: dict[str, str] = {}
        if table is not None:
            self._known = _read_plurals(Path(table))

    def of(self, name: str) -> str:
        """The plural of a category; `_` and `(...)` are read as LVIS writes them: "bow_(weapon)" -> "bows (weapon)".

        Raises:
            DataError: Neither table nor grammar has one.
            MissingExtraError: Grammar is needed and the extra `data` is not installed.
        """
        words = " ".join(name.replace("_", " ").split())
        if words in self._known:
            return self._known[words]
        noun, bracket, rest = words.partition(" (")
        if not noun or not any(letter.isalpha() for letter in noun):
            raise DataError(f"the category {name!r} has no plural; give one in the table of plurals")
        last = noun.rpartition(" ")[2].lower()
        plural = noun if last in _PLURAL_ALREADY and " of " not in noun else self._grammar.plural_noun(noun)
        if not plural:
            raise DataError(f"the category {name!r} has no plural; give one in the table of plurals")
        return f"{plural}{bracket}{rest}"

    @cached_property
    def _grammar(self) -> Any:
        try:
            import inflect
        except ImportError as error:
            raise MissingExtraError("inflect", "data", "the plural of a category that no table has") from error
        return inflect.engine()


def _read_plurals(path: Path) -> dict[str, str]:
    try:
        values = parse_json(path.read_bytes(), str(path), ConfigError)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(values, dict) or not all(isinstance(value, str) and value.strip() for value in values.values()):
        raise ConfigError(f"{path}: a table of plurals is a JSON object of singular: plural")
    return {" ".join(key.replace("_", " ").split()): " ".join(plural.split()) for key, plural in values.items()}


BoxOrder = Literal["annotation", "left_to_right", "top_to_bottom", "largest_first"]


@dataclass(frozen=True)
class SetConfig:
    """One set of records of one task and regime.

    Attributes:
        name: Begins its records' ids; letters, digits, - and _.
        source: Which of the recipe's sources it draws from.
        task: "depth" or "counting".
        regime: "atomic", "cot" or "direct".
        count: Records wanted.
        stream: Sets of one stream and source draw the same pictures in the same order, with the same markers; by
            default each set is a stream of its own.
        wording: "fixed", or "pool" for a wording drawn for each record.
        markers: Depth: how many markers, one of these for each record.
        placement: Depth: where they lie and how far apart.
        question: Depth: "closest" (AURORA, HardBLINK), or "pair" (BLINK; two markers).
        most: Counting: at most so many instances; what has more is not asked.
        zeros: Counting: the share of pictures that are asked for something they do not show, 0..1.
        most_of_a_count: Counting: no count is the answer more often.
        order: Counting: of the boxes in the answer.
        least_pixels: Counting: a category is only asked where each of its boxes has this area in the frame.
        categories: Counting: only these are asked; empty for all.

    Raises:
        ConfigError: A value out of range.
    """

    name: str
    source: str
    task: Task
    regime: Regime
    count: int
    stream: str = ""
    wording: Literal["fixed", "pool"] = "fixed"
    markers: tuple[int, ...] = (2, 3, 4, 5)
    placement: MarkerProtocol = field(default_factory=MarkerProtocol)
    question: Literal["closest", "pair"] = "closest"
    most: int = 15
    zeros: float = 0.1
    most_of_a_count: int = 1000
    order: BoxOrder = "annotation"
    least_pixels: float = 0.0
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not all(character.isalnum() or character in "-_" for character in self.name):
            raise ConfigError(f"a set's name has letters, digits, - and _; got {self.name!r}")
        if self.count < 0 or self.most < 1 or not 0 <= self.zeros <= 1 or self.most_of_a_count < 1:
            raise ConfigError(
                f"set {self.name}: need count >= 0, most >= 1, zeros in 0..1, most_of_a_count >= 1; got {self.count}, "
                f"{self.most}, {self.zeros}, {self.most_of_a_count}"
            )
        if not self.markers or not all(2 <= marker <= len(LETTERS) for marker in self.markers):
            raise ConfigError(f"set {self.name}: markers are numbers from 2 to {len(LETTERS)}; got {self.markers}")
        if self.question == "pair" and self.markers != (2,):
            raise ConfigError(f"set {self.name}: the question 'pair' goes with markers: [2]; got {self.markers}")
        for key, kind in (("task", Task), ("regime", Regime), ("order", BoxOrder)):
            if getattr(self, key) not in get_args(kind):
                raise ConfigError(f"set {self.name}: {key} is one of {get_args(kind)}; got {getattr(self, key)!r}")


@dataclass(frozen=True, eq=False)
class TaskContext:
    """What is the same for every record of a recipe."""

    prompts: PromptSet
    codec: DepthCodec
    frame: FrameMode = "squash"
    size: int = PIXEL.size
    soft_codes: int = 0


class TaskRecord(NamedTuple):
    """A record without its place in a set, and its picture in the frame."""

    record: PerceptionRecord
    picture: Image.Image


def make_frame(setting: TaskContext, size: tuple[int, int]) -> ImageFrame:
    """The frame of a picture of this size."""
    make = {"squash": ImageFrame.squash, "letterbox": ImageFrame.letterbox, "center_crop": ImageFrame.center_crop}
    return make[setting.frame](size, setting.size)


def choose_wording(config: SetConfig, rng: np.random.Generator) -> np.random.Generator | None:
    """What wordings are drawn from; None where they are fixed."""
    return rng if config.wording == "pool" else None


def make_depth_records(
    samples: Sequence[tuple[Sample, np.random.Generator]], config: SetConfig, setting: TaskContext
) -> list[TaskRecord | str]:
    """A record of each sample, or the reason why there is none.

    The codes are those of the whole map as the codec squashes it or, in another frame than "squash", of what the frame
    shows. Markers are placed by the map that the codes are made of.

    Args:
        samples: Pictures with depth, and what their record is drawn with.
        config: Of the set.
        setting: Of the recipe.
    """
    ready: list[tuple[Sample, np.random.Generator, ImageFrame, Nearness] | str] = []
    for sample, rng in samples:
        try:
            if sample.depth is None:
                raise DataError("this image has no depth map")
            frame = make_frame(setting, sample.picture.size)
            ready.append((sample, rng, frame, frame_nearness(sample.depth, frame)))
        except (DataError, DepthMapError) as error:
            ready.append(str(error))
    maps = [one[3] for one in ready if not isinstance(one, str)]
    encoded = setting.codec.encode(maps)
    codes = iter(encoded)
    most = setting.soft_codes
    soft = iter(find_soft_codes(setting.codec, maps, encoded, most) if most else [None] * len(maps))
    results: list[TaskRecord | str] = []
    for one in ready:
        if isinstance(one, str):
            results.append(one)
            continue
        try:
            results.append(_make_depth_record(*one, next(codes), next(soft), config, setting))
        except DataError as error:
            results.append(str(error))
    return results


def frame_nearness(depth: DepthMap, frame: ImageFrame) -> Nearness:
    """The nearness of what a frame shows.

    Args:
        depth: A map of the image's view, of any resolution.
        frame: Of the image.

    Returns:
        For "squash" the map itself, in its own size; otherwise (S, S), invalid where the frame shows no image.

    Raises:
        DepthMapError: Nothing in it is valid.
    """
    if frame.mode == "squash":
        return depth.to_nearness()
    placed = replace(frame, resample="nearest", fill=(0,))
    parts = []
    for part in (depth.values, depth.valid.astype(np.float32)):
        whole = np.asarray(Image.fromarray(part).resize(frame.image_size, Image.Resampling.NEAREST))
        parts.append(placed.apply(whole))
    return DepthMap(parts[0], parts[1] > 0, depth.kind).to_nearness()


def _make_depth_record(
    sample: Sample,
    rng: np.random.Generator,
    frame: ImageFrame,
    nearness: Nearness,
    codes: NDArray[np.int64],
    soft: SoftCodes | None,
    config: SetConfig,
    setting: TaskContext,
) -> TaskRecord:
    picture = frame.apply(sample.picture)
    prompts, wording = setting.prompts, choose_wording(config, rng)
    flat = tuple(int(code) for code in codes.ravel())
    block = " ".join(map(str, flat)) if prompts.numerals else block_to_text(codes)
    evidence = Evidence(flat, setting.codec.fingerprint, soft=None if config.regime == "direct" else soft)
    difficulty, answer = 0.0, None
    choices: tuple[str, ...] = ()
    if config.regime == "atomic":
        question = prompts.ask("depth_atomic", wording)
        reply = prompts.write("depth_atomic_answer", block=block)
    else:
        count = int(rng.choice(config.markers))
        markers = place_markers(*_square(nearness, setting.size), count, rng, config.placement)
        picture = draw_markers(picture, markers)
        answer = max(markers, key=lambda marker: marker.level or 0.0).letter
        choices = tuple(marker.letter for marker in markers)
        evidence = replace(evidence, markers=markers)
        difficulty = _difficulty(markers)
        question = prompts.ask("pair_question" if config.question == "pair" else "depth_question", wording)
        reply = prompts.write("depth_direct", answer=answer)
        if config.regime == "cot":
            question += prompts.write("depth_thinking", size=setting.size)
            reply = _chain(setting, markers, block, answer)
    record = PerceptionRecord(
        sample.name,
        ("picture",),
        (Turn("user", question), Turn("assistant", reply)),
        "depth",
        config.regime,
        difficulty,
        ImageFrame.squash((setting.size, setting.size), setting.size),
        answer,
        choices,
        evidence,
        {
            **sample.facts,
            "image": sample.name,
            "image_frame": frame.to_dict(),
            "prompts": prompts.label,
            "set": config.name,
            "near": nearness.near,
            "far": nearness.far,
            "depth_kind": nearness.kind,
        },
    )
    return TaskRecord(record, picture)


def _square(nearness: Nearness, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Nearness and mask at the frame's pixels, each the pixel of the map that holds its middle."""
    rows, columns = (((np.arange(size) + 0.5) * (side / size)).astype(int) for side in nearness.values.shape)
    return nearness.values[np.ix_(rows, columns)], nearness.valid[np.ix_(rows, columns)]


def _difficulty(markers: Sequence[Marker]) -> float:
    """The number of markers, plus how close the second nearest comes to the nearest: 2..9, larger = harder."""
    first, second = sorted((marker.level or 0.0 for marker in markers), reverse=True)[:2]
    return round(len(markers) + 1 - (first - second), 6)


def _chain(setting: TaskContext, markers: Sequence[Marker], block: str, answer: str) -> str:
    """The chain of thought: where the points are, the map, the conclusion; a step without a template is left out."""
    prompts = setting.prompts
    points = ",".join(
        prompts.write("point", letter=marker.letter, x=int(marker.x), y=int(marker.y))
        for marker in markers
        if prompts.point
    )
    stop = "." if points else ""
    shown = prompts.write("depth_map", block=block)
    conclusion = prompts.write("depth_conclusion", answer=answer)
    return f"{points}{stop}{shown}{' ' if shown else ''}{conclusion}"


def make_counting_record(
    sample: Sample, rng: np.random.Generator, config: SetConfig, setting: TaskContext, plurals: Plurals
) -> TaskRecord | str:
    """A record of one sample, or the reason why there is none.

    Asked is the category with the most instances; of several with as many, one is drawn. Left out are categories that
    are not annotated exhaustively, that have a crowd, a box that the frame does not show whole, or more than
    `config.most` instances. A share `config.zeros` of the pictures is asked for a category that is known to be absent.

    Args:
        sample: A picture with boxes.
        rng: What is drawn from.
        config: Of the set.
        setting: Of the recipe; its codec is not used.
        plurals: Of the categories.
    """
    try:
        if sample.boxes is None:
            raise DataError("this image has no boxes")
        if (sample.boxes.width, sample.boxes.height) != sample.picture.size:
            raise DataError(
                f"the boxes are of an image of {sample.boxes.width}x{sample.boxes.height} pixels, the file has "
                f"{sample.picture.width}x{sample.picture.height}"
            )
        frame = make_frame(setting, sample.picture.size)
        wants_zero = float(rng.random()) < config.zeros
        category = _absent(sample, rng, config) if wants_zero else _most_frequent(sample, rng, config, frame)
        plural = plurals.of(category)
        chosen = _of_category(sample.boxes, category, config)
        codec = BoxCodec(size=setting.size, outside="raise", degenerate="raise")
        codes = codec.encode(_inside(sample.boxes, chosen), frame=frame)
        return _record(sample, codes, plural, category, rng, config, setting, frame)
    except (DataError, BoxError) as error:
        return str(error)


def _inside(image: ImageBoxes, chosen: list[int]) -> np.ndarray:
    """Boxes that reach out of the image by less than a pixel, as rounding makes them, are cut; others stay."""
    boxes = image.boxes[chosen]
    edges = np.array([image.width, image.height, image.width, image.height], dtype=np.float64)
    return np.asarray(np.where((boxes > -1) & (boxes < edges + 1), np.clip(boxes, 0, edges), boxes))


def _most_frequent(sample: Sample, rng: np.random.Generator, config: SetConfig, frame: ImageFrame) -> str:
    assert sample.boxes is not None
    labels = sample.boxes.labels
    partial = {labels.categories[number] for number in labels.not_exhaustive_category_ids or ()}
    crowded = {name for name, crowd in zip(labels.names, labels.crowd, strict=bool(labels.crowd)) if crowd}
    counts: dict[str, list[int]] = {}
    for index, name in enumerate(labels.names):
        if not config.categories or name in config.categories:
            counts.setdefault(name, []).append(index)
    if not counts:
        raise DataError("no category that may be asked is in this image")
    reasons = []
    boxes = sample.boxes.boxes
    scale = frame.scale[0] * frame.scale[1]
    for name, indices in list(counts.items()):
        areas = np.prod(boxes[indices, 2:] - boxes[indices, :2], axis=1) * scale
        for wrong, reason in (
            (name in partial, "not annotated exhaustively"),
            (name in crowded, "annotated as a crowd"),
            (len(indices) > config.most, f"shown more than {config.most} times"),
            (bool(areas.min() < config.least_pixels), f"smaller than {config.least_pixels:g} pixels"),
            (frame.crops and bool((frame.visible_fraction(boxes[indices]) < 1).any()), "cut off by the frame"),
        ):
            if wrong:
                counts.pop(name, None)
                reasons.append(reason)
                break
    if not counts:
        raise DataError(f"no category of this image can be counted: {', '.join(sorted({*reasons}))}")
    most = max(len(indices) for indices in counts.values())
    best = sorted(name for name, indices in counts.items() if len(indices) == most)
    return best[int(rng.integers(len(best)))]


def _absent(sample: Sample, rng: np.random.Generator, config: SetConfig) -> str:
    """A category that is known not to be in the image."""
    assert sample.boxes is not None
    labels = sample.boxes.labels
    if labels.negative_category_ids is not None:
        absent = {labels.categories[number] for number in labels.negative_category_ids}
    elif sample.complete:
        absent = {*labels.categories.values()} - {*labels.names}
        absent -= {labels.categories[number] for number in labels.not_exhaustive_category_ids or ()}
    else:
        absent = set()
    names = sorted(name for name in absent if not config.categories or name in config.categories)
    if not names:
        raise DataError("no category is known to be absent from this image")
    return names[int(rng.integers(len(names)))]


def _of_category(image: ImageBoxes, category: str, config: SetConfig) -> list[int]:
    """The indices of a category's boxes, in the order of the answer."""
    chosen = [index for index, name in enumerate(image.labels.names) if name == category]
    boxes = image.boxes
    keys = {
        "annotation": lambda index: index,
        "left_to_right": lambda index: (*boxes[index, :2], index),
        "top_to_bottom": lambda index: (boxes[index, 1], boxes[index, 0], index),
        "largest_first": lambda index: (-np.prod(boxes[index, 2:] - boxes[index, :2]), index),
    }
    return sorted(chosen, key=keys[config.order])


def _record(
    sample: Sample,
    codes: np.ndarray,
    plural: str,
    category: str,
    rng: np.random.Generator,
    config: SetConfig,
    setting: TaskContext,
    frame: ImageFrame,
) -> TaskRecord:
    prompts, count = setting.prompts, len(codes)
    question, reply = _texts(prompts, codes, plural, config, choose_wording(config, rng), setting.size)
    record = PerceptionRecord(
        sample.name,
        ("picture",),
        (Turn("user", question), Turn("assistant", reply)),
        "counting",
        config.regime,
        float(count),
        ImageFrame.squash((setting.size, setting.size), setting.size),
        None if config.regime == "atomic" else str(count),
        (),
        Evidence(boxes=tuple((a, b, c, d) for a, b, c, d in codes.tolist()), plural=plural),
        {
            **sample.facts,
            "image": sample.name,
            "image_frame": frame.to_dict(),
            "prompts": prompts.label,
            "set": config.name,
            "category": category,
            "order": config.order,
        },
    )
    return TaskRecord(record, frame.apply(sample.picture))


def _texts(
    prompts: PromptSet,
    codes: np.ndarray,
    plural: str,
    config: SetConfig,
    wording: np.random.Generator | None,
    size: int,
) -> tuple[str, str]:
    """Question and answer."""
    count = len(codes)
    boxes = labelled_boxes_to_text(
        codes, form="numeral" if prompts.numerals or prompts.box_numerals else "aurora", size=size
    )
    if config.regime == "atomic":
        question = prompts.ask("boxes_atomic", wording, plural=plural)
        if count:
            return question, prompts.write("boxes_listed", plural=plural, boxes=boxes)
        return question, prompts.write("boxes_none", plural=plural)
    question = prompts.ask("count_question", wording, plural=plural)
    if config.regime == "direct":
        return question, prompts.write("count_direct", count=count)
    question += prompts.write("count_thinking", plural=plural)
    if not count:
        return question, prompts.write("count_none", plural=plural)
    listed = prompts.write("count_listed", plural=plural, boxes=boxes)
    return question, f"{listed}\n{prompts.write('count_conclusion', plural=plural, count=count)}"
