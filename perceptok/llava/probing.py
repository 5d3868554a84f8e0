"""What a model says of one fixed question: two copies of a model are the same where this is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceptok.errors import CheckpointError
from perceptok.llava.framing import FrameRule
from perceptok.vocabulary.lookup import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import BatchFeature

__all__ = ["probe_logits", "require_equal_logits"]

_STRIDE = 13
"""Every 13th perception token is read."""


@torch.no_grad()
def probe_logits(model: Any, processor: Any, vocab: PerceptionVocabulary, rule: FrameRule) -> Tensor:
    """Logits after a picture, a question and some of every set's tokens: (T, V) float32 on the CPU.

    The tower, the projector, old and new rows of both token matrices and every adapter have a part in them.
    """
    training = model.training
    model.eval()
    precisions = {one.dtype for one in model.parameters() if one.is_floating_point()}
    try:
        # Trained weights are in float32 on a base in half precision: they meet as they did in training.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=len(precisions) > 1):
            logits = model(**_probe(processor, vocab, rule).to(model.device)).logits
    finally:
        model.train(training)
    return cast(Tensor, logits[0].float().cpu())


def require_equal_logits(found: Tensor, wanted: Tensor, name: str, *, tolerance: float = 1e-3) -> None:
    """Refuse logits that differ by more than rounding: the tolerance times the largest of them.

    Raises:
        CheckpointError: They do; what was saved is not what was trained.
    """
    if found.shape != wanted.shape:
        raise CheckpointError(f"{name}: logits have the shape {tuple(found.shape)}, not {tuple(wanted.shape)}")
    difference = float((found - wanted).abs().max())
    # The same weights on the same device give the same numbers; another kernel may round otherwise.
    if not difference <= tolerance * max(1.0, float(wanted.abs().max())):
        raise CheckpointError(
            f"{name}: what was saved does not say what was trained, logits differ by {difference:.3g}; nothing was "
            "replaced. Save with the processor and base that the model was trained with"
        )


def _probe(processor: Any, vocab: PerceptionVocabulary, rule: FrameRule) -> BatchFeature:
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=-1)
    picture = rule.apply(Image.fromarray(np.ascontiguousarray(pixels)))
    read = "".join(list(vocab.tokens)[::_STRIDE])
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": "What is closest?"}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:
        prompt = f"{processor.image_token}What is closest?"
    return cast("BatchFeature", processor(images=[picture], text=[prompt + read], return_tensors="pt"))
