"""Teaching a tokenizer and its model the perception tokens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from perceptok.errors import VocabularyError
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary.additions import add_tokens, plan_tokens, say_mended
from perceptok.vocabulary.initialisation import Blend, block_diagonal, initial_rows
from perceptok.vocabulary.lookup import PerceptionVocabulary
from perceptok.vocabulary.matrices import TokenMatrices, configs_of, find_matrices, grow_matrices
from perceptok.vocabulary.recipes import Init, blends_of, features_of, inits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["extend_vocabulary"]

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
    inits = inits_of(init, token_sets, codebook)
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
        say_mended(vocab, plan)
        return vocab
    old = find_matrices(model)
    _require_rows(model, old, known, vocab)
    wanted: list[int] = []
    for one in token_sets:
        wanted += _unfilled(model, old.rows, vocab, one, added, existing)
    features = block_diagonal([features_of(one, inits[one], codebook) for one in token_sets])
    blends = blends_of(tokenizer, inits, descriptions or {})
    step = pad_to_multiple_of or 1
    rows = -(-max(old.rows, vocab.size) // step) * step
    # All that may be refused comes before the first change.
    fillings = _fillings(old, rows, known, vocab, wanted, features, blends, seed)

    vocab = add_tokens(tokenizer, vocab, plan)
    _fill(grow_matrices(model, rows), fillings)
    setattr(model.config, _MARK, {**_record(model), **{one.name: _runs(_ids(vocab, one)) for one in token_sets}})
    say_mended(vocab, plan)
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
            else "the tokenizer has no tokens but perception tokens, so that there are no old rows to start from"
        )
    tokens = {index: token for token, index in vocab.tokens.items()}
    for config in configs_of(model):
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


def _unfilled(
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
    record = _record(model).get(token_set.name)
    if record == _runs(ids):
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
def _fillings(
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


def _record(model: PreTrainedModel) -> dict[str, list[list[int]]]:
    return dict(getattr(model.config, _MARK, None) or {})


def _runs(ids: Sequence[int]) -> list[list[int]]:
    """Ids as [first, count] of each stretch of consecutive ones."""
    runs: list[list[int]] = []
    for index in ids:
        if runs and index == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([index, 1])
    return runs
