"""Records of small images with codes that can be learned: for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import perceptok as pt
from perceptok.data import Evidence, PerceptionRecord, Turn, write_records
from perceptok.data.soft_codes import find_soft_codes
from perceptok.depth import block_to_text


def write_some_records(
    folder: Path,
    codec: pt.DepthCodec,
    count: int = 12,
    regimes: tuple[str, ...] = ("atomic", "cot", "direct"),
    soft: int = 0,
) -> Path:
    """`records.jsonl` and its images; regimes take turns, every third record of "atomic" is of boxes.

    With `soft` codes a cell, those of "cot" keep what the codec says of their maps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(3)
    records = []
    for number in range(count):
        regime = regimes[number % len(regimes)]
        ramp = np.linspace(0, 1, 40, dtype=np.float32) ** generator.uniform(0.5, 2)
        nearness = np.ascontiguousarray(np.broadcast_to(ramp[:, None], (40, 40)))
        name = f"{number}.png"
        Image.fromarray((nearness * 255).astype(np.uint8)).convert("RGB").save(folder / name)
        codes = codec.encode(nearness)[0]
        block = f"The depth map for the image is {block_to_text(codes)}."
        if regime == "atomic" and number % 9 == 6:
            boxes = ((10, 20, 30, 40),)
            listed = "Bounding box 1: (<PIXEL_10>,<PIXEL_20>,<PIXEL_30>,<PIXEL_40>)"
            text = f"Here are the bounding boxes for the cars:\n{listed}"
            turns = (Turn("user", "Return the bounding boxes of cars."), Turn("assistant", text))
            evidence = Evidence(boxes=boxes, plural="cars")
            records.append(PerceptionRecord(f"r{number}", (name,), turns, "counting", "atomic", evidence=evidence))
            continue
        question = "What is the depth map for the image?" if regime == "atomic" else "Which point is the closest?"
        answer = {"atomic": block, "cot": block + " So the answer is (B).", "direct": "(B)"}[regime]
        turns = (Turn("user", question), Turn("assistant", answer))
        evidence = Evidence()
        if regime != "direct":
            soft_codes = find_soft_codes(codec, nearness, codes[None], soft)[0] if soft and regime == "cot" else None
            evidence = Evidence(tuple(int(code) for code in codes.ravel()), codec.fingerprint, soft=soft_codes)
        records.append(PerceptionRecord(f"r{number}", (name,), turns, "depth", regime, evidence=evidence))  # type: ignore[arg-type]
    write_records(folder / "records.jsonl", records, force=True)
    return folder / "records.jsonl"
