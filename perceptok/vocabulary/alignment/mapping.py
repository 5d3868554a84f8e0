"""The one-to-one map M of AURORA's Eq. 1: which auxiliary token stands for which code of a specialist."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from perceptok.errors import AlignmentError
from perceptok.files import atomic_write, parse_json
from perceptok.tokens import DEPTH, TokenSet
from perceptok.vocabulary.alignment.assignment import solve_among_candidates, solve_exactly
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["VocabularyAlignment", "align_vocabularies"]

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
        return VocabularyAlignment(tuple(following.targets[one] for one in self.targets), following.auxiliary_size)

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
    if not all(type(one) is int for one in [*targets, content["auxiliary_size"]]):
        raise AlignmentError(f"{path}: targets and auxiliary_size are integers")
    return {**{key: content[key] for key in keys - {"format"}}, "targets": tuple(targets)}


def _looked_up(table: Tensor, numbers: Tensor, what: str) -> Tensor:
    if numbers.is_floating_point() or ((numbers < 0) | (numbers >= len(table))).any():
        raise AlignmentError(f"{what} are integers 0..{len(table) - 1}; got {numbers.dtype} with others among them")
    return table.to(numbers.device)[numbers]
