"""Tasks: records of depth and counting questions, made from samples by the rules of a set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceptok.boxes import BoxCodec, BoxForm, FrameMode, ImageBoxes, ImageFrame, labelled_boxes_to_text
from perceptok.data.depth_folders import name_settings
from perceptok.data.markers import LETTERS, MarkerProtocol, draw_markers, place_markers
from perceptok.data.plurals import Plurals
from perceptok.data.prompts import PromptSet
from perceptok.data.records import Evidence, Marker, PerceptionRecord, Regime, Task, Turn
from perceptok.data.soft_codes import SoftCodes, find_soft_codes
from perceptok.data.sources import Sample
from perceptok.depth import DepthCodec, DepthMap, Nearness, NearnessRange, block_to_text
from perceptok.errors import BoxError, ConfigError, DataError, DepthMapError
from perceptok.tokens import DEPTH_GRID, PIXEL

__all__ = [
    "SetConfig",
    "TaskContext",
    "TaskRecord",
    "frame_nearness",
    "make_counting_record",
    "make_depth_records",
]


_POLICY = re.compile(r'\b(outside|degenerate)="(\w+)" \(--\w+ \w+\)')
"""Arguments of a box codec in its messages; a recipe's set has settings of these names."""

_Value = TypeVar("_Value", np.float32, np.bool_)

BoxOrder = Literal["annotation", "left_to_right", "top_to_bottom", "largest_first"]


@dataclass(frozen=True)
class SetConfig:
    """A set of records of one task and regime.

    Attributes:
        name: Prefix of its records' ids; letters, digits, - and _.
        source: Name of one of the recipe's sources.
        task: "depth" or "counting".
        regime: "atomic", "cot", "direct" or, for depth, "reading": the question gives the block of the image and the
            places of points in words, and the answer is what the block shows.
        count: Number of records.
        stream: Sets of one stream and source draw the same images in the same order, with the same markers; by default
            each set is a stream of its own.
        interpolation: How images are resized into the frame: "nearest", "bilinear" or "bicubic".
        wording: "fixed", or "pool" for a wording of the question that is drawn for each record.
        markers: Depth: numbers of markers; one is drawn for each record.
        placement: Depth: where markers lie and how far apart.
        question: Depth: "closest" (AURORA, HardBLINK), or "pair" (BLINK; two markers).
        with_image: Reading: records have the image with its markers; otherwise none, and the block is all that can be
            read.
        max_instances: Counting: categories with more instances are not asked about.
        zero_share: Counting: share of images that are asked about an absent category, 0..1.
        max_per_count: Counting: maximum number of records with the same count as answer.
        category_rule: Counting: how the category of the question is chosen. "countable": one of the categories with the
            most instances, up to `max_instances`, or, for the share `zero_share` of the images, an absent one.
            "released", as AURORA's code does: of the exhaustively annotated categories the one with the most instances,
            the first annotated of several; an image where it has more than `max_instances` is rejected, and only an
            image without such a category is asked about an absent one.
        box_order: Counting: order of the boxes in the answer.
        min_box_area: Counting: a category is only asked about where each of its boxes has this area in the frame, in
            pixels.
        categories: Counting: only these are asked about; empty for all.
        outside: Counting: boxes that leave the image by a pixel or more reject it ("raise"), or are clipped; those with
            no part inside still reject it ("clip"), or are not counted ("drop").
        degenerate: Counting: boxes without width or height reject their image ("raise"), are kept ("keep"), or are not
            counted ("drop").

    Raises:
        ConfigError: A value is out of range.
    """

    name: str
    source: str
    task: Task
    regime: Regime
    count: int
    stream: str = ""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    wording: Literal["fixed", "pool"] = "fixed"
    markers: tuple[int, ...] = (2, 3, 4, 5)
    placement: MarkerProtocol = field(default_factory=MarkerProtocol)
    question: Literal["closest", "pair"] = "closest"
    with_image: bool = True
    max_instances: int = 15
    zero_share: float = 0.1
    max_per_count: int = 1000
    category_rule: Literal["countable", "released"] = "countable"
    box_order: BoxOrder = "annotation"
    min_box_area: float = 0.0
    categories: tuple[str, ...] = ()
    outside: Literal["raise", "clip", "drop"] = "raise"
    degenerate: Literal["raise", "keep", "drop"] = "raise"

    def __post_init__(self) -> None:
        if not self.name or not all(character.isalnum() or character in "-_" for character in self.name):
            raise ConfigError(f"a set's name has letters, digits, - and _; got {self.name!r}")
        if self.count < 0 or self.max_instances < 1 or not 0 <= self.zero_share <= 1 or self.max_per_count < 1:
            raise ConfigError(
                f"set {self.name}: need count >= 0, max_instances >= 1, zero_share in 0..1 and max_per_count >= 1; "
                f"got {self.count}, {self.max_instances}, {self.zero_share} and {self.max_per_count}"
            )
        if not self.markers or not all(2 <= count <= len(LETTERS) for count in self.markers):
            raise ConfigError(f"set {self.name}: markers are numbers from 2 to {len(LETTERS)}; got {self.markers}")
        if self.question == "pair" and self.markers != (2,):
            raise ConfigError(f"set {self.name}: the question 'pair' needs markers: [2]; got {self.markers}")
        if self.regime == "reading" and (self.task != "depth" or self.question != "closest"):
            raise ConfigError(f"set {self.name}: the regime reading needs task: depth and question: closest")
        if self.regime != "reading" and not self.with_image:
            raise ConfigError(f"set {self.name}: with_image: false is for the regime reading; got {self.regime}")
        tasks, regimes = get_args(Task)[:2], get_args(Regime)[:4]  # instruction data is not made by recipes
        for key, allowed in (("task", tasks), ("regime", regimes), ("box_order", get_args(BoxOrder))):
            if getattr(self, key) not in allowed:
                raise ConfigError(f"set {self.name}: {key} is one of {allowed}; got {getattr(self, key)!r}")


@dataclass(frozen=True, eq=False)
class TaskContext:
    """The settings that all records of a recipe share.

    Attributes:
        prompts: Texts of questions and answers.
        codec: Encodes depth maps.
        frame: How images are fitted into the square.
        size: Side of the square in pixels.
        soft_codes: Number of nearest codes that each cell keeps; 0 for none.
    """

    prompts: PromptSet
    codec: DepthCodec
    frame: FrameMode = "squash"
    size: int = PIXEL.size
    soft_codes: int = 0

    def make_frame(self, image_size: tuple[int, int], interpolation: str = "bicubic") -> ImageFrame:
        """Make the frame of an image from its width and height."""
        make = {"squash": ImageFrame.squash, "letterbox": ImageFrame.letterbox, "center_crop": ImageFrame.center_crop}
        return make[self.frame](image_size, self.size, resample=interpolation)


class TaskRecord(NamedTuple):
    """A record whose id is not assigned yet, and its image in the frame."""

    record: PerceptionRecord
    image: Image.Image


def make_depth_records(
    samples: Sequence[tuple[Sample, np.random.Generator]], config: SetConfig, context: TaskContext
) -> list[TaskRecord | str]:
    """Make a record of each sample, or give the reason why it has none.

    Codes are those of the sample where it has any; otherwise those of the whole map, which the codec squashes, and in
    another frame than "squash" those of what the frame shows. Markers are placed by the map that the codes are made of,
    for reading by the map that they decode to. An image has no chain of thought with evidence of its points where its
    block shows another point nearest than its map.

    Args:
        samples: Images with depth (for atomic records and reading also with codes alone), and the generator of each
            record's random draws.
        config: The rules of the set.
        context: The settings of the recipe.
    """
    results: list[TaskRecord | str] = [""] * len(samples)
    frames: dict[int, ImageFrame] = {}
    maps: dict[int, Nearness] = {}
    for index, (sample, _) in enumerate(samples):
        try:
            if sample.depth is None and (sample.codes is None or config.regime not in ("atomic", "reading")):
                raise DataError(
                    "this image has no depth map: no file of the folder has its name, or its name and _depth; "
                    "depth_names says what else maps are called"
                )
            frame = context.make_frame(sample.image.size, config.interpolation)
            if sample.depth is not None:
                maps[index] = frame_nearness(sample.depth, frame, sample.depth_range)
            frames[index] = frame
        except (DataError, DepthMapError) as error:
            results[index] = name_settings(str(error))
    evidence = _encode_maps({index: maps[index] for index in maps if samples[index][0].codes is None}, config, context)
    for index in frames:
        codes = samples[index][0].codes
        if codes is not None:
            evidence[index] = Evidence(tuple(codes.ravel().tolist()))
    decoded = _decode_blocks(evidence, config, context)
    for index, frame in frames.items():
        sample, rng = samples[index]
        shown = _ShownMap(evidence[index], maps.get(index), decoded.get(index))
        try:
            results[index] = _make_depth_record(sample, rng, frame, shown, config, context)
        except DataError as error:
            results[index] = str(error)
    return results


class _ShownMap(NamedTuple):
    """The depth of an image.

    Attributes:
        evidence: With its codes.
        nearness: The map; None where there are only codes.
        decoded: (S, S) nearness that the codes show at the frame's pixels, where the answer states it; otherwise None.
    """

    evidence: Evidence
    nearness: Nearness | None
    decoded: NDArray[np.float32] | None


def _decode_blocks(
    evidence: Mapping[int, Evidence], config: SetConfig, context: TaskContext
) -> dict[int, NDArray[np.float32]]:
    """What blocks show at the frame's pixels, by index; empty where no answer of the set states it."""
    if not evidence or not _states_evidence(config, context.prompts):
        return {}
    codes = np.array([item.codes for item in evidence.values()]).reshape(-1, *DEPTH_GRID)
    return {
        index: _resize_array(np.clip(values, 0, 1), context.size)
        for index, values in zip(evidence, context.codec.decode(codes), strict=True)
    }


def _states_evidence(config: SetConfig, prompts: PromptSet) -> bool:
    """Whether answers of a set state what the block shows."""
    return config.regime == "reading" or (config.regime == "cot" and bool(prompts.depth_evidence))


def _encode_maps(maps: Mapping[int, Nearness], config: SetConfig, context: TaskContext) -> dict[int, Evidence]:
    """Encode maps by index, with soft codes where the recipe asks for them and the answer has a block."""
    codec, nearness = context.codec, list(maps.values())
    codes = codec.encode(nearness)
    soft: list[SoftCodes] | list[None] = [None] * len(nearness)
    if context.soft_codes and config.regime not in ("direct", "reading"):
        soft = find_soft_codes(codec, nearness, codes, context.soft_codes)
    return {
        index: Evidence(tuple(map_codes.ravel().tolist()), codec.fingerprint, soft=map_soft)
        for index, map_codes, map_soft in zip(maps, codes, soft, strict=True)
    }


def frame_nearness(depth: DepthMap, frame: ImageFrame, depth_range: NearnessRange | None = None) -> Nearness:
    """Compute the nearness of what a frame shows.

    Args:
        depth: A map of the image's view, of any resolution.
        frame: The image's frame.
        depth_range: Which values become nearness 0 and 1; None for the extremes of what the frame shows.

    Returns:
        For "squash" the map itself, in its own resolution; otherwise (S, S), invalid outside the image.

    Raises:
        DepthMapError: No pixel is valid, or the range does not fit the map.
    """
    if frame.mode == "squash":
        return depth.to_nearness(depth_range)
    nearest = replace(frame, resample="nearest", fill=(0,))
    sky = np.zeros_like(depth.valid) if depth.sky is None else depth.sky
    values, valid, in_sky = (
        nearest.apply(np.asarray(Image.fromarray(array).resize(frame.image_size, Image.Resampling.NEAREST)))
        for array in (depth.values, depth.valid.astype(np.float32), sky.astype(np.float32))
    )
    framed = DepthMap(values, valid > 0, depth.kind, in_sky > 0 if in_sky.any() else None, depth.warnings)
    return framed.to_nearness(depth_range)


def _make_depth_record(
    sample: Sample,
    rng: np.random.Generator,
    frame: ImageFrame,
    shown: _ShownMap,
    config: SetConfig,
    context: TaskContext,
) -> TaskRecord:
    evidence, nearness = shown.evidence, shown.nearness
    assert evidence.codes is not None
    image = frame.apply(sample.image)
    prompts, wording_rng = context.prompts, rng if config.wording == "pool" else None
    codes = np.array(evidence.codes).reshape(DEPTH_GRID)
    block = " ".join(map(str, evidence.codes)) if prompts.numerals else block_to_text(codes)
    difficulty, answer = 0.0, None
    if config.regime == "atomic":
        question = prompts.ask("depth_atomic", wording_rng)
        reply = prompts.write("depth_atomic_answer", block=block)
    else:
        markers = _place_markers(shown, rng, config, context)
        image = draw_markers(image, markers)
        answer = max(markers, key=lambda marker: marker.level or 0.0).letter
        evidence = replace(evidence, markers=markers)
        difficulty = _compute_difficulty(markers)
        question = prompts.ask("pair_question" if config.question == "pair" else "depth_question", wording_rng)
        reply = prompts.write("depth_direct", answer=answer)
        if config.regime == "cot":
            question += prompts.write("depth_thinking", size=context.size)
            reply = _write_depth_chain(context, markers, block, answer, shown.decoded)
        elif config.regime == "reading":
            points = _write_points(prompts, markers, context.size)
            question = prompts.ask("reading_question", wording_rng, block=block, points=points)
            reply = _write_conclusion(prompts, markers, answer, shown.decoded)
    provenance: dict[str, Any] = {}
    if nearness is not None:
        provenance = {"near": nearness.near, "far": nearness.far, "depth_kind": nearness.kind}
        sample = replace(sample, warnings=(*sample.warnings, *map(name_settings, nearness.find_warnings())))
    record = PerceptionRecord(
        sample.name,
        ("image",),
        (Turn("user", question), Turn("assistant", reply)),
        "depth",
        config.regime,
        difficulty,
        ImageFrame.squash((context.size, context.size), context.size),
        answer,
        tuple(marker.letter for marker in evidence.markers),
        evidence,
        _make_provenance(sample, frame, config, context) | provenance,
    )
    return TaskRecord(record, image)


def _make_provenance(sample: Sample, frame: ImageFrame, config: SetConfig, context: TaskContext) -> dict[str, Any]:
    return {
        **sample.provenance,
        "image": sample.name,
        "image_frame": frame.to_dict(),
        "prompts": context.prompts.label,
        "set": config.name,
        **({"warnings": list(sample.warnings)} if sample.warnings else {}),
    }


def _resize_to_frame(nearness: Nearness, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Nearness and mask at the frame's pixels (S, S): those of the map's pixel at each pixel's centre."""
    return _resize_array(nearness.values, size), _resize_array(nearness.valid, size)


def _resize_array(values: NDArray[_Value], size: int) -> NDArray[_Value]:
    """The values (S, S) of the pixels at the centres of the frame's pixels."""
    rows, columns = (((np.arange(size) + 0.5) * (side / size)).astype(int) for side in values.shape)
    return values[np.ix_(rows, columns)]


def _place_markers(
    shown: _ShownMap, rng: np.random.Generator, config: SetConfig, context: TaskContext
) -> tuple[Marker, ...]:
    """Place markers by the map, for reading by what the block shows inside the image."""
    count = int(rng.choice(config.markers))
    values = valid = None
    if shown.nearness is not None:
        values, valid = _resize_to_frame(shown.nearness, context.size)
    if config.regime == "reading":
        assert shown.decoded is not None
        values = shown.decoded
        valid = np.ones(values.shape, dtype=bool) if valid is None else valid
    assert values is not None
    assert valid is not None
    return place_markers(values, valid, count, rng, config.placement)


def _compute_difficulty(markers: Sequence[Marker]) -> float:
    """The number of markers, plus how close the second nearest comes to the nearest: 2..9, larger = harder."""
    first, second = sorted((marker.level or 0.0 for marker in markers), reverse=True)[:2]
    return round(len(markers) + 1 - (first - second), 6)


def _write_depth_chain(
    context: TaskContext,
    markers: Sequence[Marker],
    block: str,
    answer: str,
    decoded: NDArray[np.float32] | None,
) -> str:
    """Write the chain of thought: points, depth map, evidence, conclusion; steps with empty templates are left out."""
    prompts = context.prompts
    points = _write_points(prompts, markers, context.size)
    depth_map = prompts.write("depth_map", block=block)
    conclusion = _write_conclusion(prompts, markers, answer, decoded)
    return f"{points}{'.' if points else ''}{depth_map}{' ' if depth_map else ''}{conclusion}"


def _write_points(prompts: PromptSet, markers: Sequence[Marker], size: int) -> str:
    return ",".join(
        prompts.write("point", letter=marker.letter, **_find_place(marker, size)) for marker in markers if prompts.point
    )


def _write_conclusion(
    prompts: PromptSet, markers: Sequence[Marker], answer: str, decoded: NDArray[np.float32] | None
) -> str:
    """Write the evidence of each point and the conclusion.

    Raises:
        DataError: The evidence shows another point nearest than the answer.
    """
    conclusion = prompts.write("depth_conclusion", answer=answer)
    if decoded is None or not prompts.depth_evidence:
        return conclusion
    values = {marker.letter: float(decoded[int(marker.y), int(marker.x)]) for marker in markers}
    if max(values, key=lambda letter: values[letter]) != answer:
        raise DataError("its block shows another point nearest than its map")
    letters = [marker.letter for marker in markers]
    evidence = ", ".join(
        prompts.write(
            "depth_evidence",
            letter=marker.letter,
            nearness=f"{min(99, int(values[marker.letter] * 100)):02d}",
            nearest=max(letters[:count], key=lambda letter: values[letter]),
            **_find_place(marker, len(decoded)),
        )
        for count, marker in enumerate(markers, 1)
    )
    return f"{evidence}. {conclusion}"


def _find_place(marker: Marker, size: int) -> dict[str, int]:
    """The place of a point: x and y in pixels, and row and column of its cell in the block."""
    rows, columns = DEPTH_GRID
    x, y = int(marker.x), int(marker.y)
    return {"x": x, "y": y, "row": y * rows // size, "column": x * columns // size}


def make_counting_record(
    sample: Sample, rng: np.random.Generator, config: SetConfig, context: TaskContext, plurals: Plurals
) -> TaskRecord | str:
    """Make a record of a sample, or give the reason why it has none.

    The category of the question is chosen by `config.category_rule`. Left out are categories that are not annotated
    exhaustively, that have a crowd, or a box that the frame does not show completely.

    Args:
        sample: An image with boxes.
        rng: The generator of the record's random draws.
        config: The rules of the set.
        context: The settings of the recipe; its codec is not used.
        plurals: Plurals of the categories.
    """
    try:
        boxes = sample.boxes
        if boxes is None:
            raise DataError("this image has no boxes")
        if (boxes.width, boxes.height) != sample.image.size:
            raise DataError(
                f"the boxes are of an image of {boxes.width}x{boxes.height} pixels, the file has "
                f"{sample.image.width}x{sample.image.height}"
            )
        frame = context.make_frame(sample.image.size, config.interpolation)
        category = _choose_category(sample, boxes, rng, config, frame)
        plural = plurals.pluralize(category)
        corners = _clip_rounded(boxes)[_order_boxes(boxes, category, config)]
        codec = BoxCodec(size=context.size, outside=config.outside, degenerate=config.degenerate)
        codes = codec.encode(corners, frame=frame)
    except (DataError, BoxError) as error:
        return _POLICY.sub(r"\1: \2", str(error))
    question, reply = _write_counting_turns(codes, plural, config, context, rng)
    record = PerceptionRecord(
        sample.name,
        ("image",),
        (Turn("user", question), Turn("assistant", reply)),
        "counting",
        config.regime,
        float(len(codes)),
        ImageFrame.squash((context.size, context.size), context.size),
        None if config.regime == "atomic" else str(len(codes)),
        (),
        Evidence(boxes=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in codes.tolist()), plural=plural),
        _make_provenance(sample, frame, config, context) | {"category": category, "order": config.box_order},
    )
    return TaskRecord(record, frame.apply(sample.image))


def _clip_rounded(image: ImageBoxes) -> NDArray[np.float64]:
    """Clip boxes that leave the image by less than a pixel, as rounding makes them; others are unchanged."""
    edges = np.array([image.width, image.height, image.width, image.height], dtype=np.float64)
    is_rounded = (image.boxes > -1) & (image.boxes < edges + 1)
    return np.asarray(np.where(is_rounded, np.clip(image.boxes, 0, edges), image.boxes))


def _choose_category(
    sample: Sample, boxes: ImageBoxes, rng: np.random.Generator, config: SetConfig, frame: ImageFrame
) -> str:
    """Choose the category of the question by the set's rule; raises DataError where there is none."""
    if config.category_rule == "countable":
        if float(rng.random()) < config.zero_share:
            return _draw_absent_category(boxes, sample.complete, rng, config)
        return _draw_category(_find_countable(boxes, config, frame), rng)
    try:
        counts = _find_countable(boxes, replace(config, max_instances=len(boxes.boxes) or 1), frame)
    except DataError:
        return _draw_absent_category(boxes, sample.complete, rng, config)
    category = max(counts, key=lambda name: counts[name])  # the first annotated of several
    if counts[category] > config.max_instances:
        raise DataError(f"its most frequent category is shown more than {config.max_instances} times")
    return category


def _find_countable(image: ImageBoxes, config: SetConfig, frame: ImageFrame) -> dict[str, int]:
    """The number of instances of each category that can be counted; raises DataError where there is none."""
    labels = image.labels
    partial = {labels.categories[number] for number in labels.not_exhaustive_category_ids or ()}
    crowded = {name for name, crowd in zip(labels.names, labels.crowd, strict=bool(labels.crowd)) if crowd}
    instances: dict[str, list[int]] = {}
    for index, name in enumerate(labels.names):
        if not config.categories or name in config.categories:
            instances.setdefault(name, []).append(index)
    if not instances:
        raise DataError("no category that may be asked is in this image")
    counts, reasons = {}, []
    for name, indices in instances.items():
        boxes = image.boxes[indices]
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * frame.scale[0] * frame.scale[1]
        problems = (
            (name in partial, "not annotated exhaustively"),
            (name in crowded, "annotated as a crowd"),
            (len(indices) > config.max_instances, f"shown more than {config.max_instances} times"),
            (bool(areas.min() < config.min_box_area), f"smaller than {config.min_box_area:g} pixels"),
            (frame.crops and bool((frame.visible_fraction(boxes) < 1).any()), "cut off by the frame"),
        )
        reason = next((reason for applies, reason in problems if applies), None)
        if reason is None:
            counts[name] = len(indices)
        else:
            reasons.append(reason)
    if not counts:
        raise DataError(f"no category of this image can be counted: {', '.join(sorted({*reasons}))}")
    return counts


def _draw_category(counts: Mapping[str, int], rng: np.random.Generator) -> str:
    """Draw one of the categories with the most instances."""
    most_frequent = sorted(name for name, count in counts.items() if count == max(counts.values()))
    return most_frequent[int(rng.integers(len(most_frequent)))]


def _draw_absent_category(image: ImageBoxes, complete: bool, rng: np.random.Generator, config: SetConfig) -> str:
    """Draw a category that is known to be absent from the image; raises DataError where there is none."""
    labels = image.labels
    absent: set[str] = set()
    if labels.negative_category_ids is not None:
        absent = {labels.categories[number] for number in labels.negative_category_ids}
    elif complete:
        absent = {*labels.categories.values()} - {*labels.names}
        absent -= {labels.categories[number] for number in labels.not_exhaustive_category_ids or ()}
    names = sorted(name for name in absent if not config.categories or name in config.categories)
    if not names:
        raise DataError("no category is known to be absent from this image")
    return names[int(rng.integers(len(names)))]


def _order_boxes(image: ImageBoxes, category: str, config: SetConfig) -> list[int]:
    """The indices of a category's boxes, in the order of the answer."""
    indices = [index for index, name in enumerate(image.labels.names) if name == category]
    boxes = image.boxes
    keys = {
        "annotation": lambda index: index,
        "left_to_right": lambda index: (*boxes[index, :2], index),
        "top_to_bottom": lambda index: (boxes[index, 1], boxes[index, 0], index),
        "largest_first": lambda index: (-np.prod(boxes[index, 2:] - boxes[index, :2]), index),
    }
    return sorted(indices, key=keys[config.box_order])


def _write_counting_turns(
    codes: NDArray[np.int64], plural: str, config: SetConfig, context: TaskContext, rng: np.random.Generator
) -> tuple[str, str]:
    """Write the question and the answer."""
    prompts, count = context.prompts, len(codes)
    wording_rng = rng if config.wording == "pool" else None
    form: BoxForm = "numeral" if prompts.numerals or prompts.box_numerals else "aurora"
    boxes = labelled_boxes_to_text(codes, form=form, size=context.size)
    if config.regime == "atomic":
        question = prompts.ask("boxes_atomic", wording_rng, plural=plural)
        if count:
            return question, prompts.write("boxes_listed", plural=plural, boxes=boxes)
        return question, prompts.write("boxes_none", plural=plural)
    question = prompts.ask("count_question", wording_rng, plural=plural)
    if config.regime == "direct":
        return question, prompts.write("count_direct", count=count)
    question += prompts.write("count_thinking", plural=plural)
    if not count:
        return question, prompts.write("count_none", plural=plural)
    listed = prompts.write("count_listed", plural=plural, boxes=boxes)
    return question, f"{listed}\n{prompts.write('count_conclusion', plural=plural, count=count)}"
