"""Generation in which tokens that the grammar leaves no choice about cost no forward pass of their own.

Such tokens are `<DEPTH_START>` where a block must come first, `<DEPTH_END>` after 100 codes, and the commas of AURORA
boxes. They are appended at once and go through the model together with the next token that is chosen. What is saved is
one pass of 101 in a depth block, and three of eight in an AURORA box; greedy search chooses the same tokens as without.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from perceptok.decoding.engines.asked import ends_of
from perceptok.decoding.engines.hf import PerceptionLogitsProcessor
from perceptok.errors import ConstraintError

__all__ = ["generate_perception"]


def generate_perception(
    model: Any,
    input_ids: torch.LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    streamer: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> Any:
    """Greedy search or sampling for `model.generate(..., custom_generate=generate_perception)`.

    `logits_processor` of that call must hold a `PerceptionLogitsProcessor`. In a batch a pass is saved where no row has
    a choice. Forced tokens are shown to no other processor, and draw nothing from the random generator, so that a
    sample is another than without, whatever the seed. `generate(streamer=...)` works as it does without.

    Returns:
        Ids (B, T), prompt included, or an output with them as `sequences` (`return_dict_in_generate`).

    Raises:
        ConstraintError: No such processor, or one that does not know an end of sequence which `generate` does; beam
            search, an encoder-decoder model, or scores, logits, attentions or hidden states asked for, which forced
            tokens do not have.
    """
    processor = _checked(model, logits_processor, generation_config)
    listener = _streamer_of_generate() if streamer is None else streamer
    run = _Run(input_ids, processor, stopping_criteria, generation_config._pad_token_tensor, listener)
    if not model_kwargs.get("inputs_embeds", torch.empty(0)).numel():
        ahead = run.append_forced()
        model_kwargs = model._update_model_kwargs_for_generation({}, model_kwargs, num_new_tokens=ahead)
    outputs = None
    while not run.finished:
        if outputs is None:
            outputs = model._prefill(run.ids, generation_config, model_kwargs)
        else:
            length = ahead if model_kwargs["use_cache"] else None
            inputs = model.prepare_inputs_for_generation(run.ids, next_sequence_length=length, **model_kwargs)
            outputs = model(**inputs, return_dict=True)
        logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=run.ids.device)
        scores = logits_processor(run.ids, logits)
        if generation_config.do_sample:
            chosen = torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1)
        else:
            chosen = scores.argmax(-1)
        run.append(chosen)
        ahead = 1 + run.append_forced()
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs, num_new_tokens=ahead)
    if listener is not None:
        listener.end()  # type: ignore[no-untyped-call]
    if generation_config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=run.ids, past_key_values=model_kwargs.get("past_key_values"))
    return run.ids


class _Run:
    """The ids so far, and which rows have ended."""

    def __init__(
        self,
        ids: Tensor,
        processor: PerceptionLogitsProcessor,
        criteria: StoppingCriteriaList,
        pad: Tensor | None,
        streamer: BaseStreamer | None,
    ) -> None:
        self.ids: Any = ids  # a LongTensor, as transformers calls it
        self.finished = False
        self._processor = processor
        self._criteria = criteria
        self._ends = any(hasattr(one, "eos_token_id") for one in criteria)
        self._pad = pad
        self._streamer = streamer
        self._open = torch.ones(len(ids), dtype=torch.bool, device=ids.device)

    def append(self, tokens: Tensor) -> None:
        if self._ends:
            assert self._pad is not None
            tokens = torch.where(self._open, tokens, self._pad.to(tokens.device))
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        if self._streamer is not None:
            self._streamer.put(tokens.cpu())  # type: ignore[no-untyped-call]
        self._open = self._open & ~self._criteria(self.ids, None)
        self.finished = not bool(self._open.any())

    def append_forced(self) -> int:
        """Append as long as no open row has a choice; how many were appended."""
        count = 0
        while not self.finished:
            forced = self._processor.forced_tokens(self.ids)
            if bool(((forced < 0) & self._open).any()):
                break
            self.append(forced)
            count += 1
        return count


def _streamer_of_generate() -> BaseStreamer | None:
    """The streamer that `generate` was called with: transformers 5.23 shows it the prompt, and hands it to no callable.

    It would then wait for ever. The one place where it stands is the local variable of the calling `generate`.
    """
    frame = inspect.currentframe()
    for _ in range(6):  # this function, generate_perception, and what a decorator may put between
        if frame is None or (frame.f_code.co_name == "generate" and "generation_mode_kwargs" in frame.f_locals):
            break
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get("streamer")


def _checked(model: Any, processors: LogitsProcessorList, config: GenerationConfig) -> PerceptionLogitsProcessor:
    found = [one for one in processors if isinstance(one, PerceptionLogitsProcessor)]
    if len(found) != 1:
        raise ConstraintError(
            f"generate_perception needs one PerceptionLogitsProcessor; got {len(found)}: pass logits_processor=[...]"
        )
    if config.num_beams > 1 or model.config.is_encoder_decoder:
        raise ConstraintError(
            "generate_perception does greedy search and sampling of decoder-only models; leave custom_generate out"
        )
    unknown = set(() if config.eos_token_id is None else ends_of(config.eos_token_id)) - set(found[0].eos_token_ids)
    unknown = {number for number in unknown if number < found[0].vocab.size}  # others are never let through
    if unknown:
        raise ConstraintError(
            f"generate ends a sequence at {sorted(unknown)}, which the processor takes for text; tell it: "
            "processor.answering(input_ids, max_new_tokens, generation_config=GenerationConfig(eos_token_id=[...]))"
        )
    wanted = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
    asked = [name for name in wanted if config.return_dict_in_generate and getattr(config, name)]
    if asked:
        raise ConstraintError(f"forced tokens have no {', '.join(asked)}; leave it out, or custom_generate")
    return found[0]
