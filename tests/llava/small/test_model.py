"""Attention heads that are initialized to attend back to patches, in a stock Llama."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaModel

from perceptok.llava.small.model import align_attention

DISTANCE, PATCHES, CODES = 37, 25, 25


def make_aligned_llama(distance: int) -> tuple[LlamaModel, torch.Tensor, torch.Tensor]:
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
    queries, direction = 0.1 * torch.randn(20, 192), torch.randn(192)
    basis = torch.linalg.qr(queries.T)[0]
    direction = 0.1 * (direction - basis @ (basis.T @ direction))
    align_attention(model, distance, queries, direction, groups=1)
    return model, queries, direction


def test_each_code_attends_to_its_own_patch() -> None:
    model, queries, direction = make_aligned_llama(DISTANCE)
    between = DISTANCE - PATCHES
    patches = direction + 0.03 * torch.randn(PATCHES, 192)
    text = 0.1 * torch.randn(between, 192)
    queries_of_codes = queries[torch.arange(CODES) % len(queries)]
    row = torch.cat([0.1 * torch.randn(5, 192), patches, text, queries_of_codes])
    with torch.no_grad():
        attention = model(inputs_embeds=row[None], output_attentions=True).attentions[0][0]
    first = 5 + PATCHES + between
    sharp_head = attention[0, first:]
    attended = sharp_head.argmax(-1)
    assert attended.tolist() == list(range(5, 5 + PATCHES))
    assert float(sharp_head.max(-1).values.mean()) > 0.8
    # The broad head attends to the neighbourhood instead.
    assert float(attention[2, first:].max(-1).values.mean()) < 0.5


def test_another_distance_attends_to_other_patches() -> None:
    """The test above can fail."""
    model, queries, direction = make_aligned_llama(DISTANCE + 3)
    row = torch.cat([direction.expand(PATCHES, -1), 0.1 * torch.randn(DISTANCE - PATCHES, 192), queries])
    with torch.no_grad():
        attention = model(inputs_embeds=row[None], output_attentions=True).attentions[0][0]
    attended = attention[0, DISTANCE + 5 :].argmax(-1)
    assert attended.tolist() == list(range(2, 2 + len(attended)))
