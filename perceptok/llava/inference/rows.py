"""The rows of a batch: each is sampled with its own random generator, watched token by token, and stopped by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

__all__ = ["AnswerRow", "RowSampler", "RowWatcher", "TokenLogprob"]


class TokenLogprob(NamedTuple):
    """Log probability of a generated token, and of the most likely tokens at its position, the likeliest first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(eq=False)
class AnswerRow:
    """How one row of a batch is generated, and what was generated.

    Args:
        temperature: Sampling temperature; 0 is greedy decoding.
        top_p: Nucleus sampling: the smallest set of most likely tokens with this total probability, in (0, 1].
        seed: Seed of the row's random generator.
        index: Number of the row within its call; rows of one seed draw differently.
        top_logprobs: Record the log probability of each token, and of so many most likely ones; None records nothing.
        watch: Called with each generated token id, in the generating thread; True stops the row after this token.

    Attributes:
        ids: The generated ids, up to and including the end of sequence.
        done: Whether the row has ended, by an end of sequence or by `watch`.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    index: int = 0
    top_logprobs: int | None = None
    watch: Callable[[int], bool] | None = None
    ids: list[int] = field(default_factory=list, init=False)
    done: bool = field(default=False, init=False)
    _recorded: dict[int, TokenLogprob] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng([self.seed % 2**64, self.index])

    def choose(self, scores: Tensor, position: int) -> int:
        """Choose the token at a position of the answer.

        Args:
            scores: (V,) float32, -inf for tokens that are not allowed.
            position: 0 for the first token of the answer.
        """
        token_id = self._sample(scores) if self.temperature else int(scores.argmax())
        if self.top_logprobs is not None:
            logprobs = scores.float().log_softmax(-1)
            values, ids = logprobs.topk(min(self.top_logprobs, int((scores > -torch.inf).sum())))
            top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
            self._recorded[position] = TokenLogprob(token_id, float(logprobs[token_id]), top)
        return token_id

    def list_logprobs(self) -> list[TokenLogprob]:
        """The log probabilities of `ids`, under the constraints and at temperature 1.

        A token that the grammar determines has probability 1.
        """
        certain = self.top_logprobs or 0
        return [
            self._recorded.get(position, TokenLogprob(token_id, 0.0, ((token_id, 0.0),) * min(certain, 1)))
            for position, token_id in enumerate(self.ids)
        ]

    def _sample(self, scores: Tensor) -> int:
        """Draw by the inverse of the cumulative distribution: one random number, the same on every device.

        Where one token alone is allowed nothing is drawn, so that a row does not depend on whether the forward pass of
        that token was skipped.
        """
        allowed = (scores > -torch.inf).nonzero()[:, 0]
        if len(allowed) == 1:
            return int(allowed[0])
        scores = scores[allowed].double()
        probabilities = ((scores - scores.max()) / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(descending=True, stable=True)
            # A token is left out where those before it reach top_p.
            excluded = ordered.cumsum(-1) - ordered >= self.top_p
            probabilities = probabilities.index_fill(0, order[excluded], 0.0)
        cumulative = probabilities.cumsum(-1)
        drawn = cumulative[-1:] * self._random.random()
        position = int(torch.searchsorted(cumulative, drawn, right=True))
        return int(allowed[min(position, len(allowed) - 1)])


class RowSampler(LogitsProcessor):
    """Leaves, in each row of the scores, only the token that the row chooses; used with greedy search.

    Args:
        rows: The rows of the batch.
        prompt_length: Number of tokens of the prompts.
    """

    def __init__(self, rows: Sequence[AnswerRow], prompt_length: int) -> None:
        self.rows, self.prompt_length = rows, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V): unchanged in greedy rows, -inf for all but the chosen token in others."""
        position = input_ids.shape[1] - self.prompt_length
        chosen = scores
        for index, row in enumerate(self.rows):
            if row.done or (row.temperature == 0 and row.top_logprobs is None):
                continue
            token_id = row.choose(scores[index], position)
            if row.temperature:
                chosen = scores.clone() if chosen is scores else chosen
                chosen[index] = -torch.inf
                chosen[index, token_id] = 0.0
        return chosen


class RowWatcher(StoppingCriteria):
    """Collects the generated ids of each row, and stops a row as its `watch` says.

    Args:
        rows: The rows of the batch.
        prompt_length: Number of tokens of the prompts.
        ends: Ids that end a sequence.
    """

    def __init__(self, rows: Sequence[AnswerRow], prompt_length: int, ends: AbstractSet[int]) -> None:
        self.rows, self.ends = rows, ends
        self._length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:  # noqa: ARG002 - transformers' call
        """Whether each row is done, (B,) bool."""
        for row, token_ids in zip(self.rows, input_ids[:, self._length :].tolist(), strict=True):
            for token_id in token_ids:
                if row.done:
                    break
                row.ids.append(token_id)
                stopped = row.watch is not None and row.watch(token_id)
                row.done = stopped or token_id in self.ends
        self._length = input_ids.shape[1]
        return torch.tensor([row.done for row in self.rows], dtype=torch.bool, device=input_ids.device)
