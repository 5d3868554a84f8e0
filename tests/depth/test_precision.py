"""The codec computes in its own precision, whatever surrounds it."""

from __future__ import annotations

import numpy as np
import torch

import perceptok as pt
from perceptok.scenes import ProceduralDepthMaps


def maps(count: int = 12) -> torch.Tensor:
    scenes = ProceduralDepthMaps(seed=11, length=count)
    return torch.from_numpy(np.stack([scenes[index][0] for index in range(count)]))


def test_autocast_changes_nothing() -> None:
    codec = pt.DepthCodec.from_pretrained()
    nearness = maps()
    codes, soft = codec.encode(nearness), codec.encode_soft(nearness)
    decoded, softly = codec.decode(codes), codec.decode_soft(soft)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(codec.encode(nearness), codes)
            assert torch.equal(codec.encode_soft(nearness), soft)
            assert torch.equal(codec.decode(codes), decoded)
            assert torch.equal(codec.decode_soft(soft), softly)
            assert codec.decode_soft(soft.to(dtype)).dtype == torch.float32


def test_gradients_pass_under_autocast() -> None:
    codec = pt.DepthCodec.from_pretrained()
    probs = torch.softmax(torch.randn(1, 10, 10, 128), -1).requires_grad_()
    codec.decode_soft(probs).sum().backward()
    expected = probs.grad
    probs.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = codec.decode_soft(probs)
    decoded.sum().backward()  # outside, as torch asks: inside, autocast would round the backward pass itself
    assert expected is not None
    assert probs.grad is not None
    torch.testing.assert_close(probs.grad, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
