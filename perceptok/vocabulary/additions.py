"""The tokenizer's side of an extension: what it lacks, which ids that gets, and whether it takes it as meant."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer

from perceptok.errors import VocabularyError
from perceptok.tokens import TokenSet
from perceptok.vocabulary.lookup import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenPlan", "add_tokens", "plan_tokens", "say_mended"]

_FLAGS = ("special", "normalized", "single_word", "lstrip", "rstrip")
"""What an added token may be and a perception token is not."""


@dataclass(frozen=True)
class TokenPlan:
    """What an extension does to a tokenizer.

    Attributes:
        added: Tokens that it lacks -> the ids they will get.
        mended: Tokens that it has, but not as plain ones -> their flags, which are to go. Their ids stay.
    """

    added: Mapping[str, int]
    mended: Mapping[str, tuple[str, ...]]


def plan_tokens(tokenizer: PreTrainedTokenizerBase, token_sets: Sequence[TokenSet]) -> TokenPlan:
    """What the tokenizer lacks and what it has otherwise than meant; refuses one that cannot take the tokens."""
    if not getattr(tokenizer, "is_fast", False):
        raise VocabularyError(
            f"{type(tokenizer).__name__} is no fast tokenizer: slow ones may split or strip text around added tokens; "
            "load a fast one (AutoTokenizer), from a processor its .tokenizer"
        )
    known = tokenizer.get_vocab()
    special = tokenizer.added_tokens_decoder
    roles = {str(token): role for role, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    skipped = set(tokenizer.all_special_tokens)
    mended = {}
    for token in (token for one in token_sets for token in one.tokens if token in known):
        as_added = special.get(known[token])
        if as_added is None or as_added.content != token:
            raise VocabularyError(
                f"the tokenizer has {token} already, as a piece of its base vocabulary (id {known[token]}): text may "
                "be split differently around it; use a tokenizer without it, or rename the token set"
            )
        if token in roles:
            raise VocabularyError(
                f"the tokenizer has {token} already, as a token that is special, its {roles[token]}; a perception "
                f"token has no other part to play: give tokenizer.{roles[token]} another token first"
            )
        flags = tuple(flag for flag in _FLAGS if getattr(as_added, flag))
        if flags or token in skipped:
            mended[token] = flags or ("special",)
    missing = [token for one in token_sets for token in one.tokens if token not in known]
    first = max(len(known), *(index + 1 for index in special), 0)
    ids = range(first, first + len(missing))
    taken = set(ids) & set(known.values())
    if taken:
        raise VocabularyError(
            f"the tokenizer's ids have gaps: {len(known)} tokens, ids up to {max(known.values())}; new tokens would "
            f"take id {min(taken)}, which is in use. Fill the gaps with placeholder tokens first"
        )
    return TokenPlan(dict(zip(missing, ids, strict=True)), mended)


def add_tokens(
    tokenizer: PreTrainedTokenizerBase, vocab: PerceptionVocabulary, plan: TokenPlan
) -> PerceptionVocabulary:
    """Add and mend the tokens, and hold the tokenizer to what was planned."""
    if plan.mended:
        _make_plain(tokenizer, plan.mended)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plan.added])
    found = PerceptionVocabulary.from_tokenizer(tokenizer, vocab.token_sets)
    different = [token for token, index in vocab.tokens.items() if found.tokens[token] != index]
    if different:
        token = different[0]
        raise VocabularyError(f"the tokenizer gave {token} the id {found.tokens[token]}, not {vocab.tokens[token]}")
    ids = torch.tensor(tokenizer.encode("".join(vocab.tokens), add_special_tokens=False))
    if ids[found.is_perception(ids)].tolist() != list(vocab.tokens.values()):
        raise VocabularyError(f"{type(tokenizer).__name__} does not encode perception tokens one by one as added")
    return found


def say_mended(vocab: PerceptionVocabulary, plan: TokenPlan) -> None:
    """Warn the caller of `extend_vocabulary` that tokens which the tokenizer had are not as they were."""
    if not plan.mended:
        return
    counted = Counter(flag for flags in plan.mended.values() for flag in flags)
    first = next(iter(plan.mended))
    warnings.warn(
        f"the tokenizer had {len(plan.mended)} perception tokens, {first} first, as other than plain added tokens "
        f"({', '.join(f'{count} {flag}' for flag, count in counted.items())}): they are plain now, with the ids "
        f"they had ({vocab.tokens[first]} for {first}). Save the tokenizer to keep it so",
        stacklevel=3,
    )


def _make_plain(tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, object]) -> None:
    """Clear the flags of added tokens.

    Adding a token anew changes its flags, but a special one stays among those that decoding skips. So the tokenizer's
    core is made anew from its own description, which keeps all else: ids, truncation, padding, templates.
    """
    fast: Any = tokenizer
    description = json.loads(fast.backend_tokenizer.to_str())
    for one in description["added_tokens"]:
        if one["content"] in tokens:
            one.update(dict.fromkeys(_FLAGS, False))
    core = Tokenizer.from_str(json.dumps(description))
    if core.get_vocab() != fast.backend_tokenizer.get_vocab():
        raise VocabularyError(
            f"{type(tokenizer).__name__} gives its tokens other ids when it is made anew, so that the flags of "
            f"{next(iter(tokens))} cannot be mended; start from the tokenizer without it"
        )
    fast._tokenizer = core
    extra = [token for token in fast.extra_special_tokens if str(token) not in tokens]
    if len(extra) < len(fast.extra_special_tokens):
        fast.extra_special_tokens = extra
