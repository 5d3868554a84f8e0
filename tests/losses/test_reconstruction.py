"""Eq. 2 with a decoder that can be computed by hand, and with the shipped codec."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import perceptok as pt
from perceptok.errors import LossError
from perceptok.losses import reconstruction_loss
from perceptok.vocabulary import VocabularyAlignment

VALUES = torch.linspace(0, 1, 128)


def by_cells(probs: Tensor) -> Tensor:
    """A decoder (M, 10, 10, 128) -> (M, 10, 10): every code is a nearness of its own."""
    return probs @ VALUES


def logits_for(codes: Tensor, ids: Tensor, height: float, before: int = 3, after: int = 2) -> tuple[Tensor, Tensor]:
    """Logits (B, T, 512) that prefer one block of codes a row, and the mask of its positions."""
    logits = torch.randn(len(codes), before + 100 + after, 512, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(logits.shape[:2], dtype=torch.bool)
    mask[:, before : before + 100] = True
    logits[:, before : before + 100].scatter_(2, ids[codes.view(-1, 100)][..., None], height)
    return logits, mask


def test_by_hand(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    codes = torch.randint(0, 128, (2, 10, 10), generator=torch.Generator().manual_seed(1))
    logits, mask = logits_for(codes, shuffled.token_ids(vocab), 5.0)
    target = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(2))
    loss = reconstruction_loss(logits, target, by_cells, shuffled, vocab, mask, temperature=0.8)
    total = 0.0
    for row in range(2):
        for cell in range(100):
            own = logits[row, 3 + cell, shuffled.token_ids(vocab)].double() / 0.8
            expected = (torch.softmax(own, 0) * VALUES.double()).sum()
            total += float((expected - target[row, cell // 10, cell % 10]) ** 2)
    assert loss.item() == pytest.approx(total / 200, rel=1e-5)


def test_the_map_is_learned_through_the_shipped_codec(vocab: pt.PerceptionVocabulary) -> None:
    codec = pt.DepthCodec.from_pretrained()
    target = torch.linspace(0, 1, 320).repeat(1, 320, 1)
    alignment = VocabularyAlignment.identity(128)
    logits = torch.zeros(1, 100, 512, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = reconstruction_loss(logits, target, codec.decode_soft, alignment, vocab)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is None for parameter in codec.model.parameters())


def test_correct_codes_have_the_loss_of_the_codec(
    vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment
) -> None:
    codec = pt.DepthCodec.from_pretrained()
    target = torch.linspace(0, 1, 320).repeat(1, 320, 1)
    codes = codec.encode(target)
    logits, mask = logits_for(codes, shuffled.token_ids(vocab), 60.0)
    loss = reconstruction_loss(logits, target, codec.decode_soft, shuffled, vocab, mask)
    assert loss.item() == pytest.approx(
        (codec.decode_soft(torch.eye(128)[codes]) - target).square().mean().item(), rel=1e-4
    )
    wrong = reconstruction_loss(logits, target, codec.decode_soft, VocabularyAlignment.identity(128), vocab, mask)
    assert wrong > 5 * loss


def test_straight_through_decodes_codes_and_passes_the_soft_gradient(
    vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment
) -> None:
    codes = torch.randint(0, 128, (1, 10, 10), generator=torch.Generator().manual_seed(1))
    logits, mask = logits_for(codes, shuffled.token_ids(vocab), 4.0)
    logits.requires_grad_()
    target = torch.zeros(1, 10, 10)
    decoder_inputs: list[Tensor] = []

    def decoder(probs: Tensor) -> Tensor:
        decoder_inputs.append(probs.detach())
        return by_cells(probs)

    loss = reconstruction_loss(logits, target, decoder, shuffled, vocab, mask, straight_through=True)
    assert torch.allclose(decoder_inputs[0].amax(-1), torch.ones(1, 10, 10))
    assert torch.equal(decoder_inputs[0].argmax(-1), codes)
    assert loss.item() == pytest.approx(VALUES[codes].square().mean().item(), rel=1e-5)
    (grad,) = torch.autograd.grad(loss, logits)
    # The chain rule by hand: d loss / d value is that of the codes, d value / d logits that of the probabilities.
    own = logits.detach()[mask][:, shuffled.token_ids(vocab)].double()
    probs = torch.softmax(own, -1)
    outer = 2 * VALUES[codes].double().flatten() / 100
    expected = outer[:, None] * probs * (VALUES.double() - (probs @ VALUES.double())[:, None])
    assert torch.allclose(grad[mask][:, shuffled.token_ids(vocab)].double(), expected, atol=1e-7)


def test_straight_through_with_the_shipped_codec(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    """Its decoder is not linear: the gradient is the decoder's at the codes, carried on through the softmax."""
    codec = pt.DepthCodec.from_pretrained()
    codes = torch.randint(0, 128, (2, 10, 10), generator=torch.Generator().manual_seed(1))
    ids = shuffled.token_ids(vocab)
    logits, mask = logits_for(codes, ids, 8.0)
    logits.requires_grad_()
    target = torch.linspace(0, 1, 320).repeat(2, 320, 1)
    loss = reconstruction_loss(logits, target, codec.decode_soft, shuffled, vocab, mask, straight_through=True)
    (grad,) = torch.autograd.grad(loss, logits)
    hard = torch.eye(128)[codes].requires_grad_()
    alone = (codec.decode_soft(hard) - target).square().mean()
    (outer,) = torch.autograd.grad(alone, hard)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)
    probs = torch.softmax(logits.detach()[mask][:, ids], -1)
    outer = outer.view(200, 128)
    expected = probs * (outer - (probs * outer).sum(-1, keepdim=True))
    assert expected.abs().max() > 1e-6
    assert torch.allclose(grad[mask][:, ids], expected, atol=1e-8, rtol=1e-3)


def test_invalid_pixels_and_masked_positions_do_not_count(
    vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment
) -> None:
    codes = torch.randint(0, 128, (2, 10, 10), generator=torch.Generator().manual_seed(1))
    logits, mask = logits_for(codes, shuffled.token_ids(vocab), 4.0)
    target = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(2))
    valid = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(3)) > 0.5
    expected = (by_cells(torch.softmax(logits[mask][:, shuffled.token_ids(vocab)], -1).view(2, 10, 10, 128)) - target)[
        valid
    ]
    logits[~mask] = torch.nan
    logits.requires_grad_()
    holes = target.masked_fill(~valid, torch.nan)
    loss = reconstruction_loss(logits, holes, by_cells, shuffled, vocab, mask, valid=valid)
    assert loss.item() == pytest.approx(expected.square().mean().item(), rel=1e-5)
    (grad,) = torch.autograd.grad(loss, logits)
    assert (grad[~mask] == 0).all()
    assert torch.isfinite(grad).all()


def test_no_block_is_zero_with_zero_gradient(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    logits = torch.full((2, 120, 512), torch.nan, requires_grad=True)
    none = torch.zeros(2, 120, dtype=torch.bool)
    loss = reconstruction_loss(logits, torch.zeros(0, 320, 320), by_cells, shuffled, vocab, none)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
    logits = torch.zeros(1, 100, 512, requires_grad=True)
    hole = torch.full((1, 10, 10), torch.nan)
    loss = reconstruction_loss(logits, hole, by_cells, shuffled, vocab, valid=torch.zeros(1, 10, 10, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_bfloat16(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    codec = pt.DepthCodec.from_pretrained()
    logits = (40 * torch.randn(1, 100, 512, generator=torch.Generator().manual_seed(0))).bfloat16().requires_grad_()
    loss = reconstruction_loss(logits, torch.zeros(1, 320, 320), codec.decode_soft, shuffled, vocab)
    loss.backward()
    assert loss.dtype == torch.float32
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_bad_input_is_refused(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    logits, mask = torch.zeros(2, 205, 512), torch.zeros(2, 205, dtype=torch.bool)
    mask[0, :100] = mask[1, :100] = True
    target = torch.zeros(2, 10, 10)

    def loss(target: Tensor = target, mask: Tensor = mask, **options: Tensor) -> Tensor:
        return reconstruction_loss(logits, target, by_cells, shuffled, vocab, mask, **options)  # type: ignore[arg-type]

    loss()
    cut, torn = mask.clone(), mask.clone()
    cut[0, 99], cut[1, 100] = False, True
    torn[0, 99], torn[0, 150] = False, True
    for broken in (cut, torn):
        with pytest.raises(LossError, match=r"200 masked ones of \(2, 205\) are not whole blocks"):
            loss(mask=broken)
    with pytest.raises(LossError, match=r"\(2, H, W\), a map for each block; got torch.float32 \(1, 10, 10\)"):
        loss(target[:1])
    with pytest.raises(LossError, match="mark holes in `valid`"):
        loss(target + torch.nan)
    with pytest.raises(LossError, match=r"valid must be bool \(2, 10, 10\)"):
        loss(valid=torch.ones(2, 10, 10))
    with pytest.raises(LossError, match=r"the decoder gave maps \(2, 10, 10\), the targets are \(2, 10, 9\)"):
        loss(target[..., :9])
    with pytest.raises(LossError, match="temperature"):
        reconstruction_loss(logits, target, by_cells, shuffled, vocab, mask, temperature=0)
