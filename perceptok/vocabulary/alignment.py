"""The one-to-one map M of AURORA's Eq. 1 (arXiv 2412.03548): cost matrix, solution and file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from torch import Tensor, distributed

from perceptok.errors import AlignmentError, quote_error
from perceptok.files import atomic_write, parse_json, read_input
from perceptok.tokens import DEPTH, TokenSet
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = [
    "AlignmentAccumulator",
    "VocabularyAlignment",
    "align_vocabularies",
]


_ELEMENTS = 1 << 21
"""Log-probabilities that are converted to float64 at once: 16 MB."""

_ROW_SUM = 2e-2
"""Tolerance of the sum of a teacher's row, which bfloat16 rows of 128 meet."""


class AlignmentAccumulator:
    """cost[i, j] = -sum over positions of q_i log p_j, in float64, for `align_vocabularies`.

    q is the specialist's distribution over V_spec at a position, p the model's over V_aux. Batches may be of any size:
    their sums agree up to the rounding of float64.

    Attributes:
        cost: (|V_spec|, |V_aux|) float64.
        positions: Number of positions in the sum.
    """

    def __init__(
        self, specialist_size: int, auxiliary_size: int | None = None, *, device: str | torch.device = "cpu"
    ) -> None:
        width = specialist_size if auxiliary_size is None else auxiliary_size
        if not 0 < specialist_size <= width:
            raise AlignmentError(
                f"sizes must be 0 < |V_spec| <= |V_aux|; got {specialist_size} and {width}: a one-to-one map needs a "
                "token for every code"
            )
        self.cost = torch.zeros(specialist_size, width, dtype=torch.float64, device=device)
        self.positions = 0

    @torch.no_grad()
    def update(self, teacher: Tensor, log_probs: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            teacher: Codes (...,) integer, or probabilities (..., |V_spec|) whose rows sum to 1.
            log_probs: (..., |V_aux|) log p of the model at the same positions, as `auxiliary_log_probs` gives them.
            mask: (...,) bool; values at False positions are ignored.

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
            raise AlignmentError(f"a mask must be bool {tuple(places)}; got {mask.dtype} {tuple(mask.shape)}")
        rows, logs = teacher.reshape(-1, size) if soft else teacher.reshape(-1), log_probs.reshape(-1, width)
        if mask is not None:
            masked = mask.reshape(-1).nonzero()[:, 0]
            rows, logs = rows[masked.to(rows.device)], logs[masked.to(logs.device)]
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
        """Add the sum of another accumulator; raises AlignmentError for other sizes."""
        if other.cost.shape != self.cost.shape:
            raise AlignmentError(f"sizes differ: {tuple(self.cost.shape)} and {tuple(other.cost.shape)}")
        self.cost += other.cost.to(self.cost.device)
        self.positions += other.positions

    def all_reduce(self, group: distributed.ProcessGroup | None = None) -> AlignmentAccumulator:
        """A new accumulator with the sum over all processes; every process must call it.

        This accumulator is unchanged, so that a second call counts nothing twice. Without an initialized process group
        the result is a copy. The cost must be on a device that the backend supports.
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
        """The state to save, for `load_state_dict`."""
        return {"cost": self.cost.clone(), "positions": self.positions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`; raises AlignmentError where it is not valid or has other sizes."""
        if state.keys() != {"cost", "positions"}:
            raise AlignmentError(f"a state must have cost and positions; got {', '.join(state) or 'nothing'}")
        if state["cost"].shape != self.cost.shape:
            raise AlignmentError(
                f"the state has the sizes {tuple(state['cost'].shape)}, this accumulator {tuple(self.cost.shape)}"
            )
        self.cost.copy_(state["cost"])
        self.positions = state["positions"]


def _check(rows: Tensor, logs: Tensor, size: int, start: int) -> None:
    # NaN fails every comparison, so it cannot slip through.
    if not ((logs <= 1e-4) & (logs > -torch.inf)).all():
        raise AlignmentError(
            "log-probabilities must be finite and at most 0: pass log_softmax, not logits, and before any constraint "
            "sets tokens to -inf"
        )
    if not rows.is_floating_point():
        if ((rows < 0) | (rows >= size)).any():
            raise AlignmentError(
                f"codes must be 0..{size - 1}; got {int(rows.min())}..{int(rows.max())}; mask the others"
            )
        return
    sums = rows.sum(-1, dtype=torch.float64)
    fits = ((sums - 1).abs() <= _ROW_SUM) & (rows >= 0).all(-1)
    if not fits.all():
        first = int((~fits).nonzero()[0])
        raise AlignmentError(
            f"a teacher's rows must be probabilities that sum to 1; row {start + first} of the unmasked ones sums to "
            f"{float(sums[first]):.4g}, its smallest entry is {float(rows[first].min()):.3g}: pass softmax, not "
            "logits or distances"
        )


_FORMAT = 1


@dataclass(frozen=True)
class VocabularyAlignment:
    """A one-to-one map from the codes of a specialist vocabulary V_spec into an auxiliary vocabulary V_aux.

    Auxiliary numbers are codes of a token set (`DEPTH` by default); `token_ids` converts them to ids.

    Attributes:
        targets: targets[i] is the auxiliary number of specialist code i; all different.
        auxiliary_size: |V_aux|, at least |V_spec|.
        cost: Sum of -q log p under this map, where it was found by `align_vocabularies`.
    """

    targets: tuple[int, ...]
    auxiliary_size: int
    cost: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "targets", tuple(map(index, self.targets)))
        except TypeError as error:
            raise AlignmentError(f"targets must be integers, one for each code; got {self.targets!r}") from error
        if not self.targets:
            raise AlignmentError("an alignment must map at least one code; got none")
        _check_sizes(len(self.targets), self.auxiliary_size)
        outside = [code for code, target in enumerate(self.targets) if not 0 <= target < self.auxiliary_size]
        if outside:
            raise AlignmentError(
                f"auxiliary numbers must be 0..{self.auxiliary_size - 1}; code {outside[0]} maps to "
                f"{self.targets[outside[0]]}"
            )
        if len(set(self.targets)) < len(self.targets):
            duplicate = next(target for target in self.targets if self.targets.count(target) > 1)
            codes = [code for code, target in enumerate(self.targets) if target == duplicate]
            raise AlignmentError(f"the map is not one-to-one: codes {codes[0]} and {codes[1]} both map to {duplicate}")

    @classmethod
    def identity(cls, size: int, auxiliary_size: int | None = None) -> Self:
        """Code i -> auxiliary number i: the map of two vocabularies with the same codebook."""
        return cls(tuple(range(size)), size if auxiliary_size is None else auxiliary_size)

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def forward(self) -> Tensor:
        """The map as a table: (|V_spec|,) int64."""
        return torch.tensor(self.targets)

    @cached_property
    def backward(self) -> Tensor:
        """The inverse map as a table: (|V_aux|,) int64, -1 for auxiliary numbers that no code maps to."""
        table = torch.full((self.auxiliary_size,), -1)
        table[self.forward] = torch.arange(len(self))
        return table

    def to_auxiliary(self, codes: Tensor) -> Tensor:
        """Specialist codes of any shape -> auxiliary numbers, same shape and device; AlignmentError out of range."""
        return _look_up(self.forward, codes, "specialist codes")

    def to_specialist(self, numbers: Tensor) -> Tensor:
        """Auxiliary numbers of any shape -> specialist codes, -1 for numbers that no code maps to."""
        return _look_up(self.backward, numbers, "auxiliary numbers")

    def token_ids(self, vocab: PerceptionVocabulary, token_set: TokenSet = DEPTH) -> Tensor:
        """The token id that stands for each specialist code: (|V_spec|,) int64.

        Raises:
            AlignmentError: The token set has another size than V_aux.
            VocabularyError: The vocabulary lacks the set.
        """
        return self._ids(vocab, token_set)[self.forward]

    def codes_of_ids(self, token_ids: Tensor, vocab: PerceptionVocabulary, token_set: TokenSet = DEPTH) -> Tensor:
        """Token ids of any shape -> specialist codes, -1 for tokens that stand for none."""
        self._ids(vocab, token_set)
        numbers = vocab.codes(token_ids, token_set)
        codes = self.backward.to(numbers.device)[numbers.clamp(min=0)]
        return torch.where(numbers >= 0, codes, -1)

    def compose(self, following: VocabularyAlignment) -> VocabularyAlignment:
        """This map followed by another map, from its auxiliary vocabulary: V_spec -> V_aux -> V'_aux.

        Raises:
            AlignmentError: The number of codes of the following map is not |V_aux| of this map.
        """
        if len(following) != self.auxiliary_size:
            raise AlignmentError(
                f"the following map has {len(following)} codes, this map {self.auxiliary_size} auxiliary numbers; they "
                "must be equal"
            )
        return VocabularyAlignment(
            tuple(following.targets[target] for target in self.targets), following.auxiliary_size
        )

    def inverse(self) -> VocabularyAlignment:
        """The inverse map; raises AlignmentError where |V_spec| < |V_aux|, because some numbers have no code."""
        if len(self) != self.auxiliary_size:
            raise AlignmentError(
                f"{self.auxiliary_size - len(self)} of {self.auxiliary_size} auxiliary numbers have no code; an "
                "inverse map needs equal sizes: use to_specialist, which gives -1 for them"
            )
        return VocabularyAlignment(tuple(self.backward.tolist()), len(self))

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the map as JSON; raises OutputError if the file exists and `force` is not given."""
        content = {
            "format": _FORMAT,
            "auxiliary_size": self.auxiliary_size,
            "targets": list(self.targets),
            "cost": self.cost,
        }
        with atomic_write(path, force=force) as file:
            file.write((json.dumps(content) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote; raises AlignmentError where it is not valid."""
        try:
            text = read_input(path)
        except OSError as error:
            raise AlignmentError(f"{path}: not a readable alignment ({quote_error(error)})") from error
        content = parse_json(text, f"{path}: not a readable alignment", AlignmentError)
        return cls(**_check_content(content, path))

    def _ids(self, vocab: PerceptionVocabulary, token_set: TokenSet) -> Tensor:
        if token_set.size != self.auxiliary_size:
            raise AlignmentError(
                f"the alignment has {self.auxiliary_size} auxiliary numbers, {token_set.name} {token_set.size} codes; "
                "pass the token set that it was made for"
            )
        return vocab.ids(token_set)


def align_vocabularies(cost: ArrayLike | Tensor, *, start: VocabularyAlignment | None = None) -> VocabularyAlignment:
    """Find the one-to-one map M that minimises sum_i cost[i, M(i)] (Eq. 1 of arXiv 2412.03548).

    Solved by `scipy.optimize.linear_sum_assignment`. Of several optimal maps the nearest to `start` is taken, and
    without `start` the nearest to the identity: equal costs give equal maps, and codes that never occurred (rows of
    zeros) keep their targets unless others take them. Maps are optimal up to 1e-9 of the range of the costs.

    Args:
        cost: (S, A) float or int, S = |V_spec| <= A = |V_aux|, finite: cost[i, j] = -sum over positions of
            q_i log p_j, as `AlignmentAccumulator` sums it.
        start: An earlier map, which is preferred among optimal ones.

    Returns:
        The map with its cost.

    Raises:
        AlignmentError: Another shape, more specialist codes than auxiliary numbers, NaN or infinite costs, or a
            `start` of another size.
    """
    matrix = _check_cost(cost)
    rows, width = matrix.shape
    if start is not None and (len(start), start.auxiliary_size) != (rows, width):
        raise AlignmentError(f"the cost matrix is {rows} x {width}, `start` is {len(start)} x {start.auxiliary_size}")
    preferred = np.array((start or VocabularyAlignment.identity(rows, width)).targets)
    numbers = np.arange(rows)
    # A bonus that breaks ties and whose sum is too small to change the optimum.
    biased = matrix.astype(np.float64)
    biased[numbers, preferred] -= 1e-9 * (np.ptp(biased) or 1.0) / rows
    targets = linear_sum_assignment(biased)[1]
    return VocabularyAlignment(tuple(targets.tolist()), width, math.fsum(matrix[numbers, targets].tolist()))


def _check_cost(cost: ArrayLike | Tensor) -> np.ndarray:
    if isinstance(cost, Tensor):
        half = cost.dtype in (torch.float16, torch.bfloat16)
        cost = (cost.detach().float() if half else cost.detach()).cpu().numpy()
    array = np.asarray(cost)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise AlignmentError(
            f"costs must be a real (|V_spec|, |V_aux|) matrix; got {array.dtype} of shape {array.shape}"
        )
    _check_sizes(*array.shape)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    # Checked without a mask as large as the matrix.
    if not np.isfinite([array.min(), array.max()]).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise AlignmentError(
            f"costs must be finite; got {array[row, column]} at ({row}, {column}): a model that gives a code no "
            "probability, or a batch with NaN logits"
        )
    return array


def _check_sizes(specialist: int, auxiliary: int) -> None:
    if specialist > auxiliary:
        raise AlignmentError(
            f"no one-to-one map of {specialist} specialist codes into {auxiliary} auxiliary tokens: |V_spec| <= |V_aux|"
            "; if the matrix has auxiliary tokens as rows, transpose it"
        )


def _check_content(content: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    keys = {"format", "auxiliary_size", "targets", "cost"}
    if not isinstance(content, dict) or content.keys() != keys:
        raise AlignmentError(f"{path}: an alignment must be an object with the keys {', '.join(sorted(keys))}")
    if content["format"] != _FORMAT:
        raise AlignmentError(f"{path}: format {content['format']!r}, this release reads {_FORMAT}")
    targets: Sequence[Any] = content["targets"] if isinstance(content["targets"], list) else [None]
    if not all(type(value) is int for value in [*targets, content["auxiliary_size"]]):
        raise AlignmentError(f"{path}: targets and auxiliary_size must be integers")
    return {**{key: content[key] for key in keys - {"format"}}, "targets": tuple(targets)}


def _look_up(table: Tensor, numbers: Tensor, what: str) -> Tensor:
    if numbers.is_floating_point() or ((numbers < 0) | (numbers >= len(table))).any():
        raise AlignmentError(f"{what} must be integers 0..{len(table) - 1}; got {numbers.dtype} with others among them")
    return table.to(numbers.device)[numbers]
