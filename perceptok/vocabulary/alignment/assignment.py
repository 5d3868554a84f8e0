"""The cheapest one-to-one assignment of rows to columns, with a proof of how cheap it could have been.

For every vector of prices v <= 0 on the columns, sum_i min_j (c_ij - v_j) + sum_j v_j is a lower bound of every
assignment's cost (linear programming duality). The prices that belong to an optimal assignment meet its cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

__all__ = ["Assignment", "solve_among_candidates", "solve_exactly"]

_SETTLED = 8 * np.finfo(np.float64).eps
"""Differences below this part of the largest cost are rounding."""

_PAIRS = 16
"""Cheapest pairs of every row that prices are sought on first."""

_TIES = 1 << 22
"""Matrices of up to 2048 x 2048: there ties are broken pair by pair; at 8192 x 8192 that took longer than solving."""

_ELEMENTS = 1 << 20
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
    step = max(1, _ELEMENTS // cost.shape[1])
    for start in range(0, len(cost), step):
        yield cost[start : start + step]
