"""Adds perception tokens to a tokenizer, and rows for them to its model."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from perceptok.config import config_from_dict
from perceptok.errors import VocabularyError
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary.initialization import (
    Blend,
    Init,
    initialize_rows,
    make_blends,
    make_features,
    resolve_inits,
)
from perceptok.vocabulary.lookup import PerceptionVocabulary
from perceptok.vocabulary.matrices import TokenMatrices, find_matrices, grow_matrices, list_configs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["extend_vocabulary"]

_FLAGS = ("special", "normalized", "single_word", "lstrip", "rstrip")
"""Flags of an added token, none of which a perception token has."""

_CONFIG_KEY = "perception_rows"
"""Key in a model's config: which ids had their rows initialized or kept, as runs [first id, count] by set."""


def extend_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | None = None,
    token_sets: Sequence[TokenSet] = (DEPTH, PIXEL),
    *,
    init: Init | Mapping[TokenSet, Init] = "mean",
    codebook: Tensor | None = None,
    descriptions: Mapping[str, str] | None = None,
    existing: Literal["keep", "replace"] | None = None,
    pad_to_multiple_of: int | None = None,
    seed: int = 0,
) -> PerceptionVocabulary:
    """Add perception tokens to a tokenizer, and rows for them to a model; both are changed in place.

    The tokens are added in AURORA's order, as single tokens that are neither special (skipping special tokens would
    delete every block) nor normalized. Existing tokens keep their ids, and where they are special or normalized (as
    AURORA's own script and many others add them) they become plain, with a warning. The initialized rows are recorded
    in the model's config (`perception_rows`), so that a second call changes nothing, also after saving and loading.
    The matrices grow to hold every token and never shrink; rows are initialized by token id, including those that
    padding had created. Nothing is changed if the call raises.

    Args:
        tokenizer: A fast tokenizer.
        model: Any causal, multimodal or sequence-to-sequence model of transformers with an output head, tied or not.
        token_sets: The sets to add, in this order.
        init: The initialization of new rows, for all sets or by set. All but "mean" have the old rows' median norm.

            - "mean": the mean of the old rows. The old tokens' probabilities change least (Hewitt 2021).
            - "normal": independent draws from a normal distribution with the old rows' mean and covariance.
            - "ordinal": draws that follow a smooth curve over the codes, so that neighbours are similar. Codes of
              DEPTH have no order: unless named by set, they take "normal".
            - "codebook": a random projection of a codec's codebook, so that similar codes have similar rows. Given for
              all sets, it applies to DEPTH, and the others take "normal".
            - "text": the average of the pieces of a description, "depth 17"; pieces within a word count 1, 1/2, 1/4,
              so that 17 and 71 differ.
        codebook: (size, D), the codec's codebook, for "codebook".
        descriptions: Token -> words, for "text", instead of the set's name and the code.
        existing: What to do with rows that exist, in a model without a record of them: "keep" every one as trained
            (also where the tokenizer is the plain one, so that a trained model only gets its tokens back), or
            "replace" them. Without it, rows of tokens that the tokenizer had before are kept, with a warning; those
            of tokens that it lacked are taken for padding and initialised, with a warning where the model is exactly
            as long as the tokens need, as one is that was trained with them.
        pad_to_multiple_of: Round the number of rows up, for speed on some accelerators.
        seed: Of the draws; the same seed gives the same rows.

    Returns:
        The vocabulary of `token_sets`.

    Raises:
        VocabularyError: A slow tokenizer; a token that exists with another meaning; ids that are taken (gaps in the
            vocabulary, an image token that the model's config names but the tokenizer lacks); a tokenizer with other
            tokens that have no rows; a model that is not one of transformers, has no output head, or whose token
            matrices are tied in name only, several, quantized, sharded or not loaded; NaN or infinity in its rows; an
            `init`, codebook or description that does not fit.
    """
    inits = resolve_inits(init, token_sets, codebook)
    if pad_to_multiple_of is not None and (type(pad_to_multiple_of) is not int or pad_to_multiple_of < 1):
        raise VocabularyError(f"pad_to_multiple_of must be a positive integer; got {pad_to_multiple_of!r}")
    if existing not in (None, "keep", "replace"):
        raise VocabularyError(f"existing must be 'keep' or 'replace'; got {existing!r}")
    # All checks come before the first change.
    plan = _plan_tokens(tokenizer, token_sets)
    if model is not None:
        matrices = find_matrices(model)
        _check_other_tokens(matrices, plan)
        _check_configs(model, plan.vocab)
        empty: list[int] = []
        for token_set in token_sets:
            empty += _find_empty_rows(model, matrices, plan, token_set, existing)
        features, blends = make_features(inits, codebook), make_blends(tokenizer, inits, descriptions or {})
        step = pad_to_multiple_of or 1
        length = -(-max(matrices.rows, plan.vocab.size) // step) * step
        rows = _plan_rows(matrices, length, plan, empty, features, blends, seed)
    vocab = _add_tokens(tokenizer, plan)
    if model is not None:
        _write_rows(grow_matrices(model, length), rows)
        records = {token_set.name: _find_runs(_list_ids(vocab, token_set)) for token_set in token_sets}
        setattr(model.config, _CONFIG_KEY, _read_record(model) | records)
    if plan.reset:
        _warn_about_flags(plan)
    return vocab


@dataclass(frozen=True)
class _TokenPlan:
    """The changes that an extension makes to a tokenizer.

    Attributes:
        known: Token -> id of every token after the extension.
        vocab: The perception tokens after the extension.
        added: Tokens that the tokenizer lacks.
        reset: Tokens that it has, but not as plain ones -> their flags, to be cleared. Their ids stay.
    """

    known: Mapping[str, int]
    vocab: PerceptionVocabulary
    added: Sequence[str]
    reset: Mapping[str, tuple[str, ...]]

    @property
    def other_ids(self) -> set[int]:
        """Ids of all tokens that are not perception tokens."""
        return set(self.known.values()) - set(self.vocab.tokens.values())

    @property
    def new_ids(self) -> set[int]:
        """Ids of the tokens that the tokenizer lacks."""
        return {self.known[token] for token in self.added}


def _plan_tokens(tokenizer: PreTrainedTokenizerBase, token_sets: Sequence[TokenSet]) -> _TokenPlan:
    """Find out which tokens to add and whose flags to clear; refuses a tokenizer that cannot take the tokens."""
    if not getattr(tokenizer, "is_fast", False):
        raise VocabularyError(
            f"{type(tokenizer).__name__} is not a fast tokenizer: slow ones may split or strip text around added "
            "tokens; load a fast one (AutoTokenizer), from a processor its .tokenizer"
        )
    known = tokenizer.get_vocab()
    tokens = [token for token_set in token_sets for token in token_set.tokens]
    flags = {token: _find_flags(tokenizer, token, known[token]) for token in tokens if token in known}
    added = [token for token in tokens if token not in known]
    first = max(len(known), *(index + 1 for index in tokenizer.added_tokens_decoder), 0)
    ids = range(first, first + len(added))
    taken = set(ids) & set(known.values())
    if taken:
        raise VocabularyError(
            f"the tokenizer's ids have gaps: {len(known)} tokens, ids up to {max(known.values())}; new tokens would "
            f"take id {min(taken)}, which is in use. Fill the gaps with placeholder tokens first"
        )
    known = {**known, **dict(zip(added, ids, strict=True))}
    vocab = PerceptionVocabulary(token_sets, known, max(len(tokenizer) + len(added), max(known.values()) + 1))
    return _TokenPlan(known, vocab, added, {token: found for token, found in flags.items() if found})


def _find_flags(tokenizer: PreTrainedTokenizerBase, token: str, token_id: int) -> tuple[str, ...]:
    """The flags of a perception token that the tokenizer has; refuses one with another meaning."""
    as_added = tokenizer.added_tokens_decoder.get(token_id)
    if as_added is None or as_added.content != token:
        raise VocabularyError(
            f"the tokenizer has {token} already, as a piece of its base vocabulary (id {token_id}): text may "
            "be split differently around it; use a tokenizer without it, or rename the token set"
        )
    for role, special in tokenizer.special_tokens_map.items():
        if special == token:
            raise VocabularyError(
                f"the tokenizer has {token} already, as its {role}, a special token; a perception token cannot have "
                f"another role: give tokenizer.{role} another token first"
            )
    flags = tuple(flag for flag in _FLAGS if getattr(as_added, flag))
    return flags or (("special",) if token in tokenizer.all_special_tokens else ())


def _add_tokens(tokenizer: PreTrainedTokenizerBase, plan: _TokenPlan) -> PerceptionVocabulary:
    """Add the tokens and clear flags, and check the tokenizer against the plan."""
    if plan.reset:
        _clear_flags(tokenizer, plan.reset)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plan.added])
    tokens = plan.vocab.tokens
    vocab = PerceptionVocabulary.from_tokenizer(tokenizer, plan.vocab.token_sets)
    for token, token_id in tokens.items():
        if vocab.tokens[token] != token_id:
            raise VocabularyError(f"the tokenizer gave {token} the id {vocab.tokens[token]}, not {token_id}")
    ids = torch.tensor(tokenizer.encode("".join(tokens), add_special_tokens=False))
    if ids[vocab.is_perception(ids)].tolist() != list(tokens.values()):
        raise VocabularyError(f"{type(tokenizer).__name__} does not encode each perception token as the one id added")
    return vocab


def _clear_flags(tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, object]) -> None:
    """Make added tokens plain ones.

    Adding a token anew changes its flags, but a special one stays among those that decoding skips. So the tokenizer's
    backend is rebuilt from its own JSON, which preserves all else: ids, truncation, padding, templates.
    """
    fast: Any = tokenizer
    description = json.loads(fast.backend_tokenizer.to_str())
    for entry in description["added_tokens"]:
        if entry["content"] in tokens:
            entry.update(dict.fromkeys(_FLAGS, False))
    backend = Tokenizer.from_str(json.dumps(description))
    if backend.get_vocab() != fast.backend_tokenizer.get_vocab():
        raise VocabularyError(
            f"{type(tokenizer).__name__} gives its tokens other ids when it is rebuilt, so that the flags of "
            f"{next(iter(tokens))} cannot be cleared; start from the tokenizer without it"
        )
    fast._tokenizer = backend
    extra = [token for token in fast.extra_special_tokens if str(token) not in tokens]
    if len(extra) < len(fast.extra_special_tokens):
        fast.extra_special_tokens = extra


def _warn_about_flags(plan: _TokenPlan) -> None:
    """Warn the caller of `extend_vocabulary` that tokens which the tokenizer had are now plain ones."""
    counts = Counter(flag for flags in plan.reset.values() for flag in flags)
    first = next(iter(plan.reset))
    warnings.warn(
        f"the tokenizer had {len(plan.reset)} perception tokens, {first} first, as other than plain added tokens "
        f"({', '.join(f'{count} {flag}' for flag, count in counts.items())}): they are plain now, with the ids "
        f"they had ({plan.known[first]} for {first}). Save the tokenizer to keep the change",
        stacklevel=3,
    )


def _check_other_tokens(matrices: TokenMatrices, plan: _TokenPlan) -> None:
    """Refuse a tokenizer whose other tokens have no rows in the model."""
    rows, others = len(matrices.inputs), plan.other_ids
    if not others:
        raise VocabularyError("all of the tokenizer's tokens are perception tokens: no old rows to start from")
    beyond = [index for index in others if index >= rows]
    if beyond:
        first = next(token for token, index in plan.known.items() if index == min(beyond))
        raise VocabularyError(
            f"the tokenizer is longer than the model: {len(beyond)} of its tokens, {first!r} (id {min(beyond)}) first, "
            f"have no row among {rows}; load the model's own tokenizer, give them rows with "
            "model.resize_token_embeddings, or name them in token_sets if they are perception tokens"
        )


def _check_configs(model: PreTrainedModel, vocab: PerceptionVocabulary) -> None:
    """Refuse ids that the model's configuration gives another meaning."""
    tokens = {index: token for token, index in vocab.tokens.items()}
    for config in list_configs(model):
        for key, value in vars(config).items():
            if key.endswith(("_token_id", "_token_index")):
                for index in value if isinstance(value, list) else [value]:
                    if index in tokens:
                        raise VocabularyError(
                            f"{type(config).__name__}.{key} is {index}, which would be the id of {tokens[index]}; add "
                            "the model's own tokens (such as its image token) to the tokenizer first, or correct the "
                            "config"
                        )


def _find_empty_rows(
    model: PreTrainedModel, matrices: TokenMatrices, plan: _TokenPlan, token_set: TokenSet, existing: str | None
) -> list[int]:
    """The ids of a set whose rows are to be initialized."""
    ids, new, length = _list_ids(plan.vocab, token_set), plan.new_ids, matrices.rows
    beyond = [index for index in ids if index >= length]
    if existing == "replace":
        return ids
    record = _read_record(model).get(token_set.name)
    if existing == "keep" or record == _find_runs(ids):
        return beyond
    if record is not None:
        raise VocabularyError(
            f"the model's {token_set.name} rows were made for ids from {record[0][0]} on, the tokenizer's begin at "
            f"{ids[0]}; load the tokenizer that was saved with the model, or copy the rows with remap_rows and "
            "pass existing='keep'"
        )
    if any(index not in new for index in beyond):
        return ids  # the model was never extended for this tokenizer, whatever rows padding had left it
    known = [index for index in ids if index not in new]
    if known:
        warnings.warn(
            f"the tokenizer had {len(known)} of the {token_set.name} tokens already, and the model has rows for them: "
            "they are kept as they are. Pass existing='keep' if they are trained, existing='replace' if not",
            stacklevel=3,
        )
    padding = [index for index in ids if index in new and index < length]
    if padding and length == plan.vocab.size:
        warnings.warn(
            f"the model has exactly as many rows as the tokens need, as if it had been trained with them: "
            f"{len(padding)} rows of {token_set.name} are initialized anew. Pass existing='keep' if they are trained, "
            "'replace' if not",
            stacklevel=3,
        )
    return [index for index in ids if index in new]


@torch.no_grad()
def _plan_rows(
    matrices: TokenMatrices,
    length: int,
    plan: _TokenPlan,
    empty: Sequence[int],
    features: Tensor,
    blends: Mapping[int, Blend],
    seed: int,
) -> list[tuple[Tensor, Tensor]]:
    """For each matrix and the bias: ids, and the rows to write there once there are `length` rows.

    The ids are the `empty` ones, and those of rows that padding adds for no token at all, which get the mean.
    """
    vocab = plan.vocab
    perception, others = set(vocab.tokens.values()), torch.tensor(sorted(plan.other_ids))
    chosen = torch.isin(vocab.all_ids, torch.tensor(empty, dtype=torch.int64))
    generator = torch.Generator().manual_seed(seed)
    planned = []
    for matrix in matrices.parameters:
        padding = set(range(len(matrix), len(matrix) + length - matrices.rows)) - perception
        ids = torch.cat([vocab.all_ids[chosen], torch.tensor(sorted(padding), dtype=torch.int64)])
        old = others[others < len(matrix)]
        if not len(ids):
            rows = matrix[:0]
        elif matrix is matrices.bias:
            rows = matrix[old.to(matrix.device)].float().mean().expand(len(ids))
        else:
            first, mean = initialize_rows(matrix, old, features, blends, generator)
            rows = torch.cat([first[chosen.to(first.device)], mean.expand(len(padding), -1)])
        if not rows.isfinite().all():
            raise VocabularyError(
                "new rows start from the old ones, and among those are NaN or infinite values: the model is damaged"
            )
        planned.append((ids.to(matrix.device), rows.to(matrix.dtype)))
    return planned


@torch.no_grad()
def _write_rows(matrices: TokenMatrices, planned: Sequence[tuple[Tensor, Tensor]]) -> None:
    for matrix, (ids, rows) in zip(matrices.parameters, planned, strict=True):
        matrix[ids] = rows


def _list_ids(vocab: PerceptionVocabulary, token_set: TokenSet) -> list[int]:
    return [vocab.tokens[token] for token in token_set.tokens]


def _read_record(model: PreTrainedModel) -> dict[str, list[list[int]]]:
    """Token set -> [first id, count] of each stretch of its rows; raises VocabularyError where it is not valid."""
    values = {"runs": getattr(model.config, _CONFIG_KEY, None) or {}}
    record = config_from_dict(_RowRecord, values, name=f"the model's config, {_CONFIG_KEY}", error=VocabularyError)
    return {name: [list(run) for run in runs] for name, runs in record.runs.items()}


@dataclass(frozen=True)
class _RowRecord:
    runs: dict[str, tuple[tuple[int, int], ...]]


def _find_runs(ids: Sequence[int]) -> list[list[int]]:
    """Ids as [first, count] of each stretch of consecutive ones."""
    runs: list[list[int]] = []
    for index in ids:
        if runs and index == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([index, 1])
    return runs
