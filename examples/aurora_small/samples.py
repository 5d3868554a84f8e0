"""Training and test samples: images of yards with marked points, questions, and answers with or without reasoning.

Points are colored dots, because the tower's features are 10x10 patches, which do not resolve letters. Each image has a
question about depth and a question about counting; a chain of thought writes the depth block, or the boxes, and then
the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

import perceptok as pt
from perceptok.boxes import labelled_boxes_to_text
from perceptok.data import Evidence, Marker, MarkerProtocol, PerceptionRecord, Turn, place_markers
from perceptok.depth import block_to_text
from perceptok.errors import DataError
from perceptok.files import atomic_folder, atomic_write
from perceptok.llava import FrameRule, small

COLORS = {
    "A": ("red", (255, 0, 0)),
    "B": ("green", (0, 255, 0)),
    "C": ("blue", (0, 0, 255)),
    "D": ("yellow", (255, 255, 0)),
    "E": ("violet", (255, 0, 255)),
}
KINDS = ("depth-atomic", "depth-cot", "depth-cells", "depth-direct", "counting-cot", "counting-direct")
"""Task and form of the answer. Every question about points names the cell of each. "cells" is a chain of thought that
names it again, with the nearest point so far after each: what the lessons of `lessons.py` teach to read."""
GRID, SIDE = 10, 336
NEAREST_QUESTION = "Which point is the closest to the camera?"
_RADIUS = 9
_MIN_PIXELS = 300
"""Views with an object of fewer visible pixels (of 320x320) have no question about counting: its count is ambiguous."""
_CHUNK = 32


@dataclass(frozen=True, eq=False)
class YardSamples:
    """Records of a family of scenes, with the outputs of the frozen tower and of the codec.

    Attributes:
        folder: The folder of the images and of `KIND.jsonl`.
        features: (N, 100, C) float16, of the tower.
        teacher: (N, 100, 128) float16, the codec's probabilities.
        nearness: (N, 160, 160) float16, every second row and column.
        records: Kind -> records; their provenance has the number of the scene ("scene", 0 .. N - 1).
    """

    folder: Path
    features: Tensor
    teacher: Tensor
    nearness: NDArray[np.float16]
    records: dict[str, list[PerceptionRecord]]


def read_samples(folder: Path) -> YardSamples:
    """Read what `make_samples` wrote."""
    with np.load(folder / "arrays.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    records = {kind: list(pt.data.read_records(folder / f"{kind}.jsonl")) for kind in KINDS}
    features, teacher = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["teacher"])
    return YardSamples(folder, features, teacher, arrays["nearness"], records)


def make_samples(
    folder: Path, seed: int, count: int, model: Any, processor: Any, codec: pt.DepthCodec, temperature: float = 0.02
) -> YardSamples:
    """Render scenes 0 .. count - 1 of a seed, mark points, write records, and compute features and soft codes.

    An existing folder is read instead.
    """
    if not folder.is_dir():
        with atomic_folder(folder) as building:
            (building / "images").mkdir()
            records_of_scenes: list[PerceptionRecord] = []
            chunks = []
            for start in range(0, count, _CHUNK):
                views = [small.render_yard(seed, number, 320) for number in range(start, min(count, start + _CHUNK))]
                nearness = np.stack([view.nearness for view in views])
                codes = codec.encode(nearness)
                values = compute_cell_values(codec, codes)
                marked_images = []
                for number, (view, block, cells) in enumerate(zip(views, codes, values, strict=True), start):
                    name = f"images/{number:05d}.png"
                    markers = sample_markers(view, 2 + number % 4, np.random.default_rng([seed, number, 5]))
                    image = FrameRule("squash").apply(Image.fromarray(view.image))
                    draw_dots(image, markers)
                    image.save(building / name)
                    marked_images.append(image)
                    records_of_scenes += make_records(view, number, name, markers, block, cells, codec.fingerprint)
                chunks.append(_compute_arrays(marked_images, nearness, model, processor, codec, temperature))
            with atomic_write(building / "arrays.npz") as file:
                np.savez(file, **{key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]})
            for kind in KINDS:
                chosen = [record for record in records_of_scenes if record.id.startswith(f"{kind}-")]
                pt.data.write_records(building / f"{kind}.jsonl", chosen)
    return read_samples(folder)


@torch.no_grad()
def _compute_arrays(
    images: list[Image.Image],
    nearness: NDArray[np.float32],
    model: Any,
    processor: Any,
    codec: pt.DepthCodec,
    temperature: float,
) -> dict[str, NDArray[Any]]:
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    features = model.model.vision_tower(pixels).last_hidden_state
    soft = codec.encode_soft(nearness, temperature=temperature)
    return {
        "features": features.half().numpy(),
        "teacher": np.asarray(soft).reshape(len(images), 100, -1).astype(np.float16),
        "nearness": nearness[:, ::2, ::2].astype(np.float16),
    }


def sample_markers(view: small.YardImage, count: int, rng: np.random.Generator) -> tuple[Marker, ...]:
    """Points by AURORA's rules at HardBLINK's heights, fewer where so many do not fit."""
    nearness = np.asarray(Image.fromarray(view.nearness).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    rules = MarkerProtocol(min_distance=34.0, area="middle", margin=_RADIUS + 1)  # a patch has 33.6 pixels
    while count >= 2:
        try:
            return place_markers(nearness, np.ones_like(nearness, bool), count, rng, rules)
        except DataError:
            count -= 1
    return ()


def draw_dots(image: Image.Image, markers: tuple[Marker, ...]) -> None:
    """Draw points on an image of the frame, in place."""
    canvas = ImageDraw.Draw(image)
    for marker in markers:
        box = (marker.x - _RADIUS, marker.y - _RADIUS, marker.x + _RADIUS, marker.y + _RADIUS)
        canvas.ellipse(box, fill=COLORS[marker.letter][1])


def compute_cell_values(codec: pt.DepthCodec, codes: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
    """Mean nearness of each cell of the decoded maps: blocks (N, 10, 10) -> (N, 100) float32."""
    return average_cells(np.asarray(codec.decode(codes), np.float32))


def average_cells(maps: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Means of the cells of square maps: (N, H, H), H a multiple of 10, -> (N, 100), row-major."""
    side = maps.shape[-1] // GRID
    return maps.reshape(-1, GRID, side, GRID, side).mean((2, 4)).reshape(-1, GRID**2)


def make_records(
    view: small.YardImage,
    number: int,
    name: str,
    markers: tuple[Marker, ...],
    codes: NDArray[np.int64],
    cells: NDArray[np.floating[Any]],
    codec: str,
) -> Iterator[PerceptionRecord]:
    """The records of a scene, of all kinds that it admits.

    The chain of thought "depth-cells" quotes the block's own values (`cells`); there is none where they contradict the
    true answer.
    """
    block = block_to_text(codes)
    flat = tuple(int(code) for code in codes.ravel())

    def make_record(
        kind: str, question: str, reply: str, answer: str | None, choices: tuple[str, ...], evidence: Evidence
    ):
        task, form = kind.split("-")
        regime = "cot" if form == "cells" else form
        turns = (Turn("user", question), Turn("assistant", reply))
        where = {"source": "yard", "scene": number}
        return PerceptionRecord(
            f"{kind}-{number:05d}", (name,), turns, task, regime, 0.0, None, answer, choices, evidence, where
        )

    values = ", ".join(f"{marker.letter} {format_level(marker)}" for marker in markers)
    depth_text = f"{small.ANSWER}{block}." + (f" The points have {values}." if markers else "")
    evidence = Evidence(flat, codec, markers)
    yield make_record("depth-atomic", f"{name_points(markers)}{small.QUESTION}", depth_text, None, (), evidence)
    if markers:
        question = f"{name_points(markers)}{NEAREST_QUESTION}"
        answer = max(markers, key=lambda marker: marker.level or 0.0).letter
        letters = tuple(marker.letter for marker in markers)
        yield make_record(
            "depth-cot", question, f"{depth_text} Point {answer} is the closest.", answer, letters, evidence
        )
        quoted = [replace(marker, level=float(cells[find_cell(marker)])) for marker in markers]
        if max(quoted, key=lambda marker: marker.level or 0.0).letter == answer:
            chain = f"{small.ANSWER}{block}.{write_cells_answer(quoted)}"
            yield make_record("depth-cells", question, chain, answer, letters, evidence)
        yield make_record("depth-direct", question, f"({answer})", answer, letters, evidence)
    objects = [box for box in view.rendering.boxes() if box.category not in ("floor", "wall")]
    if objects and min(box.pixels for box in objects) >= _MIN_PIXELS:
        corners = sorted(box.xyxy for box in objects)
        codes_of = pt.BoxCodec().encode(corners, image_size=(320, 320))
        boxes = tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in codes_of)
        count = str(len(boxes))
        chain = f"{labelled_boxes_to_text(codes_of)}\nThere are {count} things."
        evidence = Evidence(boxes=boxes, plural="things")
        question = "How many things stand in the yard?"
        choices = tuple(str(number) for number in range(1, 6))
        yield make_record("counting-cot", question, chain, count, choices, evidence)
        yield make_record("counting-direct", question, count, count, choices, evidence)


def find_cell(marker: Marker) -> int:
    """The row-major index, 0..99, of the cell of the block that a point lies in."""
    return int(marker.y) * GRID // SIDE * GRID + int(marker.x) * GRID // SIDE


def name_points(markers: Sequence[Marker]) -> str:
    """The sentence of a question that names the cell of each point; empty without points."""
    return f"Points: {', '.join(map(name_point, markers))}. " if markers else ""


def name_point(marker: Marker) -> str:
    """Letter, row and column of a point, such as A57: one token each."""
    return f"{marker.letter}{find_cell(marker):02d}"


def write_cells_answer(markers: Sequence[Marker]) -> str:
    """What follows the block: cell, nearness and nearest point so far for each point, and the conclusion."""
    nearest = [
        max(markers[: count + 1], key=lambda marker: marker.level or 0.0).letter for count in range(len(markers))
    ]
    points = [
        f" {name_point(marker)}={format_level(marker)}:{leader}"
        for marker, leader in zip(markers, nearest, strict=True)
    ]
    return f"{''.join(points)}. Point {nearest[-1]} is the closest."


def format_level(marker: Marker) -> str:
    """Nearness as two digits, 00 .. 99."""
    return f"{min(99, int((marker.level or 0.0) * 100)):02d}"
