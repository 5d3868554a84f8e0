"""The cost matrix of AURORA's Eq. 1, gathered batch by batch and process by process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed

from perceptok.errors import AlignmentError

__all__ = ["AlignmentAccumulator"]

_ELEMENTS = 1 << 21
"""Log-probabilities that are converted to float64 at once: 16 MB."""

_ROW_SUM = 2e-2
"""How far a teacher's row may be from 1: bfloat16 rows of 128 stay within."""


class AlignmentAccumulator:
    """cost[i, j] = -sum over positions of q_i log p_j, in float64, for `align_vocabularies`.

    q is the specialist's distribution over V_spec at a position, p the model's over V_aux. The sum over ten batches is
    the sum over one large batch, up to the rounding of float64.

    Attributes:
        cost: (|V_spec|, |V_aux|) float64.
        positions: Number of positions in it.
    """

    def __init__(
        self, specialist_size: int, auxiliary_size: int | None = None, *, device: str | torch.device = "cpu"
    ) -> None:
        width = specialist_size if auxiliary_size is None else auxiliary_size
        if not 0 < specialist_size <= width:
            raise AlignmentError(
                f"sizes are 0 < |V_spec| <= |V_aux|; got {specialist_size} and {width}: a one-to-one map needs a token "
                "for every code"
            )
        self.cost = torch.zeros(specialist_size, width, dtype=torch.float64, device=device)
        self.positions = 0

    @torch.no_grad()
    def update(self, teacher: Tensor, log_probs: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            teacher: Codes (...,) integer, or probabilities (..., |V_spec|) whose rows sum to 1.
            log_probs: (..., |V_aux|) log p of the model at the same positions (see `auxiliary_log_probs`).
            mask: (...,) bool; what stands at False positions is not looked at.

        Raises:
            AlignmentError: Shapes that do not fit, codes out of range, rows that do not sum to 1, or log-probabilities
                that are positive or not finite. Nothing is added then.
        """
        size, width = self.cost.shape
        places = log_probs.shape[:-1]
        soft = teacher.is_floating_point()
        if log_probs.shape[-1:] != (width,) or teacher.shape != (*places, size)[: len(places) + soft]:
            raise AlignmentError(
                f"log-probabilities have shape (..., {width}), a teacher (..., {size}) if soft, (...,) if hard, at the "
                f"same positions; got {tuple(log_probs.shape)} and {tuple(teacher.shape)}"
            )
        if mask is not None and (mask.dtype != torch.bool or mask.shape != places):
            raise AlignmentError(f"a mask is bool {tuple(places)}; got {mask.dtype} {tuple(mask.shape)}")
        rows, logs = teacher.reshape(-1, size) if soft else teacher.reshape(-1), log_probs.reshape(-1, width)
        if mask is not None:
            kept = mask.reshape(-1).nonzero()[:, 0]
            rows, logs = rows[kept.to(rows.device)], logs[kept.to(logs.device)]
        step = max(1, _ELEMENTS // width)
        spans = [slice(start, start + step) for start in range(0, len(rows), step)]
        for span in spans:
            _check(rows[span], logs[span], size, span.start)
        for span in spans:
            q, log_p = rows[span].to(self.cost.device), logs[span].to(self.cost.device, torch.float64)
            if soft:
                self.cost.addmm_(q.double().T, log_p, alpha=-1)
            else:
                self.cost.index_add_(0, q.long(), log_p, alpha=-1)
        self.positions += len(rows)

    def merge(self, other: AlignmentAccumulator) -> None:
        """Add what another accumulator has gathered; raises AlignmentError for other sizes."""
        if other.cost.shape != self.cost.shape:
            raise AlignmentError(f"sizes differ: {tuple(self.cost.shape)} and {tuple(other.cost.shape)}")
        self.cost += other.cost.to(self.cost.device)
        self.positions += other.positions

    def reduced(self, group: distributed.ProcessGroup | None = None) -> AlignmentAccumulator:
        """A new accumulator with the sum over all processes; every process must call it.

        This one is left as it is, so that gathering goes on and a second call counts nothing twice. Alone (without an
        initialised process group) it is a copy. The cost must be on a device that the backend can reach.
        """
        summed = AlignmentAccumulator(*self.cost.shape, device=self.cost.device)
        summed.merge(self)
        if distributed.is_available() and distributed.is_initialized():
            positions = torch.tensor(summed.positions, device=self.cost.device)
            distributed.all_reduce(summed.cost, group=group)
            distributed.all_reduce(positions, group=group)
            summed.positions = int(positions)
        return summed

    def state_dict(self) -> dict[str, Any]:
        """What to keep for going on later."""
        return {"cost": self.cost.clone(), "positions": self.positions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; raises AlignmentError for another one, or other sizes."""
        if state.keys() != {"cost", "positions"}:
            raise AlignmentError(f"a state has cost and positions; got {', '.join(state) or 'nothing'}")
        if state["cost"].shape != self.cost.shape:
            raise AlignmentError(f"the state is {tuple(state['cost'].shape)}, this one {tuple(self.cost.shape)}")
        self.cost.copy_(state["cost"])
        self.positions = state["positions"]


def _check(rows: Tensor, logs: Tensor, size: int, start: int) -> None:
    # NaN fails every comparison, so it cannot slip through.
    if not ((logs <= 1e-4) & (logs > -torch.inf)).all():
        raise AlignmentError(
            "log-probabilities are finite and at most 0; found others: pass log_softmax, not logits, and before any "
            "constraint sets tokens to -inf"
        )
    if not rows.is_floating_point():
        if ((rows < 0) | (rows >= size)).any():
            raise AlignmentError(f"codes are 0..{size - 1}; found {int(rows.min())}..{int(rows.max())}; mask them")
        return
    sums = rows.sum(-1, dtype=torch.float64)
    fits = ((sums - 1).abs() <= _ROW_SUM) & (rows >= 0).all(-1)
    if not fits.all():
        first = int((~fits).nonzero()[0])
        raise AlignmentError(
            f"a teacher's rows are probabilities that sum to 1; row {start + first} of the unmasked ones sums to "
            f"{float(sums[first]):.4g}, its smallest entry is {float(rows[first].min()):.3g}: pass softmax, not "
            "logits or distances"
        )
