"""Mapping of token ids, and of rows of weights, from one vocabulary to another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perceptok.errors import VocabularyError
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["AURORA_FIRST_ID", "consecutive_vocabulary", "remap_ids", "remap_rows"]

AURORA_FIRST_ID = 32000
"""The id of `<DEPTH_START>` in AURORA's released data and weights, directly after Llama's 32,000 pieces."""


def consecutive_vocabulary(
    first_id: int = AURORA_FIRST_ID, token_sets: Sequence[TokenSet] = (DEPTH, PIXEL)
) -> PerceptionVocabulary:
    """A vocabulary without a tokenizer: the tokens in order from `first_id` on; by default AURORA's.

    Raises:
        VocabularyError: A negative id.
    """
    if first_id < 0:
        raise VocabularyError(f"token ids must not be negative; got {first_id}")
    tokens = [token for token_set in token_sets for token in token_set.tokens]
    ids = {token: first_id + number for number, token in enumerate(tokens)}
    return PerceptionVocabulary(token_sets, ids, first_id + len(tokens))


def remap_ids(token_ids: Tensor, source: PerceptionVocabulary, target: PerceptionVocabulary) -> Tensor:
    """Map the ids of perception tokens from one vocabulary to another; all other ids are unchanged.

    Args:
        token_ids: Integers of any shape; negative ones (-100 in labels) are unchanged.
        source: The vocabulary of the ids.
        target: The vocabulary to map to; it must have all sets of the source.

    Returns:
        The same shape, dtype and device.

    Raises:
        VocabularyError: The target lacks a set, or an id that is not a perception token in the source is one in the
            target, because the two have different base tokens.
    """
    _check_sets(source, target)
    if token_ids.is_floating_point() or token_ids.dtype == torch.bool:
        raise VocabularyError(f"token ids must be integers; got {token_ids.dtype}")
    table = torch.arange(source.size)
    table[source.all_ids] = torch.tensor([target.tokens[token] for token in source.tokens])
    perception = source.is_perception(token_ids)
    clashing = ~perception & target.is_perception(token_ids)
    if clashing.any():
        index = int(token_ids[clashing][0])
        token = target.token(index)
        raise VocabularyError(
            f"id {index} is {token} in the target, but not a perception token in the source: the vocabularies have "
            "different base tokens; replace those ids first (such as image or padding tokens)"
        )
    mapped = table.to(token_ids.device)[token_ids.clamp(0, source.size - 1).long()].to(token_ids.dtype)
    return torch.where(perception, mapped, token_ids)


@torch.no_grad()
def remap_rows(rows: Tensor, into: Tensor, source: PerceptionVocabulary, target: PerceptionVocabulary) -> None:
    """Copy the perception tokens' rows of a matrix, or values of a bias, to their ids in another, in place.

    Args:
        rows: (V_source, ...) by the source's ids.
        into: (V_target, ...) by the target's ids, with the same trailing shape; other rows are unchanged.
        source: The vocabulary of `rows`.
        target: The vocabulary of `into`; it must have all sets of the source.

    Raises:
        VocabularyError: The target lacks a set, a matrix is too short, or the trailing shapes differ.
    """
    _check_sets(source, target)
    for name, matrix, vocab in (("source", rows, source), ("target", into, target)):
        last = int(vocab.all_ids.max())
        if len(matrix) <= last:
            raise VocabularyError(
                f"the {name} matrix has {len(matrix)} rows, its vocabulary ids up to {last}; extend the model first"
            )
    if rows.shape[1:] != into.shape[1:]:
        raise VocabularyError(f"rows of shape {tuple(rows.shape[1:])} do not fit into {tuple(into.shape[1:])}")
    to = torch.tensor([target.tokens[token] for token in source.tokens], device=into.device)
    into[to] = rows[source.all_ids.to(rows.device)].to(into)


def _check_sets(source: PerceptionVocabulary, target: PerceptionVocabulary) -> None:
    missing = [token_set.name for token_set in source.token_sets if not target.has(token_set)]
    if missing:
        raise VocabularyError(f"the target vocabulary has no {missing[0]} tokens; add them with extend_vocabulary")
