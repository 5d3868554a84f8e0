"""Depth maps of photos by a monocular estimator in ONNX, as 16-bit PNG that `perceptok depth` reads.

Usage: python estimate_depth.py MODEL.onnx PHOTOS_FOLDER OUTPUT_FOLDER

For TCMonoDepth's small model: input RGB 0..255 of 320x192, output relative inverse depth, larger = nearer. Needs the
extra `specialist` (onnxruntime).
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import perceptok as pt
from perceptok.images import open_image


def main(model: str, photos: str, output: str) -> None:
    """Estimate every photo of a folder."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    model_input = session.get_inputs()[0]
    height, width = model_input.shape[2:]
    Path(output).mkdir(parents=True, exist_ok=True)
    for path in sorted(p for p in Path(photos).iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"}):
        rgb = np.asarray(open_image(path).resize((width, height), Image.Resampling.BILINEAR))
        (estimate,) = session.run(None, {model_input.name: rgb.astype(np.float32).transpose(2, 0, 1)[None]})
        nearness = pt.DepthMap.from_array(estimate.reshape(height, width), kind="inverse").to_nearness()
        pt.DepthMap(nearness.values, nearness.valid, "inverse").write(Path(output) / f"{path.stem}.png")
        print(path.name)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
