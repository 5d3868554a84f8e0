"""Attention that starts out looking at the right place: code k at patch k.

A depth block's codes and the picture's patches are both row-major grids of 10x10, so the token before code k always
stands the same number of tokens after patch k. Rotary positions make "look D tokens back" a matter of one rotation:
with a key c and a query R(-D) c the score of two tokens at distance d is sum_i a_i cos(f_i (D - d)), highest at d = D.
Some heads of the first layer start with it, and training goes on from there. Nothing of the layout changes: it is an
initialisation of a stock Llama's weights, and it fits prompts in which D is what it was at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["look_back"]


@torch.no_grad()
def look_back(
    language_model: Any,
    distance: int,
    askers: Tensor,
    sign: Tensor,
    *,
    groups: int = 2,
    sharpness: Sequence[float] = (6.0, 2.0, 0.5),
    seed: int = 0,
) -> None:
    """Let the first layer's first heads look `distance` tokens back, at tokens that bear a sign.

    Args:
        language_model: A `LlamaModel`.
        distance: Tokens from a patch to the token that predicts its code.
        askers: (n, H) embeddings of the tokens that look back: the block's start and the codes.
        sign: (H,) a direction that every picture token's embedding contains (see `build_small_llava`).
        groups: Key-value heads that are given over to this.
        sharpness: For the query heads of a group: how much lower, in logits, the token one further scores.
        seed: Of the value paths, which carry a random projection of the patch.
    """
    layer, config = language_model.layers[0], language_model.config
    attention, width = layer.self_attn, config.hidden_size
    size = attention.head_dim
    half = size // 2
    theta = config.rope_parameters["rope_theta"]
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) * 2 / size)
    used = (frequencies > 0.02).double()
    drop = float((used * (1 - frequencies.cos())).sum())
    key = torch.cat([used, torch.zeros(half, dtype=torch.float64)])
    turned = torch.cat([used * (frequencies * distance).cos(), -used * (frequencies * distance).sin()])

    weight = layer.input_layernorm.weight.double()

    def normed(rows: Tensor) -> Tensor:
        rows = rows.double()
        scaled: Tensor = rows * rows.pow(2).mean(-1, keepdim=True).add(config.rms_norm_eps).rsqrt() * weight
        return scaled

    asked, signed = normed(askers), normed(sign[None])
    every = torch.cat([asked, signed])
    solve = torch.linalg.pinv(every)
    asks = solve @ torch.cat([torch.ones(len(asked)), torch.zeros(1)]).double()
    answers = solve @ torch.cat([torch.zeros(len(asked)), torch.ones(1)]).double()

    generator = torch.Generator().manual_seed(seed)
    heads = config.num_attention_heads // config.num_key_value_heads
    for group in range(groups):
        rows = slice(group * size, (group + 1) * size)
        attention.k_proj.weight[rows] = (key[:, None] * answers[None]).float()
        values = torch.randn(size, width, generator=generator) / width**0.5
        attention.v_proj.weight[rows] = values
        for number in range(heads):
            head = group * heads + number
            gain = sharpness[number % len(sharpness)] * size**0.5 / drop
            rows = slice(head * size, (head + 1) * size)
            attention.q_proj.weight[rows] = (gain * turned[:, None] * asks[None]).float()
            output = torch.randn(width, size, generator=generator) / size**0.5
            attention.o_proj.weight[:, rows] = output * float(askers.pow(2).mean().sqrt())
