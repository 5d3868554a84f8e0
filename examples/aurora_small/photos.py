"""Photographs with a specialist as the teacher: the same small model, two frozen towers, 254 training images.

    python examples/aurora_small/photos.py COCO_FOLDER ESTIMATOR.onnx -o perceptok-demo/photos

The first tower is the model's own, MobileNetV2. The second is the encoder of the depth estimator that is also the
teacher: its features were trained for depth, so that it shows what the language model can learn from features that
contain depth, and nothing about ImageNet features. The model is trained on the images and their mirror images.
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
from perceptok.llava import GridTower, small
from perceptok.tokens import DEPTH_GRID

GRID = DEPTH_GRID[0]
HELD_OUT = 64
ENCODER = ("/encoder/stage2/features.11/Concat_output_0", "/encoder/stage3/features.15/Concat_output_0")
"""The last outputs of the estimator's second and third stage: 96 channels of 24x40 and 192 of 12x20."""

_NOTE = "A small LLaVA was trained on a depth estimator's maps of photographs, and tested on others. Its tower: "
NOTES = {
    "own": f"{_NOTE}MobileNetV2, trained on ImageNet.",
    "encoder": f"{_NOTE}the encoder of that same estimator, whose features were trained for depth.",
}

Tower = Callable[[list[Image.Image]], torch.Tensor]
"""Images -> features (N, 100, C), where C is the model's number of channels."""


def use_own_tower(tower: GridTower) -> Tower:
    """Use the model's own tower."""

    @torch.no_grad()
    def features(images: list[Image.Image]) -> torch.Tensor:
        side = tower.config.image_size
        arrays = np.stack([np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) for image in images])
        return tower(small.normalize_images(arrays)).last_hidden_state

    return features


def use_encoder(path: Path, width: int) -> Tower:
    """Use the encoder of a depth estimator, pooled to the block's grid, standardized, padded to `width` channels."""
    import onnx
    import onnxruntime

    graph = onnx.load(str(path))
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in ENCODER)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    cells = torch.eye(GRID)
    position = torch.cat([cells.repeat_interleave(GRID, dim=0), cells.repeat(GRID, 1)], dim=1)
    statistics: dict[str, torch.Tensor] = {}

    def features(images: list[Image.Image]) -> torch.Tensor:
        outputs = []
        for image in images:
            resized = image.resize((320, 192), Image.Resampling.BILINEAR)
            pixels = np.asarray(resized, np.float32).transpose(2, 0, 1)[None]
            maps = session.run(list(ENCODER), {session.get_inputs()[0].name: pixels})
            pooled = [F.adaptive_avg_pool2d(torch.from_numpy(values), GRID)[0].flatten(1).T for values in maps]
            outputs.append(torch.cat(pooled, dim=1))
        stacked = torch.stack(outputs)
        if not statistics:  # the first images are the training images
            statistics.update(mean=stacked.mean((0, 1)), deviation=stacked.std((0, 1)).clamp_min(1e-3))
        stacked = (stacked - statistics["mean"]) / statistics["deviation"]
        empty = torch.zeros(len(stacked), GRID**2, width - stacked.shape[2] - position.shape[1])
        return torch.cat([stacked, empty, position.expand(len(stacked), -1, -1)], dim=2)

    return features


def make_dataset(
    images: list[Image.Image], nearness: NDArray[np.float32], tower: Tower, codec: pt.DepthCodec
) -> small.SmallDataset:
    """The dataset of images and the teacher's nearness (N, 320, 320)."""
    thumbnails = np.stack([np.asarray(image.resize((160, 160), Image.Resampling.BICUBIC)) for image in images])
    soft = np.asarray(codec.encode_soft(nearness, temperature=0.02)).reshape(len(images), GRID**2, -1)
    return small.SmallDataset(
        thumbnails,
        nearness[:, ::2, ::2].astype(np.float16),
        torch.from_numpy(np.asarray(codec.encode(nearness)).reshape(-1, GRID**2)),
        tower(images).half(),
        torch.from_numpy(soft.astype(np.float16)),
    )


def estimate(images: list[Image.Image], specialist: OnnxDepth) -> NDArray[np.float32]:
    """The specialist's nearness maps (N, 320, 320)."""
    maps = [
        depth_map.to_nearness().values
        for start in range(0, len(images), 16)
        for depth_map in specialist.estimate(images[start : start + 16])
    ]
    resized = [Image.fromarray(nearness).resize((320, 320), Image.Resampling.BILINEAR) for nearness in maps]
    return np.stack([np.asarray(image, np.float32) for image in resized]).clip(0, 1)


def flip(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Flip images horizontally."""
    return [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]


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
    held_out_photos, training_photos = photos[: options.held_out], photos[options.held_out :]
    training_photos += flip(training_photos)
    depth = estimate(training_photos, specialist), estimate(held_out_photos, specialist)
    for name in (options.only,) if options.only else ("own", "encoder"):
        model, processor, vocab = small.prepare_model(options.output, codec, small.DemoConfig())
        tower = model.model.vision_tower
        width = tower.config.hidden_size
        compute_features = use_own_tower(tower) if name == "own" else use_encoder(options.estimator, width)
        dataset = make_dataset(training_photos, depth[0], compute_features, codec)
        held_out = make_dataset(held_out_photos, depth[1], compute_features, codec)
        config = small.SmallTraining(options.steps, 16, eval_steps=max(1, options.steps // 6))
        curve = small.train_depth(model, processor, vocab, dataset, held_out, config, _print_progress)
        answers = small.answer_depth(model, processor, vocab, codec, held_out)
        free = small.answer_depth(model, processor, vocab, codec, held_out, constrained=False)
        result = small.score_answers(
            codec, dataset, held_out, answers, free, curve, {"training": round(curve[-1].processor_seconds, 1)}
        )
        with atomic_write(options.output / f"{name}.json", force=True) as file:
            file.write((json.dumps(asdict(result), indent=2) + "\n").encode())
        small.write_demo_page(options.output / f"{name}.html", held_out, answers, result, note=NOTES[name])
        print(
            name, json.dumps(result.rmse), json.dumps(result.order), json.dumps(result.chance), json.dumps(result.valid)
        )


def _print_progress(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
