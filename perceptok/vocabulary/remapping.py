"""From the ids of one vocabulary to those of another: data, and rows of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perceptok.errors import VocabularyError
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["AURORA_FIRST_ID", "consecutive_vocabulary", "remap_ids", "remap_rows"]

AURORA_FIRST_ID = 32000
"""`<DEPTH_START>` in AURORA's released data and weights: its tokens follow Llama's 32,000 pieces at once."""


def consecutive_vocabulary(
    first_id: int = AURORA_FIRST_ID, token_sets: Sequence[TokenSet] = (DEPTH, PIXEL)
) -> PerceptionVocabulary:
    """A vocabulary without its tokenizer: the tokens in order from `first_id` on; by default AURORA's own.

    Raises:
        VocabularyError: A negative id.
    """
    if first_id < 0:
        raise VocabularyError(f"token ids are not negative; got {first_id}")
    tokens = [token for token_set in token_sets for token in token_set.tokens]
    ids = {token: first_id + number for number, token in enumerate(tokens)}
    return PerceptionVocabulary(token_sets, ids, first_id + len(tokens))


def remap_ids(token_ids: Tensor, source: PerceptionVocabulary, target: PerceptionVocabulary) -> Tensor:
    """Perception tokens of one vocabulary -> the same tokens in another; every other id stays as it is.

    Args:
        token_ids: Integers of any shape; negative ones (-100 in labels) stay.
        source: The vocabulary that the ids are of.
        target: The one they shall be of; it has every set of the source.

    Returns:
        The same shape, dtype and device.

    Raises:
        VocabularyError: The target lacks a set, or an id that is not a perception token in the source is one in the
            target: the two have other base tokens, which this map does not know.
    """
    _require_sets(source, target)
    if token_ids.is_floating_point() or token_ids.dtype == torch.bool:
        raise VocabularyError(f"token ids are integers; got {token_ids.dtype}")
    table = torch.arange(source.size)
    table[source.all_ids] = torch.tensor([target.tokens[token] for token in source.tokens])
    ours = source.is_perception(token_ids)
    clashing = ~ours & target.is_perception(token_ids)
    if clashing.any():
        index = int(token_ids[clashing][0])
        token = next(token for token, one in target.tokens.items() if one == index)
        raise VocabularyError(
            f"id {index} is {token} in the target, but no perception token in the source: the vocabularies have other "
            "base tokens; replace those ids first (such as image or padding tokens)"
        )
    mapped = table.to(token_ids.device)[token_ids.clamp(0, source.size - 1).long()].to(token_ids.dtype)
    return torch.where(ours, mapped, token_ids)


@torch.no_grad()
def remap_rows(rows: Tensor, into: Tensor, source: PerceptionVocabulary, target: PerceptionVocabulary) -> None:
    """Copy the perception tokens' rows of one matrix, or values of one bias, to their places in another, in place.

    Args:
        rows: (V_source, ...) by the source's ids.
        into: (V_target, ...) by the target's ids, with the same trailing shape; other rows stay as they are.
        source: The vocabulary of `rows`.
        target: The vocabulary of `into`; it has every set of the source.

    Raises:
        VocabularyError: The target lacks a set, a matrix is too short, or the trailing shapes differ.
    """
    _require_sets(source, target)
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


def _require_sets(source: PerceptionVocabulary, target: PerceptionVocabulary) -> None:
    lacking = [token_set.name for token_set in source.token_sets if not target.has(token_set)]
    if lacking:
        raise VocabularyError(f"the target vocabulary has no {lacking[0]} tokens; add them with extend_vocabulary")
