"""Log-probabilities of a few columns of the vocabulary, without a softmax over the whole vocabulary in memory.

The losses need 128 log-probabilities per position of (B, T, V) logits. They are computed a few rows at a time, in
float32 (float64 for float64 logits), and so is the gradient: besides the gradient itself no second tensor of the
logits' size exists. Positions outside a mask are not read, and their gradient is zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptok.errors import LossError
from perceptok.tokens import DEPTH, TokenSet
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["Normalization", "auxiliary_log_probs", "column_log_probs"]


Normalization = Literal["full", "auxiliary"]
"""The columns over which probabilities sum to 1: the whole vocabulary, or the requested ones."""

_ELEMENTS = 1 << 18
"""Logits of a chunk; more than fit into a core's cache take up to a third longer."""

_ELEMENTS_ACCELERATOR = 1 << 24
"""Logits of a chunk on an accelerator: 64 MB in float32, so that launching kernels does not dominate."""

_Positions = tuple[Tensor, ...] | None


def auxiliary_log_probs(
    logits: Tensor,
    vocab: PerceptionVocabulary,
    mask: Tensor | None = None,
    *,
    token_set: TokenSet = DEPTH,
    temperature: float = 1.0,
    normalization: Normalization = "full",
) -> Tensor:
    """The model's log p over the codes of a token set: the p of Eq. 1, the input of `AlignmentAccumulator`.

    Args:
        logits: (..., V); position t predicts the token at t + 1.
        vocab: The vocabulary, which gives the columns.
        mask: (...,) bool, True where a token of the set is predicted; None for everywhere.
        token_set: The auxiliary vocabulary.
        temperature: Logits are divided by it.
        normalization: "full" for log p in the whole vocabulary, "auxiliary" for log p among the set's codes.

    Returns:
        (N, |V_aux|) float32, or float64 for float64 logits, for the N masked positions in row-major order.

    Raises:
        LossError: Shapes, types or a temperature that do not fit, or logits without the set's columns.
        VocabularyError: The vocabulary lacks the set.
    """
    return column_log_probs(logits, vocab.ids(token_set), mask, temperature=temperature, normalization=normalization)


def column_log_probs(
    logits: Tensor,
    ids: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    normalization: Normalization = "full",
) -> Tensor:
    """Log-probabilities (N, K) of distinct columns `ids` (K,), at the N masked positions in row-major order."""
    _check(logits, ids, mask, temperature, normalization)
    positions = _find_positions(logits, mask)
    ids = ids.to(logits.device, non_blocking=True)
    if normalization == "full":
        log_p: Tensor = _ColumnLogProbs.apply(logits, positions, ids, temperature)  # type: ignore[no-untyped-call]
        return log_p
    if positions is None:
        chosen = logits.reshape(-1, logits.shape[-1])[:, ids]
    else:
        chosen = logits[(*(index[:, None] for index in positions), ids)]
    return torch.log_softmax(chosen.to(_working_dtype(logits)) / temperature, dim=-1)


class _ColumnLogProbs(torch.autograd.Function):
    """log softmax(logits / temperature) at some positions and columns."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, positions: _Positions, ids: Tensor, temperature: float) -> Tensor:
        rows = logits.shape[:-1].numel() if positions is None else len(positions[0])
        log_p = torch.empty(rows, len(ids), dtype=_working_dtype(logits), device=logits.device)
        for span, scaled in _iterate_chunks(logits, positions, rows, temperature):
            # Each of these is one kernel on a GPU, where a logsumexp and what follows it are ten.
            torch.index_select(torch.log_softmax(scaled, dim=-1), 1, ids, out=log_p[span])
        ctx.save_for_backward(logits, ids)
        ctx.positions, ctx.temperature = positions, temperature
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, ids = ctx.saved_tensors
        positions, rows = ctx.positions, len(grad)
        whole = torch.empty_like(logits) if positions is None else torch.zeros_like(logits)
        if ctx.temperature != 1:
            grad = grad / ctx.temperature
        weight = grad.sum(dim=-1, keepdim=True).neg_()
        for span, scaled in _iterate_chunks(logits, positions, rows, ctx.temperature):
            target = whole.view(rows, -1)[span] if positions is None else None
            in_place = target is not None and target.dtype == scaled.dtype
            part = torch.softmax(scaled, dim=-1, out=target) if in_place else torch.softmax(scaled, dim=-1)
            part.mul_(weight[span]).index_add_(1, ids, grad[span])
            if positions is not None:
                whole[tuple(index[span] for index in positions)] = part.to(whole.dtype)
            elif target is not None and not in_place:
                target.copy_(part)
        return whole, None, None, None


def _iterate_chunks(
    logits: Tensor, positions: _Positions, rows: int, temperature: float
) -> Iterator[tuple[slice, Tensor]]:
    """Spans of rows, and their logits over the temperature in the working dtype."""
    step = max(1, (_ELEMENTS if logits.device.type == "cpu" else _ELEMENTS_ACCELERATOR) // logits.shape[-1])
    for start in range(0, rows, step):
        span = slice(start, min(start + step, rows))
        chosen = span if positions is None else tuple(index[span] for index in positions)
        part = (logits.view(rows, -1) if positions is None else logits)[chosen]
        part = part.to(_working_dtype(logits))
        yield span, part if temperature == 1 else part / temperature


def _find_positions(logits: Tensor, mask: Tensor | None) -> _Positions:
    """Indices of the masked positions, whose number a GPU is waited for; None for all rows of contiguous logits."""
    if mask is None:
        if logits.is_contiguous():
            return None
        mask = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    return mask.to(logits.device).nonzero(as_tuple=True)


def _working_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _check(logits: Tensor, ids: Tensor, mask: Tensor | None, temperature: float, normalization: str) -> None:
    if logits.ndim < 2 or not logits.is_floating_point():
        raise LossError(f"logits must be floating (..., V); got {logits.dtype} of shape {tuple(logits.shape)}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != logits.shape[:-1]):
        raise LossError(
            f"a mask must be bool of shape {tuple(logits.shape[:-1])}; got {mask.dtype} {tuple(mask.shape)}"
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise LossError(f"the temperature must be positive and finite; got {temperature}")
    if normalization not in ("full", "auxiliary"):
        raise LossError(f"normalization must be 'full' or 'auxiliary'; got {normalization!r}")
    if int(ids.max()) >= logits.shape[-1]:
        raise LossError(
            f"logits have {logits.shape[-1]} columns, but there is a token id {int(ids.max())}; extend the model "
            "with extend_vocabulary"
        )
