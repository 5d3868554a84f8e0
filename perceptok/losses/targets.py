"""The positions that predict perception tokens: the shift by one between logits and tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from perceptok.errors import LossError
from perceptok.tokens import DEPTH, TokenSet
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment

__all__ = ["NextTokenTargets", "next_token_targets"]


class NextTokenTargets(NamedTuple):
    """The targets of the unshifted logits (B, T, V) of a causal model.

    Attributes:
        codes: (B, T) int64, the code of the token after each position, -1 for other tokens.
        mask: (B, T) bool, True where a code is predicted: the mask of all losses here.
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

    Such logits at position t predict the token at t + 1, and the last position predicts nothing. Shifting the small
    targets instead of the logits saves memory.

    Args:
        input_ids: (B, T) int64, the model's input.
        vocab: The tokenizer's perception tokens.
        labels: (B, T), unshifted like `input_ids` (the Hugging Face convention); tokens labelled -100 are not targets.
        token_set: The set of the codes.
        alignment: Where given, targets are the specialist codes that the tokens stand for, instead of their own codes.

    Raises:
        LossError: `input_ids` or `labels` of another shape or type.
    """
    if input_ids.ndim != 2 or input_ids.is_floating_point():
        raise LossError(f"input ids must be integers (B, T); got {input_ids.dtype} {tuple(input_ids.shape)}")
    if labels is not None and (labels.shape != input_ids.shape or labels.is_floating_point()):
        raise LossError(
            f"labels must be unshifted integers of the input ids' shape {tuple(input_ids.shape)}; got "
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
