"""Tokens, codes and ids of a tokenizer, in both directions."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.errors import VocabularyError


def test_codes_and_ids_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)
    assert vocab.token_sets == (pt.tokens.DEPTH, pt.tokens.PIXEL)
    assert vocab.size == len(tokenizer) == 10 + 130 + 336
    for token_set in vocab.token_sets:
        ids = vocab.ids(token_set)
        assert tokenizer.convert_ids_to_tokens(ids.tolist()) == [
            token_set.token(code) for code in range(token_set.size)
        ]
        assert [vocab.code(int(token_id)) for token_id in ids] == [(token_set, code) for code in range(token_set.size)]
        assert torch.equal(vocab.codes(ids, token_set), torch.arange(token_set.size))
    assert tokenizer.convert_ids_to_tokens([vocab.start_id(pt.tokens.DEPTH), vocab.end_id(pt.tokens.DEPTH)]) == list(
        pt.tokens.DEPTH.tokens[:2]
    )
    assert {vocab.token(index): index for index in vocab.all_ids.tolist()} == vocab.tokens
    assert repr(vocab) == "PerceptionVocabulary(DEPTH 10..139, PIXEL 140..475 of 476)"
    for stranger in (3, -1, 476):
        with pytest.raises(VocabularyError, match=rf"token id {stranger} is not in PerceptionVocabulary\(DEPTH"):
            vocab.token(stranger)


def test_other_ids_of_any_shape_have_no_code(tokenizer: PreTrainedTokenizerFast) -> None:
    vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)
    ids = torch.tensor([[vocab.token_id(pt.tokens.DEPTH, 127), vocab.start_id(pt.tokens.DEPTH), 3], [-100, 10_000, 12]])
    assert vocab.codes(ids, pt.tokens.DEPTH).tolist() == [[127, -1, -1], [-1, -1, 0]]
    assert vocab.codes(ids, pt.tokens.PIXEL).tolist() == [[-1, -1, -1], [-1, -1, -1]]
    assert vocab.is_perception(ids).tolist() == [[True, True, False], [False, False, True]]
    assert vocab.is_perception(vocab.end_id(pt.tokens.DEPTH))
    assert not vocab.is_perception(10_000)


def test_missing_sets_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer, (pt.tokens.PIXEL,))
    assert not vocab.has(pt.tokens.DEPTH)
    with pytest.raises(VocabularyError, match="no DEPTH tokens, only PIXEL"):
        vocab.token_id(pt.tokens.DEPTH, 0)
    with pytest.raises(VocabularyError, match="not a code of PIXEL"):
        vocab.code(3)
    with pytest.raises(ValueError, match=r"0\.\.335; got 336"):
        vocab.token_id(pt.tokens.PIXEL, 336)


class _Known(dict[str, int]):
    """The two questions that a vocabulary asks of a tokenizer."""

    def get_vocab(self) -> dict[str, int]:
        return self


def test_a_tokenizer_without_the_tokens() -> None:
    with pytest.raises(VocabularyError, match="no perception tokens"):
        pt.PerceptionVocabulary.from_tokenizer(_Known(a=0))
    half = _Known({token: index for index, token in enumerate(pt.tokens.DEPTH.tokens[:100])})
    with pytest.raises(VocabularyError, match=r"lacks 30 of the 130 DEPTH tokens, <DEPTH_98> first"):
        pt.PerceptionVocabulary.from_tokenizer(half)
