"""Depth: the map as tokens, and which of several marked points is closest (arXiv 2412.03548)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceptok.boxes.frames.geometry import ImageFrame
from perceptok.data.markers import draw_markers, place_markers
from perceptok.data.records import Evidence, Marker, PerceptionRecord, SoftCodes, Turn
from perceptok.data.softening import soft_codes
from perceptok.data.sources.sample import Sample
from perceptok.data.tasks.setting import Made, SetConfig, Setting, frame_of, wording_of
from perceptok.depth.blocks import block_to_text
from perceptok.depth.maps.depth_map import DepthMap, Nearness
from perceptok.errors import DataError, DepthMapError

__all__ = ["depth_records", "framed_nearness"]


def depth_records(
    samples: Sequence[tuple[Sample, np.random.Generator]], config: SetConfig, setting: Setting
) -> list[Made | str]:
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
                raise DataError("there is no depth map for this image")
            frame = frame_of(setting, sample.picture.size)
            ready.append((sample, rng, frame, framed_nearness(sample.depth, frame)))
        except (DataError, DepthMapError) as error:
            ready.append(str(error))
    maps = [one[3] for one in ready if not isinstance(one, str)]
    encoded = setting.codec.encode(maps)
    codes = iter(encoded)
    most = setting.soft_codes
    soft = iter(soft_codes(setting.codec, maps, encoded, most) if most else [None] * len(maps))
    results: list[Made | str] = []
    for one in ready:
        if isinstance(one, str):
            results.append(one)
            continue
        try:
            results.append(_record(*one, next(codes), next(soft), config, setting))
        except DataError as error:
            results.append(str(error))
    return results


def framed_nearness(depth: DepthMap, frame: ImageFrame) -> Nearness:
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


def _record(
    sample: Sample,
    rng: np.random.Generator,
    frame: ImageFrame,
    nearness: Nearness,
    codes: NDArray[np.int64],
    soft: SoftCodes | None,
    config: SetConfig,
    setting: Setting,
) -> Made:
    picture = frame.apply(sample.picture)
    prompts, wording = setting.prompts, wording_of(config, rng)
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
    return Made(record, picture)


def _square(nearness: Nearness, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Nearness and mask at the frame's pixels, each the pixel of the map that holds its middle."""
    rows, columns = (((np.arange(size) + 0.5) * (side / size)).astype(int) for side in nearness.values.shape)
    return nearness.values[np.ix_(rows, columns)], nearness.valid[np.ix_(rows, columns)]


def _difficulty(markers: Sequence[Marker]) -> float:
    """The number of markers, plus how close the second nearest comes to the nearest: 2..9, larger = harder."""
    first, second = sorted((marker.level or 0.0 for marker in markers), reverse=True)[:2]
    return round(len(markers) + 1 - (first - second), 6)


def _chain(setting: Setting, markers: Sequence[Marker], block: str, answer: str) -> str:
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
