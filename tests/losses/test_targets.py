"""The shift by one, compared with a loop and with a causal model of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import perceptok as pt
from perceptok.errors import LossError
from perceptok.losses import distillation_loss, next_token_targets
from perceptok.vocabulary import VocabularyAlignment


def sequence(vocab: pt.PerceptionVocabulary, seed: int, text: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Some words, one block, one word; and the block's codes."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 128, (100,), generator=generator)
    words = torch.tensor([index for index in range(500) if not vocab.is_perception(index)])
    ids = [
        words[:text],
        torch.tensor([vocab.start_id(pt.tokens.DEPTH)]),
        vocab.ids(pt.tokens.DEPTH)[codes],
        torch.tensor([vocab.end_id(pt.tokens.DEPTH)]),
        words[-1:],
    ]
    return torch.cat(ids), codes


def test_positions_predict_the_following_token(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    rows = [sequence(vocab, seed)[0] for seed in range(2)]
    ids = torch.stack(rows)
    labels = ids.clone()
    labels[1, :30] = -100
    for alignment in (None, shuffled):
        targets = next_token_targets(ids, vocab, labels=labels, alignment=alignment)
        for row in range(2):
            for place in range(ids.shape[1]):
                last = place + 1 == ids.shape[1]
                following = -1 if last or labels[row, place + 1] == -100 else int(ids[row, place + 1])
                code = int(vocab.codes(torch.tensor(following), pt.tokens.DEPTH))
                if alignment is not None and code >= 0:
                    code = alignment.targets.index(code)
                assert targets.codes[row, place] == code
                assert targets.mask[row, place] == (code >= 0)
                assert targets.start[row, place] == (following == vocab.start_id(pt.tokens.DEPTH))
                assert targets.end[row, place] == (following == vocab.end_id(pt.tokens.DEPTH))


def test_a_block_has_a_hundred_positions_from_its_start_marker_on(vocab: pt.PerceptionVocabulary) -> None:
    ids, codes = sequence(vocab, 0)
    targets = next_token_targets(ids[None], vocab)
    assert targets.mask.nonzero()[:, 1].tolist() == list(range(4, 104))
    assert torch.equal(targets.codes[targets.mask], codes)
    assert targets.start.nonzero().tolist() == [[0, 3]]
    assert targets.end.nonzero().tolist() == [[0, 104]]


def test_the_loss_is_that_of_transformers(vocab: pt.PerceptionVocabulary) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.stack([sequence(vocab, seed)[0] for seed in range(2)])
    labels = torch.where(vocab.codes(ids, pt.tokens.DEPTH) >= 0, ids, -100)
    out = model(input_ids=ids, labels=labels)
    targets = next_token_targets(ids, vocab, labels=labels)
    alignment = VocabularyAlignment.identity(128)
    loss = distillation_loss(out.logits, targets.codes, alignment, vocab, targets.mask)
    assert loss.item() == pytest.approx(out.loss.item(), rel=1e-5)
    loss.backward()
    assert model.lm_head.weight.grad is not None


def test_a_set_without_markers(vocab: pt.PerceptionVocabulary) -> None:
    ids = vocab.ids(pt.tokens.PIXEL)[torch.tensor([[3, 1, 4, 1, 5]])]
    targets = next_token_targets(ids, vocab, token_set=pt.tokens.PIXEL)
    assert targets.codes.tolist() == [[1, 4, 1, 5, -1]]
    assert not targets.start.any()
    assert not targets.end.any()
    assert not next_token_targets(ids, vocab).mask.any()


def test_bad_input_is_refused(vocab: pt.PerceptionVocabulary) -> None:
    with pytest.raises(LossError, match=r"integers \(B, T\); got torch.int64 \(5,\)"):
        next_token_targets(torch.zeros(5, dtype=torch.int64), vocab)
    for labels in (torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 5)):
        with pytest.raises(LossError, match=r"labels must be unshifted integers of the input ids' shape \(1, 5\)"):
            next_token_targets(torch.zeros(1, 5, dtype=torch.int64), vocab, labels=labels)
