"""Further terms for depth tokens, all off by default.

Perceptio (arXiv 2603.18795) has marker and count losses for well-formed blocks; only its abstract was available, and
the formulas here are ours. Merging tokens by their probabilities is a step of AURORA's Eq. 2 (arXiv 2412.03548, Sec.
6.3); `merging_loss` is computed after it, without the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perceptok.errors import LossError
from perceptok.losses.log_probs import column_log_probs
from perceptok.losses.targets import NextTokenTargets
from perceptok.tokens import DEPTH, TokenSet
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment

__all__ = ["count_loss", "marker_loss", "merging_loss"]


def marker_loss(
    logits: Tensor, targets: NextTokenTargets, vocab: PerceptionVocabulary, *, token_set: TokenSet = DEPTH
) -> Tensor:
    """Loss of start and end markers at their positions, and of markers within a block.

    -log p(marker) at the positions that predict a marker, and -log(1 - p(start) - p(end)) at those that predict a code,
    averaged over all of them.

    Args:
        logits: (B, T, V), unshifted.
        targets: From `next_token_targets` of the same sequences and set.
        vocab: The vocabulary, which gives the markers' columns.
        token_set: A set with markers.

    Returns:
        A scalar; zero with zero gradient where the batch has neither markers nor codes.
    """
    ids = torch.tensor([vocab.start_id(token_set), vocab.end_id(token_set)])
    at = targets.start | targets.end | targets.mask
    log_p = column_log_probs(logits, ids, at)
    start, end = targets.start[at].to(log_p.device), targets.end[at].to(log_p.device)
    # log(1 - p) from p itself loses everything near p = 1; capped, it stays finite there.
    neither = torch.log1p(-log_p.exp().sum(-1).clamp(max=1 - torch.finfo(log_p.dtype).eps))
    chosen = torch.where(start, log_p[:, 0], torch.where(end, log_p[:, 1], neither))
    return -chosen.sum() / max(1, len(chosen))


def count_loss(
    logits: Tensor, targets: NextTokenTargets, vocab: PerceptionVocabulary, *, token_set: TokenSet = DEPTH
) -> Tensor:
    """The expected number of code tokens in each block, against the true number: mean of ((E[n] - n) / n)^2.

    E[n] is the sum of p(any code of the set) over the positions that predict the block's codes and its end marker.

    Args:
        logits: (B, T, V), unshifted.
        targets: From `next_token_targets` of the same sequences and set.
        vocab: The vocabulary, which gives the codes' columns.
        token_set: A set with markers.

    Returns:
        A scalar; zero with zero gradient where the batch has no complete block.
    """
    at = targets.mask | targets.end
    inside = column_log_probs(logits, vocab.ids(token_set), at).exp().sum(-1)
    # A block's number: how many ends, and rows of the batch, come before it.
    ends = torch.cat([targets.end, torch.ones_like(targets.end[:, :1])], dim=1).reshape(-1).long()
    before = (ends.cumsum(0) - ends).view(len(targets.end), -1)[:, :-1]
    block = before[at].to(inside.device)
    ended = torch.zeros(int(ends.sum()), dtype=torch.bool, device=inside.device)
    ended[before[targets.end].to(inside.device)] = True
    true = torch.zeros(len(ended), dtype=inside.dtype, device=inside.device)
    true.index_add_(0, block, targets.mask[at].to(inside.device, inside.dtype))
    expected = torch.zeros_like(true).index_add(0, block, inside)
    whole = ended & (true > 0)
    errors = (expected[whole] - true[whole]) / true[whole]
    return errors.square().sum() / max(1, len(errors))


def merging_loss(
    logits: Tensor,
    codes: Tensor,
    codebook: Tensor,
    alignment: VocabularyAlignment,
    vocab: PerceptionVocabulary,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    token_set: TokenSet = DEPTH,
) -> Tensor:
    """Squared distance of the soft token sum_k p_k e_k to the true code's vector, in units of the codebook's spread.

    A wrong code costs little where its vector is near the true one: Eq. 2 in the codebook's space, without the decoder.
    The mean of the codebook has a loss of 1 on average.

    Args:
        logits: (B, T, V), unshifted.
        codes: (B, T) int64, the specialist code that each position predicts; ignored outside the mask.
        codebook: (|V_spec|, D): `codec.codebook`.
        alignment: The map from the specialist's codes to codes of the token set.
        vocab: The vocabulary, which gives the columns of the logits.
        mask: (B, T) bool, True where a code is predicted.
        temperature: Logits are divided by it.
        token_set: The auxiliary vocabulary.

    Returns:
        A scalar; zero with zero gradient without any masked position.

    Raises:
        LossError: Another shape, or codes out of range.
    """
    if codebook.ndim != 2 or len(codebook) != len(alignment):
        raise LossError(f"a codebook must be ({len(alignment)}, D); got {tuple(codebook.shape)}")
    if codes.shape != mask.shape:
        raise LossError(f"codes and mask must have the same shape; got {tuple(codes.shape)} and {tuple(mask.shape)}")
    ids = alignment.token_ids(vocab, token_set)
    probs = column_log_probs(logits, ids, mask, temperature=temperature, normalization="auxiliary").exp()
    vectors = codebook.detach().to(probs.device, probs.dtype)
    wanted = codes[mask].to(probs.device)
    if ((wanted < 0) | (wanted >= len(vectors))).any():
        raise LossError(f"codes are 0..{len(vectors) - 1} at masked positions; got others")
    spread = (vectors - vectors.mean(0)).square().sum(-1).mean().clamp(min=torch.finfo(vectors.dtype).tiny)
    distances = (probs @ vectors - vectors[wanted]).square().sum(-1)
    return distances.sum() / spread / max(1, len(distances))
