"""What is taught and asked: marked pictures of the yard, each question with its chain of thought or bare answer.

Points are coloured dots, drawn on the picture: what letters beside circles are to a large model, colours are to a tower
that sees 10x10 patches. Each picture gives a question about depth and one about counting; a chain writes the depth
block, or the boxes, and then reads its answer off it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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

COLOURS = {
    "A": ("red", (255, 0, 0)),
    "B": ("green", (0, 255, 0)),
    "C": ("blue", (0, 0, 255)),
    "D": ("yellow", (255, 255, 0)),
    "E": ("violet", (255, 0, 255)),
}
KINDS = ("depth-atomic", "depth-cot", "depth-direct", "counting-cot", "counting-direct")
SIDE = 336
_RADIUS = 9
_LEAST_PIXELS = 300
"""A thing of fewer visible pixels (of 320x320) is neither seen nor unseen: such a view is not asked to be counted."""
_CHUNK = 32


@dataclass(frozen=True, eq=False)
class Lessons:
    """A family of scenes, everything that a frozen tower and the codec say of them computed once.

    Attributes:
        folder: Where `KIND.jsonl` and the pictures are.
        features: (N, 100, C) float16, of the tower.
        teacher: (N, 100, 128) float16, the codec's probabilities.
        nearness: (N, 160, 160) float16, every second row and column.
        records: Kind -> records; their provenance says of which scene they are ("scene", 0 .. N - 1).
    """

    folder: Path
    features: Tensor
    teacher: Tensor
    nearness: NDArray[np.float16]
    records: dict[str, list[PerceptionRecord]]


def read_lessons(folder: Path) -> Lessons:
    """What `make_lessons` wrote."""
    with np.load(folder / "arrays.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    records = {kind: list(pt.data.read_records(folder / f"{kind}.jsonl")) for kind in KINDS}
    features, teacher = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["teacher"])
    return Lessons(folder, features, teacher, arrays["nearness"], records)


def make_lessons(
    folder: Path, seed: int, count: int, model: Any, processor: Any, codec: pt.DepthCodec, temperature: float = 0.02
) -> Lessons:
    """Render scenes 0 .. count - 1 of a family, mark them, write records, and pass them through tower and codec.

    What is in the folder already is read instead.
    """
    if not folder.is_dir():
        with atomic_folder(folder) as place:
            (place / "images").mkdir()
            found: list[PerceptionRecord] = []
            parts = []
            for start in range(0, count, _CHUNK):
                views = [small.view_yard(seed, number, 320) for number in range(start, min(count, start + _CHUNK))]
                nearness = np.stack([view.nearness for view in views])
                codes = codec.encode(nearness)
                marked = []
                for number, (view, block) in enumerate(zip(views, codes, strict=True), start):
                    name = f"images/{number:05d}.png"
                    markers = markers_of(view, 2 + number % 4, np.random.default_rng([seed, number, 5]))
                    picture = FrameRule("squash").apply(Image.fromarray(view.picture))
                    draw_dots(picture, markers)
                    picture.save(place / name)
                    marked.append(picture)
                    found += records_of(view, number, name, markers, block, codec.fingerprint)
                parts.append(_arrays(marked, nearness, model, processor, codec, temperature))
            with atomic_write(place / "arrays.npz") as file:
                np.savez(file, **{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
            for kind in KINDS:
                pt.data.write_records(place / f"{kind}.jsonl", [record for record in found if kind == _kind(record)])
    return read_lessons(folder)


def _kind(record: PerceptionRecord) -> str:
    return f"{record.task}-{record.regime}"


@torch.no_grad()
def _arrays(
    pictures: list[Image.Image],
    nearness: NDArray[np.float32],
    model: Any,
    processor: Any,
    codec: pt.DepthCodec,
    temperature: float,
) -> dict[str, NDArray[Any]]:
    pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    features = model.model.vision_tower(pixels).last_hidden_state
    soft = codec.encode_soft(nearness, temperature=temperature)
    return {
        "features": features.half().numpy(),
        "teacher": np.asarray(soft).reshape(len(pictures), 100, -1).astype(np.float16),
        "nearness": nearness[:, ::2, ::2].astype(np.float16),
    }


def markers_of(view: small.YardView, count: int, rng: np.random.Generator) -> tuple[Marker, ...]:
    """Points by AURORA's rules in HardBLINK's band of height, one fewer where so many do not fit."""
    nearness = np.asarray(Image.fromarray(view.nearness).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    rules = MarkerProtocol(min_distance=34.0, area="middle", margin=_RADIUS + 1)  # a patch has 33.6 pixels
    while count >= 2:
        try:
            return place_markers(nearness, np.ones_like(nearness, bool), count, rng, rules)
        except DataError:
            count -= 1
    return ()


def draw_dots(picture: Image.Image, markers: tuple[Marker, ...]) -> None:
    """Mark points on a picture of the frame, in place."""
    canvas = ImageDraw.Draw(picture)
    for marker in markers:
        box = (marker.x - _RADIUS, marker.y - _RADIUS, marker.x + _RADIUS, marker.y + _RADIUS)
        canvas.ellipse(box, fill=COLOURS[marker.letter][1])


def records_of(
    view: small.YardView, number: int, name: str, markers: tuple[Marker, ...], codes: NDArray[np.int64], codec: str
) -> Iterator[PerceptionRecord]:
    """The records of one scene, of every kind that there can be."""
    block = block_to_text(codes)
    flat = tuple(int(code) for code in codes.ravel())

    def record(kind: str, question: str, reply: str, answer: str | None, choices: tuple[str, ...], evidence: Evidence):
        task, regime = kind.split("-")
        turns = (Turn("user", question), Turn("assistant", reply))
        where = {"source": "yard", "scene": number}
        return PerceptionRecord(
            f"{kind}-{number:05d}", (name,), turns, task, regime, 0.0, None, answer, choices, evidence, where
        )

    named = ", ".join(f"{marker.letter} {COLOURS[marker.letter][0]}" for marker in markers)
    points = f"Points: {named}. " if markers else ""
    values = ", ".join(f"{marker.letter} {level_of(marker)}" for marker in markers)
    seen = f"{small.ANSWER}{block}." + (f" The points have {values}." if markers else "")
    evidence = Evidence(flat, codec, markers)
    yield record("depth-atomic", points + small.QUESTION, seen, None, (), evidence)
    if markers:
        question = f"{points}Which point is the closest to the camera?"
        answer = max(markers, key=lambda marker: marker.level or 0.0).letter
        letters = tuple(marker.letter for marker in markers)
        yield record("depth-cot", question, f"{seen} Point {answer} is the closest.", answer, letters, evidence)
        yield record("depth-direct", question, f"({answer})", answer, letters, evidence)
    things = [box for box in view.rendering.boxes() if box.category not in ("floor", "wall")]
    if things and min(box.pixels for box in things) >= _LEAST_PIXELS:
        corners = sorted(box.xyxy for box in things)
        codes_of = pt.BoxCodec().encode(corners, image_size=(320, 320))
        boxes = tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in codes_of)
        count = str(len(boxes))
        chain = f"{labelled_boxes_to_text(codes_of)}\nThere are {count} things."
        evidence = Evidence(boxes=boxes, plural="things")
        question = "How many things stand in the yard?"
        choices = tuple(str(number) for number in range(1, 6))
        yield record("counting-cot", question, chain, count, choices, evidence)
        yield record("counting-direct", question, count, count, choices, evidence)


def level_of(marker: Marker) -> str:
    """Nearness as two digits, 00 .. 99."""
    return f"{min(99, int((marker.level or 0.0) * 100)):02d}"
