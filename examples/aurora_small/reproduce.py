"""AURORA's first table in a reduced setting: COCO photos, an ONNX estimator, and the small LLaVA as the base.

    python examples/aurora_small/reproduce.py COCO_IMAGES ESTIMATOR.onnx HARDBLINK -o perceptok-demo/aurora

It is `perceptok aurora depth` on a base that is made on the spot: SmolLM2's first two layers and MobileNetV2 with a
random projector. An interrupted run is continued by the same command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from perceptok.evaluation import AuroraExperiment, run_aurora
from perceptok.files import atomic_folder
from perceptok.images import find_images, open_image
from perceptok.llava import small

CALIBRATION_IMAGES = 64


def make_base(images: Path, folder: Path) -> None:
    """Save the small LLaVA without perception tokens; its tower's features are standardized on some images."""
    config = small.SmallLlavaConfig()
    side = (config.image_size, config.image_size)
    arrays = [
        np.asarray(open_image(images / name).resize(side, Image.Resampling.BICUBIC))
        for name in find_images(images)[:CALIBRATION_IMAGES]
    ]
    model, processor = small.assemble_small_llava(small.normalize_images(np.stack(arrays)), config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as building:
        model.save_pretrained(building)
        processor.save_pretrained(building)


def main(words: Sequence[str] | None = None) -> None:
    """Make the base and run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("estimator")
    parser.add_argument("hardblink")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=0.0145, help="20,000 records times this are as many as 290")
    parser.add_argument("--codec-epochs", type=float, default=2.0)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--limit", type=int, help="Maximum number of questions of each test.")
    arguments = parser.parse_args(words)
    base = arguments.output / "base"
    if not base.exists():
        make_base(arguments.images, base)
    experiment = AuroraExperiment(
        task="depth",
        images=str(arguments.images),
        include=("*.jpg",),
        base=str(base),
        output=str(arguments.output),
        benchmarks=arguments.hardblink,
        estimator=arguments.estimator,
        tests=("hardblink-3", "hardblink-4", "hardblink-5"),
        scale=arguments.scale,
        codec={"num_train_epochs": arguments.codec_epochs},
        train={
            "max_steps": arguments.max_steps,
            "effective_batch_size": 16,
            "bf16": False,
            "gradient_checkpointing": False,
            "dataloader_num_workers": 0,
        },
        inference={"max_new_tokens": 160, "batch_size": 16},
        limit=arguments.limit,
    )
    run_aurora(experiment, lambda part, message: print(f"{part}: {message}", flush=True))
    print((arguments.output / "table.md").read_text())


if __name__ == "__main__":
    main()
