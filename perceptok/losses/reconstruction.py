"""The reconstruction loss of depth maps decoded from soft tokens: Eq. 2 of AURORA (arXiv 2412.03548)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perceptok.errors import LossError
from perceptok.losses.log_probs import column_log_probs
from perceptok.tokens import DEPTH, DEPTH_GRID, TokenSet
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment

__all__ = ["reconstruction_loss"]


_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]


def reconstruction_loss(
    logits: Tensor,
    target_nearness: Tensor,
    decoder: Callable[[Tensor], Tensor],
    alignment: VocabularyAlignment,
    vocab: PerceptionVocabulary,
    mask: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    temperature: float = 1.0,
    straight_through: bool = False,
    token_set: TokenSet = DEPTH,
) -> Tensor:
    """Mean squared error of the decoded map, ||g(t) - f||^2 (Eq. 2), differentiable in the logits.

    t are soft tokens: the codebook vectors averaged under the model's probabilities of the codes' tokens (Sec. 6.3);
    `codec.decode_soft` computes and decodes them (g). f in the paper is the codec's map of the true codes, which is
    target_nearness=codec.decode(codes); the depth map itself contains errors that the codec cannot avoid. The paper
    trains with weight 0: its Table 6 finds no gain. The normalization over the codes' tokens alone, and the mask of
    valid pixels, are our reading.

    Args:
        logits: (B, T, V) at the positions that predict the codes, as for `distillation_loss`; or (N, V).
        target_nearness: (M, H, W), a map for each of the M blocks, in the order of the batch.
        decoder: g: (M, 10, 10, |V_spec|) probabilities -> (M, H, W) nearness; `codec.decode_soft`.
        alignment: The map from the codec's codes to codes of the token set.
        vocab: The vocabulary, which gives the columns of the logits.
        mask: True at the positions that predict codes: a run of 100 for each block.
        valid: (M, H, W) bool, True at pixels that count; targets elsewhere may be NaN.
        temperature: Logits are divided by it; towards 0 the expectation becomes the most probable code's vector.
        straight_through: Decode the most probable codes, as at inference, with the gradient of the probabilities.
        token_set: The auxiliary vocabulary.

    Returns:
        A scalar float32; zero with zero gradient without a block or a valid pixel.

    Raises:
        LossError: Shapes that do not fit, truncated blocks, or targets that are not finite at valid pixels.
        AlignmentError: The alignment is not into the token set.
    """
    ids = alignment.token_ids(vocab, token_set)
    log_p = column_log_probs(logits, ids, mask, temperature=temperature, normalization="auxiliary")
    blocks = _count_blocks(logits, mask, len(log_p))
    target, counted = _check_target(target_nearness, valid, blocks)
    probs = log_p.exp().view(blocks, *DEPTH_GRID, len(alignment))
    if not blocks:
        return probs.sum()
    if straight_through:
        best = torch.zeros_like(probs).scatter_(-1, probs.argmax(-1, keepdim=True), 1.0)
        probs = best + probs - probs.detach()
    decoded = decoder(probs)
    if decoded.shape != target.shape:
        raise LossError(f"the decoder gave maps {tuple(decoded.shape)}, the targets are {tuple(target.shape)}")
    target, counted = target.to(decoded.device, decoded.dtype), counted.to(decoded.device)
    error = torch.where(counted, decoded - torch.where(counted, target, 0), 0)
    return error.square().sum() / counted.sum().clamp(min=1)


def _count_blocks(logits: Tensor, mask: Tensor | None, positions: int) -> int:
    """The number of blocks; raises LossError for runs that are not complete blocks."""
    if mask is None or not positions:
        whole = positions % _CELLS == 0
    else:
        lines = mask.reshape(-1, mask.shape[-1])
        whole = not (lines.sum(-1) % _CELLS).any()
        if whole:
            places = mask.reshape(-1).nonzero().view(-1, _CELLS)
            whole = bool((places[:, -1] - places[:, 0] == _CELLS - 1).all())
    if not whole:
        raise LossError(
            f"a block has {_CELLS} consecutive positions; the {positions} masked ones of {tuple(logits.shape[:-1])} are"
            " not whole blocks: a sequence was truncated, or the mask contains other tokens"
        )
    return positions // _CELLS


def _check_target(target: Tensor, valid: Tensor | None, blocks: int) -> tuple[Tensor, Tensor]:
    if target.ndim != 3 or len(target) != blocks or not target.is_floating_point():
        raise LossError(
            f"targets must be floating ({blocks}, H, W), a map for each block; got {target.dtype} {tuple(target.shape)}"
        )
    if valid is not None and (valid.dtype != torch.bool or valid.shape != target.shape):
        raise LossError(f"valid must be bool {tuple(target.shape)}; got {valid.dtype} {tuple(valid.shape)}")
    counted = torch.ones_like(target, dtype=torch.bool) if valid is None else valid.to(target.device)
    if not torch.isfinite(target[counted]).all():
        raise LossError("target nearness must be finite at valid pixels; mark holes in `valid`")
    return target, counted
