"""Counting: boxes as tokens, and how many there are (arXiv 2412.03548)."""

from __future__ import annotations

import numpy as np

from perceptok.boxes.codec import BoxCodec
from perceptok.boxes.datasets.records import ImageBoxes
from perceptok.boxes.frames.geometry import ImageFrame
from perceptok.boxes.text.answers import labelled_to_text
from perceptok.data.prompts import PromptSet
from perceptok.data.records import Evidence, PerceptionRecord, Turn
from perceptok.data.sources.sample import Sample
from perceptok.data.tasks.plurals import Plurals
from perceptok.data.tasks.setting import Made, SetConfig, Setting, frame_of, wording_of
from perceptok.errors import BoxError, DataError

__all__ = ["counting_record"]


def counting_record(
    sample: Sample, rng: np.random.Generator, config: SetConfig, setting: Setting, plurals: Plurals
) -> Made | str:
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
            raise DataError("there are no boxes for this image")
        if (sample.boxes.width, sample.boxes.height) != sample.picture.size:
            raise DataError(
                f"the boxes are of an image of {sample.boxes.width}x{sample.boxes.height} pixels, the file has "
                f"{sample.picture.width}x{sample.picture.height}"
            )
        frame = frame_of(setting, sample.picture.size)
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
    setting: Setting,
    frame: ImageFrame,
) -> Made:
    prompts, count = setting.prompts, len(codes)
    question, reply = _texts(prompts, codes, plural, config, wording_of(config, rng), setting.size)
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
    return Made(record, frame.apply(sample.picture))


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
    boxes = labelled_to_text(codes, form="numeral" if prompts.numerals or prompts.box_numerals else "aurora", size=size)
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
