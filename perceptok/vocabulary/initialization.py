"""Initialization of new tokens' rows from the old rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from perceptok.errors import VocabularyError
from perceptok.tokens import DEPTH, TokenSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Init",
    "codebook_features",
    "initialize_rows",
    "make_blends",
    "make_features",
    "ordinal_features",
    "resolve_inits",
    "survey_rows",
]

Init = Literal["mean", "normal", "ordinal", "codebook", "text"]
"""The initializations of new tokens' rows that `extend_vocabulary` describes."""

ROWS_PER_DRAW = 2048
"""Old rows per draw. All 32,000 would cost 12 times the arithmetic for rows of the same distribution."""

Blend = tuple[Tensor, Tensor]
"""Ids of old rows (k,) and their weights (k,), which sum to 1."""


class RowSurvey(NamedTuple):
    """Statistics of the old rows of a matrix.

    Attributes:
        mean: (D,) float32.
        norm: The median Euclidean norm of a row.
        draws: (count, D) float32, centred draws from the rows' multivariate normal.
    """

    mean: Tensor
    norm: float
    draws: Tensor


@torch.no_grad()
def survey_rows(matrix: Tensor, old_ids: Tensor, count: int, generator: torch.Generator) -> RowSurvey:
    """Mean, norm and normal draws of a matrix's old rows, without forming the D x D covariance.

    A draw is `g @ (rows - mean) / sqrt(n)` with standard normal g: given the rows it is normal, with exactly their
    covariance. The old rows are divided into `n_old // 2048` classes (every k-th id, so that each has frequent and rare
    tokens), and every draw takes the n rows of a class. Only one class at a time is converted to float32.

    Args:
        matrix: (V, D) in any floating type, on any device.
        old_ids: (n_old,) int64, the rows of neither padding nor perception tokens.
        count: Number of draws.
        generator: A CPU generator, so that a seed gives the same rows on every device.
    """
    classes = max(1, len(old_ids) // ROWS_PER_DRAW)
    total = torch.zeros(matrix.shape[1], dtype=torch.float64, device=matrix.device)
    norms, draws = [], torch.empty(count, matrix.shape[1], device=matrix.device)
    for number in range(classes):
        rows = matrix[old_ids[number::classes].to(matrix.device)].float()
        norms.append(rows.norm(dim=1))
        mean = rows.mean(dim=0)
        total += mean.double() * len(rows)
        size = len(range(number, count, classes))
        if size:
            rows -= mean
            weights = torch.randn(size, len(rows), generator=generator) / math.sqrt(len(rows))
            draws[number::classes] = weights.to(matrix.device) @ rows
    return RowSurvey((total / len(old_ids)).float(), float(torch.cat(norms).median()), draws)


@torch.no_grad()
def initialize_rows(
    matrix: Tensor,
    old_ids: Tensor,
    features: Tensor,
    blends: Mapping[int, Blend],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Initialize the rows of new tokens: `mean + features @ draws`, scaled to the old rows' median norm.

    The features determine the similarity of two tokens: the expected inner product of their rows' deviations is that
    of their features, in every direction in which the old rows vary.

    Args:
        matrix: (V, D) in any floating type, on any device.
        old_ids: (n_old,) int64.
        features: (N, k) float32: the identity gives independent draws from the old rows' normal; a row of zeros
            leaves the mean itself, at its own norm.
        blends: Number of a new row -> old rows to average instead of the mean of all.
        generator: A CPU generator.

    Returns:
        The rows (N, D) and the mean of the old rows (D,), both float32 on the matrix's device.
    """
    survey = survey_rows(matrix, old_ids, features.shape[1], generator)
    rows = features.to(matrix.device) @ survey.draws + survey.mean
    for number, (ids, weights) in blends.items():
        rows[number] = weights.to(matrix.device) @ matrix[ids.to(matrix.device)].float()
    scaled = features.any(dim=1)
    scaled[list(blends)] = True
    scaled = scaled.to(matrix.device)
    rows[scaled] = F.normalize(rows[scaled], dim=1) * survey.norm
    return rows, survey.mean


def ordinal_features(size: int) -> Tensor:
    """Features of values 0 .. size - 1 on a scale: similarity falls smoothly with distance; (size, size) float32.

    The Cholesky factor of a mean of Gaussian kernels of widths 2, 8, 32, ...: rows drawn with it follow a smooth
    curve, on which neighbours are distinct (similarity 0.97) and the two ends unrelated (0.01 for 336).
    """
    values = torch.arange(size, dtype=torch.float64)
    squared = (values[:, None] - values[None]) ** 2
    widths = [2.0]
    while widths[-1] * 8 <= size:
        widths.append(widths[-1] * 4)
    kernel = torch.stack([torch.exp(-squared / (2 * width**2)) for width in widths]).mean(0)
    factor: Tensor = torch.linalg.cholesky(kernel + 1e-6 * torch.eye(size, dtype=torch.float64))
    return factor.float()


def codebook_features(codebook: Tensor, token_set: TokenSet) -> Tensor:
    """Features of codes: their codebook vectors, centred and of unit length, (size, D_code) float32.

    `features @ draws` is then a random projection of the codebook into the space of the old rows.

    Raises:
        VocabularyError: The codebook is not a finite floating tensor of shape (size, D_code).
    """
    if not isinstance(codebook, Tensor):
        raise VocabularyError(f"a codebook must be a tensor, such as codec.codebook; got {type(codebook).__name__}")
    if codebook.ndim != 2 or len(codebook) != token_set.size or not codebook.is_floating_point():
        raise VocabularyError(
            f"a codebook for {token_set.name} is a floating tensor of shape ({token_set.size}, D); "
            f"got {codebook.dtype} of shape {tuple(codebook.shape)}"
        )
    vectors = codebook.detach().cpu().double()
    if not vectors.isfinite().all():
        row = int((~vectors.isfinite()).any(dim=1).nonzero()[0])
        raise VocabularyError(f"the codebook's vector of code {row} is not finite; the codec is damaged")
    features: Tensor = F.normalize(vectors - vectors.mean(dim=0), dim=1).float()
    return features


def resolve_inits(
    init: Init | Mapping[TokenSet, Init], token_sets: Sequence[TokenSet], codebook: Tensor | None
) -> dict[TokenSet, Init]:
    """The init of each set, checked against the codebook that was passed."""
    sets = [] if isinstance(token_sets, TokenSet) else list(token_sets)
    names = {token_set.name for token_set in sets if isinstance(token_set, TokenSet)}
    if not sets or len(names) < len(sets):
        raise VocabularyError(f"token_sets must be one or more different sets, as (DEPTH, PIXEL); got {token_sets!r}")
    if not isinstance(init, Mapping):
        # Codes of DEPTH have no order, and no other set has a codebook.
        inits: dict[TokenSet, Init] = {
            token_set: "normal" if init == ("ordinal" if token_set == DEPTH else "codebook") else init
            for token_set in sets
        }
    elif init.keys() == set(sets):
        inits = {token_set: init[token_set] for token_set in sets}
    else:
        raise VocabularyError(
            f"init names the sets {sorted(getattr(named, 'name', repr(named)) for named in init)}, token_sets are "
            f"{sorted(names)}; give one init for each TokenSet"
        )
    unknown = [value for value in inits.values() if value not in get_args(Init)]
    if unknown:
        raise VocabularyError(f"init must be one of {', '.join(get_args(Init))}; got {unknown[0]!r}")
    needed = init == "codebook" or "codebook" in inits.values()
    if needed != (codebook is not None):
        raise VocabularyError(
            "init='codebook' needs the codec's codebook, (128, D): pass codebook="
            if needed
            else "a codebook was passed, but no set has init='codebook'"
        )
    return inits


def make_features(inits: Mapping[TokenSet, Init], codebook: Tensor | None) -> Tensor:
    """Features of all tokens, (tokens, k) float32: each set, and its markers, have columns of their own.

    Rows of sets with init "mean" or "text" are zero. Markers are independent draws.
    """
    parts = []
    for token_set, init in inits.items():
        markers = len(token_set.tokens) - token_set.size
        if init in ("mean", "text"):
            parts.append(torch.zeros(len(token_set.tokens), 0))
            continue
        if init == "ordinal":
            codes = ordinal_features(token_set.size)
        elif init == "codebook":
            assert codebook is not None
            codes = codebook_features(codebook, token_set)
        else:
            codes = torch.eye(token_set.size)
        parts += [torch.eye(markers), codes]
    features: Tensor = torch.block_diag(*parts)  # type: ignore[no-untyped-call]
    return features


def make_blends(
    tokenizer: PreTrainedTokenizerBase, inits: Mapping[TokenSet, Init], descriptions: Mapping[str, str]
) -> dict[int, Blend]:
    """Number of each token with init "text" -> its pieces and their weights."""
    tokens = [(token, init) for token_set, init in inits.items() for token in token_set.tokens]
    unknown = descriptions.keys() - {token for token, init in tokens if init == "text"}
    if unknown:
        raise VocabularyError(f"{min(unknown)} has a description, but no set with init='text' has such a token")
    cache: dict[str, list[int]] = {}
    return {
        number: _make_blend(tokenizer, descriptions.get(token, token.strip("<>").replace("_", " ").lower()), cache)
        for number, (token, init) in enumerate(tokens)
        if init == "text"
    }


def _make_blend(tokenizer: PreTrainedTokenizerBase, words: str, cache: dict[str, list[int]]) -> Blend:
    """Words have equal weights; the pieces within a word 1, 1/2, 1/4, ..."""
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
        raise VocabularyError(f"the tokenizer has no piece of the description {words!r}; use other words")
    return torch.tensor(ids), torch.cat(weights) / len(weights)
