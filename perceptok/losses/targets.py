"""Which positions predict perception tokens: the shift by one, done once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from perceptok.errors import LossError
from perceptok.tokens import DEPTH, TokenSet
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment

__all__ = ["NextTokenTargets", "next_token_targets"]


class NextTokenTargets(NamedTuple):
    """What the unshifted logits (B, T, V) of a causal model are to predict, position by position.

    Attributes:
        codes: (B, T) int64, the code of the token after each position, -1 where it is none.
        mask: (B, T) bool, True where a code is predicted: the mask of every loss here.
        start: (B, T) bool, True where the set's start marker is predicted; False everywhere if it has none.
        end: (B, T) bool, the same for the end marker.
    """

    codes: Tensor
    mask: Tensor
    start: Tensor
    end: Tensor


def next_token_targets(
    input_ids: Tensor,
    vocab: PerceptionVocabulary,
    *,
    labels: Tensor | None = None,
    token_set: TokenSet = DEPTH,
    alignment: VocabularyAlignment | None = None,
) -> NextTokenTargets:
    """Targets for the logits as a Hugging Face model returns them, neither shifted nor cut.

    Such logits at position t are about the token at t + 1, so that a token at t is learned from position t - 1, and
    the last position predicts nothing. Shifting the small targets instead of the logits copies nothing large.

    Args:
        input_ids: (B, T) int64, as the model got them.
        vocab: The tokenizer's perception tokens.
        labels: (B, T), unshifted like `input_ids` (the Hugging Face convention); tokens labelled -100 are not targets.
        token_set: Whose codes are wanted.
        alignment: Give the specialist codes that the tokens stand for, instead of the tokens' own codes.

    Raises:
        LossError: `input_ids` or `labels` of another shape or type.
    """
    if input_ids.ndim != 2 or input_ids.is_floating_point():
        raise LossError(f"input ids are integers (B, T); got {input_ids.dtype} {tuple(input_ids.shape)}")
    if labels is not None and (labels.shape != input_ids.shape or labels.is_floating_point()):
        raise LossError(
            f"labels are integers in the shape of the input ids, {tuple(input_ids.shape)}, and not shifted; got "
            f"{labels.dtype} {tuple(labels.shape)}"
        )
    following = input_ids.roll(-1, dims=1)
    supervised = torch.ones_like(following, dtype=torch.bool)
    supervised[:, -1:] = False
    if labels is not None:
        supervised &= labels.roll(-1, dims=1) != -100
    if alignment is None:
        codes = vocab.codes(following, token_set)
    else:
        codes = alignment.codes_of_ids(following, vocab, token_set)
    codes = torch.where(supervised, codes, -1)
    start = end = torch.zeros_like(supervised)
    if token_set.delimited:
        start = supervised & (following == vocab.start_id(token_set))
        end = supervised & (following == vocab.end_id(token_set))
    return NextTokenTargets(codes, codes >= 0, start, end)
