"""Distillation of a frozen specialist into the auxiliary tokens: Eq. 1 of AURORA (arXiv 2412.03548)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from perceptok.errors import LossError
from perceptok.losses.log_probs import Normalization, auxiliary_log_probs, column_log_probs
from perceptok.tokens import DEPTH, TokenSet
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment

__all__ = ["Reduction", "distillation_loss"]


Reduction = Literal["mean", "sum", "none"]
"""Mean or sum over the masked positions, or one value for each of them."""


def distillation_loss(
    logits: Tensor,
    teacher_probs: Tensor,
    alignment: VocabularyAlignment,
    vocab: PerceptionVocabulary,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    *,
    normalization: Normalization = "full",
    token_set: TokenSet = DEPTH,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy -sum_i q_i log p_M(i) of the model's tokens under the specialist's distribution (Eq. 1).

    The logits are those of the positions which *predict* the tokens; `next_token_targets` gives the mask (and hard
    codes) for unshifted logits of a Hugging Face model. For a hard teacher on the full vocabulary this is
    `torch.nn.functional.cross_entropy` of those tokens.

    The minimum over M in Eq. 1 is `align_vocabularies`; here M is given. The sum over positions, and the normalization
    over the auxiliary tokens alone, are our reading; the paper prints neither mask nor temperature.

    Args:
        logits: (B, T, V) or (N, V), any floating type; computed in float32, or float64 for float64.
        teacher_probs: The specialist's codes (integers), or probabilities over its codes (..., |V_spec|), rows summing
            to 1. One entry for each position of the logits, of which those outside the mask are ignored, or one for
            each *masked* position in row-major order, such as `codec.encode_soft(maps)` (B, 10, 10, 128) where each
            row of the batch has one block. It must not require a gradient.
        alignment: The map M from the specialist's codes to codes of the token set.
        vocab: The vocabulary, which gives the columns of the logits.
        mask: (B, T) or (N,) bool, True at positions that count; None for all. Others may hold NaN.
        temperature: Of the model's distribution: p = softmax(logits / temperature). The loss is not multiplied by its
            square. The teacher's temperature is that of `encode_soft`.
        normalization: "full": p sums to 1 over the whole vocabulary, so that all other tokens become less likely.
            "auxiliary": over the codes of the token set alone, for use beside an ordinary language loss.
        token_set: The auxiliary vocabulary.
        reduction: "mean" over masked positions, "sum" (for a count over several batches), or "none": (N,).

    Returns:
        A scalar, float32 or float64. Without any masked position it is zero with zero gradient, so that a batch of
        another task does not stop other processes.

    Raises:
        LossError: Shapes that do not fit, a temperature <= 0, and, where the teacher is on the CPU, codes out of range
            or rows that do not sum to 1. On another device nothing waits for the teacher's values: such positions make
            the loss NaN.
        AlignmentError: The alignment is not into the token set.
    """
    if reduction not in ("mean", "sum", "none"):
        raise LossError(f"reduction must be 'mean', 'sum' or 'none'; got {reduction!r}")
    ids = alignment.token_ids(vocab, token_set)
    if normalization == "auxiliary" and len(alignment) < token_set.size:
        all_log_p = auxiliary_log_probs(
            logits, vocab, mask, token_set=token_set, temperature=temperature, normalization=normalization
        )
        log_p = all_log_p[:, alignment.forward.to(all_log_p.device, non_blocking=True)]
    else:
        log_p = column_log_probs(logits, ids, mask, temperature=temperature, normalization=normalization)
    teacher = _select_teacher(teacher_probs, logits.shape[:-1], mask, *log_p.shape)
    valid = _find_valid_rows(teacher, log_p.shape[1])
    if teacher.device.type == "cpu":
        _refuse_invalid_rows(teacher, valid, log_p.shape[1])
    teacher, valid = (tensor.to(log_p.device, non_blocking=True) for tensor in (teacher, valid))
    if teacher.is_floating_point():
        q = teacher.to(log_p.dtype)
        # Where q is 0 the term is 0, also where log p is -inf.
        losses = -torch.where(q > 0, q * log_p, 0).sum(-1)
    else:
        losses = -log_p.gather(1, teacher.long().clamp(0, log_p.shape[1] - 1)[:, None])[:, 0]
    losses = losses.masked_fill(~valid, torch.nan)
    if reduction == "none":
        return losses
    return losses.sum() / (max(1, len(losses)) if reduction == "mean" else 1)


def _select_teacher(teacher: Tensor, places: torch.Size, mask: Tensor | None, rows: int, size: int) -> Tensor:
    """The teacher at the masked positions: codes (N,) or probabilities (N, |V_spec|), checked."""
    soft = teacher.is_floating_point()
    if teacher.requires_grad:
        raise LossError("the teacher must not require a gradient; detach it")
    if soft and teacher.shape[-1:] != (size,):
        raise LossError(
            f"a soft teacher must have shape (..., {size}), one column per code; got {tuple(teacher.shape)}"
        )
    shape = teacher.shape[:-1] if soft else teacher.shape
    flat = teacher.reshape(-1, size) if soft else teacher.reshape(-1)
    if shape == places:
        flat = flat if mask is None else flat[mask.reshape(-1).to(flat.device)]
    elif shape.numel() != rows:
        raise LossError(
            f"the teacher has {shape.numel()} rows of shape {tuple(shape)}; expected one for each position, "
            f"{tuple(places)}, or one for each of the {rows} masked ones"
        )
    return flat


def _find_valid_rows(teacher: Tensor, size: int) -> Tensor:
    """Which rows of a teacher are codes in range, or probabilities: (N,) bool, on the teacher's device."""
    if not teacher.is_floating_point():
        return (teacher >= 0) & (teacher < size)
    allowed = 1e-3 if teacher.dtype in (torch.float32, torch.float64) else 2e-2
    # NaN fails every comparison, so it cannot slip through.
    fits = (teacher.sum(-1, dtype=torch.float64) - 1).abs() <= allowed
    return fits & (teacher >= 0).all(-1)


def _refuse_invalid_rows(teacher: Tensor, valid: Tensor, size: int) -> None:
    if valid.all():
        return
    if not teacher.is_floating_point():
        raise LossError(
            f"teacher codes must be 0..{size - 1} at masked positions; got {int(teacher.min())}..{int(teacher.max())}"
        )
    first = int((~valid).nonzero()[0])
    raise LossError(
        f"a soft teacher's rows must be probabilities that sum to 1; row {first} of {len(teacher)} sums to "
        f"{float(teacher[first].sum(dtype=torch.float64)):.6g} with a smallest entry of "
        f"{float(teacher[first].min()):.3g}: pass encode_soft or a softmax, not logits"
    )
