"""What a call of transformers' `generate` will do, as far as its configuration and its model tell beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

__all__ = ["Asked", "ends_of"]


@dataclass(frozen=True)
class Asked:
    """What is known of a call.

    Attributes:
        ends: The ids that end a sequence; None where nothing says them.
        max_new_tokens: The budget, None where nothing says it.
        other_ends: Settings that end an answer otherwise than by an id or the budget.
        start: The start token of an encoder-decoder's decoder, -1 if it is not said; None where the model is a decoder
            alone, or nothing is known of it.
    """

    ends: tuple[int, ...] | None
    max_new_tokens: int | None
    other_ends: tuple[str, ...]
    start: int | None

    @classmethod
    def of(
        cls, generation_config: GenerationConfig | None, model: GenerationMixin | None, max_new_tokens: int | None
    ) -> Self:
        """From the generation config of a call and the model's own, which fills up what the first leaves out."""
        own = getattr(model, "generation_config", None)
        configs = [config for config in (generation_config, own) if config is not None]

        def first(name: str) -> Any:
            return next((value for config in configs if (value := getattr(config, name, None)) is not None), None)

        start = first("decoder_start_token_id")
        if model is not None:
            joined = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
            start = (-1 if start is None else int(start)) if joined else None
        ends = first("eos_token_id")
        return cls(
            ends=None if ends is None else ends_of(ends),
            max_new_tokens=first("max_new_tokens") if max_new_tokens is None else max_new_tokens,
            other_ends=tuple(name for name in ("stop_strings", "max_time") if first(name) is not None),
            start=start,
        )

    def prompt(self, prompt: Tensor | int, decoder_input_ids: Tensor | None) -> Tensor | int:
        """What is continued, ids or their number; transformers puts a start token before a decoder's ids."""
        if decoder_input_ids is None:
            return 1 if self.start is not None and isinstance(prompt, Tensor) else prompt
        if self.start is None or self.start < 0 or bool((decoder_input_ids[:, 0] == self.start).all()):
            return decoder_input_ids
        return torch.cat([decoder_input_ids.new_full((len(decoder_input_ids), 1), self.start), decoder_input_ids], 1)


def ends_of(given: int | Iterable[int] | Tensor) -> tuple[int, ...]:
    """The ids that end a sequence, however they are given: one, several, or a tensor."""
    if isinstance(given, Tensor):
        given = given.flatten().tolist()
    return (given,) if isinstance(given, int) else tuple(int(one) for one in given)
