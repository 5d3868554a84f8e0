"""First rows for new tokens, as pure functions of the old rows: no model, no tokenizer."""

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
    "RowSurvey",
    "block_diagonal",
    "codebook_features",
    "initial_rows",
    "make_blends",
    "make_features",
    "ordinal_features",
    "resolve_inits",
    "survey_rows",
]


ROWS_PER_DRAW = 2048
"""Old rows behind one draw. All 32,000 would cost 12 times the arithmetic for rows of the same distribution."""

Blend = tuple[Tensor, Tensor]
"""Ids of old rows (k,) and their weights (k,), which sum to 1."""


class RowSurvey(NamedTuple):
    """What one pass over the old rows of a matrix tells.

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
    covariance. The old rows are dealt to `n_old // 2048` classes (every k-th id, so that each has frequent and rare
    tokens alike), and every draw takes the n rows of one class. No more than one class is held in float32 at a time.

    Args:
        matrix: (V, D) in any floating type, on any device.
        old_ids: (n_old,) int64, the rows that count: neither padding nor perception tokens.
        count: Number of draws.
        generator: On the CPU, so that a seed gives the same rows on every device.
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
def initial_rows(
    matrix: Tensor,
    old_ids: Tensor,
    features: Tensor,
    blends: Mapping[int, Blend],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """First rows of new tokens: `mean + features @ draws`, brought to the old rows' median norm.

    The features decide how alike two tokens start: the expected inner product of their rows' deviations is that of
    their features, in every direction in which the old rows vary.

    Args:
        matrix: (V, D), see `survey_rows`.
        old_ids: (n_old,) int64.
        features: (N, k) float32: the identity gives independent draws from the old rows' normal; a row of zeros
            leaves the mean itself, at its own norm.
        blends: Number of a new row -> old rows to average instead of the mean of all.
        generator: On the CPU.

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
    curve, on which the next value is told apart (similarity 0.97) and the far end is a stranger (below 0.01 for 336).
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
        VocabularyError: The codebook has another shape than (size, D_code), no floating type, or NaN or infinity.
    """
    if not isinstance(codebook, Tensor):
        raise VocabularyError(f"a codebook is a tensor, such as codec.codebook; got {type(codebook).__name__}")
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


def block_diagonal(parts: Sequence[Tensor]) -> Tensor:
    """Features of several sets side by side, so that each set has draws of its own; parts without columns are fine."""
    joined: Tensor = torch.block_diag(*parts)  # type: ignore[no-untyped-call]
    return joined


Init = Literal["mean", "normal", "ordinal", "codebook", "text"]


def resolve_inits(
    init: Init | Mapping[TokenSet, Init], token_sets: Sequence[TokenSet], codebook: Tensor | None
) -> dict[TokenSet, Init]:
    """How each set starts; checked against what was passed."""
    sets = [] if isinstance(token_sets, TokenSet) else list(token_sets)
    if (
        not sets
        or not all(isinstance(token_set, TokenSet) for token_set in sets)
        or len({token_set.name for token_set in sets}) < len(sets)
    ):
        raise VocabularyError(f"token_sets are one or more different sets, as (DEPTH, PIXEL); got {token_sets!r}")
    if isinstance(init, Mapping):
        if init.keys() != set(token_sets):
            raise VocabularyError(
                f"init names the sets {sorted(getattr(kind, 'name', repr(kind)) for kind in init)}, token_sets are "
                f"{sorted(token_set.name for token_set in token_sets)}; give one init for each TokenSet"
            )
        inits = {token_set: init[token_set] for token_set in token_sets}
    else:
        unfit = {
            token_set
            for token_set in token_sets
            if (token_set == DEPTH and init == "ordinal") or (token_set != DEPTH and init == "codebook")
        }
        inits = {token_set: "normal" if token_set in unfit else init for token_set in token_sets}
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


def make_features(token_set: TokenSet, init: Init, codebook: Tensor | None) -> Tensor:
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


def make_blends(
    tokenizer: PreTrainedTokenizerBase, inits: Mapping[TokenSet, Init], descriptions: Mapping[str, str]
) -> dict[int, Blend]:
    """For tokens that start from words: number of the token -> pieces and weights."""
    tokens = [(init, token) for init in inits for token in init.tokens]
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
