"""Heads that start out looking back: where their attention lies, on a stock Llama."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaModel

from perceptok.llava.small.model import look_back

DISTANCE, PATCHES, CODES = 37, 25, 25


def looking_llama(distance: int) -> tuple[LlamaModel, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=192,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=64,
        attn_implementation="eager",
    )
    model = LlamaModel(config).eval()
    askers, sign = 0.1 * torch.randn(20, 192), torch.randn(192)
    basis = torch.linalg.qr(askers.T)[0]
    sign = 0.1 * (sign - basis @ (basis.T @ sign))
    look_back(model, distance, askers, sign, groups=1)
    return model, askers, sign


def test_each_code_looks_at_its_own_patch() -> None:
    model, askers, sign = looking_llama(DISTANCE)
    between = DISTANCE - PATCHES
    patches = sign + 0.03 * torch.randn(PATCHES, 192)
    text = 0.1 * torch.randn(between, 192)
    asking = askers[torch.arange(CODES) % len(askers)]
    row = torch.cat([0.1 * torch.randn(5, 192), patches, text, asking])
    with torch.no_grad():
        seen = model(inputs_embeds=row[None], output_attentions=True).attentions[0][0]
    first = 5 + PATCHES + between
    sharp = seen[0, first:]
    looked_at = sharp.argmax(-1)
    assert looked_at.tolist() == list(range(5, 5 + PATCHES))
    assert float(sharp.max(-1).values.mean()) > 0.8
    # The broad head spreads over the neighbourhood instead.
    assert float(seen[2, first:].max(-1).values.mean()) < 0.5


def test_without_it_they_do_not() -> None:
    """The measurement above can fail: other distances make other places."""
    model, askers, sign = looking_llama(DISTANCE + 3)
    row = torch.cat([sign.expand(PATCHES, -1), 0.1 * torch.randn(DISTANCE - PATCHES, 192), askers])
    with torch.no_grad():
        seen = model(inputs_embeds=row[None], output_attentions=True).attentions[0][0]
    looked_at = seen[0, DISTANCE + 5 :].argmax(-1)
    assert looked_at.tolist() == list(range(2, 2 + len(looked_at)))
