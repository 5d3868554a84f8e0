"""Log-probabilities of a few columns of the vocabulary, without ever holding a softmax over all of it.

Whatever a loss needs of (B, T, V) logits are 128 log-probabilities a position. They are found a few rows at a time, in
float32 (float64 for float64 logits), and the gradient is written the same way: beside the gradient itself no second
tensor of the logits' size exists. Positions outside a mask are neither read nor given a gradient.
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
"""Over what probabilities sum to 1: the whole vocabulary, or the asked columns alone."""

_ELEMENTS = 1 << 18
"""Logits that are worked on at once; more than fit into a core's cache take up to a third longer."""

_ELEMENTS_ELSEWHERE = 1 << 24
"""The same on an accelerator: 64 MB in float32, so that starting kernels does not cost more than their work."""

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
    """The model's log p over the codes of a token set: the p of Eq. 1, as `AlignmentAccumulator` takes it.

    Args:
        logits: (..., V); position t holds what the model says of the token at t + 1.
        vocab: Says which columns they are.
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
    """Log-probabilities of the columns `ids` (K,), all different: (N, K); see `auxiliary_log_probs`."""
    _check(logits, ids, mask, temperature, normalization)
    positions = _positions(logits, mask)
    ids = ids.to(logits.device)
    if normalization == "full":
        found: Tensor = _ColumnLogProbs.apply(logits, positions, ids, temperature)  # type: ignore[no-untyped-call]
        return found
    if positions is None:
        chosen = logits.reshape(-1, logits.shape[-1])[:, ids]
    else:
        chosen = logits[(*(index[:, None] for index in positions), ids)]
    return torch.log_softmax(chosen.to(_working(logits)) / temperature, dim=-1)


class _ColumnLogProbs(torch.autograd.Function):
    """log softmax(logits / temperature) at some positions and columns."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, positions: _Positions, ids: Tensor, temperature: float) -> Tensor:
        rows = logits.shape[:-1].numel() if positions is None else len(positions[0])
        found = torch.empty(rows, len(ids), dtype=_working(logits), device=logits.device)
        totals = torch.empty(rows, 1, dtype=found.dtype, device=logits.device)
        for span, scaled in _spans(logits, positions, rows, temperature):
            torch.logsumexp(scaled, dim=-1, keepdim=True, out=totals[span])
            torch.sub(scaled[:, ids], totals[span], out=found[span])
        ctx.save_for_backward(logits, ids, totals)
        ctx.positions, ctx.temperature = positions, temperature
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, ids, totals = ctx.saved_tensors
        positions, rows = ctx.positions, len(totals)
        whole = torch.empty_like(logits) if positions is None else torch.zeros_like(logits)
        weight = grad.sum(dim=-1, keepdim=True).neg_()
        for span, scaled in _spans(logits, positions, rows, ctx.temperature, copy=True):
            part = scaled.sub_(totals[span]).exp_().mul_(weight[span])
            part.index_add_(1, ids, grad[span])
            if ctx.temperature != 1:
                part.div_(ctx.temperature)
            if positions is None:
                whole.view(rows, -1)[span] = part
            else:
                whole[tuple(index[span] for index in positions)] = part.to(whole.dtype)
        return whole, None, None, None


def _spans(
    logits: Tensor, positions: _Positions, rows: int, temperature: float, *, copy: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """Spans of rows, and their logits over the temperature in working precision; as a copy where that is asked for."""
    step = max(1, (_ELEMENTS if logits.device.type == "cpu" else _ELEMENTS_ELSEWHERE) // logits.shape[-1])
    for start in range(0, rows, step):
        span = slice(start, min(start + step, rows))
        chosen = span if positions is None else tuple(index[span] for index in positions)
        part = (logits.view(rows, -1) if positions is None else logits)[chosen]
        part = part.to(_working(logits), copy=copy)
        yield span, part if temperature == 1 else part / temperature


def _positions(logits: Tensor, mask: Tensor | None) -> _Positions:
    """Indices of the masked positions; None where every row is meant and lies beside the one before."""
    if mask is None:
        if logits.is_contiguous():
            return None
        mask = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    return mask.to(logits.device).nonzero(as_tuple=True)


def _working(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _check(logits: Tensor, ids: Tensor, mask: Tensor | None, temperature: float, normalization: str) -> None:
    if logits.ndim < 2 or not logits.is_floating_point():
        raise LossError(f"logits are floating (..., V); got {logits.dtype} of shape {tuple(logits.shape)}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != logits.shape[:-1]):
        raise LossError(
            f"a mask is bool, one for each position {tuple(logits.shape[:-1])}; got {mask.dtype} {tuple(mask.shape)}"
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise LossError(f"the temperature is positive and finite; got {temperature}")
    if normalization not in ("full", "auxiliary"):
        raise LossError(f"normalization is 'full' or 'auxiliary'; got {normalization!r}")
    if int(ids.max()) >= logits.shape[-1]:
        raise LossError(
            f"logits have {logits.shape[-1]} columns, but token id {int(ids.max())} is asked for; extend the model "
            "with extend_vocabulary"
        )
