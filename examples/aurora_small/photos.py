"""Photographs with a specialist as the teacher: the same small model, two frozen towers, 254 pictures to learn from.

    python examples/aurora_small/photos.py COCO_FOLDER ESTIMATOR.onnx -o perceptok-demo/photos

The first tower is the model's own, MobileNetV2. The second is the encoder of the depth estimator that is also the
teacher: its features were trained for depth, so that it says what the language model can write when its eyes know
distance, and nothing about reading depth off ImageNet features. Learned from are the pictures and their mirror images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

import perceptok as pt
from perceptok.data import OnnxDepth
from perceptok.files import atomic_write
from perceptok.images import open_image
from perceptok.llava import GRID, GridTower, small

HELD_OUT = 64
ENCODER = ("/encoder/stage2/features.11/Concat_output_0", "/encoder/stage3/features.15/Concat_output_0")
"""The last outputs of the estimator's second and third stage: 96 channels of 24x40 and 192 of 12x20."""

_TAUGHT = "A small LLaVA learned what a depth estimator says of photographs, and was asked about others. Its tower: "
NOTES = {
    "own": f"{_TAUGHT}MobileNetV2, trained on ImageNet.",
    "encoder": f"{_TAUGHT}the encoder of that same estimator, whose features were trained for depth.",
}

Tower = Callable[[list[Image.Image]], torch.Tensor]
"""Pictures -> features (N, 100, C), C being what the model takes."""


def own_tower(tower: GridTower) -> Tower:
    """The model's own."""

    @torch.no_grad()
    def features(pictures: list[Image.Image]) -> torch.Tensor:
        side = tower.config.image_size
        arrays = np.stack([np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)) for picture in pictures])
        return tower(small.normalised(arrays)).last_hidden_state

    return features


def estimators_encoder(path: Path, width: int) -> Tower:
    """The encoder of a depth estimator, on the block's grid; standardised, padded with zeros to `width`."""
    import onnx
    import onnxruntime

    graph = onnx.load(str(path))
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in ENCODER)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    place = GridTower._positions(torch.zeros(1, GRID**2, 1))[0]
    memory: dict[str, torch.Tensor] = {}

    def features(pictures: list[Image.Image]) -> torch.Tensor:
        found = []
        for picture in pictures:
            resized = picture.resize((320, 192), Image.Resampling.BILINEAR)
            pixels = np.asarray(resized, np.float32).transpose(2, 0, 1)[None]
            maps = session.run(list(ENCODER), {session.get_inputs()[0].name: pixels})
            pooled = [F.adaptive_avg_pool2d(torch.from_numpy(values), GRID)[0].flatten(1).T for values in maps]
            found.append(torch.cat(pooled, dim=1))
        seen = torch.stack(found)
        if not memory:  # the first pictures are those that are learned from
            memory["mean"], memory["deviation"] = seen.mean((0, 1)), seen.std((0, 1)).clamp_min(1e-3)
        seen = (seen - memory["mean"]) / memory["deviation"]
        empty = torch.zeros(len(seen), GRID**2, width - seen.shape[2] - place.shape[1])
        return torch.cat([seen, empty, place.expand(len(seen), -1, -1)], dim=2)

    return features


def views_of(
    pictures: list[Image.Image], nearness: NDArray[np.float32], tower: Tower, codec: pt.DepthCodec
) -> small.Views:
    """Pictures as a model trains on them; nearness (N, 320, 320) is the teacher's."""
    thumbnails = np.stack([np.asarray(picture.resize((160, 160), Image.Resampling.BICUBIC)) for picture in pictures])
    soft = np.asarray(codec.encode_soft(nearness, temperature=0.02)).reshape(len(pictures), GRID**2, -1)
    return small.Views(
        thumbnails,
        nearness[:, ::2, ::2].astype(np.float16),
        torch.from_numpy(np.asarray(codec.encode(nearness)).reshape(-1, GRID**2)),
        tower(pictures).half(),
        torch.from_numpy(soft.astype(np.float16)),
    )


def estimated(pictures: list[Image.Image], specialist: OnnxDepth) -> NDArray[np.float32]:
    """The specialist's maps as nearness (N, 320, 320)."""
    maps = [
        depth_map.to_nearness().values
        for start in range(0, len(pictures), 16)
        for depth_map in specialist.estimate(pictures[start : start + 16])
    ]
    resized = [Image.fromarray(nearness).resize((320, 320), Image.Resampling.BILINEAR) for nearness in maps]
    return np.stack([np.asarray(image, np.float32) for image in resized]).clip(0, 1)


def mirrored(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Left and right exchanged."""
    return [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with each tower, and write figures and a page for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder of photographs")
    parser.add_argument("estimator", type=Path, help="TCMonoDepth as ONNX")
    parser.add_argument("-o", "--output", type=Path, default=Path("perceptok-demo/photos"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--only", choices=["own", "encoder"], help="one of the towers")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    codec = pt.DepthCodec.from_pretrained()
    specialist = OnnxDepth(options.estimator, kind="inverse")
    paths = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    photos = [open_image(path) for path in paths]
    held, known = photos[: options.held_out], photos[options.held_out :]
    known += mirrored(known)
    depth = estimated(known, specialist), estimated(held, specialist)
    for name in (options.only,) if options.only else ("own", "encoder"):
        model, processor, vocab = small.starting_model(options.output, codec, small.DemoConfig())
        tower = model.model.vision_tower
        see = own_tower(tower) if name == "own" else estimators_encoder(options.estimator, tower.config.hidden_size)
        learned = views_of(known, depth[0], see, codec)
        asked = views_of(held, depth[1], see, codec)
        config = small.SmallTraining(options.steps, 16, measure_every=max(1, options.steps // 6))
        curve = small.train_depth(model, processor, vocab, learned, asked, config, _report)
        answers = small.answer_depth(model, processor, vocab, codec, asked)
        free = small.answer_depth(model, processor, vocab, codec, asked, constrained=False)
        result = small.scored(
            codec, learned, asked, answers, free, curve, {"training": round(curve[-1].processor_seconds, 1)}
        )
        with atomic_write(options.output / f"{name}.json", force=True) as file:
            file.write((json.dumps(asdict(result), indent=2) + "\n").encode())
        small.write_demo_page(options.output / f"{name}.html", asked, answers, result, note=NOTES[name])
        print(
            name, json.dumps(result.rmse), json.dumps(result.order), json.dumps(result.chance), json.dumps(result.valid)
        )


def _report(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
