"""The cost matrix of AURORA's Eq. 1, gathered batch by batch and process by process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor, distributed

from perceptok.errors import AlignmentError
from perceptok.files import atomic_write, parse_json
from perceptok.tokens import DEPTH, TokenSet
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = [
    "AlignmentAccumulator",
    "Assignment",
    "VocabularyAlignment",
    "align_vocabularies",
    "solve_among_candidates",
    "solve_exactly",
]


# The cheapest one-to-one assignment of rows to columns, with a proof of how cheap it could have been.
#
# For every vector of prices v <= 0 on the columns, sum_i min_j (c_ij - v_j) + sum_j v_j is a lower bound of every
# assignment's cost (linear programming duality). The prices that belong to an optimal assignment meet its cost.


_SETTLED = 8 * np.finfo(np.float64).eps
"""Differences below this part of the largest cost are rounding."""

_PAIRS = 16
"""Cheapest pairs of every row that prices are sought on first."""

_TIES = 1 << 22
"""Matrices of up to 2048 x 2048: there ties are broken pair by pair; at 8192 x 8192 that took longer than solving."""

_ELEMENTS_AT_ONCE = 1 << 20
"""Elements of the matrix that are worked on at once: 8 MB in float64."""


class Assignment(NamedTuple):
    """One column for every row.

    Attributes:
        columns: (R,) int64, distinct.
        cost: Sum of the chosen elements.
        lower_bound: No assignment is cheaper than this; the cost itself where the solution is proved optimal.
    """

    columns: np.ndarray
    cost: float
    lower_bound: float


def solve_exactly(cost: np.ndarray, preferred: np.ndarray, *, warm: bool = False) -> Assignment:
    """The cheapest assignment, and of several cheapest ones that which keeps most of the preferred pairs.

    Args:
        cost: (R, C) finite, R <= C.
        preferred: (R,) distinct columns.
        warm: The preferred pairs are an earlier solution: see first whether they still are one.
    """
    cost = np.ascontiguousarray(cost, dtype=np.float64)
    if warm and _proof(cost, preferred) is not None:
        return _exact(cost, preferred)
    found = _exact(cost, linear_sum_assignment(cost)[1].astype(np.int64))
    kept = _exact(cost, preferred)
    if kept.cost <= found.cost:
        return kept
    if cost.size <= _TIES:
        prices = _proof(cost, found.columns)
        # There is none where rounding makes a circle of pairs look cheaper.
        if prices is not None:
            return _exact(cost, _nearest_to_preferred(cost, found.columns, prices, preferred))
    return found


def solve_among_candidates(
    cost: np.ndarray, preferred: np.ndarray, *, candidates: int, tolerance: float = 0.0
) -> Assignment:
    """The cheapest assignment for large matrices, where good pairs are few.

    The problem is solved on the cheapest pairs of every row; then prices are put on every pair of the matrix, and the
    pairs which they show to be promising join the candidates, until no pair is left or the gap between cost and bound
    is small enough. Each round reads the whole matrix once.

    Args:
        cost: (R, C) finite, R <= C; float32 is not copied.
        preferred: (R,) distinct columns, candidates too: without them there may be no assignment.
        candidates: Pairs of each row to begin with.
        tolerance: Stop at cost - lower bound <= tolerance * |cost|; 0 asks for the optimum.
    """
    cost = np.ascontiguousarray(cost)
    rows, width = cost.shape
    own = _keys(np.arange(rows), preferred, width)
    pairs = np.union1d(_cheapest(cost, min(candidates, width)), own)
    while True:
        # An explicit zero would count as no pair.
        weights = cost.ravel()[pairs].astype(np.float64)
        graph = csr_array((weights - weights.min() + 1.0, np.divmod(pairs, width)), shape=cost.shape)
        taken, given = min_weight_full_bipartite_matching(graph)
        columns = given[np.argsort(taken)].astype(np.int64)
        prices, _ = _prices(cost, columns, pairs)
        best, promising = _unpriced(cost, prices, columns, candidates)
        total = _exact(cost, columns).cost
        bound = min(total, float(best.sum() + prices.sum()))
        grown = np.union1d(pairs, promising)
        if len(grown) > len(pairs) and total - bound > tolerance * abs(total):
            pairs = grown
            continue
        kept = _exact(cost, preferred)
        if kept.cost <= total:
            columns, total = kept.columns, kept.cost
        return Assignment(columns, total, bound if len(promising) else total)


def _exact(cost: np.ndarray, columns: np.ndarray) -> Assignment:
    total = float(cost[np.arange(len(cost)), columns].sum(dtype=np.float64))
    return Assignment(columns, total, total)


def _proof(cost: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
    """Prices which prove that an assignment is optimal; None where it is not."""
    own = _keys(np.arange(len(cost)), columns, cost.shape[1])
    pairs = np.union1d(_cheapest(cost, min(_PAIRS, cost.shape[1])), own)
    while True:
        prices, settled = _prices(cost, columns, pairs)
        if not settled:
            return None
        _, promising = _unpriced(cost, prices, columns, _PAIRS)
        grown = np.union1d(pairs, promising)
        if len(grown) == len(pairs):
            return prices
        pairs = grown


def _prices(cost: np.ndarray, columns: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, bool]:
    """Prices v <= 0 of an assignment among pairs, and whether they prove that it is the cheapest among them.

    Shortest paths by rounds of Bellman and Ford: from a row's own column to column j it costs c_ij - c_i,own.
    """
    rows, width = cost.shape
    row, column = np.divmod(pairs, width)
    order = np.argsort(column, kind="stable")
    row, column = row[order], column[order]
    step = cost.ravel()[pairs[order]].astype(np.float64) - cost[np.arange(rows), columns][row]
    firsts = np.flatnonzero(np.r_[True, column[1:] != column[:-1]])
    ends, origin = column[firsts], columns[row]
    free = np.ones(width, dtype=bool)
    free[columns] = False
    slack = _slack(cost)
    prices = np.zeros(width)
    for _ in range(rows + 1):
        reach = np.minimum.reduceat(step + prices[origin], firsts)
        lower = reach < prices[ends] - slack
        if not lower.any():
            return prices, True
        if free[ends[lower]].any():
            return prices, False  # moving along the path to a free column is cheaper
        prices[ends[lower]] = reach[lower]
    return prices, False  # moving around a circle is cheaper


def _nearest_to_preferred(
    cost: np.ndarray, columns: np.ndarray, prices: np.ndarray, preferred: np.ndarray
) -> np.ndarray:
    """Among assignments that the prices allow, all of them optimal, the one with most preferred pairs."""
    reduced = cost - prices
    slack = 4 * _slack(cost)
    tight = reduced <= reduced[np.arange(len(cost)), columns][:, None] + slack
    if (tight.sum(axis=1) == 1).all():
        return columns
    rows = np.arange(len(cost))
    # Leaving a pair that is not preferred costs 1, leaving a column with a price free (which no optimal assignment
    # does) more than all of that, and a pair that is not tight more than everything else together.
    much = 2.0 * len(cost) + 2.0
    ranked = np.where(tight, 1.0, much * much)
    ranked[rows, preferred] = np.where(tight[rows, preferred], 0.0, much * much)
    ranked[:, prices < -slack] -= much
    again = linear_sum_assignment(ranked)[1].astype(np.int64)
    rounding = len(cost) * slack
    return again if cost[rows, again].sum() <= cost[rows, columns].sum() + rounding else columns


def _cheapest(cost: np.ndarray, count: int) -> np.ndarray:
    """Keys of the cheapest pairs of every row."""
    keys = []
    start = 0
    for part in _parts(cost):
        best = np.argpartition(part, count - 1, axis=1)[:, :count] if count < cost.shape[1] else None
        chosen = best if best is not None else np.broadcast_to(np.arange(cost.shape[1]), part.shape)
        keys.append(_keys(np.arange(start, start + len(part))[:, None], chosen, cost.shape[1]).ravel())
        start += len(part)
    return np.concatenate(keys)


def _unpriced(cost: np.ndarray, prices: np.ndarray, columns: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row's cheapest element after prices, and keys of up to `count` pairs a row that beat the row's own."""
    slack = 2 * _slack(cost)
    best, keys = np.empty(len(cost)), [np.empty(0, dtype=np.int64)]
    start = 0
    for part in _parts(cost):
        reduced = part - prices
        own = reduced[np.arange(len(part)), columns[start : start + len(part)]]
        best[start : start + len(part)] = reduced.min(axis=1)
        for line in np.flatnonzero(best[start : start + len(part)] < own - slack):
            better = np.flatnonzero(reduced[line] < own[line] - slack)
            if len(better) > count:
                better = better[np.argpartition(reduced[line, better], count - 1)[:count]]
            keys.append(_keys(np.full(len(better), start + line), better, cost.shape[1]))
        start += len(part)
    return best, np.concatenate(keys)


def _slack(cost: np.ndarray) -> float:
    return _SETTLED * max(-float(cost.min()), float(cost.max()))


def _keys(row: np.ndarray, column: np.ndarray, width: int) -> np.ndarray:
    keys: np.ndarray = np.asarray(row, dtype=np.int64) * width + column
    return keys


def _parts(cost: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _ELEMENTS_AT_ONCE // cost.shape[1])
    for start in range(0, len(cost), step):
        yield cost[start : start + step]


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


_FORMAT = 1


@dataclass(frozen=True)
class VocabularyAlignment:
    """A one-to-one map from the codes of a specialist vocabulary V_spec into an auxiliary vocabulary V_aux.

    Auxiliary numbers are codes of a token set (`DEPTH`, unless another is named); `token_ids` turns them into ids.

    Attributes:
        targets: targets[i] is the auxiliary number of specialist code i; all different.
        auxiliary_size: |V_aux|, at least |V_spec|.
        cost: Sum of -q log p under this map, where it was found by `align_vocabularies`.
        lower_bound: No one-to-one map costs less; equal to `cost` where the map is proved optimal.
    """

    targets: tuple[int, ...]
    auxiliary_size: int
    cost: float | None = field(default=None, compare=False)
    lower_bound: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "targets", tuple(map(index, self.targets)))
        except TypeError as error:
            raise AlignmentError(f"targets are integers, one for each code; got {self.targets!r}") from error
        if not self.targets:
            raise AlignmentError("an alignment maps at least one code; got none")
        _check_sizes(len(self.targets), self.auxiliary_size)
        outside = [code for code, target in enumerate(self.targets) if not 0 <= target < self.auxiliary_size]
        if outside:
            raise AlignmentError(
                f"auxiliary numbers are 0..{self.auxiliary_size - 1}; code {outside[0]} maps to "
                f"{self.targets[outside[0]]}"
            )
        if len(set(self.targets)) < len(self.targets):
            twice = next(target for target in self.targets if self.targets.count(target) > 1)
            codes = [code for code, target in enumerate(self.targets) if target == twice]
            raise AlignmentError(f"the map is not one-to-one: codes {codes[0]} and {codes[1]} both map to {twice}")

    @classmethod
    def identity(cls, size: int, auxiliary_size: int | None = None) -> Self:
        """Code i -> auxiliary number i: the natural map where both vocabularies come from one codebook."""
        return cls(tuple(range(size)), size if auxiliary_size is None else auxiliary_size)

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def forward(self) -> Tensor:
        """The map as a table: (|V_spec|,) int64."""
        return torch.tensor(self.targets)

    @cached_property
    def backward(self) -> Tensor:
        """The way back as a table: (|V_aux|,) int64, -1 for auxiliary numbers that no code maps to."""
        table = torch.full((self.auxiliary_size,), -1)
        table[self.forward] = torch.arange(len(self))
        return table

    def to_auxiliary(self, codes: Tensor) -> Tensor:
        """Specialist codes of any shape -> auxiliary numbers, same shape and device; AlignmentError out of range."""
        return _looked_up(self.forward, codes, "specialist codes")

    def to_specialist(self, numbers: Tensor) -> Tensor:
        """Auxiliary numbers of any shape -> specialist codes, -1 for numbers that no code maps to."""
        return _looked_up(self.backward, numbers, "auxiliary numbers")

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
        """This map, then another one from its auxiliary vocabulary on: V_spec -> V_aux -> V'_aux.

        Raises:
            AlignmentError: The following map starts from another number of codes than this one ends in.
        """
        if len(following) != self.auxiliary_size:
            raise AlignmentError(
                f"the following map starts from {len(following)} codes, this one ends in {self.auxiliary_size}; "
                "they are composed where the two agree"
            )
        return VocabularyAlignment(
            tuple(following.targets[target] for target in self.targets), following.auxiliary_size
        )

    def inverse(self) -> VocabularyAlignment:
        """The map back; raises AlignmentError where |V_spec| < |V_aux|, because some numbers have no code."""
        if len(self) != self.auxiliary_size:
            raise AlignmentError(
                f"{self.auxiliary_size - len(self)} of {self.auxiliary_size} auxiliary numbers have no code; an "
                "inverse map needs equal sizes: use to_specialist, which says -1 for them"
            )
        return VocabularyAlignment(tuple(self.backward.tolist()), len(self))

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the map as JSON; raises OutputError if the file exists and `force` is not given."""
        content = {
            "format": _FORMAT,
            "auxiliary_size": self.auxiliary_size,
            "targets": list(self.targets),
            "cost": self.cost,
            "lower_bound": self.lower_bound,
        }
        with atomic_write(path, force=force) as file:
            file.write((json.dumps(content) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; raises AlignmentError for a file that is none, or damaged."""
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise AlignmentError(f"{path}: not a readable alignment ({error})") from error
        content = parse_json(text, f"{path}: not a readable alignment", AlignmentError)
        return cls(**_checked_content(content, path))

    def _ids(self, vocab: PerceptionVocabulary, token_set: TokenSet) -> Tensor:
        if token_set.size != self.auxiliary_size:
            raise AlignmentError(
                f"the alignment ends in {self.auxiliary_size} auxiliary numbers, {token_set.name} has "
                f"{token_set.size} codes; name the token set it was made for"
            )
        return vocab.ids(token_set)


def align_vocabularies(
    cost: ArrayLike | Tensor,
    *,
    start: VocabularyAlignment | None = None,
    candidates: int | None = None,
    tolerance: float = 0.0,
) -> VocabularyAlignment:
    """The one-to-one map M that minimises sum_i cost[i, M(i)] (Eq. 1 of arXiv 2412.03548).

    Of several cheapest maps the one that keeps most of `start` is taken, and without `start` most of the identity:
    equal costs give equal maps, and codes that were never seen (rows of zeros) stay where they are if others leave
    them room. For matrices above 2048 x 2048, and with `candidates`, that is so only where all of `start` is cheapest.

    Args:
        cost: (|V_spec|, |V_aux|): cost[i, j] = -sum over positions of q_i log p_j, as `AlignmentAccumulator` gathers
            it; finite, |V_spec| <= |V_aux|.
        start: An earlier map: a warm restart. If it is still optimal it is returned without solving again.
        candidates: Solve on this many cheapest pairs of every row, and add pairs until nothing better can exist; for
            large vocabularies with a clear structure (see README for what it saves). Without it, the whole matrix is
            solved by `scipy.optimize.linear_sum_assignment`.
        tolerance: With `candidates`: stop as soon as cost - lower bound <= tolerance * |cost|.

    Returns:
        The map, with its cost and a lower bound of every map's cost.

    Raises:
        AlignmentError: Another shape, more specialist codes than auxiliary numbers, NaN or infinite costs, or a
            `start` of another size.
    """
    matrix = _checked_cost(cost)
    rows, width = matrix.shape
    if start is not None and (len(start), start.auxiliary_size) != (rows, width):
        raise AlignmentError(
            f"the cost matrix is {rows} x {width}, the map to start from {len(start)} x {start.auxiliary_size}"
        )
    preferred = np.array((start or VocabularyAlignment.identity(rows, width)).targets)
    if candidates is None:
        found = solve_exactly(matrix, preferred, warm=start is not None)
    else:
        if type(candidates) is not int or candidates < 1 or not tolerance >= 0:
            raise AlignmentError(
                f"candidates is an integer of at least 1, tolerance at least 0; got {candidates} and {tolerance}"
            )
        found = solve_among_candidates(matrix, preferred, candidates=candidates, tolerance=tolerance)
    return VocabularyAlignment(tuple(found.columns.tolist()), width, found.cost, found.lower_bound)


def _checked_cost(cost: ArrayLike | Tensor) -> np.ndarray:
    if isinstance(cost, Tensor):
        half = cost.dtype in (torch.float16, torch.bfloat16)
        cost = (cost.detach().float() if half else cost.detach()).cpu().numpy()
    array = np.asarray(cost)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise AlignmentError(f"costs are a real (|V_spec|, |V_aux|) matrix; got {array.dtype} of shape {array.shape}")
    _check_sizes(*array.shape)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    # One number tells whether everything is finite, without a mask as large as the matrix.
    if not np.isfinite([array.min(), array.max()]).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise AlignmentError(
            f"costs are finite; found {array[row, column]} at ({row}, {column}): a model that gives a code no "
            "probability at all, or a batch with NaN logits"
        )
    return array


def _check_sizes(specialist: int, auxiliary: int) -> None:
    if specialist > auxiliary:
        raise AlignmentError(
            f"no one-to-one map of {specialist} specialist codes into {auxiliary} auxiliary tokens: |V_spec| <= |V_aux|"
            "; if the matrix has auxiliary tokens as rows, transpose it"
        )


def _checked_content(content: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    keys = {"format", "auxiliary_size", "targets", "cost", "lower_bound"}
    if not isinstance(content, dict) or content.keys() != keys:
        raise AlignmentError(f"{path}: an alignment is an object with the keys {', '.join(sorted(keys))}")
    if content["format"] != _FORMAT:
        raise AlignmentError(f"{path}: format {content['format']!r}, this release reads {_FORMAT}")
    targets: Sequence[Any] = content["targets"] if isinstance(content["targets"], list) else [None]
    if not all(type(value) is int for value in [*targets, content["auxiliary_size"]]):
        raise AlignmentError(f"{path}: targets and auxiliary_size are integers")
    return {**{key: content[key] for key in keys - {"format"}}, "targets": tuple(targets)}


def _looked_up(table: Tensor, numbers: Tensor, what: str) -> Tensor:
    if numbers.is_floating_point() or ((numbers < 0) | (numbers >= len(table))).any():
        raise AlignmentError(f"{what} are integers 0..{len(table) - 1}; got {numbers.dtype} with others among them")
    return table.to(numbers.device)[numbers]
