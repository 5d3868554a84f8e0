"""How the tokens of each set start: the five inits, as features of draws and as blends of old rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from perceptok.errors import VocabularyError
from perceptok.tokens import DEPTH, TokenSet
from perceptok.vocabulary.initialisation import Blend, block_diagonal, codebook_features, ordinal_features

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Init", "blends_of", "features_of", "inits_of"]

Init = Literal["mean", "normal", "ordinal", "codebook", "text"]


def inits_of(
    init: Init | Mapping[TokenSet, Init], token_sets: Sequence[TokenSet], codebook: Tensor | None
) -> dict[TokenSet, Init]:
    """How each set starts; checked against what was passed."""
    sets = [] if isinstance(token_sets, TokenSet) else list(token_sets)
    if not sets or not all(isinstance(one, TokenSet) for one in sets) or len({one.name for one in sets}) < len(sets):
        raise VocabularyError(f"token_sets are one or more different sets, as (DEPTH, PIXEL); got {token_sets!r}")
    if isinstance(init, Mapping):
        if init.keys() != set(token_sets):
            raise VocabularyError(
                f"init names the sets {sorted(getattr(one, 'name', repr(one)) for one in init)}, token_sets are "
                f"{sorted(one.name for one in token_sets)}; give one init for each TokenSet"
            )
        inits = {one: init[one] for one in token_sets}
    else:
        unfit = {
            one for one in token_sets if (one == DEPTH and init == "ordinal") or (one != DEPTH and init == "codebook")
        }
        inits = {one: "normal" if one in unfit else init for one in token_sets}
    unknown = [one for one in inits.values() if one not in get_args(Init)]
    if unknown:
        raise VocabularyError(f"init is one of {', '.join(get_args(Init))}; got {unknown[0]!r}")
    asked = init == "codebook" or "codebook" in inits.values()
    if asked != (codebook is not None):
        raise VocabularyError(
            "init='codebook' needs the codec's codebook, (128, D): pass codebook="
            if asked
            else "a codebook was passed, but no set takes init='codebook'"
        )
    return inits


def features_of(token_set: TokenSet, init: Init, codebook: Tensor | None) -> Tensor:
    """(tokens, k): the markers of a set start as independent draws, its codes as `init` says."""
    markers = len(token_set.tokens) - token_set.size
    if init in ("mean", "text"):
        return torch.zeros(len(token_set.tokens), 0)
    if init == "ordinal":
        codes = ordinal_features(token_set.size)
    elif init == "codebook":
        assert codebook is not None
        codes = codebook_features(codebook, token_set)
    else:
        codes = torch.eye(token_set.size)
    return block_diagonal([torch.eye(markers), codes])


def blends_of(
    tokenizer: PreTrainedTokenizerBase, inits: Mapping[TokenSet, Init], descriptions: Mapping[str, str]
) -> dict[int, Blend]:
    """For tokens that start from words: number of the token -> pieces and weights."""
    tokens = [(one, token) for one in inits for token in one.tokens]
    strangers = descriptions.keys() - {token for one, token in tokens if inits[one] == "text"}
    if strangers:
        raise VocabularyError(f"{min(strangers)} has a description, but no set with init='text' has such a token")
    cache: dict[str, list[int]] = {}
    blends = {}
    for number, (one, token) in enumerate(tokens):
        if inits[one] == "text":
            words = descriptions.get(token, token.strip("<>").replace("_", " ").lower())
            blends[number] = _blend(tokenizer, words, cache)
    return blends


def _blend(tokenizer: PreTrainedTokenizerBase, words: str, cache: dict[str, list[int]]) -> Blend:
    """Words count alike; the pieces within one count 1, 1/2, 1/4, ..."""
    ids: list[int] = []
    weights: list[Tensor] = []
    for word in words.split():
        if word not in cache:
            pieces = tokenizer.encode(word, add_special_tokens=False)
            cache[word] = [piece for piece in pieces if piece != tokenizer.unk_token_id]
        if cache[word]:
            ids += cache[word]
            share = 0.5 ** torch.arange(len(cache[word]))
            weights.append(share / share.sum())
    if not weights:
        raise VocabularyError(f"the tokenizer has no piece of the description {words!r}; describe it in other words")
    return torch.tensor(ids), torch.cat(weights) / len(weights)
