"""Teaching a tokenizer and its model the perception tokens."""

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

from perceptok.errors import VocabularyError
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary.initialization import (
    Blend,
    Init,
    block_diagonal,
    initial_rows,
    make_blends,
    make_features,
    resolve_inits,
)
from perceptok.vocabulary.lookup import PerceptionVocabulary
from perceptok.vocabulary.matrices import TokenMatrices, find_matrices, grow_matrices, list_configs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["TokenPlan", "add_tokens", "extend_vocabulary", "plan_tokens", "warn_of_changed_tokens"]


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
            f"{type(tokenizer).__name__} is not a fast tokenizer: slow ones may split or strip text around added "
            "tokens; load a fast one (AutoTokenizer), from a processor its .tokenizer"
        )
    known = tokenizer.get_vocab()
    special = tokenizer.added_tokens_decoder
    roles = {str(token): role for role, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    skipped = set(tokenizer.all_special_tokens)
    mended = {}
    for token in (token for token_set in token_sets for token in token_set.tokens if token in known):
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
    missing = [token for token_set in token_sets for token in token_set.tokens if token not in known]
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


def warn_of_changed_tokens(vocab: PerceptionVocabulary, plan: TokenPlan) -> None:
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


_MARK = "perception_rows"
"""Key in a model's config: which ids had their rows initialised or kept, as runs [first id, count] by set."""


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
    delete every block) nor normalised. Tokens that are there already keep their ids, and where they are special or
    normalised (as AURORA's own script and many others add them) they become plain, with a warning that says so.
    Missing ones are added, and what was done is on record in the model's config (`perception_rows`), so that a second
    call changes nothing, also after saving and loading. The matrices grow to hold every token and never shrink; rows
    are initialised by token id, so also those that padding had created. Nothing is changed if the call is refused.

    Args:
        tokenizer: A fast one.
        model: Any causal, multimodal or sequence-to-sequence model of transformers with an output head, tied or not.
        token_sets: What to add, in this order.
        init: How new rows start, for all sets or by set. Except for "mean" they get the old rows' median norm.

            - "mean": the mean of the old rows. The old tokens' probabilities change least (Hewitt 2021).
            - "normal": independent draws from the normal of the old rows, see `survey_rows`.
            - "ordinal": draws that follow a smooth curve over the codes, so that neighbours start alike. Codes of
              DEPTH have no order: unless asked for by set, they take "normal".
            - "codebook": a random projection of a codec's codebook, so that similar codes start alike. Asked for
              all sets, it holds for DEPTH, and the others take "normal".
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
            tokens that have no rows; a model that `find_matrices` refuses, or with NaN or infinity in its rows; an
            unfit `init`, codebook or description.
    """
    inits = resolve_inits(init, token_sets, codebook)
    if pad_to_multiple_of is not None and (type(pad_to_multiple_of) is not int or pad_to_multiple_of < 1):
        raise VocabularyError(f"pad_to_multiple_of is a positive integer; got {pad_to_multiple_of!r}")
    if existing not in (None, "keep", "replace"):
        raise VocabularyError(f"existing is 'keep' or 'replace'; got {existing!r}")
    plan = plan_tokens(tokenizer, token_sets)
    added = plan.added
    known = {**tokenizer.get_vocab(), **added}
    vocab = PerceptionVocabulary(token_sets, known, max(len(tokenizer) + len(added), max(known.values()) + 1))
    if model is None:
        vocab = add_tokens(tokenizer, vocab, plan)
        warn_of_changed_tokens(vocab, plan)
        return vocab
    old = find_matrices(model)
    _require_rows(model, old, known, vocab)
    wanted: list[int] = []
    for token_set in token_sets:
        wanted += _find_unfilled(model, old.rows, vocab, token_set, added, existing)
    features = block_diagonal([make_features(token_set, inits[token_set], codebook) for token_set in token_sets])
    blends = make_blends(tokenizer, inits, descriptions or {})
    step = pad_to_multiple_of or 1
    rows = -(-max(old.rows, vocab.size) // step) * step
    # All that may be refused comes before the first change.
    fillings = _plan_fillings(old, rows, known, vocab, wanted, features, blends, seed)

    vocab = add_tokens(tokenizer, vocab, plan)
    _fill(grow_matrices(model, rows), fillings)
    setattr(
        model.config,
        _MARK,
        {**_record_rows(model), **{token_set.name: _find_runs(_ids(vocab, token_set)) for token_set in token_sets}},
    )
    warn_of_changed_tokens(vocab, plan)
    return vocab


def _require_rows(
    model: PreTrainedModel, matrices: TokenMatrices, known: Mapping[str, int], vocab: PerceptionVocabulary
) -> None:
    """Refuse a tokenizer whose other tokens have no rows, and ids that the model's config gives another meaning."""
    rows = len(matrices.inputs)
    others = {index: token for token, index in known.items() if token not in vocab.tokens}
    beyond = [index for index in others if index >= rows]
    if beyond or not others:
        raise VocabularyError(
            f"the tokenizer is longer than the model: {len(beyond)} of its tokens, {others[min(beyond)]!r} (id "
            f"{min(beyond)}) first, have no row among {rows}; load the model's own tokenizer, give them rows with "
            "model.resize_token_embeddings, or name them in token_sets if they are perception tokens"
            if beyond
            else "the tokenizer has no tokens but perception tokens, so that no old rows exist to start from"
        )
    tokens = {index: token for token, index in vocab.tokens.items()}
    for config in list_configs(model):
        for key, value in vars(config).items():
            named = (
                (value if isinstance(value, list) else [value]) if key.endswith(("_token_id", "_token_index")) else []
            )
            for index in named:
                if index in tokens:
                    raise VocabularyError(
                        f"{type(config).__name__}.{key} is {index}, which would be the id of {tokens[index]}; add the "
                        "model's own tokens (such as its image token) to the tokenizer first, or mend the config"
                    )


def _find_unfilled(
    model: PreTrainedModel,
    rows: int,
    vocab: PerceptionVocabulary,
    token_set: TokenSet,
    added: Mapping[str, int],
    existing: str | None,
) -> list[int]:
    """The ids of a set whose rows are to be initialised."""
    ids, new = _ids(vocab, token_set), set(added.values())
    if existing == "replace":
        return ids
    record = _record_rows(model).get(token_set.name)
    if record == _find_runs(ids):
        return [index for index in ids if index >= rows]
    if existing == "keep":
        return [index for index in ids if index >= rows]
    if record is not None:
        raise VocabularyError(
            f"the model's {token_set.name} rows were made for ids from {record[0][0]} on, the tokenizer's begin at "
            f"{ids[0]}; load the tokenizer that was saved with the model, or bring the rows over with remap_rows and "
            "say existing='keep'"
        )
    if any(index >= rows and index not in new for index in ids):
        return ids  # the model was never extended for this tokenizer, whatever rows padding had left it
    kept = [index for index in ids if index not in new]
    if kept:
        warnings.warn(
            f"the tokenizer had {len(kept)} of the {token_set.name} tokens already, and the model has rows for them: "
            "they are kept as they are. Say existing='keep' if they are trained, existing='replace' if not",
            stacklevel=3,
        )
    taken = [index for index in ids if index in new and index < rows]
    if taken and rows == vocab.size:
        warnings.warn(
            f"the model has exactly as many rows as the tokens need, as one that was trained with them: {len(taken)} "
            f"rows of {token_set.name} are made anew. Say existing='keep' if they are trained, 'replace' if not",
            stacklevel=3,
        )
    return [index for index in ids if index in new]


@torch.no_grad()
def _plan_fillings(
    old: TokenMatrices,
    rows: int,
    known: Mapping[str, int],
    vocab: PerceptionVocabulary,
    wanted: Sequence[int],
    features: Tensor,
    blends: Mapping[int, Blend],
    seed: int,
) -> list[tuple[Tensor, Tensor]]:
    """For each matrix and the bias: ids, and what to put there once there are `rows` rows.

    They are the `wanted` ids, and those that growing leaves empty for no token at all, which get the mean.
    """
    ours = set(vocab.tokens.values())
    others = torch.tensor(sorted(set(known.values()) - ours))
    numbers = torch.isin(vocab.all_ids, torch.tensor(wanted, dtype=torch.int64))
    generator = torch.Generator().manual_seed(seed)
    fillings = []
    for matrix in old.parameters:
        grown = range(len(matrix), len(matrix) + rows - old.rows)
        ids = torch.cat([vocab.all_ids[numbers], torch.tensor(sorted(set(grown) - ours), dtype=torch.int64)])
        read = others[others < len(matrix)]
        if not len(ids):
            values = matrix[:0]
        elif matrix is old.bias:
            values = matrix[read.to(matrix.device)].float().mean().expand(len(ids))
        else:
            first, mean = initial_rows(matrix, read, features, blends, generator)
            values = torch.cat([first[numbers.to(first.device)], mean.expand(len(ids) - int(numbers.sum()), -1)])
        if not values.isfinite().all():
            raise VocabularyError(
                "new rows start from the old ones, and among those are NaN or infinite values: the model is damaged"
            )
        fillings.append((ids.to(matrix.device), values.to(matrix.dtype)))
    return fillings


@torch.no_grad()
def _fill(matrices: TokenMatrices, fillings: Sequence[tuple[Tensor, Tensor]]) -> None:
    for matrix, (ids, values) in zip(matrices.parameters, fillings, strict=True):
        matrix[ids] = values


def _ids(vocab: PerceptionVocabulary, token_set: TokenSet) -> list[int]:
    return [vocab.tokens[token] for token in token_set.tokens]


def _record_rows(model: PreTrainedModel) -> dict[str, list[list[int]]]:
    return dict(getattr(model.config, _MARK, None) or {})


def _find_runs(ids: Sequence[int]) -> list[list[int]]:
    """Ids as [first, count] of each stretch of consecutive ones."""
    runs: list[list[int]] = []
    for index in ids:
        if runs and index == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([index, 1])
    return runs
