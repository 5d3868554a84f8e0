"""A tiny random LLaVA whose head leans towards perception tokens, so that blocks and boxes are written at all."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

import perceptok as pt
from perceptok.llava import PerceptionPipeline, load_llava


def leaning_pipeline(folder: Path, codec: pt.DepthCodec, *, frame: str = "squash") -> PerceptionPipeline:
    model, processor, vocab = load_llava(folder, codec=codec, frame=frame)
    generator = torch.Generator().manual_seed(3)
    head = model.get_output_embeddings().weight
    ids = vocab.all_ids
    with torch.no_grad():
        head[ids] = torch.randn((len(ids), head.shape[1]), generator=generator) * 0.3
        head[vocab.start_id(pt.tokens.DEPTH)] *= 3
    return PerceptionPipeline(model, processor, vocab, codec=codec, frame=frame)


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth image that depends on the seed."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 255, (1, 3, 2, 2), generator=generator).float()
    smooth = torch.nn.functional.interpolate(corners, (height, width), mode="bilinear", align_corners=True)
    return Image.fromarray(smooth[0].permute(1, 2, 0).byte().numpy())
