"""What a model writes after a depth block that was put into its answer: batches that share their prefixes' cache."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from perceptok.tokens import DEPTH, PIXEL

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Cut", "Pipeline", "continue_after"]


class Pipeline(Protocol):
    """What is asked of a pipeline: `perceptok.PerceptionPipeline` is one."""

    model: Any
    processor: Any
    vocab: Any

    def __call__(self, images: Any, questions: Any, **changes: Any) -> Any:
        """Answers, each with a `text`."""

    def prompted(self, image: Any, question: str) -> dict[str, Any]:
        """What the model takes, up to where the answer begins."""


class Cut(NamedTuple):
    """An answer cut at its block.

    Attributes:
        image: The picture.
        question: In words.
        before: What the model wrote up to the block.
        blocks: What to put there, (10, 10) codes each, or None for nothing.
    """

    image: Any
    question: str
    before: str
    blocks: tuple[np.ndarray | None, ...]


def continue_after(pipe: Pipeline, cuts: Sequence[Cut], budget: int) -> list[list[str]]:
    """What the model writes after each block of each cut; every prefix goes through the model once.

    Greedy; DEPTH and PIXEL tokens are not written again. All cuts are one batch, padded on the left, where their
    pictures have the same shape; otherwise each is a batch of its own.

    Args:
        pipe: The model.
        cuts: With None in the same places of `blocks`.
        budget: Tokens after a block.
    """
    import torch

    if not cuts:
        return []
    inputs = [_before(pipe, cut) for cut in cuts]
    together = _padded(inputs, _pad(pipe))
    if together is None:
        return [tails for cut in cuts for tails in continue_after(pipe, [cut], budget)]
    names = pipe.vocab.tokens
    device = together["input_ids"].device
    barred = torch.tensor(
        [names[token] for tokens in (DEPTH, PIXEL) for token in tokens.tokens if token in names], device=device
    )
    tails = [[""] * len(cut.blocks) for cut in cuts]
    filled = [place for place, block in enumerate(cuts[0].blocks) if block is not None]
    empty = [place for place, block in enumerate(cuts[0].blocks) if block is None]
    mask = together["attention_mask"]
    with torch.inference_mode():
        prefix = pipe.model(**together, use_cache=True, logits_to_keep=1)
        for places in (filled, empty):
            if not places:
                continue
            state = _State(copy.deepcopy(prefix.past_key_values), mask.repeat_interleave(len(places), 0), len(cuts) > 1)
            state.cache.batch_repeat_interleave(len(places))
            logits = prefix.logits[:, -1].repeat_interleave(len(places), 0)
            if places is filled:
                rows = [_block_ids(cut.blocks[place], names) for cut in cuts for place in places]
                logits = state.step(pipe.model, torch.tensor(rows, dtype=torch.int64, device=device))
            written = iter(_greedy(pipe, state, logits, barred, budget))
            for told in tails:
                for place in places:
                    told[place] = str(pipe.processor.tokenizer.decode(next(written), skip_special_tokens=True))
    return tails


class _State:
    """A batch on its way: the cache and what of it is padding."""

    def __init__(self, cache: Any, mask: Tensor, padded: bool) -> None:
        self.cache, self.mask, self.padded = cache, mask, padded

    def step(self, model: Any, ids: Tensor) -> Tensor:
        """The logits (B, V) after further ids (B, N)."""
        import torch

        more: dict[str, Any] = {}
        if self.padded:
            begun = self.mask.sum(1, keepdim=True)
            self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
            more = {
                "attention_mask": self.mask,
                "position_ids": begun + torch.arange(ids.shape[1], device=ids.device),
            }
        found = model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1, **more)
        logits: Tensor = found.logits[:, -1]
        return logits


def _before(pipe: Pipeline, cut: Cut) -> dict[str, Any]:
    """A prompt and what was written before the block, as the model takes it."""
    import torch

    inputs = dict(pipe.prompted(cut.image, cut.question))
    ids = inputs["input_ids"]
    said = pipe.processor.tokenizer(cut.before, add_special_tokens=False)["input_ids"] if cut.before else []
    more = torch.tensor([said], dtype=ids.dtype, device=ids.device)
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == ids.shape and name != "input_ids":
            filler = torch.ones_like(more) if name == "attention_mask" else torch.zeros_like(more)
            inputs[name] = torch.cat([value, filler.to(value.dtype)], dim=1)
    inputs["input_ids"] = torch.cat([ids, more], dim=1)
    return inputs


def _padded(inputs: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any] | None:
    """One batch of all, padded on the left; None where they cannot be one."""
    import torch

    if len(inputs) == 1:
        return dict(inputs[0])
    longest = max(one["input_ids"].shape[1] for one in inputs)
    batch: dict[str, Any] = {}
    for name, first in inputs[0].items():
        values = [one[name] for one in inputs]
        if not isinstance(first, torch.Tensor):
            return None
        if first.shape == inputs[0]["input_ids"].shape:
            fill = pad if name == "input_ids" else 0
            values = [torch.nn.functional.pad(one, (longest - one.shape[1], 0), value=fill) for one in values]
        elif any(one.shape[1:] != first.shape[1:] for one in values):
            return None
        batch[name] = torch.cat(values)
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return batch


def _greedy(pipe: Pipeline, state: _State, logits: Tensor, barred: Tensor, budget: int) -> list[list[int]]:
    """The likeliest tokens of each row up to its end of sequence, that one excluded."""
    ends = pipe.model.generation_config.eos_token_id
    ends = pipe.processor.tokenizer.eos_token_id if ends is None else ends
    stop = {ends} if isinstance(ends, int) else set(ends or ())
    rows: list[list[int]] = [[] for _ in range(len(logits))]
    going = set(range(len(rows)))
    for _ in range(budget):
        chosen = logits.index_fill(1, barred, float("-inf")).argmax(-1)
        for row in list(going):
            token = int(chosen[row])
            if token in stop:
                going.discard(row)
            else:
                rows[row].append(token)
        if not going:
            break
        logits = state.step(pipe.model, chosen[:, None])
    return rows


def _pad(pipe: Pipeline) -> int:
    tokenizer = pipe.processor.tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def _block_ids(block: np.ndarray | None, names: Mapping[str, int]) -> list[int]:
    assert block is not None
    return [names[DEPTH.start], *(names[DEPTH.token(code)] for code in block.ravel().tolist()), names[DEPTH.end]]
