"""Optional loss terms, compared with computations by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import perceptok as pt
from perceptok.errors import LossError
from perceptok.losses import (
    NextTokenTargets,
    count_loss,
    marker_loss,
    merging_loss,
    next_token_targets,
)
from perceptok.vocabulary import VocabularyAlignment


@pytest.fixture
def ids(vocab: pt.PerceptionVocabulary) -> Tensor:
    """Row 0: a block of 3 and one of 5 codes; row 1: one of 4 after a stray code, and one that is cut off."""
    start, end = vocab.start_id(pt.tokens.DEPTH), vocab.end_id(pt.tokens.DEPTH)
    word = next(index for index in range(500) if not vocab.is_perception(index))
    codes = vocab.ids(pt.tokens.DEPTH).tolist()
    rows = [
        [word, start, *codes[:3], end, word, start, *codes[3:8], end, word],
        [word, word, word, start, *codes[:4], end, word, start, *codes[:4]],
    ]
    return torch.tensor(rows)


@pytest.fixture
def targets(ids: Tensor, vocab: pt.PerceptionVocabulary) -> NextTokenTargets:
    return next_token_targets(ids, vocab)


def random_logits(seed: int = 0) -> Tensor:
    return 3 * torch.randn(2, 15, 512, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sharp_logits(ids: Tensor, height: float = 40.0) -> Tensor:
    """Logits that are all but sure of the next token."""
    return torch.zeros(*ids.shape, 512).scatter_(2, ids.roll(-1, 1)[..., None], height)


def test_marker_loss_by_hand(targets: NextTokenTargets, vocab: pt.PerceptionVocabulary) -> None:
    logits = random_logits().requires_grad_()
    probs = torch.softmax(logits.detach(), -1)
    start, end = probs[..., vocab.start_id(pt.tokens.DEPTH)], probs[..., vocab.end_id(pt.tokens.DEPTH)]
    terms = [-start[targets.start].log(), -end[targets.end].log(), -(1 - start - end)[targets.mask].log()]
    loss = marker_loss(logits, targets, vocab)
    assert loss.item() == pytest.approx(torch.cat(terms).mean().item(), rel=1e-9)
    assert torch.autograd.gradcheck(lambda values: marker_loss(values, targets, vocab), (logits,), fast_mode=True)


def test_count_loss_by_hand(ids: Tensor, targets: NextTokenTargets, vocab: pt.PerceptionVocabulary) -> None:
    logits = random_logits().requires_grad_()
    inside = torch.softmax(logits.detach(), -1)[..., vocab.ids(pt.tokens.DEPTH)].sum(-1)
    # (row, first and last position that predict the block's codes or its end, true number)
    blocks = [(0, 1, 4, 3), (0, 7, 12, 5), (1, 3, 7, 4)]
    assert [int(ids[row, last + 1]) for row, _, last, _ in blocks] == [vocab.end_id(pt.tokens.DEPTH)] * 3
    expected = [(float(inside[row, first : last + 1].sum()) / true - 1) ** 2 for row, first, last, true in blocks]
    loss = count_loss(logits, targets, vocab)
    assert loss.item() == pytest.approx(sum(expected) / 3, rel=1e-9)
    assert torch.autograd.gradcheck(lambda values: count_loss(values, targets, vocab), (logits,), fast_mode=True)


def test_merging_loss_by_hand(
    targets: NextTokenTargets, vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment
) -> None:
    codebook = torch.randn(128, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    logits = random_logits().requires_grad_()
    total = 0.0
    for row, place in targets.mask.nonzero().tolist():
        probs = torch.softmax(logits.detach()[row, place, shuffled.token_ids(vocab)] / 0.5, 0)
        total += float((probs @ codebook - codebook[targets.codes[row, place]]).square().sum())
    spread = float((codebook - codebook.mean(0)).square().sum(-1).mean())
    loss = merging_loss(logits, targets.codes, codebook, shuffled, vocab, targets.mask, temperature=0.5)
    assert loss.item() == pytest.approx(total / spread / int(targets.mask.sum()), rel=1e-9)


def test_a_near_code_costs_less_than_a_far_one(targets: NextTokenTargets, vocab: pt.PerceptionVocabulary) -> None:
    codebook = torch.arange(128.0)[:, None]
    alignment, ids = VocabularyAlignment.identity(128), vocab.ids(pt.tokens.DEPTH)

    def loss(off: int) -> float:
        predicted = ids[(targets.codes.clamp(min=0) + off) % 128]
        logits = torch.zeros(2, 15, 512).scatter_(2, predicted[..., None], 40.0)
        return merging_loss(logits, targets.codes, codebook, alignment, vocab, targets.mask).item()

    assert loss(0) == pytest.approx(0, abs=1e-6)
    assert 0 < loss(1) < loss(2) < loss(50)


def test_certain_correct_predictions_have_no_loss(
    ids: Tensor, targets: NextTokenTargets, vocab: pt.PerceptionVocabulary
) -> None:
    logits = sharp_logits(ids)
    assert marker_loss(logits, targets, vocab).item() == pytest.approx(0, abs=1e-6)
    assert count_loss(logits, targets, vocab).item() == pytest.approx(0, abs=1e-6)


def test_certain_wrong_predictions_have_a_finite_loss(
    ids: Tensor, targets: NextTokenTargets, vocab: pt.PerceptionVocabulary
) -> None:
    wrong = torch.full_like(ids, vocab.end_id(pt.tokens.DEPTH))
    logits = torch.zeros(*ids.shape, 512).scatter_(2, wrong[..., None], 200.0).bfloat16().requires_grad_()
    (marker_loss(logits, targets, vocab) + count_loss(logits, targets, vocab)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_batch_without_blocks_is_zero(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    word = next(index for index in range(500) if not vocab.is_perception(index))
    targets = next_token_targets(torch.full((2, 6), word), vocab)
    logits = torch.full((2, 6, 512), torch.nan, requires_grad=True)
    loss = (
        marker_loss(logits, targets, vocab)
        + count_loss(logits, targets, vocab)
        + merging_loss(logits, targets.codes, torch.eye(128), shuffled, vocab, targets.mask)
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_bad_input_is_refused(
    vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment, targets: NextTokenTargets
) -> None:
    logits = random_logits()
    with pytest.raises(LossError, match=r"a codebook must be \(128, D\); got \(127, 4\)"):
        merging_loss(logits, targets.codes, torch.zeros(127, 4), shuffled, vocab, targets.mask)
    with pytest.raises(LossError, match=r"codes are 0\.\.127"):
        merging_loss(logits, targets.codes - 5, torch.zeros(128, 4), shuffled, vocab, targets.mask)
    with pytest.raises(ValueError, match="PIXEL token set has no START token"):
        marker_loss(logits, targets, vocab, token_set=pt.tokens.PIXEL)
