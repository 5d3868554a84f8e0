"""transformers: a logits processor that constrains `generate`, and generation without a pass for forced tokens."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from perceptok.decoding.engines.generate_settings import find_decoder_start, read_settings
from perceptok.decoding.grammar.automaton import (
    SYMBOL_COUNT,
    Grammar,
    GrammarConfig,
    Symbol,
    compile_grammar,
)
from perceptok.decoding.grammar.positions import StateReader, StateRows, find_prompt_state
from perceptok.decoding.grammar.token_symbols import classify_tokens, default_config, list_eos_ids, mark_eos
from perceptok.errors import ConstraintError, InferenceError
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PerceptionLogitsProcessor", "find_eos_token_ids", "find_pad_token_id", "generate_perception"]


_CPU = torch.device("cpu")


def find_eos_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end an answer: those of the model's generation config, else the tokenizer's; () without any."""
    return list_eos_ids(getattr(model.generation_config, "eos_token_id", None), tokenizer)


def find_pad_token_id(model: Any, tokenizer: Any) -> int:
    """The id that pads the shorter rows of a batch: the tokenizer's, the model's, or else an end of sequence.

    Raises:
        InferenceError: None of these is set.
    """
    candidates = (tokenizer.pad_token_id, model.generation_config.pad_token_id, *find_eos_token_ids(model, tokenizer))
    for token_id in candidates:
        if token_id is not None:
            return int(token_id)
    raise InferenceError("the tokenizer has neither a padding token nor an end of sequence; set tokenizer.pad_token")


class _Masks(NamedTuple):
    """Upper bounds of scores by state: +inf for what may come next, -inf for the rest.

    A score is left as it is or becomes -inf, so that the relative probabilities of what remains stay as they were.
    `torch.minimum` takes as long as a copy on CPU, `masked_fill` 5 to 30 times that (measured at 32k, batch 1 to 256).
    """

    bounds: Tensor
    """(states, SYMBOL_COUNT + 1): by symbol; the last column is for ids that are never allowed."""
    symbols: Tensor
    """(V,) int64: the column of every id."""
    special: Tensor
    """(states, S): the ids of `special_ids`; on the CPU alone, where a step looks at few ids of each row."""
    special_ids: Tensor
    """(S,) int64: perception tokens, bracket pieces, ends of sequence, ids without a token, padded columns."""
    forced: Tensor
    """(states,) int64: the one id that may come next, -1 where there are several."""


class _Tables(NamedTuple):
    """What depends on the ends of a sequence: symbols of ids, readers by device, masks as they were needed."""

    symbols: np.ndarray
    readers: dict[torch.device | None, StateReader]
    masks: dict[tuple[torch.device, torch.dtype, int, int | None], _Masks]


class PerceptionLogitsProcessor(LogitsProcessor):
    """Masks every token that would break a depth block or a box, or put a perception token where none belongs.

    Stateless: each call finds the state of each row from `input_ids`, by tensor operations, looking back over 101
    tokens (over the answer, where a limit is set). So one processor serves any number of calls, batches, beams, left
    padding, candidates of assisted decoding, prompts with whole blocks or an open one, and `inputs_embeds` without ids.

    Ids that the tokenizer lacks, such as -200 for an image, are text; on a GPU those up to 131,072 below zero or beyond
    the tokenizer.

    Under torch.compile call it once before: the tables for a dtype and width (and for the last steps of a budget) are
    made in the first call that needs them, which cannot be traced.

    Limits, `first`, `force_block` and the token budget need to know where the answer begins: use `for_prompt`.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar; by default depth and boxes where the vocabulary has them, boxes in the AURORA form if there
            is a tokenizer and in the compact form if not.
        tokenizer: For the bracket pieces of the AURORA form, and the end of sequence.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.
        check_on_gpu: On CUDA too, stop at a row in which nothing is allowed any more (`torch._assert_async`: without
            synchronisation, but the process cannot use the device afterwards). On CPU this is always a ConstraintError.
        in_place: Write into the scores that come and return them, as servers do; nothing is copied then. Not for a
            `generate` that returns its logits (`output_logits`), which would be the masked ones.

    Raises:
        ConstraintError: Vocabulary, tokenizer and grammar do not fit together; in calls: scores narrower than the
            tokenizer, or a row in which every allowed token has been excluded before.
    """

    # Continuous batching of transformers 5.23 hands a processor the last id of each request only, not the sequence.
    supports_continuous_batching = False

    def __init__(
        self,
        vocab: PerceptionVocabulary,
        config: GrammarConfig | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        check_on_gpu: bool = False,
        in_place: bool = False,
    ) -> None:
        self.vocab = vocab
        self.config = config or default_config(vocab, tokenizer)
        self.check_on_gpu = check_on_gpu
        self.in_place = in_place
        eos_token_ids = list_eos_ids(eos_token_id, tokenizer)
        if self.config.force_block and not eos_token_ids:
            raise ConstraintError("force_block needs the end of sequence; pass eos_token_id=... or tokenizer=...")
        self._symbols_without_eos = classify_tokens(vocab, self.config, tokenizer=tokenizer)
        self._state_rows = StateRows(compile_grammar(self.config))
        self._tables: dict[tuple[int, ...], _Tables] = {}
        self._set_eos(eos_token_ids)
        self._prompt_length: int | None = None
        self._max_new_tokens: int | None = None

    def _set_eos(self, eos_token_ids: tuple[int, ...]) -> None:
        """Make these ids the ends of a sequence; the tables for them are shared by all copies."""
        if eos_token_ids not in self._tables:
            symbols = mark_eos(self._symbols_without_eos, eos_token_ids, self.vocab)
            # On CPU an array's reader; a tensor's where torch.compile traces, which could not build one.
            readers = {device: StateReader(self._state_rows, symbols, device) for device in (None, _CPU)}
            self._tables[eos_token_ids] = _Tables(symbols, readers, {})
        self.eos_token_ids = eos_token_ids
        self.symbols, self._readers, self._masks = self._tables[eos_token_ids]

    @property
    def grammar(self) -> Grammar:
        """The compiled grammar."""
        return self._state_rows.grammar

    def for_prompt(
        self,
        prompt: Tensor | int,
        max_new_tokens: int | None = None,
        *,
        generation_config: GenerationConfig | None = None,
        model: GenerationMixin | None = None,
        decoder_input_ids: Tensor | None = None,
    ) -> Self:
        """A processor for one call of `generate`, which knows where the answer begins, its budget, and its ends.

        Args:
            prompt: The `input_ids` that `generate` gets, (B, T), or the number of ids that it continues: 0 for
                `inputs_embeds` alone, 1 for the start token of an encoder-decoder.
            max_new_tokens: As `generate` gets it. Nothing is begun then that it cannot finish.
            generation_config: As `generate` gets it; what `generate` gets by keyword alone is not known here, but to
                `generate_perception`. Its `eos_token_id` are the ends, instead of the tokenizer's; its
                `max_new_tokens` or `max_length` counts where none is given here, and 20 tokens, the default of
                `generate`, where it has neither. Ends that `generate` gets by keyword are passed with
                one, too: `GenerationConfig(eos_token_id=[...])`.
            model: What generates: its own generation config fills in what the other leaves out, and the `input_ids` of
                an encoder-decoder are known to be the encoder's.
            decoder_input_ids: What the decoder of an encoder-decoder continues, as `generate` gets it; without it,
                such a model begins with its start token.

        Returns:
            A copy that shares every table: making one costs microseconds (with ends of its own, once, milliseconds).

        Raises:
            ConstraintError: The budget is too small for what is forced or open, or a prompt ends inside a block or box
                with tokens that are not allowed there (checked for ids, not for a length); a setting of the generation
                configs that the grammar cannot hold to, by its name, such as `max_time`, `no_repeat_ngram_size`, or
                `stop_strings` that occur in a block or box.
        """
        prompt = _find_continued_ids(prompt, decoder_input_ids, find_decoder_start(generation_config, model))
        prompt_length = prompt if isinstance(prompt, int) else prompt.shape[1]
        call = read_settings(
            generation_config,
            model,
            max_new_tokens,
            prompt_length=prompt_length,
            grammar=self.config,
            symbols=self.symbols,
        )
        if call.max_new_tokens is not None and call.max_new_tokens < 1:
            raise ConstraintError(f"max_new_tokens is at least 1; got {call.max_new_tokens}")
        bound = copy.copy(self)
        if call.eos_token_ids is not None:
            # Ids beyond the tokenizer are always masked, so that they cannot end anything.
            bound._set_eos(tuple(token_id for token_id in call.eos_token_ids if token_id < self.vocab.size))
        bound._prompt_length = prompt_length
        bound._max_new_tokens = call.max_new_tokens
        grammar = self.grammar
        needed = grammar.count_tokens_to_end(grammar.initial)
        if isinstance(prompt, Tensor):
            symbols = np.append(self.symbols, -1)[np.clip(prompt.cpu().numpy(), -1, self.vocab.size)]
            states = [find_prompt_state(grammar, row) for row in symbols.tolist()]
            needed = max((grammar.count_tokens_to_end(state) for state in states), default=0)
        if call.max_new_tokens is not None and needed > call.max_new_tokens:
            raise ConstraintError(
                f"the answer needs at least {needed} tokens for what is forced, or open at the end of the prompt; "
                f"max_new_tokens is {call.max_new_tokens}: raise it"
            )
        return bound

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with -inf for every id that may not follow `input_ids` (B, T); a new tensor, or `in_place`."""
        if input_ids.ndim != 2 or scores.ndim != 2 or len(input_ids) != len(scores):
            raise ConstraintError(
                f"expected ids (B, T) and scores (B, V); got {tuple(input_ids.shape)} and {tuple(scores.shape)}"
            )
        states = self._find_states(input_ids)
        masks = self._find_masks(scores.device, scores.dtype, scores.shape[1], input_ids.shape[1])
        if scores.device != _CPU or torch.compiler.is_compiling():
            bounds = masks.bounds.index_select(0, states).index_select(1, masks.symbols)
            masked = torch.minimum(scores, bounds, out=scores if self.in_place else None)
            if self.check_on_gpu and not torch.compiler.is_compiling():
                torch._assert_async((masked.amax(1) > -torch.inf).all())
            return masked
        special = torch.minimum(scores.index_select(1, masks.special_ids), masks.special.index_select(0, states))
        masked = self._mask_text(scores, masks.bounds[:, : Symbol.TEXT + 1].index_select(0, states))
        masked.scatter_(1, masks.special_ids.expand(len(states), -1), special)
        self._check_dead_ends(states, masked, special)
        return masked

    def _mask_text(self, scores: Tensor, bound: Tensor) -> Tensor:
        """Scores with text excluded where its bound (B, 1) is -inf."""
        if not self.in_place:
            return torch.minimum(scores, bound)
        return torch.minimum(scores, bound, out=scores) if bool((bound < 0).any()) else scores

    def find_forced_tokens(self, input_ids: Tensor) -> Tensor:
        """The one id that may follow each row of ids (B, T): (B,) int64; -1 where there is a choice."""
        states = self._find_states(input_ids)
        masks = self._find_masks(input_ids.device, torch.float32, self.vocab.size, input_ids.shape[1])
        return masks.forced[states]

    def _find_states(self, ids: Tensor) -> Tensor:
        """The state of each row of ids, as a number of `StateRows.found`: (B,) int64."""
        if self._prompt_length is None:
            self._check_prompt_unneeded()
        prompt_length = self._prompt_length or 0
        if ids.shape[1] < prompt_length:
            raise ConstraintError(
                f"for_prompt() was given a prompt of {prompt_length} ids, but generation has {ids.shape[1]}: call it "
                "with the ids that are continued: those that generate gets, none (0) with inputs_embeds alone, and in "
                "an encoder-decoder the decoder's, which begin with one start token (1, or for_prompt(..., "
                "model=model))"
            )
        on_cpu = ids.device == _CPU and not torch.compiler.is_compiling()
        device = None if on_cpu else ids.device
        if device not in self._readers:
            self._readers[device] = StateReader(self._state_rows, self.symbols, device)
        rows = self._readers[device].find_rows(ids.numpy() if on_cpu else ids, prompt_length)
        return torch.from_numpy(rows) if on_cpu else rows

    def _check_prompt_unneeded(self) -> None:
        config = self.config
        if config.force_block or config.first != "any" or config.max_blocks is not None or config.max_boxes is not None:
            raise ConstraintError(
                "limits, first and force_block concern the answer alone; say where it begins: "
                "processor.for_prompt(input_ids, max_new_tokens)"
            )

    def _find_masks(self, device: torch.device, dtype: torch.dtype, width: int, length: int) -> _Masks:
        remaining = None
        if self._max_new_tokens is not None:
            remaining = max(1, (self._prompt_length or 0) + self._max_new_tokens - length)
        key = (device, dtype, width, self._state_rows.round_budget(remaining))
        if key not in self._masks:
            self._masks[key] = self._build_masks(*key)
        return self._masks[key]

    def _build_masks(self, device: torch.device, dtype: torch.dtype, width: int, remaining: int | None) -> _Masks:
        if width < self.vocab.size:
            raise ConstraintError(
                f"the scores have {width} columns, but the tokenizer has ids up to {self.vocab.size - 1}: extend the "
                "model with the tokenizer (extend_vocabulary)"
            )
        symbols = np.append(self.symbols, np.full(width - self.vocab.size, -1)) % (SYMBOL_COUNT + 1)
        special_ids = np.flatnonzero(symbols != Symbol.TEXT)
        allowed = self._state_rows.allowed_symbols(remaining)[self._state_rows.found]
        allowed = np.pad(allowed, ((0, 0), (0, 1)))  # the last column is never allowed
        special = allowed[:, symbols[special_ids]]
        forced = np.where(allowed[:, Symbol.TEXT] | (special.sum(1) != 1), -1, special_ids[special.argmax(1)])

        def build_mask(allowed: np.ndarray) -> Tensor:
            return torch.where(torch.from_numpy(allowed), torch.inf, -torch.inf).to(device, dtype)

        return _Masks(
            build_mask(allowed),
            torch.from_numpy(symbols).to(device),
            build_mask(special if device == _CPU else special[:, :0]),
            torch.from_numpy(special_ids).to(device),
            torch.from_numpy(forced).to(device),
        )

    def _check_dead_ends(self, states: Tensor, masked: Tensor, special: Tensor) -> None:
        # Nearly always a special id is left, in text too (the end, an opening token): the whole row is not looked at.
        if not len(masked) or -torch.inf not in special.amax(1).tolist():
            return
        dead = (masked == -torch.inf).all(1)
        if not bool(dead.any()):
            return
        row = int(dead.nonzero()[0])
        raise ConstraintError(
            f"row {row}, {self._describe_row(int(self._state_rows.found[states[row]]))}: every token that may come "
            "next has a score of -inf; look at the processors that run before this one, and at the model's own scores"
        )

    def _describe_row(self, row: int) -> str:
        if row >= self._state_rows.ordered:
            return "inside a box, at x2 or y2"
        name = self.grammar.names[row % len(self.grammar.table)]
        kind, _, count = name.partition(" ")
        if kind == "depth":
            return f"inside a depth block after {count} codes"
        return {"box": "inside a box", "first": "at the beginning of the answer"}.get(kind, "in text")


def _find_continued_ids(prompt: Tensor | int, decoder_input_ids: Tensor | None, start: int | None) -> Tensor | int:
    """What is continued, ids or their number; transformers puts a start token before a decoder's ids."""
    if decoder_input_ids is None:
        return 1 if start is not None and isinstance(prompt, Tensor) else prompt
    if start is None or start < 0 or bool((decoder_input_ids[:, 0] == start).all()):
        return decoder_input_ids
    return torch.cat([decoder_input_ids.new_full((len(decoder_input_ids), 1), start), decoder_input_ids], 1)


# Generation in which tokens that the grammar leaves no choice about cost no forward pass of their own.
#
# Such tokens are `<DEPTH_START>` where a block must come first, `<DEPTH_END>` after 100 codes, and the commas of AURORA
# boxes. They are appended at once and go through the model together with the next token that is chosen. One pass of 101
# is saved in a depth block, and three of eight in an AURORA box; greedy search chooses the same tokens as without.


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

    `logits_processor` of that call must contain a `PerceptionLogitsProcessor`, which then follows the settings that
    `generate` runs with, lengths above all, whether or not `for_prompt` was given them. In a batch a pass is saved
    where no row has a choice. Forced tokens are shown to no other processor, and draw nothing from the random
    generator, so that a sample differs from one without, whatever the seed. `generate(streamer=...)` works as it does
    without.

    Returns:
        Ids (B, T), prompt included, or an output with them as `sequences` (`return_dict_in_generate`).

    Raises:
        ConstraintError: The call has no such processor, or one that does not know an end of sequence which `generate`
            does; a length that is too small for what the grammar requires, or a setting that it cannot hold to; beam
            search, an encoder-decoder model, or scores, logits, attentions or hidden states are requested,
            which forced tokens do not have.
    """
    processor, logits_processor = _bind_processor(model, input_ids, logits_processor, generation_config)
    streamer = _find_streamer() if streamer is None else streamer
    batch = _Batch(input_ids, processor, stopping_criteria, generation_config._pad_token_tensor, streamer)
    if not model_kwargs.get("inputs_embeds", torch.empty(0)).numel():
        count = batch.append_forced()
        model_kwargs = model._update_model_kwargs_for_generation({}, model_kwargs, num_new_tokens=count)
    outputs = None
    while not batch.finished:
        if outputs is None:
            outputs = model._prefill(batch.ids, generation_config, model_kwargs)
        else:
            length = count if model_kwargs["use_cache"] else None
            inputs = model.prepare_inputs_for_generation(batch.ids, next_sequence_length=length, **model_kwargs)
            outputs = model(**inputs, return_dict=True)
        logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=batch.ids.device)
        scores = logits_processor(batch.ids, logits)
        if generation_config.do_sample:
            chosen = torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1)
        else:
            chosen = scores.argmax(-1)
        batch.append(chosen)
        count = 1 + batch.append_forced()
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs, num_new_tokens=count)
    if streamer is not None:
        streamer.end()  # type: ignore[no-untyped-call]
    if generation_config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=batch.ids, past_key_values=model_kwargs.get("past_key_values"))
    return batch.ids


class _Batch:
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
        self._has_eos = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        self._pad = pad
        self._streamer = streamer
        self._open = torch.ones(len(ids), dtype=torch.bool, device=ids.device)

    def append(self, tokens: Tensor) -> None:
        if self._has_eos:
            assert self._pad is not None
            tokens = torch.where(self._open, tokens, self._pad.to(tokens.device))
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        if self._streamer is not None:
            self._streamer.put(tokens.cpu())  # type: ignore[no-untyped-call]
        self._open = self._open & ~self._criteria(self.ids, None)
        self.finished = not bool(self._open.any())

    def append_forced(self) -> int:
        """Append while no open row has a choice; returns how many tokens were appended."""
        count = 0
        while not self.finished:
            forced = self._processor.find_forced_tokens(self.ids)
            if bool(((forced < 0) & self._open).any()):
                break
            self.append(forced)
            count += 1
        return count


def _find_streamer() -> BaseStreamer | None:
    """The streamer that `generate` was called with: transformers 5.23 passes it to no callable.

    `generate` shows it the prompt, and it would then wait for ever. Only a local variable of the caller has it.
    """
    frame = inspect.currentframe()
    for _ in range(6):  # this function, generate_perception, and what a decorator may put between
        if frame is None or (frame.f_code.co_name == "generate" and "generation_mode_kwargs" in frame.f_locals):
            break
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get("streamer")


def _bind_processor(
    model: Any, input_ids: Tensor, processors: LogitsProcessorList, config: GenerationConfig
) -> tuple[PerceptionLogitsProcessor, LogitsProcessorList]:
    """The perception processor, bound to the generation config that runs, and all processors with it among them.

    `for_prompt` does not see what only `generate` is given: lengths, and settings that may break a block.
    """
    given = _check_call(model, processors, config)
    start = given._prompt_length
    prompt: Tensor | int = input_ids if start is None or start == input_ids.shape[1] else start
    length = prompt if isinstance(prompt, int) else prompt.shape[1]
    # transformers has resolved `max_length` by now: the longest that the ids may become.
    budget = None if config.max_length is None else config.max_length - length
    bound = given.for_prompt(prompt, budget, generation_config=config)
    return bound, LogitsProcessorList([bound if processor is given else processor for processor in processors])


def _check_call(model: Any, processors: LogitsProcessorList, config: GenerationConfig) -> PerceptionLogitsProcessor:
    found = [processor for processor in processors if isinstance(processor, PerceptionLogitsProcessor)]
    if len(found) != 1:
        raise ConstraintError(
            f"generate_perception needs one PerceptionLogitsProcessor; got {len(found)}: pass logits_processor=[...]"
        )
    if config.num_beams > 1 or model.config.is_encoder_decoder:
        raise ConstraintError(
            "generate_perception does greedy search and sampling of decoder-only models; leave custom_generate out"
        )
    unknown = set(list_eos_ids(config.eos_token_id)) - set(found[0].eos_token_ids)
    unknown = {token_id for token_id in unknown if token_id < found[0].vocab.size}  # others are always masked
    if unknown:
        raise ConstraintError(
            f"generate ends a sequence at {sorted(unknown)}, which the processor takes for text; pass them: "
            "processor.for_prompt(input_ids, max_new_tokens, generation_config=GenerationConfig(eos_token_id=[...]))"
        )
    names = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
    requested = [name for name in names if config.return_dict_in_generate and getattr(config, name)]
    if requested:
        raise ConstraintError(f"forced tokens have no {', '.join(requested)}; leave it out, or custom_generate")
    return found[0]
