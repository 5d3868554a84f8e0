"""What a call of transformers' `generate` will do, as far as its configuration and its model tell beforehand."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from perceptok.decoding.grammar.automaton import Grammar, GrammarConfig, StateRows, Symbol, compile_grammar
from perceptok.decoding.grammar.positions import StateReader, end_of_prompt
from perceptok.decoding.grammar.token_symbols import BracketTokenizer, token_symbols, with_ends
from perceptok.errors import ConstraintError
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["Asked", "PerceptionLogitsProcessor", "ends_of", "generate_perception"]


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
    return (given,) if isinstance(given, int) else tuple(int(end) for end in given)


_CPU = torch.device("cpu")


class _Masks(NamedTuple):
    """Upper bounds of scores by row of states: +inf for what may come next, -inf for the rest.

    A score is left as it is or becomes -inf, so that the relative probabilities of what remains stay as they were.
    `torch.minimum` takes as long as a copy on CPU, `masked_fill` 5 to 30 times that (measured at 32k, batch 1 to 256).
    """

    text: Tensor
    """(rows, 1): ordinary text."""
    special: Tensor
    """(rows, S): the ids of `special_ids`."""
    special_ids: Tensor
    """(S,) int64: perception tokens, bracket pieces, ends of sequence, ids without a token, padded columns."""
    only: Tensor
    """(rows,) int64: the one id that may come next, -1 where there are more."""


class _Tables(NamedTuple):
    """What depends on the ends of a sequence: symbols of ids, readers by device, masks as they were needed."""

    symbols: np.ndarray
    readers: dict[torch.device | None, StateReader]
    masks: dict[tuple[torch.device, torch.dtype, int, int | None], _Masks]


class PerceptionLogitsProcessor(LogitsProcessor):
    """Masks every token that would break a depth block or a box, or put a perception token astray.

    Stateless: each call finds the state of each row from `input_ids`, by tensor operations, looking back over 101
    tokens (over the answer, where a limit is set). So one processor serves any number of calls, batches, beams, left
    padding, candidates of assisted decoding, prompts with whole blocks or an open one, and `inputs_embeds` without ids.

    Under torch.compile call it once before: the tables for a dtype and width (and for the last steps of a budget) are
    made in the first call that needs them, which cannot be traced.

    Limits, `first`, `force_block` and the budget need to know where the answer begins: `answering` says it.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar; without it, depth and boxes where the vocabulary has them, boxes in the AURORA form if
            there is a tokenizer and in the compact form if not.
        tokenizer: For the bracket pieces of the AURORA form, and the end of sequence.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.
        check_on_gpu: On CUDA too, stop at a row in which nothing is allowed any more (`torch._assert_async`: no
            waiting, but the process cannot use the device afterwards). On CPU this is always a ConstraintError.
        in_place: Write into the scores that come and return them, as servers do; nothing is copied then. Not for a
            `generate` that returns its logits (`output_logits`), which would be the masked ones.

    Raises:
        ConstraintError: Vocabulary, tokenizer and grammar do not fit together; in calls: scores narrower than the
            tokenizer, or a row in which every allowed token has been banned before.
    """

    # Continuous batching of transformers 5.23 hands a processor the last id of each request only, not the sequence.
    supports_continuous_batching = False

    def __init__(
        self,
        vocab: PerceptionVocabulary,
        config: GrammarConfig | None = None,
        *,
        tokenizer: BracketTokenizer | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        check_on_gpu: bool = False,
        in_place: bool = False,
    ) -> None:
        self.vocab = vocab
        self.config = config or _default_config(vocab, tokenizer)
        self.check_on_gpu = check_on_gpu
        self.in_place = in_place
        self.eos_token_ids = _ends(eos_token_id, tokenizer)
        if self.config.force_block and not self.eos_token_ids:
            raise ConstraintError("force_block needs the end of sequence; pass eos_token_id=... or tokenizer=...")
        self._plain_symbols = token_symbols(vocab, self.config, tokenizer=tokenizer)
        self._state_rows = StateRows(compile_grammar(self.config))
        self._by_ends: dict[tuple[int, ...], _Tables] = {}
        self._take_ends(self.eos_token_ids)
        self._prompt_length: int | None = None
        self._max_new_tokens: int | None = None

    def _take_ends(self, ends: tuple[int, ...]) -> None:
        """Make these ids the ends of a sequence; the tables that say so are shared by all copies."""
        if ends not in self._by_ends:
            symbols = with_ends(self._plain_symbols, ends, self.vocab)
            # On CPU an array's reader; a tensor's where torch.compile traces, which could not build one.
            readers = {place: StateReader(self._state_rows, symbols, place) for place in (None, _CPU)}
            self._by_ends[ends] = _Tables(symbols, readers, {})
        self.eos_token_ids = ends
        self.symbols, self._readers, self._masks = self._by_ends[ends]

    @property
    def grammar(self) -> Grammar:
        """The compiled grammar."""
        return self._state_rows.grammar

    def answering(
        self,
        prompt: Tensor | int,
        max_new_tokens: int | None = None,
        *,
        generation_config: GenerationConfig | None = None,
        model: GenerationMixin | None = None,
        decoder_input_ids: Tensor | None = None,
    ) -> Self:
        """A processor for one call of `generate`, which knows where the answer begins, how long it may be, and its end.

        Args:
            prompt: The `input_ids` that `generate` gets, (B, T), or the number of ids that it continues: 0 for
                `inputs_embeds` alone, 1 for the start token of an encoder-decoder.
            max_new_tokens: As `generate` gets it. Nothing is begun then that it cannot finish.
            generation_config: As `generate` gets it: its `eos_token_id` are the ends, instead of the tokenizer's; its
                `max_new_tokens` counts where none is given here. Ends that `generate` gets by keyword are passed with
                one, too: `GenerationConfig(eos_token_id=[...])`.
            model: What generates: its own generation config fills up what the other leaves out, and the `input_ids` of
                an encoder-decoder are known to be the encoder's.
            decoder_input_ids: What the decoder of an encoder-decoder continues, as `generate` gets it; without it,
                such a model begins with its start token.

        Returns:
            A copy that shares every table: making one costs microseconds (with ends of its own, once, milliseconds).

        Raises:
            ConstraintError: The budget is too small for what is forced or open, or a prompt ends inside a block or box
                with tokens that cannot stand there (looked for in ids, not in a length); a generation config that may
                end the answer before its forced block in another way (`stop_strings`, `max_time`).
        """
        asked = Asked.of(generation_config, model, max_new_tokens)
        max_new_tokens = asked.max_new_tokens
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ConstraintError(f"max_new_tokens is at least 1; got {max_new_tokens}")
        if self.config.force_block == "somewhere" and asked.other_ends:
            raise ConstraintError(
                f"{asked.other_ends[0]} may end an answer before its forced block, and no processor sees it coming; "
                "leave it out, or take force_block='first'"
            )
        prompt = asked.prompt(prompt, decoder_input_ids)
        one = copy.copy(self)
        if asked.ends is not None:
            # Ids beyond the tokenizer are never let through, so that they cannot end anything.
            one._take_ends(tuple(number for number in asked.ends if number < self.vocab.size))
        one._prompt_length = prompt if isinstance(prompt, int) else prompt.shape[1]
        one._max_new_tokens = max_new_tokens
        needed = self.grammar.needed(self.grammar.initial)
        if isinstance(prompt, Tensor):
            inside = np.append(self.symbols, -1)
            tails = inside[np.clip(prompt.cpu().numpy(), -1, self.vocab.size)]
            needed = max((self.grammar.needed(end_of_prompt(self.grammar, tail)) for tail in tails.tolist()), default=0)
        if max_new_tokens is not None and needed > max_new_tokens:
            raise ConstraintError(
                f"the answer needs at least {needed} tokens for what is forced, or open at the end of the prompt; "
                f"max_new_tokens is {max_new_tokens}: raise it"
            )
        return one

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with -inf for every id that may not follow `input_ids` (B, T); a new tensor, or `in_place`."""
        if input_ids.ndim != 2 or scores.ndim != 2 or len(input_ids) != len(scores):
            raise ConstraintError(
                f"expected ids (B, T) and scores (B, V); got {tuple(input_ids.shape)} and {tuple(scores.shape)}"
            )
        rows = self._rows(input_ids)
        masks = self._masks_for(scores.device, scores.dtype, scores.shape[1], input_ids.shape[1])
        special = torch.minimum(scores.index_select(1, masks.special_ids), masks.special.index_select(0, rows))
        held = self._without_text(scores, masks.text.index_select(0, rows))
        held.scatter_(1, masks.special_ids.expand(len(rows), -1), special)
        self._refuse_dead_ends(rows, held, special)
        return held

    def _without_text(self, scores: Tensor, bound: Tensor) -> Tensor:
        """Scores with text banned where its bound (B, 1) is -inf."""
        if not self.in_place:
            return torch.minimum(scores, bound)
        host = scores.device == _CPU and not torch.compiler.is_compiling()
        if host and not bool((bound < 0).any()):  # looking would make a GPU wait
            return scores
        return torch.minimum(scores, bound, out=scores)

    def forced_tokens(self, input_ids: Tensor) -> Tensor:
        """The one id that may follow each row, (B,) int64; -1 where there is a choice."""
        rows = self._rows(input_ids)
        masks = self._masks_for(input_ids.device, torch.float32, self.vocab.size, input_ids.shape[1])
        return masks.only[rows]

    def _rows(self, ids: Tensor) -> Tensor:
        if self._prompt_length is None:
            self._refuse_unknown_prompt()
        prompt_length = self._prompt_length or 0
        if ids.shape[1] < prompt_length:
            raise ConstraintError(
                f"the prompt was said to have {prompt_length} ids, but generation has {ids.shape[1]}: call answering() "
                "with the ids that are continued: those that generate gets, none (0) with inputs_embeds alone, and in "
                "an encoder-decoder the decoder's, which begin with one start token (1, or answering(..., model=model))"
            )
        host = ids.device == _CPU and not torch.compiler.is_compiling()
        device = None if host else ids.device
        if device not in self._readers:
            self._readers[device] = StateReader(self._state_rows, self.symbols, device)
        rows = self._readers[device].rows(ids.numpy() if host else ids, prompt_length)
        return torch.from_numpy(rows) if host else rows

    def _refuse_unknown_prompt(self) -> None:
        config = self.config
        if config.force_block or config.first != "any" or config.max_blocks is not None or config.max_boxes is not None:
            raise ConstraintError(
                "limits, first and force_block concern the answer alone; say where it begins: "
                "processor.answering(input_ids, max_new_tokens)"
            )

    def _masks_for(self, device: torch.device, dtype: torch.dtype, width: int, length: int) -> _Masks:
        remaining = None
        if self._max_new_tokens is not None:
            remaining = max(1, (self._prompt_length or 0) + self._max_new_tokens - length)
        key = (device, dtype, width, self._state_rows.stage(remaining))
        if key not in self._masks:
            self._masks[key] = self._built_masks(*key)
        return self._masks[key]

    def _built_masks(self, device: torch.device, dtype: torch.dtype, width: int, remaining: int | None) -> _Masks:
        if width < self.vocab.size:
            raise ConstraintError(
                f"the scores have {width} columns, but the tokenizer has ids up to {self.vocab.size - 1}: extend the "
                "model with the tokenizer (extend_vocabulary)"
            )
        symbols = np.append(self.symbols, np.full(width - self.vocab.size, -1))
        special_ids = np.flatnonzero(symbols != Symbol.TEXT)
        by_symbol = np.pad(
            self._state_rows.allowed(remaining), ((0, 0), (0, 1))
        )  # the last column, -1, is never allowed
        text, special = by_symbol[:, [Symbol.TEXT]], by_symbol[:, symbols[special_ids]]
        only = np.where(text[:, 0] | (special.sum(1) != 1), -1, special_ids[special.argmax(1)])

        def bound(allowed: np.ndarray) -> Tensor:
            return torch.where(torch.from_numpy(allowed), torch.inf, -torch.inf).to(device, dtype)

        return _Masks(
            bound(text), bound(special), torch.from_numpy(special_ids).to(device), torch.from_numpy(only).to(device)
        )

    def _refuse_dead_ends(self, rows: Tensor, held: Tensor, special: Tensor) -> None:
        if torch.compiler.is_compiling() or not len(held):
            return
        if held.is_cuda:
            if self.check_on_gpu:
                torch._assert_async((held.amax(1) > -torch.inf).all())
            return
        # Nearly always a special id is left, in text too (the end, an opening token): no look over everything then.
        if -torch.inf not in special.amax(1).tolist():
            return
        dead = (held == -torch.inf).all(1)
        if not bool(dead.any()):
            return
        number = int(dead.nonzero()[0])
        raise ConstraintError(
            f"row {number}, {self._name(int(rows[number]))}: every token that may come next has a score of -inf; look "
            "at the processors that run before this one, and at the model's own scores"
        )

    def _name(self, row: int) -> str:
        if row >= self._state_rows.ordered:
            return "inside a box, at x2 or y2"
        name = self.grammar.names[row % len(self.grammar.table)]
        kind, _, count = name.partition(" ")
        if kind == "depth":
            return f"inside a depth block after {count} codes"
        return {"box": "inside a box", "first": "at the beginning of the answer"}.get(kind, "in text")


def _default_config(vocab: PerceptionVocabulary, tokenizer: BracketTokenizer | None) -> GrammarConfig:
    return GrammarConfig(
        depth=vocab.has(DEPTH), boxes=None if not vocab.has(PIXEL) else "compact" if tokenizer is None else "aurora"
    )


def _ends(given: int | Sequence[int] | None, tokenizer: BracketTokenizer | None) -> tuple[int, ...]:
    found = getattr(tokenizer, "eos_token_id", None) if given is None else given
    if found is None:
        return ()
    return (found,) if isinstance(found, int) else tuple(found)


# Generation in which tokens that the grammar leaves no choice about cost no forward pass of their own.
#
# Such tokens are `<DEPTH_START>` where a block must come first, `<DEPTH_END>` after 100 codes, and the commas of
# AURORA boxes. They are appended at once and go through the model together with the next token that is chosen. What
# is saved is one pass of 101 in a depth block, and three of eight in an AURORA box; greedy search chooses the same
# tokens as without.


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
        self._ends = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
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
    found = [processor for processor in processors if isinstance(processor, PerceptionLogitsProcessor)]
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
