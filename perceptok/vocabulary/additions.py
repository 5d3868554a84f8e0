"""The tokenizer's side of an extension: what it lacks, which ids that gets, and whether it takes it as meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from tokenizers import AddedToken

from perceptok.errors import VocabularyError
from perceptok.tokens import TokenSet
from perceptok.vocabulary.lookup import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["add_tokens", "plan_tokens"]


def plan_tokens(tokenizer: PreTrainedTokenizerBase, token_sets: Sequence[TokenSet]) -> dict[str, int]:
    """The tokens that the tokenizer lacks and the ids they will get; refuses a tokenizer that cannot take them."""
    if not getattr(tokenizer, "is_fast", False):
        raise VocabularyError(
            f"{type(tokenizer).__name__} is no fast tokenizer: slow ones may split or strip text around added tokens; "
            "load a fast one (AutoTokenizer), from a processor its .tokenizer"
        )
    known = tokenizer.get_vocab()
    special = tokenizer.added_tokens_decoder
    for token in (token for one in token_sets for token in one.tokens if token in known):
        as_added = special.get(known[token])
        if as_added is None or as_added.content != token:
            raise VocabularyError(
                f"the tokenizer has {token} already, as a piece of its base vocabulary (id {known[token]}): text may "
                "be split differently around it; use a tokenizer without it, or rename the token set"
            )
        flags = [
            flag for flag in ("special", "normalized", "single_word", "lstrip", "rstrip") if getattr(as_added, flag)
        ]
        if flags:
            raise VocabularyError(
                f"the tokenizer has {token} already, as a token that is {', '.join(flags)}; perception tokens "
                "are plain: start from the tokenizer without it"
            )
    missing = [token for one in token_sets for token in one.tokens if token not in known]
    first = max(len(known), *(index + 1 for index in special), 0)
    ids = range(first, first + len(missing))
    taken = set(ids) & set(known.values())
    if taken:
        raise VocabularyError(
            f"the tokenizer's ids have gaps: {len(known)} tokens, ids up to {max(known.values())}; new tokens would "
            f"take id {min(taken)}, which is in use. Fill the gaps with placeholder tokens first"
        )
    return dict(zip(missing, ids, strict=True))


def add_tokens(
    tokenizer: PreTrainedTokenizerBase, vocab: PerceptionVocabulary, added: Mapping[str, int]
) -> PerceptionVocabulary:
    """Add the tokens, and hold the tokenizer to what was planned."""
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    found = PerceptionVocabulary.from_tokenizer(tokenizer, vocab.token_sets)
    different = [token for token, index in vocab.tokens.items() if found.tokens[token] != index]
    if different:
        token = different[0]
        raise VocabularyError(f"the tokenizer gave {token} the id {found.tokens[token]}, not {vocab.tokens[token]}")
    ids = torch.tensor(tokenizer.encode("".join(vocab.tokens), add_special_tokens=False))
    if ids[found.is_perception(ids)].tolist() != list(vocab.tokens.values()):
        raise VocabularyError(f"{type(tokenizer).__name__} does not encode perception tokens one by one as added")
    return found
